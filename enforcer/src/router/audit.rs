//! Whether a router holds what it should, looked at from outside the pipeline: every ban that is for it is compared
//! with what it is known to hold, time and again, a piece at a time. What is missing for over a minute is a fault,
//! whatever the reason.

use std::collections::HashMap;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// In how many rounds at least a ban is missing before it is late.
const ROUNDS: u32 = 4;

/// How many times as long as a round took the next one waits.
const REST: u32 = 200;

/// How many bans are looked at before the socket is looked at again.
pub(super) const PIECE: usize = 2048;

/// The most missing bans whose time is kept.
const MOST: usize = 65_536;

/// Bans that a router should hold and does not, for over a minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingBans {
    /// How many; at most 65,536.
    pub count: usize,
    /// The one that is missing for longest.
    pub example: IpNet,
    /// Since when that one is missing.
    pub since: Timestamp,
    /// Why, as far as it is known, for people.
    pub why: String,
}

/// What is missing since when. It outlives sessions, for a router that keeps breaking off misses them no less.
#[derive(Debug)]
pub(super) struct Audit {
    /// After how long a ban that is missing is late.
    lateness: Duration,
    missing: HashMap<IpNet, Instant>,
    round: Option<AuditRound>,
    due: Instant,
    /// What is missing for so long: how many bans, and the first of them.
    late: Option<(usize, IpNet, Instant)>,
}

#[derive(Debug)]
struct AuditRound {
    began: Instant,
    /// The last ban that was looked at.
    after: Option<IpNet>,
    found: HashMap<IpNet, Instant>,
    /// The time spent on it.
    work: Duration,
}

// === impl Audit ===

impl Audit {
    pub(super) fn new(lateness: Duration, now: Instant) -> Self {
        Self { lateness, missing: HashMap::new(), round: None, due: now + lateness / ROUNDS, late: None }
    }

    /// When [`Self::piece`] is to be called next.
    pub(super) fn next(&self, now: Instant) -> Instant {
        if self.round.is_some() { now } else { self.due }
    }

    /// Looks at the next piece, if it is time. The function is given the ban after which to go on; it tells each ban
    /// that is missing, and returns after which it ended, or `None` at the end of all.
    pub(super) fn piece(
        &mut self,
        now: Instant,
        look: impl FnOnce(Option<IpNet>, &mut dyn FnMut(IpNet)) -> Option<IpNet>,
    ) {
        if self.round.is_none() {
            if now < self.due {
                return;
            }
            self.round =
                Some(AuditRound { began: now, after: None, found: HashMap::new(), work: Duration::ZERO });
        }
        let Some(round) = &mut self.round else { return };
        let missing = &self.missing;
        let (began, found) = (round.began, &mut round.found);
        let after = look(round.after, &mut |prefix| {
            if found.len() < MOST {
                found.insert(prefix, missing.get(&prefix).copied().unwrap_or(began));
            }
        });
        round.after = after;
        round.work += now.elapsed();
        if after.is_none() {
            self.end(now);
        }
    }

    /// What is late, as of the last round: how many bans, the first of them, and since when.
    pub(super) fn late(&self) -> Option<(usize, IpNet, Instant)> {
        self.late
    }

    fn end(&mut self, now: Instant) {
        let Some(AuditRound { began, found, work, .. }) = self.round.take() else { return };
        self.missing = found;
        self.due = began + (self.lateness / ROUNDS).max(work * REST);
        let late = || {
            self.missing.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= self.lateness)
        };
        self.late = late()
            .min_by_key(|(prefix, since)| (**since, **prefix))
            .map(|(prefix, since)| (late().count(), *prefix, *since));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Duration = Duration::from_mins(1);

    fn prefix(number: u8) -> IpNet {
        std::net::IpAddr::from([192, 0, 2, number]).into()
    }

    /// One round in pieces of one ban each, of ten.
    fn round(audit: &mut Audit, now: Instant, missing: &[u8]) {
        loop {
            audit.piece(now, |after, tell| {
                let next = after.map_or(0, |after| (0..10).find(|n| prefix(*n) == after).unwrap() + 1);
                if missing.contains(&next) {
                    tell(prefix(next));
                }
                (next < 9).then(|| prefix(next))
            });
            if audit.round.is_none() {
                return;
            }
        }
    }

    #[test]
    fn a_ban_is_late_once_it_was_missing_in_every_round_of_a_minute() {
        let began = Instant::now();
        let mut audit = Audit::new(LATE, began);
        let at = |seconds| began + Duration::from_secs(seconds);
        round(&mut audit, at(14), &[1]);
        assert!(audit.missing.is_empty(), "the first round comes after some seconds");
        for (second, missing, late) in [
            (15, &[1, 2, 3][..], None),
            (30, &[1, 3], None),
            // Two was there in between.
            (60, &[1, 2, 3], None),
            (75, &[1, 2, 3], Some((2, prefix(1), at(15)))),
            (90, &[2, 3], Some((1, prefix(3), at(15)))),
            (120, &[2], Some((1, prefix(2), at(60)))),
            (135, &[], None),
        ] {
            round(&mut audit, at(second), missing);
            assert_eq!(audit.late(), late, "at {second} s");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut audit = Audit::new(LATE, now);
        let then = now + LATE;
        audit.piece(then, |_, tell| {
            (0..MOST as u32 + 10)
                .for_each(|number| tell(std::net::IpAddr::from(number.to_be_bytes()).into()));
            None
        });
        assert_eq!(audit.missing.len(), MOST);
    }
}
