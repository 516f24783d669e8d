//! Backups: one file, a SQLite database, that holds the ledger, the enrolled sensors and the certificate,
//! and from which all of them come back.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use atalaya_program::disk::{self, FileTrouble};
use jiff::Timestamp;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use serde::Serialize;

use super::LedgerError;
use crate::database::{self, DatabaseTrouble};
use crate::enrolment::{self, EnrolmentError};

/// How many pages are copied before progress is told.
const PAGES: i32 = 256;

/// What a backup holds beside the ledger's tables. The sensors' is as an enforcer without sensors of its own
/// takes it over.
const BESIDE: &str = "
    CREATE TABLE sensors (name TEXT PRIMARY KEY, digest BLOB NOT NULL, enrolled INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE jails (sensor TEXT NOT NULL, jail TEXT NOT NULL, PRIMARY KEY (sensor, jail)) WITHOUT ROWID;
";
const FILES_TABLE: &str =
    "CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID";

/// The certificate that sensors pin, and its key.
const FILES: [&str; 2] = ["key.pem", "certificate.pem"];

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The size of the copy, in bytes.
    pub bytes: u64,
    /// Bans in the copy that stand.
    pub standing: u64,
    /// Bans that are over.
    pub over: u64,
    /// Enrolled sensors in the copy.
    pub sensors: u64,
    /// Whether the certificate and its key are in it.
    pub certificate: bool,
}

/// Why there is no backup, or why it was not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something is there already.
    #[error("{} is there already: choose another name, or replace it with --force", .0.display())]
    Exists(PathBuf),
    /// There is nothing to save.
    #[error("there is no ledger in {}: is this the configuration of the enforcer that is to be saved?", .0.display())]
    Nothing(PathBuf),
    /// The ledger is of another release.
    #[error("the ledger in {} is of another release (format {found}): start the enforcer of this release once, which brings it forward", path.display())]
    OtherForm {
        /// The state folder, as it was configured.
        path: PathBuf,
        /// Its format, a number larger than the one that this release knows.
        found: i64,
    },
    /// The backup is of a later release.
    #[error("{} was saved by {release} (format {found}; this one, {}, knows {}): restore it with that release", path.display(), env!("CARGO_PKG_VERSION"), super::FORM)]
    TooNew {
        /// The file that was to be restored.
        path: PathBuf,
        /// Its format, a number larger than the one that this release knows.
        found: i64,
        /// The release that wrote it, as far as it says.
        release: String,
    },
    /// Another process has the ledger for itself.
    #[error("the enforcer that runs on {} has its ledger for itself, as one that was started on a full disk has: make room there, then it shares it within seconds; or stop it first", .0.display())]
    Held(PathBuf),
    /// A file is no backup.
    #[error("{} is no backup of this release: {why}", path.display())]
    NoBackup {
        /// The file, with its folder as it was configured.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The copy is not what it should be.
    #[error(
        "the copy is damaged ({0}), and was removed: the ledger itself is damaged, or the disk that it was copied to; the enforcer checks its ledger at every start"
    )]
    Damaged(String),
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file, with its folder as it was configured.
        path: PathBuf,
        /// What the system or the database said.
        source: FileTrouble,
    },
    /// SQLite could not open, read or write it.
    #[error("cannot copy {}: {source}", path.display())]
    Database {
        /// The database that was copied.
        path: PathBuf,
        /// What the system or the database said.
        source: DatabaseTrouble,
    },
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The sensors cannot be read.
    #[error(transparent)]
    Sensors(#[from] EnrolmentError),
}

// === impl BackupError ===

impl BackupError {
    fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source: FileTrouble::of(path, source) }
    }

    fn database(path: &Path, source: rusqlite::Error) -> Self {
        Self::Database { path: path.to_owned(), source: DatabaseTrouble::of(path, source) }
    }
}

