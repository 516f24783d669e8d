//! Generated histories of the stream of bans: the enforcer's side and the sensor's side as they are, with nothing
//! between them but bytes that come late, in pieces, or not at all.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use atalaya_enforcer::desired::{Desired, Label, Wanted};
use atalaya_enforcer::intake::followers::{Follower, Names};
use atalaya_sensor::uplink::fleet_bans::{BanChange, Ends, Reading};
use atalaya_wire::{BanLine, Position};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use tokio::time::Instant;

/// How many changes and bans go at once: few, so that snapshots have many pieces.
const PIECE: usize = 3;

#[derive(Clone, Debug)]
enum Event {
    /// A ban begins or changes: for so many seconds, or for ever.
    Ban(usize, Option<u16>),
    Lift(usize),
    /// Time passes, in milliseconds, and what is over lapses.
    Pass(u16),
    /// The enforcer tells one piece.
    Tell,
    /// So many bytes arrive.
    Arrive(u16),
    /// The connection breaks, and what was under way is lost.
    Cut,
    /// More changes than are remembered happen while nobody hears of them, of these bans among others.
    Lag(usize),
    /// The enforcer starts anew on its ledger.
    EnforcerRestarts,
    /// The enforcer's ledger is another one.
    LedgerChanges,
    /// The sensor starts anew, with nothing or with the bans that it kept.
    SensorRestarts {
        kept: bool,
    },
    /// The enforcer tells everything, it arrives, and the two sides are compared.
    Quiet,
}

/// Both sides and what is between them.
struct World {
    now: Timestamp,
    instant: Instant,
    desired: Arc<Desired>,
    runs: u32,
    ledgers: u32,
    follower: Option<Follower>,
    /// Bytes under way, and when the oldest of them were sent.
    under_way: Vec<u8>,
    sent: Instant,
    /// How long bytes were under way at most: bans may end as much too late.
    late: Duration,
    reading: Reading,
    held: Held,
}

