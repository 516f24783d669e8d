//! The object `local_drop`: an XDP program on the interfaces through which attackers come, with maps and
//! links that are [pinned](pins), so that bans stand whether or not a sensor runs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[cfg_attr(not(feature = "kernel"), path = "local_drop/no_bans.rs")]
pub mod bans;
pub mod interfaces;
#[cfg(feature = "kernel")]
mod links;
#[cfg(feature = "kernel")]
mod part;
pub mod pins;

#[cfg(feature = "kernel")]
pub use part::{LocalDrop, OBJECT};

/// The program as it is shown.
pub const SHOWN: &str = "local drop: xdp";

/// What of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Where this sensor pins what must outlive it; what an earlier run left there is taken over, or removed.
    pub pins: PathBuf,
    /// `None` where nothing is to be dropped.
    pub settings: Option<Settings>,
}

/// How it drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// On these interfaces; where there is none, on those that the default route or a global address names.
    pub interfaces: Option<Vec<String>>,
    /// How many addresses, and as many networks, can be banned at once.
    pub max_entries: u32,
    /// In the driver, or after it.
    pub mode: Mode,
}

/// What a ban did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Packets dropped.
    pub packets: u64,
    /// Bytes of them, from the Ethernet header on.
    pub bytes: u64,
}

/// What all bans did, since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What was dropped.
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
