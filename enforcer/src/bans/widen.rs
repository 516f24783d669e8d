//! Many bans of one network become one entry of the network on the routers, and back. The ledger keeps the
//! bans of single offenders; what routers want is derived from them here, and changes with each of them.
//!
//! A network is *wide* while at least as many of its offenders are banned as the threshold says, and nothing
//! in it is to be kept reachable. Its entry then lasts until the ban ends without which fewer would
//! be banned, or up to [`LINGER`] longer where that saves single entries: a burst of bans becomes one
//! entry. Only those bans that end later than that are wanted singly, fewer than the threshold. So a wide
//! network becomes narrow without a command: the router lets its entry expire, and the later ones are there.
//!
//! An example, with a threshold of 3 and four bans in 192.0.2.0/24:
//!
//! | banned | until | on the router |
//! |---|---|---|
//! | 192.0.2.1 | 10:30 | covered by the network |
//! | 192.0.2.2 | 10:31 | covered: when this ends, two are left, fewer than 3 |
//! | 192.0.2.3 | 10:32 | covered: it ends within five minutes of that, so the network stays until 10:32 |
//! | 192.0.2.4 | 11:30 | an entry of its own, next to the network's |
//!
//! The router holds two entries instead of four, `192.0.2.0/24` until 10:32 and `192.0.2.4` until 11:30, and at 10:32
//! nothing has to be sent: what is left is what should be left. The price is that the other addresses of the network
//! are unreachable until 10:32, which is why one that is allowed, protected or unbanned keeps it narrow. When a fifth
//! address is banned until 11:00, the network is needed until 10:32 in any case, and the fifth has an entry of its own.
//! All of it is weighed anew with each ban, each one that is lifted, and each end.
//!
//! Entries are changed in an order that leaves no hole: first what covers, then what was covered.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::net::Ipv6Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::desired::{Desired, Label, Moment, Severity, Wanted};
use crate::prefixes::{self, Prefixes, network_length};

mod renew;

/// The longest that a network stays wide after fewer of its offenders are banned than the threshold says,
/// in seconds.
pub const LINGER: u64 = 300;

/// What routers want, entry by entry: [`Desired`], or a test's.
pub trait Entries {
    /// The entry of exactly this prefix.
    fn get(&self, prefix: IpNet) -> Option<Wanted>;
    /// Sets or changes an entry.
    fn set(&mut self, prefix: IpNet, entry: Wanted);
    /// Takes an entry away.
    fn remove(&mut self, prefix: IpNet);
}

/// Which bans stand, and which networks are wide.
#[derive(Debug)]
pub struct Widen {
    config: WidenConfig,
    /// Whether the bans of a wide network must all be of one jail: where a router takes those of some jails
    /// only, an entry for all would say the wrong one.
    one_jail: bool,
    /// All bans that stand.
    standing: Prefixes,
    /// Bans of networks that may be wide too, by hand say.
    given: HashMap<IpNet, Wanted>,
    /// Bans of scans, which anyone may have sent in the others' names: no network is wide for these.
    scans: HashSet<IpNet>,
    wide: HashMap<IpNet, Wide>,
    /// When to look at which wide network.
    ends: BinaryHeap<Reverse<(Moment, IpNet)>>,
    /// Networks whose bans may be of one jail now that some have ended.
    lapsed: BTreeSet<IpNet>,
}

#[derive(Debug)]
struct Wide {
    /// The ban of the network.
    network: Wanted,
    /// Its offenders, those included whose bans are over since it is wide.
    members: HashMap<IpNet, Wanted>,
    by_end: BTreeSet<(Moment, IpNet)>,
}

/// Whether something in a network is to be kept reachable.
pub type Kept<'a> = &'a dyn Fn(IpNet) -> bool;

// === impl Widen ===

