//! Where offences arrive: authenticated, checked, decided and on their way to the routers before the
//! ledger has them; acked once it has. Every request is hostile until it proves otherwise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atalaya_wire::{
    ALLOW_PATH, Ack, AllowList, Batch, Evidence, MAX_BATCH, MAX_BODY, Name, OFFENCES_PATH, Problem,
    ProblemCode, Secret, VERSION,
};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use data_encoding::BASE64;
use serde::Serialize;

use crate::bans::Bans;
use crate::clock::Clock;
use crate::enrolment::Enrolled;
use crate::ledger::{Change, Ledger};

/// How long a request's body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(20);

/// The intake's parts.
#[derive(Debug)]
pub struct Intake {
    bans: Arc<Bans>,
    ledger: Ledger,
    enrolled: Arc<Enrolled>,
    clock: Clock,
    /// The largest committed sequence by sensor and outbox.
    through: Mutex<HashMap<(Name, Name), u64>>,
    seen: Mutex<HashMap<Name, Seen>>,
    refreshing: tokio::sync::Mutex<()>,
}

/// What is known of a sensor since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seen {
    /// When it last sent something.
    pub last: Option<jiff::Timestamp>,
    /// Offences taken.
    pub offences: u64,
    /// Offences that were sent again.
    pub again: u64,
}

/// A refusal: the status, and the problem as JSON.
#[derive(Debug)]
struct Refusal(Problem);

// === impl Intake ===

impl Intake {
    /// An intake that goes on where the ledger stands.
    pub fn new(
        bans: Arc<Bans>,
        ledger: Ledger,
        enrolled: Arc<Enrolled>,
        clock: Clock,
        through: HashMap<(Name, Name), u64>,
    ) -> Self {
        Self { bans, ledger, enrolled, clock, through: Mutex::new(through), seen: Mutex::default(), refreshing: tokio::sync::Mutex::default() }
    }

    /// The paths that sensors use.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route(OFFENCES_PATH, post(offences))
            .route(ALLOW_PATH, get(allow))
            .fallback(|| async {
                let paths = format!("nothing is here; sensors use {OFFENCES_PATH} and {ALLOW_PATH}");
                Refusal(Problem::new(ProblemCode::NotFound, paths))
            })
            .with_state(self)
    }

    /// What is known of each sensor since the start.
    pub fn seen(&self) -> HashMap<Name, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a batch: bans at once, and acks once the ledger has them.
    async fn take(&self, sensor: Name, batch: Batch) -> Result<Ack, Problem> {
        let now = self.clock.now();
        let key = (sensor.clone(), batch.outbox.clone());
        let through = self.through.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied().unwrap_or(0);
        let last = batch.offences.last().map_or(through, |last| last.sequence);
        let fresh = batch.offences.iter().filter(|offence| offence.sequence > through);
        let mut count = 0;
        let mut changes: Vec<Change> = fresh
            .inspect(|_| count += 1)
            .filter_map(|numbered| self.bans.offence(&sensor, &numbered.offence, now))
            .collect();
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = seen.entry(sensor.clone()).or_default();
            seen.last = Some(now);
            seen.offences += count;
            seen.again += batch.offences.len() as u64 - count;
        }
        if count > 0 {
            let (sensor, outbox) = key.clone();
            changes.push(Change::Through { sensor, outbox, sequence: last });
            self.ledger.commit(changes).await.map_err(|error| {
                Problem::new(ProblemCode::Unavailable, format!("{error}; the bans are on their way to the routers; send again for the ack"))
            })?;
        }
        let mut committed = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        let committed = committed.entry(key).or_insert(0);
        *committed = (*committed).max(last);
        Ok(Ack { through: *committed })
    }

    async fn authenticate(&self, headers: &HeaderMap) -> Result<Name, Problem> {
        let refused = |message: String| Problem::new(ProblemCode::Unauthorized, message);
        let (name, secret) = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(credentials)
            .ok_or_else(|| {
                refused("HTTP Basic authentication with the sensor's name and secret is needed".to_owned())
            })?;
        if let (Ok(name), Ok(secret)) = (name.parse::<Name>(), secret.parse::<Secret>()) {
            if self.enrolled.knows(&name, &secret) {
                return Ok(name);
            }
            // Perhaps it was enrolled a moment ago. One look at a time: a flood waits for itself.
            let _one = self.refreshing.lock().await;
            let enrolled = self.enrolled.clone();
            let _ = tokio::task::spawn_blocking(move || enrolled.refresh()).await;
            if self.enrolled.knows(&name, &secret) {
                return Ok(name);
            }
        }
        let name: String = name.escape_debug().take(80).collect();
        tracing::warn!(sensor = name, "refused: the sensor is not enrolled, or its secret is wrong");
        Err(refused(format!(
            "no sensor named {name} is enrolled with this secret: run `atalaya-enforcer enrol {name}` (with --replace if the name is taken) on the enforcer's host and join again"
        )))
    }
}

