//! What is left to a sensor's process that was taken over: a debugger makes the running processes call what
//! an intruder would. Needs root, and fails where it is missing.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::stage::{Stage, is_ready};
use libc::{EACCES, EPERM};

const PATIENCE: Duration = Duration::from_secs(40);
/// What came of a call that succeeded.
const DONE: i32 = 0;

/// A system call: its number, and its arguments in C.
type Call = (i64, &'static str);

const OPEN_OWN: Call = (libc::SYS_openat, "-100, \"/proc/self/status\", 0");
const OPEN_PASSWORDS: Call = (libc::SYS_openat, "-100, \"/etc/shadow\", 0");
const OPEN_PASSWORDS_AROUND: Call = (libc::SYS_openat, "-100, \"/proc/1/root/etc/shadow\", 0");
const WRITE_ELSEWHERE: Call = (libc::SYS_openat, "-100, \"/etc/atalaya-was-here\", 0101, 0600");
const EXEC: Call = (libc::SYS_execve, "\"/bin/sh\", 0, 0");
const INTERNET_SOCKET: Call = (libc::SYS_socket, "2, 1, 0");
const PACKET_SOCKET: Call = (libc::SYS_socket, "17, 3, 0");
const TRACE_INIT: Call = (libc::SYS_ptrace, "16, 1, 0, 0");
const BECOME_NOBODY: Call = (libc::SYS_setuid, "65534");
const MOUNT: Call = (libc::SYS_mount, "\"none\", \"/mnt\", \"tmpfs\", 0, 0");
const LOAD_PROGRAM: Call = (libc::SYS_bpf, "5, 0, 0");
const WATCH_FOLDERS: Call = (libc::SYS_inotify_init1, "0");
const MAKE_MAP: Call = (libc::SYS_bpf, "0, 0, 0");

/// A sensor with logins and a log; `more` is at the top of its configuration.
fn sensor(stage: &Stage, more: &str) -> Result<Process> {
    let log = stage.folder().join("logs/mail.log");
    std::fs::create_dir_all(log.parent().context("no folder")?)?;
    std::fs::write(&log, "")?;
    stage.write_sensor_config(&format!(
        "{more}\n[jail.ssh]\nsource = \"logins\"\n[jail.mail]\nsource = \"files\"\npaths = [\"{}\"]\nfailregex = '<HOST>'\n",
        log.display()
    ))?;
    stage.start_sensor()
}

/// The loader that a sensor started.
fn loader(sensor: &Process) -> Result<u32> {
    let children = format!("/proc/{0}/task/{0}/children", sensor.id());
    let children = std::fs::read_to_string(&children).with_context(|| children.clone())?;
    children.trim().parse().with_context(|| format!("children: {children:?}"))
}

/// Makes a process call these, and compares the error of each.
fn calls(process: u32, calls: &[(Call, i32)]) -> Result<()> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-p", &process.to_string(), "-ex", "set language c"]);
    for ((number, arguments), _) in calls {
        // Declared, since a C library without symbols for debuggers does not tell types.
        gdb.args(["-ex", &format!("printf \"result %ld\\n\", ((long(*)())syscall)({number}, {arguments})")]);
        gdb.args(["-ex", "printf \"error %d\\n\", *((int*(*)())__errno_location)()"]);
    }
    let said = output(gdb.env("DEBUGINFOD_URLS", ""))?;
    let numbers = |word: &str| -> Vec<i32> {
        said.lines().filter_map(|line| line.strip_prefix(word)?.trim().parse().ok()).collect()
    };
    let (results, errors) = (numbers("result "), numbers("error "));
    ensure!(results.len() == calls.len() && errors.len() == calls.len(), "{said}");
    for (((call, expected), result), error) in calls.iter().zip(results).zip(errors) {
        let came_to = if result == -1 { error } else { DONE };
        ensure!(came_to == *expected, "{call:?} came to {came_to}, not {expected}:\n{said}");
    }
    Ok(())
}

#[test]
fn a_worker_that_was_taken_over_opens_no_passwords_and_starts_nothing() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let sensor = sensor(&stage, "")?;
    calls(
        sensor.id(),
        &[
            (OPEN_OWN, DONE),
            (OPEN_PASSWORDS, EACCES),
            (OPEN_PASSWORDS_AROUND, EACCES),
            (WRITE_ELSEWHERE, EACCES),
            (EXEC, EPERM),
            (PACKET_SOCKET, EPERM),
            (TRACE_INIT, EPERM),
            (BECOME_NOBODY, EPERM),
            (MOUNT, EPERM),
            (LOAD_PROGRAM, EPERM),
            (MAKE_MAP, EPERM),
        ],
    )
}

