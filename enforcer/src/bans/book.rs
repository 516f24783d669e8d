//! What the lock of the bans is for: which stand, when each is looked at again, and what follows for the
//! routers.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::net::IpAddr;
use std::sync::Arc;

use atalaya_wire::{BanTime, Escalation, Evidence, Offence, canonical};
use ipnet::IpNet;
use jiff::Timestamp;

use super::allow::Allow;
use super::claims::Claims;
use super::cut::Cuts;
use super::decided::Decided;
use super::decision::{self, Decision, Exemption};
use super::earlier::{Earlier, Recent};
use super::reachable::Reachable;
use super::widen::Widen;
use crate::desired::{Desired, Label, Labels, Moment, Origin, Wanted};
use crate::ledger::{BY_HAND, Ban, Change, Claim, EXPIRED, EarlierBan};

/// The bans that stand.
#[derive(Debug)]
pub(super) struct Book {
    /// What routers are to hold: the ends of all bans that no widened network covers.
    pub entries: Cuts,
    pub widen: Widen,
    pub reachable: Reachable,
    /// Where the allow list comes from.
    pub allow: Allow,
    /// When to look at which ban; a ban that was extended meanwhile is put
    /// back, one that was lifted falls out.
    pub ends: BinaryHeap<Reverse<(Moment, IpNet)>>,
    /// Who asked for which ban.
    pub claims: Claims,
    pub labels: Labels,
    recent: Recent,
}

/// A ban to be set.
pub(super) struct NewBan {
    pub prefix: IpNet,
    pub since: Timestamp,
    pub until: Moment,
    pub origin: Origin,
    pub evidence: Vec<Evidence>,
}

/// What a ban grows by.
pub(super) struct Growth<'a> {
    pub escalation: Escalation,
    pub earlier: &'a Earlier,
    /// From 0 to 1, for the part that is left to chance.
    pub chance: f64,
}

// === impl Book ===

impl Book {
    pub fn new(
        desired: Arc<Desired>,
        widen: Widen,
        reachable: Reachable,
        allow: Allow,
        labels: Labels,
    ) -> Self {
        let (ends, claims, recent) = (BinaryHeap::new(), Claims::default(), Recent::default());
        Self { entries: Cuts::new(desired), widen, reachable, allow, ends, claims, labels, recent }
    }

    /// Takes over the bans that stood before, and what routers are to hold for them. Those that the allow list leaves too
    /// many entries of are returned, and are to be lifted.
    pub fn load(&mut self, bans: impl Iterator<Item = (IpNet, Wanted)>, now: Timestamp) -> Vec<IpNet> {
        let Self { entries, widen, reachable, ends, claims, .. } = self;
        entries.desired().set_many(bans.map(|(prefix, ban)| {
            widen.load(prefix, ban.label.is_scan);
            claims.load(&ban.label.origin);
            if ban.until != Moment::FOREVER {
                ends.push(Reverse((ban.until, prefix)));
            }
            (prefix, ban)
        }));
        widen.begin_all(entries, &|network| reachable.touches(network, now));
        let allowed: Vec<IpNet> = reachable.networks.iter().collect();
        self.cut_around(&allowed)
    }

    /// What the ban of an offender covers: an IPv4 address, the unit around an IPv6 one; but the address
    /// alone where others of the unit are to be kept reachable.
    pub fn offender(&self, address: IpAddr, now: Timestamp) -> IpNet {
        let unit = self.widen.bans().unit_of(address);
        let single = IpNet::from(address);
        if unit != single && self.reachable.splits(unit, now) { single } else { unit }
    }

    /// The ban of exactly this prefix.
    pub fn standing(&self, prefix: IpNet) -> Option<Moment> {
        Some(self.widen.standing(prefix, &self.entries)?.until)
    }

    /// Who asked for the ban of exactly this prefix so that it ends when it does, and when that is.
    pub fn owner(&self, prefix: IpNet) -> Option<(Origin, Moment)> {
        let standing = self.widen.standing(prefix, &self.entries)?;
        Some((standing.label.origin.clone(), standing.until))
    }

    /// As what a prefix is banned: as itself, or as the unit around it, unless that is held without it.
    pub fn banned_as(&self, prefix: IpNet) -> Option<IpNet> {
        let bans = self.widen.bans();
        let unit = bans.unit_of(prefix.addr());
        let is_held = |banned: IpNet| banned == prefix || self.entries.held_as(banned, prefix).is_some();
        [prefix, unit]
            .into_iter()
            .find(|banned| banned.contains(&prefix) && bans.contains(*banned) && is_held(*banned))
    }

