//! What sensors report beside offences: failures, which the fleet jails count, and successful logins, which protect
//! their addresses. A report that gets lost is no harm, so nothing here waits for the disk.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atalaya_wire::{BanTime, Failures, Name, Offence, Report};
use jiff::{SignedDuration, Timestamp};

use super::fleet::{Fleet, FleetConfig, FleetOffence, FleetStatus};
use super::outboxes::Outboxes;
use super::skew::Dating;
use crate::bans::Bans;
use crate::bans::protect;

/// Where reports end up.
#[derive(Debug)]
pub struct Reports {
    bans: Arc<Bans>,
    fleet: Mutex<Fleet>,
    through: Mutex<Outboxes>,
    charges: Mutex<Charges>,
}

/// What came of a report beside bans.
#[derive(Debug, Default)]
pub struct TakenReport {
    /// How many earlier logins of its sensor protect no more for it.
    pub displaced: u64,
    /// Of how many addresses the fleet jails did not count its failures, because so many bans count to its sensor.
    pub over_share: u64,
}

/// When the bans of fleet jails end that count to each sensor: to each of those that reported the failures, so that none
/// can have another pay alone. Not kept over a restart, after which a sensor may have as many once more.
#[derive(Debug, Default)]
struct Charges(HashMap<Name, BinaryHeap<Reverse<Timestamp>>>);

// === impl Reports ===

impl Reports {
    /// Counts for these fleet jails.
    pub fn new(bans: Arc<Bans>, fleet: Fleet) -> Self {
        Self { bans, fleet: Mutex::new(fleet), through: Mutex::default(), charges: Mutex::default() }
    }

    /// Takes a report that arrived at a time; to a sensor so many bans may count. `None` where it is not new: one that was
    /// taken before changes nothing.
    pub async fn take(
        &self,
        sensor: &Name,
        report: &Report,
        most_bans: Option<usize>,
        now: Timestamp,
    ) -> Option<TakenReport> {
        if !self.is_new(sensor, report) {
            return None;
        }
        let mut taken = TakenReport::default();
        let dating = Dating::new(Some(report.sent), now);
        for login in &report.logins {
            let mut login = protect::good_login(login, dating.date(login.time), sensor);
            login.address = self.bans.client(login.address);
            taken.displaced += self.bans.note_login(login, now);
        }
        let room = most_bans.map_or(usize::MAX, |most| self.bans.room_for(sensor, most));
        let offences = self.count(sensor, report, room, &dating, now, &mut taken.over_share);
        if !offences.is_empty() {
            // What could not be written is tried again by the ledger's writer.
            drop(self.bans.take_fleet(offences, now).await);
        }
        Some(taken)
    }

    /// What the fleet jails make of the failures of a report. They count none of a sensor to which more bans count than it
    /// has room for: what others report decides without it.
    fn count(
        &self,
        sensor: &Name,
        report: &Report,
        room: usize,
        dating: &Dating,
        now: Timestamp,
        over_share: &mut u64,
    ) -> Vec<Offence> {
        let mut fleet = self.fleet();
        if fleet.is_empty() {
            return Vec::new();
        }
        let allow = self.bans.allow();
        let mut charges = self.charges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut offences = Vec::new();
        for failures in &report.failures {
            let failures = Failures { address: self.bans.client(failures.address), ..failures.clone() };
            if allow.contains(failures.address) {
                continue;
            }
            if charges.of(sensor, now) >= room {
                *over_share += 1;
                continue;
            }
            let unit = self.bans.unit_of(failures.address);
            for FleetOffence { offence, reporters } in
                fleet.count(sensor, &failures, unit, dating.date(failures.last), now)
            {
                let until = end_of(&offence);
                reporters.iter().for_each(|reporter| charges.charge(reporter, until));
                offences.push(offence);
            }
        }
        offences
    }

    /// Counts for these fleet jails from here on; see [`Fleet::replace`].
    pub fn set_fleet(&self, jails: Vec<FleetConfig>) {
        self.fleet().replace(jails);
    }

    /// Forgets what is too old to count.
    pub fn sweep(&self, now: Timestamp) {
        self.fleet().sweep(now);
        self.charges.lock().unwrap_or_else(PoisonError::into_inner).sweep(now);
    }

    /// Each fleet jail at a glance.
    pub fn fleet_status(&self) -> Vec<FleetStatus> {
        self.fleet().status()
    }

    /// Offenders that the fleet jails forgot because there were too many.
    pub fn fleet_dropped(&self) -> u64 {
        self.fleet().dropped()
    }

    fn is_new(&self, sensor: &Name, report: &Report) -> bool {
        let mut through = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        through.make_room(sensor, &report.outbox);
        let last = through.through(sensor, &report.outbox).unwrap_or(0);
        through.note(sensor, &report.outbox, report.sequence);
        report.sequence > last
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Charges ===

impl Charges {
    /// How many bans that stand count to a sensor.
    fn of(&mut self, sensor: &Name, now: Timestamp) -> usize {
        let Some(ends) = self.0.get_mut(sensor) else { return 0 };
        end(ends, now);
        ends.len()
    }

    /// Counts a ban to a sensor.
    fn charge(&mut self, sensor: &Name, until: Timestamp) {
        self.0.entry(sensor.clone()).or_default().push(Reverse(until));
    }

    /// Forgets bans that are over.
    fn sweep(&mut self, now: Timestamp) {
        self.0.retain(|_, ends| {
            end(ends, now);
            !ends.is_empty()
        });
    }
}

fn end(ends: &mut BinaryHeap<Reverse<Timestamp>>, now: Timestamp) {
    while ends.peek().is_some_and(|Reverse(end)| *end <= now) {
        ends.pop();
    }
}

/// When the ban of an offence ends, if none before it makes it longer.
fn end_of(offence: &Offence) -> Timestamp {
    match offence.bantime {
        BanTime::For(time) => {
            let time = SignedDuration::from_secs(i64::try_from(time.0).unwrap_or(i64::MAX));
            offence.time.checked_add(time).unwrap_or(Timestamp::MAX)
        }
        BanTime::Permanent => Timestamp::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensor_is_charged_for_bans_that_stand_and_another_is_not() {
        let mut charges = Charges::default();
        let [forger, honest]: [Name; 2] = ["forger", "honest"].map(|name| name.parse().unwrap());
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        for until in [10, 30, 20] {
            charges.charge(&forger, at(until));
        }
        charges.charge(&honest, at(30));
        assert_eq!([charges.of(&forger, at(9)), charges.of(&honest, at(9))], [3, 1]);
        assert_eq!([charges.of(&forger, at(20)), charges.of(&honest, at(20))], [1, 1]);
        charges.sweep(at(30));
        assert!(charges.0.is_empty());
    }
}
