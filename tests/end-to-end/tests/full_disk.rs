//! A sensor whose disk takes nothing: it starts from what it can read, offences leave at once, what belongs on disk is
//! there once there is room, and nothing is lost or half-written. Real processes; the router is the simulator. Needs root,
//! to mount small disks.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::small_disk::SmallDisk;
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER, RULES, Stage};
use routeros_sim::{Family, Router};
use serde_json::Value;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(30);

/// One router, one enforcer, and one sensor that has joined it, reads one log, and has a small disk.
struct Scene {
    stage: Stage,
    router: Router,
    enforcer: Option<Process>,
    disk: SmallDisk,
}

/// How the disk takes nothing.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// After a sensor that was stopped, or killed: it left SQLite's journal, whose index needs room.
    Full { killed: bool },
    /// After a sensor that was stopped, or killed.
    ReadOnly { killed: bool },
}

// === impl Scene ===

impl Scene {
    async fn new() -> Result<Self> {
        let stage = Stage::of_this_test()?;
        let disk = SmallDisk::mount(&stage.folder().join("sensor"), "8m")?;
        let router = Router::builder()
            .user(ROUTER_USER)
            .password(ROUTER_PASSWORD)
            .terminal(RULES[0])
            .terminal(RULES[1])
            .start()
            .await?;
        stage.write_enforcer_config(&[("edge", router.address())], "")?;
        stage.write_sensor_config(&format!(
            "[jail.app]\nsource = \"files\"\npaths = \"{}/log\"\nfailregex = '^ bad login from <ADDR>$'\nmaxretry = 3\n",
            stage.folder().display()
        ))?;
        std::fs::write(stage.folder().join("log"), "")?;
        let enforcer = stage.start_enforcer()?;
        stage.join(&stage.enrol("web-1")?)?;
        Ok(Self { stage, router, enforcer: Some(enforcer), disk })
    }

    fn start(&self) -> Result<Process> {
        self.stage.start_sensor()
    }

    /// Waits until what is read so far is on disk: a line that says nothing moves the position, and what is written after it
    /// holds all before it.
    async fn position_is_on_disk(&self) -> Result<()> {
        let before = std::time::SystemTime::now();
        let mut log = std::fs::File::options().append(true).open(self.stage.folder().join("log"))?;
        log.write_all(b"nothing\n")?;
        let written = self.file("sensor.sqlite3-wal");
        let until = Instant::now() + PATIENCE;
        while std::fs::metadata(&written)?.modified()? <= before {
            ensure!(Instant::now() < until, "{} is not written", written.display());
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Starts it where the disk takes nothing; what it says of that.
    fn start_in_trouble(&self) -> Result<(Process, String)> {
        let mut command = self.stage.sensor();
        let mut sensor = Process::start("the sensor", command.args(["--log-format", "json", "run"]))?;
        let told = sensor.wait_for("tell that it cannot write", PATIENCE, |line| {
            line.contains("THE STATE CANNOT BE WRITTEN") && line.contains("\"level\":\"ERROR\"")
        })?;
        sensor.wait_for("become ready", PATIENCE, |line| line.contains("\"message\":\"ready\""))?;
        Ok((sensor, told.text))
    }

    fn fail(&self, address: &str, times: usize) -> Result<()> {
        let mut log = std::fs::File::options().append(true).open(self.stage.folder().join("log"))?;
        let line = format!("{} bad login from {address}\n", jiff::Timestamp::now());
        Ok(log.write_all(line.repeat(times).as_bytes())?)
    }

    async fn is_on_router(&self, address: &str) -> Result<()> {
        let there =
            self.router.wait_for(|all| all.iter().any(|entry| entry.address == address), PATIENCE).await;
        there
            .with_context(|| format!("{address} is not on the router: {:?}", self.router.entries(Family::V4)))
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&output(self.stage.sensor().args(["status", "--json"]))?)?)
    }

