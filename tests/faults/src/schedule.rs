//! What happens in one run, and when: made from a seed alone, so that a run that failed can be asked for again. It
//! starts nothing and looks at no clock; [`crate::stage`] carries it out.
//!
//! Each thing that can break ([`Part`]) breaks once at a time, and is whole again a few seconds after the last event at
//! the latest. Different parts break together.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// In how much time from the start events happen.
pub const EVENTFUL: Duration = Duration::from_secs(11);
/// The longest that a fault lasts.
const LONGEST_FAULT: Duration = Duration::from_secs(4);
/// How many attackers there are; attacker `n` has one address, IPv4's or IPv6's.
pub const ATTACKERS: u16 = 480;
/// Who is unbanned, allowed and banned by hand: the first of the attackers, who attack more often than others.
const FAMOUS: u16 = 24;

/// A run to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// What it was made from.
    pub seed: u64,
    /// Who takes part.
    pub cast: Cast,
    /// What happens, by time.
    pub events: Vec<Timed>,
}

/// Who takes part in a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Cast {
    /// How many sensors read logs.
    pub sensors: usize,
    /// How far the clocks of the clients that post by themselves are off, in seconds.
    pub clients: Vec<i64>,
    /// The routers.
    pub routers: Vec<RouterRole>,
    /// The bantimes of the sensors' two jails, in seconds.
    pub bantimes: [u32; 2],
    /// Whether the enforcer's and the sensors' state lies on small disks of their own.
    pub small_disks: bool,
}

/// What a router is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterRole {
    /// How long each change occupies it, in microseconds.
    pub insert_us: u64,
    /// How long a print occupies it for each entry, in microseconds.
    pub scan_us: u64,
    /// How far away it is, in milliseconds.
    pub round_trip_ms: u64,
    /// How many entries of strangers it holds at the start.
    pub strangers: u32,
}

/// An event and when it happens, from the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// From the start.
    pub at: Duration,
    /// What happens.
    pub event: Event,
}

/// What can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The enforcer's process.
    Enforcer,
    /// A sensor's process.
    Sensor(usize),
    /// A router as a whole.
    Router(usize),
    /// The way from a sensor or, after the sensors, a client to the enforcer.
    Uplink(usize),
    /// The way from the enforcer to a router.
    Downlink(usize),
    /// The enforcer's disk.
    EnforcerDisk,
    /// A sensor's disk.
    SensorDisk(usize),
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Failures of one attacker that make an offence, written to a sensor's log in one go.
    Attack {
        /// On whose host.
        sensor: usize,
        /// Who.
        attacker: u16,
        /// Which of the two jails.
        jail: usize,
    },
    /// A client posts one batch, again and again until it is acked.
    Post {
        /// Which client.
        client: usize,
        /// The offenders.
        attackers: Vec<u16>,
        /// For how long to ban them, in seconds.
        bantime: u32,
    },
    /// A sensor's log is rotated.
    Rotate(usize, Rotation),
    /// A ban by hand, for so many seconds.
    Ban(u16, u32),
    /// An unban by hand.
    Unban(u16),
    /// An address is allowed for so many seconds.
    Allow(u16, u32),
    /// It is taken off the allow list.
    Disallow(u16),
    /// The clock of a sensor's host is set: it is then off by so many seconds.
    SetClock(usize, i64),
    /// The clock of the enforcer's host is set: it is then off by so many seconds.
    SetEnforcerClock(i64),
    /// A part breaks for a while.
    Break(Part, Breakage, Duration),
    /// A router's answer goes wrong at one of its next commands.
    Falter {
        /// Which router.
        router: usize,
        /// How.
        how: Falter,
        /// How many commands on address lists pass before.
        after: usize,
    },
}

/// How a log is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// logrotate's `create`: renamed, and made anew at once.
    Create,
    /// Renamed; the new one appears with the next line.
    Later,
    /// logrotate's `copytruncate`.
    CopyTruncate,
    /// As `Create`, and the older archive is removed: only one is kept.
    KeepOne,
}

