//! Many routers, a reboot, new bans beside a reconciliation, and a million bans; the routers are simulated.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::process::{Line, Process, output};
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, RULES, START, Stage, is_ready};
use serde_json::Value;

use super::{attacker, programs, resident};
use crate::run::{announce, cargo};

/// What an RB5009 was measured to need: for an entry that is added, and for each entry that a print scans.
const RB5009: [&str; 4] = ["--insert-cost", "1.2ms", "--scan-cost", "50us"];

/// How many entries are reconciled.
const ENTRIES: u32 = 25_000;

/// A simulated router as a process, and when it had each address, where it tells.
struct Simulated {
    process: Process,
    address: SocketAddr,
    events: Receiver<Line>,
}

/// A running enforcer with its routers, and the token of a sensor.
struct Scene {
    stage: Stage,
    routers: Vec<Simulated>,
    enforcer: Process,
    token: String,
}

/// Bans a second with 1, 10 and 50 routers.
pub fn fleet() -> Result<()> {
    println!("routers: offences in batches of 1,000 over one connection, to routers that cost nothing");
    println!("  (every simulator runs on the same two processor cores as the enforcer)");
    for (routers, bans) in [(1, 100_000), (10, 20_000), (50, 5000)] {
        let scene = Scene::new(routers, &["--events", "none"], "max_entries = 2000000")?;
        let (start, _) = super::post(&scene.stage, &scene.token, bans)?;
        scene.wait_until(Duration::from_secs(300), |status| {
            status["routers"].as_array().is_some_and(|routers| {
                routers.iter().all(|router| router["adds"].as_u64() >= Some(u64::from(bans)))
            })
        })?;
        let seconds = super::unix_nanos().saturating_sub(start) as f64 / 1e9;
        let rate = f64::from(bans) / seconds;
        println!(
            "  {routers:>2} routers, {bans:>6} bans: {seconds:.2} s, {rate:.0} bans/s, {:.0} commands/s; memory {:.0} MB",
            rate * routers as f64,
            resident(scene.enforcer.id())? as f64 / 1e6
        );
    }
    println!();
    Ok(())
}

/// New bans beside a reconciliation of 25,000 entries that are there, and of as many that a reboot lost.
pub fn reconcile() -> Result<()> {
    println!("reconcile: {ENTRIES} entries on a router that needs 1.2 ms an entry and 50 µs to print one");
    let costs = [&RB5009[..], &["--events", "json", "--control"]].concat();
    let mut scene = Scene::new(1, &costs, "reconcile = \"10s\"")?;
    super::post(&scene.stage, &scene.token, ENTRIES)?;
    scene.routers[0].adds(ENTRIES as usize, Duration::from_secs(120))?;

    // Each print scans the whole table for each family; only IPv4's is large.
    let own = Duration::from_micros(50) * ENTRIES;
    let log = scene.sensor()?;
    let waits = scene.bans_beside(&log, 1200, Duration::from_millis(20), 300_000)?;
    told("the whole list is printed every 10 s", &waits);
    println!(
        "    the router's own print takes {:.0} ms; worst beyond it {:.0} ms, p99 beyond it {:.0} ms (budget: p99 under 50 ms)",
        own.as_secs_f64() * 1e3,
        (at(&waits, 1.0) - own.as_secs_f64() * 1e3).max(0.0),
        (at(&waits, 0.99) - own.as_secs_f64() * 1e3).max(0.0)
    );

    scene.routers[0].process.tell("reboot\n")?;
    let waits = scene.bans_beside(&log, 500, Duration::from_millis(40), 400_000)?;
    told("the router was rebooted, and everything is added anew meanwhile", &waits);
    println!();
    Ok(())
}

