//! What to send to a router next, and what its answers mean: the reconciler of one session, without I/O.
//!
//! Every difference takes one path: a prefix is queued, its [`step`] is computed when its turn comes, and
//! at most one command is in flight for it. New bans go before the backlog of a reconciliation.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::actual::{Actual, Held, Owner};
use super::address_list::{EntryId, Marks};
use super::order::{Action, Order, Unexplained};
use super::reconcile::{Step, step};
use super::sentence::{Trap, TrapMeaning};
use super::view::View;
use crate::desired::{Changes, Label, Moment};
use crate::ledger::Lineage;
use crate::prefixes::{Family, network_length};

mod missing;
mod print;
mod room;

/// How many comments that only lack the ledger's word are set anew for each print.
const COMMENTS: usize = 1000;

/// How many other ledgers are told apart on one list.
const RIVALS: usize = 8;

/// What was done since the service started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Adds that the router took; one that it had already is a duplicate.
    pub adds: u64,
    /// Entries whose timeout or comment was changed.
    pub sets: u64,
    /// Entries removed before their timeouts.
    pub removes: u64,
    /// Adds refused because the entry was there already, which is as good.
    pub duplicates: u64,
    /// Commands refused for any other reason.
    pub traps: u64,
    /// Prints of a whole list that came to their end.
    pub prints: u64,
    /// Adds, sets and removes that were not answered although others were, and sent again.
    #[serde(default)]
    pub unanswered: u64,
}

/// Where one of the two tables stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Not used, by configuration.
    Off,
    /// The router has no such table.
    Missing,
    /// Its first print is not finished.
    Unknown,
    /// Read once in this session, and mirrored since.
    Known,
}

/// The reconciler of one session. Its memory is bounded by the bans and the list's entries.
#[derive(Debug)]
pub struct Pipeline {
    view: View,
    marks: Marks,
    actual: Actual,
    tables: [Table; 2],
    /// Changes, which go first.
    fresh: VecDeque<IpNet>,
    /// What a reconciliation has to look at.
    backlog: VecDeque<IpNet>,
    /// What changed while there was no session: it goes before the rest of the first reconciliation.
    missed: HashSet<IpNet>,
    /// Prefixes with a command in flight, and whether to look at them again after it.
    busy: HashMap<IpNet, bool>,
    /// Prefixes whose command was refused.
    failed: HashSet<IpNet>,
    /// Prefixes that wait for an entry to go, because the router is at its limit.
    no_room: VecDeque<IpNet>,
    /// Whether room was made and has not been taken yet.
    made_room: bool,
    /// How many adds are in flight.
    adding: usize,
    /// Whether entries of ours that no ban explains are kept and told of, because the ledger is not whole.
    recovering: bool,
    unexplained: Vec<Unexplained>,
    /// Entries that go once the entry of the network around them is there.
    behind: HashMap<IpNet, Vec<IpNet>>,
    /// Prefixes that someone else's entry covers until then.
    covered: BTreeSet<(Moment, IpNet)>,
    print: Option<Print>,
    /// Tables to print at once.
    due: [bool; 2],
    /// Entries of other ledgers under our mark, on each list as it was read last.
    rivals: [BTreeMap<Lineage, usize>; 2],
    /// Tables to print when there is time, because an owner or an id is not known.
    learn: [bool; 2],
    counts: Counts,
}

#[derive(Debug)]
struct Print {
    family: Family,
    began: Moment,
    /// Entries told so far.
    rows: usize,
    /// Entries of other ledgers under our mark.
    rivals: BTreeMap<Lineage, usize>,
    /// How many comments of before may still be set anew, so that an update does not change a whole list at once.
    comments: usize,
    /// Prefixes that our commands changed since it began: its rows may be older than that.
    touched: HashSet<IpNet>,
}

// === impl Pipeline ===

