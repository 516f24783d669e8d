//! Looks whether the ledger's file is sound: for a moment at the start, and where that is not enough to read
//! all of it, on a thread of its own while the enforcer runs. What is found then is acted on by the next start.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Error, ErrorCode, ffi};

use crate::{database, enrolment};

/// How long a start looks.
const AT_START: Duration = Duration::from_millis(1000);

/// How long after a start the whole file is read, when the routers have what they need.
const LATER: Duration = Duration::from_secs(120);

/// How long that may take; the journal grows meanwhile.
const LONGEST: Duration = Duration::from_secs(600);

/// An examination on a thread of its own, which ends with this.
#[derive(Debug)]
pub(super) struct Examination {
    stop: Arc<AtomicBool>,
    _woken: mpsc::Sender<()>,
}

/// Looks for a moment. Damage is an error; whether the whole file was read is the answer.
pub(super) fn at_start(connection: &mut Connection) -> rusqlite::Result<bool> {
    let until = Instant::now() + AT_START;
    match damage(connection, move || Instant::now() > until)? {
        Verdict::Sound => Ok(true),
        Verdict::Unfinished => Ok(false),
        Verdict::Damage(damage) => Err(error(&damage)),
    }
}

/// The error of a damaged file.
pub(super) fn error(damage: &str) -> Error {
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(damage.to_owned()))
}

enum Verdict {
    Sound,
    Damage(String),
    Unfinished,
}

fn damage(
    connection: &mut Connection,
    enough: impl FnMut() -> bool + Send + 'static,
) -> rusqlite::Result<Verdict> {
    connection.progress_handler(10_000, Some(enough))?;
    let found = database::damage(connection);
    connection.progress_handler(0, None::<fn() -> bool>)?;
    match found {
        Ok(None) => Ok(Verdict::Sound),
        Ok(Some(damage)) => Ok(Verdict::Damage(damage)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            Ok(Verdict::Unfinished)
        }
        Err(error) if database::is_damage(&error) => Ok(Verdict::Damage(error.to_string())),
        Err(error) => Err(error),
    }
}

// === impl Examination ===

impl Examination {
    /// Begins to examine the ledger of a folder in a while.
    pub fn begin(folder: &Path, ledger: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (woken, wait) = mpsc::channel::<()>();
        let (folder, ledger, stopped) = (folder.to_owned(), ledger.to_owned(), stop.clone());
        let examine = move || {
            if wait.recv_timeout(LATER) == Err(RecvTimeoutError::Timeout) {
                examine(&folder, &ledger, stopped);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("ledger-check".into()).spawn(examine) {
            tracing::warn!(%error, "the ledger's file is not examined");
        }
        Self { stop, _woken: woken }
    }
}

impl Drop for Examination {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn examine(folder: &Path, ledger: &Path, stop: Arc<AtomicBool>) {
    let until = Instant::now() + LONGEST;
    let found = database::open_to_read(ledger).and_then(|mut connection| {
        damage(&mut connection, move || stop.load(Ordering::Relaxed) || Instant::now() > until)
    });
    match found {
        Ok(Verdict::Sound) => tracing::debug!("the ledger's file is sound"),
        Ok(Verdict::Unfinished) => tracing::debug!("the ledger's file was not examined to its end"),
        Ok(Verdict::Damage(damage)) => {
            tracing::error!(
                path = %ledger.display(), damage,
                "THE LEDGER IS DAMAGED: restart the enforcer, which takes over what can be read into a new one; until then bans go on, but some may not be written"
            );
            if let Err(error) = enrolment::note_damage(folder, Some(&damage)) {
                tracing::warn!(%error, "the next start has to find the damage by itself");
            }
        }
        Err(error) => tracing::warn!(%error, "the ledger's file cannot be examined"),
    }
}
