//! The ledger: the durable record of bans, in one SQLite file. A thread of its own writes it, all that
//! waits in one transaction, so that a thousand offences cost one flush of the disk; an ack follows
//! the commit. Readers open it beside.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};

use atalaya_wire::Name;
use ipnet::IpNet;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

use crate::database::{self, DatabaseAccess, OpenedDatabase};
use crate::desired::Labels;

pub mod backup;
mod claims;
mod draft;
mod error;
mod examination;
mod file;
mod housekeeping;
mod jails;
mod lineage;
mod migration;
mod place;
mod record;
mod row;
mod salvage;
mod saved;
mod schema;
mod selection;
mod unwritten;
mod writer;

pub use error::LedgerError;
pub use jails::jails;
pub use lineage::{Lineage, LineageError};
pub use record::{
    Allowance, BY_HAND, Ban, Change, Claim, EarlierBan, GoodLogin, HistoryConfig, ListUse, ProtectedOffence,
    REMEMBERED, Saved, Terms,
};
pub use selection::{Selection, Sort, Which};
pub use writer::{Receipt, Writer};

pub(crate) use file::{lock, path, settle};
pub(crate) use schema::{VERSION as FORM, sign_as_recovering};

use examination::Examination;
use housekeeping::Housekeeping;
use place::Place;
use writer::{CANNOT_BE_WRITTEN, Pen, WriteOrder};

/// The most successful logins that are remembered, each of another address; the latest stay.
pub const MOST_LOGINS: usize = 100_000;

/// The most spared offences that are kept; the latest stay.
pub const MOST_PROTECTED: usize = 10_000;

/// What ended a ban whose time was over. Releases before wrote `lapsed`.
pub(crate) const EXPIRED: &str = "expired";

/// How many bans of one prefix are looked at to see how often it was banned before.
const MOST_EARLIER: u32 = 1000;

/// The handle to the writing thread. Dropping the last one ends it after its last commit.
#[derive(Clone, Debug)]
pub struct Ledger {
    orders: mpsc::Sender<WriteOrder>,
    path: Arc<Path>,
    lineage: Lineage,
    trouble: Arc<Mutex<Option<String>>>,
    /// In which way the file is open. Whoever reads it in another way than the usual one holds this meanwhile, for the
    /// writer must not change the way beneath.
    access: Arc<RwLock<DatabaseAccess>>,
    /// For what is looked up while deciding.
    reader: Arc<Mutex<Option<Connection>>>,
    history: Arc<Mutex<HistoryConfig>>,
}

// === impl Ledger ===

impl Ledger {
    /// Opens or makes the ledger in a folder, reads what stands, and starts the writer. Blocks for seconds
    /// where there is much to read, and for minutes where a ledger of an earlier release is brought forward.
    pub fn open(
        folder: &Path,
        terms: &Terms,
        labels: &mut Labels,
    ) -> Result<(Self, Saved, Writer), LedgerError> {
        let lock = lock(folder)?;
        let path = path(folder);
        let now = terms.clock.now();
        let logins_since = terms.logins.map(|within| now - within.signed());
        let (opened, saved, examined) =
            file::open(folder, now, &mut |connection| saved::read(connection, logins_since, labels))?;
        let OpenedDatabase { connection, access, trouble } = opened;
        let lineage = lineage::settle(&connection, folder);
        let trouble = trouble.map(|trouble| trouble.to_string());
        if let Some(error) = &trouble {
            tracing::error!(error, "{CANNOT_BE_WRITTEN}");
        }
        // What is examined beside the writer would keep it from opening the file as usual.
        let examination =
            (!examined && access == DatabaseAccess::Shared).then(|| Examination::begin(folder, &path));
        let (orders, inbox) = mpsc::channel();
        let trouble = Arc::new(Mutex::new(trouble));
        let access = Arc::new(RwLock::new(access));
        let pen = Pen::new(connection, path.clone(), access.clone());
        let housekeeping = Housekeeping::new(terms);
        let history = housekeeping.shared_history();
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn({
                let trouble = trouble.clone();
                move || writer::run(pen, &inbox, &trouble, housekeeping)
            })
            .map_err(|source| LedgerError::folder(folder, source))?;
        Ok((
            Self { orders, path: path.into(), lineage, trouble, access, reader: Arc::default(), history },
            saved,
            Writer { thread, _lock: lock, _examination: examination },
        ))
    }

    /// Takes changes to be written in the order of these calls. What cannot be written is dropped: for
    /// offences, which their sensor sends again until they are acked.
    pub fn write(&self, changes: Vec<Change>) -> Receipt {
        self.order(changes, false)
    }

