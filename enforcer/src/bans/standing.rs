//! What keeps an address or a network out now, as memory has it: also where the ledger cannot be read.

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::book::Book;
use super::widen::Entries;
use crate::desired::Origin;

/// A ban that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingBan {
    /// What it is a ban of.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// When it ends; `None` for a permanent one.
    pub until: Option<Timestamp>,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
    /// How many entries routers hold for it: more than one where the allow list keeps a part of it reachable.
    pub entries: usize,
}

/// A network that routers hold in the place of its banned addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WidenedNetwork {
    /// The network.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// Until when routers hold it; `None` where no end is known.
    pub until: Option<Timestamp>,
}

/// What keeps a prefix out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its own ban and those of networks around it, the narrowest first, but for those that spare it.
    pub bans: Vec<StandingBan>,
    /// Bans of networks around it that spare it, because the allow list has it.
    pub sparing: Vec<StandingBan>,
    /// The network that routers hold because many addresses of it are banned.
    pub widened: Option<WidenedNetwork>,
    /// The prefixes by which routers may hold it, the likeliest first.
    #[serde(with = "crate::prefixes::json::list")]
    pub held_as: Vec<IpNet>,
}

// === impl Book ===

impl Book {
    pub(super) fn standing_of(&self, prefix: IpNet) -> Standing {
        let mut standing = Standing::default();
        for (ban, wanted) in self.around(prefix) {
            let parts = self.entries.parts_of(ban);
            let (until, origin) = (wanted.until.timestamp(), wanted.label.origin.clone());
            let entries = parts.map_or(1, <[IpNet]>::len);
            let told = StandingBan { prefix: ban, until, origin, entries };
            match self.entries.held_as(ban, prefix) {
                Some(held_as) => {
                    standing.bans.push(told);
                    standing.held_as.push(held_as);
                }
                // As a whole it is in no part; its own parts are all there is of it.
                None if ban == prefix => {
                    standing.bans.push(told);
                    standing.held_as.extend(parts.unwrap_or_default());
                }
                None => standing.sparing.push(told),
            }
        }
        if let Some(network) = self.widen.wide_around(prefix) {
            let entry = self.entries.get(network);
            let until = entry.and_then(|entry| entry.until.timestamp());
            standing.widened = Some(WidenedNetwork { prefix: network, until });
            standing.held_as.insert(0, network);
        }
        standing.held_as.insert(0, prefix);
        standing
    }
}
