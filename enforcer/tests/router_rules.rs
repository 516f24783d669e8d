//! The worker's looks at the firewall rules: when they come, what they find, and that no ban waits for them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod stage;

use std::time::Duration;

use atalaya_enforcer::desired::Desired;
use atalaya_enforcer::router::{Enforcement, RouterConfig, RouterStatus, State};
use routeros_sim::{Builder, Family, Fault, Router};
use stage::{PATIENCE, Stage};

const RULE: &str = "/ip/firewall/raw add chain=prerouting action=drop src-address-list=spammer";
const RULE_V6: &str = "/ipv6/firewall/raw add chain=prerouting action=drop src-address-list=spammer";
const RAW: &str = "/ip/firewall/raw/print";

/// A router that drops by its lists.
fn dropping() -> Builder {
    Router::builder().terminal(RULE).terminal(RULE_V6)
}

/// Looks every so often, and reconciles never.
fn every(interval: Duration) -> impl FnOnce(&mut RouterConfig) {
    move |config| {
        config.deadlines.rules = interval;
        config.reconcile_every = Duration::from_hours(1);
    }
}

fn is_well(status: &RouterStatus) -> bool {
    status.rules().iter().all(|(_, rule)| matches!(rule, Enforcement::Dropped { .. }))
}

/// Why nothing is dropped over IPv4, and what mends it.
fn passed(status: &RouterStatus) -> Option<(&str, &[String])> {
    match &status.ipv4_rule {
        Enforcement::Passed { why, commands, .. } => Some((why, commands)),
        _ => None,
    }
}

/// The paths of the commands that the router carried out.
fn paths(router: &Router) -> Vec<String> {
    router.journal().iter().map(|record| record.words[0].clone()).collect()
}

#[tokio::test]
async fn a_rule_that_comes_and_goes_is_seen_at_the_next_look_and_keeps_its_time() {
    let stage = Stage::with(dropping(), every(Duration::from_millis(50))).await;
    stage.shows(is_well).await;
    stage.router.terminal("/ip/firewall/raw disable [find action=drop]").unwrap();
    let status = stage.shows(|status| passed(status).is_some()).await;
    let Enforcement::Passed { since, .. } = &status.ipv4_rule else { panic!() };
    stage.router.terminal("/ip/firewall/raw remove [find action=drop]").unwrap();
    let gone = stage.shows(|status| passed(status).is_some_and(|(why, _)| why.contains("no enabled"))).await;
    assert!(matches!(&gone.ipv4_rule, Enforcement::Passed { since: then, .. } if then == since));
    assert!(matches!(gone.ipv6_rule, Enforcement::Dropped { .. }));
    let (_, commands) = passed(&gone).unwrap();
    commands.iter().for_each(|command| stage.router.terminal(command).unwrap());
    stage.shows(is_well).await;
}

#[tokio::test]
async fn every_way_to_drop_nothing_is_mended_by_its_own_commands() {
    let accept = "/ip/firewall/raw add chain=prerouting action=accept";
    let stage = Stage::with(dropping(), every(Duration::from_millis(20))).await;
    let router = &stage.router;
    let cases: [(&str, &dyn Fn()); 5] = [
        ("disabled", &|| router.terminal("/ip/firewall/raw disable [find action=drop]").unwrap()),
        ("never reached", &|| router.terminal(&format!("{accept} place-before=*1")).unwrap()),
        ("invalid", &|| router.set_rules_invalid("spammer", true)),
        ("does not drop", &|| {
            router.terminal("/ip/firewall/raw remove [find action=drop]").unwrap();
            router.terminal(&format!("{accept} src-address-list=spammer")).unwrap();
        }),
        ("no enabled rule", &|| router.terminal("/ip/firewall/raw remove [find chain=prerouting]").unwrap()),
    ];
    for (says, spoil) in cases {
        stage.shows(is_well).await;
        spoil();
        let status = stage.shows(|status| passed(status).is_some_and(|(why, _)| why.contains(says))).await;
        for command in passed(&status).unwrap().1 {
            router.terminal(command).unwrap_or_else(|error| panic!("{says}: {command}: {error}"));
        }
        router.set_rules_invalid("spammer", false);
    }
    stage.shows(is_well).await;
}

