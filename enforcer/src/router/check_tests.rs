//! The examination by table: from a router that is as it should be, one thing is changed, and what is
//! said of it and what mends it must follow.

use std::io;
use std::time::Duration;

use atalaya_wire::Fingerprint;
use rstest::rstest;

use super::facts::{
    Access, Certificate, ClockFace, Group, IpService, ListContent, Page, Resource, User, WriteTest,
};
use super::rules::{Condition, Rule};
use super::speed::Sample;
use super::*;
use crate::prefixes::Family;
use crate::router::Password;
use crate::router::address_list::EntryId;
use crate::router::sentence::Trap;
use crate::router::session::SessionError;

const RAW: &str =
    "/ip/firewall/raw add chain=prerouting action=drop src-address-list=spammer comment=\"atalaya\"";
const RAW_V6: &str =
    "/ipv6/firewall/raw add chain=prerouting action=drop src-address-list=spammer6 comment=\"atalaya\"";

fn config() -> RouterConfig {
    let endpoint = "192.0.2.1".parse().unwrap();
    let mut config =
        RouterConfig::new("edge".parse().unwrap(), endpoint, "atalaya", Password::new("hunter2"));
    config.tls = Some(Fingerprint::of(b"pinned"));
    config.lists[1] = "spammer6".to_owned();
    config
}

fn rule(list: &str) -> Rule {
    Rule {
        chain: "prerouting".to_owned(),
        action: "drop".to_owned(),
        list: list.to_owned(),
        ..Rule::default()
    }
}

/// A rule that asks for this too.
fn asking(condition: &str, rule: Rule) -> Rule {
    let (name, value) = condition.split_once('=').unwrap();
    Rule { conditions: vec![Condition { name: name.to_owned(), value: value.to_owned() }], ..rule }
}

/// A rule that does this with everything.
fn acting(action: &str) -> Rule {
    Rule { action: action.to_owned(), ..rule("") }
}

fn numbered(rules: impl IntoIterator<Item = Rule>) -> Page<Vec<Rule>> {
    let number = |(place, rule)| Rule { id: EntryId::parse(&format!("*{}", place + 1)), ..rule };
    Page::Shown(rules.into_iter().enumerate().map(number).collect())
}

fn jump(target: &str, list: &str) -> Rule {
    Rule { action: "jump".to_owned(), jump_target: target.to_owned(), ..rule(list) }
}

fn of_chain(chain: &str, rule: Rule) -> Rule {
    Rule { chain: chain.to_owned(), ..rule }
}

fn service(name: &str, disabled: bool, certificate: Option<&str>) -> IpService {
    IpService {
        name: name.to_owned(),
        port: Some(if name == "api" { 8728 } else { 8729 }),
        disabled,
        access: Some(Access { property: "available-from", from: "198.51.100.0/24".to_owned() }),
        certificate: certificate.map(str::to_owned),
        max_sessions: Some(20),
    }
}

/// A router of which everything is as it should be.
fn facts() -> Facts {
    let now = "2026-11-25T12:00:00Z".parse().unwrap();
    Facts {
        round_trip: Some(Duration::from_micros(1500)),
        local: Some("198.51.100.7".parse().unwrap()),
        identity: Page::Shown("edge-1".to_owned()),
        resource: Page::Shown(Resource {
            version: "7.24 (stable)".to_owned(),
            board: "RB5009UG+S+".to_owned(),
            total_memory: Some(1 << 30),
            free_memory: Some(800 << 20),
        }),
        clock: Page::Shown(ClockFace { text: "…".to_owned(), shows: Some(now), ours: now }),
        user: Page::Shown(Some(User { group: "atalaya".to_owned(), address: String::new() })),
        groups: Page::Shown(vec![Group {
            name: "atalaya".to_owned(),
            policies: ["read", "write", "api"].map(str::to_owned).to_vec(),
        }]),
        services: Page::Shown(vec![service("api", true, None), service("api-ssl", false, Some("api"))]),
        certificates: Page::Shown(vec![Certificate {
            name: "api".to_owned(),
            fingerprint: Some(Fingerprint::of(b"pinned")),
        }]),
        raw: [Page::Shown(vec![rule("spammer")]), Page::Shown(vec![rule("spammer6")])],
        filter: [Page::Shown(Vec::new()), Page::Shown(Vec::new())],
        lists: [Page::Shown(ListContent::default()), Page::Shown(ListContent::default())],
        write: WriteTest::Passed,
        ..Facts::default()
    }
}

fn typed(finding: &Finding) -> Vec<String> {
    finding.commands.iter().map(Remedy::typed).collect()
}

