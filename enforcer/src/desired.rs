//! What every router should hold: the bans that stand, in memory, shared by all router workers.
//!
//! A worker learns what changed through its [`Subscription`], which gathers changes while the worker
//! is busy or its router away. Both are bounded: the bans by whoever sets them, a subscription by a
//! fixed count, past which it only says that much changed. Followers that come and go, sensors that drop bans
//! by themselves, learn the same from a [`Journal`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};

use atalaya_wire::Name;
use ipnet::IpNet;
use tokio::sync::{Notify, watch};

use crate::prefixes::{Family, canonical};

pub mod journal;
mod label;
mod moment;
mod origin;

pub use label::{Label, Labels, ListConfig, Severity};
pub use moment::Moment;
pub use origin::Origin;

use journal::{Journal, PrefixChange};

/// The most prefixes that a [`Subscription`] names one by one.
const GATHERED: usize = 65_536;

/// The most bans of [`Desired::replace`] that followers are told one by one; they read a longer list as a whole.
const TOLD_SINGLY: usize = 4096;

/// A ban as the routers are to hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// When the ban ends.
    pub until: Moment,
    /// What is said of it. The bans of one jail and sensor share one.
    pub label: Arc<Label>,
}

/// The bans that every router should hold. Clones of the `Arc` around it are cheap; no call blocks
/// longer than a walk over the bans' keys.
#[derive(Debug, Default)]
pub struct Desired {
    bans: RwLock<Counted>,
    subscribers: Mutex<Vec<Weak<Mailbox>>>,
    journal: watch::Sender<Journal>,
    /// Which worker keeps which list of which machine.
    claims: Mutex<HashMap<ListPlace, Name>>,
    /// How often the allow list changed, which followers are told beside the bans.
    allow_changes: watch::Sender<u64>,
}

/// A list on a machine, by what the machine itself says it is.
pub type ListPlace = (String, Family, String);

/// One worker's view of what changed in [`Desired`] since it last looked.
#[derive(Debug)]
pub struct Subscription {
    mailbox: Arc<Mailbox>,
}

/// What changed since a worker last looked.
#[derive(Debug, PartialEq, Eq)]
pub enum Changes {
    /// These prefixes, each once.
    Prefixes(HashSet<IpNet>),
    /// So many that they are not named.
    Many,
}

/// The bans, and how many there are of each kind that routers choose by.
#[derive(Debug, Default)]
struct Counted {
    /// In order, so that they can be read in pieces.
    entries: BTreeMap<IpNet, Wanted>,
    counts: HashMap<(Family, Name, Severity), usize>,
}

#[derive(Debug)]
struct Mailbox {
    changes: Mutex<Changes>,
    arrived: Notify,
}

// === impl Desired ===

impl Desired {
    /// Of no bans, followed by nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bans the prefix, or changes its ban, and tells every worker; followers, who know of no labels, only where it ends at
    /// another time.
    pub fn set(&self, prefix: IpNet, wanted: Wanted) {
        let prefix = canonical(prefix);
        let until = wanted.until;
        // The lock is not held while others are told.
        let before = self.write().insert(prefix, wanted);
        self.tell(|changes| changes.add(prefix));
        if before != Some(until) {
            self.journal.send_modify(|journal| journal.note(PrefixChange::Set(prefix)));
        }
    }

    /// Bans many prefixes at once, and tells every worker once.
    pub fn set_many(&self, bans: impl IntoIterator<Item = (IpNet, Wanted)>) {
        // Not under the lock while the caller's iterator works; it may read a disk.
        for chunk in Chunks(bans.into_iter()) {
            let prefixes: Vec<IpNet> = chunk.iter().map(|(prefix, _)| *prefix).collect();
            let mut table = self.write();
            for (prefix, wanted) in chunk {
                table.insert(prefix, wanted);
            }
            drop(table);
            self.tell(|changes| prefixes.iter().for_each(|prefix| changes.add(*prefix)));
            // So many are rather read than told one by one.
            self.journal.send_modify(|journal| journal.skip(prefixes.len()));
        }
    }

