//! Bans end by the time of day where people and programs speak of them, and by the boot clock in the kernel.

use std::time::Duration;

use jiff::Timestamp;

use super::table::Deadline;
use crate::jail::BanEnd;
use crate::kernel::clock::boot_ns;

/// The same moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the time of day, which may be set.
    pub wall: Timestamp,
    /// Since the host started, which goes on while it is suspended.
    pub boot: Deadline,
}

// === impl Moment ===

impl Moment {
    /// Reads both clocks, one after the other.
    pub fn now() -> Self {
        Self { wall: Timestamp::now(), boot: boot_ns() }
    }

    /// The end of a ban on the boot clock, which nobody sets.
    pub fn deadline(self, until: BanEnd) -> Deadline {
        let Some(until) = until else { return Deadline::MAX };
        let left = until.duration_since(self.wall).as_nanos();
        let left = u64::try_from(left.max(0)).unwrap_or(Deadline::MAX);
        self.boot.saturating_add(left)
    }

    /// The time of day at which a deadline is reached; `None` for one without end, or that is over.
    pub fn end(self, deadline: Deadline) -> BanEnd {
        let left = deadline.checked_sub(self.boot)?;
        self.wall.checked_add(Duration::from_nanos(left)).ok().filter(|_| deadline != Deadline::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_the_same_moment_on_both_clocks() {
        let now = Moment { wall: Timestamp::from_second(1_800_000_000).unwrap(), boot: 5_000_000_000 };
        let until = Some(Timestamp::from_second(1_800_000_060).unwrap());
        assert_eq!(now.deadline(until), 65_000_000_000);
        assert_eq!(now.end(65_000_000_000), until);
        assert_eq!((now.deadline(None), now.end(Deadline::MAX)), (Deadline::MAX, None));
        // What is over ends now, and what is beyond all clocks never.
        assert_eq!(now.deadline(Some(Timestamp::UNIX_EPOCH)), now.boot);
        assert_eq!(now.deadline(Some(Timestamp::MAX)), Deadline::MAX);
    }
}
