//! Feeds the detector with the logins that the kernel's side sees: failed ones are counted, good ones
//! reported.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::kernel::Feeding;
use super::{DROPS_INTERVAL, Shared, lock, stop_at};
use crate::detector::FailedLogin;
use crate::kernel::maps::{LostRecords, Maps, MapsError};
use crate::kernel::process::Voucher;
use crate::source::logins::seen::SeenServices;
use crate::source::logins::{Attempt, LoginOutcome, Logins};

/// Starts to feed, until the token says so; what is seen of each service is added to `seen`.
pub(super) fn feed(
    mut maps: Maps,
    voucher: Voucher,
    seen: SeenServices,
    token: CancellationToken,
    feeding: &Feeding<'_>,
) -> Result<(), MapsError> {
    let (mut logins, doubts) = Logins::new(&mut maps, voucher, seen)?;
    feeding.tasks.spawn(stop_at(token.clone(), doubts.run()));
    let watch = feeding.watch.clone();
    feeding.tasks.spawn(stop_at(token, async move {
        let mut interval = tokio::time::interval(DROPS_INTERVAL);
        let mut told = (LostRecords::default(), 0);
        loop {
            tokio::select! {
                attempt = logins.next() => match attempt {
                    Some(attempt) => take(&watch, &attempt),
                    None => return,
                },
                _ = interval.tick() => {
                    let now = (logins.lost(), logins.forged());
                    if now != told {
                        let (LostRecords { ring_full, unreadable, doubted_ring_full, syslog_ring_full }, forged) = now;
                        tracing::warn!(
                            ring_full,
                            unreadable,
                            doubted_ring_full,
                            syslog_ring_full,
                            forged,
                            "login records lost, or not believed, in total since the start"
                        );
                        told = now;
                    }
                }
            }
        }
    }));
    Ok(())
}

fn take(watch: &Shared, attempt: &Attempt) {
    let (account, service, program) = (&attempt.account, &attempt.service, &attempt.program);
    match (attempt.outcome, attempt.address) {
        (LoginOutcome::Failed, Some(address)) => {
            let login = FailedLogin { address, service, program, time: attempt.time, text: &attempt.text };
            lock(watch).detector.failed_login(&login, Timestamp::now());
        }
        (LoginOutcome::Failed, None) => {
            let pid = attempt.pid;
            tracing::info!(
                ?account,
                service,
                pid,
                "failed login with no remote address: shown, never banned"
            );
        }
        (LoginOutcome::Local, _) => {
            tracing::info!(?account, service, pid = attempt.pid, "failed local login: shown, never banned");
        }
        (LoginOutcome::Succeeded, address) => {
            tracing::debug!(?account, service, ?address, pid = attempt.pid, "login");
            if let Some(address) = address {
                lock(watch).detector.good_login(address, service, account, attempt.time);
            }
        }
    }
}
