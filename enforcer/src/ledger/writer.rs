//! The thread that writes the ledger: it takes every order that waits, and commits them together.
//! A disk that is full or broken costs acks, never bans; the thread goes on trying.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atalaya_program::disk::DiskTrouble;
use atalaya_wire::Name;
use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::examination::Examination;
use super::housekeeping::Housekeeping;
use super::place::Place;
use super::unwritten::UnwrittenChanges;
use super::{Change, LedgerError, claims, file, row, schema};
use crate::database::{self, DatabaseAccess, DatabaseTrouble};

/// The most changes in one transaction.
const MOST: usize = 20_000;

/// How often what could not be written is tried again while nothing else comes.
const RETRY: Duration = Duration::from_secs(1);

/// Tells when changes are on disk.
#[derive(Debug)]
pub struct Receipt(pub(super) Option<oneshot::Receiver<Result<(), String>>>);

/// The writing thread, and the lock on the state folder.
#[derive(Debug)]
pub struct Writer {
    pub(super) thread: JoinHandle<()>,
    pub(super) _lock: std::fs::File,
    pub(super) _examination: Option<Examination>,
}

/// Changes to be written together.
pub(super) struct WriteOrder {
    pub changes: Vec<Change>,
    /// Whether nobody will ask for these changes again, so that they are kept until they are written.
    pub keep: bool,
    pub done: oneshot::Sender<Result<(), String>>,
}

/// The connection that writes, and in which way the file is open.
#[derive(Debug)]
pub(super) struct Pen {
    /// None where the file could be opened in no way since.
    connection: Option<Connection>,
    path: PathBuf,
    access: Arc<RwLock<DatabaseAccess>>,
}

/// What is said once when nothing can be written any more.
pub(super) const CANNOT_BE_WRITTEN: &str = "THE LEDGER CANNOT BE WRITTEN: bans still go to the routers, but nothing is acked, and sensors send again what they saw; what is done by hand is kept in memory and written later, unless the enforcer is stopped before";

/// Writes until the last sender is gone.
pub(super) fn run(
    mut pen: Pen,
    inbox: &Receiver<WriteOrder>,
    trouble: &Mutex<Option<String>>,
    mut housekeeping: Housekeeping,
) {
    let mut kept = UnwrittenChanges::default();
    loop {
        let wait = housekeeping.wait(Instant::now());
        let waits = !kept.is_empty() || is_some(trouble) || pen.usual().is_none();
        let orders = match next_orders(inbox, if waits { wait.min(RETRY) } else { wait }) {
            Some(orders) => orders,
            None if kept.is_empty() => return,
            None => {
                if let Err(error) = pen.apply(kept.changes()) {
                    tracing::error!(%error, changes = kept.len(), "stopped with changes that the ledger could not take");
                }
                return;
            }
        };
        let quiet = orders.is_empty();
        if !quiet || waits {
            write(&mut pen, orders, &mut kept, trouble);
            housekeeping.wrote(Instant::now());
        }
        if (quiet || housekeeping.is_overdue(Instant::now()))
            && let Some(connection) = pen.usual()
        {
            housekeeping.work(connection);
        }
    }
}

