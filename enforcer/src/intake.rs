//! Where offences and reports arrive: authenticated, checked, decided and on their way to the routers before
//! the ledger has them; acked once it has. Every request is hostile until it proves otherwise.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atalaya_program::metrics::Durations;
use atalaya_wire::{
    ALLOW_PATH, Ack, AllowList, BANS_PATH, Batch, Follow, Grounds, JOIN_PATH, MAX_BATCH, Name,
    NumberedOffence, NumberedRuling, OFFENCES_PATH, PACKAGE_PATH, Problem, ProblemCode, REPORTS_PATH,
    RefusedOffence, Report, Ruling, Secret, UNBAN_PATH, Unban, VERSION, reserved,
};
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::time::{Instant, timeout, timeout_at};

use crate::bans::{Bans, TakenBack};
use crate::clock::Clock;
use crate::enrolment::{Enrolled, EnrolmentError};

mod aside;
pub mod entrance;
pub mod fleet;
pub mod followers;
mod half_open;
pub mod https;
mod joining;
mod of_late;
pub mod origins;
mod outboxes;
pub mod reports;
mod request;
mod seen;
mod share;
pub mod skew;

pub use half_open::HalfOpenLimits;
pub use seen::Seen;
pub use share::{Oddities, SensorLimits};

use aside::Aside;
use entrance::{Caller, ConnectionLimits, Entrance};
use followers::Followers;
use outboxes::Outboxes;
use reports::{Reports, TakenReport};
use request::{
    BODY_DEADLINE, Refusal, acked, credentials, drain, malformed, parse, parse_report, parse_unban, parsed,
    read_body, unknown_version,
};
use seen::Refusals;
use share::{Oddity, SLICE, Share, Shares, turn};
use skew::Dating;

/// How long a batch waits for the ledger before its sensor is told to send it again.
const COMMIT_DEADLINE: Duration = Duration::from_secs(15);

/// Takes what sensors send.
#[derive(Debug)]
pub struct Intake {
    bans: Arc<Bans>,
    reports: Arc<Reports>,
    followers: Arc<Followers>,
    /// Which ledger it is.
    ledger_id: Name,
    enrolled: Arc<Enrolled>,
    clock: Clock,
    /// The largest committed sequence of each outbox, by sensor.
    through: Mutex<Outboxes>,
    seen: Mutex<HashMap<Name, Seen>>,
    refusals: Mutex<Refusals>,
    entrance: Arc<Entrance>,
    shares: Shares,
    aside: Aside,
    /// From the arrival of a batch to its ack.
    acked: Durations,
}

// === impl Intake ===

impl Intake {
    /// An intake that goes on where the ledger stands: at these sequences by sensor and outbox.
    pub fn new(
        bans: Arc<Bans>,
        reports: Arc<Reports>,
        followers: Arc<Followers>,
        (ledger_id, saved): (Name, HashMap<(Name, Name), u64>),
        enrolled: Arc<Enrolled>,
        clock: Clock,
        (entrance, limits): (Arc<Entrance>, SensorLimits),
    ) -> std::io::Result<Self> {
        Ok(Self {
            bans,
            reports,
            followers,
            ledger_id,
            enrolled,
            clock,
            through: Mutex::new(saved.into_iter().collect()),
            seen: Mutex::default(),
            refusals: Mutex::default(),
            entrance,
            shares: Shares::new(limits),
            aside: Aside::new()?,
            acked: Durations::default(),
        })
    }

    /// How long each batch of offences took, from its arrival to its ack.
    pub fn acked(&self) -> Durations {
        self.acked.clone()
    }

    /// The paths that sensors use.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route(OFFENCES_PATH, post(offences))
            .route(ALLOW_PATH, get(allow))
            .route(BANS_PATH, get(follow))
            .route(UNBAN_PATH, post(unban))
            .route(REPORTS_PATH, post(report))
            .route(JOIN_PATH, post(joining::join))
            .route(&format!("{PACKAGE_PATH}/{{processor}}"), get(joining::package))
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

    /// Lets sensors take so much from here on.
    pub fn set_limits(&self, of_each: SensorLimits, connections: ConnectionLimits) {
        self.shares.set_limits(of_each);
        self.entrance.set_limits(connections);
    }

    /// Who is connected.
    pub fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    /// Reads who is enrolled, where that may have changed, and ends the connections of those that are no more; how
    /// many.
    pub async fn refresh(&self) -> Result<usize, EnrolmentError> {
        self.enrolled.refresh().await?;
        self.shares.retain(|name| self.enrolled.since(name).is_some());
        Ok(self.entrance.end_of_revoked(|name| self.enrolled.since(name)))
    }

