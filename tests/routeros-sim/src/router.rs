//! The simulated router: its state, and the handle with which a test drives it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::address::{Address, Family};
use crate::clock::Clock;
use crate::event::{Event, What};
use crate::fault::{Armed, Fault};
use crate::session;
use crate::table::{Entry, Row, Table};

/// The most commands that the journal keeps.
const JOURNAL: usize = 100_000;

/// How a router is set up.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) listen: SocketAddr,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) identity: String,
    pub(crate) version: String,
    pub(crate) policies: Vec<String>,
    pub(crate) round_trip: Duration,
    pub(crate) insert_cost: Duration,
    pub(crate) scan_cost: Duration,
    pub(crate) max_sessions: usize,
    pub(crate) tls: bool,
    clock: Clock,
}

/// A running router. Dropping it closes its port and its sessions.
pub struct Router {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    certificate: Option<Vec<u8>>,
    /// Ends the listener and all sessions.
    up: Mutex<CancellationToken>,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries added.
    pub adds: u64,
    /// Adds that were refused as duplicates.
    pub duplicates: u64,
    /// Entries changed.
    pub sets: u64,
    /// Entries removed.
    pub removes: u64,
    /// Prints of a table.
    pub prints: u64,
    /// Sessions that logged in.
    pub logins: u64,
    /// Logins refused.
    pub refused: u64,
}

/// Why a router cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, say.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No certificate.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
}

/// What a test waited for did not come.
#[derive(Debug, thiserror::Error)]
#[error("the router's entries did not become what was waited for within {0:?}; it holds {1}")]
pub struct TimedOut(Duration, usize);

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Builder,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    events: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) v4: Table,
    pub(crate) v6: Table,
    pub(crate) counts: Counts,
    pub(crate) sessions: usize,
    pub(crate) booted: Timestamp,
    /// Ends every session when the router reboots.
    pub(crate) boot: CancellationToken,
    busy_until: Instant,
    faults: Vec<Armed>,
    journal: VecDeque<String>,
}

// === impl Builder ===

impl Builder {
    /// Where to listen; a free port of the loopback unless set.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// The only user; `atalaya` unless set.
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// The user's password; `secret` unless set.
    pub fn password(mut self, password: &str) -> Self {
        password.clone_into(&mut self.password);
        self
    }

    /// The system's name.
    pub fn identity(mut self, identity: &str) -> Self {
        identity.clone_into(&mut self.identity);
        self
    }

    /// The RouterOS release, such as `7.24`: from 7.18 on, an empty answer says `!empty`; before 6.43
    /// only the old login with a challenge is spoken.
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// The user's policies; `read`, `write` and `api` unless set.
    pub fn policies(mut self, policies: &[&str]) -> Self {
        self.policies = policies.iter().map(ToString::to_string).collect();
        self
    }

    /// What passes between a command and its answer on the way.
    pub fn round_trip(mut self, time: Duration) -> Self {
        self.round_trip = time;
        self
    }

    /// For how long an insertion keeps the router busy.
    pub fn insert_cost(mut self, time: Duration) -> Self {
        self.insert_cost = time;
        self
    }

    /// For how long each entry keeps the router busy that a print or a search passes.
    pub fn scan_cost_per_entry(mut self, time: Duration) -> Self {
        self.scan_cost = time;
        self
    }

    /// The most sessions at once; 20 unless set.
    pub fn max_sessions(mut self, count: usize) -> Self {
        self.max_sessions = count;
        self
    }

    /// Whether to speak API-SSL, with a certificate made at the start.
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// The clock; one of its own unless set.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Starts the router. To be called within a tokio runtime.
    #[expect(clippy::unused_async, reason = "a router starts within a runtime, which awaiting makes sure of")]
    pub async fn start(self) -> Result<Router, StartError> {
        let (acceptor, certificate) = if self.tls { make_tls()? } else { (None, None) };
        let now = self.clock.now();
        let state = State {
            v4: Table::new(Family::V4),
            v6: Table::new(Family::V6),
            counts: Counts::default(),
            sessions: 0,
            booted: now,
            boot: CancellationToken::new(),
            busy_until: Instant::now(),
            faults: Vec::new(),
            journal: VecDeque::new(),
        };
        let listen = self.listen;
        let shared = Arc::new(Shared {
            config: self,
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            events: broadcast::channel(65_536).0,
        });
        let up = CancellationToken::new();
        let address = serve(listen, shared.clone(), acceptor.clone(), up.clone())?;
        Ok(Router { shared, address, acceptor, certificate, up: Mutex::new(up) })
    }
}

