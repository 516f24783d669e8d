//! Fleet jails: the enforcer's own, over the failures that all sensors report. They ban who tries one password
//! on each of fifty hosts, which no jail of a single host sees.
//!
//! A fleet jail bans when, within `findtime` up to the newest failure of an offender, at least `maxretry`
//! failures on at least `sensors` sensors were reported: a true sliding window. Of each offender no more is
//! kept than can still decide: the latest `maxretry` failures, and the latest of each of `sensors` sensors.
//! An offender that was banned is counted anew. Offences are not counted: their failures come with the reports.

mod places;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use atalaya_wire::{BanTime, Evidence, Failures, Name, Offence, Seconds};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use places::{HeldPlace, Places};

/// The most offenders that are counted at a time, over all fleet jails. Where there are more, the sensor that holds most
/// of them gives some up.
pub const MOST_OFFENDERS: usize = 200_000;

/// The most reports about them that are kept, 16 bytes each.
pub const MOST_EVENTS: usize = 4_000_000;

/// A `[fleet.NAME]` table: a jail of the enforcer's own, over what all sensors report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetConfig {
    /// The name, which its bans carry as their jail.
    pub name: Name,
    /// The sensors' jails whose failures count; all of them where none is named.
    pub jails: Vec<Name>,
    /// So many failures ban.
    pub maxretry: u32,
    /// Within which time, from the newest failure back; 1 second to 7 days.
    pub findtime: Seconds,
    /// For how long, from the newest failure on.
    pub bantime: BanTime,
    /// On so many different sensors at least.
    pub sensors: usize,
}

/// What the fleet jails count.
#[derive(Debug)]
pub struct Fleet {
    jails: Vec<Jail>,
    places: Places,
    /// The sensors' numbers, and their names by number.
    numbers: HashMap<Name, u32>,
    names: Vec<Name>,
    most_offenders: usize,
    most_events: usize,
    events: usize,
    clock: u64,
    dropped: u64,
}

/// An offence of a fleet jail, and to whose shares its ban counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetOffence {
    /// What the jail decided.
    pub offence: Offence,
    /// The sensors that reported the failures.
    pub reporters: Vec<Name>,
}

/// A fleet jail at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// The fleet jail's name.
    pub jail: Name,
    /// Offenders with failures within `findtime`.
    pub counting: usize,
    /// Bans since the start that it asked for.
    pub bans: u64,
}

#[derive(Debug)]
struct Jail {
    config: FleetConfig,
    offenders: HashMap<IpNet, Offender>,
    /// The offenders by when they were last active.
    by_activity: BTreeMap<u64, IpNet>,
    bans: u64,
}

#[derive(Debug)]
struct Offender {
    /// The number of the sensor that reported it first.
    holder: u32,
    /// Whether others reported it too.
    is_shared: bool,
    /// In the order of their times.
    events: Vec<Event>,
    active: u64,
    /// At how many events it is looked which of them can still decide.
    prune_at: usize,
}

/// Failures that one sensor reported at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    /// When the last of them happened, in milliseconds since 1970.
    time: i64,
    sensor: u32,
    count: u32,
}

// === impl Fleet ===

impl Fleet {
    /// Of these jails, with nothing counted yet.
    pub fn new(jails: Vec<FleetConfig>) -> Self {
        Self::bounded(jails, MOST_OFFENDERS, MOST_EVENTS)
    }

    /// As [`Self::new`], with other bounds.
    fn bounded(jails: Vec<FleetConfig>, most_offenders: usize, most_events: usize) -> Self {
        Self {
            jails: jails.into_iter().map(Jail::new).collect(),
            places: Places::default(),
            numbers: HashMap::new(),
            names: Vec::new(),
            most_offenders,
            most_events,
            events: 0,
            clock: 0,
            dropped: 0,
        }
    }

    /// Goes on with these jails. One that counts the failures of the same jails as one of that name before goes on with
    /// what that counted, though so little was kept of each offender as it needed: more `maxretry`, `findtime` or
    /// `sensors` hold for failures from here on.
    pub fn replace(&mut self, jails: Vec<FleetConfig>) {
        let mut before = std::mem::take(&mut self.jails);
        for config in jails {
            let same = |jail: &Jail| jail.config.name == config.name && jail.config.jails == config.jails;
            self.jails.push(match before.iter().position(same) {
                Some(place) => Jail { config, ..before.swap_remove(place) },
                None => Jail::new(config),
            });
        }
        (self.events, self.places) = (0, Places::default());
        for (number, jail) in self.jails.iter().enumerate() {
            for (prefix, offender) in &jail.offenders {
                self.events += offender.events.len();
                self.places.put(offender.held(), (number, *prefix));
            }
        }
    }

