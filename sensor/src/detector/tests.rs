use std::sync::mpsc;

use atalaya_wire::{BanTime, Evidence, Seconds};

use super::*;
use crate::carrier::Carried;
use crate::config::Config;
use crate::source::connections::Guarded;
use crate::source::journal::{Entry, JournalPlace};

/// Jails of a configuration, and the offences that they find.
fn detector(config: &str) -> (Detector, mpsc::Receiver<Offence>) {
    let config = Config::parse(config, std::path::Path::new("sensor.toml")).unwrap();
    let (sender, offences) = mpsc::channel();
    let detector = Detector::new(config.jails, Ignored::default(), TimeZone::UTC, move |offence, _| {
        let _ = sender.send(offence);
        Handed::Sent(Sent { sequence: 1, held: false })
    });
    (detector, offences)
}

const JAIL: &str =
    "[jail.a]\nsource = \"files\"\npaths = \"/x\"\nmaxretry = 2\nfailregex = '^ bad .*from <ADDR>$'\n";

#[test]
fn a_jail_whose_source_says_nothing_for_a_day_says_so_until_something_comes() {
    let config = "[jail.mail]\nsource = \"syslog\"\nfailregex = 'x from <HOST>'\n\
                  [jail.ssh]\nsource = \"logins\"\nservices = [\"sshd\"]\n\
                  [jail.web]\nsource = \"connections\"\nports = [443]\n\
                  [syslog]\nudp = [\"127.0.0.1:0\"]\n";
    let (mut detector, _offences) = detector(config);
    let start: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
    let at = |hours: i64| start + jiff::SignedDuration::from_hours(hours);
    let told = |detector: &Detector, hours: i64| -> Vec<String> {
        let silent = |jail: JailStatus| {
            jail.troubles.into_iter().map(move |trouble| format!("{}: {trouble}", jail.name))
        };
        detector.status(None, at(hours)).into_iter().flat_map(silent).collect()
    };
    let never = "nothing has come of its source since the sensor was started, 2026-11-30T10:00:00Z";
    detector.sweep(start);
    assert!(told(&detector, 23).is_empty());
    assert_eq!(told(&detector, 24), [format!("mail: {never}"), format!("ssh: {never}")]);
    // Also what is no failure is heard.
    detector.syslog("192.0.2.9".parse().unwrap(), None, b"all is well", at(25));
    detector.good_login("192.0.2.9".parse().unwrap(), "sshd", "anna", at(26));
    assert!(told(&detector, 48).is_empty());
    let since = |time: &str| format!("nothing came of its source since 2026-12-01T{time}:00:00Z");
    assert_eq!(told(&detector, 50), [format!("mail: {}", since("11")), format!("ssh: {}", since("12"))]);
}

#[test]
fn bad_lines_are_passed_over_and_the_good_ones_among_them_counted() {
    let (mut detector, offences) = detector(JAIL);
    let now: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    let mut block = b"2025-09-05T11:17:32Z bad one from 192.0.2.1\r\n".to_vec();
    block.extend(b"\0\0\0\n\n\r\n\xff\xfe bad from 192.0.2.9 \n");
    block.extend(b"2025-09-05T11:17:32Z bad ");
    block.extend(vec![b'x'; 1 << 20]);
    block.extend(b" from 192.0.2.2\n2025-09-05T11:17:32Z bad \0\xc3 from 192.0.2.1\n");
    // The last line of a file that ended for good.
    block.extend(b"2025-09-05T11:17:33Z bad x from 192.0.2.2");
    detector.lines(&[0], "x", &block, now);
    let found: Vec<String> = offences.try_iter().map(|offence| offence.address.to_string()).collect();
    assert_eq!(found, ["192.0.2.1", "192.0.2.2"]);
}

#[test]
fn a_time_zone_that_changes_holds_from_then_on() {
    let (mut detector, offences) = detector(&JAIL.replace("maxretry = 2", "maxretry = 1"));
    let now: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    let line = b"Sep  5 13:19:00 bad one from 192.0.2.1\n";
    detector.set_zone(TimeZone::fixed(jiff::tz::offset(2)));
    detector.lines(&[0], "x", line, now);
    assert_eq!(offences.try_recv().unwrap().time.to_string(), "2025-09-05T11:19:00Z");
}

