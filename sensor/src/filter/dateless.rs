//! A line as the regexes see it: without its date, and a message of RFC 5424 as the line that it reads like.

use std::borrow::Cow;
use std::ops::Range;

use super::header;
use crate::date::Dates;
use crate::rfc5424::{Line, Rfc5424Message};

/// A line without its date.
pub(super) struct Dateless<'a> {
    pub(super) text: Cow<'a, [u8]>,
    /// Where the date stood in the line, or in the message as it was read.
    pub(super) cut: Range<usize>,
    /// The message as it was read.
    message: Option<Line>,
    /// The text with the usual header, where it had another, and how many failures that stood for.
    reformed: Option<(Line, u32)>,
}

// === impl Dateless ===

impl<'a> Dateless<'a> {
    /// Cuts the date out of a line, as fail2ban does, so that `^` applies to what is left.
    pub(super) fn new(line: &'a [u8], dates: &Dates) -> Self {
        if let Some(message) = Rfc5424Message::read(line) {
            return Self::of(dates.read(&message));
        }
        let cut = dates.place(line).unwrap_or(0..0);
        Self { text: without(line, &cut), cut, message: None, reformed: None }
    }

    /// A message of RFC 5424 as it is written, but for its structured data: some people's regexes are made for
    /// that. `None` where a line is no such message.
    pub(super) fn as_written(line: &[u8], dates: &Dates) -> Option<Self> {
        Rfc5424Message::read(line).map(|message| Self::of(dates.read_as_written(&message)))
    }

    fn of((message, place): (Line, Option<Range<usize>>)) -> Self {
        let cut = place.unwrap_or(0..0);
        let text = without(&message.bytes, &cut).into_owned().into();
        Self { text, cut, message: Some(message), reformed: None }
    }

    /// A line whose date is known by other means.
    pub(super) fn whole(line: &'a [u8]) -> Self {
        Self { text: line.into(), cut: 0..0, message: None, reformed: None }
    }

    /// The same line with the usual header of syslog in place of another; `None` where it has that, or none.
    pub(super) fn reformed(self) -> Option<Self> {
        let line = header::reformed(&self.text)?;
        let times = header::repetitions(&self.text);
        Some(Self { text: line.bytes.clone().into(), reformed: Some((line, times)), ..self })
    }

    /// How many failures the line stands for.
    pub(super) fn times(&self) -> u32 {
        self.reformed.as_ref().map_or_else(|| header::repetitions(&self.text), |(_, times)| *times)
    }

    /// Where a place of the text is in the line.
    pub(super) fn place(&self, place: usize) -> usize {
        let place = self.reformed.as_ref().map_or(place, |(line, _)| line.place(place));
        let place = if place < self.cut.start { place } else { place + self.cut.len() };
        self.message.as_ref().map_or(place, |message| message.place(place))
    }
}