impl Widen {
    /// Of no bans and no wide network.
    pub fn new(config: WidenConfig, one_jail: bool) -> Self {
        Self {
            config,
            one_jail,
            standing: Prefixes::new(config.ipv6_prefix),
            given: HashMap::new(),
            scans: HashSet::new(),
            wide: HashMap::new(),
            ends: BinaryHeap::new(),
            lapsed: BTreeSet::new(),
        }
    }

    /// Takes note of a ban whose entry is set already; [`Self::begin_all`] then widens. Whether it is of a scan.
    pub fn load(&mut self, prefix: IpNet, is_scan: bool) {
        self.standing.insert(prefix);
        if is_scan {
            self.scans.insert(prefix);
        }
    }

    /// Widens all that is to be wide of what was loaded.
    pub fn begin_all(&mut self, entries: &mut dyn Entries, kept: Kept<'_>) {
        let networks = self.standing.others().filter(|prefix| self.is_network(*prefix));
        self.given = networks.filter_map(|prefix| Some((prefix, entries.get(prefix)?))).collect();
        for everything in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
            self.review(everything, entries, kept);
        }
    }

    /// Bans, or changes the ban. One of a scan counts for no network, unless it only makes another ban longer; one that
    /// is for something else from now on does.
    pub fn ban(&mut self, prefix: IpNet, entry: Wanted, entries: &mut dyn Entries, kept: Kept<'_>) {
        let is_new = self.standing.insert(prefix);
        let was_scan = !entry.label.is_scan && self.scans.remove(&prefix);
        if entry.label.is_scan && is_new {
            self.scans.insert(prefix);
        }
        if self.is_network(prefix) {
            self.given.insert(prefix, entry);
            return self.set_network(prefix, entries);
        }
        let Some(network) = self.network_of(prefix) else { return entries.set(prefix, entry) };
        match self.wide.get_mut(&network) {
            Some(wide) => wide.insert(prefix, entry),
            None => entries.set(prefix, entry),
        }
        self.weigh(network, Some(prefix), entries, kept);
        // The entry that it had by itself.
        let is_covered = |wide: &Wide| wide.end_of(prefix) <= wide.network.until;
        if was_scan && self.wide.get(&network).is_some_and(is_covered) && entries.get(prefix).is_some() {
            entries.remove(prefix);
        }
    }

    /// Lifts a ban before its end.
    pub fn lift(&mut self, prefix: IpNet, entries: &mut dyn Entries, kept: Kept<'_>) {
        if !self.standing.remove(prefix) {
            return;
        }
        if self.given.remove(&prefix).is_some() {
            return self.set_network(prefix, entries);
        }
        if self.scans.remove(&prefix) {
            return entries.remove(prefix);
        }
        let network = self.network_of(prefix);
        match network.and_then(|network| self.wide.get_mut(&network)) {
            Some(wide) => {
                let single = wide.remove(prefix).is_some_and(|entry| entry.until > wide.network.until);
                if single {
                    entries.remove(prefix);
                }
            }
            None => entries.remove(prefix),
        }
        if let Some(network) = network {
            self.weigh(network, None, entries, kept);
        }
    }

    /// Takes note that a ban has ended in time.
    pub fn expire(&mut self, prefix: IpNet, entries: &mut dyn Entries) {
        if !self.standing.remove(prefix) {
            return;
        }
        if self.given.remove(&prefix).is_some() {
            return self.set_network(prefix, entries);
        }
        if self.scans.remove(&prefix) {
            return entries.remove(prefix);
        }
        let network = self.network_of(prefix);
        let wide = network.and_then(|network| self.wide.get(&network));
        if self.one_jail && wide.is_none() {
            self.lapsed.extend(network);
        }
        if wide.is_none_or(|wide| wide.network.until < wide.end_of(prefix)) {
            entries.remove(prefix);
        }
    }

    /// Makes narrow again what is wide no longer; to be called after [`Self::expire`] of all that ended.
    pub fn settle(&mut self, now: Moment, entries: &mut dyn Entries, kept: Kept<'_>) {
        while let Some(Reverse((end, network))) = self.ends.peek().copied()
            && end <= now
        {
            self.ends.pop();
            match self.wide.get(&network).map(|wide| wide.network.until) {
                // Its later offenders are wanted singly already.
                Some(until) if until <= now => {
                    self.wide.remove(&network);
                    self.set_network(network, entries);
                }
                Some(until) => self.ends.push(Reverse((until, network))),
                None => {}
            }
        }
        for network in std::mem::take(&mut self.lapsed) {
            self.weigh(network, None, entries, kept);
        }
    }

    /// Weighs every network anew that touches this one, after what is to be kept reachable there changed.
    pub fn review(&mut self, changed: IpNet, entries: &mut dyn Entries, kept: Kept<'_>) {
        let Some(threshold) = self.threshold(changed) else { return };
        let mut networks: BTreeSet<IpNet> = BTreeSet::new();
        if let Some(around) = self.network_around(changed) {
            networks.insert(around);
        } else {
            let (mut last, mut count) = (None, 0);
            for prefix in self.members_of(changed) {
                let network = self.network_of(prefix);
                count = if network == last { count + 1 } else { 1 };
                last = network;
                if count == threshold {
                    networks.extend(network);
                }
            }
            networks.extend(self.wide.keys().filter(|network| changed.contains(*network)));
        }
        for network in networks {
            self.weigh(network, None, entries, kept);
        }
    }

    /// The ban of exactly this prefix that stands.
    pub fn standing(&self, prefix: IpNet, entries: &dyn Entries) -> Option<Wanted> {
        if !self.standing.contains(prefix) {
            return None;
        }
        if self.is_network(prefix) {
            return self.given.get(&prefix).cloned();
        }
        let wide = self.network_of(prefix).and_then(|network| self.wide.get(&network));
        match wide {
            Some(wide) => wide.members.get(&prefix).cloned(),
            None => entries.get(prefix),
        }
    }

    /// The wide network around a prefix.
    pub fn wide_around(&self, prefix: IpNet) -> Option<IpNet> {
        self.network_around(prefix).filter(|network| self.wide.contains_key(network))
    }

    /// Whether a ban counts for no network, because it is of a scan.
    pub fn is_scan(&self, prefix: IpNet) -> bool {
        self.scans.contains(&prefix)
    }

    /// The wide networks around a prefix and within it.
    pub fn wide_touching(&self, prefix: IpNet) -> Vec<IpNet> {
        let within = self.wide.keys().copied().filter(|network| prefix.contains(network));
        self.wide_around(prefix).into_iter().chain(within).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The bans that stand.
    pub fn bans(&self) -> &Prefixes {
        &self.standing
    }

    /// How many networks are wide.
    pub fn wide(&self) -> usize {
        self.wide.len()
    }

    /// Compares what is wanted of a network with what its bans ask for, and changes it. `changed` is the
    /// offender whose ban changed, if one did.
    fn weigh(&mut self, network: IpNet, changed: Option<IpNet>, entries: &mut dyn Entries, kept: Kept<'_>) {
        let Some(threshold) = self.threshold(network) else { return };
        let Some(mut wide) = self.wide.remove(&network) else {
            let enough = self.members_of(network).take(threshold).count() == threshold;
            if enough && !kept(network) {
                self.begin(network, threshold, changed, entries);
            }
            return;
        };
        let (before, label) = (wide.network.until, wide.network.label.clone());
        let until =
            wide.wanted(threshold).filter(|_| !(kept(network) || self.one_jail && wide.mixes_jails()));
        let Some(until) = until else {
            for (prefix, entry) in wide.members {
                if self.standing.contains(prefix) && (entry.until <= before || changed == Some(prefix)) {
                    entries.set(prefix, entry);
                }
            }
            return self.set_network(network, entries);
        };
        wide.network.until = until;
        if let Some(entry) = changed.and_then(|changed| wide.members.get(&changed)) {
            wide.network.label = raised(&wide.network.label, entry.label.severity);
        }
        for prefix in wide.ending(until, before) {
            if self.standing.contains(prefix)
                && let Some(entry) = wide.members.get(&prefix)
            {
                entries.set(prefix, entry.clone());
            }
        }
        if until < before {
            self.ends.push(Reverse((until, network)));
        }
        let covered = wide.ending(before, until);
        let later = changed.filter(|changed| wide.end_of(*changed) > until);
        let later = later.and_then(|changed| Some((changed, wide.members.get(&changed)?.clone())));
        let new = before != until || label != wide.network.label;
        self.wide.insert(network, wide);
        if new {
            self.set_network(network, entries);
        }
        if let Some((prefix, entry)) = later {
            entries.set(prefix, entry);
        }
        for prefix in covered {
            if entries.get(prefix).is_some() {
                entries.remove(prefix);
            }
        }
    }

    /// Makes a network wide, unless its bans are of several jails where they may not be.
    fn begin(&mut self, network: IpNet, threshold: usize, changed: Option<IpNet>, entries: &mut dyn Entries) {
        let members: HashMap<IpNet, Wanted> =
            self.members_of(network).filter_map(|prefix| Some((prefix, entries.get(prefix)?))).collect();
        let Some(wide) = Wide::of(members, changed, threshold, self.one_jail) else { return };
        let until = wide.network.until;
        let covered: Vec<IpNet> =
            wide.by_end.iter().take_while(|(end, _)| *end <= until).map(|(_, prefix)| *prefix).collect();
        self.ends.push(Reverse((until, network)));
        self.wide.insert(network, wide);
        self.set_network(network, entries);
        for prefix in covered {
            entries.remove(prefix);
        }
    }

    /// Sets the entry of a network to the later of its own ban and of what it is wide for.
    fn set_network(&self, network: IpNet, entries: &mut dyn Entries) {
        let wide = self.wide.get(&network).map(|wide| wide.network.clone());
        let given = self.given.get(&network).cloned();
        match (given, wide) {
            (Some(given), Some(wide)) if wide.until > given.until => renew::put(network, wide, entries),
            (Some(entry), _) | (None, Some(entry)) => renew::put(network, entry, entries),
            (None, None) => entries.remove(network),
        }
    }

    /// The network that may become wide by bans of this offender.
    fn network_of(&self, prefix: IpNet) -> Option<IpNet> {
        let offender = match prefix {
            IpNet::V4(_) => prefix.prefix_len() == 32,
            IpNet::V6(_) => prefix.prefix_len() == self.config.ipv6_prefix,
        };
        let counts = offender && !self.scans.contains(&prefix);
        self.network_around(prefix).filter(|network| counts && *network != prefix)
    }

    /// The bans within a network for which it may be wide.
    fn members_of(&self, network: IpNet) -> impl Iterator<Item = IpNet> + '_ {
        self.standing.within(network).filter(|prefix| !self.scans.contains(prefix))
    }

    /// The network that may become wide around a prefix, or that it is.
    fn network_around(&self, prefix: IpNet) -> Option<IpNet> {
        self.threshold(prefix)?;
        let (length, offender) =
            (network_length(prefix), prefixes::unit_of(prefix.addr(), self.config.ipv6_prefix));
        let wider = length <= prefix.prefix_len() && length < offender.prefix_len();
        wider.then(|| IpNet::new(prefix.addr(), length)).and_then(Result::ok).map(|network| network.trunc())
    }

    fn is_network(&self, prefix: IpNet) -> bool {
        self.network_around(prefix) == Some(prefix)
    }

    fn threshold(&self, prefix: IpNet) -> Option<usize> {
        match prefix {
            IpNet::V4(_) => self.config.ipv4,
            IpNet::V6(_) => self.config.ipv6,
        }
    }
}

