//! The reading of a router's list: how far it is, and how long it may take. A router scans its whole table, those of
//! others included, before it tells the first row, which takes a slow one minutes.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::prefixes::Family;

/// A list that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReading {
    /// Which of the two tables.
    pub family: Family,
    /// When it was asked for, by the enforcer's clock.
    pub since: Timestamp,
    /// Entries of the list told so far; none while the router still scans.
    pub rows: usize,
    /// Entries of the list told by the last reading that came to its end; `None` where there was none.
    pub before: Option<usize>,
}

/// How much longer than usual a router is given for a print: twice as long for each that was given up in vain, so
/// that no scan is too long for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Patience {
    given_up: u32,
}

// === impl Patience ===

impl Patience {
    /// Past this a deadline is no longer doubled.
    const LONGEST: Duration = Duration::from_hours(24);

    pub(super) fn of(self, deadline: Duration) -> Duration {
        deadline.saturating_mul(1 << self.given_up).min(Self::LONGEST.max(deadline))
    }

    pub(super) fn was_too_short(&mut self) {
        self.given_up = (self.given_up + 1).min(16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_doubles_up_to_a_day_and_never_shrinks_a_deadline() {
        let mut patience = Patience::default();
        let five = Duration::from_mins(5);
        assert_eq!(patience.of(five), five);
        patience.was_too_short();
        assert_eq!(patience.of(five), five * 2);
        (0..40).for_each(|_| patience.was_too_short());
        assert_eq!(patience.of(five), Duration::from_hours(24));
        assert_eq!(patience.of(Duration::from_hours(48)), Duration::from_hours(48));
    }
}
