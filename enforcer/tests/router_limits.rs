//! Many routers, each with its own lists, jails, severities and limits; small ones, slow ones, dead ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod stage;

use std::sync::Arc;
use std::time::Duration;

use atalaya_enforcer::clock::Clock;

use atalaya_enforcer::desired::{Desired, Label, Origin, Severity, Wanted};
use atalaya_enforcer::prefixes::Family as Table;
use atalaya_enforcer::router::{self, Holding, RouterHandle, State, plan};
use jiff::SignedDuration;
use routeros_sim::{Costs, Family, Fault, Router};
use stage::{PATIENCE, Stage};
use tokio_util::sync::CancellationToken;

fn ban(desired: &Desired, number: u32, seconds: i64, jail: &str, severity: Severity) {
    let label = Label {
        origin: Origin::Fleet { jail: jail.parse().unwrap() },
        severity,
        ..(*Label::test("x")).clone()
    };
    let until = Clock::system().now() + SignedDuration::from_secs(seconds);
    desired.set(stage::parse(&address(number)), Wanted { until: until.into(), label: Arc::new(label) });
}

fn address(number: u32) -> String {
    std::net::Ipv4Addr::from(0x0B00_0001 + number).to_string()
}

async fn all_quiet(worker: &RouterHandle) {
    let mut watch = worker.watch();
    let quiet = watch
        .wait_for(|status| status.state == State::Connected && status.queued == 0 && status.in_flight == 0);
    tokio::time::timeout(PATIENCE, quiet).await.expect("the worker comes to rest").unwrap();
}

#[tokio::test]
async fn a_hundred_thousand_bans_leave_a_small_router_its_limit_and_the_longest_of_them() {
    const LIMIT: usize = 2000;
    let desired = Desired::new();
    let until = |number: u32| Clock::system().now() + SignedDuration::from_secs(3600 + i64::from(number));
    let label = Label::test("x");
    desired.set_many((0..100_000).map(|number| {
        (stage::parse(&address(number)), Wanted { until: until(number).into(), label: label.clone() })
    }));
    let router = Router::builder().start().await.unwrap();
    let stage = Stage::raise(router, desired, |config| config.max_entries = Some(LIMIT));
    all_quiet(&stage.worker).await;
    let status = stage.worker.status();
    assert_eq!((status.desired, status.limit), (100_000, Some(LIMIT)));
    assert!(status.ours <= LIMIT && status.ours >= LIMIT - LIMIT / 32, "{status:#?}");
    assert_eq!(status.left_out + status.ours, 100_000);
    let held = stage.router.entries(Family::V4);
    assert_eq!(held.len(), status.ours);
    let shortest = held.iter().map(|entry| entry.timeout_left.unwrap().as_secs()).min().unwrap();
    assert!(shortest >= 3600 + 97_000, "one of {shortest} s is held");

    // Worth more than all of them: they go on, the worst go, and the limit holds all the while.
    for number in 200_000..200_200 {
        ban(&stage.desired, number, 10, "ssh", Severity::High);
    }
    let last = address(200_199);
    stage
        .router
        .wait_for(|entries| entries.iter().any(|entry| entry.address == last), PATIENCE)
        .await
        .unwrap();
    all_quiet(&stage.worker).await;
    let held = stage.router.entries(Family::V4);
    assert!(held.len() <= LIMIT, "{} are held", held.len());
    let high = (200_000..200_200).filter(|number| held.iter().any(|entry| entry.address == address(*number)));
    assert_eq!(high.count(), 200);
}

#[tokio::test]
async fn what_was_left_out_comes_when_there_is_room() {
    let desired = Desired::new();
    for number in 0..300 {
        ban(&desired, number, 3600 + i64::from(number), "ssh", Severity::Medium);
    }
    let router = Router::builder().start().await.unwrap();
    let stage = Stage::raise(router, desired, |config| {
        config.max_entries = Some(100);
        config.deadlines.keepalive = Duration::from_millis(50);
    });
    all_quiet(&stage.worker).await;
    assert!(!stage.entries().iter().any(|entry| entry.address == address(0)));
    for number in 100..300 {
        stage.desired.remove(stage::parse(&address(number)));
    }
    let wanted = |entries: &[routeros_sim::Entry]| {
        entries.len() == 100 && entries.iter().any(|entry| entry.address == address(0))
    };
    stage.router.wait_for(wanted, PATIENCE).await.unwrap();
    stage.shows(|status| status.left_out == 0).await;
}

