//! Which journal is meant, and which files it consists of: libsystemd's rules (`sd_journal_open(3)`, sd-journal.c).

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::confine::logs::PathPattern;

/// Where the system's journal is: what stays, and what is gone after a reboot.
const SYSTEM: [&str; 2] = ["/var/log/journal", RUNTIME];
const RUNTIME: &str = "/run/log/journal";
/// The bits that fail2ban's `journalflags` may have; those of sd-journal.h.
const LOCAL_ONLY: u32 = 1;
const RUNTIME_ONLY: u32 = 1 << 1;
const SYSTEM_FILES: u32 = 1 << 2;
const CURRENT_USER: u32 = 1 << 3;
const ALL_NAMESPACES: u32 = 1 << 5;
const INCLUDE_DEFAULT: u32 = 1 << 6;

/// Which journal to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalPlace {
    /// A folder of journal files, and of folders that are named for machines; the system's journal where there is
    /// neither this nor `files`.
    pub folder: Option<PathBuf>,
    /// Absolute paths of journal files, which may have wildcards, in place of a folder.
    pub files: Vec<String>,
    /// Whose entries, where journald keeps those of some services apart.
    pub namespace: Namespace,
    /// Only what this machine wrote.
    pub local_only: bool,
    /// Only what is kept until the next reboot, of the system's journal.
    pub runtime_only: bool,
    /// Only the journal of the system's services, or that of this process's user.
    pub owners: Option<Owners>,
}

/// Whose files, where journald gives each user a file of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// `system*.journal`.
    System,
    /// `user-N*.journal` of this process's user.
    CurrentUser,
    /// Both.
    SystemAndCurrentUser,
}

/// Which of journald's namespaces (`LogNamespace=` of systemd.exec(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// The one that is nobody's own.
    #[default]
    Default,
    /// All there are.
    All,
    /// This one.
    Named(String),
    /// This one, and the default one.
    NamedAndDefault(String),
}

// === impl Namespace ===

impl Namespace {
    /// Reads a namespace as `journalctl --namespace` takes it: `NAME`, `+NAME` (also the default one), or `*`.
    ///
    /// # Errors
    /// What would be right, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, with_default) = text.strip_prefix('+').map_or((text, false), |name| (name, true));
        let is_fine = |c: char| c.is_ascii_graphic() && c != '/';
        match name {
            "*" if !with_default => Ok(Self::All),
            name if name.is_empty() || name.len() > 220 || !name.chars().all(is_fine) => Err(format!(
                "`{text}` is no namespace of the journal; expected its name, `+NAME` for it and the default one, or `*` for all"
            )),
            name if with_default => Ok(Self::NamedAndDefault(name.to_owned())),
            name => Ok(Self::Named(name.to_owned())),
        }
    }

    /// As [`Self::parse`] reads it; `None` for the one that is nobody's own.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Default => None,
            Self::All => Some("*".to_owned()),
            Self::Named(name) => Some(name.clone()),
            Self::NamedAndDefault(name) => Some(format!("+{name}")),
        }
    }

    /// Whether the files of a folder are meant that is named for a machine, and for a namespace where it has one.
    fn has(&self, of_folder: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Default => of_folder.is_none(),
            Self::Named(name) => of_folder == Some(name),
            Self::NamedAndDefault(name) => of_folder.is_none_or(|found| found == name),
        }
    }
}

// === impl JournalPlace ===

impl JournalPlace {
    /// Adds what the numbers of fail2ban's `journalflags` say.
    ///
    /// # Errors
    /// Which number is not known here, in words.
    pub fn set_flags(&mut self, flags: u32) -> Result<(), String> {
        const KNOWN: u32 =
            LOCAL_ONLY | RUNTIME_ONLY | SYSTEM_FILES | CURRENT_USER | ALL_NAMESPACES | INCLUDE_DEFAULT;
        if flags & !KNOWN != 0 {
            return Err(format!(
                "journalflags is {flags}; expected a sum of 1 (this machine alone), 2 (until the next reboot), 4 (the system's services), \
                 8 (this user), 32 (all namespaces) and 64 (also the default namespace)"
            ));
        }
        let has = |flag: u32| flags & flag != 0;
        self.local_only |= has(LOCAL_ONLY);
        self.runtime_only |= has(RUNTIME_ONLY);
        self.owners = match (has(SYSTEM_FILES), has(CURRENT_USER)) {
            (true, true) => Some(Owners::SystemAndCurrentUser),
            (true, false) => Some(Owners::System),
            (false, true) => Some(Owners::CurrentUser),
            (false, false) => self.owners,
        };
        self.namespace = match std::mem::take(&mut self.namespace) {
            _ if has(ALL_NAMESPACES) => Namespace::All,
            Namespace::Named(name) if has(INCLUDE_DEFAULT) => Namespace::NamedAndDefault(name),
            namespace => namespace,
        };
        Ok(())
    }

