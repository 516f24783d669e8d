//! What is banned as a whole and held in parts: a ban of a network stands, and the allow list keeps some of its addresses
//! reachable. The ledger keeps the ban as it was made; routers hold the rest of the network around those addresses. When
//! the allow list lets them go, the network is whole again.
//!
//! For example, 192.0.2.0/24 is banned and 192.0.2.7 is allowed. Routers hold eight entries in the place of one: 192.0.2.0/30,
//! 192.0.2.4/31, 192.0.2.6, 192.0.2.8/29, 192.0.2.16/28, 192.0.2.32/27, 192.0.2.64/26 and 192.0.2.128/25.
//!
//! A part may be the prefix of another ban, or a part of several: routers then hold the one that ends last. Entries are
//! changed in an order that leaves no hole: first what covers, then what was covered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::widen::Entries;
use crate::desired::{Desired, Wanted};

/// The most entries that stand for one ban. One that would need more is lifted.
pub const MOST_PARTS: usize = 4096;

/// What routers are to hold: [`Desired`], of which some bans are there in parts.
#[derive(Debug)]
pub(super) struct Cuts {
    desired: Arc<Desired>,
    /// The bans that are held in parts.
    wholes: BTreeMap<IpNet, CutBan>,
    /// The parts of all of them.
    parts: BTreeMap<IpNet, CutPart>,
}

#[derive(Debug)]
struct CutBan {
    wanted: Wanted,
    parts: Vec<IpNet>,
}

#[derive(Debug, Default)]
struct CutPart {
    /// The bans that it is a part of; of all others there is none but its own.
    of: BTreeSet<IpNet>,
    /// The ban of exactly this prefix.
    own: Option<Wanted>,
}

/// What is left of a network without some others, in order and as the fewest prefixes; `None` where that is more than so
/// many. Without one address it is as many as the network's length is short of an address's: 8 of an IPv4 /24.
pub fn rest_of(network: IpNet, without: &[IpNet], most: usize) -> Option<Vec<IpNet>> {
    let mut rest = Vec::new();
    gather(network, without, most, &mut rest).then_some(rest)
}

/// Whether it stays within the most.
fn gather(network: IpNet, without: &[IpNet], most: usize, rest: &mut Vec<IpNet>) -> bool {
    if without.iter().any(|hole| hole.contains(&network)) {
        return true;
    }
    let within: Vec<IpNet> = without.iter().copied().filter(|hole| network.contains(hole)).collect();
    if within.is_empty() {
        rest.push(network);
        return rest.len() <= most;
    }
    // A network that holds another is no single address, so that it has halves.
    network
        .subnets(network.prefix_len() + 1)
        .is_ok_and(|mut halves| halves.all(|half| gather(half, &within, most, rest)))
}

// === impl Cuts ===

impl Cuts {
    /// Of bans that are all whole.
    pub fn new(desired: Arc<Desired>) -> Self {
        Self { desired, wholes: BTreeMap::new(), parts: BTreeMap::new() }
    }

    /// What routers are to hold, for bans that are loaded at the start, before anything is cut.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Goes on with what was made anew apart from this. Routers are told the difference alone.
    pub fn replace(&mut self, anew: Self) {
        let mut entries = BTreeMap::new();
        anew.desired.each(|prefix, until, label| {
            entries.insert(prefix, Wanted { until, label: Arc::clone(label) });
        });
        self.desired.replace(entries);
        (self.wholes, self.parts) = (anew.wholes, anew.parts);
    }

    /// Holds a ban in the parts that are left without these networks, or as a whole where none of them is in it. `false`,
    /// with all as it was, where that would be more than [`MOST_PARTS`] entries.
    pub fn cut(&mut self, prefix: IpNet, without: &[IpNet]) -> bool {
        let Some(wanted) = self.get(prefix) else { return true };
        let Some(parts) = rest_of(prefix, without, MOST_PARTS) else { return false };
        if parts == [prefix] {
            if let Some(before) = self.wholes.remove(&prefix) {
                self.set(prefix, wanted);
                self.release(prefix, &before.parts);
            }
            return true;
        }
        let before = self.wholes.insert(prefix, CutBan { wanted, parts: parts.clone() });
        for part in &parts {
            let own = self.desired.get(*part).filter(|_| !self.parts.contains_key(part));
            let shared = self.parts.entry(*part).or_insert_with(|| CutPart { own, ..CutPart::default() });
            shared.of.insert(prefix);
            self.publish(*part);
        }
        match before {
            Some(before) => {
                let gone: Vec<IpNet> =
                    before.parts.into_iter().filter(|part| parts.binary_search(part).is_err()).collect();
                self.release(prefix, &gone);
            }
            // Until now it was whole.
            None => match self.parts.get_mut(&prefix) {
                Some(shared) => {
                    shared.own = None;
                    self.publish(prefix);
                }
                None => self.desired.remove(prefix),
            },
        }
        true
    }