#[tokio::test]
async fn a_dynamic_rule_counts_while_it_is_there() {
    let router = dropping().start().await.unwrap();
    router.set_rules_dynamic("spammer", true);
    let stage = Stage::raise(router, Desired::new(), every(Duration::from_millis(20)));
    let status = stage.shows(is_well).await;
    assert!(format!("{:?}", status.ipv4_rule).contains("dynamic"), "{:?}", status.ipv4_rule);
    stage.router.terminal("/ip/firewall/raw remove [find action=drop]").unwrap();
    stage.shows(|status| passed(status).is_some()).await;
}

#[tokio::test]
async fn each_list_of_a_router_is_judged_by_its_own_rule() {
    let stage = Stage::with(dropping(), |config| config.lists[1] = "spammer6".to_owned()).await;
    let status = stage.shows(|status| !status.is_unread()).await;
    assert!(matches!(status.ipv4_rule, Enforcement::Dropped { .. }));
    let Enforcement::Passed { commands, .. } = &status.ipv6_rule else { panic!("{:?}", status.ipv6_rule) };
    assert!(commands[0].contains("src-address-list=spammer6 "), "{commands:?}");
}

#[tokio::test]
async fn a_family_that_is_not_held_is_not_judged() {
    let stage = Stage::with(Router::builder().terminal(RULE).ipv6(false), |_| {}).await;
    let status = stage.shows(|status| !status.is_unread()).await;
    assert!(matches!(status.ipv4_rule, Enforcement::Dropped { .. }) && !status.lets_pass(), "{status:?}");
    let stage = Stage::with(Router::builder().terminal(RULE), |config| config.ipv6 = false).await;
    let status = stage.shows(|status| !status.is_unread()).await;
    assert_eq!(status.ipv6_rule, Enforcement::Off);
    assert!(!paths(&stage.router).iter().any(|path| path.starts_with("/ipv6/")));
}

#[tokio::test]
async fn filter_rules_are_read_only_where_the_raw_rules_do_not_drop() {
    let stage = Stage::with(dropping(), every(Duration::from_millis(20))).await;
    stage.shows(is_well).await;
    let filter = |paths: Vec<String>| paths.iter().any(|path| path.contains("/filter/"));
    assert!(!filter(paths(&stage.router)));
    let rule = "/ip/firewall/filter add chain=forward action=drop src-address-list=spammer";
    stage.router.terminal(rule).unwrap();
    stage.router.terminal("/ip/firewall/raw remove [find action=drop]").unwrap();
    let by_filter = |status: &RouterStatus| format!("{:?}", status.ipv4_rule).contains("a filter rule drops");
    stage.shows(by_filter).await;
    assert!(filter(paths(&stage.router)));
}

#[tokio::test]
async fn what_the_user_may_not_read_is_unclear_and_bans_go_on() {
    let refused = Router::builder().refuse("/ip/firewall/raw").refuse("/ip/firewall/filter");
    let stage = Stage::with(refused, |_| {}).await;
    let status = stage.shows(|status| !status.is_unread()).await;
    let Enforcement::Unclear { why, .. } = &status.ipv4_rule else { panic!("{:?}", status.ipv4_rule) };
    assert!(why.contains("the user may not read it"), "{why}");
    assert!(matches!(status.ipv6_rule, Enforcement::Passed { .. }));
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    assert_eq!(stage.worker.status().last_error, None);
}

