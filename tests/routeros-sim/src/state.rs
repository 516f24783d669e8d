//! Everything a router knows behind one lock: tables, time line, planned faults, journal and counts.

use std::collections::VecDeque;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::address::Family;
use crate::address_list::{Record, Table, print_id};
use crate::board::Board;
use crate::cost::{Costs, Processor};
use crate::event::{Event, EventEntry, EventKind};
use crate::fault::Faults;
use crate::journal::{Counts, Journal};
use crate::page::Zone;
use crate::site::Site;
use crate::timeout::Timeout;
use crate::version::Version;

/// What does not change while the router lives.
pub(crate) struct Settings {
    pub(crate) identity: String,
    pub(crate) version: Version,
    pub(crate) max_sessions: usize,
    pub(crate) board: Board,
    pub(crate) zone: Zone,
    /// Whether there is `/ipv6`.
    pub(crate) ipv6: bool,
    /// What these paths begin with is refused to everyone, as to a user without the policies.
    pub(crate) refused: Vec<String>,
}

/// All that commands change or show, under one lock.
pub(crate) struct State {
    pub(crate) v4: Table,
    pub(crate) v6: Table,
    pub(crate) site: Site,
    pub(crate) costs: Costs,
    pub(crate) processor: Processor,
    pub(crate) faults: Faults,
    pub(crate) journal: Journal,
    pub(crate) counts: Counts,
    pub(crate) booted: Timestamp,
    /// How many connections there are.
    pub(crate) sessions: usize,
    /// Overrides the measured load, in percent.
    pub(crate) cpu_load: Option<u8>,
    /// Events not yet handed to the watcher; `None` when nobody watches.
    pub(crate) events: Option<VecDeque<Event>>,
    /// When the task that takes out lapsed entries will wake next.
    pub(crate) lapse_awaited: Option<Timestamp>,
}

impl State {
    pub(crate) fn new(
        now: Timestamp,
        site: Site,
        costs: Costs,
        table_capacity: usize,
        journal: usize,
        watched: bool,
    ) -> Self {
        Self {
            v4: Table::new(Family::V4, table_capacity),
            v6: Table::new(Family::V6, table_capacity),
            site,
            costs,
            processor: Processor::new(Instant::now()),
            faults: Faults::default(),
            journal: Journal::new(journal),
            counts: Counts::default(),
            booted: now,
            sessions: 0,
            cpu_load: None,
            events: watched.then(VecDeque::new),
            lapse_awaited: None,
        }
    }

    pub(crate) fn table_mut(&mut self, family: Family) -> &mut Table {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Takes out every entry whose time is over.
    pub(crate) fn lapse(&mut self, now: Timestamp) {
        for family in [Family::V4, Family::V6] {
            while let Some((id, record)) = self.table_mut(family).lapse(now) {
                self.counts.expired += 1;
                let at = record.expires.unwrap_or(now);
                self.tell_entry(EventKind::Expire, at, None, family, id, &record);
            }
        }
    }

    /// What a reboot does to the tables: static entries stay, dynamic ones are gone.
    pub(crate) fn reboot(&mut self, now: Timestamp) {
        self.lapse(now);
        self.v4.drop_dynamic();
        self.v6.drop_dynamic();
        self.booted = now;
        self.processor = Processor::new(Instant::now());
        self.counts.reboots += 1;
        self.tell(EventKind::Reboot, now);
    }

    /// Tells the watcher of something without an entry.
    pub(crate) fn tell(&mut self, kind: EventKind, at: Timestamp) {
        self.push(|| Event { kind, at, session: None, user: None, entry: None });
    }

    pub(crate) fn tell_login(&mut self, kind: EventKind, at: Timestamp, session: u64, user: &[u8]) {
        self.push(|| Event { kind, at, session: Some(session), user: Some(lossy(user)), entry: None });
    }

    pub(crate) fn tell_entry(
        &mut self,
        kind: EventKind,
        at: Timestamp,
        session: Option<u64>,
        family: Family,
        id: u64,
        record: &Record,
    ) {
        self.push(|| Event { kind, at, session, user: None, entry: Some(entry(family, id, record, at)) });
    }

    pub(crate) fn push(&mut self, event: impl FnOnce() -> Event) {
        if let Some(events) = &mut self.events {
            events.push_back(event());
        }
    }

    /// When the next entry of either table lapses.
    pub(crate) fn next_lapse(&self) -> Option<Timestamp> {
        [self.v4.next_lapse(), self.v6.next_lapse()].into_iter().flatten().min()
    }
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn entry(family: Family, id: u64, record: &Record, at: Timestamp) -> EventEntry {
    // To the nearest second, since the command came in a moment before it was carried out.
    let left = record.left(at).map(|left| left.as_secs() + u64::from(left.subsec_millis() >= 500));
    EventEntry {
        family,
        id: print_id(id),
        list: lossy(&record.list),
        address: record.address.to_string(),
        timeout: left.map(|seconds| Timeout(seconds).to_string()),
        comment: lossy(&record.comment),
        disabled: record.disabled,
    }
}
