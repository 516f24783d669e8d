//! Large tables, prints that come late or never, and answers that are swallowed: no ban waits for ever.

#![allow(clippy::unwrap_used, reason = "tests")]

mod stage;

use std::time::Duration;

use atalaya_enforcer::desired::Desired;
use atalaya_enforcer::router::{RouterConfig, State};
use routeros_sim::{Costs, Family, Fault, Router};
use stage::{PATIENCE, Stage};

const ADD: &str = "/ip/firewall/address-list/add";
const PRINT: &str = "/ip/firewall/address-list/print";

/// A router that scans its table for this long before it tells a row.
async fn scanning(scan: Duration) -> Router {
    const ENTRIES: u32 = 1000;
    let router = Router::builder().start().await.unwrap();
    for number in 0..ENTRIES {
        let address = std::net::Ipv4Addr::from(0x0B00_0000 + number).to_string();
        router.insert_foreign(Family::V4, "geoblock", &address, "", None).unwrap();
    }
    router.set_costs(Costs { scan_per_entry: scan / ENTRIES, ..Costs::default() });
    router
}

/// Deadlines far shorter than those in use.
fn hasty(config: &mut RouterConfig) {
    config.deadlines.overtaken = Duration::from_millis(300);
    config.deadlines.idle = Duration::from_millis(400);
    config.deadlines.answer = Duration::from_millis(1500);
    config.deadlines.keepalive = Duration::from_millis(50);
    config.deadlines.scan = Duration::from_secs(10);
}

fn paths(router: &Router) -> Vec<String> {
    router.journal().iter().map(|record| record.words[0].clone()).collect()
}

#[tokio::test]
async fn a_scan_longer_than_every_deadline_for_an_answer_does_not_end_the_session() {
    let router = scanning(Duration::from_millis(2500)).await;
    let stage = Stage::raise(router, Desired::new(), hasty);
    stage.ban("192.0.2.1", 1800);
    stage.is(State::Connected).await;
    stage.holds_beside_strangers("192.0.2.1").await;
    let status = stage.worker.status();
    assert_eq!((status.sessions, status.last_error, status.foreign), (1, None, 0));
}

#[tokio::test]
async fn a_reading_tells_how_far_it_is_and_how_far_the_last_one_came() {
    let router = Router::builder().start().await.unwrap();
    for number in 0..5 {
        router.insert_foreign(Family::V4, "spammer", &format!("192.0.2.{number}"), "by hand", None).unwrap();
    }
    let stage = Stage::raise(router, Desired::new(), |config| {
        config.reconcile_every = Duration::from_millis(50);
    });
    stage.shows(|status| status.ipv4 == atalaya_enforcer::router::pipeline::Table::Known).await;
    stage.router.set_costs(Costs { scan_per_entry: Duration::from_millis(50), ..Costs::default() });
    let status = stage.shows(|status| status.reading.is_some_and(|reading| reading.before.is_some())).await;
    let reading = status.reading.unwrap();
    assert_eq!((reading.family, reading.before), (atalaya_enforcer::prefixes::Family::V4, Some(5)));
    assert!(reading.since <= stage.clock.now() && reading.rows <= 5);
}

#[tokio::test]
async fn scans_too_long_for_the_deadline_are_given_longer_each_time() {
    let router = scanning(Duration::from_millis(900)).await;
    let stage = Stage::raise(router, Desired::new(), |config| {
        hasty(config);
        config.deadlines.scan = Duration::from_millis(200);
    });
    let status = stage.shows(|status| status.state == State::Connected).await;
    assert!(status.sessions > 1, "{status:?}");
    assert!(status.last_error.unwrap().text.contains("silent"));
}

#[tokio::test]
async fn where_no_reading_comes_to_its_end_the_next_session_sends_the_bans_first() {
    let router = scanning(Duration::from_millis(500)).await;
    let desired = Desired::new();
    let stage = Stage::raise(router, desired, |config| {
        hasty(config);
        config.deadlines.scan = Duration::from_millis(100);
    });
    // Known before the first session, so that only the reading brings it.
    stage.ban("192.0.2.1", 1800);
    stage.holds_beside_strangers("192.0.2.1").await;
    let paths = paths(&stage.router);
    let before = paths.iter().position(|path| path == ADD).unwrap();
    assert!(stage.worker.status().sessions > 1, "{paths:?} {before}");
}

#[tokio::test]
async fn what_was_banned_while_the_router_was_away_goes_before_its_list_is_read() {
    let stage = Stage::new().await;
    stage.router.go_down().await;
    stage.shows(|status| !status.is_up()).await;
    stage.ban("192.0.2.1", 1800);
    let before = paths(&stage.router).len();
    stage.router.come_up().await.unwrap();
    stage.is(State::Connected).await;
    let paths = paths(&stage.router);
    let place = |path: &str| paths[before..].iter().position(|one| one == path).unwrap();
    assert!(place(ADD) < place(PRINT), "{:?}", &paths[before..]);
}

