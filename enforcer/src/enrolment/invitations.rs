//! Sensors that are enrolled and have not joined: their first secret is good for one thing within an hour, to set a secret of
//! their own. What is left of it in a shell's history opens nothing.

use std::collections::HashMap;

use atalaya_wire::{Name, Secret};
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use subtle::ConstantTimeEq;

use super::roll;

/// How long a token that is good for one join may be used.
pub const INVITED: SignedDuration = SignedDuration::from_hours(1);

/// The table comes with the first invitation; releases before know nothing of it. `until` is in milliseconds since 1970,
/// `digest` that of the first secret, `redeemed` that of the sensor's own.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS invitations (sensor TEXT PRIMARY KEY, digest BLOB NOT NULL,
    until INTEGER NOT NULL, redeemed BLOB) WITHOUT ROWID";

/// What became of a first secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redemption {
    /// The sensor has its own secret, now or by the same request before.
    Done,
    /// Another secret was set with it.
    Used,
    /// Its hour is over.
    Expired,
    /// No such sensor was invited with this secret.
    Unknown,
}

/// Notes until when a sensor's secret is its first one; `None` where it lasts.
pub(super) fn set(
    transaction: &Transaction<'_>,
    sensor: &Name,
    secret: &Secret,
    until: Option<Timestamp>,
) -> rusqlite::Result<()> {
    let Some(until) = until else { return forget(transaction, sensor) };
    transaction.execute_batch(TABLE)?;
    transaction.execute(
        "INSERT OR REPLACE INTO invitations VALUES (?1, ?2, ?3, NULL)",
        params![sensor.as_str(), secret.digest(), until.as_millisecond()],
    )?;
    Ok(())
}

/// Forgets what was noted of a sensor.
pub(super) fn forget(transaction: &Transaction<'_>, sensor: &Name) -> rusqlite::Result<()> {
    if roll::has_table(transaction, "invitations")? {
        transaction.execute("DELETE FROM invitations WHERE sensor = ?1", [sensor.as_str()])?;
    }
    Ok(())
}

/// The sensors that have not joined yet, and until when they may.
pub(super) fn open(connection: &Connection) -> rusqlite::Result<HashMap<String, Timestamp>> {
    if !roll::has_table(connection, "invitations")? {
        return Ok(HashMap::new());
    }
    let mut statement = connection.prepare("SELECT sensor, until FROM invitations WHERE redeemed IS NULL")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
    let until = |millisecond| Timestamp::from_millisecond(millisecond).unwrap_or(Timestamp::MIN);
    rows.map(|row| row.map(|(sensor, millisecond)| (sensor, until(millisecond)))).collect()
}

/// Gives a sensor the secret that it made. The same again is done again: its answer may have been lost.
pub(super) fn redeem(
    connection: &mut Connection,
    sensor: &Name,
    first: &Secret,
    digest: [u8; 32],
    now: Timestamp,
) -> rusqlite::Result<Redemption> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    if !roll::has_table(&transaction, "invitations")? {
        return Ok(Redemption::Unknown);
    }
    let row = transaction
        .query_row(
            "SELECT digest, until, redeemed FROM invitations WHERE sensor = ?1",
            [sensor.as_str()],
            |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<Vec<u8>>>(2)?)),
        )
        .optional()?;
    let Some((expected, until, redeemed)) = row else { return Ok(Redemption::Unknown) };
    if !bool::from(expected.ct_eq(&first.digest()[..])) {
        return Ok(Redemption::Unknown);
    }
    if now.as_millisecond() >= until {
        return Ok(Redemption::Expired);
    }
    match redeemed {
        Some(redeemed) if redeemed == digest => return Ok(Redemption::Done),
        Some(_) => return Ok(Redemption::Used),
        None => {}
    }
    transaction
        .execute("UPDATE sensors SET digest = ?2 WHERE name = ?1", params![sensor.as_str(), digest])?;
    transaction.execute(
        "UPDATE invitations SET redeemed = ?2 WHERE sensor = ?1",
        params![sensor.as_str(), digest],
    )?;
    transaction.commit()?;
    Ok(Redemption::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrolment::{Enrolled, enrol, invite, revoke};
    use atalaya_wire::Fingerprint;

    #[tokio::test(start_paused = true)]
    async fn a_first_secret_sets_one_secret_within_its_hour_and_opens_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let name: Name = "web-1".parse().unwrap();
        let fingerprint = Fingerprint::of(b"x");
        let token = invite(state.path(), name.clone(), fingerprint, false).unwrap();
        let first = token.parts().secret.clone();
        let enrolled = Enrolled::new(state.path()).unwrap();
        let now = Timestamp::now();
        assert!(!enrolled.knows(&name, &first).await, "it is no secret of a sensor's");
        assert!(enrolled.invited(&name, &first, now).await);
        assert!(!enrolled.invited(&name, &Secret::new([1; 32]), now).await);

        let late = now + SignedDuration::from_mins(61);
        let (own, others) = (Secret::new([7; 32]), Secret::new([8; 32]));
        let redeem = async |secret: &Secret, own: &Secret, at| {
            enrolled.redeem(name.clone(), secret.clone(), own.digest(), at).await.unwrap()
        };
        assert_eq!(redeem(&others, &own, now).await, Redemption::Unknown);
        assert_eq!(redeem(&first, &own, late).await, Redemption::Expired);
        assert_eq!(redeem(&first, &own, now).await, Redemption::Done);
        assert_eq!(redeem(&first, &own, now).await, Redemption::Done, "its answer may be lost");
        assert_eq!(redeem(&first, &others, now).await, Redemption::Used);
        assert!(enrolled.knows(&name, &own).await);
        assert!(!enrolled.knows(&name, &first).await && !enrolled.knows(&name, &others).await);
        assert!(!enrolled.invited(&name, &first, now).await);

        // Enrolled anew, or revoked, none of these opens anything.
        let lasting = enrol(state.path(), name.clone(), fingerprint, true).unwrap();
        assert_eq!(redeem(&first, &others, now).await, Redemption::Unknown);
        assert!(enrolled.knows(&name, &lasting.secret).await && !enrolled.knows(&name, &own).await);
        revoke(state.path(), &name).unwrap();
        assert_eq!(redeem(&first, &own, now).await, Redemption::Unknown);
    }
}
