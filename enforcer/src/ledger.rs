//! The ledger: the durable record of bans, in one SQLite file. A thread of its own writes it, all that
//! waits in one transaction, so that a thousand offences cost one flush of the disk; an ack follows
//! the commit. Readers open it beside.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use atalaya_wire::{Evidence, Name, Seconds};
use ipnet::IpNet;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::bans::policy::Standing;
use crate::clock::Clock;
use crate::config::HistoryConfig;
use crate::database;
use crate::desired::Label;
use crate::prefixes::Family;

pub mod backup;
mod draft;
mod examination;
mod file;
mod housekeeping;
mod migration;
mod place;
mod row;
mod salvage;
mod saved;
mod schema;
mod selection;
mod writer;

pub use selection::{Selection, Sort, Which};

pub(crate) use file::{lock, path, settle};
pub(crate) use schema::{VERSION as FORM, sign_as_recovering};

use examination::Examination;
use housekeeping::Housekeeping;
use place::Place;

/// The most good logins that are remembered, each of another address; the latest stay.
pub const MOST_LOGINS: usize = 100_000;

/// The most spared offences that are kept; the latest stay.
pub const MOST_SPARED: usize = 10_000;

/// How many bans of one prefix are looked at to see how often it was banned before.
const MOST_EARLIER: u32 = 1000;

/// A ban as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The address or network.
    pub prefix: IpNet,
    /// From when.
    pub since: Timestamp,
    /// Until when; `None` for a permanent one.
    pub until: Option<Timestamp>,
    /// The jail that decided.
    pub jail: Name,
    /// The sensor that reported.
    pub sensor: Name,
    /// What was seen.
    pub evidence: Vec<Evidence>,
    /// How often this prefix was banned, this time included; set by the ledger.
    pub strikes: u32,
    /// When it was over; `None` for one that stands. Set by the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// `lapsed`, or who ended it and why. Set by the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
}

/// An entry of the allow list that was made at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// An address, a network, or a DNS name; the key.
    pub what: String,
    /// From when.
    pub since: Timestamp,
    /// Until when; `None` for ever.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// Who allowed it.
    pub by: String,
}

/// The last good login from an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoodLogin {
    /// The address, as the host's network.
    pub address: std::net::IpAddr,
    /// When.
    pub last: Timestamp,
    /// Who saw it.
    pub sensor: Name,
    /// What let it in, such as `sshd`.
    pub service: String,
    /// Who logged in.
    pub account: String,
}

/// An offence that was not turned into a ban, because the address is protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spared {
    /// The offender.
    pub address: std::net::IpAddr,
    /// The jail that decided.
    pub jail: Name,
    /// The sensor that reported.
    pub sensor: Name,
    /// When it was spared.
    pub at: Timestamp,
    /// Why.
    pub why: String,
    /// What was seen.
    pub evidence: Vec<Evidence>,
}

/// An address list, and the mark of our entries there, that a router was once run with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ListUse {
    /// The router.
    pub router: Name,
    /// Which of its tables.
    pub family: Family,
    /// The list's name.
    pub list: String,
    /// What opens the comments of our entries.
    pub mark: String,
}

/// A change to the ledger. Making the same change again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A ban, or a later end of the one that stands.
    Ban(Box<Ban>),
    /// The ban that stands has ended.
    End {
        /// Of what.
        prefix: IpNet,
        /// When.
        at: Timestamp,
        /// `lapsed`, or who unbanned and why.
        by: String,
    },
    /// Everything up to this sequence of a sensor's outbox is in the ledger.
    Through {
        /// The sensor.
        sensor: Name,
        /// Its outbox.
        outbox: Name,
        /// The sequence.
        sequence: u64,
    },
    /// An entry of the allow list; replaces the one of the same key.
    Allow(Box<Allowance>),
    /// An entry of the allow list is gone.
    Disallow {
        /// Its key.
        what: String,
    },
    /// A good login; an earlier one than what is known of the address changes nothing.
    Login(Box<GoodLogin>),
    /// An offence that was not turned into a ban.
    Spared(Box<Spared>),
    /// A router is run with this list and mark.
    List(Box<ListUse>),
    /// A router has no entry of ours left on this list with this mark.
    ForgetList(Box<ListUse>),
    /// What could be gathered again after the loss of a ledger is gathered.
    Recovered,
}