/// How a part breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakage {
    /// A process: `kill -9`, and a start when the time is over. A router: power is gone.
    Kill,
    /// A process: SIGTERM, and a start when the time is over.
    Restart,
    /// A process does nothing, and then goes on.
    Stop,
    /// A way: connections are cut, and none is made.
    Cut,
    /// A way: bytes wait, and arrive when the time is over.
    Stall,
    /// A way: bytes are swallowed, and connections break when the time is over.
    Swallow,
    /// A disk is full.
    Full,
}

/// How an answer of a router's goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Falter {
    /// Carried out, the answer lost, the connection closed.
    DropReply,
    /// Carried out, half of the answer sent, the connection closed.
    CloseMidReply,
    /// A change is carried out, there is no answer, and the session lives on. (A print may take minutes before its first
    /// row, so that no answer to it says nothing for as long.)
    SwallowAfter,
    /// A change is not carried out, there is no answer, and the session lives on.
    SwallowBefore,
    /// Refused with a trap, not carried out.
    Trap,
}

// === impl Schedule ===

impl Schedule {
    /// The run of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let cast = Cast::any(&mut rng);
        let mut script = Script { rng, cast, events: Vec::new(), broken_until: BTreeMap::new() };
        // What a run is full of differs from run to run, so that each kind of trouble is met alone and in company.
        let kinds: Vec<u32> = (0..KINDS).map(|_| [0, 1, 2, 6][script.rng.usize(..4)]).collect();
        let pace = script.rng.u64(60..260);
        let mut at = Duration::from_millis(script.rng.u64(..200));
        while at < EVENTFUL {
            script.attack(at);
            if script.rng.u8(..3) == 0 {
                script.trouble(at, &kinds);
            }
            at += Duration::from_millis(script.rng.u64(pace / 2..pace * 3 / 2));
        }
        let Script { cast, events, .. } = script;
        Self { seed, cast, events }
    }
}

// === impl Timed ===

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.2} s  {:?}", self.at.as_secs_f64(), self.event)
    }
}

// === impl Cast ===

impl Cast {
    fn any(rng: &mut Rng) -> Self {
        let router = |rng: &mut Rng| RouterRole {
            insert_us: [0, 1_200, 1_200, 6_800][rng.usize(..4)],
            scan_us: [0, 50, 80, 670][rng.usize(..4)],
            round_trip_ms: [0, 0, 5, 33][rng.usize(..4)],
            strangers: [0, 5, 50, 400][rng.usize(..4)],
        };
        Self {
            sensors: rng.usize(2..=3),
            clients: (0..rng.usize(1..=2)).map(|_| [0, 0, 3600, -7200][rng.usize(..4)]).collect(),
            routers: (0..2).map(|_| router(rng)).collect(),
            bantimes: [rng.u32(5..10), rng.u32(30..60)],
            small_disks: rng.bool(),
        }
    }
}

/// How many kinds of trouble [`Script::trouble`] knows.
const KINDS: usize = 10;

/// A schedule in the making.
struct Script {
    rng: Rng,
    cast: Cast,
    events: Vec<Timed>,
    /// When each part that was broken is whole again.
    broken_until: BTreeMap<Part, Duration>,
}

// === impl Script ===

impl Script {
    fn attack(&mut self, at: Duration) {
        let event = if self.rng.u8(..4) == 0 {
            let client = self.rng.usize(..self.cast.clients.len());
            let many = [1, 1, 3, 20][self.rng.usize(..4)];
            let attackers = (0..many).map(|_| self.attacker()).collect();
            let bantime = [self.rng.u32(4..12), self.rng.u32(30..90)][self.rng.usize(..2)];
            Event::Post { client, attackers, bantime }
        } else {
            let sensor = self.rng.usize(..self.cast.sensors);
            Event::Attack { sensor, attacker: self.attacker(), jail: self.rng.usize(..2) }
        };
        self.events.push(Timed { at, event });
    }

