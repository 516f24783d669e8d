//! The bans that the jails asked for: made, told what became of them, lifted, and sent once more.

use std::net::IpAddr;

use atalaya_wire::{BanTime, Evidence, Grounds, Name, Offence, Ruling, Seconds, canonical};
use ipnet::IpNet;
use jiff::Timestamp;

use super::{Detector, Handed, Sent, Watched};
use crate::jail::{Fate, Jail, OwnBan};

impl Detector {
    /// Takes over bans that an earlier run saved.
    pub fn restore_bans(&mut self, bans: Vec<(Name, IpAddr, Fate)>) {
        for (name, address, fate) in bans {
            if let Some(watched) = self.find(&name) {
                watched.jail.bans_mut().restore(address, fate);
            }
        }
    }

    /// Bans by hand: an offence like any other, whoever is spared.
    pub fn ban(
        &mut self,
        jail: &Name,
        address: IpAddr,
        bantime: Option<BanTime>,
        now: Timestamp,
    ) -> Option<BanTime> {
        let address = self.ignored.nat64.client(address);
        let watched = self.jails.iter_mut().find(|watched| watched.jail.policy().name == *jail)?;
        let bantime = bantime.unwrap_or(watched.jail.policy().bantime);
        let evidence = vec![Evidence::new(now, "by hand", "atalaya-sensor ban")];
        let offence =
            Offence { escalation: None, ..watched.jail.offence(address, now, 0, bantime, evidence) };
        tracing::info!(jail = %jail, %address, %bantime, "banned by hand");
        handed(&mut watched.jail, address, (self.outlet.offended)(offence, None));
        Some(bantime)
    }

    /// Notes that an offence went to the enforcer, after its jail's ignorecommand.
    pub fn sent(&mut self, jail: &Name, address: IpAddr, sent: Sent) {
        if let Some(watched) = self.find(jail) {
            handed(&mut watched.jail, address, Handed::Sent(sent));
        }
    }

    /// Notes under which number a [ban](Self::resent) went to the enforcer once more.
    pub fn sent_again(&mut self, jail: &Name, address: IpAddr, sequence: u64) {
        if let Some(watched) = self.find(jail) {
            watched.jail.bans_mut().sent_again(canonical(address), sequence);
        }
    }

    /// Takes the enforcer's ruling on a jail's offence of this number. Returns whether it changed the jail's ban.
    pub fn rule(
        &mut self,
        jail: &Name,
        address: IpAddr,
        sequence: u64,
        ruling: Ruling,
        now: Timestamp,
    ) -> bool {
        let watched = self.find(jail);
        watched.is_some_and(|watched| watched.jail.bans_mut().rule(canonical(address), sequence, ruling, now))
    }

    /// What became of a jail's ban of this very address, for who keeps it now.
    pub fn take_fate(&mut self, jail: &Name, address: IpAddr) -> Fate {
        self.find(jail).map_or(Fate::Gone, |watched| watched.jail.bans_mut().take_fate(canonical(address)))
    }

    /// What became of a jail's ban of this very address.
    fn fate(&self, jail: &Name, address: IpAddr) -> Fate {
        let watched = self.jails.iter().find(|watched| watched.jail.policy().name == *jail);
        watched.map_or(Fate::Gone, |watched| watched.jail.bans().fate(canonical(address)))
    }

    /// Follows what the enforcer says of all its bans: lifts those of the jails here that it has answered and
    /// that nothing covers there, within a network. Returns whose.
    pub fn settle(
        &mut self,
        within: IpNet,
        is_answered: impl Fn(u64) -> bool,
        is_covered: impl Fn(IpAddr) -> bool,
    ) -> Vec<IpAddr> {
        let mut lifted = Vec::new();
        for Watched { jail, .. } in &mut self.jails {
            let is_over = |(address, ban): &(IpAddr, &OwnBan)| {
                ban.sequence.is_some_and(&is_answered) && !is_covered(*address)
            };
            let over = jail.bans().range(within.network()..=within.broadcast()).filter(is_over);
            let over: Vec<IpAddr> = over.map(|(address, _)| address).collect();
            over.iter().for_each(|address| jail.withdraw(*address));
            lifted.extend(over);
        }
        lifted
    }

    /// The enforcer lifted the ban of what one host has for itself: forgets the bans in it that nothing covers
    /// there, and what is counted of it. Returns whose bans.
    pub fn lifted(&mut self, network: IpNet, is_covered: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        self.jails.iter_mut().for_each(|watched| watched.jail.forget(network.addr()));
        self.settle(network, |_| true, is_covered)
    }

    /// The bans of an address, and of all IPv6 addresses that are counted as one with it, in one jail or
    /// in all.
    pub fn banned(&self, jail: Option<&Name>, address: IpAddr) -> Vec<(Name, IpAddr, OwnBan)> {
        let address = self.ignored.nat64.client(address);
        let wanted = |watched: &&Watched| jail.is_none_or(|name| watched.jail.policy().name == *name);
        let banned = self.jails.iter().filter(wanted).flat_map(|watched| {
            let name = &watched.jail.policy().name;
            watched.jail.banned(address).map(|(address, ban)| (name.clone(), address, *ban))
        });
        banned.collect()
    }

