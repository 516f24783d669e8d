//! What is not on disk yet. While the disk takes nothing it gathers here: of what overwrites itself there is the last
//! alone, and the rest is bounded.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use atalaya_wire::{AllowList, Name, NumberedOffence};
use rusqlite::{Connection, params};

use super::file::set_meta;
use super::{OUTBOX_LIMIT, Snapshot, bans, journal};
use crate::jail::{Counter, Fate};

/// The most offences, and the most counters, bans and forgotten files each, that are held in memory for a disk that takes
/// nothing.
const MOST: usize = 100_000;

/// Changes that belong on disk together.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    offences: VecDeque<NumberedOffence>,
    acked: u64,
    /// Positions and the like; its counters and bans are beside it.
    snapshot: Snapshot,
    counters: HashMap<(Name, IpAddr), Option<Counter>>,
    bans: HashMap<(Name, IpAddr), Fate>,
    allow: Option<AllowList>,
    ledger: Option<Name>,
    reports: Option<u64>,
    reserve: Option<u64>,
    /// How many changes there are, counted as they come.
    changes: usize,
}

/// What came of writing.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteOutcome {
    /// How many offences wait on disk.
    pub waiting: u64,
    /// How many were dropped for those that came later.
    pub dropped: u64,
}

// === impl Unwritten ===

impl Unwritten {
    /// Takes an offence; returns how many older ones were dropped for it.
    pub fn offence(&mut self, offence: NumberedOffence) -> u64 {
        self.changes += 1;
        self.offences.push_back(offence);
        if self.offences.len() <= MOST {
            return 0;
        }
        let gone = MOST / 10;
        self.offences.drain(..gone);
        gone as u64
    }

    pub fn ack(&mut self, through: u64) {
        self.changes += 1;
        self.acked = self.acked.max(through);
        let answered = self.offences.partition_point(|offence| offence.sequence <= self.acked);
        self.offences.drain(..answered);
    }

    pub fn set_allow(&mut self, allow: AllowList) {
        self.changes += 1;
        self.allow = Some(allow);
    }

    pub fn set_ledger(&mut self, ledger: Name) {
        self.changes += 1;
        self.ledger = Some(ledger);
    }

    pub fn set_reports(&mut self, reserved: u64) {
        self.changes += 1;
        self.reports = Some(reserved);
    }

    /// No sequence number from here on is given out before more are reserved.
    pub fn reserve(&mut self, next: u64) {
        self.changes += 1;
        self.reserve = self.reserve.max(Some(next));
    }

    /// Takes what changed since the last snapshot, which overwrites what changed before.
    pub fn take_snapshot(&mut self, later: Snapshot) {
        self.changes += 1;
        let Snapshot { positions, followed, forgotten, counters, bans, journal } = later;
        let kept = &mut self.snapshot;
        for key in positions.keys() {
            kept.forgotten.remove(key);
        }
        for key in &forgotten {
            kept.positions.remove(key);
        }
        kept.positions.extend(positions);
        kept.forgotten.extend(forgotten);
        kept.followed = followed.or(kept.followed.take());
        kept.journal.extend(journal);
        self.counters.extend(counters.into_iter().map(|(jail, address, counter)| ((jail, address), counter)));
        self.bans.extend(bans.into_iter().map(|(jail, address, fate)| ((jail, address), fate)));
        self.shed();
    }

    /// Bounds what a snapshot brought. What is on disk of a file, a counter or a ban that is over is no harm: it is found
    /// to be over when it is read.
    fn shed(&mut self) {
        if self.counters.len() > MOST {
            self.counters.retain(|_, counter| counter.is_some());
        }
        if self.bans.len() > MOST {
            // A ban that was lifted would be back after a restart; one that stands is found again.
            self.bans.retain(|_, fate| !matches!(fate, Fate::Stands(_)));
        }
        shed(&mut self.counters);
        shed(&mut self.bans);
        if self.snapshot.forgotten.len() > MOST {
            self.snapshot.forgotten.clear();
        }
    }

    /// The last sequence that the enforcer has.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The offences, oldest first.
    pub fn offences(&self) -> impl ExactSizeIterator<Item = &NumberedOffence> {
        self.offences.iter()
    }

    /// Up to where sequence numbers are to be set aside.
    pub fn reserved(&self) -> Option<u64> {
        self.reserve
    }

    pub fn changes(&self) -> usize {
        self.changes
    }

