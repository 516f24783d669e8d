//! The jail: counts failures by address, or by the network that one IPv6 host has for itself, and decides
//! when one offends. A plain function of (state, failure, time) without input or output; a true sliding
//! window on the events' own time; bounded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;

use atalaya_wire::{BanTime, Escalation, Evidence, Name, Networks, Offence, Seconds, canonical};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub mod ignore;
mod own_bans;
pub mod ports;
pub mod settings;
pub mod source;

pub use own_bans::{BanEnd, Fate, OwnBan, OwnBans, RefusedBan, sooner};

/// A failure dated later than this after now is dated now: its clock is wrong.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// Of how many failures the times are kept for each address, at most. A jail whose `maxretry` is larger decays, and counts
/// in that way alone.
pub const KEPT: u32 = 1000;

/// What a jail counts and when it decides.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Unique in the sensor; it stands on every offence and ban.
    pub name: Name,
    /// How many failures make an offence; over [`KEPT`] only where the jail decays.
    pub maxretry: u32,
    /// In seconds, back from the latest failure; what is older is not counted.
    pub findtime: Seconds,
    /// For how long to ban.
    pub bantime: BanTime,
    /// Whether failures count on in fail2ban's way too: those of before `findtime` are not forgotten at
    /// once but scaled down, so that whoever fails steadily, and a little more slowly, is banned as there.
    pub decay: bool,
    /// How much longer for an address that was banned before.
    pub escalation: Option<Escalation>,
    /// Addresses that are not counted.
    pub ignore: Networks,
    /// IPv6 failures are counted by the network of this length, 64 to 128 bits: whoever has one address
    /// of a /64 has all of them.
    pub ipv6_prefix: u8,
    /// The most addresses (and IPv6 networks) counted at once; past it the least recently active is dropped.
    pub limit: usize,
    /// Set where it counts ports that were tried, not failures.
    pub scan: Option<ScanPolicy>,
}

/// What holds for a jail that counts ports. A packet to a port is sent in another's name easily: what such a jail counts
/// is not reported to fleet jails, and its bans are no reason to ban a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanPolicy {
    /// Whether addresses count that completed no connection to this host lately.
    pub unverified: bool,
}

/// One observed failure, before it is known whether it counts.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The one that failed; counted by its network where `ipv6_prefix` says so.
    pub address: IpAddr,
    /// When, by the event's own date.
    pub time: Timestamp,
    /// How many failures this stands for.
    pub weight: u32,
    /// The port that was tried, where different ports are counted.
    pub port: Option<u16>,
    /// What people will see of it: the last few of an offence go out with it.
    pub evidence: Evidence,
}

/// What the jail made of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The address is on the jail's ignore list.
    Ignored,
    /// The failure is older than `findtime`.
    Old,
    /// Counted; so many failures within `findtime` now.
    Counted(u32),
    /// The address reached `maxretry`; it is counted from zero again.
    Offence(Offence),
}

/// The failures of one address or IPv6 network within the window. Serialized as it is saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// When they happened, oldest first; at most `maxretry`, and at most [`KEPT`].
    times: Vec<Timestamp>,
    /// The last pieces of evidence, oldest first.
    evidence: Vec<Evidence>,
    /// When which port was tried last, where ports are counted: `times` are the times of these then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    ports: BTreeMap<u16, Timestamp>,
    /// The count that is scaled down, where the jail decays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decaying: Option<Decaying>,
    /// Orders the addresses by activity; not saved.
    #[serde(skip)]
    touched: u64,
}

/// fail2ban's count: so many failures since a time, taken for an even rate once that is too long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Decaying {
    first: Timestamp,
    last: Timestamp,
    count: u32,
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Failures that were counted, each by its weight.
    pub failures: u64,
    /// Offences, also those for which a person asked.
    pub offences: u64,
    /// Failures of ignored addresses.
    pub ignored: u64,
    /// Failures older than `findtime`.
    pub old: u64,
    /// Addresses dropped at [`Policy::limit`].
    pub dropped: u64,
}

/// A jail at work.
#[derive(Debug)]
pub struct Jail {
    policy: Policy,
    /// By the address, or by the first address of the IPv6 network.
    counters: HashMap<IpAddr, Counter>,
    /// Addresses by their last activity, so that the least active is found at once.
    activity: BTreeMap<u64, IpAddr>,
    clock: u64,
    changed: HashSet<IpAddr>,
    bans: OwnBans,
    totals: Totals,
}