// === impl Wide ===

impl Wide {
    /// Of these bans, of which one made the network wide, else the one that ends last; `None` where they are too few, or of
    /// several jails where they must be of one.
    fn of(
        members: HashMap<IpNet, Wanted>,
        made_by: Option<IpNet>,
        threshold: usize,
        one_jail: bool,
    ) -> Option<Self> {
        let by_end: BTreeSet<(Moment, IpNet)> =
            members.iter().map(|(prefix, entry)| (entry.until, *prefix)).collect();
        let severity = members.values().map(|entry| entry.label.severity).max().unwrap_or_default();
        let made_by = made_by.or(by_end.last().map(|(_, prefix)| *prefix));
        let made_by = made_by.and_then(|prefix| members.get(&prefix))?;
        let label = Arc::new(Label {
            severity,
            comment: format!("{} (widened)", made_by.label.comment),
            ..made_by.label.as_ref().clone()
        });
        let mut wide = Self { network: Wanted { until: Moment::FOREVER, label }, members, by_end };
        wide.network.until = wide.wanted(threshold).filter(|_| !(one_jail && wide.mixes_jails()))?;
        Some(wide)
    }

    /// Until when the network is wanted; `None` where too few are banned.
    fn wanted(&self, threshold: usize) -> Option<Moment> {
        let last_prefix = IpNet::V6(Ipv6Net::from(Ipv6Addr::from_bits(u128::MAX)));
        let (needed, _) = self.by_end.iter().rev().nth(threshold.checked_sub(1)?)?;
        let limit = needed.plus_seconds(LINGER);
        self.by_end.range(..=(limit, last_prefix)).next_back().map(|(end, _)| *end)
    }

