//! The file roots that root's processes live in, other than this host's: containers, chroots. Which processes are
//! where is read from /proc: of each process twice, a few seconds apart, for it may have been on its way, and of all
//! again every minute. One process of each root is held on to, so that its end is known at once.
//!
//! Reading must not hang on what a container mounted: roots are told apart without asking their file systems, and
//! only local ones are looked into.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::process::{Pid, PidfdFlags};

use super::mounts::{self, Mount};

/// How many looks at a process are enough.
const LOOKS: u8 = 2;
/// How many looks around are between two at all processes.
const ROUND: u32 = 12;
/// The most roots that are known at once.
const MOST: usize = 1000;

/// A mount namespace and a root in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RootKey {
    /// The number of the mount namespace; 0 for this host's root.
    pub mounts: u64,
    device: (u32, u32),
    inode: u64,
}

/// Where a process lives.
#[derive(Debug)]
pub(super) struct Home {
    /// Its root, `None` where that is this host's.
    pub foreign: Option<RootKey>,
    /// An open path to its root.
    pub root: OwnedFd,
    /// The mount that its root is on.
    pub mount: Mount,
}

/// The root folders in which processes live: this host's, and, within a bound, others.
#[derive(Debug)]
pub(super) struct Roots {
    host: RootKey,
    /// The processes that were looked at, and how often.
    seen: HashMap<u32, u8>,
    living: HashMap<RootKey, Living>,
    looks: u32,
    /// Roots that were left out because there were too many.
    pub left_out: u64,
}

/// Who lives in a root.
#[derive(Debug)]
struct Living {
    processes: BTreeSet<u32>,
    /// One of them, held on to.
    witness: OwnedFd,
    /// The process that `witness` holds on to.
    of: u32,
}

/// What changed between two looks at processes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Roots in which there was no process at the last look.
    pub came: Vec<RootKey>,
    /// Roots whose last process ended.
    pub went: Vec<RootKey>,
    /// Whether all processes were looked at.
    pub all: bool,
}

// === impl Roots ===

impl Roots {
    /// Knows this host's root alone.
    pub(super) fn new() -> std::io::Result<Self> {
        let (host, _) = identity(&host()?)?;
        Ok(Self { host, seen: HashMap::new(), living: HashMap::new(), looks: 0, left_out: 0 })
    }

    /// Looks at the processes that came since the last look, and at times at all.
    pub(super) fn look(&mut self) -> Changes {
        let running = running();
        self.looks += 1;
        let all = self.looks % ROUND == 1;
        if all {
            // All are looked at once more.
            self.seen.values_mut().for_each(|looks| *looks = looks.saturating_sub(1));
        }
        let mut changes = Changes { all, ..Changes::default() };
        self.seen.retain(|process, _| running.contains(process));
        self.living
            .values_mut()
            .for_each(|living| living.processes.retain(|process| running.contains(process)));
        for process in running {
            let looks = self.seen.entry(process).or_insert(0);
            if *looks < LOOKS {
                *looks += 1;
                self.meet(process, &mut changes);
            }
        }
        self.bury(&mut changes);
        changes
    }

    /// Looks at one process.
    pub(super) fn arrived(&mut self, process: u32) -> Changes {
        let mut changes = Changes::default();
        self.meet(process, &mut changes);
        changes
    }

    /// Looks at the processes that are held on to: where one ended, and no other is known, its root went.
    pub(super) fn ended(&mut self) -> Changes {
        let mut changes = Changes::default();
        self.bury(&mut changes);
        changes
    }

    /// What becomes readable when a process ends that is held on to.
    pub(super) fn witnesses(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.living.values().map(|living| living.witness.as_fd())
    }

