//! Offences on their way to the enforcer: numbered, kept by the [`Store`] and
//! handed to the uplink at once, in order. What does not fit in memory waits on disk alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atalaya_program::metrics::Durations;
use atalaya_wire::{Name, NumberedOffence, Offence};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::store::{Saved, Store};

/// How many offences are held in memory, beside the disk.
const IN_MEMORY: usize = 10_000;

/// The pause before what waits on disk is read again, where it could not be read.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// The queue of offences between the jails and the uplink. Clones share it.
#[derive(Clone, Debug)]
pub struct Outbox {
    name: Name,
    store: Store,
    queue: Arc<Mutex<Queue>>,
    arrived: Arc<Notify>,
    through: Arc<watch::Sender<u64>>,
    /// The last number of an earlier run's offences that waited; 0 where none did.
    before: u64,
    decided: Durations,
    answered: Durations,
}

/// How many offences did not reach the enforcer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Kept, on disk or for it, until the enforcer has them; an earlier run's too.
    pub waiting: u64,
    /// Dropped since the start, because too many waited.
    pub dropped: u64,
}

#[derive(Debug)]
struct Queue {
    next_sequence: u64,
    waiting: VecDeque<NumberedOffence>,
    /// Whether offences older than those in memory wait on disk alone.
    spilled: bool,
    /// The last sequence that was handed out by [`Outbox::next`].
    taken: u64,
}

// === impl Outbox ===

impl Outbox {
    /// The outbox as it was saved.
    pub fn new(store: Store, saved: &Saved) -> Self {
        let queue = Queue {
            next_sequence: saved.next_sequence,
            waiting: VecDeque::new(),
            spilled: saved.waiting > 0,
            taken: 0,
        };
        // What waits no longer was answered in an earlier run.
        let (first, before) = saved.span.unwrap_or((saved.next_sequence, 0));
        let through = first.saturating_sub(1);
        Self {
            name: saved.outbox.clone(),
            store,
            queue: Arc::new(Mutex::new(queue)),
            arrived: Arc::default(),
            through: Arc::new(watch::Sender::new(through)),
            before,
            decided: Durations::default(),
            answered: Durations::default(),
        }
    }

    /// The outbox's own name, which goes with every batch.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// How long it took from an offence's last failure until it was pushed, and from sending offences to the answer.
    pub fn steps(&self) -> [Durations; 2] {
        [self.decided.clone(), self.answered.clone()]
    }

    /// Notes how long the enforcer took to answer a batch.
    pub fn was_answered(&self, took: Duration) {
        self.answered.took(took);
    }

    /// How many wait, as of the last write to disk.
    pub fn status(&self) -> OutboxStatus {
        OutboxStatus { waiting: self.store.waiting(), dropped: self.store.dropped() }
    }

    /// Numbers an offence, keeps it, and wakes the uplink; under which number.
    pub fn push(&self, offence: Offence) -> u64 {
        // A date of a second's resolution, or of another clock, may be ahead.
        let since = jiff::Timestamp::now().as_millisecond() - offence.time.as_millisecond();
        self.decided.took(Duration::from_millis(u64::try_from(since).unwrap_or(0)));
        let mut queue = self.lock();
        let sequence = queue.next_sequence;
        let numbered = NumberedOffence { sequence, offence };
        queue.next_sequence += 1;
        // Under the lock, so that the store sees the numbers in order.
        self.store.offence(numbered.clone());
        if queue.spilled || queue.waiting.len() >= IN_MEMORY {
            queue.spilled = true;
        } else {
            queue.waiting.push_back(numbered);
        }
        drop(queue);
        self.arrived.notify_one();
        sequence
    }

    /// The next offences to send, oldest first, at least one and at most `most`; waits for them.
    /// They come once: whoever takes them sends them until they are acked.
    pub async fn next(&self, most: usize) -> Vec<NumberedOffence> {
        loop {
            let after = {
                let mut queue = self.lock();
                let count = queue.waiting.len().min(most);
                let taken: Vec<_> = queue.waiting.drain(..count).collect();
                if let Some(last) = taken.last() {
                    queue.taken = last.sequence;
                    return taken;
                }
                queue.spilled.then_some(queue.taken)
            };
            if let Some(after) = after {
                let before = self.lock().next_sequence;
                let Some(stored) = self.store.load(after, most).await else {
                    // Taking that for nothing would leave behind what waits there.
                    tokio::time::sleep(READ_AGAIN).await;
                    continue;
                };
                let mut queue = self.lock();
                if let Some(last) = stored.last() {
                    queue.taken = last.sequence;
                    return stored;
                }
                // Only what was pushed since the look may still be on disk alone.
                if queue.next_sequence == before {
                    queue.spilled = false;
                }
                continue;
            }
            self.arrived.notified().await;
        }
    }

    /// The enforcer has everything up to and with this sequence.
    pub fn acked(&self, through: u64) {
        self.store.acked(through);
        self.through.send_if_modified(|before| {
            let grows = through > *before;
            *before = through.max(*before);
            grows
        });
    }

    /// The last sequence up to which the enforcer has everything.
    pub fn through(&self) -> u64 {
        *self.through.borrow()
    }

