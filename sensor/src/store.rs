//! The sensor's durable state, in one SQLite file: the outbox's offences, the positions in log
//! files, the jails' counters, and the last allow list. A thread of its own does the writing, in
//! the order in which it was told and many changes to a transaction, so that nobody waits for a disk.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use atalaya_program::database::{DatabaseTrouble, OpenedDatabase};
use atalaya_wire::{AllowList, Name, NumberedOffence};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::jail::{Counter, Fate};
use crate::source::files::SavedPosition;
use crate::source::journal::{Cursor, JournalPosition};

mod bans;
mod error;
mod file;
mod folder;
mod journal;
mod numbers;
mod unwritten;
mod waiting;
mod writer;

pub use error::StoreError;
pub use folder::make_private;
use numbers::{RESERVE, SequenceNumbers};
use unwritten::Unwritten;
use writer::{Pen, Scribe};

/// The most offences kept for an enforcer that is away; past it the oldest are dropped and counted.
pub const OUTBOX_LIMIT: u64 = 1_000_000;

/// Under which key it is up to where sequence numbers are set aside.
const RESERVED: &str = "reserved";

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
    /// On disk.
    waiting: AtomicU64,
    /// Of these the enforcer has so many, which the disk cannot forget.
    answered: AtomicU64,
    /// Not on disk, because it takes nothing.
    unwritten: AtomicU64,
    dropped: AtomicU64,
    trouble: Mutex<Option<StateTrouble>>,
}

/// That the state cannot be written, and what hangs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateTrouble {
    /// Since when.
    pub since: Timestamp,
    /// Why, and what to do, such as `the disk of /var/lib/atalaya is full (0 bytes free); make room there`.
    pub text: String,
    /// Offences that are in memory alone and that the enforcer does not have; a stop loses them.
    pub offences: u64,
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
    /// Opens or makes the state in a folder, reads it, and starts the writing thread. Where the disk takes nothing, what
    /// is there is read, and written once there is room; a first start fails.
    pub fn open(folder: &Path) -> Result<(Self, Saved, Writer), StoreError> {
        let lock = lock(folder)?;
        let path = folder.join("sensor.sqlite3");
        let opened = file::open(&path)?;
        let mut saved = file::read(&opened.connection, &path)?;
        let offences = Arc::new(Offences { waiting: AtomicU64::new(saved.waiting), ..Offences::default() });
        let scribe = reserve(folder, path, opened, &mut saved, offences.clone())?;

        let (orders, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || scribe.run(&inbox))
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

    /// Returns when all that was given before is on disk, or cannot be written.
    pub async fn flush(&self) {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.send(Order::Flush(reply));
        let _ = answer.await;
    }

    /// Offences that were dropped at [`OUTBOX_LIMIT`] since the start.
    pub fn dropped(&self) -> u64 {
        self.offences.dropped.load(Ordering::Relaxed)
    }

    /// Offences that are kept and not acked, at most [`OUTBOX_LIMIT`] of them on disk.
    pub fn waiting(&self) -> u64 {
        let Offences { waiting, answered, unwritten, .. } = &*self.offences;
        let [waiting, answered, unwritten] =
            [waiting, answered, unwritten].map(|count| count.load(Ordering::Relaxed));
        waiting.saturating_sub(answered) + unwritten
    }

    /// Why nothing can be written, where that is so.
    pub fn trouble(&self) -> Option<StateTrouble> {
        let offences = self.offences.unwritten.load(Ordering::Relaxed);
        self.offences.trouble().map(|trouble| StateTrouble { offences, ..trouble })
    }

    fn send(&self, order: Order) {
        // The thread ends only after the last sender is gone.
        let _ = self.orders.send(order);
    }
}

// === impl Offences ===

impl Offences {
    fn trouble(&self) -> Option<StateTrouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<StateTrouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
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
    let path = folder.join("lock");
    // A lock needs no right to write, which a disk that is mounted read-only gives nobody.
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .or_else(|error| std::fs::File::open(&path).map_err(|_| error))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Locked { path: folder.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Sets numbers aside for this run, in the way that the disk allows.
fn reserve(
    folder: &Path,
    path: PathBuf,
    opened: OpenedDatabase,
    saved: &mut Saved,
    offences: Arc<Offences>,
) -> Result<Scribe, StoreError> {
    let numbers = SequenceNumbers::new(folder.join("lock"), saved.next_sequence);
    saved.next_sequence = numbers.next();
    let mut unwritten = Unwritten::default();
    unwritten.reserve(saved.next_sequence + RESERVE);
    let mut pen = Pen::new(opened, path.clone(), numbers);
    let result = pen.write(&unwritten, saved.waiting, false);
    let mut scribe = Scribe { pen, unwritten, offences };
    match result {
        Ok(_) => scribe.unwritten = Unwritten::default(),
        Err(error) => {
            let trouble = DatabaseTrouble::of(&path, error);
            if !trouble.is_of_the_disk() {
                return Err(StoreError::Database { path, error: trouble.error });
            }
            if scribe.pen.numbers().set_aside(saved.next_sequence + RESERVE).is_err() {
                // Nothing can be noted on this disk: what grows without it is the time.
                let now = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
                saved.next_sequence = saved.next_sequence.max(now);
                scribe.unwritten.reserve(saved.next_sequence + RESERVE);
            }
            scribe.fail(trouble.error);
        }
    }
    Ok(scribe)
}
