//! Why the ledger cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use atalaya_program::disk::FileTrouble;

use super::schema;
use crate::database::DatabaseTrouble;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The folder or the lock file cannot be made.
    #[error("cannot use the state folder {}: {}", path.display(), source.or("check that it exists and that this user may write there"))]
    Folder {
        /// The state folder, as it was configured.
        path: PathBuf,
        /// What the system or the database said.
        source: FileTrouble,
    },
    /// Another enforcer runs on the same state.
    #[error("another atalaya-enforcer uses {}: stop it first, or give this one a `state` of its own", path.display())]
    Locked {
        /// The state folder, as it was configured.
        path: PathBuf,
    },
    /// SQLite could not open, read or write it.
    #[error("the ledger {} cannot be used: {source}", path.display())]
    Database {
        /// The database file within the state folder.
        path: PathBuf,
        /// What the system or the database said.
        source: DatabaseTrouble,
    },
    /// The file is of a later release.
    #[error("the ledger {} was written by {release} (format {found}; this one, {}, knows {}): use that release", path.display(), env!("CARGO_PKG_VERSION"), schema::VERSION)]
    TooNew {
        /// The database file within the state folder.
        path: PathBuf,
        /// Its format, a number larger than the one that this release knows.
        found: i64,
        /// The release that wrote it, as far as it says.
        release: String,
    },
    /// The file, or one beside it, cannot be used.
    #[error("cannot use {}: {}", path.display(), source.or("check that it is a file which this user may read and write"))]
    File {
        /// The file, with its folder as it was configured.
        path: PathBuf,
        /// What the system or the database said.
        source: FileTrouble,
    },
    /// The file is a database of something else.
    #[error("{} is a database, but no ledger: move it away, or give this enforcer a `state` of its own", path.display())]
    Foreign {
        /// The file, with its folder as it was configured.
        path: PathBuf,
    },
    /// The enrolled sensors beside it cannot be used.
    #[error(transparent)]
    Sensors(#[from] crate::enrolment::EnrolmentError),
    /// A change was not written.
    #[error("the ledger cannot be written: {0}")]
    NotWritten(String),
}

// === impl LedgerError ===

impl LedgerError {
    pub(super) fn folder(path: &Path, source: io::Error) -> Self {
        Self::Folder { path: path.to_owned(), source: FileTrouble::of(path, source) }
    }

    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source: FileTrouble::of(path, source) }
    }

    pub(super) fn database(path: &Path, source: rusqlite::Error) -> Self {
        Self::Database { path: path.to_owned(), source: DatabaseTrouble::of(path, source) }
    }
}
