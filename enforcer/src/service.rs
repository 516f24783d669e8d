//! The running enforcer: its parts, started from where bans end up back to where offences arrive, so
//! that nothing is taken before it can be kept.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use atalaya_program::metrics;
use atalaya_wire::{Fingerprint, Name};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bans::allow::Allow;
use crate::bans::names;
use crate::bans::{Bans, Rules};
use crate::clock::{Clock, ClockSteps, step_in_words};
use crate::config::Config;
use crate::control::desired::Basis;
use crate::control::open_files::OpenFilesCount;
use crate::control::rates::{Rates, Totals};
use crate::control::reload::{ReloadAnswer, ReloadError, ReloadRequest, Reloads};
use crate::control::{Control, figures, socket};
use crate::desired::{Desired, Labels};
use crate::enrolment::{self, Enrolled};
use crate::intake::Intake;
use crate::intake::entrance::{ConnectionLimits, Entrance};
use crate::intake::fleet::Fleet;
use crate::intake::followers::Followers;
use crate::intake::https;
use crate::intake::origins::Origins;
use crate::intake::reports::Reports;
use crate::ledger::{self, Ledger, Saved, Terms};
use crate::router::{self, Crew, RouterSet};
use crate::tls::{Identity, Presented};

mod own;
mod past;
mod recovery;
mod reload;

pub use reload::Reread;

use past::with_their_past;
use reload::Reloader;

/// How often it is looked which bans are over.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is counted what happened.
const RATES_INTERVAL: Duration = Duration::from_secs(1);

/// A running enforcer, for those that started it.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    socket: PathBuf,
    presented: Arc<Presented>,
    reloads: Reloads,
    stop: CancellationToken,
    tasks: TaskTracker,
    bans: Arc<Bans>,
    reports: Arc<Reports>,
    routers: Arc<RouterSet>,
    writer: ledger::Writer,
}

/// As [`start_rereading`], of a configuration that stays: a reload finds the same again.
pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Service> {
    let same = config.clone();
    start_rereading(config, clock, Box::new(move || Ok(same.clone()))).await
}

/// Starts an enforcer; it runs until [`Service::stop`]. `reread` reads the configuration again, at a reload. To be called
/// within a tokio runtime of several threads.
pub async fn start_rereading(mut config: Config, clock: Clock, reread: Reread) -> anyhow::Result<Service> {
    let started = clock.now();
    let presented =
        Identity::load_or_make(&config.state, || enrolment::is_any(&config.state))?.presented()?;
    let acceptor = TlsAcceptor::from(presented.server_config()?);
    let Ground { ledger, id, through, recovering, writer, desired, bans } = ground(&config, &clock)?;
    let enrolled = Arc::new(Enrolled::new(&config.state)?);
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();

    // Where bans end up.
    let recovery = recovering.then(|| recovery::begin(&bans, &config.list, &clock));
    config.routers = with_their_past(config.routers, &ledger.lists()?, &ledger);
    let worker =
        |router| router::spawn(router, desired.clone(), clock.clone(), stop.child_token(), recovery.clone());
    let routers = Arc::new(RouterSet::new(config.routers.iter().cloned().map(worker)));
    if let Some(recovery) = recovery.clone() {
        tasks.spawn(until(stop.clone(), recovery::keep(recovery, routers.clone(), ledger.clone())));
    }

    // What keeps them right.
    let reports = Arc::new(Reports::new(bans.clone(), Fleet::new(config.fleet.clone())));
    tasks.spawn(until(stop.clone(), expire(bans.clone(), reports.clone(), clock.clone())));
    let own = own::keep(bans.clone(), routers.clone(), clock.clone());
    tasks.spawn(until(stop.clone(), own));
    tasks.spawn(until(stop.clone(), names::keep(bans.clone(), config.allow.lookups, clock.clone())));
    let rates = Arc::new(Mutex::new(Rates::default()));
    tasks.spawn(until(
        stop.clone(),
        keep_rates(rates.clone(), bans.clone(), routers.clone(), reports.clone()),
    ));

    // Where offences and commands arrive.
    let followers =
        Followers::new(desired.clone(), id.clone(), enrolled.clone(), clock.clone(), stop.clone());
    let followers = Arc::new(followers.context("the system gives no random bytes")?);
    let (origins, entrance) = entrance(&config, &clock).await?;
    let intake = Intake::new(
        bans.clone(),
        reports.clone(),
        followers,
        (id, through),
        enrolled.clone(),
        clock.clone(),
        (entrance.clone(), config.sensors),
    );
    let intake = Arc::new(intake.context("cannot start a thread")?);
    let keep = keep_enrolled(intake.clone(), enrolled.clone(), origins, clock.clone());
    tasks.spawn(until(stop.clone(), keep));
    let listener = listen(config.listen)?;
    let address = listener.local_addr()?;
    let commands = socket::listen(&config.socket)?;
    let (reloads, reload_calls) = Reloads::new();
    let (list, list_shown) = watch::channel(config.list.names[0].clone());
    let control = Control {
        desired: desired.clone(),
        bans: bans.clone(),
        ledger: ledger.clone(),
        intake: intake.clone(),
        reports: reports.clone(),
        routers: routers.clone(),
        rates,
        open_files: OpenFilesCount::default(),
        clock: clock.clone(),
        list: list_shown,
        presented: presented.clone(),
        reloads: reloads.clone(),
        started,
    };
    let control = Arc::new(control);
    tell_prometheus(config.metrics, &control, &tasks, &stop)?;
    tasks.spawn(answer_commands(commands, control, stop.clone()));
    let routes = intake.clone().routes();
    tasks.spawn(https::accept(listener, acceptor, routes, entrance, stop.clone(), tasks.clone()));
    tracing::info!(
        %address, socket = %config.socket.display(), list = config.list.names[0], routers = config.routers.len(), bans = bans.len(), "ready"
    );
    let socket = config.socket.clone();
    let reloader = Reloader {
        running: config,
        reread: Arc::new(reread),
        bans: bans.clone(),
        desired,
        ledger,
        reports: reports.clone(),
        intake,
        routers: routers.clone(),
        recovery,
        enrolled,
        presented: presented.clone(),
        list,
        clock,
        stop: stop.clone(),
        tasks: tasks.clone(),
    };
    tasks.spawn(until(stop.clone(), reloader.serve(reload_calls)));
    Ok(Service { address, socket, presented, reloads, stop, tasks, bans, reports, routers, writer })
}

