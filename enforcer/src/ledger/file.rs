//! The ledger's file: locked, opened, made where it is missing.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use super::{LedgerError, schema};
use crate::{database, state};

/// The file of a state folder.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("ledger.sqlite3")
}

/// Takes a state folder for this process alone, for as long as the returned file is open.
pub(super) fn lock(folder: &Path) -> Result<File, LedgerError> {
    let failed = |source| LedgerError::Folder { path: folder.to_owned(), source };
    drop(state::hold(folder).map_err(failed)?);
    let file =
        File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(LedgerError::Locked { path: folder.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Opens the ledger of a folder that is locked, making it where it is missing and bringing one of an
/// earlier release forward.
pub(super) fn open(folder: &Path) -> Result<Connection, LedgerError> {
    let path = path(folder);
    let failed = |source| LedgerError::Database { path: path.clone(), source };
    let mut connection = database::open(&path).map_err(failed)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    match found {
        0 => make(&mut connection).map_err(failed)?,
        schema::VERSION => {}
        found => return Err(LedgerError::TooNew { path, found }),
    }
    Ok(connection)
}

fn make(connection: &mut Connection) -> rusqlite::Result<()> {
    let identity =
        schema::new_identity().map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(schema::TABLES)?;
    transaction.execute_batch(schema::INDICES)?;
    schema::set_meta(&transaction, schema::IDENTITY, Some(&identity))?;
    transaction.pragma_update(None, "user_version", schema::VERSION)?;
    transaction.commit()
}
