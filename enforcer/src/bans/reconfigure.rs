//! A reload of the configuration: the same bans by other rules. What follows is what a restart with them would give,
//! without one: bans of what is allowed now are lifted, labels are made anew, and networks are widened anew; routers and
//! followers are told of nothing but the difference.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;

use super::allow::AllowConfig;
use super::book::Book;
use super::widen::{Entries, Widen};
use super::{Bans, Rules};
use crate::desired::Wanted;

// === impl Bans ===

impl Bans {
    /// Decides by these rules and this allow list from here on; how many bans are lifted for the latter. Where labels or
    /// networks have to be made anew, other decisions wait for it: a second for each million of bans.
    pub fn reconfigure(&self, mut rules: Rules, allow: AllowConfig, now: Timestamp) -> usize {
        let labels = std::mem::take(&mut rules.labels);
        let mut book = self.lock();
        let before = self.rules();
        let relabel = !book.labels.say_the_same(&labels);
        let anew = relabel
            || (before.widen, before.by_jail) != (rules.widen, rules.by_jail)
            || before.protect != rules.protect
            || before.nat64 != rules.nat64;
        book.allow.configure(allow);
        book.reachable.protect.configure(rules.protect.clone(), now);
        book.reachable.set_nat64(rules.nat64.clone());
        let widen = Widen::new(rules.widen, rules.by_jail);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        let lifted = self.apply_allow(&mut book, now);
        if relabel {
            book.labels = labels;
        }
        if anew {
            book.rebuild(widen, now);
        }
        drop(book);
        self.names_changed.notify_one();
        lifted
    }
}

// === impl Book ===

impl Book {
    /// Labels the bans that stand anew, widens them anew, and tells routers and followers the difference.
    fn rebuild(&mut self, widen: Widen, now: Timestamp) {
        let before = std::mem::replace(&mut self.widen, widen);
        let mut entries: BTreeMap<IpNet, Wanted> = BTreeMap::new();
        let everything = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        let offenders = everything.into_iter().flat_map(|all| before.bans().within(all));
        for prefix in offenders.chain(before.bans().others()) {
            let Some(Wanted { until, label }) = before.standing(prefix, &&*self.desired) else { continue };
            self.widen.load(prefix, before.is_scan(prefix));
            let label = self.labels.of(&label.origin, label.is_scan);
            entries.insert(prefix, Wanted { until, label });
        }
        let Self { desired, widen, reachable, .. } = self;
        widen.begin_all(&mut entries, &|network| reachable.touches(network, now));
        desired.replace(entries);
    }
}

impl Entries for BTreeMap<IpNet, Wanted> {
    fn get(&self, prefix: IpNet) -> Option<Wanted> {
        BTreeMap::get(self, &prefix).cloned()
    }

    fn set(&mut self, prefix: IpNet, entry: Wanted) {
        self.insert(prefix, entry);
    }

    fn remove(&mut self, prefix: IpNet) {
        BTreeMap::remove(self, &prefix);
    }
}
