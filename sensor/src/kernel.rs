//! The worker's side of the kernel programs: it starts the loader and asks it, takes the maps that this hands over, and
//! reads their rings. What it asks and hears is in [`channel`](crate::channel).

#[cfg(feature = "kernel")]
pub mod clock;
#[cfg(feature = "kernel")]
mod local_drop;
#[cfg(feature = "kernel")]
pub mod maps;
#[cfg(feature = "kernel")]
pub mod process;
