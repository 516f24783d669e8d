//! What waits in memory while the ledger cannot be written: changes that nobody will ask for again. There is room for so
//! many; of more, what costs least goes first, and what was done by hand last.

use std::collections::HashMap;

use ipnet::IpNet;
use jiff::Timestamp;

use super::Change;
use crate::desired::Origin;

/// The most changes that are kept, some 300 bytes each.
const MOST: usize = 100_000;

/// How much is lost with a change that is not written; the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// Another like it comes: who logs in does so again.
    Passing,
    /// It is found again at the next start: a ban that is over is seen to be over, one that a router holds stays there.
    Recoverable,
    /// Somebody said it.
    ByHand,
}

/// The changes, in their order.
#[derive(Debug, Default)]
pub(super) struct UnwrittenChanges {
    changes: Vec<Change>,
    /// The bans among them that have not ended, each with its last end: an offence that is sent again and again is one.
    bans: HashMap<IpNet, Option<Timestamp>>,
    /// Whether it was told that some are lost.
    told: bool,
}

// === impl UnwrittenChanges ===

impl UnwrittenChanges {
    /// Keeps some more.
    pub fn extend(&mut self, changes: Vec<Change>) {
        for change in changes {
            if self.is_new(&change) {
                self.changes.push(change);
            }
        }
        if self.changes.len() <= MOST {
            return;
        }
        // Down to nine tenths, so that not each further change looks at all of them.
        let mut surplus = self.changes.len() - MOST / 10 * 9;
        for weight in [Weight::Passing, Weight::Recoverable, Weight::ByHand] {
            self.changes.retain(|change| {
                let goes = surplus > 0 && weight_of(change) == weight;
                surplus -= usize::from(goes);
                !goes
            });
        }
        // A ban that went may come again.
        self.bans.clear();
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                most = MOST,
                "more changes wait for the ledger than are kept: logins are forgotten first, then the ends of bans, at last what was done by hand"
            );
        }
    }

    /// All of them are written.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn is_new(&mut self, change: &Change) -> bool {
        match change {
            Change::Ban(ban) => self.bans.insert(ban.prefix, ban.until) != Some(ban.until),
            Change::End { prefix, .. } => {
                self.bans.remove(prefix);
                true
            }
            _ => true,
        }
    }

    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter()
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

fn weight_of(change: &Change) -> Weight {
    match change {
        Change::Login(_) | Change::Protected(_) | Change::Through { .. } => Weight::Passing,
        Change::Ban(ban) if ban.origin == Origin::Hand => Weight::ByHand,
        Change::Claim(claim) if claim.origin == Origin::Hand => Weight::ByHand,
        Change::End { by, .. } if by != super::EXPIRED => Weight::ByHand,
        // Nobody says again that a ban is taken back: without it, it would stand until the end that it had before.
        Change::TakeBack { .. } | Change::Allow(_) | Change::Disallow { .. } => Weight::ByHand,
        // The offence that a sensor's claim is of is not acked, and comes again after the next start.
        Change::Ban(_)
        | Change::Claim(_)
        | Change::End { .. }
        | Change::List(_)
        | Change::ForgetList(_)
        | Change::Recovered => Weight::Recoverable,
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::{at, ban_of};
    use super::super::{Ban, GoodLogin};
    use super::*;

    #[test]
    fn a_ban_that_is_sent_again_and_again_is_kept_once_and_again_after_it_ended() {
        let prefix = "192.0.2.7/32";
        let ban = |until: i64| Change::Ban(Box::new(ban_of(prefix, Some(until))));
        let end = Change::End { prefix: prefix.parse().unwrap(), at: at(5), by: "by hand, ana".to_owned() };
        let mut kept = UnwrittenChanges::default();
        for change in [ban(60), ban(60), ban(90), ban(90), end.clone(), ban(90), ban(90)] {
            kept.extend(vec![change]);
        }
        assert_eq!(kept.changes().collect::<Vec<_>>(), [&ban(60), &ban(90), &end, &ban(90)]);
    }

    #[test]
    fn of_too_many_changes_those_stay_that_somebody_made_by_hand_in_their_order() {
        let by_hand = |number: u32| {
            let prefix = format!("2001:db8::{number:x}/128");
            Change::Ban(Box::new(Ban { origin: Origin::Hand, ..ban_of(&prefix, None) }))
        };
        let login = Change::Login(Box::new(GoodLogin {
            address: "192.0.2.1".parse().unwrap(),
            last: at(0),
            sensor: "web-1".parse().unwrap(),
            service: "sshd".to_owned(),
            account: "ana".to_owned(),
        }));
        let over =
            |by: &str| Change::End { prefix: "192.0.2.7/32".parse().unwrap(), at: at(0), by: by.to_owned() };
        let mut kept = UnwrittenChanges::default();
        kept.extend(vec![by_hand(1), over("expired"), over("by hand, ana")]);
        for _ in 0..30 {
            kept.extend(vec![login.clone(); 10_000]);
            assert!(kept.len() <= MOST, "{} are kept", kept.len());
        }
        kept.extend(vec![by_hand(2)]);
        let stays: Vec<&Change> = kept.changes().filter(|change| **change != login).collect();
        assert_eq!(stays, [&by_hand(1), &over("expired"), &over("by hand, ana"), &by_hand(2)]);
        kept.extend(vec![over("expired"); 2 * MOST]);
        let stays: Vec<&Change> = kept.changes().filter(|change| **change != over("expired")).collect();
        assert_eq!(stays, [&by_hand(1), &over("by hand, ana"), &by_hand(2)]);
        kept.clear();
        assert!(kept.is_empty());
    }
}
