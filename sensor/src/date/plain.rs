//! The date at the start of a log line: ISO 8601, RFC 3164, RFC 5424, epoch seconds and the web
//! servers' forms. Bytes in, a moment and its place out; nothing is searched beyond the line's start.

use std::net::Ipv6Addr;
use std::ops::Range;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// The form in which a date was written, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// `2025-09-05T11:17:32.937307-03:00`, with a blank for the `T` or without zone too; also
    /// `2025/09/05 11:17:32`.
    Iso,
    /// `Sep  5 11:17:32`, also with a weekday before and a year in or after it
    Rfc3164,
    /// `1757081850.123`, also in brackets
    Epoch,
    /// `05/Sep/2025:11:17:32 -0300` and `05-Sep-2025 11:17:32 -0300`, also in brackets
    Web,
    /// `Sep/05/2025 11:17:32`, in older versions `sep/05/2025 11:17:32`
    RouterOs,
}

// === impl Form ===

impl Form {
    /// For people, with an example.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iso => "ISO 8601, such as 2025-09-05T11:17:32-03:00",
            Self::Rfc3164 => "RFC 3164, such as Sep  5 11:17:32",
            Self::Epoch => "seconds since 1970",
            Self::Web => "web servers', such as 05/Sep/2025:11:17:32 -0300",
            Self::RouterOs => "RouterOS's, such as Sep/05/2025 11:17:32",
        }
    }
}

/// Finds the date at the start of a line. `now` resolves a missing year, `zone` a missing zone.
/// Returns the moment and the bytes that the date takes, without a syslog priority before it.
pub fn find(line: &[u8], now: Timestamp, zone: &TimeZone) -> Option<(Timestamp, Range<usize>)> {
    find_form(line, now, zone).map(|(time, range, _)| (time, range))
}

/// As [`find`], with the form that was found.
pub fn find_form(line: &[u8], now: Timestamp, zone: &TimeZone) -> Option<(Timestamp, Range<usize>, Form)> {
    let mut start = line.iter().take_while(|byte| **byte == b' ').count();
    start += priority(&line[start..]);
    let bracket = usize::from(line.get(start) == Some(&b'['));
    let rest = line.get(start + bracket..)?;
    let mut cursor = Rest { bytes: rest, at: 0 };
    let (time, form) = match rest.first()? {
        b'A'..=b'Z' | b'a'..=b'z' if rest.get(3) == Some(&b'/') => {
            (routeros(&mut cursor, now, zone)?, Form::RouterOs)
        }
        b'A'..=b'Z' => (rfc3164(&mut cursor, now, zone)?, Form::Rfc3164),
        b'0'..=b'9' => match rest.get(2)? {
            b'/' | b'-' => (web(&mut cursor, now, zone)?, Form::Web),
            _ if matches!(rest.get(4), Some(b'-' | b'/')) => (iso(&mut cursor, now, zone)?, Form::Iso),
            _ => (epoch(&mut cursor)?, Form::Epoch),
        },
        _ => return None,
    };
    let mut end = start + bracket + cursor.at;
    if bracket == 1 {
        if line.get(end) != Some(&b']') {
            return None;
        }
        end += 1;
    }
    Some((time, start..end, form))
}

/// The length of `<PRI>` and, for RFC 5424, the version after it; 0 where there is none.
pub(super) fn priority(line: &[u8]) -> usize {
    if line.first() != Some(&b'<') {
        return 0;
    }
    let digits = line[1..].iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || line.get(1 + digits) != Some(&b'>') {
        return 0;
    }
    let length = digits + 2;
    if line[length..].starts_with(b"1 ") { length + 2 } else { length }
}

/// Whether it begins with an IPv6 address, as the host of `Sep  5 11:17:32 2001:db8::5 sshd: x` is.
pub(super) fn is_host(rest: &[u8]) -> bool {
    let word = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(word).is_ok_and(|word| word.parse::<Ipv6Addr>().is_ok())
}

fn iso(cursor: &mut Rest<'_>, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let year = cursor.number(4)?;
    let separator = cursor.next()?;
    let month = cursor.number(2)?;
    cursor.expect(separator)?;
    let day = cursor.number(2)?;
    if !matches!(cursor.next()?, b'T' | b't' | b' ') {
        return None;
    }
    let (hour, minute, second) = cursor.clock()?;
    let nanos = cursor.fraction();
    let civil = civil(year, month, day, hour, minute, second, nanos)?;
    resolve(cursor, civil, now, zone)
}

