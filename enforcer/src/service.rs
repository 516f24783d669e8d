//! The running enforcer: its parts, started from where bans end up back to where offences arrive, so
//! that nothing is taken before it can be kept.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use atalaya_wire::{Fingerprint, Name};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bans::allow::Allow;
use crate::bans::names;
use crate::bans::{Bans, Rules};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::desired::Basis;
use crate::control::open_files::OpenFilesCount;
use crate::control::rates::{Rates, Totals};
use crate::control::{Control, socket};
use crate::desired::{Desired, Labels};
use crate::enrolment::{self, Enrolled};
use crate::intake::Intake;
use crate::intake::fleet::Fleet;
use crate::intake::followers::Followers;
use crate::intake::https::{self, ConnectionLimits};
use crate::intake::reports::Reports;
use crate::ledger::{self, Change, Ledger, ListUse, Saved, Terms};
use crate::prefixes::Family;
use crate::router::{self, RouterConfig, RouterHandle, plan};
use crate::tls::Identity;

mod recovery;

/// How often it is looked which bans are over.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);
/// How often the addresses of the routers and of this host are looked at anew.
const ALLOW_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is counted what happened.
const RATES_INTERVAL: Duration = Duration::from_secs(1);
/// How often, while a router's name is not resolved.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(1);

/// A running enforcer, for those that started it.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    socket: PathBuf,
    fingerprint: Fingerprint,
    stop: CancellationToken,
    tasks: TaskTracker,
    bans: Arc<Bans>,
    reports: Arc<Reports>,
    routers: Arc<Vec<RouterHandle>>,
    writer: ledger::Writer,
}

/// Starts an enforcer; it runs until [`Service::stop`]. To be called within a tokio runtime of several
/// threads.
pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Service> {
    let started = clock.now();
    let identity = Identity::load_or_make(&config.state)?;
    let fingerprint = identity.fingerprint();
    let acceptor = TlsAcceptor::from(identity.server_config()?);
    let Ground { ledger, id, through, recovering, writer, desired, bans } = ground(&config, &clock)?;
    let enrolled = Arc::new(Enrolled::new(&config.state)?);
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();

    // Where bans end up.
    let recovery = recovering.then(|| recovery::begin(&bans, &config.list, &clock));
    let literal = literal_addresses(&config);
    let workers = with_their_past(config.routers, &ledger)?
        .into_iter()
        .map(|router| router::spawn(router, desired.clone(), clock.clone(), stop.clone(), recovery.clone()));
    let routers: Arc<Vec<RouterHandle>> = Arc::new(workers.collect());

    if let Some(recovery) = recovery {
        tasks.spawn(until(stop.clone(), recovery::keep(recovery, routers.clone(), ledger.clone())));
    }

    // What keeps them right.
    let reports = Arc::new(Reports::new(bans.clone(), Fleet::new(config.fleet)));
    tasks.spawn(until(stop.clone(), expire(bans.clone(), reports.clone(), clock.clone())));
    let addresses = keep_own_addresses(literal, bans.clone(), routers.clone(), clock.clone());
    tasks.spawn(until(stop.clone(), addresses));
    tasks.spawn(until(stop.clone(), names::keep(bans.clone(), config.allow.lookups, clock.clone())));
    tasks.spawn(until(stop.clone(), keep_enrolled(enrolled.clone())));
    let rates = Arc::new(Mutex::new(Rates::default()));
    tasks.spawn(until(
        stop.clone(),
        keep_rates(rates.clone(), bans.clone(), routers.clone(), reports.clone()),
    ));

    // Where offences and commands arrive.
    let followers =
        Followers::new(desired.clone(), id.clone(), enrolled.clone(), clock.clone(), stop.clone());
    let followers = Arc::new(followers.context("the system gives no random bytes")?);
    let ledger_and_id = (ledger.clone(), id);
    let intake = Arc::new(Intake::new(
        bans.clone(),
        reports.clone(),
        followers,
        ledger_and_id,
        enrolled,
        clock.clone(),
        through,
    ));
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is another program there?", config.listen))?;
    let address = listener.local_addr()?;
    let commands = socket::listen(&config.socket)?;
    let (count, standing) = (routers.len(), bans.len());
    let control = Control {
        desired,
        bans: bans.clone(),
        ledger,
        intake: intake.clone(),
        reports: reports.clone(),
        routers: routers.clone(),
        rates,
        open_files: OpenFilesCount::default(),
        clock,
        list: config.list.names[0].clone(),
        fingerprint,
        started,
    };
    let cancelled = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        if let Err(error) = axum::serve(commands, control.routes()).with_graceful_shutdown(cancelled).await {
            tracing::error!(%error, "the socket for commands failed");
        }
    });
    let accept = https::accept(
        listener,
        acceptor,
        intake.routes(),
        ConnectionLimits::default(),
        stop.clone(),
        tasks.clone(),
    );
    tasks.spawn(accept);
    tracing::info!(
        %address, socket = %config.socket.display(), list = config.list.names[0], routers = count, bans = standing, "ready"
    );
    Ok(Service { address, socket: config.socket, fingerprint, stop, tasks, bans, reports, routers, writer })
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
    let Saved { id, bans, through, allowances, logins, recovering } = saved;
    let desired = Arc::new(Desired::new());
    let mut allow = Allow::new(config.allow.clone(), allowances);
    allow.set_own(own_addresses(&literal_addresses(config)));
    let rules = Rules {
        labels,
        widen: config.widen,
        by_jail: config.routers.iter().any(|router| !router.jails.is_empty()),
        escalation: config.escalation.clone(),
        protect: config.protect.clone(),
        nat64: config.nat64.clone(),
    };
    let bans = Bans::new(rules, ledger.clone(), desired.clone(), allow, bans, logins, clock.now());
    Ok(Ground { ledger, id, through, recovering, writer, desired, bans: Arc::new(bans) })
}