/// How often a prefix was banned before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// How often; at most 1000.
    pub count: u32,
    /// When the last of these bans ended; `None` where there was none, or it was permanent.
    pub last_end: Option<Timestamp>,
}

/// What the ledger holds when the enforcer starts.
#[derive(Debug)]
pub struct Saved {
    /// The ledger's name, which it has for life: a new one where the ledger was lost or restored.
    pub id: Name,
    /// The bans that stand, also those whose time is over and whose end is not written yet.
    pub bans: Vec<(IpNet, Standing, Arc<Label>)>,
    /// The largest sequence by sensor and outbox.
    pub through: HashMap<(Name, Name), u64>,
    /// The entries of the allow list that were made at run time, also those whose time is over.
    pub allowances: Vec<Allowance>,
    /// The good logins that are young enough, the latest first.
    pub logins: Vec<GoodLogin>,
    /// Whether a ledger before this one was lost: bans that routers hold and the ledger does not are to be
    /// taken over, until [`Change::Recovered`].
    pub recovering: bool,
}

/// On what terms a ledger is kept.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// How much of what is over is kept.
    pub history: HistoryConfig,
    /// How young a good login must be to be read at the start; none are read where there is no such time.
    pub logins: Option<Seconds>,
    /// The wall clock.
    pub clock: Clock,
}

/// Tells when changes are on disk.
#[derive(Debug)]
pub struct Receipt(Option<oneshot::Receiver<Result<(), String>>>);

/// The handle to the writing thread. Dropping the last one ends it after its last commit.
#[derive(Clone, Debug)]
pub struct Ledger {
    orders: mpsc::Sender<Order>,
    path: Arc<Path>,
    trouble: Arc<Mutex<Option<String>>>,
    /// For what is looked up while deciding.
    reader: Arc<Mutex<Option<Connection>>>,
}

/// The writing thread, and the lock on the state folder.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
    _lock: std::fs::File,
    _examination: Option<Examination>,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The folder or the lock file cannot be made.
    #[error("cannot use the state folder {}: {source}; check that it exists and that this user may write there", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another enforcer runs on the same state.
    #[error("another atalaya-enforcer uses {}: stop it first, or give this one a `state` of its own", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// SQLite refused.
    #[error("the ledger {} cannot be used: {source}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file is of a later release.
    #[error("the ledger {} was written by a later release (format {found}, this one knows {}): use that release", path.display(), schema::VERSION)]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// The file, or one beside it, cannot be used.
    #[error("cannot use {}: {source}; check that it is a file which this user may read and write, and that the disk has room", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is a database of something else.
    #[error("{} is a database, but no ledger: move it away, or give this enforcer a `state` of its own", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The enrolled sensors beside it cannot be used.
    #[error(transparent)]
    Sensors(#[from] crate::enrolment::EnrolmentError),
    /// A change was not written.
    #[error("the ledger cannot be written: {0}")]
    NotWritten(String),
}

struct Order {
    changes: Vec<Change>,
    /// Whether nobody will ask for these changes again, so that they are kept until they are written.
    keep: bool,
    done: oneshot::Sender<Result<(), String>>,
}

// === impl Ledger ===

