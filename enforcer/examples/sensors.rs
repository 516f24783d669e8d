//! How a real enforcer, a process of its own, bears many sensors, one noisy neighbour, and strangers. Build both in one
//! profile, then name the enforcer and what to try:
//!
//! ```text
//! cargo run -p atalaya-enforcer --example sensors -- target/debug/atalaya-enforcer acks 200 1 10
//! cargo run -p atalaya-enforcer --example sensors -- target/debug/atalaya-enforcer noisy 200 1 10
//! cargo run -p atalaya-enforcer --example sensors -- target/debug/atalaya-enforcer bodies 600
//! cargo run -p atalaya-enforcer --example sensors -- target/debug/atalaya-enforcer storm 2000
//! ```
//!
//! `acks SENSORS RATE SECONDS`: each sensor posts so many offences a second, one at a time; how long the acks take.
//! `noisy` is the same beside one more sensor that posts batches of 1000 over eight connections as fast as it can.
//! `bodies N`: one sensor begins N bodies of 4 MiB and ends none; the enforcer's memory.
//! `storm N`: N sensors behind one address lose the enforcer and come back at once; how long until all are in.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on should say where")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use atalaya_enforcer::enrolment;
use atalaya_enforcer::router::pin::Pin;
use atalaya_enforcer::tls::Identity;
use atalaya_wire::{Fingerprint, JoinToken, MAX_BODY, Secret};
use data_encoding::BASE64;
use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An enforcer without routers, which ends with it.
struct Stage {
    folder: TempDir,
    program: String,
    fleet: Arc<Fleet>,
    process: Child,
}

/// The sensors that are enrolled with an enforcer, and the way there.
struct Fleet {
    address: SocketAddr,
    connector: TlsConnector,
    tokens: Vec<JoinToken>,
}

/// A sensor's connection.
struct Link {
    stream: TlsStream<TcpStream>,
    authorization: String,
}

/// Addresses are never banned twice.
static OFFENDERS: AtomicU32 = AtomicU32::new(0);

/// So many batches of 1000 each outbox of the noisy neighbour has: more than the limits of one sensor let through.
const NOISE: u64 = 30;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize, usual: u64| arguments.get(place).map_or(usual, |text| text.parse().unwrap());
    let (program, case) = (arguments[0].clone(), arguments[1].as_str());
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let sensors = number(2, 200);
    match case {
        "acks" | "noisy" => acks(program, sensors, number(3, 1), number(4, 10), case == "noisy").await,
        "bodies" => bodies(program, sensors).await,
        "storm" => storm(program, sensors).await,
        other => panic!("no case {other}: acks, noisy, bodies, storm"),
    }
}

async fn acks(program: String, sensors: u64, rate: u64, seconds: u64, noisy: bool) {
    let stage = Stage::new(program, sensors + 1).await;
    let mut links = JoinSet::new();
    for place in 1..=sensors as usize {
        let fleet = stage.fleet.clone();
        links.spawn(async move { fleet.patient_link(place).await });
    }
    let links = links.join_all().await;
    println!("{sensors} sensors are in; the enforcer has {}", stage.memory());
    let outboxes: Vec<_> = (0..if noisy { 8 } else { 0 }).map(|_| noise(NOISE)).collect();
    let begin = Instant::now() + Duration::from_millis(200);
    let end = begin + Duration::from_secs(seconds);
    let neighbour = Arc::new(AtomicU64::new(0));
    stage.fleet.clone().begin_noise(outboxes, begin, end, neighbour.clone());
    let again = Arc::new(AtomicU64::new(0));
    let mut posts = JoinSet::new();
    for (place, mut link) in links.into_iter().enumerate() {
        let (fleet, again) = (stage.fleet.clone(), again.clone());
        posts.spawn(async move {
            let pause = Duration::from_secs(1) / rate as u32;
            // So that they do not all post in the same moment.
            let mut next = begin + pause.mul_f64(place as f64 / sensors as f64);
            let (mut waits, mut sequence) = (Vec::new(), 0);
            while next < end {
                sleep_until(next).await;
                sequence += 1;
                let body = batch("o", sequence, 1);
                // A place that was given to another stranger in the moment in which it became a sensor's ends later.
                while !matches!(link.post("/v1/offences", &body).await, Ok((200, _))) {
                    again.fetch_add(1, Ordering::Relaxed);
                    link = fleet.patient_link(place + 1).await;
                }
                // From when it was to be sent, also where the one before was late.
                waits.push(next.elapsed());
                next += pause;
            }
            waits
        });
    }
    let mut waits: Vec<Duration> = posts.join_all().await.into_iter().flatten().collect();
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{} offences at {} a second: ack p50 {:.1} ms, p90 {:.1}, p99 {:.1}, worst {:.1}; {} sent again; the neighbour got {} acked; {}",
        waits.len(),
        sensors * rate,
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        again.load(Ordering::Relaxed),
        neighbour.load(Ordering::Relaxed),
        stage.memory()
    );
}

