//! Dates in log lines: where one stands, and which moment it means. The forms that nearly all logs use
//! are read by hand at the line's start ([`plain`]); everything else fail2ban's users may write in a
//! `datepattern`, and its other usual forms, are regexes with strptime's fields ([`template`]).

mod fields;
mod plain;
mod template;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::json;
use crate::rfc5424::{Line, Rfc5424Message};
pub use fields::zone;
pub use plain::{Form, find, find_form};
pub use template::DateError;
use template::Template;

/// The usual forms beyond the plain ones, in strptime's fields. The first that fits the line's start
/// is taken; else the leftmost that stands anywhere.
const USUAL: [&str; 23] = [
    "%ExY-%m-%d(?:T|  ?)%H:%M:%S(?:[.,]%f)?(?:\\s*%z)?",
    "%ExY/%m/%d(?:T|  ?)%H:%M:%S(?:[.,]%f)?(?:\\s*%z)?",
    "%ExY\\.%m\\.%d(?:T|  ?)%H:%M:%S(?:[.,]%f)?(?:\\s*%z)?",
    "(?:%a )?%b %d %k:%M:%S(?:\\.%f)?(?: %ExY)?",
    "(?:%a )?%b %d %ExY %k:%M:%S(?:\\.%f)?",
    "%d/%m/(?:%ExY|%Exy) %k:%M:%S",
    "%d-%m-(?:%ExY|%Exy) %k:%M:%S",
    "%d/%b/%ExY[ :]?%H:%M:%S(?:\\.%f)?(?: %z)?",
    "%d-%b-%ExY[ :]?%H:%M:%S(?:\\.%f)?(?: %z)?",
    "%m/%d/%ExY:%H:%M:%S",
    "%m-%d-%ExY %k:%M:%S(?:\\.%f)?",
    "EPOCH",
    "{^LN-BEG}%H:%M:%S",
    "^<%m/%d/%Exy@%H:%M:%S>",
    "%Exy%Exm%Exd  ?%H:%M:%S",
    "%b %d, %ExY %I:%M:%S %p",
    "^%b-%d-%Exy %k:%M:%S",
    "%ExY%Exm%Exd(?:T|  ?)%ExH%ExM%ExS(?:[.,]%f)?(?:\\s*%z)?",
    "(?:%Z )?(?:%a )?%b %d %k:%M:%S(?:\\.%f)?(?: %ExY)?",
    "(?:%z )?(?:%a )?%b %d %k:%M:%S(?:\\.%f)?(?: %ExY)?",
    "TAI64N",
    // Journals and containers write milliseconds and microseconds.
    "{^LN-BEG}LEPOCH",
    "{^LN-BEG}%ExY%Exm%ExdT%ExH%ExM%ExS(?:[.,]%f)?Z",
];

static USUAL_TEMPLATES: LazyLock<Arc<[Template]>> = LazyLock::new(|| {
    let (mut first, mut anywhere) = (Vec::new(), Vec::new());
    for pattern in USUAL {
        // All of them are ours; that they compile is tested.
        let Ok(template) = Template::new(pattern) else { continue };
        if !template.anchored
            && let Ok(anchored) = Template::new(&format!("{{^LN-BEG}}{pattern}"))
        {
            first.push(anchored);
        }
        anywhere.push(template);
    }
    first.append(&mut anywhere);
    first.into()
});

/// The forms in which a log writes its dates.
#[derive(Clone, Debug)]
pub struct Dates {
    kind: DateKind,
    /// Whether a syslog priority stays where the date behind it is cut out.
    keep_priority: bool,
}

#[derive(Clone, Debug)]
enum DateKind {
    /// The forms that are found without a `datepattern`.
    Usual(Where),
    /// Those of a datepattern; the usual ones after them, where it asks for them.
    Written(Arc<[Template]>, Option<Where>),
    /// In a field of a JSON object, else at the start of what stands before that.
    Field(Arc<str>),
    /// The lines have no date: they are of now.
    None,
}

