//! What of a follower can be read while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The most paths of which it is told why they are not read.
pub const MOST_TROUBLES: usize = 1000;

/// Why paths and patterns are not read, by name.
pub type Troubles = BTreeMap<PathBuf, String>;

/// Counters that can be read while the follower runs.
#[derive(Debug, Default)]
pub struct FilesStatus {
    pub(super) bytes: AtomicU64,
    pub(super) followed: AtomicU64,
    pub(super) backlog: AtomicU64,
    pub(super) truncations: AtomicU64,
    pub(super) rotations: AtomicU64,
    pub(super) cut_lines: AtomicU64,
    pub(super) unwatched: AtomicU64,
    troubles: Mutex<Troubles>,
}

// === impl FilesStatus ===

impl FilesStatus {
    /// Takes over why paths are not read; those that were not said before.
    pub(super) fn set_troubles(&self, now: Troubles) -> Vec<(PathBuf, String)> {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *troubles, now);
        let new = troubles.iter().filter(|(path, what)| before.get(*path) != Some(what));
        new.map(|(path, what)| (path.clone(), what.clone())).collect()
    }

    /// Paths and patterns that are not read now, with the reason; of the first [`MOST_TROUBLES`] that were met.
    pub fn troubles(&self) -> Troubles {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes handed over since the start.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Files that are open now.
    pub fn followed(&self) -> u64 {
        self.followed.load(Ordering::Relaxed)
    }

    /// Bytes that are written and not yet handed over, as of the last look.
    pub fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Relaxed)
    }

    /// How often a file was found shorter, or with another beginning, than what was read of it.
    pub fn truncations(&self) -> u64 {
        self.truncations.load(Ordering::Relaxed)
    }

    /// Files seen to lose their name to another.
    pub fn rotations(&self) -> u64 {
        self.rotations.load(Ordering::Relaxed)
    }

    /// Files that are open now and of which inotify does not tell: these are looked at every two seconds.
    pub fn unwatched(&self) -> u64 {
        self.unwatched.load(Ordering::Relaxed)
    }

    /// Lines cut at [`LONGEST_LINE`](super::LONGEST_LINE).
    pub fn cut_lines(&self) -> u64 {
        self.cut_lines.load(Ordering::Relaxed)
    }
}