/// Start, memory and a new ban's way with a million bans that stand.
pub fn million() -> Result<()> {
    const BANS: u32 = 1_000_000;
    println!("million: a ledger with {BANS} bans that stand, and one router that takes them all");
    announce(
        "what makes such a ledger",
        cargo().args(["build", "--release", "--package", "atalaya-enforcer", "--example", "ledger_scale"]),
    )?;
    let stage = Stage::new(&programs("release"))?;
    let state = stage.folder().join("enforcer");
    let scale = programs("release").join("examples/ledger_scale");
    output(Command::new(scale).args([BANS.to_string(), "0".to_owned()]).arg(&state))?;

    let router = Simulated::start(&stage, &["--events", "none"])?;
    stage.write_enforcer_config(&[("r0", router.address)], "")?;
    add_to_routers(&stage, "max_entries = 2000000")?;
    let clock = Instant::now();
    let mut enforcer = start(&stage)?;
    enforcer.wait_for("become ready", Duration::from_secs(60), is_ready)?;
    println!(
        "  from the start to ready: {:.2} s (budget 5 s); memory then {:.0} MB",
        clock.elapsed().as_secs_f64(),
        resident(enforcer.id())? as f64 / 1e6
    );
    let token = stage.enrol("bench")?;
    let scene = Scene { stage, routers: vec![router], enforcer, token };
    scene.wait_until(Duration::from_secs(300), |status| {
        status["routers"][0]["ours"].as_u64() >= Some(u64::from(BANS))
    })?;
    println!(
        "  all on the router after {:.1} s; memory with its mirror {:.0} MB (budget 400 MB)",
        clock.elapsed().as_secs_f64(),
        resident(scene.enforcer.id())? as f64 / 1e6
    );
    // A new ban's way: from the post until the router's answer is in the worker's counts.
    let log = scene.sensor()?;
    let mut micros = Vec::new();
    for number in 0..200 {
        let before = scene.adds()?;
        super::append(&log, 20_000_000 + number)?;
        scene.wait_until(START, |status| status["routers"][0]["adds"].as_u64() > Some(before))?;
        micros.push(scene.status()?["routers"][0]["latency_us"].as_u64().unwrap_or_default() as f64);
    }
    micros.sort_unstable_by(f64::total_cmp);
    println!(
        "  a new ban, from the worker to the router's answer: p50 {:.2} ms, p99 {:.2} ms (budget 1 ms)",
        at(&micros, 0.5) / 1e3,
        at(&micros, 0.99) / 1e3
    );
    super::stream::follow(&scene.stage, scene.enforcer.id(), &scene.token, &log, 20_001_000)
}

// === impl Simulated ===

impl Simulated {
    fn start(stage: &Stage, arguments: &[&str]) -> Result<Self> {
        let (sender, events) = mpsc::channel();
        let mut router = stage.router(&RULES);
        router.args(arguments);
        let process = Process::start_into("a router", &mut router, &sender, |line| line)?;
        let first = events.recv_timeout(START).context("the simulator does not start")?.text;
        let address = serde_json::from_str::<Value>(&first)
            .ok()
            .and_then(|event| event["address"].as_str().map(str::to_owned));
        let address = address.or_else(|| {
            first
                .split_whitespace()
                .find(|word| word.contains(':') && word.parse::<SocketAddr>().is_ok())
                .map(str::to_owned)
        });
        let address = address.with_context(|| format!("no address in {first:?}"))?.parse()?;
        Ok(Self { process, address, events })
    }

    /// When each address was added, once so many were.
    fn adds(&self, count: usize, within: Duration) -> Result<HashMap<IpAddr, SystemTime>> {
        let until = Instant::now() + within;
        let mut adds = HashMap::with_capacity(count);
        while adds.len() < count {
            let line = self
                .events
                .recv_timeout(until.saturating_duration_since(Instant::now()))
                .with_context(|| format!("only {} of {count} bans reached the router", adds.len()))?;
            let Ok(event) = serde_json::from_str::<Value>(&line.text) else { continue };
            if event["event"] == "add"
                && let Some(address) = event["address"].as_str().and_then(|text| text.parse().ok())
            {
                // When the router printed it, which is when it had carried it out.
                adds.entry(address).or_insert(line.at);
            }
        }
        Ok(adds)
    }
}

// === impl Scene ===