fn find(findings: &[Finding], check: &str) -> Finding {
    let found = findings.iter().find(|finding| finding.check == check);
    found.unwrap_or_else(|| panic!("nothing of {check} in {findings:#?}")).clone()
}

#[test]
fn a_router_as_it_should_be_is_good_in_every_respect() {
    let findings = examine(&config(), &facts());
    for finding in &findings {
        assert_eq!((finding.grade, finding.commands.len()), (Grade::Good, 0), "{finding:?}");
    }
    let checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(
        checks,
        [
            "reach",
            "certificate",
            "login",
            "version",
            "memory",
            "clock",
            "speed",
            "reading",
            "policies",
            "write",
            "access",
            "ipv4-rule",
            "ipv6-rule",
            "ipv4-list",
            "ipv6-list"
        ]
    );
}

fn version(facts: &mut Facts, text: &str) {
    let Page::Shown(resource) = &mut facts.resource else { panic!() };
    resource.version = text.to_owned();
}

fn policies(facts: &mut Facts, group: &str, policies: &[&str]) {
    let policies = policies.iter().map(|policy| (*policy).to_owned()).collect();
    facts.groups = Page::Shown(vec![Group { name: group.to_owned(), policies }]);
    facts.user = Page::Shown(Some(User { group: group.to_owned(), address: String::new() }));
}

fn refused(step: &'static str, message: &str) -> WriteTest {
    WriteTest::Failed { step, trap: Trap::new(None, message.to_owned()) }
}

fn off_by(facts: &mut Facts, seconds: i64) {
    let Page::Shown(clock) = &mut facts.clock else { panic!() };
    clock.shows = Some(clock.ours + jiff::SignedDuration::from_secs(seconds));
}

#[rstest]
#[case::an_old_version(|f: &mut Facts| version(f, "6.42.12 (bugfix)"), "version", Grade::Fault, "not supported", &[])]
#[case::the_first_supported(|f: &mut Facts| version(f, "6.43"), "version", Grade::Good, "6.43", &[])]
#[case::a_beta(|f: &mut Facts| version(f, "7.25beta2 (testing)"), "version", Grade::Warning, "for tests", &[])]
#[case::a_strange_version(|f: &mut Facts| version(f, "SwOS"), "version", Grade::Unclear, "SwOS", &[])]
#[case::no_resource(|f: &mut Facts| f.resource = Page::Refused, "version", Grade::Unclear, "may not read it", &[])]
#[case::no_memory_told(|f: &mut Facts| f.resource = Page::Refused, "memory", Grade::Unclear, "32768", &[])]
#[case::clock_ahead(|f: &mut Facts| off_by(f, 61), "clock", Grade::Warning, "61 s ahead of ours",
    &["/system/ntp/client set enabled=yes servers=pool.ntp.org"])]
#[case::clock_never_set(|f: &mut Facts| off_by(f, -1_700_000_000), "clock", Grade::Warning, "19,675 days behind",
    &["/system/ntp/client set enabled=yes servers=pool.ntp.org"])]
#[case::clock_near_enough(|f: &mut Facts| off_by(f, -60), "clock", Grade::Good, "agrees", &[])]
#[case::clock_not_read(|f: &mut Facts| f.clock = Page::Refused, "clock", Grade::Unclear, "may not read", &[])]
#[case::lacks_write(|f: &mut Facts| policies(f, "ro", &["read", "api"]), "policies", Grade::Fault, "lacks write",
    &["/user/group add name=atalaya policy=read,write,api", "/user set atalaya group=atalaya"])]
#[case::own_group_lacks(|f: &mut Facts| policies(f, "atalaya", &["api"]), "policies", Grade::Fault, "lacks read, write",
    &["/user/group set atalaya policy=read,write,api"])]
#[case::may_too_much(|f: &mut Facts| policies(f, "full", &["read", "write", "api", "policy", "reboot"]), "policies",
    Grade::Warning, "policy, reboot",
    &["/user/group add name=atalaya policy=read,write,api", "/user set atalaya group=atalaya"])]
#[case::user_page_refused(|f: &mut Facts| f.user = Page::Refused, "policies", Grade::Unclear, "`/user print`", &[])]
#[case::groups_refused(|f: &mut Facts| f.groups = Page::Refused, "policies", Grade::Unclear, "/user/group", &[])]
#[case::a_radius_user(|f: &mut Facts| f.user = Page::Shown(None), "policies", Grade::Unclear, "RADIUS", &[])]
#[case::write_refused(|f: &mut Facts| f.write = refused("add", "not enough permissions (9)"), "write", Grade::Fault,
    "may not change", &["/user/group set atalaya policy=read,write,api"])]
