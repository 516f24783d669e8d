//! Disks that take nothing more, against the real program: it starts from what it can read, loses nothing that it has
//! acked, says what is wrong, and leaves nothing half-written. Needs root, to mount small disks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod host;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use routeros_sim::{Family, Router};
use rusqlite::Connection;

use host::{Host, Running};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a first start is killed, each time somewhat later.
const KILLS: u32 = 40;

/// A file system in memory, which is unmounted with its owner.
struct SmallDisk(PathBuf);

/// How an enforcer ended before.
#[derive(Clone, Copy, Debug)]
enum End {
    Stopped,
    /// What it wrote last is in SQLite's journal alone.
    Killed,
}

// === impl SmallDisk ===

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        let options = format!("size={size},mode=700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at));
        Self(at)
    }

    fn remount(&self, options: &str) {
        run(Command::new("mount").arg("-o").arg(format!("remount,{options}")).arg(&self.0));
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filling")).unwrap();
        while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filling")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn end(running: Running, how: End) {
    match how {
        End::Stopped => running.stop(),
        End::Killed => drop(running),
    }
}

/// Fills the disk of the state folder. Who was killed has left the index that SQLite needs, and its room: it goes too, as it
/// does where the folder is copied.
fn fill(host: &Host, disk: &SmallDisk) {
    for name in ["ledger.sqlite3-shm", "sensors.sqlite3-shm"] {
        let _ = fs::remove_file(host.state(name));
    }
    disk.fill();
}

/// The configuration of a router.
fn section(router: &Router) -> String {
    format!("[router.edge]\naddress = \"{}\"\nuser = \"atalaya\"\npassword = \"secret\"\n", router.address())
}

async fn is_on(router: &Router, address: &str) {
    let there = router.wait_for(|entries| entries.iter().any(|entry| entry.address == address), PATIENCE);
    assert!(there.await.is_ok(), "{address} is not on the router: {:?}", router.entries(Family::V4));
}

/// Posts an offence as a sensor; the status of the answer.
fn post(port: &str, token: &str, sequence: u32, address: &str) -> String {
    post_of(port, token, sequence, address, jiff::Timestamp::now())
}

/// As [`post`], of an offence at a time.
fn post_of(port: &str, token: &str, sequence: u32, address: &str, time: jiff::Timestamp) -> String {
    let parts: Vec<&str> = token.trim().split(':').collect();
    let batch = format!(
        r#"{{"version":1,"outbox":"o1","offences":[{{"sequence":{sequence},"jail":"ssh","address":"{address}","time":"{time}","failures":3,"bantime":3600}}]}}"#
    );
    let mut curl = Command::new("curl");
    curl.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "-H", "content-type: application/json"]);
    curl.args(["-u", &format!("{}:{}", parts[1], parts[2]), "-d", &batch]);
    let output = curl.arg(format!("https://127.0.0.1:{port}/v1/offences")).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The port for sensors in what an enforcer said at its start.
fn port(said: &str) -> String {
    let (_, rest) = said.split_once("address=127.0.0.1:").unwrap();
    rest.chars().take_while(char::is_ascii_digit).collect()
}

