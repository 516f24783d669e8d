//! What is read from the ledger when the enforcer starts.

use std::collections::HashMap;
use std::sync::Arc;

use atalaya_wire::Name;
use jiff::Timestamp;
use rusqlite::{Connection, Error, params};

use super::{Allowance, GoodLogin, MOST_LOGINS, Saved, row, schema};
use crate::policy::Standing;
use crate::router::Label;

/// Reads everything that the running enforcer keeps in memory; of the good logins those since a time.
pub(super) fn read(
    connection: &Connection,
    logins_since: Option<Timestamp>,
    label: &dyn Fn(Name, Name) -> Label,
) -> rusqlite::Result<Saved> {
    let id = schema::meta(connection, schema::IDENTITY)?.ok_or(Error::QueryReturnedNoRows)?;
    let id =
        id.parse().map_err(|_| Error::InvalidParameterName(format!("`{id}` is no ledger's identity")))?;
    Ok(Saved {
        id,
        bans: standing(connection, label)?,
        through: through(connection)?,
        allowances: allowances(connection)?,
        logins: match logins_since {
            Some(since) => logins(connection, since)?,
            None => Vec::new(),
        },
        recovering: schema::meta(connection, schema::RECOVERING)?.is_some(),
    })
}

/// The entries of the allow list that were made at run time.
pub(super) fn allowances(connection: &Connection) -> rusqlite::Result<Vec<Allowance>> {
    connection
        .prepare("SELECT what, since, until, reason, by FROM allowances ORDER BY since, what")?
        .query_map([], row::allowance)?
        .collect()
}

fn logins(connection: &Connection, since: Timestamp) -> rusqlite::Result<Vec<GoodLogin>> {
    connection
        .prepare(
            "SELECT address, last, sensor, service, account FROM logins WHERE last >= ?1
             ORDER BY last DESC LIMIT ?2",
        )?
        .query_map(params![since.as_millisecond(), MOST_LOGINS as i64], row::login)?
        .collect()
}

fn standing(
    connection: &Connection,
    label: &dyn Fn(Name, Name) -> Label,
) -> rusqlite::Result<Vec<(ipnet::IpNet, Standing, Arc<Label>)>> {
    // Few labels are many bans': they share them.
    let mut labels: HashMap<String, HashMap<String, Arc<Label>>> = HashMap::new();
    let count = "SELECT count(*) FROM bans WHERE ended IS NULL";
    let count: i64 = connection.query_row(count, [], |row| row.get(0))?;
    let mut bans = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
    // In the order in which they lie in the file, which the index has not.
    let mut statement = connection.prepare(
        "SELECT prefix, until, jail, sensor FROM bans
         WHERE id IN (SELECT id FROM bans INDEXED BY standing WHERE ended IS NULL)",
    )?;
    let mut rows = statement.query([])?;
    let mut senseless = 0_u64;
    while let Some(row) = rows.next()? {
        // Whoever wrote such a row by hand keeps the others' bans.
        let Ok((prefix, until)) = row::text(row, 0).and_then(|prefix| Ok((prefix, row::moment(row, 1)?)))
        else {
            senseless += 1;
            continue;
        };
        let (jail, sensor) = (row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_str()?);
        let known = labels.get(jail).and_then(|sensors| sensors.get(sensor));
        let label = match known {
            Some(label) => label.clone(),
            None => {
                let (Ok(jail_name), Ok(sensor_name)) = (jail.parse(), sensor.parse()) else {
                    senseless += 1;
                    continue;
                };
                let label = Arc::new(label(jail_name, sensor_name));
                labels.entry(jail.to_owned()).or_default().insert(sensor.to_owned(), label.clone());
                label
            }
        };
        bans.push((prefix, Standing { until }, label));
    }
    if senseless > 0 {
        tracing::warn!(rows = senseless, "rows of the ledger are no bans and are left alone");
    }
    Ok(bans)
}

fn through(connection: &Connection) -> rusqlite::Result<HashMap<(Name, Name), u64>> {
    let mut statement = connection.prepare("SELECT sensor, outbox, through FROM intake")?;
    let rows = statement.query_map([], |row| {
        Ok(((row::text(row, 0)?, row::text(row, 1)?), row.get::<_, i64>(2)?.cast_unsigned()))
    })?;
    rows.collect()
}