fn rfc3164(cursor: &mut Rest<'_>, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    cursor.weekday();
    let month = cursor.month()?;
    cursor.expect(b' ')?;
    let day = if cursor.peek() == Some(b' ') {
        cursor.expect(b' ')?;
        cursor.number(1)?
    } else if cursor.bytes.get(cursor.at + 1).is_some_and(u8::is_ascii_digit) {
        cursor.number(2)?
    } else {
        cursor.number(1)?
    };
    cursor.expect(b' ')?;
    // Some daemons put the year between day and time: `Sep  5 2025 11:17:32`.
    let with_year = cursor.bytes.get(cursor.at + 4) == Some(&b' ');
    let stated = if with_year {
        let year = cursor.number(4)?;
        cursor.expect(b' ')?;
        Some(year)
    } else {
        None
    };
    let (hour, minute, second) = cursor.clock()?;
    let nanos = cursor.fraction();
    // C's own form ends in the year: `Fri Sep  5 11:17:32 2025`.
    let stated = stated.or_else(|| cursor.year_after());
    let moment = |year| {
        let civil = civil(year, month, day, hour, minute, second, nanos)?;
        local(civil, now, zone)
    };
    if let Some(year) = stated {
        return moment(year);
    }
    // The nearest year that is not more than a day ahead: at New Year a line of December is of last
    // year, and a host whose clock is a little ahead is believed.
    let this_year = i32::from(now.to_zoned_datetime(zone.clone()).year());
    let ahead = SignedDuration::from_hours(24);
    [this_year + 1, this_year, this_year - 1]
        .into_iter()
        .filter_map(moment)
        .find(|time| time.duration_since(now) <= ahead)
        // A 29th of February that is years ago, by a clock that is wrong: as good as no date, for nobody reads lines
        // of then. It exists in one of four years, or of eight around 1900 and 2100.
        .or_else(|| (2..=8).find_map(|years| moment(this_year - years)).map(|_| now))
}

fn web(cursor: &mut Rest<'_>, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let day = cursor.number(2)?;
    let separator = cursor.next()?;
    let month = cursor.month()?;
    cursor.expect(separator)?;
    let year = cursor.number(4)?;
    if !matches!(cursor.next()?, b':' | b' ') {
        return None;
    }
    let (hour, minute, second) = cursor.clock()?;
    let nanos = cursor.fraction();
    let civil = civil(year, month, day, hour, minute, second, nanos)?;
    resolve(cursor, civil, now, zone)
}

/// As RouterOS writes into files on its disk.
fn routeros(cursor: &mut Rest<'_>, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let name: [u8; 3] = cursor.bytes.first_chunk().copied()?;
    cursor.at += name.len();
    let month = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(&name))? as i32 + 1;
    cursor.expect(b'/')?;
    let day = cursor.number(2)?;
    cursor.expect(b'/')?;
    let year = cursor.number(4)?;
    cursor.expect(b' ')?;
    let (hour, minute, second) = cursor.clock()?;
    local(civil(year, month, day, hour, minute, second, 0)?, now, zone)
}

fn epoch(cursor: &mut Rest<'_>) -> Option<Timestamp> {
    let digits = cursor.bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // 10 digits of seconds (2001 to 2286), or 13 of milliseconds.
    let (seconds, nanos) = match digits {
        10 => (i64::from(cursor.number(5)?) * 100_000 + i64::from(cursor.number(5)?), cursor.fraction()),
        13 => {
            let seconds = i64::from(cursor.number(5)?) * 100_000 + i64::from(cursor.number(5)?);
            (seconds, cursor.number(3)? * 1_000_000)
        }
        _ => return None,
    };
    Timestamp::new(seconds, nanos).ok()
}

/// A civil time with the zone that follows it, else with the given one.
fn resolve(cursor: &mut Rest<'_>, civil: DateTime, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let before = cursor.at;
    if cursor.peek() == Some(b' ') && matches!(cursor.bytes.get(cursor.at + 1), Some(b'+' | b'-')) {
        cursor.at += 1;
    }
    let sign = match cursor.peek() {
        Some(b'Z' | b'z') => {
            cursor.at += 1;
            return Offset::UTC.to_timestamp(civil).ok();
        }
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => 0,
    };
    if sign != 0 {
        cursor.at += 1;
        if let Some(seconds) = cursor.offset() {
            return Offset::from_seconds(sign * seconds).ok()?.to_timestamp(civil).ok();
        }
        cursor.at = before;
    }
    local(civil, now, zone)
}