    /// What is known of each sensor since the start.
    pub fn seen(&self) -> HashMap<Name, Seen> {
        let (now, protects) = (self.clock.now(), self.bans.protected_by_sensor());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (sensor, seen) in &mut seen {
            seen.follows = self.followers.includes(sensor);
            seen.oddities = self.shares.oddities(sensor, now);
            seen.protects = protects.get(sensor).copied().unwrap_or(0);
        }
        seen
    }

    /// What the fleet jails count.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Takes a batch: bans at once, and acks with what became of each offence once the ledger has them. Beside others
    /// that send it is taken a few offences at a time, so that nobody waits for a thousand of one sensor's.
    async fn take(&self, sensor: &Name, share: &Share, mut batch: Batch) -> Result<Ack, Problem> {
        let now = self.clock.now();
        let all = batch.offences.len() as u64;
        // Of sensors that do not know of our prefixes.
        for NumberedOffence { offence, .. } in &mut batch.offences {
            offence.address = self.bans.client(offence.address);
        }
        let offenders: Vec<(u64, IpAddr)> =
            batch.offences.iter().map(|numbered| (numbered.sequence, numbered.offence.address)).collect();
        let through = self.through(sensor, &batch.outbox)?;
        batch.offences.retain(|offence| offence.sequence > through);
        let dating = Dating::new(batch.sent, now);
        self.heard(sensor, &dating, now);
        for NumberedOffence { offence, .. } in &mut batch.offences {
            offence.time = dating.date(offence.time);
            for evidence in &mut offence.evidence {
                evidence.time = dating.date(evidence.time);
            }
        }
        let fresh = batch.offences.len() as u64;
        self.shares.sent(share, fresh, all - fresh);
        let last = batch.offences.last().map_or(through, |last| last.sequence);
        let mut refused = refuse_reserved(sensor, &mut batch.offences);
        refused.extend(self.refuse_jails(sensor, share, &mut batch.offences, now));
        refused.extend(self.refuse_surplus(sensor, share, &mut batch.offences, now));
        self.note(sensor, |seen| {
            seen.offences += fresh;
            seen.again += all - fresh;
        });
        self.decide(sensor, (&batch.outbox, through, last), batch.offences, now).await?;
        let through =
            self.through.lock().unwrap_or_else(PoisonError::into_inner).note(sensor, &batch.outbox, last);
        refused.sort_by_key(|refused| refused.sequence);
        let mut rulings = Vec::with_capacity(offenders.len());
        for offenders in offenders.chunks(SLICE) {
            rulings.extend(self.bans.rulings(offenders, self.clock.now()));
            tokio::task::yield_now().await;
        }
        for NumberedRuling { sequence, ruling } in &mut rulings {
            if refused.binary_search_by_key(sequence, |refused| refused.sequence).is_ok() {
                *ruling = Ruling::Refused(Grounds::Unusable);
            }
        }
        Ok(Ack { through, ledger: Some(self.ledger_id.clone()), rulings, refused })
    }

