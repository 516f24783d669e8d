//! What the enforcer made of offences: the jails' bans follow it, on this host and on its disk.

use atalaya_wire::{NumberedOffence, NumberedRuling, Ruling};
use jiff::Timestamp;

use super::local_drop::LocalDrop;
use super::upkeep::take_snapshot;
use super::{Shared, lock};
use crate::store::{Snapshot, Store};

/// So many rulings are followed at once: an offence here waits for no more.
const AT_ONCE: usize = 100;
/// So many refusals are logged one by one at once.
const MOST_SAID: usize = 20;

/// Follows the rulings on these offences; nothing where the enforcer does not say. Returns once refusals are on
/// disk: the outbox forgets the offences then, and a run after this one could not hear of it again.
pub(super) async fn follow(
    offences: Vec<NumberedOffence>,
    rulings: Vec<NumberedRuling>,
    watch: &Shared,
    local_drop: &LocalDrop,
    store: &Store,
) {
    let ruled: Vec<(&NumberedOffence, Ruling)> = rulings
        .iter()
        .filter_map(|NumberedRuling { sequence, ruling }| {
            let place = offences.binary_search_by_key(sequence, |offence| offence.sequence).ok()?;
            Some((&offences[place], *ruling))
        })
        .collect();
    let now = Timestamp::now();
    let mut refused = Vec::new();
    for some in ruled.chunks(AT_ONCE) {
        let (mut watch, before) = (lock(watch), refused.len());
        let mut fates = Vec::with_capacity(some.len());
        for (NumberedOffence { sequence, offence }, ruling) in some {
            let (jail, address) = (&offence.jail, offence.address);
            watch.detector.rule(jail, address, *sequence, *ruling, now);
            // Of a jail that is gone nothing is kept.
            fates.push((jail.clone(), address, watch.detector.take_fate(jail, address)));
            if let Ruling::Refused(grounds) = ruling {
                refused.push((offence, *grounds));
            }
        }
        local_drop.follow_rulings(&watch.detector, fates.iter().map(|(_, address, _)| *address));
        // With all that led to a refused offence, so that it is not found a second time. That may have to wait for
        // an ignorecommand; what became of the bans does not.
        let mut snapshot =
            if refused.len() > before { take_snapshot(&mut watch) } else { Snapshot::default() };
        snapshot.bans.extend(fates);
        store.snapshot(snapshot);
    }
    if refused.is_empty() {
        return;
    }
    store.flush().await;
    for (offence, grounds) in refused.iter().take(MOST_SAID) {
        tracing::info!(jail = %offence.jail, address = %offence.address, "not banned by the enforcer: {grounds}");
    }
    if let Some(more) = refused.len().checked_sub(MOST_SAID + 1) {
        tracing::info!(offences = more + 1, "more were not banned by the enforcer");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, Mutex};

    use atalaya_wire::{BanTime, Grounds, Left, Offence};
    use rusqlite::Connection;

    use super::*;
    use crate::detector::Sent;
    use crate::jail::{Fate, OwnBan};
    use crate::service::Watch;
    use crate::service::upkeep::save;

    /// Offences of one jail, numbered from one.
    fn offences(jail: &str, hosts: &[&str]) -> Vec<NumberedOffence> {
        let offence = |host: &&str| Offence {
            jail: jail.parse().unwrap(),
            address: host.parse().unwrap(),
            time: Timestamp::now(),
            failures: 3,
            bantime: BanTime::Permanent,
            escalation: None,
            evidence: Vec::new(),
        };
        (1..)
            .zip(hosts)
            .map(|(sequence, host)| NumberedOffence { sequence, offence: offence(host) })
            .collect()
    }

    fn refused(sequence: u64) -> NumberedRuling {
        NumberedRuling { sequence, ruling: Ruling::Refused(Grounds::Protected) }
    }

    #[tokio::test]
    async fn a_refusal_is_on_disk_at_once_also_while_an_ignorecommand_is_asked_and_of_a_jail_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _, _writer) = Store::open(folder.path()).unwrap();
        let watch: Shared = Arc::new(Mutex::new(Watch::for_test("[jail.a]\nsource = \"logins\"\n")));
        let sent = offences("a", &["192.0.2.1", "192.0.2.2"]);
        for NumberedOffence { sequence, offence } in &sent {
            let mut watch = lock(&watch);
            watch.detector.ban(&offence.jail, offence.address, Some(offence.bantime), Timestamp::now());
            let sent = Sent { sequence: *sequence, held: false };
            watch.detector.sent(&offence.jail, offence.address, sent);
        }
        save(&watch, &store);
        let gone = offences("gone", &["192.0.2.3"]);
        let stands = Fate::Stands(OwnBan::unknown(None));
        let bans = vec![(gone[0].offence.jail.clone(), gone[0].offence.address, stands)];
        store.snapshot(Snapshot { bans, ..Snapshot::default() });
        store.flush().await;
        let on_disk = || {
            let file = Connection::open(folder.path().join("sensor.sqlite3")).unwrap();
            let texts = |sql: &str| -> Vec<String> {
                let mut statement = file.prepare(sql).unwrap();
                statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
            };
            (
                texts("SELECT address FROM bans ORDER BY address"),
                texts("SELECT address FROM fates WHERE fate LIKE '%refused%protected%'"),
            )
        };
        assert_eq!(on_disk().0, ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);

        lock(&watch).asked.store(1, Ordering::SeqCst);
        let local_drop = LocalDrop::default();
        let banned = Ruling::Banned { net: "192.0.2.2/32".parse().unwrap(), ms: Left::Permanent };
        let rulings = vec![refused(1), NumberedRuling { sequence: 2, ruling: banned }, refused(7)];
        follow(sent, rulings, &watch, &local_drop, &store).await;
        follow(gone, vec![refused(1)], &watch, &local_drop, &store).await;
        // Nothing was flushed after that: so much a run that is killed now leaves behind.
        assert_eq!(on_disk(), (vec!["192.0.2.2".to_owned()], vec!["192.0.2.1".to_owned()]));
        let standing = lock(&watch).detector.standing(Timestamp::now());
        assert_eq!(standing.len(), 1, "{standing:?}");
    }
}