fn is_some(trouble: &Mutex<Option<String>>) -> bool {
    trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Writes orders together, tells those who wait for them, and keeps what has to be written later.
fn write(
    pen: &mut Pen,
    orders: Vec<WriteOrder>,
    kept: &mut UnwrittenChanges,
    trouble: &Mutex<Option<String>>,
) {
    let was_in_trouble = is_some(trouble);
    // While nothing can be written, little is tried: all that is kept would be sorted into the indices in vain.
    let tried = if was_in_trouble { pen.try_again() } else { pen.open_as_usual() };
    let changes = kept.changes().chain(orders.iter().flat_map(|order| &order.changes));
    let result = tried.and_then(|()| pen.apply(changes)).map_err(|error| {
        if database::is_damage(&error) {
            format!("it is damaged ({error}); a restart sets it aside and gathers a new one")
        } else {
            DatabaseTrouble::of(&pen.path, error).to_string()
        }
    });
    let failed = result.as_ref().err().cloned();
    *trouble.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    match (&result, was_in_trouble) {
        (Err(error), false) => tracing::error!(error, "{CANNOT_BE_WRITTEN}"),
        (Ok(()), true) => {
            tracing::info!(
                kept = kept.len(),
                "the ledger can be written again; what was kept in memory is in it"
            );
        }
        _ => {}
    }
    if result.is_ok() {
        kept.clear();
    }
    for order in orders {
        if result.is_err() {
            // Who sends an offence again finds its claim in memory, so that nothing would ever write it; and a ban that
            // routers hold may be over, or refused for another reason, when its offence is sent again.
            let is_kept = |change: &Change| order.keep || matches!(change, Change::Claim(_) | Change::Ban(_));
            kept.extend(order.changes.into_iter().filter(is_kept).collect());
        }
        // Nobody waits any more where a connection broke.
        let _ = order.done.send(result.clone());
    }
}

/// All orders that wait; none where none came in time, and `None` once no more can come.
fn next_orders(inbox: &Receiver<WriteOrder>, wait: Duration) -> Option<Vec<WriteOrder>> {
    let first = match inbox.recv_timeout(wait) {
        Ok(order) => order,
        Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
        Err(RecvTimeoutError::Disconnected) => return None,
    };
    let mut count = first.changes.len();
    let mut orders = vec![first];
    while count < MOST
        && let Ok(order) = inbox.try_recv()
    {
        count += order.changes.len();
        orders.push(order);
    }
    Some(orders)
}

fn apply_one(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Ban(ban) => {
            let evidence = serde_json::to_string(&ban.evidence).unwrap_or_default();
            connection
                .prepare_cached(
                    "INSERT INTO bans (prefix, place, since, until, jail, sensor, evidence, strikes)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1 + coalesce(
                         (SELECT strikes FROM bans WHERE place = ?2 ORDER BY id DESC LIMIT 1), 0))
                     ON CONFLICT (place) WHERE ended IS NULL DO UPDATE SET until = excluded.until
                     WHERE until IS NOT NULL AND (excluded.until IS NULL OR excluded.until > until)",
                )?
                .execute(params![
                    ban.prefix.to_string(),
                    Place::of(ban.prefix),
                    ban.since.as_millisecond(),
                    ban.until.map(Timestamp::as_millisecond),
                    ban.origin.jail().as_str(),
                    ban.origin.sensor().as_str(),
                    evidence
                ])?
        }
        Change::Claim(claim) => claims::join(connection, claim)?,
        Change::TakeBack { left, sensor, jail } => {
            claims::take_back(connection, left, sensor.as_str(), jail.as_ref().map(Name::as_str))?
        }
        Change::End { prefix, at, by } => connection
            .prepare_cached("UPDATE bans SET ended = ?2, ended_by = ?3 WHERE place = ?1 AND ended IS NULL")?
            .execute(params![Place::of(*prefix), at.as_millisecond(), by])?,
        Change::Through { sensor, outbox, sequence } => connection
            .prepare_cached(
                "INSERT INTO intake (sensor, outbox, through) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET through = max(through, excluded.through)",
            )?
            .execute(params![sensor.as_str(), outbox.as_str(), sequence.cast_signed()])?,
        Change::Allow(allowance) => connection
            .prepare_cached(
                "INSERT OR REPLACE INTO allowances (what, since, until, reason, by) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                allowance.what,
                allowance.since.as_millisecond(),
                allowance.until.map(Timestamp::as_millisecond),
                allowance.reason,
                allowance.by
            ])?,
        Change::Disallow { what } => {
            connection.prepare_cached("DELETE FROM allowances WHERE what = ?1")?.execute([what])?
        }
        Change::Login(login) => connection
            .prepare_cached(
                "INSERT INTO logins (address, last, sensor, service, account) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET last = excluded.last, sensor = excluded.sensor,
                     service = excluded.service, account = excluded.account
                 WHERE excluded.last >= last",
            )?
            .execute(params![
                login.address.to_string(),
                login.last.as_millisecond(),
                login.sensor.as_str(),
                login.service,
                login.account
            ])?,
        Change::Protected(spared) => connection
            .prepare_cached(
                "INSERT INTO spared (address, jail, sensor, at, why, evidence)
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (
                     SELECT 1 FROM (SELECT * FROM spared ORDER BY id DESC LIMIT 100)
                     WHERE address = ?1 AND jail = ?2 AND sensor = ?3 AND at = ?4)",
            )?
            .execute(params![
                spared.address.to_string(),
                spared.jail.as_str(),
                spared.sensor.as_str(),
                spared.at.as_millisecond(),
                spared.why,
                serde_json::to_string(&spared.evidence).unwrap_or_default()
            ])?,
        Change::List(list) => connection
            .prepare_cached("INSERT OR IGNORE INTO lists (router, family, list, mark) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![list.router.as_str(), row::family(list.family), list.list, list.mark])?,
        Change::ForgetList(list) => connection
            .prepare_cached("DELETE FROM lists WHERE router = ?1 AND family = ?2 AND list = ?3 AND mark = ?4")?
            .execute(params![list.router.as_str(), row::family(list.family), list.list, list.mark])?,
        Change::Recovered => {
            schema::set_meta(connection, schema::RECOVERING, None)?;
            0
        }
    };
    Ok(())
}

