//! Widening against a from-scratch computation, over random histories.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::desired::Origin;

const CONFIG: WidenConfig = WidenConfig { ipv4: Some(3), ipv6: Some(2), ipv6_prefix: 64 };

/// A router's table that takes offence at a hole.
#[derive(Default)]
struct Recorded {
    entries: BTreeMap<IpNet, Wanted>,
    /// What is banned before and after a change, and so all the while.
    banned: Vec<IpNet>,
    changes: usize,
}

impl Entries for Recorded {
    fn get(&self, prefix: IpNet) -> Option<Wanted> {
        self.entries.get(&prefix).cloned()
    }

    fn set(&mut self, prefix: IpNet, entry: Wanted) {
        self.changes += 1;
        self.entries.insert(prefix, entry);
        self.has_no_hole();
    }

    fn remove(&mut self, prefix: IpNet) {
        self.changes += 1;
        self.entries.remove(&prefix);
        self.has_no_hole();
    }
}

impl Recorded {
    fn has_no_hole(&self) {
        for banned in &self.banned {
            let covered = self.entries.keys().any(|entry| entry.contains(banned));
            assert!(covered, "{banned} is free for a moment: {:?}", self.entries.keys());
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Ban { prefix: IpNet, seconds: Option<i64>, jail: u8 },
    Lift { prefix: IpNet },
    Advance { seconds: i64 },
    Keep { prefix: IpNet },
    LetGo { prefix: IpNet },
}

/// The same from scratch: every ban, and those that ended while their network was wide.
#[derive(Default)]
struct Model {
    bans: BTreeMap<IpNet, (Moment, u8)>,
    over: BTreeMap<IpNet, (Moment, u8)>,
    kept: Vec<IpNet>,
    one_jail: bool,
}

impl Model {
    fn is_kept(&self, network: IpNet) -> bool {
        self.kept.iter().any(|kept| kept.contains(&network) || network.contains(kept))
    }

    fn members(&self, network: IpNet) -> BTreeMap<IpNet, (Moment, u8)> {
        let mut members = self.over.clone();
        members.extend(self.bans.clone());
        members.retain(|prefix, _| network.contains(prefix) && *prefix != network);
        members
    }

    fn wide_until(&self, network: IpNet) -> Option<Moment> {
        let threshold = if matches!(network, IpNet::V4(_)) { CONFIG.ipv4? } else { CONFIG.ipv6? };
        let members = self.members(network);
        let mut ends: Vec<Moment> = members.values().map(|(end, _)| *end).collect();
        ends.sort_unstable_by(|one, other| other.cmp(one));
        let mixed = self.one_jail
            && members.values().any(|(_, jail)| Some(*jail) != members.values().next().map(|one| one.1));
        let needed = ends.get(threshold - 1).copied().filter(|_| !mixed && !self.is_kept(network))?;
        ends.into_iter().find(|end| *end <= needed.plus_seconds(LINGER))
    }

    /// Forgets what is over where it no longer counts.
    fn settle(&mut self, now: Moment) {
        for network in networks() {
            if self.wide_until(network).is_none_or(|until| until <= now) {
                self.over.retain(|prefix, _| !network.contains(prefix));
            }
        }
    }

    fn wanted(&self) -> BTreeMap<IpNet, Moment> {
        let mut wanted: BTreeMap<IpNet, Moment> =
            self.bans.iter().map(|(prefix, ban)| (*prefix, ban.0)).collect();
        for network in networks() {
            let Some(until) = self.wide_until(network) else { continue };
            wanted.retain(|prefix, end| *prefix == network || !network.contains(prefix) || *end > until);
            let entry = wanted.entry(network).or_insert(until);
            *entry = (*entry).max(until);
        }
        wanted
    }
}

fn networks() -> Vec<IpNet> {
    ["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/48", "2001:db8:1::/48"].map(net).to_vec()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn at(second: i64) -> Moment {
    Timestamp::from_second(1_800_000_000 + second).unwrap().into()
}

fn label(jail: u8) -> Arc<Label> {
    let severity = [Severity::Low, Severity::Medium, Severity::High][usize::from(jail % 3)];
    Arc::new(Label {
        severity,
        origin: Origin::Sensor {
            jail: format!("jail{jail}").parse().unwrap(),
            sensor: "web-1".parse().unwrap(),
        },
        ..Label::test("x").as_ref().clone()
    })
}

fn offenders() -> impl Strategy<Value = IpNet> {
    let host = (0..2_u8, 1..8_u8).prop_map(|(network, host)| {
        IpNet::from(IpAddr::from(if network == 0 { [192, 0, 2, host] } else { [198, 51, 100, host] }))
    });
    let unit = (0..2_u16, 0..4_u16)
        .prop_map(|(network, subnet)| net(&format!("2001:db8:{network:x}:{subnet:x}::/64")));
    prop_oneof![3 => host, 1 => unit]
}

fn prefixes() -> impl Strategy<Value = IpNet> {
    prop_oneof![12 => offenders(), 1 => prop::sample::select(networks())]
}

fn events() -> impl Strategy<Value = Event> {
    let seconds = prop_oneof![10 => (1..2000_i64).prop_map(Some), 1 => Just(None)];
    prop_oneof![
        10 => (prefixes(), seconds, 0..2_u8).prop_map(|(prefix, seconds, jail)| Event::Ban { prefix, seconds, jail }),
        2 => prefixes().prop_map(|prefix| Event::Lift { prefix }),
        4 => (1..700_i64).prop_map(|seconds| Event::Advance { seconds }),
        1 => offenders().prop_map(|prefix| Event::Keep { prefix }),
        1 => offenders().prop_map(|prefix| Event::LetGo { prefix }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_routers_want_is_what_a_computation_from_scratch_says_and_never_has_a_hole(
        history in prop::collection::vec(events(), 1..120),
        one_jail in any::<bool>(),
    ) {
        let mut widen = Widen::new(CONFIG, one_jail);
        let mut model = Model { one_jail, ..Model::default() };
        let (mut table, mut second) = (Recorded::default(), 0);
        for event in history {
            let before: Vec<IpNet> = model.bans.keys().copied().collect();
            match event.clone() {
                Event::Ban { prefix, seconds, jail } => {
                    let until = seconds.map_or(Moment::FOREVER, |seconds| at(second + seconds));
                    // As policy has it: a ban that stands only becomes longer.
                    if model.bans.get(&prefix).is_some_and(|(stands, _)| *stands >= until) {
                        continue;
                    }
                    model.over.remove(&prefix);
                    model.bans.insert(prefix, (until, jail));
                    table.banned = before;
                    let kept = |network| model.is_kept(network);
                    widen.ban(prefix, Wanted { until, label: label(jail) }, &mut table, &kept);
                }
                Event::Lift { prefix } => {
                    model.bans.remove(&prefix);
                    table.banned = model.bans.keys().copied().collect();
                    let kept = |network| model.is_kept(network);
                    widen.lift(prefix, &mut table, &kept);
                }
                Event::Advance { seconds } => {
                    second += seconds;
                    let (over, bans) = model.bans.clone().into_iter().partition(|(_, (end, _))| *end <= at(second));
                    model.bans = bans;
                    table.banned = model.bans.keys().copied().collect();
                    let over: BTreeMap<IpNet, (Moment, u8)> = over;
                    for (prefix, ban) in over {
                        widen.expire(prefix, &mut table);
                        if !networks().contains(&prefix) {
                            model.over.insert(prefix, ban);
                        }
                    }
                }
                Event::Keep { prefix } | Event::LetGo { prefix } => {
                    model.kept.retain(|kept| *kept != prefix);
                    if matches!(event, Event::Keep { .. }) {
                        model.kept.push(prefix);
                    }
                    table.banned = before;
                    let kept = |network| model.is_kept(network);
                    widen.review(prefix, &mut table, &kept);
                }
            }
            let kept = |network| model.is_kept(network);
            widen.settle(at(second), &mut table, &kept);
            model.settle(at(second));
            let has: BTreeMap<IpNet, Moment> =
                table.entries.iter().map(|(prefix, entry)| (*prefix, entry.until)).collect();
            prop_assert_eq!(has, model.wanted(), "after {:?}", event);
            for (prefix, (until, jail)) in &model.bans {
                let standing = widen.standing(*prefix, &table);
                prop_assert_eq!(standing, Some(Wanted { until: *until, label: label(*jail) }));
            }
            prop_assert_eq!(widen.bans().len(), model.bans.len());
            for network in networks() {
                if let Some(entry) = table.entries.get(&network).filter(|_| !model.bans.contains_key(&network)) {
                    let worst = model.bans.iter().filter(|(prefix, _)| network.contains(*prefix));
                    let worst = worst.map(|(_, (_, jail))| label(*jail).severity).max();
                    prop_assert!(worst.is_none_or(|worst| entry.label.severity >= worst));
                }
            }
        }
    }

    #[test]
    fn a_start_widens_as_the_bans_would_have_one_by_one(
        bans in prop::collection::btree_map(prefixes(), 1..2000_i64, 0..20),
        kept in prop::collection::vec(offenders(), 0..2),
    ) {
        let is_kept = |network: IpNet| kept.iter().any(|kept| network.contains(kept));
        let (mut one, mut other) = (Widen::new(CONFIG, false), Widen::new(CONFIG, false));
        let (mut grown, mut loaded) = (Recorded::default(), Recorded::default());
        for (prefix, seconds) in &bans {
            let entry = Wanted { until: at(*seconds), label: label(0) };
            loaded.set(*prefix, entry.clone());
            one.ban(*prefix, entry, &mut grown, &is_kept);
        }
        bans.keys().for_each(|prefix| other.load(*prefix, false));
        other.begin_all(&mut loaded, &is_kept);
        let ends = |table: Recorded| table.entries.into_iter().map(|(prefix, entry)| (prefix, entry.until)).collect::<Vec<_>>();
        prop_assert_eq!(ends(loaded), ends(grown));
        prop_assert_eq!(one.wide(), other.wide());
    }
}

#[test]
fn forty_bans_of_a_burst_are_one_entry_and_the_late_ones_are_there_when_it_expires() {
    let mut widen = Widen::new(WidenConfig::default(), false);
    let mut table = Recorded::default();
    let prefix = |host: u8| IpNet::from(IpAddr::from([192, 0, 2, host]));
    let mut ban = |host: u8, second: i64, table: &mut Recorded| {
        widen.ban(prefix(host), Wanted { until: at(second), label: label(1) }, table, &|_| false);
    };
    for host in 1..=40 {
        ban(host, 1800 + i64::from(host), &mut table);
    }
    let network = table.entries.get(&net("192.0.2.0/24")).unwrap();
    assert_eq!((table.entries.len(), network.until), (1, at(1840)));
    assert_eq!(network.label.comment, "x (widened)");
    // Much later ones are beyond what the network may linger for.
    ban(50, 5000, &mut table);
    ban(51, 5000, &mut table);
    assert_eq!(table.entries.len(), 3);
    let changes = table.changes;
    for host in 1..=40 {
        widen.expire(prefix(host), &mut table);
    }
    assert_eq!(table.changes, changes, "an expiry sent something");
    widen.settle(at(1840), &mut table, &|_| false);
    assert_eq!(table.entries.keys().copied().collect::<Vec<_>>(), [prefix(50), prefix(51)]);
}

#[test]
fn no_network_is_banned_for_scans_and_one_that_goes_on_to_fail_counts() {
    let mut widen = Widen::new(CONFIG, false);
    let mut table = Recorded::default();
    let prefix = |host: u8| IpNet::from(IpAddr::from([192, 0, 2, host]));
    let scan = Arc::new(Label { is_scan: true, ..label(1).as_ref().clone() });
    let mut ban = |host: u8, second: i64, label: &Arc<Label>, table: &mut Recorded| {
        widen.ban(prefix(host), Wanted { until: at(second), label: Arc::clone(label) }, table, &|_| false);
        table.entries.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    for host in 1..=9 {
        ban(host, 600, &scan, &mut table);
    }
    assert_eq!(table.entries.len(), 9);
    let failures = label(1);
    ban(1, 1800, &failures, &mut table);
    ban(2, 1800, &failures, &mut table);
    // A scan that only makes a ban longer takes nothing from it.
    ban(2, 1860, &scan, &mut table);
    assert_eq!(table.entries.len(), 9);
    let seen = ban(3, 1800, &failures, &mut table);
    assert_eq!(
        seen,
        "192.0.2.0/24 192.0.2.4/32 192.0.2.5/32 192.0.2.6/32 192.0.2.7/32 192.0.2.8/32 192.0.2.9/32"
    );
    // Into the network that is wide.
    let seen = ban(4, 1800, &failures, &mut table);
    assert_eq!(seen, "192.0.2.0/24 192.0.2.5/32 192.0.2.6/32 192.0.2.7/32 192.0.2.8/32 192.0.2.9/32");
    widen.expire(prefix(5), &mut table);
    widen.lift(prefix(6), &mut table, &|_| false);
    for host in 1..=2 {
        widen.lift(prefix(host), &mut table, &|_| false);
    }
    let left: Vec<String> = table.entries.keys().map(ToString::to_string).collect();
    assert_eq!(left, ["192.0.2.3/32", "192.0.2.4/32", "192.0.2.7/32", "192.0.2.8/32", "192.0.2.9/32"]);
    // As it is read from the ledger.
    let mut again = Widen::new(CONFIG, false);
    table.entries.iter().for_each(|(prefix, entry)| again.load(*prefix, entry.label.is_scan));
    again.begin_all(&mut table, &|_| false);
    assert_eq!(table.entries.len(), 5);
}
