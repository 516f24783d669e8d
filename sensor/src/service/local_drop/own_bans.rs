//! What the jails here ban by themselves: dropped at once, until the enforcer refuses it, or somebody lifts it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::PoisonError;

use atalaya_wire::{Name, Offence, canonical};
use ipnet::IpNet;
use jiff::SignedDuration;

use super::{LocalDrop, State};
use crate::detector::Detector;
use crate::jail::{OwnBan, sooner};
use crate::local_drop::moment::Moment;
use crate::local_drop::table::{By, Deadline, Table};

/// What was let through by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::service) struct LetPass {
    /// What was dropped and is no longer.
    pub networks: Vec<IpNet>,
    /// Whether the enforcer's bans are among that.
    pub of_fleet: bool,
    /// Larger networks around the address that are dropped on.
    pub around: Vec<IpNet>,
}

// === impl LocalDrop ===

impl LocalDrop {
    /// Drops an offender from now on, unless a successful login came from there lately. Returns whether it passes until
    /// the enforcer says that it is banned.
    pub(in crate::service) fn offence(&self, offence: &Offence) -> bool {
        let mut state = self.lock();
        let now = Moment::now();
        let network = state.network(&offence.jail, offence.address);
        let by_hand = offence.failures == 0;
        let of_logins = state.jails.get(&offence.jail).is_none_or(|judge| judge.of_logins);
        let trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        if !by_hand && trusted.spares(network, of_logins, now.wall) {
            if state.running.is_some() {
                tracing::info!(address = %offence.address, jail = %offence.jail, "not dropped on this host: a successful login came from there lately; the enforcer decides");
            }
            return true;
        }
        let until = offence.bantime.end(offence.time);
        let until = state.unanswered().map_or(until, |patience| sooner(until, offence.time, patience));
        state.ban(By::Own, network, now.deadline(until), now);
        false
    }

    /// Follows the enforcer's rulings on bans of these addresses, which the jails have taken.
    pub(in crate::service) fn follow_rulings(
        &self,
        detector: &Detector,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) {
        let (mut state, now) = (self.lock(), Moment::now());
        for address in addresses {
            state.take_own_ban(detector, address, now);
            state.forget_before(address);
        }
    }

    /// Lets an address pass, whoever banned it or these bans of it, but for larger networks around it. `None`
    /// where nothing is dropped on this host.
    pub(in crate::service) fn lift(
        &self,
        address: IpAddr,
        bans: &[(Name, IpAddr, OwnBan)],
    ) -> Option<LetPass> {
        let mut state = self.lock();
        let mut networks: Vec<IpNet> =
            bans.iter().map(|(jail, address, ban)| state.network_of(jail, *address, ban)).collect();
        let table = &state.running.as_ref()?.table;
        let address = canonical(address);
        networks.extend(table.around(address).filter(|network| is_of_a_host(*network)));
        networks.sort_unstable();
        networks.dedup();
        networks.retain(|network| table.deadline(*network).is_some());
        let of_fleet = networks.iter().any(|network| table.is_banned_by(By::Fleet, *network));
        for network in &networks {
            state.change(|table| table.lift(*network).into_iter().collect());
        }
        let around = state.running.as_ref()?.table.around(address).collect();
        Some(LetPass { networks, of_fleet, around })
    }

    /// Lets an address pass as far as these bans of it, which are lifted or held, alone had it dropped.
    pub(in crate::service) fn lift_own(
        &self,
        detector: &Detector,
        address: IpAddr,
        bans: &[(Name, IpAddr, OwnBan)],
    ) -> Option<LetPass> {
        let (mut state, now) = (self.lock(), Moment::now());
        let there = |state: &State, network: &IpNet| {
            state.running.as_ref().is_some_and(|running| running.table.deadline(*network).is_some())
        };
        let mut networks: Vec<IpNet> =
            bans.iter().map(|(jail, address, ban)| state.network_of(jail, *address, ban)).collect();
        networks.sort_unstable();
        networks.dedup();
        networks.retain(|network| there(&state, network));
        for (_, address, _) in bans {
            state.take_own_ban(detector, *address, now);
        }
        networks.retain(|network| !there(&state, network));
        let around = state.running.as_ref()?.table.around(canonical(address)).collect();
        Some(LetPass { networks, of_fleet: false, around })
    }
}

