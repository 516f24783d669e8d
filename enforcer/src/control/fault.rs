//! What is wrong: read off a status, for people and for monitoring. Nothing here is remembered, so a
//! fault is over when its cause is.

use atalaya_wire::Name;
use jiff::{SignedDuration, Timestamp};

use super::answers::{Fault, FaultKind, RouterAnswer, Status};
use super::open_files::OpenFiles;
use super::sensor_faults::sensor_faults;
use crate::router::address_list::address_text;
use crate::router::{Enforcement, MissingBans, Rival, Rivals, RouterStatus};
use atalaya_program::count::{agreeing, count, counted};

/// How long a router may take to be logged in to, at the start or after it broke off.
const ROUTER_GRACE: SignedDuration = SignedDuration::from_secs(5);

// === impl FaultKind ===

impl FaultKind {
    /// Whether it is a router's.
    pub fn is_routers(self) -> bool {
        matches!(
            self,
            Self::NotDropped
                | Self::NotHeld
                | Self::Rivals
                | Self::RouterDown
                | Self::RouterRefuses
                | Self::RouterFull
                | Self::RulesUnclear
        )
    }

    /// Whether it is a sensor's.
    pub fn is_sensors(self) -> bool {
        matches!(self, Self::SensorOdd | Self::SensorSilent | Self::SensorClock)
    }
}

/// What is wrong, the worst first.
pub fn faults(status: &Status) -> Vec<Fault> {
    let mut faults = Vec::new();
    let of_enforcer = |kind, text| Fault { kind, name: None, since: None, text, commands: Vec::new() };
    if let Some(trouble) = &status.ledger_trouble {
        let text = format!("cannot be written, bans go on to the routers: {trouble}");
        faults.push(of_enforcer(FaultKind::Ledger, text));
    }
    if status.routers.is_empty() {
        let text = "no router is configured, nobody is kept out: add a [router.NAME] to the configuration";
        faults.push(of_enforcer(FaultKind::NoRouter, text.to_owned()));
    }
    faults.extend(not_taken(status));
    faults.extend(status.routers.iter().filter_map(|router| not_dropped(&router.status)));
    faults.extend(status.routers.iter().filter_map(|router| not_held(&router.status)));
    faults.extend(status.routers.iter().filter_map(|router| rivals(&router.status)));
    faults.extend(status.routers.iter().filter_map(|router| of_router(router, status.now)));
    faults.extend(status.routers.iter().filter_map(|router| unclear(&router.status)));
    faults.extend(status.routers.iter().filter_map(full));
    if let Some(OpenFiles { used, limit: Some(limit) }) =
        status.open_files.filter(|files| files.is_nearly_all())
    {
        let text = format!(
            "{used} of the {limit} files that it may have open are in use, connections among them: at the limit no sensor, router or command gets in; raise `LimitNOFILE=` of its unit, or `ulimit -n`, and start it again"
        );
        faults.push(of_enforcer(FaultKind::OpenFiles, text));
    }
    faults.extend(sensor_faults(status));
    if status.rates.fleet_dropped.last_15_minutes > 0 {
        let text = format!(
            "the fleet jails forgot {} in the last 15 minutes because there were too many: their counts begin anew",
            counted(status.rates.fleet_dropped.last_15_minutes, "offender")
        );
        faults.push(of_enforcer(FaultKind::FleetFull, text));
    }
    faults.sort_by_key(|fault| fault.kind);
    faults
}

/// The routers of which it is not known yet whether they drop anything: they have just been logged in to, or
/// are being logged in to and not late.
pub fn looking(status: &Status) -> Vec<Name> {
    let down = |name: &Name| {
        let mut faults = status.faults.iter();
        faults.any(|fault| fault.kind == FaultKind::RouterDown && fault.name.as_ref() == Some(name))
    };
    let routers = status.routers.iter().map(|router| &router.status);
    let unread = routers.filter(|router| router.is_unread() && !down(&router.name));
    unread.map(|router| router.name.clone()).collect()
}

