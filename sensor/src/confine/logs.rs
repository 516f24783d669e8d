//! Opens logs by name, for both processes by one rule, because whoever may write to a folder of logs decides what their
//! names stand for.
//!
//! A symbolic link is **followed out of its folder only if root owns it and every folder above it**, or if what it leads
//! to lies below a folder of `follow`. Any other link may lead to a file below its own folder, where that folder or that
//! file belongs to the link's owner too. Names are walked one by one, each from the open folder before it, and what is
//! judged at the end is what was opened: a name that is exchanged meanwhile leads to another file of the same folder
//! at most, never elsewhere.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

mod pattern;

pub use pattern::{MOST as MOST_PATHS, PathPattern, exists, is_compressed};

/// The most links on the way to one file, as in the kernel.
const LINKS: usize = 40;
/// The most names on the way to one file.
const NAMES: usize = 1024;

/// Which logs there are, and where links may lead: what the privileged process opens for the worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedLogs {
    /// Absolute paths, which may have wildcards.
    pub patterns: Vec<String>,
    /// Folders below which a link may lead that is not root's, without links in their own paths.
    pub follow: Vec<PathBuf>,
}

/// What of a log's name is to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogPart {
    /// The file that it stands for.
    File,
    /// A folder, in which names are looked for that match a pattern.
    Names,
    /// The folder in which its archives lie.
    Archives(Side),
    /// The archive of this name there.
    Archive(Side, OsString),
}

/// Whose archives are meant, where a log is a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// Those of the link.
    Link,
    /// Those of the file to which it leads.
    Target,
}

/// What was opened.
#[derive(Debug)]
pub struct OpenedLog {
    /// The file or folder, to read.
    pub file: File,
    /// Where it lies, where a link led there.
    pub at: Option<PathBuf>,
}

/// Where a path leads.
struct Place {
    /// The folder in which it lies.
    folder: OwnedFd,
    /// Its name there; empty for the root folder.
    name: OsString,
    /// Where that is.
    path: PathBuf,
    /// Links on the way that are not followed everywhere.
    loose: Vec<LooseLink>,
}

/// A link that may only lead to some places.
struct LooseLink {
    path: PathBuf,
    /// Who owns it, and the folder in which it lies.
    owner: u32,
    folder_owner: u32,
}

/// A folder on the way.
struct Step {
    folder: OwnedFd,
    name: OsString,
    owner: u32,
    /// Whether nobody but root decides on its names, as far as up to here.
    is_roots: bool,
}

/// Whether a file of that name is what `log` was rotated to: `mail.log.1`, `mail.log-20260101`, `mail-20260101.log`,
/// `mail.log.old`. Another log's name may begin in the same way: `mail-errors.log` and `mail.log.errors` are none.
pub fn is_archive(name: &str, log: &str) -> bool {
    const WORDS: [&str; 6] = ["old", "bak", "back", "prev", "save", "orig"];
    let (stem, _) = log.split_once('.').unwrap_or((log, ""));
    let after = |base: &str, with: &[char]| name.strip_prefix(base)?.strip_prefix(with);
    let has_digit = |rest: &str| rest.bytes().any(|byte| byte.is_ascii_digit());
    let is_one = |rest: &str| has_digit(rest) || WORDS.contains(&rest);
    let begins_with_digit = |rest: &str| rest.starts_with(|letter: char| letter.is_ascii_digit());
    after(log, &['.', '-', '_']).is_some_and(is_one)
        || name.strip_prefix(log).is_some_and(|rest| rest.starts_with('~'))
        || after(stem, &['-', '_']).is_some_and(begins_with_digit)
}

/// Whether an error says that this process may not open what another one may.
pub fn is_denied(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ACCESS.raw_os_error())
}

// === impl WantedLogs ===