#[test]
fn jails_of_one_file_each_get_their_lines() {
    let three = format!(
        "{JAIL}[jail.b]\nsource = \"files\"\npaths = \"/x\"\nmaxretry = 1\nfailregex = '(?i)^ WORSE from <ADDR>$'\n\
             [jail.c]\nsource = \"files\"\npaths = \"/x\"\nmaxretry = 1\nfailregex = '^ [a-z]+ \\d from <ADDR>$'\n"
    );
    let (mut detector, offences) = detector(&three);
    let now: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    let block = b"2025-09-05T11:17:32Z bad x from 192.0.2.1\n2025-09-05T11:17:32Z worse from 192.0.2.2\n\
            2025-09-05T11:17:32Z nothing\n2025-09-05T11:17:32Z any 7 from 192.0.2.3\n2025-09-05T11:17:32Z bad 7 from 192.0.2.1\n";
    detector.lines(&[0, 1, 2], "x", block, now);
    let mut found: Vec<String> =
        offences.try_iter().map(|offence| format!("{} {}", offence.jail, offence.address)).collect();
    found.sort_unstable();
    assert_eq!(found, ["a 192.0.2.1", "b 192.0.2.2", "c 192.0.2.1", "c 192.0.2.3"]);
}

#[test]
fn a_message_of_rfc_5424_counts_at_its_date_or_now_and_its_data_is_no_evidence() {
    let jails = "[syslog]\nudp = [\"127.0.0.1:514\"]\n[jail.a]\nsource = \"files\"\npaths = \"/x\"\nmaxretry = 1\nfailregex = 'bad from <ADDR>$'\n\
         [jail.b]\nsource = \"syslog\"\nmaxretry = 1\nfailregex = '^\\s*fw app: bad from <ADDR>$'\n";
    let (mut detector, offences) = detector(jails);
    let now: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    let data = format!("[x y=\"{}\"]", "z".repeat(Evidence::LONGEST));
    let message = |date: &str, address: &str| format!("<38>1 {date} fw app - - {data} bad from {address}");
    let (dated, dateless) = (message("2025-09-05T11:17:32Z", "192.0.2.1"), message("-", "192.0.2.2"));
    detector.lines(&[0], "x", format!("{dated}\n{dateless}\n").as_bytes(), now);
    let peer = "192.0.2.99".parse().unwrap();
    detector.syslog(peer, Some("2025-09-05T11:17:32Z".parse().unwrap()), dated.as_bytes(), now);
    detector.syslog(peer, None, dateless.as_bytes(), now);
    let found: Vec<String> = offences
        .try_iter()
        .map(|offence| format!("{} {} {}", offence.jail, offence.time, offence.evidence[0].text))
        .collect();
    for (found, jail) in found.chunks(2).zip(["a", "b"]) {
        let dated = "2025-09-05T11:17:32Z 2025-09-05T11:17:32Z fw app: bad from 192.0.2.1";
        let dateless = "2025-09-05T11:20:00Z fw app: bad from 192.0.2.2";
        assert_eq!(found, [format!("{jail} {dated}"), format!("{jail} {dateless}")]);
    }
    assert_eq!(found.len(), 4);
}

#[test]
fn a_reload_keeps_what_was_counted() {
    let (mut detector, offences) = detector(JAIL);
    let now: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    let line = b"2025-09-05T11:17:32Z bad x from 192.0.2.1\n";
    detector.lines(&[0], "x", line, now);
    let config = Config::parse(
        &JAIL.replace("[jail.a]", "[jail.new]\nsource = \"logins\"\n[jail.a]\nbantime = \"9m\""),
        std::path::Path::new("x"),
    )
    .unwrap();
    detector.replace(config.jails, Networks::default());
    let index = detector.paths()[0].0;
    detector.lines(&[index], "x", line, now);
    let offence = offences.try_recv().unwrap();
    assert_eq!((offence.failures, offence.bantime), (2, BanTime::For(Seconds(540))));
    assert_eq!(detector.status(None, now).iter().map(|jail| jail.banned.len()).sum::<usize>(), 1);
}

