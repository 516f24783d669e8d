//! The running sensor: its parts, started in the order in which data flows back from the enforcer
//! to the sources, so that nothing is noticed before it can be kept.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use atalaya_wire::{Name, Networks, Offence, ProblemCode, Report, Unban};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, ConfigError, LoginsConfig};
use crate::confine::files::Reach;
use crate::confine::{self, Confinement};
use crate::control::{self, Answer, FileStatus, Request, Status};
use crate::detector::{Detector, Ignored};
use crate::ignore::{IgnoreCommand, IgnoreList};
use crate::jail::{BanEnd, Counter};
use crate::kernel::{Wanted, logins as kernel_logins};
use crate::membership::Membership;
use crate::outbox::Outbox;
use crate::report::{ReportStatus, Reporter};
use crate::source::files::{FilesStatus, FollowerHandle, SavedPosition};
use crate::source::journal::{self, Cursor, Entry, JournalOptions};
use crate::source::syslog::SyslogOptions;
use crate::store::{Snapshot, Store};
use crate::uplink::Uplink;

mod files;
mod kernel;
mod local_drop;
#[cfg(feature = "kernel")]
mod logins;
mod reports;
mod resend;
mod syslog;
#[cfg(feature = "kernel")]
mod syslog_calls;

use kernel::{Feeding, Kernel};
use local_drop::LocalDrop;

/// How often positions and counters go to disk while they change.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the host's own addresses and the enforcer's allow list are read again.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// How often a sensor that has not joined looks whether it has.
const JOIN_INTERVAL: Duration = Duration::from_secs(2);
/// How many offences wait for an ignorecommand at most.
const DOUBTS: usize = 10_000;
/// How many ignorecommands run at once.
const COMMANDS: usize = 16;
/// How often drops are looked at, and told when there are new ones.
const DROPS_INTERVAL: Duration = Duration::from_secs(10);

/// The jails, and what they changed that is not on disk yet.
struct Watch {
    detector: Detector,
    unsaved: Snapshot,
    /// Where reading of each file stands, by the positions' keys.
    positions: HashMap<String, SavedPosition>,
    journal: Option<Cursor>,
    /// Offences whose ignorecommand runs: until it ends, nothing that led to them is saved.
    asked: Arc<AtomicUsize>,
    /// Counters of the files that are followed.
    files: Option<Arc<FilesStatus>>,
    /// Lines looked at since the start.
    lines: u64,
    /// What the enforcer was told beside offences, without what is pending.
    reports: ReportStatus,
}

type Shared = Arc<Mutex<Watch>>;

/// The way to the enforcer, for `status` and `unban`.
#[derive(Clone, Default)]
struct Link(Arc<Mutex<Option<Uplink>>>);

/// What runs between two reloads.
struct Sources {
    token: CancellationToken,
    tasks: TaskTracker,
    files: Option<(FollowerHandle, std::thread::JoinHandle<()>)>,
    names: Vec<&'static str>,
}

/// What the whole run shares.
struct Service {
    watch: Shared,
    link: Link,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    started: Timestamp,
    rate: Arc<Mutex<Rate>>,
    kernel: Kernel,
    local_drop: LocalDrop,
    /// What the worker kept.
    confinement: Confinement,
}

/// Lines a second over the last looks.
#[derive(Default)]
struct Rate(VecDeque<u64>);

/// What comes before the runtime and its threads.
pub struct Prepared {
    kernel: Kernel,
    bounds: Bounds,
    confinement: Confinement,
}

/// What the worker can reach for the rest of its life.
struct Bounds {
    /// `None` where it is not confined.
    reach: Option<Reach>,
    /// Where the configuration is read from.
    file: PathBuf,
}

