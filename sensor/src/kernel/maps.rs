//! The maps of an object in the worker: descriptors from the loader, by the maps' names.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use atalaya_sensor_ebpf::losses::{LOSSES_MAP, Loss};
use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use tokio::io::unix::AsyncFd;

/// The maps of one object.
#[derive(Debug, Default)]
pub struct Maps(HashMap<String, OwnedFd>);

/// A ring that can be waited for.
pub type Ring = AsyncFd<RingBuf<MapData>>;

/// The counters of what an object left out.
pub struct Losses(PerCpuArray<MapData, u64>);

/// What was lost in the kernel, in all since the object was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostRecords {
    /// Records for which the ring had no room.
    pub ring_full: u64,
    /// Calls whose arguments could not be read.
    pub unreadable: u64,
    /// Records of callers who are not believed at once, for which their ring had no room.
    pub doubted_ring_full: u64,
    /// Calls of syslog for which their ring had no room.
    pub syslog_ring_full: u64,
}

/// A map that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// It was not handed over.
    #[error("the loader handed no map {0} over: this build is broken")]
    Missing(String),
    /// The kernel does not know it, or it is of another kind.
    #[error("the map {name} cannot be used: {reason}")]
    Unusable {
        /// The map's name in the object, as in `sensor-ebpf`.
        name: String,
        /// As the kernel or aya says it.
        reason: String,
    },
}

// === impl Maps ===

impl Maps {
    /// Maps by their names.
    pub fn new(maps: impl IntoIterator<Item = (String, OwnedFd)>) -> Self {
        Self(maps.into_iter().collect())
    }

    /// Takes a map out, to be turned into its kind with `try_into`.
    pub fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(&mut self, name: &str) -> Result<T, MapsError> {
        let descriptor = self.0.remove(name).ok_or_else(|| MapsError::Missing(name.to_owned()))?;
        MapData::from_fd(descriptor)
            .and_then(Map::from_map_data)
            .and_then(T::try_from)
            .map_err(|error| unusable(name, &error))
    }

    /// Takes a ring out. To be called within a tokio runtime.
    pub fn ring(&mut self, name: &str) -> Result<Ring, MapsError> {
        let ring: RingBuf<MapData> = self.take(name)?;
        #[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
        // SAFETY: the ring owns its descriptor, keeps it open as long as it lives, and never changes it.
        let ring = unsafe { AsyncFd::register(ring) };
        ring.map_err(|error| unusable(name, &std::io::Error::from(error)))
    }

    /// Takes the counters of losses out.
    pub fn losses(&mut self) -> Result<Losses, MapsError> {
        self.take(LOSSES_MAP).map(Losses)
    }
}

// === impl Losses ===

impl Losses {
    /// What was lost, in all.
    pub fn read(&self) -> LostRecords {
        let sum = |loss: Loss| self.0.get(&(loss as u32), 0).map_or(0, |cpus| cpus.iter().sum::<u64>());
        LostRecords {
            ring_full: sum(Loss::RingFull),
            unreadable: sum(Loss::Unreadable),
            doubted_ring_full: sum(Loss::DoubtedRingFull),
            syslog_ring_full: sum(Loss::SyslogRingFull),
        }
    }
}

fn unusable(name: &str, error: &dyn std::error::Error) -> MapsError {
    MapsError::Unusable { name: name.to_owned(), reason: error.to_string() }
}

/// Waits for records of a ring and hands over all that are there.
pub async fn read(ring: &mut Ring, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut guard = ring.readable_mut().await?;
    let records = guard.get_inner_mut();
    while let Some(bytes) = records.next() {
        each(&bytes);
    }
    guard.clear_ready();
    Ok(())
}

/// As [`read`], but no more than so many, so that a flood leaves time for other things.
pub async fn read_some(ring: &mut Ring, most: usize, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut guard = ring.readable_mut().await?;
    let records = guard.get_inner_mut();
    for _ in 0..most {
        let Some(bytes) = records.next() else {
            guard.clear_ready();
            return Ok(());
        };
        each(&bytes);
    }
    Ok(())
}
