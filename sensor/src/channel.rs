//! What the sensor's two processes know of each other, and all that they do. The **loader**, which `run` starts, is
//! privileged and reads nothing that an attacker wrote: it loads the objects of `sensor-ebpf`, attaches their programs and
//! hands the maps' descriptors over. The **worker**, all the rest of the sensor, reads the rings and writes the maps, and
//! needs no right to load or trace anything. The worker asks, and the loader answers, through a [socket] pair.
//!
//! What a kernel refuses is shown by [`Program`] with the reason; the rest goes on.

use serde::{Deserialize, Serialize};

pub mod connections;
pub mod local_drop;
pub mod logins;
pub mod messages;
pub mod socket;

/// What is to be loaded; what is not wanted is off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Whether the loader then gives up what it needs no more.
    pub confine: bool,
    /// Verdicts on logins, and what root's programs say to syslog; `None` where no jail asks for either.
    pub logins: Option<logins::WantedLogins>,
    /// New connections, and closed ports that are touched.
    pub connections: Option<connections::WantedConnections>,
    /// Dropping what banned addresses send.
    pub local_drop: Option<local_drop::WantedLocalDrop>,
}

/// A kernel program as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The object, and in it the hook: `logins: audit`.
    pub name: String,
    /// `Off` where nothing asks for it; `reason` says why it is not on.
    pub state: ProgramState,
    /// Where it is attached, or why it is not.
    pub reason: String,
    /// How many instructions the kernel's verifier looked at, where the kernel tells (since 5.16).
    pub instructions: Option<u32>,
    /// The kernel's number of the program, as `bpftool prog` shows it.
    pub id: Option<u32>,
    /// Programs that run on a library of before its upgrade; the first of them, those of this host before others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outdated: Vec<Outdated>,
    /// How many more of these there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_outdated: usize,
}

/// The processes that still run on a library's file of before its upgrade, or that was removed since.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Outdated {
    /// Its name as programs link it: `libaudit.so.1`.
    pub library: String,
    /// Where the file was.
    pub path: String,
    /// `this host`, `container web-3`, `root /srv/chroot`, or `a container` whose name is not known.
    pub place: String,
    /// Whether their logins are seen all the same.
    pub seen: bool,
    /// How many processes of root's.
    pub processes: u32,
    /// The first of their programs.
    pub programs: Vec<OutdatedProgram>,
}

/// A program that still runs on such a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OutdatedProgram {
    /// The program's name (`comm`).
    pub program: String,
    /// Its process; of several that with the lowest number.
    pub process: u32,
    /// How many of root's processes run it on that file.
    pub processes: u32,
    /// The unit of this host's systemd that runs it.
    pub service: Option<String>,
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
        Self::new(name, state, reason.into())
    }

    pub(crate) fn new(name: &str, state: ProgramState, reason: String) -> Self {
        Self {
            name: name.to_owned(),
            state,
            reason,
            instructions: None,
            id: None,
            outdated: Vec::new(),
            more_outdated: 0,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}
