//! What sensors report beside offences: failures, which the fleet jails count, and good logins, which protect
//! their addresses. A report that gets lost is no harm, so nothing here waits for the disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atalaya_wire::{Name, Offence, Report, canonical};
use jiff::Timestamp;

use super::fleet::{Fleet, FleetStatus};
use super::skew::Dating;
use crate::bans::Bans;
use crate::bans::protect;

/// The most outboxes that are remembered of one sensor; the one whose reports are oldest goes.
const MOST_OUTBOXES: usize = 100;

/// Where reports end up.
#[derive(Debug)]
pub struct Reports {
    bans: Arc<Bans>,
    fleet: Mutex<Fleet>,
    /// The largest sequence of each outbox, by sensor.
    through: Mutex<HashMap<Name, HashMap<Name, u64>>>,
}

// === impl Reports ===

impl Reports {
    /// Counts for these fleet jails.
    pub fn new(bans: Arc<Bans>, fleet: Fleet) -> Self {
        Self { bans, fleet: Mutex::new(fleet), through: Mutex::default() }
    }

    /// Takes a report that arrived at a time. Whether it is new: one that was taken before changes nothing.
    pub async fn take(&self, sensor: &Name, report: &Report, now: Timestamp) -> bool {
        if !self.is_new(sensor, report) {
            return false;
        }
        let dating = Dating::new(Some(report.sent), now);
        for login in &report.logins {
            let login = protect::good_login(login, dating.date(login.time), sensor);
            self.bans.note_login(login, now);
        }
        let offences = self.count(sensor, report, &dating, now);
        if !offences.is_empty() {
            // What could not be written is tried again by the ledger's writer.
            drop(self.bans.take_fleet(offences, now).await);
        }
        true
    }

    /// What the fleet jails make of the failures of a report.
    fn count(&self, sensor: &Name, report: &Report, dating: &Dating, now: Timestamp) -> Vec<Offence> {
        let mut fleet = self.fleet();
        if fleet.is_empty() {
            return Vec::new();
        }
        let allow = self.bans.allow();
        let mut offences = Vec::new();
        for failures in report.failures.iter().filter(|failures| !allow.contains(failures.address)) {
            let unit = self.bans.unit_of(canonical(failures.address));
            offences.extend(fleet.count(sensor, failures, unit, dating.date(failures.last), now));
        }
        offences
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
        let outboxes = through.entry(sensor.clone()).or_default();
        if outboxes.len() >= MOST_OUTBOXES && !outboxes.contains_key(&report.outbox) {
            let oldest = outboxes.iter().min_by_key(|(_, sequence)| **sequence);
            if let Some(oldest) = oldest.map(|(outbox, _)| outbox.clone()) {
                outboxes.remove(&oldest);
            }
        }
        let last = outboxes.entry(report.outbox.clone()).or_insert(0);
        let new = report.sequence > *last;
        *last = report.sequence.max(*last);
        new
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