// === impl Router ===

impl Router {
    /// A router to be set up.
    pub fn builder() -> Builder {
        Builder {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            user: "atalaya".to_owned(),
            password: "secret".to_owned(),
            identity: "simulator".to_owned(),
            version: "7.24".to_owned(),
            policies: ["read", "write", "api"].map(ToOwned::to_owned).to_vec(),
            round_trip: Duration::ZERO,
            insert_cost: Duration::ZERO,
            scan_cost: Duration::ZERO,
            max_sessions: 20,
            tls: false,
            clock: Clock::new(),
        }
    }

    /// Where it listens; the same after [`Self::come_up`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate in DER form, with TLS.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.certificate.clone()
    }

    /// The router's clock.
    pub fn clock(&self) -> &Clock {
        &self.shared.config.clock
    }

    /// The entries of a table that are there now.
    pub fn entries(&self, family: Family) -> Vec<Entry> {
        let now = self.shared.now();
        self.shared.lock().table(family).entries(now)
    }

    /// Waits until the entries of both tables satisfy a condition.
    pub async fn wait_for(
        &self,
        mut condition: impl FnMut(&[Entry]) -> bool,
        within: Duration,
    ) -> Result<(), TimedOut> {
        let mut changed = self.shared.changed.subscribe();
        let mut moved = self.clock().moves();
        let until = Instant::now() + within;
        loop {
            let now = self.shared.now();
            let (entries, next_end) = {
                let mut state = self.shared.lock();
                let mut entries = state.table(Family::V4).entries(now);
                entries.extend(state.table(Family::V6).entries(now));
                (entries, state.v4.next_end().into_iter().chain(state.v6.next_end()).min())
            };
            if condition(&entries) {
                return Ok(());
            }
            let next_end = next_end
                .and_then(|end| Duration::try_from(end.duration_since(now)).ok())
                .unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                _ = changed.changed() => {}
                _ = moved.changed() => {}
                () = tokio::time::sleep(next_end) => {}
                () = tokio::time::sleep_until(until) => return Err(TimedOut(within, entries.len())),
            }
            // Many changes come together; one look at the end of them is enough.
            tokio::task::yield_now().await;
        }
    }

    /// An entry that someone else made; static where it has no timeout.
    pub fn insert_foreign(
        &self,
        family: Family,
        list: &str,
        address: &str,
        comment: &str,
        timeout: Option<Duration>,
    ) {
        let now = self.shared.now();
        let length = timeout.map(|timeout| SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX));
        if let Ok(address) = Address::parse(family, address.as_bytes()) {
            let row = Row {
                list: list.into(),
                address,
                until: length.map(|length| now.saturating_add(length).unwrap_or(Timestamp::MAX)),
                created: now,
                comment: comment.as_bytes().to_vec(),
                disabled: false,
                dynamic: timeout.is_some(),
            };
            let _ = self.shared.lock().table(family).add(row);
        }
        self.shared.tell_changed();
    }

    /// Removes an entry as an administrator would, by its id; whether it was there.
    pub fn remove_entry(&self, family: Family, id: &str) -> bool {
        let id = u32::from_str_radix(id.trim_start_matches('*'), 16).unwrap_or(0);
        let removed = self.shared.lock().table(family).remove(id).is_some();
        self.shared.tell_changed();
        removed
    }

    /// Reboots: sessions end, dynamic entries are lost, uptime begins anew.
    #[expect(clippy::unused_async, reason = "a reboot takes time on a router; callers wait for it")]
    pub async fn reboot(&self) {
        self.shared.reboot();
    }

    /// Closes the port and all sessions; entries stay, and go on to lapse.
    pub async fn go_down(&self) {
        self.up.lock().unwrap_or_else(PoisonError::into_inner).cancel();
        // The port is closed once nothing accepts there.
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// Opens the same port again.
    #[expect(clippy::unused_async, reason = "as for `Builder::start`")]
    pub async fn come_up(&self) -> Result<(), StartError> {
        let up = CancellationToken::new();
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = up.clone();
        serve(self.address, self.shared.clone(), self.acceptor.clone(), up).map(drop)
    }

    /// Lets something go wrong at the next command whose path begins so, or after some of them.
    pub fn inject(&self, fault: Fault, path: &str, after: usize) {
        self.shared.lock().faults.push(Armed { fault, path: path.to_owned(), after });
    }

    /// What was counted since the start.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// The last commands, as text, without passwords.
    pub fn journal(&self) -> Vec<String> {
        self.shared.lock().journal.iter().cloned().collect()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.shared.events.subscribe()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.up.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        self.config.clock.now()
    }

    /// The state, without the entries whose time is over.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        let now = self.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for row in state.v4.expire(now).into_iter().chain(state.v6.expire(now)) {
            let (list, address) = (row.list.to_string(), row.address.to_string());
            self.tell(Timestamp::now(), || What::Expire { list, address });
        }
        state
    }

    pub(crate) fn tell_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Tells an event, where anyone listens.
    pub(crate) fn tell(&self, at: Timestamp, what: impl FnOnce() -> What) {
        if self.events.receiver_count() > 0 {
            let _ = self.events.send(Arc::new(Event::new(at, what())));
        }
    }

    pub(crate) fn reboot(&self) {
        let now = self.now();
        let mut state = self.lock();
        state.v4.reboot();
        state.v6.reboot();
        state.booted = now;
        std::mem::take(&mut state.boot).cancel();
        drop(state);
        self.tell(Timestamp::now(), || What::Reboot);
        self.tell_changed();
    }
}

