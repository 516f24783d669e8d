//! What sensors report beside offences: failures, which the fleet jails count, and successful logins, which protect
//! their addresses. A report that gets lost is no harm, so nothing here waits for the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atalaya_wire::{Failures, Name, Offence, Report};
use jiff::Timestamp;

use super::fleet::{Fleet, FleetConfig, FleetStatus};
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
}

// === impl Reports ===

impl Reports {
    /// Counts for these fleet jails.
    pub fn new(bans: Arc<Bans>, fleet: Fleet) -> Self {
        Self { bans, fleet: Mutex::new(fleet), through: Mutex::default() }
    }

    /// Takes a report that arrived at a time; how many earlier logins of its sensor protect no more for it. `None` where it
    /// is not new: one that was taken before changes nothing.
    pub async fn take(&self, sensor: &Name, report: &Report, now: Timestamp) -> Option<u64> {
        if !self.is_new(sensor, report) {
            return None;
        }
        let mut displaced = 0;
        let dating = Dating::new(Some(report.sent), now);
        for login in &report.logins {
            let mut login = protect::good_login(login, dating.date(login.time), sensor);
            login.address = self.bans.client(login.address);
            displaced += self.bans.note_login(login, now);
        }
        let offences = self.count(sensor, report, &dating, now);
        if !offences.is_empty() {
            // What could not be written is tried again by the ledger's writer.
            drop(self.bans.take_fleet(offences, now).await);
        }
        Some(displaced)
    }

    /// What the fleet jails make of the failures of a report.
    fn count(&self, sensor: &Name, report: &Report, dating: &Dating, now: Timestamp) -> Vec<Offence> {
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
