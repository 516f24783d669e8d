use proptest::prelude::*;

use super::*;

const BEGIN: &str = r#"{"begin":{"version":1,"ledger":"l","stream":"s","resumed":false}}"#;
const RESUMED: &str = r#"{"begin":{"version":1,"ledger":"l","stream":"s","resumed":true}}"#;
const BAN: &str = r#"{"ban":{"net":"192.0.2.1","ms":60000}}"#;
const LIFT: &str = r#"{"lift":{"net":"192.0.2.1"}}"#;
const MARK: &str = r#"{"mark":{"through":7}}"#;
const WITHIN: &str = r#"{"mark":{"through":5,"after":"192.0.2.1"}}"#;

/// What lines that arrive together change.
fn read(reading: &mut Reading, lines: &[&str], now: Instant) -> Result<Vec<BanChange>, StreamError> {
    let mut changes = Vec::new();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    reading.read(text.as_bytes(), now, &mut changes).map(|()| changes)
}

fn position(through: u64, after: Option<&str>) -> Position {
    let after = after.map(|network| network.parse().unwrap());
    Position { stream: "s".parse().unwrap(), through, after }
}

fn reset(answered: u64) -> BanChange {
    BanChange::Reset { ledger: "l".parse().unwrap(), answered }
}

fn network() -> IpNet {
    "192.0.2.1/32".parse().unwrap()
}

#[test]
fn the_allow_list_is_read_anew_where_its_number_or_the_stream_is_another_and_not_after_a_cut() {
    let (mut reading, now) = (Reading::default(), Instant::now());
    let other = BEGIN.replace(r#""s""#, r#""t""#);
    let mark = |allow: u64| format!(r#"{{"mark":{{"through":7,"allow":{allow}}}}}"#);
    for (lines, expected) in [
        (vec![BEGIN.to_owned(), mark(0)], 1),
        (vec![mark(0)], 0),
        (vec![mark(1), mark(1), MARK.to_owned(), mark(1)], 1),
        (vec!["cut".to_owned(), RESUMED.to_owned(), mark(1)], 0),
        (vec!["cut".to_owned(), other, mark(1)], 1),
    ] {
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        if lines[0] == "cut" {
            reading.connect(0);
            lines.remove(0);
        }
        let changes = read(&mut reading, &lines, now).unwrap();
        let allow = changes.iter().filter(|change| **change == BanChange::AllowList).count();
        assert_eq!(allow, expected, "{lines:?}");
    }
}

#[test]
fn a_snapshot_that_is_cut_goes_on_and_is_whole_at_the_first_mark_outside_it() {
    let (mut reading, now) = (Reading::default(), Instant::now());
    assert_eq!(reading.connect(3), None);
    let ban = BanChange::Ban { network: network(), ends: Ends::At(now + Duration::from_secs(60)) };
    assert_eq!(read(&mut reading, &[BEGIN, BAN, WITHIN], now).unwrap(), [reset(3), ban.clone()]);
    assert!(!reading.is_whole());

    assert_eq!(reading.connect(4), Some(position(5, Some("192.0.2.1/32"))));
    let reached = BanChange::Reached(position(7, None));
    assert_eq!(
        read(&mut reading, &[RESUMED, BAN, MARK], now).unwrap(),
        [ban.clone(), BanChange::Whole, reached]
    );
    assert!(reading.is_whole());

    // From there on only what changes, and a heartbeat changes nothing.
    assert_eq!(reading.connect(5), Some(position(7, None)));
    let lift = BanChange::Lift { network: network() };
    assert_eq!(read(&mut reading, &[RESUMED, LIFT, MARK, MARK], now).unwrap(), [lift]);

    // Another ledger, another run, or too far behind: all anew, also on the same connection.
    assert_eq!(read(&mut reading, &[BEGIN, BAN], now).unwrap(), [reset(5), ban]);
    assert_eq!(reading.connect(6), None);
}

#[test]
fn a_permanent_ban_has_no_end_and_one_longer_than_the_clock_neither() {
    let now = Instant::now();
    assert_eq!(Ends::of(Left::Permanent, now), Ends::Never);
    assert!(Ends::of(Left::Milliseconds(Left::LONGEST), now) > Ends::At(now));
    assert_eq!(Ends::of(Left::Milliseconds(0), now), Ends::At(now));
    assert!(Ends::Never > Ends::At(now));
}

#[test]
fn what_makes_no_sense_ends_the_connection_and_says_what_it_was() {
    let now = Instant::now();
    let refused = |from: Option<Position>, lines: &[&str]| {
        let mut reading = Reading::new(from);
        reading.connect(0);
        read(&mut reading, lines, now).unwrap_err().to_string()
    };
    assert!(refused(None, &[BAN]).contains("before its beginning"));
    assert!(refused(None, &[RESUMED]).contains("not asked for"));
    assert!(refused(Some(position(1, None)), &[RESUMED, RESUMED]).contains("not asked for"));
    let other = RESUMED.replace("\"s\"", "\"t\"");
    assert!(refused(Some(position(1, None)), &[&other]).contains("not asked for"));
    assert!(refused(None, &[&BEGIN.replace("\"version\":1", "\"version\":2")]).contains("version 2"));
    assert!(refused(Some(position(8, None)), &[RESUMED, MARK]).contains("goes back"));
    assert!(refused(None, &[BEGIN, MARK, WITHIN]).contains("goes back"));
    let before = WITHIN.replace("192.0.2.1", "192.0.2.0");
    assert!(refused(None, &[BEGIN, WITHIN, &before]).contains("goes back"));
    let nonsense = refused(None, &[BEGIN, &BAN.replace("192.0.2.1", "192.0.2.1/33")]);
    assert!(nonsense.contains("192.0.2.1/33") && nonsense.contains("neither an address"), "{nonsense}");
    let long = refused(None, &[BEGIN, &"{".repeat(9000)]);
    assert!(long.contains("longer than 512 bytes"), "{long}");
    assert!(refused(None, &["\u{1b}[31m"]).contains(r"\u{1b}"));
}

#[test]
fn a_line_without_an_end_is_refused_before_it_fills_the_memory() {
    let (mut reading, mut changes) = (Reading::default(), Vec::new());
    reading.connect(0);
    let ended = (0..1000).position(|_| reading.read(b"          ", Instant::now(), &mut changes).is_err());
    assert_eq!(ended, Some(MAX_BAN_LINE.div_ceil(10) - 1));
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut(cuts in prop::collection::vec(1..90usize, 1..20)) {
        let text = [BEGIN, BAN, WITHIN, LIFT, BAN, MARK, LIFT, MARK].map(|line| format!("{line}\n")).concat();
        let now = Instant::now();
        let mut whole = Vec::new();
        Reading::default().read(text.as_bytes(), now, &mut whole).unwrap();
        let (mut reading, mut changes, mut rest) = (Reading::default(), Vec::new(), text.as_bytes());
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            reading.read(piece, now, &mut changes).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(changes, whole);
    }

    #[test]
    fn no_bytes_cause_a_panic_or_more_than_a_line_in_memory(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..600),
            prop::sample::select(vec![BEGIN, RESUMED, BAN, LIFT, MARK, WITHIN])
                .prop_map(|line| format!("{line}\n").into_bytes()),
        ], 0..20)
    ) {
        let (mut reading, mut changes) = (Reading::new(Some(position(3, None))), Vec::new());
        for piece in pieces {
            if reading.read(&piece, Instant::now(), &mut changes).is_err() {
                reading.connect(0);
            }
            prop_assert!(reading.rest.len() < MAX_BAN_LINE);
        }
    }
}
