//! Earlier bans, by which a ban grows: looked up before the lock of the book is taken, so that nobody waits for the
//! disk there, and completed under it with those that the ledger may not have had yet.
//!
//! Example: two batches with an offence of 192.0.2.7 arrive at once, and neither finds an earlier ban. The first to
//! get the lock bans; someone unbans; then the second gets it. What it looked up says "never banned", the ledger's
//! writer may not even have begun, but [`Recent`] knows of the first: the second ban is the second strike, and as
//! long as one.

use std::collections::{HashMap, HashSet, VecDeque};

use atalaya_wire::{Escalation, Name, Offence, Seconds, canonical};
use ipnet::IpNet;
use jiff::Timestamp;

use crate::ledger::{EarlierBan, Ledger, REMEMBERED};
use crate::prefixes;

/// The most bans that are remembered because the ledger may not have written them, about 100 bytes each; the oldest go. No
/// time limits them: a commit takes milliseconds, but hours where the disk is full, and clocks are set.
const MOST_RECENT: usize = 65_536;

/// What is counted together: the bans of a prefix, by one jail or by all.
type Key = (IpNet, Option<Name>);

/// The earlier bans of the offenders of a batch, as the ledger had them.
#[derive(Debug, Default)]
pub struct Earlier {
    bans: HashMap<Key, Vec<EarlierBan>>,
}

/// What is to be looked up for a batch.
pub(super) struct Keys(HashSet<Key>);

/// The bans that began lately, whether the ledger has them or not.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Each with its number.
    by_prefix: HashMap<IpNet, VecDeque<(u64, Name, EarlierBan)>>,
    /// In the order in which they began, which their numbers say.
    began: VecDeque<(u64, IpNet)>,
    next: u64,
}

// === impl Keys ===

impl Keys {
    /// What the decisions on these offences need. An offender is banned by its unit or by its address alone, which is
    /// decided under the lock: both are looked up.
    pub fn of<'a>(offences: impl Iterator<Item = &'a Offence>, usual: Option<&Escalation>, unit: u8) -> Self {
        let mut keys = HashSet::new();
        for offence in offences {
            let Some(escalation) = offence.escalation.as_ref().or(usual) else { continue };
            let address = canonical(offence.address);
            let jail = counted_jail(escalation, &offence.jail);
            keys.insert((prefixes::unit_of(address, unit), jail.clone()));
            keys.insert((IpNet::from(address), jail));
        }
        Self(keys)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks them up. Blocks, for some microseconds each.
    pub fn look_up(self, ledger: &Ledger, now: Timestamp) -> Earlier {
        let since = since(now);
        let mut bans = HashMap::with_capacity(self.0.len());
        for (prefix, jail) in self.0 {
            match ledger.earlier_bans(prefix, jail.as_ref(), since) {
                Ok(found) => drop(bans.insert((prefix, jail), found)),
                Err(error) => {
                    tracing::warn!(%prefix, %error, "earlier bans cannot be looked up: offences are banned for their jails' own times");
                    // The others would fail as well, each after a wait of its own.
                    break;
                }
            }
        }
        Earlier { bans }
    }
}

// === impl Earlier ===

impl Earlier {
    /// How many earlier bans count for an offence, by what was looked up and by what began lately; `None` where they
    /// could not be looked up.
    pub(super) fn count(
        &self,
        recent: &Recent,
        prefix: IpNet,
        offence: &Offence,
        escalation: &Escalation,
        now: Timestamp,
    ) -> Option<u32> {
        let jail = counted_jail(escalation, &offence.jail);
        let unwritten = recent.of(prefix, jail.clone());
        let written = self.bans.get(&(prefix, jail))?;
        // The ledger keeps milliseconds.
        let same =
            |one: &EarlierBan, other: &EarlierBan| one.since.as_millisecond() == other.since.as_millisecond();
        let (since, known) = (since(now), |ban: &EarlierBan| written.iter().any(|old| same(old, ban)));
        let mut bans: Vec<EarlierBan> = unwritten.filter(|ban| ban.since >= since && !known(ban)).collect();
        bans.extend(written);
        let last_end = bans.iter().filter_map(|ban| ban.end).max();
        let quiet = last_end.map_or(0, |end| offence.time.min(now).duration_since(end).as_secs());
        let count = u32::try_from(bans.len()).unwrap_or(u32::MAX);
        Some(escalation.remembered(count, Seconds(u64::try_from(quiet).unwrap_or(0))))
    }
}

