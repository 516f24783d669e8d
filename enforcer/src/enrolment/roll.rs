//! The file of the enrolled sensors: apart from the ledger, so that a damaged ledger locks no sensor out.

use std::path::{Path, PathBuf};

use atalaya_program::disk::FileTrouble;
use jiff::Timestamp;
use rusqlite::backup::Backup;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::EnrolmentError;
use crate::database::{self, DatabaseTrouble};
use crate::state;

/// The file's format, in SQLite's `user_version`.
const VERSION: i64 = 2;

/// `enrolled` is in milliseconds since 1970. `meta` names the ledger beside it, so that its loss is noticed.
const SCHEMA: &str = "
    CREATE TABLE sensors (name TEXT PRIMARY KEY, digest BLOB NOT NULL, enrolled INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
";

/// What the second form has beside the first: the jails that a sensor may name, any where it has no row, and the
/// addresses from which sensors came, with when that was.
const SECOND: &str = "
    CREATE TABLE jails (sensor TEXT NOT NULL, jail TEXT NOT NULL, PRIMARY KEY (sensor, jail)) WITHOUT ROWID;
    CREATE TABLE addresses (address TEXT PRIMARY KEY, seen INTEGER NOT NULL) WITHOUT ROWID;
";

/// The file, opened to be read.
#[derive(Debug)]
pub(super) struct Roll {
    pub connection: Connection,
    /// Whether it is a copy of what the file held.
    pub is_copy: bool,
}

/// Why the file is not one of this release's.
#[derive(Debug)]
enum SoundError {
    Database(rusqlite::Error),
    /// Its format, a number larger than the one that this release knows.
    TooNew(i64),
}

// === impl SoundError ===

impl SoundError {
    fn on(self, folder: &Path) -> EnrolmentError {
        match self {
            Self::Database(error) => failed(folder)(error),
            Self::TooNew(found) => EnrolmentError::TooNew { path: path(folder), found },
        }
    }
}

impl From<rusqlite::Error> for SoundError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// Opens the file of a state folder, making it where it is missing; also beside a running enforcer. A damaged
/// one is set aside, and the sensors that can be read of it are taken over.
pub(super) fn open(folder: &Path) -> Result<Connection, EnrolmentError> {
    let of_folder =
        |source| EnrolmentError::Folder { path: folder.to_owned(), source: FileTrouble::of(folder, source) };
    // Two programs cannot turn one new file into a database at once.
    let _held = state::hold(folder).map_err(of_folder)?;
    let path = path(folder);
    let sources = [folder.join("ledger.sqlite3")];
    match sound(&path, &sources) {
        Err(SoundError::Database(error)) if database::is_damage(&error) => {
            let aside = database::set_aside(&path, Timestamp::now()).map_err(of_folder)?;
            let connection = sound(&path, std::slice::from_ref(&aside)).map_err(|error| error.on(folder))?;
            let sensors = connection.query_row("SELECT count(*) FROM sensors", [], |row| row.get(0));
            let sensors: i64 = sensors.map_err(failed(folder))?;
            tracing::error!(
                %error, sensors, aside = %aside.display(),
                "THE FILE OF THE ENROLLED SENSORS IS DAMAGED and set aside; those that could be read are enrolled still, as `atalaya-enforcer sensors` lists them: enrol the others again"
            );
            Ok(connection)
        }
        result => result.map_err(|error| error.on(folder)),
    }
}

/// Opens the file to read from. Where its disk takes nothing more, not even what SQLite needs beside a database, that is a
/// copy in memory, and others can get at the file.
pub(super) fn read(folder: &Path) -> Result<Roll, EnrolmentError> {
    let error = match open(folder) {
        Ok(connection) => return Ok(Roll { connection, is_copy: false }),
        Err(error) => error,
    };
    let EnrolmentError::Database { path, .. } = &error else { return Err(error) };
    let Ok(file) = database::open_as_possible(path) else { return Err(error) };
    let copy = || {
        let mut copy = Connection::open_in_memory()?;
        Backup::new(&file.connection, &mut copy)?.step(-1)?;
        let found: i64 = copy.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((copy, found))
    };
    match copy().map_err(failed(folder))? {
        // Whatever only the second form has is missing in the first.
        (connection, 1 | VERSION) => Ok(Roll { connection, is_copy: true }),
        _ => Err(error),
    }
}

/// What an error of SQLite's is, of the file of a state folder.
pub(super) fn failed(folder: &Path) -> impl Fn(rusqlite::Error) -> EnrolmentError {
    let path = path(folder);
    move |error| EnrolmentError::Database { source: DatabaseTrouble::of(&path, error), path: path.clone() }
}

/// The file of a state folder.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("sensors.sqlite3")
}

