//! Which sensors may send. A sensor's secret is kept as its digest; it is checked in constant time,
//! and a revocation is noticed within a second.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use atalaya_wire::{Fingerprint, JoinToken, Name, Secret, reserved};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

mod roll;

/// How often a running enforcer looks whether the enrolled sensors changed.
pub const REFRESH: Duration = Duration::from_secs(1);

/// How long a stranger waits at least between two looks at who is enrolled, so that guessing is slow
/// and costs the disk little.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A sensor that may send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sensor {
    /// The name with which it authenticates.
    pub name: Name,
    /// When it was enrolled.
    pub enrolled: Timestamp,
    /// The jails that it may name; any where there is no list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jails: Option<BTreeSet<Name>>,
}

/// The enrolled sensors, as a running enforcer knows them.
#[derive(Debug)]
pub struct Enrolled {
    known: RwLock<Arc<HashMap<Name, Known>>>,
    source: Arc<Mutex<Source>>,
    /// Strangers look again one after another.
    again: tokio::sync::Mutex<()>,
}

/// What is kept of a sensor.
#[derive(Clone, Debug)]
struct Known {
    digest: [u8; 32],
    enrolled: Timestamp,
    jails: Option<Arc<BTreeSet<Name>>>,
}

/// The file, and which state of it was read last.
#[derive(Debug)]
struct Source {
    connection: Connection,
    version: i64,
}

/// Why a sensor was not enrolled or revoked.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The name is taken.
    #[error("a sensor named {0} is enrolled: choose another name, or replace its secret with --replace")]
    Taken(Name),
    /// The name stands for something else.
    #[error("no sensor can be named {name}: the name is reserved, {meaning}; choose another")]
    Reserved {
        /// The name that was asked for.
        name: Name,
        /// What it stands for.
        meaning: &'static str,
    },
    /// No sensor of this name is enrolled, so there is nothing to revoke.
    #[error("no sensor named {0} is enrolled; `atalaya-enforcer sensors` lists them")]
    Unknown(Name),
    /// The system gave no random bytes for a secret.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The folder cannot be made or held.
    #[error("cannot use the state folder {}: {source}; check that it exists and that this user may write there", path.display())]
    Folder {
        /// The state folder, as it was configured.
        path: PathBuf,
        /// What the system or the database said.
        source: std::io::Error,
    },
    /// SQLite could not open, read or write it.
    #[error("the enrolled sensors (sensors.sqlite3 in the state folder) cannot be read or written: {0}")]
    Database(#[from] rusqlite::Error),
    /// The file is of a later release.
    #[error("{} was written by a later release (format {found}): use that release", path.display())]
    TooNew {
        /// The file, with its folder as it was configured.
        path: PathBuf,
        /// Its format, a number larger than the one that this release knows.
        found: i64,
    },
    /// The service is ending.
    #[error("reading who is enrolled was cut off: {0}")]
    Cut(String),
}

/// Enrols a sensor and returns the token with which it joins.
pub fn enrol(
    state: &Path,
    name: Name,
    fingerprint: Fingerprint,
    replace: bool,
) -> Result<JoinToken, EnrolmentError> {
    if let Some(meaning) = reserved::meaning(&name) {
        return Err(EnrolmentError::Reserved { name, meaning });
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(EnrolmentError::Random)?;
    let secret = Secret::new(bytes);
    let connection = roll::open(state)?;
    let sql = if replace {
        "INSERT OR REPLACE INTO sensors VALUES (?1, ?2, ?3)"
    } else {
        "INSERT OR IGNORE INTO sensors VALUES (?1, ?2, ?3)"
    };
    let now = Timestamp::now().as_millisecond();
    if connection.execute(sql, params![name.as_str(), secret.digest(), now])? == 0 {
        return Err(EnrolmentError::Taken(name));
    }
    Ok(JoinToken { sensor: name, secret, fingerprint })
}

/// Takes a sensor's right to send.
pub fn revoke(state: &Path, name: &Name) -> Result<(), EnrolmentError> {
    let mut connection = roll::open(state)?;
    let transaction = connection.transaction()?;
    if transaction.execute("DELETE FROM sensors WHERE name = ?1", [name.as_str()])? == 0 {
        return Err(EnrolmentError::Unknown(name.clone()));
    }
    if roll::has_table(&transaction, "jails")? {
        transaction.execute("DELETE FROM jails WHERE sensor = ?1", [name.as_str()])?;
    }
    Ok(transaction.commit()?)
}

/// Lets a sensor name these jails alone from now on; any where none is given.
pub fn restrict(state: &Path, name: &Name, jails: &BTreeSet<Name>) -> Result<(), EnrolmentError> {
    let mut connection = roll::open(state)?;
    let transaction = connection.transaction()?;
    let enrolled = "SELECT count(*) FROM sensors WHERE name = ?1";
    if transaction.query_row(enrolled, [name.as_str()], |row| row.get::<_, i64>(0))? == 0 {
        return Err(EnrolmentError::Unknown(name.clone()));
    }
    transaction.execute("DELETE FROM jails WHERE sensor = ?1", [name.as_str()])?;
    for jail in jails {
        transaction.execute("INSERT INTO jails VALUES (?1, ?2)", [name.as_str(), jail.as_str()])?;
    }
    Ok(transaction.commit()?)
}

/// The addresses from which sensors came, and when they did last.
pub fn addresses(state: &Path) -> Result<Vec<(IpAddr, Timestamp)>, EnrolmentError> {
    let connection = roll::open(state)?;
    if !roll::has_table(&connection, "addresses")? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare("SELECT address, seen FROM addresses ORDER BY seen DESC")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let mut addresses = Vec::new();
    for row in rows {
        let (address, seen) = row?;
        if let (Ok(address), Ok(seen)) = (address.parse(), Timestamp::from_millisecond(seen)) {
            addresses.push((address, seen));
        }
    }
    Ok(addresses)
}

/// The enrolled sensors, by name.
pub fn sensors(state: &Path) -> Result<Vec<Sensor>, EnrolmentError> {
    let mut sensors: Vec<Sensor> = read(&roll::open(state)?)?.into_iter().map(Sensor::from).collect();
    sensors.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sensors)
}

