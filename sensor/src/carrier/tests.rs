use proptest::prelude::*;
use rstest::rstest;

use super::*;

/// Written by conmon 2.1.6 (`--log-path k8s-file:…`) for a program that wrote: `one`; `two` to its standard error; `no end `
/// without a line end and a moment later `and end`; 9,000 `x` and a text; a line to its standard error; `last` without
/// a line end.
const CONMON: &[u8] = include_bytes!("conmon.log");

/// A record as Docker writes it (`daemon/logger/jsonfilelog/jsonlog/jsonlogbytes.go`).
fn docker(text: &str, stream: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '<' | '>' | '&' | '\0'..' ' => escaped.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => escaped.push(character),
        }
    }
    format!("{{\"log\":\"{escaped}\",\"stream\":\"{stream}\",\"time\":\"2026-11-30T08:20:00.123456789Z\"}}\n")
}

fn cri(text: &str, stream: &str, tag: &str) -> String {
    format!("2026-11-30T08:20:00.123456789Z {stream} {tag} {text}\n")
}

fn texts(unpacker: &mut Unpacker, lines: &[u8]) -> Vec<String> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    let carried = lines.filter_map(|line| unpacker.take(line));
    carried.map(|carried| String::from_utf8_lossy(&carried.text).into_owned()).collect()
}

#[test]
fn what_a_program_wrote_is_read_out_of_conmons_file_line_by_line() {
    let mut unpacker = Unpacker::new(Carrier::of(CONMON).unwrap());
    let long = format!("{} Failed password for root from 192.0.2.7 port 1 ssh2", "x".repeat(9000));
    let expected =
        ["one", "two", "no end and end", &long, "Failed password for root from 192.0.2.7 port 4022 ssh2"];
    assert_eq!(texts(&mut unpacker, CONMON), expected);
    // What has no line end yet.
    assert_eq!(unpacker.kept(), "last".len());
}

#[rstest]
#[case(docker("a", "stdout"), Some(Carrier::Docker))]
#[case(cri("a", "stderr", "F"), Some(Carrier::Cri))]
#[case(cri("", "stdout", "P"), Some(Carrier::Cri))]
#[case(cri("a", "stdout", "F:x"), Some(Carrier::Cri))]
#[case("2026-11-30T08:20:00.123456789+00:00 stderr F a\n".to_owned(), Some(Carrier::Cri))]
#[case("2026-11-30T08:20:00+01:00 stderr F a\n".to_owned(), Some(Carrier::Cri))]
#[case("2026-11-30T08:20:00Z stderr F\n".to_owned(), Some(Carrier::Cri))]
#[case("2026-11-30T08:20:00Z host F a\n".to_owned(), None)]
#[case("2026-11-30T08:20:00Z stdout sshd[1]: a\n".to_owned(), None)]
#[case("2026-11-30 08:20:00Z stdout F a\n".to_owned(), None)]
#[case("yesterday stdout F a\n".to_owned(), None)]
#[case("{\"level\":\"info\",\"log\":\"a\"}\n".to_owned(), None)]
#[case("Nov 30 08:20:00 host sshd[1]: a\n".to_owned(), None)]
#[case("\n".to_owned(), None)]
fn a_file_is_of_the_form_of_its_first_line(#[case] first: String, #[case] expected: Option<Carrier>) {
    let smuggled = [docker("b", "stdout"), cri("b", "stdout", "F")].concat();
    assert_eq!(Carrier::of(format!("{first}{smuggled}").as_bytes()), expected);
}

#[test]
fn docker_escapes_and_moments_are_read() {
    let text = "Failed password for <\"\\>\t& from 192.0.2.7 é\n";
    let line = docker(text, "stderr");
    let mut unpacker = Unpacker::new(Carrier::Docker);
    let carried = unpacker.take(line.as_bytes()).unwrap();
    assert_eq!(carried.text, text.trim_end().as_bytes());
    assert_eq!(carried.time, Some("2026-11-30T08:20:00.123456789Z".parse().unwrap()));
    // What `--log-opt labels` and `tag` add.
    let line = line.replace(",\"time\"", ",\"attrs\":{\"tag\":\"web\",\"a\":\"b\"},\"time\"");
    assert_eq!(unpacker.take(line.as_bytes()).unwrap().text, text.trim_end().as_bytes());
}

#[test]
fn the_pieces_of_each_stream_are_joined_whatever_stands_between_them() {
    let forms: [fn(&str, &str, bool) -> String; 2] = [
        |text, stream, ends| docker(&format!("{text}{}", if ends { "\n" } else { "" }), stream),
        |text, stream, ends| cri(text, stream, if ends { "F" } else { "P" }),
    ];
    for line in forms {
        let lines = [
            line("a", "stdout", false),
            line("x", "stderr", true),
            line("b", "stdout", false),
            line("y", "stderr", false),
            line("c", "stdout", true),
            line("z", "stderr", true),
            line("d", "stdout", true),
        ]
        .concat();
        let mut unpacker = Unpacker::new(Carrier::of(lines.as_bytes()).unwrap());
        assert_eq!(texts(&mut unpacker, lines.as_bytes()), ["x", "abc", "yz", "d"]);
        assert!(unpacker.is_empty());
        assert_eq!(unpacker.take_cut(), 0);
    }
}