/// The routers' addresses that are written as such in the configuration.
fn literal_addresses(config: &Config) -> Vec<IpAddr> {
    config.routers.iter().filter_map(|router| router.address.host.parse().ok()).collect()
}

/// Tells each router's worker of the marks that its entries had before, and the ledger of those of today.
fn with_their_past(mut routers: Vec<RouterConfig>, ledger: &Ledger) -> anyhow::Result<Vec<RouterConfig>> {
    let before = ledger.lists()?;
    let mut changes = Vec::new();
    for router in &mut routers {
        router.old_marks = plan::old_marks(router, &before);
        router.lineage = Some(ledger.lineage());
        for used in before.iter().filter(|used| plan::is_of_before(router, used)) {
            tracing::warn!(
                router = %router.name, list = used.list, family = %used.family,
                "this router was run with another list before; entries of ours there expire by themselves, `atalaya-enforcer tidy` shows and removes them"
            );
        }
        let uses = [Family::V4, Family::V6].map(|family| ListUse {
            router: router.name.clone(),
            family,
            list: router.list(family).to_owned(),
            mark: router.mark.clone(),
        });
        changes.extend(
            uses.into_iter().filter(|used| !before.contains(used)).map(|used| Change::List(Box::new(used))),
        );
    }
    ledger.write_surely(changes);
    Ok(routers)
}

// === impl Service ===

impl Service {
    /// The address and port on which sensors connect, the port chosen where 0 was configured.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that sensors pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The bans that stand.
    pub fn bans(&self) -> &Bans {
        &self.bans
    }

    /// What sensors report beside offences.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// The workers, in the order of the routers in the configuration.
    pub fn routers(&self) -> &[RouterHandle] {
        &self.routers
    }

    /// Stops accepting, finishes what is in flight, and ends; within two seconds.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = std::fs::remove_file(&self.socket);
        let ended = async {
            self.tasks.wait().await;
            for router in Arc::into_inner(self.routers).into_iter().flatten() {
                router.stopped().await;
            }
            drop((self.reports, self.bans));
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

async fn expire(bans: Arc<Bans>, reports: Arc<Reports>, clock: Clock) {
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let expired = bans.expire(clock.now());
        reports.sweep(clock.now());
        if expired > 0 {
            tracing::debug!(bans = expired, "expired");
        }
    }
}

async fn keep_own_addresses(
    literal: Vec<IpAddr>,
    bans: Arc<Bans>,
    routers: Arc<Vec<RouterHandle>>,
    clock: Clock,
) {
    loop {
        // A router's addresses are known once its name is resolved, which is soon.
        let soon = routers.iter().any(|router| router.addresses().is_empty());
        tokio::time::sleep(if soon { RESOLVE_INTERVAL } else { ALLOW_INTERVAL }).await;
        let mut addresses: Vec<IpAddr> = literal.clone();
        addresses.extend(routers.iter().flat_map(RouterHandle::addresses));
        bans.set_own_addresses(own_addresses(&addresses), clock.now());
    }
}

async fn keep_enrolled(enrolled: Arc<Enrolled>) {
    let mut interval = tokio::time::interval(enrolment::REFRESH);
    loop {
        interval.tick().await;
        if let Err(error) = enrolled.refresh().await {
            tracing::debug!(%error, "who is enrolled could not be read; the last known hold");
        }
    }
}

async fn keep_rates(
    rates: Arc<Mutex<Rates>>,
    bans: Arc<Bans>,
    routers: Arc<Vec<RouterHandle>>,
    reports: Arc<Reports>,
) {
    let began = tokio::time::Instant::now();
    let mut interval = tokio::time::interval(RATES_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let now = interval.tick().await;
        let routers: Vec<_> = routers.iter().map(RouterHandle::status).collect();
        let totals = Totals::of(&bans.counts(), &routers, reports.fleet_dropped());
        let second = now.duration_since(began).as_secs();
        rates.lock().unwrap_or_else(PoisonError::into_inner).sample(second, totals, &routers);
    }
}

/// The addresses of the routers and of this host, which are never banned.
fn own_addresses(routers: &[IpAddr]) -> Vec<IpAddr> {
    let mut addresses = routers.to_vec();
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => addresses.extend(interfaces.iter().map(if_addrs::Interface::ip)),
        Err(error) => tracing::warn!(%error, "the host's own addresses cannot be read"),
    }
    addresses
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}