impl Ledger {
    /// Opens or makes the ledger in a folder, reads what stands, and starts the writer. Blocks for seconds
    /// where there is much to read, and for minutes where a ledger of an earlier release is brought forward.
    pub fn open(
        folder: &Path,
        terms: &Terms,
        label: &dyn Fn(Name, Name) -> Label,
    ) -> Result<(Self, Saved, Writer), LedgerError> {
        let lock = lock(folder)?;
        let path = path(folder);
        let now = terms.clock.now();
        let logins_since = terms.logins.map(|within| now - within.signed());
        let (connection, saved, examined) =
            file::open(folder, now, &|connection| saved::read(connection, logins_since, label))?;
        let examination = (!examined).then(|| Examination::begin(folder, &path));
        let (orders, inbox) = mpsc::channel();
        let trouble = Arc::new(Mutex::new(None));
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn({
                let trouble = trouble.clone();
                let housekeeping = Housekeeping::new(terms);
                move || writer::run(connection, &inbox, &trouble, housekeeping)
            })
            .map_err(|source| LedgerError::Folder { path: folder.to_owned(), source })?;
        Ok((
            Self { orders, path: path.into(), trouble, reader: Arc::default() },
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
        let _ = self.orders.send(Order { changes, keep, done });
        Receipt(Some(answer))
    }

    /// How often a prefix was banned since a time, by one jail or by all, as far as that is written. Blocks
    /// for as long as an index is looked up in: microseconds.
    pub fn earlier_bans(
        &self,
        prefix: IpNet,
        jail: Option<&Name>,
        since: Timestamp,
    ) -> Result<Earlier, LedgerError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match reader.take() {
            Some(connection) => connection,
            None => database::open_to_read(&self.path).map_err(|source| self.error(source))?,
        };
        let earlier = connection
            .prepare_cached(
                "SELECT count(*), max(coalesce(ended, until)) FROM (
                     SELECT jail, since, ended, until FROM bans WHERE place = ?1 ORDER BY id DESC LIMIT ?4)
                 WHERE since >= ?3 AND (?2 IS NULL OR jail = ?2)",
            )
            .and_then(|mut statement| {
                let jail = jail.map(Name::as_str);
                statement.query_row(
                    params![Place::of(prefix), jail, since.as_millisecond(), MOST_EARLIER],
                    |row| Ok(Earlier { count: row.get(0)?, last_end: row::moment(row, 1)? }),
                )
            });
        *reader = Some(connection);
        earlier.map_err(|source| self.error(source))
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
    pub fn spared(&self, limit: usize) -> Result<Vec<Spared>, LedgerError> {
        self.read(|connection| {
            connection
                .prepare(
                    "SELECT address, jail, sensor, at, why, evidence FROM spared ORDER BY id DESC LIMIT ?1",
                )?
                .query_map([limit.min(MOST_SPARED) as i64], row::spared)?
                .collect()
        })
    }

    /// The last good login from an address. Blocks.
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
        database::open_to_read(&self.path)
            .and_then(|connection| read(&connection))
            .map_err(|source| self.error(source))
    }

    fn error(&self, source: rusqlite::Error) -> LedgerError {
        LedgerError::Database { path: self.path.to_path_buf(), source }
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
    /// Waits for the last commit; all [`Ledger`]s must be dropped first.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod housekeeping_tests;
#[cfg(test)]
mod scene;

#[cfg(test)]
mod tests {
    use super::scene::{at, ban, ban_of, bans, name, open, try_open};
    use super::*;

    #[tokio::test]
    async fn what_was_committed_stands_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, first, writer) = open(folder.path());
        let through = Change::Through { sensor: name("web-1"), outbox: name("o"), sequence: 7 };
        ledger.write(vec![ban(1, Some(1800)), ban(2, None), through]).committed().await.unwrap();
        drop(ledger);
        writer.join();
        let (ledger, saved, _writer) = open(folder.path());
        assert_eq!(saved.id, first.id);
        assert_eq!(saved.bans.len(), 2);
        assert_eq!(saved.bans[0].1, Standing { until: Some(at(1800)) });
        assert_eq!(saved.bans[1].2.comment, "ssh from web-1");
        assert_eq!(saved.through.values().collect::<Vec<_>>(), [&7]);
        assert_eq!(bans(&ledger, &Selection::default())[1].evidence[0].text, "a line");
        let only = Selection { address: Some("192.0.2.2/32".parse().unwrap()), ..Selection::default() };
        assert_eq!(bans(&ledger, &only).len(), 1);
        let none = Selection { jail: Some(name("ftp")), ..Selection::default() };
        assert!(bans(&ledger, &none).is_empty());
    }