    /// Whether there is no jail, so that nothing need be counted.
    pub fn is_empty(&self) -> bool {
        self.jails.is_empty()
    }

    /// Counts what a sensor reports of an offender (an IPv4 address, or the unit of IPv6), whose last failure
    /// happened at a time; the offences that follow.
    pub fn count(
        &mut self,
        sensor: &Name,
        failures: &Failures,
        offender: IpNet,
        last: Timestamp,
        now: Timestamp,
    ) -> Vec<FleetOffence> {
        if failures.count == 0 {
            return Vec::new();
        }
        let number = self.number(sensor);
        let event = Event { time: last.as_millisecond(), sensor: number, count: failures.count };
        let mut offences = Vec::new();
        for (place, jail) in self.jails.iter_mut().enumerate() {
            if !jail.counts(&failures.jail) || event.time <= jail.before_window(now.as_millisecond()) {
                continue;
            }
            self.clock += 1;
            if let Some(held) = jail.offenders.get(&offender).map(Offender::held) {
                self.places.give_up(held);
                self.events -= held.events;
            }
            if jail.add(offender, event, self.clock) {
                let offence = jail.convict(offender, failures.address, &self.names);
                offences.extend(offence);
            }
            if let Some(held) = jail.offenders.get(&offender).map(Offender::held) {
                self.places.put(held, (place, offender));
                self.events += held.events;
            }
        }
        while self.events > self.most_events || self.offenders() > self.most_offenders {
            if !self.make_room() {
                break;
            }
        }
        offences
    }

    /// Forgets offenders whose failures are all too old to count.
    pub fn sweep(&mut self, now: Timestamp) {
        for jail in &mut self.jails {
            let before = jail.before_window(now.as_millisecond());
            while let Some((active, prefix)) = jail.by_activity.first_key_value().map(|(a, p)| (*a, *p)) {
                let offender = jail.offenders.get(&prefix);
                if offender.is_some_and(|offender| offender.newest() > before) {
                    break;
                }
                jail.by_activity.remove(&active);
                if let Some(gone) = jail.offenders.remove(&prefix) {
                    self.events -= gone.events.len();
                    self.places.give_up(gone.held());
                }
            }
        }
    }

    /// Each jail at a glance.
    pub fn status(&self) -> Vec<FleetStatus> {
        let status = |jail: &Jail| FleetStatus {
            jail: jail.config.name.clone(),
            counting: jail.offenders.len(),
            bans: jail.bans,
        };
        self.jails.iter().map(status).collect()
    }

    /// Offenders that were forgotten because there were too many.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn offenders(&self) -> usize {
        self.jails.iter().map(|jail| jail.offenders.len()).sum()
    }

    fn make_room(&mut self) -> bool {
        let Some((number, prefix)) = self.places.first_to_go() else { return false };
        let jail = self.jails.get_mut(number);
        let Some((jail, gone)) =
            jail.and_then(|jail| jail.offenders.remove(&prefix).map(|gone| (jail, gone)))
        else {
            return false;
        };
        jail.by_activity.remove(&gone.active);
        self.events -= gone.events.len();
        self.places.give_up(gone.held());
        self.dropped += 1;
        true
    }

    fn number(&mut self, sensor: &Name) -> u32 {
        if let Some(number) = self.numbers.get(sensor) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(sensor.clone());
        self.numbers.insert(sensor.clone(), number);
        number
    }
}

// === impl Jail ===

impl Jail {
    fn new(config: FleetConfig) -> Self {
        Self { config, offenders: HashMap::new(), by_activity: BTreeMap::new(), bans: 0 }
    }

    fn counts(&self, jail: &Name) -> bool {
        self.config.jails.is_empty() || self.config.jails.contains(jail)
    }

    /// The last millisecond before the window that ends at a time.
    fn before_window(&self, end: i64) -> i64 {
        end.saturating_sub(self.findtime())
    }

    fn findtime(&self) -> i64 {
        i64::try_from(self.config.findtime.0).unwrap_or(i64::MAX).saturating_mul(1000)
    }

