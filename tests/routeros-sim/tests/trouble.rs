//! Time, costs and faults: what a router does to its clients over hours and on bad days.

mod client;

use std::time::{Duration, Instant};

use client::{Client, PATIENCE, V4, V6, start};
use routeros_sim::{Clock, EventKind, Family, Fault, Router};
use tokio::sync::mpsc;

const ADD: &str = "/ip/firewall/address-list/add";

#[tokio::test]
async fn an_entry_lapses_at_its_second_and_not_before() {
    let (router, mut client) = start(Router::builder()).await;
    client.add(V4, "192.0.2.1", &["=timeout=30m"]).await;
    client.add(V6, "2001:db8::1", &["=timeout=31m"]).await;
    client.add(V4, "192.0.2.2", &[]).await;
    router.clock().advance(Duration::from_secs(1790));
    assert_eq!((router.entries(Family::V4).len(), router.entries(Family::V6).len()), (2, 1));
    router.clock().advance(Duration::from_secs(10));
    assert_eq!(client.print(V4, &["=count-only="]).await, ["!done =ret=1"]);
    assert_eq!(client.add(V4, "192.0.2.1", &["=timeout=30m"]).await, ["!done =ret=*3"]);
    router.clock().advance(Duration::from_mins(1));
    assert!(router.entries(Family::V6).is_empty());
    assert_eq!(router.counts().expired, 2);
}

