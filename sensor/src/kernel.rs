//! The sensor's side of the kernel programs, in two processes. The **loader**, which `run` starts, is
//! privileged and reads nothing that an attacker wrote: it loads the objects of `sensor-ebpf`, attaches their
//! programs and hands the maps' descriptors over. The **worker**, all the rest of the sensor, reads the rings and
//! writes the maps, and needs no right to load or trace anything.
//!
//! Each object has a file here of the same name, its [part](part::Part) of the loader. What a kernel refuses is
//! shown by [`Program`] with the reason; the rest goes on.

use serde::{Deserialize, Serialize};

#[cfg(feature = "kernel")]
pub mod channel;
#[cfg(feature = "kernel")]
pub mod clock;
pub mod connections;
#[cfg(feature = "kernel")]
mod container;
#[cfg(feature = "kernel")]
pub mod elf;
#[cfg(feature = "kernel")]
pub mod layout;
#[cfg(feature = "kernel")]
pub mod listener;
#[cfg(feature = "kernel")]
pub mod loader;
pub mod local_drop;
pub mod logins;
#[cfg(feature = "kernel")]
pub mod maps;
#[cfg(feature = "kernel")]
pub mod object;
#[cfg(feature = "kernel")]
mod offsets;
#[cfg(feature = "kernel")]
pub mod part;
#[cfg(feature = "kernel")]
pub mod process;
pub mod routes;
#[cfg(feature = "kernel")]
mod tracefs;
#[cfg(feature = "kernel")]
pub mod tracepoint;

/// What is to be loaded; what is not wanted is off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Whether the loader then gives up what it needs no more.
    pub confine: bool,
    /// Verdicts on logins.
    pub logins: Option<logins::Wanted>,
    /// New connections, and closed ports that are touched.
    pub connections: Option<connections::Wanted>,
    /// Dropping what banned addresses send.
    pub local_drop: Option<local_drop::Wanted>,
}

/// A kernel program as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The object, and in it the hook: `logins: audit`.
    pub name: String,
    /// Whether it runs.
    pub state: ProgramState,
    /// Where it is attached, or why it is not.
    pub reason: String,
    /// How many instructions the kernel's verifier looked at, where the kernel tells (since 5.16).
    pub instructions: Option<u32>,
    /// The kernel's number of the program, as `bpftool prog` shows it.
    pub id: Option<u32>,
}

/// Whether a kernel program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgramState {
    /// It is loaded and attached.
    On,
    /// Nothing asks for it, or what it would be attached to is not on this host.
    Off,
    /// It is wanted, and the kernel refused it.
    Refused,
}

// === impl Program ===

impl Program {
    /// A program that does not run.
    pub fn not_on(name: &str, state: ProgramState, reason: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state, reason: reason.into(), instructions: None, id: None }
    }
}
