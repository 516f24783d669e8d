//! The wall clock, which tests can move. Deadlines and intervals use tokio's clock instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The wall clock of the service: the system's, plus an offset that only tests set.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_seconds: Arc<AtomicI64>,
}

/// A time to the second in the zone of whoever reads it: `TZ`, or `/etc/localtime` without it. The distance from UTC is
/// always said, so that a time is never another's: `2026-11-30 21:44:00 +01:00`, and `2026-11-30 20:44:00Z` in UTC.
pub fn in_zone(time: Timestamp, zone: &TimeZone) -> String {
    let here = time.to_zoned_datetime(zone.clone());
    let distance = if here.offset().is_zero() { "Z" } else { " %:z" };
    here.strftime(&format!("%Y-%m-%d %H:%M:%S{distance}")).to_string()
}

// === impl Clock ===

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// Moves this clock and all its clones forward by whole seconds (back, where negative).
    pub fn advance(&self, by: SignedDuration) {
        self.offset_seconds.fetch_add(by.as_secs(), Ordering::SeqCst);
    }

    /// The time now, by the host's clock and how far it was moved in a test.
    pub fn now(&self) -> Timestamp {
        let offset = SignedDuration::from_secs(self.offset_seconds.load(Ordering::SeqCst));
        Timestamp::now().saturating_add(offset).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_the_readers_zone_with_its_distance_from_utc_also_across_summer_time() {
        let zone = |text: &str| TimeZone::posix(text).unwrap();
        let madrid = zone("CET-1CEST,M3.5.0,M10.5.0/3");
        for (time, zone, expected) in [
            ("2026-11-30T20:44:00Z", &madrid, "2026-11-30 21:44:00 +01:00"),
            ("2026-07-30T23:44:00Z", &madrid, "2026-07-31 01:44:00 +02:00"),
            ("2026-11-30T20:44:00.9Z", &zone("NST3:30"), "2026-11-30 17:14:00 -03:30"),
            ("2026-11-30T20:44:00Z", &TimeZone::UTC, "2026-11-30 20:44:00Z"),
        ] {
            assert_eq!(in_zone(time.parse().unwrap(), zone), expected);
        }
    }
}