#[tokio::test]
async fn packets_are_counted_as_the_router_counts_them() {
    let stage = Stage::with(dropping(), every(Duration::from_millis(20))).await;
    stage.router.count_packets("spammer", 1234);
    stage.shows(|status| matches!(status.ipv6_rule, Enforcement::Dropped { packets: Some(1234), .. })).await;
}

#[tokio::test]
async fn what_was_seen_is_forgotten_with_the_session_and_seen_again_with_the_next() {
    let stage = Stage::with(dropping(), |_| {}).await;
    stage.shows(is_well).await;
    stage.router.go_down().await;
    let down = stage.shows(|status| !status.is_up()).await;
    assert_eq!((&down.ipv4_rule, &down.ipv6_rule), (&Enforcement::Unread, &Enforcement::Unread));
    stage.router.terminal("/ip/firewall/raw remove [find action=drop]").unwrap();
    stage.router.come_up().await.unwrap();
    stage.shows(|status| passed(status).is_some()).await;
}

#[tokio::test]
async fn the_backlog_of_a_new_session_goes_before_the_look() {
    const BANS: usize = 500;
    let router = dropping().insert_cost(Duration::from_millis(1)).start().await.unwrap();
    let stage = Stage::raise(router, Desired::new(), |_| {});
    (0..BANS).for_each(|host| stage.ban(&format!("10.0.{}.{}", host / 250, host % 250), 1800));
    stage.shows(is_well).await;
    let paths = paths(&stage.router);
    let look = paths.iter().position(|path| path == RAW).unwrap();
    let adds = paths[..look].iter().filter(|path| path.ends_with("/add")).count();
    assert_eq!(adds, BANS, "of {BANS} bans {adds} went before the look");
}

#[tokio::test]
async fn a_long_backlog_does_not_keep_the_rules_from_being_read_for_long() {
    let router = dropping().insert_cost(Duration::from_millis(1)).start().await.unwrap();
    let stage = Stage::raise(router, Desired::new(), |_| {});
    // Twenty seconds of work.
    for number in 0_u32..20_000 {
        let [_, a, b, c] = number.to_be_bytes();
        stage.ban(&format!("10.{a}.{b}.{c}"), 1800);
    }
    let status = stage.shows(is_well).await;
    assert!(status.queued > 0, "{status:?}");
}

#[tokio::test]
async fn a_look_that_is_not_answered_ends_the_session_though_all_else_is_answered() {
    let router = dropping().start().await.unwrap();
    router.inject(Fault::Stall, RAW, 0);
    let stage = Stage::raise(router, Desired::new(), |config| {
        config.deadlines.idle = Duration::from_millis(500);
        config.deadlines.keepalive = Duration::from_millis(50);
        config.deadlines.answer = Duration::from_mins(1);
    });
    stage.is(State::Connected).await;
    let asked = tokio::time::timeout(PATIENCE, async {
        while !paths(&stage.router).iter().any(|path| path == RAW) {
            tokio::task::yield_now().await;
        }
    });
    asked.await.unwrap();
    // That one print is lost, and the router goes on.
    stage.router.resume();
    let status = stage.shows(|status| status.sessions == 2).await;
    assert!(status.last_error.unwrap().text.contains("silent"));
    stage.shows(is_well).await;
}

#[tokio::test]
async fn a_router_with_more_rules_than_can_be_judged_is_unclear_and_holds_its_bans() {
    let router = Router::builder().terminal(RULE_V6).start().await.unwrap();
    for port in 0..5000 {
        let rule = format!("/ip/firewall/filter add chain=forward action=accept dst-port={port}");
        router.terminal(&rule).unwrap();
    }
    let stage = Stage::raise(router, Desired::new(), |_| {});
    let status = stage.shows(|status| !status.is_unread()).await;
    let Enforcement::Unclear { why, .. } = &status.ipv4_rule else { panic!("{:?}", status.ipv4_rule) };
    assert!(why.contains("over 4096 rules"), "{why}");
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    assert_eq!(stage.router.entry_count(Family::V4), 1);
}