/// The jails that sensors may name, as they are kept: sensor, jail.
pub(crate) fn jail_rows(state: &Path) -> Result<Vec<(String, String)>, EnrolmentError> {
    let connection = roll::open(state)?;
    if !roll::has_table(&connection, "jails")? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare("SELECT sensor, jail FROM jails ORDER BY sensor, jail")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Sees to it that the sensors have a file of their own, which a ledger of the first release has not.
pub(crate) fn prepare(state: &Path) -> Result<(), EnrolmentError> {
    roll::open(state).map(drop)
}

/// The enrolled sensors as they are kept: name, digest of the secret, milliseconds since 1970.
pub(crate) fn rows(state: &Path) -> Result<Vec<(String, Vec<u8>, i64)>, EnrolmentError> {
    let connection = roll::open(state)?;
    let mut statement = connection.prepare("SELECT name, digest, enrolled FROM sensors ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The name of the ledger that this state folder had last; `None` where it never had one.
pub(crate) fn had_ledger(state: &Path) -> Result<Option<String>, EnrolmentError> {
    let connection = roll::open(state)?;
    let name = connection.query_row("SELECT value FROM meta WHERE key = 'ledger'", [], |row| row.get(0));
    Ok(name.optional()?)
}

/// Remembers which ledger this state folder has.
pub(crate) fn note_ledger(state: &Path, name: &str) -> Result<(), EnrolmentError> {
    let connection = roll::open(state)?;
    // Nothing is written where nothing changes, for a full disk must not keep the enforcer from starting.
    connection.execute(
        "INSERT INTO meta (key, value) VALUES ('ledger', ?1)
         ON CONFLICT DO UPDATE SET value = excluded.value WHERE value != excluded.value",
        [name],
    )?;
    Ok(())
}

/// Remembers for the next start that the ledger is damaged; `None` once it is replaced.
pub(crate) fn note_damage(state: &Path, damage: Option<&str>) -> Result<(), EnrolmentError> {
    let connection = roll::open(state)?;
    match damage {
        Some(damage) => {
            connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('damage', ?1)", [damage])?
        }
        None => connection.execute("DELETE FROM meta WHERE key = 'damage'", [])?,
    };
    Ok(())
}

/// What was remembered of a damaged ledger.
pub(crate) fn noted_damage(state: &Path) -> Result<Option<String>, EnrolmentError> {
    let connection = roll::open(state)?;
    let damage = connection.query_row("SELECT value FROM meta WHERE key = 'damage'", [], |row| row.get(0));
    Ok(damage.optional()?)
}

// === impl Enrolled ===

impl Enrolled {
    /// The sensors of a state folder.
    pub fn new(state: &Path) -> Result<Self, EnrolmentError> {
        let mut source = Source { connection: roll::open(state)?, version: -1 };
        let known = source.read_if_changed()?.unwrap_or_default();
        Ok(Self {
            known: RwLock::new(Arc::new(known)),
            source: Arc::new(Mutex::new(source)),
            again: tokio::sync::Mutex::default(),
        })
    }

    /// Reads who is enrolled, where that may have changed.
    pub async fn refresh(&self) -> Result<(), EnrolmentError> {
        let source = self.source.clone();
        let read = move || source.lock().unwrap_or_else(PoisonError::into_inner).read_if_changed();
        let read = tokio::task::spawn_blocking(read).await;
        if let Some(known) = read.map_err(|error| EnrolmentError::Cut(error.to_string()))?? {
            *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        }
        Ok(())
    }

    /// Whether a secret is the named sensor's. One that is not known may have been enrolled this moment, so
    /// that it is looked up again before the answer is no.
    pub async fn knows(&self, name: &Name, secret: &Secret) -> bool {
        if self.matches(name, secret) {
            return true;
        }
        let turn = self.again.lock().await;
        tokio::time::sleep(LOOK_AGAIN).await;
        if let Err(error) = self.refresh().await {
            tracing::warn!(%error, "who is enrolled could not be read; the last known hold");
        }
        drop(turn);
        self.matches(name, secret)
    }

    /// Who is enrolled, in no order; at most [`REFRESH`] old while [`Self::refresh`] is called.
    pub fn sensors(&self) -> Vec<Sensor> {
        let known = self.known();
        known.iter().map(|(name, known)| Sensor::from((name.clone(), known.clone()))).collect()
    }

    /// The jails that a sensor may name; any where there is no list.
    pub fn jails(&self, name: &Name) -> Option<Arc<BTreeSet<Name>>> {
        self.known().get(name)?.jails.clone()
    }

    /// Remembers that sensors came from these addresses, and forgets those of `before` and earlier. Blocks.
    pub fn keep_addresses(
        &self,
        addresses: &[(IpAddr, Timestamp)],
        before: Timestamp,
    ) -> Result<(), EnrolmentError> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = source.connection.transaction()?;
        if !roll::has_table(&transaction, "addresses")? {
            return Ok(());
        }
        for (address, seen) in addresses {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO addresses VALUES (?1, ?2)")?
                .execute(params![address.to_string(), seen.as_millisecond()])?;
        }
        transaction.execute("DELETE FROM addresses WHERE seen <= ?1", [before.as_millisecond()])?;
        Ok(transaction.commit()?)
    }

    /// When a sensor was enrolled, by what is known; `None` for one that is not.
    pub fn since(&self, name: &Name) -> Option<Timestamp> {
        self.known().get(name).map(|known| known.enrolled)
    }

    fn known(&self) -> Arc<HashMap<Name, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn matches(&self, name: &Name, secret: &Secret) -> bool {
        // The digest is computed for unknown names too: how long it takes tells nothing.
        let digest = secret.digest();
        self.known().get(name).is_some_and(|known| known.digest.ct_eq(&digest).into())
    }
}

// === impl Source ===

impl Source {
    /// Who is enrolled; `None` where nobody wrote to the file since the last time.
    fn read_if_changed(&mut self) -> Result<Option<HashMap<Name, Known>>, EnrolmentError> {
        // Changes whenever another connection commits.
        let version: i64 = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if version == self.version {
            return Ok(None);
        }
        let known = read(&self.connection)?;
        self.version = version;
        Ok(Some(known))
    }
}

impl From<(Name, Known)> for Sensor {
    fn from((name, Known { enrolled, jails, .. }): (Name, Known)) -> Self {
        Self { name, enrolled, jails: jails.map(Arc::unwrap_or_clone) }
    }
}

fn read(connection: &Connection) -> Result<HashMap<Name, Known>, rusqlite::Error> {
    let mut jails: HashMap<String, BTreeSet<Name>> = HashMap::new();
    if roll::has_table(connection, "jails")? {
        let mut statement = connection.prepare("SELECT sensor, jail FROM jails")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let sensors = jails.entry(row.get(0)?).or_default();
            // A jail that no sensor can name is a restriction all the same.
            sensors.extend(row.get::<_, String>(1)?.parse());
        }
    }
    let mut statement = connection.prepare("SELECT name, digest, enrolled FROM sensors")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))?;
    let mut known = HashMap::new();
    for row in rows {
        let (name, digest, enrolled) = row?;
        let jails = jails.remove(&name).map(Arc::new);
        if let (Ok(name), Ok(enrolled)) = (name.parse(), Timestamp::from_millisecond(enrolled)) {
            known.insert(name, Known { digest, enrolled, jails });
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_enrolled_sensor_is_known_by_its_secret_alone_until_it_is_revoked() {
        let state = tempfile::tempdir().unwrap();
        let name: Name = "web-1".parse().unwrap();
        let fingerprint = Fingerprint::of(b"x");
        let enrolled = Enrolled::new(state.path()).unwrap();
        let token = enrol(state.path(), name.clone(), fingerprint, false).unwrap();
        assert!(enrolled.knows(&name, &token.secret).await, "one enrolled this moment is a stranger");
        assert!(!enrolled.knows(&name, &Secret::new([0; 32])).await);
        assert!(!enrolled.knows(&"web-2".parse().unwrap(), &token.secret).await);

        assert!(matches!(
            enrol(state.path(), name.clone(), fingerprint, false),
            Err(EnrolmentError::Taken(_))
        ));
        let again = enrol(state.path(), name.clone(), fingerprint, true).unwrap();
        enrolled.refresh().await.unwrap();
        assert!(enrolled.knows(&name, &again.secret).await && !enrolled.knows(&name, &token.secret).await);

        revoke(state.path(), &name).unwrap();
        enrolled.refresh().await.unwrap();
        assert!(!enrolled.knows(&name, &again.secret).await);
        assert!(matches!(revoke(state.path(), &name), Err(EnrolmentError::Unknown(_))));
    }

    #[test]
    fn the_jails_that_a_sensor_may_name_are_kept_with_it_and_a_new_secret_changes_none() {
        let state = tempfile::tempdir().unwrap();
        let [web, ssh, smtp] = ["web-1", "ssh", "smtp"].map(|name| name.parse::<Name>().unwrap());
        let fingerprint = Fingerprint::of(b"x");
        let allowed: BTreeSet<Name> = [ssh.clone(), smtp].into();
        let unknown = restrict(state.path(), &web, &allowed);
        assert!(matches!(unknown, Err(EnrolmentError::Unknown(_))));
        enrol(state.path(), web.clone(), fingerprint, false).unwrap();
        let enrolled = Enrolled::new(state.path()).unwrap();
        assert_eq!(enrolled.jails(&web), None);
        restrict(state.path(), &web, &allowed).unwrap();
        enrol(state.path(), web.clone(), fingerprint, true).unwrap();
        let again = Enrolled::new(state.path()).unwrap();
        assert_eq!(again.jails(&web).as_deref(), Some(&allowed));
        assert_eq!(sensors(state.path()).unwrap()[0].jails.as_ref(), Some(&allowed));
        restrict(state.path(), &web, &[ssh].into()).unwrap();
        assert_eq!(sensors(state.path()).unwrap()[0].jails.as_ref().unwrap().len(), 1);
        restrict(state.path(), &web, &BTreeSet::new()).unwrap();
        assert_eq!(sensors(state.path()).unwrap()[0].jails, None);
    }

    #[test]
    fn a_file_of_the_release_before_keeps_its_sensors_and_gets_the_new_tables() {
        let state = tempfile::tempdir().unwrap();
        let file = Connection::open(state.path().join("sensors.sqlite3")).unwrap();
        file.execute_batch(
            "CREATE TABLE sensors (name TEXT PRIMARY KEY, digest BLOB NOT NULL, enrolled INTEGER NOT NULL) WITHOUT ROWID;
             CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
             INSERT INTO sensors VALUES ('web-1', zeroblob(32), 1000);
             PRAGMA user_version = 1;",
        )
        .unwrap();
        let web: Name = "web-1".parse().unwrap();
        assert_eq!(sensors(state.path()).unwrap()[0].name, web);
        restrict(state.path(), &web, &["ssh".parse().unwrap()].into()).unwrap();
        let enrolled = Enrolled::new(state.path()).unwrap();
        let (address, seen) = ("192.0.2.1".parse().unwrap(), Timestamp::from_second(1_800_000_000).unwrap());
        enrolled.keep_addresses(&[(address, seen)], Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(addresses(state.path()).unwrap(), [(address, seen)]);
        enrolled.keep_addresses(&[], seen).unwrap();
        assert_eq!(addresses(state.path()).unwrap(), []);
    }

    #[test]
    fn no_sensor_bears_the_name_that_bans_of_the_enforcer_bear() {
        let state = tempfile::tempdir().unwrap();
        for name in [reserved::HAND, reserved::FLEET, reserved::FOUND] {
            let refused = enrol(state.path(), name.parse().unwrap(), Fingerprint::of(b"x"), false);
            assert!(matches!(refused, Err(EnrolmentError::Reserved { .. })), "{name}");
        }
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_the_sensors_that_can_be_read_stay_enrolled() {
        use std::os::unix::fs::FileExt;
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("sensors.sqlite3");
        let fingerprint = Fingerprint::of(b"x");
        for number in 0..500 {
            enrol(state.path(), format!("sensor-{number}").parse().unwrap(), fingerprint, false).unwrap();
        }
        let pages = path.metadata().unwrap().len() / 4096;
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[7; 4096], (pages - 2) * 4096).unwrap();
        let left = sensors(state.path()).unwrap();
        assert!((50..500).contains(&left.len()), "{} are left", left.len());
        assert_eq!(sensors(state.path()).unwrap(), left);
        enrol(state.path(), "another".parse().unwrap(), fingerprint, false).unwrap();

        std::fs::write(&path, "no database, but something else\n".repeat(300)).unwrap();
        assert!(sensors(state.path()).unwrap().is_empty());
        let aside = std::fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let aside = aside.filter(|name| name.to_str().unwrap().contains("damaged-"));
        assert!(aside.count() >= 2);
    }
}
