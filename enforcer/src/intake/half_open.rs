//! Who holds a place while nobody knows yet who it is: connections on which no request was authenticated. Plain
//! bookkeeping: which of them has to go when another comes.
//!
//! A newcomer is never turned away for those that are here already; of the crowd that has no place left, the oldest
//! goes that has said nothing, or else the oldest. So whoever opens connections in numbers ends their own: the crowds
//! are an IPv4 address or IPv6 /64, a /56, a /48, and all strangers together.
//!
//! Addresses from which sensors came before have places of their own, which no stranger's connection takes. Two
//! thousand sensors behind one address are one such address, and may all be here at once; where these places are
//! taken too, the address goes without one that has the most.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// The bounds on connections that nobody has authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfOpenLimits {
    /// The most connections of strangers at once.
    pub strangers: usize,
    /// The most of them from one IPv4 address or IPv6 /64. A /56 may have twice, a /48 four times as many.
    pub strangers_of_one: usize,
    /// The most from addresses of sensors.
    pub known: usize,
}

/// The connections that nobody has authenticated; each has a number, which grows.
#[derive(Debug)]
pub(super) struct HalfOpen {
    limits: HalfOpenLimits,
    next: u64,
    members: BTreeMap<u64, Member>,
    /// By crowd: who has said something, then by age.
    crowds: HashMap<Crowd, BTreeSet<(bool, u64)>>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    address: IpAddr,
    is_known: bool,
    has_spoken: bool,
}

/// Who shares places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Crowd {
    Strangers,
    Network(Ipv6Addr, u8),
    Host(IpAddr),
    Known,
    KnownHost(IpAddr),
}

// === impl HalfOpen ===

impl HalfOpen {
    pub fn new(limits: HalfOpenLimits) -> Self {
        Self { limits, next: 0, members: BTreeMap::new(), crowds: HashMap::new() }
    }

    /// Has so many places from here on. Who has one keeps it.
    pub fn set_limits(&mut self, limits: HalfOpenLimits) {
        self.limits = limits;
    }

    /// Gives a newcomer a place; its number, and that of the connection that has to go for it.
    pub fn enter(&mut self, address: IpAddr, is_known: bool) -> (u64, Option<u64>) {
        let member = Member { address, is_known, has_spoken: false };
        let full = member.crowds().find(|crowd| self.count(*crowd) >= self.limit(*crowd));
        let goes = full.and_then(|crowd| self.first_to_go(crowd));
        if let Some(goes) = goes {
            self.leave(goes);
        }
        let number = self.next;
        self.next += 1;
        self.members.insert(number, member);
        for crowd in member.crowds() {
            self.crowds.entry(crowd).or_default().insert((false, number));
        }
        (number, goes)
    }

    /// Takes note that a whole request came over a connection.
    pub fn spoke(&mut self, number: u64) {
        let Some(member) = self.members.get_mut(&number).filter(|member| !member.has_spoken) else { return };
        member.has_spoken = true;
        for crowd in member.crowds() {
            if let Some(crowd) = self.crowds.get_mut(&crowd) {
                crowd.remove(&(false, number));
                crowd.insert((true, number));
            }
        }
    }

    /// Gives a place back; nothing where it was taken before.
    pub fn leave(&mut self, number: u64) {
        let Some(member) = self.members.remove(&number) else { return };
        for crowd in member.crowds() {
            if let Some(members) = self.crowds.get_mut(&crowd) {
                members.remove(&(member.has_spoken, number));
                if members.is_empty() {
                    self.crowds.remove(&crowd);
                }
            }
        }
    }

    /// How many strangers there are.
    pub fn strangers(&self) -> usize {
        self.count(Crowd::Strangers)
    }

    /// The IPv4 address or IPv6 /64 with the most strangers, and how many.
    pub fn most_of_one(&self) -> Option<(IpAddr, usize)> {
        let hosts = self.crowds.iter().filter_map(|(crowd, members)| match crowd {
            Crowd::Host(address) => Some((*address, members.len())),
            _ => None,
        });
        hosts.max_by_key(|(_, count)| *count)
    }

    fn count(&self, crowd: Crowd) -> usize {
        self.crowds.get(&crowd).map_or(0, BTreeSet::len)
    }

    fn limit(&self, crowd: Crowd) -> usize {
        let HalfOpenLimits { strangers, strangers_of_one, known } = self.limits;
        let limit = match crowd {
            Crowd::Strangers => strangers,
            Crowd::Host(_) => strangers_of_one,
            Crowd::Network(_, 56) => 2 * strangers_of_one,
            Crowd::Network(..) => 4 * strangers_of_one,
            Crowd::Known => known,
            // One address may have all of them.
            Crowd::KnownHost(_) => usize::MAX,
        };
        limit.max(1)
    }

    fn first_to_go(&self, crowd: Crowd) -> Option<u64> {
        let crowd = match crowd {
            Crowd::Known => self.largest_known_host()?,
            other => other,
        };
        self.crowds.get(&crowd)?.first().map(|(_, number)| *number)
    }

    fn largest_known_host(&self) -> Option<Crowd> {
        let hosts = self.crowds.iter().filter(|(crowd, _)| matches!(crowd, Crowd::KnownHost(_)));
        hosts.max_by_key(|(_, members)| members.len()).map(|(crowd, _)| *crowd)
    }
}

