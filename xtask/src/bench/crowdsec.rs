//! `CrowdSec`'s local API, as Debian ships it, as the peer of `cargo xtask bench sensors`: so many machines each post
//! alerts at a steady pace, one at a time over a connection that stays, as our load program does with sensors. An alert
//! becomes a decision while its machine waits: that is what our ack says too. Without TLS, which its agents on other
//! hosts would need; its database with a write-ahead log, which its own documents advise.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atalaya_end_to_end::process::{Process, output};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::routers::at;
use crate::run::programs;
use crate::suite::Suite;

/// How long it may take to start, and to answer one request.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long alerts are posted.
const TIME: Duration = Duration::from_secs(10);

/// A local API of its own, which ends with it.
pub struct LocalApi {
    programs: PathBuf,
    folder: TempDir,
    address: SocketAddr,
    process: Option<Process>,
    machines: u32,
}

/// A machine's connection.
struct Machine {
    stream: BufReader<TcpStream>,
    authorization: String,
}

// === impl LocalApi ===

impl LocalApi {
    /// Unpacks Debian's package where it is not there yet, and starts it with so many machines.
    pub fn start(machines: u32) -> Result<Self> {
        let programs = programs("crowdsec");
        if !programs.join("usr/bin/crowdsec").exists() {
            Suite::Bookworm.lists()?.unpack(&["crowdsec"], &programs, "the peer of many sensors")?;
        }
        let folder = tempfile::tempdir()?;
        // It cannot be told to take a free port and say which.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut api = Self { programs, folder, address, process: None, machines };
        std::fs::create_dir(api.folder.path().join("notifications"))?;
        std::fs::write(api.configuration(), api.text())?;
        println!("  CrowdSec: adding {machines} machines");
        for number in 0..machines {
            let credentials = api.folder.path().join("credentials.yaml");
            let mut add = Command::new(api.programs.join("usr/bin/cscli"));
            add.arg("--config").arg(api.configuration()).args(["machines", "add", &name(number)]);
            output(add.args(["--force", "--password", "secret", "--file"]).arg(credentials))?;
        }
        let mut crowdsec = Command::new(api.programs.join("usr/bin/crowdsec"));
        crowdsec.arg("-c").arg(api.configuration()).arg("-no-cs");
        api.process = Some(Process::start("CrowdSec", &mut crowdsec)?);
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(begin.elapsed() < PATIENCE, "CrowdSec's local API does not listen at {address}");
            wait(Duration::from_millis(50));
        }
        Ok(api)
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// JSON is YAML too.
    fn text(&self) -> String {
        let (own, debian) = (self.folder.path(), self.programs.as_path());
        let hub = debian.join("usr/share/crowdsec/hub");
        json!({
            "common": {"daemonize": false, "log_media": "stdout", "log_level": "error", "working_dir": "."},
            "config_paths": {
                "config_dir": own,
                "data_dir": own,
                "simulation_path": debian.join("etc/crowdsec/simulation.yaml"),
                "hub_dir": hub,
                "index_path": hub.join(".index.json"),
                "notification_dir": own.join("notifications"),
                "plugin_dir": debian.join("usr/lib/crowdsec/plugins"),
            },
            "db_config": {
                "log_level": "error",
                "type": "sqlite",
                "db_path": own.join("crowdsec.db"),
                "use_wal": true,
            },
            "api": {
                "client": {"credentials_path": own.join("credentials.yaml")},
                "server": {
                    "log_level": "error",
                    "listen_uri": self.address.to_string(),
                    "profiles_path": debian.join("etc/crowdsec/profiles.yaml"),
                },
            },
            "prometheus": {"enabled": false},
        })
        .to_string()
    }

