//! The kernel's side of login attempts: loads the program, puts it on every copy of libaudit, and
//! reads its ring. The user-space mirror of `sensor-ebpf/src/login.rs`.

use std::collections::HashSet;
use std::error::Error;
use std::path::PathBuf;
use std::{fs, io};

use atalaya_sensor_ebpf::{DROPS_MAP, Drop, LOGIN_PROGRAM, LOGINS_MAP};
use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::uprobe::UProbeScope;
use aya::programs::{ProgramError, UProbe};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_log::EbpfLogger;
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::kernel_log;
use super::library::{self, FileId, Library};
use super::record::{Caller, Record};

/// Why failed logins cannot be seen in the kernel, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoginsError {
    /// No copy of the library.
    #[error(
        "no {name} in the usual directories or in a process of root's: login programs of this host do not \
         report to it; watch their log files instead",
        name = library::NAME
    )]
    NoLibrary,
    /// The kernel has no uprobes.
    #[error(
        "the kernel offers no uprobes ({0} is not there: is /sys mounted, and CONFIG_UPROBE_EVENTS set?); \
         watch log files instead"
    )]
    NoUprobes(PathBuf),
    /// The privilege is missing.
    #[error(
        "{step}: {reason}: the kernel refused it; run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE, \
         and see that neither lockdown=confidentiality nor a container's seccomp filter forbids bpf and perf_event_open"
    )]
    Refused {
        /// What was tried.
        step: String,
        /// What the kernel said.
        reason: io::Error,
    },
    /// Loading the object failed.
    #[error("the kernel program does not load: {}", chain(.0))]
    Load(#[source] Box<EbpfError>),
    /// The verifier or the kernel refused the program.
    #[error("the kernel program does not load: {}", chain(.0))]
    Program(#[source] Box<ProgramError>),
    /// No copy of the library could be probed.
    #[error("{} cannot be probed: {}", path.display(), chain(source))]
    Attach {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A map is not as the ABI says.
    #[error("the kernel program's map {map}: {}", chain(source))]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: Box<MapError>,
    },
    /// The ring cannot be awaited.
    #[error("the ring of login records cannot be awaited: {0}")]
    Ring(#[source] io::Error),
}

/// A loaded program. Dropping it takes the probes away.
pub struct Probe {
    ebpf: Ebpf,
    ring: AsyncFd<RingBuf<MapData>>,
    drops: PerCpuArray<MapData, u64>,
    attached: HashSet<FileId>,
    /// Copies that could not be probed: told once each.
    failed: HashSet<FileId>,
}

/// A pass over the ring.
#[derive(Debug, Default)]
pub struct Batch {
    /// The records, oldest first.
    pub records: Vec<Record>,
    /// How many were not records.
    pub malformed: u64,
}

/// What both clocks showed at one moment.
struct Clocks {
    wall: Timestamp,
    monotonic_ns: u64,
}

// === impl Probe ===

impl Probe {
    /// Records a pass takes at most, so that a flood leaves room for other tasks.
    const MOST_A_PASS: usize = 1024;

    /// Loads the program and probes `libraries`. Must run inside a tokio runtime.
    pub fn start(libraries: &[Library]) -> Result<(Self, EbpfLogger<kernel_log::Tracing>), LoginsError> {
        if libraries.is_empty() {
            return Err(LoginsError::NoLibrary);
        }
        // perf_event_open alone makes this kind of probe, so that tracefs need not be mounted.
        let events = PathBuf::from("/sys/bus/event_source/devices/uprobe/type");
        if !events.exists() {
            return Err(LoginsError::NoUprobes(events));
        }
        let level = kernel_log::level() as u8;
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &level, true)
            .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/atalaya-sensor-ebpf")))
            .map_err(load_error)?;
        // Before the program is loaded: it refers to the map.
        let logger =
            EbpfLogger::init_with_logger(&mut ebpf, kernel_log::Tracing).map_err(|error| match error {
                aya_log::Error::MapError(source) => {
                    LoginsError::Map { map: "AYA_LOGS", source: Box::new(source) }
                }
                error => LoginsError::Ring(io::Error::other(error)),
            })?;
        let ring = RingBuf::try_from(take(&mut ebpf, LOGINS_MAP)?)
            .map_err(|source| LoginsError::Map { map: LOGINS_MAP, source: Box::new(source) })?;
        // SAFETY: the ring owns its map's descriptor, gives the same one always, and lives in the `AsyncFd`.
        #[expect(unsafe_code, reason = "tokio's promise about the descriptor is the caller's to keep")]
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| LoginsError::Ring(error.into()))?;
        let drops = PerCpuArray::try_from(take(&mut ebpf, DROPS_MAP)?)
            .map_err(|source| LoginsError::Map { map: DROPS_MAP, source: Box::new(source) })?;
        program(&mut ebpf).and_then(UProbe::load).map_err(program_error)?;
        let mut probe = Self { ebpf, ring, drops, attached: HashSet::new(), failed: HashSet::new() };
        if let Some(error) = probe.attach(libraries)
            && probe.attached.is_empty()
        {
            return Err(error);
        }
        Ok((probe, logger))
    }

    /// Probes the copies that are not probed yet; returns the last new failure.
    pub fn attach(&mut self, libraries: &[Library]) -> Option<LoginsError> {
        let mut failure = None;
        for library in libraries {
            if self.attached.contains(&library.file) || self.failed.contains(&library.file) {
                continue;
            }
            if self.attached.len() + self.failed.len() >= 2 * library::MOST {
                break;
            }
            let attached = program(&mut self.ebpf).and_then(|program| {
                program.attach(LOGIN_PROGRAM, &library.path, UProbeScope::AllProcesses).map(drop)
            });
            match attached {
                Ok(()) => {
                    self.attached.insert(library.file);
                    tracing::debug!(path = %library.path.display(), "a copy of libaudit is probed");
                }
                // The process whose map it was may just have ended: that is no failure of the file.
                Err(_) if fs::metadata(&library.path).is_err() => {}
                Err(source) => {
                    self.failed.insert(library.file);
                    failure = Some(match denial(&source) {
                        Some(reason) => LoginsError::Refused {
                            step: format!("probing {}", library.path.display()),
                            reason,
                        },
                        None => LoginsError::Attach { path: library.path.clone(), source: Box::new(source) },
                    });
                }
            }
        }
        failure
    }

    /// Waits for records and reads them. Can be dropped while it waits without loss.
    pub async fn read(&mut self) -> io::Result<Batch> {
        let mut ready = self.ring.readable_mut().await?;
        let clocks = Clocks::now();
        let mut batch = Batch::default();
        loop {
            if batch.records.len() >= Self::MOST_A_PASS {
                return Ok(batch);
            }
            let Some(item) = ready.get_inner_mut().next() else { break };
            match Record::decode(&item, |time_ns| clocks.wall(time_ns)) {
                Ok(record) => batch.records.push(record),
                Err(error) => {
                    batch.malformed += 1;
                    tracing::debug!(%error, "not a login record");
                }
            }
        }
        ready.clear_ready();
        drop(ready);
        for record in &mut batch.records {
            record.caller = caller(record.tgid);
        }
        Ok(batch)
    }

    /// How often the kernel counted this drop, over all processors.
    pub fn drops(&self, drop: Drop) -> u64 {
        self.drops.get(&(drop as u32), 0).map_or(0, |counts| counts.iter().sum())
    }

    /// How many copies of libaudit are probed.
    pub fn attached(&self) -> usize {
        self.attached.len()
    }
}