// === impl State ===

impl State {
    /// What is dropped for a ban of a jail's: what the enforcer bans for it, or before its answer what the jail
    /// counts as one.
    pub(super) fn network_of(&self, jail: &Name, address: IpAddr, ban: &OwnBan) -> IpNet {
        ban.net.unwrap_or_else(|| self.network(jail, address))
    }

    /// For how long a ban is dropped that the enforcer has not confirmed; for its whole time where none was joined, for
    /// then the jails here are all there is.
    fn unanswered(&self) -> Option<SignedDuration> {
        self.config.as_ref().filter(|_| self.has_joined).map(|config| config.unanswered.signed())
    }

    /// Drops for the jails here what they ban, and nothing else.
    pub(super) fn take_own_bans(&mut self, detector: &Detector, now: Moment) {
        let mut wanted: HashMap<IpNet, Deadline> = HashMap::new();
        for (jail, address, ban) in detector.own_bans(None, now.wall).filter(|(_, _, ban)| ban.drops()) {
            let deadline = wanted.entry(self.network_of(jail, address, ban)).or_default();
            *deadline = now.deadline(ban.drops_until(self.unanswered())).max(*deadline);
        }
        wanted.retain(|_, deadline| *deadline > now.boot);
        self.change(|table: &mut Table| {
            let gone: Vec<IpNet> =
                table.banned_by(By::Own).filter(|network| !wanted.contains_key(network)).collect();
            let gone = gone.into_iter().flat_map(|network| table.withdraw(By::Own, network));
            let mut changes: Vec<_> = gone.collect();
            for (network, deadline) in wanted {
                changes.extend(table.say(By::Own, network, deadline, now.boot));
            }
            changes
        });
    }

    /// Lifts what an earlier run left of an address: the enforcer has said what stands.
    fn forget_before(&mut self, address: IpAddr) {
        self.change(|table| {
            let around: Vec<IpNet> =
                table.around(canonical(address)).filter(|net| is_of_a_host(*net)).collect();
            around.into_iter().flat_map(|network| table.withdraw(By::Before, network)).collect()
        });
    }

    /// As [`Self::take_own_bans`], for what has to do with one address.
    pub(super) fn take_own_ban(&mut self, detector: &Detector, address: IpAddr, now: Moment) {
        let Some(running) = &self.running else { return };
        let mut networks: Vec<IpNet> = running.table.around(canonical(address)).collect();
        networks.retain(|network| running.table.is_banned_by(By::Own, *network));
        let own = detector.own_bans(Some(canonical(address).into()), now.wall);
        networks.extend(own.map(|(jail, address, ban)| self.network_of(jail, address, ban)));
        networks.sort_unstable();
        networks.dedup();
        for network in networks {
            let of_it = detector.own_bans(Some(network), now.wall).filter(|(jail, address, ban)| {
                ban.drops() && self.network_of(jail, *address, ban) == network
            });
            let deadline = of_it.map(|(_, _, ban)| now.deadline(ban.drops_until(self.unanswered())));
            let deadline = deadline.filter(|deadline| *deadline > now.boot).max().unwrap_or(0);
            self.change(|table| table.say(By::Own, network, deadline, now.boot));
        }
    }
}

/// Whether a network is no larger than what one host may have for itself.
pub(in crate::service) fn is_of_a_host(network: IpNet) -> bool {
    network.prefix_len() >= if network.addr().is_ipv4() { 32 } else { 64 }
}
