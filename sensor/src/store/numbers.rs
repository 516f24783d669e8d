//! Which sequence numbers were given out, also by runs that could not write it into the database. A run that gave one out
//! again would have its offence taken for one that the enforcer has.
//!
//! Numbers are set aside in the database. Where the disk takes nothing, they are set aside in the length of the file
//! `lock`, in steps of [`RESERVE`]: a length without content takes no room on a disk.

use std::fs::File;
use std::io;
use std::path::PathBuf;

/// How many sequence numbers are set aside at once, so that a number given out just before a crash
/// is never given out again.
pub(super) const RESERVE: u64 = 1 << 20;

/// What is set aside.
#[derive(Debug)]
pub(super) struct SequenceNumbers {
    lock: PathBuf,
    /// No number from here on was given out, as far as the database knows.
    in_database: u64,
}

// === impl SequenceNumbers ===

impl SequenceNumbers {
    pub fn new(lock: PathBuf, in_database: u64) -> Self {
        Self { lock, in_database }
    }

    /// The first number that was never given out.
    pub fn next(&self) -> u64 {
        let steps = self.lock.metadata().map_or(0, |lock| lock.len());
        self.in_database.saturating_add(steps.saturating_mul(RESERVE))
    }

    /// Sets aside what is below `until`, for a database that takes nothing.
    pub fn set_aside(&self, until: u64) -> io::Result<()> {
        if self.next() >= until {
            return Ok(());
        }
        let steps = until.saturating_sub(self.in_database).div_ceil(RESERVE);
        let lock = File::options().write(true).open(&self.lock)?;
        lock.set_len(steps)?;
        lock.sync_all()
    }

    /// The database has it. Should the length stay, numbers are left out.
    pub fn wrote(&mut self, until: u64) {
        self.in_database = until;
        if self.lock.metadata().is_ok_and(|lock| lock.len() > 0)
            && let Err(error) = File::options().write(true).open(&self.lock).and_then(|lock| lock.set_len(0))
        {
            tracing::debug!(%error, "the length of the lock stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_that_cannot_write_begins_where_no_run_was_and_gaps_are_all_that_a_crash_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("lock");
        File::create(&lock).unwrap();
        let numbers = || SequenceNumbers::new(lock.clone(), 7);
        assert_eq!(numbers().next(), 7);
        for run in 1..4 {
            let numbers = numbers();
            let first = numbers.next();
            assert_eq!(first, 7 + (run - 1) * RESERVE);
            numbers.set_aside(first + RESERVE).unwrap();
        }
        // More than one step at once, and not less than before.
        let mut numbers = numbers();
        numbers.set_aside(numbers.next() + RESERVE + 1).unwrap();
        numbers.set_aside(9).unwrap();
        assert_eq!(numbers.next(), 7 + 5 * RESERVE);
        numbers.wrote(8 + 5 * RESERVE);
        assert_eq!((numbers.next(), lock.metadata().unwrap().len()), (8 + 5 * RESERVE, 0));
    }
}