    /// Whether an enforcer that has everything up to `through` has the offence of this number; of number 0, where
    /// it is not known, whether it has all of earlier runs.
    pub fn is_answered(&self, sequence: u64, through: u64) -> bool {
        through >= if sequence == 0 { self.before } else { sequence }
    }

    /// Returns once the enforcer has everything up to and with this sequence.
    pub async fn until_acked(&self, sequence: u64) {
        // The sender lives as long as this.
        let _ = self.through.subscribe().wait_for(|through| *through >= sequence).await;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use atalaya_wire::{BanTime, Seconds};

    use super::*;

    fn open(folder: &Path) -> (Outbox, crate::store::Writer) {
        let (store, saved, writer) = Store::open(folder).unwrap();
        (Outbox::new(store, &saved), writer)
    }

    fn offence(host: u32) -> Offence {
        Offence {
            jail: "test".parse().unwrap(),
            address: std::net::Ipv4Addr::from(0xC000_0200 + host).into(),
            time: jiff::Timestamp::UNIX_EPOCH,
            failures: 3,
            bantime: BanTime::For(Seconds(1800)),
            escalation: None,
            evidence: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_was_not_acked_comes_again_after_a_restart_with_the_same_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let (outbox, writer) = open(folder.path());
        let name = outbox.name().clone();
        (0..5).for_each(|host| {
            outbox.push(offence(host));
        });
        let first = outbox.next(2).await;
        outbox.acked(first[1].sequence);
        outbox.store.flush().await;
        assert_eq!(outbox.status(), OutboxStatus { waiting: 3, dropped: 0 });
        drop(outbox);
        writer.join();

        let (outbox, _writer) = open(folder.path());
        assert_eq!((outbox.name(), outbox.status().waiting), (&name, 3));
        outbox.push(offence(9));
        let mut again = Vec::new();
        while again.len() < 4 {
            again.extend(outbox.next(100).await);
        }
        let sequences: Vec<u64> = again.iter().map(|offence| offence.sequence).collect();
        assert_eq!(sequences[..3], [3, 4, 5]);
        assert!(sequences[3] > 5, "a number was given out twice: {sequences:?}");
    }

    #[tokio::test]
    async fn more_than_fits_in_memory_arrives_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let (outbox, _writer) = open(folder.path());
        let count = u32::try_from(IN_MEMORY).unwrap() + 2500;
        (0..count).for_each(|host| {
            outbox.push(offence(host));
        });
        let mut seen = Vec::new();
        while seen.len() < count as usize {
            let batch = outbox.next(1000).await;
            outbox.acked(batch.last().unwrap().sequence);
            seen.extend(batch.iter().map(|offence| offence.sequence));
        }
        assert!(seen.is_sorted());
        seen.dedup();
        assert_eq!(seen.len(), count as usize);
        outbox.push(offence(1));
        assert_eq!(outbox.next(10).await.len(), 1);
    }

    #[tokio::test]
    async fn what_the_disk_refuses_leaves_at_once_and_once_although_offences_of_before_wait_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let (outbox, writer) = open(folder.path());
        let earlier = outbox.push(offence(1));
        outbox.store.flush().await;
        drop(outbox);
        writer.join();

        let (outbox, _writer) = open(folder.path());
        let disk = rusqlite::Connection::open(folder.path().join("sensor.sqlite3")).unwrap();
        let refuse = "CREATE TRIGGER refused BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'full'); END";
        disk.execute_batch(refuse).unwrap();
        let later = [2, 3].map(|host| outbox.push(offence(host)));
        let mut left = Vec::new();
        while left.len() < 3 {
            left.extend(outbox.next(100).await.iter().map(|offence| offence.sequence));
        }
        assert_eq!(left, [earlier, later[0], later[1]]);
        disk.execute_batch("DROP TRIGGER refused").unwrap();
        let last = outbox.push(offence(4));
        assert_eq!(outbox.next(100).await[0].sequence, last);
    }

    #[tokio::test]
    async fn who_waits_for_an_ack_goes_on_at_it_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let (outbox, _writer) = open(folder.path());
        outbox.push(offence(1));
        let second = outbox.push(offence(2));
        let acked = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.until_acked(second).await }
        });
        outbox.acked(second - 1);
        tokio::task::yield_now().await;
        assert!(!acked.is_finished());
        outbox.acked(second);
        acked.await.unwrap();
        outbox.acked(1);
        outbox.until_acked(second).await;
    }

    #[tokio::test]
    async fn what_an_earlier_run_sent_is_answered_and_what_waits_from_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (outbox, writer) = open(folder.path());
        assert!(outbox.is_answered(0, outbox.through()), "there was none");
        let [first, second] = [1, 2].map(|host| outbox.push(offence(host)));
        assert!(!outbox.is_answered(first, outbox.through()));
        outbox.acked(first);
        outbox.store.flush().await;
        drop(outbox);
        writer.join();
        let (outbox, _writer) = open(folder.path());
        let is_answered = |sequence| outbox.is_answered(sequence, outbox.through());
        assert!(is_answered(first) && !is_answered(second) && !is_answered(0));
        outbox.acked(second);
        assert!(is_answered(second) && is_answered(0));
    }

    #[test]
    fn a_second_sensor_on_the_same_state_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_outbox, _writer) = open(folder.path());
        let error = Store::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("another atalaya-sensor"), "{error}");
    }
}
