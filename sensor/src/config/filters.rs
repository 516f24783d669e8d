//! Where a filter is found by what a jail calls it: a file, one's own folder, our own, fail2ban's.

use std::path::{Path, PathBuf};

use atalaya_program::config_file::ConfigFile;

use crate::fail2ban::Fail2ban;
use crate::filter::{FilterDefinition, catalogue};

/// The folder of one's own filters, beside the configuration.
const FOLDER: &str = "filters";
/// The longest file of a filter, in bytes.
const LONGEST: u64 = 1 << 20;

/// Where filters are.
#[derive(Clone, Debug)]
pub struct Filters {
    /// Where relative names of files begin.
    base: PathBuf,
    /// One's own.
    folder: PathBuf,
    /// fail2ban's folder.
    fail2ban: Option<PathBuf>,
}

// === impl Filters ===

impl Filters {
    /// Those of a configuration file, with what it says of folders.
    pub fn new(config: &Path, folder: Option<&Path>, fail2ban: Option<&Path>) -> Self {
        let base = config.parent().unwrap_or(Path::new("")).to_owned();
        let folder = base.join(folder.unwrap_or(Path::new(FOLDER)));
        Self { base, folder, fail2ban: fail2ban.map(Path::to_owned) }
    }

    /// fail2ban's folder.
    pub fn fail2ban(&self) -> Option<&Path> {
        self.fail2ban.as_deref()
    }

    /// The folder of one's own.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that a name is, where it is one: with a `/` in it, from the configuration's folder.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        let is_file = name.contains('/') && !name.contains('<');
        is_file.then(|| self.base.join(name.strip_prefix("./").unwrap_or(name)))
    }

    /// A filter: a file's name (`./my.toml`), or `NAME` or `NAME[mode=aggressive]` of one's own folder, of ours
    /// or of fail2ban's, in this order. A `mode` stands for the same option.
    pub fn find(&self, name: &str, mode: Option<&str>) -> Result<FilterDefinition, String> {
        if let Some(file) = self.file(name) {
            return read_file(&file).and_then(|filter| filter.in_mode(mode.unwrap_or_default()));
        }
        let (plain, option) = mode_of(name);
        let mode = mode.or(option);
        // Options other than a mode are for fail2ban's filters.
        let known = if plain.contains('[') { None } else { self.known(plain)? };
        match (known, mode) {
            (Some(filter), None) => Ok(filter),
            (Some(filter), Some(mode)) => match filter.clone().in_mode(mode) {
                // fail2ban's filter of this name may have it.
                Err(_) if self.fail2ban.is_some() => self.find_theirs(&with_mode(plain, mode)),
                found => found,
            },
            (None, Some(mode)) if option.is_none() => self.find_theirs(&with_mode(plain, mode)),
            (None, _) => self.find_theirs(name),
        }
    }

    /// A filter of one's own or of ours.
    pub fn known(&self, name: &str) -> Result<Option<FilterDefinition>, String> {
        let file = self.folder.join(format!("{name}.toml"));
        if file.is_file() {
            let filter = read_file(&file)?;
            return Ok(Some(FilterDefinition { name: name.to_owned(), ..filter }));
        }
        Ok(catalogue::filter(name))
    }

    /// A filter in fail2ban's folder by its name.
    pub fn find_theirs(&self, name: &str) -> Result<FilterDefinition, String> {
        let ours = catalogue::names().collect::<Vec<_>>().join(", ");
        let own = self.folder.display();
        let Some(folder) = &self.fail2ban else {
            return Err(format!(
                "there is no filter `{name}`; there are {ours}, those that you write in {own}, and with `fail2ban = \"/etc/fail2ban\"` those of its filter.d"
            ));
        };
        let file = name.split('[').next().unwrap_or_default().trim();
        let has = |end: &str| folder.join("filter.d").join(format!("{file}.{end}")).exists();
        if !has("conf") && !has("local") {
            return Err(format!(
                "there is no filter `{file}`: neither one of ours ({ours}), nor one in {own}, nor one in {}",
                folder.display()
            ));
        }
        Fail2ban::read(folder).and_then(|read| read.filter(name)).map_err(|error| error.to_string())
    }
}

/// A name without its mode, where that is its only option, and the mode.
fn mode_of(name: &str) -> (&str, Option<&str>) {
    let option = name.strip_suffix(']').and_then(|name| name.split_once("[mode="));
    match option.map(|(name, mode)| (name, mode.trim_matches(['"', '\'']))) {
        Some((name, mode)) if mode.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) => {
            (name.trim_end(), Some(mode))
        }
        _ => (name, None),
    }
}

/// A name with a mode, as fail2ban writes it.
fn with_mode(name: &str, mode: &str) -> String {
    match name.strip_suffix(']') {
        Some(options) => format!("{options}, mode={mode}]"),
        None => format!("{name}[mode={mode}]"),
    }
}

