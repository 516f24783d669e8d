//! Lengths of time as administrators write them: `600`, `10m`, `1h30m`, `1d12h`.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A length of time in whole seconds, at most [`Seconds::LONGEST`]. Parsed from a number of seconds
/// (`600`) or a sum of units (`1h30m`; `s`, `m`, `h`, `d`, `w`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Seconds(pub u64);

/// How long a ban lasts. In JSON and TOML: seconds (`1800`, `"30m"`), or `-1` or `"permanent"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BanTime {
    /// That many seconds from the offence.
    For(Seconds),
    /// Until someone unbans it.
    Permanent,
}

/// `{0}` is not a length of time: expected seconds (`600`) or a sum such as `10m`, `1h30m`, `1d12h`, at most 100 years
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a length of time: expected seconds (`600`) or a sum such as `10m`, `1h30m`, `1d12h`, at most 100 years"
)]
pub struct TimeError(String);

// === impl Seconds ===

impl Seconds {
    /// 100 years, in seconds.
    pub const LONGEST: Self = Self(100 * 365 * 86_400);

    /// The same as a [`Duration`], of whole seconds.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// As a [`jiff::SignedDuration`], for arithmetic with timestamps.
    pub const fn signed(self) -> jiff::SignedDuration {
        jiff::SignedDuration::from_secs(self.0.cast_signed())
    }
}

impl FromStr for Seconds {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        parse_seconds(text.trim())
            .filter(|seconds| *seconds <= Self::LONGEST.0)
            .map(Self)
            .ok_or_else(|| TimeError(text.escape_debug().take(80).collect()))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, length) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
            if rest >= length {
                write!(f, "{}{unit}", rest / length)?;
                rest %= length;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a length of time such as 600, \"10m\" or \"1h30m\"")
    }
}

// === impl BanTime ===

impl BanTime {
    /// When a ban of this length ends that begins at a time; `None` for a permanent one, and for one that would end
    /// after the year 9999, where timestamps end.
    pub fn end(self, from: Timestamp) -> Option<Timestamp> {
        match self {
            Self::For(seconds) => from.checked_add(seconds.signed()).ok(),
            Self::Permanent => None,
        }
    }
}

impl FromStr for BanTime {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        match text.trim() {
            "-1" | "permanent" => Ok(Self::Permanent),
            text => text.parse().map(Self::For),
        }
    }
}

impl fmt::Display for BanTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(seconds) => seconds.fmt(f),
            Self::Permanent => f.write_str("permanent"),
        }
    }
}

impl Serialize for BanTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::For(seconds) => serializer.serialize_u64(seconds.0),
            Self::Permanent => serializer.serialize_i64(-1),
        }
    }
}

impl<'de> Deserialize<'de> for BanTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a ban time such as 1800, \"30m\", -1 or \"permanent\"")
    }
}

/// Reads what is written as a number or as a text.
struct LengthVisitor<T> {
    expected: &'static str,
    read: PhantomData<T>,
}

impl<T: FromStr<Err = TimeError>> serde::de::Visitor<'_> for LengthVisitor<T> {
    type Value = Result<T, TimeError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(value.to_string().parse())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(value.to_string().parse())
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(value.parse())
    }
}

fn read<'de, T, D>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    T: FromStr<Err = TimeError>,
    D: serde::Deserializer<'de>,
{
    let visitor = LengthVisitor { expected, read: PhantomData };
    deserializer.deserialize_any(visitor)?.map_err(serde::de::Error::custom)
}

fn parse_seconds(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let unit = match &after[..letters] {
            "" if digits == text.len() => 1,
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &after[letters..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn administrators_forms_are_read() {
        for (text, seconds) in
            [("600", 600), ("10m", 600), ("1h30m", 5400), ("1d12h", 129_600), ("2w", 1_209_600)]
        {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        for bad in ["", "m", "10 m", "1h30", "-1", "1y", "99999999999", "18446744073709551616"] {
            assert!(bad.parse::<Seconds>().is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn a_permanent_ban_is_minus_one_as_in_fail2ban() {
        assert_eq!(serde_json::from_str::<BanTime>("-1").unwrap(), BanTime::Permanent);
        assert_eq!(serde_json::from_str::<BanTime>("\"permanent\"").unwrap(), BanTime::Permanent);
        assert_eq!(serde_json::to_string(&BanTime::Permanent).unwrap(), "-1");
        assert!(serde_json::from_str::<BanTime>("-2").is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(seconds in 0..=Seconds::LONGEST.0) {
            proptest::prop_assert_eq!(Seconds(seconds).to_string().parse(), Ok(Seconds(seconds)));
        }
    }
}
