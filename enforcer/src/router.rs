//! Holds every MikroTik router's address list to the bans that stand.
//!
//! [`Desired`] is what all routers should hold; [`spawn`] starts one worker for each router, which owns one
//! API session, mirrors the list from one bulk print and its own acknowledged commands, and sends the
//! difference. A new ban, a reconnect, a reboot and an entry that someone deleted take the same path:
//! desired and actual differ, so [`reconcile::step`] says what to send. Routers unban by themselves when
//! an entry's timeout ends; only a ban lifted early is removed.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use atalaya_program::metrics::Durations;
use atalaya_wire::Name;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::desired::{Desired, Severity};
use crate::prefixes::{Family, canonical};

pub mod actual;
pub mod address_list;
mod audit;
pub mod check;
pub mod endpoint;
pub mod enforcement;
mod link;
mod look;
mod networks;
pub mod order;
pub mod pace;
pub mod pin;
pub mod pipeline;
pub mod plan;
mod question;
pub mod reading;
pub mod reconcile;
mod recovery;
mod rival;
pub mod sentence;
pub mod session;
mod set;
mod settings;
mod share;
pub mod status;
pub mod view;
mod worker;
mod workplace;

pub use audit::MissingBans;
pub use endpoint::{Endpoint, EndpointError};
pub use enforcement::Enforcement;
pub use networks::RouterNetworks;
pub use order::Unexplained;
pub use question::Holding;
pub use reading::ListReading;
pub use recovery::Recovery;
pub use rival::{Rival, Rivals};
pub use set::{Crew, RouterSet};
pub use settings::{Deadlines, Password, RouterConfig};
pub use status::{RouterStatus, State};

use pace::Pace;
use question::Question;
use reading::Patience;
use view::View;

/// A running worker, seen from outside: how it stands, and questions that it answers between its commands.
#[derive(Debug)]
pub struct RouterHandle {
    desired: Arc<Desired>,
    view: RwLock<View>,
    settings: watch::Sender<RouterConfig>,
    status: watch::Receiver<RouterStatus>,
    questions: mpsc::Sender<Question>,
    answered: Durations,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Starts the worker of one router. It runs until `stop` is cancelled, which [`RouterHandle::stop`] does too, then
/// finishes what is in flight within a second. To be called within a tokio runtime.
pub fn spawn(
    config: RouterConfig,
    desired: Arc<Desired>,
    clock: Clock,
    stop: CancellationToken,
    recovery: Option<Arc<Recovery>>,
) -> RouterHandle {
    let mut first = RouterStatus::new(config.name.clone(), config.address.to_string(), clock.now());
    first.read_only = config.read_only;
    first.forget_rules(config.ipv6);
    let (sender, status) = watch::channel(first);
    let (questions, asked) = mpsc::channel(64);
    let view = RwLock::new(config.view(&desired));
    let (settings, changed) = watch::channel(config.clone());
    let answered = Durations::default();
    let workplace = workplace::Workplace {
        answered: answered.clone(),
        pace: Pace::new(config.window, config.rate, config.max_cpu),
        subscription: desired.subscribe(),
        desired: Arc::clone(&desired),
        recovery,
        asked,
        settings: changed,
        undone: HashSet::new(),
        unread: false,
        audit: audit::Audit::new(config.deadlines.late, tokio::time::Instant::now()),
        patience: Patience::default(),
        silent_routes: 0,
        rows: [None, None],
        rivals: None,
        enforced: [None, None],
        booted: None,
        memory_limit: None,
        config,
        clock,
        stop: stop.clone(),
        status: sender,
    };
    let task = Mutex::new(Some(tokio::spawn(worker::run(workplace))));
    RouterHandle { desired, view, settings, status, questions, answered, stop, task }
}

// === impl RouterHandle ===

impl RouterHandle {
    /// The router's name, which no change of its settings changes.
    pub fn name(&self) -> Name {
        self.settings.borrow().name.clone()
    }

    /// Goes on with other settings, of a router of the same name. A session goes on where it can: other lists, jails and
    /// bounds are read anew in it, while another address, user, password or certificate needs a new one.
    pub fn change(&self, config: RouterConfig) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = config.view(&self.desired);
        self.settings.send_replace(config);
    }

    /// Whether these are the settings with which it runs.
    pub fn runs_with(&self, config: &RouterConfig) -> bool {
        *self.settings.borrow() == *config
    }

    /// How long the router took to answer each add, set and remove.
    pub fn answered(&self) -> Durations {
        self.answered.clone()
    }

    /// Lets the worker end, after what is in flight.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Where the router and its worker stand now.
    pub fn status(&self) -> RouterStatus {
        let mut status = self.status.borrow().clone();
        status.desired = self.view.read().unwrap_or_else(PoisonError::into_inner).taken();
        status
    }

    /// Whether a ban of exactly this prefix stands that is for the router, whatever its limit.
    pub fn takes(&self, prefix: IpNet) -> bool {
        self.view.read().unwrap_or_else(PoisonError::into_inner).until(canonical(prefix)).is_some()
    }

    /// Why the ban that stands of exactly this prefix is not for the router; `None` where it is, or none stands.
    pub fn refusal(&self, prefix: IpNet) -> Option<String> {
        let prefix = canonical(prefix);
        let (jail, severity) =
            self.desired.look(prefix, |_, label| (label.jail().clone(), label.severity))?;
        self.refusal_of(Family::of(prefix), &jail, severity)
    }

    /// Why bans of this kind are not for the router; `None` where they are.
    pub fn refusal_of(&self, family: Family, jail: &Name, severity: Severity) -> Option<String> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).refusal(family, jail, severity)
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

    /// The addresses and the private networks that the router told of last; none until then.
    pub fn networks(&self) -> RouterNetworks {
        self.status.borrow().networks.clone()
    }

    /// The addresses behind the configured one, as resolved last; empty until then.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.status.borrow().addresses.clone()
    }

    /// As [`Self::addresses`], and the configured one where it is no name, connected or not.
    pub fn known_addresses(&self) -> Vec<IpAddr> {
        let written = self.settings.borrow().address.host.parse().ok();
        written.into_iter().chain(self.addresses()).collect()
    }

    /// Waits until the worker has ended, which it does once its token is cancelled. Only the first who waits does.
    pub async fn stopped(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(task) = task else { return };
        if let Err(error) = task.await {
            tracing::error!(router = %self.status.borrow().name, %error, "router worker failed");
        }
    }
}
