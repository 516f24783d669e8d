use proptest::prelude::*;
use rstest::rstest;

use super::*;

const SEED: &str = r"^.*\[\s*<HOST>\s*\].*Error: authentication failed";
const LINE: &str = "2025-09-05T11:17:32.937307-03:00 server_auth VPS-uIMVkzSz[212.11.64.212] 1757081850-967898-29275-965059-1 1757081851 1757081852 RECV - - 2 83 535 Error: authentication failed [usuario_que_no_existe]";

fn filter(regex: &str) -> Filter {
    Filter::new(&[regex.to_owned()], &[]).unwrap()
}

fn address(regex: &str, line: &str) -> Option<String> {
    match filter(regex).find(line.as_bytes()) {
        LineOutcome::Matched(Match { host: Host::Address(address), .. }) => Some(address.to_string()),
        _ => None,
    }
}

#[test]
fn todays_users_pattern_finds_its_address() {
    assert_eq!(address(SEED, LINE).as_deref(), Some("212.11.64.212"));
    assert!(filter(SEED).warnings().is_empty());
    let LineOutcome::Matched(found) = filter(SEED).find(LINE.as_bytes()) else { panic!("missed") };
    assert_eq!(&LINE[found.span], "212.11.64.212");
}

#[rstest]
#[case("x[203.0.113.9] Error: authentication failed")]
#[case("[203.0.113.9] Error: authentication failed")]
#[case("x] [203.0.113.9] Error: authentication failed [203.0.113.9")]
#[case("[::ffff:203.0.113.9] Error: authentication failed")]
fn a_user_name_that_looks_like_a_failure_bans_nobody_else(#[case] user: &str) {
    let line = LINE.replace("usuario_que_no_existe", user);
    assert_eq!(address(SEED, &line).as_deref(), Some("212.11.64.212"));
}

#[test]
fn a_process_id_in_brackets_is_not_taken_for_the_host() {
    let line = "Sep  5 11:17:32 mx smtpd[1234]: VPS-x[192.0.2.1] 535 Error: authentication failed [u]";
    assert_eq!(address(SEED, line).as_deref(), Some("192.0.2.1"));
    let line =
        "Sep  5 11:17:32 mx smtpd[1234]: [11:17:32] VPS-x[192.0.2.1] 535 Error: authentication failed [u]";
    assert_eq!(address(SEED, line).as_deref(), Some("192.0.2.1"));
}

#[test]
fn a_second_wildcard_changes_nothing_about_which_place_is_found() {
    let greedy = r"^.*a.+ <HOST> .*fail";
    assert_eq!(address(greedy, "a x 192.0.2.1 fail 203.0.113.9 y").as_deref(), Some("192.0.2.1"));
    let blanks = r"^.*\[<HOST>[\] -]*.* - fail";
    assert_eq!(address(blanks, "[192.0.2.1] - fail [203.0.113.9] - fail").as_deref(), Some("192.0.2.1"));
}

#[rstest]
#[case("Failed password for .* from <HOST>", true)]
#[case("Failed password for .* from <HOST> .*$", true)]
#[case(r"Failed password for .* from <HOST> port \d+ ssh2$", false)]
#[case(r"Failed password for \S+ from <HOST>", false)]
#[case("^.*Failed password from <HOST>", false)]
#[case(r"authentication failure;.* rhost=<HOST>(?:\s+user=\S*)?\s*$", false)]
#[case(r"for (?:invalid user )?[^;]+ from <HOST>", true)]
fn a_pattern_that_an_attacker_can_bend_is_warned_of(#[case] regex: &str, #[case] bendable: bool) {
    assert_eq!(!filter(regex).warnings().is_empty(), bendable, "{regex}");
}

#[test]
fn a_wildcard_inside_means_what_it_says() {
    let line =
        "sshd: Failed password for invalid user a from 203.0.113.9 port 1 ssh2 from 192.0.2.1 port 5 ssh2";
    let anchored = r"Failed password for .* from <HOST> port \d+ ssh2$";
    assert_eq!(address(anchored, line).as_deref(), Some("192.0.2.1"));
}

