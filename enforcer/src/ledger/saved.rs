//! What is read from the ledger when the enforcer starts.

use std::collections::HashMap;

use atalaya_wire::{Evidence, Name, reserved};
use ipnet::IpNet;
use jiff::Timestamp;
use rusqlite::{Connection, Error, Row, params};

use super::{Allowance, BY_HAND, GoodLogin, MOST_LOGINS, Saved, claims, row, schema};
use crate::desired::{Labels, Wanted};

/// So many bans are read at once, where no more than so many rows lie between two of them.
const NEAR: usize = 1000;
const SPARSE: i64 = 8;

/// Reads everything that the running enforcer keeps in memory; of the successful logins those since a time.
pub(super) fn read(
    connection: &Connection,
    logins_since: Option<Timestamp>,
    labels: &mut Labels,
) -> rusqlite::Result<Saved> {
    let id = schema::meta(connection, schema::IDENTITY)?.ok_or(Error::QueryReturnedNoRows)?;
    let id =
        id.parse().map_err(|_| Error::InvalidParameterName(format!("`{id}` is no ledger's identity")))?;
    Ok(Saved {
        id,
        bans: standing(connection, labels)?,
        claims: claims::read(connection)?,
        through: through(connection)?,
        allowances: allowances(connection)?,
        logins: match logins_since {
            Some(since) => logins(connection, since)?,
            None => Vec::new(),
        },
        recovering: schema::meta(connection, schema::RECOVERING)?.is_some(),
    })
}

/// The entries of the allow list that were made at run time.
pub(super) fn allowances(connection: &Connection) -> rusqlite::Result<Vec<Allowance>> {
    connection
        .prepare("SELECT what, since, until, reason, by FROM allowances ORDER BY since, what")?
        .query_map([], row::allowance)?
        .collect()
}

fn logins(connection: &Connection, since: Timestamp) -> rusqlite::Result<Vec<GoodLogin>> {
    connection
        .prepare(
            "SELECT address, last, sensor, service, account FROM logins WHERE last >= ?1
             ORDER BY last DESC LIMIT ?2",
        )?
        .query_map(params![since.as_millisecond(), MOST_LOGINS as i64], row::login)?
        .collect()
}

fn standing(connection: &Connection, labels: &mut Labels) -> rusqlite::Result<Vec<(IpNet, Wanted)>> {
    let mut ids: Vec<i64> = connection
        .prepare("SELECT id FROM bans INDEXED BY standing WHERE ended IS NULL")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    // As they lie in the file, which is not the index's order.
    ids.sort_unstable();
    let mut reading = SavedBans { bans: Vec::with_capacity(ids.len()), senseless: 0 };
    let query = |which: &str| {
        // What is written of evidence cannot hold this by another's text: quotes are escaped there.
        format!(
            "SELECT prefix, until, jail, sensor, instr(evidence, '\"source\":\"{}\"'),
             CASE WHEN jail = '{}' THEN evidence END FROM bans NOT INDEXED WHERE {which} AND ended IS NULL",
            Evidence::SCAN,
            reserved::HAND
        )
    };
    let mut one = connection.prepare(&query("id = ?1"))?;
    let mut all = connection.prepare(&query("id BETWEEN ?1 AND ?2"))?;
    for near in ids.chunks(NEAR) {
        let (Some(first), Some(last)) = (near.first(), near.last()) else { continue };
        if last - first < NEAR as i64 * SPARSE {
            let mut rows = all.query([first, last])?;
            while let Some(row) = rows.next()? {
                reading.take(row, labels)?;
            }
        } else {
            for id in near {
                let mut rows = one.query([id])?;
                while let Some(row) = rows.next()? {
                    reading.take(row, labels)?;
                }
            }
        }
    }
    if reading.senseless > 0 {
        tracing::warn!(rows = reading.senseless, "rows of the ledger are no bans and are left alone");
    }
    Ok(reading.bans)
}

/// The bans that stand, as they are read.
struct SavedBans {
    bans: Vec<(IpNet, Wanted)>,
    senseless: u64,
}

// === impl SavedBans ===

impl SavedBans {
    fn take(&mut self, row: &Row<'_>, labels: &mut Labels) -> rusqlite::Result<()> {
        let (jail, sensor) = (row.get_ref(2)?, row.get_ref(3)?);
        // Whoever wrote a row by hand that is no ban keeps the others' bans.
        let (Ok(prefix), Ok(until), Ok(jail), Ok(sensor)) =
            (row::text(row, 0), row::moment(row, 1), jail.as_str(), sensor.as_str())
        else {
            self.senseless += 1;
            return Ok(());
        };
        let is_scan = row.get::<_, i64>(4).is_ok_and(|place| place > 0);
        if let Some(reason) = reason_by_hand(row).filter(|_| sensor == reserved::HAND) {
            let label = labels.by_hand(&reason);
            self.bans.push((prefix, Wanted { until: until.into(), label }));
            return Ok(());
        }
        let Some(label) = labels.of_names(jail, sensor, is_scan) else {
            self.senseless += 1;
            return Ok(());
        };
        self.bans.push((prefix, Wanted { until: until.into(), label }));
        Ok(())
    }
}

/// The reason of a ban by hand, which the comments on routers have too.
fn reason_by_hand(row: &Row<'_>) -> Option<String> {
    let evidence: Vec<Evidence> = serde_json::from_str(row.get_ref(5).ok()?.as_str().ok()?).ok()?;
    let reasons = evidence.into_iter().filter(|evidence| evidence.source == BY_HAND);
    reasons.max_by_key(|evidence| evidence.time).map(|evidence| evidence.text)
}

fn through(connection: &Connection) -> rusqlite::Result<HashMap<(Name, Name), u64>> {
    let mut statement = connection.prepare("SELECT sensor, outbox, through FROM intake")?;
    let rows = statement.query_map([], |row| {
        Ok(((row::text(row, 0)?, row::text(row, 1)?), row.get::<_, i64>(2)?.cast_unsigned()))
    })?;
    rows.collect()
}
