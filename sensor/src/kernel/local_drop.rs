//! The maps of the object `local_drop`, as the loader hands them over.

use atalaya_sensor_ebpf::local_drop::{ALLOW_MAP, BANS_MAP, KINDS, KINDS_MAP, PREFIXES_MAP, TOTALS_MAP};

use super::maps::{Maps, MapsError};
use crate::pinned::bans::Bans;

// === impl Bans ===

impl Bans {
    /// Takes the maps over, with what stands in them.
    pub fn new(mut maps: Maps) -> Result<Self, MapsError> {
        let mut bans = Self {
            addresses: maps.take(BANS_MAP)?,
            prefixes: maps.take(PREFIXES_MAP)?,
            allow: maps.take(ALLOW_MAP)?,
            kinds: maps.take(KINDS_MAP)?,
            totals: maps.take(TOTALS_MAP)?,
            counts: [0; KINDS],
        };
        bans.recount();
        Ok(bans)
    }
}