/// Saves the state in a folder to a file, also beside a running enforcer, which is not held up. The progress
/// is told in pages, done and all.
pub fn save(
    state: &Path,
    file: &Path,
    force: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Summary, BackupError> {
    if !force && file.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(file.to_owned()));
    }
    let source = super::path(state);
    if !source.exists() {
        return Err(BackupError::Nothing(state.to_owned()));
    }
    let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => BackupError::Held(state.to_owned()),
        _ => BackupError::database(&source, error),
    };
    let ledger = database::open_to_read_as_possible(&source).map_err(failed)?;
    let found = form(&ledger).map_err(failed)?;
    if found != super::FORM {
        return Err(BackupError::OtherForm { path: state.to_owned(), found });
    }
    let draft = UnfinishedFile::new(file)?;
    // What is full is the disk that is written to; where it is not, the ledger cannot be read.
    let copy_failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => BackupError::file(file, io::ErrorKind::StorageFull.into()),
        _ => failed(error),
    };
    let mut copy = Connection::open(&draft.path).map_err(copy_failed)?;
    copy_pages(&ledger, &mut copy, progress).map_err(copy_failed)?;
    drop(ledger);
    add_beside(state, &copy, &copy_failed)?;
    let summary = checked(&copy, &draft.path)?;
    copy.close().map_err(|(_, error)| copy_failed(error))?;
    draft.finish(file)?;
    let bytes = file.metadata().map_or(0, |file| file.len());
    Ok(Summary { bytes, ..summary })
}

/// Brings the state of a backup back to a folder that no enforcer runs on. What was there is set aside.
pub fn restore(
    file: &Path,
    state: &Path,
    now: Timestamp,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Summary, BackupError> {
    let no_backup = |why: String| BackupError::NoBackup { path: file.to_owned(), why };
    let unreadable = |error| BackupError::database(file, error);
    if let Err(source) = File::open(file) {
        return Err(BackupError::file(file, source));
    }
    let _lock = super::lock(state)?;
    let saved = database::open_to_read_as_possible(file).map_err(|error| {
        if database::is_damage(&error) { no_backup(error.to_string()) } else { unreadable(error) }
    })?;
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('bans', 'sensors')";
    let tables: i64 =
        saved.query_row(tables, [], |row| row.get(0)).map_err(|error| no_backup(error.to_string()))?;
    let found = form(&saved).map_err(unreadable)?;
    if found > super::FORM {
        let release = super::schema::release(&saved);
        return Err(BackupError::TooNew { path: file.to_owned(), found, release });
    }
    if tables != 2 || found < 1 {
        return Err(no_backup("it has no tables of bans and of sensors".to_owned()));
    }
    let ledger_path = super::path(state);
    let draft = UnfinishedFile::new(&ledger_path)?;
    let copy_failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => BackupError::file(&ledger_path, io::ErrorKind::StorageFull.into()),
        _ => unreadable(error),
    };
    let mut copy = Connection::open(&draft.path).map_err(copy_failed)?;
    copy_pages(&saved, &mut copy, progress).map_err(copy_failed)?;
    // What an earlier release saved by copying its ledger lacks this.
    copy.execute_batch(FILES_TABLE).map_err(copy_failed)?;
    let summary = checked(&copy, &draft.path)?;
    if found == super::FORM {
        // Another ledger than the one that was saved, for it lacks what came after.
        super::sign_as_recovering(&copy).map_err(copy_failed)?;
    }
    let files = files(&copy).map_err(copy_failed)?;
    copy.close().map_err(|(_, error)| copy_failed(error))?;

    for (name, content) in &files {
        bring_back(&state.join(name), content, now)?;
    }
    aside(&state.join("sensors.sqlite3"), now)?;
    aside(&ledger_path, now)?;
    draft.finish(&ledger_path)?;
    // Brings it forward where it is of an earlier release, takes the sensors over, and forgets what stands beside the
    // ledger's own tables.
    super::settle(state, now, found < super::FORM)?;
    let bytes = file.metadata().map_or(0, |file| file.len());
    Ok(Summary { bytes, ..summary })
}

