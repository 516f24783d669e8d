//! What the lock of the bans is for: which stand, when each is looked at again, and what follows for the
//! routers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use atalaya_wire::Name;
use ipnet::IpNet;
use jiff::Timestamp;

use super::allow::Allow;
use super::policy::{Exemption, Severity, Standing};
use super::reachable::Reachable;
use super::widen::{Entry, Widen};
use crate::config::ListConfig;
use crate::desired::{Desired, Label, Wanted};
use crate::ledger::Change;

/// The bans that stand.
#[derive(Debug)]
pub(super) struct Book {
    /// What routers are to hold: the ends of all bans that no widened network covers.
    desired: Arc<Desired>,
    pub widen: Widen,
    pub reachable: Reachable,
    /// Where the allow list comes from.
    pub allow: Allow,
    /// When to look at which ban, in milliseconds since 1970; a ban that was extended meanwhile is put
    /// back, one that was lifted falls out.
    pub ends: BinaryHeap<Reverse<(i64, IpNet)>>,
    /// Labels, shared by all bans of one jail and sensor.
    labels: HashMap<(Name, Name), Arc<Label>>,
}

// === impl Book ===

impl Book {
    pub fn new(desired: Arc<Desired>, widen: Widen, reachable: Reachable, allow: Allow) -> Self {
        Self { desired, widen, reachable, allow, ends: BinaryHeap::new(), labels: HashMap::new() }
    }

    /// Takes over the bans that stood before, and what routers are to hold for them.
    pub fn load(&mut self, bans: impl Iterator<Item = (IpNet, Standing, Arc<Label>)>, now: Timestamp) {
        let Self { desired, widen, reachable, ends, .. } = self;
        desired.set_many(bans.map(|(prefix, ban, label)| {
            widen.load(prefix);
            if let Some(until) = ban.until {
                ends.push(Reverse((until.as_millisecond(), prefix)));
            }
            (prefix, Wanted { until: ban.until, label })
        }));
        widen.begin_all(&mut &**desired, &|network| reachable.touches(network, now));
    }

    /// What the ban of an offender covers: an IPv4 address, the unit around an IPv6 one; but the address
    /// alone where others of the unit are to be kept reachable.
    pub fn offender(&self, address: IpAddr, now: Timestamp) -> IpNet {
        let unit = self.widen.bans().unit_of(address);
        let single = IpNet::from(address);
        if unit != single && self.reachable.splits(unit, now) { single } else { unit }
    }

    /// The ban of exactly this prefix.
    pub fn standing(&self, prefix: IpNet) -> Option<Standing> {
        let entry = self.widen.standing(prefix, &&*self.desired)?;
        Some(Standing { until: entry.until.timestamp() })
    }

    /// As what a prefix is banned: as itself, or as the unit around it.
    pub fn banned_as(&self, prefix: IpNet) -> Option<IpNet> {
        let bans = self.widen.bans();
        let unit = bans.unit_of(prefix.addr());
        [prefix, unit].into_iter().find(|banned| banned.contains(&prefix) && bans.contains(*banned))
    }

    /// Why a prefix is not to be banned, if it is not.
    pub fn exemption(&self, prefix: IpNet, protected: bool) -> Exemption {
        match protected {
            _ if self.reachable.networks.overlaps(prefix) => Exemption::Allowed,
            true => Exemption::Protected,
            false => Exemption::None,
        }
    }

    /// Bans, or changes a ban, also on the routers.
    pub fn set(&mut self, prefix: IpNet, ban: Standing, label: Arc<Label>, now: Timestamp) {
        self.reachable.banned_again(prefix);
        let Self { desired, widen, reachable, .. } = self;
        let entry = Entry { until: ban.until.into(), label };
        widen.ban(prefix, entry, &mut &**desired, &|network| reachable.touches(network, now));
    }

    /// Notes when a new ban ends, which may come before it was seen that the one before is over.
    pub fn begin(
        &mut self,
        prefix: IpNet,
        ban: Standing,
        before: Option<Standing>,
        changes: &mut Vec<Change>,
    ) {
        match before.and_then(|before| before.until) {
            // Its end is watched already, and the later one is found when that comes.
            Some(at) => changes.push(Change::End { prefix, at, by: "lapsed".to_owned() }),
            None => self.watch(prefix, ban),
        }
    }

    /// Lifts a ban before its end, also on the routers.
    pub fn lift(&mut self, prefix: IpNet, now: Timestamp) {
        let Self { desired, widen, reachable, .. } = self;
        widen.lift(prefix, &mut &**desired, &|network| reachable.touches(network, now));
        self.forget_lifted();
    }

    /// Ends the bans that are over; each is handed to a function with its end.
    pub fn lapse(&mut self, now: Timestamp, mut ended: impl FnMut(IpNet, Timestamp)) {
        while let Some(Reverse((end, prefix))) = self.ends.peek().copied()
            && end <= now.as_millisecond()
        {
            self.ends.pop();
            let Some(ban) = self.standing(prefix) else { continue };
            match ban.until {
                Some(until) if until <= now => {
                    self.widen.lapse(prefix, &mut &*self.desired);
                    ended(prefix, until);
                }
                _ => self.watch(prefix, ban),
            }
        }
        let Self { desired, widen, reachable, .. } = self;
        widen.settle(now.into(), &mut &**desired, &|network| reachable.touches(network, now));
    }

    /// Weighs the networks around a prefix anew, after what is to be kept reachable there changed.
    pub fn review(&mut self, prefix: IpNet, now: Timestamp) {
        let Self { desired, widen, reachable, .. } = self;
        widen.review(prefix, &mut &**desired, &|network| reachable.touches(network, now));
    }

    /// The label of the bans of one jail and sensor.
    pub fn label(
        &mut self,
        jail: &Name,
        sensor: &Name,
        list: &ListConfig,
        severity: &BTreeMap<Name, Severity>,
    ) -> Arc<Label> {
        /// Names are few in practice, but sensors choose those of jails.
        const MOST: usize = 100_000;
        if self.labels.len() > MOST {
            self.labels.clear();
        }
        let label = self
            .labels
            .entry((jail.clone(), sensor.clone()))
            .or_insert_with(|| Label::new(jail.clone(), sensor.clone(), list, severity).into());
        label.clone()
    }

    fn watch(&mut self, prefix: IpNet, ban: Standing) {
        if let Some(until) = ban.until {
            self.ends.push(Reverse((until.as_millisecond(), prefix)));
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
