//! The running enforcer: its parts, started from where bans end up back to where offences arrive, so
//! that nothing is taken before it can be kept.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atalaya_wire::Networks;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bans::Bans;
use crate::clock::Clock;
use crate::config::Config;
use crate::control::{self, Control};
use crate::enrolment::{self, Enrolled};
use crate::intake::Intake;
use crate::ledger::{self, Ledger};
use crate::router::{self, Desired, RouterHandle};
use crate::tls::Identity;

/// The most connections of sensors at once; further ones wait.
const MOST_CONNECTIONS: usize = 4096;
/// How long a TLS handshake, and the head of a request, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked which bans are over.
const LAPSE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the addresses of the routers and of this host are looked at anew.
const ALLOW_INTERVAL: Duration = Duration::from_secs(30);

/// A running enforcer, for those that started it.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    routers: Arc<Vec<RouterHandle>>,
    writer: ledger::Writer,
}

/// Starts an enforcer; it runs until [`Service::stop`].
pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Service> {
    let identity = Identity::load_or_make(&config.state)?;
    let acceptor = TlsAcceptor::from(identity.server_config()?);
    let list = config.list.clone();
    let (ledger, mut saved, writer) =
        Ledger::open(&config.state, &list.name, &|jail, sensor| list.comment_of(jail, sensor))?;
    let enrolled = Arc::new(Enrolled::new(&config.state)?);
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();

    // Where bans end up.
    let desired = Arc::new(Desired::new());
    let through = std::mem::take(&mut saved.through);
    let allow = allow_list(&config.allow, &[]);
    let bans = Arc::new(Bans::new(config.list.clone(), desired.clone(), allow, saved));
    let lapsed = bans.lapse(clock.now());
    if !lapsed.is_empty() {
        ledger.commit(lapsed).await?;
    }
    tracing::info!(bans = bans.len(), "bans stand");
    let routers: Arc<Vec<RouterHandle>> = Arc::new(
        config
            .routers
            .into_iter()
            .map(|router| router::spawn(router, desired.clone(), clock.clone(), stop.child_token()))
            .collect(),
    );

    // What keeps them right.
    tasks.spawn(until(stop.clone(), lapse(bans.clone(), ledger.clone(), clock.clone())));
    tasks.spawn(until(
        stop.clone(),
        keep_allow(config.allow, bans.clone(), routers.clone(), ledger.clone(), clock.clone()),
    ));
    tasks.spawn(until(stop.clone(), keep_enrolled(enrolled.clone())));

    // Where offences and commands arrive.
    let intake = Arc::new(Intake::new(bans.clone(), ledger.clone(), enrolled, clock.clone(), through));
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is another program there?", config.listen))?;
    let address = listener.local_addr()?;
    let socket = control::listen(&config.socket)?;
    let control = Control {
        bans,
        ledger,
        intake: intake.clone(),
        routers: routers.clone(),
        clock: clock.clone(),
        list: config.list.name,
        started: clock.now(),
    };
    let cancelled = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        if let Err(error) = axum::serve(socket, control.routes()).with_graceful_shutdown(cancelled).await {
            tracing::error!(%error, "the socket for commands failed");
        }
    });
    tasks.spawn(accept(listener, acceptor, intake.routes(), stop.clone(), tasks.clone()));
    tracing::info!(%address, socket = %config.socket.display(), routers = routers.len(), "ready");
    Ok(Service { address, stop, tasks, routers, writer })
}

// === impl Service ===

impl Service {
    /// Where sensors connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The routers' workers.
    pub fn routers(&self) -> &[RouterHandle] {
        &self.routers
    }

    /// Stops accepting, finishes what is in flight, and ends; within two seconds.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let ended = async {
            self.tasks.wait().await;
            for router in Arc::into_inner(self.routers).into_iter().flatten() {
                router.stopped().await;
            }
            // The last sender is gone: the writer ends after its last commit.
            let writer = self.writer;
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        };
        if tokio::time::timeout(Duration::from_millis(1800), ended).await.is_err() {
            tracing::warn!("something in flight did not finish in time; it is sent again after the next start");
        }
    }
}

async fn lapse(bans: Arc<Bans>, ledger: Ledger, clock: Clock) {
    let mut interval = tokio::time::interval(LAPSE_INTERVAL);
    loop {
        interval.tick().await;
        let changes = bans.lapse(clock.now());
        // Where it is not written, the next start lapses it again.
        if !changes.is_empty() && ledger.commit(changes).await.is_err() {
            tracing::debug!("lapsed bans are not in the ledger yet");
        }
    }
}

async fn keep_allow(
    configured: Networks,
    bans: Arc<Bans>,
    routers: Arc<Vec<RouterHandle>>,
    ledger: Ledger,
    clock: Clock,
) {
    let mut connected = routers.first().map(RouterHandle::watch);
    loop {
        // A router's addresses are known once its name is resolved, which is soon.
        let soon = routers.iter().any(|router| router.addresses().is_empty());
        let pause = if soon { Duration::from_secs(1) } else { ALLOW_INTERVAL };
        let changed = async {
            match &mut connected {
                Some(status) => drop(status.wait_for(|status| !status.addresses.is_empty()).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = changed, if soon => {}
        }
        let addresses: Vec<IpAddr> = routers.iter().flat_map(RouterHandle::addresses).collect();
        let allow = allow_list(&configured, &addresses);
        if allow != bans.allow() {
            let lifted = bans.set_allow(allow, clock.now());
            if !lifted.is_empty() {
                tracing::warn!(bans = lifted.len(), "bans lifted: their addresses are on the allow list now");
                let _ = ledger.commit(lifted).await;
            }
        }
    }
}

async fn keep_enrolled(enrolled: Arc<Enrolled>) {
    let mut interval = tokio::time::interval(enrolment::REFRESH);
    loop {
        interval.tick().await;
        let enrolled = enrolled.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || enrolled.refresh()).await {
            tracing::debug!(%error, "who is enrolled could not be read; the last known hold");
        }
    }
}

/// What is never banned: what is configured, the routers, this host, and what no other host has.
fn allow_list(configured: &Networks, routers: &[IpAddr]) -> Networks {
    const NOBODYS: [&str; 8] =
        ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/128", "::1/128", "fe80::/10", "ff00::/8"];
    let mut allow = configured.clone();
    allow.extend(NOBODYS.iter().filter_map(|network| network.parse::<IpNet>().ok()));
    allow.extend(routers.iter().map(|address| IpNet::from(*address)));
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => allow.extend(interfaces.iter().map(|interface| IpNet::from(interface.ip()))),
        Err(error) => tracing::warn!(%error, "the host's own addresses cannot be read"),
    }
    allow
}

/// Takes sensors' connections.
async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    routes: axum::Router,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => return,
            place = places.clone().acquire_owned() => place,
        };
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, say: accepting again at once would not help.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, routes, stop) = (acceptor.clone(), routes.clone(), stop.clone());
        tasks.spawn(async move {
            let _place = place;
            if let Err(error) = serve(stream, acceptor, routes, stop).await {
                tracing::debug!(%peer, %error, "a connection ended");
            }
        });
    }
}

async fn serve(
    stream: tokio::net::TcpStream,
    acceptor: TlsAcceptor,
    routes: axum::Router,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await.context("the TLS handshake took too long")??;
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(300))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}
