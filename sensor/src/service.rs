//! The running sensor: its parts, started in the order in which data flows back from the enforcer
//! to the sources, so that nothing is noticed before it can be kept.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use atalaya_program::causes::Causes;
use atalaya_program::config_file::ConfigError;
use atalaya_program::metrics;
use atalaya_wire::Name;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel::{Wanted, local_drop as kernel_local_drop, logins as kernel_logins};
use crate::config::{Config, LoginsConfig, SyslogConfig};
use crate::confine::Confinement;
use crate::control::{self, Answer, Request};
use crate::detector::{Detector, Ignored};
#[cfg(test)]
use crate::detector::{Handed, Sent};
use crate::jail::{Counter, Fate};
use crate::source::files::{Access, FilesStatus, FollowerHandle, SavedPosition};
use crate::source::journal::{Cursor, JournalHandle, JournalStatus};
use crate::source::syslog::SyslogOptions;
use crate::store::{Snapshot, Store, Writer};
use crate::uplink::outbox::Outbox;
use crate::uplink::report::{ReportStatus, Reporter};
use atalaya_program::count::counted;
use atalaya_program::systemd::Systemd;

mod answers;
mod ban;
mod connections;
mod enforcer;
mod figures;
mod files;
mod ignorecommands;
mod journal;
mod kernel;
mod local_drop;
mod logins;
mod prepared;
mod reports;
mod resend;
mod rulings;
mod syslog;
mod syslog_calls;
mod unban;
mod upkeep;

use enforcer::{Link, Resumed, send};
use ignorecommands::{Doubt, ask_commands};
use kernel::{Feeding, Kernel};
use local_drop::LocalDrop;
pub use prepared::{Prepared, prepare};
use unban::Desk;
use upkeep::{Rate, keep, look_up, own_addresses, save, tell_drops};

/// How often the host's own addresses and the enforcer's allow list are read again.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// How often drops are looked at, and told when there are new ones.
const DROPS_INTERVAL: Duration = Duration::from_secs(10);

/// The jails, and what they changed that is not on disk yet.
struct Watch {
    detector: Detector,
    unsaved: Snapshot,
    /// Where reading of each file stands, by the positions' keys.
    positions: HashMap<String, SavedPosition>,
    /// The paths and patterns whose files are followed, or were in the run before.
    followed: Vec<String>,
    /// How many entries of each file of the journal are read, by the number of the file.
    journal: HashMap<String, u64>,
    /// Where an earlier release's reading of the journal stood, until it is followed.
    cursor: Option<Cursor>,
    /// Offences whose ignorecommand runs: until it ends, nothing that led to them is saved.
    asked: Arc<AtomicUsize>,
    /// Counters of the files that are followed.
    files: Option<Arc<FilesStatus>>,
    /// Counters of the journals that are read.
    journal_status: Option<Arc<JournalStatus>>,
    /// Lines looked at since the start.
    lines: u64,
    /// What the enforcer was told beside offences, without what is pending.
    reports: ReportStatus,
}

type Shared = Arc<Mutex<Watch>>;

/// What runs between two reloads.
struct Sources {
    token: CancellationToken,
    tasks: TaskTracker,
    files: Option<(FollowerHandle, std::thread::JoinHandle<()>)>,
    journal: Option<(JournalHandle, std::thread::JoinHandle<()>)>,
    names: Vec<&'static str>,
}

/// What the whole run shares.
struct Service {
    desk: Desk,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    started: Timestamp,
    rate: Arc<Mutex<Rate>>,
    kernel: Kernel,
    /// What the worker kept.
    confinement: Confinement,
}

/// A sensor that is set up and does nothing yet.
struct Idle {
    service: Service,
    /// What of an earlier run the way to the enforcer goes on with.
    told: Resumed,
    /// What of an earlier run the jails go on with.
    counted: Counted,
    /// The offences of which an ignorecommand is asked.
    doubts: mpsc::Receiver<Doubt>,
    writer: Writer,
}