// === impl Pen ===

impl Pen {
    /// Of a ledger that is open.
    pub fn new(connection: Connection, path: PathBuf, access: Arc<RwLock<DatabaseAccess>>) -> Self {
        Self { connection: Some(connection), path, access }
    }

    /// Writes changes in one transaction.
    fn apply<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) -> rusqlite::Result<()> {
        let transaction = self.connection()?.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes {
            apply_one(&transaction, change)?;
        }
        transaction.commit()
    }

    /// Looks whether anything can be written now; opens the file as usual where that was not possible before.
    fn try_again(&mut self) -> rusqlite::Result<()> {
        self.open_as_usual()?;
        let transaction = self.connection()?.transaction_with_behavior(TransactionBehavior::Immediate)?;
        schema::touch(&transaction)?;
        transaction.commit()
    }

    /// The connection, where the file is open as usual.
    fn usual(&mut self) -> Option<&mut Connection> {
        let access = *self.access.read().unwrap_or_else(PoisonError::into_inner);
        self.connection.as_mut().filter(|_| access == DatabaseAccess::Shared)
    }

    fn connection(&mut self) -> rusqlite::Result<&mut Connection> {
        let closed = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
        self.connection.as_mut().ok_or(rusqlite::Error::SqliteFailure(closed, None))
    }

    /// Opens the file as usual where it is open in another way, and the disk seems to allow it. All connections have to be
    /// closed in between, so that it waits for whoever reads just now: until the next time.
    fn open_as_usual(&mut self) -> rusqlite::Result<()> {
        let Ok(mut access) = self.access.try_write() else { return Ok(()) };
        if *access == DatabaseAccess::Shared && self.connection.is_some()
            || DiskTrouble::of(&self.path).is_some()
        {
            return Ok(());
        }
        self.connection = None;
        let opened = database::open_as_possible(&self.path)?;
        file::tune(&opened.connection)?;
        self.connection = Some(opened.connection);
        *access = opened.access;
        Ok(())
    }
}

// === impl Receipt ===

impl Receipt {
    /// Waits until the changes are on disk.
    pub async fn committed(self) -> Result<(), LedgerError> {
        let Some(answer) = self.0 else { return Ok(()) };
        let gone = |_| LedgerError::NotWritten("its writer has ended".to_owned());
        answer.await.map_err(gone)?.map_err(LedgerError::NotWritten)
    }
}

// === impl Writer ===

impl Writer {
    /// Waits for the last commit; all [`Ledger`](super::Ledger)s must be dropped first.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}
