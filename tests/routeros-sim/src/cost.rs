//! What commands cost: a round trip that delays each reply, and time that occupies the router.
//!
//! The router does one command at a time, whatever session it came in on. Occupation is kept as a
//! point on a time line and not as a chain of sleeps, so that 25,000 insertions of 1.2 ms take 30.0 s
//! although a timer is only exact to a millisecond.

use std::time::Duration;

use tokio::time::Instant;

/// What each kind of work takes. The default costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// How much later than its command's end a reply arrives. It is latency only: any number of
    /// commands can be under way.
    pub round_trip: Duration,
    /// Occupation by each `add` and `set`; 1.2 ms on an RB5009.
    pub insert: Duration,
    /// Occupation by each entry removed; as much as an insertion where it is `None`.
    pub remove: Option<Duration>,
    /// Occupation by `print` for each entry of the whole table, also when counting or searching by
    /// address, and for each rule of a table of rules; about 50 µs on an RB5009. Nothing is sent before it is over.
    pub scan_per_entry: Duration,
    /// Occupation by each property that a `print` of an address list shows, after the scan; the rows leave as they are made.
    pub print_per_property: Duration,
}

/// When the router is free, and how busy it was.
#[derive(Debug)]
pub(crate) struct Processor {
    busy_until: Instant,
    window_start: Instant,
    busy_in_window: Duration,
    /// Of one core, in percent, in the last whole second.
    last_load: u8,
}

/// One command's turn on the time line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) start: Instant,
    pub(crate) end: Instant,
}

/// Over how long the load is measured.
const WINDOW: Duration = Duration::from_secs(1);

impl Processor {
    pub(crate) fn new(now: Instant) -> Self {
        Self { busy_until: now, window_start: now, busy_in_window: Duration::ZERO, last_load: 0 }
    }

    /// The next free turn of this length for a command that arrived at `arrived`.
    pub(crate) fn reserve(&mut self, arrived: Instant, cost: Duration) -> Turn {
        let start = self.busy_until.max(arrived);
        let end = start + cost;
        self.busy_until = end;
        self.roll(start);
        self.busy_in_window += cost;
        Turn { start, end }
    }

    /// Gives back what is left of a turn, if none was given out after it.
    pub(crate) fn release(&mut self, turn: Turn, now: Instant) {
        if self.busy_until == turn.end {
            self.busy_until = now.clamp(turn.start, turn.end);
        }
    }

    /// Load of the last whole second, in percent of so many cores: one works on the tables. An RB5009 of four
    /// showed 31 % at its full rate of insertions.
    pub(crate) fn load(&mut self, now: Instant, cores: u8) -> u8 {
        self.roll(now);
        self.last_load / cores.max(1)
    }

    fn roll(&mut self, now: Instant) {
        while now.saturating_duration_since(self.window_start) >= WINDOW {
            let idle = now.duration_since(self.window_start) >= 2 * WINDOW && self.busy_in_window.is_zero();
            let busy = self.busy_in_window.min(WINDOW);
            self.last_load = (busy.as_millis() * 100 / WINDOW.as_millis()) as u8;
            self.busy_in_window -= busy;
            self.window_start = if idle { now } else { self.window_start + WINDOW };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSERT: Duration = Duration::from_micros(1200);

    #[tokio::test]
    async fn turns_follow_each_other_without_gaps_while_commands_wait() {
        let start = Instant::now();
        let mut processor = Processor::new(start);
        let mut end = start;
        for _ in 0..25_000 {
            end = processor.reserve(start, INSERT).end;
        }
        assert_eq!(end - start, Duration::from_secs(30));
        assert_eq!(processor.load(start + Duration::from_secs(10), 4), 25);
        assert_eq!(processor.load(start + Duration::from_mins(1), 1), 0);
    }

    #[tokio::test]
    async fn an_idle_router_starts_when_the_command_arrives() {
        let start = Instant::now();
        let mut processor = Processor::new(start);
        let later = start + Duration::from_secs(5);
        assert_eq!(processor.reserve(later, INSERT), Turn { start: later, end: later + INSERT });
    }

    #[tokio::test]
    async fn a_cancelled_turn_frees_the_router() {
        let start = Instant::now();
        let mut processor = Processor::new(start);
        let turn = processor.reserve(start, Duration::from_secs(10));
        processor.release(turn, start + Duration::from_secs(1));
        assert_eq!(processor.reserve(start, INSERT).start, start + Duration::from_secs(1));
    }
}