    /// The parts in which a ban is held; `None` where it is whole.
    pub fn parts_of(&self, prefix: IpNet) -> Option<&[IpNet]> {
        self.wholes.get(&prefix).map(|cut| cut.parts.as_slice())
    }

    /// The prefix by which routers hold an address or a network for a ban: the ban's own, or the part of it.
    pub fn held_as(&self, ban: IpNet, prefix: IpNet) -> Option<IpNet> {
        match self.wholes.get(&ban) {
            None => Some(ban),
            Some(cut) => cut.parts.iter().copied().find(|part| part.contains(&prefix)),
        }
    }

    /// Takes a ban off its parts.
    fn release(&mut self, prefix: IpNet, parts: &[IpNet]) {
        for part in parts {
            if let Some(shared) = self.parts.get_mut(part) {
                shared.of.remove(&prefix);
            }
            self.publish(*part);
        }
    }

    /// Makes of a part what its bans ask for, and forgets that it is one where it is none any more.
    fn publish(&mut self, part: IpNet) {
        let Some(shared) = self.parts.get(&part) else { return };
        let of = shared.of.iter().filter_map(|ban| Some(&self.wholes.get(ban)?.wanted));
        let wanted = of.chain(&shared.own).max_by_key(|wanted| wanted.until).cloned();
        if shared.of.is_empty() {
            self.parts.remove(&part);
        }
        match wanted {
            Some(wanted) if self.desired.get(part).as_ref() != Some(&wanted) => {
                self.desired.set(part, wanted);
            }
            Some(_) => {}
            None => self.desired.remove(part),
        }
    }
}

impl Entries for Cuts {
    fn get(&self, prefix: IpNet) -> Option<Wanted> {
        if let Some(cut) = self.wholes.get(&prefix) {
            return Some(cut.wanted.clone());
        }
        match self.parts.get(&prefix) {
            Some(shared) => shared.own.clone(),
            None => self.desired.get(prefix),
        }
    }

    fn set(&mut self, prefix: IpNet, entry: Wanted) {
        if let Some(cut) = self.wholes.get_mut(&prefix) {
            cut.wanted = entry;
            for part in cut.parts.clone() {
                self.publish(part);
            }
        } else if let Some(shared) = self.parts.get_mut(&prefix) {
            shared.own = Some(entry);
            self.publish(prefix);
        } else {
            self.desired.set(prefix, entry);
        }
    }

