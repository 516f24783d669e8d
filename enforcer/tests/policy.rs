//! What decides beside the sensors' jails, in a whole enforcer against a simulated router: widening, fleet
//! counting, lock-out protection, sensors' clocks, and an allow list that changes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod scene;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atalaya_wire::{Failures, JoinToken, Login, MAX_REPORT, Report, VERSION};
use jiff::{SignedDuration, Timestamp};
use routeros_sim::{Entry, Router};
use tokio::net::UdpSocket;

use scene::{PATIENCE, Scene, batch, offence};

async fn scene(more: &str) -> Scene {
    Scene::with(vec![Router::builder().start().await.unwrap()], more).await
}

fn addresses(entries: &[Entry]) -> Vec<String> {
    let mut addresses: Vec<String> = entries.iter().map(|entry| entry.address.clone()).collect();
    addresses.sort();
    addresses
}

/// Waits until the first router holds exactly these entries.
async fn holds(scene: &Scene, expected: &[&str]) {
    let mut expected: Vec<&str> = expected.to_vec();
    expected.sort_unstable();
    scene.holds(|entries| addresses(entries) == expected).await;
}

fn report(scene: &Scene, sequence: u64) -> Report {
    let outbox = "o1".parse().unwrap();
    let sent = scene.clock.now();
    Report { version: VERSION, outbox, sequence, sent, failures: Vec::new(), logins: Vec::new() }
}

fn failure(address: &str, count: u32, last: Timestamp) -> Failures {
    Failures { jail: "ssh".parse().unwrap(), address: address.parse().unwrap(), count, last }
}

fn login(address: &str, time: Timestamp) -> Login {
    let (service, account) = ("sshd".to_owned(), "ann".to_owned());
    Login { address: address.parse().unwrap(), service, account, time }
}

