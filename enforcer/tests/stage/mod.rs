//! One simulated router and its worker, on clocks that move together.

#![allow(dead_code, reason = "each test binary uses another part of it")]
#![allow(clippy::unwrap_used, reason = "it serves tests only")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::desired::{Desired, Label, Moment, Wanted};
use atalaya_enforcer::router::{self, Password, RouterConfig, RouterHandle, RouterStatus, State};
use ipnet::IpNet;
use jiff::SignedDuration;
use routeros_sim::{Builder, Entry, Family, Router};
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test fails; nothing is expected to take as long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What our entries' comments begin with.
pub const MARK: &str = "atalaya: ";

pub struct Stage {
    pub router: Router,
    pub desired: Arc<Desired>,
    pub clock: Clock,
    pub worker: RouterHandle,
    pub stop: CancellationToken,
}

impl Stage {
    /// A router as it comes, connected and read.
    pub async fn new() -> Self {
        Self::with(Router::builder(), |_| {}).await
    }

    /// A router and a worker set up otherwise, connected and read.
    pub async fn with(builder: Builder, configure: impl FnOnce(&mut RouterConfig)) -> Self {
        let stage = Self::raise(builder.start().await.unwrap(), Desired::new(), configure);
        stage.is(State::Connected).await;
        stage
    }

    /// A worker that has just been started against a running router.
    pub fn raise(router: Router, desired: Desired, configure: impl FnOnce(&mut RouterConfig)) -> Self {
        let (desired, clock, stop) = (Arc::new(desired), Clock::system(), CancellationToken::new());
        let mut config = config(&router);
        configure(&mut config);
        let worker = router::spawn(config, Arc::clone(&desired), clock.clone(), stop.clone(), None);
        Self { router, desired, clock, worker, stop }
    }

    /// Bans for so many seconds from now.
    pub fn ban(&self, prefix: &str, seconds: i64) {
        let until = self.clock.now() + SignedDuration::from_secs(seconds);
        self.desired.set(parse(prefix), Wanted { until: until.into(), label: Label::test("sshd at web-1") });
    }

    pub fn ban_forever(&self, prefix: &str) {
        self.desired
            .set(parse(prefix), Wanted { until: Moment::FOREVER, label: Label::test("sshd at web-1") });
    }

    pub fn unban(&self, prefix: &str) {
        self.desired.remove(parse(prefix));
    }

    /// Moves the router's clock and ours.
    pub fn advance(&self, seconds: u64) {
        self.router.clock().advance(Duration::from_secs(seconds));
        self.clock.advance(SignedDuration::from_secs(seconds.cast_signed()));
    }

    /// Waits until the router holds exactly these addresses.
    pub async fn holds(&self, addresses: &[&str]) {
        let mut wanted: Vec<&str> = addresses.to_vec();
        wanted.sort_unstable();
        let same = |entries: &[Entry]| {
            let mut held: Vec<&str> = entries.iter().map(|entry| entry.address.as_str()).collect();
            held.sort_unstable();
            held == wanted
        };
        if self.router.wait_for(same, PATIENCE).await.is_err() {
            let held = self.entries();
            panic!("wanted {wanted:?}, but the router holds {held:#?}; {:#?}", self.worker.status());
        }
    }

    /// Waits until the router holds this address, whatever else it holds.
    pub async fn holds_beside_strangers(&self, address: &str) {
        let there = |entries: &[Entry]| entries.iter().any(|entry| entry.address == address);
        let came = self.router.wait_for(there, PATIENCE).await.is_ok();
        assert!(came, "{address} should be there: {:#?}", self.worker.status());
    }

    /// Waits until the entry has this much left, to the second either way.
    pub async fn has_left(&self, address: &str, seconds: u64) {
        let close = |entries: &[Entry]| {
            entries.iter().any(|entry| {
                let left = entry.timeout_left.map_or(f64::INFINITY, |left| left.as_secs_f64());
                entry.address == address && (left - seconds as f64).abs() <= 1.0
            })
        };
        let came = self.router.wait_for(close, PATIENCE).await.is_ok();
        assert!(came, "{address} should have {seconds} s left: {:#?}", self.entries());
    }

    /// Waits until the worker is at this.
    pub async fn is(&self, state: State) {
        self.shows(|status| status.state == state).await;
    }

    /// Waits until the worker's status satisfies the condition.
    pub async fn shows(&self, mut condition: impl FnMut(&RouterStatus) -> bool) -> RouterStatus {
        let mut watch = self.worker.watch();
        let waiting = watch.wait_for(|status| condition(status));
        let shown = tokio::time::timeout(PATIENCE, waiting).await.map(|status| status.unwrap().clone());
        shown.unwrap_or_else(|_| panic!("the worker stays at {:#?}", self.worker.status()))
    }

    /// Waits until whatever was to be sent has been sent and answered: a ban of another address, set
    /// now, has arrived.
    pub async fn comes_to_rest(&self) {
        let address = "198.18.255.255";
        let before = self.worker.status();
        self.ban(address, 86_400);
        let done = |status: &RouterStatus| {
            let more = status.counts.adds + status.counts.sets > before.counts.adds + before.counts.sets;
            more && status.in_flight == 0 && status.queued == 0
        };
        self.shows(done).await;
        self.unban(address);
        self.shows(|status| status.counts.removes > before.counts.removes && status.in_flight == 0).await;
    }

    /// All entries of both tables.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = self.router.entries(Family::V4);
        entries.extend(self.router.entries(Family::V6));
        entries
    }

    /// The entry of this address.
    pub fn entry(&self, address: &str) -> Entry {
        let entries = self.entries();
        entries.into_iter().find(|entry| entry.address == address).expect("the entry is there")
    }

    /// How many adds, sets and removes the worker has had carried out.
    pub fn changes(&self) -> u64 {
        let counts = self.worker.status().counts;
        counts.adds + counts.sets + counts.removes
    }
}

/// What reaches the router, with deadlines short enough for tests.
pub fn config(router: &Router) -> RouterConfig {
    let address = router.address().to_string().parse().unwrap();
    let mut config = RouterConfig::new("r1".parse().unwrap(), address, "atalaya", Password::new("secret"));
    config.deadlines.shortest_pause = Duration::from_millis(5);
    config.deadlines.longest_pause = Duration::from_millis(50);
    config.deadlines.refused_pause = Duration::from_millis(50);
    config
}

/// A prefix, or an address as one.
pub fn parse(prefix: &str) -> IpNet {
    prefix.parse::<IpAddr>().map_or_else(|_| prefix.parse().unwrap(), IpNet::from)
}
