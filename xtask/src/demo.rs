//! `cargo xtask demo`: the main job on real input. A simulated router, the enforcer and the sensor
//! run as real processes; real ssh clients fail to log in to a private sshd, and log lines are
//! appended to a file. What happens is shown as it happens, then what the router holds.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::process::{Line, Process};
use atalaya_end_to_end::sshd::Sshd;
use atalaya_end_to_end::stage::{RULES, START, Stage};
use jiff::Timestamp;
use serde_json::Value;

use crate::run::{announce, cargo, interruption, programs};
use crate::setup;

/// Who fails to log in by ssh: one IPv4 and one IPv6 address, of the namespace that the demo makes.
const SSH_ATTACKERS: [&str; 2] = ["10.213.77.2", "fd77:a7a1::2"];
/// Who fails in the log file.
const LOG_ATTACKERS: [&str; 2] = ["212.11.64.212", "203.0.113.45"];
/// For how long the list is shown counting down.
const COUNT_DOWN: Duration = Duration::from_secs(5);
/// An ssh attempt takes sshd about two seconds to refuse; three of them, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Which profile of Cargo.toml to build the programs in: `demo` builds in the least time, `release` makes the
    /// fastest programs, `dev` is that of the tests
    #[arg(long, value_name = "NAME", default_value = "demo")]
    profile: String,
    /// Leave everything running at the end, to be explored, until Ctrl-C; on a terminal this is asked
    #[arg(long)]
    keep: bool,
}

/// Sets up, builds, plays, and shows; an error where an address did not reach the router.
pub fn run(arguments: &Arguments) -> Result<()> {
    let interrupted = interruption()?;
    let left_out = match setup::ensure(setup::Purpose::Demo) {
        Ok(()) => None,
        // Without root there is no sshd and no eBPF to install; the log part needs neither.
        Err(error) => Some(format!("{error:#}")),
    };
    let mut build = cargo();
    build.args([
        "build",
        "--package",
        "atalaya-sensor",
        "--package",
        "atalaya-enforcer",
        "--package",
        "routeros-sim",
    ]);
    build.args(["--profile", &arguments.profile]);
    let kernel = left_out.is_none() || setup::can_build_kernel_part();
    if !kernel {
        build.args(["--no-default-features"]);
    }
    announce("the three programs", &mut build)?;

    // Cargo's folder of the profile `dev` has another name.
    let folder = if arguments.profile == "dev" { "debug" } else { &arguments.profile };
    let stage = Stage::new(&programs(folder))?;
    let mut demo = Demo::start(&stage, interrupted)?;
    demo.play(&stage, left_out, kernel)?;
    demo.leave(&stage, arguments.keep)
}

/// Where a line came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Router,
    Enforcer,
    Sensor,
}

/// What is known of one attacker.
#[derive(Default)]
struct Story {
    first_failure: Option<Timestamp>,
    /// When the failure that completed the offence happened (kernel) or was written (log).
    last_failure: Option<Timestamp>,
    offence: Option<Timestamp>,
    ban: Option<Timestamp>,
    router: Option<Timestamp>,
    timeout: Option<String>,
}

struct Demo {
    lines: Receiver<(Program, Line)>,
    router: Process,
    _enforcer: Process,
    _sensor: Process,
    stories: BTreeMap<IpAddr, Story>,
    /// When the demo wrote an address into the log file: its lines carry a date of whole seconds.
    written: BTreeMap<IpAddr, Timestamp>,
    holds: Option<String>,
    interrupted: Arc<AtomicBool>,
    paint: Paint,
}

/// Colours, on a terminal alone.
#[derive(Clone, Copy)]
struct Paint(bool);

// === impl Demo ===

impl Demo {
    /// Starts the router, the enforcer and the sensor, joined.
    fn start(stage: &Stage, interrupted: Arc<AtomicBool>) -> Result<Self> {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty());
        let paint = Paint(std::io::stdout().is_terminal() && !plain);
        let (sender, lines) = mpsc::channel();
        let mut router = stage.router(&RULES);
        router.args(["--events", "json", "--control"]);
        let router = Process::start_into("the router", &mut router, &sender, |line| (Program::Router, line))?;
        let address: SocketAddr = wait(&lines, Program::Router, "listen", |event| {
            (event["event"] == "listening").then(|| event["address"].as_str()?.parse().ok()).flatten()
        })?;
        println!("router     RouterOS simulator on {address}, drops by its list `spammer`, which is empty");

