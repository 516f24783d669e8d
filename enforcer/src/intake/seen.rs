//! What is known of each sensor since the start, and of strangers.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::entrance::Caller;
use super::share::Oddities;
use super::skew::{Dating, TOLERATED};

/// The shortest time between two log lines about refused requests.
const REFUSALS_PAUSE: Duration = Duration::from_secs(5);

/// What is known of a sensor since the start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// When it was last heard: when it sent something, or read the allow list, which ours do every minute.
    pub last: Option<Timestamp>,
    /// Offences that were taken; those that were sent again are not counted.
    pub offences: u64,
    /// Offences that were sent again.
    pub again: u64,
    /// Reports that were taken; those that were sent again are not counted.
    pub reports: u64,
    /// Whether it follows the bans now, to drop them by itself.
    pub follows: bool,
    /// How many seconds its clock is behind ours (negative: ahead), the way of what it sent included; `None` where
    /// it does not say.
    pub skew_seconds: Option<i64>,
    /// How many addresses its reports of successful logins protect.
    pub protects: usize,
    /// What it did within the last 15 minutes that an honest one does not.
    pub oddities: Oddities,
    /// The skew that was logged last, while the clock is wrong.
    #[serde(skip)]
    pub told_skew: Option<i64>,
}

/// When refused requests were logged last, and how many were not.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: Option<Instant>,
    untold: u64,
}

/// How a sensor's clock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClockState {
    Right,
    /// So many seconds behind ours; negative where it is ahead.
    Behind(i64),
}

// === impl Seen ===

impl Seen {
    /// Takes note that the sensor sent something; what is to be told of its clock, if that changed.
    pub(super) fn heard(&mut self, dating: &Dating, now: Timestamp) -> Option<ClockState> {
        let wrong = dating.wrong_by().map(|skew| skew.as_secs());
        self.last = Some(now);
        self.skew_seconds = Some(dating.seconds()?);
        let differs = match (wrong, self.told_skew) {
            (Some(now), Some(before)) => now.abs_diff(before) > TOLERATED.as_secs().unsigned_abs(),
            (now, before) => now.is_some() != before.is_some(),
        };
        differs.then(|| {
            self.told_skew = wrong;
            wrong.map_or(ClockState::Right, ClockState::Behind)
        })
    }
}

// === impl Refusals ===

impl Refusals {
    /// Logs a refusal, unless there was one just now: strangers must not fill the log.
    pub fn tell(&mut self, sensor: &str, caller: Option<&Caller>) {
        if self.told.is_some_and(|told| told.elapsed() < REFUSALS_PAUSE) {
            self.untold += 1;
            return;
        }
        let untold = std::mem::take(&mut self.untold);
        self.told = Some(Instant::now());
        let peer = caller.map_or_else(|| "unknown".to_owned(), |caller| caller.address.to_string());
        tracing::warn!(sensor, peer, untold, "refused: the sensor is not enrolled, or its secret is wrong");
    }
}
