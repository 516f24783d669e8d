//! `/enrolled` and `/sensors`: what the commands that change who may send tell a running enforcer, and taking back what
//! a sensor did.

use std::sync::Arc;

use atalaya_wire::{Name, Problem, ProblemCode};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::said::{by_hand, committed};
use super::{Answer, Control, Refused};

/// The answer to `POST /enrolled/refresh`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RefreshAnswer {
    /// How many connections ended, of sensors that are enrolled no more, or anew.
    pub ended: usize,
}

/// The body of `POST /sensors/unban`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorUnbanRequest {
    /// Whose bans to lift; it need not be enrolled any more.
    pub sensor: Name,
    /// Who asks, for the ledger.
    #[serde(default)]
    pub by: String,
    /// Why, for the ledger.
    #[serde(default)]
    pub reason: String,
}

/// The answer to `POST /sensors/unban`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SensorUnbanAnswer {
    /// Whose bans were lifted.
    pub sensor: Name,
    /// How many.
    pub lifted: usize,
    /// Bans that stand, because others asked for them too.
    pub stand: usize,
}

/// Takes back all that a sensor asked for.
pub(super) async fn unban(
    State(control): State<Arc<Control>>,
    Json(request): Json<SensorUnbanRequest>,
) -> Answer<SensorUnbanAnswer> {
    let SensorUnbanRequest { sensor, by, reason } = request;
    let by = format!("{}, all of sensor {sensor}", by_hand(&by, &reason));
    let (bans, now, name) = (control.bans.clone(), control.clock.now(), sensor.clone());
    // A million bans are looked through.
    let taken = tokio::task::spawn_blocking(move || bans.take_back_all(&name, &by, now)).await;
    let taken = taken.map_err(|error| {
        Refused(StatusCode::SERVICE_UNAVAILABLE, Problem::new(ProblemCode::Unavailable, error.to_string()))
    })?;
    committed(taken.receipt).await?;
    let (lifted, stand) = (taken.lifted, taken.stand);
    tracing::info!(%sensor, lifted, stand, "lifted all bans that only this sensor asked for");
    Ok(Json(SensorUnbanAnswer { sensor, lifted, stand }))
}

/// Reads at once who is enrolled, which is else done every second.
pub(super) async fn refresh(State(control): State<Arc<Control>>) -> Answer<RefreshAnswer> {
    let ended = control.intake.refresh().await.map_err(|error| {
        Refused(StatusCode::SERVICE_UNAVAILABLE, Problem::new(ProblemCode::Unavailable, error.to_string()))
    })?;
    Ok(Json(RefreshAnswer { ended }))
}
