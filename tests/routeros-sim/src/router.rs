//! A router's public handle: what an administrator, the weather and the power company can do to it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::address::Family;
use crate::address_list::{Fields, ListError, parse_id, print_id};
use crate::builder::{ApiSsl, Builder};
use crate::clock::Clock;
use crate::cost::Costs;
use crate::event::{Event, EventKind};
use crate::fault::Fault;
use crate::journal::{CommandRecord, Counts};
use crate::session;
use crate::shared::Shared;
use crate::site::{Certificate, Service};
use crate::state::{Settings, State, lossy};
use crate::terminal::TerminalError;
use crate::timeout::Timeout;
use crate::tls::{Tls, TlsError};
use crate::user::PolicyError;
use crate::version::VersionError;

/// How long a peer may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A simulated router. Clones are the same router; it ends when the last one is dropped.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
    plant: Arc<Plant>,
}

/// What stands around the state: the port, and the tasks that end with the router.
struct Plant {
    api: Api,
    /// Beside the first, on a router whose first is the plain API.
    api_ssl: Option<Api>,
    door: tokio::sync::Mutex<Door>,
    end: CancellationToken,
    _ends_with_it: DropGuard,
}

/// A service that sessions come in by.
struct Api {
    /// Its name in `/ip/service`.
    name: &'static str,
    address: SocketAddr,
    tls: Option<Tls>,
}

enum Door {
    Open {
        close: CancellationToken,
        listeners: Vec<JoinHandle<()>>,
    },
    /// The ports are held by sockets that do not listen, so that nobody else gets them.
    Closed {
        held: Vec<TcpSocket>,
    },
}

/// An entry as an administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// The table it is in.
    pub family: Family,
    /// Its id, such as `*1A`.
    pub id: String,
    /// The name of its list.
    pub list: String,
    /// Its address, normalised as the table keeps it.
    pub address: String,
    /// What is left of its timeout.
    #[serde(serialize_with = "as_seconds")]
    pub timeout_left: Option<Duration>,
    /// Its comment, empty when it has none.
    pub comment: String,
    /// Whether it is disabled.
    pub disabled: bool,
    /// Whether a reboot would lose it.
    pub dynamic: bool,
}

/// Why a router could not start or come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port could not be opened.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The version is none.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A user's policy is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A command that was to be typed at the terminal is refused.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
}

/// What was waited for did not come about in time.
#[derive(Debug, thiserror::Error)]
#[error("after {waited:?} the router still holds {entries:?}")]
pub struct TimedOut {
    /// How long was waited.
    pub waited: Duration,
    /// What the tables held at the end.
    pub entries: Vec<Entry>,
}