impl WantedLogs {
    /// Opens a part of a log, with this process's own rights.
    ///
    /// # Errors
    /// The kernel's; one without a number, in words, where a link is not followed or something is no regular file.
    pub fn open(&self, path: &Path, part: &LogPart) -> io::Result<OpenedLog> {
        match part {
            LogPart::File => self.open_at(path, OFlags::NONBLOCK),
            LogPart::Names => self.open_at(path, OFlags::DIRECTORY),
            LogPart::Archives(side) => {
                let (folder, at, _) = self.archives(path, *side)?;
                Ok(OpenedLog { file: folder.into(), at: Some(at) })
            }
            LogPart::Archive(side, name) => {
                let (folder, at, log) = self.archives(path, *side)?;
                let is_one = is_archive(&name.to_string_lossy(), &log.to_string_lossy());
                if !is_one || name.as_encoded_bytes().contains(&b'/') {
                    return Err(io::Error::other("that is no archive of the log"));
                }
                let file = open_in(folder.as_fd(), name, OFlags::NONBLOCK)?;
                Ok(OpenedLog { file: file.into(), at: Some(at.join(name)) })
            }
        }
    }

    /// The folder of a log's archives, where it is, and the log's name there.
    fn archives(&self, path: &Path, side: Side) -> io::Result<(OwnedFd, PathBuf, OsString)> {
        let wrong = || io::Error::other("that is no log");
        let (folder, at, name) = match side {
            Side::Link => {
                let place = self.walk(path.parent().ok_or_else(wrong)?)?;
                let name = if place.name.is_empty() { OsStr::new(".") } else { &place.name };
                let folder = open_in(place.folder.as_fd(), name, OFlags::DIRECTORY)?;
                (folder, place.path, path.file_name().ok_or_else(wrong)?.to_owned())
            }
            Side::Target => {
                let place = self.walk(path)?;
                let folder = open_in(place.folder.as_fd(), OsStr::new("."), OFlags::DIRECTORY)?;
                (folder, place.path.parent().ok_or_else(wrong)?.to_owned(), place.name)
            }
        };
        Ok((folder, at, name))
    }

    fn open_at(&self, path: &Path, kind: OFlags) -> io::Result<OpenedLog> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | kind;
        match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(file) => return Ok(OpenedLog { file: file.into(), at: None }),
            // A link, or a kernel or container that does not have the call.
            Err(Errno::LOOP | Errno::NOSYS | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let place = self.walk(path)?;
        let name = if place.name.is_empty() { OsStr::new(".") } else { &place.name };
        let file = open_in(place.folder.as_fd(), name, kind)?;
        let owner = fstat(&file)?.st_uid;
        for link in &place.loose {
            link.judge(&place.path, owner, &self.follow)?;
        }
        Ok(OpenedLog { file: file.into(), at: Some(place.path) })
    }

