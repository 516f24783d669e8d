//! `cargo xtask bench`: the budgets of the main job, measured over real processes in release builds.
//! The router is the simulator; beside it, where there is a peer, the peer runs in the same run.

mod attack;
mod crowdsec;
mod files;
mod filters;
mod kernel;
mod local_drop;
mod routers;
mod sensors;
mod stream;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::process::{Line, Process, output};
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER, RULES, START, Stage};
use atalaya_end_to_end::verdicts;
use serde_json::{Value, json};

use crate::run::{announce, cargo, programs};
use crate::setup;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Which; all of them where none is named
    #[arg(value_enum)]
    which: Vec<Which>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// One failed login (kernel) or log line to the command on the router's wire
    Latency,
    /// Bans a second through the enforcer, to a router that costs nothing
    Throughput,
    /// 25,000 bans to a router 33 ms away that needs 1.2 ms an entry
    Bulk,
    /// Bans a second with 1, 10 and 50 routers
    Routers,
    /// New bans beside a reconciliation of 25,000 entries, there or lost by a reboot
    Reconcile,
    /// Start, memory, a new ban's way and the stream to a sensor with a million bans
    Million,
    /// Real attacks from their start to the router, beside Debian's fail2ban
    Attack,
    /// The filter engine, beside ripgrep and fail2ban-regex; a live file, and a backlog
    Filters,
    /// A host with 25,000 logs, beside Debian's fail2ban
    Files,
    /// 2,000 sensors at once: acks by load, beside a noisy neighbour, unfinished bodies, and a fleet that comes back
    Sensors,
    /// What the kernel programs cost: an event, a connection, a packet, an idle sensor
    Kernel,
    /// From `ban`, `unban` and `allow` at the enforcer to the packets that a host drops
    LocalDrop,
}

/// How many single bans the latency is taken over, and the pause between them.
const SINGLES: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// Sets up, builds, measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::Purpose::Test)?;
    let packages =
        ["--package", "atalaya-sensor", "--package", "atalaya-enforcer", "--package", "routeros-sim"];
    announce("what is measured", cargo().args(["build", "--release"]).args(packages))?;
    let wanted = |which| arguments.which.is_empty() || arguments.which.contains(&which);
    println!("\nThe router is the simulator in every figure.\n");
    if wanted(Which::Latency) {
        latency()?;
    }
    if wanted(Which::Throughput) {
        throughput()?;
    }
    if wanted(Which::Bulk) {
        bulk()?;
    }
    if wanted(Which::Routers) {
        routers::fleet()?;
    }
    if wanted(Which::Reconcile) {
        routers::reconcile()?;
    }
    if wanted(Which::Million) {
        routers::million()?;
    }
    if wanted(Which::Attack) {
        attack::run()?;
    }
    if wanted(Which::Filters) {
        filters::run()?;
    }
    if wanted(Which::Files) {
        files::run()?;
    }
    if wanted(Which::Sensors) {
        sensors::run()?;
    }
    if wanted(Which::Kernel) {
        kernel::run()?;
    }
    if wanted(Which::LocalDrop) {
        local_drop::run()?;
    }
    Ok(())
}

/// A simulated router whose events come over a channel, and an enforcer that is connected to it.
struct Bench {
    stage: Stage,
    events: Receiver<Line>,
    router: SocketAddr,
    process: Process,
    enforcer: Process,
    token: String,
}

// === impl Bench ===

