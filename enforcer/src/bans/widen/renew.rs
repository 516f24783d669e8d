//! Other settings for bans that stand: taken up at once, and brought about ban by ban and network by network, so that
//! others can decide in between. Where all was gone through once, in order, it is what a start with these settings makes.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Entries, Kept, Wide, Widen, WidenConfig};
use crate::desired::{Label, Wanted};

/// More than can be banned: no network is wide any more, and those that are become narrow when they are weighed.
const NEVER: usize = usize::MAX;

// === impl Widen ===

impl Widen {
    /// Goes on by other settings, of the same unit of IPv6. Networks are weighed by them from now on; each is to be renewed
    /// once, with [`Self::renew`], and [`Self::renewed`] called then.
    pub fn reconfigure(&mut self, config: WidenConfig, one_jail: bool, entries: &dyn Entries) {
        // What was held in the place of the bans of a network is to be found until it is narrow.
        let later = |before: Option<usize>, after: Option<usize>| after.or(before.map(|_| NEVER));
        let (ipv4, ipv6) = (later(self.config.ipv4, config.ipv4), later(self.config.ipv6, config.ipv6));
        self.config = WidenConfig { ipv4, ipv6, ipv6_prefix: self.config.ipv6_prefix };
        self.one_jail = one_jail;
        // None of them is wide that could not be before, so that its entry is its own ban.
        let networks = self
            .standing
            .others()
            .filter(|prefix| self.is_network(*prefix) && !self.given.contains_key(prefix));
        let given: Vec<_> = networks.filter_map(|prefix| Some((prefix, entries.get(prefix)?))).collect();
        self.given.extend(given);
    }

    /// Takes note that every network was renewed.
    pub fn renewed(&mut self) {
        for threshold in [&mut self.config.ipv4, &mut self.config.ipv6] {
            threshold.take_if(|threshold| *threshold == NEVER);
        }
        let networks: Vec<IpNet> =
            self.given.keys().copied().filter(|prefix| !self.is_network(*prefix)).collect();
        for network in networks {
            self.given.remove(&network);
        }
    }

    /// The network whose bans are renewed together with a ban.
    pub fn renewed_with(&self, prefix: IpNet) -> Option<IpNet> {
        self.network_around(prefix)
    }

    /// Says of a ban what a function makes of what was said of it.
    pub fn relabel(
        &mut self,
        prefix: IpNet,
        anew: impl FnOnce(&Label) -> Arc<Label>,
        entries: &mut dyn Entries,
    ) {
        let Some(Wanted { until, label: before }) = self.standing(prefix, entries) else { return };
        let label = anew(&before);
        if label == before {
            return;
        }
        let entry = Wanted { until, label };
        if self.is_network(prefix) {
            self.given.insert(prefix, entry);
            return self.set_network(prefix, entries);
        }
        if let Some(wide) = self.network_of(prefix).and_then(|network| self.wide.get_mut(&network)) {
            wide.members.insert(prefix, entry.clone());
            if entries.get(prefix).is_none() {
                return;
            }
        }
        entries.set(prefix, entry);
    }

    /// Makes of a network what a start would make of the bans that stand in it.
    pub fn renew(&mut self, network: IpNet, entries: &mut dyn Entries, kept: Kept<'_>) {
        let Some(threshold) = self.threshold(network) else { return };
        let Some(before) = self.wide.remove(&network) else {
            return self.weigh(network, None, entries, kept);
        };
        let mut members = before.members;
        members.retain(|prefix, _| self.standing.contains(*prefix));
        let singly = members.clone();
        let wide = if kept(network) { None } else { Wide::of(members, None, threshold, self.one_jail) };
        let until = wide.as_ref().map(|wide| wide.network.until);
        let (covered, apart): (Vec<_>, Vec<_>) =
            singly.into_iter().partition(|(_, entry)| until.is_some_and(|until| entry.until <= until));
        for (prefix, entry) in apart {
            put(prefix, entry, entries);
        }
        if let Some(wide) = wide {
            if wide.network.until != before.network.until {
                self.ends.push(std::cmp::Reverse((wide.network.until, network)));
            }
            self.wide.insert(network, wide);
        }
        self.set_network(network, entries);
        for (prefix, _) in covered {
            if entries.get(prefix).is_some() {
                entries.remove(prefix);
            }
        }
    }
}

/// Sets an entry that is not so already.
pub(super) fn put(prefix: IpNet, entry: Wanted, entries: &mut dyn Entries) {
    if entries.get(prefix).as_ref() != Some(&entry) {
        entries.set(prefix, entry);
    }
}
