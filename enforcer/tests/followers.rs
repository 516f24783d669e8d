//! Sensors that follow the bans, beside a router: who is slow, who may not, and what each is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod scene;
mod stage;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use atalaya_enforcer::desired::{Label, Wanted};
use atalaya_enforcer::enrolment::{self, Enrolled};
use atalaya_enforcer::intake::followers::Followers;
use atalaya_wire::{BANS_PATH, BanLine, Fingerprint, Follow, Position, Problem, ProblemCode};
use axum::body::{Body, HttpBody};
use ipnet::IpNet;
use reqwest::StatusCode;
use scene::{Scene, attacker, in_time};
use stage::{Stage, parse};

/// The lines of a stream, as they come.
struct Lines {
    body: Body,
    rest: Vec<u8>,
}

// === impl Lines ===

impl Lines {
    fn of(body: Body) -> Self {
        Self { body, rest: Vec::new() }
    }

    /// The next line; `None` at the end of the stream.
    async fn next(&mut self) -> Option<BanLine> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await?;
            self.rest.extend(frame.unwrap().into_data().unwrap());
        }
    }

    /// Reads up to a ban of this network.
    async fn until(&mut self, network: &str) {
        let network = parse(network);
        let found = async {
            while let Some(line) = self.next().await {
                if matches!(line, BanLine::Ban { net, .. } if net == network) {
                    return;
                }
            }
            panic!("the stream ended before {network}");
        };
        in_time(found).await;
    }
}

/// Followers of what a stage's router is held to, and the folder where `web-1` and `web-2` are enrolled.
fn followers(stage: &Stage) -> (Arc<Followers>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["web-1", "web-2"] {
        enrolment::enrol(folder.path(), name.parse().unwrap(), Fingerprint::of(b""), false).unwrap();
    }
    let enrolled = Arc::new(Enrolled::new(folder.path()).unwrap());
    let (desired, clock, stop) = (stage.desired.clone(), stage.clock.clone(), stage.stop.clone());
    (Arc::new(Followers::new(desired, "ledger".parse().unwrap(), enrolled, clock, stop).unwrap()), folder)
}

#[tokio::test]
async fn a_client_that_never_reads_holds_up_no_other_and_no_router() {
    let stage = Stage::new().await;
    let (followers, _folder) = followers(&stage);
    let label = Label::test("x");
    let bans = (0..20_000).map(|number| {
        let until = Some(stage.clock.now() + jiff::SignedDuration::from_hours(1));
        (
            IpNet::from(attacker(number).parse::<std::net::IpAddr>().unwrap()),
            Wanted { until: until.into(), label: label.clone() },
        )
    });
    stage.desired.set_many(bans.collect::<Vec<_>>());
    let _stuck = followers.follow("web-1".parse().unwrap(), None);
    let mut other = Lines::of(followers.follow("web-2".parse().unwrap(), None));
    // The last in order: the snapshot is through.
    other.until(&attacker(19_999)).await;

    stage.ban("192.0.2.1", 600);
    other.until("192.0.2.1").await;
    let held = |entries: &[routeros_sim::Entry]| entries.iter().any(|entry| entry.address == "192.0.2.1");
    stage.router.wait_for(held, stage::PATIENCE).await.unwrap();
    assert!(followers.includes(&"web-1".parse().unwrap()));
}

#[tokio::test]
async fn a_follower_hears_at_once_that_the_allow_list_is_another_one_also_where_no_ban_changes() {
    let scene = Scene::new().await;
    let request = scene.client.get(scene.url(BANS_PATH));
    let request = request.basic_auth("web-1", Some(scene.token.secret.expose()));
    let mut lines = Lines::of(Body::new(reqwest::Body::from(request.send().await.unwrap())));
    let mut told = async || loop {
        if let BanLine::Mark { allow, .. } = lines.next().await.unwrap() {
            return allow.unwrap();
        }
    };
    let before = in_time(told()).await;
    let allow = serde_json::json!({"what": "192.0.2.9", "time": 600, "reason": "a laptop", "by": "me"});
    let (status, text) = scene.command(reqwest::Method::POST, "allow", Some(allow)).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    in_time(async { while told().await == before {} }).await;
    let networks = scene.allow().await["networks"].to_string();
    assert!(networks.contains("192.0.2.9"), "{networks}");
}

