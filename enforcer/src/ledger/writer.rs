//! The thread that writes the ledger: it takes every order that waits, and commits them together.
//! A disk that is full or broken costs acks, never bans; the thread goes on trying.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{Change, Order};

/// The most changes in one transaction.
const MOST: usize = 20_000;

/// How often what could not be written is tried again while nothing else comes.
const RETRY: Duration = Duration::from_secs(1);

/// Writes until the last sender is gone.
pub(super) fn run(mut connection: Connection, inbox: &Receiver<Order>) {
    // Changes that nobody will ask for again, and that could not be written: at most one ban's end for
    // each ban that stood, and what was done by hand.
    let mut kept: Vec<Change> = Vec::new();
    let mut failing = false;
    loop {
        let orders = match next_orders(inbox, kept.is_empty()) {
            Some(orders) => orders,
            None if kept.is_empty() => return,
            None => {
                if let Err(error) = apply(&mut connection, kept.iter()) {
                    tracing::error!(%error, changes = kept.len(), "stopped with changes that the ledger could not take");
                }
                return;
            }
        };
        let changes = kept.iter().chain(orders.iter().flat_map(|order| &order.changes));
        let result = apply(&mut connection, changes).map_err(|error| error.to_string());
        match &result {
            Err(error) if !failing => {
                tracing::error!(
                    error,
                    "the ledger cannot be written: bans still go to the routers, but nothing is acked, and sensors send again; make room or mend the disk"
                );
                failing = true;
            }
            Ok(()) if failing => {
                tracing::info!("the ledger can be written again");
                failing = false;
            }
            _ => {}
        }
        if result.is_ok() {
            kept.clear();
        }
        for order in orders {
            if order.keep && result.is_err() {
                kept.extend(order.changes);
            }
            // Nobody waits any more where a connection broke.
            let _ = order.done.send(result.clone());
        }
    }
}

/// All orders that wait; none where it is time to retry, and `None` once no more can come.
fn next_orders(inbox: &Receiver<Order>, patient: bool) -> Option<Vec<Order>> {
    let first = if patient {
        inbox.recv().ok()?
    } else {
        match inbox.recv_timeout(RETRY) {
            Ok(order) => order,
            Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    };
    let mut count = first.changes.len();
    let mut orders = vec![first];
    while count < MOST
        && let Ok(order) = inbox.try_recv()
    {
        count += order.changes.len();
        orders.push(order);
    }
    Some(orders)
}

fn apply<'a>(connection: &mut Connection, changes: impl Iterator<Item = &'a Change>) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for change in changes {
        match change {
            Change::Ban(ban) => {
                let evidence = serde_json::to_string(&ban.evidence).unwrap_or_default();
                transaction
                    .prepare_cached(
                        "INSERT INTO bans (prefix, list, since, until, jail, sensor, evidence, strikes)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7,
                                 1 + coalesce((SELECT max(strikes) FROM bans WHERE prefix = ?1), 0))
                         ON CONFLICT (prefix, list) WHERE ended IS NULL DO UPDATE SET until = excluded.until
                         WHERE until IS NOT NULL AND (excluded.until IS NULL OR excluded.until > until)",
                    )?
                    .execute(params![
                        ban.prefix.to_string(),
                        ban.list,
                        ban.since.as_millisecond(),
                        ban.until.map(Timestamp::as_millisecond),
                        ban.jail.as_str(),
                        ban.sensor.as_str(),
                        evidence
                    ])?;
            }
            Change::End { prefix, at, by } => {
                transaction
                    .prepare_cached(
                        "UPDATE bans SET ended = ?2, ended_by = ?3 WHERE prefix = ?1 AND ended IS NULL",
                    )?
                    .execute(params![prefix.to_string(), at.as_millisecond(), by])?;
            }
            Change::Through { sensor, outbox, sequence } => {
                transaction
                    .prepare_cached(
                        "INSERT INTO intake VALUES (?1, ?2, ?3)
                         ON CONFLICT DO UPDATE SET through = max(through, excluded.through)",
                    )?
                    .execute(params![sensor.as_str(), outbox.as_str(), sequence.cast_signed()])?;
            }
        }
    }
    transaction.commit()
}