fn not_dropped(router: &RouterStatus) -> Option<Fault> {
    let held = router.rules().iter().filter(|(_, rule)| **rule != Enforcement::Off).count();
    let passed: Vec<_> = router
        .rules()
        .into_iter()
        .filter_map(|(family, rule)| match rule {
            Enforcement::Passed { since, why, commands } => Some((family, *since, why, commands)),
            _ => None,
        })
        .collect();
    let text = match &passed[..] {
        [] => return None,
        [(family, _, why, _)] if held > 1 => format!("drops nothing over {family}: {why}"),
        [(.., why, _), others @ ..] if others.iter().all(|(.., other, _)| other == why) => {
            format!("drops nothing: {why}")
        }
        several => {
            let each = several.iter().map(|(family, _, why, _)| format!("over {family}, {why}"));
            format!("drops nothing: {}", each.collect::<Vec<_>>().join("; "))
        }
    };
    Some(Fault {
        kind: FaultKind::NotDropped,
        name: Some(router.name.clone()),
        since: passed.iter().map(|(_, since, ..)| *since).min(),
        text,
        commands: passed.iter().flat_map(|(.., commands)| commands.iter().cloned()).collect(),
    })
}

/// Bans that no router takes; where there is no router, that is said already.
fn not_taken(Status { untaken, routers, .. }: &Status) -> Option<Fault> {
    const NAMED: usize = 3;
    let bans = untaken.count();
    if bans == 0 || routers.is_empty() {
        return None;
    }
    let mut jails: Vec<_> = untaken.jails.iter().collect();
    jails.sort_by_key(|(_, bans)| std::cmp::Reverse(**bans));
    let mut names: Vec<String> = jails.iter().take(NAMED).map(|(jail, _)| jail.to_string()).collect();
    if let rest @ 1.. = jails.len().saturating_sub(NAMED) {
        names.push(counted(rest, "other jail"));
    }
    let mut whys: Vec<String> =
        untaken.routers.iter().take(NAMED).map(|(router, why)| format!("{router} {why}")).collect();
    if let rest @ 1.. = untaken.routers.len().saturating_sub(NAMED) {
        whys.push(format!("so it is with {}", counted(rest, "other router")));
    }
    let text = format!(
        "{} of {} {} on no router, nobody is kept out by {}: {}; correct `jails` or `severity` of a [router.NAME]",
        counted(bans, "ban"),
        names.join(", "),
        agreeing(bans, "is", "are"),
        agreeing(bans, "it", "them"),
        whys.join(", "),
    );
    Some(Fault { kind: FaultKind::NotTaken, name: None, since: None, text, commands: Vec::new() })
}

/// Bans that a router does not hold; of one that is down that is said already.
fn not_held(router: &RouterStatus) -> Option<Fault> {
    let missing = router.missing.as_ref().filter(|_| router.is_up())?;
    let MissingBans { count, example, since, why } = missing;
    let example = address_text(*example);
    let text = match count {
        1 => format!("does not hold the ban of {example}: {why}; look: atalaya-enforcer show {example}"),
        many => format!(
            "does not hold {} that it should, {example} for one: {why}; look: atalaya-enforcer show {example}",
            counted(*many, "ban")
        ),
    };
    let (name, since) = (Some(router.name.clone()), Some(*since));
    Some(Fault { kind: FaultKind::NotHeld, name, since, text, commands: Vec::new() })
}

/// Other enforcers under our mark.
fn rivals(router: &RouterStatus) -> Option<Fault> {
    let Rivals { since, ours, others } = router.rivals.as_ref()?;
    let (first, rest) = others.split_first()?;
    let more = match rest.len() {
        0 => String::new(),
        more => format!(", as do {}", counted(more, "other enforcer")),
    };
    let Rival { opens, lineage, entries } = first;
    let text = format!(
        "another enforcer keeps {} on the same list with the same mark, `{opens}:` where ours say `{ours}:`{more}; they are left alone, and what both ban has the other's timeout. Give one of the two its own `mark` or `name` in [list]. If they are this enforcer's own, of before its state was lost: `adopt = [\"{lineage}\"]` in [list]",
        counted(*entries, "entry"),
    );
    let name = Some(router.name.clone());
    Some(Fault { kind: FaultKind::Rivals, name, since: Some(*since), text, commands: Vec::new() })
}