    /// Which jails' bans of an address, or of one that is counted as one with it, the enforcer refused lately, and
    /// why.
    pub fn refused(&self, address: IpAddr, now: Timestamp) -> Vec<(Name, Grounds)> {
        let address = self.ignored.nat64.client(address);
        let refused = self.jails.iter().filter_map(|watched| {
            let policy = watched.jail.policy();
            let as_one = policy.counted_as_one(address);
            let mut refused = watched.jail.bans().refused(now);
            let (_, refused) = refused.find(|(address, _)| as_one.contains(address))?;
            Some((policy.name.clone(), refused.grounds))
        });
        refused.collect()
    }

    /// Forgets these bans and what is counted of an address, in one jail or in all.
    pub fn lift(&mut self, jail: Option<&Name>, address: IpAddr) {
        let address = self.ignored.nat64.client(address);
        let wanted = |watched: &&mut Watched| jail.is_none_or(|name| watched.jail.policy().name == *name);
        self.jails.iter_mut().filter(wanted).for_each(|watched| watched.jail.lift(address));
    }

    /// Takes back the ban of this very address, which its jail's ignorecommand spares.
    pub fn withdraw(&mut self, jail: &Name, address: IpAddr) {
        if let Some(watched) = self.find(jail) {
            watched.jail.withdraw(address);
        }
    }

    /// Lets these pass on this host, until the enforcer says again that they are banned.
    pub fn hold(&mut self, bans: &[(Name, IpAddr, OwnBan)]) {
        for (jail, address, _) in bans {
            if let Some(watched) = self.find(jail) {
                watched.jail.bans_mut().hold(*address);
            }
        }
    }

    /// The bans that the jails asked for and that are not over, within a network or all.
    pub fn own_bans(
        &self,
        within: Option<IpNet>,
        now: Timestamp,
    ) -> impl Iterator<Item = (&Name, IpAddr, &OwnBan)> + '_ {
        self.jails.iter().flat_map(move |watched| {
            let (name, bans) = (&watched.jail.policy().name, watched.jail.bans());
            let some = within.map(|within| bans.range(within.network()..=within.broadcast()));
            let all = within.is_none().then(|| bans.standing(now));
            let bans = some.into_iter().flatten().chain(all.into_iter().flatten());
            bans.filter(move |(_, ban)| ban.sequence.is_some() && ban.stands(now))
                .map(move |(address, ban)| (name, address, ban))
        })
    }

    /// The bans that the jails asked for and that are not over.
    pub fn standing(&self, now: Timestamp) -> Vec<(Name, IpAddr)> {
        self.own_bans(None, now).map(|(jail, address, _)| (jail.clone(), address)).collect()
    }

    /// A ban that is not over as an offence once more, for an enforcer that has lost its ledger: from now
    /// on for what is left of it. It grows no longer by that, and counts as no new one here. `None` where it
    /// was lifted, refused or is over.
    pub fn resent(&self, jail: &Name, address: IpAddr, now: Timestamp) -> Option<Offence> {
        let ban = match self.fate(jail, address) {
            Fate::Stands(ban) if ban.sequence.is_some() && ban.stands(now) => ban,
            _ => return None,
        };
        let bantime = match ban.until {
            Some(until) => {
                let left = until.duration_since(now).as_millis().max(1);
                BanTime::For(Seconds(u64::try_from(left).ok()?.div_ceil(1000)))
            }
            None => BanTime::Permanent,
        };
        let text = "the enforcer's ledger was lost; this ban stood at the sensor";
        let evidence = vec![Evidence::new(now, "resent", text)];
        // No failures, as with a ban by hand: they were told before.
        Some(Offence {
            jail: jail.clone(),
            address: canonical(address),
            time: now,
            failures: 0,
            bantime,
            escalation: None,
            evidence,
        })
    }

    /// The bans that changed since the last call.
    pub fn take_changed_bans(&mut self) -> Vec<(Name, IpAddr, Fate)> {
        let mut changed = Vec::new();
        for watched in &mut self.jails {
            let name = watched.jail.policy().name.clone();
            let bans = watched.jail.bans_mut().take_changed();
            changed.extend(bans.into_iter().map(|(address, fate)| (name.clone(), address, fate)));
        }
        changed
    }
}

/// Notes where a jail's offence went.
pub(super) fn handed(jail: &mut Jail, address: IpAddr, handed: Handed) {
    let address = canonical(address);
    match handed {
        Handed::Sent(Sent { sequence, held }) => jail.bans_mut().sent(address, sequence, held),
        Handed::Asked => {}
        // Its next failures bring another one; a ban that was asked for before stands.
        Handed::Lost => {
            if matches!(jail.bans().fate(address), Fate::Stands(OwnBan { sequence: None, .. })) {
                jail.withdraw(address);
            }
        }
    }
}
