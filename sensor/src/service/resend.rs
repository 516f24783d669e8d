//! When the enforcer has lost its ledger: the bans that stand here go out once more.

use std::time::Duration;

use atalaya_wire::Name;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Shared, lock};
use crate::uplink::outbox::Outbox;

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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use atalaya_wire::BanTime;

    use super::*;
    use crate::service::Watch;
    use crate::store::Store;

    const JAIL: &str = "[jail.a]\nsource = \"logins\"\n";

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// Bans so many addresses for ever.
    fn ban(watch: &Shared, count: u32) {
        for number in 0..count {
            let address = std::net::Ipv4Addr::from(0xC612_0000 + number).into();
            let banned =
                lock(watch).detector.ban(&name("a"), address, Some(BanTime::Permanent), Timestamp::now());
            assert!(banned.is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_another_ledger_than_a_known_one_gets_the_bans_again_a_chunk_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (store, saved, _writer) = Store::open(folder.path()).unwrap();
        let outbox = Outbox::new(store, &saved);
        let watch: Shared = Arc::new(Mutex::new(Watch::for_test(JAIL)));
        let bans = u32::try_from(AT_ONCE).unwrap() + 3;
        ban(&watch, bans);
        let (seen, ledger) = watch::channel(None);
        let kept = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let (watch, outbox, kept) = (watch.clone(), outbox.clone(), kept.clone());
            let keep = move |ledger: Name| kept.lock().unwrap().push(ledger.to_string());
            async move { resend(None, ledger, &watch, &outbox, keep).await }
        });
        seen.send_replace(Some(name("one")));
        tokio::time::sleep(PAUSE).await;
        assert_eq!(*kept.lock().unwrap(), ["one"]);
        seen.send_replace(Some(name("two")));
        let first = outbox.next(10_000).await;
        assert_eq!(first.len(), AT_ONCE);
        assert_eq!(*kept.lock().unwrap(), ["one"], "the new ledger does not have them yet");
        // Lifted while it waits for its turn.
        lock(&watch).detector.lift(None, std::net::Ipv4Addr::from(0xC612_0000 + bans - 1).into());
        outbox.acked(first.last().unwrap().sequence);
        let rest = outbox.next(10_000).await;
        assert_eq!(rest.len(), 2);
        assert!(rest.iter().all(|resent| resent.offence.bantime == BanTime::Permanent));
        outbox.acked(rest.last().unwrap().sequence);
        tokio::time::sleep(PAUSE / 2).await;
        assert_eq!(*kept.lock().unwrap(), ["one", "two"]);
        task.abort();
    }
}