    /// The bans that stand of a prefix and of networks around it, the narrowest first.
    pub fn around(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, Wanted)> + '_ {
        let around = (0..=prefix.prefix_len()).rev().filter_map(move |length| {
            let network = IpNet::new(prefix.addr(), length).ok()?.trunc();
            self.widen.bans().contains(network).then_some(network)
        });
        around.filter_map(|network| Some((network, self.widen.standing(network, &self.entries)?)))
    }

    /// Holds the bans around these networks in the parts that the allow list leaves of them, or as a whole again. Those
    /// for which that would be too many entries.
    pub fn cut_around(&mut self, networks: &[IpNet]) -> Vec<IpNet> {
        let around: BTreeSet<IpNet> = networks
            .iter()
            .flat_map(|network| self.around(*network).map(|(ban, _)| ban).collect::<Vec<_>>())
            .collect();
        let allowed: Vec<IpNet> =
            if around.is_empty() { Vec::new() } else { self.reachable.networks.iter().collect() };
        around.into_iter().filter(|ban| !self.entries.cut(*ban, &allowed)).collect()
    }

    /// Why a prefix is not to be banned, if it is not.
    pub fn exemption(&self, prefix: IpNet, protected: bool) -> Exemption {
        match protected {
            _ if self.reachable.networks.overlaps(prefix) => Exemption::Allowed,
            true => Exemption::Protected,
            false => Exemption::None,
        }
    }

    /// Decides on one offence and tells the routers. An offence that changes nothing has a change for
    /// the ledger where a ban stands, so that a ban that was decided but could not be written is written
    /// when the offence comes again.
    pub fn decide(
        &mut self,
        origin: Origin,
        offence: Offence,
        growth: Option<&Growth<'_>>,
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Decided {
        let address = canonical(offence.address);
        let prefix = self.offender(address, now);
        let before = self.standing(prefix);
        let login = self.reachable.protect.of(address, now).cloned();
        let exemption = self.exemption(prefix, login.is_some());
        let stands = before.is_some_and(|until| until > Moment::from(now));
        let bantime = match growth {
            Some(growth) if !stands && exemption == Exemption::None => {
                growth.time(&self.recent, prefix, &offence, now)
            }
            _ => offence.bantime,
        };
        let decision = decision::decide(offence.time, bantime, before, exemption, now);
        let (time, failures) = (offence.time, offence.failures);
        let decided = Decided { decision, address, prefix, origin: origin.clone(), time, failures, login };
        let since = time.min(now);
        if matches!(decision, Decision::AlreadyBanned) {
            let until = bantime.end(since).into();
            changes.extend(self.join(prefix, &origin, until));
        }
        let ban = |until| NewBan { prefix, since, until, origin, evidence: offence.evidence.clone() };
        match (decision, before) {
            (Decision::Banned(until), _) => changes.extend(self.set(ban(until), true, before, now)),
            (Decision::Extended(until), _) => changes.extend(self.set(ban(until), false, before, now)),
            (Decision::AlreadyBanned, Some(until)) => changes.push(ban(until).into()),
            (Decision::Protected, _) => changes.extend(decided.protected(offence, now)),
            (Decision::Allowed | Decision::Over | Decision::AlreadyBanned, _) => {}
        }
        decided
    }

    /// Begins a ban, or changes the one that stands, also on the routers; what changes in the ledger.
    pub fn set(&mut self, ban: NewBan, new: bool, before: Option<Moment>, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::with_capacity(2);
        if new {
            if before.is_some() {
                self.forget_claims(ban.prefix);
            }
            self.claims.begin(&ban.origin);
        } else {
            changes.extend(self.join(ban.prefix, &ban.origin, ban.until));
        }
        self.reachable.banned_again(ban.prefix);
        let is_scan = ban.evidence.iter().any(|evidence| evidence.source == Evidence::SCAN);
        let wanted = Wanted { until: ban.until, label: self.label(&ban, is_scan) };
        let Self { entries, widen, reachable, .. } = self;
        widen.ban(ban.prefix, wanted, entries, &|network| reachable.touches(network, now));
        if new {
            let earlier = EarlierBan { since: ban.since, end: ban.until.timestamp() };
            self.recent.begin(ban.prefix, ban.origin.jail(), earlier);
            // The new ban may come before it was seen that the one before is over.
            match before.and_then(Moment::timestamp) {
                // Its end is watched already, and the later one is found when that comes.
                Some(at) => changes.push(Change::End { prefix: ban.prefix, at, by: EXPIRED.to_owned() }),
                None => self.watch(ban.prefix, ban.until),
            }
        }
        changes.push(ban.into());
        changes
    }

    /// Lets a ban stand for what is left of it, once somebody took back what they had asked for.
    pub fn hand_over(&mut self, left: &Claim, now: Timestamp) {
        let Some(standing) = self.widen.standing(left.prefix, &self.entries) else { return };
        if standing.until == left.until && standing.label.origin == left.origin {
            return;
        }
        let label = self.labels.of(&left.origin, standing.label.is_scan);
        let wanted = Wanted { until: left.until, label };
        let Self { entries, widen, reachable, .. } = self;
        // As two changes, for a ban that ends sooner may be one that a network covers from now on. None covers one that is
        // held in parts, and what is allowed in it stays spared throughout.
        if entries.parts_of(left.prefix).is_none() {
            widen.lift(left.prefix, entries, &|network| reachable.touches(network, now));
        }
        widen.ban(left.prefix, wanted, entries, &|network| reachable.touches(network, now));
        self.watch(left.prefix, left.until);
    }

    /// Takes note that somebody asks for a ban that stands; what to write of it.
    pub fn join(&mut self, prefix: IpNet, origin: &Origin, until: Moment) -> Vec<Change> {
        let Some((owner, end)) = self.owner(prefix) else { return Vec::new() };
        let claims = self.claims.join(prefix, (&owner, end), origin, until);
        claims.into_iter().map(|claim| Change::Claim(Box::new(claim))).collect()
    }

    fn forget_claims(&mut self, prefix: IpNet) {
        if let Some((owner, _)) = self.owner(prefix) {
            self.claims.end(prefix, &owner);
        }
    }

    /// What is said of a ban on routers. One by hand that is made longer without a word keeps the reason that it had.
    fn label(&mut self, ban: &NewBan, is_scan: bool) -> Arc<Label> {
        let reason = ban.evidence.iter().rev().find(|evidence| evidence.source == BY_HAND);
        match (&ban.origin, reason) {
            (Origin::Hand, Some(reason)) => self.labels.by_hand(&reason.text),
            (Origin::Hand, None) => match self.widen.standing(ban.prefix, &self.entries) {
                Some(before) if before.label.origin == Origin::Hand => before.label,
                _ => self.labels.of(&ban.origin, is_scan),
            },
            _ => self.labels.of(&ban.origin, is_scan),
        }
    }

    /// Lifts a ban before its end, also on the routers.
    pub fn lift(&mut self, prefix: IpNet, now: Timestamp) {
        self.forget_claims(prefix);
        let Self { entries, widen, reachable, .. } = self;
        widen.lift(prefix, entries, &|network| reachable.touches(network, now));
        self.recent.end(prefix, now);
        self.forget_lifted();
    }

    /// Ends the bans that are over, of at most so many that are looked at; each is handed to a function with its end.
    /// Whether all were looked at; networks are made narrow only then.
    pub fn expire(&mut self, now: Timestamp, most: usize, mut ended: impl FnMut(IpNet, Timestamp)) -> bool {
        let moment = Moment::from(now);
        let mut looked_at = 0;
        while let Some(Reverse((end, prefix))) = self.ends.peek().copied()
            && end <= moment
        {
            if looked_at == most {
                return false;
            }
            looked_at += 1;
            self.ends.pop();
            let Some(until) = self.standing(prefix) else { continue };
            match until.timestamp() {
                Some(end) if until <= moment => {
                    self.forget_claims(prefix);
                    self.widen.expire(prefix, &mut self.entries);
                    ended(prefix, end);
                }
                _ => self.watch(prefix, until),
            }
        }
        let Self { entries, widen, reachable, .. } = self;
        widen.settle(moment, entries, &|network| reachable.touches(network, now));
        true
    }

    /// Weighs the networks around a prefix anew, after what is to be kept reachable there changed.
    pub fn review(&mut self, prefix: IpNet, now: Timestamp) {
        let Self { entries, widen, reachable, .. } = self;
        widen.review(prefix, entries, &|network| reachable.touches(network, now));
    }

    /// Tells whoever follows the bans that the allow list is another one.
    pub fn note_allow_change(&self) {
        self.entries.desired().note_allow_change();
    }

    fn watch(&mut self, prefix: IpNet, until: Moment) {
        if until != Moment::FOREVER {
            self.ends.push(Reverse((until, prefix)));
        }
    }

    /// Bans that are lifted and set again, over and over, must not pile up.
    fn forget_lifted(&mut self) {
        if self.ends.len() > 2 * self.widen.bans().len() + 1000 {
            let (bans, mut seen) = (self.widen.bans(), BTreeSet::new());
            self.ends.retain(|Reverse((_, prefix))| bans.contains(*prefix) && seen.insert(*prefix));
        }
    }
}

// === impl Growth ===

impl Growth<'_> {
    /// The time of a ban that grows with those before it; the jail's own where they are not known.
    fn time(&self, recent: &Recent, prefix: IpNet, offence: &Offence, now: Timestamp) -> BanTime {
        let earlier = self.earlier.count(recent, prefix, offence, &self.escalation, now);
        earlier.map_or(offence.bantime, |earlier| self.escalation.time(offence.bantime, earlier, self.chance))
    }
}

// === impl NewBan ===

impl From<NewBan> for Change {
    /// The ledger counts strikes and ends bans itself.
    fn from(NewBan { prefix, since, until, origin, evidence }: NewBan) -> Self {
        let (until, strikes, ended, ended_by) = (until.timestamp(), 0, None, None);
        Self::Ban(Box::new(Ban { prefix, since, until, origin, evidence, strikes, ended, ended_by }))
    }
}