#[case::set_fails(|f: &mut Facts| f.write = refused("set", "failure: disk full"), "write", Grade::Fault, "disk full", &[])]
#[case::write_not_tried(|f: &mut Facts| f.write = WriteTest::Skipped, "write", Grade::Unclear, "--read-only", &[])]
#[case::no_rule(|f: &mut Facts| f.raw[0] = Page::Shown(vec![]), "ipv4-rule", Grade::Fault, "no enabled rule", &[RAW])]
#[case::no_ipv6_rule(|f: &mut Facts| f.raw[1] = Page::Shown(vec![]), "ipv6-rule", Grade::Fault, "IPv6 bans", &[RAW_V6])]
#[case::a_rule_for_others(|f: &mut Facts| f.raw[0] = Page::Shown(vec![rule("!spammer"), rule("other")]), "ipv4-rule",
    Grade::Fault, "no enabled rule", &[RAW])]
#[case::an_accepting_rule(
    |f: &mut Facts| f.raw[0] = numbered([Rule { action: "accept".to_owned(), ..rule("spammer") }]),
    "ipv4-rule", Grade::Fault, "does not drop (action=accept)",
    &["/ip/firewall/raw add chain=prerouting action=drop src-address-list=spammer comment=\"atalaya\" place-before=*1"])]
#[case::a_logging_rule(
    |f: &mut Facts| f.raw[0] = numbered([Rule { action: "log".to_owned(), ..rule("spammer") }]),
    "ipv4-rule", Grade::Fault, "does not drop (action=log)", &[RAW])]
#[case::a_rule_for_what_goes_to_the_list(
    |f: &mut Facts| f.raw[0] = numbered([asking("dst-address-list=spammer", rule(""))]),
    "ipv4-rule", Grade::Fault, "drops what goes to it", &[RAW])]
#[case::an_output_rule(
    |f: &mut Facts| f.raw[0] = numbered([of_chain("output", rule("spammer"))]),
    "ipv4-rule", Grade::Fault, "stands in chain output", &[RAW])]
#[case::a_disabled_rule(|f: &mut Facts| f.raw[0] = numbered([Rule { disabled: true, ..rule("spammer") }]),
    "ipv4-rule", Grade::Fault, "disabled", &["/ip/firewall/raw enable [find action=drop src-address-list=spammer]"])]
#[case::an_invalid_rule(|f: &mut Facts| f.raw[0] = numbered([Rule { invalid: true, ..rule("spammer") }]),
    "ipv4-rule", Grade::Fault, "invalid", &[RAW])]
#[case::a_dynamic_rule(|f: &mut Facts| f.raw[0] = numbered([Rule { dynamic: true, ..rule("spammer") }]),
    "ipv4-rule", Grade::Warning, "dynamic", &[RAW])]
#[case::a_dynamic_rule_that_is_disabled(
    |f: &mut Facts| f.raw[0] = numbered([Rule { dynamic: true, disabled: true, ..rule("spammer") }]),
    "ipv4-rule", Grade::Fault, "disabled", &[RAW])]
#[case::after_an_accept_of_everything(|f: &mut Facts| f.raw[0] = numbered([acting("accept"), rule("spammer")]),
    "ipv4-rule", Grade::Fault, "never reached: a rule before it takes all its packets (action=accept)",
    &["/ip/firewall/raw move *2 destination=*1"])]
#[case::after_an_accept_that_is_off(
    |f: &mut Facts| f.raw[0] = numbered([Rule { disabled: true, ..acting("accept") }, rule("spammer")]),
    "ipv4-rule", Grade::Good, "in prerouting", &[])]
#[case::after_an_accept_of_others(
    |f: &mut Facts| f.raw[0] = numbered([
        Rule { list: "friends".to_owned(), ..acting("accept") },
        asking("in-interface-list=LAN", acting("accept")),
        asking("ipsec-policy=in,ipsec", acting("accept")),
        rule("spammer"),
    ]), "ipv4-rule", Grade::Good, "in prerouting", &[])]
#[case::after_an_accept_of_all_but_others(
    |f: &mut Facts| f.raw[0] = numbered([Rule { list: "!friends".to_owned(), ..acting("accept") }, rule("spammer")]),
    "ipv4-rule", Grade::Fault, "never reached", &["/ip/firewall/raw move *2 destination=*1"])]
#[case::after_an_accept_of_the_list(
    |f: &mut Facts| f.raw[0] = numbered([Rule { list: "spammer".to_owned(), ..acting("accept") }, rule("spammer")]),
    "ipv4-rule", Grade::Fault, "never reached", &["/ip/firewall/raw move *2 destination=*1"])]
