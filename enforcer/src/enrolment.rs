//! Which sensors may send. A sensor's secret is kept as its digest; it is checked in constant time,
//! and a revocation is noticed within a second.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use atalaya_program::disk::FileTrouble;
use atalaya_wire::{AnyToken, Fingerprint, JoinToken, Name, Secret, reserved};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::database::DatabaseTrouble;

mod invitations;
mod roll;

pub use invitations::{INVITED, Redemption};
use roll::{Roll, failed};

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
    /// Until when its secret is good for joining, and for that alone; it has joined where there is none.
    invited: Option<Timestamp>,
}

/// The file, and which state of it was read last.
#[derive(Debug)]
struct Source {
    state: PathBuf,
    roll: Roll,
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
    #[error("cannot use the state folder {}: {}", path.display(), source.or("check that it exists and that this user may write there"))]
    Folder {
        /// The state folder, as it was configured.
        path: PathBuf,
        /// What the system or the database said.
        source: FileTrouble,
    },
    /// SQLite could not open, read or write it.
    #[error("the enrolled sensors ({}) cannot be read or written: {source}", path.display())]
    Database {
        /// The database file within the state folder.
        path: PathBuf,
        /// What SQLite said.
        source: DatabaseTrouble,
    },
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

/// Enrols a sensor and returns the token with which it joins, whose secret lasts.
pub fn enrol(
    state: &Path,
    name: Name,
    fingerprint: Fingerprint,
    replace: bool,
) -> Result<JoinToken, EnrolmentError> {
    add(state, name, fingerprint, replace, None)
}

/// Enrols a sensor and returns a token that is good for one join within [`INVITED`]: the sensor then makes a secret of its own.
pub fn invite(
    state: &Path,
    name: Name,
    fingerprint: Fingerprint,
    replace: bool,
) -> Result<AnyToken, EnrolmentError> {
    let until = Timestamp::now().saturating_add(INVITED).unwrap_or(Timestamp::MAX);
    add(state, name, fingerprint, replace, Some(until)).map(AnyToken::Once)
}

fn add(
    state: &Path,
    name: Name,
    fingerprint: Fingerprint,
    replace: bool,
    invited_until: Option<Timestamp>,
) -> Result<JoinToken, EnrolmentError> {
    if let Some(meaning) = reserved::meaning(&name) {
        return Err(EnrolmentError::Reserved { name, meaning });
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(EnrolmentError::Random)?;
    let secret = Secret::new(bytes);
    let mut connection = roll::open(state)?;
    let sql = if replace {
        "INSERT OR REPLACE INTO sensors VALUES (?1, ?2, ?3)"
    } else {
        "INSERT OR IGNORE INTO sensors VALUES (?1, ?2, ?3)"
    };
    let now = Timestamp::now().as_millisecond();
    let add = || {
        let transaction = connection.transaction()?;
        let added = transaction.execute(sql, params![name.as_str(), secret.digest(), now])?;
        if added > 0 {
            invitations::set(&transaction, &name, &secret, invited_until)?;
        }
        transaction.commit()?;
        Ok(added)
    };
    if { add }().map_err(failed(state))? == 0 {
        return Err(EnrolmentError::Taken(name));
    }
    Ok(JoinToken { sensor: name, secret, fingerprint })
}

/// Takes a sensor's right to send.
pub fn revoke(state: &Path, name: &Name) -> Result<(), EnrolmentError> {
    let mut connection = roll::open(state)?;
    let revoke = || {
        let transaction = connection.transaction()?;
        if transaction.execute("DELETE FROM sensors WHERE name = ?1", [name.as_str()])? == 0 {
            return Ok(false);
        }
        if roll::has_table(&transaction, "jails")? {
            transaction.execute("DELETE FROM jails WHERE sensor = ?1", [name.as_str()])?;
        }
        invitations::forget(&transaction, name)?;
        transaction.commit()?;
        Ok(true)
    };
    let revoked = { revoke }().map_err(failed(state))?;
    if !revoked {
        return Err(EnrolmentError::Unknown(name.clone()));
    }
    Ok(())
}

/// Lets a sensor name these jails alone from now on; any where none is given.
pub fn restrict(state: &Path, name: &Name, jails: &BTreeSet<Name>) -> Result<(), EnrolmentError> {
    let mut connection = roll::open(state)?;
    let restrict = || {
        let transaction = connection.transaction()?;
        let enrolled = "SELECT count(*) FROM sensors WHERE name = ?1";
        if transaction.query_row(enrolled, [name.as_str()], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(false);
        }
        transaction.execute("DELETE FROM jails WHERE sensor = ?1", [name.as_str()])?;
        for jail in jails {
            transaction.execute("INSERT INTO jails VALUES (?1, ?2)", [name.as_str(), jail.as_str()])?;
        }
        transaction.commit()?;
        Ok(true)
    };
    let is_enrolled = { restrict }().map_err(failed(state))?;
    if is_enrolled { Ok(()) } else { Err(EnrolmentError::Unknown(name.clone())) }
}

/// The addresses from which sensors came, and when they did last.
pub fn addresses(state: &Path) -> Result<Vec<(IpAddr, Timestamp)>, EnrolmentError> {
    let connection = roll::read(state)?.connection;
    let rows = || -> rusqlite::Result<Vec<(String, i64)>> {
        if !roll::has_table(&connection, "addresses")? {
            return Ok(Vec::new());
        }
        let mut statement = connection.prepare("SELECT address, seen FROM addresses ORDER BY seen DESC")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let kept = |(address, seen): (String, i64)| {
        Some((address.parse().ok()?, Timestamp::from_millisecond(seen).ok()?))
    };
    Ok(rows().map_err(failed(state))?.into_iter().filter_map(kept).collect())
}

/// The enrolled sensors, by name.
pub fn sensors(state: &Path) -> Result<Vec<Sensor>, EnrolmentError> {
    let known = known(&roll::read(state)?.connection).map_err(failed(state))?;
    let mut sensors: Vec<Sensor> = known.into_iter().map(Sensor::from).collect();
    sensors.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sensors)
}

/// Whether a sensor is enrolled, as far as is known: one that cannot be read may be.
pub fn is_any(state: &Path) -> bool {
    let count = || {
        let connection = roll::read(state)?.connection;
        let count = connection.query_row("SELECT count(*) FROM sensors", [], |row| row.get::<_, i64>(0));
        count.map_err(failed(state))
    };
    count().map_or(true, |count| count > 0)
}

/// The jails that sensors may name, as they are kept: sensor, jail.
pub(crate) fn jail_rows(state: &Path) -> Result<Vec<(String, String)>, EnrolmentError> {
    let connection = roll::read(state)?.connection;
    let rows = || {
        if !roll::has_table(&connection, "jails")? {
            return Ok(Vec::new());
        }
        let mut statement = connection.prepare("SELECT sensor, jail FROM jails ORDER BY sensor, jail")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    rows().map_err(failed(state))
}

/// Sees to it that the sensors have a file of their own, which a ledger of the first release has not.
pub(crate) fn prepare(state: &Path) -> Result<(), EnrolmentError> {
    roll::open(state).map(drop)
}

/// The enrolled sensors as they are kept: name, digest of the secret, milliseconds since 1970. Without those that have not
/// joined yet, whose secret is good for that alone.
pub(crate) fn rows(state: &Path) -> Result<Vec<(String, Vec<u8>, i64)>, EnrolmentError> {
    let connection = roll::read(state)?.connection;
    let rows = || {
        let joined = if roll::has_table(&connection, "invitations")? {
            " WHERE name NOT IN (SELECT sensor FROM invitations WHERE redeemed IS NULL)"
        } else {
            ""
        };
        let sql = format!("SELECT name, digest, enrolled FROM sensors{joined} ORDER BY name");
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect::<Result<_, _>>()
    };
    rows().map_err(failed(state))
}

/// The name of the ledger that this state folder had last; `None` where it never had one.
pub(crate) fn had_ledger(state: &Path) -> Result<Option<String>, EnrolmentError> {
    noted(state, "ledger")
}

/// Remembers which ledger this state folder has.
pub(crate) fn note_ledger(state: &Path, name: &str) -> Result<(), EnrolmentError> {
    // Nothing is written where nothing changes, for a full disk must not keep the enforcer from starting.
    if had_ledger(state)?.as_deref() == Some(name) {
        return Ok(());
    }
    note(state, "ledger", Some(name))
}

/// Remembers for the next start that the ledger is damaged; `None` once it is replaced.
pub(crate) fn note_damage(state: &Path, damage: Option<&str>) -> Result<(), EnrolmentError> {
    note(state, "damage", damage)
}

/// What was remembered of a damaged ledger.
pub(crate) fn noted_damage(state: &Path) -> Result<Option<String>, EnrolmentError> {
    noted(state, "damage")
}

fn noted(state: &Path, key: &str) -> Result<Option<String>, EnrolmentError> {
    let connection = roll::read(state)?.connection;
    let value = connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0));
    value.optional().map_err(failed(state))
}

fn note(state: &Path, key: &str, value: Option<&str>) -> Result<(), EnrolmentError> {
    let connection = roll::open(state)?;
    let done = match value {
        Some(value) => connection
            .execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", params![key, value]),
        None => connection.execute("DELETE FROM meta WHERE key = ?1", [key]),
    };
    done.map(drop).map_err(failed(state))
}

// === impl Enrolled ===

impl Enrolled {
    /// The sensors of a state folder.
    pub fn new(state: &Path) -> Result<Self, EnrolmentError> {
        let mut source = Source { state: state.to_owned(), roll: roll::read(state)?, version: -1 };
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
        source.keep_addresses(addresses, before).map_err(failed(&source.state))
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
        let known = self.known();
        let known = known.get(name);
        known.is_some_and(|known| known.digest.ct_eq(&digest).into() && known.invited.is_none())
    }

