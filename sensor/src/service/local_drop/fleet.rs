//! What the enforcer says of the fleet's bans, and so of those that the jails here asked for: what it holds no
//! longer is no longer dropped here, and the jails forget it.

use std::net::IpAddr;

use atalaya_wire::Name;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::own_bans::is_of_a_host;
use super::{AT_ONCE, LocalDrop, State};
use crate::detector::Detector;
use crate::local_drop::moment::Moment;
use crate::local_drop::table::{By, Deadline, Table};
use crate::service::{Shared, lock};
use crate::uplink::fleet_bans::{BanChange, Ends};
use crate::uplink::outbox::Outbox;
use crate::uplink::{Following, Uplink};

/// So many changes of the fleet's bans wait.
const CHANGES: usize = 1000;
/// So many lifted networks are looked at one by one; where there are more, everything is.
const MOST_DOUBTFUL: usize = 1000;
const EVERYTHING: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0)),
];

/// A snapshot of the fleet's bans, as [`BanChange::Reset`] tells of it.
pub(super) struct FleetSnapshot {
    ledger: Name,
    answered: u64,
    /// How many bans had found no room before.
    left_out: u64,
}

// === impl LocalDrop ===

impl LocalDrop {
    /// Goes along with the fleet's bans whenever they are wanted, for ever.
    pub(in crate::service) async fn follow(&self, uplink: &Uplink, watch: &Shared, outbox: &Outbox) {
        let mut follows = self.follows.subscribe();
        while follows.wait_for(|follows| *follows).await.is_ok() {
            let (sender, changes) = mpsc::channel(CHANGES);
            let (told, following) = watch::channel(Following::default());
            self.lock().following = Some(following);
            tokio::select! {
                () = uplink.follow_bans(None, || outbox.through(), sender, told) => {}
                () = self.take(changes, watch, outbox) => {}
                _ = follows.wait_for(|follows| !*follows) => {}
            }
            self.lock().following = None;
        }
    }

    /// Takes changes as they come.
    async fn take(&self, mut changes: mpsc::Receiver<BanChange>, watch: &Shared, outbox: &Outbox) {
        let mut some = Vec::new();
        while changes.recv_many(&mut some, AT_ONCE).await > 0 {
            self.fleet(&some, &mut lock(watch).detector, outbox);
            some.clear();
        }
    }

    /// Goes along with the enforcer's stream of the fleet's bans.
    fn fleet(&self, changes: &[BanChange], detector: &mut Detector, outbox: &Outbox) {
        let mut state = self.lock();
        // Since a moment ago they are not wanted, and what is told here of them is not all.
        if !*self.follows.borrow() {
            return;
        }
        let (now, instant) = (Moment::now(), Instant::now());
        for change in changes {
            match change {
                BanChange::Reset { ledger, answered } => {
                    let left_out = state.left_out();
                    state.snapshot =
                        Some(FleetSnapshot { ledger: ledger.clone(), answered: *answered, left_out });
                    state.change(|table| {
                        table.begin_anew();
                        Vec::new()
                    });
                }
                BanChange::Ban { network, ends } => {
                    let deadline = match ends {
                        Ends::Never => Deadline::MAX,
                        Ends::At(end) => {
                            let left = end.saturating_duration_since(instant).as_nanos();
                            now.boot.saturating_add(u64::try_from(left).unwrap_or(Deadline::MAX))
                        }
                    };
                    state.ban(By::Fleet, *network, deadline, now);
                }
                BanChange::Lift { network } => state.lift_of_fleet(*network),
                BanChange::Whole => {
                    state.change(Table::settle);
                    state.settle_own_bans(detector, outbox, now);
                }
                BanChange::Reached(_) => state.review(detector, outbox, now),
                BanChange::AllowList => self.allow_changed.notify_one(),
            }
        }
    }
}

// === impl State ===

impl State {
    /// The enforcer lifted a ban, or made it one with others. Which, is known at the next mark: what covers a network
    /// may be told after what it covers.
    fn lift_of_fleet(&mut self, network: IpNet) {
        self.change(|table| {
            let mut changes = table.withdraw(By::Fleet, network);
            changes.extend(table.withdraw(By::Before, network));
            changes
        });
        self.doubtful.push(network);
        if self.doubtful.len() > MOST_DOUBTFUL {
            self.doubtful = EVERYTHING.to_vec();
        }
    }

    /// All of the fleet's bans are known: what the enforcer had answered before they began to come, and is not
    /// among them, was refused or lifted, or is over.
    fn settle_own_bans(&mut self, detector: &mut Detector, outbox: &Outbox, now: Moment) {
        self.review(detector, outbox, now);
        if let Some(answered) = self.snapshot_of_ours().map(|snapshot| snapshot.answered) {
            let is_answered = |sequence| outbox.is_answered(sequence, answered);
            let lifted = EVERYTHING.iter().map(|all| self.settle(*all, detector, is_answered).len());
            let lifted: usize = lifted.sum();
            if lifted > 0 {
                tracing::info!(
                    bans = lifted,
                    "local drop: bans that jails here had asked for and the enforcer holds no longer are lifted"
                );
            }
        }
        self.take_own_bans(detector, now);
    }

    /// Looks at what was lifted, now that all is told that was done with it. What the enforcer covers with another
    /// ban stands: nobody forgave it.
    fn review(&mut self, detector: &mut Detector, outbox: &Outbox, now: Moment) {
        let through = outbox.through();
        for network in std::mem::take(&mut self.doubtful) {
            let lifted = if !is_of_a_host(network) {
                if self.snapshot_of_ours().is_none() {
                    continue;
                }
                self.settle(network, detector, |sequence| outbox.is_answered(sequence, through))
            } else if self.is_of_fleet(network.network()) {
                continue;
            } else {
                self.change(|table| table.lift(network).into_iter().collect());
                let mut of_it = detector.lifted(network, |address| self.is_of_fleet(address));
                of_it.extend(detector.own_bans(Some(network), now.wall).map(|(_, address, _)| address));
                of_it
            };
            for address in lifted {
                self.take_own_ban(detector, address, now);
            }
        }
    }

    /// Lifts the jails' bans in a network that are answered and not among the fleet's; whose.
    fn settle(
        &self,
        network: IpNet,
        detector: &mut Detector,
        is_answered: impl Fn(u64) -> bool,
    ) -> Vec<IpAddr> {
        detector.settle(network, is_answered, |address| self.is_of_fleet(address))
    }

    /// Whether the enforcer bans an address, by itself or in a network.
    fn is_of_fleet(&self, address: IpAddr) -> bool {
        let Some(running) = &self.running else { return false };
        let table = &running.table;
        table.around(address).any(|network| table.is_banned_by(By::Fleet, network))
    }

    /// The snapshot, where what it lacks is not banned: it is of the ledger that the jails' offences went to, for
    /// another one does not know of them yet, and all that came since found room.
    fn snapshot_of_ours(&self) -> Option<&FleetSnapshot> {
        let left_out = self.left_out();
        let is_ours = |snapshot: &&FleetSnapshot| {
            self.ledger.as_ref() == Some(&snapshot.ledger) && snapshot.left_out == left_out
        };
        self.snapshot.as_ref().filter(is_ours)
    }

    fn left_out(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.table.left_out())
    }
}

#[cfg(test)]
#[cfg(feature = "kernel")]
mod tests;
