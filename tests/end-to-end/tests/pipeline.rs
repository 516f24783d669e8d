//! From a log line to the router's list, over real processes: what a kill, a restart, a reboot or a
//! wrong token may not change. The router is the simulator, in this process.

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use atalaya_end_to_end::process::{Process, output, output_with_input, signal};
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER, RULES, Stage, free_port};
use routeros_sim::{Entry, Router};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// One router, one enforcer, one sensor that reads one log file.
struct Scene {
    stage: Stage,
    router: Router,
}

// === impl Scene ===

impl Scene {
    async fn new(jail: &str) -> Result<Self> {
        let stage = Stage::of_this_test()?;
        let router = Router::builder()
            .user(ROUTER_USER)
            .password(ROUTER_PASSWORD)
            .terminal(RULES[0])
            .terminal(RULES[1])
            .start()
            .await?;
        stage.write_enforcer_config(&[("edge", router.address())], "")?;
        stage.write_sensor_config(&format!(
            "[jail.smtp]\nsource = \"files\"\npaths = [\"{}/mail*.log\"]\nfailregex = '^.*\\[\\s*<HOST>\\s*\\].*Error: authentication failed'\n{jail}\n",
            stage.folder().display()
        ))?;
        std::fs::write(stage.folder().join("mail.log"), "")?;
        Ok(Self { stage, router })
    }

    fn join(&self) -> Result<()> {
        let token = self.stage.enrol("web-1")?;
        self.stage.join(&token)
    }

    fn fail(&self, addresses: impl IntoIterator<Item = Ipv4Addr>) -> Result<()> {
        let mut file = std::fs::File::options().append(true).open(self.stage.folder().join("mail.log"))?;
        let now = jiff::Timestamp::now();
        let mut text = String::new();
        for address in addresses {
            text.push_str(&format!(
                "{now} host VPS-x[{address}] 1-2 RECV - - 535 Error: authentication failed [u]\n"
            ));
        }
        Ok(file.write_all(text.as_bytes())?)
    }

    async fn wait_for(&self, address: &str) -> Result<Entry> {
        let holds = |entries: &[Entry]| entries.iter().any(|entry| entry.address == address);
        self.router
            .wait_for(holds, PATIENCE)
            .await
            .with_context(|| format!("{address} did not reach the router"))?;
        self.entry(address).with_context(|| format!("{address} left the router at once"))
    }

    fn entry(&self, address: &str) -> Option<Entry> {
        self.entries().into_iter().find(|entry| entry.address == address)
    }

    fn entries(&self) -> Vec<Entry> {
        self.router.entries(routeros_sim::Family::V4)
    }

    fn bans(&self) -> Result<Vec<Value>> {
        let text = output(self.stage.enforcer().args(["bans", "--json"]))?;
        Ok(serde_json::from_str::<Value>(&text)?.as_array().cloned().unwrap_or_default())
    }

