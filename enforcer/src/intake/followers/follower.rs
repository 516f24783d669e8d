//! What one follower of the bans is told next: a pure view of [`Desired`], which holds nothing but its place in
//! it. However slow a follower is, it costs no more than that place, and the bans are looked at a few at a time.
//!
//! A follower that stands at change `through` and, within a snapshot, after prefix `after`, has of all prefixes up
//! to `after` what they were at `through` or later. That stays so because changes are told before the next piece
//! of the snapshot, and because what a change led to is read after its number.

use std::sync::Arc;

use atalaya_wire::{BanLine, Begin, Name, Position, VERSION};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::desired::Desired;
use crate::desired::Moment;
use crate::desired::journal::{Journal, PrefixChange};

/// How far a follower has been told the bans.
#[derive(Debug)]
pub struct Follower {
    desired: Arc<Desired>,
    journal: watch::Receiver<Journal>,
    /// How often the allow list changed, seen as far as it was told.
    allow_changes: watch::Receiver<u64>,
    names: Names,
    /// The most changes, and the most bans of a snapshot, that are told at once.
    piece: usize,
    place: Option<ToldSoFar>,
    /// Where it says that it stands, before it was told anything.
    asked: Option<Position>,
}

/// What a stream is called.
#[derive(Clone, Debug)]
pub struct Names {
    /// Which ledger the bans are of.
    pub ledger: Name,
    /// Which run of the enforcer numbers the changes.
    pub stream: Name,
}

#[derive(Debug)]
struct ToldSoFar {
    through: u64,
    rest: Rest,
}

/// What is not told yet of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// The bans after this one, or all.
    After(Option<IpNet>),
    Nothing,
}

// === impl Follower ===

impl Follower {
    /// A follower that says that it stands there, and is told so many changes, and bans of a snapshot, at once.
    pub fn new(desired: Arc<Desired>, names: Names, asked: Option<Position>, piece: usize) -> Self {
        let (journal, allow_changes) = (desired.journal(), desired.allow_changes());
        Self { desired, journal, allow_changes, names, piece: piece.max(1), place: None, asked }
    }

    /// Tells what comes next, one piece at most; a mark alone where nothing is new.
    pub fn next(&mut self, now: Timestamp, tell: &mut impl FnMut(BanLine)) {
        let now = Moment::from(now);
        let mut place = match self.place.take() {
            Some(place) => place,
            None => self.begin(tell),
        };
        if !self.tell_changes(&mut place, now, tell) {
            place = self.begin(tell);
        }
        if let Rest::After(after) = place.rest {
            place.rest = self.tell_bans(after, now, tell);
        }
        let after = match place.rest {
            Rest::After(after) => after,
            Rest::Nothing => None,
        };
        let allow = Some(*self.allow_changes.borrow_and_update());
        tell(BanLine::Mark { through: place.through, after, allow });
        self.place = Some(place);
    }

    /// Whether the next piece is, or may be, of a snapshot.
    pub fn is_in_snapshot(&self) -> bool {
        self.place.as_ref().is_none_or(|place| place.rest != Rest::Nothing)
    }

    /// Waits until there is more to tell than a mark; for ever where that never comes. Cancel-safe.
    pub async fn has_more(&mut self) {
        let Some(place) = self.place.as_ref().filter(|place| place.rest == Rest::Nothing) else { return };
        let through = place.through;
        let ended = tokio::select! {
            changed = self.journal.wait_for(|journal| journal.last() > through) => changed.is_err(),
            changed = self.allow_changes.changed() => changed.is_err(),
        };
        if ended {
            std::future::pending::<()>().await;
        }
    }

    /// Says how the stream begins, and where.
    fn begin(&mut self, tell: &mut impl FnMut(BanLine)) -> ToldSoFar {
        let journal = self.journal.borrow();
        let resumed = self
            .asked
            .take()
            .filter(|asked| asked.stream == self.names.stream && journal.since(asked.through).is_some());
        let last = journal.last();
        drop(journal);
        let Names { ledger, stream } = self.names.clone();
        tell(BanLine::Begin(Begin { version: VERSION, ledger, stream, resumed: resumed.is_some() }));
        match resumed {
            Some(Position { through, after: None, .. }) => ToldSoFar { through, rest: Rest::Nothing },
            Some(Position { through, after, .. }) => ToldSoFar { through, rest: Rest::After(after) },
            None => ToldSoFar { through: last, rest: Rest::After(None) },
        }
    }

    /// Whether the changes are remembered.
    fn tell_changes(&self, place: &mut ToldSoFar, now: Moment, tell: &mut impl FnMut(BanLine)) -> bool {
        let changes: Option<Vec<PrefixChange>> =
            self.journal.borrow().since(place.through).map(|changes| changes.take(self.piece).collect());
        let Some(changes) = changes else { return false };
        place.through += changes.len() as u64;
        for change in changes {
            let net = change.prefix();
            let until = self.desired.look(net, |until, _| until);
            match (until.and_then(|until| until.left(now)), change) {
                (Some(ms), _) => tell(BanLine::Ban { net, ms }),
                // The follower saw it end: its ban was the one that was removed, or is told to be lifted by
                // what changed it later.
                (None, PrefixChange::Removed { until, .. }) if until.left(now).is_none() => {}
                (None, _) => tell(BanLine::Lift { net }),
            }
        }
        true
    }

    fn tell_bans(&self, after: Option<IpNet>, now: Moment, tell: &mut impl FnMut(BanLine)) -> Rest {
        let mut bans = Vec::with_capacity(self.piece);
        self.desired.each_after(after, self.piece, |net, until, _| bans.push((net, until)));
        let rest = match bans.last() {
            Some((last, _)) if bans.len() == self.piece => Rest::After(Some(*last)),
            _ => Rest::Nothing,
        };
        for (net, until) in bans {
            if let Some(ms) = until.left(now) {
                tell(BanLine::Ban { net, ms });
            }
        }
        rest
    }
}
