//! What was asked of the enforcer and what it said to it, and what follows: which bans must stand, how long an entry may
//! be there at most, who must not be banned. Plain functions of claims and times.
//!
//! A claim that got no answer may have been carried out or not, and may be yet. So whatever is concluded here is what
//! holds in either case; where nothing holds in both, nothing is concluded.

use std::collections::HashMap;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

/// One thing that was asked for, of one address or network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What was asked for.
    pub kind: ClaimKind,
    /// When it was asked for first, by the true clock.
    pub asked: Timestamp,
    /// When its answer was seen to say that it is done; `None` as long as it is not.
    pub done: Option<Timestamp>,
}

/// What a claim asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// A ban, which ends between these two; how exactly is not known where clocks are corrected. Nothing else is
    /// known of `latest` where it is `None`.
    Ban {
        /// It ends no sooner.
        earliest: Timestamp,
        /// It ends no later.
        latest: Option<Timestamp>,
    },
    /// An unban.
    Unban,
    /// To be never banned until then.
    Allow(Timestamp),
    /// No longer to be never banned.
    Disallow,
}

/// The number of a claim, to say later that it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimId(IpNet, usize);

/// All claims of a run.
#[derive(Debug, Default)]
pub struct Claims {
    of: HashMap<IpNet, Vec<Claim>>,
}

/// By how much an entry's end may differ from its ban's: the enforcer sends no command for five seconds of difference, for
/// as many more as the print took that showed the entry, and some are lost on the way of a command.
pub const ENTRY_TOLERANCE: SignedDuration = SignedDuration::from_secs(9);
/// How much a date may be off: whole seconds on routers, rounded up, and the way of a command.
pub const ROUNDING: SignedDuration = SignedDuration::from_secs(2);

// === impl Claims ===

impl Claims {
    /// Takes down what is asked for now.
    pub fn ask(&mut self, prefix: IpNet, kind: ClaimKind, now: Timestamp) -> ClaimId {
        let claims = self.of.entry(prefix).or_default();
        claims.push(Claim { kind, asked: now, done: None });
        ClaimId(prefix, claims.len() - 1)
    }

    /// Takes down that it was answered as done, now.
    pub fn done(&mut self, id: &ClaimId, now: Timestamp) {
        if let Some(claim) = self.claim(id) {
            claim.done = Some(now);
        }
    }

    /// Says how late the ban of a claim may end at most, once that is known.
    pub fn bound(&mut self, id: &ClaimId, latest: Timestamp) {
        if let Some(Claim { kind: ClaimKind::Ban { latest: known, .. }, .. }) = self.claim(id) {
            *known = Some(latest);
        }
    }

    /// Says that nothing is known of when a ban ends, nor whether it comes.
    pub fn make_vague(&mut self, id: &ClaimId) {
        if let Some(Claim { kind: ClaimKind::Ban { earliest, latest }, .. }) = self.claim(id) {
            (*earliest, *latest) = (Timestamp::MIN, None);
        }
    }

    /// Says that a ban may never come, because what it was to follow from was lost before anyone could read it.
    pub fn weaken(&mut self, id: &ClaimId) {
        if let Some(Claim { kind: ClaimKind::Ban { earliest, .. }, .. }) = self.claim(id) {
            *earliest = Timestamp::MIN;
        }
    }

    /// Takes down that what led to a ban without an answer is through by now, unless that may never come: a sensor counts
    /// nothing of whom it knows to be allowed, hears of that within a minute, and what is over when it is told bans nobody.
    /// What is over by then depends on the enforcer's clock, which may be off by so much.
    pub fn through(&mut self, id: &ClaimId, now: Timestamp, clock_off: SignedDuration) {
        let ClaimId(prefix, place) = *id;
        let claims = self.of(prefix);
        let allowed = claims[..place].iter().any(|claim| matches!(claim.kind, ClaimKind::Allow(_)));
        let over = matches!(claims[place].kind, ClaimKind::Ban { earliest, .. } if earliest <= now + ROUNDING + clock_off);
        if allowed || over {
            self.weaken(id);
        }
        self.done(id, now);
    }

