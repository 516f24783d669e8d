//! How the local drop stands, as `atalaya-sensor status` shows it.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::jail::BanEnd;
use crate::pinned::Dropped;

/// The local drop as `status` shows it, while it is on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LocalDropStatus {
    /// How many addresses and networks are banned here.
    pub bans: usize,
    /// How many can be.
    pub max_entries: u32,
    /// How often there was no room for one, since the start.
    pub left_out: u64,
    /// What was dropped, since the maps were made.
    pub dropped: Dropped,
    /// Packets of banned addresses that passed, because these are spared.
    pub allowed_packets: u64,
    /// How many addresses and networks are spared.
    pub spared: usize,
    /// Those of them without which this host would be cut off, in words.
    pub lifelines: String,
    /// The bans that dropped most.
    pub most: Vec<DroppedBan>,
    /// How the fleet's bans come; `None` where no enforcer is joined, or they are not wanted.
    pub fleet: Option<FleetStatus>,
    /// What went wrong last.
    pub trouble: Option<String>,
}

/// How the fleet's bans come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FleetStatus {
    /// Whether the enforcer is telling.
    pub connected: bool,
    /// Whether all of its bans are known.
    pub whole: bool,
    /// In words; `None` when all is well or nothing was tried yet.
    pub trouble: Option<String>,
}

/// A ban and what it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DroppedBan {
    /// As the kernel has it: an address is a network of its full length.
    pub network: IpNet,
    /// Until when; `None` for ever.
    pub until: BanEnd,
    /// Since the ban was put into the kernel.
    pub dropped: Dropped,
}
