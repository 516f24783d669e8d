//! What keeps the ledger from growing for ever: bans that are over long enough go, then the oldest of what
//! is over while there is too much; free pages are given back, and the journal is cut. All of it in slices
//! of a few milliseconds, between which new bans are written.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};

use super::{HistoryConfig, MOST_LOGINS, MOST_PROTECTED, REMEMBERED, Terms};

/// How often it is looked whether there is anything to do.
const ROUND: Duration = Duration::from_secs(60);

/// How long one slice should take.
const SLICE: Duration = Duration::from_millis(4);

/// How long new bans may keep a slice from its turn.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the ledger has to be quiet before its journal is cut.
const QUIET: Duration = Duration::from_secs(3);

/// So many free pages are no reason to move others, nor is one in so many: new bans take them.
const FREE_PAGES: i64 = 256;
const FREE_SHARE: i64 = 20;

/// The work on a ledger between its writes.
#[derive(Debug)]
pub(super) struct Housekeeping {
    terms: Terms,
    history: Arc<Mutex<HistoryConfig>>,
    step: Phase,
    /// When the next slice is due.
    due: Instant,
    /// When something was written last that the journal still holds.
    written: Option<Instant>,
    bans: Portion,
    pages: Portion,
    told: Told,
}

/// Where a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Rest,
    /// Bans go that are over for too long.
    Age,
    /// Bans go because the ledger is too large.
    Size,
    /// What else has a bound is cut to it.
    Bounds,
    /// Free pages are given back.
    Pages,
}

/// How much is done in a slice, so that it takes as long as it should.
#[derive(Clone, Copy, Debug)]
struct Portion {
    now: i64,
    most: i64,
}

/// What was said already.
#[derive(Debug, Default)]
struct Told {
    young: bool,
    only_standing: bool,
    failed: bool,
}

// === impl Housekeeping ===

impl Housekeeping {
    /// Work that begins soon.
    pub fn new(terms: &Terms) -> Self {
        let keep = terms.history.keep.signed();
        if keep < REMEMBERED {
            tracing::info!(
                "[history] keep is less than 30 days: bans are kept that long nonetheless, because later ones are longer after them"
            );
        }
        Self {
            terms: terms.clone(),
            history: Arc::new(Mutex::new(terms.history)),
            step: Phase::Age,
            due: Instant::now() + QUIET,
            written: None,
            bans: Portion { now: 100, most: 2000 },
            pages: Portion { now: 50, most: 1000 },
            told: Told::default(),
        }
    }

    /// How much is kept, to be changed from outside; it holds from the next slice on.
    pub fn shared_history(&self) -> Arc<Mutex<HistoryConfig>> {
        self.history.clone()
    }

    fn history(&self) -> HistoryConfig {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long until there is something to do.
    pub fn wait(&self, now: Instant) -> Duration {
        let cut = self.written.map_or(ROUND, |written| (written + QUIET).saturating_duration_since(now));
        self.due.saturating_duration_since(now).min(cut)
    }

    /// Whether a slice has waited for so long that new bans wait for it for once.
    pub fn is_overdue(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.due) > PATIENCE
    }

    /// Takes note that something was written, whose journal is cut once nothing more comes.
    pub fn wrote(&mut self, now: Instant) {
        self.written = Some(now);
    }

    /// Does what is due, for a few milliseconds.
    pub fn work(&mut self, connection: &mut Connection) {
        let begun = Instant::now();
        if begun >= self.due {
            let done = self.slice(connection);
            match done {
                Ok(()) => self.told.failed = false,
                Err(error) => {
                    if !std::mem::replace(&mut self.told.failed, true) {
                        tracing::warn!(%error, "what is over cannot be cleared from the ledger; it is tried again every minute");
                    }
                    self.step = Phase::Rest;
                }
            }
            let now = Instant::now();
            if self.step == Phase::Rest {
                self.step = Phase::Age;
                self.due = now + ROUND;
            } else {
                // Half of the time is everyone else's.
                self.due = now + (now - begun);
            }
        } else if self.written.is_some_and(|written| begun >= written + QUIET) {
            self.written = None;
            if let Err(error) = cut_journal(connection) {
                tracing::debug!(%error, "the ledger's journal was not cut");
            }
        }
    }

    /// A whole round at once.
    #[cfg(test)]
    pub fn round(&mut self, connection: &mut Connection) {
        while self.step != Phase::Rest {
            self.slice(connection).unwrap();
        }
        cut_journal(connection).unwrap();
    }

    fn slice(&mut self, connection: &mut Connection) -> rusqlite::Result<()> {
        // What is lost of this in a power cut is done again.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let begun = Instant::now();
        let done = self.one_step(connection, self.terms.clock.now());
        connection.pragma_update(None, "synchronous", "FULL")?;
        let next = done?;
        match self.step {
            Phase::Age | Phase::Size => self.bans.adapt(begun.elapsed()),
            Phase::Pages => self.pages.adapt(begun.elapsed()),
            Phase::Rest | Phase::Bounds => {}
        }
        self.step = next;
        Ok(())
    }