/// Waits until a condition holds that nobody tells of.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} takes too long");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_goes_on_from_what_is_there_and_writes_once_there_is_room() {
    for how in [End::Stopped, End::Killed] {
        let router = Router::builder().start().await.unwrap();
        let host = Host::new(&section(&router));
        let disk = SmallDisk::mount(host.state(""), "4m");
        let running = host.start();
        let token = host.prints(&["enrol", "web-1"]);
        host.prints(&["ban", "198.51.100.1", "--for", "1h"]);
        end(running, how);
        router.reboot().await;
        fill(&host, &disk);

        let running = host.spawn();
        let said = running.says("ready");
        let state = host.state("").display().to_string();
        let full =
            format!("the disk of {} is full (0 bytes free); make room there", state.trim_end_matches('/'));
        assert!(said.contains("THE LEDGER CANNOT BE WRITTEN") && said.contains(&full), "{how:?}: {said}");
        is_on(&router, "198.51.100.1").await;
        assert!(host.faults()[0].contains(&full), "{:?}", host.faults());
        assert_eq!(host.banned(), ["198.51.100.1"]);
        assert!(host.prints(&["show", "198.51.100.1"]).contains("holds it"));

        let said_by_hand = host.fails(&["ban", "198.51.100.2", "--for", "1h"]);
        assert!(
            said_by_hand.contains("done on the routers")
                && said_by_hand.contains(&full)
                && said_by_hand.contains("in memory"),
            "{said_by_hand}"
        );
        is_on(&router, "198.51.100.2").await;
        let port = port(&said);
        assert_eq!(post(&port, &token, 1, "198.51.100.3"), "503", "it is acked and not written");
        is_on(&router, "198.51.100.3").await;
        let refused = host.fails(&["enrol", "web-2"]);
        assert!(refused.contains("is full (0 bytes free)"), "{refused}");

        disk.free();
        running.says("can be written again");
        assert_eq!(post(&port, &token, 1, "198.51.100.3"), "200");
        let all = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];
        assert_eq!(host.banned(), all);
        assert!(!host.faults().iter().any(|fault| fault.contains("ledger")), "{:?}", host.faults());
        // It is anybody's to read again, which the backup command is.
        host.prints(&["enrol", "web-2"]);
        host.prints(&["backup", host.folder.path().join("saved").to_str().unwrap()]);
        drop(running);
        let _running = host.start();
        assert_eq!(host.banned(), all);
        assert!(host.prints(&["sensors"]).contains("web-2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_ban_while_the_disk_is_full_has_asked_for_it_also_after_a_restart() {
    let router = Router::builder().start().await.unwrap();
    let host = Host::new(&section(&router));
    let disk = SmallDisk::mount(host.state(""), "4m");
    let running = host.spawn();
    let before = port(&running.says("ready"));
    let [one, two] = ["web-1", "web-2"].map(|name| host.prints(&["enrol", name]));
    host.prints(&["jails", "web-2", "ssh"]);
    assert_eq!(post(&before, &one, 1, "198.51.100.1"), "200");
    running.stop();
    fill(&host, &disk);

    let running = host.spawn();
    let port = port(&running.says("ready"));
    assert!(host.prints(&["jails", "web-2"]).contains("ssh"), "what it may name is not read");
    let time = jiff::Timestamp::now();
    assert_eq!(post_of(&port, &two, 1, "198.51.100.1", time), "503", "it is acked and not written");
    disk.free();
    running.says("can be written again");
    assert_eq!(post_of(&port, &two, 1, "198.51.100.1", time), "200");
    drop(running);
    let _running = host.start();
    let lifted = host.prints(&["unban", "--sensor", "web-1", "--json"]);
    assert_eq!(lifted.trim(), r#"{"sensor":"web-1","lifted":0,"stand":1}"#);
    assert_eq!(host.banned(), ["198.51.100.1"]);
}

#[test]
fn sensors_in_a_file_of_the_release_before_are_let_in_while_the_disk_is_full() {
    let host = Host::new("");
    let disk = SmallDisk::mount(host.state(""), "4m");
    let running = host.start();
    let token = host.prints(&["enrol", "web-1"]);
    running.stop();
    let file = Connection::open(host.state("sensors.sqlite3")).unwrap();
    file.execute_batch("DROP TABLE jails; DROP TABLE addresses; PRAGMA user_version = 1;").unwrap();
    drop(file);
    fill(&host, &disk);
    let running = host.spawn();
    let port = port(&running.says("ready"));
    assert_eq!(post(&port, &token, 1, "198.51.100.1"), "503", "only the ledger refuses it");
    assert!(host.prints(&["sensors"]).contains("web-1"));
    disk.free();
    running.says("can be written again");
    assert_eq!(post(&port, &token, 1, "198.51.100.1"), "200");
    host.prints(&["jails", "web-1", "ssh"]);
    assert!(host.prints(&["jails", "web-1"]).contains("ssh"));
}

#[test]
fn what_went_to_routers_while_the_disk_was_full_is_in_the_ledger_though_no_sensor_sends_it_again() {
    let host = Host::new("");
    let disk = SmallDisk::mount(host.state(""), "4m");
    let running = host.start();
    let token = host.prints(&["enrol", "web-1"]);
    running.stop();
    fill(&host, &disk);
    let running = host.spawn();
    let port = port(&running.says("ready"));
    for _ in 0..3 {
        assert_eq!(post(&port, &token, 1, "198.51.100.1"), "503");
    }
    disk.free();
    running.says("can be written again");
    assert_eq!(host.banned(), ["198.51.100.1"]);
    assert_eq!(post(&port, &token, 1, "198.51.100.1"), "200", "it is acked when it is sent again");
    drop(running);
    let _running = host.start();
    assert_eq!(host.banned(), ["198.51.100.1"]);
    let history = host.json(&["history", "--json"]);
    assert_eq!(history.as_array().unwrap().len(), 1, "it counts once: {history:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_disk_that_is_mounted_read_only_is_told_as_such_and_goes_on_as_on_a_full_one() {
    for how in [End::Stopped, End::Killed] {
        let router = Router::builder().start().await.unwrap();
        let host = Host::new(&section(&router));
        let disk = SmallDisk::mount(host.state(""), "4m");
        let running = host.start();
        host.prints(&["ban", "198.51.100.1", "--for", "1h"]);
        end(running, how);
        router.reboot().await;
        disk.remount("ro");
        let running = host.spawn();
        let said = running.says("ready");
        assert!(said.contains("is mounted read-only; "), "{how:?}: {said}");
        is_on(&router, "198.51.100.1").await;
        let said = host.fails(&["ban", "198.51.100.2", "--for", "1h"]);
        assert!(said.contains("is mounted read-only; "), "{said}");
        is_on(&router, "198.51.100.2").await;
        assert_eq!(host.banned(), ["198.51.100.1"]);
        disk.remount("rw");
        running.says("can be written again");
        drop(running);
        let _running = host.start();
        assert_eq!(host.banned(), ["198.51.100.1", "198.51.100.2"]);
    }
}

#[test]
fn a_first_start_on_a_full_disk_leaves_nothing_that_bars_the_next_one() {
    // From no room at all up to where the ledger's index is the last that does not fit.
    for kilobytes in (4..160).step_by(8) {
        let host = Host::new("");
        let disk = SmallDisk::mount(host.state(""), &format!("{kilobytes}k"));
        let running = host.spawn();
        let output = running.ends_or_is_ready();
        if let Some(said) = &output {
            assert!(said.contains("is full ("), "{kilobytes} kB: {said}");
            assert!(!said.contains("os error") && !said.contains("disk I/O error"), "{kilobytes} kB: {said}");
            assert_eq!(said.lines().last().unwrap().matches(" is full").count(), 1, "{said}");
        }
        drop(running);
        for name in ["key.pem", "certificate.pem"] {
            let text = fs::read_to_string(host.state(name));
            assert!(text.as_ref().map_or(true, |text| text.ends_with("-----\n")), "{kilobytes} kB: {text:?}");
        }
        disk.remount("size=4m");
        let _running = host.start();
        host.prints(&["enrol", "web-1"]);
        host.prints(&["ban", "198.51.100.1"]);
    }
}

#[test]
fn a_first_start_that_is_killed_at_any_moment_leaves_nothing_that_bars_the_next_one() {
    let begun = Instant::now();
    Host::new("").start().stop();
    let whole = begun.elapsed();
    for kill in 0..KILLS {
        let host = Host::new("");
        let mut running = host.spawn();
        // No event tells of most moments.
        #[expect(
            clippy::disallowed_methods,
            reason = "what is tried is a kill at a time, not after an event"
        )]
        std::thread::sleep(whole * kill / KILLS);
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        let left = fs::read(host.state("certificate.pem")).ok();
        let again = host.start();
        host.prints(&["enrol", "web-1"]);
        // What was whole is what it was: nothing is made anew that somebody may know.
        let now = fs::read(host.state("certificate.pem")).unwrap();
        let key_was_there = left.is_some();
        assert!(!key_was_there || left == Some(now), "kill {kill}: another certificate");
        again.stop();
        host.start().stop();
    }
}

#[test]
fn state_files_and_backups_are_their_owners_alone_whatever_the_umask_and_those_of_before_are_closed() {
    let host = Host::new("");
    let with_open_umask = |arguments: &[&str]| {
        let real = host.command(arguments);
        let mut command = Command::new("sh");
        command.args(["-c", "umask 0; exec \"$0\" \"$@\""]).arg(real.get_program()).args(real.get_args());
        command
    };
    let open_to_others = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        let open = entries.filter(|entry| {
            let file = entry.metadata().unwrap();
            file.is_file() && file.permissions().mode() & 0o077 != 0
        });
        open.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    let mut child = with_open_umask(&["run"]).stderr(Stdio::null()).spawn().unwrap();
    until("the start", || host.command(&["status"]).output().unwrap().status.success());
    run(&mut with_open_umask(&["enrol", "web-1"]));
    host.prints(&["ban", "198.51.100.1"]);
    let backups = host.folder.path().join("backups");
    fs::create_dir(&backups).unwrap();
    // Without a folder in its name.
    run(with_open_umask(&["backup", "saved"]).current_dir(&backups));
    assert_eq!(open_to_others(&host.state("")), [""; 0]);
    assert_eq!(open_to_others(&backups), [""; 0]);
    child.kill().unwrap();
    child.wait().unwrap();

    for entry in fs::read_dir(host.state("")).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o664)).unwrap();
    }
    fs::copy(host.state("ledger.sqlite3"), host.state("ledger.sqlite3.damaged-20260101T000000Z")).unwrap();
    let _running = host.start();
    assert_eq!(open_to_others(&host.state("")), [""; 0]);
}

