//! What a router's worker has at hand in every session, and what it remembers from one to the next.

use std::collections::HashSet;
use std::mem::discriminant;
use std::sync::Arc;

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
    pub(super) desired: Arc<Desired>,
    pub(super) recovery: Option<Arc<Recovery>>,
    pub(super) asked: mpsc::Receiver<Question>,
    /// What the last session left undone.
    pub(super) undone: HashSet<IpNet>,
    /// Which bans it should hold and does not.
    pub(super) audit: Audit,
    /// Whether the last session ended before every list was read.
    pub(super) unread: bool,
    /// How long this router is waited for while it prints.
    pub(super) patience: Patience,
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
