//! The ledger: the durable record of bans, in one SQLite file. A thread of its own writes it, all that
//! waits in one transaction, so that a thousand offences cost one flush of the disk; an ack follows
//! the commit. Readers open it beside.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use atalaya_wire::{Evidence, Name};
use ipnet::IpNet;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, params};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::policy::Standing;
use crate::router::Label;
use crate::state;

mod writer;

/// The ledger's format, in SQLite's `user_version`.
const SCHEMA_VERSION: i64 = 1;

/// Times are milliseconds since 1970; `until` is NULL for a permanent ban, `ended` for one that
/// stands.
const SCHEMA: &str = "
    CREATE TABLE bans (
        id INTEGER PRIMARY KEY, prefix TEXT NOT NULL, list TEXT NOT NULL,
        since INTEGER NOT NULL, until INTEGER, jail TEXT NOT NULL, sensor TEXT NOT NULL,
        evidence TEXT NOT NULL, strikes INTEGER NOT NULL, ended INTEGER, ended_by TEXT);
    CREATE UNIQUE INDEX standing ON bans (prefix, list) WHERE ended IS NULL;
    CREATE INDEX history ON bans (prefix);
    CREATE TABLE intake (sensor TEXT NOT NULL, outbox TEXT NOT NULL, through INTEGER NOT NULL,
        PRIMARY KEY (sensor, outbox)) WITHOUT ROWID;
    CREATE TABLE sensors (name TEXT PRIMARY KEY, digest BLOB NOT NULL, enrolled INTEGER NOT NULL) WITHOUT ROWID;
";

/// A ban as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The address or network.
    pub prefix: IpNet,
    /// The address list.
    pub list: String,
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
        /// `lapsed`, or who unbanned.
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
}

/// What the ledger holds when the enforcer starts.
#[derive(Debug)]
pub struct Saved {
    /// The bans that stand.
    pub bans: Vec<(IpNet, Standing, Arc<Label>)>,
    /// The largest sequence by sensor and outbox.
    pub through: HashMap<(Name, Name), u64>,
}

