//! Bans that no router takes: their jail is in no router's `jails`, their severity too low, their family nowhere kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use atalaya_wire::Name;
use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::router::RouterHandle;

/// Bans that stand and that no router takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UntakenBans {
    /// How many, by their jails.
    pub jails: BTreeMap<Name, usize>,
    /// Why each router does not take one of them, for people; in the order of the configuration.
    pub routers: Vec<(Name, String)>,
}

// === impl UntakenBans ===

impl UntakenBans {
    /// Of the bans that stand now; costs the same for a million of them.
    pub fn of(desired: &Desired, routers: &[Arc<RouterHandle>]) -> Self {
        let mut untaken = Self::default();
        for ((family, jail, severity), count) in desired.kinds() {
            if routers.iter().any(|router| router.refusal_of(family, &jail, severity).is_none()) {
                continue;
            }
            if untaken.routers.is_empty() {
                let refusals = routers
                    .iter()
                    .filter_map(|router| Some((router.name(), router.refusal_of(family, &jail, severity)?)));
                untaken.routers = refusals.collect();
            }
            *untaken.jails.entry(jail).or_default() += count;
        }
        untaken
    }

    /// How many bans.
    pub fn count(&self) -> usize {
        self.jails.values().sum()
    }
}
