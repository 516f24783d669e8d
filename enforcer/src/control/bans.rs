//! `/bans`: which of them stand, and bans by hand.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use atalaya_wire::{BanTime, Problem, ProblemCode};
use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{Answer, Control, Failure};
use crate::bans::HandError;
use crate::ledger::{LedgerError, Receipt, Selection};

/// How much of a list of bans is gathered before it is sent, in bytes.
const PIECE: usize = 64 * 1024;

/// The body of `POST /bans`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    /// The address or network.
    pub prefix: IpNet,
    /// For how long, from now.
    pub bantime: BanTime,
    /// Why; becomes the ban's evidence.
    #[serde(default)]
    pub reason: String,
    /// Whether to ban who is protected by a good login, too.
    #[serde(default)]
    pub force: bool,
}

/// The answer to `POST /bans`.
#[derive(Debug, Serialize, Deserialize)]
pub struct BanAnswer {
    /// The address or network.
    pub prefix: IpNet,
    /// When its ban ends; `None` for a permanent one.
    pub until: Option<Timestamp>,
    /// Whether the request changed anything; if not, a ban stood that ends no sooner.
    pub changed: bool,
}

/// The query of `DELETE /bans`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnbanRequest {
    /// The address or network.
    pub prefix: IpNet,
    /// Who asks, for the ledger.
    #[serde(default)]
    pub by: String,
}

/// The answer to `DELETE /bans`.
#[derive(Debug, Serialize, Deserialize)]
pub struct UnbanAnswer {
    /// The address or network.
    pub prefix: IpNet,
}

/// A body that is made while it is sent.
struct Pieces(mpsc::Receiver<Result<Bytes, LedgerError>>);

/// The selected bans, a JSON object a line, the latest first: they may be a million.
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Query(selection): Query<Selection>,
) -> Response {
    let (sender, receiver) = mpsc::channel(4);
    let (ledger, now) = (control.ledger.clone(), control.clock.now());
    tokio::task::spawn_blocking(move || {
        let mut piece = Vec::with_capacity(PIECE + 4096);
        let send = |piece: &mut Vec<u8>| sender.blocking_send(Ok(std::mem::take(piece).into())).is_ok();
        let read = ledger.each_ban(&selection, now, &mut |ban| {
            if serde_json::to_writer(&mut piece, ban).is_ok() {
                piece.push(b'\n');
            }
            piece.len() < PIECE || send(&mut piece)
        });
        match read {
            Ok(()) => drop(send(&mut piece)),
            Err(error) => drop(sender.blocking_send(Err(error))),
        }
    });
    Body::new(Pieces(receiver)).into_response()
}

pub(super) async fn ban(
    State(control): State<Arc<Control>>,
    Json(request): Json<BanRequest>,
) -> Answer<BanAnswer> {
    let BanRequest { prefix, bantime, reason, force } = request;
    let done = control.bans.ban(prefix, bantime, &reason, force, control.clock.now()).map_err(|error| {
        let status = match error {
            HandError::Allowed(_) | HandError::Protected { .. } => StatusCode::CONFLICT,
            HandError::NoTime => StatusCode::BAD_REQUEST,
        };
        Failure(status, Problem::new(ProblemCode::Malformed, error.to_string()))
    })?;
    committed(done.receipt).await?;
    if done.changed {
        tracing::info!(%prefix, %bantime, reason, "banned by hand");
    }
    Ok(Json(BanAnswer { prefix: prefix.trunc(), until: done.until, changed: done.changed }))
}

pub(super) async fn unban(
    State(control): State<Arc<Control>>,
    Query(request): Query<UnbanRequest>,
) -> Answer<UnbanAnswer> {
    let prefix = request.prefix.trunc();
    let by: String = request.by.chars().filter(|c| !c.is_control()).take(64).collect();
    let by = if by.is_empty() { "by hand".to_owned() } else { format!("by hand, {by}") };
    let Some(receipt) = control.bans.unban(prefix, &by, control.clock.now()) else {
        let message = format!("{prefix} is not banned; `atalaya-enforcer bans` lists what is");
        return Err(Failure(StatusCode::NOT_FOUND, Problem::new(ProblemCode::NotFound, message)));
    };
    committed(receipt).await?;
    tracing::info!(%prefix, by, "unbanned");
    Ok(Json(UnbanAnswer { prefix }))
}

async fn committed(receipt: Receipt) -> Result<(), Failure> {
    receipt.committed().await.map_err(|error| {
        let message = format!("done on the routers, but {error}; it is tried again until it is written");
        Failure(StatusCode::SERVICE_UNAVAILABLE, Problem::new(ProblemCode::Unavailable, message))
    })
}

// === impl Pieces ===

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = LedgerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LedgerError>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