    /// Does a portion of the present step, and says which is next.
    fn one_step(&mut self, connection: &mut Connection, now: Timestamp) -> rusqlite::Result<Phase> {
        match self.step {
            Phase::Rest => Ok(Phase::Rest),
            Phase::Age => {
                let keep = self.history().keep.signed().max(REMEMBERED);
                let before = now.saturating_sub(keep).unwrap_or(Timestamp::MIN);
                let gone = forget(connection, before, self.bans.now)?;
                Ok(if gone.rows < self.bans.now { Phase::Size } else { Phase::Age })
            }
            Phase::Size => {
                if Pages::of(connection)?.used_bytes() <= self.history().max_size {
                    return Ok(Phase::Bounds);
                }
                let gone = forget(connection, Timestamp::MAX, self.bans.now)?;
                self.tell(gone, now);
                Ok(if gone.rows == 0 { Phase::Bounds } else { Phase::Size })
            }
            Phase::Bounds => cut_to_bounds(connection).map(|()| Phase::Pages),
            Phase::Pages => {
                let pages = Pages::of(connection)?;
                let spare = FREE_PAGES.max(pages.all / FREE_SHARE);
                if pages.free <= spare {
                    return Ok(Phase::Rest);
                }
                let portion = self.pages.now.min(pages.free - spare);
                // A row for each page.
                let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({portion})"))?;
                let mut rows = vacuum.query([])?;
                while rows.next()?.is_some() {}
                Ok(Phase::Pages)
            }
        }
    }

    /// Says what an administrator should know of bans that went because the ledger is too large.
    fn tell(&mut self, gone: Forgotten, now: Timestamp) {
        let limit = self.history().max_size;
        if gone.rows == 0 && !std::mem::replace(&mut self.told.only_standing, true) {
            tracing::warn!(
                limit,
                "the ledger is larger than [history] max_megabytes allows with the bans that stand alone; nothing can be cleared"
            );
        }
        let remembered = now.saturating_sub(REMEMBERED).unwrap_or(Timestamp::MIN);
        if gone.latest.is_some_and(|ended| ended > remembered)
            && !std::mem::replace(&mut self.told.young, true)
        {
            tracing::warn!(
                limit,
                "the ledger has reached [history] max_megabytes with bans of the last 30 days: the oldest of them are cleared, and who was banned that long ago counts as new; allow it more room"
            );
        }
    }
}

// === impl Portion ===

impl Portion {
    /// Takes more or less the next time.
    fn adapt(&mut self, took: Duration) {
        self.now = match took {
            took if took < SLICE / 2 => self.now * 2,
            took if took > SLICE => self.now / 2,
            _ => self.now,
        }
        .clamp(10, self.most);
    }
}

/// What was forgotten in a slice.
#[derive(Clone, Copy, Debug)]
struct Forgotten {
    rows: i64,
    /// When the last of them had ended.
    latest: Option<Timestamp>,
}

/// Forgets the bans that were over first, those before a time alone.
fn forget(connection: &mut Connection, before: Timestamp, most: i64) -> rusqlite::Result<Forgotten> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut gone = Forgotten { rows: 0, latest: None };
    let oldest: Vec<(i64, i64)> = transaction
        .prepare_cached(
            "SELECT id, ended FROM bans INDEXED BY over WHERE ended IS NOT NULL AND ended < ?1
             ORDER BY ended LIMIT ?2",
        )?
        .query_map(params![before.as_millisecond(), most], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    {
        let mut delete = transaction.prepare_cached("DELETE FROM bans WHERE id = ?1")?;
        for (id, ended) in oldest {
            delete.execute([id])?;
            gone = Forgotten { rows: gone.rows + 1, latest: Timestamp::from_millisecond(ended).ok() };
        }
    }
    transaction.commit()?;
    Ok(gone)
}

/// Cuts the logins and the spared offences to as many as are kept.
fn cut_to_bounds(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM logins WHERE last < (SELECT last FROM logins ORDER BY last DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([MOST_LOGINS as i64 - 1])?;
    connection
        .prepare_cached("DELETE FROM spared WHERE id <= (SELECT max(id) FROM spared) - ?1")?
        .execute([MOST_PROTECTED as i64])?;
    Ok(())
}

/// Moves the journal into the database and gives its room back, where nobody reads just now.
fn cut_journal(connection: &Connection) -> rusqlite::Result<()> {
    let patience: i64 = connection.pragma_query_value(None, "busy_timeout", |row| row.get(0))?;
    connection.busy_timeout(Duration::ZERO)?;
    let cut = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    connection.busy_timeout(Duration::from_millis(patience.unsigned_abs()))?;
    cut
}

/// The pages of the database file.
struct Pages {
    all: i64,
    free: i64,
    size: i64,
}

// === impl Pages ===

impl Pages {
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let ask = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get(0));
        Ok(Self { all: ask("page_count")?, free: ask("freelist_count")?, size: ask("page_size")? })
    }

    /// What is not free, in bytes.
    fn used_bytes(&self) -> u64 {
        ((self.all - self.free) * self.size).unsigned_abs()
    }
}
