//! A sensor from nothing, as README and `atalaya-sensor --help` say it: `join`, `check`, `run`, on a host that has neither
//! its configuration nor its state. And what it says of bans that are asked for by hand.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, output, output_with_input};
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER, RULES, Stage, is_ready};
use routeros_sim::Router;

const PATIENCE: Duration = Duration::from_secs(30);

/// The sensor as it is installed, without a word on where anything is: `/etc` and `/var/lib` are folders of the stage.
fn installed(stage: &Stage, arguments: &[&str]) -> Command {
    let own = "mount --bind \"$0/etc\" /etc && mount --bind \"$0/lib\" /var/lib && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", own]).arg(stage.folder());
    command.arg(stage.program("atalaya-sensor").get_program()).args(arguments);
    command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env_remove("JOURNAL_STREAM");
    command
}

fn mode(path: &Path) -> Result<u32> {
    Ok(path.metadata().with_context(|| path.display().to_string())?.permissions().mode() & 0o777)
}

/// What a command says that fails.
fn refusal(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(!output.status.success(), "it succeeds: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn join_check_and_run_from_nothing_make_a_sensor_that_bans() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let router = Router::builder()
        .user(ROUTER_USER)
        .password(ROUTER_PASSWORD)
        .terminal(RULES[0])
        .terminal(RULES[1])
        .start()
        .await?;
    stage.write_enforcer_config(&[("edge", router.address())], "allow = [\"198.51.100.99\"]")?;
    let _enforcer = stage.start_enforcer()?;
    for folder in ["etc", "lib"] {
        std::fs::create_dir(stage.folder().join(folder))?;
    }
    let sensor = |arguments: &[&str]| installed(&stage, arguments);

    let token = stage.enrol("web-1")?;
    let said = output_with_input(&mut sensor(&["join", &stage.url(), "-"]), &token)?;
    ensure!(said.contains("/etc/atalaya/sensor.toml was not there") && said.contains("joined"), "{said}");
    assert_eq!(mode(&stage.folder().join("lib/atalaya-sensor"))?, 0o700);
    let said = output(&mut sensor(&["check"]))?;
    ensure!(said.contains("jail ssh: logins of sshd; 3 failures in 10m ban for 30m"), "{said}");
    ensure!(said.contains("no mistakes"), "{said}");
    let mut running = Process::start("the sensor", &mut sensor(&["--log-format", "json", "run"]))?;
    running.wait_for("become ready", PATIENCE, is_ready)?;

    let said = output(&mut sensor(&["ban", "ssh", "198.51.100.9"]))?;
    ensure!(said.contains("198.51.100.9 is banned for 30m in the name of jail ssh"), "{said}");
    let holds = |entries: &[routeros_sim::Entry]| entries.iter().any(|entry| entry.address == "198.51.100.9");
    router.wait_for(holds, PATIENCE).await.context("it did not reach the router")?;
    let said = refusal(&mut sensor(&["ban", "ssh", "198.51.100.99"]))?;
    ensure!(said.contains("198.51.100.99 is not banned: it is on the enforcer's allow list"), "{said}");
    for own in ["127.0.0.1", "::1", "0.0.0.0"] {
        let said = refusal(&mut sensor(&["ban", "ssh", own]))?;
        ensure!(said.contains(&format!("{own} is never banned")), "{said}");
    }

    // Joining once more leaves the configuration as it is.
    let config = stage.folder().join("etc/atalaya/sensor.toml");
    std::fs::write(&config, "[jail.own]\nsource = \"logins\"\n")?;
    let token = stage.enrol("web-2")?;
    let said = output_with_input(&mut sensor(&["join", &stage.url(), "-"]), &token)?;
    ensure!(!said.contains("was not there"), "{said}");
    ensure!(std::fs::read_to_string(&config)?.contains("[jail.own]"));
    Ok(())
}
