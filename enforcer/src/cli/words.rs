//! How values look on a terminal: times as people say them, and text that others chose made harmless.

use std::borrow::Cow;

use atalaya_enforcer::clock;
pub use atalaya_program::count::{agreeing, count, counted};
use ipnet::IpNet;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// An address without its length, a network with it.
pub fn prefix(prefix: IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    }
}

/// A time to the second, in this host's zone.
pub fn moment(time: Timestamp) -> String {
    clock::in_zone(time, &zone())
}

/// The hour of a time, in this host's zone, for where the zone is told beside it.
pub fn hour(time: Timestamp) -> String {
    time.to_zoned_datetime(zone()).strftime("%H:%M:%S").to_string()
}

/// The same, with its distance from UTC.
pub fn hour_of_zone(time: Timestamp) -> String {
    let moment = moment(time);
    moment.split_once(' ').map_or_else(|| moment.clone(), |(_, hour)| hour.to_owned())
}

/// The zone of this host; tests are everywhere in the same.
fn zone() -> TimeZone {
    if cfg!(test) { TimeZone::UTC } else { TimeZone::system() }
}

/// When a ban ends.
pub fn end(until: Option<Timestamp>) -> String {
    until.map_or_else(|| "permanently".to_owned(), |until| format!("until {}", moment(until)))
}

/// A length of time in its two largest units: `28m`, `2h 5m`, `3d`. What is negative counts as nothing.
pub fn length(length: SignedDuration) -> String {
    let seconds = length.as_secs().max(0);
    let (day, hour, minute) = (86_400, 3600, 60);
    let two = |large, unit, small, rest_unit| match seconds % large / small {
        0 => format!("{}{unit}", seconds / large),
        rest => format!("{}{unit} {rest}{rest_unit}", seconds / large),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 if seconds >= 600 => format!("{}m", seconds / minute),
        60..3600 => two(minute, 'm', 1, 's'),
        3600..86_400 => two(hour, 'h', minute, 'm'),
        _ => two(day, 'd', hour, 'h'),
    }
}

/// How long ago something was: `5m ago`, or `now`.
pub fn ago(time: Timestamp, now: Timestamp) -> String {
    let past = now.duration_since(time);
    if past.as_secs() <= 0 { "now".to_owned() } else { format!("{} ago", length(past)) }
}

/// When something will be: `in 28m`, `over`, or `permanent`.
pub fn until(time: Option<Timestamp>, now: Timestamp) -> String {
    // To the nearest second: a ban of two hours ends in 2h, not in 1h 59m.
    let nearest = SignedDuration::from_millis(500);
    match time.map(|time| time.duration_since(now).saturating_add(nearest)) {
        None => "permanent".to_owned(),
        Some(left) if left.as_secs() > 0 => format!("in {}", length(left)),
        Some(_) => "over".to_owned(),
    }
}

/// Microseconds: `850 µs`, `1.2 ms`, `2.5 s`.
pub fn micros(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

/// Text that others chose, a router's say or an attacker's: nothing in it moves the cursor, colours, or
/// turns the direction of writing.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if text.contains(is_harmful) {
        Cow::Owned(text.chars().map(|c| if is_harmful(c) { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// The same for JSON: what a terminal could take as a command is escaped, so that its value stays.
pub fn harmless_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_harmful) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_harmful(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    Cow::Owned(text)
}

/// As much of a text as fits, with a sign that there was more.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.chars().count() <= most {
        return Cow::Borrowed(text);
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    Cow::Owned(short)
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(-5, "0s")]
    #[case(59, "59s")]
    #[case(60, "1m")]
    #[case(61, "1m 1s")]
    #[case(1700, "28m")]
    #[case(3600, "1h")]
    #[case(7505, "2h 5m")]
    #[case(86_400 * 3 + 7200, "3d 2h")]
    fn a_length_is_said_in_its_two_largest_units(#[case] seconds: i64, #[case] words: &str) {
        assert_eq!(length(SignedDuration::from_secs(seconds)), words);
    }

    #[test]
    fn a_time_is_told_from_now() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!((ago(at(100), at(400)), ago(at(9), at(5))), ("5m ago".to_owned(), "now".to_owned()));
        assert_eq!(until(Some(at(500)), at(400)), "in 1m 40s");
        assert_eq!(
            (until(Some(at(4)), at(4)), until(None, at(4))),
            ("over".to_owned(), "permanent".to_owned())
        );
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through_and_json_keeps_its_value() {
        let hostile = "a\x1b[2Jb\u{9b}1mc\u{202e}d\ne\u{7f}";
        let shown = harmless(hostile);
        assert!(!shown.contains(is_harmful) && shown.starts_with("a\u{fffd}[2Jb"), "{shown}");
        let json = serde_json::to_string(hostile).unwrap();
        let escaped = harmless_json(&json);
        assert!(!escaped.contains(is_harmful), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), hostile);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(
            (cut("höher", 5).as_ref(), cut("höher", 3).as_ref(), cut("ab", 0).as_ref()),
            ("höher", "hö…", "…")
        );
    }
}