/// The table refused what an administrator wanted; the text is RouterOS's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Router {
    /// A router to be, with defaults: `127.0.0.1:0`, user `atalaya`, password `secret`, no costs, 7.24.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Starts with the plain API and with api-ssl beside it as said, or with api-ssl alone.
    pub(crate) async fn start(
        listen: SocketAddr,
        settings: Settings,
        clock: Clock,
        mut state: State,
        api_ssl: Option<ApiSsl>,
        events: Option<mpsc::Sender<Event>>,
    ) -> Result<Self, StartError> {
        let failed = |source| StartError::Listen { address: listen, source };
        let mut held = Vec::new();
        let mut hold_api = |name, address, tls| {
            let socket = hold(address).map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            held.push(socket);
            Ok::<_, StartError>(Api { name, address, tls })
        };
        // A router on the plain API may have any name.
        let named = Tls::new(&settings.identity);
        let tls = if api_ssl.is_some() { named.or_else(|_| Tls::new("router")) } else { named }?;
        let fingerprint = tls.fingerprint();
        state.site.fingerprint = Some(fingerprint.clone());
        state.site.presented = Arc::clone(&tls.given);
        let (api, beside) = match api_ssl {
            None => (hold_api("api-ssl", listen, Some(tls))?, None),
            Some(_) => {
                let any_port = SocketAddr::new(listen.ip(), 0);
                (hold_api("api", listen, None)?, Some(hold_api("api-ssl", any_port, Some(tls))?))
            }
        };
        let certified = matches!(api_ssl, None | Some(ApiSsl::WithCertificate));
        let certificate = if certified { "api" } else { "none" }.to_owned();
        if certified {
            state.site.certificates.push(Certificate {
                name: certificate.clone(),
                common_name: settings.identity.clone(),
                key_usage: "tls-server".to_owned(),
                days_valid: "3650".to_owned(),
                fingerprint: Some(fingerprint),
            });
        }
        let service = |name, port, disabled, certificate| Service {
            name,
            port,
            disabled,
            address: String::new(),
            certificate,
        };
        let plain = if beside.is_some() { api.address.port() } else { 8728 };
        let secure = beside.as_ref().unwrap_or(&api).address.port();
        state.site.services = vec![
            service("telnet", 23, true, None),
            service("ftp", 21, true, None),
            service("www", 80, true, None),
            service("ssh", 22, false, None),
            service("api", plain, beside.is_none(), None),
            service("winbox", 8291, false, None),
            service("api-ssl", secure, api_ssl == Some(ApiSsl::Disabled), Some(certificate)),
        ];
        let end = CancellationToken::new();
        let router = Self {
            shared: Arc::new(Shared::new(settings, clock, state, events)),
            plant: Arc::new(Plant {
                api,
                api_ssl: beside,
                door: tokio::sync::Mutex::new(Door::Closed { held }),
                _ends_with_it: end.clone().drop_guard(),
                end: end.clone(),
            }),
        };
        router.shared.lock().site.present();
        router.open().await?;
        let shared = Arc::clone(&router.shared);
        let ended = end.clone();
        tokio::spawn(async move { shared.keep_lapsing(ended).await });
        let shared = Arc::clone(&router.shared);
        tokio::spawn(async move {
            let telling = shared.keep_telling(end.clone());
            telling.await;
            // The last handle is gone, and the sessions with it.
            shared.drop_sessions();
        });
        Ok(router)
    }

    /// Where it listens; the same while it is down.
    pub fn address(&self) -> SocketAddr {
        self.plant.api.address
    }

    /// Where api-ssl listens; where the API without TLS does, if there is none.
    pub fn api_ssl_address(&self) -> SocketAddr {
        self.plant.api_ssl.as_ref().unwrap_or(&self.plant.api).address
    }

    /// The DER bytes of the certificate that api-ssl presents, where it has one.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        let state = self.shared.lock();
        let given = state.site.service("api-ssl")?.certificate.as_deref() != Some("none");
        given.then(|| self.plant.tls().map(|tls| tls.certificate.to_vec()))?
    }

    /// Carries out a command as typed at the router's own terminal: `add` in `/ip/firewall/raw`,
    /// `/ip/firewall/filter` and their IPv6 twins, in `/user/group`, `/user` and `/certificate`; `set` in `/user`,
    /// `/user/group`, `/ip/service` and `/system/ntp/client`; `add` in `/ip/address` and `/ip/route`; `enable`, `disable`, `remove` and `move` of rules, by
    /// `*ID` or `[find …]`; and `/certificate sign`.
    pub fn terminal(&self, command: &str) -> Result<(), TerminalError> {
        let mut state = self.shared.lock();
        state.site.obey(command)?;
        self.shared.commit(state);
        Ok(())
    }

    /// The rules, users, groups, services and certificates, a line each: two routers that were set up alike say the same.
    /// Passwords are in it.
    pub fn setup(&self) -> Vec<String> {
        self.shared.lock().site.setup()
    }

    /// Whether the rules that use a list are invalid, as when the interface that they name is gone.
    pub fn set_rules_invalid(&self, list: &str, invalid: bool) {
        self.shared.lock().site.rules_of(list).for_each(|rule| rule.invalid = invalid);
    }

    /// Whether the rules that use a list are dynamic, as those that a service of the router's makes.
    pub fn set_rules_dynamic(&self, list: &str, dynamic: bool) {
        self.shared.lock().site.rules_of(list).for_each(|rule| rule.dynamic = dynamic);
    }

    /// Counts packets on the enabled rules that use a list.
    pub fn count_packets(&self, list: &str, packets: u64) {
        let mut state = self.shared.lock();
        state.site.rules_of(list).filter(|rule| !rule.disabled).for_each(|rule| rule.packets += packets);
    }

    /// The clock that its timeouts end by; tests move it.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The entries of one table, in the order of their ids.
    pub fn entries(&self, family: Family) -> Vec<Entry> {
        let mut state = self.lock_now();
        entries(&mut state, family, &self.shared.clock)
    }

    /// How many entries one table holds.
    pub fn entry_count(&self, family: Family) -> usize {
        self.lock_now().table_mut(family).len()
    }

    /// The last commands, the oldest first.
    pub fn journal(&self) -> Vec<CommandRecord> {
        self.shared.lock().journal.records()
    }

    /// How often things happened.
    pub fn counts(&self) -> Counts {
        self.lock_now().counts
    }

    /// How many connections there are.
    pub fn session_count(&self) -> usize {
        self.shared.generation().tasks.len()
    }

    /// Waits until the entries of both tables, IPv4 before IPv6, are as wanted.
    pub async fn wait_for(
        &self,
        mut wanted: impl FnMut(&[Entry]) -> bool,
        within: Duration,
    ) -> Result<(), TimedOut> {
        self.wait_until(|router| wanted(&router.all_entries()), within).await
    }

    /// Waits until the counts are as wanted; cheaper than [`wait_for`](Self::wait_for) on big tables.
    pub async fn wait_for_counts(
        &self,
        mut wanted: impl FnMut(&Counts) -> bool,
        within: Duration,
    ) -> Result<(), TimedOut> {
        self.wait_until(|router| wanted(&router.counts()), within).await
    }

    /// Adds an entry that is not ours, as another administrator or script would; returns its
    /// id, or `None` when the table refuses it.
    pub fn insert_foreign(
        &self,
        family: Family,
        list: &str,
        address: &str,
        comment: &str,
        timeout: Option<Duration>,
    ) -> Option<String> {
        let timeout = timeout.map(|timeout| Timeout(timeout.as_secs()).to_string());
        let fields = Fields {
            list: Some(list.as_bytes()),
            address: Some(address.as_bytes()),
            comment: Some(comment.as_bytes()),
            timeout: timeout.as_deref().map(str::as_bytes),
            ..Fields::default()
        };
        let added =
            self.administer(family, EventKind::Add, |state, now| state.table_mut(family).add(fields, now));
        added.inspect_err(|error| tracing::warn!(list, address, %error, "the table refuses an entry")).ok()
    }

    /// Gives an entry another comment, as an administrator would.
    pub fn edit_comment(&self, family: Family, id: &str, comment: &str) -> Result<(), Refused> {
        let fields = Fields { comment: Some(comment.as_bytes()), ..Fields::default() };
        self.edit(family, id, fields)
    }

    /// Gives an entry another timeout, as an administrator would.
    pub fn edit_timeout(&self, family: Family, id: &str, timeout: Duration) -> Result<(), Refused> {
        let timeout = Timeout(timeout.as_secs()).to_string();
        self.edit(family, id, Fields { timeout: Some(timeout.as_bytes()), ..Fields::default() })
    }

    /// Disables or enables an entry, as an administrator would.
    pub fn edit_disabled(&self, family: Family, id: &str, disabled: bool) -> Result<(), Refused> {
        let disabled: &[u8] = if disabled { b"yes" } else { b"no" };
        self.edit(family, id, Fields { disabled: Some(disabled), ..Fields::default() })
    }

    /// Makes it a board with a serial number, as MikroTik's have.
    pub fn set_serial(&self, serial: &str) {
        self.shared.lock().site.serial = Some(serial.to_owned());
    }

    /// Whether an add is taken beside a disabled entry of the same address. At first it is refused; which RouterOS
    /// does is not known.
    pub fn take_beside_disabled(&self, takes: bool) {
        let mut state = self.shared.lock();
        for family in [Family::V4, Family::V6] {
            state.table_mut(family).beside_disabled = takes;
        }
    }

    /// Removes an entry, as an administrator would; false when there is none.
    pub fn remove_entry(&self, family: Family, id: &str) -> bool {
        let mut state = self.lock_now();
        let Some(number) = parse_id(id.as_bytes()) else { return false };
        let Some(record) = state.table_mut(family).remove(number) else { return false };
        let now = self.shared.clock.now();
        state.tell_entry(EventKind::Remove, now, None, family, number, &record);
        self.shared.commit(state);
        true
    }

    /// Changes what commands cost from here on.
    pub fn set_costs(&self, costs: Costs) {
        self.shared.lock().costs = costs;
    }

    /// Shows this load in `/system/resource`, in percent; `None` shows how busy the router was.
    pub fn set_cpu_load(&self, percent: Option<u8>) {
        self.shared.lock().cpu_load = percent;
    }

    /// Plans a fault for the next command whose path begins with `path`, or for the one after `after`
    /// such commands. The empty path is any command.
    pub fn inject(&self, fault: Fault, path: &str, after: usize) {
        self.shared.lock().faults.plan(fault, path, after);
    }

    /// How many planned faults are still to come.
    pub fn faults_to_come(&self) -> usize {
        self.shared.lock().faults.to_come()
    }

    /// Forgets the planned faults that are still to come.
    pub fn forget_faults(&self) {
        self.shared.lock().faults.forget();
    }

    /// Lets stalled sessions go on.
    pub fn resume(&self) {
        self.shared.resumed.send_replace(());
    }

    /// Drops sessions and dynamic entries and starts uptime anew. The port stays open.
    pub async fn reboot(&self) {
        self.shared.reboot();
        self.shared.drop_sessions().wait().await;
    }

    /// Drops every session and refuses connections; entries are kept and go on lapsing.
    pub async fn go_down(&self) {
        let mut door = self.plant.door.lock().await;
        let Door::Open { close, listeners } = &mut *door else { return };
        close.cancel();
        for listener in listeners {
            if let Err(error) = listener.await {
                tracing::warn!(%error, "the listener had failed");
            }
        }
        self.shared.drop_sessions().wait().await;
        *door = Door::Closed { held: self.plant.apis().filter_map(|api| hold(api.address).ok()).collect() };
        self.announce(EventKind::Down);
    }

    /// Opens the same port again.
    pub async fn come_up(&self) -> Result<(), StartError> {
        if matches!(*self.plant.door.lock().await, Door::Open { .. }) {
            return Ok(());
        }
        self.open().await?;
        self.announce(EventKind::Up);
        Ok(())
    }

    fn all_entries(&self) -> Vec<Entry> {
        let mut state = self.lock_now();
        let mut all = entries(&mut state, Family::V4, &self.shared.clock);
        all.append(&mut entries(&mut state, Family::V6, &self.shared.clock));
        all
    }

    /// The state without what has lapsed by now.
    fn lock_now(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.shared.lock();
        state.lapse(self.shared.clock.now());
        state
    }

    async fn wait_until(
        &self,
        mut reached: impl FnMut(&Self) -> bool,
        within: Duration,
    ) -> Result<(), TimedOut> {
        let deadline = Instant::now() + within;
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let started = Instant::now();
            if reached(self) {
                return Ok(());
            }
            let took = started.elapsed();
            if timeout_at(deadline, changed).await.is_err() {
                return if reached(self) {
                    Ok(())
                } else {
                    Err(TimedOut { waited: within, entries: self.all_entries() })
                };
            }
            // Looking at a big table after each of many changes would slow the router down.
            tokio::time::sleep_until(deadline.min(Instant::now() + took)).await;
        }
    }

    fn edit(&self, family: Family, id: &str, fields: Fields<'_>) -> Result<(), Refused> {
        let number = parse_id(id.as_bytes()).ok_or_else(|| Refused(ListError::NoSuchItem.to_string()))?;
        let edit = |state: &mut State, now| state.table_mut(family).set(number, fields, now).map(|()| number);
        self.administer(family, EventKind::Set, edit).map(drop)
    }

    fn administer(
        &self,
        family: Family,
        kind: EventKind,
        act: impl FnOnce(&mut State, jiff::Timestamp) -> Result<u64, ListError>,
    ) -> Result<String, Refused> {
        let mut state = self.lock_now();
        let now = self.shared.clock.now();
        let id = act(&mut state, now).map_err(|error| Refused(error.to_string()))?;
        if let Some(record) = state.table_mut(family).get(id).cloned() {
            state.tell_entry(kind, now, None, family, id, &record);
        }
        self.shared.commit(state);
        Ok(print_id(id))
    }

    fn announce(&self, kind: EventKind) {
        let mut state = self.shared.lock();
        state.tell(kind, self.shared.clock.now());
        self.shared.commit(state);
    }

    async fn open(&self) -> Result<(), StartError> {
        let mut door = self.plant.door.lock().await;
        let Door::Closed { held } = &mut *door else { return Ok(()) };
        let mut held = std::mem::take(held);
        let close = self.plant.end.child_token();
        let mut listeners = Vec::new();
        for api in self.plant.apis() {
            let failed = |source| StartError::Listen { address: api.address, source };
            let at = held.iter().position(|socket| socket.local_addr().is_ok_and(|at| at == api.address));
            let socket = match at {
                Some(at) => held.swap_remove(at),
                None => hold(api.address).map_err(failed)?,
            };
            let listener = socket.listen(1024).map_err(failed)?;
            let acceptor = api.tls.as_ref().map(|tls| tls.acceptor.clone());
            let task = accept(listener, Arc::clone(&self.shared), api.name, acceptor, close.clone());
            listeners.push(tokio::spawn(task));
        }
        *door = Door::Open { close, listeners };
        Ok(())
    }
}

