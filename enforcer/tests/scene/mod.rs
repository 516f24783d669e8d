//! A whole enforcer in this process: simulated routers behind it, a sensor's HTTPS client in front, and
//! clocks that move together.

#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::config::Config;
use atalaya_enforcer::control::reload::{ReloadAnswer, ReloadRequest};
use atalaya_enforcer::enrolment;
use atalaya_enforcer::router::pin::Pin;
use atalaya_enforcer::service::{self, Service};
use atalaya_program::config_file::ConfigError;
use atalaya_wire::{
    ALLOW_PATH, Ack, BanTime, Batch, Evidence, JoinToken, NumberedOffence, OFFENCES_PATH, Offence, Problem,
    REPORTS_PATH, Report, Seconds, VERSION,
};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, StatusCode};
use routeros_sim::{Entry, Family, Router};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test fails; nothing is expected to take as long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The configuration file's name.
const FILE: &str = "enforcer.toml";

/// A running enforcer and what is around it.
pub struct Scene {
    pub folder: TempDir,
    pub routers: Vec<Router>,
    pub clock: Clock,
    pub service: Service,
    pub token: JoinToken,
    pub client: Client,
    more: String,
}

impl Scene {
    /// One router and one enrolled sensor, `web-1`.
    pub async fn new() -> Self {
        Self::with(vec![Router::builder().start().await.unwrap()], "").await
    }

    /// These routers, and more lines at the top of the configuration.
    pub async fn with(routers: Vec<Router>, more: &str) -> Self {
        Self::configured(routers, more, |_| {}).await
    }

    /// As [`Self::with`], and with what no configuration file can say.
    pub async fn configured(routers: Vec<Router>, more: &str, configure: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let mut config = config(&folder, &routers, more);
        configure(&mut config);
        let service = start(&folder, config, &clock).await;
        let token = enrol(&folder, &service, "web-1", false);
        let client = client(&service);
        Self { folder, routers, clock, service, token, client, more: more.to_owned() }
    }

    pub fn router(&self) -> &Router {
        &self.routers[0]
    }

    /// Stops the enforcer, does something, and starts one on the same state.
    pub async fn restart(self, meanwhile: impl AsyncFnOnce(&[Router], &Clock)) -> Self {
        let Self { folder, routers, clock, service, token, more, .. } = self;
        service.stop().await;
        meanwhile(&routers, &clock).await;
        let service = start(&folder, config(&folder, &routers, &more), &clock).await;
        let client = client(&service);
        Self { folder, routers, clock, service, token, client, more }
    }

    /// Edits the configuration file, of which the enforcer takes notice at a reload.
    pub fn edit(&self, edit: impl FnOnce(String) -> String) {
        let path = self.folder.path().join(FILE);
        std::fs::write(&path, edit(std::fs::read_to_string(&path).unwrap())).unwrap();
    }

    /// Reloads the configuration, which must have no mistake.
    pub async fn reload(&self) -> ReloadAnswer {
        in_time(self.service.reload(ReloadRequest::default())).await.unwrap()
    }

    /// Moves the clocks of the enforcer and of every router.
    pub fn advance(&self, seconds: u64) {
        advance(&self.routers, &self.clock, seconds);
    }

    /// An offence that happens now.
    pub fn offence(&self, sequence: u64, address: &str) -> NumberedOffence {
        offence(sequence, address, self.clock.now())
    }

    /// Posts offences, and expects the ack.
    pub async fn post(&self, offences: Vec<NumberedOffence>) -> Ack {
        self.try_post(&batch(offences)).await.unwrap()
    }

    /// Posts a batch as the enrolled sensor.
    pub async fn try_post(&self, batch: &Batch) -> Result<Ack, (StatusCode, Problem)> {
        self.send(serde_json::to_vec(batch).unwrap(), &self.token).await
    }

    /// Posts a body as it is, with the secret of a token.
    pub async fn send(&self, body: Vec<u8>, token: &JoinToken) -> Result<Ack, (StatusCode, Problem)> {
        let request = self
            .client
            .post(self.url(OFFENCES_PATH))
            .basic_auth(&token.sensor, Some(token.secret.expose()))
            .body(body);
        let response = request.send().await.unwrap();
        let status = response.status();
        let body = response.bytes().await.unwrap();
        if status.is_success() {
            return Ok(serde_json::from_slice(&body).unwrap());
        }
        Err((status, serde_json::from_slice(&body).unwrap()))
    }

    /// Posts a report of a sensor's; the status.
    pub async fn report(&self, report: &Report, token: &JoinToken) -> StatusCode {
        let request = self
            .client
            .post(self.url(REPORTS_PATH))
            .basic_auth(&token.sensor, Some(token.secret.expose()))
            .body(serde_json::to_vec(report).unwrap());
        request.send().await.unwrap().status()
    }

