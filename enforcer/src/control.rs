//! What the commands of this host say to the running enforcer, over a Unix socket that only its user
//! may open: HTTP with JSON, so that curl can be such a command too. A file a resource; every answer is
//! a type here, which the commands read again.

use std::sync::{Arc, Mutex, PoisonError};

use atalaya_wire::Problem;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::bans::Bans;
use crate::clock::Clock;
use crate::desired::Desired;
use crate::intake::Intake;
use crate::intake::reports::Reports;
use crate::ledger::Ledger;
use crate::router::{RouterSet, RouterStatus};
use crate::tls::Presented;

pub mod address;
pub mod allow;
pub mod answers;
pub mod bans;
pub mod desired;
pub mod fault;
pub mod figures;
pub mod holding;
pub mod open_files;
pub mod rates;
pub mod reload;
mod said;
mod sensor_faults;
pub mod sensors;
pub mod socket;
pub mod status;
pub mod untaken;

use open_files::OpenFilesCount;
use rates::Rates;
use reload::Reloads;

/// What the commands may ask about.
#[derive(Debug)]
pub struct Control {
    /// What decides, and what stands.
    pub bans: Arc<Bans>,
    /// What the routers should hold.
    pub desired: Arc<Desired>,
    /// The ledger, to be read on threads for blocking work alone.
    pub ledger: Ledger,
    /// What is known of the sensors.
    pub intake: Arc<Intake>,
    /// What sensors report of failures and logins.
    pub reports: Arc<Reports>,
    /// The workers, in the order of the routers' names.
    pub routers: Arc<RouterSet>,
    /// How much happens, sampled every second.
    pub rates: Arc<Mutex<Rates>>,
    /// How many descriptors this process has open.
    pub open_files: OpenFilesCount,
    /// The clock that bans end by.
    pub clock: Clock,
    /// The address list's name.
    pub list: watch::Receiver<String>,
    /// The certificate that sensors pin.
    pub presented: Arc<Presented>,
    /// Where a reload is asked for.
    pub reloads: Reloads,
    /// When the enforcer started.
    pub started: Timestamp,
}

type Answer<T> = Result<Json<T>, Refused>;

struct Refused(StatusCode, Problem);

// === impl Control ===

impl Control {
    /// The paths that the commands use.
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/desired", get(desired::desired))
            .route("/lists/forget", post(desired::forget))
            .route("/reload", post(reload::reload))
            .route("/status", get(status::status))
            .route("/address", get(address::address))
            .route("/allow", get(allow::list).post(allow::allow).delete(allow::disallow))
            .route("/protected", get(allow::protected))
            // As releases before named it.
            .route("/spared", get(allow::protected))
            .route("/bans", get(bans::list).post(bans::ban).delete(bans::unban))
            .route("/enrolled/refresh", post(sensors::refresh))
            .route("/sensors/unban", post(sensors::unban))
            .with_state(self)
    }

    /// Since when a router is not logged in to; `None` for one that is.
    fn down_since(&self, router: &RouterStatus) -> Option<Timestamp> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).down_since(router)
    }
}

// === impl Refused ===

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}
