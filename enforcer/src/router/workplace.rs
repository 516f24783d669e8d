//! What a router's worker has at hand in every session, and what it remembers from one to the next.

use std::collections::HashSet;
use std::mem::discriminant;
use std::sync::Arc;

use atalaya_program::metrics::Durations;
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::audit::Audit;
use super::check::release::Release;
use super::check::rules::Judgement;
use super::enforcement::Enforcement;
use super::pace::Pace;
use super::reading::Patience;
use super::rival::Rivals;
use super::status::{RouterError, RouterStatus, State};
use super::{Question, Recovery, RouterConfig};
use crate::clock::Clock;
use crate::desired::{Desired, Moment, Subscription};
use crate::prefixes::Family;

/// What a router's worker has at hand in every session.
pub(super) struct Workplace {
    pub(super) config: RouterConfig,
    pub(super) pace: Pace,
    /// How long the router takes to answer, over all sessions.
    pub(super) answered: Durations,
    pub(super) desired: Arc<Desired>,
    pub(super) recovery: Option<Arc<Recovery>>,
    pub(super) asked: mpsc::Receiver<Question>,
    /// What `config` is to become.
    pub(super) settings: watch::Receiver<RouterConfig>,
    /// What the last session left undone.
    pub(super) undone: HashSet<IpNet>,
    /// Which bans it should hold and does not.
    pub(super) audit: Audit,
    /// Whether the last session ended before every list was read.
    pub(super) unread: bool,
    /// How long this router is waited for while it prints.
    pub(super) patience: Patience,
    /// How many sessions in a row fell silent while the router looked through its routes.
    pub(super) silent_routes: u32,
    /// How many entries of each list the last print told that came to its end.
    pub(super) rows: [Option<usize>; 2],
    /// Other enforcers under our mark.
    pub(super) rivals: Option<Rivals>,
    /// What became of packets from each family's list when it was last looked at.
    pub(super) enforced: [Option<Enforcement>; 2],
    /// When the router booted, by what it told of its uptime.
    pub(super) booted: Option<Instant>,
    /// How many entries its memory allows, by what it told of that.
    pub(super) memory_limit: Option<usize>,
    pub(super) subscription: Subscription,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
    pub(super) status: watch::Sender<RouterStatus>,
}

// === impl Workplace ===

impl Workplace {
    pub(super) fn now(&self) -> Moment {
        self.clock.now().into()
    }

    /// Goes on with the settings that were given last, if there are others than before; whether a session of before
    /// does for them.
    pub(super) fn take_settings(&mut self) -> bool {
        if !self.settings.has_changed().unwrap_or(false) {
            return true;
        }
        let config = self.settings.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.config, config);
        let config = &self.config;
        let pace = |config: &RouterConfig| (config.window, config.rate, config.max_cpu);
        let goes_on = config.shares_session(&before);
        if !goes_on || pace(config) != pace(&before) {
            self.pace = Pace::new(config.window, config.rate, config.max_cpu);
        }
        if !goes_on {
            // It may be another router.
            (self.booted, self.memory_limit) = (None, None);
        }
        self.enforced = [None, None];
        self.status.send_modify(|status| {
            status.address = config.address.to_string();
            status.read_only = config.read_only;
            status.forget_rules(config.ipv6);
            if config.address != before.address {
                status.addresses.clear();
            }
            if !goes_on {
                // What was wrong on the way there may be mended.
                status.last_error = None;
            }
        });
        tracing::info!(router = %config.name, new_session = !goes_on, "goes on with other settings");
        goes_on
    }

    pub(super) fn enter(&self, state: State) {
        let now = self.clock.now();
        self.status.send_modify(|status| {
            status.state = state;
            status.since = now;
            status.reading = None;
        });
    }

    /// Shows what a family's rules come to, and logs where that is another thing than before.
    pub(super) fn judged(&mut self, family: Family, judgement: Judgement) {
        let release = self.status.borrow().version.as_deref().and_then(Release::parse);
        let before = &mut self.enforced[family.index()];
        let now = Enforcement::judged(judgement, before.as_ref(), self.clock.now(), release);
        let same = before.as_ref().is_some_and(|before| discriminant(before) == discriminant(&now));
        let router = &self.config.name;
        match &now {
            _ if same => {}
            Enforcement::Passed { why, commands, .. } => {
                let mend = commands.join("; ");
                tracing::warn!(%router, %family, why, %mend, "nothing is dropped by the list");
            }
            Enforcement::Unclear { why, .. } => {
                tracing::warn!(%router, %family, why, "rules cannot be judged");
            }
            Enforcement::Dropped { says, .. } => tracing::info!(%router, %family, says, "enforced"),
            Enforcement::Off | Enforcement::Unread => {}
        }
        *before = Some(now.clone());
        self.status.send_modify(|status| *status.rule_mut(family) = now);
    }

    /// Shows and logs what went wrong.
    pub(super) fn fail(&self, text: String) {
        tracing::warn!(router = %self.config.name, error = %text, "router trouble");
        let at = self.clock.now();
        self.status.send_modify(|status| status.last_error = Some(RouterError { at, text }));
    }
}
