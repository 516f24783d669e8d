//! SQLite files that are written beside whoever reads them (WAL): how they are opened, also where the disk takes nothing
//! more. SQLite cannot read such a file on a full disk in the usual way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::disk::{self, DiskTrouble};

/// How long a connection waits for another one's lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of a journal is kept for the next writes when it has been moved into the database, in bytes.
const JOURNAL_KEPT: i64 = 32 * 1024 * 1024;

/// SQLite's way to files in which no file beside the database and its journal is needed: the index of the journal is in
/// memory, and no other process gets in.
const WITHOUT_INDEX_FILE: &str = "unix-excl";

/// By which way a database can be used at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DatabaseAccess {
    /// As usual, beside others.
    #[default]
    Shared,
    /// By this process alone. The disk has no room for the 32 KiB of the index that SQLite shares with others (the file
    /// `-shm`); what can be read is read, and what is written fails until there is room.
    Alone,
    /// The disk is mounted read-only.
    ReadOnly,
}

/// A database that was opened as it can be used at the moment.
#[derive(Debug)]
pub struct OpenedDatabase {
    /// The connection.
    pub connection: Connection,
    /// In which way it is open.
    pub access: DatabaseAccess,
    /// Why not as usual.
    pub trouble: Option<DatabaseTrouble>,
}

/// An error of SQLite's, and what is wrong with the disk.
#[derive(Debug)]
pub struct DatabaseTrouble {
    /// What SQLite said.
    pub error: rusqlite::Error,
    disk: Option<Box<DiskTrouble>>,
}

/// Opens a database to write to, making the file where it is missing, for this user alone. What is committed survives a
/// power cut.
pub fn open(path: &Path) -> rusqlite::Result<Connection> {
    make_private(path);
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    // Has an effect on a new file alone: pages that become free can be given back without a full VACUUM.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    prepare(&connection)?;
    if connection.is_readonly("main")? {
        return Err(failure(rusqlite::ffi::SQLITE_READONLY, "it cannot be written"));
    }
    Ok(connection)
}

/// Opens a database that is there in the best way in which it can be read at the moment.
pub fn open_as_possible(path: &Path) -> rusqlite::Result<OpenedDatabase> {
    let error = match open(path) {
        Ok(connection) => {
            return Ok(OpenedDatabase { connection, access: DatabaseAccess::Shared, trouble: None });
        }
        Err(error) => error,
    };
    if !is_of_the_disk(&error) || !path.metadata().is_ok_and(|file| file.len() > 0) {
        return Err(error);
    }
    for access in [DatabaseAccess::Alone, DatabaseAccess::ReadOnly] {
        if let Ok(connection) = open_by(path, access) {
            let trouble = Some(DatabaseTrouble::of(path, error));
            return Ok(OpenedDatabase { connection, access, trouble });
        }
    }
    Err(error)
}

/// Opens a database in one way.
pub fn open_by(path: &Path, access: DatabaseAccess) -> rusqlite::Result<Connection> {
    let connection = match access {
        DatabaseAccess::Shared => return open(path),
        DatabaseAccess::Alone => {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags_and_vfs(path, flags, WITHOUT_INDEX_FILE)?;
            if connection.is_readonly("main")? {
                return Err(failure(rusqlite::ffi::SQLITE_READONLY, "it cannot be written"));
            }
            connection
        }
        DatabaseAccess::ReadOnly => return open_read_only(path),
    };
    prepare(&connection)?;
    look(&connection)?;
    Ok(connection)
}

/// Opens a database to read from, in the way in which it is written at the moment.
pub fn open_to_read_by(path: &Path, access: DatabaseAccess) -> rusqlite::Result<Connection> {
    match access {
        DatabaseAccess::Shared => open_to_read(path),
        // Who opens it to read only is no part of the lock that this process holds.
        DatabaseAccess::Alone => {
            let connection = open_by(path, access)?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        }
        DatabaseAccess::ReadOnly => open_read_only(path),
    }
}

/// Opens a database to read from.
pub fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(PATIENCE)?;
    keep_plans(&connection)?;
    Ok(connection)
}

/// Opens a database to read from in the best way in which that is possible at the moment.
pub fn open_to_read_as_possible(path: &Path) -> rusqlite::Result<Connection> {
    let usual = open_to_read(path).and_then(|connection| look(&connection).map(|()| connection));
    usual.or_else(|error| {
        if !is_of_the_disk(&error) {
            return Err(error);
        }
        let others = [DatabaseAccess::Alone, DatabaseAccess::ReadOnly];
        others.into_iter().find_map(|access| open_to_read_by(path, access).ok()).ok_or(error)
    })
}

/// Opens a database on a disk that is mounted read-only. Its journal is read where a crash left one; where there is none,
/// SQLite would want to make it, unless it is told that nobody writes.
fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let usual = open_to_read(path).and_then(|connection| look(&connection).map(|()| connection));
    let journal = beside(path, "-wal").metadata().is_ok_and(|journal| journal.len() > 0);
    if usual.is_ok() || journal {
        return usual;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(path) + "?immutable=1", flags)?;
    keep_plans(&connection)?;
    look(&connection)?;
    Ok(connection)
}

/// A path as SQLite takes it with options.
fn uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(*byte));
            }
            other => uri += &format!("%{other:02x}"),
        }
    }
    uri
}

/// A file opens before anything of it is read; this reads.
fn look(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", JOURNAL_KEPT)?;
    connection.set_prepared_statement_cache_capacity(64);
    keep_plans(connection)
}

/// SQLite makes its files readable by everybody whom the umask does not keep out, and those beside a database as the
/// database is.
pub fn make_private(path: &Path) {
    // SQLite meets what makes this fail too, and says it.
    if let Err(error) = disk::make_private_file(path, &["-wal", "-shm"]) {
        tracing::debug!(path = %path.display(), %error, "its owner and rights stay as they are");
    }
}

fn failure(code: i32, text: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text.to_owned()))
}

/// Without this, a statement whose values changed is planned anew each time it runs, which costs more than
/// the statement.
fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Whether an error may come of a disk that takes nothing more.
fn is_of_the_disk(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// A file beside a database: `NAME` and an ending, such as `-wal`.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(ending);
    name.into()
}

// === impl DatabaseTrouble ===

impl DatabaseTrouble {
    /// What SQLite said of a database.
    pub fn of(path: &Path, error: rusqlite::Error) -> Self {
        let disk = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Some(DiskTrouble::full(path)),
            _ if is_of_the_disk(&error) => DiskTrouble::of(path),
            _ => None,
        };
        Self { error, disk: disk.map(Box::new) }
    }

    /// Whether the disk is why.
    pub fn is_of_the_disk(&self) -> bool {
        self.disk.is_some()
    }
}

impl std::fmt::Display for DatabaseTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.disk {
            Some(disk) => write!(f, "{disk}; {}", disk.remedy()),
            None => self.error.fmt(f),
        }
    }
}

impl std::error::Error for DatabaseTrouble {}
