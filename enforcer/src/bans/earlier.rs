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
use jiff::{SignedDuration, Timestamp};

use crate::ledger::{EarlierBan, Ledger, REMEMBERED};
use crate::prefixes;

/// For how long a ban is remembered that the ledger may not have written: a commit takes milliseconds.
const UNWRITTEN: SignedDuration = SignedDuration::from_secs(60);

/// The most of them, about 100 bytes each; the oldest go.
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
    /// With when each began, by our clock.
    by_prefix: HashMap<IpNet, VecDeque<(Timestamp, Name, EarlierBan)>>,
    /// In the order in which they began.
    began: VecDeque<(Timestamp, IpNet)>,
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
        let (since, known) =
            (since(now), |ban: &EarlierBan| written.iter().any(|old| old.since == ban.since));
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
    pub fn begin(&mut self, prefix: IpNet, jail: &Name, ban: EarlierBan, now: Timestamp) {
        while let Some((began, oldest)) = self.began.front().copied()
            && (self.began.len() >= MOST_RECENT || now.duration_since(began) > UNWRITTEN)
        {
            self.began.pop_front();
            if let Some(bans) = self.by_prefix.get_mut(&oldest) {
                while bans.pop_front_if(|(at, ..)| *at <= began).is_some() {}
                if bans.is_empty() {
                    self.by_prefix.remove(&oldest);
                }
            }
        }
        self.began.push_back((now, prefix));
        let bans = self.by_prefix.entry(prefix).or_default();
        // More steps are not told apart.
        if bans.len() >= Escalation::MOST_STEPS {
            bans.pop_front();
        }
        bans.push_back((now, jail.clone(), ban));
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
