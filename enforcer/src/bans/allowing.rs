//! The allow list as it changes: at run time, as names get other addresses, as entries end. What is new on it is reachable
//! from then on: bans within it are lifted, and those of networks around it are held without it, until it goes.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Bans;
use super::allow::{AllowError, AllowedBecause, What};
use super::book::Book;
use crate::ledger::{Allowance, Change, Receipt};

/// What came of a change of the allow list.
#[derive(Debug)]
pub struct Allowed {
    /// The entry that was made, or taken back.
    pub entry: Allowance,
    /// What it means for the bans.
    pub effect: AllowEffect,
    /// Tells when it is on disk.
    pub receipt: Receipt,
}

/// What a change of the allow list means for the bans that stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowEffect {
    /// How many bans were lifted for it.
    pub lifted: usize,
    /// The bans of networks around it that spare it.
    pub cut: Vec<CutNetwork>,
    /// The bans of networks around it that hold it again, now that it is off the list.
    pub held_by: Vec<CutNetwork>,
    /// Why it is never banned all the same, now that it is off the list.
    pub still: Option<AllowedBecause>,
    /// The networks that routers held because many of their addresses are banned, which now have single entries.
    #[serde(with = "crate::prefixes::json::list")]
    pub let_go: Vec<IpNet>,
    /// By how many entries routers hold more than before, or fewer where it is negative.
    pub more_entries: i64,
}

/// The ban of a network of which something may be spared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutNetwork {
    /// The network.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// When its ban ends; `None` for a permanent one.
    pub until: Option<Timestamp>,
    /// How many entries routers hold for it.
    pub entries: usize,
}

// === impl Bans ===

impl Bans {
    /// Allows an address, a network or a DNS name until a time, or permanently. Bans within it are lifted; those of networks
    /// around it stand, and spare it for as long as it is allowed.
    pub fn allow_at_run_time(
        &self,
        what: &str,
        until: Option<Timestamp>,
        reason: &str,
        by: &str,
        now: Timestamp,
    ) -> Result<Allowed, AllowError> {
        let what = What::parse(what)?;
        let (reason, by) = (reason.to_owned(), by.to_owned());
        let entry = Allowance { what: what.key(), since: now, until, reason, by };
        let mut book = self.lock();
        book.allow.insert(entry.clone(), now)?;
        let receipt = self.ledger.write_surely(vec![Change::Allow(Box::new(entry.clone()))]);
        let mut effect = self.apply_allow(&mut book, now);
        if let What::Network(network) = &what {
            effect.cut = book.networks_around(self.clients(*network));
        }
        drop(book);
        self.names_changed.notify_one();
        Ok(Allowed { entry, effect, receipt })
    }

    /// Takes back what was allowed at run time.
    pub fn disallow(&self, what: &str, now: Timestamp) -> Result<Allowed, AllowError> {
        let what = What::parse(what)?;
        let mut book = self.lock();
        let entry = book.allow.remove(&what)?;
        let receipt = self.ledger.write_surely(vec![Change::Disallow { what: what.key() }]);
        let mut effect = self.apply_allow(&mut book, now);
        if let What::Network(network) = &what {
            let network = self.clients(*network);
            effect.still = book
                .allow
                .because(network, &self.rules().nat64)
                .filter(|because| because.network.contains(&network));
            if effect.still.is_none() {
                effect.held_by = book.networks_around(network);
            }
        }
        Ok(Allowed { entry, effect, receipt })
    }

    /// Makes what the allow list is made of hold: lifts the bans within what is new on it, cuts it out of those around it,
    /// and weighs the widened networks around what is new or gone.
    pub(super) fn apply_allow(&self, book: &mut Book, at: Timestamp) -> AllowEffect {
        let before = Arc::clone(&book.reachable.networks);
        let allow = Arc::new(self.rules().nat64.networks(&book.allow.networks()));
        book.reachable.networks = Arc::clone(&allow);
        *self.allow.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&allow);
        let (old, new): (BTreeSet<IpNet>, BTreeSet<IpNet>) =
            (before.iter().collect(), allow.iter().collect());
        if old != new {
            book.note_allow_change();
        }
        let added: Vec<IpNet> = new.difference(&old).copied().collect();
        let gone: Vec<IpNet> = old.difference(&new).copied().collect();
        let entries = book.entries.desired().len();
        let wide: BTreeSet<IpNet> =
            added.iter().flat_map(|network| book.widen.wide_touching(*network)).collect();
        let mut lifted: BTreeSet<IpNet> = BTreeSet::new();
        for network in &added {
            lifted
                .extend(book.widen.bans().touching(*network).into_iter().filter(|ban| network.contains(ban)));
        }
        for prefix in &lifted {
            book.lift(*prefix, at);
        }
        let whole_again = book.cut_around(&gone);
        for network in added.iter().chain(&gone) {
            book.review(*network, at);
        }
        for prefix in book.cut_around(&added).into_iter().chain(whole_again) {
            if lifted.insert(prefix) {
                book.lift(prefix, at);
            }
        }
        let end = |prefix: &IpNet| Change::End { prefix: *prefix, at, by: "allow list".to_owned() };
        self.ledger.write_surely(lifted.iter().map(end).collect());
        if !lifted.is_empty() {
            tracing::warn!(bans = lifted.len(), "bans lifted: their addresses are on the allow list now");
        }
        let let_go = wide.into_iter().filter(|network| book.widen.wide_around(*network).is_none()).collect();
        let more_entries = book.entries.desired().len() as i64 - entries as i64;
        AllowEffect { lifted: lifted.len(), let_go, more_entries, ..AllowEffect::default() }
    }
}

// === impl Book ===

impl Book {
    /// The bans around a network that is not banned itself.
    fn networks_around(&self, network: IpNet) -> Vec<CutNetwork> {
        let around = self.around(network).map(|(prefix, wanted)| CutNetwork {
            prefix,
            until: wanted.until.timestamp(),
            entries: self.entries.parts_of(prefix).map_or(1, <[IpNet]>::len),
        });
        around.collect()
    }
}