    /// The offenders whose bans end after one moment and not after another.
    fn ending(&self, after: Moment, through: Moment) -> Vec<IpNet> {
        let later = self.by_end.iter().rev().skip_while(|(end, _)| *end > through);
        later.take_while(|(end, _)| *end > after).map(|(_, prefix)| *prefix).collect()
    }

    fn end_of(&self, prefix: IpNet) -> Moment {
        self.members.get(&prefix).map_or(Moment::FOREVER, |entry| entry.until)
    }

    fn mixes_jails(&self) -> bool {
        self.members.values().any(|entry| entry.label.jail() != self.network.label.jail())
    }

    fn insert(&mut self, prefix: IpNet, entry: Wanted) {
        self.remove(prefix);
        self.by_end.insert((entry.until, prefix));
        self.members.insert(prefix, entry);
    }

    fn remove(&mut self, prefix: IpNet) -> Option<Wanted> {
        let before = self.members.remove(&prefix)?;
        self.by_end.remove(&(before.until, prefix));
        Some(before)
    }
}

impl Entries for &Desired {
    fn get(&self, prefix: IpNet) -> Option<Wanted> {
        Desired::get(self, prefix)
    }

    fn set(&mut self, prefix: IpNet, entry: Wanted) {
        Desired::set(self, prefix, entry);
    }

    fn remove(&mut self, prefix: IpNet) {
        Desired::remove(self, prefix);
    }
}

/// A label of at least this severity.
fn raised(label: &Arc<Label>, severity: Severity) -> Arc<Label> {
    if severity > label.severity {
        Arc::new(Label { severity, ..label.as_ref().clone() })
    } else {
        Arc::clone(label)
    }
}

/// The `[widen]` table: when many bans become one of the network around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WidenConfig {
    /// So many banned addresses of one IPv4 /24 ban the /24; `None` for never.
    pub ipv4: Option<usize>,
    /// So many banned prefixes of one IPv6 /48 ban the /48; `None` for never.
    pub ipv6: Option<usize>,
    /// What the ban of one IPv6 address covers, and what failures and strikes are counted by: 48 to 128.
    pub ipv6_prefix: u8,
}

// === impl WidenConfig ===

impl Default for WidenConfig {
    fn default() -> Self {
        Self { ipv4: Some(32), ipv6: None, ipv6_prefix: 64 }
    }
}

#[cfg(test)]
#[path = "widen_tests.rs"]
mod tests;