async fn decisions(scene: &Scene) -> serde_json::Value {
    let (_, text) = scene.command(reqwest::Method::GET, "status", None).await;
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["decisions"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_offenders_of_one_network_are_one_entry_until_one_of_them_is_unbanned() {
    let scene = scene("[widen]\nipv4 = 32").await;
    let now = scene.clock.now();
    let offences = (1..=40).map(|host: u64| {
        // Each some seconds after the other.
        let ago = SignedDuration::from_secs(2 * host.cast_signed());
        offence(host, &format!("203.0.113.{host}"), now - ago)
    });
    scene.post(offences.collect()).await;
    holds(&scene, &["203.0.113.0/24"]).await;
    scene::says(&scene.entries()[0], "ssh from web-1 (widened)");
    assert_eq!(scene.bans().await.len(), 40);

    let (status, text) = scene.command(reqwest::Method::DELETE, "bans?prefix=203.0.113.7/32", None).await;
    assert_eq!(status, 200, "{text}");
    scene.holds(|entries| entries.len() == 39).await;
    let held = addresses(&scene.entries());
    assert!(!held.contains(&"203.0.113.7".to_owned()) && !held.contains(&"203.0.113.0/24".to_owned()));
    let left = scene.banned("203.0.113.40").await.timeout_left.unwrap().as_secs();
    assert!((1710..=1721).contains(&left), "{left} s left");
    // It offends again: nothing is to be kept reachable any more.
    scene.post(vec![scene.offence(41, "203.0.113.7")]).await;
    holds(&scene, &["203.0.113.0/24"]).await;
    // And all of it lapses by itself.
    let removes = scene.router().counts().removes;
    scene.advance(1801);
    scene.holds(<[_]>::is_empty).await;
    scene.ledger_shows(<[_]>::is_empty).await;
    assert_eq!(scene.router().counts().removes, removes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_with_an_allowed_address_stays_single_and_all_is_so_after_a_restart() {
    let scene = scene("allow = [\"203.0.113.200\"]\n[widen]\nipv4 = 3").await;
    let hosts = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "198.51.100.1", "198.51.100.2", "198.51.100.3"];
    let now = scene.clock.now();
    let offences = hosts.iter().zip(1..).map(|(host, sequence)| offence(sequence, host, now));
    scene.post(offences.collect()).await;
    let expected = ["198.51.100.0/24", "203.0.113.1", "203.0.113.2", "203.0.113.3"];
    holds(&scene, &expected).await;
    let scene = scene.restart(async |routers, _| routers[0].reboot().await).await;
    holds(&scene, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_password_on_each_of_fifty_hosts_is_one_ban_and_an_allowed_scanner_is_none() {
    let fleet = "allow = [\"198.51.100.0/24\"]\n[fleet.everywhere]\njails = [\"ssh\"]\nmaxretry = 50\nsensors = 50\nbantime = \"2h\"";
    let scene = scene(fleet).await;
    let tokens: Vec<JoinToken> = (0..50)
        .map(|number| scene::enrol(&scene.folder, &scene.service, &format!("host-{number}"), false))
        .collect();
    let now = scene.clock.now();
    for (number, token) in tokens.iter().enumerate() {
        let mut one = report(&scene, 1);
        one.failures = vec![failure("203.0.113.7", 1, now), failure("198.51.100.7", 1, now)];
        if number % 2 == 0 {
            // Often, but on one host.
            one.failures.push(failure(&format!("198.18.7.{number}"), 60, now));
        }
        // Once more by a sensor that got no answer.
        for _ in 0..2 {
            assert_eq!(scene.report(&one, token).await, 200);
        }
        assert!(number == 49 || scene.bans().await.is_empty(), "banned after {number} sensors");
    }
    let entry = scene.banned("203.0.113.7").await;
    scene::says(&entry, "everywhere from fleet");
    let left = entry.timeout_left.unwrap().as_secs();
    assert!((7190..=7200).contains(&left), "{left} s left");
    scene.ledger_shows(|bans| !bans.is_empty()).await;
    let bans = scene.bans().await;
    assert_eq!(bans.len(), 1, "{bans:#?}");
    assert_eq!((bans[0]["jail"].as_str(), bans[0]["sensor"].as_str()), (Some("everywhere"), Some("fleet")));
    assert_eq!(bans[0]["evidence"].as_array().unwrap().len(), 5);
    let counted = scene.service.reports().fleet_status();
    assert_eq!((counted[0].counting, counted[0].bans), (25, 1), "an allowed address is counted");
    // What is no report of ours.
    let token = &tokens[0];
    let mut large = report(&scene, 2);
    large.logins = vec![login("10.0.0.1", now); MAX_REPORT + 1];
    assert_eq!(scene.report(&large, token).await, 413);
    assert_eq!(scene.report(&Report { version: 9, ..report(&scene, 2) }, token).await, 400);
    let mut stranger = token.clone();
    stranger.sensor = "nobody".parse().unwrap();
    assert_eq!(scene.report(&report(&scene, 2), &stranger).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_at_its_share_stops_no_fleet_ban_of_what_others_report() {
    let fleet = "[sensors]\nbans = 100\n[fleet.everywhere]\njails = [\"ssh\"]\nmaxretry = 15\nsensors = 5";
    let scene = scene(fleet).await;
    let honest: Vec<JoinToken> = (0..5)
        .map(|number| scene::enrol(&scene.folder, &scene.service, &format!("host-{number}"), false))
        .collect();
    let now = scene.clock.now();
    // As many bans stand that it asked for as one sensor may have, and it reports the attacker too.
    let own = (1..=100).map(|number| offence(number, &format!("198.51.100.{number}"), now));
    scene.post(own.collect()).await;
    let mut forged = report(&scene, 1);
    forged.failures = vec![failure("203.0.113.7", 30, now)];
    assert_eq!(scene.report(&forged, &scene.token).await, 200);
    for token in &honest {
        let mut one = report(&scene, 1);
        one.failures = vec![failure("203.0.113.7", 3, now)];
        assert_eq!(scene.report(&one, token).await, 200);
    }
    scene.banned("203.0.113.7").await;
    scene.ledger_shows(|bans| bans.iter().any(|ban| ban["prefix"] == "203.0.113.7")).await;
    let ban = scene.bans().await.into_iter().find(|ban| ban["prefix"] == "203.0.113.7").unwrap();
    assert_eq!(ban["evidence"].as_array().unwrap().len(), 5, "{ban}");
    assert!(!ban["evidence"].to_string().contains("web-1"), "{ban}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_to_which_many_fleet_bans_count_is_counted_no_more_and_the_others_are() {
    let fleet =
        "[sensors]\nbans = 100\n[widen]\nipv4 = 0\n[fleet.everywhere]\njails = [\"ssh\"]\nmaxretry = 5";
    let scene = scene(fleet).await;
    let honest = scene::enrol(&scene.folder, &scene.service, "host-1", false);
    let now = scene.clock.now();
    let mut invented = report(&scene, 1);
    invented.failures = (1..=250).map(|number| failure(&format!("198.18.0.{number}"), 5, now)).collect();
    assert_eq!(scene.report(&invented, &scene.token).await, 200);
    let mut one = report(&scene, 1);
    one.failures = vec![failure("203.0.113.7", 5, now)];
    assert_eq!(scene.report(&one, &honest).await, 200);
    scene.banned("203.0.113.7").await;
    // 100 that were invented, and one.
    scene.ledger_shows(|bans| bans.len() == 101).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_logged_in_well_is_spared_and_listed_and_banned_by_hand_by_force_only() {
    let scene = scene("").await;
    let mut good = report(&scene, 1);
    good.logins = vec![login("10.1.2.3", scene.clock.now()), login("203.0.113.9", scene.clock.now())];
    assert_eq!(scene.report(&good, &scene.token).await, 200);
    let known = |scene: &Scene| scene.service.bans().protected();
    assert_eq!(known(&scene), 1, "only private networks are protected where nothing is said");
    let offences =
        vec![scene.offence(1, "10.1.2.3"), scene.offence(2, "10.1.2.4"), scene.offence(3, "203.0.113.9")];
    scene.post(offences).await;
    holds(&scene, &["10.1.2.4", "203.0.113.9"]).await;
    let spared = scene.service.bans().protected_offences(10).unwrap();
    assert_eq!((spared.len(), spared[0].jail.as_str(), spared[0].sensor.as_str()), (1, "ssh", "web-1"));
    assert_eq!(decisions(&scene).await["spared"], 1);

    let mut by_hand = serde_json::json!({"prefix": "10.1.2.3/32", "bantime": 600});
    let (status, text) = scene.command(reqwest::Method::POST, "bans", Some(by_hand.clone())).await;
    assert!(status == 409 && text.contains("ann") && text.contains("--force"), "{status} {text}");
    // It is remembered across a restart, and forgotten after a week.
    let scene = scene.restart(async |_, _| {}).await;
    assert_eq!(known(&scene), 1);
    by_hand["force"] = true.into();
    let (status, text) = scene.command(reqwest::Method::POST, "bans", Some(by_hand)).await;
    assert_eq!(status, 200, "{text}");
    scene.banned("10.1.2.3").await;
    scene.advance(7 * 86_400 + 1);
    scene.post(vec![scene.offence(9, "10.1.2.3")]).await;
    scene.banned("10.1.2.3").await;
    let forgotten = async {
        while known(&scene) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.expect("the login is never forgotten");
    assert_eq!(decisions(&scene).await["banned"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_whose_clock_is_wrong_by_an_hour_either_way_bans_for_the_right_time() {
    let scene = scene("").await;
    let now = scene.clock.now();
    for (number, off) in [-3600, 3600, 0].into_iter().enumerate() {
        let number = number as u64 + 1;
        let theirs = now + SignedDuration::from_secs(off);
        // Ten minutes old by its own clock, as if it had waited.
        let happened = theirs - SignedDuration::from_secs(600);
        let mut post = batch(vec![offence(number, &format!("203.0.113.{number}"), happened)]);
        post.sent = Some(theirs);
        let ack = scene.try_post(&post).await.unwrap();
        assert!(ack.ledger.is_some());
        let left = scene.banned(&format!("203.0.113.{number}")).await.timeout_left.unwrap().as_secs();
        assert!((1195..=1201).contains(&left), "{off}: {left} s left");
        let (_, status) = scene.command(reqwest::Method::GET, "status", None).await;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let skew = status["sensors"]["web-1"]["skew_seconds"].as_i64().unwrap();
        assert!((skew + off).abs() < 10, "{skew} is told for {off}");
    }
    // Without a word on when it was sent, what is in the future is dated by arrival.
    let ahead = offence(9, "203.0.113.9", now + SignedDuration::from_secs(3600));
    scene.post(vec![ahead]).await;
    let left = scene.banned("203.0.113.9").await.timeout_left.unwrap().as_secs();
    assert!((1790..=1801).contains(&left), "{left} s left");
    let since: Timestamp = scene.bans().await[0]["since"].as_str().unwrap().parse().unwrap();
    assert!(since <= scene.clock.now());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_at_run_time_lifts_its_bans_and_ends_by_itself() {
    let scene = scene("").await;
    scene.post(vec![scene.offence(1, "203.0.113.7"), scene.offence(2, "203.0.113.8")]).await;
    scene.banned("203.0.113.8").await;
    let bans = scene.service.bans();
    let until = scene.clock.now() + SignedDuration::from_secs(7200);
    let allowed =
        bans.allow_at_run_time("203.0.113.7", Some(until), "my laptop", "ann", scene.clock.now()).unwrap();
    assert_eq!(allowed.effect.lifted, 1);
    allowed.receipt.committed().await.unwrap();
    holds(&scene, &["203.0.113.8"]).await;
    assert!(scene.allow().await.to_string().contains("\"203.0.113.7\""));
    scene.post(vec![scene.offence(3, "203.0.113.7")]).await;
    assert_eq!(decisions(&scene).await["allowed"], 1);
    // It holds across a restart, and to its end.
    let scene = scene.restart(async |_, _| {}).await;
    assert_eq!(scene.service.bans().allowances().len(), 1);
    scene.post(vec![scene.offence(4, "203.0.113.7")]).await;
    assert_eq!(decisions(&scene).await["allowed"], 1);
    scene.advance(7201);
    // Not by asking for the list again and again: who does is soon refused, and a refusal names no address.
    let gone = async {
        while !scene.service.bans().allowances().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("it does not end");
    assert!(!scene.allow().await.to_string().contains("\"203.0.113.7\""));
    scene.post(vec![scene.offence(5, "203.0.113.7")]).await;
    scene.banned("203.0.113.7").await;
}

/// A name server that knows one IPv4 address of every name, for a second, or does not answer.
async fn name_server(address: Arc<Mutex<Option<Ipv4Addr>>>) -> std::net::SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query).await {
            let Some(address) = *address.lock().unwrap() else { continue };
            // RFC 1035: a header of 12 bytes, the name, then the type and the class.
            let name_end = 12 + query[12..length].iter().position(|byte| *byte == 0).unwrap() + 1;
            let is_a = query[name_end..name_end + 2] == [0, 1];
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            answer.extend(&query[12..name_end + 4]);
            if is_a {
                answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                answer.extend(address.octets());
            }
            socket.send_to(&answer, peer).await.unwrap();
        }
    });
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_allowed_at_whatever_address_it_has_and_at_the_last_one_while_nobody_answers() {
    let address = Arc::new(Mutex::new(Some(Ipv4Addr::new(203, 0, 113, 7))));
    let server = name_server(address.clone()).await;
    let routers = vec![Router::builder().start().await.unwrap()];
    let scene = Scene::configured(routers, "allow = [\"Admin.example.org\"]", |config| {
        config.allow.lookups.server = Some(server);
        config.allow.lookups.shortest = Duration::from_millis(50);
    })
    .await;
    let allows = async |address: &str| {
        let quoted = format!("\"{address}\"");
        let there = async {
            while !scene.allow().await.to_string().contains(&quoted) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.unwrap_or_else(|_| panic!("{address} is not allowed"));
    };
    allows("203.0.113.7").await;
    scene.post(vec![scene.offence(1, "203.0.113.7"), scene.offence(2, "203.0.113.8")]).await;
    holds(&scene, &["203.0.113.8"]).await;
    // The name moves to the address that is banned.
    *address.lock().unwrap() = Some(Ipv4Addr::new(203, 0, 113, 8));
    allows("203.0.113.8").await;
    scene.holds(<[_]>::is_empty).await;
    assert!(!scene.allow().await.to_string().contains("203.0.113.7"));
    // Nobody answers.
    *address.lock().unwrap() = None;
    let troubled = async {
        while scene.service.bans().answers()["admin.example.org"].trouble.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, troubled).await.expect("nobody says that the name cannot be looked up");
    assert!(scene.allow().await.to_string().contains("203.0.113.8"));
    // One that is allowed at run time.
    *address.lock().unwrap() = Some(Ipv4Addr::new(203, 0, 113, 9));
    let now = scene.clock.now();
    let done = scene.service.bans().allow_at_run_time("home.example.net", None, "", "ann", now).unwrap();
    assert_eq!(done.entry.what, "home.example.net");
    allows("203.0.113.9").await;
    assert_eq!(scene.service.bans().answers().len(), 2);
}
