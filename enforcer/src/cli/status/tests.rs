use atalaya_enforcer::control::rates::RatesAnswer;
use atalaya_enforcer::prefixes::Family;
use atalaya_enforcer::router::{ListReading, RouterStatus};
use serde_json::json;

use super::*;

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A site with so many routers and sensors, every third of which is in trouble where there are faults.
pub fn site(routers: usize, sensors: usize, faults: bool) -> Status {
    let bad = |place: usize| faults && place.is_multiple_of(3);
    let router = |place: usize| {
        let state =
            if bad(place) { json!({"is": "waiting", "retry_ms": 5000}) } else { json!({"is": "connected"}) };
        let error = json!({"at": at(9000), "text": "cannot connect to 192.0.2.1:8728: \u{1b}[2Jconnection refused; is the API service on?"});
        let mut router =
            json!(RouterStatus::new(format!("edge-{place}").parse().unwrap(), "192.0.2.1".to_owned(), at(0)));
        let more = json!({
            "state": state, "last_error": if bad(place) { error } else { json!(null) }, "version": "7.24 (stable)",
            "cpu_load": 12, "ipv4": "known", "ipv6": "known",
            "ipv4_rule": {"is": "dropped", "says": "x", "packets": 7}, "ipv6_rule": {"is": "off"},
            "ours": 25_000, "foreign": 12, "desired": 25_000,
            "latency_us": 1234, "latencies_us": [1234],
            "down_since": if bad(place) { json!(at(9000)) } else { json!(null) },
        });
        router.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        router
    };
    let sensor = |place: usize| {
        let heard = at(if bad(place) { 0 } else { 9990 });
        let seen = Seen { last: Some(heard), offences: 12, ..Seen::default() };
        (format!("web-{place}"), json!(SensorAnswer { enrolled: Some(at(0)), jails: None, seen }))
    };
    let mut status: Status = serde_json::from_value(json!({
        "release": "0.1.0", "now": at(10_000), "started": at(-80_000), "faults": [], "bans": 25_000,
        "widened": 0, "allowances": 0, "protected": 0, "fleet": [],
        "decisions": atalaya_enforcer::bans::DecisionCounts::default(), "rates": RatesAnswer::default(),
        "open_files": {"used": 37, "limit": 1024},
        "ledger_trouble": null, "list": "spammer", "fingerprint": atalaya_wire::Fingerprint::of(b""),
        "routers": (0..routers).map(router).collect::<Vec<_>>(),
        "sensors": (0..sensors).map(sensor).collect::<serde_json::Map<_, _>>(),
    }))
    .unwrap();
    status.faults = atalaya_enforcer::control::fault::faults(&status);
    status
}

#[test]
fn a_usual_site_fits_on_one_screen_and_a_large_one_is_summed_up() {
    for (routers, sensors) in [(1, 1), (3, 12), (50, 200), (0, 0), (2, 100), (100, 2)] {
        for faults in [false, true] {
            let screen = screen(&site(routers, sensors, faults), Paint::plain(80, 24), 23);
            assert!(
                screen.len() <= 23,
                "{routers} {sensors} {faults}: {} lines\n{}",
                screen.len(),
                screen.join("\n")
            );
            assert!(screen.iter().all(|line| line.chars().count() <= 80), "{}", screen.join("\n"));
        }
    }
    let usual = screen(&site(3, 12, false), Paint::plain(80, 24), 23).join("\n");
    assert!(
        usual.contains("all is well")
            && usual.contains("25,000 bans stand on list spammer; 37 of 1,024 files open\n"),
        "{usual}"
    );
    assert!((0..12).all(|place| usual.contains(&format!("web-{place} "))), "{usual}");
    let large = screen(&site(50, 200, false), Paint::plain(80, 24), 23).join("\n");
    assert!(large.contains("more: atalaya-enforcer routers"), "{large}");
    assert!(large.contains("more: atalaya-enforcer sensors"), "{large}");
}

#[test]
fn numbers_agree_with_their_nouns() {
    for (number, expected) in [
        (0, vec!["0 bans stand on", "0 offences, 0 banned, 0 expired, 0 commands to routers"]),
        (
            1,
            vec![
                "1 ban stands on",
                "1 offence, 1 banned, 1 expired, 1 command to routers",
                "  1 network widened, 1 entry allowed at run time, 1 address protected by successful logins, 1 offence that led to no ban for that",
            ],
        ),
        (
            2,
            vec![
                "2 bans stand on",
                "2 offences, 2 banned, 2 expired, 2 commands to routers",
                "  2 networks widened, 2 entries allowed at run time, 2 addresses protected by successful logins, 2 offences that led to no ban for that",
            ],
        ),
    ] {
        let mut status = site(1, 1, false);
        (status.bans, status.widened, status.allowances, status.protected) = (number, number, number, number);
        status.decisions.protected = number as u64;
        let rates = &mut status.rates;
        for rate in [&mut rates.offences, &mut rates.bans, &mut rates.lapses, &mut rates.commands] {
            rate.last_minute = number as u64;
        }
        let text = activity(&status, Paint::plain(80, 24)).join("\n");
        for line in expected {
            assert!(text.contains(line), "no {line:?} in\n{text}");
        }
        assert_eq!(text.contains("widened"), number > 0, "{text}");
    }
}

