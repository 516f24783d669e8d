//! The RouterOS version that the simulator claims to be, and what differs by it on the wire.

use std::fmt::{self, Display};
use std::str::FromStr;

/// A RouterOS version such as `7.24` or `6.49.10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u16,
    minor: u16,
    patch: u16,
}

/// The text is no RouterOS version.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no RouterOS version; write it as 7.24 or 6.49.10")]
pub struct VersionError(String);

impl Version {
    /// The version of these numbers.
    pub(crate) const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// From 7.18 a print that finds nothing says `!empty` before `!done`.
    pub(crate) fn says_empty(self) -> bool {
        self >= Self::new(7, 18, 0)
    }

    /// From 7.10 dates are written `2026-11-25`, before `nov/25/2026`.
    pub(crate) fn dates_as_iso(self) -> bool {
        self >= Self::new(7, 10, 0)
    }

    /// The property of a row of `/ip/service` that says from where it may be used: `available-from` from 7.24,
    /// before `address`. Whether a terminal of 7.24 still takes the old name is not known: here it takes the new one
    /// alone, so that a command with the wrong name is noticed.
    pub(crate) fn service_limit(self) -> &'static str {
        if self >= Self::new(7, 24, 0) { "available-from" } else { "address" }
    }

    /// From 7 a route shows its `immediate-gw`, before its `gateway-status`.
    pub(crate) fn routes_immediately(self) -> bool {
        self.major >= 7
    }

    /// Before 6.43 login takes an answer to a challenge and no plain password.
    pub(crate) fn challenges(self) -> bool {
        self < Self::new(6, 43, 0)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = text.split('.').map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor)), None, None) => Ok(Self::new(major, minor, 0)),
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Ok(Self::new(major, minor, patch)),
            _ => Err(VersionError(text.to_owned())),
        }
    }
}

impl Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 {
            write!(f, ".{}", self.patch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_changes_at_the_versions_where_it_did() {
        let version = |text: &str| text.parse::<Version>().expect("a version");
        assert!(version("7.18").says_empty() && !version("7.17.2").says_empty());
        assert!(version("6.42.12").challenges() && !version("6.43").challenges());
        assert_eq!(
            (version("7.24").service_limit(), version("7.23.9").service_limit()),
            ("available-from", "address")
        );
        assert_eq!(version("6.49.10").to_string(), "6.49.10");
        assert!("7".parse::<Version>().is_err() && "7.x".parse::<Version>().is_err());
    }
}