#[tokio::test]
async fn an_add_whose_answer_is_swallowed_is_sent_again_in_the_same_session() {
    for applied in [false, true] {
        let stage = Stage::with(Router::builder(), hasty).await;
        stage.router.inject(Fault::Swallow { applied }, ADD, 0);
        stage.ban("192.0.2.1", 1800);
        let status = stage.shows(|status| status.counts.unanswered == 1).await;
        let text = status.last_error.unwrap().text;
        assert!(text.starts_with("no answer to the add of 192.0.2.1 within 0.3 s, while others"), "{text}");
        stage.shows(|status| status.in_flight == 0 && status.queued == 0 && status.ours == 1).await;
        stage.holds(&["192.0.2.1"]).await;
        assert_eq!(stage.worker.status().sessions, 1);
        stage.unban("192.0.2.1");
        stage.holds(&[]).await;
    }
}

#[tokio::test]
async fn a_swallowed_answer_is_missed_though_nothing_else_is_asked_of_the_router() {
    let stage = Stage::with(Router::builder(), |config| {
        config.deadlines.overtaken = Duration::from_millis(300);
        config.deadlines.idle = Duration::from_hours(1);
        config.deadlines.answer = Duration::from_hours(1);
        config.deadlines.keepalive = Duration::from_hours(1);
    })
    .await;
    stage.router.inject(Fault::Swallow { applied: false }, ADD, 0);
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    assert_eq!(stage.worker.status().counts.unanswered, 1);
}

#[tokio::test]
async fn a_router_that_answers_no_change_is_left_more_time_with_each_that_is_given_up() {
    let stage = Stage::with(Router::builder(), |config| {
        hasty(config);
        config.deadlines.overtaken = Duration::from_millis(100);
        config.deadlines.idle = Duration::from_hours(1);
    })
    .await;
    for _ in 0..4 {
        stage.router.inject(Fault::Swallow { applied: false }, ADD, 0);
    }
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    let text = stage.worker.status().last_error.unwrap().text;
    assert!(text.starts_with("no answer to the add of 192.0.2.1 within 0.8 s"), "{text}");
}

#[tokio::test]
async fn a_new_timeout_or_a_removal_whose_answer_is_swallowed_is_sent_again() {
    for applied in [false, true] {
        let stage = Stage::with(Router::builder(), hasty).await;
        stage.ban("192.0.2.1", 1800);
        stage.holds(&["192.0.2.1"]).await;
        stage.shows(|status| status.counts.adds == 1).await;
        stage.router.inject(Fault::Swallow { applied }, "/ip/firewall/address-list/set", 0);
        stage.ban("192.0.2.1", 3600);
        stage.shows(|status| status.counts.unanswered == 1 && status.counts.sets == 1).await;
        stage.has_left("192.0.2.1", 3600).await;
        stage.router.inject(Fault::Swallow { applied }, "/ip/firewall/address-list/remove", 0);
        stage.unban("192.0.2.1");
        stage.shows(|status| status.counts.unanswered == 2 && status.in_flight == 0).await;
        stage.holds(&[]).await;
    }
}

#[tokio::test]
async fn a_print_whose_answer_is_swallowed_is_sent_again_in_the_same_session() {
    let router = Router::builder().start().await.unwrap();
    router.inject(Fault::Swallow { applied: true }, PRINT, 0);
    let stage = Stage::raise(router, Desired::new(), hasty);
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    stage.is(State::Connected).await;
    let status = stage.worker.status();
    assert_eq!(status.sessions, 1);
    assert!(status.last_error.unwrap().text.contains("was not told to its end"));
}

#[tokio::test]
async fn a_keepalive_whose_answer_is_swallowed_is_asked_again() {
    let stage = Stage::with(Router::builder(), hasty).await;
    stage.router.inject(Fault::Swallow { applied: false }, "/system/resource/print", 0);
    let asked = |router: &Router| paths(router).iter().filter(|path| path.contains("resource")).count();
    let before = asked(&stage.router);
    // Something else is in flight, so that the session does not seem silent.
    let goes_on = async {
        while asked(&stage.router) < before + 3 {
            stage.ban("192.0.2.1", 1800);
            stage.holds(&["192.0.2.1"]).await;
            stage.unban("192.0.2.1");
            stage.holds(&[]).await;
        }
    };
    tokio::time::timeout(PATIENCE, goes_on).await.unwrap();
    assert_eq!(stage.worker.status().sessions, 1);
}

#[tokio::test]
async fn all_bans_go_out_beside_a_first_reading_that_does_not_end() {
    let router = Router::builder().start().await.unwrap();
    router.inject(Fault::Swallow { applied: true }, PRINT, 0);
    let desired = Desired::new();
    let forever = atalaya_enforcer::desired::Wanted {
        until: atalaya_enforcer::desired::Moment::FOREVER,
        label: atalaya_enforcer::desired::Label::test("x"),
    };
    desired.set(stage::parse("192.0.2.1"), forever);
    let stage = Stage::raise(router, desired, |config| {
        hasty(config);
        config.deadlines.idle = Duration::from_mins(1);
    });
    // It was banned before the session, and the print of that is lost.
    stage.holds(&["192.0.2.1"]).await;
    let status = stage.worker.status();
    assert_eq!((status.state, status.sessions, status.counts.prints), (State::Reading, 1, 0));
}