    fn trouble(&mut self, at: Duration, kinds: &[u32]) {
        let Some(kind) = weighted(&mut self.rng, kinds) else { return };
        let famous = self.rng.u16(..FAMOUS);
        let lasting = Duration::from_millis(self.rng.u64(50..LONGEST_FAULT.as_millis() as u64));
        let router = self.rng.usize(..self.cast.routers.len());
        let sensor = self.rng.usize(..self.cast.sensors);
        let event = match kind {
            0 => {
                let rotations =
                    [Rotation::Create, Rotation::Later, Rotation::CopyTruncate, Rotation::KeepOne];
                Event::Rotate(sensor, rotations[self.rng.usize(..rotations.len())])
            }
            1 => match self.rng.u8(..6) {
                0 | 1 => Event::Unban(famous),
                2 => Event::Ban(famous, self.rng.u32(4..60)),
                3 | 4 => Event::Allow(famous, [3, 600][self.rng.usize(..2)]),
                _ => Event::Disallow(famous),
            },
            2 => self.breakage(Part::Enforcer, &[Breakage::Kill, Breakage::Restart, Breakage::Stop], lasting),
            3 => self.breakage(
                Part::Sensor(sensor),
                &[Breakage::Kill, Breakage::Restart, Breakage::Stop],
                lasting,
            ),
            4 => self.breakage(Part::Router(router), &[Breakage::Kill], lasting),
            5 => {
                let ways = self.cast.sensors + self.cast.clients.len();
                let way = self.rng.usize(..ways + 2 * self.cast.routers.len());
                let part = if way < ways { Part::Uplink(way) } else { Part::Downlink(router) };
                self.breakage(part, &[Breakage::Cut, Breakage::Stall, Breakage::Swallow], lasting)
            }
            6 => {
                let falters = [
                    Falter::DropReply,
                    Falter::CloseMidReply,
                    Falter::SwallowAfter,
                    Falter::SwallowBefore,
                    Falter::Trap,
                ];
                let how = falters[self.rng.usize(..falters.len())];
                Event::Falter { router, how, after: self.rng.usize(..4) }
            }
            // Up to half a minute is taken for the way of a message, not for a clock.
            7 => Event::SetClock(sensor, [0, 120, 3600, -3600, -7200][self.rng.usize(..5)]),
            8 => Event::SetEnforcerClock([0, 0, 7, -7, 120, -120, 3600, -3600][self.rng.usize(..8)]),
            _ if !self.cast.small_disks => return,
            _ if self.rng.bool() => self.breakage(Part::EnforcerDisk, &[Breakage::Full], lasting),
            _ => self.breakage(Part::SensorDisk(sensor), &[Breakage::Full], lasting),
        };
        if let Event::Break(part, _, lasting) = event {
            let until = self.broken_until.entry(part).or_default();
            if *until > at {
                return;
            }
            *until = at + lasting;
        }
        self.events.push(Timed { at, event });
    }

    fn breakage(&mut self, part: Part, how: &[Breakage], lasting: Duration) -> Event {
        Event::Break(part, how[self.rng.usize(..how.len())], lasting)
    }

    fn attacker(&mut self) -> u16 {
        if self.rng.u8(..3) == 0 { self.rng.u16(..FAMOUS) } else { self.rng.u16(..ATTACKERS) }
    }
}