impl Pipeline {
    /// For a session that has just begun: nothing is known of the router.
    pub fn new(view: View, marks: Marks, ipv6: bool, counts: Counts) -> Self {
        let six = if ipv6 { Table::Unknown } else { Table::Off };
        Self {
            view,
            marks,
            actual: Actual::new(),
            tables: [Table::Unknown, six],
            fresh: VecDeque::new(),
            backlog: VecDeque::new(),
            missed: HashSet::new(),
            busy: HashMap::new(),
            failed: HashSet::new(),
            no_room: VecDeque::new(),
            behind: HashMap::new(),
            made_room: false,
            adding: 0,
            recovering: false,
            unexplained: Vec::new(),
            covered: BTreeSet::new(),
            print: None,
            due: [true, ipv6],
            rivals: Default::default(),
            learn: [false; 2],
            counts,
        }
    }

    /// Takes in what changed in the bans while there was no session, and what the last one left undone. What is
    /// to be banned goes at once, before the list is read: an entry that is there already is no error.
    pub fn note_missed(&mut self, changes: Changes, undone: HashSet<IpNet>) {
        self.missed = undone;
        if let Changes::Prefixes(prefixes) = changes {
            self.missed.extend(prefixes);
        }
        let view = &self.view;
        self.fresh.extend(self.missed.extract_if(|prefix| view.until(*prefix).is_some()));
    }

    /// Sends all bans before the list is read, because the last session came to no end of that.
    pub fn send_unread(&mut self) {
        for family in [Family::V4, Family::V6] {
            if self.tables[family.index()] == Table::Unknown {
                self.backlog.extend(self.view.prefixes(family));
            }
        }
    }

    /// The changes that were not carried out, as far as it is known: what waits and what is in flight. Not
    /// more than a reconciliation finds soon by itself.
    pub fn undone(&self) -> HashSet<IpNet> {
        const MOST: usize = 65_536;
        self.fresh.iter().chain(self.busy.keys()).copied().take(MOST).collect()
    }

    /// Takes in what changed in the bans.
    pub fn note(&mut self, changes: Changes) {
        match changes {
            Changes::Prefixes(prefixes) => {
                // What becomes wanted first, so that a network is there before the addresses that it
                // stands for go, and they before it goes.
                let (wanted, unwanted): (Vec<_>, Vec<_>) =
                    prefixes.into_iter().partition(|prefix| self.view.until(*prefix).is_some());
                self.fresh.extend(wanted.into_iter().chain(unwanted));
            }
            Changes::Many => {
                // What is not known yet, the end of its first print queues.
                self.queue_known();
            }
        }
    }

    /// The next command, marked as in flight. Looks at no more prefixes than the budget has left, which
    /// it draws down: most may need nothing.
    pub fn next(&mut self, now: Moment, budget: &mut usize) -> Option<Order> {
        while *budget > 0 {
            let Some(prefix) = self.fresh.pop_front().or_else(|| self.backlog.pop_front()) else {
                // A reconciliation of a million bans leaves megabytes of room behind.
                self.backlog = VecDeque::new();
                return None;
            };
            *budget -= 1;
            let family = Family::of(prefix);
            if matches!(self.tables[family.index()], Table::Off | Table::Missing) {
                continue;
            }
            if let Some(again) = self.busy.get_mut(&prefix) {
                *again = true;
                continue;
            }
            let (wanted, held) = (self.view.until(prefix), self.actual.get(prefix));
            if wanted.is_none() && !self.behind.is_empty() {
                // A network that is not to come after all.
                self.fresh.extend(self.behind.remove(&prefix).into_iter().flatten());
            }
            let action = match step(wanted, held, now) {
                Step::Do(Action::Add { .. }) if self.is_full() => {
                    self.make_room(prefix, now);
                    continue;
                }
                Step::Do(Action::Remove { .. }) if self.recovering && self.view.label(prefix).is_none() => {
                    continue;
                }
                Step::Do(action @ Action::Remove { .. }) => {
                    if let Some(network) = self.missing_around(prefix, now) {
                        self.behind.entry(network).or_default().push(prefix);
                        continue;
                    }
                    action
                }
                Step::Do(action) => action,
                Step::Nothing => {
                    if held.is_some_and(|held| held.lapsed(now)) {
                        self.actual.remove(prefix);
                    }
                    continue;
                }
                Step::Learn => {
                    self.learn[family.index()] = true;
                    continue;
                }
                Step::LookAgain { at } => {
                    self.covered.insert((at, prefix));
                    continue;
                }
            };
            self.adding += usize::from(matches!(action, Action::Add { .. }));
            self.busy.insert(prefix, false);
            return Some(Order { prefix, action });
        }
        None
    }