    /// Goes on with these bans, by their canonical prefixes: sets what is new or ends at another time, then removes what
    /// is not among them. Of a ban that is only called otherwise workers are told, and followers, who know of no labels,
    /// are not.
    pub fn replace(&self, entries: BTreeMap<IpNet, Wanted>) {
        let (mut set, mut called, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        {
            let table = self.read();
            gone.extend(table.entries.keys().filter(|prefix| !entries.contains_key(*prefix)));
            for (prefix, entry) in entries {
                match table.entries.get(&prefix) {
                    Some(before) if before.until == entry.until && before.label == entry.label => {}
                    Some(before) if before.until == entry.until => called.push((prefix, entry)),
                    _ => set.push((prefix, entry)),
                }
            }
        }
        if set.len() <= TOLD_SINGLY {
            set.into_iter().for_each(|(prefix, entry)| self.set(prefix, entry));
        } else {
            self.set_many(set);
        }
        for chunk in Chunks(called.into_iter()) {
            let prefixes: Vec<IpNet> = chunk.iter().map(|(prefix, _)| *prefix).collect();
            let mut table = self.write();
            for (prefix, entry) in chunk {
                table.insert(prefix, entry);
            }
            drop(table);
            self.tell(|changes| prefixes.iter().for_each(|prefix| changes.add(*prefix)));
        }
        gone.into_iter().for_each(|prefix| self.remove(prefix));
    }

    /// Lifts the ban, and tells every worker. An entry that is about to lapse is left to the router.
    pub fn remove(&self, prefix: IpNet) {
        let prefix = canonical(prefix);
        // The lock is not held while others are told.
        let removed = self.write().remove(prefix);
        if let Some(until) = removed {
            self.tell(|changes| changes.add(prefix));
            self.journal.send_modify(|journal| journal.note(PrefixChange::Removed { prefix, until }));
        }
    }

    /// Claims lists for a worker, all or none: two sections of the configuration may turn out to be one router. Else the
    /// worker that keeps one of them, and which.
    pub fn claim(&self, places: &[ListPlace], worker: &Name) -> Result<(), (Name, ListPlace)> {
        let mut claims = locked(&self.claims);
        let others = places.iter().filter_map(|place| Some((claims.get(place)?.clone(), place.clone())));
        if let Some(taken) = others.into_iter().find(|(other, _)| other != worker) {
            return Err(taken);
        }
        claims.extend(places.iter().map(|place| (place.clone(), worker.clone())));
        Ok(())
    }

    /// Gives back what a worker claimed.
    pub fn disclaim(&self, worker: &Name) {
        locked(&self.claims).retain(|_, keeper| keeper != worker);
    }

    /// Tells followers that the allow list is another one.
    pub fn note_allow_change(&self) {
        self.allow_changes.send_modify(|changes| *changes += 1);
    }

    /// How often the allow list changed.
    pub fn allow_changes(&self) -> watch::Receiver<u64> {
        self.allow_changes.subscribe()
    }

    /// A worker's view of the changes; at first, everything has changed.
    pub fn subscribe(&self) -> Subscription {
        let mailbox = Arc::new(Mailbox { changes: Mutex::new(Changes::Many), arrived: Notify::new() });
        mailbox.arrived.notify_one();
        let mut subscribers = locked(&self.subscribers);
        subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        subscribers.push(Arc::downgrade(&mailbox));
        Subscription { mailbox }
    }

    /// The ban of exactly this prefix.
    pub fn get(&self, prefix: IpNet) -> Option<Wanted> {
        self.read().entries.get(&canonical(prefix)).cloned()
    }

    /// How many bans stand.
    pub fn len(&self) -> usize {
        self.read().entries.len()
    }

    /// Whether no ban stands.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The latest changes. What they led to is to be seen here before they are in the journal.
    pub fn journal(&self) -> watch::Receiver<Journal> {
        self.journal.subscribe()
    }

    /// Looks at the next bans after a prefix, or at the first ones, in the order of prefixes.
    pub fn each_after(
        &self,
        after: Option<IpNet>,
        most: usize,
        mut look: impl FnMut(IpNet, Moment, &Arc<Label>),
    ) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (prefix, entry) in self.read().entries.range((from, Bound::Unbounded)).take(most) {
            look(*prefix, entry.until, &entry.label);
        }
    }

    /// Looks at the ban of this (canonical) prefix.
    pub fn look<T>(&self, prefix: IpNet, look: impl FnOnce(Moment, &Arc<Label>) -> T) -> Option<T> {
        self.read().entries.get(&prefix).map(|entry| look(entry.until, &entry.label))
    }

    /// Looks at every ban, in the order of prefixes.
    pub fn each(&self, mut look: impl FnMut(IpNet, Moment, &Arc<Label>)) {
        for (prefix, entry) in &self.read().entries {
            look(*prefix, entry.until, &entry.label);
        }
    }

    /// How many bans there are of the kinds that a function accepts; costs the same for a million bans.
    pub fn count(&self, accept: impl Fn(Family, &Name, Severity) -> bool) -> usize {
        let table = self.read();
        let accepted =
            table.counts.iter().filter(|((family, jail, severity), _)| accept(*family, jail, *severity));
        accepted.map(|(_, count)| count).sum()
    }

    /// How many bans there are of each kind that routers choose by.
    pub fn kinds(&self) -> Vec<((Family, Name, Severity), usize)> {
        self.read().counts.iter().map(|(kind, count)| (kind.clone(), *count)).collect()
    }