#[case::after_an_accept_of_the_same_and_more(
    |f: &mut Facts| f.raw[0] = numbered([
        asking("protocol=tcp", acting("accept")),
        Rule { conditions: [asking("protocol=tcp", rule("")), asking("dst-port=22", rule(""))]
            .into_iter().flat_map(|rule| rule.conditions).collect(), ..rule("spammer") },
    ]), "ipv4-rule", Grade::Fault, "never reached", &["/ip/firewall/raw move *2 destination=*1"])]
#[case::disabled_and_too_late(
    |f: &mut Facts| f.raw[0] = numbered([acting("accept"), Rule { disabled: true, ..rule("spammer") }]),
    "ipv4-rule", Grade::Fault, "disabled", &[
        "/ip/firewall/raw enable [find action=drop src-address-list=spammer]",
        "/ip/firewall/raw move *2 destination=*1",
    ])]
#[case::after_a_chain_that_accepts_everything(
    |f: &mut Facts| f.raw[0] = numbered([
        jump("all", ""),
        of_chain("all", acting("accept")),
        rule("spammer"),
    ]), "ipv4-rule", Grade::Fault, "never reached", &["/ip/firewall/raw move *3 destination=*1"])]
#[case::after_a_chain_that_everything_returns_from(
    |f: &mut Facts| f.raw[0] = numbered([
        jump("all", ""),
        of_chain("all", acting("return")),
        of_chain("all", acting("accept")),
        rule("spammer"),
    ]), "ipv4-rule", Grade::Good, "in prerouting", &[])]
#[case::after_a_chain_that_a_part_returns_from(
    |f: &mut Facts| f.raw[0] = numbered([
        jump("all", ""),
        of_chain("all", asking("dst-port=25", acting("return"))),
        of_chain("all", acting("accept")),
        rule("spammer"),
    ]), "ipv4-rule", Grade::Warning, "dst-port",
    &["/ip/firewall/raw add chain=prerouting action=drop src-address-list=spammer comment=\"atalaya\" place-before=*1"])]
#[case::after_a_return_of_everything(|f: &mut Facts| f.raw[0] = numbered([acting("return"), rule("spammer")]),
    "ipv4-rule", Grade::Fault, "(action=return)", &["/ip/firewall/raw move *2 destination=*1"])]
#[case::no_rule_but_an_accept_of_everything(|f: &mut Facts| f.raw[0] = numbered([acting("accept")]),
    "ipv4-rule", Grade::Fault, "no enabled rule",
    &["/ip/firewall/raw add chain=prerouting action=drop src-address-list=spammer comment=\"atalaya\" place-before=*1"])]
#[case::half_a_rule(|f: &mut Facts| f.raw[0] = numbered([asking("dst-port=22", rule("spammer"))]),
    "ipv4-rule", Grade::Warning, "dst-port", &[RAW])]
#[case::a_rule_where_packets_come_in(|f: &mut Facts| f.raw[0] = numbered([asking("in-interface=ether1", rule("spammer"))]),
    "ipv4-rule", Grade::Good, "in prerouting", &[])]
#[case::a_chain_jumped_to(
    |f: &mut Facts| f.raw[0] = numbered([of_chain("bad", rule("spammer")), jump("bad", "")]),
    "ipv4-rule", Grade::Good, "in bad", &[])]
#[case::a_jump_for_the_list(
    |f: &mut Facts| f.raw[0] = numbered([jump("bad", "spammer"), of_chain("bad", rule(""))]),
    "ipv4-rule", Grade::Good, "in bad", &[])]
#[case::a_jump_of_all_but_others(
    |f: &mut Facts| f.raw[0] = numbered([jump("bad", "!friends"), of_chain("bad", rule("spammer"))]),
    "ipv4-rule", Grade::Good, "in bad", &[])]
#[case::a_jump_for_a_part(
    |f: &mut Facts| f.raw[0] = numbered([asking("protocol=tcp", jump("bad", "")), of_chain("bad", rule("spammer"))]),
    "ipv4-rule", Grade::Warning, "asks for protocol", &[RAW])]
#[case::a_jump_to_where_nothing_drops(|f: &mut Facts| f.raw[0] = numbered([jump("bad", "spammer")]),
    "ipv4-rule", Grade::Fault, "jumps to chain bad, where nothing is dropped", &[RAW])]
#[case::a_jump_for_another_list(
    |f: &mut Facts| f.raw[0] = numbered([jump("bad", "other"), of_chain("bad", rule("spammer"))]),
    "ipv4-rule", Grade::Fault, "stands in chain bad, where no packet from outside comes", &[RAW])]
#[case::a_drop_of_everything(|f: &mut Facts| f.raw[0] = Page::Shown(vec![rule("")]), "ipv4-rule", Grade::Fault,
    "no enabled rule", &[RAW])]
