//! Addresses and networks: the form in which they are compared, and a set of banned ones that takes few bytes a
//! member and knows which of them touch a network. Single IPv4 addresses and the unit in which IPv6 is banned
//! are nearly all there is; the rest is kept as it is.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

pub mod json;

/// The set; all prefixes in their canonical form.
#[derive(Debug)]
pub struct Prefixes {
    /// How long an IPv6 prefix is that counts as one offender, in bits.
    unit: u8,
    ipv4: BTreeSet<u32>,
    ipv6: BTreeSet<u128>,
    others: BTreeSet<IpNet>,
}

// === impl Prefixes ===

impl Prefixes {
    /// An empty set; IPv6 offenders are prefixes of so many bits, at most 128.
    pub fn new(unit: u8) -> Self {
        let (ipv4, ipv6, others) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Self { unit: unit.min(128), ipv4, ipv6, others }
    }

    /// Adds a prefix; whether it is new.
    pub fn insert(&mut self, prefix: IpNet) -> bool {
        match prefix.network() {
            IpAddr::V4(address) if prefix.prefix_len() == 32 => self.ipv4.insert(address.to_bits()),
            IpAddr::V6(address) if prefix.prefix_len() == self.unit => self.ipv6.insert(address.to_bits()),
            _ => self.others.insert(prefix),
        }
    }

    /// Takes a prefix out; whether it was there.
    pub fn remove(&mut self, prefix: IpNet) -> bool {
        match prefix.network() {
            IpAddr::V4(address) if prefix.prefix_len() == 32 => self.ipv4.remove(&address.to_bits()),
            IpAddr::V6(address) if prefix.prefix_len() == self.unit => self.ipv6.remove(&address.to_bits()),
            _ => self.others.remove(&prefix),
        }
    }

    /// Whether exactly this prefix is in the set.
    pub fn contains(&self, prefix: IpNet) -> bool {
        match prefix.network() {
            IpAddr::V4(address) if prefix.prefix_len() == 32 => self.ipv4.contains(&address.to_bits()),
            IpAddr::V6(address) if prefix.prefix_len() == self.unit => self.ipv6.contains(&address.to_bits()),
            _ => self.others.contains(&prefix),
        }
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len() + self.others.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What one IPv6 or IPv4 offender is banned by: the address of IPv4, the unit around one of IPv6.
    pub fn unit_of(&self, address: IpAddr) -> IpNet {
        unit_of(address, self.unit)
    }

    /// The prefixes that come after one of them, which may be gone, or all: single IPv4 addresses, then IPv6 units, then
    /// the others, each in their order.
    pub fn after(&self, last: Option<IpNet>) -> impl Iterator<Item = IpNet> + '_ {
        let (mut ipv4, mut ipv6, mut others) = (Bound::Unbounded, Bound::Unbounded, Bound::Unbounded);
        if let Some(last) = last {
            ipv4 = Bound::Excluded(u32::MAX);
            match last.network() {
                IpAddr::V4(address) if last.prefix_len() == 32 => ipv4 = Bound::Excluded(address.to_bits()),
                IpAddr::V6(address) if last.prefix_len() == self.unit => {
                    ipv6 = Bound::Excluded(address.to_bits());
                }
                _ => (ipv6, others) = (Bound::Excluded(u128::MAX), Bound::Excluded(last)),
            }
        }
        let ipv4 = self.ipv4.range((ipv4, Bound::Unbounded));
        let ipv6 = self.ipv6.range((ipv6, Bound::Unbounded));
        ipv4.map(|bits| IpNet::from(IpAddr::V4(Ipv4Addr::from_bits(*bits))))
            .chain(ipv6.map(|bits| self.unit_of(Ipv6Addr::from_bits(*bits).into())))
            .chain(self.others.range((others, Bound::Unbounded)).copied())
    }

    /// What is neither a single IPv4 address nor an IPv6 unit.
    pub fn others(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.others.iter().copied()
    }

