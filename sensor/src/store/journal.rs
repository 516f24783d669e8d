//! How far each file of systemd's journal was read.

use std::collections::HashMap;

use rusqlite::{Connection, Row, params};

use super::file::has_table;
use crate::source::journal::JournalPosition;

/// All that was written.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<JournalPosition>> {
    if !has_table(connection, "journal")? {
        return Ok(Vec::new());
    }
    let position = |row: &Row<'_>| {
        Ok(JournalPosition { file: row.get(0)?, entries: row.get::<_, i64>(1)?.cast_unsigned() })
    };
    connection.prepare("SELECT file, entries FROM journal")?.query_map([], position)?.collect()
}

/// Writes what moved; `None` is forgotten.
pub(super) fn write(connection: &Connection, moved: &HashMap<String, Option<u64>>) -> rusqlite::Result<()> {
    if moved.is_empty() {
        return Ok(());
    }
    // An earlier release's cursor: each file has its own position from now on.
    connection.prepare_cached("DELETE FROM meta WHERE key = 'journal'")?.execute([])?;
    for (file, entries) in moved {
        match entries {
            Some(entries) => connection
                .prepare_cached("INSERT OR REPLACE INTO journal VALUES (?1, ?2)")?
                .execute(params![file, entries.cast_signed()])?,
            None => connection.prepare_cached("DELETE FROM journal WHERE file = ?1")?.execute([file])?,
        };
    }
    Ok(())
}