    /// Waits until the status is such.
    async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            // A socket comes only once the disk takes it.
            let status = self.status();
            if status.as_ref().is_ok_and(&is) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "it is not so that {what}: {status:#?}");
            tokio::task::yield_now().await;
        }
    }

    fn strikes(&self) -> Result<usize> {
        let history: Value =
            serde_json::from_str(&output(self.stage.enforcer().args(["history", "--json"]))?)?;
        Ok(history.as_array().context("no list")?.len())
    }

    /// Ends the sensor so, and lets the disk take nothing more.
    fn end(&self, sensor: Process, trouble: Trouble) -> Result<()> {
        let (Trouble::Full { killed } | Trouble::ReadOnly { killed }) = trouble;
        if killed {
            sensor.kill()?;
        } else {
            let ended = sensor.terminate(PATIENCE)?;
            ensure!(ended.success(), "asked to end, it ends with {ended}");
        }
        match trouble {
            Trouble::Full { .. } => {
                // The index is left behind by a kill; it goes where a folder is copied.
                let _ = std::fs::remove_file(self.file("sensor.sqlite3-shm"));
                self.disk.fill()
            }
            Trouble::ReadOnly { .. } => self.disk.remount("ro"),
        }
    }

    fn mend(&self, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Full { .. } => self.disk.free(),
            Trouble::ReadOnly { .. } => self.disk.remount("rw"),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.stage.folder().join("sensor").join(name)
    }
}

