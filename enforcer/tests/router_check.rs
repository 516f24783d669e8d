//! Looking at a router: what a visit to a simulated one finds, and that the commands it prints mend it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod stage;

use std::time::Duration;

use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::router::check::{Finding, Grade, Readiness, check};
use atalaya_enforcer::router::{Password, RouterConfig};
use atalaya_wire::Fingerprint;
use routeros_sim::{ApiSsl, Builder, Family, Model, Router};
use stage::config;

const RULE: &str = "/ip/firewall/raw add chain=prerouting action=drop src-address-list=spammer";
const RULE_V6: &str = "/ipv6/firewall/raw add chain=prerouting action=drop src-address-list=spammer";

/// A router as it should be: rules, api-ssl alone, and its service limited to us.
fn good() -> Builder {
    Router::builder()
        .tls(true)
        .terminal(RULE)
        .terminal(RULE_V6)
        .terminal("/ip/service set api-ssl available-from=127.0.0.0/8")
}

/// How the enforcer would reach it, its certificate pinned where it speaks TLS alone.
fn pinned(router: &Router) -> RouterConfig {
    let mut config = config(router);
    config.tls = router.certificate().map(|certificate| Fingerprint::of(&certificate));
    config
}

async fn look(config: &RouterConfig) -> Readiness {
    check(config, &Clock::system(), true).await
}

fn find<'a>(report: &'a Readiness, check: &str) -> &'a Finding {
    let found = report.findings.iter().find(|finding| finding.check == check);
    found.unwrap_or_else(|| panic!("nothing of {check} in {report:#?}"))
}

/// The only findings of this grade.
fn only(report: &Readiness, grade: Grade) -> Vec<&str> {
    report.findings.iter().filter(|finding| finding.grade == grade).map(|finding| finding.check).collect()
}

#[tokio::test]
async fn a_router_as_it_should_be_is_good_and_keeps_no_trace_of_the_look() {
    let router = good().identity("edge-1").start().await.unwrap();
    router.insert_foreign(Family::V4, "spammer", "203.0.113.9", "by hand", None).unwrap();
    let report = look(&pinned(&router)).await;
    assert_eq!(report.worst(), Grade::Good, "{report:#?}");
    assert_eq!(
        (report.identity.as_deref(), report.version.as_deref()),
        (Some("edge-1"), Some("7.24 (stable)"))
    );
    assert!(find(&report, "ipv4-list").says.contains("0 entries of ours and 1 of others'"));
    let counts = router.counts();
    assert_eq!((counts.adds, counts.sets, counts.removes, counts.logins), (1, 1, 1, 1));
    assert_eq!(router.entry_count(Family::V4), 1);
}

#[tokio::test]
async fn read_only_changes_nothing() {
    let router = good().start().await.unwrap();
    let report = check(&pinned(&router), &Clock::system(), false).await;
    assert_eq!(only(&report, Grade::Unclear), ["write"]);
    let counts = router.counts();
    assert_eq!((counts.adds, counts.sets, counts.removes), (0, 0, 0));
}

#[tokio::test]
async fn a_wrong_password_is_the_one_fault_and_is_not_shown() {
    let router = good().start().await.unwrap();
    let mut config = pinned(&router);
    config.password = Password::new("hunter2");
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["login"]);
    assert!(find(&report, "login").says.contains("invalid user name or password (6)"));
    assert!(!format!("{report:?}").contains("hunter2"));
}

#[tokio::test]
async fn without_the_write_policy_both_the_group_and_the_test_say_so_and_the_commands_mend_it() {
    let router = good().policies(&["read", "api"]).start().await.unwrap();
    let config = pinned(&router);
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["policies", "write"]);
    mend(&router, &report);
    let report = look(&config).await;
    assert_eq!(report.worst(), Grade::Good, "{report:#?}");
}