#[case::a_chain_never_reached(
    |f: &mut Facts| f.raw[0] = numbered([
        of_chain("bad", rule("spammer")),
        Rule { disabled: true, ..jump("bad", "") },
    ]), "ipv4-rule", Grade::Fault, "stands in chain bad", &[RAW])]
#[case::chains_in_a_circle(
    |f: &mut Facts| f.raw[0] = numbered([jump("a", ""), of_chain("a", jump("b", "")), of_chain("b", jump("a", ""))]),
    "ipv4-rule", Grade::Fault, "no enabled rule", &[RAW])]
#[case::a_filter_rule(|f: &mut Facts| {
        f.raw[0] = Page::Shown(vec![]);
        f.filter[0] = Page::Shown(vec![of_chain("input", rule("spammer"))]);
    }, "ipv4-rule", Grade::Warning, "guards the router alone", &[RAW])]
#[case::filter_rules(|f: &mut Facts| {
        f.raw[0] = Page::Shown(vec![]);
        let rule = |chain: &str| of_chain(chain, Rule { action: "reject".to_owned(), ..rule("spammer") });
        f.filter[0] = Page::Shown(vec![rule("input"), rule("forward")]);
    }, "ipv4-rule", Grade::Warning, "what is on list spammer; a raw rule in prerouting", &[RAW])]
#[case::a_filter_chain_of_both(|f: &mut Facts| {
        f.raw[0] = Page::Shown(vec![]);
        let both = ["input", "forward"].map(|chain| of_chain(chain, jump("bad", "")));
        f.filter[0] = numbered(both.into_iter().chain([of_chain("bad", rule("spammer"))]));
    }, "ipv4-rule", Grade::Warning, "what is on list spammer; a raw rule in prerouting", &[RAW])]
#[case::a_filter_rule_for_a_part(|f: &mut Facts| {
        f.raw[0] = Page::Shown(vec![]);
        f.filter[0] = numbered([of_chain("forward", asking("dst-port=22", rule("spammer")))]);
    }, "ipv4-rule", Grade::Warning, "a part of (it asks for dst-port)", &[RAW])]
#[case::a_filter_rule_at_the_end(|f: &mut Facts| {
        f.raw[0] = Page::Shown(vec![]);
        f.filter[0] = numbered([of_chain("forward", acting("accept")), of_chain("forward", rule("spammer"))]);
    }, "ipv4-rule", Grade::Fault, "the filter rule that uses list spammer is never reached", &[RAW])]
#[case::a_filter_rule_where_raw_may_not_be_read(|f: &mut Facts| {
        f.raw[0] = Page::Refused;
        f.filter[0] = numbered([of_chain("input", rule("spammer"))]);
    }, "ipv4-rule", Grade::Warning, "guards the router alone", &[RAW])]
#[case::filter_rules_not_read(|f: &mut Facts| (f.raw[0], f.filter[0]) = (Page::Shown(vec![]), Page::Refused),
    "ipv4-rule", Grade::Unclear, "(/ip/firewall/filter: the user may not read it)", &[])]
#[case::rules_not_read(|f: &mut Facts| f.raw[0] = Page::Refused, "ipv4-rule", Grade::Unclear,
    "print where src-address-list=spammer", &[])]
#[case::no_ipv6(|f: &mut Facts| f.lists[1] = Page::Missing, "ipv6", Grade::Fault, "`ipv6 = false`", &[])]
#[case::one_foreign_entry(|f: &mut Facts| f.lists[0] = Page::Shown(ListContent { ours: 2, foreign: 1, ..ListContent::default() }),
    "ipv4-list", Grade::Good, "2 entries of ours and 1 of others', which stays as it is", &[])]
#[case::few_foreign_entries(|f: &mut Facts| f.lists[0] = Page::Shown(ListContent { ours: 1, foreign: 2, ..ListContent::default() }),
    "ipv4-list", Grade::Good, "1 entry of ours and 2 of others', which stay as they are", &[])]
#[case::another_mark(|f: &mut Facts| f.lists[1] = Page::Shown(ListContent {
        ours: 0, foreign: 3, marks: [("other".to_owned(), 3)].into(), ..ListContent::default()
    }), "ipv6-list", Grade::Warning, "`other` (3)", &[])]
#[case::another_enforcer(|f: &mut Facts| f.lists[0] = Page::Shown(ListContent {
        ours: 2, foreign: 4, rivals: [("k7f2".parse().unwrap(), 1), ("x2yz".parse().unwrap(), 3)].into(),
        ..ListContent::default()
    }), "ipv4-list", Grade::Warning,
    "holds 2 entries of ours and 4 entries of other enforcers with the same mark (word k7f2: 1, word x2yz: 3)", &[])]
