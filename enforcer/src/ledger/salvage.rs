//! What happens to a damaged ledger: what can be read of it goes into a new one, it is set aside, and the
//! new one says that it has to be gathered again from the routers and the sensors.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::draft::{COLUMNS, Draft};
use super::{LedgerError, claims};
use crate::{database, enrolment};

/// Bans that are over are taken over if they ended so lately that later ones are longer because of them;
/// older ones stay in the damaged file.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How many rows are skipped first where one cannot be read, and at most at once; doubled until one can.
const FIRST_SKIP: i64 = 4;
const LARGEST_SKIP: i64 = 4096;

/// The tables beside the bans, each with its key and its columns.
const OTHERS: [(&str, &str, &str); 5] = [
    ("intake", "sensor, outbox", "sensor, outbox, through"),
    ("allowances", "what", "what, since, until, reason, by"),
    ("logins", "address", "address, last, sensor, service, account"),
    ("lists", "router, family, list, mark", "router, family, list, mark"),
    ("claims", "place, sensor, jail", "place, prefix, jail, sensor, until"),
];

/// Replaces a damaged ledger with a new one that holds what can be read of it.
pub(super) fn replace(
    folder: &Path,
    path: &Path,
    why: &rusqlite::Error,
    now: Timestamp,
) -> Result<(), LedgerError> {
    tracing::error!(
        path = %path.display(), error = %why,
        "THE LEDGER IS DAMAGED: what can be read of it is taken over into a new one"
    );
    // The first form of the ledger holds the sensors too.
    enrolment::prepare(folder)?;
    let mut draft = Draft::new(path)?;
    let mut others = 0;
    if let Ok(damaged) = database::open_to_read(path) {
        let failed = |source| LedgerError::database(&database::beside(path, ".new"), source);
        // Where the file is shorter than its header says, nothing is read otherwise.
        let _ = damaged.pragma_update(None, "writable_schema", true);
        bans(&damaged, path, &mut draft, now).map_err(failed)?;
        claims::make(draft.connection()).map_err(failed)?;
        for (table, key, columns) in OTHERS {
            others += rows(&damaged, draft.connection(), table, key, columns).map_err(failed)?;
        }
        claims::leave_those_of_bans(draft.connection()).map_err(failed)?;
    }
    let bans = draft.bans();
    let finished = draft.finish(true)?;
    let aside = database::set_aside(path, now).map_err(|source| LedgerError::file(path, source))?;
    finished.take_place()?;
    enrolment::note_damage(folder, None)?;
    tracing::error!(
        bans, others, aside = %aside.display(),
        "a new ledger is in place, with the bans and the other rows that could be read: bans that the routers hold beside them are taken over from there, and the sensors send theirs again; check the disk; the damaged file is set aside and may be removed"
    );
    Ok(())
}

/// Takes over the bans that can be read. An error is the draft's.
fn bans(damaged: &Connection, path: &Path, draft: &mut Draft, now: Timestamp) -> rusqlite::Result<()> {
    let remembered = now.saturating_sub(REMEMBERED).unwrap_or(Timestamp::MIN).as_millisecond();
    let query = |order: &str| {
        format!("SELECT {COLUMNS} FROM bans NOT INDEXED WHERE id BETWEEN ?1 AND ?2 ORDER BY id {order}")
    };
    let (up, down) = (query("ASC"), query("DESC"));
    let mut take = |row: &Row<'_>| {
        let ended: Option<i64> = row.get(8).unwrap_or_default();
        if ended.is_none_or(|ended| ended >= remembered) {
            draft.ban(row)?;
        }
        Ok(())
    };
    let last = last_id(damaged, path);
    let mut from = 0;
    while from <= last {
        let passage = read(damaged, &up, from, last, &mut take)?;
        if passage.whole {
            break;
        }
        let damage = passage.reached.map_or(from, |id| id + 1);
        let mut skip = FIRST_SKIP;
        let mut beyond = damage + skip;
        while beyond <= last && !readable(damaged, beyond) {
            skip = (skip * 2).min(LARGEST_SKIP);
            beyond += skip;
        }
        // What was skipped too far is read backwards, down to the damage.
        read(damaged, &down, damage, beyond - 1, &mut take)?;
        from = beyond;
    }
    Ok(())
}

