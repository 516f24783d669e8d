//! `GET /status`: the enforcer, its routers and its sensors at one moment.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use atalaya_wire::Name;
use axum::Json;
use axum::extract::State;
use tokio::time::Instant;

use super::Control;
use super::answers::{RouterAnswer, SensorAnswer, Status};
use super::fault;
use super::untaken::UntakenBans;
use crate::intake::Seen;
use crate::router::RouterStatus;

// === impl Status ===

impl Status {
    /// Whether everything is known, and nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.faults.is_empty() && self.looking.is_empty()
    }
}

pub(super) async fn status(State(control): State<Arc<Control>>) -> Json<Status> {
    Json(snapshot(&control))
}

/// All of it, at this moment.
pub(super) fn snapshot(control: &Control) -> Status {
    let routers: Vec<RouterStatus> = control.routers.now().iter().map(|router| router.status()).collect();
    let rates = control.rates.lock().unwrap_or_else(PoisonError::into_inner);
    let routers = routers.into_iter().map(|status| RouterAnswer {
        down_since: rates.down_since(&status),
        latencies_us: rates.latencies(&status.name),
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
        untaken: UntakenBans::of(&control.desired, &control.routers.now()),
        widened: control.bans.widened(),
        allowances: control.bans.allowances().len(),
        protected: control.bans.protected(),
        fleet: control.reports.fleet_status(),
        decisions: control.bans.counts(),
        rates,
        open_files: control.open_files.look(Instant::now()),
        connections: control.intake.entrance().status(),
        ledger_trouble: control.ledger.trouble(),
        list: control.list.borrow().clone(),
        fingerprint: control.presented.fingerprint(),
        routers,
        sensors: sensors(control),
    };
    status.faults = fault::faults(&status);
    status.looking = fault::looking(&status);
    status
}

fn sensors(control: &Control) -> BTreeMap<Name, SensorAnswer> {
    let seen = control.intake.seen();
    let mut sensors: BTreeMap<Name, SensorAnswer> = seen
        .into_iter()
        .map(|(name, seen)| (name, SensorAnswer { enrolled: None, jails: None, seen }))
        .collect();
    for sensor in control.intake.enrolled() {
        let known = sensors.entry(sensor.name).or_insert_with(|| SensorAnswer {
            enrolled: None,
            jails: None,
            seen: Seen::default(),
        });
        known.enrolled = Some(sensor.enrolled);
        known.jails = sensor.jails;
    }
    sensors
}
