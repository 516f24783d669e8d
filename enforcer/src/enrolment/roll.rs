//! The file of the enrolled sensors: apart from the ledger, so that a damaged ledger locks no sensor out.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use super::EnrolmentError;
use crate::{database, state};

/// The file's format, in SQLite's `user_version`.
const VERSION: i64 = 1;

/// `enrolled` is in milliseconds since 1970. `meta` names the ledger beside it, so that its loss is noticed.
const SCHEMA: &str = "
    CREATE TABLE sensors (name TEXT PRIMARY KEY, digest BLOB NOT NULL, enrolled INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
";

/// Opens the file of a state folder, making it where it is missing; also beside a running enforcer.
pub(super) fn open(folder: &Path) -> Result<Connection, EnrolmentError> {
    let failed = |source| EnrolmentError::Folder { path: folder.to_owned(), source };
    // Two programs cannot turn one new file into a database at once.
    let _held = state::hold(folder).map_err(failed)?;
    let path = path(folder);
    let mut connection = database::open(&path)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found {
        0 => make(&mut connection, &folder.join("ledger.sqlite3"))?,
        VERSION => {}
        found => return Err(EnrolmentError::TooNew { path, found }),
    }
    Ok(connection)
}

/// The file of a state folder.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("sensors.sqlite3")
}

/// Makes the table, with the sensors that a ledger holds: one of the first release does, and so does a
/// backup.
fn make(connection: &mut Connection, ledger: &Path) -> Result<(), EnrolmentError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    if ledger.metadata().is_ok_and(|file| file.len() > 0) {
        let taken = take_over(&transaction, ledger);
        match taken {
            Ok(0) => {}
            Ok(sensors) => tracing::info!(sensors, "the enrolled sensors are in sensors.sqlite3 from now on"),
            Err(error) if database::is_damage(&error) => tracing::error!(
                %error,
                "the ledger is damaged, and not all sensors could be taken over from it: `atalaya-enforcer sensors` lists those that could; enrol the others again"
            ),
            Err(error) => return Err(error.into()),
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}

fn take_over(connection: &Connection, ledger: &Path) -> rusqlite::Result<usize> {
    let ledger = database::open_to_read(ledger)?;
    let there = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'sensors'";
    if ledger.query_row(there, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(0);
    }
    let mut statement = ledger.prepare("SELECT name, digest, enrolled FROM sensors")?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let (name, digest, enrolled): (String, Vec<u8>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        count += connection.execute(
            "INSERT OR IGNORE INTO sensors (name, digest, enrolled) VALUES (?1, ?2, ?3)",
            rusqlite::params![name, digest, enrolled],
        )?;
    }
    Ok(count)
}