    fn remove(&mut self, prefix: IpNet) {
        if let Some(cut) = self.wholes.remove(&prefix) {
            self.release(prefix, &cut.parts);
        } else if let Some(shared) = self.parts.get_mut(&prefix) {
            shared.own = None;
            self.publish(prefix);
        } else {
            self.desired.remove(prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::desired::{Label, Moment};

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn texts(networks: &[IpNet]) -> Vec<String> {
        networks.iter().map(ToString::to_string).collect()
    }

    /// Networks of few addresses, so that every one of them can be looked at.
    fn small() -> impl Strategy<Value = IpNet> {
        let ipv4 = (0..64_u32, 26..=32_u8).prop_map(|(low, length)| {
            IpNet::new(IpAddr::V4(Ipv4Addr::from_bits(0xC000_0200 | low)), length).unwrap()
        });
        let ipv6 = (0..64_u128, 122..=128_u8).prop_map(|(low, length)| {
            IpNet::new(IpAddr::V6(Ipv6Addr::from_bits(0x2001_0DB8 << 96 | low)), length).unwrap()
        });
        prop_oneof![ipv4, ipv6].prop_map(|network| network.trunc())
    }

    fn addresses() -> impl Iterator<Item = IpAddr> {
        let ipv4 = (0..64_u32).map(|low| IpAddr::V4(Ipv4Addr::from_bits(0xC000_0200 | low)));
        ipv4.chain((0..64_u128).map(|low| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0DB8 << 96 | low))))
    }

    #[test]
    fn without_one_address_a_24_is_eight_entries_and_a_64_is_sixty_four() {
        let rest = rest_of(net("192.0.2.0/24"), &[net("192.0.2.7/32")], 8).unwrap();
        let expected = [
            "192.0.2.0/30",
            "192.0.2.4/31",
            "192.0.2.6/32",
            "192.0.2.8/29",
            "192.0.2.16/28",
            "192.0.2.32/27",
            "192.0.2.64/26",
            "192.0.2.128/25",
        ];
        assert_eq!(texts(&rest), expected);
        assert_eq!(rest_of(net("192.0.2.0/24"), &[net("192.0.2.7/32")], 7), None);
        assert_eq!(rest_of(net("2001:db8::/64"), &[net("2001:db8::7/128")], 64).unwrap().len(), 64);
        assert_eq!(rest_of(net("0.0.0.0/0"), &[net("192.0.2.7/32")], 32).unwrap().len(), 32);
        assert_eq!(rest_of(net("192.0.2.0/24"), &[net("0.0.0.0/0")], 8), Some(Vec::new()));
        assert_eq!(rest_of(net("192.0.2.0/24"), &[net("2001:db8::/32")], 8), Some(vec![net("192.0.2.0/24")]));
    }

    proptest! {
        #[test]
        fn the_rest_covers_each_address_once_that_is_left_and_no_other(
            network in small(),
            without in prop::collection::vec(small(), 0..4),
        ) {
            let rest = rest_of(network, &without, 1000).unwrap();
            for address in addresses() {
                let left = network.contains(&address) && !without.iter().any(|hole| hole.contains(&address));
                let covering = rest.iter().filter(|part| part.contains(&address)).count();
                prop_assert_eq!(covering, usize::from(left), "{}", address);
            }
            // No two of them are the halves of one: there is no way with fewer.
            prop_assert_eq!(IpNet::aggregate(&rest).len(), rest.len());
            prop_assert!(rest.is_sorted());
        }

        /// Against a list of bans and of holes: what routers hold of an address is the latest end of the bans of it,
        /// unless it is in a hole of theirs.
        #[test]
        fn whatever_is_set_removed_and_cut_each_address_is_held_as_long_as_its_bans_say(
            steps in prop::collection::vec((small(), 0..4_u8, 1..5_i64), 1..30),
        ) {
            let mut cuts = Cuts::new(Arc::new(Desired::new()));
            let (mut bans, mut holes): (BTreeMap<IpNet, i64>, BTreeSet<IpNet>) = Default::default();
            for (network, step, end) in steps {
                match step {
                    0 | 1 if !holes.iter().any(|hole| hole.contains(&network) || network.contains(hole)) => {
                        bans.insert(network, end);
                        let until = Moment::from(jiff::Timestamp::from_second(end).unwrap());
                        cuts.set(network, Wanted { until, label: Label::test("x") });
                    }
                    2 => {
                        bans.remove(&network);
                        cuts.remove(network);
                    }
                    3 => {
                        if !holes.remove(&network) {
                            holes.insert(network);
                            bans.retain(|ban, _| {
                                let within = network.contains(ban);
                                if within {
                                    cuts.remove(*ban);
                                }
                                !within
                            });
                        }
                        let without: Vec<IpNet> = holes.iter().copied().collect();
                        for ban in bans.keys().filter(|ban| ban.contains(&network)) {
                            prop_assert!(cuts.cut(*ban, &without));
                        }
                    }
                    _ => {}
                }
                for (ban, end) in &bans {
                    let kept = cuts.get(*ban).and_then(|wanted| wanted.until.timestamp());
                    prop_assert_eq!(kept.map(jiff::Timestamp::as_second), Some(*end));
                }
                let mut held: Vec<(IpNet, i64)> = Vec::new();
                cuts.desired().each(|prefix, until, _| held.push((prefix, until.timestamp().unwrap().as_second())));
                for address in addresses() {
                    let longest = |all: &mut dyn Iterator<Item = (IpNet, i64)>| {
                        all.filter(|(prefix, _)| prefix.contains(&address)).map(|(_, end)| end).max()
                    };
                    let spared = holes.iter().any(|hole| hole.contains(&address));
                    let expected = longest(&mut bans.iter().map(|(ban, end)| (*ban, *end))).filter(|_| !spared);
                    prop_assert_eq!(longest(&mut held.iter().copied()), expected, "{}", address);
                }
            }
        }
    }
}