fn unclear(router: &RouterStatus) -> Option<Fault> {
    let unclear = router.rules().into_iter().filter_map(|(_, rule)| match rule {
        Enforcement::Unclear { since, why } => Some((*since, why.as_str())),
        _ => None,
    });
    let unclear: Vec<_> = unclear.collect();
    let (_, first) = unclear.first()?;
    let both = if unclear.len() > 1 { "; so it is with IPv6" } else { "" };
    Some(Fault {
        kind: FaultKind::RulesUnclear,
        name: Some(router.name.clone()),
        since: unclear.iter().map(|(since, _)| *since).min(),
        text: format!("{first}{both}"),
        commands: Vec::new(),
    })
}

fn of_router(RouterAnswer { status, down_since, .. }: &RouterAnswer, now: Timestamp) -> Option<Fault> {
    let name = Some(status.name.clone());
    let fault = |kind, since, text| Some(Fault { kind, name, since, text, commands: Vec::new() });
    let error = status.last_error.as_ref();
    if let Some(since) = *down_since {
        // The error that ended the session is as old as the fault, by some microseconds older.
        let why = error.filter(|error| error.at >= since.checked_sub(ROUTER_GRACE).unwrap_or(since));
        let late = now.duration_since(since) >= ROUTER_GRACE;
        return match why {
            Some(why) => fault(FaultKind::RouterDown, Some(since), format!("down: {}", why.text)),
            None if late => {
                fault(FaultKind::RouterDown, Some(since), format!("down: {} does not answer", status.address))
            }
            None => None,
        };
    }
    let error = error.filter(|error| error.at >= status.since && status.queued > 0)?;
    fault(FaultKind::RouterRefuses, Some(error.at), format!("up, but {}", error.text))
}

