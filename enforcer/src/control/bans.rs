//! `/bans`: which of them stand, and bans by hand.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use atalaya_program::count::counted;
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

use super::holding::{self, Goal, RouterHolding};
use super::said::{by_hand, committed};
use super::{Answer, Control, Refused};
use crate::bans::{HandError, StandingBan};
use crate::ledger::{LedgerError, Selection};
use crate::prefixes::written;

/// How much of a list of bans is gathered before it is sent, in bytes.
const PIECE: usize = 64 * 1024;

/// The body of `POST /bans`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    /// The address or network.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// For how long, from now.
    pub bantime: BanTime,
    /// Why; becomes the ban's evidence.
    #[serde(default)]
    pub reason: String,
    /// Whether to ban who is protected by a successful login, too.
    #[serde(default)]
    pub force: bool,
}

/// The answer to `POST /bans`.
#[derive(Debug, Serialize, Deserialize)]
pub struct BanAnswer {
    /// The address or network.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// When its ban ends; `None` for a permanent one.
    pub until: Option<Timestamp>,
    /// Whether the request changed anything; if not, a ban stood that ends no sooner.
    pub changed: bool,
    /// What each router holds, up to a second later.
    pub routers: Vec<RouterHolding>,
}

/// The query of `DELETE /bans`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnbanRequest {
    /// The address or network.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// Who asks, for the ledger.
    #[serde(default)]
    pub by: String,
    /// Why, for the ledger.
    #[serde(default)]
    pub reason: String,
}

/// The answer to `DELETE /bans`.
#[derive(Debug, Serialize, Deserialize)]
pub struct UnbanAnswer {
    /// What was banned: what was asked for, or the unit around an IPv6 address.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// What each router still holds, up to a second later.
    pub routers: Vec<RouterHolding>,
    /// The bans of networks around it that keep it out all the same.
    #[serde(default)]
    pub still: Vec<StandingBan>,
}

/// A body that is made while it is sent.
struct BanListBody(mpsc::Receiver<Result<Bytes, LedgerError>>);

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
    Body::new(BanListBody(receiver)).into_response()
}

pub(super) async fn ban(
    State(control): State<Arc<Control>>,
    Json(request): Json<BanRequest>,
) -> Answer<BanAnswer> {
    let BanRequest { prefix, bantime, reason, force } = request;
    let done = control.bans.ban(prefix, bantime, &reason, force, control.clock.now()).map_err(|error| {
        let (status, code) = match error {
            HandError::Protected { .. } | HandError::Private(_) => {
                (StatusCode::CONFLICT, ProblemCode::NeedsForce)
            }
            HandError::Allowed { .. } => (StatusCode::CONFLICT, ProblemCode::Malformed),
            HandError::Everyone(_) | HandError::NoTime => (StatusCode::BAD_REQUEST, ProblemCode::Malformed),
        };
        Refused(status, Problem::new(code, error.to_string()))
    })?;
    committed(done.receipt).await?;
    if done.changed {
        tracing::info!(%prefix, %bantime, reason, "banned by hand");
    }
    let prefix = control.bans.clients(prefix);
    let routers = control.ask(prefix, Goal::Held).await;
    Ok(Json(BanAnswer { prefix, until: done.until, changed: done.changed, routers }))
}

pub(super) async fn unban(
    State(control): State<Arc<Control>>,
    Query(request): Query<UnbanRequest>,
) -> Answer<UnbanAnswer> {
    let asked = control.bans.clients(request.prefix);
    let prefix = control.bans.banned_as(asked).unwrap_or(asked);
    let by = by_hand(&request.by, &request.reason);
    let Some(receipt) = control.bans.unban(prefix, &by, control.clock.now()) else {
        return Err(Refused(
            StatusCode::NOT_FOUND,
            Problem::new(ProblemCode::NotFound, control.not_banned(asked)),
        ));
    };
    committed(receipt).await?;
    tracing::info!(%prefix, by, "unbanned");
    let routers = control.ask(prefix, Goal::Gone).await;
    let still = control.bans.standing(asked).bans;
    Ok(Json(UnbanAnswer { prefix, routers, still }))
}

// === impl Control ===

impl Control {
    /// What each router holds of a prefix.
    async fn ask(&self, prefix: IpNet, goal: Goal) -> Vec<RouterHolding> {
        let prefixes: Vec<IpNet> = [prefix].into_iter().chain(self.bans.widened_around(prefix)).collect();
        // A network that stays banned for others is no trace of the ban that was lifted.
        let prefixes = if goal == Goal::Gone { &prefixes[..1] } else { &prefixes };
        holding::ask(&self.routers.now(), |router| self.down_since(router), prefixes, goal).await
    }

    /// That a prefix has no ban that could be lifted, and what keeps it out, or in.
    fn not_banned(&self, prefix: IpNet) -> String {
        let standing = self.bans.standing(prefix);
        let allowed = self.bans.allowed_because(prefix).filter(|because| because.network.contains(&prefix));
        let text = written(prefix);
        match (standing.bans.first(), allowed) {
            (_, Some(because)) => {
                let spares = standing.sparing.first().map_or_else(String::new, |ban| {
                    format!("; the ban of the network {} around it spares it", written(ban.prefix))
                });
                format!("{text} is not banned: {because}, and that is never banned{spares}")
            }
            (Some(ban), None) => {
                let around = written(ban.prefix);
                let entries = ban.entries + usize::from(prefix.prefix_len() - ban.prefix.prefix_len()) - 1;
                format!(
                    "{text} has no ban of its own: the ban of the network {around}, {}, keeps it out; `atalaya-enforcer unban {around}` lifts that for all of the network, `atalaya-enforcer allow {text}` spares it alone, for which each router holds about {} in the place of the network",
                    ban.origin,
                    counted(entries, "entry"),
                )
            }
            (None, None) => format!("{text} is not banned; `atalaya-enforcer bans` lists what is"),
        }
    }
}

// === impl BanListBody ===

impl HttpBody for BanListBody {
    type Data = Bytes;
    type Error = LedgerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LedgerError>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
