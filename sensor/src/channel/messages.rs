//! What worker and loader say to each other.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Program, Wanted};
use crate::confine::Confinement;
use crate::confine::logs::{LogPart, WantedLogs};

/// The object of that name, under which the worker gets its maps.
pub const LOGINS: &str = "logins";
/// The object of that name.
pub const CONNECTIONS: &str = "connections";
/// The object of that name.
pub const LOCAL_DROP: &str = "local_drop";

/// What the worker asks.
#[derive(Debug, Serialize, Deserialize)]
pub enum LoaderRequest {
    /// Names the logs that may be opened. Only the first one counts: it is said before the worker has read anything
    /// that somebody else wrote, and not answered.
    Logs(WantedLogs),
    /// Opens a part of one of these logs; answered with [`Said::Opened`].
    Open {
        /// The worker's number of the question.
        question: u64,
        /// A path that one of the patterns matches; for [`LogPart::Names`], a folder on the way to such paths.
        path: PathBuf,
        /// What of it.
        part: LogPart,
    },
    /// Brings what is loaded to this; answered with [`Said::Loaded`].
    Want(Wanted),
    /// Finds who listens on a port; answered with [`Said::Listener`].
    Listener {
        /// The worker's number of the question.
        question: u64,
        /// In which network namespace, by its number; zero for the loader's own.
        netns: u32,
        /// The local TCP port.
        port: u16,
    },
    /// Asks whether the word of a process outside of the host's mount namespace on an address counts; answered
    /// with [`Said::Vouched`].
    Vouch {
        /// Its number in the loader's process namespace.
        process: u32,
        /// The address that it names.
        address: IpAddr,
    },
}

/// What the loader says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// What was wanted is loaded, as far as the kernel lets it be.
    Loaded {
        /// The hooks of all objects, also those that are off.
        programs: Vec<Program>,
        /// What the loader kept.
        confinement: Confinement,
        /// The maps of objects that were loaded just now: object and map, in the order of the descriptors.
        maps: Vec<(String, String)>,
    },
    /// Who listens, where anybody does.
    Listener {
        /// The worker's number of the question.
        question: u64,
        /// `None` where nobody listens there, or who does cannot be told.
        listener: Option<Listener>,
    },
    /// What was to be opened, with its descriptor.
    Opened {
        /// The worker's number of the question.
        question: u64,
        /// As in [`OpenedLog`](crate::confine::logs::OpenedLog).
        at: Option<PathBuf>,
        /// Why there is no descriptor: the kernel's number of the error, where it has one, and in words.
        trouble: Option<(Option<i32>, String)>,
    },
    /// The answer to the oldest [`LoaderRequest::Vouch`] that has none.
    Vouched(Vouch),
    /// Programs stand otherwise than was said last.
    Changed {
        /// As in [`Said::Loaded`], not only those that changed.
        programs: Vec<Program>,
    },
}

/// A program that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its number in the loader's process namespace.
    pub process: u32,
    /// The program's name (`comm`).
    pub program: String,
    /// The container's name, where it is in one.
    pub container: Option<String>,
}

/// What comes of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vouch {
    /// It is this host's own file root: root of the host, as a hardened service runs.
    Host,
    /// The address is connected.
    Connected,
    /// The address has no TCP connection that counts for the process.
    Unconnected,
    /// The process is gone, or cannot be looked at.
    Gone,
}

// === impl Vouch ===

impl Vouch {
    /// Whether what the process says of the address is believed.
    pub fn counts(self) -> bool {
        matches!(self, Self::Host | Self::Connected)
    }
}
