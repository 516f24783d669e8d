//! The jails' bans on disk. `bans` has those that stand and when each ends, as releases before this one knew
//! them. `fates` has what became of each, and those that the enforcer refused: they are not in `bans`, so that a
//! release before this one does not take them for bans either.
//!
//! A ban whose fate is missing, or tells of another end, was written by such a release. Nobody knows then what
//! the enforcer said of it: it counts as not answered yet.

use std::collections::HashMap;
use std::net::IpAddr;

use atalaya_wire::Name;
use rusqlite::{Connection, params};

use super::file::has_table;
use crate::jail::{BanEnd, Fate, OwnBan};

/// All bans, and what became of them; `None` where a row cannot be read.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Option<Vec<(Name, IpAddr, Fate)>>> {
    let texts = |table: &str, sql: &str| -> rusqlite::Result<Vec<(String, String, String)>> {
        if !has_table(connection, table)? {
            return Ok(Vec::new());
        }
        connection.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    };
    let key = |jail: &str, address: &str| Some((jail.parse().ok()?, address.parse().ok()?));
    let mut fates: HashMap<(Name, IpAddr), Fate> = HashMap::new();
    for (jail, address, fate) in texts("fates", "SELECT jail, address, fate FROM fates")? {
        let Some(key) = key(&jail, &address) else { return Ok(None) };
        // One of a later release is not understood, which is as if it were missing.
        if let Ok(fate) = serde_json::from_str(&fate) {
            fates.insert(key, fate);
        }
    }
    let mut bans = Vec::new();
    for (jail, address, until) in texts("bans", "SELECT jail, address, until FROM bans")? {
        let (Some(key), Ok(until)) = (key(&jail, &address), serde_json::from_str::<BanEnd>(&until)) else {
            return Ok(None);
        };
        let fate = match fates.remove(&key) {
            Some(Fate::Stands(ban)) if ban.until == until => ban,
            _ => OwnBan::unknown(until),
        };
        bans.push((key.0, key.1, Fate::Stands(fate)));
    }
    let refused = fates.into_iter().filter(|(_, fate)| matches!(fate, Fate::Refused(_)));
    bans.extend(refused.map(|((jail, address), fate)| (jail, address, fate)));
    Ok(Some(bans))
}

/// Writes what became of bans.
pub(super) fn write(connection: &Connection, bans: &HashMap<(Name, IpAddr), Fate>) -> rusqlite::Result<()> {
    for ((jail, address), fate) in bans {
        let address = address.to_string();
        let key = params![jail.as_str(), address];
        let until = match fate {
            // Not sent yet: a run that ends here finds its failures again.
            Fate::Stands(ban) => ban.sequence.map(|_| ban.until),
            Fate::Refused(_) | Fate::Gone => None,
        };
        match until {
            Some(until) => {
                let until = serde_json::to_string(&until).unwrap_or_default();
                connection
                    .prepare_cached("INSERT OR REPLACE INTO bans VALUES (?1, ?2, ?3)")?
                    .execute(params![jail.as_str(), address, until])?;
            }
            None => {
                connection
                    .prepare_cached("DELETE FROM bans WHERE jail = ?1 AND address = ?2")?
                    .execute(key)?;
            }
        }
        if until.is_none() && !matches!(fate, Fate::Refused(_)) {
            connection.prepare_cached("DELETE FROM fates WHERE jail = ?1 AND address = ?2")?.execute(key)?;
        } else {
            let fate = serde_json::to_string(fate).unwrap_or_default();
            connection
                .prepare_cached("INSERT OR REPLACE INTO fates VALUES (?1, ?2, ?3)")?
                .execute(params![jail.as_str(), address, fate])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use atalaya_wire::Grounds;
    use jiff::Timestamp;

    use super::*;
    use crate::jail::RefusedBan;
    use crate::store::{Snapshot, Store};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn named(host: &str, fate: Fate) -> (Name, IpAddr, Fate) {
        ("web".parse().unwrap(), host.parse().unwrap(), fate)
    }

    fn sorted(mut bans: Vec<(Name, IpAddr, Fate)>) -> Vec<(Name, IpAddr, Fate)> {
        bans.sort_by_key(|(jail, address, _)| (jail.clone(), *address));
        bans
    }

    /// Writes in one run, and what the next one reads.
    async fn written(folder: &std::path::Path, bans: Vec<(Name, IpAddr, Fate)>) -> Vec<(Name, IpAddr, Fate)> {
        let (store, _, writer) = Store::open(folder).unwrap();
        store.snapshot(Snapshot { bans, ..Snapshot::default() });
        store.flush().await;
        drop(store);
        writer.join();
        sorted(Store::open(folder).unwrap().1.bans)
    }

    #[tokio::test]
    async fn what_became_of_each_ban_is_the_same_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let ban = OwnBan {
            until: Some(at(7200)),
            sequence: Some(7),
            net: Some("192.0.2.1/32".parse().unwrap()),
            held: false,
            asked: at(3),
        };
        let waiting = OwnBan { until: None, sequence: Some(8), net: None, held: true, asked: at(4) };
        let refused = RefusedBan { until: Some(at(60)), at: at(1), grounds: Grounds::Protected };
        let all = vec![
            named("192.0.2.1", Fate::Stands(ban)),
            named("192.0.2.2", Fate::Stands(waiting)),
            named("192.0.2.3", Fate::Refused(refused)),
        ];
        assert_eq!(written(folder.path(), all.clone()).await, all);
        // Refused later, lifted, and one whose ignorecommand is still asked.
        let asked = OwnBan { sequence: None, ..waiting };
        let changed = vec![
            named("192.0.2.1", Fate::Refused(refused)),
            named("192.0.2.2", Fate::Gone),
            named("192.0.2.3", Fate::Stands(asked)),
        ];
        assert_eq!(written(folder.path(), changed.clone()).await, changed[..1]);
    }

    #[tokio::test]
    async fn a_ban_of_a_release_without_fates_is_not_answered_yet_and_one_that_it_changed_neither() {
        let folder = tempfile::tempdir().unwrap();
        let known = OwnBan { sequence: Some(9), ..OwnBan::unknown(Some(at(5))) };
        let refused = RefusedBan { until: None, at: at(1), grounds: Grounds::Allowed };
        let both = vec![named("192.0.2.1", Fate::Stands(known)), named("192.0.2.2", Fate::Refused(refused))];
        written(folder.path(), both).await;
        // As that release writes: another end, a ban where one was refused, and one more.
        let file = Connection::open(folder.path().join("sensor.sqlite3")).unwrap();
        file.execute_batch(
            "INSERT OR REPLACE INTO bans VALUES ('web', '192.0.2.1', '\"2027-01-15T08:01:00Z\"');
             INSERT OR REPLACE INTO bans VALUES ('web', '192.0.2.2', 'null');
             INSERT OR REPLACE INTO bans VALUES ('web', '192.0.2.3', 'null');",
        )
        .unwrap();
        drop(file);
        let unknown = |until| Fate::Stands(OwnBan::unknown(until));
        let expected = vec![
            named("192.0.2.1", unknown(Some(at(60)))),
            named("192.0.2.2", unknown(None)),
            named("192.0.2.3", unknown(None)),
        ];
        assert_eq!(written(folder.path(), Vec::new()).await, expected);
        // And what it made before there were fates at all.
        let file = Connection::open(folder.path().join("sensor.sqlite3")).unwrap();
        file.execute_batch("DROP TABLE fates").unwrap();
        drop(file);
        assert_eq!(written(folder.path(), Vec::new()).await, expected);
    }
}
