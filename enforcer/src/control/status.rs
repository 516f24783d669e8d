//! `GET /status`: the enforcer, its routers and its sensors at one moment.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use atalaya_wire::{Fingerprint, Name};
use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Control;
use super::fault::{self, Fault};
use super::rates::RatesAnswer;
use crate::bans::Counts;
use crate::intake::Seen;
use crate::intake::fleet::FleetStatus;
use crate::router::{RouterHandle, RouterStatus};

/// The answer to `GET /status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The enforcer's release.
    pub release: String,
    /// When this was so, by the enforcer's clock.
    pub now: Timestamp,
    /// When it started.
    pub started: Timestamp,
    /// What is wrong, the worst first. All is well where this and [`Self::looking`] are empty.
    pub faults: Vec<Fault>,
    /// Routers of which it is not known yet whether they drop anything.
    #[serde(default)]
    pub looking: Vec<Name>,
    /// Bans that stand.
    pub bans: usize,
    /// Networks that routers hold in the place of their addresses, because many of these are banned.
    pub widened: usize,
    /// Entries of the allow list that were made at run time.
    pub allowances: usize,
    /// Addresses that a good login protects.
    pub protected: usize,
    /// The fleet jails.
    pub fleet: Vec<FleetStatus>,
    /// What was decided since the start.
    pub decisions: Counts,
    /// How much happens.
    pub rates: RatesAnswer,
    /// Why the ledger cannot be written; `None` when all is well.
    pub ledger_trouble: Option<String>,
    /// The address list's name.
    pub list: String,
    /// The certificate that sensors pin.
    pub fingerprint: Fingerprint,
    /// The routers, as they are configured.
    pub routers: Vec<RouterAnswer>,
    /// The sensors that are enrolled, and those that sent something since the start.
    pub sensors: BTreeMap<Name, SensorAnswer>,
}

/// A router: where it stands, and how it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouterAnswer {
    /// Where it and its worker stand.
    #[serde(flatten)]
    pub status: RouterStatus,
    /// Since when it is not logged in to; `None` for one that is.
    pub down_since: Option<Timestamp>,
    /// The latest latencies of commands, the oldest first, in microseconds: at most 60, of the last
    /// command of each second that had one.
    pub latencies_us: Vec<u64>,
}

/// A sensor: whether it may send, and what it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SensorAnswer {
    /// When it was enrolled; `None` for one that is no more.
    pub enrolled: Option<Timestamp>,
    /// What is known of it since the start.
    #[serde(flatten)]
    pub seen: Seen,
}

// === impl Status ===

impl Status {
    /// Whether everything is known, and nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.faults.is_empty() && self.looking.is_empty()
    }
}

pub(super) async fn status(State(control): State<Arc<Control>>) -> Json<Status> {
    let routers: Vec<RouterStatus> = control.routers.iter().map(RouterHandle::status).collect();
    let rates = control.rates.lock().unwrap_or_else(PoisonError::into_inner);
    let routers = routers.into_iter().enumerate().map(|(place, status)| RouterAnswer {
        down_since: rates.down_since(place, &status),
        latencies_us: rates.latencies(place),
        status,
    });
    let routers = routers.collect();
    let rates = rates.answer();
    let mut status = Status {
        release: env!("CARGO_PKG_VERSION").to_owned(),
        now: control.clock.now(),
        started: control.started,
        faults: Vec::new(),
        looking: Vec::new(),
        bans: control.bans.len(),
        widened: control.bans.widened(),
        allowances: control.bans.allowances().len(),
        protected: control.bans.protected(),
        fleet: control.reports.fleet_status(),
        decisions: control.bans.counts(),
        rates,
        ledger_trouble: control.ledger.trouble(),
        list: control.list.clone(),
        fingerprint: control.fingerprint,
        routers,
        sensors: sensors(&control),
    };
    status.faults = fault::faults(&status);
    status.looking = fault::looking(&status);
    Json(status)
}

fn sensors(control: &Control) -> BTreeMap<Name, SensorAnswer> {
    let seen = control.intake.seen();
    let mut sensors: BTreeMap<Name, SensorAnswer> =
        seen.into_iter().map(|(name, seen)| (name, SensorAnswer { enrolled: None, seen })).collect();
    for sensor in control.intake.enrolled() {
        let known = sensors
            .entry(sensor.name)
            .or_insert_with(|| SensorAnswer { enrolled: None, seen: Seen::default() });
        known.enrolled = Some(sensor.enrolled);
    }
    sensors
}