// === impl Recent ===

impl Recent {
    /// Notes a ban that begins now.
    pub fn begin(&mut self, prefix: IpNet, jail: &Name, ban: EarlierBan) {
        if self.began.len() >= MOST_RECENT
            && let Some((first, oldest)) = self.began.pop_front()
            && let Some(bans) = self.by_prefix.get_mut(&oldest)
        {
            bans.pop_front_if(|(number, ..)| *number == first);
            if bans.is_empty() {
                self.by_prefix.remove(&oldest);
            }
        }
        let number = self.next;
        self.next += 1;
        self.began.push_back((number, prefix));
        let bans = self.by_prefix.entry(prefix).or_default();
        // More steps are not told apart.
        if bans.len() >= Escalation::MOST_STEPS {
            bans.pop_front();
        }
        bans.push_back((number, jail.clone(), ban));
    }

    /// Notes that the ban of a prefix was lifted before its time.
    pub fn end(&mut self, prefix: IpNet, at: Timestamp) {
        if let Some((_, _, ban)) = self.by_prefix.get_mut(&prefix).and_then(VecDeque::back_mut) {
            ban.end = Some(ban.end.map_or(at, |end| end.min(at)));
        }
    }

    fn of(&self, prefix: IpNet, jail: Option<Name>) -> impl Iterator<Item = EarlierBan> {
        let bans = self.by_prefix.get(&prefix).into_iter().flatten();
        bans.filter(move |(_, of, _)| jail.as_ref().is_none_or(|jail| of == jail)).map(|(.., ban)| *ban)
    }
}

/// The jail whose bans count; `None` where those of all do.
fn counted_jail(escalation: &Escalation, jail: &Name) -> Option<Name> {
    (!escalation.overall).then(|| jail.clone())
}

fn since(now: Timestamp) -> Timestamp {
    now.checked_sub(REMEMBERED).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use atalaya_wire::BanTime;

    use super::*;

    fn ban(since: &str) -> EarlierBan {
        let since = since.parse().unwrap();
        EarlierBan { since, end: Some(since) }
    }

    fn counted(recent: &Recent, prefix: IpNet, written: Vec<EarlierBan>) -> u32 {
        let jail: Name = "ssh".parse().unwrap();
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let earlier = Earlier { bans: HashMap::from([((prefix, Some(jail.clone())), written)]) };
        let offence = Offence {
            jail,
            address: prefix.addr(),
            time: now,
            failures: 3,
            bantime: BanTime::For(Seconds(60)),
            escalation: None,
            evidence: Vec::new(),
        };
        let escalation = Escalation {
            thousandths: vec![1000, 2000, 4000],
            max: None,
            random: None,
            overall: false,
            decay: None,
        };
        earlier.count(recent, prefix, &offence, &escalation, now).unwrap()
    }

    #[test]
    fn a_ban_that_the_ledger_has_to_the_millisecond_is_counted_once_and_one_that_it_has_not_however_old() {
        let (prefix, jail) = ("192.0.2.7/32".parse().unwrap(), "ssh".parse().unwrap());
        let mut recent = Recent::default();
        recent.begin(prefix, &jail, ban("2026-11-30T09:00:00.123456789Z"));
        assert_eq!(counted(&recent, prefix, vec![ban("2026-11-30T09:00:00.123Z")]), 1);
        assert_eq!(counted(&recent, prefix, vec![ban("2026-11-30T08:00:00Z")]), 2);
        assert_eq!(counted(&recent, prefix, Vec::new()), 1, "it is forgotten after hours of a full disk");
    }

    #[test]
    fn only_so_many_bans_are_remembered_and_the_oldest_go() {
        let jail: Name = "ssh".parse().unwrap();
        let mut recent = Recent::default();
        let prefix = |number: u32| IpNet::from(std::net::IpAddr::from(number.to_be_bytes()));
        let most = u32::try_from(MOST_RECENT).unwrap();
        // One that comes again and again is not forgotten with its first ban.
        for number in (0..most).chain([0, most, most + 1]) {
            recent.begin(prefix(number), &jail, ban("2026-11-30T09:00:00Z"));
        }
        assert_eq!((recent.began.len(), recent.by_prefix.len()), (MOST_RECENT, MOST_RECENT));
        let counted: Vec<u32> =
            [0, 1, 2, 3, most + 1].map(|number| counted(&recent, prefix(number), Vec::new())).into();
        assert_eq!(counted, [1, 0, 0, 1, 1]);
    }
}