async fn bodies(program: String, count: u64) {
    let stage = Stage::new(program, 1).await;
    println!("before: {}", stage.memory());
    let mut held = Vec::new();
    let mut sent = 0;
    for _ in 0..count {
        let Ok(mut link) = stage.fleet.link(0).await else { continue };
        let head = link.head("POST", "/v1/offences", MAX_BODY);
        let piece = vec![b' '; 64 * 1024];
        let begun = async {
            link.stream.write_all(head.as_bytes()).await?;
            for _ in 1..MAX_BODY / piece.len() {
                link.stream.write_all(&piece).await?;
                sent += piece.len();
            }
            link.stream.flush().await
        };
        let _ = timeout(Duration::from_millis(100), begun).await;
        held.push(link);
    }
    println!("{count} bodies begun, {} MB sent: {}", sent / 1_000_000, stage.memory());
}

async fn storm(program: String, sensors: u64) {
    let mut stage = Stage::new(program, sensors).await;
    // One by one, as they were before the storm.
    let mut in_before = Vec::new();
    for place in 0..sensors as usize {
        if let Ok(Ok(link)) = timeout(Duration::from_secs(2), stage.fleet.link(place)).await {
            in_before.push(link);
        } else {
            break;
        }
    }
    println!("{} of {sensors} are in before; {}", in_before.len(), stage.memory());
    // Addresses of sensors are written a while after they were seen.
    sleep(Duration::from_secs(3)).await;
    stage.restart().await;
    drop(in_before);
    let begin = Instant::now();
    let mut back = JoinSet::new();
    for place in 0..sensors as usize {
        let fleet = stage.fleet.clone();
        back.spawn(async move {
            let link = timeout(Duration::from_secs(60), fleet.patient_link(place)).await;
            (begin.elapsed(), link.ok())
        });
    }
    let back = back.join_all().await;
    let mut waits: Vec<Duration> =
        back.iter().filter(|(_, link)| link.is_some()).map(|(wait, _)| *wait).collect();
    waits.sort_unstable();
    println!(
        "{} of {sensors} are back after {:.1} s, half of them after {:.1} s; {}",
        waits.len(),
        waits.last().map_or(0.0, Duration::as_secs_f64),
        waits.get(waits.len() / 2).map_or(0.0, Duration::as_secs_f64),
        stage.memory()
    );
}

// === impl Stage ===

impl Stage {
    async fn new(program: String, sensors: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!(
            "listen = \"{port}\"\nstate = \"{}\"\nsocket = \"{}/socket\"\n[widen]\nipv4 = 0\n",
            state.display(),
            folder.path().display()
        );
        std::fs::write(folder.path().join("enforcer.toml"), text).unwrap();
        std::fs::create_dir(&state).unwrap();
        let fingerprint = Identity::load_or_make(&state, || false).unwrap().fingerprint();
        let tokens = enrolled(&state, fingerprint, sensors);
        let connector = TlsConnector::from(Arc::new(Pin::new(fingerprint).client().unwrap()));
        let process = start(&program, folder.path());
        let fleet = Arc::new(Fleet { address: port, connector, tokens });
        let mut stage = Self { folder, program, fleet, process };
        stage.ready().await;
        stage
    }

