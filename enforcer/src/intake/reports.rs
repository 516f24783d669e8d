//! What sensors report beside offences: failures, which the fleet jails count, and successful logins, which protect
//! their addresses. A report that gets lost is no harm, so nothing here waits for the disk.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
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
pub struct Taken {
    /// How many earlier logins of its sensor protect no more for it.
    pub displaced: u64,
    /// How many offences of fleet jails led to no ban, because so many bans of theirs count to a sensor.
    pub over_share: BTreeMap<Name, u64>,
}

/// When the bans of fleet jails end that count to each sensor. Not kept over a restart, after which a sensor may have as
/// many once more.
#[derive(Debug, Default)]
struct Charges(HashMap<Name, BinaryHeap<Reverse<Timestamp>>>);

// === impl Reports ===

impl Reports {
    /// Counts for these fleet jails.
    pub fn new(bans: Arc<Bans>, fleet: Fleet) -> Self {
        Self { bans, fleet: Mutex::new(fleet), through: Mutex::default(), charges: Mutex::default() }
    }

    /// Takes a report that arrived at a time; bans of fleet jails count to the sensor that reported most of the failures,
    /// which may have so many. `None` where the report is not new: one that was taken before changes nothing.
    pub async fn take(
        &self,
        sensor: &Name,
        report: &Report,
        most_bans: Option<usize>,
        now: Timestamp,
    ) -> Option<Taken> {
        if !self.is_new(sensor, report) {
            return None;
        }
        let mut taken = Taken::default();
        let dating = Dating::new(Some(report.sent), now);
        for login in &report.logins {
            let mut login = protect::good_login(login, dating.date(login.time), sensor);
            login.address = self.bans.client(login.address);
            taken.displaced += self.bans.note_login(login, now);
        }
        let mut offences = self.count(sensor, report, &dating, now);
        if let Some(most) = most_bans {
            offences.retain(|offence| {
                let fits = self.charge(offence, most, now);
                if !fits {
                    *taken.over_share.entry(offence.charged.clone()).or_default() += 1;
                }
                fits
            });
        }
        if !offences.is_empty() {
            let offences: Vec<Offence> = offences.into_iter().map(|offence| offence.offence).collect();
            // What could not be written is tried again by the ledger's writer.
            drop(self.bans.take_fleet(offences, now).await);
        }
        Some(taken)
    }

    /// Counts an offence of a fleet jail to a sensor's share; whether there was room in it.
    fn charge(&self, FleetOffence { offence, charged }: &FleetOffence, most: usize, now: Timestamp) -> bool {
        let until = match offence.bantime {
            BanTime::For(time) => {
                let time = SignedDuration::from_secs(i64::try_from(time.0).unwrap_or(i64::MAX));
                offence.time.checked_add(time).unwrap_or(Timestamp::MAX)
            }
            BanTime::Permanent => Timestamp::MAX,
        };
        let room = self.bans.room_for(charged, most);
        let mut charges = self.charges.lock().unwrap_or_else(PoisonError::into_inner);
        charges.charge(charged, until, room, now)
    }

    /// What the fleet jails make of the failures of a report.
    fn count(&self, sensor: &Name, report: &Report, dating: &Dating, now: Timestamp) -> Vec<FleetOffence> {
        let mut fleet = self.fleet();
        if fleet.is_empty() {
            return Vec::new();
        }
        let allow = self.bans.allow();
        let mut offences = Vec::new();
        for failures in &report.failures {
            let failures = Failures { address: self.bans.client(failures.address), ..failures.clone() };
            if allow.contains(failures.address) {
                continue;
            }
            let unit = self.bans.unit_of(failures.address);
            offences.extend(fleet.count(sensor, &failures, unit, dating.date(failures.last), now));
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
    /// Counts a ban to a sensor that has room for so many; whether it had.
    fn charge(&mut self, sensor: &Name, until: Timestamp, room: usize, now: Timestamp) -> bool {
        let ends = self.0.entry(sensor.clone()).or_default();
        end(ends, now);
        let fits = ends.len() < room;
        if fits {
            ends.push(Reverse(until));
        }
        fits
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensor_is_charged_for_bans_that_stand_and_another_is_not() {
        let mut charges = Charges::default();
        let [forger, honest]: [Name; 2] = ["forger", "honest"].map(|name| name.parse().unwrap());
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        assert!(charges.charge(&forger, at(10), 2, at(0)) && charges.charge(&forger, at(20), 2, at(0)));
        assert!(!charges.charge(&forger, at(30), 2, at(9)) && charges.charge(&honest, at(30), 2, at(9)));
        assert!(charges.charge(&forger, at(30), 2, at(10)), "the first is over");
        assert!(!charges.charge(&forger, at(30), 1, at(25)), "it has bans of its own jails by now");
        charges.sweep(at(30));
        assert!(charges.0.is_empty());
    }
}
