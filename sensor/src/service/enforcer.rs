//! The way to the enforcer and back: offences and reports out, the allow list and the fleet's bans in; and bans
//! that are lifted by hand.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atalaya_wire::{Name, ProblemCode, Report, Unban};

use super::local_drop::LocalDrop;
use super::{REFRESH_INTERVAL, Shared, lock, reports, resend};
use crate::control::Answer;
use crate::store::Store;
use crate::uplink::Uplink;
use crate::uplink::membership::Membership;
use crate::uplink::outbox::Outbox;
use crate::uplink::report::Reporter;

/// How often a sensor that has not joined looks whether it has.
const JOIN_INTERVAL: Duration = Duration::from_secs(2);

/// The way to the enforcer, for `status` and `unban`.
#[derive(Clone, Default)]
pub(super) struct Link(Arc<Mutex<Option<Uplink>>>);

/// What an earlier run told the enforcer.
pub(super) struct Told {
    pub(super) reporter: Reporter,
    /// The ledger that has the bans of before.
    pub(super) ledger: Option<Name>,
}

// === impl Link ===

impl Link {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Uplink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way out: once the sensor has joined, sends offences and reports, keeps the allow list fresh, and sees
/// when the enforcer has lost its ledger.
pub(super) async fn send(
    state: impl AsRef<Path>,
    outbox: Outbox,
    store: Store,
    watch: Shared,
    link: Link,
    local_drop: LocalDrop,
    told: Told,
) {
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
        }
        tokio::time::sleep(JOIN_INTERVAL).await;
    };
    *link.lock() = Some(uplink.clone());
    let refresh = async {
        let mut interval = tokio::time::interval(REFRESH_INTERVAL);
        loop {
            interval.tick().await;
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
    let keep = |ledger| store.ledger(ledger);
    let resend = resend::resend(told.ledger, uplink.ledger(), &watch, &outbox, keep);
    let follow = local_drop.follow(&uplink, &watch);
    tokio::join!(uplink.send_all(&outbox), refresh, reports, resend, follow);
}

/// Lifts bans at the enforcer, and then here: that of the address, and of all that are counted as one with
/// it, for whoever has one of them has all. Where the enforcer cannot be asked they stand here too, so that
/// asking again finds them.
pub(super) async fn unban(
    link: &Link,
    watch: &Shared,
    local_drop: &LocalDrop,
    jail: Option<Name>,
    address: IpAddr,
) -> Answer {
    let uplink = link.lock().clone();
    let banned = lock(watch).detector.banned(jail.as_ref(), address);
    let Some(uplink) = uplink else {
        if local_drop.is_wanted() {
            lock(watch).detector.lift(jail.as_ref(), address);
            local_drop.lift(address, &banned);
            return if banned.is_empty() {
                Answer::Failed { message: format!("{address} is not banned by any jail here") }
            } else {
                Answer::Done { message: format!("{address} is unbanned on this host{}", of_jails(&banned)) }
            };
        }
        return Answer::Failed {
            message: format!("{address} cannot be unbanned: this sensor has not joined an enforcer"),
        };
    };
    let mut addresses: Vec<IpAddr> = banned.iter().map(|(_, address)| *address).collect();
    addresses.push(atalaya_wire::canonical(address));
    addresses.sort_unstable();
    addresses.dedup();
    let mut lifted = Vec::new();
    let mut refusal = None;
    for address in addresses {
        match uplink.unban(&Unban { address, jail: jail.clone() }).await {
            Ok(()) => lifted.push(address.to_string()),
            Err(error) if error.code() == Some(ProblemCode::NotFound) => refusal = Some(error),
            Err(error) => return Answer::Failed { message: error.to_string() },
        }
    }
    lock(watch).detector.lift(jail.as_ref(), address);
    local_drop.lift(address, &banned);
    if let Some(refusal) = refusal.filter(|_| lifted.is_empty()) {
        return Answer::Failed { message: refusal.to_string() };
    }
    let of = of_jails(&banned);
    let (what, verb) = (lifted.join(", "), if lifted.len() == 1 { "is" } else { "are" });
    Answer::Done { message: format!("{what} {verb} unbanned{of}") }
}

/// In whose name an address was banned, for a message.
fn of_jails(banned: &[(Name, IpAddr)]) -> String {
    let mut jails: Vec<&str> = banned.iter().map(|(jail, _)| jail.as_str()).collect();
    jails.dedup();
    if jails.is_empty() { String::new() } else { format!(" (jail {})", jails.join(", ")) }
}