    /// Counts an event; whether it was enough.
    fn add(&mut self, prefix: IpNet, event: Event, clock: u64) -> bool {
        let (maxretry, sensors) = (u64::from(self.config.maxretry), self.config.sensors);
        let findtime = self.findtime();
        let offender = self.offenders.entry(prefix).or_insert_with(|| Offender::new(event.sensor));
        offender.is_shared |= offender.holder != event.sensor;
        self.by_activity.remove(&offender.active);
        offender.active = clock;
        self.by_activity.insert(clock, prefix);
        let place = offender.events.partition_point(|other| other.time <= event.time);
        offender.events.insert(place, event);
        let before = offender.newest().saturating_sub(findtime);
        if offender.events.len() > offender.prune_at {
            offender.prune(before, maxretry, sensors);
        }
        offender.is_enough(before, maxretry, sensors)
    }

    /// The offence of an offender, which is then counted anew.
    fn convict(&mut self, prefix: IpNet, address: IpAddr, names: &[Name]) -> Option<FleetOffence> {
        let offender = self.offenders.remove(&prefix)?;
        self.by_activity.remove(&offender.active);
        self.bans += 1;
        let before = self.before_window(offender.newest());
        let window = offender.events.iter().filter(|event| event.time > before);
        let failures = window.clone().fold(0_u32, |sum, event| sum.saturating_add(event.count));
        // By sensor: how many, and the last.
        let mut sensors: BTreeMap<u32, (u32, i64)> = BTreeMap::new();
        for event in window {
            let sensor = sensors.entry(event.sensor).or_default();
            *sensor = (sensor.0.saturating_add(event.count), event.time);
        }
        let reporters = sensors.keys().filter_map(|sensor| names.get(*sensor as usize).cloned()).collect();
        let mut latest: Vec<(u32, (u32, i64))> = sensors.into_iter().collect();
        latest.sort_unstable_by_key(|(_, (_, last))| *last);
        let others = latest.len().saturating_sub(Evidence::MOST);
        let evidence = latest.into_iter().skip(others).filter_map(|(sensor, (count, last))| {
            let name = names.get(sensor as usize)?;
            let time = Timestamp::from_millisecond(last).ok()?;
            let noun = if count == 1 { "failure" } else { "failures" };
            Some(Evidence::new(time, name.as_str(), &format!("{count} {noun} on {name}")))
        });
        let offence = Offence {
            jail: self.config.name.clone(),
            address,
            time: Timestamp::from_millisecond(offender.newest()).ok()?,
            failures,
            bantime: self.config.bantime,
            escalation: None,
            evidence: evidence.collect(),
        };
        Some(FleetOffence { offence, reporters })
    }
}

// === impl Offender ===

impl Offender {
    /// One that a sensor reported first.
    fn new(holder: u32) -> Self {
        Self { holder, is_shared: false, events: Vec::new(), active: 0, prune_at: 0 }
    }

    /// Under what its place is found.
    fn held(&self) -> HeldPlace {
        let Self { holder, is_shared, active, .. } = *self;
        HeldPlace { holder, is_shared, active, events: self.events.len() }
    }

    fn newest(&self) -> i64 {
        self.events.last().map_or(i64::MIN, |event| event.time)
    }

    fn is_enough(&self, before: i64, maxretry: u64, sensors: usize) -> bool {
        let (mut failures, mut seen) = (0, HashSet::new());
        for event in self.events.iter().rev().take_while(|event| event.time > before) {
            failures += u64::from(event.count);
            if seen.len() < sensors {
                seen.insert(event.sensor);
            }
            if failures >= maxretry && seen.len() >= sensors {
                return true;
            }
        }
        false
    }

    /// Drops the events that can decide nothing any more, whatever comes.
    fn prune(&mut self, before: i64, maxretry: u64, sensors: usize) {
        let (mut failures, mut seen) = (0, HashSet::new());
        let mut kept: Vec<Event> = Vec::new();
        for event in self.events.iter().rev().take_while(|event| event.time > before) {
            let new = seen.len() < sensors && seen.insert(event.sensor);
            if failures < maxretry || new {
                kept.push(*event);
            }
            failures += u64::from(event.count);
        }
        kept.reverse();
        self.prune_at = 2 * kept.len() + 8;
        self.events = kept;
    }
}

#[cfg(test)]
mod tests {
    use atalaya_wire::{BanTime, Seconds};
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn config(maxretry: u32, sensors: usize) -> FleetConfig {
        FleetConfig {
            name: name("everywhere"),
            jails: vec![name("ssh"), name("smtp")],
            maxretry,
            findtime: Seconds(600),
            bantime: BanTime::For(Seconds(3600)),
            sensors,
        }
    }

