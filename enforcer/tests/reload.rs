//! A reload of the configuration while bans are kept: what changes, what goes on, and what a mistake leaves alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod scene;

use atalaya_enforcer::control::reload::{ReloadError, ReloadRequest};
use atalaya_enforcer::router::{RouterStatus, State};
use atalaya_wire::{BANS_PATH, Batch};
use reqwest::{Method, StatusCode};
use routeros_sim::{Entry, Family, Router};
use scene::{PATIENCE, Scene, attacker, batch, in_time, offence, section};
use serde_json::{Value, json};

async fn routers(count: usize) -> Vec<Router> {
    let mut routers = Vec::new();
    for _ in 0..count {
        routers.push(Router::builder().start().await.unwrap());
    }
    routers
}

/// Waits until a router holds exactly these addresses, in any order.
async fn holds(router: &Router, addresses: &[&str]) {
    let same = |entries: &[Entry]| {
        let mut held: Vec<&str> = entries.iter().map(|entry| entry.address.as_str()).collect();
        let mut wanted = addresses.to_vec();
        held.sort_unstable();
        wanted.sort_unstable();
        held == wanted
    };
    let held = router.wait_for(same, PATIENCE).await.is_ok();
    assert!(held, "wanted {addresses:?}: {:#?}", router.entries(Family::V4));
}

/// Waits until a router's worker satisfies a condition.
async fn shows(
    scene: &Scene,
    place: usize,
    mut condition: impl FnMut(&RouterStatus) -> bool,
) -> RouterStatus {
    let router = scene.service.routers()[place].clone();
    let mut watch = router.watch();
    let shown = tokio::time::timeout(PATIENCE, watch.wait_for(|status| condition(status))).await;
    shown.unwrap_or_else(|_| panic!("the worker stays at {:#?}", router.status())).unwrap().clone()
}

async fn connected(scene: &Scene, place: usize) -> RouterStatus {
    shows(scene, place, |status| status.state == State::Connected).await
}

/// The stream of bans that a sensor follows.
struct Stream {
    response: reqwest::Response,
    rest: Vec<u8>,
}

// === impl Stream ===

impl Stream {
    /// Reads up to a ban of this address.
    async fn until(&mut self, address: &str) {
        let address = format!("\"{address}\"");
        let found = async {
            while !String::from_utf8_lossy(&self.rest).contains(&address) {
                let piece = self.response.chunk().await.unwrap();
                self.rest.extend(piece.expect("the stream ended"));
            }
        };
        in_time(found).await;
    }
}

impl Scene {
    /// The sensor's stream, once it has begun.
    async fn stream(&self) -> Stream {
        let request = self.client.get(self.url(BANS_PATH));
        let token = &self.token;
        let response = request.basic_auth(&token.sensor, Some(token.secret.expose())).send().await.unwrap();
        assert!(response.status().is_success());
        Stream { response, rest: Vec::new() }
    }