fn full(RouterAnswer { status, .. }: &RouterAnswer) -> Option<Fault> {
    let limit = status.limit.filter(|_| status.left_out > 0)?;
    let text = format!(
        "full: {} of {} {} left out, of the sensors that have the most, the lowest severity and what ends first; it may hold {} (`max_entries`, or what its memory allows)",
        count(status.left_out),
        counted(status.desired, "ban"),
        agreeing(status.left_out, "is", "are"),
        count(limit)
    );
    let name = Some(status.name.clone());
    Some(Fault { kind: FaultKind::RouterFull, name, since: None, text, commands: Vec::new() })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::answers::SensorAnswer;
    use super::*;
    use crate::intake::Seen;
    use crate::router::State;
    use crate::router::status::RouterError;

    pub fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    pub fn status(now: i64) -> Status {
        serde_json::from_value(serde_json::json!({
            "release": "1", "now": at(now), "started": at(0), "faults": [], "bans": 0, "widened": 0,
            "allowances": 0, "protected": 0, "fleet": [],
            "decisions": crate::bans::DecisionCounts::default(), "rates": crate::control::rates::RatesAnswer::default(),
            "ledger_trouble": null, "list": "spammer", "fingerprint": atalaya_wire::Fingerprint::of(b""),
            "routers": [], "sensors": {},
        }))
        .unwrap()
    }

    fn router(state: State, down_since: Option<i64>, error: Option<i64>, queued: usize) -> RouterAnswer {
        let mut status = RouterStatus::new("edge".parse().unwrap(), "192.0.2.1".to_owned(), at(10));
        status.state = state;
        status.queued = queued;
        status.last_error = error.map(|second| RouterError { at: at(second), text: "no route".to_owned() });
        RouterAnswer { status, down_since: down_since.map(at), latencies_us: Vec::new() }
    }

    fn kinds(status: &Status) -> Vec<FaultKind> {
        faults(status).into_iter().map(|fault| fault.kind).collect()
    }

    #[test]
    fn a_router_that_is_down_says_since_when_and_why_and_one_that_starts_has_a_few_seconds() {
        let mut status = status(100);
        assert_eq!(kinds(&status), [FaultKind::NoRouter]);
        status.routers = vec![router(State::Connecting, Some(97), None, 0)];
        assert_eq!(kinds(&status), []);
        status.routers = vec![router(State::Waiting { retry_ms: 1 }, Some(97), Some(97), 0)];
        let [fault] = &faults(&status)[..] else { panic!("one fault") };
        assert_eq!((fault.kind, fault.since), (FaultKind::RouterDown, Some(at(97))));
        assert!(fault.text.contains("no route"), "{}", fault.text);
        status.routers = vec![router(State::Connecting, Some(50), Some(20), 0)];
        assert!(faults(&status)[0].text.contains("192.0.2.1 does not answer"));
    }

    #[test]
    fn a_full_router_and_fleet_jails_that_forget_say_how_many_are_concerned() {
        let mut status = status(100);
        status.routers = vec![router(State::Connected, None, None, 0)];
        for (left_out, desired, bans) in [
            (1, 1, "1 of 1 ban is left out"),
            (1, 3, "1 of 3 bans is left out"),
            (2, 2000, "2 of 2,000 bans are left out"),
        ] {
            let router = &mut status.routers[0].status;
            (router.limit, router.left_out, router.desired) = (Some(1), left_out, desired);
            assert!(faults(&status)[0].text.starts_with(&format!("full: {bans}, ")), "{:?}", faults(&status));
        }
        for (forgotten, offenders) in [(1, "1 offender in"), (2, "2 offenders in")] {
            status.rates.fleet_dropped.last_15_minutes = forgotten;
            let faults = faults(&status);
            let fleet = faults.iter().find(|fault| fault.kind == FaultKind::FleetFull).unwrap();
            assert!(
                fleet.text.starts_with(&format!("the fleet jails forgot {offenders} ")),
                "{}",
                fleet.text
            );
        }
    }

    fn passed(second: i64, why: &str, command: &str) -> Enforcement {
        Enforcement::Passed { since: at(second), why: why.to_owned(), commands: vec![command.to_owned()] }
    }

    #[test]
    fn a_router_that_drops_nothing_is_one_fault_for_both_families_with_all_commands() {
        let mut status = status(100);
        let dropped = || Enforcement::Dropped { says: "x".to_owned(), packets: None };
        let why = "no enabled rule uses list spammer";
        for (ipv4, ipv6, text, commands) in [
            (passed(30, why, "/4"), passed(20, why, "/6"), "drops nothing: no enabled", &["/4", "/6"][..]),
            (passed(30, why, "/4"), passed(20, "it is off", "/6"), "over IPv6, it is off", &["/4", "/6"]),
            (passed(20, why, "/4"), Enforcement::Off, "drops nothing: no", &["/4"]),
            (passed(20, why, "/4"), Enforcement::Unread, "over IPv4: no", &["/4"]),
            (dropped(), passed(20, why, "/6"), "drops nothing over IPv6: no", &["/6"]),
        ] {
            let mut router = router(State::Connected, None, None, 0);
            (router.status.ipv4_rule, router.status.ipv6_rule) = (ipv4, ipv6);
            status.routers = vec![router];
            let [fault] = &faults(&status)[..] else { panic!("one fault") };
            assert_eq!((fault.kind, fault.since), (FaultKind::NotDropped, Some(at(20))));
            assert!(fault.text.contains(text), "{}", fault.text);
            assert_eq!(fault.commands, commands);
        }
        status.ledger_trouble = Some("disk full".to_owned());
        status.routers.push(router(State::Waiting { retry_ms: 1 }, Some(50), Some(50), 0));
        let unclear = Enforcement::Unclear { since: at(9), why: "it may not be read".to_owned() };
        status.routers[1].status.ipv4_rule = unclear.clone();
        status.routers[1].status.ipv6_rule = unclear;
        let expected =
            [FaultKind::Ledger, FaultKind::NotDropped, FaultKind::RouterDown, FaultKind::RulesUnclear];
        assert_eq!(kinds(&status), expected);
        assert_eq!(faults(&status)[3].text, "it may not be read; so it is with IPv6");
    }

    #[test]
    fn a_router_is_looked_at_until_its_rules_are_read_or_it_is_down() {
        let mut status = status(100);
        let named = |status: &mut Status| {
            status.faults = faults(status);
            looking(status)
        };
        status.routers = vec![router(State::Reading, None, None, 0)];
        assert_eq!(named(&mut status), ["edge".parse().unwrap()]);
        status.routers[0].status.ipv4_rule = Enforcement::Dropped { says: "x".to_owned(), packets: None };
        assert_eq!(named(&mut status).len(), 1, "IPv6 is not read yet");
        status.routers[0].status.ipv6_rule = Enforcement::Off;
        assert_eq!(named(&mut status), []);
        status.routers = vec![router(State::Connecting, Some(97), None, 0)];
        assert_eq!(named(&mut status).len(), 1);
        status.routers = vec![router(State::Connecting, Some(50), None, 0)];
        assert_eq!(named(&mut status), [], "it is down");
    }

    #[test]
    fn a_router_that_leaves_bans_out_says_how_many() {
        let mut status = status(100);
        status.routers = vec![router(State::Connected, None, None, 0)];
        (status.routers[0].status.limit, status.routers[0].status.left_out) = (Some(100), 0);
        assert_eq!(kinds(&status), []);
        (status.routers[0].status.left_out, status.routers[0].status.desired) = (50, 150);
        assert_eq!(kinds(&status), [FaultKind::RouterFull]);
        assert!(faults(&status)[0].text.contains("50 of 150"));
    }

    #[test]
    fn too_few_files_that_may_still_be_opened_are_a_fault_before_none_is_left() {
        let mut status = status(100);
        status.routers = vec![router(State::Connected, None, None, 0)];
        for (used, limit, expected) in
            [(921, Some(1024), &[][..]), (922, Some(1024), &[FaultKind::OpenFiles]), (9_999, None, &[])]
        {
            status.open_files = Some(OpenFiles { used, limit });
            assert_eq!(kinds(&status), expected, "{used} of {limit:?}");
        }
        status.open_files = Some(OpenFiles { used: 1000, limit: Some(1024) });
        assert!(faults(&status)[0].text.starts_with("1000 of the 1024 files"), "{:?}", faults(&status)[0]);
    }

    #[test]
    fn an_error_is_a_fault_of_a_router_that_is_up_only_while_something_waits_for_it() {
        let mut status = status(100);
        for (error, queued, expected) in [(Some(20), 0, 0), (Some(20), 3, 1), (Some(5), 3, 0), (None, 3, 0)] {
            status.routers = vec![router(State::Connected, None, error, queued)];
            assert_eq!(faults(&status).len(), expected, "{error:?} {queued}");
        }
    }

    #[test]
    fn a_sensor_is_silent_after_ten_minutes_unless_it_is_enrolled_no_more_and_the_ledger_comes_first() {
        let mut status = status(1000);
        status.routers = vec![router(State::Connected, None, None, 0)];
        status.ledger_trouble = Some("disk full".to_owned());
        for (name, enrolled, last) in [
            ("heard", Some(0), Some(500)),
            ("quiet", Some(0), Some(399)),
            ("never", Some(-9000), None),
            ("new", Some(900), None),
            ("revoked", None, Some(1)),
        ] {
            let seen = Seen { last: last.map(at), ..Seen::default() };
            let sensor = SensorAnswer { enrolled: enrolled.map(at), jails: None, seen };
            status.sensors.insert(name.parse().unwrap(), sensor);
        }
        assert_eq!(kinds(&status), [FaultKind::Ledger, FaultKind::SensorSilent, FaultKind::SensorSilent]);
        let heard_name: Name = "heard".parse().unwrap();
        let heard = status.sensors.get_mut(&heard_name).unwrap();
        heard.seen.skew_seconds = Some(-29);
        assert_eq!(kinds(&status).len(), 3);
        status.sensors.get_mut(&heard_name).unwrap().seen.skew_seconds = Some(-95);
        assert!(faults(&status)[3].text.contains("95 s ahead"), "{:?}", faults(&status)[3]);
        status.sensors.remove(&heard_name);
        let names: Vec<_> = faults(&status).into_iter().filter_map(|fault| fault.name).collect();
        assert_eq!(
            names.iter().map(Name::as_str).collect::<Vec<_>>(),
            ["never", "quiet"],
            "the longest first"
        );
    }
}
