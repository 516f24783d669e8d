//! The jails of this sensor and what they are fed with: lines and login attempts in, offences out.
//! It does no input or output of its own; the service calls it under one lock, so that a position
//! in a file and the counters that its lines moved are saved together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use atalaya_wire::{Name, Nat64, Networks, Offence};
use ipnet::IpNet;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::filter::Scanner;
use crate::jail::Counter;
use crate::jail::ignore::{IgnoreCommand, IgnoreList};
use crate::jail::settings::JailConfig;
use crate::local_drop::trusted::Trusted;

mod bans;
mod clock;
mod clocks;
mod connected;
mod dated;
mod feed;
mod ignored;
mod outlet;
pub mod pending;
mod silence;
mod status;
mod wants;
mod watched;
mod witness;

use connected::Connected;
pub use feed::{FailedLogin, LimitReached};
pub use ignored::Ignored;
use outlet::{Chatter, Outlet};
pub use outlet::{Handed, Sent};
use pending::Pending;
pub use status::{BannedAddress, JailStatus, RefusedAddress};
use watched::Watched;
use witness::Witnessed;

/// The jails, and what is common to them.
pub struct Detector {
    jails: Vec<Watched>,
    ignored: Ignored,
    zone: TimeZone,
    /// Sources with a line that had no usable date: each is told once. Bounded, for names of
    /// sources are few but not ours to choose.
    dateless: HashSet<String>,
    /// Clocks that are off of which somebody was told; bounded.
    skewed: HashSet<String>,
    /// What finds the lines for the jails that read a file together, by the jails' numbers.
    scanners: HashMap<Vec<usize>, Arc<Scanner>>,
    /// When somebody last logged in from an address; kept where a jail of short connections asks.
    logins: BTreeMap<IpAddr, Timestamp>,
    connected: Connected,
    witnessed: Witnessed,
    outlet: Outlet,
}

// === impl Detector ===

impl Detector {
    /// Makes the jails; `offended` is called with each offence, at once.
    pub fn new(
        jails: Vec<JailConfig>,
        ignored: Ignored,
        zone: TimeZone,
        offended: impl FnMut(Offence, Option<Arc<IgnoreCommand>>) -> Handed + Send + 'static,
    ) -> Self {
        let jails = jails.into_iter().map(|config| Watched::new(config, None)).collect();
        Self {
            jails,
            ignored,
            zone,
            dateless: HashSet::new(),
            skewed: HashSet::new(),
            scanners: HashMap::new(),
            logins: BTreeMap::new(),
            connected: Connected::default(),
            witnessed: Witnessed::default(),
            outlet: Outlet {
                chatter: Chatter::default(),
                pending: Some(Pending::default()),
                trusted: Arc::default(),
                offended: Box::new(offended),
            },
        }
    }

    /// Goes on with other jails. One of the same name keeps what it counted and banned.
    pub fn replace(&mut self, jails: Vec<JailConfig>, configured: Networks) {
        let mut before = std::mem::take(&mut self.jails);
        self.jails = jails
            .into_iter()
            .map(|config| {
                let same = before.iter().position(|old| old.jail.policy().name == config.policy.name);
                Watched::new(config, same.map(|index| before.swap_remove(index)))
            })
            .collect();
        self.ignored.configured = configured;
        self.scanners.clear();
    }

    /// Whether what is to be reported is gathered from now on.
    pub fn set_reporting(&mut self, on: bool) {
        if !on {
            self.outlet.pending = None;
        } else if self.outlet.pending.is_none() {
            self.outlet.pending = Some(Pending::default());
        }
    }

    /// What waits for the next report; `None` where nothing is reported.
    pub fn pending(&mut self) -> Option<&mut Pending> {
        self.outlet.pending.as_mut()
    }

    /// The same, to look at.
    pub fn reporting(&self) -> Option<&Pending> {
        self.outlet.pending.as_ref()
    }

    /// Where successful logins are noted from now on.
    pub fn set_trusted(&mut self, trusted: Arc<Mutex<Trusted>>) {
        self.outlet.trusted = trusted;
    }

    /// Who is asked from now on whether an address completed a connection to this host lately.
    pub fn set_connected(&mut self, is_known: impl Fn(IpAddr) -> bool + Send + 'static) {
        self.connected = Connected::new(is_known);
    }

