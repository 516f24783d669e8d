//! A sensor's request as bytes: read within bounds of size and time, understood, and refused with a reason. Nothing
//! here knows what becomes of it.

use std::time::Duration;

use atalaya_wire::{
    Ack, Batch, Evidence, MAX_BATCH, MAX_BODY, MAX_REPORT, Problem, ProblemCode, Report, Unban, VERSION,
};
use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};

use super::aside::Aside;
use super::share::{LargeBody, Shares};
use atalaya_program::count::counted;

/// How long a request's body may take to arrive.
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(20);

/// How long a large body may take while others wait for its place, and how often that is looked at.
const SLOW_BODY: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(1);

/// The largest body that is read where offences are decided; a larger one would hold up others.
const QUICK_BODY: usize = 64 * 1024;

/// The most rulings of an ack that is written there.
const QUICK_ACK: usize = 64;

/// A refusal: the status, and the problem as JSON.
#[derive(Debug)]
pub(super) struct Refusal(pub Problem);

/// Understands and checks a body without holding up others.
pub(super) async fn parsed<T: Send + 'static>(
    body: Vec<u8>,
    parse: fn(&[u8]) -> Result<T, Problem>,
    aside: &Aside,
) -> Result<T, Problem> {
    if body.len() <= QUICK_BODY { parse(&body) } else { aside.run(move || parse(&body)).await? }
}

/// Writes an ack without holding up others.
pub(super) async fn acked(ack: Ack, aside: &Aside) -> Result<Response, Problem> {
    if ack.rulings.len() <= QUICK_ACK {
        return Ok(Json(ack).into_response());
    }
    aside.run(move || Json(ack).into_response()).await
}

/// Reads a body, in its sensor's turn. Of large ones only so many are in memory at once.
/// The place of a large one is to be kept for as long as it is.
pub(super) async fn read_body(
    mut body: Body,
    shares: &Shares,
    deadline: Instant,
) -> Result<(Vec<u8>, Option<LargeBody<'_>>), Problem> {
    let too_large = || {
        Problem::new(
            ProblemCode::TooLarge,
            format!("the body is larger than {MAX_BODY} bytes: send fewer offences at once"),
        )
    };
    let expected = body.size_hint();
    if expected.lower() > MAX_BODY as u64 {
        drain(body).await;
        return Err(too_large());
    }
    let is_large = expected.upper().is_none_or(|most| most > QUICK_BODY as u64);
    let place = if is_large { Some(shares.large_body(deadline).await?) } else { None };
    let begun = Instant::now();
    let mut bytes = Vec::with_capacity((expected.lower() as usize).min(QUICK_BODY));
    loop {
        let is_waited_for = || place.as_ref().is_some_and(LargeBody::is_waited_for);
        if Instant::now() >= deadline || begun.elapsed() >= SLOW_BODY && is_waited_for() {
            return Err(Problem::new(ProblemCode::Unavailable, "the body did not arrive in time"));
        }
        let data = match timeout_at(deadline.min(Instant::now() + LOOK), next(&mut body)).await {
            Ok(Some(data)) => data,
            Ok(None) => return Ok((bytes, place)),
            Err(_) => continue,
        };
        let data = data
            .map_err(|error| Problem::new(ProblemCode::Malformed, format!("the body is cut off: {error}")))?;
        if bytes.len() + data.len() > MAX_BODY {
            drop(place);
            drain(body).await;
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
}

/// Reads on for a while, so that a client that sends first and listens later gets to see its refusal.
pub(super) async fn drain(mut body: Body) {
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
pub(super) fn parse(body: &[u8]) -> Result<Batch, Problem> {
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
pub(super) fn parse_report(body: &[u8]) -> Result<Report, Problem> {
    let report: Report = understand(body, "report", |report: &Report| report.version)?;
    let (failures, logins) = (report.failures.len(), report.logins.len());
    if failures.max(logins) > MAX_REPORT {
        let message = format!(
            "{} and {} in one report; at most {MAX_REPORT} of each",
            counted(failures, "failure"),
            counted(logins, "login")
        );
        return Err(Problem::new(ProblemCode::TooLarge, message));
    }
    if report.sequence == 0 {
        return Err(malformed("the sequence is 0; expected 1 or more"));
    }
    Ok(report)
}

/// Reads what a sensor wants to be lifted.
pub(super) fn parse_unban(body: &[u8]) -> Result<Unban, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let why: String = error.to_string().escape_debug().take(300).collect();
        malformed(&format!("the request cannot be understood: {why}"))
    })
}

/// Reads a body of our version.
pub(super) fn understand<T: DeserializeOwned>(
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

pub(super) fn unknown_version(what: &str, version: u32) -> Problem {
    let message = format!(
        "the {what} has version {version}; this enforcer speaks version {VERSION}: use the same release on both sides"
    );
    Problem::new(ProblemCode::UnknownVersion, message)
}

pub(super) fn malformed(message: &str) -> Problem {
    Problem::new(ProblemCode::Malformed, message)
}

/// The name and the secret of an `Authorization: Basic` header.
pub(super) fn credentials(header: &str) -> Option<(String, String)> {
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
            ProblemCode::NeedsForce => StatusCode::CONFLICT,
            ProblemCode::NotFound => StatusCode::NOT_FOUND,
            ProblemCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ProblemCode::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ProblemCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let wait = self.0.wait().map(|wait| wait.as_secs_f64().ceil() as u64);
        let mut response = (status, Json(self.0)).into_response();
        if let Some(wait) = wait {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
        }
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
