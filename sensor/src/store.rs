//! The sensor's durable state, in one SQLite file: the outbox's offences, the positions in log
//! files, the jails' counters, and the last allow list. A thread of its own does the writing, in
//! the order in which it was told and many changes to a transaction, so that nobody waits for a disk.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atalaya_program::disk;
use atalaya_wire::{AllowList, Name, NumberedOffence};
use rusqlite::{Connection, OptionalExtension, params};

use crate::jail::{Counter, Fate};
use crate::source::files::SavedPosition;
use crate::source::journal::{Cursor, JournalPosition};

mod bans;
mod error;
mod folder;
mod journal;
mod waiting;

pub use error::StoreError;
pub use folder::make_private;

/// The most offences kept for an enforcer that is away; past it the oldest are dropped and counted.
pub const OUTBOX_LIMIT: u64 = 1_000_000;

/// How many sequence numbers are set aside at once, so that a number given out just before a crash
/// is never given out again.
const RESERVE: u64 = 1 << 20;

const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE outbox (sequence INTEGER PRIMARY KEY, offence TEXT NOT NULL);
    CREATE TABLE positions (file TEXT PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE counters (jail TEXT NOT NULL, address TEXT NOT NULL, counter TEXT NOT NULL,
                           PRIMARY KEY (jail, address)) WITHOUT ROWID;
";

/// Added later, to files of the same format too.
const ADDITIONS: &str = "
    CREATE TABLE IF NOT EXISTS bans (jail TEXT NOT NULL, address TEXT NOT NULL, until TEXT NOT NULL,
                                     PRIMARY KEY (jail, address)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS fates (jail TEXT NOT NULL, address TEXT NOT NULL, fate TEXT NOT NULL,
                                      PRIMARY KEY (jail, address)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS journal (file TEXT PRIMARY KEY, entries INTEGER NOT NULL) WITHOUT ROWID;
";

/// What the state holds when a sensor starts.
#[derive(Debug)]
pub struct Saved {
    /// The outbox's own name.
    pub outbox: Name,
    /// The first sequence number that was never given out.
    pub next_sequence: u64,
    /// How many offences wait for the enforcer.
    pub waiting: u64,
    /// The numbers of the first and the last of them.
    pub span: Option<(u64, u64)>,
    /// Where reading of log files stood.
    pub positions: Vec<SavedPosition>,
    /// The paths and patterns whose files were followed: a file of theirs without a position is new.
    pub followed: Vec<String>,
    /// Failures that were counted, by jail and address.
    pub counters: Vec<(Name, IpAddr, Counter)>,
    /// The bans that the jails asked for, and what became of them.
    pub bans: Vec<(Name, IpAddr, Fate)>,
    /// Where reading of the journal's files stood.
    pub journal: Vec<JournalPosition>,
    /// Where reading of the journal stood in an earlier release, if it was not followed since.
    pub cursor: Option<Cursor>,
    /// The allow list as last heard from the enforcer.
    pub allow: AllowList,
    /// The enforcer's ledger that has the bans of before.
    pub ledger: Option<Name>,
    /// The first sequence of reports that was never given out.
    pub reports: u64,
}

/// What changed since the last snapshot: positions and counters go to disk together, so that a line
/// is either read and counted, or neither.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Of files that were read further since, by [`SavedPosition::key`].
    pub positions: HashMap<String, SavedPosition>,
    /// The paths and patterns whose files are followed now, where they changed.
    pub followed: Option<Vec<String>>,
    /// Files that are gone and drained, by [`SavedPosition::key`].
    pub forgotten: HashSet<String>,
    /// Counters that changed; `None` where an address is no longer counted.
    pub counters: Vec<(Name, IpAddr, Option<Counter>)>,
    /// Bans of which something changed, and what became of them.
    pub bans: Vec<(Name, IpAddr, Fate)>,
    /// How many entries of each file of the journal were read, where it moved, by
    /// [`JournalPosition::file`](crate::source::journal::JournalPosition); `None` where it is forgotten.
    pub journal: HashMap<String, Option<u64>>,
}

/// The handle to the writing thread. Dropping the last one ends it after its last write.
#[derive(Clone, Debug)]
pub struct Store {
    orders: mpsc::Sender<Order>,
    offences: Arc<Offences>,
}

/// Counters of the outbox's offences that can be read while the thread writes.
#[derive(Debug, Default)]
struct Offences {
    waiting: AtomicU64,
    dropped: AtomicU64,
}

enum Order {
    Offence(NumberedOffence),
    Acked(u64),
    Snapshot(Snapshot),
    Allow(AllowList),
    Ledger(Name),
    Reports(u64),
    Reserve(u64),
    Load { after: u64, most: usize, reply: waiting::Reply },
    Flush(tokio::sync::oneshot::Sender<()>),
}

/// Held as long as the sensor runs; ended by [`Writer::join`].
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
    _lock: std::fs::File,
}

// === impl Snapshot ===

impl Snapshot {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
            && self.followed.is_none()
            && self.forgotten.is_empty()
            && self.counters.is_empty()
            && self.bans.is_empty()
            && self.journal.is_empty()
    }
}

