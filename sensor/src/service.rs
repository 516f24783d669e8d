//! The running sensor: its parts, started in the order in which data flows back from the enforcer
//! to the sources, so that nothing is noticed before it can be kept.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use atalaya_wire::Networks;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::detector::{Detector, Ignored};
use crate::membership::Membership;
use crate::outbox::Outbox;
use crate::source::files::{FilesStatus, FollowedFile, Follower, Position, SavedPosition, Sink, Start};
use crate::source::syslog::{Syslog, SyslogOptions};
use crate::store::{Snapshot, Store};
use crate::uplink::Uplink;

/// How often positions and counters go to disk while they change.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the host's own addresses and the enforcer's allow list are read again.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// How often a sensor that has not joined looks whether it has.
const JOIN_INTERVAL: Duration = Duration::from_secs(2);
/// How often drops are looked at, and told when there are new ones.
const DROPS_INTERVAL: Duration = Duration::from_secs(10);

/// The jails, and what they changed that is not on disk yet.
struct Watch {
    detector: Detector,
    unsaved: Snapshot,
}

type Shared = Arc<Mutex<Watch>>;

/// Runs the sensor until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();

    let (store, mut saved, writer) = Store::open(&config.state)?;
    let outbox = Outbox::new(store.clone(), &saved);
    if saved.waiting > 0 {
        tracing::info!(offences = saved.waiting, "offences from before wait for the enforcer");
    }

    let ignored = Ignored {
        configured: config.allow,
        own: own_addresses(config.ignore_self),
        enforcer: std::mem::take(&mut saved.allow).networks,
    };
    let mut detector = Detector::new(config.jails, ignored, TimeZone::system(), {
        let outbox = outbox.clone();
        move |offence| outbox.push(offence)
    });
    detector.restore(std::mem::take(&mut saved.counters));
    let watch = Arc::new(Mutex::new(Watch { detector, unsaved: Snapshot::default() }));

    tasks.spawn(stop_at(shutdown.clone(), send(config.state, outbox, store.clone(), watch.clone())));
    let files = follow(&watch, saved.positions)?;
    // From here on every line counts: where reading starts must survive a crash.
    store.snapshot(take_snapshot(&watch));
    store.flush().await;
    let mut sources = Vec::new();
    if files.is_some() {
        sources.push("files");
    }
    if lock(&watch).detector.wants_logins() && start_logins(&tasks, &shutdown, &watch) {
        sources.push("logins");
    }
    if !config.syslog.udp.is_empty() || !config.syslog.tcp.is_empty() {
        let options =
            SyslogOptions { udp: config.syslog.udp, tcp: config.syslog.tcp, ..SyslogOptions::default() };
        listen(&tasks, &shutdown, &watch, options).await?;
        sources.push("syslog");
    }
    tasks.spawn(stop_at(shutdown.clone(), keep(watch.clone(), store.clone(), config.ignore_self)));
    let files_status = files.as_ref().map(|(handle, _)| handle.status());
    tasks.spawn(stop_at(shutdown.clone(), tell_drops(watch.clone(), store.clone(), files_status)));

    let jails = lock(&watch).detector.totals().count();
    release_free_memory();
    tracing::info!(jails, sources = sources.join(","), "ready");
    if sources.is_empty() {
        tracing::warn!("no source runs: nothing will be noticed");
    }

    wait_for_signal().await?;
    tracing::info!("stopping");
    if let Some((handle, thread)) = files {
        handle.stop();
        let _ = tokio::task::spawn_blocking(|| thread.join()).await;
    }
    shutdown.cancel();
    tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
    store.snapshot(take_snapshot(&watch));
    store.flush().await;
    drop((store, watch));
    let _ = tokio::time::timeout(Duration::from_secs(1), tokio::task::spawn_blocking(move || writer.join()))
        .await;
    Ok(())
}

