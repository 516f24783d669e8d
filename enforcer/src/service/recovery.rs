//! After the loss of a ledger: the routers' own entries that carry our mark become bans again, instead of
//! being removed because no ban explains them. It goes on until every router has been read once.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::bans::Bans;
use crate::clock::Clock;
use crate::desired::{ListConfig, Origin};
use crate::ledger::{Change, Ledger};
use crate::router::{Recovery, RouterSet, State, Unexplained};

/// Takes over what routers hold and the lost ledger knew of.
pub fn begin(bans: &Arc<Bans>, list: &ListConfig, clock: &Clock) -> Arc<Recovery> {
    let (bans, list, clock) = (Arc::downgrade(bans), list.clone(), clock.clone());
    Recovery::new(move |router, found| {
        let Some(bans) = bans.upgrade() else { return };
        let (now, entries) = (clock.now(), found.len());
        let adopted = found.into_iter().filter(|Unexplained { prefix, expires, text }| {
            let (jail, sensor) = list.read_comment(text);
            bans.adopt(*prefix, *expires, Origin::found(jail, sensor), router, now)
        });
        let bans = adopted.count();
        tracing::warn!(%router, entries, bans, "took over entries of ours that a lost ledger knew of");
    })
}

/// Ends the recovery once every router has been read, those included that a reload adds meanwhile.
pub async fn keep(recovery: Arc<Recovery>, routers: Arc<RouterSet>, ledger: Ledger) {
    tracing::warn!(
        "the ledger was lost: until every router has been read once, entries of ours that no ban explains become bans"
    );
    let mut read = BTreeSet::new();
    while let Some(router) = routers.now().iter().find(|router| !read.contains(&router.name())).cloned() {
        // Its sender lives as long as the worker; one that a reload takes away need not be read.
        let is_done = |state| matches!(state, State::Connected | State::Stopped);
        let _ = router.watch().wait_for(|status| is_done(status.state)).await;
        read.insert(router.name());
    }
    recovery.end();
    match ledger.write_surely(vec![Change::Recovered]).committed().await {
        Ok(()) => tracing::info!("every router has been read: the ledger is whole again"),
        Err(error) => {
            tracing::warn!(%error, "the end of the recovery is not written; it is repeated after a restart");
        }
    }
}
