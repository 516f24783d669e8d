//! The thread that writes the state: it takes all orders that are there, and commits them together. What a full or broken
//! disk refuses it keeps, and tries again every second.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use atalaya_program::database::{DatabaseAccess, DatabaseTrouble, OpenedDatabase};
use jiff::Timestamp;
use rusqlite::Connection;

use super::numbers::SequenceNumbers;
use super::unwritten::Unwritten;
use super::{Offences, Order, StateTrouble, file, waiting};

/// How often what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The most changes in one transaction, as long as all is well.
const MOST: usize = 10_000;

/// How much room SQLite needs for the index of its journal that it shares with others, in bytes.
const INDEX: u64 = 32 * 1024;

/// What is said once when nothing can be written any more.
const CANNOT_BE_WRITTEN: &str = "THE STATE CANNOT BE WRITTEN: offences still leave at once, and what belongs on disk is kept in memory until there is room. If the sensor is stopped or restarted before, offences that the enforcer has not acked are lost, logs are read again from where they stood on disk, and failures that came by syslog or from the kernel are forgotten";

/// The connection that writes, and in which way the file is open.
pub(super) struct Pen {
    /// None where the file could be opened in no way since.
    connection: Option<Connection>,
    path: PathBuf,
    access: DatabaseAccess,
    /// Whether the tables of [`file::ADDITIONS`] are known to be there.
    is_complete: bool,
    numbers: SequenceNumbers,
}

/// The writing thread's own.
pub(super) struct Scribe {
    pub pen: Pen,
    /// What is not on disk yet.
    pub unwritten: Unwritten,
    pub offences: Arc<Offences>,
}

// === impl Scribe ===

