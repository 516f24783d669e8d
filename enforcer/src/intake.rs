//! Where offences and reports arrive: authenticated, checked, decided and on their way to the routers before
//! the ledger has them; acked once it has. Every request is hostile until it proves otherwise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atalaya_wire::{
    ALLOW_PATH, Ack, AllowList, BANS_PATH, Batch, Evidence, Follow, MAX_BATCH, MAX_BODY, MAX_REPORT, Name,
    NumberedOffence, OFFENCES_PATH, Problem, ProblemCode, REPORTS_PATH, RefusedOffence, Report, Secret,
    UNBAN_PATH, Unban, VERSION, canonical, reserved,
};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use data_encoding::BASE64;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

use crate::bans::Bans;
use crate::clock::Clock;
use crate::enrolment::Enrolled;
use crate::ledger::{Ledger, Selection};

pub mod fleet;
pub mod followers;
pub mod https;
pub mod reports;
pub mod skew;

use followers::Followers;
use https::Caller;
use reports::Reports;
use skew::{Dating, TOLERATED};

/// How long a request's body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(20);

/// How long a batch waits for the ledger before its sensor is told to send it again.
const COMMIT_DEADLINE: Duration = Duration::from_secs(15);

/// The most outboxes that are remembered of one sensor; a new one comes with a new installation.
const MOST_OUTBOXES: usize = 100;

/// The largest body that is read where offences are decided; a larger one would hold up others.
const QUICK_BODY: usize = 64 * 1024;

/// The shortest time between two log lines about refused requests.
const REFUSALS_PAUSE: Duration = Duration::from_secs(5);

/// The intake's parts.
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
    through: Mutex<HashMap<Name, HashMap<Name, u64>>>,
    seen: Mutex<HashMap<Name, Seen>>,
    refusals: Mutex<Refusals>,
}

/// When refused requests were logged last, and how many were not.
#[derive(Debug, Default)]
struct Refusals {
    told: Option<Instant>,
    untold: u64,
}

/// What is known of a sensor since the start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// When it was last heard: when it sent something, or read the allow list, which ours do every minute.
    pub last: Option<Timestamp>,
    /// Offences taken.
    pub offences: u64,
    /// Offences that were sent again.
    pub again: u64,
    /// Reports taken.
    pub reports: u64,
    /// Whether it follows the bans now, to drop them by itself.
    pub follows: bool,
    /// How many seconds its clock is behind ours (negative: ahead), the way of what it sent included; `None` where
    /// it does not say.
    pub skew_seconds: Option<i64>,
    /// The skew that was logged last, while the clock is wrong.
    #[serde(skip)]
    pub told_skew: Option<i64>,
}

