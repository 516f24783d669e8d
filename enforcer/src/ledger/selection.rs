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
    /// Only those of this jail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jail: Option<Name>,
    /// Only those that this sensor reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensor: Option<Name>,
    /// Only those that share an address with this address or network: its own, those within it, and those
    /// of networks around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default, with = "crate::prefixes::json::option")]
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
    /// In what order they come.
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
    /// Those that stand; a ban is over at its end, written or not.
    #[default]
    Standing,
    /// Those that are over.
    Over,
    /// Those that stand and those that are over.
    All,
}

/// The order of bans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// The one that began latest first.
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
            match statement.query_row([id], row::ban).optional() {
                Ok(ban) => bans.extend(ban),
                // Whoever wrote a row by hand that is no ban hides no other.
                Err(error) if error.sqlite_error().is_none() => {
                    tracing::debug!(id, %error, "a row of the ledger is no ban");
                }
                Err(error) => return Err(error),
            }
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

#[cfg(test)]
mod tests {
    use super::super::scene::{at, ban_of, bans, name, open};
    use super::super::{Ban, Change, Ledger};
    use super::*;
    use crate::desired::Origin;

    /// The last parts of the selected bans' prefixes.
    fn found(ledger: &Ledger, selection: &Selection) -> Vec<String> {
        bans(ledger, selection).into_iter().map(|ban| ban.prefix.to_string()).collect()
    }

    #[expect(clippy::many_single_char_names, reason = "a table of cases is easier to read")]
    #[tokio::test]
    async fn bans_are_found_by_what_is_known_of_them_and_come_in_the_order_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _, _writer) = open(folder.path());
        let one = |prefix: &str, since: i64, until: Option<i64>, jail: &str, sensor: &str| {
            let origin = Origin::from_names(name(jail), name(sensor));
            Change::Ban(Box::new(Ban { since: at(since), origin, ..ban_of(prefix, until) }))
        };
        let end = |prefix: &str, second: i64| Change::End {
            prefix: prefix.parse().unwrap(),
            at: at(second),
            by: "expired".to_owned(),
        };
        let changes = vec![
            one("192.0.2.7/32", -100, Some(-50), "ssh", "web-1"),
            end("192.0.2.7/32", -50),
            one("192.0.2.7/32", -40, Some(50), "ssh", "web-1"),
            one("192.0.2.0/24", -30, None, "manual", "manual"),
            one("192.0.0.0/16", -20, Some(20), "smtp", "web-2"),
            one("198.51.100.1/32", -10, Some(10), "smtp", "web-1"),
            // Over, and its end is not written yet.
            one("2001:db8::/64", -90, Some(0), "ssh", "web-2"),
        ];
        ledger.write(changes).committed().await.unwrap();
        let all = Selection::default;
        let prefix = |text: &str| Some(text.parse().unwrap());
        let [a, b, c, d, e] =
            ["192.0.2.7/32", "192.0.2.0/24", "192.0.0.0/16", "198.51.100.1/32", "2001:db8::/64"];
        for (selection, expected) in [
            (all(), vec![d, c, b, a]),
            (Selection { which: Which::All, ..all() }, vec![d, c, b, a, e, a]),
            (Selection { which: Which::Over, ..all() }, vec![e, a]),
            (Selection { jail: Some(name("ssh")), which: Which::All, ..all() }, vec![a, e, a]),
            (Selection { sensor: Some(name("web-1")), ..all() }, vec![d, a]),
            (Selection { jail: Some(name("smtp")), sensor: Some(name("web-2")), ..all() }, vec![c]),
            (Selection { address: prefix("192.0.2.7/32"), ..all() }, vec![c, b, a]),
            (Selection { address: prefix("192.0.2.8/32"), ..all() }, vec![c, b]),
            (Selection { address: prefix("192.0.2.0/25"), which: Which::All, ..all() }, vec![c, b, a, a]),
            (Selection { address: prefix("2001:db8::1/128"), which: Which::Over, ..all() }, vec![e]),
            (Selection { address: prefix("::/0"), ..all() }, vec![]),
            (Selection { since: Some(at(-30)), before: Some(at(-10)), ..all() }, vec![c, b]),
            (Selection { ending_before: Some(at(20)), ..all() }, vec![d]),
            (Selection { sort: Sort::Ending, ..all() }, vec![d, c, a, b]),
            (Selection { sort: Sort::Address, ..all() }, vec![c, b, a, d]),
            (Selection { sort: Sort::Address, which: Which::All, limit: Some(3), ..all() }, vec![c, b, a]),
            (Selection { sort: Sort::Strikes, limit: Some(2), ..all() }, vec![a, d]),
        ] {
            assert_eq!(found(&ledger, &selection), expected, "{selection:?}");
        }
    }

    #[test]
    fn no_look_at_one_address_jail_sensor_or_time_goes_through_all_bans() {
        let folder = tempfile::tempdir().unwrap();
        let (_ledger, _, _writer) = open(folder.path());
        let connection = Connection::open(folder.path().join("ledger.sqlite3")).unwrap();
        let name = Some(name("x"));
        let address = Some("192.0.2.0/24".parse().unwrap());
        for which in [Which::Standing, Which::Over, Which::All] {
            let all = || Selection { which, limit: Some(50), ..Selection::default() };
            for selection in [
                all(),
                Selection { jail: name.clone(), ..all() },
                Selection { sensor: name.clone(), ..all() },
                Selection { address, ..all() },
                Selection { since: Some(at(0)), ..all() },
                Selection { sort: Sort::Address, ..all() },
            ] {
                let (query, values) = selection.query(at(0));
                let plan: Vec<String> = connection
                    .prepare(&format!("EXPLAIN QUERY PLAN {query}"))
                    .unwrap()
                    .query_map(params_from_iter(values), |row| row.get(3))
                    .unwrap()
                    .collect::<Result<_, _>>()
                    .unwrap();
                let plan = plan.join("; ");
                assert!(!plan.contains("SCAN bans;") && !plan.ends_with("SCAN bans"), "{query}: {plan}");
                let sorts = plan.contains("TEMP B-TREE FOR ORDER BY");
                assert!(!sorts || selection.address.is_some(), "{query}: {plan}");
            }
        }
    }
}