    /// The same in numbers; the namespaces are said apart.
    pub fn flags(&self) -> u32 {
        let of_owners = match self.owners {
            None => 0,
            Some(Owners::System) => SYSTEM_FILES,
            Some(Owners::CurrentUser) => CURRENT_USER,
            Some(Owners::SystemAndCurrentUser) => SYSTEM_FILES | CURRENT_USER,
        };
        of_owners | (u32::from(self.local_only) * LOCAL_ONLY) | (u32::from(self.runtime_only) * RUNTIME_ONLY)
    }

    /// Whether it is the system's own journal.
    pub fn is_system(&self) -> bool {
        self.folder.is_none() && self.files.is_empty()
    }

    /// The folders in which it begins; none where files are named.
    pub fn folders(&self) -> Vec<PathBuf> {
        match &self.folder {
            Some(folder) => vec![folder.clone()],
            None if !self.files.is_empty() => Vec::new(),
            None if self.runtime_only => vec![RUNTIME.into()],
            None => SYSTEM.map(PathBuf::from).into(),
        }
    }

    /// What of it is not there now, in a sentence.
    pub fn trouble(&self) -> Option<String> {
        let folders = self.folders();
        if folders.is_empty() || folders.iter().any(|folder| folder.exists()) {
            return None;
        }
        let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        Some(format!(
            "there is no journal at {}; one that is made is read from the next start on",
            folders.join(" or ")
        ))
    }

    /// What it is known by: its folders, or the paths that it names.
    pub(super) fn names(&self) -> Vec<String> {
        let folders = self.folders().into_iter().map(|folder| folder.to_string_lossy().into_owned());
        folders.chain(self.files.iter().cloned()).collect()
    }

    /// The files that are there now, and the folders in which one that appears would matter. `machine` is this
    /// machine's number; `list` lists a folder.
    pub(super) fn paths(
        &self,
        machine: Option<&str>,
        folders: &mut BTreeSet<PathBuf>,
        list: &mut impl FnMut(&Path) -> Vec<String>,
    ) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for root in self.folders() {
            let names = list(&root);
            folders.insert(root.clone());
            for name in &names {
                if self.is_wanted(name) {
                    paths.push(root.join(name));
                }
                if self.enters(name, machine) {
                    let folder = root.join(name);
                    let files = list(&folder);
                    paths.extend(
                        files.iter().filter(|name| self.is_wanted(name)).map(|name| folder.join(name)),
                    );
                    folders.insert(folder);
                }
            }
        }
        for pattern in self.files.iter().filter_map(|pattern| PathPattern::new(pattern).ok()) {
            let mut of_pattern = HashSet::new();
            let mut names = |folder: &Path| list(folder).into_iter().map(Into::into).collect();
            paths.extend(pattern.paths(&mut of_pattern, &mut names));
            folders.extend(of_pattern);
        }
        paths
    }

    /// Whether a folder of this name holds files of it: the machine's number, and behind a full stop the namespace.
    fn enters(&self, name: &str, machine: Option<&str>) -> bool {
        let (id, namespace) = name.split_once('.').map_or((name, None), |(id, name)| (id, Some(name)));
        let is_machine =
            matches!(id.len(), 32 | 36) && id.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-');
        is_machine && self.namespace.has(namespace) && (!self.local_only || machine == Some(id))
    }

    /// Whether a file of this name belongs to it.
    fn is_wanted(&self, name: &str) -> bool {
        // With `~` behind it: set aside, because it was not closed in order.
        let Some(stem) = name.strip_suffix(".journal").or_else(|| name.strip_suffix(".journal~")) else {
            return false;
        };
        let is_users = || {
            let user = rustix::process::geteuid().as_raw().to_string();
            let rest = stem.strip_prefix("user-").and_then(|rest| rest.strip_prefix(user.as_str()));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
        };
        match self.owners {
            None => true,
            Some(Owners::System) => stem.starts_with("system"),
            Some(Owners::CurrentUser) => is_users(),
            Some(Owners::SystemAndCurrentUser) => stem.starts_with("system") || is_users(),
        }
    }
}