/// Runs the sensor until SIGTERM or SIGINT. `reread` reads the configuration again, at SIGHUP and at
/// `atalaya-sensor reload`.
pub async fn run(
    mut config: Config,
    prepared: Prepared,
    reread: impl Fn() -> Result<Config, ConfigError>,
) -> anyhow::Result<()> {
    let Prepared { kernel, bounds, confinement } = prepared;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let systemd = Systemd::of_environment();
    let Idle { mut service, told, counted, doubts, writer } = open(&config, kernel, confinement)?;
    let listener = control::listen_as_possible(&config.state)?;
    let (state, folder, scraped) = (config.state.clone(), config.state.clone(), config.metrics);
    let Desk { watch, local_drop, outbox, store, .. } = service.desk.clone();

    // Before it is told that there is no enforcer: for hosts without a router that is as it should be. And before
    // the enforcer says what became of the bans of before.
    let dropping = service.load(&mut config, Some(counted));
    service.spawn(send(service.desk.clone(), state.clone(), told));
    service.spawn(ask_commands(watch.clone(), doubts, outbox, local_drop.clone()));

    let mut sources = service.start(config, dropping).await?;
    // From here on every line counts: where reading starts must survive a crash.
    save(&watch, &store);
    store.flush().await;
    service.spawn(keep(watch.clone(), store.clone(), service.rate.clone()));
    service.spawn(tell_drops(watch.clone(), store.clone()));
    service.spawn(systemd.clone().keep_watchdog());
    service.spawn(local_drop.keep(state.clone(), watch.clone()));
    let (calls, mut requests) = mpsc::channel(16);
    if let Some(address) = scraped {
        let figures = metrics::serve(metrics::listen(address)?, {
            let calls = calls.clone();
            move || figures::asked(calls.clone())
        });
        service.spawn(figures);
    }
    service.spawn(async move {
        let listener = match listener {
            Some(listener) => listener,
            None => control::listen_later(&state).await,
        };
        control::serve(listener, calls).await;
    });

    // Whoever is told that it is ready may ask it to end at once.
    let stop = asked_to_stop()?;
    let jails = lock(&watch).detector.totals().count();
    tracing::info!(jails, sources = sources.names.join(","), "ready");
    systemd.ready();
    if sources.names.is_empty() {
        tracing::warn!("no source runs: nothing will be noticed");
    }

    tokio::pin!(stop);
    let loader_ended = service.kernel.ended();
    tokio::pin!(loader_ended);
    let mut outcome = Ok(());
    loop {
        let reply = tokio::select! {
            biased;
            () = &mut stop => break,
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
        systemd.reloading();
        let read = reread().map_err(|error| error.to_string()).and_then(|new| bounds.admit(new));
        let answer = service.take_up(read, &folder, &mut sources).await;
        systemd.ready();
        if let Some(reply) = reply {
            let _ = reply.send(answer);
        }
    }
    tracing::info!("stopping");
    systemd.stopping();
    sources.stop().await;
    service.shutdown.cancel();
    service.tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), service.tasks.wait()).await;
    save(&watch, &store);
    store.flush().await;
    drop((store, service, watch));
    let _ = tokio::time::timeout(Duration::from_secs(1), tokio::task::spawn_blocking(move || writer.join()))
        .await;
    outcome
}

