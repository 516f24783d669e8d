//! A reload of the configuration: the same bans by other rules. What follows is what a restart with them would give,
//! without one: bans of what is allowed now are lifted, labels are made anew, and networks are widened anew; routers and
//! followers are told of nothing but the difference.

use std::sync::{Arc, PoisonError};

use ipnet::IpNet;
use jiff::Timestamp;

use super::allow::AllowConfig;
use super::book::Book;
use super::cut::Cuts;
use super::widen::Widen;
use super::{Bans, Rules, TOGETHER};
use crate::desired::{Desired, Wanted};
use crate::ledger::Change;

/// How far the bans were gone through.
#[derive(Debug, Default)]
struct Renewal {
    /// The last one.
    last: Option<IpNet>,
    /// The network that is to be renewed behind its last ban.
    network: Option<IpNet>,
}

// === impl Bans ===

impl Bans {
    /// Decides by these rules and this allow list from here on; how many bans are lifted for the latter. Where labels or
    /// networks have to be made anew, that is done a few bans at a time, and other decisions, which follow the new rules
    /// already, go on in between. Only where IPv6 is banned in another unit do they wait for all of it.
    pub fn reconfigure(&self, rules: Rules, allow: AllowConfig, now: Timestamp) -> usize {
        self.reconfigure_between(rules, allow, now, |_| {})
    }

    /// The same; between two holds of the lock a function is told how many bans were gone through in the one before.
    fn reconfigure_between(
        &self,
        mut rules: Rules,
        allow: AllowConfig,
        now: Timestamp,
        mut between: impl FnMut(usize),
    ) -> usize {
        let labels = std::mem::take(&mut rules.labels);
        let mut book = self.lock();
        let before = self.rules();
        let relabel = !book.labels.say_the_same(&labels);
        let anew = relabel
            || (before.widen, before.by_jail) != (rules.widen, rules.by_jail)
            || before.protect != rules.protect
            || before.protected_by_one != rules.protected_by_one
            || before.nat64 != rules.nat64;
        let (widen, by_jail) = (rules.widen, rules.by_jail);
        book.allow.configure(allow);
        book.reachable.protect.configure(rules.protect.clone(), rules.protected_by_one, now);
        book.reachable.set_nat64(rules.nat64.clone());
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        if relabel {
            book.labels = labels;
        }
        let mut lifted = self.apply_allow(&mut book, now).lifted;
        if before.widen.ipv6_prefix != widen.ipv6_prefix {
            let too_many = book.rebuild(Widen::new(widen, by_jail), now);
            let end = |prefix| Change::End { prefix, at: now, by: "allow list".to_owned() };
            lifted += too_many.len();
            self.ledger.write_surely(too_many.into_iter().map(end).collect());
            drop(book);
        } else if anew {
            let Book { widen: running, entries, .. } = &mut *book;
            running.reconfigure(widen, by_jail, entries);
            drop(book);
            let mut renewal = Renewal::default();
            loop {
                let mut book = self.lock();
                let done = book.renew_next(&mut renewal, relabel, now);
                if done < TOGETHER {
                    book.widen.renewed();
                }
                drop(book);
                between(done);
                if done < TOGETHER {
                    break;
                }
            }
        } else {
            drop(book);
        }
        self.names_changed.notify_one();
        lifted
    }
}

// === impl Book ===

impl Book {
    /// Labels the next bans anew, if they are to be, and renews the networks whose bans were all gone through; how many
    /// bans, fewer than [`TOGETHER`] where they were the last.
    fn renew_next(&mut self, renewal: &mut Renewal, relabel: bool, now: Timestamp) -> usize {
        let Self { entries, widen, reachable, labels, .. } = self;
        let kept = |network| reachable.touches(network, now);
        let next: Vec<IpNet> = widen.bans().after(renewal.last).take(TOGETHER).collect();
        for prefix in &next {
            let network = widen.renewed_with(*prefix);
            if let Some(behind) = renewal.network.filter(|behind| network != Some(*behind)) {
                widen.renew(behind, entries, &kept);
            }
            (renewal.last, renewal.network) = (Some(*prefix), network);
            if relabel {
                widen.relabel(*prefix, |label| labels.again(label), entries);
            }
        }
        if let Some(network) = renewal.network.take_if(|_| next.len() < TOGETHER) {
            widen.renew(network, entries, &kept);
        }
        next.len()
    }

    /// Labels the bans that stand anew, widens them anew, and tells routers and followers the difference. The bans that
    /// were lifted, because the allow list leaves too many parts of them.
    fn rebuild(&mut self, widen: Widen, now: Timestamp) -> Vec<IpNet> {
        let before = std::mem::replace(&mut self.widen, widen);
        let mut entries: Vec<(IpNet, Wanted)> = Vec::new();
        for prefix in before.bans().after(None) {
            let Some(Wanted { until, label }) = before.standing(prefix, &self.entries) else { continue };
            self.widen.load(prefix, before.is_scan(prefix));
            entries.push((prefix, Wanted { until, label: self.labels.again(&label) }));
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
