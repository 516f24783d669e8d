//! What is to be kept reachable, so that no widened network covers it: what is allowed, what is protected by a
//! successful login, and what someone unbanned a while ago.

use std::collections::BTreeMap;
use std::sync::Arc;

use atalaya_wire::{Nat64, Networks};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use super::protect::Protect;

/// For how long no widened network covers what someone unbanned, unless it is banned again.
pub const EXEMPT: SignedDuration = SignedDuration::from_hours(1);

/// The most prefixes that were unbanned and are remembered for it; the one that is forgotten soonest goes.
const MOST_EXEMPT: usize = 1000;

/// What is to be kept reachable.
#[derive(Debug)]
pub(super) struct Reachable {
    /// The allow list, of which a copy is published for readers.
    pub networks: Arc<Networks>,
    /// Who logged in successfully lately.
    pub protect: Protect,
    /// Behind which prefixes everyone is.
    nat64: Nat64,
    /// What was unbanned, and until when no network covers it.
    exempt: BTreeMap<IpNet, Timestamp>,
}

// === impl Reachable ===

impl Reachable {
    pub fn new(networks: Networks, protect: Protect, nat64: Nat64) -> Self {
        Self { networks: Arc::new(networks), protect, nat64, exempt: BTreeMap::new() }
    }

    /// Takes others for the prefixes behind which everyone is.
    pub fn set_nat64(&mut self, nat64: Nat64) {
        self.nat64 = nat64;
    }

    /// Whether something in a network is to be kept reachable.
    pub fn touches(&self, network: IpNet, now: Timestamp) -> bool {
        self.networks.overlaps(network)
            || self.nat64.touches(network)
            || self.protect.within(network, now).is_some()
            || self.exempt.keys().any(|exempt| network.contains(exempt) || exempt.contains(&network))
    }

    /// Whether a unit of several addresses is to be spared as a whole for the sake of some of them.
    pub fn splits(&self, unit: IpNet, now: Timestamp) -> bool {
        self.networks.overlaps(unit) || self.nat64.touches(unit) || self.protect.within(unit, now).is_some()
    }

    /// Remembers what was unbanned; returns what is forgotten for it.
    pub fn exempt(&mut self, prefix: IpNet, now: Timestamp) -> Option<IpNet> {
        self.exempt.insert(prefix, now.checked_add(EXEMPT).unwrap_or(Timestamp::MAX));
        if self.exempt.len() <= MOST_EXEMPT {
            return None;
        }
        let soonest = self.exempt.iter().min_by_key(|(_, until)| **until).map(|(prefix, _)| *prefix)?;
        self.exempt.remove(&soonest);
        Some(soonest)
    }

    /// Forgets that something was unbanned, for it is banned again.
    pub fn banned_again(&mut self, prefix: IpNet) {
        if !self.exempt.is_empty() {
            self.exempt.remove(&prefix);
        }
    }

    /// What need not be kept reachable any more.
    pub fn expire(&mut self, now: Timestamp) -> Vec<IpNet> {
        let over = self.exempt.extract_if(.., |_, until| *until <= now).map(|(prefix, _)| prefix);
        over.chain(self.protect.expire(now).into_iter().map(IpNet::from)).collect()
    }
}