    /// Waits until the ledger holds so many bans.
    async fn wait_for_bans(&self, count: usize) -> Result<()> {
        let until = tokio::time::Instant::now() + PATIENCE;
        while self.bans()?.len() < count {
            anyhow::ensure!(tokio::time::Instant::now() < until, "the ledger does not reach {count} bans");
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn three_failures_reach_the_router_with_thirty_minutes_and_two_do_not() -> Result<()> {
    let scene = Scene::new("").await?;
    let enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let sensor = scene.stage.start_sensor()?;

    scene.fail([address("198.51.100.8"); 2])?;
    scene.fail([address("198.51.100.7"); 3])?;
    let entry = scene.wait_for("198.51.100.7").await?;

    let left = entry.timeout_left.context("the entry has no timeout")?;
    assert!((1799..=1801).contains(&left.as_secs()), "timeout {left:?}");
    assert_eq!(entry.list, "spammer");
    assert!(entry.dynamic && entry.comment.contains("smtp") && entry.comment.contains("web-1"), "{entry:?}");
    assert!(scene.entry("198.51.100.8").is_none(), "two failures banned");
    sensor.terminate(Duration::from_secs(2))?;
    enforcer.terminate(Duration::from_secs(2))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_hosts_by_syslog_reach_the_router() -> Result<()> {
    let scene = Scene::new("").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let port = free_port()?;
    scene.stage.write_sensor_config(&format!(
        "[syslog]\nudp = [\"127.0.0.1:{port}\"]\ntcp = [\"127.0.0.1:{port}\"]\n[jail.routeros]\nsource = \"syslog\"\n\
         [jail.others]\nsource = \"syslog\"\nfailregex = '^\\s*edge system: login failure for user .* from <HOST> via \\w+$'\n"
    ))?;
    let _sensor = scene.stage.start_sensor()?;

    // As RouterOS sends it, and as RFC 5424 over TCP with and without a count, with data and without.
    let message = |from: &str| format!("login failure for user admin from {from} via winbox");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    for _ in 0..3 {
        let text = format!("<38>system,error,critical {}", message("198.51.100.21"));
        socket.send_to(text.as_bytes(), ("127.0.0.1", port))?;
    }
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    let now = jiff::Timestamp::now();
    for _ in 0..3 {
        writeln!(stream, "<38>1 {now} edge system - - [x y=\"\\\"]\"] {}", message("2001:db8::21"))?;
        let text = format!("<38>1 {now} edge system - - - {}", message("198.51.100.22"));
        write!(stream, "{} {text}", text.len())?;
    }
    scene.wait_for("198.51.100.21").await?;
    scene.wait_for("198.51.100.22").await?;
    let six = |entries: &[Entry]| entries.iter().any(|entry| entry.address == "2001:db8::/64");
    scene.router.wait_for(six, PATIENCE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fail2bans_own_jail_bans_on_the_router_for_its_bantime() -> Result<()> {
    let scene = Scene::new("").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let folder = scene.stage.folder().join("fail2ban");
    std::fs::create_dir_all(folder.join("filter.d"))?;
    std::fs::write(
        folder.join("jail.conf"),
        format!(
            "[DEFAULT]\nmaxretry = 2\nbantime = 10*90\n[mail]\nenabled = true\nfilter = mail\nlogpath = {}/mail.*\n\
             ignoreip = 198.51.100.0/28\n[other]\nenabled = yes\nfilter = nothing\n",
            scene.stage.folder().display()
        ),
    )?;
    std::fs::write(
        folder.join("filter.d/mail.conf"),
        "[Definition]\nfailregex = ^.*\\[\\s*<HOST>\\s*\\].*Error: %(what)s\nwhat = authentication failed\n",
    )?;
    scene.stage.write_sensor_config(&format!("fail2ban = \"{}\"\n", folder.display()))?;
    let sensor = scene.stage.start_sensor()?;

    assert!(sensor.said().contains("jail other does not run"), "{}", sensor.said());

    scene.fail([address("198.51.100.7"); 4])?;
    scene.fail([address("198.51.100.70"); 2])?;
    let entry = scene.wait_for("198.51.100.70").await?;
    let left = entry.timeout_left.context("the entry has no timeout")?;
    assert!((899..=901).contains(&left.as_secs()), "timeout {left:?}");
    assert!(entry.comment.contains("mail"), "{entry:?}");
    assert!(scene.entry("198.51.100.7").is_none(), "an address that the jail ignores was banned");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_loses_no_ban() -> Result<()> {
    let scene = Scene::new("").await?;
    let disk = SmallDisk::mount(&scene.stage.folder().join("enforcer"))?;
    let mut enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let _sensor = scene.stage.start_sensor()?;

    disk.fill()?;
    scene.fail((1..=40).flat_map(|host| [address(&format!("198.51.100.{host}")); 3]))?;
    let told = enforcer.wait_for("tell that the disk is full", PATIENCE, |line| {
        line.contains("\"level\":\"ERROR\"") || line.contains("\"level\":\"WARN\"")
    })?;
    assert!(told.text.contains("full"), "{}", told.text);
    disk.free()?;
    // The sensor kept what was not acked, and sends it again.
    for host in 1..=40 {
        scene.wait_for(&format!("198.51.100.{host}")).await?;
    }
    scene.wait_for_bans(40).await
}

/// A file system of 8 MB, which is unmounted with its owner. Needs root.
struct SmallDisk(std::path::PathBuf);

// === impl SmallDisk ===

impl SmallDisk {
    fn mount(at: &std::path::Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let mut mount = std::process::Command::new("mount");
        output(mount.args(["-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs"]).arg(at))?;
        Ok(Self(at.to_owned()))
    }

    /// Writes until nothing more fits.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.0.join("filling"))?;
        while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("filling"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_offenders_at_once_are_all_on_the_router_and_none_twice() -> Result<()> {
    let scene = Scene::new("maxretry = 1").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let _sensor = scene.stage.start_sensor()?;

    let first = u32::from(address("11.0.0.1"));
    scene.fail((0..10_000).map(|host| Ipv4Addr::from(first + host)))?;
    scene.router.wait_for(|entries| entries.len() >= 10_000, PATIENCE).await?;
    scene.wait_for_bans(10_000).await?;

    let mut addresses: Vec<String> = scene.entries().into_iter().map(|entry| entry.address).collect();
    assert_eq!(addresses.len(), 10_000);
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 10_000, "some address is there twice");
    assert_eq!(scene.router.counts().duplicates, 0, "some address was sent twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enforcer_killed_before_its_ack_gets_the_offence_again() -> Result<()> {
    let scene = Scene::new("").await?;
    let enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let _sensor = scene.stage.start_sensor()?;

    // Stopped, it accepts the connection and never answers: the offence is sent and not acked.
    signal("STOP", enforcer.id())?;
    scene.fail([address("198.51.100.7"); 3])?;
    enforcer.kill()?;
    assert!(scene.entries().is_empty());

    let _enforcer = scene.stage.start_enforcer()?;
    scene.wait_for("198.51.100.7").await?;
    scene.wait_for_bans(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enforcer_killed_between_ack_and_router_still_bans() -> Result<()> {
    let scene = Scene::new("").await?;
    let enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let _sensor = scene.stage.start_sensor()?;

    scene.router.go_down().await;
    scene.fail([address("198.51.100.7"); 3])?;
    scene.wait_for_bans(1).await?;
    enforcer.kill()?;
    scene.router.come_up().await?;
    let _enforcer = scene.stage.start_enforcer()?;
    scene.wait_for("198.51.100.7").await?;
    assert_eq!(scene.bans()?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_killed_after_two_failures_counts_the_third_that_was_written_meanwhile() -> Result<()> {
    let scene = Scene::new("").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let mut sensor = scene.stage.start_sensor()?;

    scene.fail([address("198.51.100.7"); 2])?;
    sensor.wait_for("count the second failure", PATIENCE, |line| line.contains("\"failures\":2"))?;
    sensor.kill()?;
    scene.fail([address("198.51.100.7")])?;
    std::fs::rename(scene.stage.folder().join("mail.log"), scene.stage.folder().join("mail.log.1"))?;
    std::fs::write(scene.stage.folder().join("mail.log"), "")?;
    assert!(scene.entries().is_empty());

    let _sensor = scene.stage.start_sensor()?;
    scene.wait_for("198.51.100.7").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offences_of_a_sensor_without_an_enforcer_are_sent_after_both_were_restarted() -> Result<()> {
    let scene = Scene::new("").await?;
    let enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    enforcer.kill()?;
    let mut sensor = scene.stage.start_sensor()?;
    scene.fail([address("198.51.100.7"); 3])?;
    sensor.wait_for("report the offence", PATIENCE, |line| line.contains("\"message\":\"offence\""))?;
    sensor.terminate(Duration::from_secs(5))?;

    let _enforcer = scene.stage.start_enforcer()?;
    assert!(scene.bans()?.is_empty());
    let _sensor = scene.stage.start_sensor()?;
    scene.wait_for("198.51.100.7").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebooted_router_gets_its_list_back_at_once() -> Result<()> {
    let scene = Scene::new("").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let _sensor = scene.stage.start_sensor()?;
    scene.fail([address("198.51.100.7"); 3])?;
    scene.wait_for("198.51.100.7").await?;
    scene.router.reboot().await;
    scene.wait_for("198.51.100.7").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_users_ban_and_unban_by_hand_pass_through_the_ledger() -> Result<()> {
    let scene = Scene::new("").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    output(scene.stage.enforcer().args(["ban", "198.51.100.9", "--for", "10m", "--reason", "by hand"]))?;
    let entry = scene.wait_for("198.51.100.9").await?;
    assert!((598..=601).contains(&entry.timeout_left.context("no timeout")?.as_secs()));
    output(scene.stage.enforcer().args(["unban", "198.51.100.9"]))?;
    scene.router.wait_for(<[Entry]>::is_empty, PATIENCE).await?;
    assert!(scene.bans()?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_and_a_wrong_certificate_are_told_apart() -> Result<()> {
    let scene = Scene::new("").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    let token = scene.stage.enrol("web-1")?;
    let parts: Vec<&str> = token.split(':').collect();
    let other_secret = format!("{}:{}:{}:{}", parts[0], parts[1], "A".repeat(43), parts[3]);
    let other_certificate = format!("{}:{}:{}:{}", parts[0], parts[1], parts[2], "0".repeat(64));

    let join = |token: &str| {
        let mut command = scene.stage.sensor();
        command.args(["join", &scene.stage.url(), "-"]);
        output_with_input(&mut command, token).map_err(|error| error.to_string())
    };
    let refused = join(&other_secret).unwrap_err();
    assert!(refused.contains("refused") && refused.contains("web-1"), "{refused}");
    let mismatch = join(&other_certificate).unwrap_err();
    assert!(mismatch.contains("certificate"), "{mismatch}");
    let garbage = join("atalaya1:x").unwrap_err();
    assert!(garbage.contains("join token"), "{garbage}");
    join(&token).map_err(anyhow::Error::msg)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_log_and_no_process_list() -> Result<()> {
    let scene = Scene::new("").await?;
    let start = |name: &str, mut command: std::process::Command| {
        Process::start(name, command.args(["--log", "trace", "--log-format", "json", "run"]))
    };
    let mut enforcer = start("the enforcer", scene.stage.enforcer())?;
    enforcer.wait_for("become ready", PATIENCE, atalaya_end_to_end::stage::is_ready)?;
    let token = scene.stage.enrol("web-1")?;
    let secret = token.split(':').nth(2).context("no secret in the token")?.to_owned();

    // Joining with the token as an argument, while the enforcer is stopped and so keeps it waiting.
    signal("STOP", enforcer.id())?;
    let mut join = scene.stage.sensor();
    let join = join.args(["join", &scene.stage.url(), &token]).stdout(std::process::Stdio::null()).spawn()?;
    let arguments = std::path::PathBuf::from(format!("/proc/{}/cmdline", join.id()));
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let shown = String::from_utf8_lossy(&std::fs::read(&arguments)?).into_owned();
        if shown.contains("xxxxxxxx") {
            assert!(!shown.contains(&secret), "{shown}");
            break;
        }
        anyhow::ensure!(std::time::Instant::now() < until, "the token stays in the process list: {shown}");
    }
    signal("CONT", enforcer.id())?;
    anyhow::ensure!(join.wait_with_output()?.status.success(), "joining failed");

    let mut sensor = start("the sensor", scene.stage.sensor())?;
    sensor.wait_for("become ready", PATIENCE, atalaya_end_to_end::stage::is_ready)?;
    scene.fail([address("198.51.100.7"); 3])?;
    scene.wait_for("198.51.100.7").await?;
    let mut log = String::new();
    for mut process in [sensor, enforcer] {
        signal("TERM", process.id())?;
        let _ = process.wait_for("never", PATIENCE, |line| {
            log.push_str(line);
            false
        });
        log.push_str(&process.said());
    }
    assert!(log.contains("198.51.100.7"), "the log was not read");
    for hidden in [secret.as_str(), ROUTER_PASSWORD] {
        assert!(!log.contains(hidden), "a secret is in the log");
    }
    Ok(())
}

/// What `atalaya-sensor status --json` says.
fn status(stage: &Stage) -> Result<Value> {
    Ok(serde_json::from_str(&output(stage.sensor().args(["status", "--json"]))?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_fail2ban_client_have_their_like() -> Result<()> {
    let scene = Scene::new("").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    let stopped = scene.stage.sensor().arg("status").output()?;
    assert!(String::from_utf8_lossy(&stopped.stderr).contains("is it running"), "{stopped:?}");
    scene.join()?;
    let _sensor = scene.stage.start_sensor()?;
    let run = |arguments: &[&str]| output(scene.stage.sensor().args(arguments));

    // By hand, and back.
    let said = run(&["ban", "smtp", "198.51.100.41", "--for", "2h"])?;
    assert!(said.contains("2h"), "{said}");
    let entry = scene.wait_for("198.51.100.41").await?;
    assert!(entry.timeout_left.is_some_and(|left| left.as_secs() > 7100), "{entry:?}");
    let table = run(&["status", "smtp"])?;
    assert!(table.contains("198.51.100.41") && table.contains("mail.log"), "{table}");
    let said = run(&["unban", "198.51.100.41"])?;
    assert!(said.contains("unbanned"), "{said}");
    let gone = |entries: &[Entry]| entries.iter().all(|entry| entry.address != "198.51.100.41");
    scene.router.wait_for(gone, PATIENCE).await?;
    let again = scene.stage.sensor().args(["unban", "198.51.100.41"]).output()?;
    assert!(!again.status.success(), "a ban that does not stand was lifted");
    let unknown = scene.stage.sensor().args(["ban", "nosuch", "198.51.100.41"]).output()?;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there are smtp"), "{unknown:?}");

    // Spared while running; counted before the reload, banned after it.
    run(&["ignore", "smtp", "198.51.100.42"])?;
    scene.fail([address("198.51.100.42"); 3])?;
    scene.fail([address("198.51.100.43"); 2])?;
    let until = tokio::time::Instant::now() + PATIENCE;
    while status(&scene.stage)?["jails"][0]["failures"] != 2 {
        anyhow::ensure!(tokio::time::Instant::now() < until, "{}", status(&scene.stage)?);
        tokio::task::yield_now().await;
    }
    let config = std::fs::read_to_string(scene.stage.folder().join("sensor.toml"))?;
    std::fs::write(scene.stage.folder().join("sensor.toml"), format!("{config}\nmaxretri = 4\n"))?;
    let refused = scene.stage.sensor().arg("reload").output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("maxretri") && said.contains("as before"), "{said}");
    std::fs::write(scene.stage.folder().join("sensor.toml"), format!("{config}\nbantime = \"1h\"\n"))?;
    let said = run(&["reload"])?;
    assert!(said.contains("1 jail,"), "{said}");
    scene.fail([address("198.51.100.43")])?;
    let entry = scene.wait_for("198.51.100.43").await?;
    assert!(entry.timeout_left.is_some_and(|left| left.as_secs() > 3500), "{entry:?}");
    assert!(scene.entry("198.51.100.42").is_none(), "a spared address was banned");
    let status = status(&scene.stage)?;
    assert_eq!(status["jails"][0]["banned"][0]["address"], "198.51.100.43", "{status}");
    assert_eq!(status["connected"], true, "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ignorecommand_and_a_name_spare_whom_they_say() -> Result<()> {
    let scene =
        Scene::new("ignorecommand = \"test <ip> = 198.51.100.51\"\nignore = [\"file:/nowhere/at/all\"]")
            .await?;
    let _enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let _sensor = scene.stage.start_sensor()?;
    scene.fail([address("198.51.100.51"); 3])?;
    scene.fail([address("198.51.100.52"); 3])?;
    scene.wait_for("198.51.100.52").await?;
    assert!(scene.entry("198.51.100.51").is_none(), "the command spares it");
    Ok(())
}

/// Adds entries to a journal, as journald would write them.
fn write_journal(folder: &std::path::Path, addresses: &[&str]) -> Result<()> {
    let entries: Vec<String> = addresses
        .iter()
        .map(|address| {
            format!(
                "SYSLOG_IDENTIFIER=sshd\n_COMM=sshd\n_SYSTEMD_UNIT=ssh.service\n\
                 MESSAGE=Failed password for root from {address} port 22 ssh2\n"
            )
        })
        .collect();
    write_entries(folder, &entries)
}

/// Adds entries with these fields to a journal.
fn write_entries(folder: &std::path::Path, entries: &[String]) -> Result<()> {
    let now = jiff::Timestamp::now().as_microsecond();
    let mut export = String::new();
    for (index, fields) in entries.iter().enumerate() {
        let time = now + index as i64;
        export.push_str(&format!(
            "__REALTIME_TIMESTAMP={time}\n__MONOTONIC_TIMESTAMP={time}\n_BOOT_ID=00000000000000000000000000000001\n\
             _HOSTNAME=web\n_PID={}\n{fields}\n",
            1000 + index
        ));
    }
    let mut remote = std::process::Command::new("/lib/systemd/systemd-journal-remote");
    remote.arg(format!("--output={}", folder.join("test.journal").display())).arg("-");
    output_with_input(&mut remote, &export).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_read_on_where_it_stood() -> Result<()> {
    let scene = Scene::new("").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let journal = scene.stage.folder().join("journal");
    std::fs::create_dir(&journal)?;
    write_journal(&journal, &["198.51.100.60"])?;
    scene.stage.write_sensor_config(&format!(
        "journal = \"{}\"\n[jail.sshd]\nsource = \"journal\"\n",
        journal.display()
    ))?;
    let sensor = scene.stage.start_sensor()?;
    write_journal(
        &journal,
        &["198.51.100.61", "198.51.100.61", "198.51.100.61", "198.51.100.62", "198.51.100.62"],
    )?;
    scene.wait_for("198.51.100.61").await?;
    sensor.terminate(Duration::from_secs(5))?;

    // Written while nobody reads.
    write_journal(&journal, &["198.51.100.62", "198.51.100.63"])?;
    let _sensor = scene.stage.start_sensor()?;
    scene.wait_for("198.51.100.62").await?;
    assert!(scene.entry("198.51.100.63").is_none() && scene.entry("198.51.100.60").is_none());
    Ok(())
}

/// What a container's engine puts into the journal for a program's line, or for a piece of one.
fn of_container(text: &str, is_piece: bool) -> String {
    let partial = if is_piece { "CONTAINER_PARTIAL_MESSAGE=true\n" } else { "" };
    format!(
        "_COMM=conmon\n_UID=0\nPRIORITY=6\nCONTAINER_NAME=web\nCONTAINER_ID_FULL=0123456789abcdef\n{partial}MESSAGE={text}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_a_containers_engine_parts_is_one_line_also_over_a_restart() -> Result<()> {
    let scene = Scene::new("").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    scene.join()?;
    let journal = scene.stage.folder().join("journal");
    std::fs::create_dir(&journal)?;
    scene.stage.write_sensor_config(&format!(
        "[jail.web]\nsource = \"journal\"\njournalpath = \"{}\"\njournalmatch = \"CONTAINER_NAME=web\"\n\
         failregex = '^refused <HOST> .* end$'\nmaxretry = 1\n",
        journal.display()
    ))?;
    let sensor = scene.stage.start_sensor()?;
    let long = "x".repeat(16 * 1024);
    write_entries(
        &journal,
        &[
            // Whoever asks for a long name decides where the next piece begins.
            of_container(&format!("asked for {long}"), true),
            of_container("refused 198.51.100.71 forged end", false),
            of_container("refused 198.51.100.72 in one end", false),
            of_container(&format!("refused 198.51.100.73 {long}"), true),
        ],
    )?;
    scene.wait_for("198.51.100.72").await?;
    sensor.terminate(Duration::from_secs(5))?;
    let _sensor = scene.stage.start_sensor()?;
    write_entries(&journal, &[of_container(" end", false)])?;
    scene.wait_for("198.51.100.73").await?;
    assert!(scene.entry("198.51.100.71").is_none(), "a piece of a line is no line");
    Ok(())
}
