//! Login attempts as the kernel sees them: the moment PAM or a login program decides, about two seconds
//! before sshd answers and logs. [`probe`] reads verdicts from the kernel, [`attempt`] makes attempts of
//! them. What an attempt means for its address is the jails' matter.

pub mod attempt;
mod kernel_log;
mod library;
mod probe;
pub mod record;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atalaya_sensor_ebpf::Drop as KernelDrop;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::attempt::Attempts;
pub use self::attempt::{Attempt, LoginOutcome};
use self::probe::{Batch, Probe};
pub use self::probe::{LoginsError, monotonic_ns};

/// The most attempts that wait for their reader. Beyond it the ring waits, and at its end the kernel
/// counts what it drops.
const WAITING: usize = 1024;
/// How often sessions are looked at whose end alone decides.
const LOOK: Duration = Duration::from_millis(500);
/// How often new copies of libaudit are looked for.
const SEARCH: Duration = Duration::from_secs(30);

/// Login attempts. Dropping it takes the probes out of the kernel.
#[derive(Debug)]
pub struct Logins {
    attempts: mpsc::Receiver<Attempt>,
    drops: Arc<Counters>,
    /// Aborted with this.
    _tasks: JoinSet<()>,
}

/// What was left out since the start; see [`Logins::drops`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Verdicts for which the kernel's ring had no room.
    pub ring_full: u64,
    /// Calls whose arguments the kernel could not read.
    pub unreadable: u64,
    /// Records that did not have the ABI's form.
    pub malformed: u64,
    /// Verdicts of callers that are not root.
    pub forged: u64,
    /// Sessions that were decided before their end, because there were too many.
    pub evicted: u64,
}

#[derive(Debug, Default)]
struct Counters {
    ring_full: AtomicU64,
    unreadable: AtomicU64,
    malformed: AtomicU64,
    forged: AtomicU64,
    evicted: AtomicU64,
}

struct Watch {
    probe: Probe,
    attempts: Attempts,
    out: mpsc::Sender<Attempt>,
    counters: Arc<Counters>,
    told: Drops,
}

// === impl Logins ===

impl Logins {
    /// Loads the kernel program and probes every copy of libaudit. Must run inside a tokio runtime.
    pub fn start() -> Result<Self, LoginsError> {
        let (probe, logger) = Probe::start(&library::find())?;
        tracing::info!(libraries = probe.attached(), "failed logins are seen in the kernel");
        let (out, attempts) = mpsc::channel(WAITING);
        let drops = Arc::new(Counters::default());
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let watch = Watch {
            probe,
            attempts: Attempts::new(host_name),
            out,
            counters: Arc::clone(&drops),
            told: Drops::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(watch.run());
        tasks.spawn(async {
            if let Err(error) = kernel_log::drain(logger).await {
                tracing::warn!(%error, "the kernel program's own messages are lost");
            }
        });
        Ok(Self { attempts, drops, _tasks: tasks })
    }

    /// The next attempt; `None` when the ring can no longer be read, which is logged. Can be dropped
    /// while it waits without loss.
    pub async fn next(&mut self) -> Option<Attempt> {
        self.attempts.recv().await
    }

    /// What was left out since the start, at most half a second old.
    pub fn drops(&self) -> Drops {
        self.drops.load()
    }
}

// === impl Watch ===

impl Watch {
    async fn run(mut self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut searched = Instant::now();
        loop {
            let decided = tokio::select! {
                batch = self.probe.read() => match batch {
                    Ok(batch) => self.decide(batch),
                    Err(error) => {
                        tracing::error!(%error, "the ring of login records cannot be read: logins are no longer seen");
                        return;
                    }
                },
                _ = look.tick() => {
                    if searched.elapsed() >= SEARCH {
                        searched = Instant::now();
                        self.search().await;
                    }
                    self.report_drops();
                    self.look()
                }
            };
            for attempt in decided {
                if self.out.send(attempt).await.is_err() {
                    return;
                }
            }
        }
    }

    fn decide(&mut self, batch: Batch) -> Vec<Attempt> {
        self.counters.malformed.fetch_add(batch.malformed, Ordering::Relaxed);
        batch.records.into_iter().flat_map(|record| self.attempts.record(record)).collect()
    }

    /// Decides sessions whose process is gone or that are too old.
    fn look(&mut self) -> Vec<Attempt> {
        let mut decided = self.attempts.expire(monotonic_ns());
        for process in self.attempts.waiting() {
            if !std::path::Path::new("/proc").join(process.to_string()).exists() {
                decided.extend(self.attempts.ended(process));
            }
        }
        decided
    }

    async fn search(&mut self) {
        // Reads the maps of every process of root's: milliseconds on a busy host.
        let found = tokio::task::spawn_blocking(library::find).await.unwrap_or_default();
        if let Some(error) = self.probe.attach(&found) {
            tracing::warn!(%error, "logins through one copy of libaudit are not seen");
        }
    }

    /// Tells of new drops, at most twice a second and only while they grow.
    fn report_drops(&mut self) {
        let counters = &self.counters;
        counters.ring_full.store(self.probe.drops(KernelDrop::RingFull), Ordering::Relaxed);
        counters.unreadable.store(self.probe.drops(KernelDrop::Unreadable), Ordering::Relaxed);
        counters.forged.store(self.attempts.forged(), Ordering::Relaxed);
        counters.evicted.store(self.attempts.evicted(), Ordering::Relaxed);
        let now = counters.load();
        if now != self.told {
            let Drops { ring_full, unreadable, malformed, forged, evicted } = now;
            tracing::warn!(
                ring_full,
                unreadable,
                malformed,
                forged,
                evicted,
                "login records were left out, since the start"
            );
            self.told = now;
        }
    }
}

// === impl Counters ===

impl Counters {
    fn load(&self) -> Drops {
        Drops {
            ring_full: self.ring_full.load(Ordering::Relaxed),
            unreadable: self.unreadable.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            forged: self.forged.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }
}