    /// The offenders (single IPv4 addresses, IPv6 units) within a network, in their order.
    pub fn within(&self, network: IpNet) -> Box<dyn Iterator<Item = IpNet> + '_> {
        match (network.network(), network.broadcast()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Box::new(
                self.ipv4
                    .range(first.to_bits()..=last.to_bits())
                    .map(|bits| IpNet::from(IpAddr::V4(Ipv4Addr::from_bits(*bits)))),
            ),
            (IpAddr::V6(first), IpAddr::V6(last)) if network.prefix_len() <= self.unit => Box::new(
                self.ipv6
                    .range(first.to_bits()..=last.to_bits())
                    .map(|bits| self.unit_of(Ipv6Addr::from_bits(*bits).into())),
            ),
            _ => Box::new(std::iter::empty()),
        }
    }

    /// All prefixes that share an address with a network, each once.
    pub fn touching(&self, network: IpNet) -> Vec<IpNet> {
        // A unit may be larger than the network.
        let around = Some(self.unit_of(network.addr()))
            .filter(|unit| unit.prefix_len() < network.prefix_len() && self.contains(*unit));
        let overlaps = |other: &IpNet| other.contains(&network) || network.contains(other);
        self.within(network).chain(around).chain(self.others.iter().copied().filter(overlaps)).collect()
    }
}

/// What one offender is banned by: an IPv4 address alone, an IPv6 one as the prefix of so many bits.
pub fn unit_of(address: IpAddr, unit: u8) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::from(address),
        IpAddr::V6(v6) => Ipv6Net::new(v6, unit).map_or(IpNet::from(address), IpNet::V6).trunc(),
    }
}

/// IPv4 or IPv6: each has an address-list table of its own on a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `ip` in RouterOS's paths.
    V4,
    /// `ipv6` in RouterOS's paths.
    V6,
}

/// The lengths of the networks that many bans may become one of, in bits.
const IPV4_NETWORK: u8 = 24;
const IPV6_NETWORK: u8 = 48;

// === impl Family ===

impl Family {
    /// The family of a prefix.
    pub const fn of(prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// `0` for IPv4, `1` for IPv6: the place in arrays of both.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A prefix as it is compared here and on the router: host bits cleared, an IPv4-mapped one, and one behind NAT64's
/// well-known prefix, as IPv4.
pub fn canonical(prefix: IpNet) -> IpNet {
    atalaya_wire::canonical_network(prefix)
}

/// As people and JSON have it: an address without its length, a network with it.
pub fn written(prefix: IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    }
}

/// How long the prefix of the network is that a prefix may be widened to.
pub const fn network_length(prefix: IpNet) -> u8 {
    match prefix {
        IpNet::V4(_) => IPV4_NETWORK,
        IpNet::V6(_) => IPV6_NETWORK,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixes() -> impl Strategy<Value = IpNet> {
        let ipv4 = (0..64_u32, 24..=32_u8).prop_map(|(low, length)| {
            IpNet::new(IpAddr::V4(Ipv4Addr::from_bits(0xC000_0200 | low)), length).unwrap()
        });
        let ipv6 = (0..4_u128, 0..4_u128, prop::sample::select(vec![48, 62, 64, 65, 128])).prop_map(
            |(subnet, host, length)| {
                let bits = 0x2001_0DB8_0000_0000_u128 << 64 | subnet << 64 | host;
                IpNet::new(IpAddr::V6(Ipv6Addr::from_bits(bits)), length).unwrap()
            },
        );
        prop_oneof![ipv4, ipv6].prop_map(|prefix| prefix.trunc())
    }

    proptest! {
        #[test]
        fn it_is_a_set_that_finds_what_touches_a_network(
            added in prop::collection::vec(prefixes(), 0..40),
            removed in prop::collection::vec(prefixes(), 0..40),
            network in prefixes(),
        ) {
            let (mut set, mut plain) = (Prefixes::new(64), BTreeSet::new());
            for prefix in added {
                prop_assert_eq!(set.insert(prefix), plain.insert(prefix));
            }
            for prefix in removed {
                prop_assert_eq!(set.contains(prefix), plain.contains(&prefix));
                prop_assert_eq!(set.remove(prefix), plain.remove(&prefix));
            }
            prop_assert_eq!(set.len(), plain.len());
            let overlaps = |other: &&IpNet| other.contains(&network) || network.contains(*other);
            let expected: Vec<IpNet> = plain.iter().filter(overlaps).copied().collect();
            let mut found = set.touching(network);
            found.sort();
            prop_assert_eq!(found, expected);
            let all: Vec<IpNet> = set.after(None).collect();
            prop_assert_eq!(all.iter().copied().collect::<BTreeSet<_>>(), plain);
            for (place, last) in all.iter().enumerate() {
                set.remove(*last);
                let after: Vec<IpNet> = set.after(Some(*last)).collect();
                set.insert(*last);
                prop_assert_eq!(&after, &all[place + 1..]);
            }
        }
    }
}