/// The ledger, and the bans that it holds, as they are when an enforcer starts.
struct Ground {
    ledger: Ledger,
    id: Name,
    through: HashMap<(Name, Name), u64>,
    recovering: bool,
    writer: ledger::Writer,
    desired: Arc<Desired>,
    bans: Arc<Bans>,
}

/// What would be desired were an enforcer started now, and with what routers were run; for a plan.
pub fn basis(config: &Config) -> anyhow::Result<Basis> {
    let Ground { ledger, desired, .. } = ground(config, &Clock::system())?;
    Ok(Basis::new(&desired, ledger.lists()?, ledger.lineage()))
}

fn ground(config: &Config, clock: &Clock) -> anyhow::Result<Ground> {
    let mut labels = Labels::new(config.list.clone(), config.severity.clone());
    let terms = Terms { history: config.history, logins: config.protect.within, clock: clock.clone() };
    let (ledger, saved, writer) = Ledger::open(&config.state, &terms, &mut labels)?;
    let Saved { id, bans, claims, through, allowances, logins, recovering } = saved;
    let desired = Arc::new(Desired::new());
    let mut allow = Allow::new(config.allow.clone(), allowances);
    allow.set_own(own::at_start(config));
    let bans =
        Bans::new(rules(config, labels), ledger.clone(), desired.clone(), allow, bans, logins, clock.now());
    bans.load_claims(claims);
    Ok(Ground { ledger, id, through, recovering, writer, desired, bans: Arc::new(bans) })
}

/// What decisions follow, as configured.
fn rules(config: &Config, labels: Labels) -> Rules {
    Rules {
        labels,
        widen: config.widen,
        by_jail: config.routers.iter().any(|router| !router.jails.is_empty()),
        escalation: config.escalation.clone(),
        protect: config.protect.clone(),
        protected_by_one: config.sensors.logins,
        nat64: config.nat64.clone(),
    }
}

// === impl Service ===

