//! Loads the kernel program of logins, attaches it to every libaudit of this host, and reads its ring.
//! What cannot be had is an error that says what is missing; the caller goes on without this source.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use atalaya_sensor_ebpf::{DROPS_MAP, Drop, LOGIN_PROGRAM, LOGINS_MAP};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::UProbe;
use aya::programs::uprobe::UProbeScope;
use aya_log::EbpfLogger;
use rustix::mount::MountFlags;
use tokio::io::unix::AsyncFd;

use super::record::Record;

/// The probed function.
const FUNCTION: &str = "audit_log_acct_message";
/// Where distributions keep libaudit.
const FOLDERS: [&str; 10] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/lib",
    "/usr/local/lib",
    "/usr/local/lib64",
];
const LIBAUDIT: &str = "libaudit.so.1";

/// The loaded program. Dropping it detaches it.
pub struct Probe {
    ring: AsyncFd<RingBuf<MapData>>,
    drops: PerCpuArray<MapData, u64>,
    _ebpf: Ebpf,
}

/// What was lost in the kernel, in all since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Records for which the ring had no room.
    pub ring_full: u64,
    /// Calls whose arguments could not be read.
    pub unreadable: u64,
}

/// Why failed logins cannot be seen in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoginsError {
    /// No libaudit on this host.
    #[error("{LIBAUDIT} is not on this host (looked in {folders}): sshd and PAM here do not report to it")]
    NoLibaudit {
        /// Where it was looked for.
        folders: String,
    },
    /// The kernel refused the program.
    #[error("the kernel refused the eBPF program: {reason}{hint}")]
    Refused {
        /// Why.
        reason: String,
        /// What may help.
        hint: &'static str,
    },
    /// The object does not hold what it should.
    #[error("the embedded eBPF object lacks {0}: this build is broken")]
    Object(&'static str),
    /// The ring cannot be waited for.
    #[error("the ring of logins cannot be waited for: {0}")]
    Wait(std::io::Error),
}

// === impl Probe ===

impl Probe {
    /// Loads and attaches. To be called within a tokio runtime.
    pub fn start() -> Result<Self, LoginsError> {
        let libraries = libraries();
        if libraries.is_empty() {
            return Err(LoginsError::NoLibaudit { folders: FOLDERS.join(", ") });
        }
        let mut ebpf =
            Ebpf::load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/atalaya-sensor-ebpf")))
                .map_err(|error| refused(&error))?;
        relay_log(&mut ebpf);
        mount_tracefs();
        let program: &mut UProbe = ebpf
            .program_mut(LOGIN_PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or(LoginsError::Object("the program of logins"))?;
        program.load().map_err(|error| refused(&error))?;
        let mut attached = 0;
        let mut failure = None;
        for library in &libraries {
            match program.attach(FUNCTION, library, UProbeScope::AllProcesses) {
                Ok(_) => {
                    attached += 1;
                    tracing::debug!(library = %library.display(), "probed");
                }
                Err(error) => failure = Some(refused(&error)),
            }
        }
        if let (0, Some(error)) = (attached, failure) {
            return Err(error);
        }
        let ring = ebpf
            .take_map(LOGINS_MAP)
            .and_then(|map| RingBuf::try_from(map).ok())
            .ok_or(LoginsError::Object("the ring of logins"))?;
        let drops = ebpf
            .take_map(DROPS_MAP)
            .and_then(|map| PerCpuArray::try_from(map).ok())
            .ok_or(LoginsError::Object("the counters of drops"))?;
        #[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
        // SAFETY: the ring owns its descriptor, keeps it open as long as it lives, and never changes it.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|error| LoginsError::Wait(error.into()))?;
        Ok(Self { ring, drops, _ebpf: ebpf })
    }

    /// Waits for records and hands over all that are there.
    pub async fn read(&mut self, mut each: impl FnMut(Record)) -> std::io::Result<()> {
        let mut guard = self.ring.readable_mut().await?;
        let ring = guard.get_inner_mut();
        while let Some(bytes) = ring.next() {
            if let Some(record) = Record::read(&bytes) {
                each(record);
            }
        }
        guard.clear_ready();
        Ok(())
    }

    /// What was lost, in all.
    pub fn drops(&self) -> Drops {
        let sum = |drop: Drop| {
            self.drops.get(&(drop as u32), 0).map_or(0, |cpus| cpus.iter().copied().sum::<u64>())
        };
        Drops { ring_full: sum(Drop::RingFull), unreadable: sum(Drop::Unreadable) }
    }
}

/// Every libaudit of this host, each file once.
fn libraries() -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(LIBAUDIT))
        .filter(|path| path.metadata().is_ok_and(|metadata| seen.insert((metadata.dev(), metadata.ino()))))
        .collect()
}

/// Messages of the kernel program arrive in tracing, through `log`.
fn relay_log(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::debug!(%error, "the kernel program's own messages are not shown");
            return;
        }
    };
    #[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
    // SAFETY: the logger's ring owns its descriptor, keeps it open as long as it lives, and never changes it.
    let Ok(mut logger) = (unsafe { AsyncFd::register(logger) }) else { return };
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}

/// Kernels without the perf type of uprobes attach through tracefs, which may not be mounted.
fn mount_tracefs() {
    const TRACEFS: &str = "/sys/kernel/tracing";
    if Path::new("/sys/bus/event_source/devices/uprobe/type").exists()
        || Path::new(TRACEFS).join("events").exists()
    {
        return;
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match rustix::mount::mount("nodev", TRACEFS, "tracefs", flags, None) {
        Ok(()) => tracing::info!("mounted tracefs on {TRACEFS}"),
        Err(error) => {
            tracing::warn!(%error, "tracefs is not mounted; try: mount -t tracefs nodev {TRACEFS}");
        }
    }
}

fn refused(error: &dyn std::error::Error) -> LoginsError {
    let mut reason = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        reason = format!("{reason}: {cause}");
        next = cause.source();
    }
    let hint = if rustix::process::geteuid().is_root() {
        "; a kernel of 5.8 or later with CONFIG_BPF_SYSCALL and CONFIG_UPROBES is needed, and in a container the capabilities BPF and PERFMON"
    } else {
        "; run as root, or with the capabilities BPF, PERFMON and SYS_ADMIN"
    };
    LoginsError::Refused { reason, hint }
}