/// A refusal: the status, and the problem as JSON.
#[derive(Debug)]
struct Refusal(Problem);

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
        let mut through: HashMap<Name, HashMap<Name, u64>> = HashMap::new();
        for ((sensor, outbox), sequence) in saved {
            through.entry(sensor).or_default().insert(outbox, sequence);
        }
        Self {
            bans,
            reports,
            followers,
            ledger,
            ledger_id,
            enrolled,
            clock,
            through: Mutex::new(through),
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

    /// Who is enrolled.
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

    /// Takes a batch: bans at once, and acks once the ledger has them.
    async fn take(&self, sensor: Name, mut batch: Batch) -> Result<Ack, Problem> {
        let now = self.clock.now();
        let all = batch.offences.len() as u64;
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
        let mut known = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        let committed = known.entry(sensor).or_default().entry(batch.outbox).or_insert(0);
        *committed = (*committed).max(last);
        Ok(Ack { through: *committed, ledger: Some(self.ledger_id.clone()), refused })
    }

    /// Takes a report.
    async fn take_report(&self, sensor: &Name, report: &Report) {
        let now = self.clock.now();
        self.heard(sensor, &Dating::new(Some(report.sent), now), now);
        if self.reports.take(sensor, report, now).await {
            self.note(sensor, |seen| seen.reports += 1);
        }
    }

    /// Lifts a ban that this sensor asked for; one of another sensor's is none of its business.
    async fn unban(&self, sensor: &Name, unban: Unban) -> Result<(), Problem> {
        let prefix = IpNet::from(canonical(unban.address));
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
        let Some(outboxes) = known.get(sensor) else { return Ok(0) };
        match outboxes.get(outbox) {
            Some(through) => Ok(*through),
            None if outboxes.len() < MOST_OUTBOXES => Ok(0),
            None => Err(Problem::new(
                ProblemCode::Unavailable,
                format!(
                    "{sensor} has sent from {MOST_OUTBOXES} outboxes already: does its state folder survive a restart? Then `atalaya-enforcer revoke {sensor}`, and enrol it under another name"
                ),
            )),
        }
    }

    /// Takes note that a sensor sent something, and says where its clock is wrong, or right again.
    fn heard(&self, sensor: &Name, dating: &Dating, now: Timestamp) {
        let (skew, wrong) = (dating.seconds(), dating.wrong_by().map(|skew| skew.as_secs()));
        let mut told = None;
        self.note(sensor, |seen| {
            seen.last = Some(now);
            if skew.is_none() {
                return;
            }
            seen.skew_seconds = skew;
            let differs = match (wrong, seen.told_skew) {
                (Some(now), Some(before)) => now.abs_diff(before) > TOLERATED.as_secs().unsigned_abs(),
                (now, before) => now.is_some() != before.is_some(),
            };
            if differs {
                seen.told_skew = wrong;
                told = Some(wrong);
            }
        });
        match told {
            Some(Some(skew)) => {
                let way = if skew > 0 { "behind" } else { "ahead" };
                tracing::warn!(
                    %sensor, seconds = skew.abs(), way,
                    "the sensor's clock is wrong: what it sends is dated by when it arrives; does chrony or ntpd run there?"
                );
            }
            Some(None) => tracing::info!(%sensor, "the sensor's clock is right again"),
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
        self.tell_refusal(&name, caller);
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

    /// Logs a refusal, unless there was one just now: strangers must not fill the log.
    fn tell_refusal(&self, sensor: &str, caller: Option<&Caller>) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.told.is_some_and(|told| told.elapsed() < REFUSALS_PAUSE) {
            refusals.untold += 1;
            return;
        }
        let untold = std::mem::take(&mut refusals.untold);
        refusals.told = Some(Instant::now());
        let peer = caller.map_or_else(|| "unknown".to_owned(), |caller| caller.address.to_string());
        tracing::warn!(sensor, peer, untold, "refused: the sensor is not enrolled, or its secret is wrong");
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

/// Reads and checks a body without holding up others.
async fn parsed<T: Send + 'static>(
    body: Vec<u8>,
    parse: fn(&[u8]) -> Result<T, Problem>,
    sensor: &Name,
) -> Result<T, Problem> {
    let parsed = if body.len() > QUICK_BODY {
        let parsed = tokio::task::spawn_blocking(move || parse(&body)).await;
        parsed.map_err(|_| Problem::new(ProblemCode::Unavailable, "the enforcer is stopping"))?
    } else {
        parse(&body)
    };
    parsed.inspect_err(|problem| {
        tracing::warn!(%sensor, code = ?problem.code, problem = problem.message, "refused what a sensor sent");
    })
}

async fn read_body(mut body: Body) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        Problem::new(
            ProblemCode::TooLarge,
            format!("the body is larger than {MAX_BODY} bytes: send fewer offences at once"),
        )
    };
    let deadline = Instant::now() + BODY_DEADLINE;
    let expected = body.size_hint().lower();
    if expected > MAX_BODY as u64 {
        drain(body).await;
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(expected as usize);
    while let Some(data) = timeout_at(deadline, next(&mut body))
        .await
        .map_err(|_| Problem::new(ProblemCode::Unavailable, "the body did not arrive in time"))?
    {
        let data = data
            .map_err(|error| Problem::new(ProblemCode::Malformed, format!("the body is cut off: {error}")))?;
        if bytes.len() + data.len() > MAX_BODY {
            drain(body).await;
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Reads on for a while, so that a client that sends first and listens later gets to see its refusal.
async fn drain(mut body: Body) {
    let mut left = 4 * MAX_BODY;
    let rest = async {
        while let Some(Ok(data)) = next(&mut body).await {
            left = left.saturating_sub(data.len());
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(BODY_DEADLINE, rest).await;
}

/// The body's next piece.
async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    loop {
        let frame =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context)).await?;
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => return Some(Ok(data)),
            // Trailers mean nothing here.
            Ok(Err(_)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

/// As much of a batch and a report as every version has.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads and checks a batch.
fn parse(body: &[u8]) -> Result<Batch, Problem> {
    let mut batch: Batch = understand(body, "batch", |batch: &Batch| batch.version)?;
    if batch.offences.len() > MAX_BATCH {
        let message = format!("{} offences in one batch; at most {MAX_BATCH}", batch.offences.len());
        return Err(Problem::new(ProblemCode::TooLarge, message));
    }
    if !batch.offences.is_sorted_by(|before, after| before.sequence < after.sequence) {
        return Err(malformed("the sequences do not grow"));
    }
    let sequences = 1..=i64::MAX.cast_unsigned();
    if let Some(wrong) = batch.offences.iter().find(|offence| !sequences.contains(&offence.sequence)) {
        return Err(malformed(&format!("a sequence is {}; expected 1 to 2^63-1", wrong.sequence)));
    }
    for numbered in &mut batch.offences {
        let evidence = &mut numbered.offence.evidence;
        evidence.truncate(Evidence::MOST);
        for piece in evidence {
            let source: String = piece.source.chars().filter(|c| !c.is_control()).take(200).collect();
            *piece = Evidence::new(piece.time, source, &piece.text);
        }
    }
    Ok(batch)
}

/// Reads and checks a report.
fn parse_report(body: &[u8]) -> Result<Report, Problem> {
    let report: Report = understand(body, "report", |report: &Report| report.version)?;
    let (failures, logins) = (report.failures.len(), report.logins.len());
    if failures.max(logins) > MAX_REPORT {
        let message =
            format!("{failures} failures and {logins} logins in one report; at most {MAX_REPORT} of each");
        return Err(Problem::new(ProblemCode::TooLarge, message));
    }
    if report.sequence == 0 {
        return Err(malformed("the sequence is 0; expected 1 or more"));
    }
    Ok(report)
}

/// Reads a body of our version.
fn understand<T: DeserializeOwned>(
    body: &[u8],
    what: &str,
    version: impl FnOnce(&T) -> u32,
) -> Result<T, Problem> {
    let parsed = serde_json::from_slice::<T>(body);
    // One of another version may look different otherwise.
    let version = match &parsed {
        Ok(parsed) => Some(version(parsed)),
        Err(_) => serde_json::from_slice::<Versioned>(body).ok().map(|versioned| versioned.version),
    };
    if let Some(version) = version.filter(|version| *version != VERSION) {
        return Err(unknown_version(what, version));
    }
    parsed.map_err(|error| {
        let why: String = error.to_string().escape_debug().take(300).collect();
        malformed(&format!("the {what} is not understood: {why}"))
    })
}

fn unknown_version(what: &str, version: u32) -> Problem {
    let message = format!(
        "the {what} has version {version}; this enforcer speaks version {VERSION}: use the same release on both sides"
    );
    Problem::new(ProblemCode::UnknownVersion, message)
}

fn malformed(message: &str) -> Problem {
    Problem::new(ProblemCode::Malformed, message)
}

/// The name and the secret of an `Authorization: Basic` header.
fn credentials(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded.trim().as_bytes()).ok()?).ok()?;
    let (name, secret) = decoded.split_once(':')?;
    Some((name.to_owned(), secret.to_owned()))
}

// === impl Refusal ===

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            ProblemCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ProblemCode::UnknownVersion | ProblemCode::Malformed => StatusCode::BAD_REQUEST,
            ProblemCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ProblemCode::NotFound => StatusCode::NOT_FOUND,
            ProblemCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ProblemCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = (status, Json(self.0)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"atalaya\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(body: &str) -> ProblemCode {
        parse(body.as_bytes()).unwrap_err().code
    }

    #[test]
    fn what_cannot_be_taken_is_told_apart() {
        assert_eq!(code("{}"), ProblemCode::Malformed);
        assert_eq!(code("[1,2"), ProblemCode::Malformed);
        assert_eq!(code(r#"{"version":2,"news":true}"#), ProblemCode::UnknownVersion);
        let offence = |sequence: u64| {
            format!(
                r#"{{"sequence":{sequence},"jail":"x","address":"192.0.2.1","time":"2026-01-01T00:00:00Z","failures":3,"bantime":60}}"#
            )
        };
        let batch = |offences: &[String]| {
            format!(r#"{{"version":1,"outbox":"o","offences":[{}]}}"#, offences.join(","))
        };
        assert!(parse(batch(&[offence(1), offence(2)]).as_bytes()).is_ok());
        assert_eq!(code(&batch(&[offence(2), offence(1)])), ProblemCode::Malformed);
        assert_eq!(code(&batch(&[offence(u64::MAX)])), ProblemCode::Malformed);
        assert_eq!(code(&batch(&[offence(0)])), ProblemCode::Malformed);
        let newer = batch(&[offence(1)]).replace("\"version\":1", "\"version\":2");
        assert_eq!(code(&newer), ProblemCode::UnknownVersion);
        let many: Vec<String> = (0..=MAX_BATCH as u64).map(offence).collect();
        assert_eq!(code(&batch(&many)), ProblemCode::TooLarge);
        let bad_jail = offence(1).replace("\"jail\":\"x\"", "\"jail\":\"x y\"");
        assert_eq!(code(&batch(&[bad_jail])), ProblemCode::Malformed);
    }

    #[test]
    fn a_report_is_bounded_and_of_our_version() {
        let report = |sequence: u64, failures: usize| {
            let failure = r#"{"jail":"ssh","address":"192.0.2.1","count":1,"last":"2026-01-01T00:00:00Z"}"#;
            let failures = vec![failure; failures].join(",");
            format!(
                r#"{{"version":1,"outbox":"o","sequence":{sequence},"sent":"2026-01-01T00:00:00Z","failures":[{failures}]}}"#
            )
        };
        let code = |body: &str| parse_report(body.as_bytes()).unwrap_err().code;
        assert!(parse_report(report(1, MAX_REPORT).as_bytes()).is_ok());
        assert_eq!(code(&report(1, MAX_REPORT + 1)), ProblemCode::TooLarge);
        assert_eq!(code(&report(0, 1)), ProblemCode::Malformed);
        assert_eq!(code(&report(1, 1).replace("ssh", "s h")), ProblemCode::Malformed);
        assert_eq!(
            code(&report(1, 1).replace("\"version\":1", "\"version\":9")),
            ProblemCode::UnknownVersion
        );
    }

    proptest! {
        #[test]
        fn no_body_and_no_header_cause_a_panic(body in prop::collection::vec(any::<u8>(), 0..200), header in "\\PC*") {
            let _ = parse(&body);
            let _ = parse_report(&body);
            let _ = credentials(&header);
        }
    }
}
