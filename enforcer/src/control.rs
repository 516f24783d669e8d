//! What the commands of this host say to the running enforcer, over a Unix socket that only its user
//! may open: HTTP with JSON, so that curl can be such a command too.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use atalaya_wire::{BanTime, Fingerprint, Name, Problem, ProblemCode};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::body::Frame;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::bans::{Bans, Counts, HandError};
use crate::clock::Clock;
use crate::intake::{Intake, Seen};
use crate::ledger::{Ledger, LedgerError, Receipt, Selection};
use crate::router::{RouterHandle, RouterStatus};

/// How much of a list of bans is gathered before it is sent, in bytes.
const PIECE: usize = 64 * 1024;

/// What the commands may ask about.
#[derive(Debug)]
pub struct Control {
    /// The bans.
    pub bans: Arc<Bans>,
    /// The ledger.
    pub ledger: Ledger,
    /// The intake.
    pub intake: Arc<Intake>,
    /// The routers' workers.
    pub routers: Arc<Vec<RouterHandle>>,
    /// The wall clock.
    pub clock: Clock,
    /// The address list's name.
    pub list: String,
    /// The certificate that sensors pin.
    pub fingerprint: Fingerprint,
    /// When the enforcer started.
    pub started: Timestamp,
}

/// The answer to `GET /status`.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The enforcer's release.
    pub release: &'static str,
    /// When it started.
    pub started: Timestamp,
    /// Bans that stand.
    pub bans: usize,
    /// What was decided since the start.
    pub decisions: Counts,
    /// The address list's name.
    pub list: String,
    /// The certificate that sensors pin.
    pub fingerprint: Fingerprint,
    /// The routers.
    pub routers: Vec<RouterStatus>,
    /// The sensors that sent something since the start.
    pub sensors: std::collections::BTreeMap<Name, Seen>,
}

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

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another enforcer answers there.
    #[error("an enforcer answers at {}: stop it first, or give this one a `socket` of its own", .0.display())]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{} is there and is no socket: remove it, or give this enforcer another `socket`", .0.display())]
    NoSocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot open the socket {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

type Answer<T> = Result<Json<T>, Failure>;

struct Failure(StatusCode, Problem);

/// A body that is made while it is sent.
struct Pieces(mpsc::Receiver<Result<Bytes, LedgerError>>);

/// Opens the socket, replacing one that nobody answers at.
pub fn listen(path: &Path) -> Result<UnixListener, ControlError> {
    let failed = |source| ControlError::Socket { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    match path.symlink_metadata() {
        Ok(there) if !there.file_type().is_socket() => return Err(ControlError::NoSocket(path.to_owned())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ControlError::Taken(path.to_owned()));
        }
        _ => {}
    }
    // Under another name until its mode is right, so that nobody else gets in between.
    let mut draft = path.to_owned().into_os_string();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&draft).map_err(failed)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)?;
    Ok(listener)
}

// === impl Control ===

impl Control {
    /// The paths that the commands use.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/status", get(status))
            .route("/bans", get(bans).post(ban).delete(unban))
            .with_state(Arc::new(self))
    }
}

async fn status(State(control): State<Arc<Control>>) -> Json<Status> {
    Json(Status {
        release: env!("CARGO_PKG_VERSION"),
        started: control.started,
        bans: control.bans.len(),
        decisions: control.bans.counts(),
        fingerprint: control.fingerprint,
        list: control.list.clone(),
        routers: control.routers.iter().map(RouterHandle::status).collect(),
        sensors: control.intake.seen().into_iter().collect(),
    })
}

/// The selected bans, a JSON object a line, the latest first: they may be a million.
async fn bans(State(control): State<Arc<Control>>, Query(selection): Query<Selection>) -> Response {
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

async fn ban(State(control): State<Arc<Control>>, Json(request): Json<BanRequest>) -> Answer<BanAnswer> {
    let BanRequest { prefix, bantime, reason } = request;
    let done = control.bans.ban(prefix, bantime, &reason, control.clock.now()).map_err(|error| {
        let status = match error {
            HandError::Allowed(_) => StatusCode::CONFLICT,
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

async fn unban(
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

// === impl Failure ===

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/enforcer.sock");
        let live = listen(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(listen(&path), Err(ControlError::Taken(_))));
        drop(live);
        listen(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path), Err(ControlError::NoSocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
