//! Holds every MikroTik router's address list to the bans that stand.
//!
//! [`Desired`] is what all routers should hold; [`spawn`] starts one worker for each router, which owns one
//! API session, mirrors the list from one bulk print and its own acknowledged commands, and sends the
//! difference. A new ban, a reconnect, a reboot and an entry that someone deleted take the same path:
//! desired and actual differ, so [`reconcile::step`] says what to send. Routers unban by themselves when
//! an entry's timeout ends; only a ban lifted early is removed.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atalaya_wire::{Fingerprint, Name};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::desired::Desired;
use crate::desired::Severity;
use crate::prefixes::{Family, canonical};

pub mod actual;
pub mod address_list;
pub mod check;
pub mod endpoint;
pub mod enforcement;
mod link;
mod look;
pub mod order;
pub mod pace;
pub mod pin;
pub mod pipeline;
pub mod plan;
pub mod reconcile;
pub mod sentence;
pub mod session;
pub mod status;
pub mod view;
mod worker;
mod workplace;

pub use endpoint::{Endpoint, EndpointError};
pub use enforcement::Enforcement;
pub use order::Found;
pub use status::{RouterStatus, State};

use address_list::{Mark, Marks};
use pace::Pace;
use view::View;

/// One router, and how to treat it.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// The name in logs and status.
    pub name: Name,
    /// Where it listens.
    pub address: Endpoint,
    /// The API user; needs the policies `read`, `write` and `api`.
    pub user: String,
    /// The API user's password.
    pub password: Password,
    /// The SHA-256 of the router's certificate, for API-SSL; `None` for the plain API.
    pub tls: Option<Fingerprint>,
    /// The address lists, IPv4's first.
    pub lists: [String; 2],
    /// What opens the comment of our entries. Two enforcers with one list need different marks.
    pub mark: String,
    /// What opened it before the configuration was changed: such entries are ours too, and get the mark.
    pub old_marks: Vec<String>,
    /// Whether nothing is sent that would change the router.
    pub read_only: bool,
    /// Whether to keep the IPv6 list too.
    pub ipv6: bool,
    /// Only bans of these jails are for this router; of all where none is named.
    pub jails: Vec<Name>,
    /// Only bans of this severity and above are.
    pub severity: Severity,
    /// The most entries of ours, of both families together; `None` for what its memory allows.
    pub max_entries: Option<usize>,
    /// The most commands in flight; at least 1. How many there are follows the router's answers.
    pub window: usize,
    /// The most commands a second; without limit where there is none.
    pub rate: Option<u32>,
    /// The load of the router's processor, in per cent, above which less is sent.
    pub max_cpu: u8,
    /// How often the whole list is read and reconciled; each time up to a tenth sooner.
    pub reconcile_every: Duration,
    /// How long things may take.
    pub deadlines: Deadlines,
}

/// How long things may take before a session is given up, and how long to wait before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For resolving the host; again for connecting; and again for the TLS handshake.
    pub connect: Duration,
    /// For the answer to the login.
    pub login: Duration,
    /// For the next sentence of a print, not for the whole of it. A big router scans its list before the
    /// first row.
    pub idle: Duration,
    /// For the next answer while no print is in flight.
    pub answer: Duration,
    /// Between two questions for the router's load and uptime, which also keep an idle session alive and
    /// find a dead one.
    pub keepalive: Duration,
    /// Between two looks at the firewall rules; longer where a look takes the router long.
    pub rules: Duration,
    /// The first pause after a failure.
    pub shortest_pause: Duration,
    /// The longest pause between two attempts.
    pub longest_pause: Duration,
    /// The first pause before commands that were refused are sent again; it doubles up to five minutes.
    pub refused_pause: Duration,
}

/// A password, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// A running worker.
#[derive(Debug)]
pub struct RouterHandle {
    view: View,
    status: watch::Receiver<RouterStatus>,
    questions: mpsc::Sender<Question>,
    task: JoinHandle<()>,
}

/// What a router holds for one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "holds")]
pub enum Holding {
    /// Nothing.
    Nothing,
    /// An entry.
    Entry {
        /// Whether it carries our mark.
        ours: bool,
        /// In how many seconds the router drops it; `None` for a static one.
        left: Option<u64>,
    },
    /// The router is away, or its list has not been read yet.
    Unknown,
}

/// A question to a worker about its mirror.
#[derive(Debug)]
struct Question {
    prefix: IpNet,
    answer: oneshot::Sender<Holding>,
}

/// Where entries go that carry our mark and that no ban explains, while the ledger is not whole: they are
/// adopted as bans instead of being removed.
pub struct Recovery {
    active: AtomicBool,
    adopt: Box<Adopt>,
}

/// Takes what one router holds and no ban explains.
type Adopt = dyn Fn(&Name, Vec<Found>) + Send + Sync;