// === impl Store ===

impl Store {
    /// Opens or makes the state in a folder, reads it, and starts the writing thread.
    pub fn open(folder: &Path) -> Result<(Self, Saved, Writer), StoreError> {
        let lock = lock(folder)?;
        let path = folder.join("sensor.sqlite3");
        let database = |error| StoreError::Database { path: path.clone(), error };
        let mut connection = connect(&path)?;
        let saved = read(&mut connection, &path)?;

        let (orders, inbox) = mpsc::channel();
        let offences = Arc::new(Offences { waiting: AtomicU64::new(saved.waiting), ..Offences::default() });
        set_meta(&connection, "reserved", &(saved.next_sequence + RESERVE).to_string()).map_err(database)?;
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn({
                let offences = offences.clone();
                move || write(connection, &inbox, &offences)
            })
            .map_err(|source| StoreError::folder(folder, source))?;
        Ok((Self { orders, offences }, saved, Writer { thread, _lock: lock }))
    }

    /// Keeps an offence until it is acked.
    pub fn offence(&self, offence: NumberedOffence) {
        if offence.sequence.is_multiple_of(RESERVE / 2) {
            self.send(Order::Reserve(offence.sequence + 2 * RESERVE));
        }
        self.send(Order::Offence(offence));
    }

    /// Forgets the offences up to and with this sequence.
    pub fn acked(&self, through: u64) {
        self.send(Order::Acked(through));
    }

    /// Writes positions and counters, after all offences that were given before.
    pub fn snapshot(&self, snapshot: Snapshot) {
        self.send(Order::Snapshot(snapshot));
    }

    /// Keeps the allow list for the next start.
    pub fn allow(&self, allow: AllowList) {
        self.send(Order::Allow(allow));
    }

    /// Keeps which ledger the enforcer has, after all offences that were given before.
    pub fn ledger(&self, ledger: Name) {
        self.send(Order::Ledger(ledger));
    }

    /// Keeps the sequence of reports from which the next run goes on.
    pub fn reports(&self, reserved: u64) {
        self.send(Order::Reports(reserved));
    }

    /// The offences that wait, after a sequence, oldest first, also those that the disk refuses; `None` where they
    /// cannot be read now.
    pub async fn load(&self, after: u64, most: usize) -> Option<Vec<NumberedOffence>> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.send(Order::Load { after, most, reply });
        answer.await.ok()
    }

    /// Returns when all that was given before is on disk.
    pub async fn flush(&self) {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.send(Order::Flush(reply));
        let _ = answer.await;
    }

    /// Offences that were dropped at [`OUTBOX_LIMIT`] since the start.
    pub fn dropped(&self) -> u64 {
        self.offences.dropped.load(Ordering::Relaxed)
    }

    /// Offences that are on disk and not acked, at most [`OUTBOX_LIMIT`].
    pub fn waiting(&self) -> u64 {
        self.offences.waiting.load(Ordering::Relaxed)
    }

    fn send(&self, order: Order) {
        // The thread ends only after the last sender is gone.
        let _ = self.orders.send(order);
    }
}

// === impl Writer ===

impl Writer {
    /// Waits for the last write; all [`Store`]s must be dropped first.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

/// Whether a sensor runs on a state folder.
pub fn is_locked(folder: &Path) -> bool {
    std::fs::File::open(folder.join("lock"))
        .is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}

fn lock(folder: &Path) -> Result<std::fs::File, StoreError> {
    let failed = |source| StoreError::folder(folder, source);
    make_private(folder).map_err(failed)?;
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Locked { path: folder.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let database = |error| StoreError::Database { path: path.to_owned(), error };
    // SQLite leaves to the umask who may read it.
    if let Err(error) = disk::make_private_file(path, &["-wal", "-shm"]) {
        tracing::debug!(path = %path.display(), %error, "its owner and rights stay as they are");
    }
    let mut connection = Connection::open(path).map_err(database)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(database)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(database)?;
    // FULL: an offence that is in the outbox survives a power cut too.
    connection.pragma_update(None, "synchronous", "FULL").map_err(database)?;
    let found: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(database)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::TooNew { path: path.to_owned(), found });
    }
    if found == 0 {
        let transaction = connection.transaction().map_err(database)?;
        transaction.execute_batch(SCHEMA).map_err(database)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(database)?;
        transaction.commit().map_err(database)?;
    }
    connection.execute_batch(ADDITIONS).map_err(database)?;
    Ok(connection)
}

