//! Why the sensor's state cannot be used.

use std::path::{Path, PathBuf};

use atalaya_program::disk::{DiskTrouble, FileTrouble};

use super::file::SCHEMA_VERSION;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or the lock file cannot be made.
    #[error("cannot use the state folder {}: {}", path.display(), source.or("check that it exists and that this user may write there"))]
    Folder {
        /// The state folder, or the lock file in it.
        path: PathBuf,
        /// What making, opening or locking it failed with.
        source: FileTrouble,
    },
    /// Another sensor runs on the same state.
    #[error("another atalaya-sensor uses {}: stop it first, or give this one a `state` of its own", path.display())]
    Locked {
        /// The state folder that both were given.
        path: PathBuf,
    },
    /// SQLite gave an error: the disk is full or denied, or the file damaged.
    #[error("the state {} cannot be used: {}", path.display(), told(path, error))]
    Database {
        /// The database file in the state folder.
        path: PathBuf,
        /// SQLite's error; what to do about it is told with it.
        error: rusqlite::Error,
    },
    /// The file is of a later release.
    #[error("the state {} was written by a later release (format {found}, this one knows {SCHEMA_VERSION}): use that release, or move the file away", path.display())]
    TooNew {
        /// The database file in the state folder.
        path: PathBuf,
        /// The file's `user_version`, larger than any that this release knows.
        found: i64,
    },
    /// No random bytes for the outbox's name.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// What is stored cannot be read back.
    #[error("the state {} holds a row that cannot be read ({what}): move the file away to start anew", path.display())]
    Row {
        /// The database file in the state folder.
        path: PathBuf,
        /// What the row holds, in words.
        what: &'static str,
    },
}

// === impl StoreError ===

impl StoreError {
    pub(super) fn folder(path: &Path, source: std::io::Error) -> Self {
        Self::Folder { path: path.to_owned(), source: FileTrouble::of(path, source) }
    }
}

/// An error of SQLite's, and what to do about it.
fn told(path: &Path, error: &rusqlite::Error) -> String {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly, SystemIoFailure,
    };
    let disk = match error.sqlite_error_code() {
        Some(DiskFull) => Some(DiskTrouble::full(path)),
        Some(SystemIoFailure | CannotOpen | ReadOnly) => DiskTrouble::of(path),
        _ => None,
    };
    if let Some(disk) = disk {
        return format!("{disk}; {}: nothing in it is lost", disk.remedy());
    }
    let remedy = match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => {
            "move it away, and start anew: positions and unsent offences in it are lost"
        }
        _ => "if it is damaged, move it away: positions and unsent offences in it are lost",
    };
    format!("{error}; {remedy}")
}