async fn offences(State(intake): State<Arc<Intake>>, request: Request) -> Result<Json<Ack>, Refusal> {
    let sensor = intake.authenticate(request.headers()).await?;
    let body = read_body(request.into_body()).await?;
    let batch = parse(&body)?;
    Ok(Json(intake.take(sensor, batch).await?))
}

async fn allow(State(intake): State<Arc<Intake>>, headers: HeaderMap) -> Result<Json<AllowList>, Refusal> {
    intake.authenticate(&headers).await?;
    Ok(Json(AllowList { networks: intake.bans.allow() }))
}

async fn read_body(body: Body) -> Result<axum::body::Bytes, Problem> {
    match tokio::time::timeout(BODY_DEADLINE, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            Err(Problem::new(ProblemCode::TooLarge, format!("the body is cut off or larger than {MAX_BODY} bytes")))
        }
        Err(_) => Err(Problem::new(ProblemCode::Malformed, "the body did not arrive in time")),
    }
}

/// Reads and checks a batch.
fn parse(body: &[u8]) -> Result<Batch, Problem> {
    let malformed = |message: String| Problem::new(ProblemCode::Malformed, message);
    // The version first: a later one may look different otherwise.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } =
        serde_json::from_slice(body).map_err(|error| malformed(format!("the batch is not understood: {error}")))?;
    if version != VERSION {
        let message = format!(
            "the batch has version {version}; this enforcer speaks version {VERSION}: use the same release on both sides"
        );
        return Err(Problem::new(ProblemCode::UnknownVersion, message));
    }
    let mut batch: Batch =
        serde_json::from_slice(body).map_err(|error| malformed(format!("the batch is not understood: {error}")))?;
    if batch.offences.len() > MAX_BATCH {
        let message = format!("{} offences in one batch; at most {MAX_BATCH}", batch.offences.len());
        return Err(Problem::new(ProblemCode::TooLarge, message));
    }
    if !batch.offences.is_sorted_by(|before, after| before.sequence < after.sequence) {
        return Err(malformed("the sequences do not grow".to_owned()));
    }
    if batch.offences.iter().any(|offence| offence.sequence > i64::MAX.cast_unsigned()) {
        return Err(malformed("a sequence is larger than 2^63-1".to_owned()));
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
                .insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Basic realm=\"atalaya\""));
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
            format!(r#"{{"sequence":{sequence},"jail":"x","address":"192.0.2.1","time":"2026-01-01T00:00:00Z","failures":3,"bantime":60}}"#)
        };
        let batch = |offences: &[String]| {
            format!(r#"{{"version":1,"outbox":"o","offences":[{}]}}"#, offences.join(","))
        };
        assert!(parse(batch(&[offence(1), offence(2)]).as_bytes()).is_ok());
        assert_eq!(code(&batch(&[offence(2), offence(1)])), ProblemCode::Malformed);
        assert_eq!(code(&batch(&[offence(u64::MAX)])), ProblemCode::Malformed);
        let many: Vec<String> = (0..=MAX_BATCH as u64).map(offence).collect();
        assert_eq!(code(&batch(&many)), ProblemCode::TooLarge);
        let bad_jail = offence(1).replace("\"jail\":\"x\"", "\"jail\":\"x y\"");
        assert_eq!(code(&batch(&[bad_jail])), ProblemCode::Malformed);
    }

    proptest! {
        #[test]
        fn no_body_and_no_header_cause_a_panic(body in prop::collection::vec(any::<u8>(), 0..200), header in "\\PC*") {
            let _ = parse(&body);
            let _ = credentials(&header);
        }
    }
}
