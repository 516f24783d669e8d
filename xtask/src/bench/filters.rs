//! `cargo xtask bench filters`: the filter engine beside ripgrep and fail2ban-regex, on logs that are
//! made here: the same seed gives the same bytes. The fastest of several runs counts.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::process::output;
use atalaya_end_to_end::stage::{START, Stage};
use serde_json::Value;

use crate::run::{cargo, programs};

const SEED: u64 = 7;
const MAIL_LINES: u32 = 400_000;
const AUTH_LINES: u32 = 200_000;
/// Today's users' regex, for us and for fail2ban, and the same for ripgrep.
const REGEX: &str = r"^.*\[\s*<HOST>\s*\].*Error: authentication failed";
const RIPGREP: &str = r"^.*\[\s*(?:[0-9]{1,3}\.){3}[0-9]{1,3}\s*\].*Error: authentication failed";
const ROUNDS: u32 = 5;
/// How many lines a second are written for how long, where a live file is followed.
const LIVE_RATE: u32 = 500_000;
const LIVE_SECONDS: u32 = 10;
/// How large the backlog is, in bytes.
const BACKLOG: u64 = 1 << 30;

/// Measures each filter beside its peers on the same log, and prints the ratios.
pub fn run() -> Result<()> {
    let folder = programs("bench-logs");
    let logs = Logs::make(&folder)?;
    let fail2ban = programs("fail2ban");
    let sensor = programs("release").join("atalaya-sensor");
    println!(
        "Filters, on {MAIL_LINES} lines of mail (41 % failures) and {AUTH_LINES} of sshd (41 %), seed {SEED}:"
    );
    let mail = logs.mail.to_str().context("a path that is UTF-8")?;
    let auth = logs.auth.to_str().context("a path that is UTF-8")?;

    let rg = fastest(ROUNDS, || {
        Command::new("rg").args(["-c", RIPGREP, mail]).stdout(Stdio::null()).status().map(drop)
    })?;
    row("one regex, `rg -c`: lines only", MAIL_LINES, rg);
    let test = |arguments: &[&str]| {
        fastest(ROUNDS, || {
            Command::new(&sensor).arg("test").args(arguments).stdout(Stdio::null()).status().map(drop)
        })
    };
    let one = test(&[mail, REGEX])?;
    row("one regex, atalaya-sensor test: addresses and dates", MAIL_LINES, one);
    let own = test(&[auth, "sshd"])?;
    row("our sshd filter, atalaya-sensor test", AUTH_LINES, own);
    let folder_of_filters = fail2ban.join("etc/fail2ban");
    let stock_folder = folder_of_filters.to_str().context("a path that is UTF-8")?;
    // The stock filter goes by its file, for ours of the same name would win.
    let stock_file = folder_of_filters.join("filter.d/sshd.conf");
    let stock = test(&[auth, stock_file.to_str().context("a path that is UTF-8")?])?;
    row("fail2ban's sshd filter, atalaya-sensor test", AUTH_LINES, stock);
    let regex = |arguments: &[&str]| {
        fastest(1, || {
            Command::new("python3")
                .args(["-W", "ignore"])
                .arg(fail2ban.join("usr/bin/fail2ban-regex"))
                .args(["-c", stock_folder])
                .args(arguments)
                .env("PYTHONPATH", fail2ban.join("usr/lib/python3/dist-packages"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .map(drop)
        })
    };
    let their_one = regex(&[mail, REGEX])?;
    row("one regex, fail2ban-regex", MAIL_LINES, their_one);
    let their_sshd = regex(&[auth, "sshd"])?;
    row("fail2ban's sshd filter, fail2ban-regex", AUTH_LINES, their_sshd);

    let ratio = |one: Duration, other: Duration| one.as_secs_f64() / other.as_secs_f64();
    println!(
        "  one regex: {:.2} times rg -c (budget: at most 2); {:.0} times as fast as fail2ban-regex (budget: 100)",
        ratio(one, rg),
        ratio(their_one, one)
    );
    println!(
        "  sshd: ours {:.0} times as fast as fail2ban-regex with its own (budget: 40), its own filter here {:.0} times",
        ratio(their_sshd, own),
        ratio(their_sshd, stock)
    );

    println!("The engine in one process, without its start:");
    let mut bench = cargo();
    bench.args([
        "bench",
        "--quiet",
        "--package",
        "atalaya-sensor",
        "--no-default-features",
        "--bench",
        "filters",
        "--",
    ]);
    let text = output(bench.args([mail, auth, stock_folder]))?;
    text.lines().for_each(|line| println!("  {line}"));
    live(&logs)?;
    Ok(())
}

fn row(what: &str, lines: u32, time: Duration) {
    let rate = f64::from(lines) / time.as_secs_f64() / 1e6;
    println!("  {what}: {:.1} ms, {rate:.3} M lines/s", time.as_secs_f64() * 1e3);
}

fn fastest(rounds: u32, mut run: impl FnMut() -> std::io::Result<()>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..rounds {
        let start = Instant::now();
        run().context("a program that is measured cannot run")?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// A live file at a given rate, and a backlog at the start.
#[expect(clippy::disallowed_methods, reason = "the writer keeps a pace")]
fn live(logs: &Logs) -> Result<()> {
    let stage = Stage::new(&programs("release"))?;
    let log = stage.folder().join("live.log");
    File::create(&log)?;
    stage.write_sensor_config(&format!(
        "[jail.smtp]\nsource = \"files\"\npaths = [\"{}\"]\nfailregex = '{REGEX}'\n",
        log.display()
    ))?;
    let calm = std::fs::read(&logs.calm)?;
    let ends: Vec<usize> = memchr_iter(&calm).collect();
    let piece = &calm[..=ends[LIVE_RATE as usize / 10 - 1]];

    let sensor = stage.start_sensor()?;
    let before = cpu(sensor.id())?;
    let start = Instant::now();
    let mut file = File::options().append(true).open(&log)?;
    let mut behind: f64 = 0.0;
    for tenth in 1..=LIVE_SECONDS * 10 {
        file.write_all(piece)?;
        let due = start + Duration::from_millis(100) * tenth;
        behind = behind.max(Instant::now().saturating_duration_since(due).as_secs_f64());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let lines = u64::from(LIVE_RATE) * u64::from(LIVE_SECONDS);
    let written = start.elapsed();
    wait_for_lines(&stage, lines)?;
    let late = start.elapsed().saturating_sub(written);
    let used = cpu(sensor.id())?.saturating_sub(before);
    println!(
        "A live file, {lines} lines written in {:.1} s (the writer at most {:.0} ms late): all read {:.0} ms later, {:.0} % of a core (budget: under 100 %)",
        written.as_secs_f64(),
        behind * 1e3,
        late.as_secs_f64() * 1e3,
        used.as_secs_f64() / written.as_secs_f64() * 100.0
    );
    sensor.terminate(START)?;

    let (mut size, mut count) = (0, 0);
    while size < BACKLOG {
        file.write_all(&calm)?;
        size += calm.len() as u64;
        count += ends.len() as u64;
    }
    let start = Instant::now();
    let sensor = stage.start_sensor()?;
    wait_for_lines(&stage, count)?;
    let took = start.elapsed();
    println!(
        "A backlog of {:.2} GB, {count} lines, from the sensor's start: {:.2} s, {:.0} MB/s",
        size as f64 / 1e9,
        took.as_secs_f64(),
        size as f64 / took.as_secs_f64() / 1e6
    );
    sensor.terminate(START)?;
    Ok(())
}

/// Waits until the sensor says that it looked at so many lines.
#[expect(clippy::disallowed_methods, reason = "asking all the time would slow down what is measured")]
fn wait_for_lines(stage: &Stage, lines: u64) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let status: Value = serde_json::from_str(&output(stage.sensor().args(["status", "--json"]))?)?;
        if status["lines"].as_u64().is_some_and(|read| read >= lines) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("the sensor reads {} of {lines} lines", status["lines"]);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processor time that a process used.
fn cpu(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| -> Result<u64> { Ok(fields.get(index).context("a short stat")?.parse()?) };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

fn memchr_iter(text: &[u8]) -> impl Iterator<Item = usize> {
    text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at)
}

/// The logs that are read.
struct Logs {
    mail: PathBuf,
    auth: PathBuf,
    /// As the mail's, without anything that a filter might look at.
    calm: PathBuf,
}

// === impl Logs ===

impl Logs {
    fn make(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let logs = Self {
            mail: folder.join("mail.log"),
            auth: folder.join("auth.log"),
            calm: folder.join("calm.log"),
        };
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut mail = BufWriter::new(File::create(&logs.mail)?);
        let mut calm = BufWriter::new(File::create(&logs.calm)?);
        for number in 0..MAIL_LINES {
            mail.write_all(mail_line(number, &mut random, true).as_bytes())?;
            calm.write_all(mail_line(number, &mut random, false).as_bytes())?;
        }
        let mut auth = BufWriter::new(File::create(&logs.auth)?);
        for number in 0..AUTH_LINES {
            auth.write_all(auth_line(number, &mut random).as_bytes())?;
        }
        for mut file in [mail, calm, auth] {
            file.flush()?;
        }
        Ok(logs)
    }
}

fn address(random: &mut fastrand::Rng) -> String {
    let [a, b, c, d]: [u8; 4] = std::array::from_fn(|_| random.u8(1..255));
    format!("{a}.{b}.{c}.{d}")
}

fn clock(number: u32) -> String {
    format!("{:02}:{:02}:{:02}", number / 3600 % 24, number / 60 % 60, number % 60)
}

fn mail_line(number: u32, random: &mut fastrand::Rng, failing: bool) -> String {
    let mut line = format!(
        "2025-09-05T{}.{:06}-03:00 server_auth VPS-{:08x}",
        clock(number),
        random.u32(..1_000_000),
        random.u32(..)
    );
    let host = address(random);
    let middle = format!(
        "17570{:05}-{}-{}-1 RECV - - 2 83",
        random.u32(..100_000),
        random.u32(..1_000_000),
        random.u32(..100_000)
    );
    let user = random.u32(..10_000);
    let queued = format!("250 Ok: queued as {:X}", random.u32(..));
    let (host, end) = match random.u32(..100) {
        ..41 if failing => (host, "535 Error: authentication failed"),
        // Near misses: another error, and a failure of nobody.
        41..46 if failing => (host, "535 Error: authentication required"),
        46..49 if failing => ("unknown".to_owned(), "535 Error: authentication failed"),
        _ => (host, queued.as_str()),
    };
    let _ = writeln!(line, "[{host}] {middle} {end} [user{user}]");
    line
}

fn auth_line(number: u32, random: &mut fastrand::Rng) -> String {
    let (process, port, host) = (random.u32(1000..100_000), random.u32(1024..65_536), address(random));
    let user = random.u32(..1000);
    let text = match random.u32(..100) {
        ..41 => format!("sshd[{process}]: Failed password for u{user} from {host} port {port} ssh2"),
        41..60 => format!("sshd[{process}]: Connection closed by {host} port {port} [preauth]"),
        60..70 => format!(
            "sshd[{process}]: Accepted publickey for u{user} from {host} port {port} ssh2: ED25519 SHA256:x"
        ),
        70..80 => format!(
            "sshd[{process}]: pam_unix(sshd:session): session opened for user u{user}(uid=1000) by (uid=0)"
        ),
        80..90 => {
            format!("sshd[{process}]: Received disconnect from {host} port {port}:11: disconnected by user")
        }
        _ => format!("CRON[{process}]: pam_unix(cron:session): session closed for user root"),
    };
    format!("Sep  5 {} web-1 {text}\n", clock(number))
}
