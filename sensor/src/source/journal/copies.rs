//! Which entries were handed over lately, so that a copy in another file is not handed over too: journald writes to
//! `/run` until `/var` is there and then copies what it has (`journalctl --flush`), and a host may be collected twice.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use super::file::EntryIdentity;

/// How many entries are remembered.
const REMEMBERED: usize = 10_000;

/// The last entries that were handed over.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Where each stood, by what it is.
    seen: HashMap<u64, u128>,
    order: VecDeque<u64>,
    hasher: RandomState,
}

// === impl Copies ===

impl Copies {
    /// Remembers an entry of a file; whether it is a copy of one of another file.
    pub(super) fn is_one(&mut self, entry: &EntryIdentity, file: u128) -> bool {
        let entry = self.hasher.hash_one(entry);
        if let Some(first) = self.seen.get(&entry) {
            return *first != file;
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert(entry, file);
        self.order.push_back(entry);
        false
    }
}