/// What a sensor holds by the changes that it gets.
#[derive(Default)]
struct Held {
    bans: BTreeMap<IpNet, Ends>,
    /// Those that the snapshot did not name yet.
    unnamed: BTreeSet<IpNet>,
    reached: Option<Position>,
    snapshots: u32,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let instant = Instant::now();
        Self {
            now: "2026-11-25T08:00:00Z".parse().unwrap(),
            instant,
            desired: Arc::default(),
            runs: 0,
            ledgers: 0,
            follower: None,
            under_way: Vec::new(),
            sent: instant,
            late: Duration::ZERO,
            reading: Reading::default(),
            held: Held::default(),
        }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Ban(which, seconds) => self.desired.set(network(*which), self.wanted(*seconds)),
            Event::Lift(which) => self.desired.remove(network(*which)),
            Event::Pass(milliseconds) => {
                self.now += SignedDuration::from_millis(i64::from(*milliseconds));
                self.instant += Duration::from_millis(u64::from(*milliseconds));
                for (network, until) in self.wants() {
                    if until.is_some_and(|until| until <= self.now) {
                        self.desired.remove(network);
                    }
                }
            }
            Event::Tell => self.tell(),
            Event::Arrive(bytes) => self.arrive(usize::from(*bytes)),
            Event::Cut => self.cut(),
            Event::Lag(which) => {
                let many = (*which..which + 4).map(|which| (network(which), self.wanted(Some(60))));
                self.desired.set_many(many.collect::<Vec<_>>());
            }
            Event::EnforcerRestarts => self.start_enforcer(self.wants()),
            Event::LedgerChanges => {
                self.ledgers += 1;
                // Some bans come again.
                self.start_enforcer(self.wants().into_iter().step_by(2).collect());
            }
            Event::SensorRestarts { kept } => {
                self.cut();
                if *kept {
                    self.reading = Reading::new(self.held.reached.clone());
                } else {
                    self.held = Held::default();
                    self.reading = Reading::default();
                }
            }
            Event::Quiet => self.quiet(),
        }
    }

    fn tell(&mut self) {
        let Self { desired, reading, runs, ledgers, .. } = self;
        let follower = self.follower.get_or_insert_with(|| {
            let names = Names {
                ledger: format!("ledger-{ledgers}").parse().unwrap(),
                stream: format!("run-{runs}").parse().unwrap(),
            };
            Follower::new(Arc::clone(desired), names, reading.connect(0), PIECE)
        });
        if self.under_way.is_empty() {
            self.sent = self.instant;
        }
        let mut lines = 0;
        follower.next(self.now, &mut |line: BanLine| {
            lines += 1;
            serde_json::to_writer(&mut self.under_way, &line).unwrap();
            self.under_way.push(b'\n');
        });
        assert!(lines <= 2 * PIECE + 3, "{lines} lines at once");
    }

    fn arrive(&mut self, bytes: usize) {
        let arrived: Vec<u8> = self.under_way.drain(..bytes.min(self.under_way.len())).collect();
        self.late = self.late.max(self.instant - self.sent);
        let mut changes = Vec::new();
        self.reading.read(&arrived, self.instant, &mut changes).unwrap();
        changes.into_iter().for_each(|change| self.held.apply(change));
    }

    fn cut(&mut self) {
        self.follower = None;
        self.under_way.clear();
    }

    fn start_enforcer(&mut self, bans: Vec<(IpNet, Option<Timestamp>)>) {
        self.cut();
        self.runs += 1;
        self.desired = Arc::default();
        let label = Label::test("x");
        let bans = bans.into_iter().map(|(network, until)| {
            let label = Arc::clone(&label);
            (network, Wanted { until: until.into(), label })
        });
        self.desired.set_many(bans);
    }

    fn quiet(&mut self) {
        loop {
            self.tell();
            self.arrive(usize::MAX);
            if self.reading.is_whole() && self.desired.journal().borrow().last() == self.told() {
                break;
            }
        }
        self.compare();
    }

    /// The number of the last change that the sensor has.
    fn told(&self) -> u64 {
        self.held.reached.as_ref().map_or(0, |position| position.through)
    }

    /// What is held is what is wanted: no ban ends sooner, and later by no more than its line took.
    fn compare(&self) {
        let wanted: BTreeMap<IpNet, Option<Timestamp>> = self.wants().into_iter().collect();
        for (network, until) in &wanted {
            let held = self.held.bans.get(network);
            match (until, held) {
                (None, Some(Ends::Never)) => {}
                (Some(until), Some(Ends::At(ends))) => {
                    let left = until.duration_since(self.now).as_millis();
                    let held = (*ends - self.instant).as_millis() as i128;
                    let late = held - left;
                    assert!(
                        (0..=self.late.as_millis() as i128).contains(&late),
                        "{network} ends {late} ms late"
                    );
                }
                (until, held) => panic!("{network} is wanted until {until:?}, and held until {held:?}"),
            }
        }
        for (network, ends) in &self.held.bans {
            let is_over = matches!(ends, Ends::At(ends) if *ends <= self.instant + self.late);
            assert!(is_over || wanted.contains_key(network), "{network} is held for nothing");
        }
    }

    fn wanted(&self, seconds: Option<u16>) -> Wanted {
        let until = seconds.map(|seconds| self.now + SignedDuration::from_secs(i64::from(seconds)));
        Wanted { until: until.into(), label: Label::test("x") }
    }

    fn wants(&self) -> Vec<(IpNet, Option<Timestamp>)> {
        let mut wants = Vec::new();
        self.desired.each(|network, until, _| wants.push((network, until.timestamp())));
        wants
    }
}

// === impl Held ===

impl Held {
    fn apply(&mut self, change: BanChange) {
        match change {
            BanChange::Reset { .. } => {
                self.unnamed = self.bans.keys().copied().collect();
                self.snapshots += 1;
            }
            BanChange::Ban { network, ends } => {
                self.unnamed.remove(&network);
                self.bans.insert(network, ends);
            }
            BanChange::Lift { network } => {
                self.bans.remove(&network);
            }
            BanChange::Whole => {
                for network in std::mem::take(&mut self.unnamed) {
                    self.bans.remove(&network);
                }
            }
            BanChange::Reached(position) => self.reached = Some(position),
            BanChange::AllowList => {}
        }
    }
}