/// The place of a weight, as likely as it is heavy; `None` where none weighs anything.
fn weighted(rng: &mut Rng, weights: &[u32]) -> Option<usize> {
    let total = weights.iter().sum::<u32>();
    let mut left = rng.u32(..total.max(1));
    weights.iter().position(|weight| {
        let here = left < *weight;
        left = left.saturating_sub(*weight);
        here
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_seed_is_one_schedule_whose_parts_break_one_after_another_and_heal(seed in any::<u64>()) {
            let schedule = Schedule::of(seed);
            prop_assert_eq!(&schedule, &Schedule::of(seed));
            prop_assert!(schedule.events.is_sorted_by_key(|event| event.at));
            prop_assert!(schedule.events.iter().all(|timed| over(timed) <= EVENTFUL + LONGEST_FAULT));
            let mut broken: BTreeMap<Part, Duration> = BTreeMap::new();
            for timed in &schedule.events {
                prop_assert!(timed.at < EVENTFUL);
                match &timed.event {
                    Event::Break(part, how, lasting) => {
                        prop_assert!(!lasting.is_zero());
                        prop_assert!(broken.insert(*part, over(timed)).is_none_or(|until| until <= timed.at));
                        prop_assert!(fits(*part, *how), "{:?} {:?}", part, how);
                        let there = match *part {
                            Part::Sensor(place) | Part::SensorDisk(place) => place < schedule.cast.sensors,
                            Part::Uplink(place) => place < schedule.cast.sensors + schedule.cast.clients.len(),
                            Part::Router(place) | Part::Downlink(place) => place < schedule.cast.routers.len(),
                            Part::Enforcer | Part::EnforcerDisk => true,
                        };
                        prop_assert!(there);
                    }
                    Event::Attack { sensor, attacker, jail } => {
                        prop_assert!(*sensor < schedule.cast.sensors && *attacker < ATTACKERS && *jail < 2);
                    }
                    Event::Post { client, attackers, .. } => {
                        prop_assert!(*client < schedule.cast.clients.len() && !attackers.is_empty());
                    }
                    Event::Falter { router, .. } => prop_assert!(*router < schedule.cast.routers.len()),
                    Event::Rotate(sensor, _) | Event::SetClock(sensor, _) => prop_assert!(*sensor < schedule.cast.sensors),
                    Event::SetEnforcerClock(off) => prop_assert!(off.abs() <= 3600),
                    Event::Ban(..) | Event::Unban(_) | Event::Allow(..) | Event::Disallow(_) => {}
                }
            }
        }
    }

    /// When what an event breaks is whole again.
    fn over(timed: &Timed) -> Duration {
        match timed.event {
            Event::Break(_, _, lasting) => timed.at + lasting,
            _ => timed.at,
        }
    }

    fn fits(part: Part, how: Breakage) -> bool {
        match part {
            Part::Enforcer | Part::Sensor(_) => {
                matches!(how, Breakage::Kill | Breakage::Restart | Breakage::Stop)
            }
            Part::Router(_) => how == Breakage::Kill,
            Part::Uplink(_) | Part::Downlink(_) => {
                matches!(how, Breakage::Cut | Breakage::Stall | Breakage::Swallow)
            }
            Part::EnforcerDisk | Part::SensorDisk(_) => how == Breakage::Full,
        }
    }

    #[test]
    fn a_hundred_seeds_hold_each_kind_of_event_and_are_not_all_alike() {
        let mut kinds = BTreeSet::new();
        for seed in 0..100 {
            for Timed { event, .. } in Schedule::of(seed).events {
                let text = format!("{event:?}");
                kinds.insert(text.split(['(', ' ']).next().unwrap_or_default().to_owned());
                if let Event::Break(_, how, _) = event {
                    kinds.insert(format!("{how:?}"));
                }
                if let Event::Falter { how, .. } = event {
                    kinds.insert(format!("{how:?}"));
                }
            }
        }
        for kind in [
            "Attack",
            "SetClock",
            "Post",
            "Rotate",
            "Ban",
            "Unban",
            "Allow",
            "Disallow",
            "Break",
            "Falter",
            "Kill",
            "Restart",
            "Stop",
            "Cut",
            "Stall",
            "Swallow",
            "Full",
            "DropReply",
            "CloseMidReply",
            "SwallowAfter",
            "SwallowBefore",
            "Trap",
        ] {
            assert!(kinds.contains(kind), "no {kind} among {kinds:?}");
        }
    }
}