// === impl Member ===

impl Member {
    /// The crowds, from the narrowest to the widest.
    fn crowds(self) -> impl Iterator<Item = Crowd> {
        let host = origin(self.address);
        let crowds = match (self.is_known, host) {
            (true, _) => [Some(Crowd::KnownHost(host)), Some(Crowd::Known), None, None],
            (false, IpAddr::V4(_)) => [Some(Crowd::Host(host)), Some(Crowd::Strangers), None, None],
            (false, IpAddr::V6(v6)) => [
                Some(Crowd::Host(host)),
                Some(Crowd::Network(cut(v6, 56), 56)),
                Some(Crowd::Network(cut(v6, 48), 48)),
                Some(Crowd::Strangers),
            ],
        };
        crowds.into_iter().flatten()
    }
}

/// The address, or the /64 of an IPv6 one: that is what one host has.
pub(super) fn origin(address: IpAddr) -> IpAddr {
    match atalaya_wire::canonical(address) {
        IpAddr::V6(v6) => IpAddr::V6(cut(v6, 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The network of so many bits, 1 to 127, around an address.
fn cut(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    let rest = 128 - bits;
    Ipv6Addr::from(u128::from(address) >> rest << rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HalfOpenLimits = HalfOpenLimits { strangers: 9, strangers_of_one: 2, known: 3 };

    fn enter(half_open: &mut HalfOpen, address: &str) -> (u64, Option<u64>) {
        half_open.enter(address.parse().unwrap(), false)
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_of_its_own_network_that_has_said_nothing() {
        let mut half_open = HalfOpen::new(LIMITS);
        let (other, _) = enter(&mut half_open, "192.0.2.1");
        let (first, _) = enter(&mut half_open, "2001:db8::1");
        let (second, _) = enter(&mut half_open, "2001:db8::ffff:2");
        half_open.spoke(first);
        assert_eq!(enter(&mut half_open, "2001:db8::3").1, Some(second), "the third of one /64");
        assert_eq!(enter(&mut half_open, "2001:db8:0:1::3").1, None, "another /64");
        assert_eq!(enter(&mut half_open, "2001:db8:0:1::4").1, None);
        assert_eq!(enter(&mut half_open, "2001:db8:0:2::3").1, Some(3), "the fifth of one /56");
        half_open.leave(first);
        assert_eq!(enter(&mut half_open, "2001:db8:0:3::3").1, None);
        for place in 0..4 {
            enter(&mut half_open, &format!("2001:db8:0:10{place}::1"));
        }
        assert_eq!(half_open.count(Crowd::Network("2001:db8::".parse().unwrap(), 48)), 8);
        assert!(enter(&mut half_open, "2001:db8:0:900::1").1.is_some(), "the ninth of one /48");
        assert!(half_open.members.contains_key(&other));
    }

    #[test]
    fn strangers_take_no_place_of_an_address_of_sensors_and_those_share_theirs() {
        let mut half_open = HalfOpen::new(LIMITS);
        for host in 1..=9 {
            assert_eq!(enter(&mut half_open, &format!("192.0.2.{host}")).1, None);
        }
        assert_eq!(enter(&mut half_open, "192.0.2.10").1, Some(0), "the oldest of all strangers");
        let fleet: IpAddr = "198.51.100.1".parse().unwrap();
        let known: Vec<_> = (0..3).map(|_| half_open.enter(fleet, true)).collect();
        assert!(known.iter().all(|(_, goes)| goes.is_none()), "one address may have all that sensors have");
        assert_eq!(half_open.enter("198.51.100.2".parse().unwrap(), true).1, Some(known[0].0));
        assert_eq!((half_open.strangers(), half_open.most_of_one().unwrap().1), (9, 1));
    }

    proptest! {
        #[test]
        fn every_newcomer_gets_in_no_crowd_outgrows_its_limit_and_nothing_is_left_behind(
            events in prop::collection::vec((0..6_u8, 0..6_u8, any::<bool>(), 0..4_u8), 0..200),
        ) {
            let mut half_open = HalfOpen::new(LIMITS);
            let mut inside: BTreeSet<u64> = BTreeSet::new();
            for (network, host, known, then) in events {
                let text = if network < 3 { format!("192.0.{network}.{host}") }
                    else { format!("2001:db8:0:{network}{host}::1") };
                let (number, goes) = half_open.enter(text.parse().unwrap(), known);
                if let Some(goes) = goes {
                    prop_assert!(inside.remove(&goes), "{goes} was not there");
                }
                inside.insert(number);
                let oldest = inside.first().copied().unwrap_or(number);
                match then {
                    0 => half_open.spoke(oldest),
                    1 => { half_open.leave(oldest); inside.remove(&oldest); }
                    _ => {}
                }
                for crowd in half_open.crowds.keys() {
                    prop_assert!(half_open.count(*crowd) <= half_open.limit(*crowd), "{crowd:?}");
                }
                prop_assert!(half_open.members.keys().eq(inside.iter()));
            }
            for number in inside {
                half_open.leave(number);
            }
            prop_assert!(half_open.crowds.is_empty());
        }
    }
}
