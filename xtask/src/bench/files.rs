//! `cargo xtask bench files`: a host with very many logs, beside Debian's fail2ban on the same ones.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use atalaya_end_to_end::stage::START;
use rustix::process::{Resource, getrlimit};

use super::{Bench, attack, attacker, pause, report, resident_of_all, unix_nanos};

/// How many logs, where a process may open as many; how many descriptors are left to the rest.
const LOGS: u64 = 25_000;
const SPARE: u64 = 1500;
/// In how many of them somebody fails, and the pause between them: some five looks at all names long.
const FAILURES: u32 = 400;
const PAUSE: Duration = Duration::from_millis(25);
/// As many for the peer, which starts an interpreter for each ban.
const THEIRS: u32 = 20;
const THEIR_PAUSE: Duration = Duration::from_millis(500);
/// How long the peer may take to open all.
const PATIENCE: Duration = Duration::from_secs(300);

/// Starts both on the same logs, fails in some of them, and prints how late and with how much memory each saw it.
pub fn run() -> Result<()> {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let count = LOGS.min(limit.saturating_sub(SPARE));
    println!("files: {count} logs in one folder, three failed logins at once in one after another of them");
    if count < LOGS {
        println!("  ({LOGS} are meant; this process may open {limit} files and no more)");
    }
    let bench = Bench::new(&[])?;
    let logs = Sites::make(&bench.stage.folder().join("logs"), count)?;
    let jail =
        format!("[jail.sshd]\nsource = \"files\"\nfilter = \"sshd\"\npaths = [\"{}\"]\n", logs.pattern());
    bench.stage.write_sensor_config(&jail)?;
    bench.stage.join(&bench.token)?;
    let start = Instant::now();
    let sensor = bench.stage.start_sensor()?;
    println!("  atalaya: started in {:.2} s", start.elapsed().as_secs_f64());
    let began = logs.fail(0..FAILURES, PAUSE)?;
    let added = bench.adds(began.len(), START)?;
    report("line written → command on the wire", &began, &added, "p99 < 50 ms")?;
    println!("  memory of the sensor: {:.1} MB (budget 100 MB)", resident_of_all(sensor.id())? as f64 / 1e6);
    sensor.terminate(START)?;

    // Of its own: it reads what was written within the last ten minutes too.
    let logs = Sites::make(&bench.stage.folder().join("theirs"), count)?;
    let router = attack::Router::start(&bench.stage, "fail2ban's router")?;
    let start = Instant::now();
    let fail2ban = attack::fail2ban(&bench.stage, Path::new(&logs.pattern()), router.address, PATIENCE)?;
    // It says that it started, and looks at each log for the first time then.
    let first = logs.fail(FAILURES..FAILURES + 1, THEIR_PAUSE)?;
    ensure!(router.adds(first.len(), PATIENCE).len() == 1, "fail2ban bans nobody within {PATIENCE:?}");
    println!(
        "  fail2ban 1.0.2 (backend pyinotify): its first ban {:.1} s after its start",
        start.elapsed().as_secs_f64()
    );
    let began = logs.fail(FAILURES + 1..FAILURES + 1 + THEIRS, THEIR_PAUSE)?;
    let added = router.adds(began.len(), PATIENCE);
    report("line written → command on the wire", &began, &added, "none: the peer")?;
    println!("  memory of fail2ban: {:.1} MB\n", resident_of_all(fail2ban.id())? as f64 / 1e6);
    Ok(())
}

/// The logs, with a few lines in each.
struct Sites {
    folder: PathBuf,
    count: u32,
}

// === impl Sites ===

impl Sites {
    fn make(folder: &Path, count: u64) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let logs = Self { folder: folder.to_owned(), count: u32::try_from(count)? };
        for number in 0..logs.count {
            let earlier = format!("{} host cron[{number}]: (root) CMD (run-parts)\n", now());
            std::fs::write(logs.path(number), earlier.repeat(10))?;
        }
        Ok(logs)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(format!("site-{number}.log"))
    }

    fn pattern(&self) -> String {
        self.folder.join("*.log").display().to_string()
    }

    /// Writes the failures of one attacker after another, each into another log; when each was written.
    fn fail(&self, attackers: std::ops::Range<u32>, apart: Duration) -> Result<HashMap<IpAddr, u128>> {
        let mut began = HashMap::new();
        for number in attackers {
            let address = attacker(number);
            // Spread over the folder; 7,919 is a prime.
            let mut log = File::options().append(true).open(self.path(number * 7919 % self.count))?;
            let line =
                format!("{} host sshd[7]: Failed password for root from {address} port 4711 ssh2\n", now());
            began.insert(IpAddr::V4(address), unix_nanos());
            log.write_all(line.repeat(3).as_bytes())?;
            pause(apart);
        }
        Ok(began)
    }
}

/// As syslog writes it.
fn now() -> String {
    jiff::ZonedDateTime::now().strftime("%b %e %H:%M:%S").to_string()
}