/// Where in a line a usual form counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Anywhere,
    AtStart,
}

/// A date in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Date {
    /// In UTC; what the line leaves out (year, zone) is filled in from now and the jail's zone.
    pub time: Timestamp,
    /// Where in the line it stands, in bytes.
    pub place: Range<usize>,
    /// How it is written, for reports.
    pub form: Cow<'static, str>,
}

// === impl Dates ===

impl Dates {
    /// Those of a datepattern of fail2ban's: strptime's fields in a regex, a line each; `{DATE}` in it
    /// stands for any usual form, `{^LN-BEG}` for the line's start, `EPOCH` and `LEPOCH` for seconds.
    pub fn new(datepattern: &str) -> Result<Self, DateError> {
        let mut templates = Vec::new();
        let mut usual = None;
        for pattern in datepattern.lines().map(str::trim).filter(|pattern| !pattern.is_empty()) {
            match pattern.to_ascii_uppercase().as_str() {
                "{^LN-BEG}" => usual = Some(Where::AtStart),
                "{DEFAULT}" => usual = Some(Where::Anywhere),
                "{NONE}" => return Ok(Self::of(DateKind::None)),
                upper if upper.contains("{DATE}") => {
                    for form in USUAL {
                        templates.push(Template::around(pattern, form)?);
                    }
                }
                _ => templates.push(Template::new(pattern)?),
            }
        }
        let kind = if templates.is_empty() {
            DateKind::Usual(usual.unwrap_or(Where::Anywhere))
        } else {
            DateKind::Written(templates.into(), usual)
        };
        Ok(Self::of(kind))
    }

    /// Those in a field of a line that is a JSON object.
    pub(crate) fn in_field(name: &str) -> Self {
        Self::of(DateKind::Field(name.into()))
    }

    fn of(kind: DateKind) -> Self {
        Self { kind, keep_priority: false }
    }

    /// For regexes that look for a syslog priority themselves: it stays where it is.
    pub(crate) fn keep_priority(&mut self) {
        self.keep_priority = true;
    }

    /// The line that a message of RFC 5424 reads like, and where its date stands in it, if it has one: none is
    /// looked for in a text whose sender had none. A datepattern that finds its date only in the message as it is
    /// written, as fail2ban's with `logtype=rfc5424`, gets that.
    pub(crate) fn read(&self, message: &Rfc5424Message<'_>) -> (Line, Option<Range<usize>>) {
        let line = message.line();
        if let Some(place) = self.place_in(message, &line) {
            return (line, Some(place));
        }
        let (written, place) = self.read_as_written(message);
        if place.is_some() { (written, place) } else { (line, None) }
    }

    /// A message of RFC 5424 as it is written, but for its structured data, and where its date stands.
    pub(crate) fn read_as_written(&self, message: &Rfc5424Message<'_>) -> (Line, Option<Range<usize>>) {
        let line = message.without_data();
        let place = self.place_in(message, &line);
        (line, place)
    }

    fn place_in(&self, message: &Rfc5424Message<'_>, line: &Line) -> Option<Range<usize>> {
        message.date().and_then(|_| self.place(&line.bytes))
    }

    /// Where the date stands in a line that is no message of RFC 5424, with a syslog priority before it: what is
    /// cut out of the line before the regexes see it.
    pub fn place(&self, line: &[u8]) -> Option<Range<usize>> {
        if self.is_usual()
            && let Some((_, mut place)) = find(line, Timestamp::UNIX_EPOCH, &TimeZone::UTC)
        {
            // Brackets around the date stay, as `[]`: people's regexes count on it.
            if line.get(place.start) == Some(&b'[') {
                place = place.start + 1..place.end - 1;
            } else if !self.keep_priority && place.start == plain::priority(line) {
                place.start = 0;
            }
            return Some(place);
        }
        self.search(line).map(|(_, place)| place)
    }

