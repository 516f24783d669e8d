//! Rows of the ledger's tables as what they stand for.

use std::str::FromStr;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};

use super::{Allowance, Ban, GoodLogin, ListUse, ProtectedOffence};
use crate::desired::Origin;
use crate::prefixes::Family;

/// The columns of [`ban`], in their order.
pub(super) const BAN: &str = "prefix, since, until, jail, sensor, evidence, strikes, ended, ended_by";

pub(super) fn ban(row: &Row<'_>) -> Result<Ban> {
    Ok(Ban {
        prefix: text(row, 0)?,
        since: time(row, 1)?,
        until: moment(row, 2)?,
        origin: Origin::from_names(text(row, 3)?, text(row, 4)?),
        evidence: serde_json::from_str(row.get_ref(5)?.as_str()?).unwrap_or_default(),
        strikes: row.get(6)?,
        ended: moment(row, 7)?,
        // As releases before wrote it.
        ended_by: row
            .get::<_, Option<String>>(8)?
            .map(|by| if by == "lapsed" { "expired".to_owned() } else { by }),
    })
}

/// `address, jail, sensor, at, why, evidence`.
pub(super) fn protected(row: &Row<'_>) -> Result<ProtectedOffence> {
    Ok(ProtectedOffence {
        address: text(row, 0)?,
        jail: text(row, 1)?,
        sensor: text(row, 2)?,
        at: time(row, 3)?,
        why: row.get(4)?,
        evidence: serde_json::from_str(row.get_ref(5)?.as_str()?).unwrap_or_default(),
    })
}

/// `address, last, sensor, service, account`.
pub(super) fn login(row: &Row<'_>) -> Result<GoodLogin> {
    Ok(GoodLogin {
        address: text(row, 0)?,
        last: time(row, 1)?,
        sensor: text(row, 2)?,
        service: row.get(3)?,
        account: row.get(4)?,
    })
}

/// `what, since, until, reason, by`.
pub(super) fn allowance(row: &Row<'_>) -> Result<Allowance> {
    Ok(Allowance {
        what: row.get(0)?,
        since: time(row, 1)?,
        until: moment(row, 2)?,
        reason: row.get(3)?,
        by: row.get(4)?,
    })
}

/// `router, family, list, mark`.
pub(super) fn list(row: &Row<'_>) -> Result<ListUse> {
    let family = if row.get::<_, i64>(1)? == 6 { Family::V6 } else { Family::V4 };
    Ok(ListUse { router: text(row, 0)?, family, list: row.get(2)?, mark: row.get(3)? })
}

/// How a family is written.
pub(super) fn family(family: Family) -> i64 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

/// A column's text as what it stands for.
pub(super) fn text<T: FromStr>(row: &Row<'_>, column: usize) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(column)?
        .as_str()?
        .parse()
        .map_err(|error| Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    Timestamp::from_millisecond(row.get(column)?)
        .map_err(|error| Error::FromSqlConversionFailure(column, Type::Integer, Box::new(error)))
}

/// A column's time, where it has one.
pub(super) fn moment(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => time(row, column).map(Some),
    }
}