#[case::list_refused(|f: &mut Facts| f.lists[0] = Page::Refused, "ipv4-list", Grade::Fault, "may not read", &[])]
#[case::too_many_entries(|f: &mut Facts| f.lists[0] = Page::Shown(ListContent { foreign: 200_000, ..ListContent::default() }),
    "memory", Grade::Warning, "200000 entries", &[])]
#[case::few_sessions(|f: &mut Facts| {
        let Page::Shown(services) = &mut f.services else { panic!() };
        services[1].max_sessions = Some(1);
    }, "sessions", Grade::Warning, "takes 1 session at once", &["/ip/service set api-ssl max-sessions=20"])]
#[case::open_to_all(|f: &mut Facts| {
        let Page::Shown(services) = &mut f.services else { panic!() };
        services[1].access = Some(Access { property: "available-from", from: String::new() });
    }, "access", Grade::Warning, "/ip/service set api-ssl available-from=198.51.100.7", &[])]
#[case::open_to_all_before_7_24(|f: &mut Facts| {
        let Page::Shown(services) = &mut f.services else { panic!() };
        services[1].access = Some(Access { property: "address", from: String::new() });
    }, "access", Grade::Warning, "/ip/service set api-ssl address=198.51.100.7", &[])]
#[case::the_plain_api_too(|f: &mut Facts| {
        let Page::Shown(services) = &mut f.services else { panic!() };
        services[0].disabled = false;
    }, "certificate", Grade::Good, "/ip/service set api disabled=yes", &[])]
#[case::broken_off(|f: &mut Facts| f.broke = Some("it closed".to_owned()), "session", Grade::Fault, "it closed", &[])]
#[case::one_address_of_two(|f: &mut Facts| f.addresses = vec![
        ("192.0.2.1:8729".parse().unwrap(), Ok(Duration::ZERO)),
        ("192.0.2.2:8729".parse().unwrap(), Err("refused".to_owned())),
    ], "reach", Grade::Good, "1.5 ms", &[])]
fn each_thing_that_is_otherwise_is_said_and_mended(
    #[case] change: impl Fn(&mut Facts),
    #[case] check: &str,
    #[case] grade: Grade,
    #[case] says: &str,
    #[case] commands: &[&str],
) {
    let mut facts = facts();
    change(&mut facts);
    let findings = examine(&config(), &facts);
    let finding = find(&findings, check);
    assert_eq!(finding.grade, grade, "{finding:?}");
    assert!(finding.says.contains(says), "{finding:?}");
    assert_eq!(typed(&finding), commands);
    // Nothing else is worse for it, but what the same cause spoils.
    let others = findings.iter().filter(|other| other.check != check && other.grade == Grade::Fault);
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&Finding>::new());
}

#[rstest]
#[case::nobody(SessionError::ConnectDeadline(Duration::from_secs(5)), "reach", "no connection within 5 s", &[])]
#[case::unknown(SessionError::Resolve { host: "edge".to_owned(), source: io::Error::other("no such name") }, "reach",
    "no such name", &[])]
#[case::another_certificate(
    SessionError::WrongCertificate { presented: Fingerprint::of(b"x"), expected: Fingerprint::of(b"pinned") },
    "certificate", "fingerprint = \"2d711642", &[])]
#[case::no_certificate(SessionError::Tls(io::Error::other("handshake failure")), "certificate", "handshake failure", &[
    "/certificate add name=api common-name=192.0.2.1 key-usage=tls-server days-valid=3650",
    "/certificate sign api",
    "/ip/service set api-ssl certificate=api disabled=no",
])]
#[case::wrong_password(
    SessionError::Login { user: "atalaya".to_owned(), reason: "invalid user name or password (6)".to_owned() },
    "login", "invalid user name or password (6)", &[])]
#[case::no_api_policy(
    SessionError::Login { user: "atalaya".to_owned(), reason: "not enough permissions (9)".to_owned() },
    "login", "lacks the policy api",
    &["/user/group add name=atalaya policy=read,write,api", "/user set atalaya group=atalaya"])]
#[case::challenge(SessionError::ChallengeLogin, "version", "6.43", &[])]
#[case::silence(SessionError::LoginDeadline(Duration::from_secs(5)), "login", "no answer to the login within 5 s", &[])]
#[case::closed(SessionError::Closed, "login", "/ip/service print detail", &[])]
fn what_happens_at_the_door_is_the_one_fault(
    #[case] error: SessionError,
    #[case] check: &str,
    #[case] says: &str,
    #[case] commands: &[&str],
) {
    let findings = examine(&config(), &Facts { entry: Some(error), ..Facts::default() });
    let faults: Vec<&Finding> = findings.iter().filter(|finding| finding.grade == Grade::Fault).collect();
    let [fault] = faults[..] else { panic!("{findings:#?}") };
    assert_eq!(fault.check, check);
    assert_eq!(typed(fault), commands);
    assert!(fault.says.contains(says), "{fault:?}");
    assert!(!format!("{findings:?}").contains("hunter2"));
}