/// Starts the loader, whose command line begins with `loader`, and gives up what the worker does not need.
/// `file` is where the configuration was read from.
pub fn prepare(config: &Config, file: &Path, loader: &[OsString]) -> Prepared {
    let kernel = Kernel::start(loader);
    // What is not there cannot be reached later.
    if let Err(error) = std::fs::create_dir_all(&config.state) {
        tracing::debug!(%error, "the state folder cannot be made");
    }
    let reach = if config.confine { Reach::of(config, file) } else { Err("`confine = false`".to_owned()) };
    let low = |address: &std::net::SocketAddr| (1..1024).contains(&address.port());
    let privileged_port = config.syslog.udp.iter().chain(&config.syslog.tcp).any(low);
    let confinement = match &reach {
        Ok(reach) => confine::worker(reach, privileged_port),
        Err(why) => confine::nothing(why),
    };
    match &reach {
        Ok(_) => tracing::info!("confined: {confinement}"),
        Err(why) => tracing::warn!("the sensor is not confined: {why}"),
    }
    Prepared { kernel, bounds: Bounds { reach: reach.ok(), file: file.to_owned() }, confinement }
}

/// Runs the sensor until SIGTERM or SIGINT. `reread` reads the configuration again, at SIGHUP and at
/// `atalaya-sensor reload`.
pub async fn run(
    config: Config,
    prepared: Prepared,
    reread: impl Fn() -> Result<Config, ConfigError>,
) -> anyhow::Result<()> {
    let Prepared { kernel, bounds, confinement } = prepared;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let (store, mut saved, writer) = Store::open(&config.state)?;
    let outbox = Outbox::new(store.clone(), &saved);
    let told =
        Told { reporter: Reporter::new(outbox.name().clone(), saved.reports), ledger: saved.ledger.take() };
    if saved.waiting > 0 {
        tracing::info!(offences = saved.waiting, "offences from before wait for the enforcer");
    }
    let listener = control::listen(&config.state)?;
    let state = config.state.clone();

    let (doubtful, doubts) = mpsc::channel(DOUBTS);
    let asked = Arc::new(AtomicUsize::new(0));
    let ignored = Ignored {
        configured: config.allow.clone(),
        own: own_addresses(),
        enforcer: std::mem::take(&mut saved.allow).networks,
    };
    let local_drop = LocalDrop::default();
    let mut detector = Detector::new(Vec::new(), ignored, TimeZone::system(), {
        let (outbox, asked, local_drop) = (outbox.clone(), asked.clone(), local_drop.clone());
        move |offence, command| match command {
            None => {
                // Before the network and the disk.
                local_drop.offence(&offence);
                outbox.push(offence);
            }
            Some(command) => {
                asked.fetch_add(1, Ordering::SeqCst);
                if let Err(error) = doubtful.try_send((offence, command)) {
                    asked.fetch_sub(1, Ordering::SeqCst);
                    tracing::warn!(%error, "an ignorecommand is too slow for the offences that come: one is dropped, and comes again with its next failures");
                }
            }
        }
    });
    detector.set_trusted(local_drop.trusted());
    let positions = saved.positions.into_iter().map(|position| (position.key(), position)).collect();
    let watch = Watch {
        detector,
        unsaved: Snapshot::default(),
        positions,
        journal: saved.journal,
        asked,
        files: None,
        lines: 0,
        reports: ReportStatus::default(),
    };
    let mut service = Service {
        watch: Arc::new(Mutex::new(watch)),
        link: Link::default(),
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
        started: Timestamp::now(),
        rate: Arc::default(),
        kernel,
        local_drop: local_drop.clone(),
        confinement,
    };
    // Before it is told that there is no enforcer: for hosts without a router that is as it should be.
    local_drop.configure(&config);
    service.spawn(send(
        state.clone(),
        outbox.clone(),
        store.clone(),
        service.watch.clone(),
        service.link.clone(),
        local_drop.clone(),
        told,
    ));
    service.spawn(ask_commands(service.watch.clone(), doubts, outbox, local_drop.clone()));

    let mut sources = service.start(config, Some((saved.counters, saved.bans))).await?;
    // From here on every line counts: where reading starts must survive a crash.
    store.snapshot(take_snapshot(&service.watch));
    store.flush().await;
    service.spawn(keep(service.watch.clone(), store.clone(), service.rate.clone()));
    service.spawn(tell_drops(service.watch.clone(), store.clone()));
    service.spawn(local_drop.keep(state.clone(), service.watch.clone()));
    let (calls, mut requests) = mpsc::channel(16);
    service.spawn(control::serve(listener, calls));

    let jails = lock(&service.watch).detector.totals().count();
    tracing::info!(jails, sources = sources.names.join(","), "ready");
    if sources.names.is_empty() {
        tracing::warn!("no source runs: nothing will be noticed");
    }

    let stop = wait_for_signal();
    tokio::pin!(stop);
    let loader_ended = service.kernel.ended();
    tokio::pin!(loader_ended);
    let mut outcome = Ok(());
    loop {
        let reply = tokio::select! {
            biased;
            stopped = &mut stop => {
                stopped?;
                break;
            }
            () = &mut loader_ended => {
                // Half a sensor that looks whole would be worse than one that its service starts again.
                outcome = Err(anyhow!("the loader of the kernel programs ended; start the sensor again"));
                break;
            }
            _ = hangup.recv() => None,
            call = requests.recv() => match call {
                Some((Request::Reload, reply)) => Some(reply),
                Some((request, reply)) => {
                    service.answer(request, reply, &sources);
                    continue;
                }
                None => continue,
            },
        };
        let answer = match reread().map_err(|error| error.to_string()).and_then(|new| bounds.admit(new)) {
            Ok(config) if config.state != state => Answer::Failed {
                message: format!(
                    "`state` cannot be changed by a reload: restart the sensor to go on with {}; it runs on as before",
                    config.state.display()
                ),
            },
            Ok(config) => {
                sources.stop().await;
                store.snapshot(take_snapshot(&service.watch));
                let told = config.to_string();
                match service.start(config, None).await {
                    Ok(started) => {
                        sources = started;
                        told.lines().for_each(|line| tracing::info!("{line}"));
                        let jails = lock(&service.watch).detector.totals().count();
                        tracing::info!(jails, sources = sources.names.join(","), "reloaded");
                        Answer::Done {
                            message: format!("reloaded: {jails} jails, sources {}", sources.names.join(", ")),
                        }
                    }
                    Err(error) => {
                        sources = Sources::none();
                        Answer::Failed {
                            message: format!(
                                "the new configuration cannot run: {error:#}; nothing is noticed until it is mended and loaded again"
                            ),
                        }
                    }
                }
            }
            Err(error) => Answer::Failed { message: format!("{error}; the sensor runs on as before") },
        };
        if let Answer::Failed { message } = &answer {
            tracing::error!("reload: {message}");
        }
        if let Some(reply) = reply {
            let _ = reply.send(answer);
        }
    }
    tracing::info!("stopping");
    sources.stop().await;
    service.shutdown.cancel();
    service.tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), service.tasks.wait()).await;
    store.snapshot(take_snapshot(&service.watch));
    store.flush().await;
    drop((store, service));
    let _ = tokio::time::timeout(Duration::from_secs(1), tokio::task::spawn_blocking(move || writer.join()))
        .await;
    outcome
}