#[test]
fn a_loader_that_was_taken_over_starts_nothing_and_reaches_no_network() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let sensor = sensor(&stage, "")?;
    calls(
        loader(&sensor)?,
        &[
            (OPEN_OWN, DONE),
            (WATCH_FOLDERS, DONE),
            (EXEC, EPERM),
            (INTERNET_SOCKET, EPERM),
            (PACKET_SOCKET, EPERM),
            (TRACE_INIT, EPERM),
            (BECOME_NOBODY, EPERM),
            (MOUNT, EPERM),
        ],
    )
}

#[test]
fn a_sensor_that_is_not_to_be_confined_says_so_and_opens_everything() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let sensor = sensor(&stage, "confine = false")?;
    ensure!(sensor.said().contains("not confined"), "{}", sensor.said());
    calls(sensor.id(), &[(OPEN_PASSWORDS, DONE)])
}

#[test]
fn a_reload_that_asks_for_more_than_was_kept_is_refused_with_what_it_is() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let sensor = sensor(&stage, "")?;
    let elsewhere = tempfile::tempdir()?;
    let log = elsewhere.path().join("other.log");
    std::fs::write(&log, "")?;
    stage.write_sensor_config(&format!(
        "[jail.other]\nsource = \"files\"\npaths = [\"{}\"]\nfailregex = '<HOST>'\n",
        log.display()
    ))?;
    let refused = stage.sensor().arg("reload").output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    let path = elsewhere.path().display().to_string();
    ensure!(
        !refused.status.success() && said.contains(&path) && said.contains("start the sensor again"),
        "{said}"
    );
    ensure!(output(stage.sensor().arg("status"))?.contains("mail"), "the jails of before are gone");
    sensor.terminate(Duration::from_secs(2))?;
    let mut sensor = Process::start("the sensor", stage.sensor().args(["--log-format", "json", "run"]))?;
    sensor.wait_for("become ready", PATIENCE, is_ready)?;
    ensure!(output(stage.sensor().arg("status"))?.contains("other"));
    Ok(())
}

/// A sensor with a jail over a pattern, which bans at the first failure.
fn sensor_on(stage: &Stage, pattern: &Path, more: &str) -> Result<Process> {
    stage.write_sensor_config(&format!(
        "{more}\n[jail.app]\nsource = \"files\"\npaths = [\"{}\"]\nfailregex = 'refused login from <ADDR>$'\nmaxretry = 1\n",
        pattern.display()
    ))?;
    stage.start_sensor()
}

/// Writes a line to a log, with the address of this last number.
fn fail(log: &Path, number: u8) -> Result<()> {
    let mut log = File::options().create(true).append(true).open(log)?;
    let now = jiff::Timestamp::now();
    Ok(writeln!(log, "{now} app refused login from 203.0.113.{number}")?)
}

fn wait_for_failure(sensor: &mut Process, number: u8) -> Result<()> {
    let address = format!("\"failure\",\"jail\":\"app\",\"address\":\"203.0.113.{number}\"");
    // It may have come before the sensor was ready.
    if sensor.said().contains(&address) {
        return Ok(());
    }
    sensor.wait_for("count the failure", PATIENCE, |line| line.contains(&address)).map(drop)
}

#[test]
fn a_folder_of_logs_that_is_made_after_the_start_and_made_again_is_read_by_a_confined_sensor() -> Result<()> {
    let stage = Stage::of_this_test()?;
    // Not the stage's, which the worker reaches for its configuration.
    let logs = tempfile::tempdir()?;
    let folder = |name: &str| logs.path().join(name);
    let list = "[defaults]\nignore = [\"file:/nowhere/friends\"]\n";
    let mut sensor = sensor_on(&stage, &folder("var/later/*.log"), list)?;
    ensure!(sensor.said().contains("confined: "), "{}", sensor.said());
    let status = output(stage.sensor().arg("status"))?;
    let check = output(stage.sensor().arg("check"))?;
    for said in [&status, &check, &sensor.said()] {
        ensure!(said.contains("there is no such file"), "{said}");
        ensure!(said.contains("/friends cannot be read: No such file"), "{said}");
    }
    ensure!(
        status.contains("var/later/*.log: there") && check.contains("var/later/*.log: there"),
        "{status}{check}"
    );

    std::fs::create_dir_all(folder("var/later"))?;
    fail(&folder("var/later/a.log"), 1)?;
    wait_for_failure(&mut sensor, 1)?;
    std::fs::remove_dir_all(folder("var/later"))?;
    std::fs::create_dir_all(folder("var/later"))?;
    fail(&folder("var/later/a.log"), 2)?;
    wait_for_failure(&mut sensor, 2)?;
    std::fs::remove_dir_all(folder("var"))?;
    std::fs::create_dir_all(folder("var/later"))?;
    fail(&folder("var/later/b.log"), 3)?;
    wait_for_failure(&mut sensor, 3)?;
    let status = output(stage.sensor().arg("status"))?;
    ensure!(!status.contains("not read"), "{status}");
    // What is beside the logs is opened by neither.
    let shadow = folder("var/shadow");
    std::fs::write(&shadow, "")?;
    let arguments = format!("-100, \"{}\", 0", shadow.display());
    calls(sensor.id(), &[((libc::SYS_openat, arguments.leak()), EACCES)])
}

