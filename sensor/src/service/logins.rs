//! Feeds the detector with the logins that the kernel's side sees: failed ones are counted, good ones
//! reported.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;

/// Starts the kernel's side; false where it cannot run, which is told once.
#[cfg(feature = "kernel")]
pub(super) fn start(tasks: &TaskTracker, shutdown: &CancellationToken, watch: &Shared) -> bool {
    use jiff::Timestamp;

    use super::{DROPS_INTERVAL, lock, stop_at};
    use crate::detector::FailedLogin;
    use crate::source::logins::{LoginOutcome, Logins};

    let mut logins = match Logins::start() {
        Ok(logins) => logins,
        Err(error) => {
            tracing::warn!("failed logins are not seen in the kernel: {error}; the other sources go on");
            return false;
        }
    };
    let watch = watch.clone();
    tasks.spawn(stop_at(shutdown.clone(), async move {
        let mut interval = tokio::time::interval(DROPS_INTERVAL);
        let mut told = (crate::source::logins::Drops::default(), 0);
        loop {
            let attempt = tokio::select! {
                attempt = logins.next() => match attempt {
                    Some(attempt) => attempt,
                    None => return,
                },
                _ = interval.tick() => {
                    let now = (logins.drops(), logins.forged());
                    if now != told {
                        let (drops, forged) = now;
                        let (ring_full, unreadable) = (drops.ring_full, drops.unreadable);
                        tracing::warn!(ring_full, unreadable, forged, "login records lost, or not believed, in all since the start");
                        told = now;
                    }
                    continue;
                }
            };
            let (account, service) = (&attempt.account, &attempt.service);
            match (attempt.outcome, attempt.address) {
                (LoginOutcome::Failed, Some(address)) => {
                    let login = FailedLogin { address, service, time: attempt.time, text: &attempt.text };
                    lock(&watch).detector.failed_login(&login, Timestamp::now());
                }
                (LoginOutcome::Failed, None) => {
                    tracing::info!(
                        ?account,
                        service,
                        pid = attempt.pid,
                        "failed login with no remote address: shown, never banned"
                    );
                }
                (LoginOutcome::Local, _) => {
                    tracing::info!(
                        ?account,
                        service,
                        pid = attempt.pid,
                        "failed local login: shown, never banned"
                    );
                }
                (LoginOutcome::Succeeded, address) => {
                    tracing::debug!(?account, service, ?address, pid = attempt.pid, "login");
                    if let Some(address) = address {
                        lock(&watch).detector.good_login(address, service, account, attempt.time);
                    }
                }
            }
        }
    }));
    true
}

#[cfg(not(feature = "kernel"))]
pub(super) fn start(_tasks: &TaskTracker, _shutdown: &CancellationToken, _watch: &Shared) -> bool {
    tracing::warn!(
        "this sensor was built without the kernel's side: jails of the source `logins` see nothing"
    );
    false
}
