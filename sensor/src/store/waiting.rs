//! The offences that wait for the enforcer, as the writing thread reads them for the outbox.

use atalaya_wire::NumberedOffence;
use rusqlite::{Connection, params};

use super::unwritten::Unwritten;

/// To whom they go. Dropping it says that they cannot be read now.
pub(super) type Reply = tokio::sync::oneshot::Sender<Vec<NumberedOffence>>;

/// Answers with what waits, on disk and then among what the disk did not take yet.
pub(super) fn answer(connection: &Connection, unwritten: &Unwritten, after: u64, most: usize, reply: Reply) {
    // What is acked may still be on the disk.
    let after = after.max(unwritten.acked());
    match load(connection, after, most) {
        Ok(mut rows) => {
            let after = rows.last().map_or(after, |last| last.sequence);
            let left = most - rows.len().min(most);
            rows.extend(unwritten.offences().filter(|offence| offence.sequence > after).take(left).cloned());
            let _ = reply.send(rows);
        }
        // No answer is none: whoever asks tries again.
        Err(error) => tracing::error!(%error, "cannot read the outbox"),
    }
}

fn load(connection: &Connection, after: u64, most: usize) -> rusqlite::Result<Vec<NumberedOffence>> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, offence FROM outbox WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let rows = statement
        .query_map(params![after.cast_signed(), most.cast_signed()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(rows
        .into_iter()
        .filter_map(|(sequence, json)| {
            let offence = serde_json::from_str(&json).ok()?;
            Some(NumberedOffence { sequence: sequence.cast_unsigned(), offence })
        })
        .collect())
}
