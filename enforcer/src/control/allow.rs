//! `/allow` and `/protected`: what is never banned, and who was not.

use std::collections::BTreeMap;
use std::sync::Arc;

use atalaya_wire::{BanTime, Networks, Problem, ProblemCode, Seconds};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::said::{LONGEST_REASON, LONGEST_WHO, clean, committed};
use super::{Answer, Control, Refused};
pub use crate::bans::allow::AllowedBecause;
use crate::bans::allow::{AllowError, Resolved};
use crate::bans::{AllowEffect, Allowed};
use crate::ledger::{Allowance, ProtectedOffence};

/// The answer to `GET /allow`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AllowAnswer {
    /// What was allowed at run time.
    pub entries: Vec<Allowance>,
    /// The DNS names on the list, and what is known of each.
    pub names: BTreeMap<String, Resolved>,
    /// All that is never banned: by configuration, at run time, by names, and the addresses of the routers
    /// and of this host.
    pub networks: Networks,
    /// How many addresses are protected by a successful login.
    pub protected: usize,
}

/// The body of `POST /allow`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRequest {
    /// The address, network or DNS name.
    pub what: String,
    /// For how long, from now.
    pub time: BanTime,
    /// Why, in the words of whoever did it; may be empty.
    #[serde(default)]
    pub reason: String,
    /// Who asks, as the ledger keeps it; at most 64 characters.
    #[serde(default)]
    pub by: String,
}

/// The query of `DELETE /allow`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisallowRequest {
    /// The address, network or DNS name.
    pub what: String,
}

/// The answer to `POST /allow` and to `DELETE /allow`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AllowedAnswer {
    /// The entry that was made, or taken back.
    pub entry: Allowance,
    /// What it means for the bans that stand.
    #[serde(flatten)]
    pub effect: AllowEffect,
}

/// The query of `GET /protected`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtectedRequest {
    /// At most so many.
    pub limit: usize,
}

pub(super) async fn list(State(control): State<Arc<Control>>) -> Json<AllowAnswer> {
    Json(AllowAnswer {
        entries: control.bans.allowances(),
        names: control.bans.answers(),
        networks: control.bans.allow().as_ref().clone(),
        protected: control.bans.protected(),
    })
}

pub(super) async fn allow(
    State(control): State<Arc<Control>>,
    Json(request): Json<AllowRequest>,
) -> Answer<AllowedAnswer> {
    let now = control.clock.now();
    if request.time == BanTime::For(Seconds(0)) {
        return Err(refused(&AllowError::NoTime));
    }
    let until = request.time.end(now);
    let (reason, by) = (clean(&request.reason, LONGEST_REASON), clean(&request.by, LONGEST_WHO));
    let done = control.bans.allow_at_run_time(&request.what, until, &reason, &by, now);
    let Allowed { entry, effect, receipt } = done.map_err(|error| refused(&error))?;
    committed(receipt).await?;
    let (lifted, cut) = (effect.lifted, effect.cut.len());
    tracing::info!(what = entry.what, by, reason, lifted, cut, "allowed at run time");
    Ok(Json(AllowedAnswer { entry, effect }))
}

pub(super) async fn disallow(
    State(control): State<Arc<Control>>,
    Query(request): Query<DisallowRequest>,
) -> Answer<AllowedAnswer> {
    let done = control.bans.disallow(&request.what, control.clock.now());
    let Allowed { entry, effect, receipt } = done.map_err(|error| refused(&error))?;
    committed(receipt).await?;
    tracing::info!(what = entry.what, "taken off the allow list");
    Ok(Json(AllowedAnswer { entry, effect }))
}

pub(super) async fn protected(
    State(control): State<Arc<Control>>,
    Query(request): Query<ProtectedRequest>,
) -> Answer<Vec<ProtectedOffence>> {
    let ledger = control.ledger.clone();
    let unavailable =
        |why: String| Refused(StatusCode::SERVICE_UNAVAILABLE, Problem::new(ProblemCode::Unavailable, why));
    tokio::task::spawn_blocking(move || ledger.protected_offences(request.limit))
        .await
        .map_err(|_| unavailable("the enforcer is stopping".to_owned()))?
        .map(Json)
        .map_err(|error| unavailable(error.to_string()))
}

fn refused(error: &AllowError) -> Refused {
    let (status, code) = match error {
        AllowError::NotThere(_) => (StatusCode::NOT_FOUND, ProblemCode::NotFound),
        AllowError::Configured(_) => (StatusCode::CONFLICT, ProblemCode::Malformed),
        _ => (StatusCode::BAD_REQUEST, ProblemCode::Malformed),
    };
    Refused(status, Problem::new(code, error.to_string()))
}