const SIGN: [&str; 2] = ["/certificate sign api", "/ip/service set api-ssl certificate=api disabled=no"];

#[rstest]
#[case::off(None, None, true, &["/certificate add name=api common-name=192.0.2.1 key-usage=tls-server days-valid=3650",
    SIGN[0], SIGN[1]])]
#[case::off_with_one(Some("api"), Some(true), true, &SIGN[1..])]
#[case::asked_for_but_unsigned(None, Some(false), true, &SIGN)]
#[case::signed_but_not_given(None, Some(true), false, &SIGN[1..])]
fn without_a_pin_the_commands_make_what_is_missing_of_a_certificate(
    #[case] given: Option<&str>,
    #[case] signed: Option<bool>,
    #[case] off: bool,
    #[case] commands: &[&str],
) {
    let mut config = config();
    config.tls = None;
    let mut facts = facts();
    let page = signed.map(|signed| Certificate {
        name: "api".to_owned(),
        fingerprint: signed.then(|| Fingerprint::of(b"pinned")),
    });
    facts.certificates = Page::Shown(page.into_iter().collect());
    facts.services = Page::Shown(vec![service("api", false, None), service("api-ssl", off, given)]);
    facts.presented = (!off).then(|| (8729, Err("no TLS handshake".to_owned())));
    let finding = find(&examine(&config, &facts), "certificate");
    assert_eq!(finding.grade, Grade::Warning);
    assert_eq!(typed(&finding), commands);
    assert!(finding.says.contains("unencrypted"), "{}", finding.says);
}

#[rstest]
#[case::as_the_page_says(b"pinned", Grade::Warning, "/certificate shows too")]
#[case::not_as_the_page_says(b"forged", Grade::Fault, "someone stands between")]
fn a_presented_certificate_is_held_against_the_routers_own_page(
    #[case] presented: &[u8],
    #[case] grade: Grade,
    #[case] says: &str,
) {
    let mut config = config();
    config.tls = None;
    let mut facts = facts();
    facts.services = Page::Shown(vec![service("api", false, None), service("api-ssl", false, Some("api"))]);
    facts.presented = Some((8729, Ok(Fingerprint::of(presented))));
    let finding = find(&examine(&config, &facts), "certificate");
    assert_eq!(finding.grade, grade);
    assert!(finding.says.contains(says), "{}", finding.says);
    assert!(finding.says.contains(&Fingerprint::of(presented).to_string()));
}

#[test]
fn a_limit_that_the_memory_does_not_carry_is_warned_of() {
    let mut config = config();
    let mut facts = facts();
    let Page::Shown(resource) = &mut facts.resource else { panic!() };
    (resource.total_memory, resource.free_memory) = (Some(256 << 20), Some(100 << 20));
    assert!(find(&examine(&config, &facts), "memory").says.contains("up to 32768 entries"));
    config.max_entries = Some(32_768);
    assert_eq!(find(&examine(&config, &facts), "memory").grade, Grade::Good);
    config.max_entries = Some(32_769);
    assert_eq!(find(&examine(&config, &facts), "memory").grade, Grade::Warning);
    config.max_entries = Some(1000);
    let Page::Shown(resource) = &mut facts.resource else { panic!() };
    resource.free_memory = Some(20 << 20);
    assert_eq!(find(&examine(&config, &facts), "memory").grade, Grade::Warning);
}

#[test]
fn without_ipv6_nothing_is_said_of_it() {
    let mut config = config();
    config.ipv6 = false;
    let mut facts = facts();
    (facts.raw[1], facts.lists[1]) = (Page::Unread, Page::Unread);
    let findings = examine(&config, &facts);
    assert!(findings.iter().all(|finding| finding.grade == Grade::Good), "{findings:#?}");
    assert!(!findings.iter().any(|finding| finding.check.starts_with("ipv6")));
}