impl Bench {
    fn new(costs: &[&str]) -> Result<Self> {
        let stage = Stage::new(&programs("release"))?;
        let (sender, events) = mpsc::channel();
        let mut router = stage.router(&RULES);
        router.args(["--events", "json"]).args(costs);
        let process = Process::start_into("the router", &mut router, &sender, |line| line)?;
        let listening = events.recv_timeout(START).context("the simulator does not start")?;
        let event: Value = serde_json::from_str(&listening.text).with_context(|| listening.text.clone())?;
        let router =
            event["address"].as_str().context("the simulator does not say where it listens")?.parse()?;

        stage.write_enforcer_config(&[("bench", router)], "")?;
        // More than the simulated router's memory would allow by itself.
        let path = stage.folder().join("enforcer.toml");
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("{text}max_entries = 1000000\n"))?;
        let token = stage.enrol("bench")?;
        let mut enforcer = Process::start(
            "the enforcer",
            stage.enforcer().args([
                "--log",
                "warn,atalaya_enforcer::service=info",
                "--log-format",
                "json",
                "run",
            ]),
        )?;
        enforcer.wait_for("become ready", START, atalaya_end_to_end::stage::is_ready)?;
        let bench = Self { stage, events, router, process, enforcer, token };
        bench.wait_until_connected()?;
        Ok(bench)
    }

    fn wait_until_connected(&self) -> Result<()> {
        let until = Instant::now() + START;
        while Instant::now() < until {
            let line = self.events.recv_timeout(until - Instant::now())?;
            if line.text.contains("\"login\"") {
                return Ok(());
            }
        }
        bail!("the enforcer does not log in to the router")
    }

    /// When each address was added, in nanoseconds since the epoch, once there are so many.
    fn adds(&self, count: usize, within: Duration) -> Result<HashMap<IpAddr, u128>> {
        let until = Instant::now() + within;
        let mut adds = HashMap::with_capacity(count);
        while adds.len() < count {
            let left = until.saturating_duration_since(Instant::now());
            let line = self
                .events
                .recv_timeout(left)
                .with_context(|| format!("only {} of {count} bans reached the router", adds.len()))?;
            adds.extend(added(&line));
        }
        Ok(adds)
    }
}

/// Which address a line of a simulated router says was added, and when, in nanoseconds since the epoch.
fn added(line: &Line) -> Option<(IpAddr, u128)> {
    let event: Value = serde_json::from_str(&line.text).ok()?;
    let address = event["address"].as_str()?.parse().ok()?;
    (event["event"] == "add").then_some((address, u128::from(event["at_ns"].as_u64()?)))
}

/// Posts so many offences, a thousand at a time over one connection, as a script would.
fn post(stage: &Stage, token: &str, count: u32) -> Result<(u128, Duration)> {
    let folder = stage.folder();
    let mut parts = token.split(':');
    let (name, secret) = (parts.nth(1).context("no name")?, parts.next().context("no secret")?);
    let mut config = String::new();
    let time = jiff::Timestamp::now().to_string();
    for batch in 0..count / 1000 {
        let offences: Vec<Value> = (batch * 1000..(batch + 1) * 1000)
                .map(|number| {
                    json!({"sequence": number + 1, "jail": "bench", "address": attacker(number), "time": time,
                           "failures": 3, "bantime": 1800,
                           "evidence": [{"time": time, "source": "bench", "text": "one line of evidence, as long as such lines are"}]})
                })
                .collect();
        let body = folder.join(format!("batch-{batch}.json"));
        std::fs::write(&body, json!({"version": 1, "outbox": "bench", "offences": offences}).to_string())?;
        if batch > 0 {
            config.push_str("next\n");
        }
        writeln!(
            config,
            "url = \"{}/v1/offences\"\ninsecure\nsilent\nshow-error\nfail-with-body\nuser = \"{name}:{secret}\"\nheader = \"content-type: application/json\"\nheader = \"expect:\"\ndata-binary = \"@{}\"",
            stage.url(),
            body.display()
        )?;
    }
    // In a file, not among the arguments: it holds the secret.
    let path = folder.join("curl.conf");
    std::fs::write(&path, config)?;
    let (start, clock) = (unix_nanos(), Instant::now());
    output(Command::new("curl").arg("--config").arg(&path))?;
    Ok((start, clock.elapsed()))
}