// === impl Policy ===

impl Policy {
    /// The defaults that users know: 3 failures in 10 minutes ban for 30 minutes.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            maxretry: 3,
            findtime: Seconds(600),
            bantime: BanTime::For(Seconds(1800)),
            decay: false,
            escalation: None,
            ignore: Networks::default(),
            ipv6_prefix: 64,
            limit: 100_000,
            scan: None,
        }
    }

    /// The addresses that are counted as one with this one.
    pub(crate) fn counted_as_one(&self, address: IpAddr) -> RangeInclusive<IpAddr> {
        match canonical(address) {
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(self.ipv6_prefix.into()).unwrap_or(0);
                let bits = address.to_bits();
                Ipv6Addr::from_bits(bits & !host).into()..=Ipv6Addr::from_bits(bits | host).into()
            }
            address @ IpAddr::V4(_) => address..=address,
        }
    }

    /// What stands for this address where failures are counted.
    fn key(&self, address: IpAddr) -> IpAddr {
        *self.counted_as_one(address).start()
    }
}

// === impl Failure ===

impl Failure {
    /// The same, at another time.
    pub(crate) fn at(mut self, time: Timestamp) -> Self {
        (self.time, self.evidence.time) = (time, time);
        self
    }
}

// === impl Counter ===

impl Counter {
    /// Adds what another address of the same network had counted.
    fn add(&mut self, other: Self, maxretry: u32) {
        for (port, time) in other.ports {
            self.try_port(port, time);
        }
        self.times.extend(other.times);
        self.times.sort_unstable();
        self.times_of_ports();
        self.times.drain(..self.times.len().saturating_sub(maxretry.min(KEPT) as usize));
        self.evidence.extend(other.evidence);
        self.evidence.sort_by_key(|evidence| evidence.time);
        let most = Evidence::MOST.min(maxretry as usize);
        self.evidence.drain(..self.evidence.len().saturating_sub(most));
        self.decaying = match (self.decaying, other.decaying) {
            (Some(one), Some(other)) => Some(Decaying {
                first: one.first.min(other.first),
                last: one.last.max(other.last),
                count: one.count.saturating_add(other.count),
            }),
            (one, other) => one.or(other),
        };
    }

    fn try_port(&mut self, port: u16, time: Timestamp) {
        let last = self.ports.entry(port).or_insert(time);
        *last = time.max(*last);
    }

    /// Where ports are counted, each of them counts once, by when it was tried last.
    fn times_of_ports(&mut self) {
        if !self.ports.is_empty() {
            self.times = self.ports.values().copied().collect();
            self.times.sort_unstable();
        }
    }
}

// === impl Decaying ===

impl Decaying {
    fn after(before: Option<Self>, time: Timestamp, weight: u32, findtime: SignedDuration) -> Self {
        let known = before.filter(|before| time.duration_since(before.last) < findtime);
        let Some(Self { mut first, last, mut count }) = known else {
            return Self { first: time, last: time, count: weight };
        };
        let span = time.duration_since(first);
        if time > last && span > findtime {
            count = (f64::from(count) / span.as_secs_f64() * findtime.as_secs_f64()).round_ties_even() as u32;
            first = time.checked_sub(findtime).unwrap_or(first);
        }
        Self { first, last: last.max(time), count: count.saturating_add(weight) }
    }
}

// === impl Jail ===