#[test]
fn jumps_in_every_direction_are_judged_in_bounded_time() {
    let part = |number: usize, rule: Rule| asking(&format!("dst-port={number}"), rule);
    let mut rules: Vec<Rule> = Vec::new();
    for depth in 0..20 {
        let chain = |depth: usize| if depth == 0 { "prerouting".to_owned() } else { format!("c{depth}") };
        rules.extend(
            (0..200).map(|number| of_chain(&chain(depth), part(number, jump(&chain(depth + 1), "")))),
        );
    }
    let judgement = rules::judge(Family::V4, "spammer", &numbered(rules.clone()), &Page::Shown(Vec::new()));
    assert_eq!(judgement.grade, Grade::Unclear, "{judgement:?}");
    assert!(judgement.says.contains("too many ways"));
    // What is found before the bound is found.
    rules.insert(0, rule("spammer"));
    let judgement = rules::judge(Family::V4, "spammer", &numbered(rules), &Page::Shown(Vec::new()));
    assert_eq!(judgement.grade, Grade::Good, "{judgement:?}");
}

#[test]
fn a_rule_that_is_come_to_twice_counts_its_packets_once() {
    let counted = |chain: &str, packets| of_chain(chain, Rule { packets: Some(packets), ..rule("spammer") });
    let ways = ["input", "forward"].map(|chain| of_chain(chain, jump("bad", "")));
    let filter = numbered(ways.into_iter().chain([counted("bad", 7), counted("input", 5)]));
    let judgement = rules::judge(Family::V4, "spammer", &Page::Shown(Vec::new()), &filter);
    assert_eq!(judgement.packets, Some(7), "{judgement:?}");
    // Two ways to a rule, with another between them.
    let raw = numbered([
        asking("dst-port=1", jump("bad", "")),
        asking("dst-port=2", counted("prerouting", 2)),
        asking("dst-port=3", jump("bad", "")),
        counted("bad", 3),
    ]);
    assert_eq!(rules::judge(Family::V4, "spammer", &raw, &Page::Unread).packets, Some(5));
}

#[test]
fn routeros_6_is_told_in_its_own_words() {
    let mut facts = facts();
    version(&mut facts, "6.49.10 (long-term)");
    facts.raw[0] = Page::Shown(Vec::new());
    off_by(&mut facts, 600);
    let findings = examine(&config(), &facts);
    assert!(typed(&find(&findings, "ipv4-rule"))[0].starts_with("/ip firewall raw add chain="));
    assert_eq!(
        typed(&find(&findings, "clock")),
        ["/system ntp client set enabled=yes server-dns-names=pool.ntp.org"]
    );
}

#[test]
fn how_long_a_list_takes_is_told_by_the_board_or_by_a_sample_and_how_it_is_known_is_said() {
    let mut facts = facts();
    let speed = |facts: &Facts| find(&examine(&config(), facts), "speed");
    let says = speed(&facts).says;
    assert!(says.contains("about 833 entries a second, as others measured on an RB5009"), "{says}");
    assert!(says.contains("1000 bans take 2 s, all 131072 that it may hold 2 min"), "{says}");
    let board = |facts: &mut Facts, name: &str| {
        let Page::Shown(resource) = &mut facts.resource else { panic!() };
        resource.board = name.to_owned();
    };
    board(&mut facts, "hAP ax^3");
    assert!(speed(&facts).says.contains("about 147 entries a second"), "{}", speed(&facts).says);
    board(&mut facts, "hEX");
    assert!(!examine(&config(), &facts).iter().any(|finding| finding.check == "speed"), "nothing is known");
    facts.sample = Some(Sample { adds: 24, took: Duration::from_millis(240) });
    let says = speed(&facts).says;
    assert!(says.contains("about 100 entries a second, by the 24 adds that this check timed"), "{says}");
    facts.sample = None;
    facts.write = WriteTest::Skipped;
    let finding = speed(&facts);
    assert_eq!(finding.grade, Grade::Unclear);
    assert!(finding.says.contains("without --read-only"), "{}", finding.says);
}

#[test]
fn how_long_new_bans_wait_for_a_reading_is_told_of_boards_that_were_measured_and_of_no_other() {
    let mut facts = facts();
    let reading = |facts: &Facts| examine(&config(), facts).into_iter().find(|one| one.check == "reading");
    let mut of = |name: &str| {
        let Page::Shown(resource) = &mut facts.resource else { panic!() };
        resource.board = name.to_owned();
        resource.total_memory = Some(256 * 1024 * 1024);
        reading(&facts).map(|finding| finding.says)
    };
    assert!(of("RB5009UG+S+").unwrap().contains("about 1 s, of all 32768 that the router may hold 4 s"));
    for hex in ["hEX", "RB750Gr3"] {
        let says = of(hex).unwrap();
        assert!(says.contains("about 1 s, of all 32768 that the router may hold 22 s"), "{says}");
    }
    assert_eq!([of("hEX S"), of("hAP ax^3"), of("RB951Ui-2HnD")], [None, None, None]);
}