fn sound(path: &Path, sources: &[PathBuf]) -> Result<Connection, SoundError> {
    let mut connection = database::open(path)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found {
        0 => make(&mut connection, sources)?,
        1 | VERSION => {
            if found == 1 {
                bring_forward(&mut connection)?;
            }
            // Small enough to be looked at whole each time.
            connection.query_row("SELECT count(digest) FROM sensors", [], |_| Ok(()))?;
            connection.query_row("SELECT count(value) FROM meta", [], |_| Ok(()))?;
            if has_table(&connection, "jails")? {
                connection
                    .query_row("SELECT count(*) FROM jails WHERE sensor || jail > ''", [], |_| Ok(()))?;
            }
        }
        found => return Err(SoundError::TooNew(found)),
    }
    Ok(connection)
}

/// Brings a file of the first form forward. On a full disk it stays as it is, for the sensors in it are to be let in;
/// what only the second form has is then missing.
fn bring_forward(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another program may have been first.
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found != 1 {
        return Ok(());
    }
    let done = transaction.execute_batch(SECOND).and_then(|()| {
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()
    });
    match done {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            tracing::warn!(%error, "the file of the enrolled sensors stays in the form of the release before: make room on the disk");
            Ok(())
        }
        done => done,
    }
}

/// Makes the tables, with the sensors that another database holds: a ledger of the first release does, and so
/// do a backup and a damaged file.
fn make(connection: &mut Connection, sources: &[PathBuf]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(SECOND)?;
    for source in sources {
        if !source.metadata().is_ok_and(|file| file.is_file() && file.len() > 0) {
            continue;
        }
        match take_over(&transaction, source) {
            Ok(0) => {}
            Ok(sensors) => {
                tracing::info!(sensors, from = %source.display(), "enrolled sensors were taken over");
            }
            Err(error) if database::is_damage(&error) => {
                tracing::error!(%error, from = %source.display(), "not all enrolled sensors could be taken over");
            }
            Err(error) => return Err(error),
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(())
}

/// Takes the sensors over, and the jails that they may name, as far as each can be read; the first error ends neither.
fn take_over(connection: &Connection, source: &Path) -> rusqlite::Result<usize> {
    let source = database::open_to_read(source)?;
    let sensors = take_sensors(connection, &source);
    let jails = take_jails(connection, &source);
    if let Err(error) = &jails
        && database::is_damage(error)
    {
        tracing::error!(
            %error,
            "WHICH JAILS SENSORS MAY NAME could not all be read: those of which it is not known may name any; `atalaya-enforcer jails` shows them and says it anew"
        );
    }
    let sensors = sensors?;
    jails.map(|()| sensors)
}

fn take_sensors(connection: &Connection, source: &Connection) -> rusqlite::Result<usize> {
    if !has_table(source, "sensors")? {
        return Ok(0);
    }
    let mut statement = source.prepare("SELECT name, digest, enrolled FROM sensors")?;
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

fn take_jails(connection: &Connection, source: &Connection) -> rusqlite::Result<()> {
    if !has_table(source, "jails")? {
        return Ok(());
    }
    let mut statement = source.prepare("SELECT sensor, jail FROM jails")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (sensor, jail): (String, String) = (row.get(0)?, row.get(1)?);
        connection.execute("INSERT OR IGNORE INTO jails VALUES (?1, ?2)", [sensor, jail])?;
    }
    Ok(())
}

/// Whether a database has such a table: a file of the first form has not all.
pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    connection.query_row(there, [name], |row| Ok(row.get::<_, i64>(0)? > 0))
}