        stage.write_enforcer_config(&[("demo", address)], "")?;
        let token = stage.enrol("demo-host")?;
        let mut enforcer = stage.enforcer();
        enforcer.args(["--log-format", "json", "run"]);
        let enforcer =
            Process::start_into("the enforcer", &mut enforcer, &sender, |line| (Program::Enforcer, line))?;
        wait(&lines, Program::Enforcer, "become ready", ready)?;
        println!("enforcer   {} holds the router to its ledger", stage.url());

        std::fs::write(stage.folder().join("mail.log"), "")?;
        stage.write_sensor_config(&format!(
            "[jail.ssh]\nsource = \"logins\"\nservices = [\"sshd\"]\n\
             [jail.smtp]\nsource = \"files\"\npaths = [\"{}/mail.log\"]\n\
             failregex = '^.*\\[\\s*<HOST>\\s*\\].*Error: authentication failed'\n",
            stage.folder().display()
        ))?;
        stage.join(&token)?;
        let mut sensor = stage.sensor();
        sensor.args(["--log-format", "json", "run"]);
        let sensor = Process::start_into("the sensor", &mut sensor, &sender, |line| (Program::Sensor, line))?;
        wait(&lines, Program::Sensor, "become ready", ready)?;
        println!("sensor     joined as demo-host; 3 failures in 10 minutes ban for 30 minutes\n");
        Ok(Self {
            lines,
            router,
            _enforcer: enforcer,
            _sensor: sensor,
            stories: BTreeMap::new(),
            written: BTreeMap::new(),
            holds: None,
            interrupted,
            paint,
        })
    }

    fn play(&mut self, stage: &Stage, setup_failed: Option<String>, kernel: bool) -> Result<()> {
        let mut expected: Vec<IpAddr> = Vec::new();
        let mut left_out = setup_failed;

        for attacker in LOG_ATTACKERS {
            let address = attacker.parse()?;
            expected.push(address);
            for _ in 0..3 {
                self.append(&stage.folder().join("mail.log"), address)?;
                self.watch_for(Duration::from_millis(300))?;
            }
        }

        // Held to the end: dropping them removes the namespace and ends the sshd.
        let mut arena = None;
        if kernel && left_out.is_none() {
            match arena_of_ssh() {
                Ok(made) => arena = Some(made),
                Err(error) => left_out = Some(format!("{error:#}")),
            }
        }
        if let Some((namespace, sshd)) = &arena {
            let mut clients = Vec::new();
            for attacker in SSH_ATTACKERS {
                let address: IpAddr = attacker.parse()?;
                expected.push(address);
                println!("ssh        three wrong passwords from {address} at a private sshd");
                clients.push(sshd.spawn_wrong_passwords(namespace, address, 3)?);
            }
            let until = Instant::now() + PATIENCE;
            while !self.all_on_router(&expected) && Instant::now() < until {
                self.watch_for(Duration::from_millis(200))?;
            }
            let banned_at = Instant::now();
            for mut client in clients {
                let _ = client.wait();
            }
            println!(
                "ssh        the clients got their last refusal {:.1} s after the bans\n",
                banned_at.elapsed().as_secs_f64()
            );
        }
        let until = Instant::now() + PATIENCE;
        while !self.all_on_router(&expected) && Instant::now() < until {
            self.watch_for(Duration::from_millis(200))?;
        }

        self.show_latencies();
        self.show_count_down(&expected)?;
        drop(arena);
        if let Some(reason) = left_out {
            println!("\nLeft out: the real ssh logins, because {reason}");
        }
        let missing: Vec<_> = expected.iter().filter(|address| !self.on_router(address)).collect();
        if !missing.is_empty() {
            bail!("these addresses did not reach the router: {missing:?}");
        }
        println!("\nEvery address that failed three times is on the router, which lets it go by itself.");
        Ok(())
    }

    /// Leaves the visitor something to explore, where one is there.
    fn leave(&mut self, stage: &Stage, keep: bool) -> Result<()> {
        let asked = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        if !keep && !asked {
            return Ok(());
        }
        let command = |mut command: std::process::Command, words: &[&str]| {
            command.args(words);
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        println!("\nThe router, the enforcer and the sensor run on. Look around in another terminal:");
        for words in [
            &["status"][..],
            &["bans"],
            &["show", LOG_ATTACKERS[0]],
            &["ban", "198.51.100.7", "--for", "5m"],
            &["watch"],
        ] {
            println!("  {}", command(stage.enforcer(), words));
        }
        println!("  {}", command(stage.sensor(), &["status"]));
        println!("or add a line to {} that fails.", stage.folder().join("mail.log").display());
        if keep {
            println!("Ctrl-C ends them.");
        } else {
            println!("Enter, or Ctrl-C, ends them.");
            let interrupted = self.interrupted.clone();
            std::thread::spawn(move || {
                let _ = std::io::stdin().read_line(&mut String::new());
                interrupted.store(true, Ordering::SeqCst);
            });
        }
        while !self.interrupted.load(Ordering::SeqCst) {
            match self.lines.recv_timeout(Duration::from_millis(200)) {
                Ok((program, line)) => self.show(program, &line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("all programs have ended"),
            }
        }
        Ok(())
    }

    /// Appends today's users' log line for an address.
    fn append(&mut self, log: &Path, address: IpAddr) -> Result<()> {
        let now = jiff::ZonedDateTime::now();
        let line = format!(
            "{} server_auth VPS-demo[{address}] 1757081850-967898-29275-965059-1 1757081851 1757081852 RECV - - 2 83 535 Error: authentication failed [nobody]\n",
            now.strftime("%Y-%m-%dT%H:%M:%S.%6f%:z")
        );
        let mut file = std::fs::File::options().append(true).open(log)?;
        self.written.insert(address, Timestamp::now());
        file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", log.display()))
    }

    /// Shows what happens for a while.
    fn watch_for(&mut self, duration: Duration) -> Result<()> {
        let until = Instant::now() + duration;
        loop {
            if self.interrupted.load(Ordering::SeqCst) {
                bail!("interrupted; everything that the demo started is being ended");
            }
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((program, line)) => self.show(program, &line),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => bail!("all programs have ended"),
            }
        }
    }

    fn show(&mut self, program: Program, line: &Line) {
        let Ok(event) = serde_json::from_str::<Value>(&line.text) else { return };
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let at = moment(&event).unwrap_or_else(|| line.at.try_into().unwrap_or_default());
        let clock = at.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%H:%M:%S.%3f").to_string();
        let paint = self.paint;
        if event["event"] == "list" {
            self.holds = Some(line.text.clone());
            return;
        }
        if matches!(text("level").as_str(), "WARN" | "ERROR") {
            println!("{clock}  {}", paint.yellow(&line.text));
        }
        let Some(address) = self.offender(&text("address")) else { return };
        let written = self.written.get(&address).copied();
        let story = self.stories.entry(address).or_default();
        match (program, text("message").as_str(), text("event").as_str()) {
            (Program::Sensor, "failure", _) => {
                story.first_failure.get_or_insert(at);
                let happened = written.or_else(|| text("time").parse().ok());
                if story.offence.is_none() {
                    story.last_failure = happened;
                }
                let ago = happened.map(|then| since(then, at)).unwrap_or_default();
                println!(
                    "{clock}  failure {}/{}  {address:<18} jail {:<5} seen {ago} after it happened",
                    event["failures"],
                    event["of"],
                    text("jail")
                );
            }
            (Program::Sensor, "offence", _) => {
                story.offence = Some(at);
                println!(
                    "{clock}  {}      {address:<18} jail {:<5} bantime {}",
                    paint.yellow("offence"),
                    text("jail"),
                    text("bantime")
                );
            }
            (Program::Enforcer, "ban", _) => {
                story.ban.get_or_insert(at);
                println!("{clock}  {}          {address:<18} until {}", paint.red("ban"), text("until"));
            }
            (Program::Router, _, "add") => {
                story.router.get_or_insert(at);
                story.timeout = Some(text("timeout"));
                let after = story.last_failure.map(|then| since(then, at)).unwrap_or_default();
                println!(
                    "{clock}  {}    {address:<18} timeout {}; {after} after the third failure",
                    paint.green("on router"),
                    text("timeout")
                );
            }
            _ => {}
        }
    }

    /// Whose address or entry this is: that of an IPv6 offender covers its whole /64.
    fn offender(&self, entry: &str) -> Option<IpAddr> {
        let (address, length) = entry.split_once('/').unwrap_or((entry, "128"));
        let address: IpAddr = address.parse().ok()?;
        let IpAddr::V6(network) = address else { return Some(address) };
        let is_of = |known: &&IpAddr| matches!(known, IpAddr::V6(known) if known.segments()[..4] == network.segments()[..4]);
        if length == "128" { Some(address) } else { self.stories.keys().find(is_of).copied() }
    }

    fn on_router(&self, address: &IpAddr) -> bool {
        self.stories.get(address).is_some_and(|story| story.router.is_some())
    }

    fn all_on_router(&self, expected: &[IpAddr]) -> bool {
        expected.iter().all(|address| self.on_router(address))
    }

    fn show_latencies(&self) {
        println!("\n{:<18} {:>14} {:>14} {:>14}", "address", "→ offence", "→ ban", "→ on router");
        for (address, story) in &self.stories {
            let step = |from: Option<Timestamp>, to: Option<Timestamp>| match (from, to) {
                (Some(from), Some(to)) => since(from, to),
                _ => "-".to_owned(),
            };
            let start = story.last_failure;
            println!(
                "{:<18} {:>14} {:>14} {:>14}",
                address.to_string(),
                step(start, story.offence),
                step(start, story.ban),
                step(start, story.router)
            );
        }
        println!(
            "(from the moment of the third failure: in the kernel for ssh, the write of the line for logs; the router is simulated; these programs are built in the least time: `--profile release` shows the quick ones)"
        );
    }

    /// What the router holds, as it counts down.
    fn show_count_down(&mut self, expected: &[IpAddr]) -> Result<()> {
        println!("\nWhat the router holds:");
        let terminal = std::io::stdout().is_terminal();
        let until = Instant::now() + if terminal { COUNT_DOWN } else { Duration::from_millis(1100) };
        let mut shown = 0;
        loop {
            self.holds = None;
            self.router.tell("list")?;
            let deadline = Instant::now() + START;
            while self.holds.is_none() && Instant::now() < deadline {
                self.watch_for(Duration::from_millis(20))?;
            }
            let list: Value =
                serde_json::from_str(self.holds.as_deref().context("the router does not list its entries")?)?;
            let mut entries = list["entries"].as_array().cloned().unwrap_or_default();
            // The kernel shows every login of this host; someone else's failures are not the demo's.
            entries.retain(|entry| {
                let offender = self.offender(entry["address"].as_str().unwrap_or_default());
                offender.is_some_and(|address| expected.contains(&address))
            });
            if terminal && shown > 0 {
                print!("\x1b[{shown}A");
            }
            shown = entries.len();
            for entry in &entries {
                println!(
                    "  list={}  address={:<20} timeout={:<10} comment=\"{}\"{}",
                    entry["list"].as_str().unwrap_or_default(),
                    entry["address"].as_str().unwrap_or_default(),
                    entry["timeout"].as_str().unwrap_or_default(),
                    entry["comment"].as_str().unwrap_or_default(),
                    // Clears what a longer line left there before.
                    if terminal { "\x1b[K" } else { "" },
                );
            }
            if entries.len() != expected.len() {
                bail!("the router holds {} entries where {} were expected", entries.len(), expected.len());
            }
            if Instant::now() > until {
                return Ok(());
            }
            self.watch_for(Duration::from_secs(1))?;
        }
    }
}