fn read(connection: &mut Connection, path: &Path) -> Result<Saved, StoreError> {
    let database = |error| StoreError::Database { path: path.to_owned(), error };
    let row = |what| StoreError::Row { path: path.to_owned(), what };

    let outbox = match meta(connection, "outbox").map_err(database)? {
        Some(name) => name.parse().map_err(|_| row("the outbox's name"))?,
        None => {
            let mut bytes = [0; 12];
            getrandom::fill(&mut bytes).map_err(StoreError::Random)?;
            let name = data_encoding::HEXLOWER.encode(&bytes);
            set_meta(connection, "outbox", &name).map_err(database)?;
            name.parse().map_err(|_| row("the outbox's name"))?
        }
    };
    let reserved = meta(connection, "reserved").map_err(database)?;
    let next_sequence = reserved.map_or(Ok(1), |text| text.parse()).map_err(|_| row("the next sequence"))?;
    let (waiting, span) = connection
        .query_row("SELECT count(*), min(sequence), max(sequence) FROM outbox", [], |row| {
            let numbers = row.get::<_, Option<i64>>(1)?.zip(row.get::<_, Option<i64>>(2)?);
            let numbers = numbers.map(|(first, last)| (first.cast_unsigned(), last.cast_unsigned()));
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), numbers))
        })
        .map_err(database)?;
    let allow = match meta(connection, "allow").map_err(database)? {
        Some(text) => serde_json::from_str(&text).map_err(|_| row("the allow list"))?,
        None => AllowList::default(),
    };
    let ledger = meta(connection, "ledger").map_err(database)?;
    let ledger = ledger.map(|name| name.parse().map_err(|_| row("the ledger's name"))).transpose()?;
    let reports = meta(connection, "reports").map_err(database)?;
    let reports = reports.map_or(Ok(0), |text| text.parse()).map_err(|_| row("the sequence of reports"))?;

    let texts = |sql: &str| -> rusqlite::Result<Vec<(String, String, String)>> {
        connection.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    };
    let positions = texts("SELECT file, position, '' FROM positions")
        .map_err(database)?
        .iter()
        .map(|(_, position, _)| serde_json::from_str(position).map_err(|_| row("a file's position")))
        .collect::<Result<_, _>>()?;
    let followed = meta(connection, "followed").map_err(database)?;
    let followed = followed.map_or(Ok(Vec::new()), |text| serde_json::from_str(&text));
    let followed = followed.map_err(|_| row("the paths that are followed"))?;
    let counters = texts("SELECT jail, address, counter FROM counters")
        .map_err(database)?
        .iter()
        .map(|(jail, address, counter)| {
            let bad = || row("a jail's counter");
            Ok((
                jail.parse().map_err(|_| bad())?,
                address.parse().map_err(|_| bad())?,
                serde_json::from_str(counter).map_err(|_| bad())?,
            ))
        })
        .collect::<Result<_, StoreError>>()?;
    let bans = bans::read(connection).map_err(database)?.ok_or_else(|| row("a ban"))?;
    let cursor = match meta(connection, "journal").map_err(database)? {
        Some(text) => Some(serde_json::from_str(&text).map_err(|_| row("the journal's cursor"))?),
        None => None,
    };
    let journal = journal::read(connection).map_err(database)?;
    Ok(Saved {
        outbox,
        next_sequence,
        waiting,
        span,
        positions,
        followed,
        counters,
        bans,
        journal,
        cursor,
        allow,
        ledger,
        reports,
    })
}

/// The writing thread: takes all orders that are there, and commits them together.
fn write(mut connection: Connection, inbox: &mpsc::Receiver<Order>, offences: &Offences) {
    let mut failing = false;
    let mut waiting = offences.waiting.load(Ordering::Relaxed);
    while let Ok(first) = inbox.recv() {
        let mut changes = Vec::new();
        let mut flushes = Vec::new();
        let mut loads = Vec::new();
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Flush(reply) => flushes.push(reply),
                Order::Load { after, most, reply } => loads.push((after, most, reply)),
                change => changes.push(change),
            }
            next = if changes.len() < 10_000 { inbox.try_recv().ok() } else { None };
        }
        while !changes.is_empty() {
            match commit(&mut connection, &changes, waiting) {
                Ok((now, lost)) => {
                    waiting = now;
                    offences.waiting.store(now, Ordering::Relaxed);
                    offences.dropped.fetch_add(lost, Ordering::Relaxed);
                    if failing {
                        tracing::info!("the state can be written again");
                        failing = false;
                    }
                    changes.clear();
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "cannot write the state: offences still leave at once, but would not survive a restart; make room or mend the disk, it is tried again every second");
                        failing = true;
                    }
                    for (after, most, reply) in loads.drain(..) {
                        waiting::answer(&connection, &changes, after, most, reply);
                    }
                    if !gather(&connection, inbox, &mut changes, &offences.dropped) {
                        return;
                    }
                }
            }
        }
        for (after, most, reply) in loads {
            waiting::answer(&connection, &[], after, most, reply);
        }
        for reply in flushes {
            let _ = reply.send(());
        }
    }
}