fn latency() -> Result<()> {
    println!(
        "latency: one ban at a time on an idle link, sensor and enforcer on this host, {SINGLES} bans each"
    );
    let bench = Bench::new(&[])?;
    let log = bench.stage.folder().join("mail.log");
    std::fs::write(&log, "")?;
    let jails = format!("[jail.ssh]\nsource = \"logins\"\nmaxretry = 1\n{}", log_jail(&log));
    bench.stage.write_sensor_config(&jails)?;
    bench.stage.join(&bench.token)?;
    let sensor = bench.stage.start_sensor()?;
    let idle = resident(sensor.id())?;

    let began = verdicts::report(SINGLES, PAUSE, 0)?.into_iter().collect::<HashMap<_, _>>();
    let added = bench.adds(began.len(), Duration::from_secs(30))?;
    report("failed login in the kernel → command on the wire", &began, &added, "p50 < 1 ms, p99 < 5 ms")?;

    let began = append_lines(&log)?;
    let added = bench.adds(began.len(), Duration::from_secs(30))?;
    report("log line written → command on the wire", &began, &added, "none set")?;

    println!("  memory of the idle sensor: {:.1} MB (budget 20 MB)\n", idle as f64 / 1e6);
    Ok(())
}

fn throughput() -> Result<()> {
    const BANS: u32 = 200_000;
    println!(
        "throughput: {BANS} offences in batches of 1,000 over one connection (curl), a router that costs nothing"
    );
    let bench = Bench::new(&[])?;
    let (start, acked) = post(&bench.stage, &bench.token, BANS)?;
    let last = *bench.adds(BANS as usize, Duration::from_secs(120))?.values().max().unwrap_or(&0);
    let seconds = (last.saturating_sub(start)) as f64 / 1e9;
    println!(
        "  to the last command on the wire: {seconds:.2} s, {:.0} bans/s (budget: over 50,000)",
        f64::from(BANS) / seconds
    );
    println!(
        "  to the last ack (all in the ledger, on disk): {:.2} s, {:.0} offences/s",
        acked.as_secs_f64(),
        f64::from(BANS) / acked.as_secs_f64()
    );
    println!("  memory of the enforcer afterwards: {:.0} MB\n", resident(bench.enforcer.id())? as f64 / 1e6);
    Ok(())
}

fn bulk() -> Result<()> {
    const BANS: u32 = 25_000;
    const SINGLE: u32 = 40;
    println!("bulk: {BANS} bans to a router 33 ms away that needs 1.2 ms an entry");
    let costs = ["--round-trip", "33ms", "--insert-cost", "1.2ms", "--control"];
    let mut bench = Bench::new(&costs)?;
    let (start, _) = post(&bench.stage, &bench.token, BANS)?;
    let last = *bench.adds(BANS as usize, Duration::from_secs(240))?.values().max().unwrap_or(&0);
    let seconds = last.saturating_sub(start) as f64 / 1e9;
    println!(
        "  atalaya: {seconds:.2} s; the router's own insertion is 30 s ({:+.1} %, budget 5 %)",
        (seconds / 30.0 - 1.0) * 100.0
    );

    let start = unix_nanos();
    bench.process.tell("reboot\n")?;
    let last = *bench.adds(BANS as usize, Duration::from_secs(240))?.values().max().unwrap_or(&0);
    let again = last.saturating_sub(start) as f64 / 1e9;
    println!(
        "  after a reboot: all of them are back after {again:.2} s ({:+.1} %, the way back to the router included)",
        (again / 30.0 - 1.0) * 100.0
    );

    let python = venv()?;
    let script = bench.stage.folder().join("one_by_one.py");
    std::fs::write(&script, ONE_BY_ONE)?;
    let clock = Instant::now();
    output(Command::new(python).arg(&script).args([
        bench.router.ip().to_string(),
        bench.router.port().to_string(),
        ROUTER_USER.to_owned(),
        ROUTER_PASSWORD.to_owned(),
        SINGLE.to_string(),
    ]))?;
    let each = clock.elapsed().as_secs_f64() / f64::from(SINGLE);
    println!(
        "  routeros_api 0.21, one connection a ban, as users do today: {SINGLE} bans at {:.0} ms each; {BANS} would take {:.0} min (extrapolated): {:.0} times as long\n",
        each * 1e3,
        each * f64::from(BANS) / 60.0,
        each * f64::from(BANS) / seconds
    );
    Ok(())
}