    /// The date of a line. `now` resolves a missing year or day, `zone` a missing zone.
    pub fn find(&self, line: &[u8], now: Timestamp, zone: &TimeZone) -> Option<Date> {
        if matches!(self.kind, DateKind::None) {
            return Some(Date { time: now, place: 0..0, form: "{NONE}".into() });
        }
        if let Some(message) = Rfc5424Message::read(line) {
            let (line, place) = self.read(&message);
            let date = place.and_then(|_| self.find_in(&line.bytes, now, zone))?;
            return Some(Date { place: line.place(date.place.start)..line.place(date.place.end), ..date });
        }
        self.find_in(line, now, zone)
    }

    fn find_in(&self, line: &[u8], now: Timestamp, zone: &TimeZone) -> Option<Date> {
        if let DateKind::Field(name) = &self.kind
            && let Some(object) = json::object(line)
            && let Some(value) = json::field(&object, name)
        {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let date = Self::default().find_in(text.as_bytes(), now, zone)?;
            return Some(Date { place: 0..0, form: format!("{} in `{name}`", date.form).into(), ..date });
        }
        if self.is_usual()
            && let Some((time, place, form)) = find_form(line, now, zone)
        {
            return Some(Date { time, place, form: form.name().into() });
        }
        let (template, place) = self.search(line)?;
        let time = template.time(line, now, zone)?;
        Some(Date { time, place, form: template.pattern.clone().into() })
    }

    /// Whether what is cut out always begins and ends as a word does.
    pub fn are_words(&self) -> bool {
        match &self.kind {
            DateKind::Written(templates, _) => templates.iter().all(|template| template.is_word),
            _ => true,
        }
    }

    /// Whether some lines have their date in one before.
    pub(crate) fn span_lines(&self) -> bool {
        match &self.kind {
            DateKind::Written(templates, _) => templates.iter().any(|template| template.is_empty),
            _ => false,
        }
    }

    fn is_usual(&self) -> bool {
        matches!(self.kind, DateKind::Usual(_) | DateKind::Field(_))
    }

    /// The template that a line fits, and where.
    fn search(&self, line: &[u8]) -> Option<(&Template, Range<usize>)> {
        match &self.kind {
            DateKind::None | DateKind::Field(_) => None,
            DateKind::Usual(place) => usual(line, *place),
            DateKind::Written(templates, place) => {
                first(templates, line, Where::Anywhere).or_else(|| usual(line, (*place)?))
            }
        }
    }
}

impl Default for Dates {
    fn default() -> Self {
        Self::of(DateKind::Usual(Where::Anywhere))
    }
}

fn usual(line: &[u8], place: Where) -> Option<(&'static Template, Range<usize>)> {
    if may_hold_usual(line) { first(&USUAL_TEMPLATES, line, place) } else { None }
}

/// Whether a line has what each usual form has: a clock, ten digits or more in a row, or a label of TAI64.
fn may_hold_usual(line: &[u8]) -> bool {
    let is_digit = |at: usize| line.get(at).is_some_and(u8::is_ascii_digit);
    let is_clock = |colon: usize| colon.checked_sub(1).is_some_and(is_digit) && is_digit(colon + 1);
    let mut run = 0;
    memchr::memchr_iter(b':', line).any(is_clock)
        || memchr::memchr(b'@', line).is_some()
        || line.iter().any(|byte| {
            run = if byte.is_ascii_digit() { run + 1 } else { 0 };
            run == 10
        })
        // `20250905T111732`
        || line.windows(9).any(|window| {
            matches!(window[8], b'T' | b' ' | b'0'..=b'9') && window[..8].iter().all(u8::is_ascii_digit)
        })
}