/// Starts the worker of one router. It runs until `stop` is cancelled, then finishes what is in flight
/// within a second. To be called within a tokio runtime.
pub fn spawn(
    config: RouterConfig,
    desired: Arc<Desired>,
    clock: Clock,
    stop: CancellationToken,
    recovery: Option<Arc<Recovery>>,
) -> RouterHandle {
    let endpoint = config.address.clone();
    let mut first = RouterStatus::new(config.name.clone(), endpoint.to_string(), clock.now());
    first.read_only = config.read_only;
    first.forget_rules(config.ipv6);
    let (sender, status) = watch::channel(first);
    let (questions, asked) = mpsc::channel(64);
    let view = View::new(Arc::clone(&desired), config.takes(), config.ipv6);
    let bench = workplace::Bench {
        pace: Pace::new(config.window, config.rate, config.max_cpu),
        subscription: desired.subscribe(),
        desired,
        recovery,
        asked,
        undone: HashSet::new(),
        enforced: [None, None],
        booted: None,
        memory_limit: None,
        config,
        clock,
        stop,
        status: sender,
    };
    let task = tokio::spawn(worker::run(bench, endpoint));
    RouterHandle { view, status, questions, task }
}

// === impl RouterConfig ===

impl RouterConfig {
    /// The list of a family.
    pub fn list(&self, family: Family) -> &str {
        &self.lists[family.index()]
    }

    /// Which bans are for this router.
    pub fn takes(&self) -> view::Takes {
        view::Takes { jails: self.jails.clone(), severity: self.severity }
    }

    /// What tells our entries from everyone else's.
    pub fn marks(&self) -> Marks {
        Marks::new(Mark::new(&self.mark), self.old_marks.iter().map(|mark| Mark::new(mark)))
    }

    /// A router on the plain API with the defaults: list `spammer`, mark `atalaya`, both families, 128
    /// commands in flight, a reconciliation every 15 minutes.
    pub fn new(name: Name, address: Endpoint, user: impl Into<String>, password: Password) -> Self {
        Self {
            name,
            address,
            user: user.into(),
            password,
            tls: None,
            lists: ["spammer".to_owned(), "spammer".to_owned()],
            mark: "atalaya".to_owned(),
            old_marks: Vec::new(),
            read_only: false,
            ipv6: true,
            jails: Vec::new(),
            severity: Severity::Low,
            max_entries: None,
            window: 128,
            rate: None,
            max_cpu: 85,
            reconcile_every: Duration::from_mins(15),
            deadlines: Deadlines::default(),
        }
    }
}

// === impl Recovery ===

impl Recovery {
    /// A recovery that goes on until [`Self::end`]; `adopt` is called with a router's name.
    pub fn new(adopt: impl Fn(&Name, Vec<Found>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { active: AtomicBool::new(true), adopt: Box::new(adopt) })
    }

    /// Whether it still goes on.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// The ledger is whole again: what no ban explains is removed from here on.
    pub fn end(&self) {
        self.active.store(false, Ordering::SeqCst);
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery").field("active", &self.active).finish_non_exhaustive()
    }
}

// === impl Deadlines ===

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            login: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            answer: Duration::from_secs(10),
            keepalive: Duration::from_secs(5),
            rules: Duration::from_secs(30),
            shortest_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(10),
            refused_pause: Duration::from_secs(5),
        }
    }
}

// === impl Password ===

impl Password {
    /// A password of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. Show and log it nowhere.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

// === impl RouterHandle ===

impl RouterHandle {
    /// Where the router and its worker stand now.
    pub fn status(&self) -> RouterStatus {
        let mut status = self.status.borrow().clone();
        status.desired = self.view.taken();
        status
    }

    /// Whether a ban of exactly this prefix stands that is for the router, whatever its limit.
    pub fn takes(&self, prefix: IpNet) -> bool {
        self.view.until(canonical(prefix)).is_some()
    }

    /// What the router holds for exactly this prefix, by its worker's mirror; waits for the worker for up to
    /// a second.
    pub async fn holds(&self, prefix: IpNet) -> Holding {
        if !self.status.borrow().is_up() {
            return Holding::Unknown;
        }
        let (answer, answered) = oneshot::channel();
        let prefix = canonical(prefix);
        if self.questions.try_send(Question { prefix, answer }).is_err() {
            return Holding::Unknown;
        }
        let answered = tokio::time::timeout(Duration::from_secs(1), answered).await;
        answered.ok().and_then(Result::ok).unwrap_or(Holding::Unknown)
    }

    /// The status as it changes, but for the count of desired bans.
    pub fn watch(&self) -> watch::Receiver<RouterStatus> {
        self.status.clone()
    }

    /// The addresses behind the configured one, as resolved last; empty until then.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.status.borrow().addresses.clone()
    }

    /// Waits until the worker has ended, which it does once its token is cancelled.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(router = %self.status.borrow().name, %error, "router worker failed");
        }
    }
}
