//! Where offences and reports arrive: authenticated, checked, decided and on their way to the routers before
//! the ledger has them; acked once it has. Every request is hostile until it proves otherwise.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atalaya_wire::{
    ALLOW_PATH, Ack, AllowList, BANS_PATH, Batch, Follow, Grounds, Name, NumberedOffence, NumberedRuling,
    OFFENCES_PATH, Problem, ProblemCode, REPORTS_PATH, RefusedOffence, Report, Ruling, Secret, UNBAN_PATH,
    Unban, VERSION, reserved,
};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::time::timeout;

use crate::bans::Bans;
use crate::clock::Clock;
use crate::enrolment::Enrolled;
use crate::ledger::{Ledger, Selection};

pub mod fleet;
pub mod followers;
pub mod https;
mod outboxes;
pub mod reports;
mod request;
mod seen;
pub mod skew;

pub use seen::Seen;

use followers::Followers;
use https::Caller;
use outboxes::Outboxes;
use reports::Reports;
use request::{
    Refusal, credentials, drain, malformed, parse, parse_report, parsed, read_body, unknown_version,
};
use seen::Refusals;
use skew::Dating;

/// How long a batch waits for the ledger before its sensor is told to send it again.
const COMMIT_DEADLINE: Duration = Duration::from_secs(15);

/// Takes what sensors send.
#[derive(Debug)]
pub struct Intake {
    bans: Arc<Bans>,
    reports: Arc<Reports>,
    followers: Arc<Followers>,
    ledger: Ledger,
    /// Which ledger it is.
    ledger_id: Name,
    enrolled: Arc<Enrolled>,
    clock: Clock,
    /// The largest committed sequence of each outbox, by sensor.
    through: Mutex<Outboxes>,
    seen: Mutex<HashMap<Name, Seen>>,
    refusals: Mutex<Refusals>,
}

// === impl Intake ===

impl Intake {
    /// An intake that goes on where the ledger stands: at these sequences by sensor and outbox.
    pub fn new(
        bans: Arc<Bans>,
        reports: Arc<Reports>,
        followers: Arc<Followers>,
        (ledger, ledger_id): (Ledger, Name),
        enrolled: Arc<Enrolled>,
        clock: Clock,
        saved: HashMap<(Name, Name), u64>,
    ) -> Self {
        Self {
            bans,
            reports,
            followers,
            ledger,
            ledger_id,
            enrolled,
            clock,
            through: Mutex::new(saved.into_iter().collect()),
            seen: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// The paths that sensors use.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route(OFFENCES_PATH, post(offences))
            .route(ALLOW_PATH, get(allow))
            .route(BANS_PATH, get(follow))
            .route(UNBAN_PATH, post(unban))
            .route(REPORTS_PATH, post(report))
            .fallback(|| async {
                let paths = format!(
                    "nothing is here; sensors use {OFFENCES_PATH}, {REPORTS_PATH}, {ALLOW_PATH}, {BANS_PATH} and {UNBAN_PATH}"
                );
                Refusal(Problem::new(ProblemCode::NotFound, paths))
            })
            .with_state(self)
    }

    /// Who is enrolled, as read within the last second, by name.
    pub fn enrolled(&self) -> Vec<crate::enrolment::Sensor> {
        self.enrolled.sensors()
    }

    /// What is known of each sensor since the start.
    pub fn seen(&self) -> HashMap<Name, Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (sensor, seen) in &mut seen {
            seen.follows = self.followers.includes(sensor);
        }
        seen
    }

    /// What the fleet jails count.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Takes a batch: bans at once, and acks with what became of each offence once the ledger has them.
    async fn take(&self, sensor: Name, mut batch: Batch) -> Result<Ack, Problem> {
        let now = self.clock.now();
        let all = batch.offences.len() as u64;
        // Of sensors that do not know of our prefixes.
        for NumberedOffence { offence, .. } in &mut batch.offences {
            offence.address = self.bans.client(offence.address);
        }
        let offenders: Vec<(u64, IpAddr)> =
            batch.offences.iter().map(|numbered| (numbered.sequence, numbered.offence.address)).collect();
        let through = self.through(&sensor, &batch.outbox)?;
        batch.offences.retain(|offence| offence.sequence > through);
        let dating = Dating::new(batch.sent, now);
        self.heard(&sensor, &dating, now);
        for NumberedOffence { offence, .. } in &mut batch.offences {
            offence.time = dating.date(offence.time);
            for evidence in &mut offence.evidence {
                evidence.time = dating.date(evidence.time);
            }
        }
        let fresh = batch.offences.len() as u64;
        let last = batch.offences.last().map_or(through, |last| last.sequence);
        let refused = refuse_reserved(&sensor, &mut batch.offences);
        let earlier = self.bans.earlier(&batch.offences, now).await;
        // Two posts of the same offences at once are both decided on, which is as good as once: the second
        // finds the ban standing, and its ack too follows the commit.
        let receipt = self.bans.take(&sensor, (&batch.outbox, last), batch.offences, &earlier, now);
        self.note(&sensor, |seen| {
            seen.offences += fresh;
            seen.again += all - fresh;
        });
        let unavailable = |why: String| {
            let message = format!("{why}; the bans are on their way to the routers; send again for the ack");
            Problem::new(ProblemCode::Unavailable, message)
        };
        timeout(COMMIT_DEADLINE, receipt.committed())
            .await
            .map_err(|_| unavailable("the ledger is slow".to_owned()))?
            .map_err(|error| unavailable(error.to_string()))?;
        let through =
            self.through.lock().unwrap_or_else(PoisonError::into_inner).note(&sensor, &batch.outbox, last);
        let mut rulings = self.bans.rulings(&offenders, self.clock.now());
        for NumberedRuling { sequence, ruling } in &mut rulings {
            if refused.iter().any(|refused| refused.sequence == *sequence) {
                *ruling = Ruling::Refused(Grounds::Unusable);
            }
        }
        Ok(Ack { through, ledger: Some(self.ledger_id.clone()), rulings, refused })
    }

