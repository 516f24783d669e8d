//! The ledger's file over the years, against the real program: saved and restored, brought forward, killed
//! in the middle, and out of reach.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

mod host;

use rusqlite::Connection;
use serde_json::Value;

use host::Host;

#[test]
fn a_migration_that_is_killed_over_and_over_loses_nothing() {
    const BANS: u32 = 30_000;
    let host = Host::new("");
    fs::create_dir_all(host.state("")).unwrap();
    host::first_release(&Connection::open(host.state("ledger.sqlite3")).unwrap(), BANS);
    let new = host.state("ledger.sqlite3.new");
    let mut killed_in_the_middle = 0;
    // Killed when the new file has so many bytes, each time with another amount of work done.
    for size in [0, 0, 200_000, 1_000_000] {
        // A kill that came too late has left nothing to bring forward.
        if host.state("ledger.sqlite3.v1").exists() {
            break;
        }
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
    let host = Host::new("");
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

    let other = Host::new("");
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
    let host = Host::new("");
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
    let host = Host::new("");
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