    /// Whether a secret is the named sensor's first one, which it has not used yet.
    pub async fn invited(&self, name: &Name, secret: &Secret, now: Timestamp) -> bool {
        let turn = self.again.lock().await;
        tokio::time::sleep(LOOK_AGAIN).await;
        if let Err(error) = self.refresh().await {
            tracing::warn!(%error, "who is enrolled could not be read; the last known hold");
        }
        drop(turn);
        let digest = secret.digest();
        let known = self.known();
        known.get(name).is_some_and(|known| {
            known.digest.ct_eq(&digest).into() && known.invited.is_some_and(|until| now < until)
        })
    }

    /// Gives a sensor that was invited the secret that it made, of which this is the digest. One after another, and slowly.
    pub async fn redeem(
        &self,
        name: Name,
        first: Secret,
        digest: [u8; 32],
        now: Timestamp,
    ) -> Result<Redemption, EnrolmentError> {
        let turn = self.again.lock().await;
        tokio::time::sleep(LOOK_AGAIN).await;
        let source = self.source.clone();
        let redeem = move || {
            let state = source.lock().unwrap_or_else(PoisonError::into_inner).state.clone();
            let mut connection = roll::open(&state)?;
            invitations::redeem(&mut connection, &name, &first, digest, now).map_err(failed(&state))
        };
        let done = tokio::task::spawn_blocking(redeem).await;
        let done = done.map_err(|error| EnrolmentError::Cut(error.to_string()))??;
        self.refresh().await?;
        drop(turn);
        Ok(done)
    }
}

// === impl Source ===

impl Source {
    /// Writes addresses, where the file is open as usual: from a copy in memory nothing gets to it.
    fn keep_addresses(
        &mut self,
        addresses: &[(IpAddr, Timestamp)],
        before: Timestamp,
    ) -> rusqlite::Result<()> {
        if self.roll.is_copy {
            return Ok(());
        }
        let transaction = self.roll.connection.transaction()?;
        if !roll::has_table(&transaction, "addresses")? {
            return Ok(());
        }
        for (address, seen) in addresses {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO addresses VALUES (?1, ?2)")?
                .execute(params![address.to_string(), seen.as_millisecond()])?;
        }
        transaction.execute("DELETE FROM addresses WHERE seen <= ?1", [before.as_millisecond()])?;
        transaction.commit()
    }

