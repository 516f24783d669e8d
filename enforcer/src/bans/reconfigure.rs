//! A reload of the configuration: the same bans by other rules. What follows is what a restart with them would give,
//! without one: bans of what is allowed now are lifted, labels are made anew, and networks are widened anew; routers and
//! followers are told of nothing but the difference.

use std::sync::{Arc, PoisonError};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;

use super::allow::AllowConfig;
use super::book::Book;
use super::cut::Cuts;
use super::widen::Widen;
use super::{Bans, Rules};
use crate::desired::{Desired, Labels, Wanted};
use crate::ledger::Change;

// === impl Bans ===

impl Bans {
    /// Decides by these rules and this allow list from here on; how many bans are lifted for the latter. Where labels or
    /// networks have to be made anew, other decisions wait for it, twice as long as taking the bans over takes at a start.
    pub fn reconfigure(&self, mut rules: Rules, allow: AllowConfig, now: Timestamp) -> usize {
        let labels = std::mem::take(&mut rules.labels);
        let mut book = self.lock();
        let before = self.rules();
        let relabel = !book.labels.say_the_same(&labels);
        let anew = relabel
            || (before.widen, before.by_jail) != (rules.widen, rules.by_jail)
            || before.protect != rules.protect
            || before.protected_by_one != rules.protected_by_one
            || before.nat64 != rules.nat64;
        book.allow.configure(allow);
        book.reachable.protect.configure(rules.protect.clone(), rules.protected_by_one, now);
        book.reachable.set_nat64(rules.nat64.clone());
        let widen = Widen::new(rules.widen, rules.by_jail);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        let mut lifted = self.apply_allow(&mut book, now).lifted;
        let others = relabel.then(|| std::mem::replace(&mut book.labels, labels));
        if anew {
            let too_many = book.rebuild(widen, others.as_ref(), now);
            let end = |prefix| Change::End { prefix, at: now, by: "allow list".to_owned() };
            lifted += too_many.len();
            self.ledger.write_surely(too_many.into_iter().map(end).collect());
        }
        drop(book);
        self.names_changed.notify_one();
        lifted
    }
}

// === impl Book ===

impl Book {
    /// Labels the bans that stand anew where `others` labelled them, widens them anew, and tells routers and followers the
    /// difference. The bans that were lifted, because the allow list leaves too many parts of them.
    fn rebuild(&mut self, widen: Widen, others: Option<&Labels>, now: Timestamp) -> Vec<IpNet> {
        let before = std::mem::replace(&mut self.widen, widen);
        let mut entries: Vec<(IpNet, Wanted)> = Vec::new();
        let everything = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        let offenders = everything.into_iter().flat_map(|all| before.bans().within(all));
        for prefix in offenders.chain(before.bans().others()) {
            let Some(Wanted { until, label }) = before.standing(prefix, &self.entries) else { continue };
            self.widen.load(prefix, before.is_scan(prefix));
            let label = match others {
                Some(others) => self.labels.again(&label, others),
                None => label,
            };
            entries.push((prefix, Wanted { until, label }));
        }
        let mut anew = Cuts::new(Arc::new(Desired::new()));
        anew.desired().set_many(entries);
        self.widen.begin_all(&mut anew, &|network| self.reachable.touches(network, now));
        let running = std::mem::replace(&mut self.entries, anew);
        let allowed: Vec<IpNet> = self.reachable.networks.iter().collect();
        let too_many = self.cut_around(&allowed);
        for prefix in &too_many {
            self.lift(*prefix, now);
        }
        let anew = std::mem::replace(&mut self.entries, running);
        self.entries.replace(anew);
        too_many
    }
}

#[cfg(test)]
#[path = "reconfigure_tests.rs"]
mod tests;
