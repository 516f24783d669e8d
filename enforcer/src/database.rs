//! The SQLite files of the state folder: how damage is told from other trouble, and set aside.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode};

pub use atalaya_program::database::{
    DatabaseAccess, DatabaseTrouble, OpenedDatabase, beside, make_private, open, open_as_possible,
    open_to_read, open_to_read_as_possible, open_to_read_by,
};
pub use atalaya_program::disk::sync_folder;

/// Whether an error says that the file itself is damaged, and not that it cannot be reached.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// What is wrong with a file's structure, in SQLite's words; `None` where nothing is. Reads the whole file,
/// but does not compare indices with their tables.
pub fn damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok(Some(found).filter(|found| found != "ok"))
}

/// Moves a damaged database out of the way, with its journal, and returns where it is now.
pub fn set_aside(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let time = now.strftime("%Y%m%dT%H%M%SZ");
    let mut aside = beside(path, &format!(".damaged-{time}"));
    let mut again = 1;
    while aside.symlink_metadata().is_ok() {
        again += 1;
        aside = beside(path, &format!(".damaged-{time}-{again}"));
    }
    // The journal first: should the power go in between, the database is damaged still and is met again.
    for ending in ["-wal", "-shm"] {
        match std::fs::rename(beside(path, ending), beside(&aside, ending)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, &aside)?;
    sync_folder(path)?;
    Ok(aside)
}