#[test]
fn links_are_followed_as_kubernetes_lays_them_through_rotation_and_a_restart() -> Result<()> {
    let stage = Stage::of_this_test()?;
    // Not the stage's, which the worker reaches for its configuration.
    let logs = tempfile::tempdir()?;
    let folder = |name: &str| logs.path().join(name);
    std::fs::create_dir_all(folder("containers"))?;
    std::fs::create_dir_all(folder("pods/a"))?;
    std::fs::write(folder("pods/a/0.log"), "")?;
    symlink(folder("pods/a/0.log"), folder("containers/a.log"))?;
    let mut sensor = sensor_on(&stage, &folder("containers/*.log"), "")?;
    fail(&folder("pods/a/0.log"), 1)?;
    wait_for_failure(&mut sensor, 1)?;
    std::fs::rename(folder("pods/a/0.log"), folder("pods/a/0.log.20261130"))?;
    fail(&folder("pods/a/0.log"), 2)?;
    wait_for_failure(&mut sensor, 2)?;
    std::fs::create_dir_all(folder("pods/b"))?;
    fail(&folder("pods/b/0.log"), 3)?;
    symlink(folder("pods/b/0.log"), folder("containers/b.log"))?;
    wait_for_failure(&mut sensor, 3)?;
    sensor.terminate(PATIENCE)?;

    // Rotated while nobody looked: the rest is beside the file to which the link leads.
    fail(&folder("pods/b/0.log"), 4)?;
    std::fs::rename(folder("pods/b/0.log"), folder("pods/b/0.log.20261130"))?;
    fail(&folder("pods/b/0.log"), 5)?;
    let mut sensor = stage.start_sensor()?;
    wait_for_failure(&mut sensor, 4)?;
    wait_for_failure(&mut sensor, 5)
}

#[test]
fn a_users_link_to_a_file_that_root_alone_may_read_reads_nothing_and_is_named() -> Result<()> {
    const ALICE: u32 = 4711;
    let stage = Stage::of_this_test()?;
    // Not the stage's, which the worker reaches for its configuration.
    let logs = tempfile::tempdir()?;
    let folder = |name: &str| logs.path().join(name);
    std::fs::create_dir_all(folder("logs/alice"))?;
    std::fs::create_dir_all(folder("logs/root"))?;
    fail(&folder("logs/root/secret"), 66)?;
    chown(folder("logs/alice"), Some(ALICE), Some(ALICE))?;
    symlink(folder("logs/root/secret"), folder("logs/alice/x.log"))?;
    lchown(folder("logs/alice/x.log"), Some(ALICE), Some(ALICE))?;
    // Both lie below a folder that the worker itself may read.
    let mut sensor = sensor_on(&stage, &folder("logs/*/*.log"), "")?;
    let status = output(stage.sensor().arg("status"))?;
    ensure!(status.contains("logs/alice/x.log: the link"), "{status}");
    let check = output(stage.sensor().arg("check"))?;
    ensure!(check.contains("logs/alice/x.log: the link"), "{check}");
    fail(&folder("logs/root/secret"), 66)?;
    fail(&folder("logs/root/app.log"), 1)?;
    wait_for_failure(&mut sensor, 1)?;
    ensure!(!sensor.said().contains("203.0.113.66"), "{}", sensor.said());
    sensor.terminate(PATIENCE)?;

    let follow = format!("follow = [\"{}\"]", folder("logs/root").canonicalize()?.display());
    let mut sensor = sensor_on(&stage, &folder("logs/*/*.log"), &follow)?;
    fail(&folder("logs/root/secret"), 67)?;
    wait_for_failure(&mut sensor, 67)
}
