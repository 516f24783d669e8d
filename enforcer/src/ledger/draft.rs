//! A ledger that is written whole beside the one in use, and takes its place at once when it is complete.
//! Whoever is killed in between leaves the old one as it was.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, Row, params};

use super::place::Place;
use super::{LedgerError, row, schema};
use crate::database;

/// How often the log tells how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// The columns of a ban in both forms of the ledger, as [`Draft::ban`] reads them.
pub(super) const COLUMNS: &str = "id, prefix, since, until, jail, sensor, evidence, strikes, ended, ended_by";

/// A ledger in the making.
pub(super) struct Draft {
    path: PathBuf,
    written: PathBuf,
    connection: Connection,
    bans: u64,
    told: Instant,
}

// === impl Draft ===

impl Draft {
    /// Begins a ledger that will be at this path.
    pub fn new(path: &Path) -> Result<Self, LedgerError> {
        let draft = database::beside(path, ".new");
        for ending in ["", "-journal", "-wal", "-shm"] {
            match fs::remove_file(database::beside(&draft, ending)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(LedgerError::file(&draft, source));
                }
                _ => {}
            }
        }
        let begin = || {
            database::make_private(&draft);
            let connection = Connection::open(&draft)?;
            // Nothing of it counts before it is complete, so that nothing is journaled.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update(None, "journal_mode", "OFF")?;
            connection.pragma_update(None, "synchronous", "OFF")?;
            connection.pragma_update(None, "cache_size", -32_000)?;
            connection.execute_batch("BEGIN IMMEDIATE")?;
            connection.execute_batch(schema::TABLES)?;
            Ok(connection)
        };
        match begin() {
            Ok(connection) => {
                Ok(Self { path: path.to_owned(), written: draft, connection, bans: 0, told: Instant::now() })
            }
            Err(source) => Err(LedgerError::database(&draft, source)),
        }
    }

    /// What is written to it so far.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// How many bans were taken over.
    pub fn bans(&self) -> u64 {
        self.bans
    }

    /// Takes a ban over from a row of [`COLUMNS`]; `false` where it makes no sense.
    pub fn ban(&mut self, row: &Row<'_>) -> rusqlite::Result<bool> {
        let Ok(prefix) = row::text::<IpNet>(row, 1) else { return Ok(false) };
        self.connection
            .prepare_cached(
                "INSERT OR IGNORE INTO bans
                     (id, prefix, place, since, until, jail, sensor, evidence, strikes, ended, ended_by)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                value(row, 0)?,
                value(row, 1)?,
                Place::of(prefix),
                value(row, 2)?,
                value(row, 3)?,
                value(row, 4)?,
                value(row, 5)?,
                value(row, 6)?,
                value(row, 7)?,
                value(row, 8)?,
                value(row, 9)?,
            ])?;
        self.bans += 1;
        if self.bans.is_multiple_of(1024) && self.told.elapsed() >= TOLD_EVERY {
            self.told = Instant::now();
            tracing::info!(bans = self.bans, "the ledger is being written anew");
        }
        Ok(true)
    }

    /// Completes the draft; nothing of it is in use before [`Finished::take_place`].
    pub fn finish(self, recovering: bool) -> Result<Finished, LedgerError> {
        let Self { path, written, connection, .. } = self;
        let complete = || {
            connection.execute_batch(ONE_STANDING)?;
            connection.execute_batch(schema::INDICES)?;
            schema::sign(&connection, recovering)?;
            connection.execute_batch("COMMIT")?;
            connection.close().map_err(|(_, error)| error)
        };
        complete().map_err(|source| LedgerError::database(&written, source))?;
        File::open(&written)
            .and_then(|file| file.sync_all())
            .map_err(|source| LedgerError::file(&written, source))?;
        Ok(Finished { path, written })
    }
}

/// A column as it is.
pub(super) fn value<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<ToSqlOutput<'a>> {
    row.get_ref(column).map(ToSqlOutput::Borrowed)
}

/// An address is banned once. The first form of the ledger had a ban for each list.
const ONE_STANDING: &str = "
    CREATE TEMP TABLE doubled AS SELECT id FROM (
        SELECT id, row_number() OVER (PARTITION BY place ORDER BY until IS NULL DESC, until DESC, id DESC) AS number
        FROM bans WHERE ended IS NULL) WHERE number > 1;
    UPDATE bans SET ended = since, ended_by = 'one of two lists' WHERE id IN (SELECT id FROM doubled);
    DROP TABLE doubled;
";

/// A complete ledger under another name.
pub(super) struct Finished {
    path: PathBuf,
    written: PathBuf,
}

// === impl Finished ===

impl Finished {
    /// Replaces what is at the ledger's path.
    pub fn take_place(self) -> Result<(), LedgerError> {
        fs::rename(&self.written, &self.path)
            .and_then(|()| database::sync_folder(&self.path))
            .map_err(|source| LedgerError::file(&self.path, source))
    }
}