    /// Decides on offences after one sequence and up to another, and waits until the ledger has them. Where it cannot
    /// have them all are decided on at once, and nothing is acked.
    async fn decide(
        &self,
        sensor: &Name,
        (outbox, through, last): (&Name, u64, u64),
        mut offences: Vec<NumberedOffence>,
        now: Timestamp,
    ) -> Result<(), Problem> {
        let deadline = Instant::now() + COMMIT_DEADLINE;
        let mut written = through;
        let mut failed = None;
        loop {
            let count = if failed.is_some() { MAX_BATCH } else { self.shares.slice(sensor, Instant::now()) };
            let rest = offences.split_off(count.min(offences.len()));
            let slice = std::mem::replace(&mut offences, rest);
            let is_last = offences.is_empty();
            let until = if is_last { last } else { slice.last().map_or(written, |last| last.sequence) };
            let earlier = self.bans.earlier(&slice, now).await;
            // What follows something that could not be written is not acked either.
            let acked = if failed.is_some() { written } else { until };
            let receipt = self.bans.take(sensor, (outbox, acked), slice, &earlier, now);
            if failed.is_none() {
                failed = match timeout_at(deadline, receipt.committed()).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("the ledger is slow".to_owned()),
                };
                written = if failed.is_none() { until } else { written };
            }
            if is_last {
                break;
            }
        }
        failed.map_or(Ok(()), |why| {
            let message = format!("{why}; the bans are on their way to the routers; send again for the ack");
            Err(Problem::new(ProblemCode::Unavailable, message))
        })
    }

    /// Takes the offences out of a batch for whose bans the sensor has no room left.
    fn refuse_surplus(
        &self,
        sensor: &Name,
        share: &Share,
        offences: &mut Vec<NumberedOffence>,
        now: Timestamp,
    ) -> Vec<RefusedOffence> {
        let Some(most) = self.shares.most_bans() else { return Vec::new() };
        let room = self.bans.room_for(sensor, most);
        if offences.len() <= room {
            return Vec::new();
        }
        let reason = format!(
            "{most} bans stand that {sensor} asked for, as many as one sensor may have: `bans` in [sensors] of the enforcer's configuration"
        );
        let surplus = offences.split_off(room);
        if share.note(Oddity::OverShare, surplus.len() as u64, now) == 0 {
            tracing::warn!(%sensor, offences = surplus.len(), reason, "refused offences; the next line comes in a minute at the soonest");
        }
        let refused = |numbered: NumberedOffence| RefusedOffence {
            sequence: numbered.sequence,
            reason: reason.clone(),
        };
        surplus.into_iter().map(refused).collect()
    }

    /// Takes the offences out of a batch whose jails the sensor may not name. They are answered with the others.
    fn refuse_jails(
        &self,
        sensor: &Name,
        share: &Share,
        offences: &mut Vec<NumberedOffence>,
        now: Timestamp,
    ) -> Vec<RefusedOffence> {
        let allowed = self.enrolled.jails(sensor);
        let mut refused = Vec::new();
        offences.retain(|NumberedOffence { sequence, offence }| {
            if share.may_name(&offence.jail, allowed.as_deref()) {
                return true;
            }
            let jail = &offence.jail;
            let reason = match &allowed {
                Some(_) => format!(
                    "{sensor} may not name the jail {jail}: `atalaya-enforcer jails {sensor}` on the enforcer's host shows which it may, and changes them"
                ),
                None => format!(
                    "{sensor} has named so many jails that {jail} is one too many: `atalaya-enforcer jails {sensor} JAIL,…` on the enforcer's host says which it may name"
                ),
            };
            refused.push(RefusedOffence { sequence: *sequence, reason });
            false
        });
        if let Some(first) = refused.first()
            && share.note(Oddity::JailRefused, refused.len() as u64, now) == 0
        {
            tracing::warn!(%sensor, offences = refused.len(), reason = first.reason, "refused offences; the rest of their batch is taken, and the next line comes in a minute at the soonest");
        }
        refused
    }

    async fn take_report(&self, sensor: &Name, share: &Share, report: &mut Report) {
        let now = self.clock.now();
        self.heard(sensor, &Dating::new(Some(report.sent), now), now);
        share.reported(report.failures.len() + report.logins.len());
        let (allowed, all) = (self.enrolled.jails(sensor), report.failures.len());
        report.failures.retain(|failures| share.may_name(&failures.jail, allowed.as_deref()));
        let refused = all - report.failures.len();
        if refused > 0 && share.note(Oddity::JailRefused, refused as u64, now) == 0 {
            tracing::warn!(%sensor, failures = refused, "a report names jails that the sensor may not name; the rest is taken, and the next line comes in a minute at the soonest");
        }
        let most_bans = self.shares.most_bans();
        let Some(taken) = self.reports.take(sensor, report, most_bans, now).await else { return };
        self.note(sensor, |seen| seen.reports += 1);
        let TakenReport { displaced, over_share } = taken;
        if over_share > 0 && share.note(Oddity::OverShare, over_share, now) == 0 {
            tracing::warn!(%sensor, addresses = over_share, "the fleet jails count no failures of this sensor's: as many bans count to it as one sensor may have (`bans` in [sensors]); the next line comes in a minute at the soonest");
        }
        if displaced > 0 && share.note(Oddity::LoginsDisplaced, displaced, now) == 0 {
            tracing::warn!(%sensor, logins = displaced, "the sensor reports so many logins that its earlier ones protect no more (`logins` in [sensors]); the next line comes in a minute at the soonest");
        }
    }

    /// Takes back what this sensor asked for; a ban that others asked for too stands on for these.
    async fn unban(&self, sensor: &Name, unban: Unban) -> Result<(), Problem> {
        let prefix = IpNet::from(self.bans.client(unban.address));
        let taken = self.bans.take_back(prefix, sensor, unban.jail.as_ref(), self.clock.now());
        let (receipt, done) = match taken {
            Some(TakenBack::Lifted(receipt)) => (receipt, "lifted on the routers"),
            Some(TakenBack::Stands(receipt)) => (receipt, "taken back, though others asked for the ban too"),
            None => {
                return Err(Problem::new(
                    ProblemCode::NotFound,
                    format!(
                        "{sensor} asked for no ban of {} that stands; `atalaya-enforcer unban` lifts others",
                        unban.address
                    ),
                ));
            }
        };
        tracing::info!(%sensor, %prefix, "a sensor takes its ban back: {done}");
        let unavailable = |why: String| Problem::new(ProblemCode::Unavailable, why);
        timeout(COMMIT_DEADLINE, receipt.committed())
            .await
            .map_err(|_| unavailable(format!("{done}, but the ledger is slow")))?
            .map_err(|error| unavailable(format!("{done}, but {error}")))
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
            if let (Some(caller), Some(enrolled)) = (caller, self.enrolled.since(&name)) {
                caller.admit(&name, enrolled)?;
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

    /// Who sent a request, whose body is read for enrolled sensors alone. `may` says whether the sensor may send more
    /// of this now.
    async fn receive(
        &self,
        request: Request,
        may: impl FnOnce(&Name, &Share) -> Result<(), Problem>,
    ) -> Result<(Name, Arc<Share>, Body), Problem> {
        let (parts, body) = request.into_parts();
        let admitted = self.authenticate(&parts.headers, parts.extensions.get()).await.and_then(|sensor| {
            let share = self.shares.of(&sensor);
            may(&sensor, &share).map(|()| (sensor, share))
        });
        match admitted {
            Ok((sensor, share)) => Ok((sensor, share, body)),
            Err(problem) => {
                drain(body).await;
                Err(problem)
            }
        }
    }

    /// Reads and checks a body, one of a sensor at a time.
    async fn read<T: Send + 'static>(
        &self,
        (sensor, share): (&Name, &Share),
        body: Body,
        parse: fn(&[u8]) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let deadline = Instant::now() + BODY_DEADLINE;
        let _turn = turn(&share.body, deadline).await?;
        let understood = async {
            let (bytes, _place) = read_body(body, &self.shares, deadline).await?;
            parsed(bytes, parse, &self.aside).await
        };
        understood.await.inspect_err(|problem| {
            if matches!(
                problem.code,
                ProblemCode::Malformed | ProblemCode::TooLarge | ProblemCode::UnknownVersion
            ) {
                share.reject(sensor, problem, self.clock.now());
            }
        })
    }

    /// Counts a request that carries no offences.
    fn may_ask(&self, sensor: &Name, share: &Share) -> Result<(), Problem> {
        share.request(sensor, self.clock.now())
    }
}