impl Scene {
    fn new(routers: usize, arguments: &[&str], each: &str) -> Result<Self> {
        let stage = Stage::new(&programs("release"))?;
        let routers: Vec<Simulated> =
            (0..routers).map(|_| Simulated::start(&stage, arguments)).collect::<Result<_>>()?;
        let names: Vec<String> = (0..routers.len()).map(|number| format!("r{number}")).collect();
        let named: Vec<(&str, SocketAddr)> =
            names.iter().map(String::as_str).zip(routers.iter().map(|router| router.address)).collect();
        stage.write_enforcer_config(&named, "")?;
        add_to_routers(&stage, each)?;
        let mut enforcer = start(&stage)?;
        enforcer.wait_for("become ready", START, is_ready)?;
        let token = stage.enrol("bench")?;
        let scene = Self { stage, routers, enforcer, token };
        scene.wait_until(START, |status| {
            status["routers"]
                .as_array()
                .is_some_and(|routers| routers.iter().all(|router| router["state"]["is"] == "connected"))
        })?;
        Ok(scene)
    }

    fn status(&self) -> Result<Value> {
        // Not by the command: starting a process would cost more than what is measured.
        let mut socket = UnixStream::connect(self.stage.folder().join("enforcer.sock"))?;
        socket.write_all(b"GET /status HTTP/1.0\r\nhost: enforcer\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer to GET /status")?;
        Ok(serde_json::from_str(body)?)
    }

    fn adds(&self) -> Result<u64> {
        Ok(self.status()?["routers"][0]["adds"].as_u64().unwrap_or_default())
    }

    fn wait_until(&self, within: Duration, reached: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + within;
        loop {
            let status = self.status()?;
            if reached(&status) {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("it does not come about within {within:?}: {status}");
            }
            super::pause(Duration::from_millis(20));
        }
    }

    /// A sensor that reads one log; the log.
    fn sensor(&self) -> Result<Log> {
        let path = self.stage.folder().join("mail.log");
        std::fs::write(&path, "")?;
        self.stage.write_sensor_config(&super::log_jail(&path))?;
        self.stage.join(&self.token)?;
        Ok(Log {
            file: std::fs::File::options().append(true).open(&path)?,
            _sensor: self.stage.start_sensor()?,
        })
    }

    /// Bans one address after the other; how long each took from its line to the router, in milliseconds,
    /// sorted.
    fn bans_beside(&self, log: &Log, count: u32, pause: Duration, first: u32) -> Result<Vec<f64>> {
        let mut began = HashMap::new();
        for number in first..first + count {
            began.insert(IpAddr::V4(attacker(number)), SystemTime::now());
            super::append(log, number)?;
            super::pause(pause);
        }
        let mut waits = Vec::new();
        while waits.len() < began.len() {
            for (address, added) in self.routers[0].adds(1, Duration::from_secs(60))? {
                if let Some(start) = began.get(&address) {
                    waits.push(added.duration_since(*start).unwrap_or_default().as_secs_f64() * 1e3);
                }
            }
        }
        waits.sort_unstable_by(f64::total_cmp);
        Ok(waits)
    }
}

/// A log that a sensor follows.
pub struct Log {
    /// The sensor reads what is written here.
    pub file: std::fs::File,
    _sensor: Process,
}

fn start(stage: &Stage) -> Result<Process> {
    let log = "warn,atalaya_enforcer::service=info";
    Process::start("the enforcer", stage.enforcer().args(["--log", log, "--log-format", "json", "run"]))
}

/// Adds a line to every router's table.
fn add_to_routers(stage: &Stage, line: &str) -> Result<()> {
    let path: &Path = &stage.folder().join("enforcer.toml");
    let password = format!("password = \"{ROUTER_PASSWORD}\"\n");
    let text = std::fs::read_to_string(path)?.replace(&password, &format!("{password}{line}\n"));
    Ok(std::fs::write(path, text)?)
}

fn told(when: &str, waits: &[f64]) {
    println!(
        "  {} single bans while {when}: log line to entry p50 {:.1} ms, p90 {:.1}, p99 {:.1}, worst {:.1}",
        waits.len(),
        at(waits, 0.5),
        at(waits, 0.9),
        at(waits, 0.99),
        at(waits, 1.0)
    );
}

pub fn at(sorted: &[f64], share: f64) -> f64 {
    sorted.get(((sorted.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}
