//! How often something happened within the last quarter of an hour, in sixteen numbers.

use jiff::Timestamp;

/// The minutes that count: the current one, and those before it.
const MINUTES: usize = 15;

/// Counts by minute; older ones are forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OfLate {
    /// The minute of the last count, since 1970.
    minute: i64,
    /// By minute, modulo their number.
    counts: [u64; MINUTES],
}

// === impl OfLate ===

impl OfLate {
    /// Counts; how many there were before within the same minute.
    pub fn add(&mut self, now: Timestamp, count: u64) -> u64 {
        self.forget(now);
        let place = place(self.minute);
        let before = self.counts[place];
        self.counts[place] += count;
        before
    }

    /// How many there were within the last 14 to 15 minutes.
    pub fn count(&self, now: Timestamp) -> u64 {
        let mut counts = *self;
        counts.forget(now);
        counts.counts.iter().sum()
    }

    fn forget(&mut self, now: Timestamp) {
        let minute = now.as_second().div_euclid(60);
        // A clock that was set back goes on in the minute of before.
        let passed = usize::try_from(minute - self.minute).unwrap_or(0).min(MINUTES);
        self.minute = minute.max(self.minute);
        for back in 0..passed {
            self.counts[place(self.minute - back as i64)] = 0;
        }
    }
}

fn place(minute: i64) -> usize {
    minute.rem_euclid(MINUTES as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_counted_for_a_quarter_of_an_hour() {
        let at = |minute: i64| Timestamp::from_second(1_800_000_000 + 60 * minute).unwrap();
        let mut of_late = OfLate::default();
        assert_eq!((of_late.add(at(0), 2), of_late.add(at(0), 1), of_late.add(at(7), 1)), (0, 2, 0));
        assert_eq!(
            [0, 14, 15, 21, 22, 1_000_000].map(|minute| of_late.count(at(minute))),
            [4, 4, 1, 1, 0, 0]
        );
        of_late.add(at(3), 1);
        assert_eq!(of_late.count(at(7)), 5, "a clock that goes back loses nothing");
    }
}