/// Addresses and networks of both families, some within others.
fn network(which: usize) -> IpNet {
    let number = which as u32 % 24;
    match which % 4 {
        0 | 1 => IpNet::new(Ipv4Addr::from(0xC000_0200 + number).into(), 32).unwrap(),
        2 => {
            IpNet::new(Ipv4Addr::from(0xC000_0200 + number).into(), 24 + (number % 8) as u8).unwrap().trunc()
        }
        _ => IpNet::new(Ipv6Addr::from(u128::from(number) << 64 | 0x2001_0DB8 << 96).into(), 64).unwrap(),
    }
}

fn event() -> impl Strategy<Value = Event> {
    let seconds = prop_oneof![8 => (1..40u16).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        10 => (0..24usize, seconds).prop_map(|(which, seconds)| Event::Ban(which, seconds)),
        4 => (0..24usize).prop_map(Event::Lift),
        4 => (1..20_000u16).prop_map(Event::Pass),
        8 => Just(Event::Tell),
        6 => (1..400u16).prop_map(Event::Arrive),
        3 => Just(Event::Cut),
        1 => (0..20usize).prop_map(Event::Lag),
        1 => Just(Event::EnforcerRestarts),
        1 => Just(Event::LedgerChanges),
        1 => any::<bool>().prop_map(|kept| Event::SensorRestarts { kept }),
        2 => Just(Event::Quiet),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_sensor_holds_what_is_wanted_as_soon_as_it_is_quiet(
        events in prop::collection::vec(event(), 1..150)
    ) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        world.quiet();
    }
}

#[test]
fn a_snapshot_that_is_cut_goes_on_where_it_was_and_a_change_does_not_wait_for_its_end() {
    let mut world = World::new();
    (0..24).for_each(|which| world.happen(&Event::Ban(which, Some(3000))));
    world.happen(&Event::Tell);
    world.happen(&Event::Arrive(u16::MAX));
    // Of the part that was told already one goes; one comes that the rest would bring last.
    let first = *world.held.bans.keys().next().unwrap();
    let last: IpNet = "2001:db8:ffff::/64".parse().unwrap();
    world.desired.remove(first);
    world.desired.set(last, world.wanted(None));
    world.happen(&Event::Cut);
    world.happen(&Event::Tell);
    world.happen(&Event::Arrive(u16::MAX));
    assert_eq!(world.held.bans.get(&first), None);
    assert_eq!(world.held.bans.get(&last), Some(&Ends::Never));
    assert!(!world.reading.is_whole());
    for _ in 0..30 {
        world.happen(&Event::Cut);
        world.happen(&Event::Tell);
        world.happen(&Event::Arrive(u16::MAX));
    }
    assert!(world.reading.is_whole(), "a cut after each piece keeps it from the end");
    assert_eq!(world.held.snapshots, 1);
    world.compare();
}

#[test]
fn a_follower_that_was_away_for_too_long_gets_a_new_snapshot_on_the_same_connection() {
    let mut world = World::new();
    world.happen(&Event::Ban(1, Some(3000)));
    world.quiet();
    for change in 0..300_000_u32 {
        // Followers are told of another end alone.
        world.desired.set(network(2), world.wanted(Some(30 + u16::from(change % 2 == 1))));
        world.desired.remove(network(1));
    }
    world.quiet();
    assert_eq!(world.held.snapshots, 2);
    assert!(world.held.bans.contains_key(&network(2)) && world.held.bans.len() == 1);
}

#[test]
fn bans_that_just_end_are_not_told() {
    let mut world = World::new();
    (0..20).for_each(|which| world.happen(&Event::Ban(which, Some(10))));
    world.quiet();
    world.happen(&Event::Pass(10_000));
    assert!(world.desired.is_empty());
    world.tell();
    let told = String::from_utf8(world.under_way.clone()).unwrap();
    assert_eq!(told.lines().filter(|line| !line.contains("mark")).count(), 0, "{told}");
}