    /// Who is enrolled; `None` where nobody wrote to the file since the last time.
    fn read_if_changed(&mut self) -> Result<Option<HashMap<Name, Known>>, EnrolmentError> {
        if self.roll.is_copy
            && let Ok(connection) = roll::open(&self.state)
        {
            self.roll = Roll { connection, is_copy: false };
            self.version = -1;
        }
        let connection = &self.roll.connection;
        // Changes whenever another connection commits.
        let version = connection.pragma_query_value(None, "data_version", |row| row.get(0));
        let version: i64 = version.map_err(failed(&self.state))?;
        if version == self.version {
            return Ok(None);
        }
        let known = known(connection).map_err(failed(&self.state))?;
        self.version = version;
        Ok(Some(known))
    }
}

impl From<(Name, Known)> for Sensor {
    fn from((name, Known { enrolled, jails, .. }): (Name, Known)) -> Self {
        Self { name, enrolled, jails: jails.map(Arc::unwrap_or_clone) }
    }
}

fn known(connection: &Connection) -> Result<HashMap<Name, Known>, rusqlite::Error> {
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
    let mut invited = invitations::open(connection)?;
    let mut statement = connection.prepare("SELECT name, digest, enrolled FROM sensors")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))?;
    let mut known = HashMap::new();
    for row in rows {
        let (name, digest, enrolled) = row?;
        let jails = jails.remove(&name).map(Arc::new);
        let invited = invited.remove(&name);
        if let (Ok(name), Ok(enrolled)) = (name.parse(), Timestamp::from_millisecond(enrolled)) {
            known.insert(name, Known { digest, enrolled, jails, invited });
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
    }

    #[test]
    fn damage_to_the_sensors_leaves_the_jails_that_the_others_may_name_and_the_reverse() {
        use std::os::unix::fs::FileExt;
        const SENSORS: usize = 200;
        let whole = tempfile::tempdir().unwrap();
        let path = |state: &Path| state.join("sensors.sqlite3");
        let (fingerprint, ssh) = (Fingerprint::of(b"x"), BTreeSet::from(["ssh".parse().unwrap()]));
        for number in 0..SENSORS {
            let name: Name = format!("sensor-{number}").parse().unwrap();
            enrol(whole.path(), name.clone(), fingerprint, false).unwrap();
            restrict(whole.path(), &name, &ssh).unwrap();
        }
        let file = Connection::open(path(whole.path())).unwrap();
        file.pragma_update(None, "journal_mode", "DELETE").unwrap();
        drop(file);
        let pages = path(whole.path()).metadata().unwrap().len() / 4096;
        let (mut fewer, mut free) = (0, 0);
        for page in 1..pages {
            let state = tempfile::tempdir().unwrap();
            std::fs::copy(path(whole.path()), path(state.path())).unwrap();
            let file = std::fs::File::options().write(true).open(path(state.path())).unwrap();
            file.write_all_at(&[7; 4096], page * 4096).unwrap();
            let left = sensors(state.path()).unwrap();
            let restricted = left.iter().filter(|sensor| sensor.jails.as_ref() == Some(&ssh)).count();
            assert!(
                left.len() == SENSORS || restricted == left.len(),
                "page {page}: {restricted} of {}",
                left.len()
            );
            fewer += usize::from(left.len() < SENSORS);
            free += usize::from(restricted < left.len());
        }
        assert!(fewer > 0 && free > 0, "{fewer} {free}");
    }

    #[test]
    fn a_file_that_is_no_database_any_more_is_set_aside_each_time() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("sensors.sqlite3");
        std::fs::write(&path, "few bytes, and no database at all\n".repeat(300)).unwrap();
        assert!(sensors(state.path()).unwrap().is_empty());

        std::fs::write(&path, "no database, but something else\n".repeat(300)).unwrap();
        assert!(sensors(state.path()).unwrap().is_empty());
        let aside = std::fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let aside = aside.filter(|name| name.to_str().unwrap().contains("damaged-"));
        assert!(aside.count() >= 2);
    }
}