    /// What the sensor reads as the allow list.
    pub async fn allow(&self) -> Value {
        let token = &self.token;
        let request =
            self.client.get(self.url(ALLOW_PATH)).basic_auth(&token.sensor, Some(token.secret.expose()));
        serde_json::from_slice(&request.send().await.unwrap().bytes().await.unwrap()).unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.service.address())
    }

    /// Asks over the commands' socket: the status and the answer's text.
    pub async fn command(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, String) {
        let client = Client::builder()
            .unix_socket(self.folder.path().join("enforcer.sock").as_path())
            .tls_backend_preconfigured(tls(&self.service))
            .build()
            .unwrap();
        let mut request = client.request(method, format!("http://enforcer/{path}"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    /// The bans in the ledger.
    pub async fn bans(&self) -> Vec<Value> {
        let (status, text) = self.command(reqwest::Method::GET, "bans", None).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the first router satisfies the condition.
    pub async fn holds(&self, condition: impl FnMut(&[Entry]) -> bool) {
        let held = self.router().wait_for(condition, PATIENCE).await.is_ok();
        assert!(held, "the router holds {:#?}; {:#?}", self.entries(), self.service.routers()[0].status());
    }

    /// Waits until the first router has this address, and returns its entry.
    pub async fn banned(&self, address: &str) -> Entry {
        self.holds(|entries| entries.iter().any(|entry| entry.address == address)).await;
        self.entries().into_iter().find(|entry| entry.address == address).unwrap()
    }

    /// The entries of the first router.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = self.router().entries(Family::V4);
        entries.extend(self.router().entries(Family::V6));
        entries
    }

    /// Waits until the ledger satisfies a condition.
    pub async fn ledger_shows(&self, mut condition: impl FnMut(&[Value]) -> bool) {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let bans = self.bans().await;
            if condition(&bans) {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "the ledger stays at {bans:#?}");
            tokio::task::yield_now().await;
        }
    }

    /// The ledger's file, for what a test does to it.
    pub fn database(&self) -> rusqlite::Connection {
        let database = rusqlite::Connection::open(self.folder.path().join("state/ledger.sqlite3")).unwrap();
        database.busy_timeout(PATIENCE).unwrap();
        database
    }
}

/// Enrols a sensor beside the running enforcer, as the command does.
pub fn enrol(folder: &TempDir, service: &Service, name: &str, replace: bool) -> JoinToken {
    enrolment::enrol(&folder.path().join("state"), name.parse().unwrap(), service.fingerprint(), replace)
        .unwrap()
}

pub fn config(folder: &TempDir, routers: &[Router], more: &str) -> Config {
    let path = folder.path().display();
    // Tests ban whole networks, and count single entries.
    let widen = if more.contains("[widen]") { "" } else { "[widen]\nipv4 = 0" };
    let mut text = format!(
        "listen = \"127.0.0.1:0\"\nstate = \"{path}/state\"\nsocket = \"{path}/enforcer.sock\"\n{more}\n{widen}\n"
    );
    for (number, router) in routers.iter().enumerate() {
        text.push_str(&section(&format!("r{number}"), router));
    }
    std::fs::write(folder.path().join(FILE), text).unwrap();
    read(&folder.path().join(FILE)).unwrap()
}

/// The section of a router.
pub fn section(name: &str, router: &Router) -> String {
    let address = router.address();
    format!("[router.{name}]\naddress = \"{address}\"\nuser = \"atalaya\"\npassword = \"secret\"\n")
}

/// The configuration file, with deadlines short enough for tests.
fn read(path: &Path) -> Result<Config, ConfigError> {
    let mut config = Config::parse(&std::fs::read_to_string(path).unwrap(), path)?;
    for router in &mut config.routers {
        router.deadlines.shortest_pause = Duration::from_millis(5);
        router.deadlines.longest_pause = Duration::from_millis(50);
    }
    Ok(config)
}

async fn start(folder: &TempDir, config: Config, clock: &Clock) -> Service {
    let path = folder.path().join(FILE);
    service::start_rereading(config, clock.clone(), Box::new(move || read(&path))).await.unwrap()
}

pub fn advance(routers: &[Router], clock: &Clock, seconds: u64) {
    for router in routers {
        router.clock().advance(Duration::from_secs(seconds));
    }
    clock.advance(SignedDuration::from_secs(seconds.cast_signed()));
}

pub fn offence(sequence: u64, address: &str, time: Timestamp) -> NumberedOffence {
    let offence = Offence {
        jail: "ssh".parse().unwrap(),
        address: address.parse().unwrap(),
        time,
        failures: 3,
        bantime: BanTime::For(Seconds(1800)),
        escalation: None,
        evidence: vec![Evidence::new(time, "logins", "failed password of root")],
    };
    NumberedOffence { sequence, offence }
}

pub fn batch(offences: Vec<NumberedOffence>) -> Batch {
    Batch { version: VERSION, outbox: "o1".parse().unwrap(), sent: None, offences }
}

/// A distinct public address for each number.
pub fn attacker(number: u32) -> String {
    Ipv4Addr::from(0x0B00_0001 + number).to_string()
}

fn tls(service: &Service) -> rustls::ClientConfig {
    Pin::new(service.fingerprint()).client().unwrap()
}

fn client(service: &Service) -> Client {
    Client::builder().tls_backend_preconfigured(tls(service)).no_proxy().build().unwrap()
}

/// Waits for an event with a deadline.
pub async fn in_time<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.expect("it takes too long")
}

/// The word of the ledger in an entry's comment; empty where there is none.
pub fn word(entry: &Entry) -> String {
    let word = entry.comment.split(':').nth(1).filter(|word| word.len() == 4);
    word.unwrap_or_default().to_owned()
}

/// That an entry is one of ours, with the word of our ledger, and says this.
pub fn says(entry: &Entry, text: &str) {
    let word = entry.comment.strip_prefix("atalaya:").and_then(|rest| rest.strip_suffix(text));
    assert!(word.is_some_and(|word| word.len() == 6 && word.ends_with(": ")), "{}", entry.comment);
}
