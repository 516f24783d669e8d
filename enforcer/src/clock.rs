//! The wall clock, which tests can move. Deadlines and intervals use tokio's clock instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// By how much the wall clock may differ from the time that passed and is not taken for set: NTP slews it by less.
const SLEWED: SignedDuration = SignedDuration::from_secs(2);

/// The wall clock of the service: the system's, plus an offset that only tests set.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_seconds: Arc<AtomicI64>,
}

/// Notices that the wall clock was set: it moved by something else than the time that passed. A host that slept is one of
/// these, too.
#[derive(Debug)]
pub struct ClockSteps {
    clock: Clock,
    wall: Timestamp,
    at: Instant,
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

// === impl ClockSteps ===

impl ClockSteps {
    /// Of a clock, from now on.
    pub fn of(clock: &Clock) -> Self {
        Self { clock: clock.clone(), wall: clock.now(), at: Instant::now() }
    }

    /// By how much the clock was set since the last look: forward, or back where negative. Slow drift is no step if it is
    /// looked at every few minutes.
    pub fn look(&mut self) -> Option<SignedDuration> {
        let (wall, at) = (self.clock.now(), Instant::now());
        let passed = SignedDuration::try_from(at.duration_since(self.at)).unwrap_or(SignedDuration::MAX);
        let by = wall.duration_since(self.wall) - passed;
        (self.wall, self.at) = (wall, at);
        (by.abs() > SLEWED).then_some(by)
    }
}

/// A step in words: `forward by 1h`.
pub fn step_in_words(by: SignedDuration) -> String {
    let seconds = by.unsigned_abs().saturating_add(Duration::from_millis(500)).as_secs();
    let way = if by.is_negative() { "back" } else { "forward" };
    format!("{way} by {:#}", SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_is_told_once_and_one_that_runs_on_is_not() {
        let clock = Clock::system();
        let mut steps = ClockSteps::of(&clock);
        assert_eq!(steps.look(), None);
        clock.advance(SignedDuration::from_hours(1));
        assert_eq!(step_in_words(steps.look().unwrap()), "forward by 1h");
        assert_eq!(steps.look(), None);
        clock.advance(SignedDuration::from_secs(-90));
        assert_eq!(step_in_words(steps.look().unwrap()), "back by 1m 30s");
        // Tokio's clock goes on, the wall clock does not: a host whose clock hangs.
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(step_in_words(steps.look().unwrap()), "back by 10s");
    }

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