    fn report(fleet: &mut Fleet, sensor: u32, address: &str, count: u32, second: i64) -> Vec<FleetOffence> {
        let address: IpAddr = address.parse().unwrap();
        let failures = Failures { jail: name("ssh"), address, count, last: at(second) };
        fleet.count(&name(&format!("web-{sensor}")), &failures, address.into(), at(second), at(second))
    }

    #[test]
    fn one_password_on_each_of_fifty_hosts_is_one_offence_and_each_tells_of_five_of_them() {
        let mut fleet = Fleet::new(vec![config(50, 50)]);
        for sensor in 0..49 {
            assert!(report(&mut fleet, sensor, "192.0.2.1", 1, i64::from(sensor)).is_empty());
        }
        assert!(
            report(&mut fleet, 7, "192.0.2.1", 30, 49).is_empty(),
            "that is a host that was there already"
        );
        assert!(report(&mut fleet, 49, "192.0.2.9", 1, 49).is_empty());
        let offences = report(&mut fleet, 49, "192.0.2.1", 1, 50);
        assert_eq!(offences.len(), 1);
        assert_eq!(offences[0].reporters.len(), 50);
        let offence = &offences[0].offence;
        assert_eq!((offence.jail.as_str(), offence.failures, offence.time), ("everywhere", 80, at(50)));
        let sources: Vec<&str> = offence.evidence.iter().map(|piece| piece.source.as_str()).collect();
        assert_eq!(sources, ["web-46", "web-47", "web-48", "web-7", "web-49"]);
        assert_eq!(offence.evidence[3].text, "31 failures on web-7");
        assert_eq!(offence.evidence[4].text, "1 failure on web-49");
        // Counted anew.
        assert!(report(&mut fleet, 49, "192.0.2.1", 1, 51).is_empty());
        assert_eq!(fleet.status(), [FleetStatus { jail: name("everywhere"), counting: 2, bans: 1 }]);
    }

    #[test]
    fn other_jails_and_what_is_too_old_do_not_count_and_are_forgotten() {
        let mut fleet = Fleet::new(vec![config(2, 1)]);
        let mut ftp =
            Failures { jail: name("ftp"), address: "192.0.2.1".parse().unwrap(), count: 9, last: at(0) };
        assert!(fleet.count(&name("a"), &ftp, ftp.address.into(), at(0), at(0)).is_empty());
        ftp.jail = name("smtp");
        assert!(fleet.count(&name("a"), &ftp, ftp.address.into(), at(-600), at(0)).is_empty());
        assert_eq!(fleet.status()[0].counting, 0);
        assert!(report(&mut fleet, 1, "192.0.2.1", 1, 0).is_empty());
        assert!(report(&mut fleet, 1, "192.0.2.1", 1, 600).is_empty());
        fleet.sweep(at(1199));
        assert_eq!(fleet.status()[0].counting, 1);
        fleet.sweep(at(1200));
        assert_eq!((fleet.status()[0].counting, fleet.events), (0, 0));
    }

    #[test]
    fn a_jail_goes_on_with_what_it_counted_unless_it_counts_other_jails_from_here_on() {
        let mut fleet = Fleet::new(vec![config(3, 1)]);
        assert!(report(&mut fleet, 1, "192.0.2.1", 2, 0).is_empty());
        let other = FleetConfig { name: name("other"), ..config(2, 1) };
        fleet.replace(vec![other.clone(), FleetConfig { bantime: BanTime::Permanent, ..config(3, 1) }]);
        assert_eq!((fleet.status()[1].counting, fleet.events), (1, 1));
        let offences = report(&mut fleet, 1, "192.0.2.1", 1, 1);
        assert_eq!((offences.len(), offences[0].offence.jail.as_str()), (1, "everywhere"));
        assert_eq!(offences[0].offence.bantime, BanTime::Permanent);
        fleet.replace(vec![FleetConfig { jails: vec![name("ssh")], ..other }]);
        assert_eq!((fleet.status()[0].counting, fleet.events, fleet.offenders()), (0, 0, 0));
        fleet.replace(Vec::new());
        assert!(fleet.is_empty());
    }