    #[tokio::test]
    async fn a_ban_is_there_once_is_extended_and_counts_strikes_when_it_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _, _writer) = open(folder.path());
        ledger
            .write(vec![ban(1, Some(1800)), ban(1, Some(900)), ban(1, Some(3600))])
            .committed()
            .await
            .unwrap();
        let extended = bans(&ledger, &Selection::default());
        assert_eq!((extended.len(), extended[0].until, extended[0].strikes), (1, Some(at(3600)), 1));
        let end = Change::End { prefix: extended[0].prefix, at: at(3600), by: "lapsed".to_owned() };
        ledger.write(vec![end.clone(), end, ban(1, None)]).committed().await.unwrap();
        let anew = bans(&ledger, &Selection::default());
        assert_eq!((anew.len(), anew[0].until, anew[0].strikes), (1, None, 2));
    }

    #[tokio::test]
    async fn a_second_enforcer_on_the_same_state_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_ledger, _, _writer) = open(folder.path());
        let error = try_open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("another atalaya-enforcer"), "{error}");
    }

    #[tokio::test]
    async fn earlier_bans_are_counted_by_jail_and_time_and_the_last_end_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _, _writer) = open(folder.path());
        let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
        let mut changes = Vec::new();
        for (jail, since, ended) in [("ssh", 0, 100), ("smtp", 200, 300), ("ssh", 400, 450)] {
            let ban = Ban { jail: name(jail), since: at(since), ..ban_of("192.0.2.1/32", Some(1000)) };
            changes.push(Change::Ban(Box::new(ban)));
            changes.push(Change::End { prefix, at: at(ended), by: "lapsed".to_owned() });
        }
        changes.push(ban(2, None));
        ledger.write(changes).committed().await.unwrap();
        for (jail, since, count, end) in [
            (None, 0, 3, Some(450)),
            (None, 1, 2, Some(450)),
            (Some("smtp"), 0, 1, Some(300)),
            (Some("ssh"), 401, 0, None),
        ] {
            let jail = jail.map(name);
            let earlier = ledger.earlier_bans(prefix, jail.as_ref(), at(since)).unwrap();
            assert_eq!(earlier, Earlier { count, last_end: end.map(at) }, "{jail:?} since {since}");
        }
        let permanent = ledger.earlier_bans("192.0.2.2/32".parse().unwrap(), None, at(0)).unwrap();
        assert_eq!(permanent, Earlier { count: 1, last_end: None });
    }

    #[tokio::test]
    async fn what_stands_beside_the_bans_is_kept_replaced_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _, writer) = open(folder.path());
        let allowance = Allowance {
            what: "admin.example.org".to_owned(),
            since: at(0),
            until: Some(at(7200)),
            reason: "travel".to_owned(),
            by: "ana".to_owned(),
        };
        let longer = Allowance { until: None, ..allowance.clone() };
        let other = Allowance { what: "192.0.2.0/24".to_owned(), ..allowance.clone() };
        let login = |address: &str, last: i64| GoodLogin {
            address: address.parse().unwrap(),
            last: at(last),
            sensor: name("web-1"),
            service: "sshd".to_owned(),
            account: format!("at {last}"),
        };
        let spared = |second: i64| Spared {
            address: "10.0.0.1".parse().unwrap(),
            jail: name("ssh"),
            sensor: name("web-1"),
            at: at(second),
            why: "logged in well".to_owned(),
            evidence: vec![Evidence::new(at(second), "test", "a line")],
        };
        let list = |list: &str| ListUse {
            router: name("edge"),
            family: Family::V6,
            list: list.to_owned(),
            mark: "atalaya".to_owned(),
        };
        let changes = vec![
            Change::Allow(allowance.into()),
            Change::Allow(longer.clone().into()),
            Change::Allow(other.into()),
            Change::Disallow { what: "192.0.2.0/24".to_owned() },
            Change::Login(login("10.0.0.1", 50).into()),
            Change::Login(login("10.0.0.1", 20).into()),
            Change::Login(login("::1", 5).into()),
            Change::Spared(spared(1).into()),
            Change::Spared(spared(2).into()),
            Change::Spared(spared(1).into()),
            Change::List(list("old").into()),
            Change::List(list("new").into()),
            Change::List(list("new").into()),
            Change::ForgetList(list("old").into()),
        ];
        ledger.write_surely(changes).committed().await.unwrap();
        assert_eq!(ledger.allowances().unwrap(), std::slice::from_ref(&longer));
        assert_eq!(ledger.login_of("10.0.0.1".parse().unwrap()).unwrap(), Some(login("10.0.0.1", 50)));
        assert_eq!(ledger.login_of("10.0.0.2".parse().unwrap()).unwrap(), None);
        assert_eq!(ledger.spared(10).unwrap(), [spared(2), spared(1)]);
        assert_eq!(ledger.spared(1).unwrap(), [spared(2)]);
        assert_eq!(ledger.lists().unwrap(), [list("new")]);
        drop(ledger);
        writer.join();

        let clock = Clock::system();
        clock.advance(at(100).duration_since(clock.now()));
        let terms = Terms { logins: Some(Seconds(60)), clock, ..Terms::default() };
        let (_ledger, saved, _writer) = Ledger::open(folder.path(), &terms, &scene::label).unwrap();
        assert_eq!(saved.allowances, [longer]);
        assert_eq!(
            saved.logins,
            [login("10.0.0.1", 50)],
            "one that is too old is read, or a young one is not"
        );
    }
}
