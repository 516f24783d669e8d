//! RouterOS versions as routers write them.

use std::fmt;

/// A version of RouterOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// The 7 of `7.24.1`; some settings have other names in 6.
    pub major: u16,
    /// The 24 of `7.24.1`.
    pub minor: u16,
    /// The third; 0 where there is none.
    pub patch: u16,
    /// Whether it is a beta or a release candidate.
    pub finished: bool,
}

impl Release {
    /// The first that takes a plain login.
    pub const FIRST: Self = Self { major: 6, minor: 43, patch: 0, finished: true };

    /// Reads `7.24.1 (stable)`, `7.25beta3 (testing)`, `6.49.10 (long-term)`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.split_whitespace().next()?;
        let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
        let mut parts = number[..end].split('.').map(str::parse);
        let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
        let patch = match parts.next() {
            Some(patch) => patch.ok()?,
            None => 0,
        };
        Some(Self { major, minor, patch, finished: end == number.len() })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_routers_write_them() {
        for (text, numbers, finished) in [
            ("7.24.1 (stable)", (7, 24, 1), true),
            ("6.49.10 (long-term)", (6, 49, 10), true),
            ("7.25beta3 (testing)", (7, 25, 0), false),
            ("7.24rc1", (7, 24, 0), false),
        ] {
            let release = Release::parse(text).unwrap();
            assert_eq!((release.major, release.minor, release.patch), numbers, "{text}");
            assert_eq!(release.finished, finished, "{text}");
        }
        assert!(Release::parse("6.42.12").unwrap() < Release::FIRST);
        for none in ["", "RouterOS", "7", "7.x", "7.99999"] {
            assert_eq!(Release::parse(none), None, "{none}");
        }
    }
}
