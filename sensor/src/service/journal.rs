//! Feeds the detector with the entries of journals, and keeps how far each file is read together with what its entries
//! changed.

use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;

use super::{Shared, Watch, lock};
use crate::source::journal::{
    Entry, JournalFollower, JournalHandle, JournalPieces, JournalPosition, JournalSink, JournalStatus,
};

/// Follows the journals of all jails on a thread of its own, from where reading stands.
pub(super) fn follow(watch: &Shared) -> anyhow::Result<Option<(JournalHandle, std::thread::JoinHandle<()>)>> {
    let (wanted, saved, cursor) = {
        let mut watch = lock(watch);
        let wanted = watch.detector.journals();
        if wanted.is_empty() {
            return Ok(None);
        }
        let position =
            |(file, entries): (&String, &u64)| JournalPosition { file: file.clone(), entries: *entries };
        (wanted, watch.journal.iter().map(position).collect(), watch.cursor.take())
    };
    let mut follower = JournalFollower::new(wanted, saved, cursor)?;
    let handle = follower.handle();
    let mut sink =
        JournalFeed { watch: watch.clone(), pieces: JournalPieces::default(), status: handle.status() };
    follower.begin(&mut sink);
    let thread = std::thread::Builder::new()
        .name("journal".into())
        .spawn(move || follower.run(&mut sink))
        .context("cannot start the thread that follows the journal")?;
    Ok(Some((handle, thread)))
}

struct JournalFeed {
    watch: Shared,
    pieces: JournalPieces,
    status: Arc<JournalStatus>,
}

// === impl JournalFeed ===

impl JournalSink for JournalFeed {
    fn entry(&mut self, entry: Entry, after: JournalPosition) {
        let entry = self.pieces.join(entry);
        self.status.add_cut(self.pieces.take_cut());
        let mut watch = lock(&self.watch);
        if let Some(entry) = entry {
            watch.detector.journal(&entry, Timestamp::now());
        }
        watch.lines += 1;
        watch.keep_journal(after);
    }

    fn passed(&mut self, after: JournalPosition) {
        lock(&self.watch).keep_journal(after);
    }

    fn before(&mut self, entry: &Entry, is_all: bool) {
        self.pieces.before(entry, is_all);
    }

    fn forget(&mut self, file: &str) {
        let mut watch = lock(&self.watch);
        watch.journal.remove(file);
        watch.unsaved.journal.insert(file.to_owned(), None);
    }
}

// === impl Watch ===

impl Watch {
    fn keep_journal(&mut self, after: JournalPosition) {
        let JournalPosition { file, entries } = after;
        self.journal.insert(file.clone(), entries);
        self.unsaved.journal.insert(file, Some(entries));
    }
}