#[test]
fn a_backup_to_a_full_disk_says_which_disk_is_full_and_leaves_no_piece_there() {
    let host = Host::new("");
    let _running = host.start();
    let disk = SmallDisk::mount(host.folder.path().join("backups"), "64k");
    let said = host.fails(&["backup", disk.0.join("saved").to_str().unwrap()]);
    let expected = format!("the disk of {} is full (", disk.0.display());
    assert!(said.contains(&expected) && said.matches(" is full").count() == 1, "{said}");
    assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 0);
}

#[test]
fn a_backup_of_a_ledger_whose_disk_is_full_is_made_on_another_disk() {
    for how in [End::Stopped, End::Killed] {
        let host = Host::new("");
        let disk = SmallDisk::mount(host.state(""), "4m");
        let running = host.start();
        host.prints(&["enrol", "web-1"]);
        host.prints(&["ban", "198.51.100.1"]);
        end(running, how);
        fill(&host, &disk);
        let file = host.folder.path().join("saved");
        let said = host.prints(&["backup", file.to_str().unwrap()]);
        assert!(
            said.contains("bans that stand: 1, that are over: 0; sensors: 1; with the certificate"),
            "{said}"
        );
        let running = host.spawn();
        running.says("ready");
        let said = host.fails(&["backup", "--force", file.to_str().unwrap()]);
        assert!(said.contains("has its ledger for itself"), "{said}");
        disk.free();
        running.says("can be written again");
        host.prints(&["backup", "--force", file.to_str().unwrap()]);
    }
}

