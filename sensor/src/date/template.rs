//! One form of dates: a regex in which `%Y`, `%b` and the like stand for strptime's fields, as
//! fail2ban's `datepattern` writes them.

use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use regex::bytes::{Captures, Regex, RegexBuilder};

use super::fields::DateFields;
use super::plain::is_host;

/// The largest compiled form, in bytes.
const SIZE_LIMIT: usize = 1 << 20;
/// How many characters a separator that must be repeated may be chosen from.
const MOST_SEPARATORS: usize = 16;
/// Where a date may begin and end: not inside of a word.
const EDGE: &str = r"(?:\b{start-half}|\b{end-half})";
const START: &str = "{^LN-BEG}";
const UNBOUND: &str = "{UNB}";

/// A form of dates, compiled.
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// As it was written.
    pub(super) pattern: String,
    /// More than one where the regex crate cannot say it in one; the leftmost match counts.
    regexes: Vec<Regex>,
    /// Whether it fits at the line's start alone.
    pub(super) anchored: bool,
    /// Whether what it cuts out always begins and ends as a word does.
    pub(super) is_word: bool,
    /// Whether it says that a line has no date of its own: `()`.
    pub(super) is_empty: bool,
}

/// Why a datepattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the datepattern `{pattern}` cannot be used: {reason}")]
pub struct DateError {
    /// As it was written.
    pub pattern: String,
    /// Why not, and what would be right.
    pub reason: String,
}

// === impl Template ===

impl Template {
    pub(super) fn new(pattern: &str) -> Result<Self, DateError> {
        Self::build(pattern, pattern)
    }

    /// A pattern in which `{DATE}` stands for a form.
    pub(super) fn around(pattern: &str, form: &str) -> Result<Self, DateError> {
        let form = match form.trim_start_matches(START).trim_start_matches('^') {
            seconds @ ("EPOCH" | "LEPOCH") => format!("{{{seconds}}}"),
            "TAI64N" => "{TAI64N}".to_owned(),
            form => form.to_owned(),
        };
        let at = pattern.to_ascii_uppercase().find("{DATE}").unwrap_or(0);
        let whole = format!("{}{form}{}", &pattern[..at], &pattern[at + "{DATE}".len()..]);
        Self::build(pattern, &whole)
    }

    fn build(written: &str, pattern: &str) -> Result<Self, DateError> {
        let error = |reason: String| DateError { pattern: written.to_owned(), reason };
        let (unbound, rest) = strip(pattern, UNBOUND);
        let (at_start, rest) = strip(rest, START);
        let bare = if rest.contains('%') { rest.to_owned() } else { rest.to_ascii_uppercase() };
        let mut is_word = true;
        let mut is_empty = false;
        let sources = match bare.trim_start_matches('^') {
            seconds @ ("EPOCH" | "LEPOCH") => {
                let value = seconds_regex(seconds);
                if at_start || bare.starts_with('^') {
                    vec![format!(r"^\W{{0,2}}({value}){EDGE}")]
                } else {
                    vec![
                        format!("^({value}){EDGE}"),
                        format!(r"^\[({value})\]"),
                        format!(r"\baudit\(({value}):\d+\)"),
                    ]
                }
            }
            "TAI64N" if at_start => vec![format!(r"^\W{{0,2}}({})", tai())],
            "TAI64N" => vec![format!("({})", tai())],
            _ => {
                let (regex, fields) = expand(rest).map_err(&error)?;
                if !fields && !regex.contains("()") {
                    return Err(error(
                        "it has no field: write such as %Y-%m-%d %H:%M:%S, EPOCH, or {DATE} for the usual forms"
                            .to_owned(),
                    ));
                }
                let (source, word) = bounded(&regex, at_start, unbound);
                is_word = word;
                is_empty = !fields;
                vec![source]
            }
        };
        let mut regexes = Vec::new();
        for source in sources.iter().flat_map(|source| separators(source)) {
            let compiled = RegexBuilder::new(&source).unicode(false).size_limit(SIZE_LIMIT).build();
            let compiled = compiled.map_err(|error| error.to_string());
            regexes.push(compiled.map_err(|message| {
                let reason = message.lines().last().unwrap_or_default().trim_start_matches("error: ");
                error(reason.to_owned())
            })?);
        }
        let anchored = sources.iter().all(|source| is_anchored(source));
        Ok(Self { pattern: written.to_owned(), regexes, anchored, is_word, is_empty })
    }

    /// Where it fits a line leftmost: what is to be cut out.
    pub(super) fn place(&self, line: &[u8]) -> Option<Range<usize>> {
        let places = self.regexes.iter().filter_map(|regex| {
            let captures = captures(regex, line)?;
            Some(captures.get(1)?.range())
        });
        places.min_by_key(|place| place.start)
    }