/// The way out: once the sensor has joined, sends offences and keeps the allow list fresh.
async fn send(state: impl AsRef<Path>, outbox: Outbox, store: Store, watch: Shared) {
    let mut told = false;
    let uplink = loop {
        let problem = match Membership::load(state.as_ref()) {
            Ok(Some(membership)) => {
                tracing::info!(url = membership.url, sensor = %membership.sensor, "joined");
                match Uplink::new(membership) {
                    Ok(uplink) => break uplink,
                    Err(error) => error.to_string(),
                }
            }
            Ok(None) => "this sensor has not joined an enforcer: run `atalaya-enforcer enrol NAME` there and `atalaya-sensor join URL TOKEN` here".to_owned(),
            Err(error) => error.to_string(),
        };
        if !told {
            tracing::warn!("{problem}; until then offences are kept");
            told = true;
        }
        tokio::time::sleep(JOIN_INTERVAL).await;
    };
    let refresh = async {
        let mut interval = tokio::time::interval(REFRESH_INTERVAL);
        loop {
            interval.tick().await;
            match uplink.allow().await {
                Ok(allow) => {
                    lock(&watch).detector.set_enforcer_allow(allow.networks.clone());
                    store.allow(allow);
                }
                Err(error) => tracing::warn!(%error, "the allow list could not be read; the last one holds"),
            }
        }
    };
    tokio::join!(uplink.send_all(&outbox), refresh);
}

/// Follows the log files of all jails on a thread of its own.
fn follow(
    watch: &Shared,
    saved: Vec<SavedPosition>,
) -> anyhow::Result<Option<(crate::source::files::FollowerHandle, std::thread::JoinHandle<()>)>> {
    let mut patterns = Vec::new();
    let mut jail_of_pattern = Vec::new();
    for (jail, paths) in lock(watch).detector.paths() {
        for path in paths {
            patterns.push(path);
            jail_of_pattern.push(jail);
        }
    }
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut follower = Follower::new(&patterns, saved, Start::End)?;
    let handle = follower.handle();
    let mut sink = FileSink { watch: watch.clone(), jail_of_pattern };
    follower.begin(&mut sink);
    let thread = std::thread::Builder::new()
        .name("files".into())
        .spawn(move || follower.run(&mut sink))
        .context("cannot start the thread that follows files")?;
    Ok(Some((handle, thread)))
}

struct FileSink {
    watch: Shared,
    jail_of_pattern: Vec<usize>,
}

impl Sink for FileSink {
    fn lines(&mut self, file: &FollowedFile, lines: &[u8], after: &Position) {
        let now = Timestamp::now();
        let source = file.path.to_string_lossy();
        let mut jails: Vec<usize> =
            file.patterns.iter().filter_map(|pattern| self.jail_of_pattern.get(*pattern).copied()).collect();
        jails.sort_unstable();
        jails.dedup();
        let mut watch = lock(&self.watch);
        watch.detector.lines(&jails, &source, lines, now);
        let position = SavedPosition { path: file.path.to_path_buf(), position: after.clone() };
        let key = position.key();
        watch.unsaved.forgotten.retain(|gone| *gone != key);
        match watch.unsaved.positions.iter_mut().find(|old| old.key() == key) {
            Some(old) => *old = position,
            None => watch.unsaved.positions.push(position),
        }
    }

    fn forget(&mut self, position: &SavedPosition) {
        let key = position.key();
        let mut watch = lock(&self.watch);
        watch.unsaved.positions.retain(|old| old.key() != key);
        watch.unsaved.forgotten.push(key);
    }
}

/// Starts the kernel's side; false where it cannot run, which is told once.
#[cfg(feature = "kernel")]
fn start_logins(tasks: &TaskTracker, shutdown: &CancellationToken, watch: &Shared) -> bool {
    use crate::detector::FailedLogin;
    use crate::source::logins::{LoginOutcome, Logins};

    let mut logins = match Logins::start() {
        Ok(logins) => logins,
        Err(error) => {
            tracing::warn!("failed logins are not seen in the kernel: {error}; the other sources go on");
            return false;
        }
    };
    let watch = watch.clone();
    tasks.spawn(stop_at(shutdown.clone(), async move {
        let mut interval = tokio::time::interval(DROPS_INTERVAL);
        let mut told = (crate::source::logins::Drops::default(), 0);
        loop {
            let attempt = tokio::select! {
                attempt = logins.next() => match attempt {
                    Some(attempt) => attempt,
                    None => return,
                },
                _ = interval.tick() => {
                    let now = (logins.drops(), logins.forged());
                    if now != told {
                        let (drops, forged) = now;
                        let (ring_full, unreadable) = (drops.ring_full, drops.unreadable);
                        tracing::warn!(ring_full, unreadable, forged, "login records lost, or not believed, in all since the start");
                        told = now;
                    }
                    continue;
                }
            };
            let (account, service) = (&attempt.account, &attempt.service);
            match (attempt.outcome, attempt.address) {
                (LoginOutcome::Failed, Some(address)) => {
                    let login = FailedLogin { address, service, time: attempt.time, text: &attempt.text };
                    lock(&watch).detector.failed_login(&login, Timestamp::now());
                }
                (LoginOutcome::Failed, None) => {
                    tracing::info!(
                        ?account,
                        service,
                        pid = attempt.pid,
                        "failed login with no remote address: shown, never banned"
                    );
                }
                (LoginOutcome::Local, _) => {
                    tracing::info!(
                        ?account,
                        service,
                        pid = attempt.pid,
                        "failed local login: shown, never banned"
                    );
                }
                (LoginOutcome::Succeeded, address) => {
                    tracing::debug!(?account, service, ?address, pid = attempt.pid, "login");
                }
            }
        }
    }));
    true
}

