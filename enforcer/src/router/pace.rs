//! How fast commands go to a router: a window that follows its answers, a rate that follows its
//! processor's load, and the configured rate. A plain function of answers and time, without I/O.
//!
//! As with LEDBAT (RFC 6817), delay is what is steered by: the window is such that about [`TARGET`] of work
//! waits at the router, whatever its distance, so that it is always busy and a new ban waits no longer
//! than that. Each round, a window's worth of answers, sets it in proportion. A refusal halves it. A window
//! cannot hold the load down, for a busy router fed one command after the other is as busy: there the rate
//! is what is lowered.

use std::time::Duration;

use tokio::time::Instant;

/// How much work may wait at the router. A new ban goes behind it.
pub const TARGET: Duration = Duration::from_millis(15);

/// The window that a session starts with, in commands.
const FIRST_WINDOW: f64 = 16.0;

/// Over how many minutes the shortest round trip is remembered: paths change.
const MINUTES: usize = 10;

/// The fewest commands a second that a busy router is given: a ban of this moment must not wait for long.
const SLOWEST: f64 = 5.0;

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
    /// The most commands a second that the router's load allows; `None` while it is not too busy.
    ceiling: Option<f64>,
    /// When the load was told last, and how many commands were answered since.
    weighed: Option<Instant>,
    answers: u32,
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
            ceiling: None,
            weighed: None,
            answers: 0,
            tokens: 1.0,
            counted: None,
        }
    }

    /// A new session: carefully anew, and more so where the last one ended in trouble.
    pub fn begin(&mut self) {
        self.window = self.window.min(FIRST_WINDOW).min(self.most);
        self.starting = true;
        self.round = Round::default();
        self.weighed = None;
        self.counted = None;
    }

    /// The session fell silent or broke with commands in flight.
    pub fn broke(&mut self) {
        self.window = (self.window / 2.0).max(1.0);
    }

    /// A command was answered, however long that took.
    pub fn done(&mut self) {
        self.answers += 1;
    }

    /// A command was answered after this long; so many were in flight with it. Not for commands that a
    /// print held up.
    pub fn answered(&mut self, took: Duration, in_flight: usize, now: Instant) {
        self.note_round_trip(took, now);
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
    pub fn loaded(&mut self, load: u8, now: Instant) {
        let answers = std::mem::take(&mut self.answers);
        let Some(since) = self.weighed.replace(now) else { return };
        let apart = now.saturating_duration_since(since).as_secs_f64().max(0.001);
        let (rate, load, most) = (f64::from(answers) / apart, f64::from(load), f64::from(self.max_cpu));
        match self.ceiling {
            // More than in proportion: a reading of 100 may hide a load of more.
            _ if load > most && answers > 0 => {
                self.ceiling = Some((rate * (most / load).powi(2)).max(SLOWEST));
            }
            // What was not reached holds nothing back.
            Some(ceiling) if load <= most && rate < ceiling / 2.0 => self.ceiling = None,
            Some(ceiling) if load < most * 0.9 => self.ceiling = Some(ceiling * 1.1),
            _ => {}
        }
    }

    /// Whether one more command may go out beside so many in flight.
    pub fn admits(&mut self, in_flight: usize, now: Instant) -> bool {
        if in_flight >= self.window() {
            return false;
        }
        let Some(rate) = self.most_a_second() else { return true };
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
        if self.most_a_second().is_some() {
            self.tokens -= 1.0;
        }
    }

    /// When a command may go out that [`Self::admits`] put off although the window was open.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        self.most_a_second().filter(|_| self.tokens < 1.0).map(|rate| {
            let counted = self.counted.unwrap_or(now);
            // Rounded up, so that there is a whole one then.
            counted + Duration::from_secs_f64((1.0 - self.tokens) / rate) + Duration::from_micros(10)
        })
    }

    /// The most commands a second, by configuration or because the router is busy; `None` without limit.
    pub fn most_a_second(&self) -> Option<f64> {
        [self.rate, self.ceiling].into_iter().flatten().reduce(f64::min)
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

    #[rstest]
    #[case::near(Duration::from_millis(1))]
    #[case::far(Duration::from_millis(60))]
    fn a_busy_processor_comes_to_rest_below_its_limit_and_stays_in_use(#[case] away: Duration) {
        // It is busy with nothing else, so that its load is the share of the time that our commands take.
        let (cost, every) = (Duration::from_millis(2), Duration::from_secs(5));
        let mut pace = Pace::new(MOST, None, 80);
        let start = Instant::now();
        let (mut now, mut free, mut told, mut busy) = (start, start, start, Duration::ZERO);
        let mut flying: VecDeque<(Instant, Instant)> = VecDeque::new();
        let mut loads = Vec::new();
        while now < start + Duration::from_mins(5) {
            while pace.admits(flying.len(), now) {
                pace.sent();
                free = free.max(now + away / 2) + cost;
                busy += cost;
                flying.push_back((now, free + away / 2));
            }
            let next = pace.next(now).unwrap_or(now + every).min(told + every);
            match flying.front().copied() {
                Some((sent, back)) if back <= next => {
                    flying.pop_front();
                    now = now.max(back);
                    pace.done();
                    pace.answered(back - sent, flying.len(), now);
                }
                _ => now = next,
            }
            if now >= told + every {
                let load = busy.as_secs_f64() / (now - told).as_secs_f64() * 100.0;
                loads.push(load.min(100.0));
                pace.loaded(load.min(100.0) as u8, now);
                (told, busy) = (now, Duration::ZERO);
            }
        }
        let settled = &loads[loads.len() / 2..];
        assert!(loads[0] > 90.0, "it was never busy: {loads:?}");
        assert!(settled.iter().all(|load| (50.0..=85.0).contains(load)), "{loads:?}");
    }

    #[test]
    fn a_processor_that_is_busy_with_other_things_still_gets_new_bans_and_then_everything() {
        let mut pace = Pace::new(MOST, None, 80);
        let mut now = Instant::now();
        let mut tell = |pace: &mut Pace, load| {
            (0..20).for_each(|_| pace.done());
            now += Duration::from_secs(5);
            pace.loaded(load, now);
        };
        (0..50).for_each(|_| tell(&mut pace, 100));
        assert_eq!(pace.most_a_second(), Some(SLOWEST));
        (0..50).for_each(|_| tell(&mut pace, 10));
        assert_eq!(pace.most_a_second(), None);
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