    #[test]
    fn who_invents_offenders_pushes_out_none_that_others_reported() {
        let mut fleet = Fleet::bounded(vec![config(50, 50)], 1000, 20_000);
        let mut invented = 0_u32;
        for sensor in 0..50 {
            // The forger is there first, and names the attackers too.
            for _ in 0..2000 {
                invented += 1;
                let address = std::net::Ipv4Addr::from(0x0b00_0000 + invented).to_string();
                assert!(report(&mut fleet, 999, &address, 1, i64::from(sensor)).is_empty());
            }
            assert!(report(&mut fleet, 999, "192.0.2.2", 1, i64::from(sensor)).is_empty());
            let one = report(&mut fleet, sensor, "192.0.2.1", 1, i64::from(sensor));
            let other = report(&mut fleet, sensor, "192.0.2.2", 1, i64::from(sensor));
            // The forger is one of the fifty hosts that saw the other.
            assert_eq!((one.len(), other.len()), (usize::from(sensor == 49), usize::from(sensor == 48)));
        }
        assert!(fleet.offenders() <= 1000 && fleet.dropped() > 90_000);
    }

    #[test]
    fn the_places_that_are_held_are_those_of_the_offenders_that_are_counted() {
        let mut fleet = Fleet::bounded(
            vec![config(3, 2), FleetConfig { findtime: Seconds(60), ..config(9, 1) }],
            20,
            100,
        );
        let mut random = 1_u32;
        for second in 0..2000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let address = format!("192.0.2.{}", (random >> 8) % 30);
            report(&mut fleet, (random >> 16) % 4, &address, 1, second / 10);
            if second % 100 == 0 {
                fleet.sweep(at(second / 10));
            }
            if second == 1000 {
                fleet.replace(vec![config(3, 2), FleetConfig { findtime: Seconds(60), ..config(9, 1) }]);
            }
            let events: usize = fleet
                .jails
                .iter()
                .flat_map(|jail| jail.offenders.values())
                .map(|offender| offender.events.len())
                .sum();
            assert_eq!((fleet.events, fleet.places.count()), (events, fleet.offenders()));
            assert!(fleet.offenders() <= 20 && events <= 100);
        }
        assert!(fleet.dropped() > 0);
    }

    #[test]
    fn those_that_were_quiet_longest_go_where_one_sensor_reports_too_many() {
        let mut fleet = Fleet::bounded(vec![config(3, 1), config(3, 1)], 4, 100);
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3"] {
            report(&mut fleet, 1, address, 1, 0);
        }
        assert_eq!((fleet.offenders(), fleet.dropped()), (4, 2));
        // The second was, in both jails; the first has two failures and is banned at the third.
        assert_eq!(report(&mut fleet, 1, "192.0.2.1", 1, 0).len(), 2);
        let mut small = Fleet::bounded(vec![config(1000, 1)], 100, 50);
        for second in 0..200 {
            report(&mut small, 1, &format!("192.0.2.{}", second % 4), 1, second);
        }
        assert!(small.events <= 50 && small.dropped() > 0);
    }

    proptest! {
        #[test]
        fn it_bans_exactly_when_a_sliding_window_over_everything_would(
            maxretry in 1..12_u32,
            sensors in 1..5_usize,
            reports in prop::collection::vec((0..6_u32, 1..4_u32, -40..200_i64), 1..200),
        ) {
            let mut fleet = Fleet::new(vec![config(maxretry, sensors)]);
            let mut all: Vec<(i64, u32, u32)> = Vec::new();
            let (mut second, mut newest) = (0, i64::MIN);
            for (sensor, count, step) in reports {
                // Some come late.
                second = (second + step).max(0);
                newest = newest.max(second);
                all.push((second, sensor, count));
                let end = all.iter().map(|(time, ..)| *time).max().unwrap();
                let window: Vec<_> = all.iter().filter(|(time, ..)| *time > end - 600).collect();
                let failures: u32 = window.iter().map(|(.., count)| count).sum();
                let distinct: HashSet<u32> = window.iter().map(|(_, sensor, _)| *sensor).collect();
                let expected = failures >= maxretry && distinct.len() >= sensors;
                let failed = Failures {
                    jail: name("ssh"),
                    address: "192.0.2.1".parse().unwrap(),
                    count,
                    last: at(second),
                };
                let sensor = name(&format!("web-{sensor}"));
                let found = fleet.count(&sensor, &failed, failed.address.into(), at(second), at(second));
                prop_assert_eq!(!found.is_empty(), expected);
                if expected {
                    all.clear();
                }
                let kept = fleet.events;
                prop_assert!(kept <= 2 * (maxretry as usize + sensors) + 9, "{} events are kept", kept);
            }
        }
    }
}
