//! Debian's real sshd and real clients in a network namespace: what the kernel reports, counted as
//! attempts, and on the router before sshd has answered. Needs root, and fails where it is missing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::process::{Process, output, output_with_input};
use atalaya_end_to_end::sshd::Sshd;
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER, RULES, Stage};
use routeros_sim::{Entry, Router};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(40);
/// Wrong passwords, an unknown user, wrong keys, success, wrong answers, three wrong passwords.
const ATTACKERS: [&str; 6] =
    ["10.214.88.2", "10.214.88.3", "10.214.88.4", "10.214.88.5", "10.214.88.7", "10.214.88.6"];

/// The next failure that the sensor logs for an address: how many there are, and how long after the
/// kernel saw it the line was read.
fn next_failure(sensor: &mut Process, address: &str) -> Result<(u64, Duration)> {
    let line = sensor.wait_for(&format!("see a failure of {address}"), PATIENCE, |line| {
        line.contains("\"message\":\"failure\"") && line.contains(&format!("\"address\":\"{address}\""))
    })?;
    let event: Value = serde_json::from_str(&line.text)?;
    let time: jiff::Timestamp = event["time"].as_str().context("no time")?.parse()?;
    let read = jiff::Timestamp::try_from(line.at)?;
    let after = Duration::try_from(read.duration_since(time)).unwrap_or_default();
    Ok((event["failures"].as_u64().context("no count")?, after))
}

/// Waits until the enforcer has heard of a successful login from an address.
fn wait_for_login(stage: &Stage, address: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = output(stage.enforcer().args(["show", address, "--json"]))?;
        let shown: Value = serde_json::from_str(&text)?;
        if shown["login"].is_object() {
            ensure!(shown["login"]["service"] == "sshd", "{text}");
            return Ok(());
        }
        if Instant::now() > until {
            let status = output(stage.sensor().arg("status"))?;
            anyhow::bail!("the enforcer never heard of the login: {text}\n{status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_ssh_logins_are_counted_once_each_and_seen_before_sshd_answers() -> Result<()> {
    let namespace = Namespace::new(&ATTACKERS)?;
    let mut sshd = Sshd::start(&namespace)?;
    let stage = Stage::of_this_test()?;
    let router = Router::builder()
        .user(ROUTER_USER)
        .password(ROUTER_PASSWORD)
        .terminal(RULES[0])
        .terminal(RULES[1])
        .start()
        .await?;
    stage.write_enforcer_config(&[("edge", router.address())], "")?;
    stage.write_sensor_config("[jail.ssh]\nsource = \"logins\"\nservices = [\"sshd\"]\n")?;
    let _enforcer = stage.start_enforcer()?;
    stage.join(&stage.enrol("web-1")?)?;
    let mut sensor = stage.start_sensor()?;
    let [wrong_password, unknown_user, wrong_keys, success, wrong_answers, offender] = ATTACKERS;

    // One wrong password is one failure, seen within 50 ms of the verdict and before sshd answers.
    let mut client = sshd.spawn_wrong_passwords(&namespace, wrong_password.parse()?, 1)?;
    let (count, after) = next_failure(&mut sensor, wrong_password)?;
    ensure!(client.try_wait()?.is_none(), "sshd had answered when the failure was seen");
    ensure!(count == 1, "one wrong password counted {count}");
    ensure!(after < Duration::from_millis(50), "seen {after:?} after the verdict");
    Sshd::finish(client, PATIENCE)?;

    // An account that does not exist gives four records, and is one failure.
    let client = sshd.spawn_unknown_user(&namespace, unknown_user.parse()?)?;
    ensure!(next_failure(&mut sensor, unknown_user)?.0 == 1);
    Sshd::finish(client, PATIENCE)?;

    // Three keys of one agent are one failure, known when the session ends.
    let client = sshd.spawn_wrong_keys(&namespace, wrong_keys.parse()?, 3)?;
    Sshd::finish(client, PATIENCE)?;
    ensure!(next_failure(&mut sensor, wrong_keys)?.0 == 1);

    // A right key after two wrong ones is a login, and nothing is counted.
    sshd.log_in(&namespace, success.parse()?, 2)?;
    wait_for_login(&stage, success)?;

    // Keyboard-interactive runs PAM in a process of its own: two wrong answers are two failures.
    let client = sshd.spawn_wrong_answers(&namespace, wrong_answers.parse()?, 2)?;
    ensure!(next_failure(&mut sensor, wrong_answers)?.0 == 1);
    ensure!(next_failure(&mut sensor, wrong_answers)?.0 == 2);
    Sshd::finish(client, PATIENCE)?;

    // The third wrong password of one connection is on the router while the client still waits.
    let mut client = sshd.spawn_wrong_passwords(&namespace, offender.parse()?, 3)?;
    let holds = |entries: &[Entry]| entries.iter().any(|entry| entry.address == offender);
    router.wait_for(holds, PATIENCE).await?;
    let banned = Instant::now();
    ensure!(client.try_wait()?.is_none(), "sshd had answered when the ban was on the router");
    let answered = Sshd::finish(client, PATIENCE)?;
    println!(
        "the ban was on the router {:.2} s before sshd answered",
        answered.saturating_duration_since(banned).as_secs_f64()
    );

    // The probe sees every login of this host, so only this test's own addresses are looked at: none
    // but the offender reached three.
    let mut entries = router.entries(routeros_sim::Family::V4);
    entries.retain(|entry| ATTACKERS.contains(&entry.address.as_str()));
    ensure!(entries.len() == 1 && entries[0].address == offender, "{entries:?}\n{}", sensor.said());
    for (attacker, failures) in [(wrong_password, 1), (unknown_user, 1), (wrong_keys, 1), (wrong_answers, 2)]
    {
        let counted = sensor.said().matches(&format!("\"address\":\"{attacker}\"")).count();
        ensure!(counted <= failures, "{attacker} was counted {counted} times, not {failures}");
    }
    ensure!(!sensor.said().contains(&format!("\"address\":\"{success}\"")), "a login was counted");

    // What this sshd logged of the same attempts, as syslog would have it, counts the same in the log's
    // jail; only keys are none there: whether they were an attack, a line does not tell.
    let is_last = |line: &str| line.contains("Connection closed") && line.contains(offender);
    let mut log = String::new();
    for line in sshd.log_until(PATIENCE, is_last)? {
        log.push_str(&format!("Nov 24 10:00:00 host sshd[7]: {}\n", line.trim_end()));
    }
    let mut test = stage.sensor();
    let counted = output_with_input(test.args(["test", "-", "sshd", "--output", "ip"]), &log)?;
    for (attacker, failures) in [
        (wrong_password, 1),
        (unknown_user, 1),
        (wrong_keys, 0),
        (success, 0),
        (wrong_answers, 2),
        (offender, 3),
    ] {
        let lines = counted.lines().filter(|line| *line == attacker).count();
        ensure!(lines == failures, "{attacker}: {lines} lines of {failures}:\n{log}");
    }
    Ok(())
}
