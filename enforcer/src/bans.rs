//! The bans that stand, in memory: where offences are decided, from where routers learn at once, and
//! from where bans lapse at the second they end.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use atalaya_wire::{Name, Networks, Offence, canonical};
use ipnet::IpNet;
use jiff::Timestamp;

use crate::config::ListConfig;
use crate::ledger::{Ban, Change, Saved};
use crate::policy::{self, Decision, Standing};
use crate::router::{Desired, Wanted};

/// The bans of one list, and what follows from a decision.
#[derive(Debug)]
pub struct Bans {
    list: ListConfig,
    desired: Arc<Desired>,
    allow: RwLock<Networks>,
    standing: Mutex<StandingBans>,
}

#[derive(Debug, Default)]
struct StandingBans {
    by_prefix: HashMap<IpNet, Standing>,
    /// The ends of those that end, soonest first.
    ends: BTreeSet<(Timestamp, IpNet)>,
    /// Comments, shared by all bans of one jail and sensor.
    comments: HashMap<(Name, Name), Arc<str>>,
}

/// Why a ban by hand is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} touches the allow list: it is, or holds, an address that is never banned; change `allow` in the configuration first")]
pub struct AllowedError(IpNet);

// === impl Bans ===

impl Bans {
    /// Takes over what the ledger holds.
    pub fn new(list: ListConfig, desired: Arc<Desired>, allow: Networks, saved: Saved) -> Self {
        let mut standing = StandingBans::default();
        for (prefix, ban, _) in &saved.bans {
            standing.set(*prefix, *ban);
        }
        desired.set_many(
            saved.bans.into_iter().map(|(prefix, ban, comment)| (prefix, Wanted { until: ban.until, comment })),
        );
        Self { list, desired, allow: RwLock::new(allow), standing: Mutex::new(standing) }
    }

    /// Decides on an offence. A ban goes to the routers before this returns; the change is for the
    /// ledger. An offence that changes nothing still has one where a ban stands, so that a ban that
    /// was decided but not committed is written when the offence comes again.
    pub fn offence(&self, sensor: &Name, offence: &Offence, now: Timestamp) -> Option<Change> {
        let prefix = IpNet::from(canonical(offence.address));
        let mut standing = self.lock();
        let before = standing.by_prefix.get(&prefix).copied();
        let decision = policy::decide(offence, before, &self.allow(), now);
        let (address, jail) = (canonical(offence.address), &offence.jail);
        let (ban, changed) = match decision {
            Decision::Allowed => {
                tracing::warn!(%address, %jail, %sensor, "an offence of an allowed address; not banned");
                return None;
            }
            Decision::Lapsed => {
                tracing::info!(%address, %jail, %sensor, time = %offence.time, "an offence whose ban would be over; not banned");
                return None;
            }
            Decision::AlreadyBanned => (before.unwrap_or(Standing { until: None }), false),
            Decision::Extended(ban) | Decision::Banned(ban) => (ban, true),
        };
        if changed {
            let comment = standing.comment(&self.list, jail, sensor);
            self.desired.set(prefix, Wanted { until: ban.until, comment });
            standing.set(prefix, ban);
            let until = ban.until.map_or_else(|| "for ever".to_owned(), |until| until.to_string());
            let what = if matches!(decision, Decision::Banned(_)) { "ban" } else { "extended" };
            tracing::info!(%address, %jail, %sensor, until, failures = offence.failures, "{what}");
        }
        Some(Change::Ban(Arc::new(Ban {
            prefix,
            list: self.list.name.clone(),
            since: offence.time.min(now),
            until: ban.until,
            jail: jail.clone(),
            sensor: sensor.clone(),
            evidence: offence.evidence.clone(),
            strikes: 0,
        })))
    }

    /// Bans by hand.
    pub fn ban(&self, ban: Ban) -> Result<Change, AllowedError> {
        if self.allow().overlaps(ban.prefix) {
            return Err(AllowedError(ban.prefix));
        }
        let mut standing = self.lock();
        let comment = standing.comment(&self.list, &ban.jail, &ban.sensor);
        self.desired.set(ban.prefix, Wanted { until: ban.until, comment });
        standing.set(ban.prefix, Standing { until: ban.until });
        Ok(Change::Ban(Arc::new(ban)))
    }

    /// Lifts a ban; `None` where none stands.
    pub fn unban(&self, prefix: IpNet, by: &str, at: Timestamp) -> Option<Change> {
        self.lock().remove(prefix)?;
        self.desired.remove(prefix);
        Some(Change::End { prefix, at, by: by.to_owned() })
    }

    /// Ends the bans that are over; the routers have let go of them by themselves.
    pub fn lapse(&self, now: Timestamp) -> Vec<Change> {
        let mut standing = self.lock();
        let mut changes = Vec::new();
        while let Some((until, prefix)) = standing.ends.first().copied()
            && until <= now
        {
            standing.remove(prefix);
            self.desired.remove(prefix);
            tracing::debug!(%prefix, "lapsed");
            changes.push(Change::End { prefix, at: until, by: "lapsed".to_owned() });
        }
        changes
    }

    /// What is never banned.
    pub fn allow(&self) -> Networks {
        self.allow.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether an address is never banned.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow.read().unwrap_or_else(PoisonError::into_inner).contains(address)
    }

    /// Replaces what is never banned, and lifts the bans that touch it.
    pub fn set_allow(&self, allow: Networks, at: Timestamp) -> Vec<Change> {
        let touched: Vec<IpNet> =
            self.lock().by_prefix.keys().filter(|prefix| allow.overlaps(**prefix)).copied().collect();
        *self.allow.write().unwrap_or_else(PoisonError::into_inner) = allow;
        touched.into_iter().filter_map(|prefix| self.unban(prefix, "allow list", at)).collect()
    }

    /// How many bans stand.
    pub fn len(&self) -> usize {
        self.lock().by_prefix.len()
    }

    /// Whether no ban stands.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, StandingBans> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl StandingBans ===

impl StandingBans {
    fn set(&mut self, prefix: IpNet, ban: Standing) {
        self.remove(prefix);
        self.by_prefix.insert(prefix, ban);
        if let Some(until) = ban.until {
            self.ends.insert((until, prefix));
        }
    }

    fn remove(&mut self, prefix: IpNet) -> Option<Standing> {
        let ban = self.by_prefix.remove(&prefix)?;
        if let Some(until) = ban.until {
            self.ends.remove(&(until, prefix));
        }
        Some(ban)
    }

    fn comment(&mut self, list: &ListConfig, jail: &Name, sensor: &Name) -> Arc<str> {
        /// Names are few in practice, but sensors choose those of jails.
        const MOST: usize = 100_000;
        if self.comments.len() > MOST {
            self.comments.clear();
        }
        self.comments
            .entry((jail.clone(), sensor.clone()))
            .or_insert_with(|| list.comment_of(jail.as_str(), sensor.as_str()).into())
            .clone()
    }
}