// === impl State ===

impl State {
    pub(crate) fn table(&mut self, family: Family) -> &mut Table {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Keeps the router busy; when it is done with this and all before it.
    pub(crate) fn occupy(&mut self, cost: Duration) -> Instant {
        self.busy_until = self.busy_until.max(Instant::now()) + cost;
        self.busy_until
    }

    /// The fault that this command meets.
    pub(crate) fn fault(&mut self, path: &str) -> Option<Fault> {
        let armed = self.faults.iter_mut().position(|armed| {
            let meant = path.starts_with(&armed.path);
            let due = meant && armed.after == 0;
            armed.after -= usize::from(meant && !due);
            due
        })?;
        Some(self.faults.remove(armed).fault)
    }

    pub(crate) fn record(&mut self, command: String) {
        if self.journal.len() == JOURNAL {
            self.journal.pop_front();
        }
        self.journal.push_back(command);
    }
}

fn serve(
    listen: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<TlsAcceptor>,
    up: CancellationToken,
) -> Result<SocketAddr, StartError> {
    let failed = |source| StartError::Listen { address: listen, source };
    let socket =
        if listen.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
    let socket = socket.map_err(failed)?;
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(listen).map_err(failed)?;
    let listener: TcpListener = socket.listen(128).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = up.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => continue,
                },
            };
            let (shared, acceptor, up) = (shared.clone(), acceptor.clone(), up.clone());
            tokio::spawn(async move {
                let work = async {
                    let _ = stream.set_nodelay(true);
                    match acceptor {
                        None => session::run(stream, shared).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => session::run(stream, shared).await,
                            Err(error) => tracing::debug!(%error, "no TLS"),
                        },
                    }
                };
                tokio::select! {
                    () = up.cancelled() => {}
                    () = work => {}
                }
            });
        }
    });
    Ok(address)
}

type Tls = (Option<TlsAcceptor>, Option<Vec<u8>>);

fn make_tls() -> Result<Tls, StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::Certificate(error.to_string());
    let made =
        rcgen::generate_simple_self_signed(vec!["router".to_owned()]).map_err(|error| failed(&error))?;
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| failed(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // RouterOS speaks TLS 1.2 at most.
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate.clone()], key))
        .map_err(|error| failed(&error))?;
    Ok((Some(TlsAcceptor::from(Arc::new(config))), Some(certificate.to_vec())))
}
