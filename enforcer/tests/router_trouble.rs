//! Routers that are away, reboot, stall, hang up, lose replies and refuse commands: the bans stand.

mod stage;

use std::sync::Arc;
use std::time::Duration;

use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::desired::{Desired, Label, Moment, Wanted};
use atalaya_enforcer::router::{self, Password, RouterConfig, State};
use routeros_sim::sentence::{Decoder, Sentence};
use routeros_sim::{Family, Fault, Router};
use stage::{PATIENCE, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const ADD: &str = "/ip/firewall/address-list/add";

#[tokio::test]
async fn a_router_that_comes_back_after_ten_minutes_gets_what_is_left() {
    let stage = Stage::new().await;
    stage.router.go_down().await;
    stage.shows(|status| !status.is_up()).await;
    stage.ban("192.0.2.1", 1800);
    stage.ban("192.0.2.2", 300);
    stage.advance(600);
    stage.router.come_up().await.unwrap();
    stage.has_left("192.0.2.1", 1200).await;
    stage.is(State::Connected).await;
    stage.comes_to_rest().await;
    stage.holds(&["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_reconnect_adds_nothing_that_is_there_and_leaves_timeouts_alone() {
    let stage = Stage::new().await;
    stage.ban("192.0.2.1", 1800);
    stage.ban("2001:db8::1", 1800);
    stage.holds(&["192.0.2.1", "2001:db8::1/128"]).await;
    stage.router.go_down().await;
    stage.shows(|status| !status.is_up()).await;
    stage.advance(601);
    stage.router.come_up().await.unwrap();
    stage.shows(|status| status.sessions == 2 && status.state == State::Connected).await;
    stage.comes_to_rest().await;
    let counts = stage.router.counts();
    assert_eq!((counts.adds, counts.sets, counts.duplicates), (3, 0, 0));
}

#[tokio::test]
async fn a_rebooted_router_gets_its_entries_back() {
    let stage = Stage::new().await;
    stage.ban("192.0.2.1", 1800);
    stage.ban_forever("2001:db8::1");
    stage.holds(&["192.0.2.1", "2001:db8::1/128"]).await;
    stage.advance(60);
    stage.router.reboot().await;
    stage.shows(|status| status.sessions == 2).await;
    stage.holds(&["192.0.2.1", "2001:db8::1/128"]).await;
    stage.has_left("192.0.2.1", 1740).await;
}

#[tokio::test]
async fn an_entry_that_someone_deleted_returns_at_the_reconciliation() {
    let stage = Stage::with(Router::builder(), |config| {
        config.reconcile_every = Duration::from_millis(100);
    })
    .await;
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    stage.shows(|status| status.counts.adds == 1).await;
    let id = stage.entry("192.0.2.1").id;
    assert!(stage.router.remove_entry(Family::V4, &id));
    stage.holds(&["192.0.2.1"]).await;
    assert_ne!(stage.entry("192.0.2.1").id, id);
}

#[tokio::test]
async fn an_add_whose_reply_was_lost_is_one_entry_and_can_be_lifted() {
    for fault in [Fault::DropReply, Fault::CloseMidReply] {
        let stage = Stage::new().await;
        stage.router.inject(fault, ADD, 0);
        stage.ban("192.0.2.1", 1800);
        stage.shows(|status| status.sessions == 2 && status.state == State::Connected).await;
        stage.comes_to_rest().await;
        stage.holds(&["192.0.2.1"]).await;
        let counts = stage.worker.status().counts;
        // Sent again before the list is read; what is there already is no error.
        assert_eq!((counts.duplicates, counts.traps), (1, 0));
        stage.unban("192.0.2.1");
        stage.holds(&[]).await;
    }
}

#[tokio::test]
async fn a_router_that_hangs_up_while_it_prints_is_read_anew() {
    let router = Router::builder().start().await.unwrap();
    for number in 0..1000 {
        let address = format!("10.0.{}.{}", number / 250, number % 250);
        router.insert_foreign(Family::V4, "spammer", &address, "by hand", None);
    }
    router.inject(Fault::CloseMidReply, "/ip/firewall/address-list/print", 0);
    let stage = Stage::raise(router, Desired::new(), |_| {});
    stage.shows(|status| status.sessions == 2 && status.state == State::Connected).await;
    assert_eq!(stage.worker.status().foreign, 1000);
}

#[tokio::test]
async fn a_router_that_falls_silent_is_left_after_its_deadline() {
    let stage = Stage::with(Router::builder(), |config| {
        config.deadlines.answer = Duration::from_millis(100);
    })
    .await;
    stage.router.inject(Fault::Stall, ADD, 0);
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    let status = stage.shows(|status| status.sessions == 2).await;
    assert!(status.last_error.unwrap().text.contains("silent"));
}

#[tokio::test]
async fn a_silent_idle_router_is_found_out_by_the_keepalive() {
    let stage = Stage::with(Router::builder(), |config| {
        config.deadlines.answer = Duration::from_millis(100);
        config.deadlines.keepalive = Duration::from_millis(100);
    })
    .await;
    stage.router.inject(Fault::Stall, "/system/resource/print", 0);
    let status = stage.shows(|status| status.sessions == 2).await;
    assert!(status.last_error.unwrap().text.contains("silent"));
}

#[tokio::test]
async fn a_dead_router_does_not_delay_the_other() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dead.local_addr().unwrap().to_string().parse().unwrap();
    let config = RouterConfig::new("dead".parse().unwrap(), address, "atalaya", Password::new("x"));
    let stage = Stage::new().await;
    let dead =
        router::spawn(config, Arc::clone(&stage.desired), stage.clock.clone(), stage.stop.clone(), None);
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    // Its connection stands in the backlog of a listener that accepts nothing.
    assert_eq!(dead.status().state, State::Connecting);
    assert_eq!(stage.worker.status().last_error, None);
}

#[tokio::test]
async fn new_bans_do_not_wait_for_the_first_print() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let config = RouterConfig::new("slow".parse().unwrap(), address, "atalaya", Password::new("x"));
    let (desired, stop) = (Arc::new(Desired::new()), CancellationToken::new());
    let _worker = router::spawn(config, Arc::clone(&desired), Clock::system(), stop.clone(), None);
    // A router that answers the login and begins a print that it never ends.
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut decoder = Decoder::default();
    let heard = async {
        loop {
            while let Some(sentence) = decoder.take_sentence().unwrap() {
                let words: Vec<String> =
                    sentence.words().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
                if words[0] == "/login" {
                    let mut done = Vec::new();
                    Sentence::new(["!done", &words[1]]).encode(&mut done);
                    stream.write_all(&done).await.unwrap();
                } else if words[0].ends_with("/print") && words[0].starts_with("/ip/") {
                    desired.set(
                        stage::parse("192.0.2.1"),
                        Wanted { until: Moment::FOREVER, label: Label::test("x") },
                    );
                } else if words[0] == ADD {
                    return words;
                }
            }
            assert_ne!(stream.read_buf(decoder.buffer()).await.unwrap(), 0);
        }
    };
    let words = tokio::time::timeout(PATIENCE, heard).await.unwrap();
    assert!(words.contains(&"=address=192.0.2.1".to_owned()), "{words:?}");
}

#[tokio::test]
async fn a_refused_add_is_shown_and_sent_again_after_a_pause() {
    let stage = Stage::new().await;
    let message = "failure: out of memory".to_owned();
    stage.router.inject(Fault::Trap { message, category: Some(4) }, ADD, 0);
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    let status = stage.shows(|status| status.counts.adds == 1).await;
    assert_eq!((status.counts.traps, status.queued), (1, 0));
    let text = status.last_error.unwrap().text;
    assert!(text.contains("192.0.2.1") && text.contains("out of memory"), "{text}");
}

#[tokio::test]
async fn missing_rights_are_named_and_not_hammered() {
    let stage = Stage::with(Router::builder().policies(&["read", "api"]), |config| {
        config.deadlines.refused_pause = Duration::from_hours(1);
    })
    .await;
    for number in 0..200 {
        stage.ban(&format!("192.0.2.{number}"), 1800);
    }
    let status = stage.shows(|status| status.counts.traps == 200).await;
    assert_eq!(status.queued, 200);
    let text = status.last_error.unwrap().text;
    assert!(text.contains("not enough permissions (9)") && text.contains("write"), "{text}");
}

#[tokio::test]
async fn without_the_right_to_read_the_session_ends_with_what_is_missing() {
    let router = Router::builder().policies(&["write", "api"]).start().await.unwrap();
    let stage = Stage::raise(router, Desired::new(), |_| {});
    let status = stage.shows(|status| status.last_error.is_some()).await;
    let text = status.last_error.unwrap().text;
    assert!(text.contains("/ip/firewall/address-list/print") && text.contains("permissions"), "{text}");
}

#[tokio::test]
async fn a_router_without_ipv6_gets_its_ipv4_bans() {
    let router = Router::builder().start().await.unwrap();
    let message = "no such command prefix".to_owned();
    router.inject(Fault::Trap { message, category: Some(0) }, "/ipv6/firewall/address-list/print", 0);
    let stage = Stage::raise(router, Desired::new(), |_| {});
    stage.is(State::Connected).await;
    stage.ban("2001:db8::1", 1800);
    stage.ban("192.0.2.1", 1800);
    stage.comes_to_rest().await;
    stage.holds(&["192.0.2.1"]).await;
    assert!(stage.worker.status().last_error.unwrap().text.contains("IPv6"));
}

#[tokio::test]
async fn an_ipv6_list_that_is_not_told_once_is_asked_for_again_and_its_bans_go_out_meanwhile() {
    let router = Router::builder().start().await.unwrap();
    let message = "failure: out of memory".to_owned();
    router.inject(Fault::Trap { message, category: None }, "/ipv6/firewall/address-list/print", 0);
    let desired = Desired::new();
    let forever = Wanted { until: Moment::FOREVER, label: Label::test("x") };
    desired.set(stage::parse("2001:db8::1"), forever);
    let stage = Stage::raise(router, desired, |config| {
        config.deadlines.refused_pause = Duration::from_millis(200);
    });
    stage.holds(&["2001:db8::1/128"]).await;
    stage.shows(|status| status.state == State::Connected && status.counts.prints == 2).await;
    let status = stage.worker.status();
    let text = status.last_error.unwrap().text;
    assert!(
        text.starts_with("the IPv6 address list was not told: failure: out of memory; asked for again"),
        "{text}"
    );
    assert_eq!((status.sessions, status.ours), (1, 1));
}

#[tokio::test]
async fn ipv6_is_left_alone_where_it_is_switched_off() {
    let stage = Stage::with(Router::builder(), |config| config.ipv6 = false).await;
    stage.ban("2001:db8::1", 1800);
    stage.ban("192.0.2.1", 1800);
    stage.comes_to_rest().await;
    stage.holds(&["192.0.2.1"]).await;
    assert_eq!(stage.router.counts().prints, 1);
}

#[tokio::test]
async fn what_is_in_flight_is_finished_when_the_service_stops() {
    let stage = Stage::with(Router::builder().round_trip(Duration::from_millis(50)), |_| {}).await;
    let watch = stage.worker.watch();
    for number in 0..100 {
        stage.ban(&format!("192.0.2.{number}"), 1800);
    }
    stage.stop.cancel();
    tokio::time::timeout(PATIENCE, stage.worker.stopped()).await.unwrap();
    assert_eq!(watch.borrow().state, State::Stopped);
    assert_eq!(stage.router.entries(Family::V4).len(), 100);
}

#[tokio::test]
async fn a_worker_that_cannot_connect_stops_at_once() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dead.local_addr().unwrap().to_string().parse().unwrap();
    let config = RouterConfig::new("dead".parse().unwrap(), address, "atalaya", Password::new("x"));
    let (desired, stop) = (Arc::new(Desired::new()), CancellationToken::new());
    desired.set(stage::parse("192.0.2.1"), Wanted { until: Moment::FOREVER, label: Label::test("x") });
    let worker = router::spawn(config, desired, Clock::system(), stop.clone(), None);
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(2), worker.stopped()).await.unwrap();
}

#[tokio::test]
async fn a_router_that_is_silent_over_its_routes_is_asked_for_them_twice_and_then_holds_its_bans() {
    let stage = Stage::with(Router::builder(), |config| {
        config.deadlines.answer = Duration::from_millis(500);
        // Its list may be asked for just then.
        config.deadlines.scan = Duration::from_millis(500);
    })
    .await;
    for _ in 0..4 {
        stage.router.inject(Fault::Stall, "/ip/route/print", 0);
    }
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    stage.shows(|status| status.sessions >= 3 && status.state == State::Connected).await;
    assert_eq!(stage.router.faults_to_come(), 2);
}