    async fn take_report(&self, sensor: &Name, report: &Report) {
        let now = self.clock.now();
        self.heard(sensor, &Dating::new(Some(report.sent), now), now);
        if self.reports.take(sensor, report, now).await {
            self.note(sensor, |seen| seen.reports += 1);
        }
    }

    /// Lifts a ban that this sensor asked for; one of another sensor's is none of its business.
    async fn unban(&self, sensor: &Name, unban: Unban) -> Result<(), Problem> {
        let prefix = IpNet::from(self.bans.client(unban.address));
        let now = self.clock.now();
        let selection = Selection {
            jail: unban.jail,
            sensor: Some(sensor.clone()),
            address: Some(prefix),
            ..Selection::default()
        };
        let (ledger, unit) = (self.ledger.clone(), self.bans.unit_of(prefix.addr()));
        let look = tokio::task::spawn_blocking(move || {
            let mut own = false;
            ledger
                .each_ban(&selection, now, &mut |ban| {
                    own |= ban.prefix == prefix || ban.prefix == unit;
                    !own
                })
                .map(|()| own)
        });
        let unavailable = |why: String| Problem::new(ProblemCode::Unavailable, why);
        let own = look
            .await
            .map_err(|_| unavailable("the enforcer is stopping".to_owned()))?
            .map_err(|error| unavailable(error.to_string()))?;
        let receipt = if own { self.bans.unban(prefix, &format!("sensor {sensor}"), now) } else { None };
        let Some(receipt) = receipt else {
            return Err(Problem::new(
                ProblemCode::NotFound,
                format!(
                    "{sensor} asked for no ban of {} that stands; `atalaya-enforcer unban` lifts others",
                    unban.address
                ),
            ));
        };
        tracing::info!(%sensor, %prefix, "unbanned by a sensor");
        timeout(COMMIT_DEADLINE, receipt.committed())
            .await
            .map_err(|_| unavailable("lifted on the routers, but the ledger is slow".to_owned()))?
            .map_err(|error| unavailable(format!("lifted on the routers, but {error}")))
    }

    /// The largest committed sequence of an outbox.
    fn through(&self, sensor: &Name, outbox: &Name) -> Result<u64, Problem> {
        let known = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        match known.through(sensor, outbox) {
            Some(through) => Ok(through),
            None if !known.is_full(sensor) => Ok(0),
            None => Err(Problem::new(
                ProblemCode::Unavailable,
                format!(
                    "{sensor} has sent from {} outboxes already: does its state folder survive a restart? Then `atalaya-enforcer revoke {sensor}`, and enrol it under another name",
                    Outboxes::MOST
                ),
            )),
        }
    }

    /// Takes note that a sensor sent something, and says where its clock is wrong, or right again.
    fn heard(&self, sensor: &Name, dating: &Dating, now: Timestamp) {
        let mut told = None;
        self.note(sensor, |seen| told = seen.heard(dating, now));
        match told {
            Some(seen::ClockState::Behind(skew)) => {
                let way = if skew > 0 { "behind" } else { "ahead" };
                tracing::warn!(
                    %sensor, seconds = skew.abs(), way,
                    "the sensor's clock is wrong: what it sends is dated by when it arrives; does chrony or ntpd run there?"
                );
            }
            Some(seen::ClockState::Right) => tracing::info!(%sensor, "the sensor's clock is right again"),
            None => {}
        }
    }

