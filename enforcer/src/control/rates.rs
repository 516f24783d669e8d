//! How much happens, second by second: totals sampled once a second, so that what counts stays a plain
//! counter and nothing here is on a ban's path. What is kept is 15 minutes of it, some tens of
//! kilobytes, and for each router its latest latencies.

use std::collections::{BTreeMap, VecDeque};

use atalaya_wire::Name;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bans;
use crate::router::RouterStatus;

/// How much is kept, in seconds.
const KEPT: usize = 15 * 60;
/// How much is shown second by second, in seconds.
const SHOWN: usize = 60;
/// How many latencies of a router are kept.
const LATENCIES: usize = 60;

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Offences taken from sensors.
    pub offences: u64,
    /// Bans that began since the start.
    pub bans: u64,
    /// Bans that ended in time.
    pub lapses: u64,
    /// Commands that routers answered.
    pub commands: u64,
    /// Offenders that fleet jails forgot because there were too many.
    pub fleet_dropped: u64,
}

/// What happened in each of the last seconds.
#[derive(Debug, Default)]
pub struct Rates {
    totals: Totals,
    /// The second of the last sample, counted from any fixed moment.
    sampled: Option<u64>,
    seconds: VecDeque<Totals>,
    routers: BTreeMap<Name, Track>,
}

/// A router over time.
#[derive(Clone, Debug, Default)]
struct Track {
    commands: u64,
    latencies: VecDeque<u64>,
    down_since: Option<Timestamp>,
}

/// The rates at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatesAnswer {
    /// Offences from sensors, a second.
    pub offences: Rate,
    /// Bans that began, a second.
    pub bans: Rate,
    /// Bans that ended in time.
    pub lapses: Rate,
    /// Commands that routers answered.
    pub commands: Rate,
    /// Offenders that fleet jails forgot because there were too many.
    pub fleet_dropped: Rate,
}

/// How often something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// In each of the last 60 seconds, the oldest first; fewer after a start.
    pub by_second: Vec<u64>,
    /// In the last minute.
    pub last_minute: u64,
    /// In the last 15 minutes.
    pub last_15_minutes: u64,
}

// === impl Totals ===

impl Totals {
    /// The sums of what the parts have counted.
    pub fn of(decisions: &bans::DecisionCounts, routers: &[RouterStatus], fleet_dropped: u64) -> Self {
        Self {
            offences: decisions.offences(),
            bans: decisions.banned + decisions.by_hand + decisions.adopted,
            lapses: decisions.expired,
            commands: routers.iter().map(answered).sum(),
            fleet_dropped,
        }
    }

    /// What came since, spread over that many seconds; what cannot be split is the latest one's.
    fn since(self, before: Self, seconds: u64, latest: bool) -> Self {
        let share = |now: u64, before: u64| {
            let all = now.saturating_sub(before);
            all / seconds + if latest { all % seconds } else { 0 }
        };
        Self {
            offences: share(self.offences, before.offences),
            bans: share(self.bans, before.bans),
            lapses: share(self.lapses, before.lapses),
            commands: share(self.commands, before.commands),
            fleet_dropped: share(self.fleet_dropped, before.fleet_dropped),
        }
    }
}

// === impl Rates ===

impl Rates {
    /// Takes a sample, at a second counted from any fixed moment; to be called about once a second.
    /// What came while no sample was taken is spread over that time.
    pub fn sample(&mut self, second: u64, totals: Totals, routers: &[RouterStatus]) {
        self.routers.retain(|name, _| routers.iter().any(|router| router.name == *name));
        for router in routers {
            self.routers.entry(router.name.clone()).or_default().sample(router);
        }
        let passed = self.sampled.map_or(1, |sampled| second.saturating_sub(sampled));
        if passed == 0 {
            return;
        }
        for left in (0..passed.min(KEPT as u64)).rev() {
            self.seconds.push_back(totals.since(self.totals, passed, left == 0));
        }
        self.seconds.drain(..self.seconds.len().saturating_sub(KEPT));
        (self.totals, self.sampled) = (totals, Some(second));
    }

    /// The rates over the last minute and the last quarter of an hour.
    pub fn answer(&self) -> RatesAnswer {
        RatesAnswer {
            offences: self.rate(|second| second.offences),
            bans: self.rate(|second| second.bans),
            lapses: self.rate(|second| second.lapses),
            commands: self.rate(|second| second.commands),
            fleet_dropped: self.rate(|second| second.fleet_dropped),
        }
    }