    /// Finds out where a path leads. What it leads to is looked at, and not opened.
    fn walk(&self, path: &Path) -> io::Result<Place> {
        let mut steps = vec![Step::root()?];
        let mut names: VecDeque<OsString> = normal(path);
        let mut loose: Vec<LooseLink> = Vec::new();
        let (mut links, mut walked) = (0, 0);
        while let Some(name) = names.pop_front() {
            walked += 1;
            if walked > NAMES {
                return Err(Errno::NAMETOOLONG.into());
            }
            if name == ".." {
                if steps.len() > 1 {
                    steps.pop();
                }
                continue;
            }
            let above = &steps[steps.len() - 1];
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = match openat(&above.folder, &name, flags, Mode::empty()) {
                // A log that was rotated away, and whose archives are beside where it was.
                Err(Errno::NOENT) if names.is_empty() => {
                    let (path, owner) = (path_of(&steps).join(&name), above.owner);
                    for link in &loose {
                        link.judge(&path, owner, &self.follow)?;
                    }
                    let Some(Step { folder, .. }) = steps.pop() else { break };
                    return Ok(Place { folder, name, path, loose });
                }
                found => found?,
            };
            let stat = fstat(&found)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    if !(above.is_roots && is_root(stat.st_uid)) {
                        let path = path_of(&steps).join(&name);
                        loose.push(LooseLink { path, owner: stat.st_uid, folder_owner: above.owner });
                    }
                    let target = readlinkat(&found, "", Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        steps.truncate(1);
                    }
                    for name in normal(&target).into_iter().rev() {
                        names.push_front(name);
                    }
                }
                FileType::Directory => steps.push(Step::new(found, name, &stat, above.is_roots)),
                kind => {
                    if !names.is_empty() {
                        return Err(Errno::NOTDIR.into());
                    }
                    if kind != FileType::RegularFile {
                        return Err(io::Error::other("it is not a regular file"));
                    }
                    let path = path_of(&steps).join(&name);
                    for link in &loose {
                        link.judge(&path, stat.st_uid, &self.follow)?;
                    }
                    let Some(Step { folder, .. }) = steps.pop() else { break };
                    return Ok(Place { folder, name, path, loose });
                }
            }
        }
        let path = path_of(&steps);
        let Some(Step { name, owner, folder, .. }) = steps.pop() else {
            return Err(Errno::NOENT.into());
        };
        for link in &loose {
            link.judge(&path, owner, &self.follow)?;
        }
        match steps.pop() {
            Some(above) => Ok(Place { folder: above.folder, name, path, loose }),
            None => Ok(Place { folder, name, path, loose }),
        }
    }
}

// === impl Step ===

impl Step {
    fn root() -> io::Result<Self> {
        let folder = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&folder)?;
        Ok(Self::new(folder, OsString::new(), &stat, true))
    }

    fn new(folder: OwnedFd, name: OsString, stat: &Stat, above_is_roots: bool) -> Self {
        // In a sticky folder nobody exchanges another's names.
        let closed = stat.st_mode & 0o002 == 0 || stat.st_mode & 0o1000 != 0;
        let is_roots = above_is_roots && closed && is_root(stat.st_uid);
        Self { folder, name, owner: stat.st_uid, is_roots }
    }
}

// === impl LooseLink ===

impl LooseLink {
    /// Whether it may lead to what lies there and belongs to that user.
    fn judge(&self, leads: &Path, owner: u32, follow: &[PathBuf]) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let is_own = self.owner == self.folder_owner || self.owner == owner;
        if follow.iter().any(|followed| leads.starts_with(followed)) || (leads.starts_with(folder) && is_own)
        {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the link {} leads out of its folder, and others than root can change it; if {} is to be read, \
             name a folder above it in `follow`",
            self.path.display(),
            leads.display()
        )))
    }
}

/// Opens what has this name in a folder; no link.
fn open_in(folder: BorrowedFd<'_>, name: &OsStr, kind: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
    Ok(openat(folder, name, flags, Mode::empty())?)
}

/// Whether what this user owns can be trusted: root's, and that of the user whose rights this process has.
fn is_root(owner: u32) -> bool {
    owner == 0 || owner == geteuid().as_raw()
}