/// What users run today for each ban.
const ONE_BY_ONE: &str = r"
import sys, routeros_api
host, port, user, password, count = sys.argv[1:]
for number in range(int(count)):
    pool = routeros_api.RouterOsApiPool(host, username=user, password=password, port=int(port), plaintext_login=True)
    api = pool.get_api()
    api.get_resource('/ip/firewall/address-list').add(
        list='spammer', address='198.18.0.%d' % number, timeout='00:30:00', comment='one by one', disabled='no')
    pool.disconnect()
";

/// Lets time pass: the pace of a load, not a wait for something.
fn pause(time: Duration) {
    let (_never, nothing) = mpsc::channel::<()>();
    let _ = nothing.recv_timeout(time);
}

/// A jail that bans at the first line of a log.
fn log_jail(log: &Path) -> String {
    format!(
        "[jail.smtp]\nsource = \"files\"\npaths = [\"{}\"]\n\
         failregex = '^.*\\[\\s*<HOST>\\s*\\].*Error: authentication failed'\nmaxretry = 1\n",
        log.display()
    )
}

/// One failed login of one attacker.
fn append(log: &routers::Log, number: u32) -> Result<()> {
    Ok((&log.file).write_all(failed_login(attacker(number)).as_bytes())?)
}

fn failed_login(address: Ipv4Addr) -> String {
    let now = jiff::Timestamp::now();
    format!("{now} host VPS-x[{address}] 1-2 RECV - - 535 Error: authentication failed [u]\n")
}

fn append_lines(log: &Path) -> Result<HashMap<IpAddr, u128>> {
    let mut file = std::fs::File::options().append(true).open(log)?;
    let mut began = HashMap::new();
    for number in 0..SINGLES {
        let address = attacker(number);
        let line = failed_login(address);
        began.insert(IpAddr::V4(address), unix_nanos());
        file.write_all(line.as_bytes())?;
        pause(PAUSE);
    }
    Ok(began)
}

fn report(
    what: &str,
    began: &HashMap<IpAddr, u128>,
    added: &HashMap<IpAddr, u128>,
    budget: &str,
) -> Result<()> {
    let mut micros: Vec<f64> = began
        .iter()
        .filter_map(|(address, start)| Some(added.get(address)?.saturating_sub(*start) as f64 / 1e3))
        .collect();
    if micros.len() != began.len() {
        bail!("{} of {} bans reached the router", micros.len(), began.len());
    }
    micros.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize] / 1e3;
    println!(
        "  {what}: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, worst {:.2} ms (budget: {budget})",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
    Ok(())
}

/// A Python with the client that users run today, and what fail2ban watches files with.
fn venv() -> Result<PathBuf> {
    let folder = programs("bench-venv");
    let python = folder.join("bin/python");
    let have = || {
        Command::new(&python)
            .args(["-c", "import pyinotify, routeros_api"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !have() {
        announce(
            "a Python environment for the peer",
            Command::new("python3").arg("-m").arg("venv").arg(&folder),
        )?;
        announce(
            "the client that users run today, and what fail2ban watches files with",
            Command::new(&python).args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "routeros_api==0.21.0",
                "pyinotify==0.9.6",
            ]),
        )?;
    }
    Ok(python)
}

/// The resident memory of a process, in bytes.
fn resident(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

/// The same of a process and those that it started.
fn resident_of_all(process: u32) -> Result<u64> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
    let children = children.split_whitespace().map(|child| resident_of_all(child.parse()?));
    Ok(resident(process)? + children.sum::<Result<u64>>()?)
}

fn attacker(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0B00_0001 + number)
}

fn unix_nanos() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}