fn is_whole(status: &Value) -> bool {
    status["state_trouble"].is_null()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_starts_where_nothing_can_be_written_goes_on_from_what_is_there_and_writes_it_later()
-> Result<()> {
    for trouble in
        [false, true].into_iter().flat_map(|killed| [Trouble::Full { killed }, Trouble::ReadOnly { killed }])
    {
        in_trouble(trouble).await.with_context(|| format!("{trouble:?}"))?;
    }
    Ok(())
}

async fn in_trouble(trouble: Trouble) -> Result<()> {
    let scene = Scene::new().await?;
    let sensor = scene.start()?;
    // Counted, and written with the position: an offence whose evidence is one line of the next run.
    scene.fail("198.51.100.1", 2)?;
    scene.until("two failures are counted", |status| status["jails"][0]["failures"] == 2).await?;
    scene.fail("198.51.100.9", 3)?;
    scene.is_on_router("198.51.100.9").await?;
    if let Trouble::Full { killed: true } | Trouble::ReadOnly { killed: true } = trouble {
        scene.until("nothing waits", |status| status["outbox"]["waiting"] == 0).await?;
        scene.position_is_on_disk().await?;
    }
    scene.end(sensor, trouble)?;
    scene.fail("198.51.100.1", 1)?;

    let (sensor, told) = scene.start_in_trouble()?;
    let disk = scene.stage.folder().join("sensor").display().to_string();
    let why = match trouble {
        Trouble::Full { .. } => format!("the disk of {disk} is full (0 bytes free); make room there"),
        Trouble::ReadOnly { .. } => format!("the disk of {disk} is mounted read-only; "),
    };
    ensure!(told.contains(&why), "{told}");
    scene.is_on_router("198.51.100.1").await.context("the failures of before are not counted")?;
    scene.fail("198.51.100.2", 3)?;
    scene.is_on_router("198.51.100.2").await?;
    if let Trouble::Full { .. } = trouble {
        scene.until("the enforcer has all", |status| status["outbox"]["waiting"] == 0).await?;
        let shown = output(scene.stage.sensor().arg("status"))?;
        let lost = "no offence is lost, for the enforcer has all that are not on disk; logs are read again";
        ensure!(shown.contains("THE STATE CANNOT BE WRITTEN since ") && shown.contains(&why), "{shown}");
        ensure!(shown.contains(lost), "{shown}");
    }

    // In a run after it no number is given out again, which the enforcer would take for an offence that it has.
    sensor.kill()?;
    let (mut sensor, _) = scene.start_in_trouble()?;
    scene.fail("198.51.100.3", 3)?;
    scene.is_on_router("198.51.100.3").await?;

    scene.mend(trouble)?;
    sensor.wait_for("write again", PATIENCE, |line| line.contains("the state can be written again"))?;
    scene.until("nothing is wrong", is_whole).await?;
    scene.fail("198.51.100.4", 3)?;
    scene.is_on_router("198.51.100.4").await?;
    scene.until("nothing waits", |status| status["outbox"]["waiting"] == 0).await?;
    ensure!(sensor.terminate(PATIENCE)?.success());
    ensure!(scene.file("lock").metadata()?.len() == 0, "what the database knows is noted twice");

    let banned = scene.strikes()?;
    ensure!(banned == 5, "{banned} bans of five addresses");
    let sensor = scene.start()?;
    scene.fail("198.51.100.5", 3)?;
    scene.is_on_router("198.51.100.5").await?;
    let lines = scene.status()?["lines"].clone();
    ensure!(lines == 3, "{lines} lines are read of three new ones");
    drop(sensor);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_enforcer_does_not_have_is_told_and_survives_a_kill_once_there_is_room() -> Result<()> {
    let mut scene = Scene::new().await?;
    let trouble = Trouble::Full { killed: false };
    scene.end(scene.start()?, trouble)?;
    scene.enforcer.take().context("no enforcer")?.kill()?;
    let (mut sensor, _) = scene.start_in_trouble()?;
    scene.fail("198.51.100.1", 3)?;
    scene.fail("198.51.100.2", 3)?;
    scene
        .until("two offences are in memory alone", |status| status["state_trouble"]["offences"] == 2)
        .await?;
    let shown = output(scene.stage.sensor().arg("status"))?;
    ensure!(shown.contains("2 offences that the enforcer does not have are lost"), "{shown}");
    ensure!(shown.contains("2 offences wait for the enforcer"), "{shown}");
    scene.mend(trouble)?;
    sensor.wait_for("write again", PATIENCE, |line| line.contains("the state can be written again"))?;
    sensor.kill()?;
    // They are not to be had from the log any more.
    std::fs::write(scene.stage.folder().join("log"), "")?;
    scene.enforcer = Some(scene.stage.start_enforcer()?);
    let _sensor = scene.start()?;
    scene.is_on_router("198.51.100.1").await?;
    scene.is_on_router("198.51.100.2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_that_is_asked_to_end_while_the_disk_is_full_does_so_and_says_what_is_lost() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.end(scene.start()?, Trouble::Full { killed: false })?;
    scene.enforcer.take().context("no enforcer")?.kill()?;
    let (mut sensor, _) = scene.start_in_trouble()?;
    scene.fail("198.51.100.1", 3)?;
    scene.until("an offence is in memory alone", |status| status["state_trouble"]["offences"] == 1).await?;
    atalaya_end_to_end::process::signal("TERM", sensor.id())?;
    let told =
        sensor.wait_for("say what is lost", PATIENCE, |line| line.contains("stopped with offences"))?;
    ensure!(told.text.contains("\"offences\":1"), "{}", told.text);
    ensure!(sensor.wait_for_end(PATIENCE)?.success());
    // It is found again.
    scene.enforcer = Some(scene.stage.start_enforcer()?);
    let (_sensor, _) = scene.start_in_trouble()?;
    scene.is_on_router("198.51.100.1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_on_a_full_disk_leaves_nothing_that_bars_the_next_one() -> Result<()> {
    let stage = Stage::of_this_test()?;
    stage.write_sensor_config(
        "[jail.app]\nsource = \"files\"\npaths = \"/nowhere/log\"\nfailregex = '^x <ADDR>$'\n",
    )?;
    // From no room at all up to where all fits.
    for kilobytes in (4..180).step_by(16) {
        let disk = SmallDisk::mount(&stage.folder().join("sensor"), &format!("{kilobytes}k"))?;
        let mut command = stage.sensor();
        let mut sensor = Process::start("the sensor", command.args(["--log-format", "json", "run"]))?;
        let ready = sensor.wait_for("become ready", PATIENCE, |line| line.contains("\"message\":\"ready\""));
        let said = sensor.said();
        let is_told = said.contains("is full (") && !said.contains("disk I/O error");
        ensure!(ready.is_ok() || is_told, "{kilobytes} kB: {said}");
        sensor.kill()?;
        disk.remount("size=8m")?;
        let sensor = stage.start_sensor().with_context(|| format!("{kilobytes} kB"))?;
        let status: Value = serde_json::from_str(&output(stage.sensor().args(["status", "--json"]))?)?;
        ensure!(is_whole(&status), "{kilobytes} kB: {status:#}");
        ensure!(sensor.terminate(PATIENCE)?.success());
    }
    Ok(())
}