#[cfg(not(feature = "kernel"))]
fn start_logins(_tasks: &TaskTracker, _shutdown: &CancellationToken, _watch: &Shared) -> bool {
    tracing::warn!(
        "this sensor was built without the kernel's side: jails of the source `logins` see nothing"
    );
    false
}

async fn listen(
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
    watch: &Shared,
    options: SyslogOptions,
) -> anyhow::Result<()> {
    let syslog = Syslog::bind(options).await?;
    let status = syslog.status();
    tasks.spawn(stop_at(shutdown.clone(), async move {
        let mut told = (0, 0);
        let mut interval = tokio::time::interval(DROPS_INTERVAL);
        loop {
            interval.tick().await;
            let now = (status.cut(), status.turned_away());
            if now != told {
                tracing::warn!(
                    cut = now.0,
                    turned_away = now.1,
                    "syslog messages cut, and connections turned away, in all since the start"
                );
                told = now;
            }
        }
    }));
    let watch = watch.clone();
    tasks.spawn(syslog.run(
        move |message| {
            let peer: IpAddr = message.peer.ip();
            lock(&watch).detector.syslog(peer, message.time, message.text, Timestamp::now());
        },
        shutdown.clone(),
    ));
    Ok(())
}

/// Saves what changed, and keeps the host's own addresses fresh.
async fn keep(watch: Shared, store: Store, ignore_self: bool) {
    let mut snapshots = tokio::time::interval(SNAPSHOT_INTERVAL);
    let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
    loop {
        tokio::select! {
            _ = snapshots.tick() => {
                let snapshot = take_snapshot(&watch);
                if !snapshot.is_empty() {
                    store.snapshot(snapshot);
                }
            }
            _ = refresh.tick() => {
                let own = own_addresses(ignore_self);
                let mut watch = lock(&watch);
                watch.detector.set_own(own);
                watch.detector.sweep(Timestamp::now());
            }
        }
    }
}

/// Tells of everything that was dropped at a bound, when there is more of it than at the last look.
async fn tell_drops(watch: Shared, store: Store, files: Option<Arc<FilesStatus>>) {
    let mut last = (0, 0, 0);
    let mut interval = tokio::time::interval(DROPS_INTERVAL);
    loop {
        interval.tick().await;
        let counters: u64 = lock(&watch).detector.totals().map(|(_, _, totals)| totals.dropped).sum();
        let lines = files.as_ref().map_or(0, |status| status.cut_lines());
        let now = (store.dropped(), counters, lines);
        if now != last {
            tracing::warn!(
                offences = now.0,
                counters = now.1,
                cut_lines = now.2,
                "dropped at the memory's bounds, in all since the start"
            );
            last = now;
        }
    }
}

fn take_snapshot(watch: &Shared) -> Snapshot {
    let mut watch = lock(watch);
    let mut snapshot = std::mem::take(&mut watch.unsaved);
    snapshot.counters = watch.detector.take_changed();
    snapshot
}

fn own_addresses(ignore_self: bool) -> Networks {
    if !ignore_self {
        return Networks::default();
    }
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.iter().map(|interface| interface.ip().into()).collect(),
        Err(error) => {
            tracing::warn!(%error, "the host's own addresses cannot be read");
            Networks::default()
        }
    }
}

/// Gives back what only the start needed. Loading eBPF programs parses the kernel's type information,
/// some 20 MB that the allocator would keep for the sensor's whole life.
fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc's function has no safe wrapper")]
    // SAFETY: it may be called at any time from any thread, and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

async fn stop_at(shutdown: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn lock(watch: &Shared) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}
