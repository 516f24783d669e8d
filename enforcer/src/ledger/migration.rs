//! How the ledger of an earlier release is brought forward. The file as it was stays beside the new one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::Connection;

use super::LedgerError;
use super::draft::{COLUMNS, Draft, value};
use crate::{database, enrolment};

/// Brings a ledger of the first form forward.
pub(super) fn from_first(folder: &Path, path: &Path, now: Timestamp) -> Result<(), LedgerError> {
    let failed = |source| LedgerError::database(path, source);
    // Its sensors first, for the new ledger has none.
    enrolment::prepare(folder)?;
    tracing::info!(path = %path.display(), "the ledger is of an earlier release: it is brought forward, which may take a minute for each few million bans");
    let old = into_one_file(path).map_err(failed)?;
    let mut draft = Draft::new(path)?;
    let copy = |draft: &mut Draft| {
        let mut statement = old.prepare(&format!("SELECT {COLUMNS} FROM bans ORDER BY id"))?;
        let mut rows = statement.query([])?;
        let mut senseless = 0_u64;
        while let Some(row) = rows.next()? {
            senseless += u64::from(!draft.ban(row)?);
        }
        let mut statement = old.prepare("SELECT sensor, outbox, through FROM intake")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            draft.connection().execute(
                "INSERT INTO intake (sensor, outbox, through) VALUES (?1, ?2, ?3)",
                [value(row, 0)?, value(row, 1)?, value(row, 2)?],
            )?;
        }
        Ok(senseless)
    };
    let senseless = copy(&mut draft).map_err(failed)?;
    drop(old);
    if senseless > 0 {
        tracing::warn!(rows = senseless, "rows that are no bans were left behind");
    }
    let bans = draft.bans();
    let finished = draft.finish(false)?;
    let kept = keep(path, ".v1", now).map_err(|source| LedgerError::file(path, source))?;
    finished.take_place()?;
    tracing::info!(bans, kept = %kept.display(), "the ledger is brought forward; the file as it was is kept, and may be removed");
    Ok(())
}

/// Moves what is in the journal into the file itself, and makes it one that needs no journal.
fn into_one_file(path: &Path) -> rusqlite::Result<Connection> {
    let connection = database::open(path)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))?;
    if mode.eq_ignore_ascii_case("delete") { Ok(connection) } else { Err(busy()) }
}

fn busy() -> rusqlite::Error {
    let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    rusqlite::Error::SqliteFailure(busy, Some("another program has it open; end that first".to_owned()))
}

/// Gives a file a second name, under which it stays when another takes its place.
fn keep(path: &Path, ending: &str, now: Timestamp) -> io::Result<PathBuf> {
    let mut kept = database::beside(path, ending);
    if let Ok(there) = kept.metadata() {
        if there.ino() == path.metadata()?.ino() {
            // Killed right here, the last time.
            return Ok(kept);
        }
        kept = database::beside(path, &format!("{ending}-{}", now.strftime("%Y%m%dT%H%M%SZ")));
    }
    // Some file systems have one name for one file.
    fs::hard_link(path, &kept).or_else(|_| fs::copy(path, &kept).map(drop))?;
    Ok(kept)
}
