//! systemd's journal, read from its files: every entry once, in the order in which its file has it, from where reading
//! stood. One follower reads for all jails; which of them want an entry is told here.
//!
//! Not through `journalctl --follow`: that shows no entry which is dated before the last one that it has shown, so that
//! what collected hosts send late, or with a clock that is behind, is lost without a word (systemd 252; a script in
//! `findings/` shows it). The same holds between the files of one host where a namespace's journald is slower than
//! another, and over a reboot of a host whose clock is set late. A file by itself has an order that no clock changes.

mod copies;
mod entry;
mod file;
mod follower;
mod matching;
mod pieces;
mod place;
mod status;
mod watches;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use entry::{CarriedEntry, ContainerPiece, Entry};
pub use follower::{JournalError, JournalFollower, JournalHandle, JournalPosition};
pub use matching::JournalMatch;
pub use pieces::JournalPieces;
pub use place::{JournalPlace, Namespace, Owners};
pub use status::JournalStatus;

/// The last entry that an earlier release had taken, which knew one for all files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// journald's `__CURSOR` of it; see systemd.journal-fields(7).
    pub cursor: String,
    /// When that entry was written, for files of another series.
    pub time: Timestamp,
}

/// What a jail reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedJournal {
    /// Which journal.
    pub place: JournalPlace,
    /// Which of its entries.
    pub entries: JournalMatch,
}

/// Who takes what a follower reads.
pub trait JournalSink {
    /// An entry that a jail wants. `after` is how far its file is read with it: what came of both is to be kept together.
    fn entry(&mut self, entry: Entry, after: JournalPosition);

    /// How far a file is read, where no jail wanted the entries up to there; also a folder that is followed from now on.
    fn passed(&mut self, after: JournalPosition);

    /// A container's entry that was read by an earlier run, before the first that is read now. `is_all` says whether
    /// they come from the first of the file on.
    fn before(&mut self, entry: &Entry, is_all: bool);

    /// A file that is gone for long.
    fn forget(&mut self, file: &str);
}

// === impl Cursor ===

impl Cursor {
    /// The series of numbers that the entry is counted in.
    fn series(&self) -> Option<u128> {
        u128::from_str_radix(self.part("s=")?, 16).ok()
    }

    /// The entry's number in it.
    fn number(&self) -> Option<u64> {
        u64::from_str_radix(self.part("i=")?, 16).ok()
    }

    fn part(&self, name: &str) -> Option<&str> {
        self.cursor.split(';').find_map(|part| part.strip_prefix(name))
    }
}
