//! The worker's side of the kernel programs: it starts the loader and asks it, takes the maps that this hands over, and
//! reads their rings. What it asks and hears is in [`channel`](crate::channel).

pub mod clock;
mod local_drop;
pub mod logs;
pub mod maps;
pub mod process;
