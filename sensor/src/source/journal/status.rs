//! What a follower of the journal counts, for those who ask while it runs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::source::files::Troubles;

/// Counters of the journal, since the start.
#[derive(Debug, Default)]
pub struct JournalStatus {
    pub(super) files: AtomicU64,
    pub(super) entries: AtomicU64,
    pub(super) backlog: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) cut: AtomicU64,
    pub(super) lost: AtomicU64,
    troubles: Mutex<Troubles>,
}

// === impl JournalStatus ===

impl JournalStatus {
    /// Files of the journals that are read now.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Entries looked at, whether or not a jail wanted them.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Entries that are there and not yet looked at, as of the last look.
    pub fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Entries that could not be read, because their file is damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Entries of which a field was cut or left out (too long, compressed in a way that is not known, damaged), and lines
    /// of containers of which pieces were.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Entries of files that were deleted before all of it was read.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Files and folders that are not read now, with the reason.
    pub fn troubles(&self) -> Troubles {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts lines of containers that were cut or passed over.
    pub fn add_cut(&self, lines: u64) {
        self.cut.fetch_add(lines, Ordering::Relaxed);
    }

    /// Takes over why files are not read; those that were not said before.
    pub(super) fn set_troubles(&self, now: Troubles) -> Vec<(PathBuf, String)> {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *troubles, now);
        let new = troubles.iter().filter(|(path, what)| before.get(*path) != Some(what));
        new.map(|(path, what)| (path.clone(), what.clone())).collect()
    }
}