    /// All lists of whom anybody spares: the configuration, the enforcer, this host itself, and each jail.
    pub fn spared(&self) -> Vec<&Networks> {
        let Ignored { configured, own, enforcer, .. } = &self.ignored;
        let of_jails = self.jails.iter().flat_map(|Watched { jail, spared, .. }| {
            [&jail.policy().ignore, &spared.looked_up, &spared.added]
        });
        [configured, own, enforcer].into_iter().chain(of_jails).collect()
    }

    /// Spares a network in a jail until the sensor ends; `None` where there is no such jail.
    pub fn spare(&mut self, jail: &Name, network: IpNet) -> Option<()> {
        self.find(jail)?.spared.added.extend([network]);
        Some(())
    }

    /// What has to be looked up for which jail.
    pub fn lookups(&self) -> Vec<(Name, IgnoreList)> {
        let open = self.jails.iter().filter(|watched| !watched.lookups.is_fixed());
        open.map(|watched| (watched.jail.policy().name.clone(), watched.lookups.clone())).collect()
    }

    /// What a jail's names and files stand for now.
    pub fn set_looked_up(&mut self, jail: &Name, networks: Networks) {
        if let Some(watched) = self.find(jail) {
            watched.spared.looked_up = networks;
        }
    }

    /// The jails as they stand; of all, or of one.
    pub fn status(&self, jail: Option<&Name>, now: Timestamp) -> Vec<JailStatus> {
        let wanted =
            self.jails.iter().filter(|watched| jail.is_none_or(|name| watched.jail.policy().name == *name));
        wanted.map(|watched| watched.status(now)).collect()
    }

    fn find(&mut self, jail: &Name) -> Option<&mut Watched> {
        self.jails.iter_mut().find(|watched| watched.jail.policy().name == *jail)
    }

    /// Takes over counters that an earlier run saved; those of jails that are gone are left out.
    pub fn restore(&mut self, counters: Vec<(Name, IpAddr, Counter)>) {
        for (name, address, counter) in counters {
            if let Some(watched) = self.jails.iter_mut().find(|watched| watched.jail.policy().name == name) {
                watched.jail.restore([(address, counter)]);
            }
        }
    }

    /// The counters that changed since the last call.
    pub fn take_changed(&mut self) -> Vec<(Name, IpAddr, Option<Counter>)> {
        let mut changed = Vec::new();
        for watched in &mut self.jails {
            let name = watched.jail.policy().name.clone();
            let counters = watched.jail.take_changed();
            changed.extend(counters.into_iter().map(|(address, counter)| (name.clone(), address, counter)));
        }
        changed
    }

    /// The host's time zone, as it is now.
    pub fn set_zone(&mut self, zone: TimeZone) {
        self.zone = zone;
    }

    /// The host's own addresses, as they are now.
    pub fn set_own(&mut self, own: Networks) {
        self.ignored.own = own;
    }

    /// The prefixes of NAT64 beside the well-known one.
    pub fn set_nat64(&mut self, nat64: Nat64) {
        self.ignored.nat64 = nat64;
    }

    /// The enforcer's allow list, as it is now.
    pub fn set_enforcer_allow(&mut self, allow: Networks) {
        self.ignored.enforcer = allow;
    }

    /// Forgets addresses whose failures are all older than their jail's `findtime`, and what waited too
    /// long for its report.
    pub fn sweep(&mut self, now: Timestamp) {
        for Watched { jail, source, silence, clocks, .. } in &mut self.jails {
            jail.sweep(now);
            for failure in clocks.sweep(now) {
                // Of its own date it is too old, and is counted as that.
                jail.failure(failure, now);
            }
            if silence.look(now)
                && !source.is_counted_by_kernel()
                && let Some(what) = silence.told_at(now)
            {
                tracing::warn!(jail = %jail.policy().name, source = source.summary(&[]), "{what}");
            }
        }
        let short = self.jails.iter().filter(|watched| watched.source.is_short());
        let longest = short.map(|watched| watched.jail.policy().findtime.signed()).max().unwrap_or_default();
        self.logins.retain(|_, at| now.duration_since(*at) <= longest);
        if let Some(pending) = &mut self.outlet.pending {
            pending.sweep(now);
        }
    }

    /// For each jail: its name, how many addresses it counts now, and its totals since the start.
    pub fn totals(&self) -> impl Iterator<Item = (&Name, usize, crate::jail::Totals)> + '_ {
        self.jails
            .iter()
            .map(|watched| (&watched.jail.policy().name, watched.jail.counted(), watched.jail.totals()))
    }
}

#[cfg(test)]
mod tests;
