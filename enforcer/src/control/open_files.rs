//! How many descriptors this process has open, and how many it may have: connections of sensors, of routers and of
//! commands are descriptors, and at the limit no further one is accepted.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// For how long a count holds. Before Linux 6.2 counting lists every descriptor, and whoever asks must not be able to
/// make that a burden.
const HOLDS: Duration = Duration::from_secs(1);
/// The descriptors of this process (proc(5)).
const FOLDER: &str = "/proc/self/fd";

/// Descriptors of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFiles {
    /// Open ones: files, connections, timers and others.
    pub used: u64,
    /// The most that may be open at once (`RLIMIT_NOFILE`, the soft limit); `None` where there is no limit.
    pub limit: Option<u64>,
}

/// Counts the descriptors of this process, at most once a second.
#[derive(Debug, Default)]
pub struct OpenFilesCount {
    /// The last count and when it was made.
    last: Mutex<Option<(Instant, OpenFiles)>>,
}

// === impl OpenFiles ===

impl OpenFiles {
    /// Whether less than a tenth of the limit is left.
    pub fn is_nearly_all(self) -> bool {
        self.limit.is_some_and(|limit| self.used.saturating_mul(10) > limit.saturating_mul(9))
    }
}

// === impl OpenFilesCount ===

impl OpenFilesCount {
    /// What is open, as of this moment or the second before it; `None` where /proc cannot be read.
    pub fn look(&self, now: Instant) -> Option<OpenFiles> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, files)) = *last
            && now.saturating_duration_since(at) < HOLDS
        {
            return Some(files);
        }
        let files = OpenFiles { used: used().ok()?, limit: getrlimit(Resource::Nofile).current };
        *last = Some((now, files));
        Some(files)
    }
}

/// The descriptors that are open. Since Linux 6.2 the folder's size tells; before it is 0.
fn used() -> io::Result<u64> {
    match fs::metadata(FOLDER)?.len() {
        0 => listed(),
        size => Ok(size),
    }
}

/// The same by listing them, without the descriptor that lists.
fn listed() -> io::Result<u64> {
    Ok((fs::read_dir(FOLDER)?.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Other tests of the same process open and close some too.
    const OTHERS: u64 = 100;

    #[test]
    fn open_files_are_counted_both_ways_and_a_count_holds_for_a_second() {
        let (count, start) = (OpenFilesCount::default(), Instant::now());
        let before = count.look(start).unwrap();
        let _files: Vec<File> = (0..300).map(|_| File::open("/dev/null").unwrap()).collect();
        assert_eq!(count.look(start + HOLDS / 2), Some(before));
        let after = count.look(start + HOLDS).unwrap();
        for used in [after.used, listed().unwrap()] {
            assert!(used.abs_diff(before.used + 300) < OTHERS, "{used} after {}", before.used);
        }
        assert_eq!(after.limit, getrlimit(Resource::Nofile).current);
    }

    #[test]
    fn nearly_all_is_more_than_nine_tenths_of_a_limit() {
        let nearly = |used, limit| OpenFiles { used, limit }.is_nearly_all();
        assert!(!nearly(922 - 1, Some(1024)) && nearly(922, Some(1024)) && nearly(2000, Some(1024)));
        assert!(!nearly(u64::MAX, None) && nearly(1, Some(0)));
    }
}
