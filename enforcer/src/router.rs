//! Holds every MikroTik router's address list to the bans that stand.
//!
//! [`Desired`] is what all routers should hold; [`spawn`] starts one worker for each router, which owns one
//! API session, mirrors the list from one bulk print and its own acknowledged commands, and sends the
//! difference. A new ban, a reconnect, a reboot and an entry that someone deleted take the same path:
//! desired and actual differ, so [`reconcile::step`] says what to send. Routers unban by themselves when
//! an entry's timeout ends; only a ban lifted early is removed.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atalaya_wire::{Fingerprint, Name};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::policy::Severity;

pub mod actual;
pub mod address_list;
pub mod check;
pub mod desired;
pub mod endpoint;
mod link;
pub mod pin;
pub mod pipeline;
pub mod reconcile;
pub mod sentence;
pub mod session;
pub mod status;
mod worker;

pub use desired::{Desired, Label, Wanted};
pub use endpoint::{Endpoint, EndpointError};
pub use status::{RouterStatus, State};

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
    /// For the next sentence while commands are in flight. A big router scans its list before the first
    /// row of a print.
    pub idle: Duration,
    /// Between two questions that keep an idle session alive and find a dead one.
    pub keepalive: Duration,
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
    desired: Arc<Desired>,
    status: watch::Receiver<RouterStatus>,
    task: JoinHandle<()>,
}

/// Starts the worker of one router. It runs until `stop` is cancelled, then finishes what is in flight
/// within a second. To be called within a tokio runtime.
pub fn spawn(
    config: RouterConfig,
    desired: Arc<Desired>,
    clock: Clock,
    stop: CancellationToken,
) -> RouterHandle {
    let endpoint = config.address.clone();
    let first = RouterStatus::new(config.name.clone(), endpoint.to_string(), clock.now());
    let (sender, status) = watch::channel(first);
    let bench = link::Bench {
        mark: address_list::Mark::new(&config.mark),
        subscription: desired.subscribe(),
        desired: Arc::clone(&desired),
        config,
        clock,
        stop,
        status: sender,
    };
    let task = tokio::spawn(worker::run(bench, endpoint));
    RouterHandle { desired, status, task }
}

// === impl RouterConfig ===

impl RouterConfig {
    /// The list of a family.
    pub fn list(&self, family: address_list::Family) -> &str {
        &self.lists[family.index()]
    }

    /// Whether a ban of this label is for this router.
    pub fn takes(&self, label: &Label) -> bool {
        label.severity >= self.severity && (self.jails.is_empty() || self.jails.contains(&label.jail))
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

// === impl Deadlines ===

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            login: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            keepalive: Duration::from_secs(30),
            shortest_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
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
        status.desired = self.desired.len();
        status
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
