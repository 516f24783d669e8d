//! What is done again and again: saving what changed, looking up who is spared, telling of what was dropped.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atalaya_wire::{Name, Networks};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{DROPS_INTERVAL, REFRESH_INTERVAL, Shared, Watch, lock};
use crate::jail::ignore::IgnoreList;
use crate::store::{Snapshot, Store};

/// How often positions and counters go to disk while they change.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);

/// Lines a second over the last looks.
#[derive(Default)]
pub(super) struct Rate(VecDeque<u64>);

// === impl Rate ===

impl Rate {
    /// Notes how many lines there were in all, a second after the last note.
    pub(super) fn note(&mut self, lines: u64) {
        self.0.push_back(lines);
        if self.0.len() > 11 {
            self.0.pop_front();
        }
    }

    pub(super) fn per_second(&self) -> f64 {
        match (self.0.front(), self.0.back()) {
            (Some(first), Some(last)) if self.0.len() > 1 => {
                (last - first) as f64 / (self.0.len() - 1) as f64
            }
            _ => 0.0,
        }
    }
}

/// Saves what changed, and keeps fresh who is spared.
pub(super) async fn keep(watch: Shared, store: Store, rate: Arc<Mutex<Rate>>) {
    let mut snapshots = tokio::time::interval(SNAPSHOT_INTERVAL);
    let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
    loop {
        tokio::select! {
            _ = snapshots.tick() => {
                save(&watch, &store);
                let lines = lock(&watch).lines;
                rate.lock().unwrap_or_else(PoisonError::into_inner).note(lines);
            }
            _ = refresh.tick() => {
                let own = own_addresses();
                let lookups = {
                    let mut watch = lock(&watch);
                    watch.detector.set_own(own);
                    watch.detector.set_zone(TimeZone::system());
                    watch.detector.sweep(Timestamp::now());
                    watch.detector.lookups()
                };
                // On a task of its own: a slow name must not hold up what is saved.
                let watch = watch.clone();
                tokio::spawn(async move { look_up(&watch, lookups).await });
            }
        }
    }
}

/// Tells of everything that was dropped at a bound, when there is more of it than at the last look.
pub(super) async fn tell_drops(watch: Shared, store: Store) {
    let mut last = (0, 0, 0, 0);
    let mut interval = tokio::time::interval(DROPS_INTERVAL);
    loop {
        interval.tick().await;
        let counters: u64 = lock(&watch).detector.totals().map(|(_, _, totals)| totals.dropped).sum();
        let lines = {
            let watch = lock(&watch);
            let journal = watch.journal_status.as_ref();
            watch.files.as_ref().map_or(0, |status| status.cut_lines())
                + journal.map_or(0, |status| status.cut() + status.damaged() + status.lost())
        };
        let reports = {
            let watch = lock(&watch);
            watch.reports.dropped + watch.detector.reporting().map_or(0, |pending| pending.lost().dropped)
        };
        let now = (store.dropped(), counters, lines, reports);
        if now != last {
            tracing::warn!(
                offences = now.0,
                counters = now.1,
                cut_lines = now.2,
                unreported = now.3,
                "dropped at the memory's bounds, in total since the start"
            );
            last = now;
        }
    }
}

/// Gives what changed since the last call to the store, under the lock: what became of a ban must not be
/// overwritten by what was so before.
pub(super) fn save(watch: &Shared, store: &Store) {
    let mut watch = lock(watch);
    let snapshot = take_snapshot(&mut watch);
    if !snapshot.is_empty() {
        store.snapshot(snapshot);
    }
}

/// What changed since the last call; nothing while an ignorecommand runs, so that what led to its
/// offence is read again after a crash.
pub(super) fn take_snapshot(watch: &mut Watch) -> Snapshot {
    if watch.asked.load(Ordering::SeqCst) > 0 {
        return Snapshot::default();
    }
    let mut snapshot = std::mem::take(&mut watch.unsaved);
    snapshot.counters = watch.detector.take_changed();
    snapshot.bans = watch.detector.take_changed_bans();
    snapshot
}

/// Looks up the names and files that jails spare.
pub(super) async fn look_up(watch: &Shared, lookups: Vec<(Name, IgnoreList)>) {
    for (jail, list) in lookups {
        let networks = list.look_up().await;
        lock(watch).detector.set_looked_up(&jail, networks);
    }
}

pub(super) fn own_addresses() -> Networks {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.iter().map(|interface| interface.ip().into()).collect(),
        Err(error) => {
            tracing::warn!(%error, "the host's own addresses cannot be read");
            Networks::default()
        }
    }
}