/// What an earlier run told the enforcer.
struct Told {
    reporter: Reporter,
    /// The ledger that has the bans of before.
    ledger: Option<Name>,
}

/// Counters and bans as they were saved.
type Counted = (Vec<(Name, IpAddr, Counter)>, Vec<(Name, IpAddr, BanEnd)>);

// === impl Bounds ===

impl Bounds {
    /// Lets a new configuration pass that needs no more than what can be reached.
    fn admit(&self, config: Config) -> Result<Config, String> {
        let Some(reach) = &self.reach else { return Ok(config) };
        let beyond = match Reach::of(&config, &self.file) {
            Ok(wanted) => reach.lacks(&wanted).map(|path| format!("it needs {}", path.display())),
            Err(why) => Some(why),
        };
        match beyond {
            None => Ok(config),
            Some(why) => Err(format!(
                "the new configuration asks for more than the sensor kept when it started: {why}; \
                 start the sensor again, which loses nothing"
            )),
        }
    }
}

// === impl Service ===

impl Service {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(stop_at(self.shutdown.clone(), work));
    }

    /// Goes on with a configuration: its jails, and the sources that they need.
    async fn start(&mut self, config: Config, counted: Option<Counted>) -> anyhow::Result<Sources> {
        let watch = &self.watch;
        let local_drop = self.local_drop.configure(&config);
        let lookups = {
            let mut watch = lock(watch);
            watch.detector.replace(config.jails, config.allow);
            watch.detector.set_reporting(config.report);
            if let Some((counters, bans)) = counted {
                watch.detector.restore(counters);
                watch.detector.restore_bans(bans);
            }
            watch.detector.lookups()
        };
        // Nobody is banned before it is known who is spared.
        look_up(watch, lookups).await;
        self.local_drop.look_around(&config.state).await;
        self.local_drop.refresh(&lock(watch));
        let mut sources = Sources::none();
        sources.files = files::follow(watch)?;
        lock(watch).files = sources.files.as_ref().map(|(handle, _)| handle.status());
        if sources.files.is_some() {
            sources.names.push("files");
        }
        let wanted = Wanted {
            confine: config.confine,
            logins: logins_wanted(&lock(watch).detector, config.logins),
            local_drop: Some(local_drop),
        };
        // The kernel's side outlives a reload: no login may be missed.
        let feeding =
            Feeding { tasks: &self.tasks, shutdown: &self.shutdown, watch, local_drop: &self.local_drop };
        sources.names.extend(self.kernel.want(wanted, &feeding).await);
        self.local_drop.settle();
        let wanted = lock(watch).detector.journal_matches();
        if !wanted.is_empty() {
            let cursor = lock(watch).journal.clone();
            let options = JournalOptions { folder: config.journal };
            let take = {
                let watch = watch.clone();
                move |entry: Entry| {
                    let mut watch = lock(&watch);
                    watch.detector.journal(&entry, Timestamp::now());
                    watch.lines += 1;
                    watch.journal = Some(entry.cursor.clone());
                    watch.unsaved.journal = Some(entry.cursor);
                }
            };
            sources.tasks.spawn(journal::follow(options, wanted, cursor, take, sources.token.clone()));
            sources.names.push("journal");
        }
        if !config.syslog.udp.is_empty() || !config.syslog.tcp.is_empty() {
            let options =
                SyslogOptions { udp: config.syslog.udp, tcp: config.syslog.tcp, ..SyslogOptions::default() };
            if let Err(error) = syslog::listen(&sources.tasks, &sources.token, watch, options).await {
                sources.stop().await;
                return Err(error);
            }
            sources.names.push("syslog");
        }
        Ok(sources)
    }

    /// Answers a command, here or, where it has to ask the enforcer, on a task of its own.
    fn answer(&self, request: Request, reply: oneshot::Sender<Answer>, sources: &Sources) {
        let now = Timestamp::now();
        let done = |message: String| Answer::Done { message };
        let failed = |message: String| Answer::Failed { message };
        let unknown = |watch: &Watch, jail: &Name| {
            let jails: Vec<&str> = watch.detector.totals().map(|(name, _, _)| name.as_str()).collect();
            failed(format!("there is no jail `{jail}`; there are {}", jails.join(", ")))
        };
        let mut watch = lock(&self.watch);
        let answer = match request {
            Request::Status { jail } => match &jail {
                Some(name) if !watch.detector.totals().any(|(other, _, _)| other == name) => {
                    unknown(&watch, name)
                }
                _ => {
                    let mut status = self.status(&watch, jail.as_ref(), sources, now);
                    let local_drop = self.local_drop.clone();
                    // Asking the kernel of every ban takes its time, in which the jails go on.
                    self.tasks.spawn_blocking(move || {
                        local_drop.complete(&mut status);
                        let _ = reply.send(Answer::Status(Box::new(status)));
                    });
                    return;
                }
            },
            Request::Ban { jail, address, bantime } => match watch.detector.ban(&jail, address, bantime, now)
            {
                Some(bantime) => done(format!(
                    "{address} is banned for {bantime} in the name of jail {jail}; the enforcer's allow list is above it"
                )),
                None => unknown(&watch, &jail),
            },
            Request::Ignore { jail, network } => match watch.detector.spare(&jail, network) {
                Some(()) => {
                    self.local_drop.refresh(&watch);
                    done(format!(
                        "{network} is spared in jail {jail} until the sensor ends; to spare it for ever, write it to `ignore`"
                    ))
                }
                None => unknown(&watch, &jail),
            },
            Request::Unban { jail, address } => {
                if let Some(name) = &jail
                    && !watch.detector.totals().any(|(other, _, _)| other == name)
                {
                    unknown(&watch, name)
                } else {
                    let (link, watch) = (self.link.clone(), self.watch.clone());
                    let local_drop = self.local_drop.clone();
                    self.tasks.spawn(async move {
                        let _ = reply.send(unban(&link, &watch, &local_drop, jail, address).await);
                    });
                    return;
                }
            }
            Request::Reload => failed("a reload is answered elsewhere".to_owned()),
        };
        drop(watch);
        let _ = reply.send(answer);
    }

    fn status(&self, watch: &Watch, jail: Option<&Name>, sources: &Sources, now: Timestamp) -> Status {
        let link = self.link.lock();
        let files = watch.positions.values().map(|saved| FileStatus {
            path: saved.path.clone(),
            read: saved.position.offset,
            size: std::fs::metadata(&saved.path).map_or(saved.position.offset, |file| file.len()),
        });
        let mut files: Vec<FileStatus> = files.collect();
        files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Status {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            enforcer: link.as_ref().map(|uplink| uplink.url().to_owned()),
            connected: link.as_ref().and_then(Uplink::is_connected),
            sources: sources.names.iter().map(ToString::to_string).collect(),
            programs: self.kernel.programs(),
            confinement: [("worker", Some(self.confinement.clone())), ("loader", self.kernel.confinement())]
                .into_iter()
                .filter_map(|(process, kept)| Some((process.to_owned(), kept?)))
                .collect(),
            kernel_trouble: self.kernel.trouble().map(ToOwned::to_owned),
            lines: watch.lines,
            lines_per_second: self.rate.lock().unwrap_or_else(PoisonError::into_inner).per_second(),
            backlog: sources.files.as_ref().map_or(0, |(handle, _)| handle.status().backlog()),
            files,
            jails: watch.detector.status(jail, now),
            local_drop: None,
            reports: match watch.detector.reporting() {
                Some(pending) => ReportStatus { on: true, ..watch.reports.clone() }.with(pending),
                None => ReportStatus::default(),
            },
        }
    }
}

