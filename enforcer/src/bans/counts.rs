//! What was decided since the start.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::decision::Decision;

/// What was decided since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecisionCounts {
    /// Offences that led to a new ban.
    pub banned: u64,
    /// Offences that made a ban end later.
    pub extended: u64,
    /// Offences of addresses whose ban ends no sooner anyway.
    pub already_banned: u64,
    /// Offences of addresses on the allow list, and of addresses that no host has.
    pub allowed: u64,
    /// Offences of addresses that are protected by a successful login.
    // JSON keeps the names that scripts know.
    #[serde(rename = "spared")]
    pub protected: u64,
    /// Offences whose ban was over when they arrived.
    pub too_late: u64,
    /// Bans that ended in time.
    #[serde(rename = "lapsed")]
    pub expired: u64,
    /// New bans by hand; one that made a ban longer is not counted.
    pub by_hand: u64,
    /// Bans that were found on a router and taken over into a ledger that had lost them.
    pub adopted: u64,
}

/// The same, while it changes.
#[derive(Debug, Default)]
pub(super) struct Counters {
    banned: AtomicU64,
    extended: AtomicU64,
    already_banned: AtomicU64,
    allowed: AtomicU64,
    protected: AtomicU64,
    too_late: AtomicU64,
    expired: AtomicU64,
    by_hand: AtomicU64,
    adopted: AtomicU64,
}

// === impl DecisionCounts ===

impl DecisionCounts {
    /// Offences taken, whatever came of them.
    pub fn offences(&self) -> u64 {
        self.banned + self.extended + self.already_banned + self.allowed + self.protected + self.too_late
    }
}

// === impl Counters ===

impl Counters {
    pub fn count(&self, decision: Decision) {
        let counter = match decision {
            Decision::Banned(_) => &self.banned,
            Decision::Extended(_) => &self.extended,
            Decision::AlreadyBanned => &self.already_banned,
            Decision::Allowed => &self.allowed,
            Decision::Protected => &self.protected,
            Decision::Over => &self.too_late,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_expired(&self, bans: usize) {
        self.expired.fetch_add(bans as u64, Ordering::Relaxed);
    }

    pub fn count_by_hand(&self) {
        self.by_hand.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_adopted(&self) {
        self.adopted.fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> DecisionCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DecisionCounts {
            banned: read(&self.banned),
            extended: read(&self.extended),
            already_banned: read(&self.already_banned),
            allowed: read(&self.allowed),
            protected: read(&self.protected),
            too_late: read(&self.too_late),
            expired: read(&self.expired),
            by_hand: read(&self.by_hand),
            adopted: read(&self.adopted),
        }
    }
}