async fn offences(State(intake): State<Arc<Intake>>, request: Request) -> Result<Response, Refusal> {
    let may =
        |sensor: &Name, share: &Share| intake.shares.may_send_offences(sensor, share, intake.clock.now());
    let (sensor, share, body) = intake.receive(request, may).await?;
    let came = Instant::now();
    let _turn = turn(&share.batch, came + BODY_DEADLINE).await?;
    let batch = intake.read((&sensor, &share), body, parse).await?;
    let problem = match intake.take(&sensor, &share, batch).await {
        Ok(ack) => {
            intake.acked.took(came.elapsed());
            return Ok(acked(ack, &intake.aside).await?);
        }
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
    intake.may_ask(&sensor, &intake.shares.of(&sensor))?;
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
    intake.may_ask(&sensor, &intake.shares.of(&sensor))?;
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
    let (sensor, share, body) =
        intake.receive(request, |sensor, share| intake.may_ask(sensor, share)).await?;
    let unban = intake.read((&sensor, &share), body, parse_unban).await?;
    intake.unban(&sensor, unban).await?;
    Ok(Json(()))
}

async fn report(State(intake): State<Arc<Intake>>, request: Request) -> Result<Json<()>, Refusal> {
    let (sensor, share, body) =
        intake.receive(request, |sensor, share| intake.may_ask(sensor, share)).await?;
    let mut report = intake.read((&sensor, &share), body, parse_report).await?;
    intake.take_report(&sensor, &share, &mut report).await;
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
