//! When the enforcer has lost its ledger: the bans that stand here go out once more.

use std::time::Duration;

use atalaya_wire::Name;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Shared, lock};
use crate::outbox::Outbox;

/// So many bans are in the outbox at once, so that an offence of now waits for few.
const AT_ONCE: usize = 500;
/// How long nothing is sent again after it was, should enforcers with different ledgers answer by turns.
const PAUSE: Duration = Duration::from_secs(600);

/// Watches which ledger the enforcer has; `known` is the one that has the bans of before, and `keep` puts on
/// disk that another one has them now. Ends when `seen` does.
pub(super) async fn resend(
    mut known: Option<Name>,
    mut seen: watch::Receiver<Option<Name>>,
    watch: &Shared,
    outbox: &Outbox,
    keep: impl Fn(Name),
) {
    loop {
        let is_another = |ledger: &Option<Name>| ledger.is_some() && *ledger != known;
        let Ok(Some(ledger)) = seen.wait_for(is_another).await.map(|ledger| ledger.clone()) else { return };
        let before = known.replace(ledger.clone());
        if let Some(before) = &before {
            let standing = lock(watch).detector.standing(Timestamp::now());
            let bans = standing.len();
            tracing::warn!(%before, now = %ledger, bans, "the enforcer has another ledger than before: the bans that stand here are sent to it once more");
            let sent = send(&standing, watch, outbox).await;
            tracing::info!(bans = sent, "the enforcer's new ledger has the bans that stand here");
        }
        keep(ledger);
        if before.is_some() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Puts those of the bans that still stand when it is their turn into the outbox; how many.
async fn send(bans: &[(Name, std::net::IpAddr)], watch: &Shared, outbox: &Outbox) -> usize {
    let mut sent = 0;
    for some in bans.chunks(AT_ONCE) {
        let last = {
            let watch = lock(watch);
            let now = Timestamp::now();
            let offences =
                some.iter().filter_map(|(jail, address)| watch.detector.resent(jail, *address, now));
            offences.map(|offence| outbox.push(offence)).inspect(|_| sent += 1).last()
        };
        if let Some(last) = last {
            outbox.until_acked(last).await;
        }
    }
    sent
}