/// Takes along what comes within a second; false when nobody is left to send.
fn gather(
    connection: &Connection,
    inbox: &mpsc::Receiver<Order>,
    changes: &mut Vec<Order>,
    dropped: &AtomicU64,
) -> bool {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            // Dropping the reply answers: not now.
            Ok(Order::Flush(_)) => {}
            Ok(Order::Load { after, most, reply }) => {
                waiting::answer(connection, changes, after, most, reply);
            }
            Ok(change) => {
                changes.push(change);
                shed(changes, dropped);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => return true,
            Err(mpsc::RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// Bounds what is held in memory while the disk refuses.
fn shed(changes: &mut Vec<Order>, dropped: &AtomicU64) {
    const MOST: usize = 100_000;
    if changes.len() > MOST {
        let before = changes.len();
        changes.drain(..MOST / 10);
        dropped.fetch_add((before - changes.len()) as u64, Ordering::Relaxed);
    }
}

fn commit(connection: &mut Connection, changes: &[Order], mut waiting: u64) -> rusqlite::Result<(u64, u64)> {
    let mut lost = 0;
    let transaction = connection.transaction()?;
    for change in changes {
        match change {
            Order::Offence(offence) => {
                let json = serde_json::to_string(&offence.offence).unwrap_or_default();
                waiting += transaction
                    .prepare_cached("INSERT OR IGNORE INTO outbox VALUES (?1, ?2)")?
                    .execute(params![offence.sequence.cast_signed(), json])?
                    as u64;
                if waiting > OUTBOX_LIMIT {
                    let sql = "DELETE FROM outbox WHERE sequence IN (SELECT sequence FROM outbox ORDER BY sequence LIMIT 1000)";
                    let gone = transaction.prepare_cached(sql)?.execute([])? as u64;
                    waiting -= gone;
                    lost += gone;
                }
            }
            Order::Acked(through) => {
                waiting -= transaction
                    .prepare_cached("DELETE FROM outbox WHERE sequence <= ?1")?
                    .execute([through.cast_signed()])? as u64;
            }
            Order::Reserve(next) => {
                set_meta(&transaction, "reserved", &next.to_string())?;
            }
            Order::Allow(allow) => {
                set_meta(&transaction, "allow", &serde_json::to_string(allow).unwrap_or_default())?;
            }
            Order::Ledger(ledger) => set_meta(&transaction, "ledger", ledger.as_str())?,
            Order::Reports(reserved) => set_meta(&transaction, "reports", &reserved.to_string())?,
            Order::Snapshot(snapshot) => write_snapshot(&transaction, snapshot)?,
            Order::Load { .. } | Order::Flush(_) => {}
        }
    }
    transaction.commit()?;
    Ok((waiting, lost))
}

fn write_snapshot(connection: &Connection, snapshot: &Snapshot) -> rusqlite::Result<()> {
    journal::write(connection, &snapshot.journal)?;
    if let Some(followed) = &snapshot.followed {
        set_meta(connection, "followed", &serde_json::to_string(followed).unwrap_or_default())?;
    }
    for key in &snapshot.forgotten {
        connection.prepare_cached("DELETE FROM positions WHERE file = ?1")?.execute([key])?;
    }
    for (key, position) in &snapshot.positions {
        let json = serde_json::to_string(position).unwrap_or_default();
        connection
            .prepare_cached("INSERT OR REPLACE INTO positions VALUES (?1, ?2)")?
            .execute(params![key, json])?;
    }
    for (jail, address, counter) in &snapshot.counters {
        let address = address.to_string();
        match counter {
            Some(counter) => {
                let json = serde_json::to_string(counter).unwrap_or_default();
                connection
                    .prepare_cached("INSERT OR REPLACE INTO counters VALUES (?1, ?2, ?3)")?
                    .execute(params![jail.as_str(), address, json])?;
            }
            None => {
                connection
                    .prepare_cached("DELETE FROM counters WHERE jail = ?1 AND address = ?2")?
                    .execute(params![jail.as_str(), address])?;
            }
        }
    }
    bans::write(connection, &snapshot.bans)
}

fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

fn set_meta(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?.execute([key, value])?;
    Ok(())
}
