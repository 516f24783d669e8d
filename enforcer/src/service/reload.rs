//! A reload of the configuration while the enforcer runs. Everything that can be wrong is read and checked before
//! anything changes; then bans, fleet jails and routers go on with the new settings in this order, so that no router is
//! sent what is allowed now. Connections of sensors, their streams, and sessions with routers whose way there is the same
//! go on.

use std::sync::Arc;

use atalaya_program::config_file::ConfigError;
use atalaya_program::count::{agreeing, counted};
use atalaya_wire::Fingerprint;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::past::{uses, with_their_past};
use super::{connection_limits, own, rules};
use crate::bans::Bans;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::changes::Differences;
use crate::control::reload::{ReloadAnswer, ReloadCall, ReloadError, ReloadRequest};
use crate::desired::{Desired, Labels};
use crate::enrolment::Enrolled;
use crate::intake::Intake;
use crate::intake::reports::Reports;
use crate::ledger::{Ledger, ListUse};
use crate::router::{self, Recovery, RouterConfig, RouterHandle, RouterSet};
use crate::tls::{Identity, Presented};

/// Reads the configuration again.
pub type Reread = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// What a reload changes, and what it needs for that.
pub(super) struct Reloader {
    /// What the enforcer runs with.
    pub running: Config,
    pub reread: Arc<Reread>,
    pub bans: Arc<Bans>,
    pub desired: Arc<Desired>,
    pub ledger: Ledger,
    pub reports: Arc<Reports>,
    pub intake: Arc<Intake>,
    pub routers: Arc<RouterSet>,
    pub recovery: Option<Arc<Recovery>>,
    pub enrolled: Arc<Enrolled>,
    pub presented: Arc<Presented>,
    /// The address list's name, for `status`.
    pub list: watch::Sender<String>,
    pub clock: Clock,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

/// What was read and checked, and is not taken up yet.
struct ReadAnew {
    config: Config,
    /// A certificate that is to be presented from here on.
    certificate: Option<Arc<Presented>>,
    /// The lists and marks that routers were run with.
    before: Vec<ListUse>,
}

// === impl Reloader ===

impl Reloader {
    /// Does one reload after the other, as they are asked for.
    pub async fn serve(mut self, mut calls: mpsc::Receiver<ReloadCall>) {
        while let Some(ReloadCall { request, answer }) = calls.recv().await {
            let done = self.reload(request).await;
            if let Err(error) = &done {
                tracing::error!("reload: {error}");
            }
            // Who asked may be gone.
            let _ = answer.send(done);
        }
    }

    async fn reload(&mut self, request: ReloadRequest) -> Result<ReloadAnswer, ReloadError> {
        let (mut read, presented) = self.read().await?;
        // What is said of a router's entries says how they are known.
        for router in self.running.routers.iter_mut().chain(&mut read.config.routers) {
            router.lineage = Some(self.ledger.lineage());
        }
        let Differences { mut changes, mut unchanged } = Differences::between(&self.running, &read.config);
        let (shown, new) = (self.presented.fingerprint(), presented.fingerprint());
        if shown != new {
            if let Err(error) = self.enrolled.refresh().await {
                tracing::debug!(%error, "who is enrolled could not be read; the last known hold");
            }
            let sensors = self.enrolled.sensors().len();
            if sensors == 0 || request.new_certificate {
                changes.push(certificate_changes(shown, new, sensors));
                read.certificate = Some(presented);
            } else {
                unchanged.push(certificate_stays(new, sensors));
            }
        }
        let known = &self.running.warnings;
        let warnings = read.config.warnings.iter().filter(|warning| !known.contains(warning)).cloned();
        let mut answer = ReloadAnswer {
            changes,
            unchanged,
            warnings: warnings.collect(),
            applied: !request.dry_run,
            lifted: 0,
            routers: read.config.routers.len(),
        };
        if !request.dry_run {
            answer.changes.iter().for_each(|line| tracing::info!("reload: {line}"));
            answer.unchanged.iter().chain(&answer.warnings).for_each(|line| tracing::warn!("reload: {line}"));
            // A million bans that are labelled anew take seconds, in which nothing else waits for this thread.
            answer.lifted = tokio::task::block_in_place(|| self.take_up(read));
            tracing::info!(changes = answer.changes.len(), routers = answer.routers, "reloaded");
        }
        Ok(answer)
    }

