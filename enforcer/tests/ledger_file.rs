//! The ledger's file over the years, against the real program: saved and restored, brought forward, killed
//! in the middle, and out of reach.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a configuration.
struct Host {
    folder: TempDir,
}

/// A running enforcer; killed with its owner.
struct Running {
    child: Child,
    lines: BufReader<ChildStderr>,
}

// === impl Host ===

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let text = format!(
            "listen = \"127.0.0.1:0\"\nstate = \"{path}/state\"\nsocket = \"{path}/run/enforcer.sock\"\n"
        );
        fs::write(folder.path().join("enforcer.toml"), text).unwrap();
        Self { folder }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-enforcer"));
        command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env_remove("JOURNAL_STREAM");
        command.arg("--config").arg(self.folder.path().join("enforcer.toml")).args(arguments);
        command
    }

    /// What a command prints, which must succeed.
    fn prints(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The message of a command that must fail.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn banned(&self) -> Vec<String> {
        let bans: Value = serde_json::from_str(&self.prints(&["bans", "--json"])).unwrap();
        let mut bans: Vec<String> =
            bans.as_array().unwrap().iter().map(|ban| ban["prefix"].as_str().unwrap().to_owned()).collect();
        bans.sort();
        bans
    }

    fn spawn(&self) -> Running {
        let mut child = self.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Running { child, lines }
    }

    fn start(&self) -> Running {
        let mut running = self.spawn();
        running.says("ready");
        running
    }
}

// === impl Running ===