/// Which of the standing bans to read; all of them by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Only this jail's.
    pub jail: Option<Name>,
    /// Only those that this sensor reported.
    pub sensor: Option<Name>,
    /// Only those that share an address with this address or network.
    pub address: Option<IpNet>,
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
    #[error("the ledger {} was written by a later release (format {found}, this one knows {SCHEMA_VERSION}): use that release", path.display())]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
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
    /// Opens or makes the ledger in a folder, reads what stands for a list, and starts the writer.
    pub fn open(
        folder: &Path,
        list: &str,
        label: &dyn Fn(Name, Name) -> Label,
    ) -> Result<(Self, Saved, Writer), LedgerError> {
        let connection = connect(folder)?;
        let lock = lock(folder)?;
        let path = path(folder);
        let saved = read(&connection, list, label)
            .map_err(|source| LedgerError::Database { path: path.clone(), source })?;
        let (orders, inbox) = mpsc::channel();
        let trouble = Arc::new(Mutex::new(None));
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn({
                let trouble = trouble.clone();
                move || writer::run(connection, &inbox, &trouble)
            })
            .map_err(|source| LedgerError::Folder { path: folder.to_owned(), source })?;
        Ok((
            Self { orders, path: path.into(), trouble, reader: Arc::default() },
            saved,
            Writer { thread, _lock: lock },
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

    /// How often a prefix was banned since a time, by one jail or by all. Blocks for as long as an index
    /// is looked up in.
    pub fn earlier_bans(
        &self,
        prefix: IpNet,
        jail: Option<&Name>,
        since: Timestamp,
    ) -> Result<u32, LedgerError> {
        let database = |source| LedgerError::Database { path: self.path.to_path_buf(), source };
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match reader.take() {
            Some(connection) => connection,
            None => {
                Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(database)?
            }
        };
        let count = connection
            .prepare_cached(
                "SELECT count(*) FROM bans WHERE prefix = ?1 AND (?2 IS NULL OR jail = ?2) AND since >= ?3",
            )
            .and_then(|mut statement| {
                let jail = jail.map(Name::as_str);
                statement.query_row((prefix.to_string(), jail, since.as_millisecond()), |row| row.get(0))
            });
        *reader = Some(connection);
        count.map_err(database)
    }

    /// Why nothing can be written at the moment; `None` when all is well.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands the selected bans that stand at a time to a function, the latest first, until it returns
    /// `false`. Blocks: not for an async thread.
    pub fn each_ban(
        &self,
        selection: &Selection,
        now: Timestamp,
        each: &mut dyn FnMut(&Ban) -> bool,
    ) -> Result<(), LedgerError> {
        let database = |source| LedgerError::Database { path: self.path.to_path_buf(), source };
        let connection =
            Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(database)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(database)?;
        each_standing(&connection, selection, now, each).map_err(database)
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

/// Opens the database of a state folder, making it where it is missing. For the writer, and for the
/// commands that work beside a running enforcer.
pub fn connect(folder: &Path) -> Result<Connection, LedgerError> {
    let failed = |source| LedgerError::Folder { path: folder.to_owned(), source };
    // Two programs cannot turn one new file into a database at once.
    let _held = state::hold(folder).map_err(failed)?;
    let path = path(folder);
    let database = |source| LedgerError::Database { path: path.clone(), source };
    let mut connection = Connection::open(&path).map_err(database)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(database)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(database)?;
    // FULL: what was acked survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL").map_err(database)?;
    let version =
        |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get(0));
    let found: i64 = version(&connection).map_err(database)?;
    if found > SCHEMA_VERSION {
        return Err(LedgerError::TooNew { path, found });
    }
    if found == 0 {
        let transaction = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(database)?;
        // Another process may have made it while this one waited.
        if version(&transaction).map_err(database)? == 0 {
            transaction.execute_batch(SCHEMA).map_err(database)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(database)?;
        }
        transaction.commit().map_err(database)?;
    }
    Ok(connection)
}

fn path(folder: &Path) -> PathBuf {
    folder.join("ledger.sqlite3")
}

fn lock(folder: &Path) -> Result<std::fs::File, LedgerError> {
    let failed = |source| LedgerError::Folder { path: folder.to_owned(), source };
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(LedgerError::Locked { path: folder.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn read(connection: &Connection, list: &str, label: &dyn Fn(Name, Name) -> Label) -> rusqlite::Result<Saved> {
    // Few labels are many bans': they share them.
    let mut labels: HashMap<(String, String), Arc<Label>> = HashMap::new();
    let mut statement = connection
        .prepare("SELECT prefix, until, jail, sensor FROM bans WHERE ended IS NULL AND list = ?1")?;
    let mut rows = statement.query([list])?;
    let mut bans = Vec::new();
    while let Some(row) = rows.next()? {
        let prefix: IpNet = text(row, 0)?;
        let until = row.get::<_, Option<i64>>(1)?.map(moment).transpose()?;
        let key = (row.get(2)?, row.get(3)?);
        let label = match labels.get(&key) {
            Some(label) => label.clone(),
            None => labels.entry(key).or_insert(Arc::new(label(text(row, 2)?, text(row, 3)?))).clone(),
        };
        bans.push((prefix, Standing { until }, label));
    }
    let mut through = HashMap::new();
    let mut statement = connection.prepare("SELECT sensor, outbox, through FROM intake")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        through.insert((text(row, 0)?, text(row, 1)?), row.get::<_, i64>(2)?.cast_unsigned());
    }
    Ok(Saved { bans, through })
}

fn each_standing(
    connection: &Connection,
    selection: &Selection,
    now: Timestamp,
    each: &mut dyn FnMut(&Ban) -> bool,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT prefix, list, since, until, jail, sensor, evidence, strikes FROM bans
         WHERE ended IS NULL AND (until IS NULL OR until > ?1)
           AND (?2 IS NULL OR jail = ?2) AND (?3 IS NULL OR sensor = ?3) ORDER BY id DESC",
    )?;
    let name = |name: &Option<Name>| name.as_ref().map(|name| name.as_str().to_owned());
    let mut rows =
        statement.query(params![now.as_millisecond(), name(&selection.jail), name(&selection.sensor)])?;
    while let Some(row) = rows.next()? {
        let prefix: IpNet = text(row, 0)?;
        if selection.address.is_some_and(|net| !net.contains(&prefix) && !prefix.contains(&net)) {
            continue;
        }
        let ban = Ban {
            prefix,
            list: row.get(1)?,
            since: moment(row.get(2)?)?,
            until: row.get::<_, Option<i64>>(3)?.map(moment).transpose()?,
            jail: text(row, 4)?,
            sensor: text(row, 5)?,
            evidence: serde_json::from_str(&row.get::<_, String>(6)?).unwrap_or_default(),
            strikes: row.get(7)?,
        };
        if !each(&ban) {
            break;
        }
    }
    Ok(())
}

/// A column's text as what it stands for.
fn text<T: std::str::FromStr>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, String>(column)?.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn moment(milliseconds: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(milliseconds).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Integer, Box::new(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn ban(host: u8, until: Option<i64>) -> Change {
        Change::Ban(Box::new(Ban {
            prefix: format!("192.0.2.{host}/32").parse().unwrap(),
            list: "spammer".to_owned(),
            since: at(0),
            until: until.map(at),
            jail: "ssh".parse().unwrap(),
            sensor: "web-1".parse().unwrap(),
            evidence: vec![Evidence::new(at(0), "test", "a line")],
            strikes: 0,
        }))
    }

    fn bans(ledger: &Ledger, selection: &Selection) -> Vec<Ban> {
        let mut bans = Vec::new();
        let mut each = |ban: &Ban| {
            bans.push(ban.clone());
            true
        };
        ledger.each_ban(selection, at(1), &mut each).unwrap();
        bans
    }

    fn label(jail: Name, sensor: Name) -> Label {
        Label::new(jail, sensor, &crate::config::ListConfig::default(), &std::collections::BTreeMap::new())
    }

    fn open(folder: &Path) -> (Ledger, Saved, Writer) {
        Ledger::open(folder, "spammer", &label).unwrap()
    }

    #[tokio::test]
    async fn what_was_committed_stands_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _, writer) = open(folder.path());
        let through =
            Change::Through { sensor: "web-1".parse().unwrap(), outbox: "o".parse().unwrap(), sequence: 7 };
        ledger.write(vec![ban(1, Some(1800)), ban(2, None), through]).committed().await.unwrap();
        drop(ledger);
        writer.join();
        let (ledger, saved, _writer) = open(folder.path());
        assert_eq!(saved.bans.len(), 2);
        assert_eq!(saved.bans[0].1, Standing { until: Some(at(1800)) });
        assert_eq!(saved.bans[1].2.comment, "ssh from web-1");
        assert_eq!(saved.through.values().collect::<Vec<_>>(), [&7]);
        assert_eq!(bans(&ledger, &Selection::default())[1].evidence[0].text, "a line");
        let only = Selection { address: Some("192.0.2.2/32".parse().unwrap()), ..Selection::default() };
        assert_eq!(bans(&ledger, &only).len(), 1);
        let none = Selection { jail: Some("ftp".parse().unwrap()), ..Selection::default() };
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
        let error = Ledger::open(folder.path(), "spammer", &label).unwrap_err();
        assert!(error.to_string().contains("another atalaya-enforcer"), "{error}");
    }

    #[test]
    fn a_ledger_of_a_later_release_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        connect(folder.path()).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(connect(folder.path()).unwrap_err().to_string().contains("later release"));
    }
}
