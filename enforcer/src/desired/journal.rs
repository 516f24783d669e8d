//! The latest changes of what is desired, numbered, so that a follower who was away for a while can go on where
//! it stood. Only which prefixes changed is kept, and how many is bounded; what is wanted of them is asked of
//! [`Desired`](super::Desired) when it is told.

use std::collections::VecDeque;

use ipnet::IpNet;

use super::Moment;

/// The most changes that are remembered: 10 MB.
const REMEMBERED: usize = 262_144;

/// The changes, the latest last. The first since the start has the number 1.
#[derive(Debug, Default)]
pub struct Journal {
    /// The number of the last change that is not remembered.
    forgotten: u64,
    changes: VecDeque<PrefixChange>,
}

/// A change of the ban of one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixChange {
    /// The ban of a prefix was set.
    Set(IpNet),
    /// The ban of a prefix ended or was lifted.
    Removed {
        /// The prefix, in its canonical form.
        prefix: IpNet,
        /// When the ban would have ended, or has.
        until: Moment,
    },
}

// === impl Journal ===

impl Journal {
    pub(super) fn note(&mut self, change: PrefixChange) {
        if self.changes.len() >= REMEMBERED {
            self.changes.pop_front();
            self.forgotten += 1;
        }
        self.changes.push_back(change);
    }

    /// Counts changes that are not named; none before them is remembered.
    pub(super) fn skip(&mut self, changes: usize) {
        self.forgotten = self.last() + changes as u64;
        self.changes.clear();
    }

    /// The number of the last change; 0 before the first.
    pub fn last(&self) -> u64 {
        self.forgotten + self.changes.len() as u64
    }

    /// The changes after the one with a number, the earliest first; `None` where they are not all remembered,
    /// or where no change had that number.
    pub fn since(&self, through: u64) -> Option<impl Iterator<Item = PrefixChange>> {
        let known = usize::try_from(through.checked_sub(self.forgotten)?).ok()?;
        (known <= self.changes.len()).then(|| self.changes.range(known..).copied())
    }
}

impl PrefixChange {
    /// The prefix whose ban changed.
    pub fn prefix(self) -> IpNet {
        match self {
            Self::Set(prefix) | Self::Removed { prefix, .. } => prefix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(number: u32) -> PrefixChange {
        PrefixChange::Set(IpNet::from(std::net::IpAddr::from(number.to_be_bytes())))
    }

    fn since(journal: &Journal, through: u64) -> Option<Vec<PrefixChange>> {
        Some(journal.since(through)?.collect())
    }

    #[test]
    fn who_was_away_too_long_or_is_ahead_gets_no_changes() {
        let mut journal = Journal::default();
        assert_eq!(since(&journal, 0), Some(vec![]));
        assert_eq!(since(&journal, 1), None);
        (1..=3).for_each(|number| journal.note(set(number)));
        assert_eq!(since(&journal, 1), Some(vec![set(2), set(3)]));
        journal.skip(5);
        assert_eq!(journal.last(), 8);
        assert_eq!((since(&journal, 7), since(&journal, 8), since(&journal, 9)), (None, Some(vec![]), None));
    }

    #[test]
    fn the_journal_stays_bounded() {
        let mut journal = Journal::default();
        (1..=REMEMBERED as u32 + 5).for_each(|number| journal.note(set(number)));
        assert_eq!(journal.changes.len(), REMEMBERED);
        assert_eq!(since(&journal, 4), None);
        assert_eq!(journal.since(5).unwrap().next(), Some(set(6)));
        assert_eq!(journal.last(), REMEMBERED as u64 + 5);
    }

    #[test]
    fn a_change_takes_40_bytes() {
        assert!(size_of::<PrefixChange>() <= 40);
    }
}