#[tokio::test]
async fn of_too_many_streams_of_one_sensor_the_oldest_ends_and_all_end_with_the_enforcer() {
    let stage = Stage::new().await;
    let (followers, _folder) = followers(&stage);
    let name = || "web-1".parse().unwrap();
    let mut first = Lines::of(followers.follow(name(), None));
    let mut more: Vec<Lines> = (0..3).map(|_| Lines::of(followers.follow(name(), None))).collect();
    let ended = async { while first.next().await.is_some() {} };
    in_time(ended).await;
    stage.ban("192.0.2.1", 600);
    for lines in &mut more {
        lines.until("192.0.2.1").await;
    }
    drop(more.pop());
    stage.stop.cancel();
    for lines in &mut more {
        in_time(async { while lines.next().await.is_some() {} }).await;
    }
    let gone = async {
        while followers.includes(&name()) {
            tokio::task::yield_now().await;
        }
    };
    in_time(gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_enrolled_sensor_of_our_version_is_told_the_bans_and_it_is_told_what_the_router_holds() {
    let scene = Scene::with(
        vec![routeros_sim::Router::builder().start().await.unwrap()],
        "allow = [\"198.51.100.0/24\"]\n[widen]\nipv4 = 3",
    )
    .await;
    let get = |query: &str, secret: String| {
        let request = scene.client.get(format!("{}{query}", scene.url(BANS_PATH)));
        in_time(request.basic_auth("web-1", Some(secret)).send())
    };
    let secret = || scene.token.secret.expose();
    let refused = async |query: &str, secret: String| {
        let response = get(query, secret).await.unwrap();
        let status = response.status();
        (status, serde_json::from_slice::<Problem>(&response.bytes().await.unwrap()).unwrap().code)
    };
    let wrong = "A".repeat(43);
    assert_eq!(refused("", wrong).await, (StatusCode::UNAUTHORIZED, ProblemCode::Unauthorized));
    assert_eq!(refused("?version=2", secret()).await, (StatusCode::BAD_REQUEST, ProblemCode::UnknownVersion));
    assert_eq!(
        refused("?stream=a&through=x", secret()).await,
        (StatusCode::BAD_REQUEST, ProblemCode::Malformed)
    );

    let position = Position { stream: "another-run".parse().unwrap(), through: 7, after: None };
    let mut response = get(&format!("?{}", Follow::new(Some(position))), secret()).await.unwrap();
    let mut text = String::new();
    let read = async |response: &mut reqwest::Response, text: &mut String, what: &str| {
        while !text.contains(what) {
            let piece = in_time(response.chunk()).await.unwrap().expect("the stream ended");
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    };
    read(&mut response, &mut text, r#"{"mark":{"through":0,"allow":"#).await;
    assert!(text.starts_with(r#"{"begin":{"version":1,"ledger":""#) && text.contains(r#""resumed":false}}"#));

    // What is allowed is not told, and three of a network are the network.
    let addresses = ["198.51.100.1", "203.0.113.1", "203.0.113.2", "203.0.113.3", "192.0.2.9"];
    let offences = (1..).zip(addresses).map(|(sequence, address)| scene.offence(sequence, address));
    scene.post(offences.collect()).await;
    read(&mut response, &mut text, "192.0.2.9").await;
    assert!(text.contains(r#"{"ban":{"net":"203.0.113.0/24","ms":"#), "{text}");
    assert!(!text.contains("198.51.100.1"), "{text}");
    scene.holds(|entries| entries.len() == 2).await;

    // What is lifted for the allow list is lifted here too.
    let allow = serde_json::json!({"what": "192.0.2.9", "time": 600, "reason": "mine", "by": "me"});
    let (status, said) = scene.command(reqwest::Method::POST, "allow", Some(allow)).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    read(&mut response, &mut text, r#"{"lift":{"net":"192.0.2.9"}}"#).await;

    // The stream ends with the enforcer, in order, and does not keep it.
    in_time(scene.service.stop()).await;
    while in_time(response.chunk()).await.unwrap().is_some() {}
}