/// How far a reading came.
struct Passage {
    /// The last id that was read.
    reached: Option<i64>,
    /// Whether it came to the end.
    whole: bool,
}

fn read(
    damaged: &Connection,
    query: &str,
    first: i64,
    last: i64,
    take: &mut dyn FnMut(&Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<Passage> {
    let mut passage = Passage { reached: None, whole: false };
    let Ok(mut statement) = damaged.prepare_cached(query) else { return Ok(passage) };
    let Ok(mut rows) = statement.query(params![first, last]) else { return Ok(passage) };
    loop {
        match rows.next() {
            Ok(Some(row)) => {
                take(row)?;
                passage.reached = row.get(0).ok();
            }
            Ok(None) => return Ok(Passage { whole: true, ..passage }),
            Err(_) => return Ok(passage),
        }
    }
}

/// Whether there is something to read, or nothing more, from an id on.
fn readable(damaged: &Connection, id: i64) -> bool {
    damaged
        .prepare_cached("SELECT length(evidence) FROM bans NOT INDEXED WHERE id >= ?1 ORDER BY id LIMIT 1")
        .and_then(|mut statement| statement.query_row([id], |_| Ok(())).optional())
        .is_ok()
}

/// The largest id, as far as anything tells: the end of the table, or else the indices, as far as they can be
/// read from either side, and how many rows the file has room for.
fn last_id(damaged: &Connection, path: &Path) -> i64 {
    /// What a row takes at least, in bytes.
    const SMALLEST_ROW: u64 = 64;
    let end =
        damaged.query_row("SELECT max(id) FROM bans NOT INDEXED", [], |row| row.get::<_, Option<i64>>(0));
    if let Ok(end) = end {
        return end.unwrap_or(0);
    }
    let mut last = path.metadata().map_or(0, |file| (file.len() / SMALLEST_ROW).cast_signed());
    for (index, column) in [("history", "place"), ("by_time", "since"), ("history", "prefix")] {
        for order in ["ASC", "DESC"] {
            let query = format!("SELECT id FROM bans INDEXED BY {index} ORDER BY {column} {order}");
            let Ok(mut statement) = damaged.prepare(&query) else { continue };
            let Ok(mut rows) = statement.query([]) else { continue };
            while let Ok(Some(row)) = rows.next() {
                last = last.max(row.get(0).unwrap_or_default());
            }
        }
    }
    last
}

/// Takes over the rows of a small table, from both of its ends up to what cannot be read.
fn rows(
    damaged: &Connection,
    draft: &Connection,
    table: &str,
    key: &str,
    columns: &str,
) -> rusqlite::Result<usize> {
    let places = vec!["?"; columns.split(',').count()].join(", ");
    let mut insert =
        draft.prepare(&format!("INSERT OR IGNORE INTO {table} ({columns}) VALUES ({places})"))?;
    let mut count = 0;
    for order in ["ASC", "DESC"] {
        let keys = key.split(", ").map(|column| format!("{column} {order}")).collect::<Vec<_>>().join(", ");
        // A table that an earlier form does not have is no damage.
        let Ok(mut statement) = damaged.prepare(&format!("SELECT {columns} FROM {table} ORDER BY {keys}"))
        else {
            continue;
        };
        let width = statement.column_count();
        let Ok(mut rows) = statement.query([]) else { continue };
        while let Ok(Some(row)) = rows.next() {
            let values = (0..width).map(|column| row.get::<_, Value>(column)).collect::<Result<Vec<_>, _>>();
            if let Ok(values) = values {
                count += insert.execute(params_from_iter(values))?;
            }
        }
    }
    Ok(count)
}