impl Jail {
    /// A jail that has counted nothing and banned nobody.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            counters: HashMap::new(),
            activity: BTreeMap::new(),
            clock: 0,
            changed: HashSet::new(),
            bans: OwnBans::default(),
            totals: Totals::default(),
        }
    }

    /// Counts a failure; `now` is the wall clock.
    pub fn failure(&mut self, failure: Failure, now: Timestamp) -> Outcome {
        let address = canonical(failure.address);
        if self.policy.ignore.contains(address) {
            self.totals.ignored += 1;
            return Outcome::Ignored;
        }
        let findtime = self.policy.findtime.signed();
        let ahead = failure.time.duration_since(now) > CLOCK_TOLERANCE;
        let time = if ahead { now } else { failure.time };
        if now.duration_since(time) > findtime {
            self.totals.old += 1;
            return Outcome::Old;
        }
        self.totals.failures += u64::from(failure.weight);
        let key = self.policy.key(address);
        self.touch(key);
        self.changed.insert(key);
        let counter = self.counters.entry(key).or_default();

        // The window ends at the latest failure, whichever arrives last.
        let latest = counter.times.last().map_or(time, |last| time.max(*last));
        counter.times.retain(|then| latest.duration_since(*then) <= findtime);
        if latest.duration_since(time) > findtime {
            self.totals.old += 1;
            return Outcome::Old;
        }
        let most = self.policy.maxretry.min(KEPT) as usize;
        if let Some(port) = failure.port {
            counter.ports.retain(|_, then| latest.duration_since(*then) <= findtime);
            counter.try_port(port, time);
            counter.times_of_ports();
        } else {
            let place = counter.times.partition_point(|then| *then <= time);
            let count = (failure.weight as usize).min(most);
            counter.times.splice(place..place, std::iter::repeat_n(time, count));
        }
        // The latest say until when the address is counted.
        counter.times.drain(..counter.times.len().saturating_sub(most));
        if counter.evidence.len() >= Evidence::MOST.min(self.policy.maxretry as usize) {
            counter.evidence.remove(0);
        }
        counter.evidence.push(failure.evidence);

        let mut failures = counter.times.len() as u32;
        if self.policy.decay {
            let decaying = Decaying::after(counter.decaying, time, failure.weight, findtime);
            counter.decaying = Some(decaying);
            failures = failures.max(decaying.count);
        }
        if failures < self.policy.maxretry {
            return Outcome::Counted(failures);
        }
        let time = counter.times.last().copied().unwrap_or(time);
        let evidence = std::mem::take(&mut counter.evidence);
        self.remove(key);
        Outcome::Offence(self.offence(address, time, failures, self.policy.bantime, evidence))
    }

    /// Takes the word of whoever counted for the jail, as the kernel does for those of connections: so many
    /// at once are an offence.
    pub fn crossing(&mut self, failure: Failure) -> Outcome {
        let address = canonical(failure.address);
        if self.policy.ignore.contains(address) {
            self.totals.ignored += 1;
            return Outcome::Ignored;
        }
        self.totals.failures += u64::from(failure.weight);
        let evidence = vec![failure.evidence];
        Outcome::Offence(self.offence(address, failure.time, failure.weight, self.policy.bantime, evidence))
    }

    /// An offence, whoever found it: counted, and its ban remembered.
    pub fn offence(
        &mut self,
        address: IpAddr,
        time: Timestamp,
        failures: u32,
        bantime: BanTime,
        evidence: Vec<Evidence>,
    ) -> Offence {
        self.totals.offences += 1;
        self.bans.ask(address, time, bantime.end(time), self.policy.limit);
        let escalation = self.policy.escalation.clone();
        Offence { jail: self.policy.name.clone(), address, time, failures, bantime, escalation, evidence }
    }

    /// Forgets the bans of an address and of all that are counted as one with it, and their failures.
    pub fn lift(&mut self, address: IpAddr) {
        let banned: Vec<IpAddr> = self.banned(address).map(|(address, _)| address).collect();
        banned.into_iter().for_each(|address| self.withdraw(address));
        self.forget(address);
    }

    /// Forgets what is counted of an address.
    pub fn forget(&mut self, address: IpAddr) {
        self.remove(self.policy.key(address));
    }

    /// Forgets the ban of this very address, and what is counted of it.
    pub fn withdraw(&mut self, address: IpAddr) {
        let address = canonical(address);
        self.remove(self.policy.key(address));
        self.bans.withdraw(address);
    }

    /// The bans of those that are counted as one with this address, whether or not their time is over.
    pub fn banned(&self, address: IpAddr) -> impl Iterator<Item = (IpAddr, &OwnBan)> + '_ {
        self.bans.range(self.policy.counted_as_one(address))
    }

    /// The bans that were asked for.
    pub fn bans(&self) -> &OwnBans {
        &self.bans
    }

    /// The same, to be told what became of them.
    pub fn bans_mut(&mut self) -> &mut OwnBans {
        &mut self.bans
    }

    /// Goes on under another policy; what was counted stays. Where smaller IPv6 networks are told apart
    /// from now on, what was counted of larger ones is forgotten: nobody knows whose it was.
    pub fn set_policy(&mut self, policy: Policy) {
        let before = std::mem::replace(&mut self.policy, policy).ipv6_prefix;
        if before == self.policy.ipv6_prefix {
            return;
        }
        let is_moved = |address: &IpAddr| address.is_ipv6();
        let moved: Vec<IpAddr> = self.counters.keys().copied().filter(is_moved).collect();
        let counters: Vec<_> =
            moved.into_iter().filter_map(|address| Some((address, self.remove(address)?))).collect();
        if before > self.policy.ipv6_prefix {
            self.restore(counters);
        }
    }

    /// Takes over counters that were saved. Those that are counted as one now are added up.
    pub fn restore(&mut self, counters: impl IntoIterator<Item = (IpAddr, Counter)>) {
        for (address, counter) in counters {
            let key = self.policy.key(address);
            if key != address {
                // It is saved under its network from now on.
                self.changed.extend([key, address]);
            }
            self.touch(key);
            if let Some(own) = self.counters.get_mut(&key) {
                own.add(counter, self.policy.maxretry);
            }
        }
    }

    /// The counters that changed since the last call; `None` for an address no longer counted.
    pub fn take_changed(&mut self) -> Vec<(IpAddr, Option<Counter>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|address| (address, self.counters.get(&address).cloned())).collect()
    }

    /// Forgets addresses whose failures are all older than `findtime`, and bans that are over.
    pub fn sweep(&mut self, now: Timestamp) {
        let findtime = self.policy.findtime.signed();
        let stale: Vec<IpAddr> = self
            .counters
            .iter()
            .filter(|(_, counter)| {
                counter.times.last().is_none_or(|last| now.duration_since(*last) > findtime)
            })
            .map(|(address, _)| *address)
            .collect();
        for address in stale {
            self.remove(address);
        }
        self.bans.sweep(now);
    }

    /// What it counts and when it decides; its name is there too.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How many addresses and IPv6 networks are counted now.
    pub fn counted(&self) -> usize {
        self.counters.len()
    }

    /// Sums since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Marks an address or network as the most recently active, and makes room for it.
    fn touch(&mut self, key: IpAddr) {
        self.clock += 1;
        if !self.counters.contains_key(&key)
            && self.counters.len() >= self.policy.limit.max(1)
            && let Some((_, least)) = self.activity.pop_first()
        {
            self.counters.remove(&least);
            self.changed.insert(least);
            self.totals.dropped += 1;
        }
        let counter = self.counters.entry(key).or_default();
        self.activity.remove(&counter.touched);
        counter.touched = self.clock;
        self.activity.insert(self.clock, key);
    }

    fn remove(&mut self, key: IpAddr) -> Option<Counter> {
        let counter = self.counters.remove(&key)?;
        self.activity.remove(&counter.touched);
        self.changed.insert(key);
        Some(counter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(START + second).unwrap()
    }

    fn failure(address: &str, second: i64) -> Failure {
        let time = at(second);
        Failure {
            address: address.parse().unwrap(),
            time,
            weight: 1,
            port: None,
            evidence: Evidence::new(time, "test", "x"),
        }
    }

    fn jail() -> Jail {
        Jail::new(Policy::new("test".parse().unwrap()))
    }

    fn offends(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Offence(_))
    }

    #[test]
    fn different_ports_within_the_time_are_an_offence_and_one_port_tried_again_is_not() {
        let mut jail = jail();
        jail.policy = Policy { findtime: Seconds(60), ..jail.policy };
        let mut touch = |port: u16, second: i64| {
            jail.failure(Failure { port: Some(port), ..failure("192.0.2.1", second) }, at(second))
        };
        for second in 0..50 {
            assert_eq!(touch(23, second), Outcome::Counted(1), "at {second}");
        }
        assert_eq!(touch(22, 50), Outcome::Counted(2));
        // The first port was tried last at 49.
        assert!(matches!(touch(80, 109), Outcome::Offence(Offence { failures: 3, .. })));
        // Counted from zero again, and what is older than the time is forgotten.
        assert_eq!(touch(1, 120), Outcome::Counted(1));
        assert_eq!(touch(2, 150), Outcome::Counted(2));
        assert_eq!(touch(3, 185), Outcome::Counted(2));
        let counters =
            jail.take_changed().into_iter().filter_map(|(address, counter)| Some((address, counter?)));
        let saved: Vec<(IpAddr, Counter)> = counters
            .map(|(address, counter)| {
                (address, serde_json::from_str(&serde_json::to_string(&counter).unwrap()).unwrap())
            })
            .collect();
        let mut later = Jail::new(jail.policy.clone());
        later.restore(saved);
        let again = later.failure(Failure { port: Some(3), ..failure("192.0.2.1", 190) }, at(190));
        assert_eq!(again, Outcome::Counted(2));
    }

    #[test]
    fn a_large_maxretry_is_reached_and_its_memory_stays_small() {
        let mut jail = jail();
        jail.policy = Policy { maxretry: 5000, decay: true, ..jail.policy };
        for count in 1..5000 {
            let outcome = jail.failure(failure("192.0.2.1", count / 10), at(600));
            assert_eq!(outcome, Outcome::Counted(count as u32));
        }
        // The latest are kept, so that nobody is forgotten who goes on.
        assert_eq!(jail.counters.values().next().unwrap().times.len(), KEPT as usize);
        jail.sweep(at(499 + 600));
        assert_eq!(jail.counted(), 1);
        assert!(offends(&jail.failure(failure("192.0.2.1", 500), at(600))));
        let mut heavy = failure("192.0.2.1", 600);
        heavy.weight = u32::MAX;
        assert!(offends(&jail.failure(heavy, at(600))));
    }

    #[test]
    fn the_third_failure_in_ten_minutes_offends_and_bans_from_that_failure_on() {
        let mut jail = jail();
        assert_eq!(jail.failure(failure("192.0.2.1", 0), at(0)), Outcome::Counted(1));
        assert_eq!(jail.failure(failure("192.0.2.1", 300), at(300)), Outcome::Counted(2));
        let Outcome::Offence(offence) = jail.failure(failure("192.0.2.1", 600), at(601)) else {
            panic!("no offence")
        };
        assert_eq!((offence.time, offence.failures, offence.evidence.len()), (at(600), 3, 3));
        assert_eq!(offence.bantime, BanTime::For(Seconds(1800)));
        assert_eq!(jail.counted(), 0);
    }

    #[test]
    fn two_failures_or_three_in_eleven_minutes_do_nothing() {
        let mut jail = jail();
        for second in [0, 330, 660] {
            assert!(!offends(&jail.failure(failure("192.0.2.1", second), at(second))));
        }
        assert_eq!(jail.counted(), 1);
    }

    #[test]
    fn a_jail_that_decays_bans_whoever_fails_steadily_as_fail2ban_does() {
        // What fail2ban 1.0.2 bans of an address that fails every so many seconds, with 5 in 600.
        for (every, bans) in
            [(120, true), (150, true), (160, true), (171, true), (172, false), (300, false), (599, false)]
        {
            let mut jail = jail();
            jail.policy = Policy { maxretry: 5, decay: true, ..jail.policy };
            let offended = (0..50).any(|number| {
                let second = number * every;
                offends(&jail.failure(failure("192.0.2.1", second), at(second)))
            });
            assert_eq!(offended, bans, "every {every} s");
        }
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_same_offender() {
        let mut jail = jail();
        jail.failure(failure("::ffff:192.0.2.1", 0), at(0));
        jail.failure(failure("192.0.2.1", 1), at(1));
        assert!(offends(&jail.failure(failure("::ffff:192.0.2.1", 2), at(2))));
    }

    #[test]
    fn a_failure_of_long_ago_is_old_and_one_of_the_future_is_now() {
        let mut jail = jail();
        assert_eq!(jail.failure(failure("192.0.2.1", 0), at(601)), Outcome::Old);
        jail.failure(failure("192.0.2.1", 90_000), at(700));
        jail.failure(failure("192.0.2.1", 700), at(700));
        let Outcome::Offence(offence) = jail.failure(failure("192.0.2.1", 701), at(701)) else {
            panic!("no offence")
        };
        assert_eq!(offence.time, at(701));
    }

    #[test]
    fn a_flood_of_addresses_drops_the_least_active_and_counts_them() {
        let mut jail = jail();
        jail.policy.limit = 10;
        jail.failure(failure("192.0.2.1", 0), at(0));
        for host in 0..9 {
            jail.failure(failure(&format!("198.51.100.{host}"), 1), at(1));
        }
        jail.failure(failure("192.0.2.1", 2), at(2));
        for host in 0..9 {
            jail.failure(failure(&format!("203.0.113.{host}"), 3), at(3));
        }
        assert_eq!((jail.counted(), jail.totals().dropped), (10, 9));
        assert!(offends(&jail.failure(failure("192.0.2.1", 4), at(4))), "the active one was dropped");
    }

    #[test]
    fn saved_counters_go_on_where_they_stood() {
        let mut before = jail();
        before.failure(failure("192.0.2.1", 0), at(0));
        before.failure(failure("192.0.2.1", 1), at(1));
        let saved = before.take_changed();
        assert!(before.take_changed().is_empty());
        let json = serde_json::to_string(&saved).unwrap();
        let saved: Vec<(IpAddr, Option<Counter>)> = serde_json::from_str(&json).unwrap();
        let mut after = jail();
        after.restore(saved.into_iter().map(|(address, counter)| (address, counter.unwrap())));
        assert!(offends(&after.failure(failure("192.0.2.1", 2), at(2))));
        assert_eq!(after.take_changed(), [("192.0.2.1".parse().unwrap(), None)]);
    }

    #[test]
    fn whoever_has_a_64_is_counted_once_and_the_ban_is_of_the_address_last_seen() {
        let mut jail = jail();
        jail.failure(failure("2001:db8:0:1::1", 0), at(0));
        jail.failure(failure("2001:db8:0:2::1", 1), at(1));
        jail.failure(failure("2001:db8:0:1:ffff::", 1), at(1));
        assert_eq!(jail.counted(), 2);
        let Outcome::Offence(offence) = jail.failure(failure("2001:db8:0:1::7", 2), at(2)) else {
            panic!("no offence")
        };
        assert_eq!((offence.address.to_string().as_str(), offence.failures), ("2001:db8:0:1::7", 3));
        let any = "2001:db8:0:1::".parse().unwrap();
        assert_eq!(jail.banned(any).map(|(address, _)| address).collect::<Vec<_>>(), [offence.address]);
        jail.policy.ignore.insert("2001:db8:0:2::1/128".parse().unwrap());
        assert_eq!(jail.failure(failure("2001:db8:0:2::1", 3), at(3)), Outcome::Ignored);
        assert_eq!(jail.failure(failure("2001:db8:0:2::2", 3), at(3)), Outcome::Counted(2));
    }

    #[test]
    fn addresses_next_to_one_another_are_told_apart_at_128_and_in_ipv4() {
        let mut jail = jail();
        jail.policy.ipv6_prefix = 128;
        for host in ["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            assert_eq!(jail.failure(failure(host, 0), at(0)), Outcome::Counted(1));
        }
    }

    #[test]
    fn lifting_any_address_of_a_64_lifts_all_its_bans_and_withdrawing_only_one() {
        let mut jail = jail();
        jail.policy.maxretry = 1;
        let hosts = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::", "192.0.2.1"];
        for host in hosts {
            assert!(offends(&jail.failure(failure(host, 0), at(0))));
        }
        jail.bans_mut().take_changed();
        let all = || "0.0.0.0".parse().unwrap()..=IpAddr::from(Ipv6Addr::from_bits(u128::MAX));
        let left =
            |jail: &Jail| jail.bans.range(all()).map(|(address, _)| address.to_string()).collect::<Vec<_>>();
        jail.withdraw(hosts[1].parse().unwrap());
        assert_eq!(left(&jail), ["192.0.2.1", "2001:db8::1", "2001:db8::3", "2001:db8:0:1::"]);
        let any = "2001:db8::ffff:1".parse().unwrap();
        assert_eq!(jail.banned(any).count(), 2);
        jail.lift(any);
        assert_eq!(left(&jail), ["192.0.2.1", "2001:db8:0:1::"]);
        assert_eq!(jail.bans_mut().take_changed().iter().filter(|(_, fate)| *fate == Fate::Gone).count(), 3);
        jail.lift("::ffff:192.0.2.1".parse().unwrap());
        assert_eq!(left(&jail), ["2001:db8:0:1::"]);
    }

    #[test]
    fn counters_of_single_ipv6_addresses_from_before_are_added_up_and_saved_as_one() {
        let mut before = jail();
        before.policy.ipv6_prefix = 128;
        before.failure(failure("2001:db8::1", 1), at(1));
        before.failure(failure("2001:db8::2", 0), at(1));
        let saved = before.take_changed();
        let mut after = jail();
        after.restore(saved.into_iter().map(|(address, counter)| (address, counter.unwrap())));
        assert_eq!(after.counted(), 1);
        let changed: HashMap<IpAddr, bool> =
            after.take_changed().into_iter().map(|(address, counter)| (address, counter.is_some())).collect();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let expected = [("2001:db8::1", false), ("2001:db8::2", false), ("2001:db8::", true)]
            .map(|(text, is)| (address(text), is));
        assert_eq!(changed, HashMap::from(expected));
        let Outcome::Offence(offence) = after.failure(failure("2001:db8::3", 2), at(2)) else {
            panic!("no offence")
        };
        let seen: Vec<_> = offence.evidence.iter().map(|evidence| evidence.time).collect();
        assert_eq!(seen, [at(0), at(1), at(2)]);
    }

    #[test]
    fn another_ipv6_prefix_keeps_what_it_can_tell() {
        let with = |jail: &Jail, ipv6_prefix| Policy { ipv6_prefix, ..jail.policy.clone() };
        let mut jail = jail();
        jail.set_policy(with(&jail, 128));
        for host in ["2001:db8::1", "2001:db8::2", "192.0.2.1"] {
            jail.failure(failure(host, 0), at(0));
        }
        jail.set_policy(with(&jail, 64));
        assert_eq!(jail.counted(), 2);
        assert!(offends(&jail.failure(failure("2001:db8::9", 1), at(1))));
        jail.failure(failure("2001:db8::9", 2), at(2));
        jail.set_policy(with(&jail, 128));
        assert_eq!(jail.counted(), 1, "whose failures the network's were is not known");
        assert_eq!(jail.failure(failure("192.0.2.1", 3), at(3)), Outcome::Counted(2));
    }

    /// Says whether the newest failure offends, from the whole history since the last offence.
    fn naive(history: &mut Vec<i64>, second: i64, findtime: i64, maxretry: usize) -> bool {
        history.push(second);
        let latest = *history.iter().max().unwrap();
        history.retain(|then| latest - then <= findtime);
        let offends = history.len() >= maxretry;
        if offends {
            history.clear();
        }
        offends
    }

    proptest! {
        #[test]
        fn ipv6_addresses_count_as_their_network_would(
            prefix in 64u8..=128,
            steps in prop::collection::vec((0u8..3, 0u32..200, any::<u64>(), 0i64..200), 1..200),
        ) {
            let mut seen = jail();
            seen.policy.ipv6_prefix = prefix;
            let mut masked = jail();
            masked.policy.ipv6_prefix = 128;
            let mut now = 0;
            for (network, bit, low, pause) in steps {
                now += pause;
                let bits = (0x2001_0db8 << 96) | (u128::from(network) << 64) | u128::from(low >> (bit % 64));
                let network = ipnet::Ipv6Net::new(Ipv6Addr::from_bits(bits), prefix).unwrap().trunc();
                let one = seen.failure(failure(&Ipv6Addr::from_bits(bits).to_string(), now), at(now));
                let other = masked.failure(failure(&network.addr().to_string(), now), at(now));
                prop_assert_eq!(offends(&one), offends(&other));
                prop_assert_eq!(seen.counted(), masked.counted());
                if let Outcome::Offence(offence) = one {
                    prop_assert_eq!(offence.address, IpAddr::from(Ipv6Addr::from_bits(bits)));
                    prop_assert!(seen.banned(network.broadcast().into()).any(|(other, _)| other == offence.address));
                }
            }
        }

        #[test]
        fn the_jail_agrees_with_a_naive_model(
            steps in prop::collection::vec((0u8..4, 0i64..200, -300i64..30), 1..300),
            maxretry in 1u32..6,
            findtime in 1u64..900,
        ) {
            let mut jail = jail();
            jail.policy.maxretry = maxretry;
            jail.policy.findtime = Seconds(findtime);
            let mut model: HashMap<u8, Vec<i64>> = HashMap::new();
            let mut now = 0;
            for (host, pause, skew) in steps {
                now += pause;
                let second = now + skew;
                let outcome = jail.failure(failure(&format!("192.0.2.{host}"), second), at(now));
                let old = now - second > findtime.cast_signed();
                prop_assert!(!old || outcome == Outcome::Old);
                if !old {
                    let history = model.entry(host).or_default();
                    let expected = naive(history, second, findtime.cast_signed(), maxretry as usize);
                    prop_assert_eq!(offends(&outcome), expected);
                }
            }
        }
    }
}
