//! What a sensor tells the enforcer beside offences, over real processes: failures that no jail of its own
//! bans, and, when the enforcer has lost its ledger, its bans once more.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::output;
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER, RULES, Stage};
use routeros_sim::{Entry, Family, Router};

const PATIENCE: Duration = Duration::from_secs(30);

/// One router, one enforcer, one sensor that reads one log file.
struct Scene {
    stage: Stage,
    router: Router,
}

// === impl Scene ===

impl Scene {
    async fn new(enforcer: &str) -> Result<Self> {
        let stage = Stage::of_this_test()?;
        let router = Router::builder()
            .user(ROUTER_USER)
            .password(ROUTER_PASSWORD)
            .terminal(RULES[0])
            .terminal(RULES[1])
            .start()
            .await?;
        stage.write_enforcer_config(&[("edge", router.address())], enforcer)?;
        let log = stage.folder().join("log");
        stage.write_sensor_config(&format!(
            "[jail.web]\nsource = \"files\"\npaths = \"{}\"\nfailregex = '^ bad login from <ADDR>$'\nmaxretry = 5\n",
            log.display()
        ))?;
        std::fs::write(log, "")?;
        Ok(Self { stage, router })
    }

    fn fail(&self, address: &str, times: usize) -> Result<()> {
        let mut log = std::fs::File::options().append(true).open(self.stage.folder().join("log"))?;
        let line = format!("{} bad login from {address}\n", jiff::Timestamp::now());
        Ok(log.write_all(line.repeat(times).as_bytes())?)
    }

    async fn wait_for(&self, address: &str) -> Result<Entry> {
        let is_it = |entry: &Entry| entry.address == address;
        let holds = |entries: &[Entry]| entries.iter().any(is_it);
        self.router.wait_for(holds, PATIENCE).await.with_context(|| format!("{address} never came"))?;
        self.router.entries(Family::V4).into_iter().find(is_it).context("it left at once")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_no_jail_of_the_sensors_bans_are_counted_by_the_fleet() -> Result<()> {
    let scene =
        Scene::new("[fleet.slow]\nmaxretry = 4\nfindtime = \"1h\"\nbantime = \"2h\"\nsensors = 1\n").await?;
    let _enforcer = scene.stage.start_enforcer()?;
    scene.stage.join(&scene.stage.enrol("web-1")?)?;
    let _sensor = scene.stage.start_sensor()?;
    scene.fail("198.51.100.7", 2)?;
    scene.fail("198.51.100.8", 2)?;
    scene.fail("198.51.100.7", 2)?;
    let entry = scene.wait_for("198.51.100.7").await?;
    ensure!(entry.comment.contains("slow"), "another jail banned: {entry:?}");
    ensure!(entry.timeout_left.is_some_and(|left| left > Duration::from_secs(7190)), "{entry:?}");
    ensure!(scene.router.entries(Family::V4).len() == 1, "two failures ban");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_enforcer_and_the_router_both_lost_comes_back_from_the_sensor() -> Result<()> {
    let scene = Scene::new("").await?;
    let enforcer = scene.stage.start_enforcer()?;
    scene.stage.join(&scene.stage.enrol("web-1")?)?;
    let _sensor = scene.stage.start_sensor()?;
    scene.fail("198.51.100.7", 5)?;
    scene.wait_for("198.51.100.7").await?;
    enforcer.terminate(Duration::from_secs(5))?;
    for file in std::fs::read_dir(scene.stage.folder().join("enforcer"))? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with("ledger.sqlite3") {
            std::fs::remove_file(file.path())?;
        }
    }
    // The router has nothing either, from which the ledger could be made again.
    scene.router.reboot().await;
    ensure!(scene.router.entries(Family::V4).is_empty(), "the reboot left an entry");
    let _enforcer = scene.stage.start_enforcer()?;
    // The next offence's ack tells of the new ledger.
    scene.fail("198.51.100.8", 5)?;
    let entry = scene.wait_for("198.51.100.7").await?;
    let left = entry.timeout_left.context("the entry has no timeout")?;
    ensure!((1700..=1801).contains(&left.as_secs()), "timeout {left:?}");
    // A ban is on its way to the routers while the ledger, which `show` reads, commits it.
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let said = output(scene.stage.enforcer().args(["show", "198.51.100.7", "--json"]))?;
        if said.contains("the enforcer's ledger was lost; this ban stood at the sensor") {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{said}");
    }
}
