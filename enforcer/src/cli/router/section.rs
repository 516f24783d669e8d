//! The `[router.NAME]` section: as text, and appended to the configuration file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use atalaya_enforcer::config::Config;
use atalaya_enforcer::router::{Password, RouterConfig};

use super::unfinished::make_folder;

/// What a router's section says.
pub struct Section<'a> {
    /// What is written of it: address, user, the certificate that is pinned, and `ipv6` where it is off.
    pub router: &'a RouterConfig,
    /// Where its password is.
    pub password: PasswordPlace,
    /// What is never banned, for a configuration that says nothing of it; as [`What`](atalaya_enforcer::bans::allow::What)
    /// reads it.
    pub allow: Vec<String>,
}

/// Where the password is, or goes.
pub enum PasswordPlace {
    /// In a file that is there already.
    Kept(PathBuf),
    /// Into a new file beside the configuration.
    New(Password),
}

/// A file that is taken back unless it is kept.
struct TentativeFile(Option<PathBuf>);

// === impl Section ===

impl Section<'_> {
    /// The line that goes to the beginning of the configuration, before every table; none where nothing was said.
    pub fn allow_line(&self) -> Option<String> {
        let quoted = |text: &String| toml::Value::String(text.clone()).to_string();
        let all: Vec<String> = self.allow.iter().map(quoted).collect();
        (!all.is_empty()).then(|| format!("allow = [{}]\n", all.join(", ")))
    }

    /// As it goes to the end of the configuration: `[router.NAME]` and its settings.
    pub fn text(&self) -> String {
        let router = self.router;
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut text = format!("[router.{}]\n", key(router.name.as_str()));
        text += &format!("address = {}\n", quoted(&router.address.to_string()));
        text += &format!("user = {}\n", quoted(&router.user));
        text += &format!("password_file = {}\n", quoted(&self.password_file().to_string_lossy()));
        if let Some(fingerprint) = router.tls {
            text += &format!("fingerprint = \"{fingerprint}\"\n");
        }
        if !router.ipv6 {
            text += "ipv6 = false\n";
        }
        text
    }

    /// The password's file as the section names it.
    pub fn password_file(&self) -> PathBuf {
        match &self.password {
            PasswordPlace::Kept(path) => path.clone(),
            PasswordPlace::New(_) => format!("router-{}.password", self.router.name).into(),
        }
    }

    /// Appends the section to the configuration, whose other content stays as it is. The file is replaced
    /// in one step, and only by one that parses; a password goes into a new file beside it that its owner
    /// alone can read. Where anything fails, both are as before.
    pub fn append_to(&self, config: &Path) -> anyhow::Result<()> {
        make_folder(config)?;
        // What a link leads to is replaced, not the link.
        let path = match config.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => config.to_owned(),
            Err(error) => return Err(error).with_context(|| format!("cannot find {}", config.display())),
        };
        let before = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let owner = path.metadata().ok();
        let mut after = self.allow_line().unwrap_or_default() + &before;
        if !after.is_empty() && !after.ends_with('\n') {
            after.push('\n');
        }
        if !after.is_empty() {
            after.push('\n');
        }
        after += &self.text();

        let password = match &self.password {
            PasswordPlace::Kept(_) => None,
            PasswordPlace::New(password) => {
                let text = format!("{}\n", password.expose());
                let file = folder.join(self.password_file());
                // A configuration of root's that a group may read is read by a service of that group.
                let shared = owner.as_ref().is_some_and(|file| file.uid() == 0 && file.gid() != 0);
                let mode = if shared { 0o640 } else { 0o600 };
                Some(TentativeFile::write(&file, text.as_bytes(), mode, owner.as_ref()).map_err(|error| {
                    let taken = error.kind() == io::ErrorKind::AlreadyExists;
                    let hint = if taken { "; move it away, or use it with --password-file" } else { "" };
                    anyhow::anyhow!("cannot write the password to {}: {error}{hint}", file.display())
                })?)
            }
        };
        if let Err(error) = Config::parse(&after, &path) {
            bail!("with the new section the configuration would be wrong, so it stays as it is: {error}");
        }
        let mode = owner.as_ref().map_or(0o640, |metadata| metadata.mode() & 0o777);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".new-{}", std::process::id()));
        let draft = folder.join(name);
        let new = TentativeFile::write(&draft, after.as_bytes(), mode, owner.as_ref())
            .with_context(|| format!("cannot write {}", draft.display()))?;
        fs::rename(&draft, &path).with_context(|| format!("cannot replace {}", path.display()))?;
        new.keep();
        password.into_iter().for_each(TentativeFile::keep);
        // The names too shall survive a power cut.
        File::open(folder)?.sync_all()?;
        Ok(())
    }
}