fn without<'a>(line: &'a [u8], cut: &Range<usize>) -> Cow<'a, [u8]> {
    if cut.start == 0 {
        line[cut.end..].into()
    } else {
        [&line[..cut.start], &line[cut.end..]].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;
    use rstest::rstest;

    use crate::filter::{Filter, FilterDefinition, Host, LineOutcome, Match};

    const SEED: &str = r"^.*\[\s*<HOST>\s*\].*Error: authentication failed";

    fn sshd() -> Filter {
        crate::filter::catalogue::filter("sshd").unwrap().compile().unwrap()
    }

    /// One as fail2ban's with `logtype=rfc5424` are: it knows where the data stands, and not of escapes.
    fn knows_rfc5424() -> Filter {
        let prefregex = r#"^\s*\S+ sshd \d+ \S+ (?:[^\[\]\s]+|(?:\[(?:[^\]"]*|"[^"]*")*\])+)\s+<F-CONTENT>.+</F-CONTENT>$"#;
        let definition = FilterDefinition {
            prefregex: Some(prefregex.to_owned()),
            failregex: vec!["^Failed password for <F-USER>.*</F-USER> from <HOST>".to_owned()],
            datepattern: Some(r"^<\d+>\d+\s+{DATE}".to_owned()),
            ..FilterDefinition::default()
        };
        definition.compile().unwrap()
    }

    /// The address of a line, the place of the address, the user, and the date.
    fn read(filter: &mut Filter, line: &str) -> Option<(String, String, String, Option<String>)> {
        let LineOutcome::Matched(Match { host: Host::Address(address), span, user, .. }) =
            filter.find(line.as_bytes())
        else {
            return None;
        };
        let now = "2026-11-30T00:00:00Z".parse::<Timestamp>().unwrap();
        let date = filter.dates().find(line.as_bytes(), now, &TimeZone::UTC);
        let time = date.map(|date| date.time.to_string());
        Some((address.to_string(), line[span].to_owned(), user.unwrap_or_default(), time))
    }

    #[rstest]
    #[case("<38>1 2026-11-29T10:00:00Z fw sshd 411 - -")]
    #[case("1 2026-11-29T10:00:00Z fw sshd 411 - -")]
    #[case("<38>1 2026-11-29T11:00:00+01:00 fw sshd-session - ID47 -")]
    #[case("<38>1 2026-11-29T10:00:00Z - sshd 411 - -")]
    #[case("<38>1 2026-11-29T10:00:00Z fw sshd 411 - - \u{feff}")]
    #[case(r#"<38>1 2026-11-29T10:00:00Z fw sshd 411 - [meta sequenceId="12"][x y="\"] z"]"#)]
    #[case("<38>Nov 29 10:00:00 fw sshd[411]:")]
    #[case("Nov 29 10:00:00 2001:db8::5 sshd[411]:")]
    fn a_header_of_any_kind_leaves_the_text_and_its_date(#[case] head: &str) {
        let line = format!("{} Failed password for root from 192.0.2.7 port 4022 ssh2", head.trim_end());
        let line = line.replace("\u{feff} ", "\u{feff}");
        let found = read(&mut sshd(), &line).unwrap_or_else(|| panic!("missed: {line}"));
        let time = Some("2026-11-29T10:00:00Z".to_owned());
        assert_eq!(
            found,
            ("192.0.2.7".to_owned(), "192.0.2.7".to_owned(), "root".to_owned(), time),
            "{line}"
        );
        // The texts that are searched first stand in the line as it is.
        let mut lines = 0;
        sshd().find_in_block(format!("x\n{line}\n").as_bytes(), |_, _| lines += 1);
        assert_eq!(lines, 1, "{line}");
        let part = sshd().matched_part(line.as_bytes(), 0).unwrap();
        assert!(line[part.clone()].ends_with("ssh2"), "{part:?}");
    }

    #[test]
    fn the_first_word_behind_a_byte_order_mark_is_searched_for_too() {
        let mut filter = Filter::new(&["^.* tag: refused <HOST>$".to_owned()], &[]).unwrap();
        assert!(filter.is_gated());
        let mut lines = 0;
        let block = "<38>1 2026-11-29T10:00:00Z fw tag - - - \u{feff}refused 192.0.2.7\n";
        filter.find_in_block(block.as_bytes(), |_, _| lines += 1);
        assert_eq!(lines, 1);
    }

    #[test]
    fn a_message_without_a_date_has_none_from_its_text() {
        let line =
            "<38>1 - fw sshd 411 - - Failed password for 2020-01-01 00:00:00 from 192.0.2.7 port 1 ssh2";
        let (address, _, user, time) = read(&mut sshd(), line).unwrap();
        assert_eq!((address.as_str(), user.as_str(), time), ("192.0.2.7", "2020-01-01 00:00:00", None));
    }

    #[rstest]
    #[case(r#"[x y="[203.0.113.9\] Error: authentication failed"]"#)]
    #[case(r#"[x y="\"\] [203.0.113.9\] Error: authentication failed"]"#)]
    #[case(r#"[x y="\"] sshd 1 - - Failed password for root from 203.0.113.9 port 1 ssh2"]"#)]
    #[case(r#"[x y="] Failed password for root from 203.0.113.9 port 1 ssh2"]"#)]
    #[case(r#"[x y="] Failed password for root from 203.0.113.9 port 1 ssh2" [203.0.113.9] z"]"#)]
    #[case(r#"[x y="Failed password for root from 203.0.113.9 port 1 ssh2"#)]
    fn no_filter_sees_what_stands_in_the_data(#[case] data: &str) {
        let head = format!("<38>1 2026-11-29T10:00:00Z fw sshd 411 - {data}");
        for text in ["", " a text", " [192.0.2.7] Error: authentication failed"] {
            let line = format!("{head}{text}");
            for filter in
                [&mut Filter::new(&[SEED.to_owned()], &[]).unwrap(), &mut sshd(), &mut knows_rfc5424()]
            {
                let found = read(filter, &line).map(|(address, ..)| address);
                assert!(found.is_none_or(|address| address == "192.0.2.7"), "{line}");
            }
        }
    }

    #[rstest]
    #[case(r"^<\d+>1\s+\S+ sshd \d+ - - Failed password for \S+ from <HOST>")]
    #[case(r"sshd \d+ \S+ (?:\[.*\]|-) Failed password for \S+ from <HOST> port \d+ ssh2$")]
    #[case("^.* - - Failed password for .* from <HOST>")]
    fn a_regex_that_was_written_for_rfc_5424_goes_on_matching(#[case] regex: &str) {
        let mut filter = Filter::new(&[regex.to_owned()], &[]).unwrap();
        for data in ["-", r#"[x y="\"] sshd 1 - - Failed password for x from 203.0.113.9 port 1 ssh2"]"#] {
            let text = "Failed password for root from 192.0.2.7 port 4022 ssh2";
            let line = format!("<38>1 2026-11-29T10:00:00Z fw sshd 411 - {data} {text}");
            let (address, place, _, time) =
                read(&mut filter, &line).unwrap_or_else(|| panic!("missed: {line}"));
            assert_eq!((address.as_str(), place.as_str()), ("192.0.2.7", "192.0.2.7"));
            assert_eq!(time.as_deref(), Some("2026-11-29T10:00:00Z"));
        }
    }

    #[test]
    fn a_filter_that_knows_rfc_5424_goes_on_reading_it() {
        let text = "Failed password for root from 192.0.2.7 port 4022 ssh2";
        for data in ["-", r#"[x y="z"]"#, r#"[x y="\"] no"][z]"#] {
            let line = format!("<38>1 2026-11-29T10:00:00Z fw sshd 411 - {data} {text}");
            let (address, place, _, time) = read(&mut knows_rfc5424(), &line).unwrap();
            assert_eq!((address.as_str(), place.as_str()), ("192.0.2.7", "192.0.2.7"));
            assert_eq!(time.as_deref(), Some("2026-11-29T10:00:00Z"));
        }
    }
}
