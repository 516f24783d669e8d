//! `POST /reload`: reads the configuration again and goes on with it, or only says what that would change. One reload
//! is done at a time, whoever asks: this socket, or SIGHUP.

use std::sync::Arc;

use atalaya_wire::{Problem, ProblemCode};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Control, Refused};

/// How many reloads may wait for their turn.
const WAITING: usize = 16;

/// What is asked of a reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReloadRequest {
    /// Change nothing: only say what would change.
    pub dry_run: bool,
    /// Present a new certificate although sensors that are enrolled pin the one before.
    pub new_certificate: bool,
}

/// What a reload changed, or would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// What changes, a line each.
    pub changes: Vec<String>,
    /// What is configured otherwise and stays as it is, a line each, with what would change it.
    pub unchanged: Vec<String>,
    /// What an administrator should know of the new configuration, a sentence each.
    pub warnings: Vec<String>,
    /// Whether it was done; false of one that only says what would change.
    pub applied: bool,
    /// How many bans were lifted for what is on the allow list now.
    pub lifted: usize,
    /// How many routers are configured now.
    pub routers: usize,
}

/// Why a reload was not done. Everything is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The enforcer ends, or has ended.
    #[error("the enforcer is stopping: it reads its configuration when it starts again")]
    Stopping,
    /// There is a mistake, told as `check` tells it.
    #[error("{0}; the enforcer runs on as before")]
    Mistake(String),
}

/// A reload that waits for its turn.
#[derive(Debug)]
pub struct ReloadCall {
    /// What is asked.
    pub request: ReloadRequest,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<ReloadAnswer, ReloadError>>,
}

/// Where reloads are asked for.
#[derive(Clone, Debug)]
pub struct Reloads(mpsc::Sender<ReloadCall>);

// === impl Reloads ===

impl Reloads {
    /// Also where they arrive, one after the other.
    pub fn new() -> (Self, mpsc::Receiver<ReloadCall>) {
        let (calls, arrived) = mpsc::channel(WAITING);
        (Self(calls), arrived)
    }

    /// Asks for one, and waits until it is done.
    pub async fn ask(&self, request: ReloadRequest) -> Result<ReloadAnswer, ReloadError> {
        let (answer, answered) = oneshot::channel();
        self.0.send(ReloadCall { request, answer }).await.map_err(|_| ReloadError::Stopping)?;
        answered.await.unwrap_or(Err(ReloadError::Stopping))
    }
}

pub(super) async fn reload(
    State(control): State<Arc<Control>>,
    Json(request): Json<ReloadRequest>,
) -> Answer<ReloadAnswer> {
    let answer = control.reloads.ask(request).await.map_err(|error| {
        let (status, code) = match error {
            ReloadError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, ProblemCode::Unavailable),
            ReloadError::Mistake(_) => (StatusCode::UNPROCESSABLE_ENTITY, ProblemCode::Malformed),
        };
        Refused(status, Problem::new(code, error.to_string()))
    })?;
    Ok(Json(answer))
}
