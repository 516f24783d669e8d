//! The way to the enforcer and back: offences and reports out; what became of them, the allow list and the
//! fleet's bans in.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atalaya_wire::{Name, Report};
use tokio::sync::watch::Sender;

use super::unban::Desk;
use super::{REFRESH_INTERVAL, lock, reports, resend, rulings};
use crate::uplink::Uplink;
use crate::uplink::membership::Membership;
use crate::uplink::report::Reporter;

/// How often a sensor that has not joined looks whether it has.
const JOIN_INTERVAL: Duration = Duration::from_secs(2);

/// The way to the enforcer, for `status`, `ban` and `unban`.
#[derive(Clone, Default)]
pub(super) struct Link {
    uplink: Arc<Mutex<Option<Uplink>>>,
    /// Whether it was looked whether the sensor has joined one.
    looked: Arc<Sender<bool>>,
}

/// What an earlier run told the enforcer.
pub(super) struct Resumed {
    pub(super) reporter: Reporter,
    /// The ledger that has the bans of before.
    pub(super) ledger: Option<Name>,
}

// === impl Link ===

impl Link {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Uplink>> {
        self.uplink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once it is known whether there is one.
    pub(super) async fn until_looked(&self) {
        // The sender lives as long as this.
        let _ = self.looked.subscribe().wait_for(|looked| *looked).await;
    }
}

/// The way out: once the sensor has joined, sends offences and reports, keeps the allow list fresh, and sees
/// when the enforcer has lost its ledger.
pub(super) async fn send(desk: Desk, state: impl AsRef<Path>, told: Resumed) {
    let Desk { link, watch, local_drop, outbox, store } = desk;
    let mut warned = false;
    let uplink = loop {
        let problem = match Membership::load(state.as_ref()) {
            Ok(Some(membership)) => {
                tracing::info!(url = membership.url, sensor = %membership.sensor, "joined");
                match Uplink::new(membership) {
                    Ok(uplink) => break uplink,
                    Err(error) => error.to_string(),
                }
            }
            Ok(None) => "this sensor has not joined an enforcer: run `atalaya-enforcer enrol NAME` there and `atalaya-sensor join URL TOKEN` here".to_owned(),
            Err(error) => error.to_string(),
        };
        if !warned {
            if local_drop.is_wanted() {
                tracing::info!(
                    "{problem}, for the routers and the rest of the fleet; on this host alone bans stand already"
                );
            } else {
                tracing::warn!("{problem}; until then offences are kept");
            }
            warned = true;
            link.looked.send_replace(true);
        }
        tokio::time::sleep(JOIN_INTERVAL).await;
    };
    *link.lock() = Some(uplink.clone());
    link.looked.send_replace(true);
    let refresh = async {
        let mut interval = tokio::time::interval(REFRESH_INTERVAL);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = local_drop.allow_changed() => {}
            }
            match uplink.allow().await {
                Ok(allow) => {
                    let networks = allow.networks.clone();
                    {
                        let mut watch = lock(&watch);
                        watch.detector.set_enforcer_allow(networks);
                        local_drop.refresh(&watch);
                    }
                    store.allow(allow);
                }
                Err(error) => tracing::warn!(%error, "the allow list could not be read; the last one holds"),
            }
        }
    };
    let report = |report: Report| {
        let uplink = uplink.clone();
        async move { uplink.report(&report).await }
    };
    let reports = reports::tell(told.reporter, &watch, report, |reserved| store.reports(reserved));
    let keep = |ledger: Name| {
        local_drop.set_ledger(Some(ledger.clone()));
        store.ledger(ledger);
    };
    let resend = resend::resend(told.ledger, uplink.ledger(), &watch, &outbox, keep);
    let follow = local_drop.follow(&uplink, &watch, &outbox);
    let answered = |offences, rulings| rulings::follow(offences, rulings, &watch, &local_drop, &store);
    tokio::join!(uplink.send_all(&outbox, answered), refresh, reports, resend, follow);
}