/// The first template that fits the start, else the one that fits leftmost.
fn first<'a>(templates: &'a [Template], line: &[u8], allowed: Where) -> Option<(&'a Template, Range<usize>)> {
    let mut best: Option<(&Template, Range<usize>)> = None;
    for template in templates.iter().filter(|template| allowed == Where::Anywhere || template.anchored) {
        let Some(place) = template.place(line) else { continue };
        if template.anchored || place.start == 0 {
            return Some((template, place));
        }
        if best.as_ref().is_none_or(|(_, other)| place.start < other.start) {
            best = Some((template, place));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn now() -> Timestamp {
        "2025-09-06T00:00:00Z".parse().unwrap()
    }

    #[track_caller]
    fn date(pattern: &str, line: &str) -> Option<(String, String)> {
        let dates = Dates::new(pattern).unwrap();
        let date = dates.find(line.as_bytes(), now(), &TimeZone::fixed(jiff::tz::offset(-3)))?;
        let place = dates.place(line.as_bytes()).unwrap_or(0..0);
        let rest = format!("{}{}", &line[..place.start], &line[place.end..]);
        Some((date.time.to_string(), rest))
    }

    #[test]
    fn every_usual_form_compiles() {
        for pattern in USUAL {
            Template::new(pattern).unwrap();
        }
    }

    #[rstest]
    #[case("2025.09.05 11:17:32 x", " x")]
    #[case("Fri Sep  5 11:17:32.011 2025 x", " x")]
    #[case("Fri Sep 05 2025 11:17:32 x", " x")]
    #[case("05/09/2025 11:17:32 x", " x")]
    #[case("05-09-25 11:17:32 x", " x")]
    #[case("05-Sep-2025 11:17:32.252 x", " x")]
    #[case("09/05/2025:11:17:32 x", " x")]
    #[case("<09/05/25@11:17:32> x", " x")]
    #[case("250905 11:17:32 x", " x")]
    #[case("Sep 5, 2025 11:17:32 AM x", " x")]
    #[case("Sep-05-25 11:17:32 x", " x")]
    #[case("20250905T111732 x", " x")]
    #[case("20250905T141732Z x", " x")]
    #[case("ADT Sep 05 11:17:32 x", " x")]
    #[case("-03:00 Sep 05 11:17:32 2025 x", " x")]
    #[case("@4000000068baf0fc077a9e94 x", " x")]
    #[case("1757081852123456 x", " x")]
    #[case("host y: [2025-09-05 11:17:32] x", "host y: [] x")]
    #[case("192.0.2.1 - - [05/Sep/2025:11:17:32 -0300] \"GET /\"", "192.0.2.1 - - [] \"GET /\"")]
    #[case("type=USER_AUTH msg=audit(1757081852.101:7): x", "type=USER_AUTH msg=audit(:7): x")]
    #[case("<13>Sep  5 11:17:32 x", " x")]
    #[case("y Sep  5 11:17:32 2001:db8::5 x", "y  2001:db8::5 x")]
    fn the_usual_forms_are_found(#[case] line: &str, #[case] rest: &str) {
        let (time, left) = date("", line).unwrap_or_else(|| panic!("no date in {line}"));
        assert!(time.starts_with("2025-09-05T14:17:32"), "{line}: {time}");
        assert_eq!(left, rest);
    }

    #[rstest]
    #[case("^%Y-%m-%d %H:%M:%S", "2025-09-05 11:17:32 x", Some("2025-09-05T14:17:32Z"), " x")]
    #[case("^%Y-%m-%d %H:%M:%S", "x 2025-09-05 11:17:32", None, "")]
    #[case("EPOCH", "1757081852 x", Some("2025-09-05T14:17:32Z"), " x")]
    #[case("ts={EPOCH}", "x ts=1757081852 y", Some("2025-09-05T14:17:32Z"), "x  y")]
    #[case("{^LN-BEG}", "[2025-09-05 11:17:32] y", Some("2025-09-05T14:17:32Z"), "[] y")]
    #[case("{^LN-BEG}", "y 2025-09-05 11:17:32", None, "")]
    #[case("{DATE}", "Sep 05 11:17:32 2001:db8::5 x", Some("2025-09-05T14:17:32Z"), " 2001:db8::5 x")]
    #[case("^%b %d %H:%M:%S(?: %Y)?", "Sep 05 11:17:32 2025: x", Some("2025-09-05T14:17:32Z"), ": x")]
    #[case(
        "^[^\\[]*\\[({DATE})",
        "v 192.0.2.1 [05/Sep/2025:11:17:32 -0300] z",
        Some("2025-09-05T14:17:32Z"),
        "v 192.0.2.1 [] z"
    )]
    #[case("^%Y/%m/%d\n{^LN-BEG}", "2025-09-05 11:17:32 x", Some("2025-09-05T14:17:32Z"), " x")]
    #[case("^%Y/%m/%d\n{^LN-BEG}", "y 2025-09-05 11:17:32", None, "")]
    #[case("{NONE}", "x", Some("2025-09-06T00:00:00Z"), "x")]
    #[case("^%H:%M:%S", "11:17:32 x", Some("2025-09-05T14:17:32Z"), " x")]
    #[case("%d\\.%m\\.%y um %I:%M %p", "am 05.09.25 um 11:17 AM x", Some("2025-09-05T14:17:00Z"), "am  x")]
    #[case("^%j %Y %H", "248 2025 11 x", Some("2025-09-05T14:00:00Z"), " x")]
    #[case("^%b %d\n^%Y%m%d", "20250905 x", Some("2025-09-05T03:00:00Z"), " x")]
    #[case(
        "%Y(?P<_sep>[-/.])%m(?P=_sep)%d",
        "2025/09-05 2025/09/05",
        Some("2025-09-05T03:00:00Z"),
        "2025/09-05 "
    )]
    #[case(
        "%d/%b[^/]*/%Y:%H:%M:%S %z",
        "[05/Sept/2025:11:17:32 -0300] x",
        Some("2025-09-05T14:17:32Z"),
        "[] x"
    )]
    #[case("%Y-%m-%d %H:%M:%S %Z", "2025-09-05 16:17:32 CEST x", Some("2025-09-05T14:17:32Z"), " x")]
    fn a_datepattern_means_what_it_says(
        #[case] pattern: &str,
        #[case] line: &str,
        #[case] time: Option<&str>,
        #[case] rest: &str,
    ) {
        let found = date(pattern, line);
        assert_eq!(found, time.map(|time| (time.to_owned(), rest.to_owned())), "{pattern}: {line}");
    }

    #[test]
    fn a_29th_of_february_is_last_years_or_in_a_year_far_from_one_now() {
        let dates = Dates::new("^%b %d %H:%M:%S").unwrap();
        let at = |now: &str, line: &[u8]| {
            dates.find(line, now.parse().unwrap(), &TimeZone::UTC).map(|date| date.time.to_string())
        };
        let (last_year, none) = ("2025-01-05T00:00:00Z", "2026-03-01T00:00:00Z");
        assert_eq!(at(last_year, b"Feb 29 11:17:32 x").as_deref(), Some("2024-02-29T11:17:32Z"));
        assert_eq!(at(none, b"Feb 29 11:17:32 x").as_deref(), Some(none));
        assert_eq!(at(none, b"Feb 30 11:17:32 x"), None);
    }

    #[rstest]
    #[case("(%Y", "unclosed group")]
    #[case("%Y %U", "%U")]
    #[case("hello", "no field")]
    #[case("^%Y(?!x)", "look-around")]
    fn a_datepattern_that_cannot_be_used_says_why(#[case] pattern: &str, #[case] says: &str) {
        let error = Dates::new(pattern).unwrap_err().to_string();
        assert!(error.contains(says), "{pattern}: {error}");
    }

    #[test]
    fn a_day_that_no_month_has_is_no_date() {
        assert_eq!(date("^%Y-%m-%d", "2025-02-31 x"), None);
        assert_eq!(date("^%d/%m/%Y", "31/04/2025 x"), None);
    }
}