    async fn ready(&mut self) {
        while TcpStream::connect(self.fleet.address).await.is_err() {
            if let Some(status) = self.process.try_wait().unwrap() {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                panic!("the enforcer ended with {status}: {log}");
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = start(&self.program, self.folder.path());
        self.ready().await;
    }

    /// The resident memory of the enforcer, and the most that it ever was.
    fn memory(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let kilobytes = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        format!("{} MB, at most {} MB", kilobytes("VmRSS") / 1000, kilobytes("VmHWM") / 1000)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// === impl Fleet ===

impl Fleet {
    /// A connection over which the sensor has read the allow list.
    async fn link(&self, place: usize) -> std::io::Result<Link> {
        let token = &self.tokens[place];
        let credentials = format!("{}:{}", token.sensor, token.secret.expose());
        let authorization = BASE64.encode(credentials.as_bytes());
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("enforcer").unwrap();
        let stream = self.connector.connect(name, stream).await?;
        let mut link = Link { stream, authorization };
        let head = link.head("GET", "/v1/allow", 0);
        match link.ask(&head, &[]).await? {
            (200, _) => Ok(link),
            (status, _) => Err(std::io::Error::other(format!("HTTP status {status}"))),
        }
    }

    /// The same, tried again as a sensor does: after 0.1 s, then twice as long each time, up to 10 s, with jitter.
    async fn patient_link(&self, place: usize) -> Link {
        let mut pause = 0.1;
        loop {
            if let Ok(Ok(link)) = timeout(Duration::from_secs(20), self.link(place)).await {
                return link;
            }
            sleep(Duration::from_secs_f64(pause * (1.0 + fastrand::f64()))).await;
            pause = (pause * 2.0_f64).min(10.0);
        }
    }

    /// Begins the noise of one more sensor over eight connections. Its batches are made before, and sent by a thread of
    /// its own that gives way to the others, for a real neighbour has processors of its own.
    fn begin_noise(
        self: Arc<Self>,
        outboxes: Vec<Vec<String>>,
        begin: Instant,
        end: Instant,
        taken: Arc<AtomicU64>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::spawn(move || {
            rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10).unwrap();
            runtime.block_on(async {
                let mut noise = JoinSet::new();
                for (number, batches) in outboxes.into_iter().enumerate() {
                    let (fleet, taken) = (self.clone(), taken.clone());
                    noise.spawn(async move {
                        sleep_until(begin).await;
                        fleet.make_noise(&format!("noise-{number}"), batches, end, &taken).await;
                    });
                }
                noise.join_all().await;
            });
        });
    }

    /// Posts batches until a time, and waits where it is told to.
    async fn make_noise(&self, outbox: &str, batches: Vec<String>, end: Instant, taken: &AtomicU64) {
        let mut link = self.patient_link(0).await;
        let mut batches = batches.into_iter().peekable();
        while Instant::now() < end
            && let Some(offences) = batches.peek()
        {
            let Ok((status, answer)) = link.post("/v1/offences", &enveloped(outbox, offences)).await else {
                link = self.patient_link(0).await;
                continue;
            };
            if status == 200 {
                taken.fetch_add(1000, Ordering::Relaxed);
                batches.next();
            } else {
                let problem: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
                let told = problem["retry_after_ms"].as_u64().unwrap_or(100);
                sleep(Duration::from_millis(told.min(60_000))).await;
            }
        }
    }
}

// === impl Link ===

impl Link {
    async fn post(&mut self, path: &str, body: &str) -> std::io::Result<(u16, Vec<u8>)> {
        let head = self.head("POST", path, body.len());
        self.ask(&head, body.as_bytes()).await
    }

    fn head(&self, method: &str, path: &str, length: usize) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nhost: enforcer\r\nauthorization: Basic {}\r\ncontent-length: {length}\r\n\r\n",
            self.authorization
        )
    }

    /// Sends a request; the status and the body of its answer.
    async fn ask(&mut self, head: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        self.stream.write_all(&[head.as_bytes(), body].concat()).await?;
        let mut bytes = Vec::new();
        loop {
            if self.stream.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            let whole = end + 4 + length.parse::<usize>().unwrap();
            if bytes.len() >= whole {
                let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap();
                return Ok((status, bytes.split_off(end + 4)));
            }
        }
    }
}

fn start(program: &str, folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    Command::new(program)
        .arg("--config")
        .arg(folder.join("enforcer.toml"))
        .args(["--log", "warn", "run"])
        .stdout(log.try_clone().unwrap())
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap()
}

/// Enrols so many sensors: the first as the command does, the others by rows like its own, for 2,000 commands take long.
fn enrolled(state: &Path, fingerprint: Fingerprint, sensors: u64) -> Vec<JoinToken> {
    let first = enrolment::enrol(state, "web-0".parse().unwrap(), fingerprint, false).unwrap();
    let mut file = rusqlite::Connection::open(state.join("sensors.sqlite3")).unwrap();
    let transaction = file.transaction().unwrap();
    let now = Timestamp::now().as_millisecond();
    let others = (1..sensors).map(|number| {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).unwrap();
        let token = JoinToken {
            sensor: format!("web-{number}").parse().unwrap(),
            secret: Secret::new(bytes),
            fingerprint,
        };
        let row = (token.sensor.as_str(), token.secret.digest(), now);
        transaction.execute("INSERT INTO sensors (name, digest, enrolled) VALUES (?1, ?2, ?3)", row).unwrap();
        token
    });
    let tokens = std::iter::once(first).chain(others).collect();
    transaction.commit().unwrap();
    tokens
}

/// So many batches of an outbox.
fn noise(count: u64) -> Vec<String> {
    (0..count).map(|batch| offences(batch * 1000 + 1, 1000)).collect()
}

/// A batch of offences of addresses that none had before.
fn batch(outbox: &str, sequence: u64, count: u64) -> String {
    enveloped(outbox, &offences(sequence, count))
}

fn enveloped(outbox: &str, offences: &str) -> String {
    format!(r#"{{"version":1,"outbox":"{outbox}","sent":"{}","offences":[{offences}]}}"#, Timestamp::now())
}

fn offences(sequence: u64, count: u64) -> String {
    let now = Timestamp::now();
    let offences: Vec<String> = (sequence..sequence + count)
        .map(|sequence| {
            let address = Ipv4Addr::from(0x0B00_0000 + OFFENDERS.fetch_add(1, Ordering::Relaxed));
            format!(
                r#"{{"sequence":{sequence},"jail":"ssh","address":"{address}","time":"{now}","failures":3,"bantime":3600,"evidence":[{{"time":"{now}","source":"logins","text":"failed password of root"}}]}}"#
            )
        })
        .collect();
    offences.join(",")
}