/// What is pending, as (jail, address, count), sorted.
fn reported(detector: &mut Detector) -> Vec<(String, String, u32)> {
    let mut reporter = crate::uplink::report::Reporter::new("x".parse().unwrap(), 0);
    reporter.gather(detector.pending().unwrap());
    let now = "2025-09-05T11:20:00Z".parse().unwrap();
    let report = reporter.next(now).cloned();
    let mut failures: Vec<_> = report
        .into_iter()
        .flat_map(|report| report.failures)
        .map(|one| (one.jail.to_string(), one.address.to_string(), one.count))
        .collect();
    failures.sort_unstable();
    failures
}

#[test]
fn every_counted_failure_is_reported_once_and_those_of_the_spared_never() {
    let spares = "ignore = [\"192.0.2.7\"]\n";
    let asks = "[jail.b]\nsource = \"files\"\npaths = \"/x\"\nfailregex = '^ bad .*from <ADDR>$'\nignorecommand = \"true\"\n";
    let (mut detector, offences) = detector(&format!("{JAIL}{spares}{asks}"));
    let now: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    detector.set_enforcer_allow(Networks::try_from(vec!["192.0.2.8".to_owned()]).unwrap());
    let lines: Vec<String> = ["1", "1", "1", "2", "7", "7", "8", "8", "1"]
        .map(|host| format!("2025-09-05T11:17:32Z bad one from 192.0.2.{host}\n"))
        .to_vec();
    let old = "2025-09-05T10:17:32Z bad one from 192.0.2.3\n";
    detector.lines(&[0, 1], "x", format!("{}{old}", lines.concat()).as_bytes(), now);
    assert_eq!(offences.try_iter().filter(|offence| offence.jail.as_str() == "a").count(), 2);
    let of = |host: &str, count| ("a".to_owned(), format!("192.0.2.{host}"), count);
    assert_eq!(reported(&mut detector), [of("1", 4), of("2", 1)]);
    assert_eq!(reported(&mut detector), []);
    detector.set_reporting(false);
    detector.lines(&[0], "x", lines[0].as_bytes(), now);
    assert!(detector.pending().is_none());
}

#[test]
fn reports_have_the_addresses_as_seen_though_a_64_is_counted_as_one() {
    let (mut detector, offences) = detector(JAIL);
    let now: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    let block = b"2025-09-05T11:17:32Z bad x from 2001:db8::1\n2025-09-05T11:17:33Z bad x from 2001:db8::2\n";
    detector.lines(&[0], "x", block, now);
    let offence = offences.try_recv().unwrap();
    assert_eq!(offence.address.to_string(), "2001:db8::2");
    assert!(offence.evidence[0].text.ends_with("2001:db8::1"));
    let of = |host: &str| ("a".to_owned(), format!("2001:db8::{host}"), 1);
    assert_eq!(reported(&mut detector), [of("1"), of("2")]);
    assert_eq!(detector.banned(None, "2001:db8::9".parse().unwrap()).len(), 1);
}

#[test]
fn a_ban_is_resent_for_what_is_left_of_it_and_grows_no_more() {
    let (mut detector, offences) = detector(&format!("{JAIL}escalate = true\nbantime = \"10m\"\n"));
    let now: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    let (jail, address): (Name, IpAddr) = ("a".parse().unwrap(), "192.0.2.1".parse().unwrap());
    let line = b"2025-09-05T11:20:00Z bad x from 192.0.2.1\n".repeat(2);
    detector.lines(&[0], "x", &line, now);
    detector.ban(&jail, "192.0.2.2".parse().unwrap(), Some(BanTime::Permanent), now);
    detector.ban(&jail, "192.0.2.3".parse().unwrap(), Some(BanTime::For(Seconds(60))), now);
    assert!(offences.try_recv().unwrap().escalation.is_some());
    let later: Timestamp = "2025-09-05T11:24:59.5Z".parse().unwrap();
    assert_eq!(detector.standing(later).len(), 2);
    let resent = detector.resent(&jail, address, later).unwrap();
    assert_eq!((resent.time, resent.bantime), (later, BanTime::For(Seconds(301))));
    assert_eq!((resent.escalation, resent.evidence[0].source.as_str()), (None, "resent"));
    let for_ever = detector.resent(&jail, "192.0.2.2".parse().unwrap(), later).unwrap();
    assert_eq!(for_ever.bantime, BanTime::Permanent);
    assert_eq!(detector.resent(&jail, "192.0.2.3".parse().unwrap(), later), None);
    assert_eq!(detector.status(None, later)[0].offences, 3, "a ban that is resent is no new one");
    detector.lift(None, address);
    assert_eq!(detector.resent(&jail, address, later), None);
}