// === impl Paint ===

impl Paint {
    fn red(self, text: &str) -> String {
        self.colour("31", text)
    }

    fn green(self, text: &str) -> String {
        self.colour("32", text)
    }

    fn yellow(self, text: &str) -> String {
        self.colour("33", text)
    }

    fn colour(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Waits for a program's event of interest, before the show begins.
fn wait<T>(
    lines: &Receiver<(Program, Line)>,
    of: Program,
    what: &str,
    mut find: impl FnMut(&Value) -> Option<T>,
) -> Result<T> {
    let until = Instant::now() + START;
    let mut said = String::new();
    loop {
        let Ok((program, line)) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) else {
            bail!("it did not {what} in time; so far it said:\n{said}");
        };
        said.push_str(&line.text);
        said.push('\n');
        if program == of
            && let Ok(event) = serde_json::from_str(&line.text)
            && let Some(found) = find(&event)
        {
            return Ok(found);
        }
    }
}

fn ready(event: &Value) -> Option<()> {
    (event["message"] == "ready").then_some(())
}

/// A private sshd, and a namespace with the attackers' addresses in front of it.
fn arena_of_ssh() -> Result<(Namespace, Sshd)> {
    let namespace = Namespace::new(&SSH_ATTACKERS)?;
    let sshd = Sshd::start_from(&namespace, &setup::sshd_below())?;
    Ok((namespace, sshd))
}

/// The moment that an event states: the programs' logs say `timestamp`, the simulator says `at`.
fn moment(event: &Value) -> Option<Timestamp> {
    event["timestamp"].as_str().or_else(|| event["at"].as_str())?.parse().ok()
}

fn since(from: Timestamp, to: Timestamp) -> String {
    let micros = to.duration_since(from).as_micros();
    format!("{:.1} ms", micros as f64 / 1000.0)
}