    /// Takes in that a command was done; of an add, with the new entry's id where the router told it.
    pub fn done(&mut self, order: Order, id: Option<EntryId>, now: Moment) {
        let Order { prefix, action } = order;
        match action {
            Action::Add { timeout } => {
                self.counts.adds += 1;
                self.actual.insert(prefix, Held::ours(now.plus_seconds(timeout), id));
                self.fresh.extend(self.behind.remove(&prefix).into_iter().flatten());
            }
            Action::Set { timeout, .. } => {
                self.counts.sets += 1;
                self.actual.renew(prefix, now.plus_seconds(timeout));
            }
            Action::Remove { .. } => {
                self.counts.removes += 1;
                self.actual.remove(prefix);
                self.made_room = false;
                self.fresh.extend(self.no_room.pop_front());
                // It may be wanted with another timeout.
                self.fresh.push_back(prefix);
            }
        }
        self.touch(prefix);
        self.release(order);
    }

    /// Takes in that a command was refused. True where it is to be shown and retried after a pause.
    pub fn refused(&mut self, order: Order, trap: &Trap, now: Moment) -> bool {
        let Order { prefix, action } = order;
        let shown = match (trap.meaning, action) {
            (TrapMeaning::Duplicate, Action::Add { .. }) => {
                self.counts.duplicates += 1;
                let held = self.actual.get(prefix).filter(|held| !held.lapsed(now));
                if held.is_some_and(|held| held.disabled && held.owner == Owner::Foreign) {
                    self.actual.is_rigid(prefix);
                } else if held.is_none() {
                    let unknown = Held { owner: Owner::Unknown, ..Held::ours(Moment::FOREVER, None) };
                    self.actual.insert(prefix, unknown);
                }
                self.fresh.push_back(prefix);
                false
            }
            (TrapMeaning::NoSuchItem, Action::Set { .. } | Action::Remove { .. }) => {
                self.actual.remove(prefix);
                self.touch(prefix);
                self.fresh.push_back(prefix);
                false
            }
            // Not every version sets what it made dynamic: then the entry is replaced.
            (TrapMeaning::Other, Action::Set { .. }) => {
                self.counts.traps += 1;
                self.actual.is_rigid(prefix);
                self.fresh.push_back(prefix);
                false
            }
            _ => {
                self.counts.traps += 1;
                self.failed.insert(prefix);
                true
            }
        };
        self.release(order);
        shown
    }

    /// Takes in that a command was not answered: whether it was carried out is not known, so it is sent again.
    pub fn swallowed(&mut self, order: Order) {
        self.counts.unanswered += 1;
        self.release(order);
        self.fresh.push_back(order.prefix);
    }

    /// The comment of an entry of ours.
    pub fn comment(&self, label: &Label) -> String {
        self.marks.comment(&label.comment)
    }

    /// Takes in that the router has no such table.
    pub fn missing(&mut self, family: Family) {
        self.print = None;
        self.tables[family.index()] = Table::Missing;
        self.view.lacks(family);
        self.view.settle();
        self.due[family.index()] = false;
        self.learn[family.index()] = false;
    }

    /// Asks for a print of each table, and thereby for a reconciliation of everything.
    pub fn reconcile_all(&mut self) {
        for (due, table) in self.due.iter_mut().zip(self.tables) {
            *due |= matches!(table, Table::Known | Table::Unknown);
        }
    }

    /// Queues the prefixes whose commands were refused once more.
    pub fn retry_failed(&mut self) {
        self.backlog.extend(self.failed.drain());
    }

    /// Queues the prefixes whose covering entries have lapsed.
    pub fn look_again(&mut self, now: Moment) {
        while let Some((at, prefix)) = self.covered.first().copied()
            && at <= now
        {
            self.covered.remove(&(at, prefix));
            self.fresh.push_back(prefix);
        }
    }

