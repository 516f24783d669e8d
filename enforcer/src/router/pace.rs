//! How fast commands go to a router: a window that follows its answers, a pause where its processor is
//! too busy, and the configured rate. A plain function of answers and time, without I/O.
//!
//! As with LEDBAT (RFC 6817), delay is what is steered by: the window is such that about [`TARGET`] of work
//! waits at the router, whatever its distance, so that it is always busy and a new ban waits no longer
//! than that. Each round, a window's worth of answers, sets it in proportion. A refusal halves it.

use std::time::Duration;

use tokio::time::Instant;

/// How much work may wait at the router. A new ban goes behind it.
pub const TARGET: Duration = Duration::from_millis(15);

/// The window that a session starts with, in commands.
const FIRST_WINDOW: f64 = 16.0;

/// Over how many minutes the shortest round trip is remembered: paths change.
const MINUTES: usize = 10;

/// The smallest share of the time in which a busy router is given commands.
const SMALLEST_SHARE: f64 = 1.0 / 16.0;

/// What is known of a router's speed; it outlives sessions.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The most commands in flight.
    most: f64,
    /// The most commands a second.
    rate: Option<f64>,
    max_cpu: u8,
    window: f64,
    /// Whether the window still doubles with each round.
    starting: bool,
    round: Round,
    /// The shortest round trip of each of the last minutes, the current one first.
    shortest: [Option<Duration>; MINUTES],
    minute_began: Option<Instant>,
    /// The last round trips, smoothed.
    round_trip: Option<Duration>,
    /// When the window was last halved.
    halved: Option<Instant>,
    /// In which share of the time commands go out; less than 1 while the router is too busy.
    share: f64,
    /// Nothing goes out before this.
    rest_until: Option<Instant>,
    /// Commands that the rate allows at once, as of when.
    tokens: f64,
    counted: Option<Instant>,
}

/// A window's worth of answers.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    answers: usize,
    /// The shortest round trip of it: what stands before every command, bursts apart.
    shortest: Option<Duration>,
    /// Whether the window was ever full, without which it says nothing about a larger one.
    was_full: bool,
    /// Whether it only waits for the answers to what went out under the window before.
    settles: bool,
}

// === impl Pace ===

impl Pace {
    /// For a router of which nothing is known yet: at most so many commands in flight and a second.
    pub fn new(most: usize, rate: Option<u32>, max_cpu: u8) -> Self {
        let most = most.max(1) as f64;
        Self {
            most,
            rate: rate.map(f64::from),
            max_cpu,
            window: FIRST_WINDOW.min(most),
            starting: true,
            round: Round::default(),
            shortest: [None; MINUTES],
            minute_began: None,
            round_trip: None,
            halved: None,
            share: 1.0,
            rest_until: None,
            tokens: 1.0,
            counted: None,
        }
    }

    /// A new session: carefully anew, and more so where the last one ended in trouble.
    pub fn begin(&mut self) {
        self.window = self.window.min(FIRST_WINDOW).min(self.most);
        self.starting = true;
        self.round = Round::default();
        self.rest_until = None;
        self.counted = None;
    }

    /// The session fell silent or broke with commands in flight.
    pub fn broke(&mut self) {
        self.window = (self.window / 2.0).max(1.0);
    }

    /// A command was answered after this long; so many were in flight with it. Not for commands that a
    /// print held up.
    pub fn answered(&mut self, took: Duration, in_flight: usize, now: Instant) {
        self.note_round_trip(took, now);
        if self.share < 1.0 {
            // One at a time, with a rest after each.
            self.rest_until = Some(now + took.mul_f64(1.0 / self.share - 1.0));
            return;
        }
        let round = &mut self.round;
        round.answers += 1;
        round.shortest = Some(round.shortest.map_or(took, |shortest| shortest.min(took)));
        round.was_full |= in_flight + 1 >= self.window as usize;
        if round.answers >= self.window as usize {
            self.end_round();
        }
    }

    /// A command was refused for a reason that is not about its entry: half as many, once a round trip.
    pub fn refused(&mut self, now: Instant) {
        let apart = self.round_trip.unwrap_or(Duration::from_millis(100));
        if self.halved.is_none_or(|halved| now.saturating_duration_since(halved) > apart) {
            self.halved = Some(now);
            self.starting = false;
            self.window = (self.window / 2.0).max(1.0);
        }
    }

    /// The router told its load, in per cent.
    pub fn loaded(&mut self, load: u8) {
        if load <= self.max_cpu {
            self.share = (self.share * 2.0).min(1.0);
            return;
        }
        self.starting = false;
        if self.window > 1.0 {
            self.window = (self.window / 2.0).max(1.0);
        } else {
            self.share = (self.share / 2.0).max(SMALLEST_SHARE);
        }
    }

    /// Whether one more command may go out beside so many in flight.
    pub fn admits(&mut self, in_flight: usize, now: Instant) -> bool {
        if in_flight >= self.window() || self.rest_until.is_some_and(|until| until > now) {
            return false;
        }
        let Some(rate) = self.rate else { return true };
        if let Some(counted) = self.counted {
            let gained = now.saturating_duration_since(counted).as_secs_f64() * rate;
            // A tenth of a second's worth may go at once.
            self.tokens = (self.tokens + gained).min((rate / 10.0).max(1.0));
        }
        self.counted = Some(now);
        self.tokens >= 1.0
    }

    /// A command went out.
    pub fn sent(&mut self) {
        if self.rate.is_some() {
            self.tokens -= 1.0;
        }
    }