impl Scribe {
    /// Writes until the last sender is gone.
    pub fn run(mut self, inbox: &Receiver<Order>) {
        let mut tried = Instant::now();
        loop {
            let is_failing = self.offences.trouble().is_some();
            let first = if is_failing {
                match inbox.recv_timeout((tried + RETRY).saturating_duration_since(Instant::now())) {
                    Ok(order) => Some(order),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            } else {
                match inbox.recv() {
                    Ok(order) => Some(order),
                    Err(_) => break,
                }
            };
            let (mut flushes, mut loads) = (Vec::new(), Vec::new());
            let before = self.unwritten.changes();
            let mut next = first;
            while let Some(order) = next {
                match order {
                    Order::Flush(reply) => flushes.push(reply),
                    Order::Load { after, most, reply } => loads.push((after, most, reply)),
                    change => self.take(change),
                }
                next = if self.unwritten.changes() - before < MOST { inbox.try_recv().ok() } else { None };
            }
            if self.unwritten.changes() > 0 && (!is_failing || tried.elapsed() >= RETRY) {
                tried = Instant::now();
                self.write();
            }
            for (after, most, reply) in loads {
                // Dropping the reply answers: not now.
                if let Some(connection) = &self.pen.connection {
                    waiting::answer(connection, &self.unwritten, after, most, reply);
                }
            }
            if self.offences.trouble().is_none() {
                for reply in flushes {
                    let _ = reply.send(());
                }
            }
        }
        if self.offences.trouble().is_some() && !self.write() {
            tracing::error!(
                offences = self.unwritten.offences().len(),
                "stopped with offences that the enforcer has not acked and that could not be written: they are lost, unless their logs are read again"
            );
        }
    }

    fn take(&mut self, change: Order) {
        let unwritten = &mut self.unwritten;
        match change {
            Order::Offence(offence) => {
                let dropped = unwritten.offence(offence);
                self.offences.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
            Order::Acked(through) => unwritten.ack(through),
            Order::Snapshot(snapshot) => unwritten.take_snapshot(snapshot),
            Order::Allow(allow) => unwritten.set_allow(allow),
            Order::Ledger(ledger) => unwritten.set_ledger(ledger),
            Order::Reports(reserved) => unwritten.set_reports(reserved),
            Order::Reserve(next) => unwritten.reserve(next),
            Order::Load { .. } | Order::Flush(_) => {}
        }
        if self.offences.trouble().is_some() {
            self.offences.unwritten.store(self.unwritten.offences().len() as u64, Ordering::Relaxed);
        }
    }

    /// Writes what is not on disk; whether that went well.
    fn write(&mut self) -> bool {
        let was_failing = self.offences.trouble().is_some();
        let waiting = self.offences.waiting.load(Ordering::Relaxed);
        match self.pen.write(&self.unwritten, waiting, was_failing) {
            Ok(written) => {
                self.offences.waiting.store(written.waiting, Ordering::Relaxed);
                self.offences.dropped.fetch_add(written.dropped, Ordering::Relaxed);
                self.unwritten = Unwritten::default();
                self.offences.unwritten.store(0, Ordering::Relaxed);
                self.offences.answered.store(0, Ordering::Relaxed);
                if was_failing {
                    self.offences.set_trouble(None);
                    tracing::info!("the state can be written again; what was kept in memory is in it");
                }
                true
            }
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    /// Tells that nothing can be written, where that is new.
    pub fn fail(&mut self, error: rusqlite::Error) {
        let text = DatabaseTrouble::of(&self.pen.path, error).to_string();
        let known = self.offences.trouble();
        if known.is_none() {
            tracing::error!(error = text, "{CANNOT_BE_WRITTEN}");
        }
        let since = known.map_or_else(Timestamp::now, |known| known.since);
        self.offences.unwritten.store(self.unwritten.offences().len() as u64, Ordering::Relaxed);
        if let Some(answered) = self.pen.answered(self.unwritten.acked()) {
            self.offences.answered.store(answered, Ordering::Relaxed);
        }
        self.offences.set_trouble(Some(StateTrouble { since, text, offences: 0 }));
        if let Some(until) = self.unwritten.reserved()
            && let Err(error) = self.pen.numbers.set_aside(until)
        {
            tracing::debug!(%error, "the numbers that are given out are noted nowhere");
        }
    }
}

// === impl Pen ===

impl Pen {
    /// Of a state that is open, whose numbers are known.
    pub fn new(opened: OpenedDatabase, path: PathBuf, numbers: SequenceNumbers) -> Self {
        let OpenedDatabase { connection, access, .. } = opened;
        Self { connection: Some(connection), path, access, is_complete: false, numbers }
    }

    pub fn numbers(&self) -> &SequenceNumbers {
        &self.numbers
    }

    /// How many offences are on disk up to this sequence; `None` where that cannot be read.
    fn answered(&self, through: u64) -> Option<u64> {
        let sql = "SELECT count(*) FROM outbox WHERE sequence <= ?1";
        let count =
            self.connection.as_ref()?.query_row(sql, [through.cast_signed()], |row| row.get::<_, i64>(0));
        count.ok().map(i64::cast_unsigned)
    }

    /// Writes all of it in one transaction; little is tried first where that failed before.
    pub fn write(
        &mut self,
        unwritten: &Unwritten,
        waiting: u64,
        was_failing: bool,
    ) -> rusqlite::Result<super::unwritten::WriteOutcome> {
        self.open_as_usual()?;
        let is_complete = self.is_complete;
        let connection = self.connection()?;
        if was_failing {
            file::set_meta(connection, "tried", &Timestamp::now().to_string())?;
        }
        if !is_complete {
            connection.execute_batch(file::ADDITIONS)?;
        }
        let transaction = connection.transaction()?;
        let written = unwritten.write(&transaction, waiting)?;
        transaction.commit()?;
        self.is_complete = true;
        if let Some(until) = unwritten.reserved() {
            self.numbers.wrote(until);
        }
        Ok(written)
    }

    fn connection(&mut self) -> rusqlite::Result<&mut Connection> {
        let closed = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
        self.connection.as_mut().ok_or(rusqlite::Error::SqliteFailure(closed, None))
    }

    /// Opens the file as usual where it is open in another way, and the disk seems to allow it. The connection has to be
    /// closed before.
    fn open_as_usual(&mut self) -> rusqlite::Result<()> {
        if self.access == DatabaseAccess::Shared && self.connection.is_some() || !self.has_room() {
            return Ok(());
        }
        self.connection = None;
        let OpenedDatabase { connection, access, .. } =
            atalaya_program::database::open_as_possible(&self.path)?;
        (self.connection, self.access) = (Some(connection), access);
        Ok(())
    }

    /// Whether the disk may have room for the index; also what is kept for root counts.
    fn has_room(&self) -> bool {
        let folder = self.path.parent().unwrap_or(&self.path);
        rustix::fs::statvfs(folder).is_ok_and(|disk| {
            disk.f_bfree.saturating_mul(disk.f_frsize) >= INDEX
                && !disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
        })
    }
}
