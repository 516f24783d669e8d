//! fail2ban's times: `600`, `10m`, `2 weeks`, `1d12h`, `1h 30m`, `10*60`, `600 # ten minutes`, `-1`.
//!
//! There they are expressions of Python, after each unit was replaced by a product. The same is done here, and of
//! Python's expressions the arithmetic is understood: numbers, `+ - * / // % **`, and parentheses.

use std::sync::LazyLock;

use atalaya_wire::{BanTime, Seconds};
use regex::Regex;

/// The units, in the order in which they are replaced, and their seconds. A month is a twelfth of a year of 365.25 days.
const UNITS: [(&str, u32); 7] = [
    ("days?|da|dd?", 86_400),
    ("weeks?|wee?|ww?", 604_800),
    ("months?|mon?", 2_629_800),
    ("years?|yea?|yy?", 31_557_600),
    ("seconds?|sec?|ss?", 1),
    ("minutes?|min?|mm?", 60),
    ("hours?|hou?|hh?", 3_600),
];
/// The longest text of a time, in bytes, and how deep its parentheses may be: whatever is beyond is none.
const LONGEST: usize = 1000;
const DEEPEST: usize = 50;

/// A time of at least one second.
pub(super) fn seconds(text: &str) -> Result<Seconds, String> {
    let sum = value(text)?;
    if !(1.0..=Seconds::LONGEST.0 as f64).contains(&sum) {
        return Err(format!("`{text}` is out of range: expected 1 second to {}", Seconds::LONGEST));
    }
    Ok(Seconds(sum as u64))
}

/// A time, or `-1` for ever.
pub(super) fn ban_time(text: &str) -> Result<BanTime, String> {
    let is_minus_one = (value(text)? + 1.0).abs() < f64::EPSILON;
    if is_minus_one { Ok(BanTime::Permanent) } else { seconds(text).map(BanTime::For) }
}

/// How many seconds a time is there, which may be none or less.
fn value(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not a time: write such as 600, 10m, 1h30m or 2 weeks");
    if text.len() > LONGEST {
        return Err(wrong());
    }
    computed(&replace_units(text)).ok_or_else(wrong)
}

/// A number above zero, which may be computed too, without units: `24`, `1/2`.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    let value = Some(text).filter(|text| text.len() <= LONGEST).and_then(computed);
    value.filter(|value| *value > 0.0).ok_or_else(|| format!("`{text}` is not a number above 0"))
}

/// What arithmetic comes to.
fn computed(text: &str) -> Option<f64> {
    let mut reader = Reader { rest: line(text)?, depth: 0 };
    let value = reader.sum().filter(|_| reader.rest.is_empty());
    value.filter(|value| value.is_finite())
}

/// `1d 12h` as `1*86400+12*3600`.
fn replace_units(text: &str) -> String {
    static TOGETHER: LazyLock<Regex> = LazyLock::new(|| regex("(?i)([a-z])([0-9])"));
    static UNIT: LazyLock<Vec<(Regex, u32)>> = LazyLock::new(|| {
        UNITS
            .iter()
            .map(|(names, length)| (regex(&format!(r"(?i)([0-9\s])(?:{names})\b")), *length))
            .collect()
    });
    static APART: LazyLock<Regex> = LazyLock::new(|| regex(r"([0-9])\s+([0-9])"));
    let mut text = TOGETHER.replace_all(text, "$1 $2").into_owned();
    for (unit, length) in UNIT.iter() {
        text = unit.replace_all(&text, format!("${{1}}*{length}")).into_owned();
    }
    APART.replace_all(&text, "$1+$2").into_owned()
}

#[expect(clippy::expect_used, reason = "the patterns are constants, and tests compile them")]
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern")
}

/// The one line of an expression, without a comment: as Python takes it, blank lines around it are none.
fn line(text: &str) -> Option<&str> {
    let mut lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim_matches([' ', '\t']))
        .filter(|line| !line.is_empty());
    lines.next().filter(|_| lines.next().is_none())
}

/// An expression that is read from its start.
struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

// === impl Reader ===

impl Reader<'_> {
    fn sum(&mut self) -> Option<f64> {
        let mut sum = self.product()?;
        loop {
            if self.takes("+") {
                sum += self.product()?;
            } else if self.takes("-") {
                sum -= self.product()?;
            } else {
                return Some(sum);
            }
        }
    }

    fn product(&mut self) -> Option<f64> {
        let mut product = self.signed()?;
        loop {
            if self.takes("*") {
                product *= self.signed()?;
            } else if self.takes("//") {
                product = (product / self.divisor()?).floor();
            } else if self.takes("/") {
                product /= self.divisor()?;
            } else if self.takes("%") {
                // Python's has the sign of the divisor.
                let divisor = self.divisor()?;
                product -= divisor * (product / divisor).floor();
            } else {
                return Some(product);
            }
        }
    }

    /// What one may divide by.
    fn divisor(&mut self) -> Option<f64> {
        self.signed().filter(|divisor| *divisor != 0.0)
    }

    /// A power, with any signs before it, which it goes before.
    fn signed(&mut self) -> Option<f64> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let value = if self.takes("-") {
            -self.signed()?
        } else if self.takes("+") {
            self.signed()?
        } else {
            let base = self.operand()?;
            if self.takes("**") { base.powf(self.signed()?) } else { base }
        };
        self.depth -= 1;
        Some(value)
    }

    fn operand(&mut self) -> Option<f64> {
        if self.takes("(") {
            let inner = self.sum()?;
            return self.takes(")").then_some(inner);
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.rest.len());
        let (number, after) = self.rest.split_at(end);
        // To Python, a whole number that begins with a zero is a mistake.
        if number.starts_with('0') && !number.contains('.') && number.bytes().any(|digit| digit != b'0') {
            return None;
        }
        self.rest = after.trim_start();
        number.parse().ok()
    }

    /// Takes an operator, if it is what comes next; `*` and `/` are not the first half of another one.
    fn takes(&mut self, operator: &str) -> bool {
        let Some(after) = self.rest.strip_prefix(operator) else { return false };
        if matches!(operator, "*" | "/") && after.starts_with(operator) {
            return false;
        }
        self.rest = after.trim_start();
        true
    }
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
    #[case("2 weeks", 1_209_600)]
    #[case("600 # ten minutes", 600)]
    #[case("(1h + 30m) * 2", 10_800)]
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
    #[case("1h\n+1h")]
    #[case("60/0")]
    #[case("9**9**9")]
    fn what_is_no_time_is_refused(#[case] text: &str) {
        assert!(seconds(text).is_err());
    }

    #[test]
    fn minus_one_is_for_ever() {
        assert_eq!(ban_time("-1"), Ok(BanTime::Permanent));
        assert_eq!(ban_time("-1 # for ever"), Ok(BanTime::Permanent));
        assert_eq!(ban_time("30m"), Ok(BanTime::For(Seconds(1800))));
    }

    #[test]
    fn what_is_hostile_ends_at_its_bounds() {
        for text in ["(".repeat(999), "-".repeat(999), "9**".repeat(333), "9".repeat(1000), "1d".repeat(5000)]
        {
            assert!(seconds(&text).is_err(), "{text}");
        }
    }
}
