//! Which sensors may send. A sensor's secret is kept as its digest; it is checked in constant time,
//! and a revocation is noticed within a second.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use atalaya_wire::{Fingerprint, JoinToken, Name, Secret};
use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde::Serialize;
use subtle::ConstantTimeEq;

use crate::ledger::{self, LedgerError};

/// How often a running enforcer reads who is enrolled.
pub const REFRESH: std::time::Duration = std::time::Duration::from_secs(1);

/// An enrolled sensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sensor {
    /// Its name.
    pub name: Name,
    /// When it was enrolled.
    pub enrolled: Timestamp,
}

/// The enrolled sensors, as a running enforcer knows them.
#[derive(Debug)]
pub struct Enrolled {
    state: PathBuf,
    digests: RwLock<Arc<HashMap<Name, [u8; 32]>>>,
}

/// Why a sensor was not enrolled or revoked.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The name is taken.
    #[error("a sensor named {0} is enrolled: choose another name, or replace its secret with --replace")]
    Taken(Name),
    /// Nothing to revoke.
    #[error("no sensor named {0} is enrolled; `atalaya-enforcer sensors` lists them")]
    Unknown(Name),
    /// No random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// SQLite refused.
    #[error("the ledger cannot be used: {0}")]
    Database(#[from] rusqlite::Error),
}

/// Enrols a sensor and returns the token with which it joins.
pub fn enrol(
    state: &Path,
    name: Name,
    fingerprint: Fingerprint,
    replace: bool,
) -> Result<JoinToken, EnrolmentError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(EnrolmentError::Random)?;
    let secret = Secret::new(bytes);
    let connection = ledger::connect(state)?;
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
    let connection = ledger::connect(state)?;
    if connection.execute("DELETE FROM sensors WHERE name = ?1", [name.as_str()])? == 0 {
        return Err(EnrolmentError::Unknown(name.clone()));
    }
    Ok(())
}

/// The enrolled sensors, by name.
pub fn sensors(state: &Path) -> Result<Vec<Sensor>, EnrolmentError> {
    let connection = ledger::connect(state)?;
    let mut statement = connection.prepare("SELECT name, enrolled FROM sensors ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let mut sensors = Vec::new();
    for row in rows {
        let (name, enrolled) = row?;
        if let (Ok(name), Ok(enrolled)) = (name.parse(), Timestamp::from_millisecond(enrolled)) {
            sensors.push(Sensor { name, enrolled });
        }
    }
    Ok(sensors)
}

// === impl Enrolled ===

impl Enrolled {
    /// The sensors of a state folder.
    pub fn new(state: &Path) -> Result<Self, EnrolmentError> {
        let enrolled = Self { state: state.to_owned(), digests: RwLock::default() };
        enrolled.refresh()?;
        Ok(enrolled)
    }

    /// Reads who is enrolled. Blocks: not for an async thread.
    pub fn refresh(&self) -> Result<(), EnrolmentError> {
        let digests = read(&ledger::connect(&self.state)?)?;
        if let Ok(mut current) = self.digests.write() {
            *current = Arc::new(digests);
        }
        Ok(())
    }

    /// Whether a secret is the named sensor's.
    pub fn knows(&self, name: &Name, secret: &Secret) -> bool {
        let digests = self.digests.read().map(|digests| digests.clone()).unwrap_or_default();
        // The digest is computed for unknown names too: how long it takes tells nothing.
        let digest = secret.digest();
        digests.get(name).is_some_and(|known| known.ct_eq(&digest).into())
    }
}

fn read(connection: &Connection) -> Result<HashMap<Name, [u8; 32]>, rusqlite::Error> {
    let mut statement = connection.prepare("SELECT name, digest FROM sensors")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let mut digests = HashMap::new();
    for row in rows {
        let (name, digest) = row?;
        if let Ok(name) = name.parse() {
            digests.insert(name, digest);
        }
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enrolled_sensor_is_known_by_its_secret_alone_until_it_is_revoked() {
        let state = tempfile::tempdir().unwrap();
        let name: Name = "web-1".parse().unwrap();
        let fingerprint = Fingerprint::of(b"x");
        let token = enrol(state.path(), name.clone(), fingerprint, false).unwrap();
        let enrolled = Enrolled::new(state.path()).unwrap();
        assert!(enrolled.knows(&name, &token.secret));
        assert!(!enrolled.knows(&name, &Secret::new([0; 32])));
        assert!(!enrolled.knows(&"web-2".parse().unwrap(), &token.secret));

        assert!(matches!(enrol(state.path(), name.clone(), fingerprint, false), Err(EnrolmentError::Taken(_))));
        let again = enrol(state.path(), name.clone(), fingerprint, true).unwrap();
        enrolled.refresh().unwrap();
        assert!(enrolled.knows(&name, &again.secret) && !enrolled.knows(&name, &token.secret));

        revoke(state.path(), &name).unwrap();
        enrolled.refresh().unwrap();
        assert!(!enrolled.knows(&name, &again.secret));
        assert!(matches!(revoke(state.path(), &name), Err(EnrolmentError::Unknown(_))));
    }
}
