//! `/enrolled`: what the commands that change who may send tell a running enforcer.

use std::sync::Arc;

use atalaya_wire::{Problem, ProblemCode};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Answer, Control, Refused};

/// The answer to `POST /enrolled/refresh`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RefreshAnswer {
    /// How many connections ended, of sensors that are enrolled no more, or anew.
    pub ended: usize,
}

/// Reads at once who is enrolled, which is else done every second.
pub(super) async fn refresh(State(control): State<Arc<Control>>) -> Answer<RefreshAnswer> {
    let ended = control.intake.refresh().await.map_err(|error| {
        Refused(StatusCode::SERVICE_UNAVAILABLE, Problem::new(ProblemCode::Unavailable, error.to_string()))
    })?;
    Ok(Json(RefreshAnswer { ended }))
}
