//! What the commands of this host say to the running enforcer, over a Unix socket that only its user
//! may open: HTTP with JSON, so that curl can be such a command too.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atalaya_wire::{BanTime, Name, Problem, ProblemCode};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::bans::Bans;
use crate::clock::Clock;
use crate::intake::{Intake, Seen};
use crate::ledger::{Ban, Ledger};
use crate::policy;
use crate::router::{RouterHandle, RouterStatus};

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
    /// The address list's name.
    pub list: String,
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

/// The query of `DELETE /bans`.
#[derive(Debug, Serialize, Deserialize)]
pub struct UnbanRequest {
    /// The address or network.
    pub prefix: IpNet,
}

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another enforcer answers there.
    #[error("an enforcer answers at {}: stop it first, or give this one a `socket` of its own", .0.display())]
    Taken(PathBuf),
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

/// Opens the socket, replacing one that nobody answers at.
pub fn listen(path: &Path) -> Result<UnixListener, ControlError> {
    let failed = |source| ControlError::Socket { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ControlError::Taken(path.to_owned()));
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
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

    async fn commit(&self, changes: Vec<crate::ledger::Change>) -> Result<(), Failure> {
        self.ledger.commit(changes).await.map_err(|error| {
            Failure(StatusCode::SERVICE_UNAVAILABLE, Problem::new(ProblemCode::Unavailable, error.to_string()))
        })
    }
}

async fn status(State(control): State<Arc<Control>>) -> Json<Status> {
    Json(Status {
        release: env!("CARGO_PKG_VERSION"),
        started: control.started,
        bans: control.bans.len(),
        list: control.list.clone(),
        routers: control.routers.iter().map(RouterHandle::status).collect(),
        sensors: control.intake.seen().into_iter().collect(),
    })
}

async fn bans(State(control): State<Arc<Control>>) -> Answer<Vec<Ban>> {
    let ledger = control.ledger.clone();
    let read = tokio::task::spawn_blocking(move || ledger.bans()).await;
    let failed = |message: String| {
        Failure(StatusCode::INTERNAL_SERVER_ERROR, Problem::new(ProblemCode::Unavailable, message))
    };
    let bans = read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
    Ok(Json(bans))
}

async fn ban(State(control): State<Arc<Control>>, Json(request): Json<BanRequest>) -> Answer<Ban> {
    let now = control.clock.now();
    let evidence = atalaya_wire::Evidence::new(now, "by hand", &request.reason);
    let by_hand: Name = "manual".parse().map_err(|error: atalaya_wire::NameError| {
        Failure(StatusCode::INTERNAL_SERVER_ERROR, Problem::new(ProblemCode::Other, error.to_string()))
    })?;
    let ban = Ban {
        prefix: request.prefix.trunc(),
        list: control.list.clone(),
        since: now,
        until: policy::end(now, request.bantime),
        jail: by_hand.clone(),
        sensor: by_hand,
        evidence: if request.reason.is_empty() { Vec::new() } else { vec![evidence] },
        strikes: 0,
    };
    let change = control.bans.ban(ban.clone()).map_err(|error| {
        Failure(StatusCode::CONFLICT, Problem::new(ProblemCode::Malformed, error.to_string()))
    })?;
    // Ended and begun anew, for by hand a ban may also become shorter.
    let end = crate::ledger::Change::End { prefix: ban.prefix, at: now, by: "replaced by hand".to_owned() };
    control.commit(vec![end, change]).await?;
    Ok(Json(ban))
}

async fn unban(State(control): State<Arc<Control>>, Query(request): Query<UnbanRequest>) -> Answer<UnbanRequest> {
    let prefix = request.prefix.trunc();
    let Some(change) = control.bans.unban(prefix, "by hand", control.clock.now()) else {
        let message = format!("{prefix} is not banned; `atalaya-enforcer bans` lists what is");
        return Err(Failure(StatusCode::NOT_FOUND, Problem::new(ProblemCode::NotFound, message)));
    };
    control.commit(vec![change]).await?;
    Ok(Json(UnbanRequest { prefix }))
}

// === impl Failure ===

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}
