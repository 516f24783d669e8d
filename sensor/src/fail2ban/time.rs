//! fail2ban's times: `600`, `10m`, `1d12h`, `1h 30m`, `10*60`, `-1`.

use atalaya_wire::{BanTime, Seconds};

/// The units, in seconds. A month is a twelfth of a year of 365.25 days.
const UNITS: [(&[&str], f64); 7] = [
    (&["y", "yy", "year", "years", "yr", "yrs"], 31_557_600.0),
    (&["mo", "mon", "month", "months"], 2_629_800.0),
    (&["w", "we", "ww", "week", "weeks"], 604_800.0),
    (&["d", "da", "dd", "day", "days"], 86_400.0),
    (&["h", "ho", "hh", "hour", "hours"], 3_600.0),
    (&["m", "mi", "mm", "min", "mins", "minute", "minutes"], 60.0),
    (&["s", "se", "ss", "sec", "secs", "second", "seconds"], 1.0),
];

/// A time of at least one second.
pub(super) fn seconds(text: &str) -> Result<Seconds, String> {
    let wrong = || format!("`{text}` is not a time: write such as 600, 10m or 1h30m");
    let sum = sum(text).ok_or_else(wrong)?;
    if !(1.0..=Seconds::LONGEST.0 as f64).contains(&sum) {
        return Err(format!("`{text}` is out of range: expected 1 second to {}", Seconds::LONGEST));
    }
    Ok(Seconds(sum as u64))
}

/// A time, or `-1` for ever.
pub(super) fn ban_time(text: &str) -> Result<BanTime, String> {
    if text.trim() == "-1" { Ok(BanTime::Permanent) } else { seconds(text).map(BanTime::For) }
}

/// The sum of terms that follow one another; a term is a product of numbers, each with or without unit.
fn sum(text: &str) -> Option<f64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let mut term = factor(&mut rest)?;
        while let Some(after) = rest.trim_start().strip_prefix('*') {
            rest = after.trim_start();
            term *= factor(&mut rest)?;
        }
        sum += term;
        rest = rest.trim_start();
        rest = rest.strip_prefix('+').unwrap_or(rest).trim_start();
    }
    Some(sum)
}

/// A number and its unit.
fn factor(rest: &mut &str) -> Option<f64> {
    let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let number: f64 = rest[..digits].parse().ok()?;
    *rest = &rest[digits..];
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let unit = rest[..letters].to_ascii_lowercase();
    *rest = &rest[letters..];
    if unit.is_empty() {
        return Some(number);
    }
    let (_, length) = UNITS.iter().find(|(names, _)| names.contains(&unit.as_str()))?;
    Some(number * length)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("600", 600)]
    #[case("10m", 600)]
    #[case("1d12h", 129_600)]
    #[case("1h 30m", 5400)]
    #[case("10*60", 600)]
    #[case("2*1h+30", 7230)]
    #[case("1.5h", 5400)]
    #[case("1mo", 2_629_800)]
    #[case("1y", 31_557_600)]
    #[case("3 ", 3)]
    fn times_are_read(#[case] text: &str, #[case] expected: u64) {
        assert_eq!(seconds(text), Ok(Seconds(expected)));
    }

    #[rstest]
    #[case("")]
    #[case("soon")]
    #[case("10x")]
    #[case("-5")]
    #[case("0")]
    #[case("10*")]
    #[case("1e9y")]
    #[case("999999999999y")]
    fn what_is_no_time_is_refused(#[case] text: &str) {
        assert!(seconds(text).is_err());
    }

    #[test]
    fn minus_one_is_for_ever() {
        assert_eq!(ban_time("-1"), Ok(BanTime::Permanent));
        assert_eq!(ban_time("30m"), Ok(BanTime::For(Seconds(1800))));
    }
}