#[test]
fn look_around_is_searched_behind_a_limit() {
    let regex = r"^user (?!root)\S+ from <HOST>$";
    assert_eq!(address(regex, "user bob from 192.0.2.1").as_deref(), Some("192.0.2.1"));
    assert_eq!(address(regex, "user root from 192.0.2.1"), None);
    let conditional = r"^(?P<inv>invalid )?user (?(inv)\d+|[a-z]+) from <HOST>$";
    assert_eq!(address(conditional, "invalid user 7 from 192.0.2.1").as_deref(), Some("192.0.2.1"));
    assert_eq!(address(conditional, "user 7 from 192.0.2.1"), None);

    let mut hostile = filter(r"^(?:(?=a)a|a)*c from <HOST>$");
    assert_eq!(hostile.find(&[b'a'; 5000]), LineOutcome::Missed);
    assert_eq!(hostile.exhausted, 1);
    assert!(matches!(hostile.find(b"aac from 192.0.2.1"), LineOutcome::Matched(_)));
    assert!(matches!(hostile.find(b"aac from 192.0.2.1\xff"), LineOutcome::Missed));
}

#[test]
fn pythons_ways_of_writing_are_understood() {
    assert_eq!(address("((?i)from) <HOST>", "FROM 192.0.2.1").as_deref(), Some("192.0.2.1"));
    assert_eq!(address("to {x} from <HOST>$", "to {x} from 192.0.2.1").as_deref(), Some("192.0.2.1"));
    assert_eq!(address("^<F-ID/> failed", "192.0.2.1 failed").as_deref(), Some("192.0.2.1"));
}

#[test]
fn what_is_marked_as_no_failure_is_none_outside_a_session_too() {
    let regex =
        "^<F-NOFAIL>hello</F-NOFAIL> from <HOST>$|^<F-MLFGAINED>welcome</F-MLFGAINED> <F-USER>.*</F-USER>$";
    assert_eq!(address(regex, "hello from 192.0.2.1"), None);
    assert_eq!(
        address("^<F-NOFAIL>hello </F-NOFAIL>?from <HOST>$", "from 192.0.2.1").as_deref(),
        Some("192.0.2.1")
    );
}

#[test]
fn the_lines_of_a_session_are_one_story() {
    let regexes = [
        r"^<F-NOFAIL>connect</F-NOFAIL> from <HOST>$",
        r"^bad password for <F-USER>\S+</F-USER>$",
        r"^<F-MLFGAINED>welcome</F-MLFGAINED> <F-USER>\S+</F-USER>$",
        r"^<F-NOFAIL><F-MLFFORGET>bye</F-MLFFORGET></F-NOFAIL>$",
    ]
    .map(str::to_owned);
    let prefix = r"^<F-MLFID>daemon\[\d+\]</F-MLFID>: <F-CONTENT>.+</F-CONTENT>$";
    let definition = FilterDefinition {
        prefregex: Some(prefix.to_owned()),
        failregex: regexes.to_vec(),
        ..FilterDefinition::default()
    };
    let mut filter = definition.compile().unwrap();
    for (line, expected) in [
        ("daemon[1]: connect from 192.0.2.1", None),
        ("daemon[2]: bad password for bob", None),
        ("daemon[1]: bad password for bob", Some("192.0.2.1")),
        ("other[1]: bad password for bob", None),
        // Its failure waited for the address.
        ("daemon[2]: connect from 192.0.2.2", Some("192.0.2.2")),
        ("daemon[3]: connect from 192.0.2.3", None),
        ("daemon[3]: welcome bob", None),
        ("daemon[3]: bye", None),
        ("daemon[1]: bye", None),
        // The session is over: whose failure this is, nobody knows.
        ("daemon[1]: bad password for eve", None),
    ] {
        let found = match filter.find(line.as_bytes()) {
            LineOutcome::Matched(Match { host: Host::Address(address), .. }) => Some(address.to_string()),
            _ => None,
        };
        assert_eq!(found.as_deref(), expected, "{line}");
    }
}

#[rstest]
#[case("from 1.2.3.4", Some("1.2.3.4"))]
#[case("from 1.2.3.4:5060", Some("1.2.3.4"))]
#[case("from 1.2.3.4.", Some("1.2.3.4"))]
#[case("from 1.2.3.4, x", Some("1.2.3.4"))]
#[case("from ::ffff:1.2.3.4", Some("1.2.3.4"))]
#[case("from 2001:DB8::1", Some("2001:db8::1"))]
#[case("from 2001:db8::", Some("2001:db8::"))]
#[case("from 2001:db8:a:b::1:1 port 2", Some("2001:db8:a:b::1:1"))]
#[case("from ::ffff:1.2.3.4:60495", Some("1.2.3.4"))]
#[case("from 1:2:3:4:5:6:7:8", Some("1:2:3:4:5:6:7:8"))]
#[case("from ::1", Some("::1"))]
#[case("from 1.2.3.4.evil.example", None)]
#[case("from 1.2.3.4-evil.example", None)]
#[case("from 1.2.3.4evil", None)]
#[case("from 1.2.3.4.5", None)]
#[case("from 1.2.3.400", None)]
#[case("from 999.2.3.4", None)]
#[case("from evil.example", None)]
// The ninth may be a port; a tenth makes it no address.
#[case("from 1:2:3:4:5:6:7:8:9", Some("1:2:3:4:5:6:7:8"))]
#[case("from 1:2:3:4:5:6:7:8:9:a", None)]
fn only_a_whole_address_counts(#[case] line: &str, #[case] expected: Option<&str>) {
    assert_eq!(address("from <HOST>", line).as_deref(), expected);
}