#[tokio::test]
async fn a_lapse_is_told_when_it_happens_without_anybody_looking() {
    let clock = Clock::new();
    let (sender, mut events) = mpsc::channel(100);
    let (router, mut client) = start(Router::builder().clock(clock.clone()).events(sender)).await;
    client.add(V4, "192.0.2.1", &["=timeout=30m", "=comment=c"]).await;
    client.add(V4, "192.0.2.1", &["=timeout=30m"]).await;
    clock.advance(Duration::from_mins(30));
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap());
    }
    let kinds: Vec<EventKind> = told.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Login, EventKind::Add, EventKind::Duplicate, EventKind::Expire]);
    let entry = told[1].entry.as_ref().unwrap();
    assert_eq!((entry.address.as_str(), entry.timeout.as_deref()), ("192.0.2.1", Some("30m")));
    let lived = told[3].at.duration_since(told[1].at);
    assert!((lived.as_secs() - 1800).abs() <= 1, "{lived}");
    router.wait_for(<[_]>::is_empty, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_reboot_drops_sessions_and_dynamic_entries_and_nothing_else() {
    let (router, mut client) = start(Router::builder()).await;
    client.add(V4, "192.0.2.1", &["=timeout=30m"]).await;
    client.add(V4, "192.0.2.2", &["=dynamic=yes"]).await;
    client.add(V4, "192.0.2.3", &[]).await;
    router.clock().advance(Duration::from_hours(2));
    router.reboot().await;
    assert!(client.is_closed().await);
    let mut client = Client::login(router.address()).await;
    assert_eq!(client.print(V4, &["=.proplist=address"]).await, ["!re =address=192.0.2.3", "!done"]);
    let resource = client.ask(&["/system/resource/print", "=.proplist=uptime"]).await;
    assert!(!resource[0].contains('h'), "{resource:?}");
    assert_eq!(client.add(V4, "192.0.2.1", &[]).await, ["!done =ret=*4"], "ids are not used again");
}

#[tokio::test]
async fn a_router_that_is_down_refuses_and_comes_back_on_its_port_with_its_entries() {
    let (router, mut client) = start(Router::builder()).await;
    client.add(V4, "192.0.2.1", &["=timeout=30m"]).await;
    for _ in 0..3 {
        router.go_down().await;
        assert!(client.is_closed().await);
        assert!(tokio::net::TcpStream::connect(router.address()).await.is_err());
        router.clock().advance(Duration::from_mins(1));
        router.come_up().await.unwrap();
        client = Client::login(router.address()).await;
    }
    let rows = client.print(V4, &["=.proplist=timeout"]).await;
    assert!(rows[0].starts_with("!re =timeout=26m5") || rows[0] == "!re =timeout=27m", "{rows:?}");
}

#[tokio::test]
async fn a_lost_reply_leaves_the_entry_behind() {
    for (fault, answered) in [(Fault::DropReply, 0), (Fault::CloseMidReply, 0)] {
        let (router, mut client) = start(Router::builder()).await;
        router.inject(fault.clone(), ADD, 1);
        assert_eq!(client.add(V4, "192.0.2.1", &[]).await, ["!done =ret=*1"]);
        assert_eq!(client.add(V4, "192.0.2.2", &[".tag=1"]).await.len(), answered, "{fault:?}");
        assert_eq!(router.entries(Family::V4).len(), 2, "{fault:?}");
    }
}

#[tokio::test]
async fn a_print_can_break_off_in_the_middle() {
    let (router, mut client) = start(Router::builder()).await;
    for host in 0..100 {
        router.insert_foreign(Family::V4, "spammer", &format!("192.0.2.{host}"), "", None);
    }
    router.inject(Fault::CloseMidReply, "/ip/firewall/address-list/print", 0);
    let rows = client.print(V4, &[]).await;
    assert!((40..60).contains(&rows.len()), "{}", rows.len());
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_planned_trap_is_said_and_nothing_is_done() {
    let (router, mut client) = start(Router::builder()).await;
    let trap = Fault::Trap { message: "failure: out of memory".to_owned(), category: Some(4) };
    router.inject(trap, ADD, 0);
    assert_eq!(
        client.add(V4, "192.0.2.1", &[".tag=1"]).await,
        ["!trap .tag=1 =category=4 =message=failure: out of memory", "!done .tag=1"]
    );
    assert!(router.entries(Family::V4).is_empty());
}

#[tokio::test]
async fn a_command_can_meet_a_reboot() {
    let (router, mut client) = start(Router::builder()).await;
    client.add(V4, "192.0.2.1", &["=timeout=1h"]).await;
    router.inject(Fault::Reboot, ADD, 0);
    assert!(client.add(V4, "192.0.2.2", &[]).await.is_empty());
    assert!(router.entries(Family::V4).is_empty());
    Client::login(router.address()).await;
}

#[tokio::test]
async fn a_stalled_session_is_silent_until_it_is_resumed_and_others_go_on() {
    let (router, mut client) = start(Router::builder()).await;
    let mut other = Client::login(router.address()).await;
    router.inject(Fault::Stall, ADD, 0);
    client.send(&[ADD, "=list=spammer", "=address=192.0.2.1", ".tag=1"]).await;
    client.send(&[ADD, "=list=spammer", "=address=192.0.2.2", ".tag=2"]).await;
    let stalled = |router: &Router| {
        router.journal().iter().any(|record| record.words.last().is_some_and(|word| word == ".tag=1"))
    };
    while !stalled(&router) {
        tokio::task::yield_now().await;
    }
    assert_eq!(other.add(V4, "192.0.2.3", &[]).await, ["!done =ret=*1"]);
    assert_eq!(router.entries(Family::V4).len(), 1);
    router.resume();
    assert_eq!(client.next().await.as_deref(), Some("!done .tag=2 =ret=*2"));
}

/// Lower bounds only: how much later a timer fires is the machine's affair, not the simulator's.
#[tokio::test]
async fn a_round_trip_delays_each_reply_and_a_hundred_together_cost_no_more_than_one() {
    let trip = Duration::from_millis(200);
    let (_router, mut client) = start(Router::builder().round_trip(trip)).await;
    let commands: Vec<Vec<String>> = (0..100)
        .map(|host| vec![ADD.to_owned(), "=list=spammer".to_owned(), format!("=address=192.0.2.{host}")])
        .collect();
    let words: Vec<Vec<&str>> =
        commands.iter().map(|words| words.iter().map(String::as_str).collect()).collect();
    let words: Vec<&[&str]> = words.iter().map(Vec::as_slice).collect();
    let started = Instant::now();
    client.send_all(&words).await;
    client.next().await.unwrap();
    assert!(started.elapsed() >= trip);
    for _ in 1..100 {
        client.next().await.unwrap();
    }
    assert!(started.elapsed() < 10 * trip, "{:?} for 100 replies", started.elapsed());
}

#[tokio::test]
async fn sessions_share_one_processor() {
    let insert = Duration::from_millis(10);
    let (router, mut one) = start(Router::builder().insert_cost(insert)).await;
    let mut two = Client::login(router.address()).await;
    let started = Instant::now();
    for host in 0..10 {
        let (first, second) = (format!("192.0.2.{host}"), format!("192.0.3.{host}"));
        tokio::join!(one.add(V4, &first, &[]), two.add(V4, &second, &[]));
    }
    assert!(started.elapsed() >= 20 * insert, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_print_costs_by_the_size_of_the_table_and_not_by_what_it_finds() {
    let (router, mut client) = start(Router::builder().scan_cost_per_entry(Duration::from_millis(1))).await;
    for host in 0..200 {
        router.insert_foreign(Family::V4, "spammer", &format!("192.0.2.{host}"), "", None);
    }
    let started = Instant::now();
    client.print(V4, &["?address=192.0.2.1", "=.proplist=.id"]).await;
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_administrator_sees_and_changes_what_is_there() {
    let (router, mut client) = start(Router::builder()).await;
    let id = router.insert_foreign(Family::V4, "white", "10.0.0.1/8", "mine", None).unwrap();
    assert!(router.insert_foreign(Family::V4, "white", "10.0.0.0/8", "again", None).is_none());
    router.edit_comment(Family::V4, &id, "edited").unwrap();
    router.edit_disabled(Family::V4, &id, true).unwrap();
    let rows = client.print(V4, &["=.proplist=address,disabled,comment"]).await;
    assert_eq!(rows[0], "!re =address=10.0.0.0/8 =disabled=true =comment=edited");
    router.edit_timeout(Family::V4, &id, Duration::from_mins(1)).unwrap();
    assert!(router.entries(Family::V4)[0].dynamic);
    assert!(router.remove_entry(Family::V4, &id) && !router.remove_entry(Family::V4, &id));
    assert!(router.wait_for(|entries| !entries.is_empty(), Duration::ZERO).await.is_err());
}