    /// Writes all of it, where so many offences wait on disk.
    pub fn write(&self, connection: &Connection, waiting: u64) -> rusqlite::Result<WriteOutcome> {
        let mut written = WriteOutcome { waiting, dropped: 0 };
        if self.acked > 0 {
            let gone = connection
                .prepare_cached("DELETE FROM outbox WHERE sequence <= ?1")?
                .execute([self.acked.cast_signed()])? as u64;
            written.waiting = written.waiting.saturating_sub(gone);
        }
        for offence in &self.offences {
            let json = serde_json::to_string(&offence.offence).unwrap_or_default();
            written.waiting += connection
                .prepare_cached("INSERT OR IGNORE INTO outbox VALUES (?1, ?2)")?
                .execute(params![offence.sequence.cast_signed(), json])?
                as u64;
            if written.waiting > OUTBOX_LIMIT {
                let sql = "DELETE FROM outbox WHERE sequence IN (SELECT sequence FROM outbox ORDER BY sequence LIMIT 1000)";
                let gone = connection.prepare_cached(sql)?.execute([])? as u64;
                written.waiting = written.waiting.saturating_sub(gone);
                written.dropped += gone;
            }
        }
        if let Some(next) = self.reserve {
            set_meta(connection, super::RESERVED, &next.to_string())?;
        }
        if let Some(allow) = &self.allow {
            set_meta(connection, "allow", &serde_json::to_string(allow).unwrap_or_default())?;
        }
        if let Some(ledger) = &self.ledger {
            set_meta(connection, "ledger", ledger.as_str())?;
        }
        if let Some(reserved) = self.reports {
            set_meta(connection, "reports", &reserved.to_string())?;
        }
        self.write_snapshot(connection)?;
        Ok(written)
    }

    fn write_snapshot(&self, connection: &Connection) -> rusqlite::Result<()> {
        let snapshot = &self.snapshot;
        journal::write(connection, &snapshot.journal)?;
        if let Some(followed) = &snapshot.followed {
            set_meta(connection, "followed", &serde_json::to_string(followed).unwrap_or_default())?;
        }
        for key in &snapshot.forgotten {
            connection.prepare_cached("DELETE FROM positions WHERE file = ?1")?.execute([key])?;
        }
        for (key, position) in &snapshot.positions {
            let json = serde_json::to_string(position).unwrap_or_default();
            connection
                .prepare_cached("INSERT OR REPLACE INTO positions VALUES (?1, ?2)")?
                .execute(params![key, json])?;
        }
        for ((jail, address), counter) in &self.counters {
            let address = address.to_string();
            match counter {
                Some(counter) => {
                    let json = serde_json::to_string(counter).unwrap_or_default();
                    connection
                        .prepare_cached("INSERT OR REPLACE INTO counters VALUES (?1, ?2, ?3)")?
                        .execute(params![jail.as_str(), address, json])?;
                }
                None => {
                    connection
                        .prepare_cached("DELETE FROM counters WHERE jail = ?1 AND address = ?2")?
                        .execute(params![jail.as_str(), address])?;
                }
            }
        }
        bans::write(connection, &self.bans)
    }
}

/// Takes away as many as are too many, and a tenth more; which, nobody says.
fn shed<Value>(map: &mut HashMap<(Name, IpAddr), Value>) {
    if map.len() > MOST {
        let mut excess = map.len() - MOST + MOST / 10;
        map.retain(|_, _| {
            let goes = excess > 0;
            excess -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::jail::OwnBan;

    fn offence(sequence: u64) -> NumberedOffence {
        let json =
            r#"{"jail":"ssh","address":"192.0.2.1","time":"2026-01-01T00:00:00Z","failures":3,"bantime":60}"#;
        NumberedOffence { sequence, offence: serde_json::from_str(json).unwrap() }
    }

    #[test]
    fn what_is_acked_is_not_kept_and_of_too_many_the_oldest_go_and_are_counted() {
        let mut unwritten = Unwritten::default();
        let most = MOST as u64;
        let dropped: u64 = (1..=most + 1).map(|sequence| unwritten.offence(offence(sequence))).sum();
        assert_eq!((dropped, unwritten.offences().len() as u64), (most / 10, most + 1 - dropped));
        assert_eq!(unwritten.offences().next().map(|first| first.sequence), Some(dropped + 1));
        unwritten.ack(most);
        assert_eq!(unwritten.offences().map(|offence| offence.sequence).collect::<Vec<_>>(), [most + 1]);
        unwritten.ack(1);
        assert_eq!(unwritten.acked(), most);
    }

    #[test]
    fn of_too_many_bans_those_that_were_lifted_are_kept() {
        let mut unwritten = Unwritten::default();
        let ban = |host: usize, fate| {
            let address = std::net::Ipv4Addr::from(u32::try_from(host).unwrap()).into();
            ("ssh".parse().unwrap(), address, fate)
        };
        let stands = Fate::Stands(OwnBan::unknown(Some(Timestamp::UNIX_EPOCH)));
        let mut bans: Vec<_> = (1..=MOST).map(|host| ban(host, stands)).collect();
        bans.push(ban(0, Fate::Gone));
        unwritten.take_snapshot(Snapshot { bans, ..Snapshot::default() });
        assert_eq!(unwritten.bans.values().collect::<Vec<_>>(), [&Fate::Gone]);
        let bans = (0..=MOST).map(|host| ban(host, Fate::Gone)).collect();
        unwritten.take_snapshot(Snapshot { bans, ..Snapshot::default() });
        assert!(unwritten.bans.len() <= MOST && unwritten.bans.len() > MOST / 2);
    }
}