    /// As [`Self::write`], but what cannot be written is kept and tried again every second.
    pub fn write_surely(&self, changes: Vec<Change>) -> Receipt {
        self.order(changes, true)
    }

    fn order(&self, changes: Vec<Change>, keep: bool) -> Receipt {
        if changes.is_empty() {
            return Receipt(None);
        }
        let (done, answer) = oneshot::channel();
        // A writer that has ended drops the sender, which the receipt tells.
        let _ = self.orders.send(WriteOrder { changes, keep, done });
        Receipt(Some(answer))
    }

    /// The bans of a prefix since a time, by one jail or by all, as far as they are written; the latest 1000. Blocks for
    /// as long as an index is looked up in: microseconds.
    pub fn earlier_bans(
        &self,
        prefix: IpNet,
        jail: Option<&Name>,
        since: Timestamp,
    ) -> Result<Vec<EarlierBan>, LedgerError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        let connection = match reader.take() {
            Some(connection) => connection,
            None => database::open_to_read_by(&self.path, *access).map_err(|source| self.error(source))?,
        };
        let earlier = connection
            .prepare_cached(
                "SELECT since, coalesce(ended, until) FROM (
                     SELECT jail, since, ended, until FROM bans WHERE place = ?1 ORDER BY id DESC LIMIT ?4)
                 WHERE since >= ?3 AND (?2 IS NULL OR jail = ?2)",
            )
            .and_then(|mut statement| {
                let jail = jail.map(Name::as_str);
                let parameters = params![Place::of(prefix), jail, since.as_millisecond(), MOST_EARLIER];
                let ban = |row: &rusqlite::Row<'_>| {
                    Ok(EarlierBan { since: row::time(row, 0)?, end: row::moment(row, 1)? })
                };
                statement.query_map(parameters, ban)?.collect()
            });
        *reader = Some(connection).filter(|_| *access == DatabaseAccess::Shared);
        earlier.map_err(|source| self.error(source))
    }

    /// The word by which the routers' entries of this ledger are known.
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// Keeps so much of what is over from here on.
    pub fn set_history(&self, history: HistoryConfig) {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = history;
    }

    /// Why nothing can be written at the moment; `None` when all is well.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands the selected bans to a function, in the order that was asked for, until it returns `false`.
    /// Blocks: not for an async thread. A slow function holds up nobody.
    pub fn each_ban(
        &self,
        selection: &Selection,
        now: Timestamp,
        each: &mut dyn FnMut(&Ban) -> bool,
    ) -> Result<(), LedgerError> {
        self.read(|connection| selection::each(connection, selection, now, each))
    }

    /// The latest spared offences, the latest first. Blocks.
    pub fn protected_offences(&self, limit: usize) -> Result<Vec<ProtectedOffence>, LedgerError> {
        self.read(|connection| {
            connection
                .prepare(
                    "SELECT address, jail, sensor, at, why, evidence FROM spared ORDER BY id DESC LIMIT ?1",
                )?
                .query_map([limit.min(MOST_PROTECTED) as i64], row::protected)?
                .collect()
        })
    }

    /// The last successful login from an address. Blocks.
    pub fn login_of(&self, address: std::net::IpAddr) -> Result<Option<GoodLogin>, LedgerError> {
        self.read(|connection| {
            connection
                .query_row(
                    "SELECT address, last, sensor, service, account FROM logins WHERE address = ?1",
                    [address.to_string()],
                    row::login,
                )
                .optional()
        })
    }

    /// The entries of the allow list that were made at run time, also those whose time is over. Blocks.
    pub fn allowances(&self) -> Result<Vec<Allowance>, LedgerError> {
        self.read(saved::allowances)
    }

    /// The lists and marks that routers were run with, this run included as far as it was told. Blocks.
    pub fn lists(&self) -> Result<Vec<ListUse>, LedgerError> {
        self.read(|connection| {
            connection
                .prepare("SELECT router, family, list, mark FROM lists")?
                .query_map([], row::list)?
                .collect()
        })
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        let way = *access;
        let _held = (way != DatabaseAccess::Shared).then_some(access);
        let value = database::open_to_read_by(&self.path, way).and_then(|connection| read(&connection));
        value.map_err(|source| self.error(source))
    }

    fn error(&self, source: rusqlite::Error) -> LedgerError {
        LedgerError::database(&self.path, source)
    }
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod housekeeping_tests;
#[cfg(test)]
mod scene;

#[cfg(test)]
mod tests;