// === impl Clocks ===

impl Clocks {
    fn now() -> Self {
        Self { wall: Timestamp::now(), monotonic_ns: monotonic_ns() }
    }

    /// The wall clock's time of a moment shortly before.
    fn wall(&self, time_ns: u64) -> Timestamp {
        let ago = i64::try_from(self.monotonic_ns.saturating_sub(time_ns)).unwrap_or(0);
        self.wall.checked_sub(SignedDuration::from_nanos(ago)).unwrap_or(self.wall)
    }
}

/// `CLOCK_MONOTONIC` now, in nanoseconds: the clock of the kernel's records.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn take(ebpf: &mut Ebpf, map: &'static str) -> Result<aya::maps::Map, LoginsError> {
    let missing = || MapError::InvalidName { name: map.to_owned() };
    ebpf.take_map(map).ok_or_else(|| LoginsError::Map { map, source: Box::new(missing()) })
}

fn program(ebpf: &mut Ebpf) -> Result<&mut UProbe, ProgramError> {
    ebpf.program_mut(LOGIN_PROGRAM)
        .ok_or_else(|| ProgramError::InvalidName { name: LOGIN_PROGRAM.to_owned() })?
        .try_into()
}

fn load_error(error: EbpfError) -> LoginsError {
    match denial(&error) {
        Some(reason) => LoginsError::Refused { step: "making the kernel program's maps".to_owned(), reason },
        None => LoginsError::Load(Box::new(error)),
    }
}

fn program_error(error: ProgramError) -> LoginsError {
    match denial(&error) {
        Some(reason) => LoginsError::Refused { step: "loading the kernel program".to_owned(), reason },
        None => LoginsError::Program(Box::new(error)),
    }
}

/// The permission error at the root of an error, if it is one.
fn denial(error: &(dyn Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::PermissionDenied
        {
            return io.raw_os_error().map(io::Error::from_raw_os_error);
        }
        next = error.source();
    }
    None
}

/// An error with its causes, for one line of a log.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// A caller's parent and effective user, from `/proc/PID/status` (proc(5)).
fn caller(process: u32) -> Option<Caller> {
    parse_status(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

fn parse_status(status: &str) -> Option<Caller> {
    let value = |name: &str, column: usize| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().nth(column)?.parse().ok()
    };
    Some(Caller { parent: value("PPid:", 0)?, euid: value("Uid:", 1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_is_the_second_of_the_status() {
        let status = "Name:\tsu\nPPid:\t41\nUid:\t1000\t0\t0\t0\nGid:\t1000\t1000\t1000\t1000\n";
        assert_eq!(parse_status(status), Some(Caller { parent: 41, euid: 0 }));
        assert_eq!(parse_status("Name:\tsu\n"), None);
    }

    #[test]
    fn a_records_time_is_the_wall_clocks_at_its_moment() {
        let clocks = Clocks { wall: "2026-11-24T10:00:02Z".parse().unwrap(), monotonic_ns: 5_000_000_000 };
        assert_eq!(clocks.wall(3_000_000_000), "2026-11-24T10:00:00Z".parse().unwrap());
        assert_eq!(clocks.wall(u64::MAX), clocks.wall, "a time to come is now");
    }
}