    async fn refused(&self) -> String {
        match in_time(self.service.reload(ReloadRequest::default())).await {
            Err(ReloadError::Mistake(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.command(Method::GET, "status", None).await.1).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_added_gets_the_bans_and_the_other_keeps_its_session() {
    let scene = Scene::new().await;
    let new = Router::builder().start().await.unwrap();
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    holds(scene.router(), &["198.51.100.7"]).await;

    scene.edit(|text| text + &section("another", &new));
    let answer = scene.reload().await;
    assert_eq!(answer.changes, [format!("router another: added ({})", new.address())]);
    assert_eq!((answer.applied, answer.routers), (true, 2));
    holds(&new, &["198.51.100.7"]).await;
    scene.post(vec![scene.offence(2, "198.51.100.8")]).await;
    holds(&new, &["198.51.100.7", "198.51.100.8"]).await;
    holds(scene.router(), &["198.51.100.7", "198.51.100.8"]).await;
    // In the order of their names.
    let names: Vec<_> = scene.service.routers().iter().map(|router| router.name().to_string()).collect();
    assert_eq!(names, ["another", "r0"]);
    let status = scene.status().await;
    assert_eq!((&status["routers"][1]["name"], &status["routers"][1]["sessions"]), (&json!("r0"), &json!(1)));
    // What is a router is never banned.
    let address = new.address().ip();
    assert!(scene.service.bans().allow().contains(address));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_removed_keeps_its_entries_and_is_told_nothing_more() {
    let scene = Scene::with(routers(2).await, "").await;
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    for router in &scene.routers {
        holds(router, &["198.51.100.7"]).await;
    }
    scene.edit(|text| text.split("[router.r1]").next().unwrap().to_owned());
    let answer = scene.reload().await;
    let [line] = &answer.changes[..] else { panic!("{answer:?}") };
    assert!(line.starts_with("router r1: removed ("), "{line}");
    assert!(line.contains("its entries stay there until each expires by itself"), "{line}");
    // What is printed for the router's terminal removes them.
    let command = line.split("removes them now: ").nth(1).unwrap().split(';').next().unwrap();
    let word = scene::word(&scene.router().entries(Family::V4)[0]);
    let expected =
        format!("/ip firewall address-list remove [find list=\"spammer\" comment~\"^atalaya:( |{word}: )\"]");
    assert_eq!(command, expected);
    scene.post(vec![scene.offence(2, "198.51.100.8")]).await;
    holds(&scene.routers[0], &["198.51.100.7", "198.51.100.8"]).await;
    let gone = &scene.routers[1];
    let until = tokio::time::Instant::now() + PATIENCE;
    while gone.session_count() > 0 {
        assert!(tokio::time::Instant::now() < until, "its session stays");
        tokio::task::yield_now().await;
    }
    holds(gone, &["198.51.100.7"]).await;
    assert_eq!(scene.service.routers()[0].status().sessions, 1);
    assert_eq!(scene.status().await["routers"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_marks_comments_and_bounds_are_taken_up_in_the_session() {
    let scene = Scene::new().await;
    scene.post((1..=3).map(|number| scene.offence(number, &attacker(number as u32))).collect()).await;
    holds(scene.router(), &[&attacker(1), &attacker(2), &attacker(3)]).await;
    connected(&scene, 0).await;

    // The comment and the mark: the entries are changed, not made anew.
    let adds = scene.router().counts().adds;
    scene.edit(|text| text + "[list]\nmark = \"guard\"\ncomment = \"{jail}!\"\n");
    let answer = scene.reload().await;
    assert_eq!(
        answer.changes,
        ["list: mark atalaya → guard", "list: comment \"{jail} from {sensor}\" → \"{jail}!\""]
    );
    scene
        .holds(|entries| {
            entries.iter().all(|entry| entry.comment == format!("guard:{}: ssh!", scene::word(entry)))
        })
        .await;
    assert_eq!(scene.router().counts().adds, adds);

    // Another list: what is on the one before stays to expire.
    scene.edit(|text| text + "name = \"attackers\"\n");
    let answer = scene.reload().await;
    assert!(
        answer.changes.contains(&"router r0: list spammer → attackers; entries on spammer expire by themselves, and `atalaya-enforcer tidy r0` removes them now".to_owned()),
        "{answer:?}"
    );
    scene.holds(|entries| entries.iter().filter(|entry| entry.list == "attackers").count() == 3).await;
    assert_eq!(scene.entries().iter().filter(|entry| entry.list == "spammer").count(), 3);
    assert_eq!(scene.status().await["list"], "attackers");

    // No more than one entry, then none of these jails, then nothing at all.
    let router = |line: &str| {
        let line = format!("\"secret\"\n{line}\n");
        move |text: String| text.replacen("\"secret\"\n", &line, 1)
    };
    scene.edit(router("max_entries = 2"));
    assert_eq!(scene.reload().await.changes, ["router r0: max_entries what its memory allows → 2"]);
    scene.holds(|entries| entries.iter().filter(|entry| entry.list == "attackers").count() == 2).await;
    scene.edit(router("jails = [\"smtp\"]"));
    assert_eq!(scene.reload().await.changes, ["router r0: jails all → smtp"]);
    scene.holds(|entries| !entries.iter().any(|entry| entry.list == "attackers")).await;
    scene.edit(|text| text.replace("jails = [\"smtp\"]\n", "read_only = true\n"));
    let answer = scene.reload().await;
    assert_eq!(answer.changes, ["router r0: jails smtp → all", "router r0: read_only false → true"]);
    let status = shows(&scene, 0, |status| status.withheld > 0 && status.state == State::Connected).await;
    assert!(status.read_only);
    assert!(!scene.entries().iter().any(|entry| entry.list == "attackers"));
    assert_eq!(status.sessions, 1, "none of these needs a new session");
    assert_eq!(scene.router().counts().logins, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_password_is_a_new_login_on_this_router_alone() {
    let mut both = routers(1).await;
    both.push(Router::builder().password("other").start().await.unwrap());
    let scene = Scene::with(both, "").await;
    connected(&scene, 0).await;
    shows(&scene, 1, |status| status.last_error.is_some()).await;
    // A wrong password is otherwise not tried again for a while.
    scene.edit(|text| {
        let (first, second) = text.split_once("[router.r1]").unwrap();
        format!("{first}[router.r1]{}", second.replace("secret", "other"))
    });
    let answer = scene.reload().await;
    assert_eq!(answer.changes, ["router r1: another password", "router r1: logs in anew"]);
    let status = connected(&scene, 1).await;
    assert_eq!((status.sessions, scene.service.routers()[0].status().sessions), (1, 1));
    assert!(!format!("{answer:?}").contains("other\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_is_another_router_for_the_same_worker() {
    let scene = Scene::new().await;
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    holds(scene.router(), &["198.51.100.7"]).await;
    let moved = Router::builder().start().await.unwrap();
    let (before, after) = (scene.router().address().to_string(), moved.address().to_string());
    scene.edit(|text| text.replace(&before, &after));
    let answer = scene.reload().await;
    assert_eq!(
        answer.changes,
        [format!("router r0: address {before} → {after}"), "router r0: logs in anew".to_owned()]
    );
    holds(&moved, &["198.51.100.7"]).await;
    let status = connected(&scene, 0).await;
    assert_eq!((status.address, status.sessions), (after, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_anywhere_leaves_everything_as_it_was() {
    let scene = Scene::new().await;
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    holds(scene.router(), &["198.51.100.7"]).await;
    let good = std::fs::read_to_string(scene.folder.path().join("enforcer.toml")).unwrap();
    for mistake in ["[router.r2]\naddress = \"192.0.2.1\"\n", "[lits]\n", "[history]\nkeep = \"x\"\n"] {
        scene.edit(|_| format!("allow = [\"198.51.100.0/24\"]\n{good}{mistake}"));
        let message = scene.refused().await;
        let path = scene.folder.path().join("enforcer.toml");
        assert!(message.starts_with(&format!("{}:", path.display())), "{message}");
        assert_eq!(scene.service.routers().len(), 1);
        assert!(!scene.service.bans().allow().contains("198.51.100.7".parse().unwrap()));
    }
    let (status, text) = scene.command(Method::POST, "reload", Some(json!({}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text.contains("; the enforcer runs on as before"), "{text}");

    // A key that does not belong to its certificate is a mistake too.
    scene.edit(|_| format!("allow = [\"198.51.100.0/24\"]\n{good}"));
    let state = scene.folder.path().join("state");
    let other = tempfile::tempdir().unwrap();
    atalaya_enforcer::tls::Identity::load_or_make(other.path(), || true).unwrap();
    std::fs::copy(other.path().join("key.pem"), state.join("key.pem")).unwrap();
    assert!(scene.refused().await.contains("is not the key of"));
    std::fs::remove_file(state.join("key.pem")).unwrap();
    assert!(scene.refused().await.contains("key.pem"));
    assert!(!scene.service.bans().allow().contains("198.51.100.7".parse().unwrap()));
    holds(scene.router(), &["198.51.100.7"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let scene = Scene::new().await;
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    holds(scene.router(), &["198.51.100.7"]).await;
    scene.edit(|text| format!("allow = [\"198.51.100.7\"]\n{}", text.split("[router.r0]").next().unwrap()));
    let dry = ReloadRequest { dry_run: true, ..ReloadRequest::default() };
    let would = in_time(scene.service.reload(dry)).await.unwrap();
    assert!(!would.applied && would.changes.len() == 2, "{would:?}");
    assert_eq!(scene.service.routers().len(), 1);
    holds(scene.router(), &["198.51.100.7"]).await;
    assert!(!scene.service.bans().allow().contains("198.51.100.7".parse().unwrap()));
    let done = scene.reload().await;
    assert_eq!((done.changes, done.lifted), (would.changes, 1));
    assert_eq!(scene.reload().await.changes, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_of_what_is_allowed_now_are_lifted_and_what_is_allowed_no_longer_is_banned_again() {
    let scene = Scene::with(routers(1).await, "allow = [\"203.0.113.0/24\"]").await;
    scene.post(vec![scene.offence(1, "198.51.100.7"), scene.offence(2, "203.0.113.7")]).await;
    holds(scene.router(), &["198.51.100.7"]).await;
    scene.edit(|text| text.replace("203.0.113.0/24", "198.51.100.7\", \"admin.example.org"));
    let answer = scene.reload().await;
    let lines = ["allow: + 198.51.100.7", "allow: + admin.example.org", "allow: - 203.0.113.0/24"];
    assert_eq!((answer.changes, answer.lifted), (lines.map(str::to_owned).to_vec(), 1));
    holds(scene.router(), &[]).await;
    assert!(scene.service.bans().allowed_names().contains("admin.example.org"));
    let sensor = scene.allow().await.to_string();
    assert!(sensor.contains("198.51.100.7") && !sensor.contains("203.0.113.0/24"), "{sensor}");
    scene.post(vec![scene.offence(3, "198.51.100.7"), scene.offence(4, "203.0.113.7")]).await;
    holds(scene.router(), &["203.0.113.7"]).await;
    scene.ledger_shows(|bans| bans.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_widened_and_narrowed_as_a_restart_would_and_no_address_is_free_in_between() {
    let scene = Scene::new().await;
    let addresses: Vec<String> = (1..=4).map(|host| format!("198.51.100.{host}")).collect();
    let offences = (1..).zip(&addresses).map(|(number, address)| scene.offence(number, address));
    scene.post(offences.collect()).await;
    let single: Vec<&str> = addresses.iter().map(String::as_str).collect();
    holds(scene.router(), &single).await;
    scene.edit(|text| text.replace("ipv4 = 0", "ipv4 = 3"));
    assert_eq!(scene.reload().await.changes, ["widen: ipv4 0 (never) → 3"]);
    holds(scene.router(), &["198.51.100.0/24"]).await;
    assert_eq!(scene.bans().await.len(), 4);
    scene.edit(|text| text.replace("ipv4 = 3", "ipv4 = 5"));
    scene.reload().await;
    holds(scene.router(), &single).await;
    let journal = scene.router().journal();
    let first_remove =
        |path: &str| journal.iter().position(|record| record.words[0].ends_with(path)).unwrap();
    assert!(first_remove("/add") < first_remove("/remove"));
    scene.post(vec![scene.offence(5, "198.51.100.5")]).await;
    holds(scene.router(), &["198.51.100.0/24"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn severities_and_escalation_hold_for_bans_of_before_and_after() {
    let scene = Scene::new().await;
    scene.edit(|text| text.replacen("\"secret\"\n", "\"secret\"\nseverity = \"high\"\n", 1));
    scene.reload().await;
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    connected(&scene, 0).await;
    holds(scene.router(), &[]).await;
    scene.edit(|text| {
        text + "[severity]\nssh = \"high\"\n[escalation]\nmultipliers = [2, 4]\noverall = true\n"
    });
    let answer = scene.reload().await;
    assert_eq!(answer.changes, ["severity: ssh medium → high", "escalation: none → times 2, 4; overall"]);
    holds(scene.router(), &["198.51.100.7"]).await;
    // The second ban grows with the first.
    scene.command(Method::DELETE, "bans?prefix=198.51.100.7/32", None).await;
    holds(scene.router(), &[]).await;
    scene.post(vec![scene.offence(2, "198.51.100.7")]).await;
    let left = scene.banned("198.51.100.7").await.timeout_left.unwrap().as_secs();
    assert!((7190..=7200).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_jail_goes_on_with_what_it_counted_and_a_new_one_begins() {
    use atalaya_wire::{Failures, Report, VERSION};
    let scene = Scene::with(routers(1).await, "[fleet.everywhere]\nmaxretry = 3").await;
    let report = |sequence, count| Report {
        version: VERSION,
        outbox: "o1".parse().unwrap(),
        sequence,
        sent: scene.clock.now(),
        failures: vec![Failures {
            jail: "ssh".parse().unwrap(),
            address: "198.51.100.7".parse().unwrap(),
            count,
            last: scene.clock.now(),
        }],
        logins: Vec::new(),
    };
    assert_eq!(scene.report(&report(1, 2), &scene.token).await, StatusCode::OK);
    scene.edit(|text| text + "[fleet.new]\nmaxretry = 2\n[fleet.smtp-only]\njails = [\"smtp\"]\n");
    let answer = scene.reload().await;
    assert_eq!(answer.changes, ["fleet.new: added", "fleet.smtp-only: added"]);
    assert_eq!(scene.report(&report(2, 1), &scene.token).await, StatusCode::OK);
    scene.banned("198.51.100.7").await;
    scene.ledger_shows(|bans| bans.len() == 1 && bans[0]["jail"] == "everywhere").await;
    scene.edit(|text| text.replace("[fleet.everywhere]\nmaxretry = 3", ""));
    let answer = scene.reload().await;
    assert_eq!(answer.changes, ["fleet.everywhere: removed; its bans stand until they end"]);
    assert_eq!(scene.bans().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named_each_time_and_the_rest_is_taken_up() {
    let scene = Scene::new().await;
    scene.edit(|text| {
        text.replace("127.0.0.1:0", "127.0.0.1:9").replace("/state\"", "/elsewhere\"")
            + "[history]\nkeep = \"60d\"\nmax_megabytes = 20\n"
    });
    for changes in [2, 0] {
        let answer = scene.reload().await;
        assert_eq!(answer.changes.len(), changes, "{answer:?}");
        assert_eq!(
            answer.unchanged[0],
            "listen: 127.0.0.1:9 needs a restart of the enforcer; until then it stays 127.0.0.1:0"
        );
        assert!(answer.unchanged[1].starts_with("state: ") && answer.unchanged.len() == 2, "{answer:?}");
    }
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    assert_eq!(scene.bans().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_waits_until_it_is_said_that_sensors_may_be_locked_out() {
    let scene = Scene::new().await;
    let before = scene.service.fingerprint();
    let other = tempfile::tempdir().unwrap();
    let new = atalaya_enforcer::tls::Identity::load_or_make(other.path(), || true).unwrap().fingerprint();
    for file in ["certificate.pem", "key.pem"] {
        std::fs::copy(other.path().join(file), scene.folder.path().join("state").join(file)).unwrap();
    }
    let mut stream = scene.stream().await;
    scene.edit(|text| format!("allow = [\"203.0.113.1\"]\n{text}"));
    let answer = scene.reload().await;
    assert_eq!(answer.changes, ["allow: + 203.0.113.1"]);
    assert!(
        answer.unchanged[0]
            .contains("1 enrolled sensor pins the one before: with it none of them could connect"),
        "{answer:?}"
    );
    assert_eq!(scene.service.fingerprint(), before);

    let request = ReloadRequest { new_certificate: true, ..ReloadRequest::default() };
    let answer = in_time(scene.service.reload(request)).await.unwrap();
    assert!(answer.changes[0].starts_with(&format!("certificate: {before} → {new}; 1 enrolled sensor pins")));
    assert_eq!(scene.service.fingerprint(), new);
    // Who is connected stays; who comes anew sees the new one.
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    stream.until("198.51.100.7").await;
    let tls = atalaya_enforcer::router::pin::Pin::new(before).client().unwrap();
    let stranger = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    assert!(stranger.get(scene.url("/")).send().await.is_err());
    let tls = atalaya_enforcer::router::pin::Pin::new(new).client().unwrap();
    let joined = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
    assert!(joined.get(scene.url("/")).send().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn offences_streams_and_sessions_go_on_while_the_configuration_is_reloaded_over_and_over() {
    const POSTS: u32 = 60;
    let scene = Scene::with(routers(2).await, "").await;
    let mut stream = scene.stream().await;
    let good = std::fs::read_to_string(scene.folder.path().join("enforcer.toml")).unwrap();
    let clock = &scene.clock;
    let post = |number: u32| {
        let sequence = |place: u32| u64::from(number * 10 + place);
        let one = |place| offence(sequence(place), &attacker(number * 10 + place), clock.now());
        batch((1..=10).map(one).collect())
    };
    let posting = async {
        for number in 0..POSTS {
            let post: Batch = post(number);
            scene.try_post(&post).await.unwrap();
        }
    };
    let reloading = async {
        for round in 0..20 {
            let more = match round % 4 {
                0 => "[list]\ncomment = \"{jail}\"\n",
                1 => "[severity]\nssh = \"high\"\n",
                2 => "[fleet.one]\nmaxretry = 1000\n",
                _ => "",
            };
            let text = good.replace("ipv4 = 0", &format!("ipv4 = {}", [0, 2, 100][round % 3]));
            scene.edit(|_| format!("allow = [\"203.0.113.{round}\"]\n{text}{more}"));
            scene.reload().await;
        }
        scene.edit(|_| good.clone());
        scene.reload().await;
    };
    in_time(async { tokio::join!(posting, reloading) }).await;
    let all = (POSTS * 10) as usize;
    assert_eq!(scene.bans().await.len(), all);
    for router in &scene.routers {
        let good = |entries: &[Entry]| {
            entries.len() == all
                && entries
                    .iter()
                    .all(|entry| entry.comment == format!("atalaya:{}: ssh from web-1", scene::word(entry)))
        };
        let held = router.wait_for(good, PATIENCE).await.is_ok();
        assert!(held, "{} entries: {:#?}", router.entry_count(Family::V4), router.entries(Family::V4).last());
        assert_eq!(router.counts().logins, 1);
    }
    scene.post(vec![scene.offence(10_000, "198.51.100.7")]).await;
    stream.until("198.51.100.7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_that_come_at_once_are_done_one_after_the_other() {
    let scene = Scene::new().await;
    scene.edit(|text| format!("allow = [\"203.0.113.1\"]\n{text}"));
    let reload = || scene.service.reload(ReloadRequest::default());
    let (one, two, three) = in_time(async { tokio::join!(reload(), reload(), reload()) }).await;
    let changes: usize = [one, two, three].into_iter().map(|answer| answer.unwrap().changes.len()).sum();
    assert_eq!(changes, 1, "what one took up, the others find taken up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_added_while_a_lost_ledger_is_gathered_again_gives_its_bans_too() {
    let scene = Scene::new().await;
    let new = Router::builder().start().await.unwrap();
    new.insert_foreign(Family::V4, "spammer", "198.51.100.9", "atalaya: ssh from web-1", None).unwrap();
    let database = scene.folder.path().join("state/ledger.sqlite3");
    let scene = scene
        .restart(async |routers, _| {
            // As after a loss, with a router that cannot be read for now.
            let ledger = rusqlite::Connection::open(database).unwrap();
            ledger
                .execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('recovering', 'yes')", [])
                .unwrap();
            routers[0].go_down().await;
        })
        .await;
    scene.edit(|text| text + &section("new", &new));
    scene.reload().await;
    scene.ledger_shows(|bans| bans.iter().any(|ban| ban["prefix"] == "198.51.100.9")).await;
    holds(&new, &["198.51.100.9"]).await;
    scene.router().come_up().await.unwrap();
    holds(scene.router(), &["198.51.100.9"]).await;
    // It ends once both were read: what no ban explains goes from then on.
    let database = scene.database();
    let count = "SELECT count(*) FROM meta WHERE key = 'recovering'";
    let until = tokio::time::Instant::now() + PATIENCE;
    while database.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() > 0 {
        assert!(tokio::time::Instant::now() < until, "it does not end");
        tokio::task::yield_now().await;
    }
}
