//! A time as what is desired keeps it.

use atalaya_wire::Left;
use jiff::Timestamp;

/// A time in milliseconds since 1970, or for ever. Half the size of a [`Timestamp`], which counts with
/// a million bans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

// === impl Moment ===

impl Moment {
    /// Later than every other moment.
    pub const FOREVER: Self = Self(i64::MAX);

    /// The moment so many seconds later; for ever stays for ever.
    #[must_use]
    pub fn plus_seconds(self, seconds: u64) -> Self {
        let milliseconds = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
        Self(self.0.saturating_add(milliseconds))
    }

    /// Whole seconds since 1970; for ever is the largest number there is.
    pub fn unix_seconds(self) -> i64 {
        if self == Self::FOREVER { i64::MAX } else { self.0.div_euclid(1000) }
    }

    /// As a timestamp; `None` for ever.
    pub fn timestamp(self) -> Option<Timestamp> {
        (self != Self::FOREVER).then(|| Timestamp::from_millisecond(self.0).unwrap_or(Timestamp::MAX))
    }

    /// Milliseconds from `now` to here, negative when it is past.
    pub fn milliseconds_after(self, now: Self) -> i64 {
        if self == Self::FOREVER { i64::MAX } else { self.0.saturating_sub(now.0) }
    }

    /// What is left at `now` of a ban that ends here, as sensors are told it; `None` where it is over.
    pub fn left(self, now: Self) -> Option<Left> {
        if self == Self::FOREVER {
            return Some(Left::Permanent);
        }
        let milliseconds = u64::try_from(self.milliseconds_after(now)).ok().filter(|left| *left > 0)?;
        Some(Left::Milliseconds(milliseconds.min(Left::LONGEST)))
    }

    /// Seconds from `now` to here, rounded up; 0 when it is past.
    pub fn seconds_after(self, now: Self) -> u64 {
        u64::try_from(self.milliseconds_after(now)).map_or(0, |ms| ms.div_ceil(1000))
    }
}

impl From<Timestamp> for Moment {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp.as_millisecond())
    }
}

impl From<Option<Timestamp>> for Moment {
    fn from(end: Option<Timestamp>) -> Self {
        end.map_or(Self::FOREVER, Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_rounded_up() {
        let now = Moment(1_000);
        assert_eq!(Moment(2_001).seconds_after(now), 2);
        assert_eq!(Moment(2_000).seconds_after(now), 1);
        assert_eq!(Moment(1_000).seconds_after(now), 0);
        assert_eq!(Moment(0).seconds_after(now), 0);
        assert!(Moment::FOREVER.seconds_after(now) > u64::from(u32::MAX));
    }

    #[test]
    fn of_a_ban_that_ends_now_nothing_is_left_and_of_no_other_more_than_sensors_take() {
        let now = Moment(1_000);
        assert_eq!([Moment(0), Moment(1_000)].map(|end| end.left(now)), [None, None]);
        assert_eq!(Moment(1_001).left(now), Some(Left::Milliseconds(1)));
        assert_eq!(Moment(i64::MAX - 1).left(now), Some(Left::Milliseconds(Left::LONGEST)));
        assert_eq!(Moment::FOREVER.left(now), Some(Left::Permanent));
    }
}