#[test]
fn faults_come_first_and_their_text_cannot_command_the_terminal() {
    let screen = screen(&site(3, 12, true), Paint::plain(80, 60), 59);
    assert!(screen[0].contains("5 faults"), "{}", screen[0]);
    assert!(screen[1].starts_with("  ! router edge-0 for 16m: down: cannot connect"), "{}", screen[1]);
    assert!(screen.iter().all(|line| !line.contains('\u{1b}')), "{}", screen.join("\n"));
    let first = |word: &str| screen.iter().position(|line| line.starts_with(word)).unwrap();
    assert!(first("edge-0") < first("edge-1") && first("web-0") < first("web-1"));
}

/// The site, with a first router that drops nothing, for some reason.
pub fn site_without_a_rule(routers: usize, why: &str) -> Status {
    let mut status = site(routers, 2, false);
    let passed = |root: &str| {
        let rule = "chain=prerouting action=drop src-address-list=spammer comment=\"atalaya\"";
        let commands = vec![format!("/{root}/firewall/raw add {rule}")];
        Enforcement::Passed { since: at(9750), why: why.to_owned(), commands }
    };
    let router = &mut status.routers[0].status;
    (router.ipv4_rule, router.ipv6_rule) = (passed("ip"), passed("ipv6"));
    status.faults = atalaya_enforcer::control::fault::faults(&status);
    status
}

#[test]
fn a_router_that_drops_nothing_is_told_first_with_its_commands_in_one_piece() {
    let status = site_without_a_rule(3, "no enabled rule uses list spammer");
    let lines = screen(&status, Paint::plain(80, 24), 23);
    let text = lines.join("\n");
    assert!(lines[0].ends_with(": 1 fault"), "{text}");
    assert!(
        lines[1].starts_with("  ! router edge-0 for 4m 10s: drops nothing: no enabled rule uses list"),
        "{text}"
    );
    for command in &status.faults[0].commands {
        assert!(lines.contains(&format!("    {command}")), "{text}");
    }
    assert!(Paint::plain(80, 24).rows(&lines) <= 23, "{text}");
    assert!(lines.iter().any(|line| line.starts_with("edge-0  not dropping  ")), "{text}");
}

#[test]
fn of_many_routers_that_drop_nothing_as_many_as_fit_are_named_and_one_row_says_the_rest() {
    for routers in [2, 3, 4, 20] {
        let mut status = site_without_a_rule(1, "no enabled rule uses list spammer");
        status.routers = std::iter::repeat_n(status.routers[0].clone(), routers).collect();
        for (place, router) in status.routers.iter_mut().enumerate() {
            router.status.name = format!("edge-{place}").parse().unwrap();
        }
        status.faults = atalaya_enforcer::control::fault::faults(&status);
        let lines = screen(&status, Paint::plain(80, 24), 23);
        let text = lines.join("\n");
        assert!(Paint::plain(80, 24).rows(&lines) <= 23, "{text}");
        let named = |place: &usize| text.contains(&format!("! router edge-{place} for"));
        assert_eq!((0..4).filter(named).count(), routers.min(4), "{text}");
        assert_eq!(text.contains("more faults: atalaya-enforcer status --all"), routers > 4, "{text}");
        assert!(text.contains("\n    atalaya-enforcer router check edge-1  # prints"), "{text}");
    }
}

#[test]
fn what_is_not_known_yet_is_not_well() {
    let mut status = site(3, 2, false);
    for (looking, says) in
        [(&["edge-1"][..], "looking at router edge-1"), (&["edge-0", "edge-1"], "looking at 2 routers")]
    {
        status.looking = looking.iter().map(|name| name.parse().unwrap()).collect();
        let line = screen(&status, Paint::plain(80, 24), 23).remove(0);
        assert!(line.contains(says) && line.ends_with("not read yet)") && !line.contains("well"), "{line}");
        assert!(!status.is_well());
    }
}

#[test]
fn a_reading_of_over_a_minute_tells_how_far_it_is() {
    let reading = |rows, before| ListReading { family: Family::V4, since: at(9928), rows, before };
    let mut status = site(3, 1, false);
    for (reading, expected) in [
        (
            reading(0, None),
            "edge-0: reading its IPv4 list for 1m 12s: it scans its table and has told nothing yet; new",
        ),
        (
            reading(1, None),
            "edge-0: reading its IPv4 list for 1m 12s: 1 entry so far; new bans are sent meanwhile",
        ),
        (reading(4000, Some(50_000)), "for 1m 12s: 4,000 entries so far, of 50,000 the last time; new bans"),
    ] {
        status.routers[0].status.reading = Some(reading);
        let screen = screen(&status, Paint::plain(200, 24), 23).join("\n");
        assert!(screen.contains(expected), "{screen}");
    }
    status.routers[0].status.reading = Some(ListReading { since: at(9945), ..reading(7, None) });
    assert!(!screen(&status, Paint::plain(200, 24), 23).join("\n").contains("reading its"));
    for router in &mut status.routers {
        router.status.reading = Some(reading(7, None));
    }
    let screen = screen(&status, Paint::plain(200, 24), 23).join("\n");
    assert!(screen.contains("and 1 other for over a minute: atalaya-enforcer routers"), "{screen}");
}