impl Service {
    /// The address and port on which sensors connect, the port chosen where 0 was configured.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that sensors pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.presented.fingerprint()
    }

    /// Reads the configuration again and goes on with it, or only says what that would change. Reloads are done one
    /// after the other.
    pub async fn reload(&self, request: ReloadRequest) -> Result<ReloadAnswer, ReloadError> {
        self.reloads.ask(request).await
    }

    /// The bans that stand.
    pub fn bans(&self) -> &Bans {
        &self.bans
    }

    /// What sensors report beside offences.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// The workers of this moment, in the order of the routers' names.
    pub fn routers(&self) -> Crew {
        self.routers.now()
    }

    /// Stops accepting, finishes what is in flight, and ends; within two seconds.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = std::fs::remove_file(&self.socket);
        let ended = async {
            self.tasks.wait().await;
            self.routers.stopped().await;
            drop((self.routers, self.reports, self.bans));
            // The last sender is gone: the writer ends after its last commit.
            let writer = self.writer;
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        };
        if tokio::time::timeout(Duration::from_millis(1800), ended).await.is_err() {
            tracing::warn!(
                "something in flight did not finish in time; it is sent again after the next start"
            );
        }
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    https::listen(address).with_context(|| format!("cannot listen on {address}; is another program there?"))
}

/// Lets nobody in yet, and knows from where sensors came before.
async fn entrance(config: &Config, clock: &Clock) -> anyhow::Result<(Arc<Origins>, Arc<Entrance>)> {
    let state = config.state.clone();
    let addresses = tokio::task::spawn_blocking(move || enrolment::addresses(&state)).await??;
    let origins = Arc::new(Origins::new(addresses));
    let entrance = Entrance::new(connection_limits(config.routers.len()), origins.clone(), clock.clone());
    Ok((origins, entrance))
}

/// How many connections there may be beside sessions with so many routers.
fn connection_limits(routers: usize) -> ConnectionLimits {
    ConnectionLimits::within(getrlimit(Resource::Nofile).current, routers)
}

/// Tells figures where that is wanted.
fn tell_prometheus(
    at: Option<SocketAddr>,
    control: &Arc<Control>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if let Some(address) = at {
        let (listener, control) = (metrics::listen(address)?, control.clone());
        // Of thousands of sensors the text takes its time, in which nobody else is to wait.
        let figures = move || {
            let control = control.clone();
            async move {
                let told = tokio::task::spawn_blocking(move || figures::figures(&control)).await;
                told.unwrap_or_default()
            }
        };
        let served = metrics::serve(listener, figures);
        tasks.spawn(until(stop.clone(), served));
    }
    Ok(())
}

async fn answer_commands(commands: UnixListener, control: Arc<Control>, stop: CancellationToken) {
    let served = axum::serve(commands, control.routes()).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the socket for commands failed");
    }
}

async fn expire(bans: Arc<Bans>, reports: Arc<Reports>, clock: Clock) {
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut steps = ClockSteps::of(&clock);
    loop {
        interval.tick().await;
        let step = steps.look();
        let expired = bans.expire(clock.now());
        reports.sweep(clock.now());
        if let Some(by) = step {
            tracing::warn!(
                ended = expired,
                "this host's clock was set {}: bans end by it, so those of before last so much shorter or longer; routers are read anew",
                step_in_words(by)
            );
        }
        if expired > 0 {
            tracing::debug!(bans = expired, "expired");
        }
    }
}

async fn keep_enrolled(intake: Arc<Intake>, enrolled: Arc<Enrolled>, origins: Arc<Origins>, clock: Clock) {
    let mut interval = tokio::time::interval(enrolment::REFRESH);
    loop {
        interval.tick().await;
        if let Err(error) = intake.refresh().await {
            tracing::debug!(%error, "who is enrolled could not be read; the last known hold");
        }
        let (fresh, now) = (origins.take_fresh(), clock.now());
        if fresh.is_empty() {
            continue;
        }
        let enrolled = enrolled.clone();
        let kept =
            tokio::task::spawn_blocking(move || enrolled.keep_addresses(&fresh, Origins::forgotten(now)));
        if let Ok(Err(error)) = kept.await {
            tracing::debug!(%error, "from where sensors came is not kept over a restart");
        }
    }
}

async fn keep_rates(
    rates: Arc<Mutex<Rates>>,
    bans: Arc<Bans>,
    routers: Arc<RouterSet>,
    reports: Arc<Reports>,
) {
    let began = tokio::time::Instant::now();
    let mut interval = tokio::time::interval(RATES_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let now = interval.tick().await;
        let routers: Vec<_> = routers.now().iter().map(|router| router.status()).collect();
        let totals = Totals::of(&bans.counts(), &routers, reports.fleet_dropped());
        let second = now.duration_since(began).as_secs();
        rates.lock().unwrap_or_else(PoisonError::into_inner).sample(second, totals, &routers);
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}