fn normal(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

fn path_of(steps: &[Step]) -> PathBuf {
    let names = steps.iter().map(|step| step.name.as_os_str()).filter(|name| !name.is_empty());
    Path::new("/").join(names.collect::<PathBuf>())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use super::*;

    const ALICE: u32 = 4711;

    /// Whether the kernel follows a link in a sticky folder that all may write only for its owner (`proc_sys_fs(5)`).
    fn protected_symlinks() -> bool {
        std::fs::read_to_string("/proc/sys/fs/protected_symlinks").unwrap().trim() == "1"
    }

    /// A folder of root's with `secret`, which root alone may read, and `alice/logs`, which is hers.
    struct Host {
        folder: tempfile::TempDir,
        logs: WantedLogs,
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            std::fs::create_dir_all(at("alice/logs/sub")).unwrap();
            std::fs::create_dir_all(at("root/logs")).unwrap();
            std::fs::create_dir_all(at("shared")).unwrap();
            std::fs::set_permissions(at("shared"), PermissionsExt::from_mode(0o1777)).unwrap();
            for name in
                ["root/secret", "root/logs/a.log", "alice/logs/own", "alice/logs/sub/own", "shared/secret"]
            {
                std::fs::write(at(name), name).unwrap();
                std::fs::set_permissions(at(name), PermissionsExt::from_mode(0o600)).unwrap();
            }
            for name in ["alice", "alice/logs", "alice/logs/sub", "alice/logs/own", "alice/logs/sub/own"] {
                chown(at(name), Some(ALICE), Some(ALICE)).expect("needs root");
            }
            Self { folder, logs: WantedLogs::default() }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn link(&self, name: &str, target: &str, owner: u32) {
            symlink(target.replace("HOST", self.folder.path().to_str().unwrap()), self.at(name)).unwrap();
            lchown(self.at(name), Some(owner), Some(owner)).unwrap();
        }

        fn read(&self, name: &str) -> Result<String, String> {
            let mut opened =
                self.logs.open(&self.at(name), &LogPart::File).map_err(|error| error.to_string())?;
            let mut text = String::new();
            opened.file.read_to_string(&mut text).unwrap();
            Ok(text)
        }
    }

    #[test]
    fn what_rotation_makes_of_a_log_is_told_from_another_log_by_its_name() {
        let of_mail = ["mail.log.1", "mail.log-20260101", "mail-20260101.log", "mail.log.old", "mail.log~"];
        assert!(of_mail.iter().all(|name| is_archive(name, "mail.log")));
        let others =
            ["mail.log", "mail-errors.log", "mail_out.log", "mail.err", "mail.log.errors", "mailx.log.1"];
        assert!(others.iter().all(|name| !is_archive(name, "mail.log")));
        assert!(is_archive("messages.1", "messages") && is_archive("messages-20260101", "messages"));
        assert!(!is_archive("messages-debug", "messages"));
    }

    #[test]
    fn a_link_of_roots_in_a_folder_of_roots_is_followed_anywhere() {
        let host = Host::new();
        host.link("root/logs/out.log", "HOST/alice/logs/own", 0);
        host.link("root/logs/up.log", "../secret", 0);
        host.link("root/folder", "HOST/alice/logs", 0);
        host.link("root/logs/twice.log", "up.log", 0);
        assert_eq!(host.read("root/logs/out.log").unwrap(), "alice/logs/own");
        assert_eq!(host.read("root/logs/up.log").unwrap(), "root/secret");
        assert_eq!(host.read("root/logs/twice.log").unwrap(), "root/secret");
        assert_eq!(host.read("root/folder/own").unwrap(), "alice/logs/own");
        let opened = host.logs.open(&host.at("root/folder/own"), &LogPart::File).unwrap();
        assert_eq!(opened.at, Some(host.at("alice/logs/own").canonicalize().unwrap()));
    }

    #[test]
    fn a_users_link_to_a_file_of_roots_reads_nothing_however_it_is_laid() {
        let host = Host::new();
        host.link("alice/logs/direct", "HOST/root/secret", ALICE);
        host.link("alice/logs/up", "../../root/secret", ALICE);
        host.link("alice/logs/folder", "HOST/root", ALICE);
        host.link("alice/logs/back", "HOST/alice/logs/through", ALICE);
        host.link("alice/logs/through", "direct", ALICE);
        // Root's own link does not help where alice can exchange it, or the folder in which it lies.
        host.link("alice/logs/roots", "HOST/root/secret", 0);
        // Root's link into her folder, in which the next link is hers.
        host.link("root/logs/hers.log", "HOST/alice/logs/direct", 0);
        // In a folder that all share, what lies below it need not be the link's owner's.
        host.link("shared/link", "secret", ALICE);
        // The folder of the logs is a link itself.
        host.link("alice/moved", "HOST/root/logs", ALICE);
        for name in [
            "alice/logs/direct",
            "alice/logs/up",
            "alice/logs/folder/secret",
            "alice/logs/back",
            "alice/logs/through",
            "alice/logs/roots",
            "root/logs/hers.log",
            "shared/link",
            "alice/moved/a.log",
        ] {
            let error = host.read(name).expect_err(name);
            // Where this is set, as systemd does, the kernel follows no link of a shared folder for anybody.
            let by_kernel = name == "shared/link" && protected_symlinks();
            let why = if by_kernel { "Permission denied" } else { "leads out of its folder" };
            assert!(error.contains(why), "{name}: {error}");
        }
        for part in [LogPart::Archives(Side::Target), LogPart::Archive(Side::Target, "secret.1".into())] {
            std::fs::write(host.at("root/secret.1"), "old").unwrap();
            let error = host.logs.open(&host.at("alice/logs/direct"), &part).unwrap_err();
            assert!(error.to_string().contains("leads out of its folder"), "{part:?}: {error}");
        }
        let error = host.logs.open(&host.at("alice/moved"), &LogPart::Names).unwrap_err();
        assert!(error.to_string().contains("leads out of its folder"), "{error}");
    }

    #[test]
    fn a_users_link_is_followed_within_its_folder_and_below_what_is_to_be_followed() {
        let mut host = Host::new();
        host.link("alice/logs/current", "own", ALICE);
        host.link("alice/logs/deep", "sub/own", ALICE);
        host.link("alice/logs/out", "HOST/root/logs/a.log", ALICE);
        assert_eq!(host.read("alice/logs/current").unwrap(), "alice/logs/own");
        assert_eq!(host.read("alice/logs/deep").unwrap(), "alice/logs/sub/own");
        host.read("alice/logs/out").unwrap_err();
        host.logs.follow = vec![host.at("root/logs").canonicalize().unwrap()];
        assert_eq!(host.read("alice/logs/out").unwrap(), "root/logs/a.log");
        host.link("alice/logs/beside", "HOST/root/secret", ALICE);
        host.read("alice/logs/beside").unwrap_err();
        host.link("alice/logs/around", "HOST/root/logs/../secret", ALICE);
        host.read("alice/logs/around").unwrap_err();
    }

    #[test]
    fn a_link_in_a_circle_and_what_is_no_file_are_told() {
        let host = Host::new();
        host.link("root/logs/circle", "circle", 0);
        assert!(host.read("root/logs/circle").is_err());
        host.link("root/logs/null", "/dev/null", 0);
        assert_eq!(host.read("root/logs/null").unwrap_err(), "it is not a regular file");
        host.link("root/logs/nowhere", "HOST/nothing/there", 0);
        let error = host.logs.open(&host.at("root/logs/nowhere"), &LogPart::File).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn names_that_are_exchanged_all_the_time_never_show_what_is_roots() {
        let host = Host::new();
        let (name, spare) = (host.at("alice/logs/x"), host.at("alice/logs/y"));
        std::fs::write(&name, "hers").unwrap();
        chown(&name, Some(ALICE), Some(ALICE)).unwrap();
        host.link("alice/logs/y", "HOST/root/secret", ALICE);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    rustix::fs::renameat_with(CWD, &name, CWD, &spare, rustix::fs::RenameFlags::EXCHANGE)
                        .unwrap();
                }
            });
            let (mut read, mut refused) = (0, 0);
            // Both must be seen, or nothing was exchanged in between.
            for _ in 0..1_000_000 {
                match host.read("alice/logs/x") {
                    Ok(text) => {
                        assert_eq!(text, "hers");
                        read += 1;
                    }
                    Err(_) => refused += 1,
                }
                if read > 3000 && refused > 3000 {
                    break;
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(read > 3000 && refused > 3000, "{read} {refused}");
        });
    }
}
