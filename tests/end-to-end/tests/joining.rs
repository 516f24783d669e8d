//! Joining with a token that is good for one join: by real programs, and by what the enforcer prints for a host's shell.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, output, output_with_input};
use atalaya_end_to_end::stage::Stage;
use serde_json::Value;

/// An enforcer without routers, and a sensor that has not joined.
fn stage() -> Result<(Stage, Process)> {
    let stage = Stage::of_this_test()?;
    stage.write_enforcer_config(&[], "")?;
    stage.write_sensor_config(
        "[jail.app]\nsource = \"files\"\npaths = \"/nowhere/log\"\nfailregex = '^ x <ADDR>$'\n",
    )?;
    let enforcer = stage.start_enforcer()?;
    Ok((stage, enforcer))
}

fn refusal(command: &mut Command) -> Result<String> {
    let done = command.output()?;
    ensure!(!done.status.success(), "it succeeds: {}", String::from_utf8_lossy(&done.stdout));
    Ok(String::from_utf8_lossy(&done.stderr).into_owned())
}

#[test]
fn a_token_that_is_good_once_joins_once_and_opens_nothing_afterwards() -> Result<()> {
    let (stage, _enforcer) = stage()?;
    let token = output(stage.enforcer().args(["enrol", "web-1", "--once"]))?.trim().to_owned();
    ensure!(token.starts_with("atalaya2:web-1:"), "{token}");
    let secret = token.split(':').nth(2).context("a secret")?.to_owned();
    // As the secret of a sensor it is none, before and after.
    let allow = format!("{}/v1/allow", stage.url());
    let as_secret = |secret: &str| {
        let user = format!("web-1:{secret}");
        output(Command::new("curl").args([
            "-sk",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-u",
            &user,
            &allow,
        ]))
    };
    assert_eq!(as_secret(&secret)?, "401");
    let url = stage.url();
    let offline = refusal(stage.sensor().args(["join", "--offline", &url, &token]))?;
    ensure!(offline.contains("good for one join"), "{offline}");
    let said = output_with_input(stage.sensor().args(["join", &url, "-"]), &token)?;
    ensure!(said.contains("joined") && said.contains("web-1"), "{said}");
    let state = stage.folder().join("sensor");
    let membership: Value = serde_json::from_str(&std::fs::read_to_string(state.join("membership.json"))?)?;
    let own = membership["secret"].as_str().context("no secret")?;
    assert_eq!(
        (own == secret, as_secret(own)?.as_str(), as_secret(&secret)?.as_str()),
        (false, "200", "401")
    );
    ensure!(!state.join("joining").exists(), "what the token was to lead to is left behind");

    let again = refusal(stage.sensor().args(["join", &url, &token]))?;
    ensure!(again.contains("used by another join") && again.contains("--replace"), "{again}");
    assert_eq!(as_secret(own)?, "200", "a second try takes nothing from the first");
    Ok(())
}

#[test]
fn a_join_whose_answer_was_lost_is_done_again_with_the_same_secret() -> Result<()> {
    let (stage, _enforcer) = stage()?;
    let token = output(stage.enforcer().args(["enrol", "web-1", "--once"]))?.trim().to_owned();
    let (first, fingerprint) = {
        let mut parts = token.split(':').skip(2);
        (parts.next().context("a secret")?.to_owned(), parts.next().context("a fingerprint")?.to_owned())
    };
    // As `join` leaves it that was killed before the answer came.
    let lost = refusal(stage.sensor().args(["join", "https://127.0.0.1:1", &token]))?;
    ensure!(lost.contains("Nothing was stored") && lost.contains("within the token's hour"), "{lost}");
    let kept = std::fs::read_to_string(stage.folder().join("sensor/joining"))?;
    ensure!(!kept.contains(&first) && kept.contains(&fingerprint), "{kept}");
    let (_, pending) = kept.split_once('\n').context("two lines at least")?;
    let pending: Value = serde_json::from_str(pending)?;
    output(stage.sensor().args(["join", &stage.url(), &token]))?;
    let stored: Value =
        serde_json::from_str(&std::fs::read_to_string(stage.folder().join("sensor/membership.json"))?)?;
    assert_eq!(pending["secret"], stored["secret"]);
    Ok(())
}

#[test]
fn the_line_for_a_hosts_shell_pins_the_enforcers_key_and_names_a_package_that_is_missing() -> Result<()> {
    let (stage, _enforcer) = stage()?;
    let url = stage.url();
    let line = output(stage.enforcer().args(["enrol", "web-1", "--command", "--url", &url]))?;
    assert_eq!(line.lines().count(), 1, "{line}");
    let fetch = line.split(" && ").nth(2).context("no curl in the line")?;
    ensure!(fetch.starts_with("curl ") && fetch.contains("--pinnedpubkey 'sha256//"), "{line}");
    let run = |fetch: &str| -> Result<String> {
        // The processor without dpkg, and what the enforcer answers instead of a failure alone.
        let fetch =
            fetch.replace("$(dpkg --print-architecture)", "m68k").replace("-fsSk", "-sSk -w '%{http_code}'");
        let script = format!("d={}; {fetch}; cat \"$d/atalaya-sensor.deb\"", stage.folder().display());
        let done = Command::new("sh").args(["-c", &script]).output()?;
        Ok([done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat())
    };
    let said = run(fetch)?;
    ensure!(
        said.starts_with("404") && said.contains("atalaya-sensor_") && said.contains("_m68k.deb"),
        "{said}"
    );
    let other = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let (before, rest) = fetch.split_once("sha256//").context("a pin")?;
    let (_, after) = rest.split_once('\'').context("its end")?;
    let said = run(&format!("{before}{other}'{after}"))?;
    ensure!(said.contains("public key does not match"), "{said}");
    let said = run(&fetch.replace("web-1:", "web-2:"))?;
    ensure!(said.starts_with("401"), "{said}");
    let refused =
        refusal(stage.enforcer().args(["enrol", "web-2", "--command", "--url", "http://x; rm -r /"]))?;
    ensure!(refused.contains("is not where hosts reach this enforcer"), "{refused}");
    Ok(())
}

#[test]
fn many_hosts_are_enrolled_at_once_or_none_of_them() -> Result<()> {
    let (stage, _enforcer) = stage()?;
    let file = stage.folder().join("hosts.txt");
    std::fs::write(&file, "web-1   # the first\n\n../x\nweb-2\nweb-1\n")?;
    let refused = refusal(stage.enforcer().args(["enrol", "--once", "--from"]).arg(&file))?;
    ensure!(
        refused.contains("hosts.txt:3: ") && refused.contains("hosts.txt:5: web-1 is there twice"),
        "{refused}"
    );
    assert_eq!(output(stage.enforcer().args(["sensors", "--json"]))?.trim(), "[]");
    let names: String = (0..300).map(|number| format!("host-{number}\n")).collect();
    std::fs::write(&file, names)?;
    let printed = output(stage.enforcer().args(["enrol", "--once", "--from"]).arg(&file))?;
    assert_eq!(printed.lines().filter(|line| line.contains("\tatalaya2:host-")).count(), 300);
    let again = refusal(stage.enforcer().args(["enrol", "--once", "--from"]).arg(&file))?;
    ensure!(again.contains("hosts.txt:300: a sensor named host-299 is enrolled"), "{again}");
    Ok(())
}
