//! How the jails stand, as `status` shows it.

use std::net::IpAddr;

use atalaya_wire::{BanTime, Grounds, Name, Seconds};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::watched::Watched;
use crate::filter::Filter;
use crate::jail::{BanEnd, OwnBan, RefusedBan};
use crate::pinned::Dropped;

/// A jail as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JailStatus {
    /// As in `sensor.toml`, or as fail2ban's jail has it.
    pub name: Name,
    /// In words: the paths of files, or the source's kind and what it is limited to.
    pub source: String,
    /// How many failures make an offence, within which time, and for how long it bans.
    pub maxretry: u32,
    /// Within which time failures are counted together, in seconds.
    pub findtime: Seconds,
    /// For how long it bans.
    pub bantime: BanTime,
    /// Addresses with failures within `findtime`.
    pub failing: usize,
    /// Failures since the start.
    pub failures: u64,
    /// Offences since the start.
    pub offences: u64,
    /// Failures since the start of addresses that are spared, or older than `findtime`.
    pub ignored: u64,
    /// Lines that were given up because a regex took too many steps, since the start.
    pub exhausted: u64,
    /// What keeps it from seeing, or from ignoring, what it is set to; a sentence each.
    #[serde(default)]
    pub troubles: Vec<String>,
    /// The bans that it asked for and that are not over.
    pub banned: Vec<BannedAddress>,
    /// Those that the enforcer refused lately.
    #[serde(default)]
    pub refused: Vec<RefusedAddress>,
}

/// A ban that a jail asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BannedAddress {
    /// The one that offended; of IPv6 the enforcer may ban its network.
    pub address: IpAddr,
    /// Until when; `None` for ever.
    pub until: BanEnd,
    /// What the enforcer bans for it; `None` before its answer.
    #[serde(default)]
    pub net: Option<IpNet>,
    /// What this host itself dropped for it; `None` where it does not.
    #[serde(default)]
    pub dropped: Option<Dropped>,
}

/// An address that the enforcer did not ban for a jail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefusedAddress {
    /// The one whose offence was refused.
    pub address: IpAddr,
    /// When it was refused.
    pub at: Timestamp,
    /// As the enforcer gave them.
    pub grounds: Grounds,
}

// === impl Watched ===

impl Watched {
    pub(super) fn status(&self, now: Timestamp) -> JailStatus {
        let (policy, totals) = (self.jail.policy(), self.jail.totals());
        JailStatus {
            name: policy.name.clone(),
            source: self.source.summary(&self.ports),
            maxretry: policy.maxretry,
            findtime: policy.findtime,
            bantime: policy.bantime,
            failing: self.jail.counted(),
            failures: totals.failures,
            offences: totals.offences,
            ignored: totals.ignored + totals.old,
            exhausted: self.source.filter().map_or(0, Filter::exhausted),
            troubles: self.troubles(now),
            banned: self.jail.bans().standing(now).map(BannedAddress::from).collect(),
            refused: self.jail.bans().refused(now).map(RefusedAddress::from).collect(),
        }
    }
}

// === impl BannedAddress ===

impl From<(IpAddr, &OwnBan)> for BannedAddress {
    fn from((address, ban): (IpAddr, &OwnBan)) -> Self {
        Self { address, until: ban.until, net: ban.net, dropped: None }
    }
}

// === impl RefusedAddress ===

impl From<(IpAddr, &RefusedBan)> for RefusedAddress {
    fn from((address, refused): (IpAddr, &RefusedBan)) -> Self {
        Self { address, at: refused.at, grounds: refused.grounds }
    }
}