#[tokio::test]
async fn without_the_read_policy_nothing_can_be_told_and_the_lists_are_a_fault() {
    let router = good().policies(&["write", "api"]).start().await.unwrap();
    let report = look(&pinned(&router)).await;
    assert_eq!(only(&report, Grade::Fault), ["ipv4-list", "ipv6-list"]);
    for check in ["version", "memory", "clock", "policies", "ipv4-rule", "ipv6-rule"] {
        assert_eq!(find(&report, check).grade, Grade::Unclear, "{check}");
    }
    assert_eq!(find(&report, "write").grade, Grade::Good);
}

#[tokio::test]
async fn an_old_version_is_a_fault_that_says_which_is_needed() {
    let router = Router::builder().version("6.42.12").start().await.unwrap();
    let report = look(&config(&router)).await;
    assert_eq!(only(&report, Grade::Fault), ["version"]);
    assert!(find(&report, "version").says.contains("before 6.43"));
}

#[tokio::test]
async fn routeros_6_is_read_and_told_in_its_own_words() {
    let router = Router::builder().version("6.49.10").time_zone("Europe/Madrid", 60).start().await.unwrap();
    let config = config(&router);
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["ipv4-rule", "ipv6-rule"]);
    assert_eq!(find(&report, "clock").grade, Grade::Good, "{report:#?}");
    assert!(report.commands().iter().any(|command| command.starts_with("/ip firewall raw add")));
    mend(&router, &report);
    assert_eq!(only(&look(&config).await, Grade::Fault), [""; 0]);
}

/// Types what the report offers at the router's terminal.
fn mend(router: &Router, report: &Readiness) {
    for command in report.commands() {
        router.terminal(&command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
}

#[tokio::test]
async fn a_new_router_is_made_ready_by_the_commands_that_are_printed() {
    let router = Router::builder().policies(&["api", "read", "write", "reboot"]).start().await.unwrap();
    let mut config = config(&router);
    config.lists = ["bad guys $1".to_owned(), "spammer6".to_owned()];
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["ipv4-rule", "ipv6-rule"]);
    assert_eq!(only(&report, Grade::Warning), ["certificate", "policies", "access"]);
    mend(&router, &report);
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), [""; 0], "{report:#?}");
    // The certificate is there now, and is to be pinned.
    let certificate = Fingerprint::of(&router.certificate().unwrap());
    assert_eq!(report.certificate, Some((certificate, router.api_ssl_address().port())));
    assert!(find(&report, "certificate").says.contains("/certificate shows too"));
    assert_eq!(find(&report, "policies").grade, Grade::Good);
    // Pinned, and the plain API off.
    config.address.port = Some(router.api_ssl_address().port());
    config.tls = Some(certificate);
    router.terminal("/ip/service set api disabled=yes").unwrap();
    assert_eq!(only(&look(&config).await, Grade::Warning), ["access"]);
}

#[tokio::test]
async fn whom_the_service_lets_in_is_read_and_asked_for_by_the_name_of_the_routers_release() {
    for (version, property) in [("7.24", "available-from"), ("7.23.2", "address"), ("6.49.10", "address")] {
        let router = Router::builder().version(version).start().await.unwrap();
        let config = config(&router);
        let asked = format!("`/ip/service set api {property}=127.0.0.1`");
        let said = find(&look(&config).await, "access").says.clone();
        assert!(said.contains(&asked), "{version}: {said}");
        router.terminal(asked.trim_matches('`')).unwrap();
        let report = look(&config).await;
        let access = find(&report, "access");
        assert_eq!((access.grade, access.says.as_str()), (Grade::Good, "limited: the service to 127.0.0.1"));
    }
}

#[tokio::test]
async fn a_rule_for_ipv4_alone_leaves_ipv6_a_fault_until_its_command_is_typed() {
    let router = Router::builder().terminal(RULE).start().await.unwrap();
    let config = config(&router);
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["ipv6-rule"]);
    mend(&router, &report);
    assert_eq!(only(&look(&config).await, Grade::Fault), [""; 0]);
}

