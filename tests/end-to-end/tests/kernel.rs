//! What the kernel's side of the sensor says and loses, with the real probe in the real libaudit.
//! Needs root, and fails where it is missing.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, signal};
use atalaya_end_to_end::stage::{Stage, is_ready};
use atalaya_end_to_end::verdicts;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(40);
/// The user `nobody`, who may not be believed.
const NOBODY: u32 = 65534;

/// A sensor without an enforcer, with one jail of logins.
fn sensor(stage: &Stage, level: &str) -> Result<Process> {
    stage.write_sensor_config("[jail.ssh]\nsource = \"logins\"\nmaxretry = 1\n")?;
    let mut command = stage.sensor();
    command.args(["--log", level, "--log-format", "json", "run"]);
    let mut sensor = Process::start("the sensor", &mut command)?;
    sensor.wait_for("become ready", PATIENCE, is_ready)?;
    Ok(sensor)
}

#[test]
fn messages_of_the_kernel_program_arrive_in_the_log() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let mut sensor = sensor(&stage, "debug")?;
    verdicts::report(1, Duration::ZERO, 0)?;
    let line = sensor
        .wait_for("relay the kernel's message", PATIENCE, |line| line.contains("login verdict 1100"))?;
    let event: Value = serde_json::from_str(&line.text)?;
    ensure!(event["level"] == "DEBUG", "{event}");
    sensor.terminate(Duration::from_secs(2))?;
    Ok(())
}

#[test]
fn records_that_found_no_room_in_the_ring_are_counted_and_told() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let mut sensor = sensor(&stage, "info")?;
    // Stopped, it does not read: the ring fills.
    signal("STOP", sensor.id())?;
    verdicts::report(20_000, Duration::ZERO, 0)?;
    signal("CONT", sensor.id())?;
    let line = sensor.wait_for("tell what was lost", PATIENCE, |line| line.contains("login records lost"))?;
    let event: Value = serde_json::from_str(&line.text)?;
    let lost = event["ring_full"].as_u64().context("no count")?;
    let seen = sensor.said().matches("\"message\":\"failure\"").count() as u64;
    ensure!(lost > 0 && lost < 20_000, "{lost} lost");
    ensure!(seen + lost <= 20_000 + 10, "{seen} seen and {lost} lost of 20000");
    Ok(())
}

#[test]
fn calls_of_ordinary_users_are_counted_and_not_believed() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let mut sensor = sensor(&stage, "info")?;
    verdicts::report(7, Duration::ZERO, NOBODY)?;
    let line = sensor.wait_for("tell of the forgery", PATIENCE, |line| line.contains("not believed"))?;
    // Other tests forge too, and all sensors of a host hear all.
    let event: Value = serde_json::from_str(&line.text)?;
    ensure!(event["forged"].as_u64().is_some_and(|forged| forged >= 7), "{event}");
    ensure!(!sensor.said().contains("\"message\":\"failure\""), "a forged verdict was counted");
    Ok(())
}

#[test]
fn a_failed_su_is_shown_and_not_counted() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let mut sensor = sensor(&stage, "info")?;
    let mut su = Command::new("su")
        .arg("root")
        .uid(NOBODY)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("su")?;
    let mut input = su.stdin.take().context("no standard input")?;
    std::io::Write::write_all(&mut input, b"wrong-password\n")?;
    drop(input);
    let line = sensor.wait_for("show the failure", PATIENCE, |line| line.contains("failed local login"))?;
    let event: Value = serde_json::from_str(&line.text)?;
    ensure!(event["service"] == "su", "{event}");
    ensure!(!su.wait()?.success());
    ensure!(!sensor.said().contains("\"message\":\"failure\""), "a local failure was counted");
    Ok(())
}