#[rstest]
#[case("key aa:bb:cc:dd:ee:ff:00:11:22:33 fail", None)]
#[case("at 10:00:00 2001:db8::7 fail", Some("2001:db8::7"))]
#[case("at 10:00:00 2001:db8::7:50058 fail", Some("2001:db8::7"))]
#[case("udp6:2001:db8::7:50058 fail", Some("2001:db8::7"))]
#[case("client:::ffff:192.0.2.1 fail", Some("192.0.2.1"))]
#[case("2001:db8::7::5 fail", None)]
fn behind_a_wildcard_no_part_of_a_longer_run_counts(#[case] line: &str, #[case] expected: Option<&str>) {
    assert_eq!(address("^.*<HOST>.* fail$", line).as_deref(), expected);
    assert_eq!(address("^.*<HOST>.*f.*l$", line).as_deref(), expected);
}

#[test]
fn a_group_that_is_named_as_a_host_is_one() {
    let mut named = filter("^from <F-IP6>[0-9a-f:]+</F-IP6> or <F-IP4>[0-9.]+</F-IP4>$");
    let found = |verdict| match verdict {
        LineOutcome::Matched(Match { host: Host::Address(address), .. }) => Some(address.to_string()),
        _ => None,
    };
    assert_eq!(found(named.find(b"from 2001:db8::7 or 192.0.2.1")).as_deref(), Some("192.0.2.1"));
    assert_eq!(address(r"^by (?P<ip6>\S+) now$", "by 2001:db8::7 now").as_deref(), Some("2001:db8::7"));
    assert_eq!(filter(r"^by (?P<dns>\S+) now$").find(b"by evil.example now"), named_host("evil.example", 3));
    assert!(!filter("^.+ <F-IP4>[0-9.]+</F-IP4> .*").warnings().is_empty());
}

fn named_host(name: &str, at: usize) -> LineOutcome {
    let host = Host::Name(name.to_owned());
    LineOutcome::Matched(Match {
        host,
        regex: 0,
        span: at..at + name.len(),
        user: None,
        port: None,
        times: 1,
        dated: None,
    })
}

#[test]
fn a_host_name_is_told_apart() {
    let verdict = filter("from <HOST>").find(b"from evil.example today");
    let LineOutcome::Matched(found) = verdict else { panic!("missed") };
    assert_eq!(found.host, Host::Name("evil.example".to_owned()));
}

#[test]
fn the_date_is_cut_out_so_that_the_pattern_begins_after_it() {
    for line in ["2025-09-05T11:17:32Z sshd: bye 192.0.2.1", "Sep  5 11:17:32 sshd: bye 192.0.2.1"] {
        assert_eq!(address(r"^\s*sshd: bye <HOST>$", line).as_deref(), Some("192.0.2.1"), "{line}");
    }
    // A priority before it too, unless the regex wants it.
    let line = "<34>Sep  5 11:17:32 sshd: bye 192.0.2.1";
    for regex in [r"^ sshd: bye <HOST>$", r"^<\d+> sshd: bye <HOST>$", r"^(?:<[0-9]+>)? sshd: bye <HOST>$"] {
        assert_eq!(address(regex, line).as_deref(), Some("192.0.2.1"), "{regex}");
    }
    let LineOutcome::Matched(found) = filter("bye <HOST>$").find(b"<34>Sep  5 11:17:32 x bye 192.0.2.1\r\n")
    else {
        panic!("missed")
    };
    assert_eq!(found.span, 26..35);
}

#[test]
fn broken_utf8_in_a_user_name_hides_nothing() {
    let mut line = b"x[192.0.2.1] ".to_vec();
    line.extend([0xff, 0x00, 0xc3]);
    line.extend(b" Error: authentication failed");
    assert!(matches!(filter(SEED).find(&line), LineOutcome::Matched(_)));
}