#[test]
fn how_fast_earlier_bans_are_forgotten_arrives_in_the_offence() {
    let (mut detector, offences) = detector(&format!("{JAIL}escalate = {{ decay = \"7d\" }}\n"));
    let now: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    let line = b"2025-09-05T11:20:00Z bad x from 192.0.2.1\n".repeat(2);
    detector.lines(&[0], "x", &line, now);
    let sent = serde_json::to_string(&offences.try_recv().unwrap()).unwrap();
    let offence: Offence = serde_json::from_str(&sent).unwrap();
    assert_eq!(offence.escalation.unwrap().decay, Some(Seconds(7 * 86_400)));
}

#[test]
fn good_logins_of_other_hosts_alone_are_reported() {
    let (mut detector, _offences) = detector("");
    for address in ["192.0.2.1", "127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0"] {
        let time = "2025-09-05T11:20:00Z".parse().unwrap();
        detector.good_login(address.parse().unwrap(), "sshd", "root", time);
    }
    assert_eq!(detector.reporting().unwrap().len(), 1);
}

#[test]
fn a_limit_that_the_kernel_saw_reached_is_one_offence_and_whom_the_jail_spares_is_spared() {
    let (mut detector, offences) = detector(
        "[jail.flood]\nsource = \"connections\"\nports = 22\nmaxretry = 12\nignore = [\"198.51.100.0/24\"]\n",
    );
    let now: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    let jail: Name = "flood".parse().unwrap();
    let mut reach = |address: &str, jail: &Name| {
        let address = address.parse().unwrap();
        let text = "12 connections to port 22 (sshd) in 60 s";
        detector.limit_reached(&LimitReached { jail, address, time: now, count: 12, text }, now);
    };
    for spared in ["198.51.100.7", "127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        reach(spared, &jail);
    }
    reach("192.0.2.1", &"gone".parse().unwrap());
    reach("192.0.2.1", &jail);
    let offence = offences.try_recv().unwrap();
    assert_eq!((offence.address.to_string(), offence.failures), ("192.0.2.1".to_owned(), 12));
    assert_eq!(offence.evidence[0].text, "12 connections to port 22 (sshd) in 60 s");
    assert!(offences.try_recv().is_err());
    let status = detector.status(None, now);
    assert_eq!((status[0].failures, status[0].offences, status[0].ignored), (12, 1, 1));
}

#[test]
fn whoever_logged_in_within_findtime_vouches_for_the_short_connections_of_the_whole_network() {
    let (mut detector, offences) =
        detector("[jail.short]\nsource = \"connections\"\nports = 22\nshort = \"10s\"\nfindtime = \"10m\"\n");
    let login: Timestamp = "2025-09-05T11:20:00Z".parse().unwrap();
    let jail: Name = "short".parse().unwrap();
    assert!(detector.wants_logins());
    detector.good_login("2001:db8::1".parse().unwrap(), "sshd", "root", login);
    for (minutes, address, offends) in [
        (1, "2001:db8::2", false),
        (10, "2001:db8::3", false),
        (1, "2001:db8:0:1::2", true),
        (11, "2001:db8::2", true),
    ] {
        let now = login + jiff::SignedDuration::from_mins(minutes);
        let address = address.parse().unwrap();
        detector.limit_reached(&LimitReached { jail: &jail, address, time: now, count: 10, text: "" }, now);
        assert_eq!(offences.try_recv().is_ok(), offends, "{address} after {minutes} min");
    }
    // What nobody asks for any more is not kept.
    detector.sweep(login + jiff::SignedDuration::from_mins(11));
    assert!(detector.logins.is_empty());
}

