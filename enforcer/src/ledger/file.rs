//! The ledger's file: locked, opened, made where it is missing, brought forward where it is of an earlier
//! release, and replaced where it is damaged.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use super::{LedgerError, examination, migration, salvage, schema};
use crate::database::{self, DatabaseAccess, OpenedDatabase};
use crate::{enrolment, state};

/// How much of the file the writer keeps in memory, in kB.
const CACHE_KILOBYTES: i64 = 32_768;

/// How long the journal grows before it is moved into the file, in pages; sooner where it is quiet.
const JOURNAL_PAGES: i64 = 8192;

/// The file of a state folder.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("ledger.sqlite3")
}

/// Takes a state folder for this process alone, for as long as the returned file is open.
pub(crate) fn lock(folder: &Path) -> Result<File, LedgerError> {
    let failed = |source| LedgerError::folder(folder, source);
    drop(state::hold(folder).map_err(failed)?);
    if let Err(error) = state::close_files(folder) {
        tracing::debug!(folder = %folder.display(), %error, "the rights to the files stay as they are");
    }
    let path = folder.join("lock");
    let file = match File::options().create(true).truncate(false).write(true).mode(0o600).open(&path) {
        // A disk that is mounted read-only has one of before.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path),
        opened => opened,
    };
    let file = file.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(LedgerError::Locked { path: folder.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Opens the ledger of a folder that is locked and reads it with a function. A ledger that turns out to be
/// damaged on the way is set aside, and the new one is read. Tells too whether the whole file was examined.
pub(super) fn open<T>(
    folder: &Path,
    now: Timestamp,
    read: &mut dyn FnMut(&Connection) -> rusqlite::Result<T>,
) -> Result<(OpenedDatabase, T, bool), LedgerError> {
    let path = path(folder);
    let mut attempt = || {
        let (opened, examined) = sound(folder, &path, now)?;
        let value = read(&opened.connection).map_err(|source| LedgerError::database(&path, source))?;
        Ok((opened, value, examined))
    };
    match attempt() {
        Err(LedgerError::Database { path: broken, source })
            if broken == path && database::is_damage(&source.error) =>
        {
            salvage::replace(folder, &path, &source.error, now)?;
            attempt()
        }
        result => result,
    }
}

/// Completes a ledger that a backup was put in the place of, and says in it that it lacks what came after, where the
/// backup could not.
pub(crate) fn settle(folder: &Path, now: Timestamp, sign: bool) -> Result<(), LedgerError> {
    let complete = &mut |connection: &Connection| {
        if sign { schema::sign_as_recovering(connection) } else { Ok(()) }
    };
    open(folder, now, complete).map(drop)
}

/// The ledger, in this release's form, and whether all of its file was read; damage is an error.
fn sound(folder: &Path, path: &Path, now: Timestamp) -> Result<(OpenedDatabase, bool), LedgerError> {
    let failed = |source| LedgerError::database(path, source);
    let new = is_new(path)?;
    let OpenedDatabase { mut connection, access, trouble } =
        database::open_as_possible(path).map_err(failed)?;
    let form =
        |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get(0));
    match form(&connection).map_err(failed)? {
        0_i64 if new || is_empty(&connection).map_err(failed)? => {
            let lost = enrolment::had_ledger(folder)?;
            make(&mut connection, lost.is_some()).map_err(failed)?;
            if let Some(lost) = lost {
                tracing::error!(
                    path = %path.display(), lost,
                    "THE LEDGER THAT WAS HERE IS GONE and a new one is made: bans that the routers hold are taken over from there, and the sensors send theirs again; restore a backup for the history"
                );
            }
        }
        0 => return Err(LedgerError::Foreign { path: path.to_owned() }),
        1 => {
            drop(connection);
            migration::from_first(folder, path, now)?;
            connection = database::open(path).map_err(failed)?;
        }
        schema::VERSION => {}
        found => {
            let release = schema::release(&connection);
            return Err(LedgerError::TooNew { path: path.to_owned(), found, release });
        }
    }
    if let Some(damage) = enrolment::noted_damage(folder)? {
        return Err(failed(examination::error(&damage)));
    }
    let examined = examination::at_start(&mut connection).map_err(failed)?;
    let identity = schema::meta(&connection, schema::IDENTITY).map_err(failed)?;
    match enrolment::note_ledger(folder, identity.as_deref().unwrap_or_default()) {
        Err(error) if access != DatabaseAccess::Shared => {
            tracing::warn!(%error, "which ledger is here is not noted beside it");
        }
        noted => noted?,
    }
    if access == DatabaseAccess::Shared {
        forget_beside(&connection).and_then(|()| schema::note_release(&connection)).map_err(failed)?;
    }
    tune(&connection).map_err(failed)?;
    Ok((OpenedDatabase { connection, access, trouble }, examined))
}

/// Sets a connection to how the ledger is written. A thousand bans touch some thousand pages of the indices, in no order:
/// they should be in memory, and be moved from the journal into the file once and not after each commit.
pub(super) fn tune(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "cache_size", -CACHE_KILOBYTES)?;
    connection.pragma_update(None, "wal_autocheckpoint", JOURNAL_PAGES)
}

/// Drops what a backup holds beside the ledger: by now the sensors are in a file of their own, and who is
/// revoked there must not come back.
fn forget_beside(connection: &Connection) -> rusqlite::Result<()> {
    let beside = "SELECT count(*) FROM sqlite_schema WHERE name IN ('sensors', 'jails', 'files')";
    if connection.query_row(beside, [], |row| row.get::<_, i64>(0))? > 0 {
        // Overwritten with zeros, for there are secrets among it.
        connection.pragma_update(None, "secure_delete", true)?;
        connection.execute_batch(
            "BEGIN IMMEDIATE; DROP TABLE IF EXISTS sensors; DROP TABLE IF EXISTS jails;
             DROP TABLE IF EXISTS files; COMMIT",
        )?;
        connection.pragma_update(None, "secure_delete", false)?;
    }
    Ok(())
}

/// Whether there is no ledger yet. What is there has to be a file that may be read and written.
fn is_new(path: &Path) -> Result<bool, LedgerError> {
    let failed = |source| LedgerError::file(path, source);
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(source) => return Err(failed(source)),
        Ok(there) if !there.is_file() => {
            let source = io::Error::other("it is no file");
            return Err(failed(source));
        }
        Ok(_) => {}
    }
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path),
        opened => opened,
    };
    let file = file.map_err(failed)?;
    Ok(file.metadata().map_err(failed)?.len() == 0)
}

/// Whether it has no tables: whoever made it was killed before it had.
fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

fn make(connection: &mut Connection, recovering: bool) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(schema::TABLES)?;
    transaction.execute_batch(schema::INDICES)?;
    schema::sign(&transaction, recovering)?;
    transaction.commit()
}