impl fmt::Display for JournalPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.folder {
            Some(folder) => write!(f, "systemd's journal in {}", folder.display())?,
            None if !self.files.is_empty() => write!(f, "systemd's journal in {}", self.files.join(", "))?,
            None => f.write_str("systemd's journal")?,
        }
        match &self.namespace {
            Namespace::Default => {}
            Namespace::All => f.write_str(", of all namespaces")?,
            Namespace::Named(name) => write!(f, ", of the namespace {name}")?,
            Namespace::NamedAndDefault(name) => write!(f, ", of the namespace {name} and the default one")?,
        }
        if self.local_only {
            f.write_str(", of this machine alone")?;
        }
        if self.runtime_only {
            f.write_str(", kept until the next reboot")?;
        }
        match self.owners {
            None => Ok(()),
            Some(Owners::System) => f.write_str(", of the system's services"),
            Some(Owners::CurrentUser) => f.write_str(", of this user"),
            Some(Owners::SystemAndCurrentUser) => f.write_str(", of the system's services and this user"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const MACHINE: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    /// The names below /j of those files that belong to a journal.
    fn named(place: &JournalPlace) -> Vec<String> {
        let files =
            ["system.journal", "system@1-2.journal", "user-1000.journal", "system@3.journal~", "x.log"];
        let mut list = |folder: &Path| -> Vec<String> {
            let below = folder.strip_prefix("/j").unwrap().to_string_lossy().into_owned();
            match below.as_str() {
                "" => vec![
                    MACHINE.to_owned(),
                    format!("{MACHINE}.web"),
                    OTHER.to_owned(),
                    "remote".to_owned(),
                    "a.journal".to_owned(),
                ],
                "remote" => vec!["b.journal".to_owned()],
                _ => files.map(str::to_owned).into(),
            }
        };
        let paths = place.paths(Some(MACHINE), &mut BTreeSet::new(), &mut list);
        let short = |path: PathBuf| {
            let path = path.strip_prefix("/j").unwrap().to_string_lossy().into_owned();
            path.replace(MACHINE, "own").replace(OTHER, "other")
        };
        paths.into_iter().map(short).collect()
    }

    #[test]
    fn a_folder_has_the_files_in_it_and_those_of_machines_and_namespaces_that_are_meant() {
        let folder = JournalPlace { folder: Some("/j".into()), ..JournalPlace::default() };
        let all = named(&folder);
        for file in [
            "own/system.journal",
            "own/user-1000.journal",
            "own/system@3.journal~",
            "other/system.journal",
            "a.journal",
        ] {
            assert!(all.contains(&file.to_owned()), "{file} is not among {all:?}");
        }
        assert!(
            !all.iter().any(|file| file.contains("web") || file.contains("x.log") || file.contains("remote")),
            "{all:?}"
        );
        let of = |namespace: &str| {
            named(&JournalPlace { namespace: Namespace::parse(namespace).unwrap(), ..folder.clone() })
        };
        assert!(
            of("web").iter().all(|file| file.starts_with("own.web/") || file == "a.journal"),
            "{:?}",
            of("web")
        );
        assert_eq!(of("+web").len(), of("*").len());
        assert_eq!(of("*").len(), all.len() + 4);
        assert_eq!(of("mail"), ["a.journal"]);
        let mut local = JournalPlace { local_only: true, ..folder.clone() };
        assert!(!named(&local).iter().any(|file| file.starts_with("other")));
        local.set_flags(4).unwrap();
        assert_eq!(named(&local), ["own/system.journal", "own/system@1-2.journal", "own/system@3.journal~"]);
        let files = JournalPlace { files: vec!["/j/rem*/*.journal".to_owned()], ..JournalPlace::default() };
        assert_eq!(named(&files), ["remote/b.journal"]);
    }

    #[rstest]
    #[case(0, "", "systemd's journal")]
    #[case(5, "", "systemd's journal, of this machine alone, of the system's services")]
    #[case(32, "web", "systemd's journal, of all namespaces")]
    #[case(
        66,
        "web",
        "systemd's journal, of the namespace web and the default one, kept until the next reboot"
    )]
    fn the_numbers_of_libsystemd_say_what_they_say_there(
        #[case] flags: u32,
        #[case] namespace: &str,
        #[case] says: &str,
    ) {
        let namespace = Namespace::parse(namespace).unwrap_or_default();
        let mut place = JournalPlace { namespace, ..JournalPlace::default() };
        place.set_flags(flags).unwrap();
        assert_eq!(place.to_string(), says);
        assert_eq!(place.flags(), flags & 15);
    }

    #[test]
    fn what_is_no_flag_and_no_namespace_is_refused() {
        assert!(JournalPlace::default().set_flags(16).unwrap_err().contains("is 16"));
        for wrong in ["", "+", "a/b", "+*x/", "a b"] {
            assert!(Namespace::parse(wrong).unwrap_err().contains("namespace"), "{wrong}");
        }
    }
}