    fn note(&self, sensor: &Name, note: impl FnOnce(&mut Seen)) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        note(seen.entry(sensor.clone()).or_default());
    }

    async fn authenticate(&self, headers: &HeaderMap, caller: Option<&Caller>) -> Result<Name, Problem> {
        let refused = |message: String| Problem::new(ProblemCode::Unauthorized, message);
        let (name, secret) = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(credentials)
            .ok_or_else(|| {
                refused("HTTP Basic authentication with the sensor's name and secret is needed".to_owned())
            })?;
        if let (Ok(name), Ok(secret)) = (name.parse::<Name>(), secret.parse::<Secret>())
            && self.enrolled.knows(&name, &secret).await
        {
            if let Some(caller) = caller {
                caller.is_known();
            }
            // Releases before enrolled one of them.
            return match reserved::meaning(&name) {
                None => Ok(name),
                Some(meaning) => Err(refused(format!(
                    "no sensor can be named {name}: the name is reserved, {meaning}; `atalaya-enforcer revoke {name}` and enrol it under another"
                ))),
            };
        }
        let name: String = name.escape_debug().take(80).collect();
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).tell(&name, caller);
        Err(refused(format!(
            "no sensor named {name} is enrolled with this secret: run `atalaya-enforcer enrol {name}` (with --replace if the name is taken) on the enforcer's host and join again"
        )))
    }

    /// Who sent a request, and its body, which is read for enrolled sensors alone.
    async fn receive(&self, request: Request) -> Result<(Name, Vec<u8>), Problem> {
        let (parts, body) = request.into_parts();
        match self.authenticate(&parts.headers, parts.extensions.get()).await {
            Ok(sensor) => Ok((sensor, read_body(body).await?)),
            Err(problem) => {
                drain(body).await;
                Err(problem)
            }
        }
    }
}

async fn offences(State(intake): State<Arc<Intake>>, request: Request) -> Result<Json<Ack>, Refusal> {
    let (sensor, body) = intake.receive(request).await?;
    let batch = parsed(body, parse, &sensor).await?;
    let problem = match intake.take(sensor.clone(), batch).await {
        Ok(ack) => return Ok(Json(ack)),
        Err(problem) => problem,
    };
    tracing::debug!(%sensor, problem = problem.message, "no ack");
    Err(problem.into())
}

async fn allow(State(intake): State<Arc<Intake>>, request: Request) -> Result<Json<AllowList>, Refusal> {
    let (parts, body) = request.into_parts();
    // Consumed, so that the connection lives on.
    drop(body);
    let sensor = intake.authenticate(&parts.headers, parts.extensions.get()).await?;
    let now = intake.clock.now();
    intake.note(&sensor, |seen| seen.last = Some(now));
    let networks = intake.bans.allow().as_ref().clone();
    Ok(Json(AllowList { networks, ledger: Some(intake.ledger_id.clone()) }))
}

async fn follow(
    State(intake): State<Arc<Intake>>,
    follow: Result<Query<Follow>, QueryRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    drop(body);
    let sensor = intake.authenticate(&parts.headers, parts.extensions.get()).await?;
    let Query(follow) = follow.map_err(|error| {
        let why: String = error.body_text().escape_debug().take(300).collect();
        malformed(&format!("what is asked for is not understood: {why}"))
    })?;
    if follow.version() != VERSION {
        return Err(unknown_version("request", follow.version()).into());
    }
    let now = intake.clock.now();
    intake.note(&sensor, |seen| seen.last = Some(now));
    let lines = intake.followers.follow(sensor, follow.position());
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

async fn unban(State(intake): State<Arc<Intake>>, request: Request) -> Result<Json<()>, Refusal> {
    let (sensor, body) = intake.receive(request).await?;
    let unban = serde_json::from_slice(&body).map_err(|error| {
        Problem::new(ProblemCode::Malformed, format!("the request cannot be understood: {error}"))
    })?;
    intake.unban(&sensor, unban).await?;
    Ok(Json(()))
}

async fn report(State(intake): State<Arc<Intake>>, request: Request) -> Result<Json<()>, Refusal> {
    let (sensor, body) = intake.receive(request).await?;
    let report = parsed(body, parse_report, &sensor).await?;
    intake.take_report(&sensor, &report).await;
    Ok(Json(()))
}

/// Takes the offences out of a batch whose jail has a reserved name, for their bans would pass for what they are not.
/// They are answered with the others, so that the sensor does not send them for ever.
fn refuse_reserved(sensor: &Name, offences: &mut Vec<NumberedOffence>) -> Vec<RefusedOffence> {
    let mut refused = Vec::new();
    offences.retain(|NumberedOffence { sequence, offence }| {
        let Some(meaning) = reserved::meaning(&offence.jail) else { return true };
        let reason = format!(
            "no jail can be named `{}`: the name is reserved, {meaning}; rename the jail on {sensor}",
            offence.jail
        );
        refused.push(RefusedOffence { sequence: *sequence, reason });
        false
    });
    if let Some(first) = refused.first() {
        tracing::warn!(%sensor, offences = refused.len(), reason = first.reason, "refused offences; the rest of their batch is taken");
    }
    refused
}
