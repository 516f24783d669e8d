//! What the loader is asked of the object `local_drop`: an XDP program on the interfaces through which attackers come.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::pinned::Mode;

/// The program as it is shown.
pub const SHOWN: &str = "local drop: xdp";

/// What of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedLocalDrop {
    /// Where this sensor pins what must outlive it; what an earlier run left there is taken over, or removed.
    pub pins: PathBuf,
    /// `None` where nothing is to be dropped.
    pub settings: Option<Settings>,
}

/// How the XDP program is set up; changing it attaches the program anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// On these interfaces; where there is none, on those that the default route or a global address names.
    pub interfaces: Option<Vec<String>>,
    /// How many addresses, and as many networks, can be banned at once.
    pub max_entries: u32,
    /// In the driver, or after it.
    pub mode: Mode,
}
