//! The ledger's tables, and the `user_version` that says which form of them a file has.

use rusqlite::{Connection, params};

/// The ledger's format, in SQLite's `user_version`.
pub(crate) const VERSION: i64 = 2;

/// Times are milliseconds since 1970; `until` is NULL for what is permanent, `ended` for a ban that
/// stands. `place` is the prefix as bytes in the order of addresses.
pub(super) const TABLES: &str = "
    CREATE TABLE bans (
        id INTEGER PRIMARY KEY, prefix TEXT NOT NULL, place BLOB NOT NULL,
        since INTEGER NOT NULL, until INTEGER, jail TEXT NOT NULL, sensor TEXT NOT NULL,
        evidence TEXT NOT NULL, strikes INTEGER NOT NULL, ended INTEGER, ended_by TEXT);
    CREATE TABLE intake (sensor TEXT NOT NULL, outbox TEXT NOT NULL, through INTEGER NOT NULL,
        PRIMARY KEY (sensor, outbox)) WITHOUT ROWID;
    CREATE TABLE allowances (what TEXT PRIMARY KEY, since INTEGER NOT NULL, until INTEGER,
        reason TEXT NOT NULL, by TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE logins (address TEXT PRIMARY KEY, last INTEGER NOT NULL, sensor TEXT NOT NULL,
        service TEXT NOT NULL, account TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX logins_by_time ON logins (last);
    CREATE TABLE spared (id INTEGER PRIMARY KEY, address TEXT NOT NULL, jail TEXT NOT NULL,
        sensor TEXT NOT NULL, at INTEGER NOT NULL, why TEXT NOT NULL, evidence TEXT NOT NULL);
    CREATE TABLE lists (router TEXT NOT NULL, family INTEGER NOT NULL, list TEXT NOT NULL, mark TEXT NOT NULL,
        PRIMARY KEY (router, family, list, mark)) WITHOUT ROWID;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
";

/// Apart from the tables, for a table is filled faster before it has them.
pub(super) const INDICES: &str = "
    CREATE UNIQUE INDEX standing ON bans (place) WHERE ended IS NULL;
    CREATE INDEX history ON bans (place);
    CREATE INDEX by_time ON bans (since);
    CREATE INDEX by_jail ON bans (jail, since);
    CREATE INDEX by_sensor ON bans (sensor, since);
    CREATE INDEX over ON bans (ended) WHERE ended IS NOT NULL;
";

/// The key in `meta` of the name that a ledger has for life.
pub(super) const IDENTITY: &str = "identity";

/// The key in `meta` that is there while a ledger that was lost is gathered again.
pub(super) const RECOVERING: &str = "recovering";

/// Makes a ledger with all its tables this form's, with a name of its own.
pub(super) fn sign(connection: &Connection, recovering: bool) -> rusqlite::Result<()> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    set_meta(connection, IDENTITY, Some(&data_encoding::HEXLOWER.encode(&bytes)))?;
    set_meta(connection, RECOVERING, recovering.then_some("yes"))?;
    connection.pragma_update(None, "user_version", VERSION)
}

/// Gives a copy of a ledger a name of its own, and says that it lacks what came after.
pub(crate) fn sign_as_recovering(connection: &Connection) -> rusqlite::Result<()> {
    sign(connection, true)
}

/// The key in `meta` of the release that wrote last, for the messages of releases before it.
const RELEASE: &str = "release";

/// This release, as it is noted.
const OURS: &str = env!("CARGO_PKG_VERSION");

/// The release that wrote a ledger last, in words.
pub(super) fn release(connection: &Connection) -> String {
    match meta(connection, RELEASE) {
        Ok(Some(release)) => format!("release {}", release.escape_debug()),
        _ => "a later release".to_owned(),
    }
}

/// Notes that this release writes the ledger.
pub(super) fn note_release(connection: &Connection) -> rusqlite::Result<()> {
    if meta(connection, RELEASE)?.as_deref() == Some(OURS) {
        return Ok(());
    }
    set_meta(connection, RELEASE, Some(OURS))
}

/// Writes something that means nothing, to see whether anything can be written. It is another value each time, for SQLite
/// writes no page whose content stays the same.
pub(super) fn touch(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES ('touched', hex(randomblob(8)))";
    connection.execute(sql, []).map(drop)
}

/// Sets a key in `meta`, or removes it.
pub(super) fn set_meta(connection: &Connection, key: &str, value: Option<&str>) -> rusqlite::Result<()> {
    match value {
        Some(value) => connection
            .execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", params![key, value])?,
        None => connection.execute("DELETE FROM meta WHERE key = ?1", [key])?,
    };
    Ok(())
}

/// The value of a key in `meta`.
pub(super) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    use rusqlite::OptionalExtension;
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}