#[tokio::test]
async fn each_router_gets_its_jails_and_severities_on_its_own_lists() {
    let stage = Stage::with(Router::builder(), |config| {
        config.jails = vec!["ssh".parse().unwrap()];
        config.severity = Severity::Medium;
        config.lists = ["four".to_owned(), "six".to_owned()];
    })
    .await;
    ban(&stage.desired, 1, 600, "ssh", Severity::Medium);
    ban(&stage.desired, 2, 600, "smtp", Severity::High);
    ban(&stage.desired, 3, 600, "ssh", Severity::Low);
    stage.ban("2001:db8::1", 600);
    stage.holds(&[&address(1), "2001:db8::1/128"]).await;
    let lists: Vec<String> = stage.entries().into_iter().map(|entry| entry.list).collect();
    assert_eq!(lists, ["four", "six"]);
    assert_eq!(stage.worker.status().desired, 2);
    // A ban that is of another jail now is no longer this router's.
    ban(&stage.desired, 1, 900, "smtp", Severity::High);
    stage.holds(&["2001:db8::1/128"]).await;
}

#[tokio::test]
async fn a_read_only_router_is_read_and_left_as_it_is() {
    let router = Router::builder().start().await.unwrap();
    router.insert_foreign(Family::V4, "spammer", "192.0.2.9", "atalaya: ssh from web-1", None);
    let stage = Stage::raise(router, Desired::new(), |config| config.read_only = true);
    stage.is(State::Connected).await;
    stage.ban("192.0.2.1", 600);
    stage.shows(|status| status.withheld == 2 && status.read_only).await;
    let counts = stage.router.counts();
    assert_eq!((counts.adds, counts.sets, counts.removes), (0, 0, 0));
    assert_eq!(stage.worker.holds(stage::parse("192.0.2.1")).await, Holding::Nothing);
    let there = stage.worker.holds(stage::parse("192.0.2.9")).await;
    assert_eq!(there, Holding::Entry { ours: true, left: None, disabled: false });
}

#[tokio::test]
async fn a_plan_says_what_a_worker_then_does_and_sends_nothing_itself() {
    let router = Router::builder().start().await.unwrap();
    let minute = Some(Duration::from_mins(1));
    for (address, comment, timeout) in [
        ("192.0.2.1", "atalaya: sshd at web-1", minute),
        ("192.0.2.2", "atalaya: gone", minute),
        ("192.0.2.3", "by hand", None),
    ] {
        router.insert_foreign(Family::V4, "spammer", address, comment, timeout);
    }
    router.insert_foreign(Family::V4, "old", "192.0.2.7", "atalaya: x", minute);
    let stage = Stage::raise(router.clone(), Desired::new(), |config| config.read_only = true);
    for host in ["192.0.2.1", "192.0.2.3", "192.0.2.4"] {
        stage.ban(host, 1800);
    }
    let config = stage::config(&router);
    let before = [atalaya_enforcer::ledger::ListUse {
        router: config.name.clone(),
        family: Table::V4,
        list: "old".to_owned(),
        mark: "atalaya".to_owned(),
    }];
    let planned = plan::plan(&config, Arc::clone(&stage.desired), &before, stage.clock.now()).await.unwrap();
    let mut steps: Vec<String> = planned
        .steps
        .iter()
        // Whole seconds, of which a part may be gone.
        .map(|step| format!("{} {:?} {}", step.prefix.addr(), step.does, step.why.replace("59 s", "60 s")))
        .collect();
    steps.sort();
    assert_eq!(
        steps,
        [
            "192.0.2.1 Set { timeout: 1800 } ssh from web-1 bans it for 1800 s more, and the router has 60 s left",
            "192.0.2.2 Remove it carries our mark and no ban stands; 60 s left",
            "192.0.2.4 Add { timeout: 1800 } ssh from web-1 bans it, and the router does not hold it",
        ]
    );
    assert_eq!((planned.leftovers.len(), planned.leftovers[0].entries), (1, 1));
    let counts = router.counts();
    assert_eq!((counts.adds, counts.sets, counts.removes), (0, 0, 0));
    let mut told = Vec::new();
    assert_eq!(plan::tidy(&config, &planned.leftovers, |done| told.push(done)).await.unwrap(), 1);
    assert_eq!(told, [1]);
    assert!(router.entries(Family::V4).iter().all(|entry| entry.list == "spammer"));
}

#[tokio::test]
async fn entries_of_an_earlier_mark_and_comment_become_ours_and_are_not_added_twice() {
    let router = Router::builder().start().await.unwrap();
    let hour = Some(Duration::from_mins(30));
    router.insert_foreign(Family::V4, "spammer", "192.0.2.1", "watchman: sshd at web-1", hour);
    router.insert_foreign(Family::V4, "spammer", "192.0.2.2", "atalaya: another template", hour);
    let stage = Stage::raise(router, Desired::new(), |config| config.old_marks = vec!["watchman".to_owned()]);
    stage.ban("192.0.2.1", 1800);
    stage.ban("192.0.2.2", 1800);
    let renamed = |entries: &[routeros_sim::Entry]| {
        entries.len() == 2 && entries.iter().all(|entry| entry.comment == "atalaya: sshd at web-1")
    };
    stage.router.wait_for(renamed, PATIENCE).await.unwrap();
    all_quiet(&stage.worker).await;
    let counts = stage.worker.status().counts;
    assert_eq!((counts.adds, counts.removes), (0, 0));
}

