//! One address-list table: entries by id and by (list, address), and their ends in order of time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::address::{Address, Family};
use crate::timeout::{MAX_TIMEOUT, Timeout};

/// An entry as a test sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The id, such as `*1A`.
    pub id: String,
    /// The list.
    pub list: String,
    /// The address in the form that RouterOS shows.
    pub address: String,
    /// What is left of the timeout; `None` for an entry without one.
    pub timeout_left: Option<Duration>,
    /// The comment; empty where there is none.
    pub comment: String,
    /// Whether it is disabled.
    pub disabled: bool,
    /// Whether it is dynamic: not saved, and lost on reboot.
    pub dynamic: bool,
}

/// An entry as the table keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) list: Box<str>,
    pub(crate) address: Address,
    pub(crate) until: Option<Timestamp>,
    pub(crate) created: Timestamp,
    pub(crate) comment: Vec<u8>,
    pub(crate) disabled: bool,
    pub(crate) dynamic: bool,
}

/// A table of one family.
#[derive(Debug)]
pub(crate) struct Table {
    family: Family,
    rows: BTreeMap<u32, Row>,
    by_address: HashMap<(Box<str>, Address), u32>,
    ends: BTreeSet<(Timestamp, u32)>,
    next_id: u32,
}

// === impl Table ===

impl Table {
    pub(crate) fn new(family: Family) -> Self {
        Self { family, rows: BTreeMap::new(), by_address: HashMap::new(), ends: BTreeSet::new(), next_id: 1 }
    }

    /// Adds a row; the trap's text where it is refused.
    pub(crate) fn add(&mut self, row: Row) -> Result<u32, String> {
        let key = (row.list.clone(), row.address.clone());
        if self.by_address.contains_key(&key) {
            return Err("failure: already have such entry".to_owned());
        }
        let id = self.next_id;
        self.next_id += 1;
        self.by_address.insert(key, id);
        self.ends.extend(row.until.map(|until| (until, id)));
        self.rows.insert(id, row);
        Ok(id)
    }

    /// Changes a row; the trap's text where it is refused.
    pub(crate) fn change(&mut self, id: u32, change: impl FnOnce(&mut Row)) -> Result<(), String> {
        let Some(row) = self.rows.get(&id) else { return Err("no such item".to_owned()) };
        let (before, mut after) = (row.clone(), row.clone());
        change(&mut after);
        let key = (after.list.clone(), after.address.clone());
        if self.by_address.get(&key).is_some_and(|other| *other != id) {
            return Err("failure: already have such entry".to_owned());
        }
        self.by_address.remove(&(before.list, before.address));
        self.by_address.insert(key, id);
        self.ends.retain(|(_, ended)| *ended != id || before.until.is_none());
        self.ends.extend(after.until.map(|until| (until, id)));
        self.rows.insert(id, after);
        Ok(())
    }

    /// Removes a row.
    pub(crate) fn remove(&mut self, id: u32) -> Option<Row> {
        let row = self.rows.remove(&id)?;
        self.by_address.remove(&(row.list.clone(), row.address.clone()));
        if let Some(until) = row.until {
            self.ends.remove(&(until, id));
        }
        Some(row)
    }

    /// Removes the rows whose time is over.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Vec<Row> {
        let mut gone = Vec::new();
        while let Some((until, id)) = self.ends.first().copied()
            && until <= now
        {
            gone.extend(self.remove(id));
        }
        gone
    }

    /// When the next row's time is over.
    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Drops what a reboot drops.
    pub(crate) fn reboot(&mut self) {
        let dynamic: Vec<u32> = self.rows.iter().filter(|(_, row)| row.dynamic).map(|(id, _)| *id).collect();
        for id in dynamic {
            self.remove(id);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = (u32, &Row)> {
        self.rows.iter().map(|(id, row)| (*id, row))
    }

    pub(crate) fn row(&self, id: u32) -> Option<&Row> {
        self.rows.get(&id)
    }

    pub(crate) fn entries(&self, now: Timestamp) -> Vec<Entry> {
        self.rows().map(|(id, row)| row.entry(id, now)).collect()
    }

    /// When an entry with this timeout ends; the trap's text where it is out of range.
    pub(crate) fn end(&self, timeout: Timeout, now: Timestamp) -> Result<Option<Timestamp>, String> {
        let timeout = match self.family {
            Family::V4 if timeout.0 > MAX_TIMEOUT => {
                return Err("value of timeout is out of range (00:00:00 .. 35w3d13:13:56)".to_owned());
            }
            Family::V4 => timeout,
            Family::V6 => timeout.wrapped(),
        };
        let length = SignedDuration::from_secs(timeout.0.cast_signed());
        Ok((timeout.0 > 0).then(|| now.saturating_add(length).unwrap_or(Timestamp::MAX)))
    }
}

// === impl Row ===

impl Row {
    pub(crate) fn entry(&self, id: u32, now: Timestamp) -> Entry {
        Entry {
            id: format!("*{id:X}"),
            list: self.list.to_string(),
            address: self.address.to_string(),
            timeout_left: self.left(now),
            comment: String::from_utf8_lossy(&self.comment).into_owned(),
            disabled: self.disabled,
            dynamic: self.dynamic,
        }
    }

    /// What is left of the timeout.
    pub(crate) fn left(&self, now: Timestamp) -> Option<Duration> {
        self.until.map(|until| until.duration_since(now).try_into().unwrap_or(Duration::ZERO))
    }
}