#[test]
fn an_ignoreregex_wins() {
    let mut filter = Filter::new(&["from <HOST>".to_owned()], &["monitoring".to_owned()]).unwrap();
    assert_eq!(filter.find(b"monitoring from 192.0.2.1"), LineOutcome::Ignored);
    assert!(matches!(filter.find(b"from 192.0.2.1"), LineOutcome::Matched(_)));
}

#[rstest]
#[case(r"\<<HOST>\>", "<192.0.2.1>")]
#[case(r"[[]<HOST>[]]", "[192.0.2.1]")]
#[case(r"from <ADDR>\Z", "from 192.0.2.1")]
#[case(r"user=<F-USER>\S*</F-USER> from <HOST>", "user=x from 192.0.2.1")]
#[case(r"(?i)FROM <IP4>", "from 192.0.2.1")]
#[case(r"a\-b\/c\@d <HOST>", "a-b/c@d 192.0.2.1")]
fn pythons_way_of_writing_is_understood(#[case] regex: &str, #[case] line: &str) {
    assert_eq!(address(regex, line).as_deref(), Some("192.0.2.1"));
}

#[rstest]
#[case("no host", "<HOST>")]
#[case("<HOST> <HOST>", "more than one")]
#[case("(<HOST>", "unclosed group")]
#[case("", "empty")]
fn a_regex_that_cannot_be_used_says_why(#[case] regex: &str, #[case] says: &str) {
    let error = Filter::new(&[regex.to_owned()], &[]).unwrap_err().to_string();
    assert!(error.contains(says), "{regex}: {error}");
}

#[test]
fn a_long_hostile_line_takes_time_in_proportion_to_its_length() {
    // Quadratic time would be 2^20 times that of one address; a test of time would be one of the
    // machine, so the work is counted: the engine searches at most RETRIES times.
    let line = "[1.1.1.1]".repeat(64 * 1024 / 9);
    assert_eq!(filter(SEED).find(line.as_bytes()), LineOutcome::Missed);
    let line = "[1.1.1.1.x]".repeat(64 * 1024 / 11) + "Error: authentication failed";
    assert!(!matches!(
        filter(SEED).find(line.as_bytes()),
        LineOutcome::Matched(Match { host: Host::Address(_), .. })
    ));
}

proptest! {
    #[test]
    fn a_block_gives_what_its_lines_give(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "\n", "\r\n", "[192.0.2.1]", "Error: authentication failed", "from 198.51.100.7", " ", "x",
                "2025-09-05T11:17:32Z ", "bye", "é", "monitoring",
            ]),
            0..60,
        ),
        both in any::<bool>(),
    ) {
        let block = parts.concat();
        let mut regexes = vec![SEED.to_owned()];
        if both {
            regexes.push("bye.*from <HOST>".to_owned());
        }
        let mut filter = Filter::new(&regexes, &["monitoring".to_owned()]).unwrap();
        let mut found = Vec::new();
        filter.find_in_block(block.as_bytes(), |line, verdict| found.push((line.to_vec(), verdict)));
        let expected: Vec<_> = lines(block.as_bytes())
            .map(|line| (trim_end(line).to_vec(), filter.find(line)))
            .filter(|(_, verdict)| *verdict != LineOutcome::Missed)
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_pattern_and_no_line_cause_a_panic(
        regex in "(\\PC|[<>HOST^.*()\\[\\]\\\\?|+]){0,20}",
        line in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        if let Ok(mut filter) = Filter::new(&[regex], &[]) {
            filter.find(&line);
        }
    }
}

#[test]
fn a_filter_that_counts_ports_finds_the_port_and_needs_one_in_each_regex() {
    let definition = |regex: &str| FilterDefinition {
        failregex: vec![regex.to_owned()],
        counts: CountedThing::Ports,
        ..FilterDefinition::default()
    };
    let mut filter = definition(r"^<ADDR>:\d+->\S+:<F-PORT>\d+</F-PORT>$").compile().unwrap();
    assert!(filter.counts_ports());
    let mut port = |line: &[u8]| match filter.find(line) {
        LineOutcome::Matched(Match { port, .. }) => port,
        _ => panic!("missed"),
    };
    assert_eq!(port(b"192.0.2.7:59388->198.51.100.1:23"), Some(23));
    assert_eq!(port(b"192.0.2.7:59388->198.51.100.1:65536"), None);
    let error = definition("^<ADDR> x$").compile().unwrap_err().to_string();
    assert!(error.contains("<F-PORT>"), "{error}");
}