/// Takes over what an earlier run left in the state folder.
fn open(config: &Config, kernel: Kernel, confinement: Confinement) -> anyhow::Result<Idle> {
    let (store, mut saved, writer) = Store::open(&config.state)?;
    let outbox = Outbox::new(store.clone(), &saved);
    let told = Resumed {
        reporter: Reporter::new(outbox.name().clone(), saved.reports),
        ledger: saved.ledger.take(),
    };
    if saved.waiting > 0 {
        tracing::info!(offences = saved.waiting, "offences from before wait for the enforcer");
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let ignored = Ignored {
        configured: config.allow.clone(),
        own: own_addresses(),
        enforcer: std::mem::take(&mut saved.allow).networks,
        nat64: config.nat64.clone(),
    };
    let local_drop = LocalDrop::default();
    let (offended, doubts) = ignorecommands::outlet(outbox.clone(), local_drop.clone(), asked.clone());
    let mut detector = Detector::new(Vec::new(), ignored, TimeZone::system(), offended);
    detector.set_trusted(local_drop.trusted());
    let positions = saved.positions.into_iter().map(|position| (position.key(), position)).collect();
    let watch = Watch {
        detector,
        unsaved: Snapshot::default(),
        positions,
        followed: saved.followed,
        journal: saved.journal.into_iter().map(|one| (one.file, one.entries)).collect(),
        cursor: saved.cursor,
        asked,
        files: None,
        journal_status: None,
        lines: 0,
        reports: ReportStatus::default(),
    };
    local_drop.set_ledger(told.ledger.clone());
    let desk = Desk { link: Link::default(), watch: Arc::new(Mutex::new(watch)), local_drop, outbox, store };
    let service = Service {
        desk,
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
        started: Timestamp::now(),
        rate: Arc::default(),
        kernel,
        confinement,
    };
    Ok(Idle { service, told, counted: (saved.counters, saved.bans), doubts, writer })
}

/// Counters and bans as they were saved.
type Counted = (Vec<(Name, IpAddr, Counter)>, Vec<(Name, IpAddr, Fate)>);

// === impl Service ===

impl Service {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(stop_at(self.shutdown.clone(), work));
    }

    /// Goes on with the jails of a configuration, which are taken out of it. Returns what is to drop on this host.
    fn load(&self, config: &mut Config, counted: Option<Counted>) -> kernel_local_drop::WantedLocalDrop {
        let local_drop = self.desk.local_drop.configure(config);
        let mut watch = lock(&self.desk.watch);
        watch.detector.replace(std::mem::take(&mut config.jails), std::mem::take(&mut config.allow));
        watch.detector.set_nat64(config.nat64.clone());
        watch.detector.set_reporting(config.report);
        if let Some((counters, bans)) = counted {
            watch.detector.restore(counters);
            watch.detector.restore_bans(bans);
        }
        local_drop
    }

    /// Reloads, or says why everything stays as it was.
    async fn take_up(&mut self, read: Result<Config, String>, state: &Path, sources: &mut Sources) -> Answer {
        let answer = match read {
            Ok(config) => self.reload(config, state, sources).await,
            Err(error) => Answer::Failed { message: format!("{error}; the sensor runs on as before") },
        };
        if let Answer::Failed { message } = &answer {
            tracing::error!("reload: {message}");
        }
        answer
    }

    /// Goes on with another configuration, whose state folder must be the same.
    async fn reload(&mut self, mut config: Config, state: &Path, sources: &mut Sources) -> Answer {
        if config.state != state {
            return Answer::Failed {
                message: format!(
                    "`state` cannot be changed by a reload: restart the sensor to go on with {}; it runs on as before",
                    config.state.display()
                ),
            };
        }
        sources.stop().await;
        save(&self.desk.watch, &self.desk.store);
        let told = config.to_string();
        let dropping = self.load(&mut config, None);
        match self.start(config, dropping).await {
            Ok(started) => {
                *sources = started;
                save(&self.desk.watch, &self.desk.store);
                self.desk.store.flush().await;
                told.lines().for_each(|line| tracing::info!("{line}"));
                let jails = lock(&self.desk.watch).detector.totals().count();
                tracing::info!(jails, sources = sources.names.join(","), "reloaded");
                Answer::Done {
                    message: format!(
                        "reloaded: {}, sources {}",
                        counted(jails, "jail"),
                        sources.names.join(", ")
                    ),
                }
            }
            Err(error) => {
                *sources = Sources::none();
                Answer::Failed {
                    message: format!(
                        "the new configuration cannot run: {}; nothing is noticed until it is mended and loaded again",
                        Causes(error.as_ref())
                    ),
                }
            }
        }
    }

    /// Goes on with the sources that the jails need.
    async fn start(
        &mut self,
        config: Config,
        dropping: kernel_local_drop::WantedLocalDrop,
    ) -> anyhow::Result<Sources> {
        let Desk { watch, local_drop, .. } = &self.desk;
        let lookups = lock(watch).detector.lookups();
        // Nobody is banned before it is known who is spared.
        look_up(watch, lookups).await;
        local_drop.look_around(&config.state).await;
        local_drop.refresh(&lock(watch));
        let mut sources = Sources::none();
        sources.files = files::follow(watch, Access::new(config.follow.clone(), self.kernel.log_opener()))?;
        lock(watch).files = sources.files.as_ref().map(|(handle, _)| handle.status());
        if sources.files.is_some() {
            sources.names.push("files");
        }
        let wanted = {
            let watch = lock(watch);
            Wanted {
                confine: config.confine,
                logins: logins_wanted(&watch.detector, config.logins),
                connections: watch.detector.wants_connections(),
                local_drop: Some(dropping),
            }
        };
        // The kernel's side outlives a reload: no login may be missed.
        let feeding = Feeding { tasks: &self.tasks, shutdown: &self.shutdown, watch, local_drop };
        sources.names.extend(self.kernel.want(wanted, &feeding).await);
        local_drop.settle();
        sources.journal = journal::follow(watch)?;
        lock(watch).journal_status = sources.journal.as_ref().map(|(handle, _)| handle.status());
        if sources.journal.is_some() {
            sources.names.push("journal");
        }
        if !config.syslog.udp.is_empty() || !config.syslog.tcp.is_empty() {
            let SyslogConfig { udp, tcp, from } = config.syslog;
            let options = SyslogOptions { udp, tcp, from, ..SyslogOptions::default() };
            if let Err(error) = syslog::listen(&sources.tasks, &sources.token, watch, options).await {
                sources.stop().await;
                return Err(error);
            }
            sources.names.push("syslog");
        }
        Ok(sources)
    }
}

