//! Which jails a ledger knows of, read beside a running enforcer.

use std::collections::BTreeSet;
use std::path::Path;

use super::LedgerError;
use crate::database;

/// The jails that banned something of which the ledger in a folder still knows, and what stands in a jail's place; at
/// most 1000. Goes from one to the next by an index, however many bans there are. Blocks.
pub fn jails(folder: &Path) -> Result<BTreeSet<String>, LedgerError> {
    let path = super::path(folder);
    let failed = |source| LedgerError::database(&path, source);
    let connection = database::open_to_read(&path).map_err(failed)?;
    let mut statement = connection
        .prepare(
            "WITH RECURSIVE each(jail) AS (
                 SELECT min(jail) FROM bans
                 UNION ALL
                 SELECT (SELECT min(jail) FROM bans WHERE jail > each.jail) FROM each WHERE each.jail IS NOT NULL)
             SELECT jail FROM each WHERE jail IS NOT NULL LIMIT 1000",
        )
        .map_err(failed)?;
    let jails = statement.query_map([], |row| row.get(0)).and_then(Iterator::collect);
    jails.map_err(failed)
}