/// A civil time that states no zone. In the hour that comes twice when summer time ends it is the later
/// of the two, unless that is yet to come: the earlier would be an hour old, and no jail would count it.
pub(super) fn local(civil: DateTime, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let either = zone.to_ambiguous_timestamp(civil);
    if let AmbiguousOffset::Fold { after, .. } = either.offset() {
        let later = after.to_timestamp(civil).ok()?;
        if later.duration_since(now) <= SignedDuration::from_mins(1) {
            return Some(later);
        }
    }
    either.compatible().ok()
}

fn civil(
    year: i32,
    month: i32,
    day: i32,
    hour: i32,
    minute: i32,
    second: i32,
    nanos: i32,
) -> Option<DateTime> {
    let small = |number: i32| i8::try_from(number).ok();
    // A leap second counts as the second before it.
    let second = second.min(59);
    DateTime::new(
        i16::try_from(year).ok()?,
        small(month)?,
        small(day)?,
        small(hour)?,
        small(minute)?,
        small(second)?,
        nanos,
    )
    .ok()
}

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

// === impl Rest ===

impl Rest<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// A number of exactly so many digits, at most nine.
    fn number(&mut self, digits: usize) -> Option<i32> {
        let text = self.bytes.get(self.at..self.at + digits)?;
        self.at += digits;
        text.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i32::from(byte - b'0')))
    }

    fn month(&mut self) -> Option<i32> {
        let name = self.bytes.get(self.at..self.at + 3)?;
        self.at += 3;
        let index = MONTHS.iter().position(|month| *month == name)?;
        Some(index as i32 + 1)
    }

    /// Skips `Fri ` and `Fri, `, where a weekday stands.
    fn weekday(&mut self) {
        const DAYS: [&[u8]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
        let Some(rest) = self.bytes.get(self.at..) else { return };
        if !DAYS.iter().any(|day| rest.starts_with(day)) {
            return;
        }
        let comma = usize::from(rest.get(3) == Some(&b','));
        if rest.get(3 + comma) == Some(&b' ') {
            self.at += 4 + comma;
        }
    }

    /// ` 2025`, where a year follows and is a word of its own.
    fn year_after(&mut self) -> Option<i32> {
        let rest = self.bytes.get(self.at..)?;
        let is_year = rest.first() == Some(&b' ')
            && matches!(rest.get(1..3), Some(b"19" | b"20"))
            && rest.get(3..5).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
            && rest.get(5).is_none_or(|next| matches!(next, b' ' | b']' | b':' | b','))
            && !is_host(&rest[1..]);
        if !is_year {
            return None;
        }
        self.at += 1;
        self.number(4)
    }

    /// Hours, minutes and seconds in two digits each: `11:17:32`.
    fn clock(&mut self) -> Option<(i32, i32, i32)> {
        let hour = self.number(2)?;
        self.expect(b':')?;
        let minute = self.number(2)?;
        self.expect(b':')?;
        Some((hour, minute, self.number(2)?))
    }

    /// `.937307` or `,937`, in nanoseconds; 0 where there is none.
    fn fraction(&mut self) -> i32 {
        let digits = self.bytes.get(self.at + 1..).unwrap_or_default();
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 || !matches!(self.peek(), Some(b'.' | b',')) {
            return 0;
        }
        self.at += 1 + count;
        (0..9).fold(0, |sum, place| {
            let digit = if place < count { i32::from(digits[place] - b'0') } else { 0 };
            sum * 10 + digit
        })
    }

    /// `03:00`, `0300` or `03`, in seconds.
    fn offset(&mut self) -> Option<i32> {
        let hours = self.number(2)?;
        let minutes = match self.peek() {
            Some(b':') => {
                self.at += 1;
                self.number(2)?
            }
            Some(b'0'..=b'9') => self.number(2)?,
            _ => 0,
        };
        Some(hours * 3600 + minutes * 60)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2025-09-06T00:00:00Z".parse().unwrap()
    }

    fn zone() -> TimeZone {
        TimeZone::fixed(jiff::tz::offset(-3))
    }

    #[track_caller]
    fn assert_date(line: &str, expected: &str, rest: &str) {
        let (time, range) =
            find(line.as_bytes(), now(), &zone()).unwrap_or_else(|| panic!("no date in {line}"));
        assert_eq!(time, expected.parse().unwrap(), "{line}");
        assert_eq!(&line[range.end..], rest, "{line}");
    }

    #[test]
    fn each_form_gives_its_moment_and_its_place() {
        for line in [
            "2025-09-05T11:17:32.5-03:00 x",
            "2025-09-05T11:17:32.5-0300 x",
            "2025-09-05T14:17:32.5Z x",
            "2025-09-05 11:17:32.5 x",
            "2025-09-05 11:17:32,5 x",
            "2025/09/05 11:17:32.5 x",
            "<34>1 2025-09-05T14:17:32.500000Z x",
            "Sep  5 11:17:32.5 x",
            "<13>Sep  5 11:17:32.5 x",
            "1757081852.5 x",
            "[1757081852.5] x",
            "1757081852500 x",
        ] {
            assert_date(line, "2025-09-05T14:17:32.5Z", " x");
        }
        for line in [
            "05/Sep/2025:11:17:32 -0300 x",
            "[05/Sep/2025:11:17:32 -0300] x",
            "[05/Sep/2025:14:17:32 +0000] x",
            "Sep 05 11:17:32 x",
            "Sep  5 2025 11:17:32 x",
            "Sep  5 11:17:32 2025 x",
            "Sep/05/2025 11:17:32 x",
            "sep/05/2025 11:17:32 x",
        ] {
            assert_date(line, "2025-09-05T14:17:32Z", " x");
        }
        // A host that looks like a year.
        assert_date("Sep  5 11:17:32 2001:db8::5 x", "2025-09-05T14:17:32Z", " 2001:db8::5 x");
        assert_date("Sep  5 11:17:32 2025: x", "2025-09-05T14:17:32Z", ": x");
    }

    #[test]
    fn the_year_is_the_nearest_one_at_new_year() {
        let utc = TimeZone::UTC;
        let year = |line: &str, now: &str| {
            let (time, _) = find(line.as_bytes(), now.parse().unwrap(), &utc).unwrap();
            time.to_zoned_datetime(utc.clone()).year()
        };
        assert_eq!(year("Dec 31 23:59:59 x", "2026-01-01T00:00:05Z"), 2025);
        assert_eq!(year("Jan  1 00:00:05 x", "2025-12-31T23:59:59Z"), 2026);
        assert_eq!(year("Jan  3 00:00:05 x", "2025-12-31T23:59:59Z"), 2025);
        assert_eq!(year("Feb 29 12:00:00 x", "2028-03-01T00:00:00Z"), 2028);
        assert_eq!(year("Feb 29 12:00:00 x", "2029-01-01T00:00:00Z"), 2028);
        // In a year that has none it is of now.
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        for line in ["Feb 29 12:00:00 x", "Feb 29 12:00:00.5 x", "<38>Feb 29 12:00:00 x"] {
            assert_eq!(find(line.as_bytes(), now, &utc).unwrap().0, now, "{line}");
        }
        assert_eq!(find(b"Feb 30 12:00:00 x", now, &utc), None);
    }

    #[test]
    fn in_the_hour_that_comes_twice_a_line_is_of_the_time_it_was_written() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let moment = |now: &str| {
            let (time, _) = find(b"Oct 26 02:30:00 x", now.parse().unwrap(), &zone).unwrap();
            time.to_string()
        };
        assert_eq!(moment("2025-10-26T00:30:01Z"), "2025-10-26T00:30:00Z");
        assert_eq!(moment("2025-10-26T01:30:01Z"), "2025-10-26T01:30:00Z");
        // The hour that is left out in spring.
        let (time, _) = find(b"Mar 30 02:30:00 x", "2025-03-30T01:31:00Z".parse().unwrap(), &zone).unwrap();
        assert_eq!(time.to_string(), "2025-03-30T01:30:00Z");
    }

    #[test]
    fn what_is_no_date_is_none() {
        for line in [
            "",
            "hello",
            "<",
            "<34>",
            "[",
            "[x]",
            "1757",
            "2025-13-05T11:17:32Z",
            "2025-09-31 11:17:32",
            "Sep 31 11:17:32",
            "Foo  5 11:17:32",
            "Foo/05/2025 11:17:32",
            "Sep/05/25 11:17:32",
            "Sep/05/2025",
            "Sep/",
            "25:61:61",
            "12345678901 x",
            "[1757081852",
            "2025-09-05",
        ] {
            assert_eq!(find(line.as_bytes(), now(), &zone()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic_and_the_range_lies_in_the_line(
            line in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'2'), Just(b':'), Just(b'-'), Just(b' ')], 0..60)
        ) {
            if let Some((_, range)) = find(&line, now(), &zone()) {
                prop_assert!(range.start <= range.end && range.end <= line.len());
            }
        }

        #[test]
        fn a_moment_that_is_written_is_read_back(seconds in 1_000_000_000i64..4_000_000_000, micros in 0i32..1_000_000) {
            let time = Timestamp::new(seconds, micros * 1000).unwrap();
            for line in [format!("{time} x"), format!("{seconds}.{micros:06} x")] {
                let (found, _) = find(line.as_bytes(), now(), &zone()).unwrap();
                prop_assert_eq!(found, time);
            }
        }
    }
}