    /// Has each machine post so many alerts a second, each about an address of its own, and tells how long they wait.
    pub fn told(&self, rate: u32) -> Result<()> {
        let begin = Instant::now() + Duration::from_secs(2);
        let (machines, address) = (self.machines, self.address);
        let answers: Vec<Vec<(u16, Duration)>> = thread::scope(|scope| {
            let each = |number| scope.spawn(move || posts(address, machines, number, rate, begin));
            let posts: Vec<_> = (0..machines).map(each).collect();
            posts
                .into_iter()
                .map(|thread| thread.join().expect("posting does not panic"))
                .collect::<Result<_>>()
        })?;
        let is_taken = |(status, _): &&(u16, Duration)| *status == 201;
        let refused = answers.iter().flatten().filter(|answer| !is_taken(answer)).count();
        let taken = answers.iter().flatten().filter(is_taken);
        let mut waits: Vec<f64> = taken.map(|(_, wait)| wait.as_secs_f64() * 1e3).collect();
        waits.sort_by(f64::total_cmp);
        println!(
            "  CrowdSec's local API: {} alerts at {} a second: answer p50 {:.1} ms, p90 {:.1}, p99 {:.1}, worst {:.1}; \
             {refused} more answered with an error",
            waits.len(),
            machines * rate,
            at(&waits, 0.5),
            at(&waits, 0.9),
            at(&waits, 0.99),
            at(&waits, 1.0)
        );
        Ok(())
    }
}

impl Drop for LocalApi {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            let _ = process.kill();
        }
    }
}

// === impl Machine ===

impl Machine {
    fn login(address: SocketAddr, number: u32) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut machine = Self { stream: BufReader::new(stream), authorization: String::new() };
        let login = json!({"machine_id": name(number), "password": "secret", "scenarios": ["bench/ssh"]});
        let (status, answer) = machine.post("/v1/watchers/login", &login)?;
        let token = answer["token"].as_str().with_context(|| format!("login: {status} {answer}"))?;
        machine.authorization = format!("Authorization: Bearer {token}\r\n");
        Ok(machine)
    }

    fn post(&mut self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let body = body.to_string();
        // It refuses whoever is not of its own kind.
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: api\r\nUser-Agent: crowdsec/v1.4.6\r\n{}Content-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.authorization,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP")?;
        let mut length = 0;
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("CrowdSec closed in the middle of an answer");
            }
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse()?;
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok((status, serde_json::from_slice(&answer)?))
    }
}

/// What one machine posts: the status of each answer, and how long it was waited for, from when it was to be sent, also where the one before was late.
fn posts(
    address: SocketAddr,
    machines: u32,
    number: u32,
    rate: u32,
    begin: Instant,
) -> Result<Vec<(u16, Duration)>> {
    let mut machine = Machine::login(address, number)?;
    let pause = Duration::from_secs(1) / rate;
    // So that they do not all post in the same moment.
    let mut next = begin + pause.mul_f64(f64::from(number) / f64::from(machines));
    let (mut answers, mut posted) = (Vec::new(), 0);
    while next < begin + TIME {
        wait(next.saturating_duration_since(Instant::now()));
        let offender = Ipv4Addr::from(0x0b00_0000 + number * 4096 + rate * 256 + posted);
        let (status, _) = machine.post("/v1/alerts", &alert(offender))?;
        answers.push((status, next.elapsed()));
        posted += 1;
        next += pause;
    }
    Ok(answers)
}

fn alert(offender: Ipv4Addr) -> Value {
    let now = jiff::Timestamp::now().to_string();
    json!([{
        "scenario": "bench/ssh", "scenario_hash": "", "scenario_version": "", "message": "three failures",
        "events_count": 3, "events": [], "start_at": now, "stop_at": now, "capacity": 0, "leakspeed": "0",
        "simulated": false, "remediation": true,
        "source": {"scope": "Ip", "value": offender, "ip": offender},
    }])
}

#[allow(
    clippy::disallowed_methods,
    reason = "a steady pace, and a program that does not say when it listens"
)]
fn wait(time: Duration) {
    thread::sleep(time);
}

fn name(number: u32) -> String {
    format!("machine-{number}")
}