#[test]
fn no_piece_becomes_a_line_of_its_own_where_reading_begins_behind_the_first() {
    let before = [cri("a user agent of ", "stdout", "P"), cri("seen", "stderr", "F")].concat();
    let rest =
        [cri("Failed password for root from 203.0.113.66", "stdout", "F"), cri("b", "stdout", "F")].concat();
    let all = |before: &str, is_all| {
        let mut unpacker = Unpacker::within(Carrier::Cri, before.as_bytes(), is_all);
        texts(&mut unpacker, rest.as_bytes())
    };
    assert_eq!(all(&before, true), ["a user agent of Failed password for root from 203.0.113.66", "b"]);
    // Its beginning is too far back.
    assert_eq!(all(&before, false), ["b"]);
    assert_eq!(all(&cri("end", "stdout", "F"), false), ["Failed password for root from 203.0.113.66", "b"]);
    assert_eq!(all("", true), ["Failed password for root from 203.0.113.66", "b"]);
}

#[test]
fn a_line_that_never_ends_keeps_a_bounded_part_of_it() {
    let piece = cri(&"x".repeat(16 * 1024), "stdout", "P");
    let mut unpacker = Unpacker::new(Carrier::Cri);
    for _ in 0..40 {
        assert_eq!(unpacker.take(piece.as_bytes()), None);
        assert!(unpacker.kept() <= LONGEST);
    }
    let text = unpacker.take(cri("end", "stdout", "F").as_bytes()).unwrap().text.into_owned();
    assert_eq!(text.len(), LONGEST);
    assert!(unpacker.take_cut() > 0);
    unpacker.take(piece.as_bytes());
    unpacker.give_up();
    assert_eq!(unpacker.kept(), 0);
    assert_eq!(texts(&mut unpacker, cri("end", "stdout", "F").as_bytes()), [""; 0]);
    assert_eq!(texts(&mut unpacker, cri("next", "stdout", "F").as_bytes()), ["next"]);
}

#[test]
fn a_line_of_no_such_form_is_read_as_it_is() {
    for line in [
        "Nov 30 08:20:00 host sshd[1]: a",
        r#"{"log":"a\n","stream":"stdout","time":"x"}"#,
        r#"{"log":"a\n","more":1}"#,
    ] {
        for carrier in [Carrier::Docker, Carrier::Cri] {
            let carried = Unpacker::new(carrier)
                .take(line.as_bytes())
                .map(|carried| (carried.time, carried.text.into_owned()));
            assert_eq!(carried, Some((None, line.as_bytes().to_vec())));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic_or_a_line_end_within_a_line(
        lines in prop::collection::vec(
            prop_oneof![
                "\\PC{0,30}",
                "[a\n\r\"\\\\]{0,12}".prop_map(|text| docker(&text, "stdout")),
                ("[a\r]{0,9}", "[PF]").prop_map(|(text, tag)| cri(&text, "stderr", &tag)),
            ],
            0..20,
        ),
        cut in 0usize..400,
    ) {
        let file = lines.concat().into_bytes();
        for carrier in [Carrier::Docker, Carrier::Cri] {
            let mut unpacker = Unpacker::within(carrier, &file[..cut.min(file.len())], false);
            for line in file.split_inclusive(|byte| *byte == b'\n') {
                if let Some(carried) = unpacker.take(line) && carried.time.is_some() {
                    prop_assert!(!carried.text.contains(&b'\n'));
                }
            }
        }
    }
}

#[rstest]
// Cut within the text, and within what the engine wrote before and after it.
#[case(" for root from 192.0.2.7 port 4022 ssh2\n", cri("a", "stdout", "F"), Some(Carrier::Cri))]
#[case("20:00.123456789Z stderr F a\n", cri("a", "stdout", "F"), Some(Carrier::Cri))]
#[case(
    "tderr\",\"time\":\"2026-11-30T08:20:00.123456789Z\"}\n",
    docker("a\n", "stdout"),
    Some(Carrier::Docker)
)]
#[case("30T08:20:00.123456789Z stderr F a\n", cri("a", "stdout", "F"), Some(Carrier::Cri))]
// After a hole.
#[case("\0\0\0", docker("a\n", "stdout"), Some(Carrier::Docker))]
#[case("\0\0\0ut F a\n", cri("a", "stdout", "F"), Some(Carrier::Cri))]
// Other logs, into which somebody writes such lines.
#[case("Nov 30 08:20:00 host sshd[1]: a\n", cri("a", "stdout", "F"), None)]
#[case("{\"level\":\"info\"}\n", docker("a\n", "stdout"), None)]
fn the_rest_of_a_line_at_a_files_start_hides_no_form(
    #[case] rest: &str,
    #[case] line: String,
    #[case] expected: Option<Carrier>,
) {
    let file = [rest, &line, &line, "x\n"].concat();
    assert_eq!(Carrier::of(file.as_bytes()), expected);
    // Line by line, as they are written.
    let mut first_lines = FirstLines::default();
    file.split_inclusive('\n').for_each(|line| first_lines.look(line.as_bytes()));
    assert_eq!(first_lines.carrier(), expected);
    // The rest of the line is none of its own.
    if let Some(carrier) = expected {
        let mut unpacker = Unpacker::at_start(carrier);
        let nuls = rest.bytes().take_while(|byte| *byte == 0).count();
        assert_eq!(texts(&mut unpacker, &file.as_bytes()[nuls..]), ["a", "a", "x"]);
    }
}