    /// Keeps what no ban explains, and gathers it for [`Self::take_unexplained`], until the ledger is whole.
    pub fn set_recovering(&mut self, recovering: bool) {
        if self.recovering && !recovering {
            self.queue_known();
        }
        self.recovering = recovering;
    }

    /// What prints showed since the last call that no ban explains.
    pub fn take_unexplained(&mut self) -> Vec<Unexplained> {
        std::mem::take(&mut self.unexplained)
    }

    /// Takes back a command that was not sent.
    pub fn withhold(&mut self, order: Order) {
        self.release(order);
    }

    /// Drops the backlog: the service is stopping.
    pub fn drop_backlog(&mut self) {
        self.backlog.clear();
    }

    /// When the next covering entry lapses.
    pub fn next_look(&self) -> Option<Moment> {
        self.covered.first().map(|(at, _)| *at)
    }

    /// Whether commands were refused and wait for a retry.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// How many prefixes are queued, failed ones included.
    pub fn queued(&self) -> usize {
        self.fresh.len() + self.backlog.len() + self.failed.len() + self.no_room.len()
    }

    /// Which bans the router should hold.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether prefixes wait for their turn.
    pub fn has_next(&self) -> bool {
        !self.fresh.is_empty() || !self.backlog.is_empty()
    }

    /// Whether changes wait for their turn.
    pub fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Whether changes wait for their turn, or commands in flight for their answer.
    pub fn has_changes(&self) -> bool {
        !self.fresh.is_empty() || !self.busy.is_empty()
    }

    /// How many commands are in flight; prints do not count.
    pub fn in_flight(&self) -> usize {
        self.busy.len()
    }

    /// Whether every table was printed since the session began.
    pub fn is_known(&self) -> bool {
        !self.tables.contains(&Table::Unknown)
    }

    /// Where each table stands, IPv4's first.
    pub fn tables(&self) -> [Table; 2] {
        self.tables
    }

    /// The family whose print is running.
    pub fn printing(&self) -> Option<Family> {
        self.print.as_ref().map(|print| print.family)
    }

    /// What the router holds, as far as it is known.
    pub fn actual(&self) -> &Actual {
        &self.actual
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn queue_all(&mut self, family: Family) {
        self.backlog.retain(|prefix| Family::of(*prefix) != family);
        self.view.settle();
        self.fresh.extend(self.missed.extract_if(|prefix| Family::of(*prefix) == family));
        self.backlog.append(&mut self.view.prefixes(family).into());
        for chunk in self.actual.perhaps_ours(family).chunks(4096) {
            let mut unwanted = chunk.to_vec();
            self.view.keep_unwanted(&mut unwanted);
            self.backlog.extend(unwanted);
        }
    }

    fn queue_known(&mut self) {
        for family in [Family::V4, Family::V6] {
            if self.tables[family.index()] == Table::Known {
                self.queue_all(family);
            }
        }
    }

    /// The network that a prefix was widened to, where the router is to hold that and does not yet: what it
    /// covers goes after it, so that there is no hole, not even where the router refuses it.
    fn missing_around(&self, prefix: IpNet, now: Moment) -> Option<IpNet> {
        let length = network_length(prefix);
        let network = IpNet::new(prefix.addr(), length).ok()?.trunc();
        // A full router has to let go first.
        let wider = length < prefix.prefix_len() && self.view.until(prefix).is_none() && !self.is_full();
        let missing = wider
            && self.view.until(network).is_some()
            && self.actual.get(network).is_none_or(|held| held.lapsed(now));
        missing.then_some(network)
    }

    fn touch(&mut self, prefix: IpNet) {
        if let Some(print) = &mut self.print
            && print.family == Family::of(prefix)
        {
            print.touched.insert(prefix);
        }
    }

    fn release(&mut self, Order { prefix, action }: Order) {
        if matches!(action, Action::Add { .. }) {
            self.adding -= 1;
        }
        if self.busy.remove(&prefix) == Some(true) {
            self.fresh.push_back(prefix);
        }
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