impl Running {
    /// Waits for a line; returns all up to it.
    fn says(&mut self, word: &str) -> String {
        let mut said = String::new();
        loop {
            let before = said.len();
            assert!(self.lines.read_line(&mut said).unwrap() > 0, "it ended without `{word}`: {said}");
            if said[before..].contains(word) {
                return said;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A ledger of the first release, with bans and a sensor.
fn first_release(host: &Host, bans: u32) {
    fs::create_dir_all(host.state("")).unwrap();
    let connection = Connection::open(host.state("ledger.sqlite3")).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE bans (
                 id INTEGER PRIMARY KEY, prefix TEXT NOT NULL, list TEXT NOT NULL,
                 since INTEGER NOT NULL, until INTEGER, jail TEXT NOT NULL, sensor TEXT NOT NULL,
                 evidence TEXT NOT NULL, strikes INTEGER NOT NULL, ended INTEGER, ended_by TEXT);
             CREATE UNIQUE INDEX standing ON bans (prefix, list) WHERE ended IS NULL;
             CREATE INDEX history ON bans (prefix);
             CREATE TABLE intake (sensor TEXT NOT NULL, outbox TEXT NOT NULL, through INTEGER NOT NULL,
                 PRIMARY KEY (sensor, outbox)) WITHOUT ROWID;
             CREATE TABLE sensors (name TEXT PRIMARY KEY, digest BLOB NOT NULL, enrolled INTEGER NOT NULL) WITHOUT ROWID;
             INSERT INTO sensors VALUES ('web-1', zeroblob(32), 1800000000000);
             WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {bans})
             INSERT INTO bans SELECT n, '20.' || (n >> 8) || '.' || (n & 255) || '.1/32', 'spammer',
                 1800000000000, NULL, 'ssh', 'web-1', '[]', 1, NULL, NULL FROM number;
             PRAGMA user_version = 1;"
        ))
        .unwrap();
}

#[test]
fn a_migration_that_is_killed_over_and_over_loses_nothing() {
    const BANS: u32 = 30_000;
    let host = Host::new();
    first_release(&host, BANS);
    let new = host.state("ledger.sqlite3.new");
    let mut killed_in_the_middle = 0;
    // Killed when the new file has so many bytes, each time with another amount of work done.
    for size in [0, 0, 200_000, 1_000_000] {
        let mut running = host.spawn();
        running.says("brought forward");
        while !new.metadata().is_ok_and(|file| file.len() >= size) {
            if running.child.try_wait().unwrap().is_some() || host.state("ledger.sqlite3.v1").exists() {
                break;
            }
            std::thread::yield_now();
        }
        drop(running);
        killed_in_the_middle += u32::from(!host.state("ledger.sqlite3.v1").exists());
    }
    assert!(killed_in_the_middle >= 2, "the kills came too late");
    let _running = host.start();
    assert_eq!(host.banned().len(), BANS as usize);
    assert!(host.prints(&["sensors"]).contains("web-1"));
    assert!(!new.exists());
    let kept = Connection::open(host.state("ledger.sqlite3.v1")).unwrap();
    let rows: u32 = kept.query_row("SELECT count(*) FROM bans", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, BANS);
}

#[test]
fn a_backup_made_beside_a_running_enforcer_brings_everything_back_on_another_host() {
    let host = Host::new();
    let running = host.start();
    let token = host.prints(&["enrol", "web-1"]);
    host.prints(&["ban", "198.51.100.7", "--for", "permanent"]);
    host.prints(&["ban", "198.51.100.8", "--for", "1h"]);
    host.prints(&["unban", "198.51.100.8"]);
    let file = host.folder.path().join("saved");
    let name = file.to_str().unwrap();
    let said = host.prints(&["backup", name]);
    assert!(
        said.contains("bans that stand: 1, that are over: 1; sensors: 1; with the certificate"),
        "{said}"
    );
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(host.fails(&["backup", name]).contains("--force"));
    host.prints(&["ban", "198.51.100.9"]);
    let json: Value = serde_json::from_str(&host.prints(&["backup", "--force", "--json", name])).unwrap();
    assert_eq!(
        (json["standing"].as_u64(), json["bytes"].as_u64()),
        (Some(2), Some(file.metadata().unwrap().len()))
    );
    let refused = host.fails(&["restore", name]);
    assert!(refused.contains("another atalaya-enforcer"), "{refused}");
    assert_eq!(host.banned(), ["198.51.100.7", "198.51.100.9"]);
    drop(running);

    let other = Host::new();
    // Something is there already, of which a part is in the journal alone.
    let there = other.start();
    other.prints(&["enrol", "stranger"]);
    other.prints(&["ban", "203.0.113.1"]);
    drop(there);
    other.prints(&["restore", name]);
    // What routers hold beyond the backup is taken over at the next start.
    let restored = Connection::open(other.state("ledger.sqlite3")).unwrap();
    let recovering = "SELECT count(*) FROM meta WHERE key = 'recovering'";
    assert_eq!(restored.query_row(recovering, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    drop(restored);
    let aside = |path: &str| {
        let mut found = names(&other);
        found.retain(|name| name.starts_with(path) && !name.ends_with("-wal") && !name.ends_with("-shm"));
        Connection::open(other.state(&found[0])).unwrap()
    };
    let before = "SELECT prefix FROM bans";
    let before: String =
        aside("ledger.sqlite3.before-restore-").query_row(before, [], |row| row.get(0)).unwrap();
    assert_eq!(before, "203.0.113.1/32");
    let before = "SELECT name FROM sensors";
    let before: String =
        aside("sensors.sqlite3.before-restore-").query_row(before, [], |row| row.get(0)).unwrap();
    assert_eq!(before, "stranger");
    let mut running = other.start();
    assert_eq!(other.banned(), ["198.51.100.7", "198.51.100.9"]);
    let sensors = other.prints(&["sensors"]);
    assert!(sensors.contains("web-1") && !sensors.contains("stranger"), "{sensors}");
    // The sensors' pins still fit: the fingerprint is at the end of each token.
    let again = other.prints(&["enrol", "web-2"]);
    assert_eq!(certificate(&host), certificate(&other));
    assert!(!token.trim().is_empty() && !again.trim().is_empty());
    // Whoever is revoked after a restore stays so, and no secret is left in the ledger.
    other.prints(&["revoke", "web-1"]);
    running.child.kill().unwrap();
    drop(running);
    let _running = other.start();
    assert!(!other.prints(&["sensors"]).contains("web-1"));
    let ledger = Connection::open(other.state("ledger.sqlite3")).unwrap();
    let beside = "SELECT count(*) FROM sqlite_schema WHERE name IN ('sensors', 'files')";
    assert_eq!(ledger.query_row(beside, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn what_is_no_backup_restores_nothing_and_changes_nothing() {
    let host = Host::new();
    host.prints(&["enrol", "web-1"]);
    let before = names(&host);
    let file = host.folder.path().join("file");
    let name = file.to_str().unwrap();
    assert!(host.fails(&["restore", name]).contains("No such file"));
    fs::write(&file, "notes\n".repeat(1000)).unwrap();
    assert!(host.fails(&["restore", name]).contains("no backup"));
    fs::remove_file(&file).unwrap();
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE recipes (name)").unwrap();
    assert!(host.fails(&["restore", name]).contains("no backup"));
    let said = host.fails(&["backup", host.folder.path().join("x").to_str().unwrap()]);
    assert!(said.contains("no ledger"), "{said}");
    let mut after = names(&host);
    after.retain(|name| name != "lock");
    assert_eq!(after, before);
}

#[test]
fn a_ledger_that_this_user_may_not_read_is_named() {
    let host = Host::new();
    drop(host.start());
    for path in [host.folder.path().to_owned(), host.state("")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::set_permissions(host.state("ledger.sqlite3"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = host.command(&["run"]);
    if is_root() {
        // Root reads everything: the program is run as someone else, from where that one may read it.
        let program = host.folder.path().join("enforcer");
        fs::copy(env!("CARGO_BIN_EXE_atalaya-enforcer"), &program).unwrap();
        for entry in fs::read_dir(host.state("")).unwrap() {
            let path = entry.unwrap().path();
            std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap();
        }
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command.arg("--config").arg(host.folder.path().join("enforcer.toml")).arg("run");
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("ledger.sqlite3: Permission denied") && said.contains("this user may read"),
        "{said}"
    );
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0)
}

fn certificate(host: &Host) -> Vec<u8> {
    fs::read(host.state("certificate.pem")).unwrap()
}

fn names(host: &Host) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(host.state(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            Path::new(name)
                .extension()
                .is_none_or(|ending| ending != "sqlite3-wal" && ending != "sqlite3-shm")
        })
        .collect();
    names.sort();
    names
}