    /// The moment that a line states where it fits; `None` too where it says that there is none.
    pub(super) fn time(&self, line: &[u8], now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if self.is_empty {
            return None;
        }
        let found = self.regexes.iter().filter_map(|regex| Some((regex, captures(regex, line)?)));
        let (regex, captures) =
            found.min_by_key(|(_, captures)| captures.get(1).map(|group| group.start()))?;
        let mut fields = DateFields::default();
        for name in regex.capture_names().flatten() {
            if let Some(group) = captures.name(name) {
                fields.take(name, group.as_bytes())?;
            }
        }
        fields.moment(now, zone)
    }
}

/// A match in which the beginning of a host is not taken for a year: of `Sep  5 11:17:32 2001:db8::5 sshd: x`.
fn captures<'l>(regex: &Regex, line: &'l [u8]) -> Option<Captures<'l>> {
    let captures = regex.captures(line)?;
    let end = captures.get(1).map_or(0, |date| date.end());
    let before = end.checked_sub(b" 2001".len());
    let before = before.filter(|before| line.get(end) == Some(&b':') && is_host(&line[before + 1..]));
    before.and_then(|before| regex.captures(&line[..before])).or(Some(captures))
}

fn strip<'a>(pattern: &'a str, mark: &str) -> (bool, &'a str) {
    match pattern.strip_prefix(mark) {
        Some(rest) => (true, rest),
        None => (false, pattern),
    }
}

fn seconds_regex(kind: &str) -> &'static str {
    if kind == "EPOCH" {
        r"(?P<epoch>\d{10,11}\b(?:\.\d{3,6})?)"
    } else {
        r"(?P<epoch>\d{10,11}(?:\d{3}(?:\.\d{1,6}|\d{3})?)?)"
    }
}

fn tai() -> &'static str {
    "@(?P<tai>[0-9a-f]{24})"
}

/// Replaces the fields by regexes; whether there were any, named groups of the pattern's own included.
fn expand(pattern: &str) -> Result<(String, bool), String> {
    let mut out = String::with_capacity(pattern.len() * 2);
    let mut fields = pattern.contains("(?P<") && !pattern.contains('%');
    let mut letters = false;
    let mut rest = pattern;
    while let Some(at) = rest.find(['%', '{']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let upper = from.get(..8.min(from.len())).unwrap_or_default().to_ascii_uppercase();
        let marks =
            [("{EPOCH}", seconds_regex("EPOCH")), ("{LEPOCH}", seconds_regex("LEPOCH")), ("{TAI64N}", tai())];
        if let Some((mark, regex)) = marks.iter().find(|(mark, _)| upper.starts_with(mark)) {
            out.push_str(regex);
            fields = true;
            rest = &from[mark.len()..];
            continue;
        }
        if let Some(after) = from.strip_prefix('{') {
            out.push('{');
            rest = after;
            continue;
        }
        let name_length = if from[1..].starts_with("Ex") { 3 } else { 1 };
        let name: String = from[1..].chars().take(name_length).collect();
        match name.as_str() {
            "%" => out.push('%'),
            name => {
                let Some(regex) = field(name) else {
                    return Err(format!(
                        "`%{name}` is no field that is read here; there are %Y %y %m %b %B %d %j %H %k %I %l %M %S %f %p %a %A %z %Z, and %Ex before one for exactly two digits"
                    ));
                };
                letters |= matches!(name, "a" | "A" | "b" | "B" | "p");
                fields = true;
                out.push_str(&regex);
            }
        }
        rest = &from[1 + name.len()..];
    }
    out.push_str(rest);
    if letters {
        out.insert_str(0, "(?i)");
    }
    Ok((out, fields))
}

/// What a field may be. A group's name is the field's own.
fn field(name: &str) -> Option<String> {
    let names = |names: &[&str]| names.join("|");
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let whole_days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let abbreviation = "[A-Z](?:[A-Z]{2,4})?";
    let offset = r"[+-][01]\d(?::?\d{2})?";
    let (group, regex) = match name {
        "Y" => ("Y", r"\d{4}".to_owned()),
        "ExY" => ("Y", r"20\d{2}".to_owned()),
        "y" | "Exy" => ("y", r"\d{2}".to_owned()),
        "m" => ("m", "0?[1-9]|1[0-2]".to_owned()),
        "Exm" => ("m", "0[1-9]|1[0-2]".to_owned()),
        "b" => ("b", "[a-z]{3}".to_owned()),
        "B" => ("B", names(&super::fields::MONTHS)),
        "d" => ("d", r"[12]\d|[0 ]?[1-9]|3[01]".to_owned()),
        "Exd" => ("d", r"[12]\d|0[1-9]|3[01]".to_owned()),
        "j" => ("j", r"36[0-6]|3[0-5]\d|[12]\d\d|0\d\d|\d\d?".to_owned()),
        "H" => ("H", r"[01]?\d|2[0-3]".to_owned()),
        "ExH" => ("H", r"[01]\d|2[0-3]".to_owned()),
        "k" => return Some(r" ?(?P<H>[0-2]?\d)".to_owned()),
        "Exk" => return Some(r" ?(?P<H>[01]?\d|2[0-3])".to_owned()),
        "I" | "ExI" => ("I", "1[0-2]|0[1-9]|[1-9]".to_owned()),
        "l" => return Some(r" ?(?P<I>1?\d)".to_owned()),
        "Exl" => return Some(r" ?(?P<I>1[0-2]|\d)".to_owned()),
        "M" => ("M", r"[0-5]?\d".to_owned()),
        "ExM" => ("M", r"[0-5]\d".to_owned()),
        "S" => ("S", r"[0-5]?\d|6[01]".to_owned()),
        "ExS" => ("S", r"[0-5]\d|6[01]".to_owned()),
        "f" => ("f", "[0-9]{1,6}".to_owned()),
        "p" => ("p", "am|pm".to_owned()),
        "a" => ("a", names(&days)),
        "A" => ("A", names(&whole_days)),
        "w" => ("w", "[0-6]".to_owned()),
        "z" => ("z", format!("(?-i:Z|UTC|GMT|{offset})")),
        "Z" => ("Z", "Z|[A-Z]{3,5}".to_owned()),
        "Exz" => ("z", format!("(?:{abbreviation})?{offset}|{abbreviation}")),
        "ExZ" => ("Z", abbreviation.to_owned()),
        _ => return None,
    };
    // A month's short name must be one: what else is three letters and a number?
    let regex = if group == "b" { super::fields::MONTHS.map(|month| &month[..3]).join("|") } else { regex };
    Some(format!("(?P<{group}>{regex})"))
}