    /// When a command may go out that [`Self::admits`] put off although the window was open.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let by_rate = self.rate.filter(|_| self.tokens < 1.0).map(|rate| {
            let counted = self.counted.unwrap_or(now);
            // Rounded up, so that there is a whole one then.
            counted + Duration::from_secs_f64((1.0 - self.tokens) / rate) + Duration::from_micros(10)
        });
        [by_rate, self.rest_until.filter(|until| *until > now)].into_iter().flatten().max()
    }

    /// The most commands in flight now; at least 1.
    pub fn window(&self) -> usize {
        self.window as usize
    }

    /// The last round trips, smoothed; work that waited at the router included.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    fn end_round(&mut self) {
        let Round { shortest, was_full, settles, .. } = std::mem::take(&mut self.round);
        if settles {
            return;
        }
        let (Some(took), Some(away)) = (shortest, self.shortest()) else { return };
        self.starting &= took.saturating_sub(away) < TARGET / 2;
        let fitting = (away + TARGET).as_secs_f64() / took.as_secs_f64().max(1e-9);
        let factor = if self.starting { 2.0 } else { fitting.clamp(0.5, 2.0) };
        if factor < 1.0 || was_full {
            self.window = (self.window * factor).clamp(1.0, self.most);
            self.round.settles = !self.starting;
        }
    }

    fn shortest(&self) -> Option<Duration> {
        self.shortest.iter().flatten().min().copied()
    }

    fn note_round_trip(&mut self, took: Duration, now: Instant) {
        let began = *self.minute_began.get_or_insert(now);
        if now.saturating_duration_since(began) >= Duration::from_mins(1) {
            self.minute_began = Some(now);
            self.shortest.rotate_right(1);
            self.shortest[0] = None;
        }
        let shortest = self.shortest[0].get_or_insert(took);
        *shortest = took.min(*shortest);
        self.round_trip = Some(self.round_trip.map_or(took, |before| (before * 7 + took) / 8));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rstest::rstest;

    use super::*;

    const MOST: usize = 128;

    /// A router that needs so long for each command, so far away; sends as fast as the pace admits, and
    /// returns how long it took and the most work that waited at the router.
    fn send(
        pace: &mut Pace,
        start: Instant,
        commands: usize,
        cost: Duration,
        away: Duration,
    ) -> (Duration, Duration) {
        let (mut now, mut free, mut most) = (start, start, Duration::ZERO);
        let mut flying: VecDeque<(Instant, Instant)> = VecDeque::new();
        let mut left = commands;
        while left > 0 || !flying.is_empty() {
            while left > 0 && pace.admits(flying.len(), now) {
                free = free.max(now + away / 2) + cost;
                // The first round trips only find out how far the router is.
                if left < commands / 2 {
                    most = most.max(free - (now + away / 2));
                }
                pace.sent();
                flying.push_back((now, free + away / 2));
                left -= 1;
            }
            let next = pace.next(now).filter(|_| left > 0);
            match flying.front().copied() {
                Some((sent, back)) if next.is_none_or(|next| back <= next) => {
                    flying.pop_front();
                    now = now.max(back);
                    pace.answered(back - sent, flying.len(), now);
                }
                _ => now = next.unwrap_or(now),
            }
        }
        (now - start, most)
    }

    #[rstest]
    #[case::on_the_lan(Duration::from_micros(1200), Duration::from_micros(400))]
    #[case::over_a_wan(Duration::from_micros(1200), Duration::from_millis(33))]
    #[case::far_away(Duration::from_micros(2400), Duration::from_millis(150))]
    fn a_router_is_kept_busy_and_little_waits_there(#[case] cost: Duration, #[case] away: Duration) {
        let mut pace = Pace::new(MOST, None, 85);
        let (took, waiting) = send(&mut pace, Instant::now(), 10_000, cost, away);
        let own = cost * 10_000;
        assert!(took < own.mul_f64(1.05), "{took:?}, although the router needs {own:?}");
        assert!(waiting <= TARGET * 2, "{waiting:?} of work waited");
    }

    #[test]
    fn a_router_that_costs_nothing_gets_the_whole_window() {
        let mut pace = Pace::new(MOST, None, 85);
        send(&mut pace, Instant::now(), 5000, Duration::from_nanos(100), Duration::from_micros(100));
        assert_eq!(pace.window(), MOST);
    }

    #[test]
    fn a_rate_holds() {
        let mut pace = Pace::new(MOST, Some(100), 85);
        let (took, _) = send(&mut pace, Instant::now(), 1000, Duration::ZERO, Duration::from_millis(1));
        assert!((took.as_secs_f64() - 10.0).abs() < 0.2, "{took:?}");
    }

    #[test]
    fn a_busy_processor_gets_less_and_less_and_all_of_it_back() {
        let (cost, away) = (Duration::from_millis(1), Duration::from_millis(1));
        let start = Instant::now();
        let mut pace = Pace::new(MOST, None, 80);
        for _ in 0..20 {
            pace.loaded(95);
        }
        assert_eq!(pace.window(), 1);
        let (slow, _) = send(&mut pace, start, 100, cost, away);
        assert!(slow > Duration::from_secs(2), "{slow:?}");
        for _ in 0..20 {
            pace.loaded(30);
        }
        let (fast, _) = send(&mut pace, start + slow, 1000, cost, away);
        assert!(fast < Duration::from_millis(1200), "{fast:?}");
    }

    #[test]
    fn refusals_halve_the_window_once_a_round_trip_and_never_close_it() {
        let mut pace = Pace::new(MOST, None, 85);
        let now = Instant::now();
        pace.answered(Duration::from_millis(10), 0, now);
        let before = pace.window();
        for _ in 0..50 {
            pace.refused(now);
        }
        assert_eq!(pace.window(), before / 2);
        for second in 1..50 {
            pace.refused(now + Duration::from_secs(second));
            pace.broke();
        }
        assert!(pace.admits(0, now + Duration::from_mins(2)));
    }
}