    /// The latest latencies of a router, the oldest first, in microseconds: of the last
    /// command of each of the last 60 seconds in which there was one.
    pub fn latencies(&self, router: &Name) -> Vec<u64> {
        self.routers.get(router).map(|track| track.latencies.iter().copied().collect()).unwrap_or_default()
    }

    /// Since when a router is not logged in to; `None` for one that is.
    pub fn down_since(&self, status: &RouterStatus) -> Option<Timestamp> {
        let before = self.routers.get(&status.name).and_then(|track| track.down_since);
        if status.is_up() { None } else { Some(before.unwrap_or(status.since)) }
    }

    fn rate(&self, of: impl Fn(&Totals) -> u64) -> Rate {
        let latest = |most| self.seconds.iter().skip(self.seconds.len().saturating_sub(most)).map(&of);
        Rate {
            by_second: latest(SHOWN).collect(),
            last_minute: latest(SHOWN).sum(),
            last_15_minutes: latest(KEPT).sum(),
        }
    }
}

// === impl Track ===

impl Track {
    fn sample(&mut self, router: &RouterStatus) {
        self.down_since = if router.is_up() { None } else { Some(self.down_since.unwrap_or(router.since)) };
        let commands = answered(router);
        if let (true, Some(latency)) = (commands != self.commands, router.latency_us) {
            self.latencies.push_back(latency);
            self.latencies.drain(..self.latencies.len().saturating_sub(LATENCIES));
        }
        self.commands = commands;
    }
}

/// How many commands of a router's were answered.
fn answered(router: &RouterStatus) -> u64 {
    let counts = &router.counts;
    counts.adds + counts.sets + counts.removes + counts.duplicates + counts.traps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::State;

    fn totals(bans: u64) -> Totals {
        Totals { bans, ..Totals::default() }
    }

    fn router(state: State, adds: u64, latency: u64, since: i64) -> RouterStatus {
        let at = Timestamp::from_second(since).unwrap();
        let mut router = RouterStatus::new("edge".parse().unwrap(), "192.0.2.1".to_owned(), at);
        router.state = state;
        router.counts.adds = adds;
        router.latency_us = Some(latency);
        router
    }

    #[test]
    fn what_came_between_two_samples_is_counted_once_however_late_the_second_is() {
        for gaps in [vec![1; 70], vec![1, 3, 1, 10], vec![2000, 1], vec![1, 0, 0, 1]] {
            let mut rates = Rates::default();
            let (mut second, mut all) = (0, 0);
            for gap in gaps {
                second += gap;
                all += 7;
                rates.sample(second, totals(all), &[]);
            }
            let bans = rates.answer().bans;
            assert!(bans.by_second.len() <= SHOWN && rates.seconds.len() <= KEPT);
            assert_eq!(bans.last_minute, bans.by_second.iter().sum::<u64>());
            if second < KEPT as u64 {
                assert_eq!(bans.last_15_minutes, rates.totals.bans, "{second}");
            }
        }
    }

    #[test]
    fn a_second_leaves_the_minute_after_a_minute_and_all_after_fifteen() {
        let mut rates = Rates::default();
        rates.sample(0, totals(5), &[]);
        for second in 1..=60 {
            rates.sample(second, totals(5), &[]);
        }
        assert_eq!((rates.answer().bans.last_minute, rates.answer().bans.last_15_minutes), (0, 5));
        for second in 61..=900 {
            rates.sample(second, totals(5), &[]);
        }
        assert_eq!(rates.answer().bans.last_15_minutes, 0);
    }

    #[test]
    fn a_latency_is_kept_for_each_second_with_a_command_and_no_more_than_sixty() {
        let mut rates = Rates::default();
        for second in 0..200 {
            // A command every other second.
            rates.sample(second, totals(0), &[router(State::Connected, second / 2 + 1, second, 0)]);
        }
        let latencies = rates.latencies(&"edge".parse().unwrap());
        assert_eq!((latencies.len(), latencies[0], latencies[59]), (60, 80, 198));
    }

    #[test]
    fn a_router_is_down_since_it_went_down_through_all_attempts_to_reach_it() {
        let mut rates = Rates::default();
        let waiting = State::Waiting { retry_ms: 100 };
        for (second, state) in [(10, State::Connected), (20, waiting), (30, State::Connecting), (40, waiting)]
        {
            rates.sample(second, totals(0), &[router(state, 0, 0, second.cast_signed())]);
        }
        let since = |status: &RouterStatus| rates.down_since(status).map(Timestamp::as_second);
        assert_eq!(since(&router(waiting, 0, 0, 45)), Some(20));
        assert_eq!(since(&router(State::Reading, 0, 0, 45)), None);
    }
}
