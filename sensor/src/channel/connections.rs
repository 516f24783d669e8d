//! What the loader is asked of the object `connections`.

use serde::{Deserialize, Serialize};

/// What of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedConnections {
    /// Closed ports that are touched.
    pub scans: Option<Scans>,
}

/// How closed ports are to be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scans {
    /// At these interfaces; empty where the kernel is to tell.
    pub interfaces: Vec<String>,
}