    /// Everyone of whom something was asked.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.of.keys().copied()
    }

    /// What was asked of one, in the order of the asking.
    pub fn of(&self, prefix: IpNet) -> &[Claim] {
        self.of.get(&prefix).map_or(&[], Vec::as_slice)
    }

    /// When a ban, and with it an entry on a router, is over at the latest: `None` where nobody asked for one, and the
    /// end of time where that cannot be told.
    pub fn latest_end(&self, prefix: IpNet) -> Option<Timestamp> {
        let end = |claim: &Claim| match claim.kind {
            ClaimKind::Ban { latest, .. } => Some(latest.unwrap_or(Timestamp::MAX)),
            _ => None,
        };
        self.of(prefix).iter().filter_map(end).max()
    }

    /// Since when it is certain that nothing bans it: it was unbanned, and all that was asked before had been done before,
    /// and nothing was asked since.
    pub fn lifted_since(&self, prefix: IpNet) -> Option<Timestamp> {
        let claims = self.of(prefix);
        let (asked, done) = claims.iter().rev().find_map(|claim| match claim.kind {
            ClaimKind::Unban => Some((claim.asked, claim.done?)),
            _ => None,
        })?;
        let settled = claims.iter().all(|claim| match claim.kind {
            ClaimKind::Ban { .. } => claim.done.is_some_and(|done| done <= asked),
            _ => true,
        });
        settled.then_some(done)
    }

    /// Since when it is certain that it is on the allow list; it is on it for longer than until `now`.
    pub fn allowed_since(&self, prefix: IpNet, now: Timestamp) -> Option<Timestamp> {
        let claims = self.of(prefix);
        let at = claims.iter().rposition(|claim| match claim.kind {
            ClaimKind::Allow(until) => claim.done.is_some() && until > now + ROUNDING,
            _ => false,
        })?;
        // Another one for a shorter time takes its place, and so does one that is not answered.
        let undone = claims[at + 1..]
            .iter()
            .any(|claim| matches!(claim.kind, ClaimKind::Disallow | ClaimKind::Allow(_)));
        let before = claims[..at].iter().any(|claim| {
            matches!(claim.kind, ClaimKind::Disallow | ClaimKind::Allow(_))
                && claim.done.is_none_or(|done| done > claims[at].asked)
        });
        if undone || before { None } else { claims[at].done }
    }

    /// Until when at least it must be banned, as far as is certain: the answer said so, and nobody asked to lift or allow it
    /// since, nor was it allowed then.
    pub fn must_stand_until(&self, prefix: IpNet) -> Option<Timestamp> {
        let claims = self.of(prefix);
        let until = |claim: &Claim| {
            let ClaimKind::Ban { earliest, .. } = claim.kind else { return None };
            claim.done?;
            let ended = claims.iter().any(|other| match other.kind {
                // One that was asked before may have been carried out after.
                ClaimKind::Unban => {
                    other.asked > claim.asked || other.done.is_none_or(|done| done > claim.asked)
                }
                ClaimKind::Allow(until) => until > claim.asked,
                _ => false,
            });
            (!ended).then_some(earliest)
        };
        claims.iter().filter_map(until).max()
    }

    fn claim(&mut self, ClaimId(prefix, place): &ClaimId) -> Option<&mut Claim> {
        self.of.get_mut(prefix)?.get_mut(*place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn who() -> IpNet {
        "192.0.2.1/32".parse().expect("an address")
    }

    fn ban(until: i64) -> ClaimKind {
        ClaimKind::Ban { earliest: at(until), latest: Some(at(until)) }
    }

    /// Claims of one address: what, when it was asked for, and when it was done.
    fn claims(of: &[(ClaimKind, i64, Option<i64>)]) -> Claims {
        let mut claims = Claims::default();
        for (kind, asked, done) in of {
            let id = claims.ask(who(), kind.clone(), at(*asked));
            if let Some(done) = done {
                claims.done(&id, at(*done));
            }
        }
        claims
    }

    #[test]
    fn an_acked_ban_must_stand_and_one_without_an_answer_may_but_neither_ends_later() {
        let acked = claims(&[(ban(60), 0, Some(1)), (ban(90), 2, None)]);
        assert_eq!(acked.must_stand_until(who()), Some(at(60)));
        assert_eq!(acked.latest_end(who()), Some(at(90)));
        assert_eq!(claims(&[]).latest_end(who()), None);
    }

    #[test]
    fn an_unban_lifts_what_was_done_before_it_was_asked_for_and_nothing_is_said_of_what_crossed_it() {
        let lifted = claims(&[(ban(60), 0, Some(1)), (ClaimKind::Unban, 2, Some(3))]);
        assert_eq!((lifted.lifted_since(who()), lifted.must_stand_until(who())), (Some(at(3)), None));
        let crossed = claims(&[(ban(60), 0, Some(3)), (ClaimKind::Unban, 2, Some(4))]);
        assert_eq!((crossed.lifted_since(who()), crossed.must_stand_until(who())), (None, None));
        let again = claims(&[(ban(60), 0, Some(1)), (ClaimKind::Unban, 2, Some(3)), (ban(90), 4, Some(5))]);
        assert_eq!((again.lifted_since(who()), again.must_stand_until(who())), (None, Some(at(90))));
        let unanswered = claims(&[(ban(60), 0, Some(1)), (ClaimKind::Unban, 2, None)]);
        assert_eq!((unanswered.lifted_since(who()), unanswered.must_stand_until(who())), (None, None));
    }

    #[test]
    fn who_is_allowed_is_so_from_the_answer_until_the_end_or_until_someone_asks_otherwise() {
        let allowed = claims(&[(ClaimKind::Allow(at(60)), 0, Some(1))]);
        assert_eq!(allowed.allowed_since(who(), at(10)), Some(at(1)));
        assert_eq!(allowed.allowed_since(who(), at(59)), None);
        let taken_off = claims(&[(ClaimKind::Allow(at(60)), 0, Some(1)), (ClaimKind::Disallow, 5, None)]);
        assert_eq!(taken_off.allowed_since(who(), at(10)), None);
        let unanswered = claims(&[(ClaimKind::Allow(at(60)), 0, None)]);
        assert_eq!(unanswered.allowed_since(who(), at(10)), None);
        let banned = claims(&[(ClaimKind::Allow(at(60)), 0, None), (ban(90), 5, Some(6))]);
        assert_eq!(banned.must_stand_until(who()), None, "the allowance may have been carried out");
    }
}
