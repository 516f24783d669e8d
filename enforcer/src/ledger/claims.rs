//! Who asked for a ban that several asked for. A ban that one sensor alone asked for has no row here: it tells itself.

use rusqlite::{Connection, params};

use super::place::Place;
use super::{Claim, row};
use crate::desired::Origin;
use jiff::Timestamp;

/// Made with the first claim, so that ledgers of the release before get them too; claims end with their bans.
const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS claims (place BLOB NOT NULL, prefix TEXT NOT NULL, jail TEXT NOT NULL,
        sensor TEXT NOT NULL, until INTEGER, PRIMARY KEY (place, sensor, jail)) WITHOUT ROWID;
    CREATE TRIGGER IF NOT EXISTS claims_end AFTER UPDATE OF ended ON bans WHEN NEW.ended IS NOT NULL
        BEGIN DELETE FROM claims WHERE place = NEW.place; END;
";

/// Makes the table, where there is none.
pub(super) fn make(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(TABLE)
}

/// Drops what is of bans that do not stand.
pub(super) fn leave_those_of_bans(connection: &Connection) -> rusqlite::Result<()> {
    let gone = "DELETE FROM claims WHERE place NOT IN (SELECT place FROM bans WHERE ended IS NULL)";
    connection.execute(gone, []).map(drop)
}

/// Somebody asks for a ban, or for longer.
pub(super) fn join(
    connection: &Connection,
    Claim { prefix, origin, until }: &Claim,
) -> rusqlite::Result<usize> {
    make(connection)?;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO claims (place, prefix, jail, sensor, until) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            Place::of(*prefix),
            prefix.to_string(),
            origin.jail().as_str(),
            origin.sensor().as_str(),
            until.timestamp().map(Timestamp::as_millisecond)
        ])
}

/// A sensor takes back what it asked for, by one jail or by all: the ban stands for what is left.
pub(super) fn take_back(
    connection: &Connection,
    left: &Claim,
    sensor: &str,
    jail: Option<&str>,
) -> rusqlite::Result<usize> {
    make(connection)?;
    let place = Place::of(left.prefix);
    connection
        .prepare_cached("DELETE FROM claims WHERE place = ?1 AND sensor = ?2 AND (?3 IS NULL OR jail = ?3)")?
        .execute(params![place, sensor, jail])?;
    connection
        .prepare_cached(
            "UPDATE bans SET until = ?2, jail = ?3, sensor = ?4 WHERE place = ?1 AND ended IS NULL",
        )?
        .execute(params![
            place,
            left.until.timestamp().map(Timestamp::as_millisecond),
            left.origin.jail().as_str(),
            left.origin.sensor().as_str()
        ])
}

/// The claims of the bans that stand.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<Claim>> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'claims'";
    if connection.query_row(there, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Vec::new());
    }
    connection
        .prepare("SELECT prefix, jail, sensor, until FROM claims")?
        .query_map([], |row| {
            let origin = Origin::from_names(row::text(row, 1)?, row::text(row, 2)?);
            Ok(Claim { prefix: row::text(row, 0)?, origin, until: row::moment(row, 3)?.into() })
        })?
        // Whoever wrote a row by hand that is no claim keeps the others'.
        .filter(|claim| !matches!(claim, Err(error) if error.sqlite_error().is_none()))
        .collect()
}
