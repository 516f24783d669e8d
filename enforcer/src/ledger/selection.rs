//! Which bans are read from the ledger, in what order, and how they are found among millions.

use atalaya_wire::Name;
use ipnet::IpNet;
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::{Ban, row};

/// How many bans are read at once. Between two such readings the ledger's journal can be cut, however
/// long whoever reads takes over it.
const SLICE: usize = 500;

/// Which bans to read; those that stand, the latest first, by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Only this jail's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jail: Option<Name>,
    /// Only those that this sensor reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensor: Option<Name>,
    /// Only those that share an address with this address or network: its own, those within it, and those
    /// of networks around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpNet>,
    /// Only those that began at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only those that began before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
    /// Only those that end before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ending_before: Option<Timestamp>,
    /// Those that stand, those that are over, or both.
    pub which: Which,
    /// In what order.
    pub sort: Sort,
    /// Whether the order is the other way round.
    pub reverse: bool,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Bans that stand, or bans of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Those that stand.
    #[default]
    Standing,
    /// Those that are over.
    Over,
    /// Both.
    All,
}

/// The order of bans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// The latest first.
    #[default]
    Latest,
    /// The one that ends, or ended, first; permanent ones last.
    Ending,
    /// By address, IPv4 before IPv6.
    Address,
    /// The one with the most strikes first.
    Strikes,
}

/// Hands the selected bans to a function until it returns `false`.
pub(super) fn each(
    connection: &Connection,
    selection: &Selection,
    now: Timestamp,
    each: &mut dyn FnMut(&Ban) -> bool,
) -> rusqlite::Result<()> {
    let (query, values) = selection.query(now);
    let ids: Vec<i64> = connection
        .prepare(&query)?
        .query_map(params_from_iter(values), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    // What has ended, or was forgotten, since its id was read is left out.
    let standing = if selection.which == Which::Standing { " AND ended IS NULL" } else { "" };
    let mut statement =
        connection.prepare(&format!("SELECT {} FROM bans WHERE id = ?1{standing}", row::BAN))?;
    let mut bans = Vec::with_capacity(SLICE.min(ids.len()));
    for slice in ids.chunks(SLICE) {
        let transaction = connection.unchecked_transaction()?;
        for id in slice {
            bans.extend(statement.query_row([id], row::ban).optional()?);
        }
        transaction.commit()?;
        for ban in bans.drain(..) {
            if !each(&ban) {
                return Ok(());
            }
        }
    }
    Ok(())
}

// === impl Selection ===

impl Selection {
    /// The query for the ids of the selected bans.
    fn query(&self, now: Timestamp) -> (String, Vec<Value>) {
        let mut conditions: Vec<String> = Vec::new();
        let mut values: Vec<Value> = Vec::new();
        let time = |time: Timestamp| Value::Integer(time.as_millisecond());
        let mut and = |condition: &str, value: Option<Value>| {
            conditions.push(condition.to_owned());
            values.extend(value);
        };
        match self.which {
            Which::Standing => {
                and("ended IS NULL AND (until IS NULL OR until > ?)", Some(time(now)));
            }
            Which::Over => and("(ended IS NOT NULL OR until <= ?)", Some(time(now))),
            Which::All => {}
        }
        let names = [("jail", &self.jail), ("sensor", &self.sensor)];
        for (column, name) in names {
            if let Some(name) = name {
                and(&format!("{column} = ?"), Some(Value::Text(name.as_str().to_owned())));
            }
        }
        if let Some(since) = self.since {
            and("since >= ?", Some(time(since)));
        }
        if let Some(before) = self.before {
            and("since < ?", Some(time(before)));
        }
        if let Some(before) = self.ending_before {
            and("coalesce(ended, until) < ?", Some(time(before)));
        }
        if let Some(address) = self.address {
            and(&sharing(address), None);
        }
        let order = match self.sort {
            Sort::Latest => "since DESC, id DESC",
            Sort::Ending => "coalesce(ended, until) IS NULL ASC, coalesce(ended, until) ASC, id ASC",
            Sort::Address => "place ASC, id DESC",
            Sort::Strikes => "strikes DESC, since DESC, id DESC",
        };
        let order = if self.reverse {
            order.replace(" ASC", " TURNED").replace(" DESC", " ASC").replace(" TURNED", " DESC")
        } else {
            order.to_owned()
        };
        let conditions = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        let limit = self.limit.and_then(|limit| i64::try_from(limit).ok()).unwrap_or(-1);
        (format!("SELECT id FROM bans{conditions} ORDER BY {order} LIMIT {limit}"), values)
    }
}

/// The condition for bans that share an address with a prefix, which two looks into an index answer.
fn sharing(prefix: IpNet) -> String {
    let literal = |place: Place| format!("x'{}'", data_encoding::HEXLOWER.encode(place.as_bytes()));
    let (first, last) = Place::within(prefix);
    let around: Vec<String> = Place::around(prefix).map(literal).collect();
    format!(
        "id IN (SELECT id FROM bans WHERE place BETWEEN {} AND {} UNION ALL SELECT id FROM bans WHERE place IN ({}))",
        literal(first),
        literal(last),
        around.join(", ")
    )
}