#[tokio::test]
async fn a_disabled_rule_is_enabled_and_not_doubled() {
    let router = good().terminal("/ip/firewall/raw disable [find action=drop]").start().await.unwrap();
    let config = pinned(&router);
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["ipv4-rule"]);
    mend(&router, &report);
    assert_eq!(look(&config).await.worst(), Grade::Good);
}

#[tokio::test]
async fn a_filter_rule_does_but_raw_is_advised() {
    let rule = "/ip/firewall/filter add chain=forward action=drop src-address-list=spammer";
    let router = Router::builder().terminal(rule).terminal(RULE_V6).start().await.unwrap();
    let report = look(&config(&router)).await;
    assert_eq!(only(&report, Grade::Fault), [""; 0]);
    assert!(find(&report, "ipv4-rule").says.contains("not the router itself"));
}

#[tokio::test]
async fn a_chain_that_the_list_jumps_to_is_followed() {
    let router = Router::builder()
        .terminal(
            "/ip/firewall/raw add chain=prerouting action=jump jump-target=bad src-address-list=spammer",
        )
        .terminal("/ip/firewall/raw add chain=bad action=log")
        .terminal("/ip/firewall/raw add chain=bad action=drop")
        .terminal(RULE_V6);
    let report = look(&config(&router.start().await.unwrap())).await;
    assert!(find(&report, "ipv4-rule").says.contains("in bad"), "{report:#?}");
}

#[tokio::test]
async fn api_ssl_without_a_certificate_is_told_and_mended() {
    let router = Router::builder().api_ssl(ApiSsl::WithoutCertificate).start().await.unwrap();
    let config = config(&router);
    let report = look(&config).await;
    let finding = find(&report, "certificate");
    assert!(finding.says.contains("has no certificate"), "{finding:?}");
    assert_eq!(finding.commands.len(), 3);
    mend(&router, &report);
    assert!(look(&config).await.certificate.is_some());
}

#[tokio::test]
async fn a_certificate_other_than_the_pinned_is_the_one_fault_and_the_password_is_not_sent() {
    let router = good().start().await.unwrap();
    let mut config = pinned(&router);
    config.tls = Some(Fingerprint::of(b"another"));
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["certificate"]);
    let presented = Fingerprint::of(&router.certificate().unwrap()).to_string();
    assert!(find(&report, "certificate").says.contains(&format!("fingerprint = \"{presented}\"")));
    assert_eq!((router.counts().logins, router.counts().login_failures), (0, 0));
}

#[tokio::test]
async fn a_page_that_is_refused_is_no_fault() {
    let router =
        good().refuse("/user").refuse("/ip/firewall/raw").refuse("/ip/service").start().await.unwrap();
    let report = look(&pinned(&router)).await;
    assert_eq!(report.worst(), Grade::Unclear, "{report:#?}");
    assert_eq!(only(&report, Grade::Unclear), ["policies", "ipv4-rule"]);
    assert!(find(&report, "policies").says.contains("/user/group print"));
}

#[tokio::test]
async fn a_clock_that_is_off_is_a_warning() {
    let router = good().time_zone("Asia/Kolkata", 330).start().await.unwrap();
    let config = pinned(&router);
    assert_eq!(find(&look(&config).await, "clock").grade, Grade::Good);
    router.clock().advance(Duration::from_mins(5));
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Warning), ["clock"]);
    assert!(find(&report, "clock").says.contains("ahead of ours"));
}

#[tokio::test]
async fn a_router_without_ipv6_says_what_to_set() {
    let router = good().ipv6(false);
    assert!(router.start().await.is_ok());
    let router = Router::builder().ipv6(false).terminal(RULE).start().await.unwrap();
    let mut config = config(&router);
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["ipv6"]);
    assert!(report.lacks_ipv6);
    config.ipv6 = false;
    assert_eq!(only(&look(&config).await, Grade::Fault), [""; 0]);
}