#[tokio::test]
async fn an_entry_that_cannot_be_set_is_replaced() {
    let stage = Stage::new().await;
    stage.ban("192.0.2.1", 600);
    stage.holds(&["192.0.2.1"]).await;
    let refusal = Fault::Trap { message: "failure: can not change dynamic entry".to_owned(), category: None };
    stage.router.inject(refusal, "/ip/firewall/address-list/set", 0);
    stage.ban("192.0.2.1", 1800);
    stage.has_left("192.0.2.1", 1800).await;
    all_quiet(&stage.worker).await;
    let counts = stage.worker.status().counts;
    assert_eq!((counts.adds, counts.sets, counts.removes, counts.traps), (2, 0, 1, 1));
}

#[tokio::test]
async fn a_reboot_that_the_session_seems_to_survive_is_noticed_by_the_uptime() {
    let stage = Stage::with(Router::builder(), |config| {
        config.deadlines.keepalive = Duration::from_millis(50);
    })
    .await;
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    // Up for a day, and then for a moment: as a proxy in between would show it.
    stage.router.clock().advance(Duration::from_secs(86_400));
    stage.clock.advance(SignedDuration::from_secs(86_400));
    stage.ban("192.0.2.1", 1800);
    stage.shows(|status| status.uptime.as_deref().is_some_and(|uptime| uptime.starts_with("1d"))).await;
    stage.router.reboot().await;
    stage.holds(&["192.0.2.1"]).await;
    stage.shows(|status| status.reboots == 1).await;
}

#[tokio::test]
async fn fifty_routers_of_which_ten_are_stalled_all_get_what_the_living_can_take() {
    const BANS: u32 = 200;
    let (desired, clock) = (Arc::new(Desired::new()), Clock::system());
    let stop = CancellationToken::new();
    let mut routers = Vec::new();
    for number in 0..50_u32 {
        let router = Router::builder().start().await.unwrap();
        if number % 5 == 0 {
            router.inject(Fault::Stall, "/ip", 0);
        }
        let mut config = stage::config(&router);
        config.name = format!("r{number}").parse().unwrap();
        let worker = router::spawn(config, Arc::clone(&desired), clock.clone(), stop.clone(), None);
        routers.push((router, worker));
    }
    for (number, (_, worker)) in routers.iter().enumerate() {
        if number % 5 != 0 {
            all_quiet(worker).await;
        }
    }
    for number in 0..BANS {
        ban(&desired, number, 1800, "ssh", Severity::Medium);
    }
    for (number, (router, worker)) in routers.iter().enumerate() {
        if number % 5 == 0 {
            assert_eq!(router.entry_count(Family::V4), 0);
            assert_eq!(worker.status().state, State::Reading);
        } else {
            router.wait_for_counts(|counts| counts.adds >= u64::from(BANS), PATIENCE).await.unwrap();
            assert_eq!(worker.status().last_error, None);
        }
    }
    // What was stalled catches up once it goes on.
    routers[0].0.resume();
    routers[0].0.wait_for_counts(|counts| counts.adds >= u64::from(BANS), PATIENCE).await.unwrap();
    stop.cancel();
}

#[tokio::test]
async fn a_router_with_a_busy_processor_is_given_less_until_it_is_not() {
    let router = Router::builder().start().await.unwrap();
    router.set_cpu_load(Some(100));
    let desired = Desired::new();
    for number in 0..300 {
        ban(&desired, number, 3600, "ssh", Severity::Medium);
    }
    let stage = Stage::raise(router, desired, |config| {
        config.window = 1;
        config.rate = Some(2000);
        config.deadlines.keepalive = Duration::from_millis(20);
    });
    stage.shows(|status| status.most_a_second.is_some_and(|most| most < 2000.0)).await;
    stage.router.set_cpu_load(Some(5));
    all_quiet(&stage.worker).await;
    assert_eq!(stage.router.entry_count(Family::V4), 300);
    stage.shows(|status| status.most_a_second == Some(2000.0)).await;
}

#[tokio::test]
async fn a_new_ban_does_not_wait_for_a_reconciliation_behind_more_than_a_print_and_a_window() {
    let router = Router::builder().start().await.unwrap();
    router.set_costs(Costs { insert: Duration::from_micros(1200), ..Costs::default() });
    let (desired, label) = (Desired::new(), Label::test("x"));
    let until = Some(Clock::system().now() + SignedDuration::from_secs(3600));
    desired.set_many((0..5000).map(|number| {
        (stage::parse(&address(number)), Wanted { until: until.into(), label: label.clone() })
    }));
    let stage = Stage::raise(router, desired, |_| {});
    stage.router.wait_for_counts(|counts| counts.adds > 500, PATIENCE).await.unwrap();
    stage.ban("192.0.2.1", 1800);
    let there = |entries: &[routeros_sim::Entry]| entries.iter().any(|entry| entry.address == "192.0.2.1");
    stage.router.wait_for(there, PATIENCE).await.unwrap();
    // Those of one window, and not the thousands that were queued before it.
    assert!(stage.router.entry_count(Family::V4) < 4000);
}
