//! Least privilege: what each of the sensor's two processes gives up for good before it looks at anything that
//! an attacker can touch, and what it keeps. A process that is taken over all the same can then neither open
//! what is not the sensor's nor start a program. And by which rule either of them opens a log ([`logs`]).
//!
//! Three means of the kernel on top of one another, each of which may be missing on an older one: capabilities
//! ([`capabilities`]), Landlock for files ([`files`]), and seccomp for system calls ([`syscalls`]). They hold for
//! the calling thread and those that it starts, so they come before the runtime.

use std::fmt;

use serde::{Deserialize, Serialize};

pub mod capabilities;
pub mod files;
pub mod logs;
pub mod syscalls;

use capabilities::Kept;
use files::Reach;
use syscalls::Calls;

/// What a process kept, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Those of capabilities(7) that it still has, by name, or that there are none.
    pub capabilities: String,
    /// Which files it can open.
    pub files: String,
    /// Which system calls it can make.
    pub syscalls: String,
}

/// Confines the worker, whose files are these. `privileged_port` says whether it listens below 1024.
pub fn worker(reach: &Reach, privileged_port: bool) -> Confinement {
    let mut kept = vec![Kept::DacReadSearch];
    if privileged_port {
        kept.push(Kept::NetBindService);
    }
    if !capabilities::maps_need_none() {
        kept.push(Kept::Bpf);
    }
    let capabilities = capabilities::keep(&kept);
    let files = files::restrict(reach);
    Confinement { capabilities, files, syscalls: syscalls::restrict(Calls::Worker) }
}

/// Confines the loader: it loads, traces and looks at processes, so that files are not what it is kept from.
pub fn loader() -> Confinement {
    let kept = [
        Kept::Bpf,
        Kept::Perfmon,
        Kept::NetAdmin,
        Kept::SysPtrace,
        Kept::DacReadSearch,
        Kept::SysResource,
        Kept::SysAdmin,
    ];
    let capabilities = capabilities::keep(&kept);
    Confinement {
        capabilities,
        files: "all, to read".to_owned(),
        syscalls: syscalls::restrict(Calls::Loader),
    }
}

/// Nothing is given up, and why.
pub fn nothing(why: &str) -> Confinement {
    let all = format!("all: {why}");
    Confinement { capabilities: all.clone(), files: all.clone(), syscalls: all }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "capabilities: {}; files: {}; system calls: {}",
            self.capabilities, self.files, self.syscalls
        )
    }
}