#[tokio::test]
async fn a_peer_that_accepts_and_stays_silent_meets_its_deadline() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut config =
        RouterConfig::new("mute".parse().unwrap(), address.parse().unwrap(), "u", Password::new("p"));
    config.deadlines.login = Duration::from_millis(50);
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["login"]);
    assert!(find(&report, "login").says.contains("no answer to the login within 0.05 s"));
}

#[tokio::test]
async fn a_router_that_falls_silent_in_the_middle_is_a_fault_and_what_was_read_is_told() {
    let router = good().start().await.unwrap();
    let mut config = pinned(&router);
    config.deadlines.scan = Duration::from_millis(300);
    router.inject(routeros_sim::Fault::Stall, "/ip/firewall/address-list/print", 0);
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["session"]);
    assert_eq!(find(&report, "ipv6-rule").grade, Grade::Good);
    assert_eq!(only(&report, Grade::Unclear), ["write", "ipv4-list", "ipv6-list"]);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_unreachable() {
    let router = good().start().await.unwrap();
    let config = pinned(&router);
    router.go_down().await;
    let report = look(&config).await;
    assert_eq!(only(&report, Grade::Fault), ["reach"]);
}

#[tokio::test]
async fn an_entry_that_another_look_left_is_no_trouble_and_is_removed() {
    let router = good().start().await.unwrap();
    let minute = Some(Duration::from_secs(60));
    router.insert_foreign(Family::V4, "atalaya-check", "192.0.2.1", "atalaya: check", minute).unwrap();
    let report = look(&pinned(&router)).await;
    assert_eq!(find(&report, "write").grade, Grade::Good);
    assert_eq!(router.entry_count(Family::V4), 0);
}

#[tokio::test]
async fn entries_of_another_mark_are_named() {
    let router = good().start().await.unwrap();
    router.insert_foreign(Family::V6, "spammer", "2001:db8::1", "lab: ssh from web-1", None).unwrap();
    let report = look(&pinned(&router)).await;
    assert_eq!(only(&report, Grade::Warning), ["ipv6-list"]);
    assert!(find(&report, "ipv6-list").says.contains("`lab` (1)"));
}

#[tokio::test]
async fn each_address_of_a_name_is_tried() {
    let router = Router::builder().terminal(RULE).terminal(RULE_V6).start().await.unwrap();
    let mut config = config(&router);
    config.address = format!("localhost:{}", router.address().port()).parse().unwrap();
    let report = look(&config).await;
    // Where `localhost` has an IPv6 address too, nobody listens there.
    let both = tokio::net::lookup_host(("localhost", 1)).await.unwrap().count() > 1;
    let unreached = report.findings.iter().filter(|one| one.check == "reach" && one.grade == Grade::Warning);
    assert_eq!(unreached.count(), usize::from(both), "{report:#?}");
    assert_eq!(only(&report, Grade::Fault), [""; 0]);
}

#[tokio::test]
async fn a_board_that_nobody_measured_is_timed_by_a_few_adds_that_are_gone_afterwards() {
    // An insertion of 6.8 ms: 147 a second, and fewer the busier this machine is.
    let router = good().model(Model::Hex).start().await.unwrap();
    let report = look(&pinned(&router)).await;
    let says = &find(&report, "speed").says;
    let rate: u32 = says.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!((2..=170).contains(&rate), "{says}");
    assert!(says.contains("by the 24 adds that this check timed"), "{says}");
    assert_eq!((router.counts().adds, router.entry_count(Family::V4)), (25, 0));
}

#[tokio::test]
async fn a_board_that_others_measured_is_not_timed() {
    let router = good().model(Model::Rb5009).start().await.unwrap();
    let report = look(&pinned(&router)).await;
    let says = &find(&report, "speed").says;
    assert!(says.contains("as others measured on an RB5009"), "{says}");
    assert_eq!(router.counts().adds, 1);
}