#[test]
fn the_kernel_counts_what_the_jails_say_and_no_short_connections_where_no_login_is_seen() {
    let (detector, _) = detector(
        "[jail.a]\nsource = \"logins\"\nservices = \"sshd\"\n[jail.b]\nsource = \"connections\"\n\
         [jail.c]\nsource = \"connections\"\nports = [80]\nshort = 10\n\
         [jail.d]\nsource = \"scan\"\ninterfaces = [\"eth1\", \"eth0\"]\n",
    );
    let guards = detector.guards(true);
    let of: Vec<&Guarded> = guards.iter().map(|guard| &guard.of).collect();
    let short = Some(Seconds(10));
    assert_eq!(
        of,
        [
            &Guarded::Connections { ports: vec![22], short: None },
            &Guarded::Connections { ports: vec![80], short },
            &Guarded::ClosedPorts { unverified: false },
        ]
    );
    assert!(!detector.guards(false).iter().any(|guard| guard.jail.as_str() == "c"));
    let wanted = detector.wants_connections().unwrap();
    assert_eq!(wanted.scans.unwrap().interfaces, ["eth0", "eth1"]);
}

#[test]
fn what_a_container_wrote_is_a_failure_at_the_engines_time_with_the_containers_name() {
    let sshd = "[jail.sshd]\nsource = \"files\"\npaths = \"/x\"\nmaxretry = 2\n[jail.nginx]\nsource = \"files\"\npaths = \"/x\"\nmaxretry = 1\n";
    let (mut detector, offences) = detector(sshd);
    let now: Timestamp = "2026-11-30T08:20:30Z".parse().unwrap();
    let time = "2026-11-30T08:20:00.5Z".parse().unwrap();
    let line = |text: &'static str| Carried { time: Some(time), text: text.as_bytes().into() };
    let lines = [
        // OpenSSH as it writes with `-e`, and a daemon with a date of its own.
        line("Failed password for root from 192.0.2.7 port 4022 ssh2"),
        line("Server listening on 0.0.0.0 port 22."),
        line(
            "2026/11/30 09:20:00 [error] 7#7: *1 user \"bob\": password mismatch, client: 192.0.2.8, server: _, request: \"GET / HTTP/1.1\", host: \"x\"",
        ),
        // One that the engine did not write.
        Carried {
            time: None,
            text: b"Nov 30 08:20:20 h sshd[1]: Failed password for root from 192.0.2.7 port 1 ssh2"[..]
                .into(),
        },
    ];
    detector.carried_lines(&[0, 1], "/x", || Some("web".to_owned()), &lines, now);
    let mut offences: Vec<Offence> = offences.try_iter().collect();
    offences.sort_by_key(|offence| offence.address);
    let [ssh, http] = offences.as_slice() else { panic!("{offences:#?}") };
    assert_eq!((ssh.address, http.address), ("192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap()));
    assert_eq!(http.evidence[0].source, "/x (container web)");
    assert_eq!(http.evidence[0].time, time);
    let sources: Vec<&str> = ssh.evidence.iter().map(|evidence| evidence.source.as_str()).collect();
    assert_eq!(sources, ["/x (container web)", "/x"]);
}

#[test]
fn an_entry_of_a_container_engine_is_read_as_what_the_container_wrote() {
    let (mut detector, offences) =
        detector("[jail.sshd]\nsource = \"journal\"\njournalmatch = \"\"\nmaxretry = 1\n");
    let entry = |engine: &str, user: u32| {
        let fields = format!(
            "_HOSTNAME=h|SYSLOG_IDENTIFIER=box|_PID=77|_COMM={engine}|_UID={user}|CONTAINER_NAME=box|\
             MESSAGE=Failed password for root from 192.0.2.7 port 4022 ssh2\n"
        );
        let fields = fields.split('|').map(|field| field.as_bytes().into()).collect();
        let mut entry = Entry::new("2026-11-30T08:20:00Z".parse().unwrap(), fields).unwrap();
        entry.places = [JournalPlace::default()].into();
        entry
    };
    let now: Timestamp = "2026-11-30T08:20:30Z".parse().unwrap();
    // A user's process can say that it is a container.
    for forged in [entry("conmon", 1000), entry("logger", 0)] {
        detector.journal(&forged, now);
        assert!(offences.try_recv().is_err(), "{forged:?}");
    }
    let elsewhere = JournalPlace { folder: Some("/srv".into()), ..JournalPlace::default() };
    let mut other = entry("conmon", 0);
    other.places = [elsewhere].into();
    detector.journal(&other, now);
    assert!(offences.try_recv().is_err(), "an entry of a journal that the jail does not read");
    detector.journal(&entry("conmon", 0), now);
    let offence = offences.try_recv().unwrap();
    assert_eq!(offence.address, "192.0.2.7".parse::<IpAddr>().unwrap());
    assert_eq!(offence.evidence[0].source, "journal (container box)");
}

#[test]
fn a_line_that_was_repeated_counts_as_often() {
    let (mut detector, offences) =
        detector("[jail.sshd]\nsource = \"files\"\npaths = \"/x\"\nmaxretry = 4\n");
    let now: Timestamp = "2026-11-30T08:20:30Z".parse().unwrap();
    let text = "Failed password for root from 192.0.2.7 port 1 ssh2";
    let line = format!("Nov 30 08:20:00 h sshd[1]: {text}\n");
    let repeated = format!("Nov 30 08:20:10 h sshd[1]: message repeated 3 times: [ {text}]\n");
    detector.lines(&[0], "x", line.as_bytes(), now);
    assert!(offences.try_recv().is_err());
    detector.lines(&[0], "x", repeated.as_bytes(), now);
    assert_eq!(offences.try_recv().unwrap().failures, 4);
}

#[test]
fn ports_that_a_router_dropped_count_once_each_and_of_those_alone_who_connected_unless_all_are_to_count() {
    let config = "[jail.routeros-drop]\nsource = \"syslog\"\nmaxretry = 3\n\
                  [jail.all]\nsource = \"syslog\"\nfilter = \"routeros-drop\"\nmaxretry = 3\nunverified = true\n\
                  [syslog]\nudp = [\"127.0.0.1:0\"]\n";
    let (mut detector, offences) = detector(config);
    let now: Timestamp = "2026-11-30T08:20:00Z".parse().unwrap();
    let peer: IpAddr = "198.51.100.1".parse().unwrap();
    let dropped = |detector: &mut Detector, from: &str, ports: &[u16]| -> Vec<(String, u32)> {
        for port in ports {
            let line = format!(
                "firewall,info drop input: in:ether1 out:(unknown 0), proto TCP (SYN), {from}:59388->198.51.100.1:{port}, len 40"
            );
            detector.syslog(peer, None, line.as_bytes(), now);
        }
        offences
            .try_iter()
            .map(|offence| {
                assert!(offence.is_scan() && offence.bantime == BanTime::For(Seconds(600)), "{offence:?}");
                assert!(
                    offence.evidence[0].text.starts_with("syslog from 198.51.100.1: firewall,info drop"),
                    "{offence:?}"
                );
                (offence.jail.to_string(), offence.failures)
            })
            .collect()
    };
    assert_eq!(dropped(&mut detector, "192.0.2.7", &[23; 20]), []);
    assert_eq!(dropped(&mut detector, "192.0.2.7", &[23, 22, 80]), [("all".to_owned(), 3)]);
    let known: IpAddr = "192.0.2.8".parse().unwrap();
    detector.set_connected(move |address| address == known);
    let both = [("all".to_owned(), 3), ("routeros-drop".to_owned(), 3)];
    assert_eq!(dropped(&mut detector, "192.0.2.8", &[1, 2, 3]), both);
    assert_eq!(dropped(&mut detector, "192.0.2.9", &[1, 2, 3]), [("all".to_owned(), 3)]);
    // Nothing of it is reported to fleet jails.
    assert!(detector.pending().unwrap().take().failures.is_empty());
    // The kernel remembers for the one jail who connected.
    assert!(detector.wants_connections().is_some_and(|wanted| wanted.scans.is_none()));
    let guards = detector.guards(true);
    assert_eq!(guards.iter().map(|guard| &guard.of).collect::<Vec<_>>(), [&Guarded::Handshakes]);
}

/// Lines of a jail's file, each so many milliseconds after the one before, by a clock that is behind by so many seconds.
fn write_behind(detector: &mut Detector, behind: i64, lines: &[(i64, &str)]) {
    let mut now: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
    for (after, text) in lines {
        now += jiff::SignedDuration::from_millis(*after);
        let date = now - jiff::SignedDuration::from_secs(behind);
        let line = format!("{} {text}\n", date.strftime("%Y-%m-%d %H:%M:%S"));
        detector.lines(&[0], "/x", line.as_bytes(), now);
    }
}

#[test]
fn failures_by_a_clock_that_is_hours_off_count_from_the_first_with_their_spacing() {
    let (mut detector, offences) = detector(&JAIL.replace("maxretry = 2", "maxretry = 3"));
    let bad = "bad one from 192.0.2.1";
    write_behind(&mut detector, 7200, &[(0, bad), (2000, bad), (3000, bad)]);
    let offence = offences.try_recv().unwrap();
    let times: Vec<String> = offence.evidence.iter().map(|piece| piece.time.to_string()).collect();
    assert_eq!(times, ["2026-11-30T10:00:00Z", "2026-11-30T10:00:02Z", "2026-11-30T10:00:05Z"]);
    let troubles = detector.status(None, offence.time).remove(0).troubles;
    assert_eq!(troubles, ["the clock of /x is 7200 s behind: its lines are corrected by that"]);
    assert_eq!(detector.skewed.len(), 1);
}

#[test]
fn lines_that_are_no_failures_tell_of_a_clock_too_once_it_is_in_doubt() {
    let (mut detector, offences) = detector(&JAIL.replace("maxretry = 2", "maxretry = 1"));
    write_behind(
        &mut detector,
        5000,
        &[(0, "bad one from 192.0.2.1"), (1500, "all is well"), (1500, "good")],
    );
    assert_eq!(offences.try_recv().unwrap().time.to_string(), "2026-11-30T10:00:00Z");
}

#[test]
fn a_backlog_is_of_its_own_dates_and_counts_as_old() {
    let (mut detector, offences) = detector(&JAIL.replace("maxretry = 2", "maxretry = 1"));
    let now: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
    for minute in 0..50 {
        let line = format!("2026-11-30 09:{minute:02}:00 bad one from 192.0.2.1\n");
        // A relay's queue: a line a second.
        detector.lines(&[0], "/x", line.as_bytes(), now + jiff::SignedDuration::from_secs(minute));
    }
    assert!(offences.try_recv().is_err());
    let later = now + jiff::SignedDuration::from_hours(1);
    detector.sweep(later);
    let totals = detector.totals().next().unwrap().2;
    assert_eq!((totals.failures, totals.old), (0, 50));
}

#[test]
fn the_syslog_listener_goes_by_arrival_where_a_senders_clock_is_off_and_leaves_other_senders_alone() {
    let config = "[jail.a]\nsource = \"syslog\"\nmaxretry = 3\nfailregex = '^ \\S+ bad .*from <ADDR>$'\n\
                  [syslog]\nudp = [\"127.0.0.1:0\"]\n";
    let (mut detector, offences) = detector(config);
    let now: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
    let peer: IpAddr = "198.51.100.1".parse().unwrap();
    let mut send = |host: &str, date: &str, from: u8| {
        let text = format!("{date} {host} bad one from 192.0.2.{from}");
        let time = crate::date::find(text.as_bytes(), now, &TimeZone::UTC).map(|(time, _)| time);
        detector.syslog(peer, time, text.as_bytes(), now + jiff::SignedDuration::from_millis(from.into()));
    };
    // RouterOS after its start, and one that is an hour off; a relay's queue, all by one peer.
    for (host, date, from) in [("edge", "Jan  2 00:00:11", 1), ("west", "Nov 30 09:00:00", 2)] {
        (0..3).for_each(|_| send(host, date, from));
    }
    for minute in 10..40 {
        send("relayed", &format!("Nov 30 09:{minute}:00"), 3);
    }
    let found: Vec<String> = offences.try_iter().map(|offence| offence.address.to_string()).collect();
    assert_eq!(found, ["192.0.2.1", "192.0.2.2"]);
}

#[test]
fn a_client_behind_a_nat64_is_the_ipv4_one_wherever_it_comes_from_and_spared_in_either_form() {
    let (mut detector, offences) = detector(
        "[defaults]\nnat64 = [\"2001:db8:64::/96\"]\nignore = [\"64:ff9b::192.0.2.50\", \"2001:db8:64::192.0.2.51\"]\n\
         [jail.a]\nsource = \"files\"\npaths = \"/x\"\nmaxretry = 2\nfailregex = '^ bad .*from <ADDR>$'\n\
         [jail.ssh]\nsource = \"logins\"\nmaxretry = 2\n\
         [jail.many]\nsource = \"connections\"\nports = [22]\n\
         [jail.exact]\nsource = \"connections\"\nports = [22]\nipv6_prefix = 128\n",
    );
    detector.set_nat64(Nat64::try_from(vec!["2001:db8:64::/96".to_owned()]).unwrap());
    detector.ignored.configured = ["2001:db8:64::192.0.2.52/128".parse().unwrap()].into_iter().collect();
    let now: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
    let found = |detector: &mut Detector, forms: [&str; 2]| {
        for address in forms {
            let line = format!("2026-11-30T10:00:00Z bad one from {address}\n");
            detector.lines(&[0], "/x", line.as_bytes(), now);
            let address = address.parse().unwrap();
            detector.failed_login(
                &FailedLogin { address, service: "sshd", program: "sshd", time: now, text: "" },
                now,
            );
        }
        offences.try_iter().map(|offence| format!("{} {}", offence.jail, offence.address)).collect::<Vec<_>>()
    };
    let both = ["a 192.0.2.1", "ssh 192.0.2.1"];
    assert_eq!(found(&mut detector, ["64:ff9b::c000:201", "192.0.2.1"]), both);
    assert_eq!(found(&mut detector, ["2001:db8:64::c000:201", "::ffff:192.0.2.1"]), both);
    // Each host by itself, not all of the /64.
    assert_eq!(found(&mut detector, ["64:ff9b::c000:202", "64:ff9b::c000:203"]), [""; 0]);
    for spared in ["192.0.2.50", "192.0.2.51", "192.0.2.52"] {
        assert_eq!(found(&mut detector, [spared, spared]), [""; 0], "{spared}");
    }
    // The kernel counts those behind a prefix of one's own as one, unless it is told to count each address.
    for (jail, offends) in [("many", false), ("exact", true)] {
        let jail = jail.parse().unwrap();
        let address = "2001:db8:64::c000:207".parse().unwrap();
        detector.limit_reached(&LimitReached { jail: &jail, address, time: now, count: 30, text: "" }, now);
        assert_eq!(offences.try_iter().map(|offence| offence.address.to_string()).next().is_some(), offends);
    }
    detector.good_login("2001:db8:64::c000:209".parse().unwrap(), "sshd", "anna", now);
    let logins = detector.pending().unwrap().take().logins;
    assert_eq!(logins.keys().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.9"]);
    // Bans by hand, and taking them back.
    let jail = "ssh".parse().unwrap();
    detector.ban(&jail, "2001:db8:64::c000:20a".parse().unwrap(), None, now).unwrap();
    assert_eq!(detector.banned(None, "2001:db8:64::c000:20a".parse().unwrap()).len(), 1);
}