/// A filter in a file: our TOML, or fail2ban's form, with what it includes.
pub fn read_file(path: &Path) -> Result<FilterDefinition, String> {
    if path.extension().is_none_or(|extension| extension != "toml") {
        return Fail2ban::filter_in_file(path).map_err(|error| error.to_string());
    }
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > LONGEST {
        return Err(format!("{} is {length} bytes long; a filter has at most {LONGEST}", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    ConfigFile { path, text: &text }.parse().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A configuration's folder with these files.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn filters(folder: &tempfile::TempDir) -> Filters {
        Filters::new(&folder.path().join("sensor.toml"), None, None)
    }

    #[test]
    fn a_file_is_found_from_the_folder_of_the_configuration() {
        let folder =
            folder(&[("my.toml", "failregex = ['^bad <ADDR>$']"), ("sub/x.toml", "failregex = '<HOST>'")]);
        assert_eq!(filters(&folder).find("./my.toml", None).unwrap().failregex, ["^bad <ADDR>$"]);
        let wrong = filters(&folder).find("sub/x.toml", None).unwrap_err();
        assert!(wrong.contains("sub/x.toml:1:13: "), "{wrong}");
        assert!(filters(&folder).find("./none.toml", None).unwrap_err().contains("none.toml"));
    }

    #[test]
    fn a_filter_of_ones_own_goes_before_ours_of_the_same_name() {
        let folder = folder(&[("filters/sshd.toml", "failregex = ['^mine <ADDR>$']")]);
        assert_eq!(filters(&folder).find("sshd", None).unwrap().failregex, ["^mine <ADDR>$"]);
        assert_eq!(filters(&folder).find("dovecot", None).unwrap().name, "dovecot");
        let wrong = filters(&folder).find("nothing", None).unwrap_err();
        assert!(wrong.contains("filters, and with"), "{wrong}");
    }

    #[test]
    fn a_mode_is_an_option_of_the_jail_or_of_the_name() {
        let folder = folder(&[]);
        let filters = filters(&folder);
        let normal = filters.find("sshd", None).unwrap();
        let aggressive = filters.find("sshd", Some("aggressive")).unwrap();
        assert!(aggressive.failregex.len() > normal.failregex.len());
        assert_eq!(filters.find("sshd[mode=aggressive]", None).unwrap(), aggressive);
        assert_eq!(filters.find("sshd[mode=normal]", None).unwrap(), normal);
        let wrong = filters.find("sshd", Some("agressive")).unwrap_err();
        assert!(wrong.contains("aggressive"), "{wrong}");
    }

    #[test]
    fn a_filter_may_be_a_file_and_have_a_mode_and_a_mistake_in_either_has_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sensor.toml");
        std::fs::write(
            folder.path().join("my.toml"),
            "failregex = ['^bad <ADDR>$']\nnewlines = \"written\"\n",
        )
        .unwrap();
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Config::read(&path, None).map_err(|error| error.to_string())
        };
        let jail = "[jail.x]\npaths = [\"/var/log/x\"]\n";
        let config = read(&format!("{jail}filter = \"./my.toml\"\n")).unwrap();
        let filter = config.jails[0].source.filter().unwrap();
        assert_eq!(filter.regexes().collect::<Vec<_>>(), ["^bad <ADDR>$"]);
        assert!(config.to_string().contains("caution: its daemon writes a newline"), "{config}");
        let wrong = read(&format!("{jail}filter = \"./none.toml\"\n")).unwrap_err();
        assert!(wrong.contains("sensor.toml:3:10") && wrong.contains("none.toml"), "{wrong}");

        let regexes =
            |text: &str| read(text).map(|config| config.jails[0].source.filter().unwrap().regexes().count());
        let normal = regexes(&format!("{jail}filter = \"sshd\"\n")).unwrap();
        let aggressive = regexes(&format!("{jail}filter = \"sshd\"\nmode = \"aggressive\"\n"));
        assert!(aggressive.clone().unwrap() > normal);
        assert_eq!(regexes("[jail.sshd]\npaths = [\"/x\"]\nmode = \"aggressive\"\n"), aggressive);
        let wrong = regexes("[jail.sshd]\npaths = [\"/x\"]\nmode = \"agressive\"\n").unwrap_err();
        assert!(wrong.contains("sensor.toml:3:8") && wrong.contains("aggressive"), "{wrong}");
        let wrong = regexes(&format!("{jail}failregex = '<HOST>'\nmode = \"aggressive\"\n")).unwrap_err();
        assert!(wrong.contains("`filter`"), "{wrong}");
    }

    #[test]
    fn check_says_whose_lines_can_be_forged() {
        for name in ["mysql", "asterisk", "nginx", "postgresql", "slapd", "gitea"] {
            let said = Config::parse(&format!("[jail.{name}]\n"), Path::new("x")).unwrap().to_string();
            assert!(said.contains("caution: ") && said.contains("forge"), "{said}");
        }
        assert!(!Config::parse("[jail.sshd]\n", Path::new("x")).unwrap().to_string().contains("caution"));
    }
}