// === impl TentativeFile ===

impl TentativeFile {
    /// Writes a new file with the owner of another, where there is one.
    fn write(path: &Path, bytes: &[u8], mode: u32, like: Option<&fs::Metadata>) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        let draft = Self(Some(path.to_owned()));
        if let Some(like) = like {
            let ours = file.metadata()?;
            if (ours.uid(), ours.gid()) != (like.uid(), like.gid()) {
                fchown(&file, Some(like.uid()), Some(like.gid()))?;
            }
        }
        // The mode again: the umask may have taken from it.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(draft)
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for TentativeFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// A key of TOML, in quotes where it needs them.
fn key(name: &str) -> String {
    let bare = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if bare { name.to_owned() } else { toml::Value::String(name.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn router(name: &str) -> RouterConfig {
        let address = "192.0.2.1:8729".parse().unwrap();
        RouterConfig::new(name.parse().unwrap(), address, "ata\"laya", Password::new("p w"))
    }

    fn section(router: &RouterConfig) -> Section<'_> {
        Section { router, password: PasswordPlace::New(router.password.clone()), allow: Vec::new() }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_section_is_appended_and_all_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enforcer.toml");
        // No newline at the end, and a mode of its own.
        fs::write(&path, "# mine\nlisten = \"127.0.0.1:0\" # why").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        let mut first = router("edge");
        first.tls = Some(atalaya_wire::Fingerprint::of(b"x"));
        first.ipv6 = false;
        section(&first).append_to(&path).unwrap();
        let mut second = router("a.b");
        second.address = "192.0.2.2".parse().unwrap();
        section(&second).append_to(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# mine\nlisten = \"127.0.0.1:0\" # why\n\n[router.edge]\n"), "{text}");
        let config = Config::read(&path).unwrap();
        let [b, a] = &config.routers[..] else { panic!("{text}") };
        assert_eq!((a.name.as_str(), a.user.as_str(), a.password.expose()), ("edge", "ata\"laya", "p w"));
        assert_eq!((a.tls, a.ipv6, a.address.to_string().as_str()), (first.tls, false, "192.0.2.1:8729"));
        assert_eq!(b.name.as_str(), "a.b");
        assert_eq!((mode(&path), mode(&folder.path().join("router-edge.password"))), (0o604, 0o600));
        assert_eq!(names(folder.path()), ["enforcer.toml", "router-a.b.password", "router-edge.password"]);
    }

    #[test]
    fn what_is_never_banned_goes_before_every_table() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enforcer.toml");
        fs::write(&path, "[list]\nname = \"bad\"").unwrap();
        let router = router("edge");
        let allow = vec!["192.0.2.0/24".to_owned(), "admin.example.org".to_owned()];
        Section { allow, ..section(&router) }.append_to(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("allow = [\"192.0.2.0/24\", \"admin.example.org\"]\n[list]\n"), "{text}");
        let config = Config::read(&path).unwrap();
        assert_eq!((config.list.names[0].as_str(), config.allow.names.len()), ("bad", 1));
    }

    #[test]
    fn where_the_result_would_be_wrong_nothing_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enforcer.toml");
        for before in
            ["router = {}\n", "[router.edge]\naddress = \"192.0.2.9\"\nuser = \"u\"\npassword = \"p\"\n"]
        {
            fs::write(&path, before).unwrap();
            let error = section(&router("edge")).append_to(&path).unwrap_err().to_string();
            assert!(error.contains("stays as it is"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
            assert_eq!(names(folder.path()), ["enforcer.toml"]);
        }
    }

    #[test]
    fn a_password_file_that_is_there_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enforcer.toml");
        let secret = folder.path().join("router-edge.password");
        fs::write(&secret, "old").unwrap();
        let error = section(&router("edge")).append_to(&path).unwrap_err().to_string();
        assert!(error.contains("--password-file"), "{error}");
        assert_eq!((fs::read_to_string(&secret).unwrap().as_str(), path.exists()), ("old", false));
        let kept = router("edge");
        Section { router: &kept, password: PasswordPlace::Kept(secret), allow: Vec::new() }
            .append_to(&path)
            .unwrap();
        assert_eq!(Config::read(&path).unwrap().routers[0].password.expose(), "old");
        assert_eq!(mode(&path), 0o640);
    }

    #[test]
    fn behind_a_link_the_file_is_replaced_and_the_link_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.toml"), folder.path().join("enforcer.toml"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        section(&router("edge")).append_to(&link).unwrap();
        assert!(link.is_symlink() && fs::read_to_string(&real).unwrap().contains("[router.edge]"));
        assert!(Config::read(&link).is_ok(), "the password is found from the link too");
    }
}