// === impl Sources ===

impl Sources {
    fn none() -> Self {
        Self {
            token: CancellationToken::new(),
            tasks: TaskTracker::new(),
            files: None,
            journal: None,
            names: Vec::new(),
        }
    }

    /// Ends them, each after what it is at.
    async fn stop(&mut self) {
        if let Some((handle, thread)) = self.files.take() {
            handle.stop();
            let _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
        if let Some((handle, thread)) = self.journal.take() {
            handle.stop();
            let _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
        self.token.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await;
        self.names.clear();
    }
}

/// What the jails want of the kernel's side of logins.
fn logins_wanted(detector: &Detector, config: LoginsConfig) -> Option<kernel_logins::WantedLogins> {
    let (verdicts, syslog) = (detector.wants_logins(), detector.wants_syslog_calls());
    (verdicts || syslog).then_some(kernel_logins::WantedLogins {
        verdicts: verdicts.then_some(config.verdicts),
        peers: verdicts && config.peers,
        syslog,
    })
}

async fn stop_at(shutdown: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// Waits for SIGTERM or SIGINT; from when this returns on, neither ends the process by itself.
fn asked_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
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
            detector: Detector::new(config.jails, Ignored::default(), TimeZone::UTC, |_, _| {
                Handed::Sent(Sent { sequence: 1, held: false })
            }),
            unsaved: Snapshot::default(),
            positions: HashMap::new(),
            followed: Vec::new(),
            journal: HashMap::new(),
            cursor: None,
            asked: Arc::default(),
            files: None,
            journal_status: None,
            lines: 0,
            reports: ReportStatus::default(),
        }
    }
}
