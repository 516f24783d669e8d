//! What a token is good for that can be used once: the sensor's package, and a secret that the sensor made for itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atalaya_wire::{FirstJoin, Name, Problem, ProblemCode, Secret};
use axum::body::{Body, to_bytes};
use axum::extract::{Path as Named, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::entrance::Caller;
use super::{Intake, Refusal, credentials};
use crate::enrolment::Redemption;

/// Where packages of the sensor lie: the enforcer's own package brings one along, others may be put there.
pub const PACKAGES: &str = "/usr/share/atalaya-enforcer/packages";
/// The largest body, in bytes.
const LARGEST: usize = 1024;
/// How long it may take to come.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest package, in bytes.
const LARGEST_PACKAGE: u64 = 64 << 20;

/// Sets a sensor's secret.
pub(super) async fn join(State(intake): State<Arc<Intake>>, request: Request) -> Result<StatusCode, Refusal> {
    let (parts, body) = request.into_parts();
    let (name, first) = offered(&parts.headers)?;
    let malformed = |what: &str| Refusal(Problem::new(ProblemCode::Malformed, what));
    let body = timeout(DEADLINE, to_bytes(body, LARGEST)).await;
    let body = body.map_err(|_elapsed| malformed("the body did not come in time"))?;
    let body = body.map_err(|_error| malformed("the body cannot be read, or is larger than 1024 bytes"))?;
    let asked: FirstJoin = serde_json::from_slice(&body)
        .map_err(|error| Refusal(Problem::new(ProblemCode::Malformed, error.to_string())))?;
    let digest = asked.bytes().ok_or_else(|| malformed("`digest` needs 64 hexadecimal digits of SHA-256"))?;
    let done = intake.enrolled.redeem(name.clone(), first, digest, intake.clock.now()).await;
    let refused = |why: &str| {
        let message = format!(
            "{why}: run `atalaya-enforcer enrol {name} --replace` with the same options on the enforcer's host"
        );
        Err(Refusal(Problem::new(ProblemCode::Unauthorized, message)))
    };
    match done {
        Ok(Redemption::Done) => {
            tracing::info!(sensor = %name, "joined: it has a secret of its own");
            Ok(StatusCode::NO_CONTENT)
        }
        Ok(Redemption::Used) => {
            tracing::warn!(sensor = %name, "a token that was used is tried again: who has it?");
            refused("this token was used by another join; if that was not you, revoke the sensor")
        }
        Ok(Redemption::Expired) => refused("this token was good for an hour, which is over"),
        Ok(Redemption::Unknown) => refused("no sensor was enrolled with this token, or it was enrolled anew"),
        Err(error) => Err(Refusal(Problem::new(ProblemCode::Unavailable, error.to_string()))),
    }
}

/// Hands out the sensor's package.
pub(super) async fn package(
    State(intake): State<Arc<Intake>>,
    Named(processor): Named<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let (name, first) = offered(request.headers())?;
    if !intake.enrolled.invited(&name, &first, intake.clock.now()).await {
        let message = "the token was used, is over an hour old, or none of this enforcer's";
        return Err(Refusal(Problem::new(ProblemCode::Unauthorized, message)));
    }
    // It is the sensor's connection from here on: over a slow link a package takes longer than a stranger may stay.
    if let (Some(caller), Some(enrolled)) =
        (request.extensions().get::<Caller>(), intake.enrolled.since(&name))
    {
        caller.admit(&name, enrolled).map_err(Refusal)?;
    }
    let release = env!("CARGO_PKG_VERSION");
    let missing = || {
        let message = format!(
            "there is no package atalaya-sensor_{release}…_{processor}.deb in {PACKAGES} on the enforcer's host: put it there, or install the sensor by hand"
        );
        Refusal(Problem::new(ProblemCode::NotFound, message.escape_debug().to_string()))
    };
    let found = tokio::task::spawn_blocking({
        let processor = processor.clone();
        move || find(Path::new(PACKAGES), release, &processor)
    });
    let file = found.await.ok().flatten().ok_or_else(missing)?;
    let bytes = tokio::fs::read(&file).await.map_err(|error| {
        Refusal(Problem::new(ProblemCode::Unavailable, format!("{} cannot be read: {error}", file.display())))
    })?;
    Ok(([(CONTENT_TYPE, "application/vnd.debian.binary-package")], Body::from(bytes)).into_response())
}

/// The name and secret that a request offers.
fn offered(headers: &HeaderMap) -> Result<(Name, Secret), Refusal> {
    let offered = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(credentials);
    let understood = offered.and_then(|(name, secret)| Some((name.parse().ok()?, secret.parse().ok()?)));
    understood.ok_or_else(|| {
        let message = "HTTP Basic authentication with the sensor's name and the token's secret is needed";
        Refusal(Problem::new(ProblemCode::Unauthorized, message))
    })
}

/// The last package of a release for a processor, by its name.
fn find(folder: &Path, release: &str, processor: &str) -> Option<PathBuf> {
    let (begin, end) = (format!("atalaya-sensor_{release}"), format!("_{processor}.deb"));
    let fits = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let rest = name.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(&end));
        let small = || path.metadata().is_ok_and(|file| file.is_file() && file.len() <= LARGEST_PACKAGE);
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit() || next == '.'))
            && small()
    };
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(fits).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_package_of_this_release_and_processor_is_handed_out_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            "atalaya-sensor_0.1.0-1_amd64.deb",
            "atalaya-sensor_0.1.0-2_amd64.deb",
            "atalaya-sensor_0.1.0-3_arm64.deb",
            "atalaya-sensor_0.1.01-1_amd64.deb",
            "atalaya-sensor_0.1.0.1-1_amd64.deb",
            "atalaya-sensor_0.2.0-1_amd64.deb",
            "other_0.1.0-9_amd64.deb",
        ];
        for file in files {
            std::fs::write(folder.path().join(file), file).unwrap();
        }
        let name = |processor: &str| {
            let found = find(folder.path(), "0.1.0", processor)?;
            Some(found.file_name()?.to_str()?.to_owned())
        };
        assert_eq!(name("amd64").as_deref(), Some("atalaya-sensor_0.1.0-2_amd64.deb"));
        assert_eq!(name("arm64").as_deref(), Some("atalaya-sensor_0.1.0-3_arm64.deb"));
        assert_eq!(name("../amd64"), None);
        assert_eq!(find(Path::new("/nowhere"), "0.1.0", "amd64"), None);
    }
}