/// With the edges that keep a date out of the middle of a word, and all of it in the first group where
/// the pattern has none of its own; and whether the edges are those of words.
fn bounded(regex: &str, at_start: bool, unbound: bool) -> (String, bool) {
    let (flags, regex) = match regex.strip_prefix("(?i)") {
        Some(rest) => ("(?i)", rest),
        None => ("", regex),
    };
    let no_edge_before = regex.starts_with("**")
        || regex.trim_start_matches('(').starts_with('^')
        || regex.starts_with("(?:^");
    let no_edge_after = regex.ends_with("**")
        || regex.trim_end_matches(')').ends_with('$')
        || [r"\b", r"\s", r"\s*", r"\s+"].iter().any(|edge| regex.ends_with(edge));
    let regex = regex.trim_start_matches("**").trim_end_matches("**");
    let grouped = if has_group(regex) {
        regex.to_owned()
    } else {
        let (caret, rest) = regex.strip_prefix('^').map_or(("", regex), |rest| ("^", rest));
        let (rest, dollar) = rest.strip_suffix('$').map_or((rest, ""), |rest| (rest, "$"));
        format!("{caret}({rest}){dollar}")
    };
    let before = match (unbound || no_edge_before, at_start) {
        (true, _) => "",
        (false, true) => r"^\W{0,2}",
        (false, false) => EDGE,
    };
    let after = if unbound || no_edge_after { "" } else { EDGE };
    let at_line = at_start || regex.starts_with('^');
    let is_word = !unbound && !has_group(regex) && (at_line || !before.is_empty()) && !after.is_empty();
    (format!("{flags}{before}{grouped}{after}"), is_word)
}

/// Whether it has a group without a name, which then says what to cut out.
fn has_group(regex: &str) -> bool {
    let bytes = regex.as_bytes();
    let mut in_class = false;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'[' if !in_class => {
                in_class = true;
                // A bracket that comes first is one of the class.
                if bytes.get(at + 1) == Some(&b'^') {
                    at += 1;
                }
                if bytes.get(at + 1) == Some(&b']') {
                    at += 1;
                }
            }
            b']' => in_class = false,
            b'(' if !in_class && bytes.get(at + 1) != Some(&b'?') => return true,
            _ => {}
        }
        at += 1;
    }
    false
}

/// `(?P<name>[-/])…(?P=name)`, which the regex crate cannot say, as a regex for each of the characters.
fn separators(regex: &str) -> Vec<String> {
    let whole = || vec![regex.to_owned()];
    let Some(at) = regex.find("(?P=") else { return whole() };
    let Some(name) = regex[at + 4..].split(')').next() else { return whole() };
    let (opener, again) = (format!("(?P<{name}>["), format!("(?P={name})"));
    let Some(from) = regex.find(&opener) else { return whole() };
    let class = from + opener.len();
    let Some(end) = regex[class..].find("])").map(|end| class + end) else { return whole() };
    let characters: Vec<char> = regex[class..end].chars().filter(|character| *character != '\\').collect();
    if characters.len() > MOST_SEPARATORS || characters.first() == Some(&'^') {
        return whole();
    }
    characters
        .into_iter()
        .map(|character| {
            let literal = regex::escape(&character.to_string());
            let rest = regex[end + 2..].replace(&again, &literal);
            format!("{}{literal}{rest}", &regex[..from])
        })
        .collect()
}

fn is_anchored(regex: &str) -> bool {
    let regex = regex.strip_prefix("(?i)").unwrap_or(regex);
    regex.starts_with('^') || regex.starts_with("(^") || regex.starts_with("(?:^")
}