    /// The processes that are known to live in a root.
    pub(super) fn processes(&self, key: &RootKey) -> impl Iterator<Item = u32> {
        self.living.get(key).into_iter().flat_map(|living| living.processes.iter().copied())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = RootKey> {
        self.living.keys().copied()
    }

    /// How many mount namespaces other than this host's there are.
    pub(super) fn count(&self) -> usize {
        self.living.len()
    }

    /// An open path to a root, where it can be looked into without waiting for anyone.
    pub(super) fn open(&self, key: &RootKey) -> Option<OwnedFd> {
        self.processes(key).find_map(|process| {
            let home = self.home(process).ok()?;
            let stays = home.foreign == Some(*key) && home.mount.is_local(process);
            stays.then_some(home.root)
        })
    }

    /// Where a process lives.
    pub(super) fn home(&self, process: u32) -> std::io::Result<Home> {
        home(&self.host, process)
    }

    pub(super) fn host(&self) -> RootKey {
        self.host
    }

    fn meet(&mut self, process: u32, changes: &mut Changes) {
        let known = |living: &Living| living.processes.contains(&process);
        let foreign = || self.home(process).ok().and_then(|home| home.foreign);
        if foreign().is_none() {
            return;
        }
        // Held, and then looked at again, so that what is seen is of the process that is held.
        let Some(held) = hold(process) else { return };
        let Some(key) = foreign().filter(|_| real_user(process) == Some(0)) else { return };
        if let Some(before) = self.living.iter().find(|(_, living)| known(living)).map(|(key, _)| *key)
            && before != key
            && let Some(living) = self.living.get_mut(&before)
        {
            living.processes.remove(&process);
        }
        if let Some(living) = self.living.get_mut(&key) {
            living.processes.insert(process);
        } else if self.living.len() >= MOST {
            self.left_out += 1;
        } else if !has_ended(&held) {
            let living = Living { processes: BTreeSet::from([process]), witness: held, of: process };
            self.living.insert(key, living);
            changes.came.push(key);
        }
    }

    /// Replaces the witnesses that ended or moved away; roots without any go.
    fn bury(&mut self, changes: &mut Changes) {
        let gone: Vec<RootKey> = self
            .living
            .iter()
            .filter(|(_, living)| !living.processes.contains(&living.of) || has_ended(&living.witness))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            let candidates: Vec<u32> = self.processes(&key).collect();
            let next = candidates.into_iter().find_map(|process| {
                let held = hold(process)?;
                let home = self.home(process).ok()?;
                (home.foreign == Some(key) && !has_ended(&held)).then_some((process, held))
            });
            match (next, self.living.get_mut(&key)) {
                (Some((process, held)), Some(living)) => {
                    living.processes.retain(|other| *other >= process);
                    (living.of, living.witness) = (process, held);
                }
                _ => {
                    self.living.remove(&key);
                    changes.went.push(key);
                }
            }
        }
    }
}

/// An open path to this host's root: that of its first process, for a service manager may have given the sensor
/// a mount namespace of its own.
pub(super) fn host() -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path| rustix::fs::open(path, flags, Mode::empty());
    Ok(open("/proc/1/root").or_else(|_| open("/"))?)
}

/// The number of this host's mount namespace.
pub(super) fn host_mounts() -> std::io::Result<u64> {
    let of = |link| namespace(rustix::fs::CWD, link);
    of("/proc/1/ns/mnt").or_else(|_| of("/proc/self/ns/mnt"))
}

/// Where a process lives, on a host of that root.
pub(super) fn home(host: &RootKey, process: u32) -> std::io::Result<Home> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(format!("/proc/{process}"), flags, Mode::empty())?;
    // The kernel's own threads have no program; one of them has a root of its own.
    rustix::fs::readlinkat(&folder, "exe", Vec::new())?;
    let root = rustix::fs::openat(&folder, "root", flags, Mode::empty())?;
    let (mut key, mount) = identity(&root)?;
    if key == *host {
        return Ok(Home { foreign: None, root, mount });
    }
    key.mounts = namespace(&folder, "ns/mnt")?;
    Ok(Home { foreign: Some(key), root, mount })
}

/// The numbers in /proc; none where it cannot be read.
pub(super) fn running() -> BTreeSet<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Which folder an open path is, without asking its file system, and the mount that it is on.
fn identity(root: impl AsFd) -> std::io::Result<(RootKey, Mount)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(root, "", flags, StatxFlags::INO | mounts::NUMBER)?;
    let mount = Mount::of(&stat);
    Ok((RootKey { mounts: 0, device: mount.device, inode: stat.stx_ino }, mount))
}

/// The number of a namespace of a process, such as `ns/mnt`.
pub(super) fn namespace(folder: impl AsFd, name: &str) -> std::io::Result<u64> {
    let link = rustix::fs::readlinkat(folder, name, Vec::new())?;
    let number = link.to_str().ok().and_then(|text| text.split_once('[')?.1.strip_suffix(']')?.parse().ok());
    number.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no number of a namespace"))
}

/// The real user id of a process.
pub(super) fn real_user(process: u32) -> Option<u32> {
    users(process).map(|[real, ..]| real)
}

/// The user ids of a process: real, effective, saved and that for files.
pub(super) fn users(process: u32) -> Option<[u32; 4]> {
    let mut status = Vec::new();
    File::open(format!("/proc/{process}/status")).ok()?.take(8192).read_to_end(&mut status).ok()?;
    let status = String::from_utf8_lossy(&status);
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let ids: Vec<u32> = ids.split_whitespace().map_while(|id| id.parse().ok()).collect();
    ids.try_into().ok()
}

fn hold(process: u32) -> Option<OwnedFd> {
    let process = Pid::from_raw(i32::try_from(process).ok()?)?;
    rustix::process::pidfd_open(process, PidfdFlags::empty()).ok()
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let ready = rustix::event::poll(&mut fds, Some(&Timespec::default()));
    ready.is_ok_and(|ready| ready > 0)
}