#[test]
fn a_backup_of_a_later_release_is_refused_by_its_name_and_one_of_an_earlier_is_brought_forward() {
    let host = Host::new("");
    let running = host.start();
    host.prints(&["ban", "198.51.100.1"]);
    let file = host.folder.path().join("saved");
    let name = file.to_str().unwrap();
    host.prints(&["backup", name]);
    running.stop();
    let saved = Connection::open(&file).unwrap();
    saved
        .execute_batch("UPDATE meta SET value = '9.8.7' WHERE key = 'release'; PRAGMA user_version = 99")
        .unwrap();
    drop(saved);
    let said = host.fails(&["restore", name]);
    assert!(
        said.contains("saved by release 9.8.7 (format 99; ") && said.contains("with that release"),
        "{said}"
    );
    assert_eq!(host.start().stop_and(|| host.banned()), ["198.51.100.1"], "it changed something");

    fs::remove_file(&file).unwrap();
    let first = Connection::open(&file).unwrap();
    host::first_release(&first, 300);
    drop(first);
    let said = host.prints(&["restore", name]);
    assert!(said.contains("bans that stand: 300"), "{said}");
    let _running = host.start();
    assert_eq!(host.banned().len(), 300);
    assert!(host.prints(&["sensors"]).contains("web-1"));
}
