//! Landlock (landlock(7)): below which folders a process reads and writes; it starts no program. What it may reach
//! follows from the configuration alone, so that [`Reach`] can be compared when the configuration is read again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope, path_beneath_rules,
};

/// What every sensor reads: processes and devices, names and time zones, and the libraries that look up names.
const SYSTEM: [&str; 17] = [
    "/proc",
    "/sys",
    "/usr",
    "/lib",
    "/lib64",
    "/dev/null",
    "/dev/urandom",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/services",
    "/run/systemd/resolve",
    "/run/resolvconf",
];
/// This host's number, which names the folder of its journal.
const MACHINE: &str = "/etc/machine-id";
/// Folders too wide to be opened for the sake of one file in them.
const WIDE: [&str; 7] = ["/", "/etc", "/home", "/root", "/run", "/srv", "/var"];

/// What a process can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Files, and folders with all below them, to read.
    pub read: BTreeSet<PathBuf>,
    /// Folders to write below.
    pub write: BTreeSet<PathBuf>,
}

// === impl Reach ===

impl Reach {
    /// What every sensor needs: the system's libraries to read, and its state folder to write.
    pub fn of_state(state: &Path) -> Self {
        let mut reach = Self::default();
        reach.read.extend(SYSTEM.map(PathBuf::from));
        reach.read.extend(["/etc/atalaya".into(), "/etc/timezone".into()]);
        reach.write.insert(absolute(state));
        reach
    }

    /// A folder with all below it.
    pub fn read_folder(&mut self, folder: &Path) {
        self.read.insert(absolute(folder));
    }

    /// systemd's journal in these folders.
    pub fn read_journal(&mut self, folders: &[PathBuf]) {
        self.read.insert(MACHINE.into());
        self.read.extend(folders.iter().map(|folder| absolute(folder)));
    }

    /// What is wanted and not within reach, the first of it.
    pub fn lacks(&self, wanted: &Self) -> Option<PathBuf> {
        let missing = |have: &BTreeSet<PathBuf>, want: &BTreeSet<PathBuf>| {
            want.iter().find(|path| !have.iter().any(|have| path.starts_with(have))).cloned()
        };
        let reads: BTreeSet<PathBuf> = self.read.union(&self.write).cloned().collect();
        missing(&reads, &wanted.read).or_else(|| missing(&self.write, &wanted.write))
    }

    /// A file that may be replaced by another of its name: its folder, unless that is too wide.
    pub fn read_beside(&mut self, file: &Path) {
        let file = absolute(file);
        let folder = file.parent().filter(|folder| !WIDE.iter().any(|wide| *folder == Path::new(wide)));
        self.read.insert(folder.map_or_else(|| file.clone(), Path::to_owned));
    }

    /// A log, or a pattern of logs, with what they are rotated to: the folder before the first wildcard. What is made
    /// later, and where links lead, the loader opens.
    pub fn read_log(&mut self, pattern: &str) {
        let mut folder = PathBuf::new();
        let pattern = absolute(Path::new(pattern));
        for part in pattern.parent().unwrap_or(Path::new("/")) {
            if part.to_string_lossy().contains(['*', '?', '[']) {
                break;
            }
            folder.push(part);
        }
        self.read.insert(folder);
    }
}

/// Restricts this thread; what is left, in words.
pub fn restrict(reach: &Reach) -> String {
    match apply(reach) {
        Ok(RulesetStatus::NotEnforced) => {
            "all: this kernel has no Landlock (since 5.13, `lsm=landlock`)".to_owned()
        }
        Ok(status) => {
            let list = |paths: &BTreeSet<PathBuf>| {
                let paths =
                    paths.iter().filter(|path| !SYSTEM.iter().any(|system| *path == Path::new(system)));
                paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            };
            let mut said = format!(
                "reads the system's libraries and {}; writes {}",
                list(&reach.read),
                list(&reach.write)
            );
            if status == RulesetStatus::PartiallyEnforced {
                said.push_str(" (as far as this kernel's Landlock goes)");
            }
            said
        }
        Err(error) => {
            tracing::warn!(%error, "Landlock could not be set up");
            format!("all: {error}")
        }
    }
}

fn apply(reach: &Reach) -> Result<RulesetStatus, landlock::RulesetError> {
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // No devices, and what is there stays where it is but within the folder.
    let write = AccessFs::from_all(ABI::V3) & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(&reach.read, read))?
        .add_rules(path_beneath_rules(&reach.write, write))?
        .add_rules(path_beneath_rules(["/dev/null"], AccessFs::ReadFile | AccessFs::WriteFile))?
        .restrict_self()?;
    Ok(status.ruleset)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