    /// Reads and checks all that can be wrong, on a thread for blocking work.
    async fn read(&self) -> Result<(ReadAnew, Arc<Presented>), ReloadError> {
        let (reread, ledger) = (self.reread.clone(), self.ledger.clone());
        let state = self.running.state.clone();
        let read = tokio::task::spawn_blocking(move || {
            let config = reread().map_err(|error| error.to_string())?;
            let presented = Identity::load(&state).and_then(Identity::presented);
            let presented = presented.map_err(|error| error.to_string())?;
            let before = ledger.lists().map_err(|error| error.to_string())?;
            Ok((ReadAnew { config, certificate: None, before }, presented))
        });
        read.await.map_err(|_| ReloadError::Stopping)?.map_err(ReloadError::Mistake)
    }

    /// Goes on with what was read; how many bans are lifted. Nothing here can fail, and nothing waits for a disk.
    fn take_up(&mut self, read: ReadAnew) -> usize {
        let ReadAnew { mut config, certificate, mut before } = read;
        if let Some(certificate) = certificate {
            self.presented.replace(&certificate);
        }
        // What needs a restart stays what it was, and is told again at the next reload.
        config.listen = self.running.listen;
        config.state.clone_from(&self.running.state);
        config.socket.clone_from(&self.running.socket);

        let now = self.clock.now();
        self.ledger.set_history(config.history);
        let labels = Labels::new(config.list.clone(), config.severity.clone());
        let labelled_anew =
            !labels.say_the_same(&Labels::new(self.running.list.clone(), self.running.severity.clone()));
        let mut lifted = self.bans.reconfigure(rules(&config, labels), config.allow.clone(), now);
        self.reports.set_fleet(config.fleet.clone());
        self.intake.set_limits(config.sensors, connection_limits(config.routers.len()));
        self.list.send_replace(config.list.names[0].clone());

        // The ledger may not have written yet what this run began with.
        before.extend(self.running.routers.iter().flat_map(uses));
        config.routers = with_their_past(config.routers, &before, &self.ledger);
        self.take_up_routers(config.routers.clone(), labelled_anew);
        lifted += self.bans.set_own_networks(own::of_routers(&self.routers), now);
        self.running = config;
        lifted
    }

    fn take_up_routers(&self, routers: Vec<RouterConfig>, labelled_anew: bool) {
        let before = self.routers.now();
        let (mut crew, mut kept) = (Vec::with_capacity(routers.len()), Vec::new());
        for config in routers {
            let name = config.name.clone();
            let Some(router) = before.iter().find(|router| router.name() == name) else {
                crew.push(Arc::new(self.spawn(config)));
                continue;
            };
            // Other labels are other comments on the router, which are compared when the list is read.
            if labelled_anew || !router.runs_with(&config) {
                router.change(config);
            }
            crew.push(router.clone());
            kept.push(name);
        }
        self.routers.replace(crew.into());
        for gone in before.iter().filter(|router| !kept.contains(&router.name())) {
            let gone = gone.clone();
            gone.stop();
            self.tasks.spawn(async move { gone.stopped().await });
        }
    }

    fn spawn(&self, config: RouterConfig) -> RouterHandle {
        let recovery = self.recovery.clone().filter(|recovery| recovery.is_active());
        router::spawn(config, self.desired.clone(), self.clock.clone(), self.stop.child_token(), recovery)
    }
}

fn certificate_changes(before: Fingerprint, after: Fingerprint, sensors: usize) -> String {
    let then = match sensors {
        0 => "no sensor is enrolled that pins the one before".to_owned(),
        sensors => format!(
            "{} {} the one before and must join again, each with a new token (`atalaya-enforcer enrol NAME --replace`)",
            counted(sensors, "enrolled sensor"),
            agreeing(sensors, "pins", "pin"),
        ),
    };
    format!("certificate: {before} → {after}; {then}")
}

fn certificate_stays(new: Fingerprint, sensors: usize) -> String {
    format!(
        "certificate: certificate.pem is another one now ({new}), and {} {} the one before: with it none of them could connect, so the one before stays until a restart; `atalaya-enforcer reload --new-certificate` presents the new one, and each sensor must then join again",
        counted(sensors, "enrolled sensor"),
        agreeing(sensors, "pins", "pin"),
    )
}
