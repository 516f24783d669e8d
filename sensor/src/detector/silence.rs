//! Since when a jail has seen nothing of its source: a log that nobody writes any more, or a filter of the wrong
//! program, looks like a quiet day otherwise.

use jiff::{SignedDuration, Timestamp};

/// After how long it is told.
const LONG: SignedDuration = SignedDuration::from_hours(24);

/// When something came of a source last.
#[derive(Clone, Debug, Default)]
pub(super) struct Silence {
    /// When something came last; before that, when it was first looked at.
    since: Option<Timestamp>,
    heard: bool,
    told: bool,
}

// === impl Silence ===

impl Silence {
    /// Something came.
    pub(super) fn end(&mut self, now: Timestamp) {
        *self = Self { since: Some(now), heard: true, told: false };
    }

    /// Looks at it; true the first time that it is long.
    pub(super) fn look(&mut self, now: Timestamp) -> bool {
        self.since.get_or_insert(now);
        let is_new = !self.told && self.is_long(now);
        self.told |= is_new;
        is_new
    }

    /// In words, where it is long.
    pub(super) fn told_at(&self, now: Timestamp) -> Option<String> {
        let since = self.since.filter(|_| self.is_long(now))?;
        let since = since.round(jiff::Unit::Second).unwrap_or(since);
        Some(if self.heard {
            format!("nothing came of its source since {since}")
        } else {
            format!("nothing has come of its source since the sensor was started, {since}")
        })
    }

    fn is_long(&self, now: Timestamp) -> bool {
        self.since.is_some_and(|since| now.duration_since(since) >= LONG)
    }
}
