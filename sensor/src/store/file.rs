//! The SQLite file: its tables, how it is opened, also where the disk takes nothing more, and what is read of it.

use std::path::Path;

use atalaya_program::database::{self, DatabaseTrouble, OpenedDatabase};
use atalaya_wire::AllowList;
use rusqlite::{Connection, OptionalExtension};

use super::{Saved, StoreError, bans, journal};

pub(super) const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE outbox (sequence INTEGER PRIMARY KEY, offence TEXT NOT NULL);
    CREATE TABLE positions (file TEXT PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE counters (jail TEXT NOT NULL, address TEXT NOT NULL, counter TEXT NOT NULL,
                           PRIMARY KEY (jail, address)) WITHOUT ROWID;
";

/// Added later, to files of the same format too.
pub(super) const ADDITIONS: &str = "
    CREATE TABLE IF NOT EXISTS bans (jail TEXT NOT NULL, address TEXT NOT NULL, until TEXT NOT NULL,
                                     PRIMARY KEY (jail, address)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS fates (jail TEXT NOT NULL, address TEXT NOT NULL, fate TEXT NOT NULL,
                                      PRIMARY KEY (jail, address)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS journal (file TEXT PRIMARY KEY, entries INTEGER NOT NULL) WITHOUT ROWID;
";

/// Under which key the outbox's own name is.
const OUTBOX: &str = "outbox";

/// Opens the file, or makes it, in the best way in which it can be used at the moment. What a later release of the same
/// format added may be missing where the disk takes nothing.
pub(super) fn open(path: &Path) -> Result<OpenedDatabase, StoreError> {
    let database = |error| StoreError::Database { path: path.to_owned(), error };
    let mut opened = database::open_as_possible(path).map_err(database)?;
    let connection = &mut opened.connection;
    let found: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(database)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::TooNew { path: path.to_owned(), found });
    }
    if found == 0 {
        let transaction = connection.transaction().map_err(database)?;
        transaction.execute_batch(SCHEMA).map_err(database)?;
        set_meta(&transaction, OUTBOX, &new_name()?).map_err(database)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(database)?;
        transaction.commit().map_err(database)?;
    }
    if let Err(error) = connection.execute_batch(ADDITIONS) {
        let trouble = DatabaseTrouble::of(path, error);
        if !trouble.is_of_the_disk() {
            return Err(database(trouble.error));
        }
    }
    // Of a release that wrote it after the tables, and was killed in between.
    if meta(connection, OUTBOX).map_err(database)?.is_none() {
        set_meta(connection, OUTBOX, &new_name()?).map_err(database)?;
    }
    Ok(opened)
}

fn new_name() -> Result<String, StoreError> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(StoreError::Random)?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

/// Reads all of it.
pub(super) fn read(connection: &Connection, path: &Path) -> Result<Saved, StoreError> {
    let database = |error| StoreError::Database { path: path.to_owned(), error };
    let row = |what| StoreError::Row { path: path.to_owned(), what };

    let outbox = meta(connection, OUTBOX).map_err(database)?;
    let outbox = outbox.and_then(|name| name.parse().ok()).ok_or_else(|| row("the outbox's name"))?;
    let reserved = meta(connection, "reserved").map_err(database)?;
    let next_sequence = reserved.map_or(Ok(1), |text| text.parse()).map_err(|_| row("the next sequence"))?;
    let (waiting, span) = connection
        .query_row("SELECT count(*), min(sequence), max(sequence) FROM outbox", [], |row| {
            let numbers = row.get::<_, Option<i64>>(1)?.zip(row.get::<_, Option<i64>>(2)?);
            let numbers = numbers.map(|(first, last)| (first.cast_unsigned(), last.cast_unsigned()));
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), numbers))
        })
        .map_err(database)?;
    let allow = match meta(connection, "allow").map_err(database)? {
        Some(text) => serde_json::from_str(&text).map_err(|_| row("the allow list"))?,
        None => AllowList::default(),
    };
    let ledger = meta(connection, "ledger").map_err(database)?;
    let ledger = ledger.map(|name| name.parse().map_err(|_| row("the ledger's name"))).transpose()?;
    let reports = meta(connection, "reports").map_err(database)?;
    let reports = reports.map_or(Ok(0), |text| text.parse()).map_err(|_| row("the sequence of reports"))?;

    let texts = |sql: &str| -> rusqlite::Result<Vec<(String, String, String)>> {
        connection.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    };
    let positions = texts("SELECT file, position, '' FROM positions")
        .map_err(database)?
        .iter()
        .map(|(_, position, _)| serde_json::from_str(position).map_err(|_| row("a file's position")))
        .collect::<Result<_, _>>()?;
    let followed = meta(connection, "followed").map_err(database)?;
    let followed = followed.map_or(Ok(Vec::new()), |text| serde_json::from_str(&text));
    let followed = followed.map_err(|_| row("the paths that are followed"))?;
    let counters = texts("SELECT jail, address, counter FROM counters")
        .map_err(database)?
        .iter()
        .map(|(jail, address, counter)| {
            let bad = || row("a jail's counter");
            Ok((
                jail.parse().map_err(|_| bad())?,
                address.parse().map_err(|_| bad())?,
                serde_json::from_str(counter).map_err(|_| bad())?,
            ))
        })
        .collect::<Result<_, StoreError>>()?;
    let bans = bans::read(connection).map_err(database)?.ok_or_else(|| row("a ban"))?;
    let cursor = match meta(connection, "journal").map_err(database)? {
        Some(text) => Some(serde_json::from_str(&text).map_err(|_| row("the journal's cursor"))?),
        None => None,
    };
    let journal = journal::read(connection).map_err(database)?;
    Ok(Saved {
        outbox,
        next_sequence,
        waiting,
        span,
        positions,
        followed,
        counters,
        bans,
        journal,
        cursor,
        allow,
        ledger,
        reports,
    })
}

/// Whether a table of [`ADDITIONS`] is there: on a full disk one of a release before this one may not be.
pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).map(|count| count > 0)
}

pub(super) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

pub(super) fn set_meta(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?.execute([key, value])?;
    Ok(())
}
