//! Timeouts as RouterOS reads and prints them: `1d2h3m4s`, `00:30:00`, `35w3d13:13:56`, plain seconds.
//!
//! Whole seconds only, which is what an address list keeps. How far each family lets a timeout go,
//! and what it does past that, is here too.

use std::fmt::{self, Display};

/// The largest timeout that RouterOS keeps, in seconds: `35w3d13h13m56s`, a signed 32-bit count of
/// hundredths of a second.
pub const MAX_TIMEOUT: u64 = 21_474_836;

/// A timeout in whole seconds, printed as RouterOS prints it: `23h59m55s`, and `0s` for zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timeout(pub u64);

impl Timeout {
    /// Reads any form RouterOS accepts; `None` for what it does not. Milliseconds are cut off.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (units, clock) = match text.find(':') {
            // The clock form may follow weeks and days: 35w3d13:13:56.
            Some(colon) => {
                let start = text[..colon].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
                (&text[..start], Some(&text[start..]))
            }
            None => (text, None),
        };
        let clock = clock.map_or(Some(0), parse_clock)?;
        if units.is_empty() {
            return (!text.is_empty()).then_some(Self(clock));
        }
        if let Some(seconds) = number(units) {
            return (text == units).then_some(Self(seconds));
        }
        parse_units(units.trim_end())?.checked_add(clock).map(Self)
    }

    /// What the IPv6 table makes of a timeout: it counts hundredths of a second in 32 signed bits and
    /// wraps in silence, so a year becomes `0s` (seen on 7.24.5).
    #[must_use]
    pub fn wrapped(self) -> Self {
        let hundredths = self.0.wrapping_mul(100) as u32;
        Self(if hundredths > i32::MAX as u32 { 0 } else { u64::from(hundredths / 100) })
    }
}

impl Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, seconds) in [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
            if left >= seconds {
                write!(f, "{}{unit}", left / seconds)?;
                left %= seconds;
            }
        }
        Ok(())
    }
}

/// `HH:MM` or `HH:MM:SS`, with or without a fraction; hours are not bounded.
fn parse_clock(text: &str) -> Option<u64> {
    let text = text.split_once('.').map_or(text, |(whole, _)| whole);
    let mut parts = text.split(':');
    let hours: u64 = number(parts.next()?)?;
    let minutes = number(parts.next()?).filter(|&minutes| minutes < 60)?;
    let seconds = parts.next().map_or(Some(0), number).filter(|&seconds| seconds < 60)?;
    if parts.next().is_some() {
        return None;
    }
    hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)
}

/// `1w2d3h4m5s6ms`, each unit once and in this order.
fn parse_units(mut text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut units = [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1), ("ms", 0)].iter();
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let value = number(&text[..digits])?;
        text = &text[digits..];
        let letters = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
        let seconds = units.find(|(unit, _)| *unit == &text[..letters])?.1;
        total = total.checked_add(value.checked_mul(seconds)?)?;
        text = &text[letters..];
    }
    Some(total)
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1h", 3600)]
    #[case("1d2h3m4s", 93_784)]
    #[case("00:30:00", 1800)]
    #[case("00:30", 1800)]
    #[case("30m", 1800)]
    #[case("1800", 1800)]
    #[case("1800s", 1800)]
    #[case("0s", 0)]
    #[case("35w3d13h13m56s", MAX_TIMEOUT)]
    #[case("35w3d13:13:56", MAX_TIMEOUT)]
    #[case("365d", 31_536_000)]
    #[case("1d 01:00:00", 90_000)]
    #[case("1s500ms", 1)]
    #[case("72:00:00", 259_200)]
    fn accepted_forms(#[case] text: &str, #[case] seconds: u64) {
        assert_eq!(Timeout::parse(text.as_bytes()), Some(Timeout(seconds)));
    }

    #[rstest]
    #[case("")]
    #[case("soon")]
    #[case("1x")]
    #[case("1m1h")]
    #[case("1h1h")]
    #[case("00:61:00")]
    #[case("1:2:3:4")]
    #[case("-5")]
    #[case("+5")]
    #[case(":")]
    #[case("1d5")]
    #[case("99999999999999999999")]
    #[case("99999999999999999w")]
    fn refused_forms(#[case] text: &str) {
        assert_eq!(Timeout::parse(text.as_bytes()), None);
    }

    #[rstest]
    #[case(86_395, "23h59m55s")]
    #[case(MAX_TIMEOUT, "35w3d13h13m56s")]
    #[case(3600, "1h")]
    #[case(0, "0s")]
    fn printed_form(#[case] seconds: u64, #[case] text: &str) {
        assert_eq!(Timeout(seconds).to_string(), text);
    }

    #[test]
    fn the_ipv6_table_makes_a_year_zero_and_keeps_the_largest() {
        assert_eq!(Timeout(31_536_000).wrapped(), Timeout(0));
        assert_eq!(Timeout(MAX_TIMEOUT).wrapped(), Timeout(MAX_TIMEOUT));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(seconds in 0..=MAX_TIMEOUT) {
            prop_assert_eq!(Timeout::parse(Timeout(seconds).to_string().as_bytes()), Some(Timeout(seconds)));
        }

        #[test]
        fn no_text_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..40), likely in "[0-9wdhms:. ]{0,30}") {
            let _ = Timeout::parse(&text);
            let _ = Timeout::parse(likely.as_bytes()).map(Timeout::wrapped);
        }
    }
}