// === impl Sources ===

impl Sources {
    fn none() -> Self {
        Self { token: CancellationToken::new(), tasks: TaskTracker::new(), files: None, names: Vec::new() }
    }

    /// Ends them, each after what it is at.
    async fn stop(&mut self) {
        if let Some((handle, thread)) = self.files.take() {
            handle.stop();
            let _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
        self.token.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await;
        self.names.clear();
    }
}

// === impl Link ===

impl Link {
    fn lock(&self) -> MutexGuard<'_, Option<Uplink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Rate ===

impl Rate {
    /// Notes how many lines there were in all, a second after the last note.
    fn note(&mut self, lines: u64) {
        self.0.push_back(lines);
        if self.0.len() > 11 {
            self.0.pop_front();
        }
    }

    fn per_second(&self) -> f64 {
        match (self.0.front(), self.0.back()) {
            (Some(first), Some(last)) if self.0.len() > 1 => {
                (last - first) as f64 / (self.0.len() - 1) as f64
            }
            _ => 0.0,
        }
    }
}

/// Lifts bans at the enforcer, and then here: that of the address, and of all that are counted as one with
/// it, for whoever has one of them has all. Where the enforcer cannot be asked they stand here too, so that
/// asking again finds them.
async fn unban(
    link: &Link,
    watch: &Shared,
    local_drop: &LocalDrop,
    jail: Option<Name>,
    address: IpAddr,
) -> Answer {
    let uplink = link.lock().clone();
    let banned = lock(watch).detector.banned(jail.as_ref(), address);
    let Some(uplink) = uplink else {
        if local_drop.is_wanted() {
            lock(watch).detector.lift(jail.as_ref(), address);
            local_drop.lift(address, &banned);
            return if banned.is_empty() {
                Answer::Failed { message: format!("{address} is not banned by any jail here") }
            } else {
                Answer::Done { message: format!("{address} is unbanned on this host{}", of_jails(&banned)) }
            };
        }
        return Answer::Failed {
            message: format!("{address} cannot be unbanned: this sensor has not joined an enforcer"),
        };
    };
    let mut addresses: Vec<IpAddr> = banned.iter().map(|(_, address)| *address).collect();
    addresses.push(atalaya_wire::canonical(address));
    addresses.sort_unstable();
    addresses.dedup();
    let mut lifted = Vec::new();
    let mut refusal = None;
    for address in addresses {
        match uplink.unban(&Unban { address, jail: jail.clone() }).await {
            Ok(()) => lifted.push(address.to_string()),
            Err(error) if error.code() == Some(ProblemCode::NotFound) => refusal = Some(error),
            Err(error) => return Answer::Failed { message: error.to_string() },
        }
    }
    lock(watch).detector.lift(jail.as_ref(), address);
    local_drop.lift(address, &banned);
    if let Some(refusal) = refusal.filter(|_| lifted.is_empty()) {
        return Answer::Failed { message: refusal.to_string() };
    }
    let of = of_jails(&banned);
    let (what, verb) = (lifted.join(", "), if lifted.len() == 1 { "is" } else { "are" });
    Answer::Done { message: format!("{what} {verb} unbanned{of}") }
}

/// In whose name an address was banned, for a message.
fn of_jails(banned: &[(Name, IpAddr)]) -> String {
    let mut jails: Vec<&str> = banned.iter().map(|(jail, _)| jail.as_str()).collect();
    jails.dedup();
    if jails.is_empty() { String::new() } else { format!(" (jail {})", jails.join(", ")) }
}

/// Asks the jails' ignorecommands, several at once, and hands over the offences that none spares.
async fn ask_commands(
    watch: Shared,
    mut doubts: mpsc::Receiver<(Offence, Arc<IgnoreCommand>)>,
    outbox: Outbox,
    local_drop: LocalDrop,
) {
    let room = Arc::new(Semaphore::new(COMMANDS));
    while let Some((offence, command)) = doubts.recv().await {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (watch, outbox, local_drop) = (watch.clone(), outbox.clone(), local_drop.clone());
        tokio::spawn(async move {
            let spares = command.spares(offence.address).await;
            let mut watch = lock(&watch);
            if spares {
                tracing::info!(jail = %offence.jail, address = %offence.address, "spared by the ignorecommand");
                watch.detector.withdraw(&offence.jail, offence.address);
            } else {
                local_drop.offence(&offence);
                outbox.push(offence);
            }
            watch.asked.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
        });
    }
}

/// Looks up the names and files that jails spare.
async fn look_up(watch: &Shared, lookups: Vec<(Name, IgnoreList)>) {
    for (jail, list) in lookups {
        let networks = list.look_up().await;
        lock(watch).detector.set_looked_up(&jail, networks);
    }
}

/// The way out: once the sensor has joined, sends offences and reports, keeps the allow list fresh, and sees
/// when the enforcer has lost its ledger.
async fn send(
    state: impl AsRef<Path>,
    outbox: Outbox,
    store: Store,
    watch: Shared,
    link: Link,
    local_drop: LocalDrop,
    told: Told,
) {
    let mut warned = false;
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
        if !warned {
            if local_drop.is_wanted() {
                tracing::info!(
                    "{problem}, for the routers and the rest of the fleet; on this host alone bans stand already"
                );
            } else {
                tracing::warn!("{problem}; until then offences are kept");
            }
            warned = true;
        }
        tokio::time::sleep(JOIN_INTERVAL).await;
    };
    *link.lock() = Some(uplink.clone());
    let refresh = async {
        let mut interval = tokio::time::interval(REFRESH_INTERVAL);
        loop {
            interval.tick().await;
            match uplink.allow().await {
                Ok(allow) => {
                    let networks = allow.networks.clone();
                    {
                        let mut watch = lock(&watch);
                        watch.detector.set_enforcer_allow(networks);
                        local_drop.refresh(&watch);
                    }
                    store.allow(allow);
                }
                Err(error) => tracing::warn!(%error, "the allow list could not be read; the last one holds"),
            }
        }
    };
    let report = |report: Report| {
        let uplink = uplink.clone();
        async move { uplink.report(&report).await }
    };
    let reports = reports::tell(told.reporter, &watch, report, |reserved| store.reports(reserved));
    let keep = |ledger| store.ledger(ledger);
    let resend = resend::resend(told.ledger, uplink.ledger(), &watch, &outbox, keep);
    let follow = local_drop.follow(&uplink, &watch);
    tokio::join!(uplink.send_all(&outbox), refresh, reports, resend, follow);
}

/// Saves what changed, and keeps fresh who is spared.
async fn keep(watch: Shared, store: Store, rate: Arc<Mutex<Rate>>) {
    let mut snapshots = tokio::time::interval(SNAPSHOT_INTERVAL);
    let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
    loop {
        tokio::select! {
            _ = snapshots.tick() => {
                let snapshot = take_snapshot(&watch);
                if !snapshot.is_empty() {
                    store.snapshot(snapshot);
                }
                let lines = lock(&watch).lines;
                rate.lock().unwrap_or_else(PoisonError::into_inner).note(lines);
            }
            _ = refresh.tick() => {
                let own = own_addresses();
                let lookups = {
                    let mut watch = lock(&watch);
                    watch.detector.set_own(own);
                    watch.detector.set_zone(TimeZone::system());
                    watch.detector.sweep(Timestamp::now());
                    watch.detector.lookups()
                };
                // On a task of its own: a slow name must not hold up what is saved.
                let watch = watch.clone();
                tokio::spawn(async move { look_up(&watch, lookups).await });
            }
        }
    }
}

/// Tells of everything that was dropped at a bound, when there is more of it than at the last look.
async fn tell_drops(watch: Shared, store: Store) {
    let mut last = (0, 0, 0, 0);
    let mut interval = tokio::time::interval(DROPS_INTERVAL);
    loop {
        interval.tick().await;
        let counters: u64 = lock(&watch).detector.totals().map(|(_, _, totals)| totals.dropped).sum();
        let lines = lock(&watch).files.as_ref().map_or(0, |status| status.cut_lines());
        let reports = {
            let watch = lock(&watch);
            watch.reports.dropped + watch.detector.reporting().map_or(0, |pending| pending.lost().dropped)
        };
        let now = (store.dropped(), counters, lines, reports);
        if now != last {
            tracing::warn!(
                offences = now.0,
                counters = now.1,
                cut_lines = now.2,
                unreported = now.3,
                "dropped at the memory's bounds, in all since the start"
            );
            last = now;
        }
    }
}

/// What changed since the last call; nothing while an ignorecommand runs, so that what led to its
/// offence is read again after a crash.
fn take_snapshot(watch: &Shared) -> Snapshot {
    let mut watch = lock(watch);
    if watch.asked.load(Ordering::SeqCst) > 0 {
        return Snapshot::default();
    }
    let mut snapshot = std::mem::take(&mut watch.unsaved);
    snapshot.counters = watch.detector.take_changed();
    snapshot.bans = watch.detector.take_changed_bans();
    snapshot
}

/// What the jails want of the kernel's side of logins.
fn logins_wanted(detector: &Detector, config: LoginsConfig) -> Option<kernel_logins::Wanted> {
    let (verdicts, syslog) = (detector.wants_logins(), detector.wants_syslog_calls());
    (verdicts || syslog).then_some(kernel_logins::Wanted {
        verdicts: verdicts.then_some(config.verdicts),
        peers: verdicts && config.peers,
        syslog,
    })
}

fn own_addresses() -> Networks {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.iter().map(|interface| interface.ip().into()).collect(),
        Err(error) => {
            tracing::warn!(%error, "the host's own addresses cannot be read");
            Networks::default()
        }
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

#[cfg(test)]
impl Watch {
    /// The jails of a configuration; offences go nowhere.
    fn for_test(config: &str) -> Self {
        let config = Config::parse(config, Path::new("sensor.toml")).unwrap();
        Self {
            detector: Detector::new(config.jails, Ignored::default(), TimeZone::UTC, |_, _| {}),
            unsaved: Snapshot::default(),
            positions: HashMap::new(),
            journal: None,
            asked: Arc::default(),
            files: None,
            lines: 0,
            reports: ReportStatus::default(),
        }
    }
}