    fn tell(&self, change: impl Fn(&mut Changes)) {
        for subscriber in locked(&self.subscribers).iter().filter_map(Weak::upgrade) {
            change(&mut locked(&subscriber.changes));
            subscriber.arrived.notify_one();
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Counted> {
        self.bans.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Counted> {
        self.bans.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Counted ===

impl Counted {
    /// Sets the ban; when the one that it replaces would have ended.
    fn insert(&mut self, prefix: IpNet, entry: Wanted) -> Option<Moment> {
        if self.entries.get(&prefix).is_some_and(|before| Arc::ptr_eq(&before.label, &entry.label)) {
            return self.entries.insert(prefix, entry).map(|before| before.until);
        }
        let kind = Self::kind(prefix, &entry.label);
        *self.counts.entry(kind).or_default() += 1;
        let before = self.entries.insert(prefix, entry)?;
        self.uncount(prefix, &before.label);
        Some(before.until)
    }

    /// Removes the ban; when it would have ended.
    fn remove(&mut self, prefix: IpNet) -> Option<Moment> {
        let removed = self.entries.remove(&prefix)?;
        self.uncount(prefix, &removed.label);
        Some(removed.until)
    }

    fn uncount(&mut self, prefix: IpNet, label: &Label) {
        let kind = Self::kind(prefix, label);
        if let Some(count) = self.counts.get_mut(&kind) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&kind);
            }
        }
    }

    fn kind(prefix: IpNet, label: &Label) -> (Family, Name, Severity) {
        (Family::of(prefix), label.jail().clone(), label.severity)
    }
}

// === impl Subscription ===

impl Subscription {
    /// Takes what changed since the last call.
    pub fn take(&mut self) -> Changes {
        std::mem::take(&mut *locked(&self.mailbox.changes))
    }

    /// Waits until something may have changed. Cancel-safe.
    pub async fn changed(&self) {
        self.mailbox.arrived.notified().await;
    }
}

// === impl Changes ===

impl Changes {
    /// Whether no prefix changed, so that there is nothing to do.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Prefixes(prefixes) if prefixes.is_empty())
    }

    fn add(&mut self, prefix: IpNet) {
        if let Self::Prefixes(prefixes) = self {
            prefixes.insert(prefix);
            if prefixes.len() > GATHERED {
                *self = Self::Many;
            }
        }
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self::Prefixes(HashSet::new())
    }
}

/// Canonical bans in groups of at most 4096.
struct Chunks<I>(I);

impl<I: Iterator<Item = (IpNet, Wanted)>> Iterator for Chunks<I> {
    type Item = Vec<(IpNet, Wanted)>;

    fn next(&mut self) -> Option<Self::Item> {
        let chunk: Vec<_> =
            self.0.by_ref().take(4096).map(|(prefix, wanted)| (canonical(prefix), wanted)).collect();
        (!chunk.is_empty()).then_some(chunk)
    }
}

/// The content of a lock whose holders cannot panic half-way through a change.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(number: u32) -> IpNet {
        IpNet::from(std::net::IpAddr::from(number.to_be_bytes()))
    }

    fn permanent() -> Wanted {
        Wanted { until: Moment::FOREVER, label: Label::test("test") }
    }

    #[test]
    fn changes_of_one_prefix_gather_into_one() {
        let desired = Desired::new();
        let mut subscription = desired.subscribe();
        assert_eq!(subscription.take(), Changes::Many);
        desired.set(prefix(1), permanent());
        desired.set(prefix(1), permanent());
        desired.remove(prefix(1));
        desired.remove(prefix(2));
        assert_eq!(subscription.take(), Changes::Prefixes(HashSet::from([prefix(1)])));
        assert_eq!(subscription.take(), Changes::default());
    }

    #[test]
    fn a_subscription_nobody_reads_stays_bounded() {
        let desired = Desired::new();
        let mut subscription = desired.subscribe();
        subscription.take();
        desired.set_many((0..GATHERED as u32 + 2).map(|number| (prefix(number), permanent())));
        assert_eq!(subscription.take(), Changes::Many);
        assert_eq!(desired.len(), GATHERED + 2);
    }

    #[test]
    fn a_mapped_address_and_its_ipv4_form_are_one_ban() {
        let desired = Desired::new();
        desired.set("::ffff:192.0.2.1/128".parse().unwrap(), permanent());
        assert_eq!(desired.get("192.0.2.1/32".parse().unwrap()), Some(permanent()));
        assert_eq!(desired.len(), 1);
    }

    #[test]
    fn an_entry_takes_48_bytes() {
        assert!(size_of::<(IpNet, Wanted)>() <= 48);
    }
}
