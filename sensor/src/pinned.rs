//! What of the local drop stands in the kernel whether or not a sensor runs: links on the interfaces, and maps, all
//! [pinned](pins) in the kernel's own file system. Both processes open them: the loader makes and removes them and takes
//! the bans of an earlier run over, the worker writes the [bans].

use serde::{Deserialize, Serialize};

pub mod bans;
pub mod interfaces;
pub mod pins;
pub mod routes;

/// What a ban did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// All packets that matched, of any protocol.
    pub packets: u64,
    /// Bytes of them, from the Ethernet header on.
    pub bytes: u64,
}

/// What all bans did, since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropTotals {
    /// Sums of all bans, also of those that are over.
    pub dropped: Dropped,
    /// Packets of banned addresses that passed, because they are allowed.
    pub allowed: u64,
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver where it can, else after it.
    #[default]
    Auto,
    /// In the driver, before a packet costs anything.
    Native,
    /// In the network stack, on every driver.
    Generic,
}

// === impl Mode ===

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}