impl Plant {
    fn apis(&self) -> impl Iterator<Item = &Api> {
        std::iter::once(&self.api).chain(&self.api_ssl)
    }

    fn tls(&self) -> Option<&Tls> {
        self.apis().find_map(|api| api.tls.as_ref())
    }
}

/// A socket that has the address but does not listen: connections to it are refused.
fn hold(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    service: &'static str,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    close: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = close.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            // As good as a closed port to whoever tries.
            Ok(_) if shared.lock().site.service(service).is_none_or(|service| service.disabled) => {}
            Ok((stream, _)) => admit(stream, &shared, acceptor.clone()),
            Err(error) => {
                // Out of descriptors, most likely: the connection stays in the backlog meanwhile.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn admit(stream: TcpStream, shared: &Arc<Shared>, acceptor: Option<tokio_rustls::TlsAcceptor>) {
    let generation = shared.generation();
    let mut state = shared.lock();
    if generation.tasks.len() >= shared.settings.max_sessions {
        state.counts.sessions_refused += 1;
        return shared.commit(state);
    }
    state.counts.sessions += 1;
    state.sessions += 1;
    let number = state.counts.sessions;
    shared.commit(state);
    let (shared, gone) = (Arc::clone(shared), generation.gone.clone());
    generation.tasks.spawn(async move {
        attend(stream, &shared, number, acceptor, gone).await;
        shared.lock().sessions -= 1;
    });
}

async fn attend(
    stream: TcpStream,
    shared: &Arc<Shared>,
    number: u64,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    gone: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "replies may be slow");
    }
    let Some(acceptor) = acceptor else {
        return session::serve(stream, Arc::clone(shared), number, gone).await;
    };
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
    tokio::select! {
        () = gone.cancelled() => {}
        shaken = handshake => match shaken {
            Ok(Ok(stream)) => session::serve(stream, Arc::clone(shared), number, gone.clone()).await,
            Ok(Err(error)) => tracing::debug!(session = number, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(session = number, "TLS handshake took too long"),
        },
    }
}

fn entries(state: &mut State, family: Family, clock: &Clock) -> Vec<Entry> {
    let now = clock.now();
    let entry = |(id, record): (u64, &crate::address_list::Record)| Entry {
        family,
        id: print_id(id),
        list: lossy(&record.list),
        address: record.address.to_string(),
        timeout_left: record.left(now),
        comment: lossy(&record.comment),
        disabled: record.disabled,
        dynamic: record.dynamic,
    };
    state.table_mut(family).iter().map(entry).collect()
}

#[expect(clippy::ref_option, reason = "serde gives a reference to the field")]
fn as_seconds<S: serde::Serializer>(left: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&left.map(|left| left.as_secs()), serializer)
}