fn form(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Copies a database as it is at this moment, whatever is written to it meanwhile.
fn copy_pages(
    from: &Connection,
    to: &mut Connection,
    progress: &mut dyn FnMut(u64, u64),
) -> rusqlite::Result<()> {
    // As long as this is open, the pages that are read stay what they are.
    let moment = from.unchecked_transaction()?;
    form(&moment)?;
    moment.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let backup = Backup::new(&moment, to)?;
    loop {
        let step = backup.step(PAGES)?;
        let at = backup.progress();
        progress((at.pagecount - at.remaining).unsigned_abs().into(), at.pagecount.unsigned_abs().into());
        match step {
            StepResult::Done => break,
            StepResult::More => {}
            _ => {
                let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                return Err(rusqlite::Error::SqliteFailure(busy, None));
            }
        }
    }
    drop(backup);
    drop(moment);
    // One file, without a journal beside it.
    to.pragma_update(None, "journal_mode", "DELETE")
}

fn add_beside(
    state: &Path,
    copy: &Connection,
    failed: &dyn Fn(rusqlite::Error) -> BackupError,
) -> Result<(), BackupError> {
    copy.execute_batch("BEGIN")
        .and_then(|()| copy.execute_batch(BESIDE))
        .and_then(|()| copy.execute_batch(FILES_TABLE))
        .map_err(failed)?;
    for (name, digest, enrolled) in enrolment::rows(state)? {
        copy.execute("INSERT INTO sensors VALUES (?1, ?2, ?3)", params![name, digest, enrolled])
            .map_err(failed)?;
    }
    for (sensor, jail) in enrolment::jail_rows(state)? {
        copy.execute("INSERT INTO jails VALUES (?1, ?2)", params![sensor, jail]).map_err(failed)?;
    }
    for name in FILES {
        match fs::read(state.join(name)) {
            Ok(content) => {
                copy.execute("INSERT INTO files VALUES (?1, ?2)", params![name, content]).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(BackupError::file(&state.join(name), source)),
        }
    }
    copy.execute_batch("COMMIT").map_err(failed)
}

/// What a copy holds, once it is known to be sound.
fn checked(copy: &Connection, path: &Path) -> Result<Summary, BackupError> {
    match database::damage(copy) {
        Ok(None) => {}
        Ok(Some(damage)) => return Err(BackupError::Damaged(damage)),
        Err(error) => return Err(BackupError::Damaged(error.to_string())),
    }
    let count = |query: &str| copy.query_row(query, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
    let summary = || {
        Ok(Summary {
            bytes: 0,
            standing: count("SELECT count(*) FROM bans WHERE ended IS NULL")?,
            over: count("SELECT count(*) FROM bans WHERE ended IS NOT NULL")?,
            sensors: count("SELECT count(*) FROM sensors")?,
            certificate: count("SELECT count(*) FROM files")? == FILES.len() as u64,
        })
    };
    summary().map_err(|source| BackupError::database(path, source))
}

fn files(copy: &Connection) -> rusqlite::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files = Vec::new();
    for name in FILES {
        let content = copy.query_row("SELECT content FROM files WHERE name = ?1", [name], |row| row.get(0));
        files.extend(content.optional()?.map(|content| (name, content)));
    }
    Ok(files)
}

/// Writes a file for this user alone, setting another one aside.
fn bring_back(path: &Path, content: &[u8], now: Timestamp) -> Result<(), BackupError> {
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    aside(path, now)?;
    disk::write_private(path, content).map_err(|source| BackupError::file(path, source))
}

/// Gives a file another name, and where it is a database, its journal too.
fn aside(path: &Path, now: Timestamp) -> Result<(), BackupError> {
    let aside = database::beside(path, &format!(".before-restore-{}", now.strftime("%Y%m%dT%H%M%SZ")));
    for ending in ["-wal", "-shm", ""] {
        match fs::rename(database::beside(path, ending), database::beside(&aside, ending)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(BackupError::file(path, source));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file that is written under another name first, for this user alone; removed where it is not finished.
struct UnfinishedFile {
    path: PathBuf,
}

// === impl UnfinishedFile ===

impl UnfinishedFile {
    fn new(target: &Path) -> Result<Self, BackupError> {
        let path = database::beside(target, ".new");
        let made = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::options()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&path)
                .and_then(|file| disk::give_to_the_folders_owner(&file, target)),
        };
        match made {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(BackupError::file(&path, source)),
        }
    }

    fn finish(self, target: &Path) -> Result<(), BackupError> {
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.path, target))
            .and_then(|()| database::sync_folder(target))
            .map_err(|source| BackupError::file(target, source))
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(database::beside(&self.path, "-journal"));
    }
}
