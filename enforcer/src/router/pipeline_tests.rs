//! The pipeline against a model of a router, through random histories: whatever happens, after a full
//! reconciliation the router holds what is desired, and nothing of anyone else's was touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::desired::{Desired, Subscription};
use crate::desired::{Label, Wanted};
use crate::router::address_list::LARGEST_TIMEOUT;
use crate::router::address_list::Mark;
use crate::router::order::Shown;
use crate::router::reconcile::TOLERANCE;
use crate::router::view::Takes;

/// A router: one list, ids that grow, entries that lapse.
#[derive(Default)]
struct Model {
    now: i64,
    entries: BTreeMap<IpNet, ModelEntry>,
    last_id: u32,
}

#[derive(Clone, Copy, Debug)]
struct ModelEntry {
    id: u32,
    ours: bool,
    /// Milliseconds; `None` for a static entry.
    expires: Option<i64>,
}

struct World {
    router: Model,
    desired: Arc<Desired>,
    subscription: Subscription,
    pipeline: Pipeline,
    /// Commands on their way to the router, oldest first.
    sent: VecDeque<Order>,
    /// Rows of the print on their way back, as the router saw them when it printed.
    rows: Option<VecDeque<Shown>>,
    orders: usize,
}

#[derive(Clone, Debug)]
enum Event {
    Ban { host: u8, seconds: i64 },
    BanForever { host: u8 },
    Unban { host: u8 },
    ForeignAdds { host: u8, seconds: Option<i64> },
    SomeoneDeletes { host: u8 },
    SomeoneMakesStatic { host: u8 },
    Time { seconds: i64 },
    Send,
    Answer { answers: usize },
    RefuseOne,
    LoseReplyAndReconnect,
    Reboot,
    Rows { rows: usize },
    Reconcile,
}

fn prefix(host: u8) -> IpNet {
    IpNet::from(std::net::IpAddr::from([192, 0, 2, host]))
}

fn new_pipeline(desired: &Arc<Desired>, ipv6: bool, counts: Counts) -> Pipeline {
    let view = View::new(Arc::clone(desired), Takes::all(), ipv6);
    Pipeline::new(view, Marks::new(Mark::new("atalaya"), []), ipv6, counts)
}

fn id(number: u32) -> EntryId {
    EntryId::parse(&format!("*{number:X}")).unwrap()
}

impl Model {
    fn moment(&self) -> Moment {
        Timestamp::from_millisecond(self.now).unwrap().into()
    }

    fn advance(&mut self, milliseconds: i64) {
        self.now += milliseconds;
        let now = self.now;
        self.entries.retain(|_, entry| entry.expires.is_none_or(|expires| expires > now));
    }

    fn put(&mut self, prefix: IpNet, ours: bool, seconds: Option<i64>) -> Option<EntryId> {
        if self.entries.contains_key(&prefix) {
            return None;
        }
        self.last_id += 1;
        let expires = seconds.map(|seconds| self.now + seconds * 1000);
        self.entries.insert(prefix, ModelEntry { id: self.last_id, ours, expires });
        Some(id(self.last_id))
    }

    fn apply(&mut self, order: Order) -> Result<Option<EntryId>, Trap> {
        let gone = || Trap::new(None, "no such item (4)".to_owned());
        let now = self.now;
        match order.action {
            Action::Add { timeout } => {
                assert!((1..=LARGEST_TIMEOUT).contains(&timeout));
                let duplicate = || Trap::new(None, "failure: already have such entry".to_owned());
                self.put(order.prefix, true, Some(timeout.cast_signed())).map(Some).ok_or_else(duplicate)
            }
            Action::Set { id: wanted, timeout } => {
                let entry = self.entries.get_mut(&order.prefix).filter(|entry| id(entry.id) == wanted);
                let entry = entry.ok_or_else(gone)?;
                assert!(entry.ours, "an entry of someone else's was changed");
                entry.expires = Some(now + timeout.cast_signed() * 1000);
                Ok(None)
            }
            Action::Remove { id: wanted } => {
                let entry = self.entries.get(&order.prefix).filter(|entry| id(entry.id) == wanted);
                assert!(entry.ok_or_else(gone)?.ours, "an entry of someone else's was removed");
                self.entries.remove(&order.prefix);
                Ok(None)
            }
        }
    }

    fn print(&self) -> VecDeque<Shown> {
        let left = |expires: i64| ((expires - self.now) / 1000).cast_unsigned();
        self.entries
            .iter()
            .map(|(prefix, entry)| Shown {
                prefix: *prefix,
                id: Some(id(entry.id)),
                timeout: entry.expires.map(left),
                disabled: false,
                rival: None,
                comment: entry.ours.then(|| "atalaya: test".to_owned()),
            })
            .collect()
    }
}

impl World {
    fn new() -> Self {
        let desired = Arc::new(Desired::new());
        let mut subscription = desired.subscribe();
        subscription.take();
        Self {
            router: Model { now: 1_000_000_000, ..Model::default() },
            pipeline: new_pipeline(&desired, false, Counts::default()),
            desired,
            subscription,
            sent: VecDeque::new(),
            rows: None,
            orders: 0,
        }
    }

    fn ban(&self, host: u8, until: Option<i64>) {
        let until = until.map(|until| Timestamp::from_millisecond(until).unwrap());
        self.desired.set(prefix(host), Wanted { until: until.into(), label: Label::test("test") });
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Ban { host, seconds } => self.ban(host, Some(self.router.now + seconds * 1000 + 1)),
            Event::BanForever { host } => self.ban(host, None),
            Event::Unban { host } => self.desired.remove(prefix(host)),
            Event::ForeignAdds { host, seconds } => {
                self.router.put(prefix(host), false, seconds);
            }
            Event::SomeoneDeletes { host } => {
                self.router.entries.remove(&prefix(host));
            }
            Event::SomeoneMakesStatic { host } => {
                if let Some(entry) = self.router.entries.get_mut(&prefix(host)) {
                    entry.expires = None;
                }
            }
            Event::Time { seconds } => {
                self.router.advance(seconds * 1000);
                // As the ledger does: a ban that ended is desired no longer.
                let now = self.router.moment();
                for prefix in (0..=5).map(prefix) {
                    if self.desired.get(prefix).is_some_and(|ban| ban.until <= now) {
                        self.desired.remove(prefix);
                    }
                }
            }
            Event::Send => self.send(8),
            Event::Answer { answers } => self.answer(answers),
            Event::RefuseOne => {
                if let Some(order) = self.sent.pop_front() {
                    let trap = Trap::new(None, "not enough permissions (9)".to_owned());
                    assert!(self.pipeline.refused(order, &trap, self.router.moment()));
                }
            }
            Event::LoseReplyAndReconnect => {
                for order in std::mem::take(&mut self.sent) {
                    let _ = self.router.apply(order);
                }
                self.reconnect();
            }
            Event::Reboot => {
                self.router.entries.retain(|_, entry| entry.expires.is_none());
                self.sent.clear();
                self.reconnect();
            }
            Event::Rows { rows } => self.take_rows(rows),
            Event::Reconcile => self.pipeline.reconcile_all(),
        }
    }

    fn reconnect(&mut self) {
        self.rows = None;
        self.subscription.take();
        self.pipeline = new_pipeline(&self.desired, false, self.pipeline.counts());
    }

    fn send(&mut self, window: usize) {
        let now = self.router.moment();
        self.pipeline.look_again(now);
        if self.pipeline.print_due().or(self.pipeline.learn_due()).is_some() {
            self.pipeline.print_begins(Family::V4, now);
            self.rows = Some(self.router.print());
        }
        self.pipeline.note(self.subscription.take());
        let mut budget = 1000;
        while self.pipeline.in_flight() < window {
            let Some(order) = self.pipeline.next(now, &mut budget) else { break };
            assert!(self.sent.iter().all(|sent| sent.prefix != order.prefix), "two commands for one prefix");
            self.sent.push_back(order);
            self.orders += 1;
        }
    }

    fn answer(&mut self, answers: usize) {
        for _ in 0..answers {
            let Some(order) = self.sent.pop_front() else { break };
            let result = self.router.apply(order);
            let now = self.router.moment();
            match result {
                // Some versions do not tell the id.
                Ok(id) => {
                    self.pipeline.done(order, id.filter(|_| !self.router.last_id.is_multiple_of(3)), now);
                }
                Err(trap) => assert!(!self.pipeline.refused(order, &trap, now)),
            }
        }
    }

    fn take_rows(&mut self, rows: usize) {
        let Some(mut shown) = self.rows.take() else { return };
        let now = self.router.moment();
        for row in shown.drain(..rows.min(shown.len())) {
            self.pipeline.row(row, now);
        }
        if shown.is_empty() { self.pipeline.print_ends() } else { self.rows = Some(shown) }
    }

    /// Reconciles everything and lets it come to rest.
    fn settle(&mut self) {
        self.pipeline.reconcile_all();
        self.pipeline.retry_failed();
        for _ in 0..50 {
            self.send(8);
            self.answer(usize::MAX);
            self.take_rows(usize::MAX);
        }
        assert!(self.sent.is_empty() && self.rows.is_none() && !self.pipeline.has_next());
        assert_eq!(self.pipeline.learn_due(), None);
    }

    fn check(&self) {
        let now = self.router.now;
        for host in 0..=5 {
            let prefix = prefix(host);
            let entry = self.router.entries.get(&prefix);
            let wanted = self.desired.get(prefix);
            match (wanted, entry) {
                (None, None) | (_, Some(ModelEntry { ours: false, .. })) => {}
                (None, Some(entry)) => {
                    let left = entry.expires.map_or(i64::MAX, |expires| expires - now);
                    assert!(left <= TOLERANCE.cast_signed() * 1000 + 1000, "{prefix} stayed: {entry:?}");
                }
                (Some(wanted), None) => {
                    let until =
                        wanted.until.timestamp().expect("a permanent ban is missing").as_millisecond();
                    assert!(until - now < 1000, "{prefix} is missing");
                }
                (Some(Wanted { until: Moment::FOREVER, .. }), Some(entry)) => {
                    let least = LARGEST_TIMEOUT.cast_signed() / 2 * 1000 - 2000;
                    assert!(entry.expires.is_none_or(|expires| expires - now >= least));
                }
                (Some(Wanted { until, .. }), Some(entry)) => {
                    let until = until.timestamp().expect("it is not permanent");
                    let expires = entry.expires.expect("a temporary ban stayed static");
                    if until.as_millisecond() - now < 1000 {
                        // Over as good as now: the ledger lifts it, and then it counts as unwanted.
                        continue;
                    }
                    let error = (expires - until.as_millisecond()).abs();
                    assert!(error <= TOLERANCE.cast_signed() * 1000 + 2000, "{prefix} is off by {error} ms");
                }
            }
        }
        for (prefix, entry) in &self.router.entries {
            let held = self.pipeline.actual().get(*prefix);
            if held.is_none() && !entry.ours && self.desired.get(*prefix).is_none() {
                // Found in place of ours while a print ran: of no concern until the next one.
                continue;
            }
            let held = held.expect("the mirror lacks an entry");
            assert_eq!(held.owner == Owner::Ours, entry.ours);
            let left = entry.expires.map_or(u64::MAX, |expires| (expires - now).cast_unsigned() / 1000);
            let error = held.expires.seconds_after(self.router.moment()).abs_diff(left);
            assert!(error < TOLERANCE || entry.expires.is_none(), "the mirror is {error} s off at {prefix}");
        }
    }
}

fn events() -> impl Strategy<Value = Event> {
    let host = || 0..=5_u8;
    prop_oneof![
        4 => (host(), 1..4000_i64).prop_map(|(host, seconds)| Event::Ban { host, seconds }),
        1 => host().prop_map(|host| Event::BanForever { host }),
        2 => host().prop_map(|host| Event::Unban { host }),
        2 => (host(), prop::option::of(1..4000_i64))
            .prop_map(|(host, seconds)| Event::ForeignAdds { host, seconds }),
        1 => host().prop_map(|host| Event::SomeoneDeletes { host }),
        1 => host().prop_map(|host| Event::SomeoneMakesStatic { host }),
        2 => prop_oneof![3 => 0..10_i64, 2 => 0..2000_i64, 1 => 0..20_000_000_i64]
            .prop_map(|seconds| Event::Time { seconds }),
        6 => Just(Event::Send),
        5 => (0..4_usize).prop_map(|answers| Event::Answer { answers }),
        1 => Just(Event::RefuseOne),
        1 => Just(Event::LoseReplyAndReconnect),
        1 => Just(Event::Reboot),
        3 => (0..5_usize).prop_map(|rows| Event::Rows { rows }),
        1 => Just(Event::Reconcile),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn after_any_history_a_reconciliation_makes_actual_what_is_desired(
        history in prop::collection::vec(events(), 0..80),
    ) {
        let mut world = World::new();
        for event in &history {
            world.happen(event);
        }
        world.settle();
        world.check();
        let orders = world.orders;
        world.settle();
        prop_assert_eq!(world.orders, orders, "a second reconciliation sent something");
    }
}

#[test]
fn changes_of_one_prefix_wait_for_its_command_in_flight() {
    let mut world = World::new();
    world.settle();
    world.ban(1, Some(world.router.now + 600_000));
    world.send(8);
    world.ban(1, Some(world.router.now + 1_800_000));
    world.send(8);
    assert_eq!(world.sent.len(), 1);
    world.answer(1);
    world.send(8);
    assert!(matches!(world.sent[0].action, Action::Set { timeout: 1800, .. } | Action::Add { .. }));
    world.settle();
    world.check();
}

#[test]
fn a_new_ban_goes_before_the_backlog() {
    let mut world = World::new();
    for host in 10..60 {
        world.ban(host, None);
    }
    // A link does so when it begins: the first print covers it.
    world.subscription.take();
    world.send(1);
    world.take_rows(usize::MAX);
    world.answer(1);
    world.ban(1, None);
    world.send(1);
    assert_eq!(world.sent[0].prefix, prefix(1));
}

#[test]
fn what_changed_while_the_router_was_away_goes_before_the_backlog() {
    let mut world = World::new();
    for host in 10..60 {
        world.ban(host, None);
    }
    world.subscription.take();
    world.ban(1, None);
    world.pipeline.note_missed(world.subscription.take(), HashSet::from([prefix(2)]));
    world.ban(2, None);
    world.subscription.take();
    world.send(2);
    world.take_rows(usize::MAX);
    world.send(2);
    let first: HashSet<IpNet> = world.sent.iter().map(|order| order.prefix).collect();
    assert_eq!(first, HashSet::from([prefix(1), prefix(2)]));
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    let mut world = World::new();
    world.settle();
    for host in 10..60 {
        world.ban(host, None);
    }
    world.send(8);
    assert_eq!((world.sent.len(), world.pipeline.in_flight()), (8, 8));
}

#[test]
fn a_refused_command_waits_for_its_retry() {
    let mut world = World::new();
    world.settle();
    world.ban(1, None);
    world.send(8);
    world.happen(&Event::RefuseOne);
    world.send(8);
    assert!(world.sent.is_empty() && world.pipeline.has_failed());
    world.pipeline.retry_failed();
    world.send(8);
    assert_eq!(world.sent.len(), 1);
}

#[test]
fn what_a_network_covers_goes_only_once_the_network_is_there() {
    let mut world = World::new();
    for host in 1..4 {
        world.ban(host, Some(world.router.now + 600_000));
    }
    world.settle();
    let network: IpNet = "192.0.2.0/24".parse().unwrap();
    let until = Timestamp::from_millisecond(world.router.now + 600_000).ok();
    world.desired.set(network, Wanted { until: until.into(), label: Label::test("test") });
    (1..4).for_each(|host| world.desired.remove(prefix(host)));
    world.send(8);
    world.happen(&Event::RefuseOne);
    world.send(8);
    assert!(world.sent.is_empty(), "{:?}", world.sent);
    // It may not come after all: then nothing waits for it.
    world.desired.remove(network);
    world.send(8);
    assert!(!world.sent.is_empty());
    world.desired.set(network, Wanted { until: until.into(), label: Label::test("test") });
    world.pipeline.retry_failed();
    world.send(8);
    world.answer(usize::MAX);
    assert!(world.router.entries.contains_key(&network));
    world.settle();
    assert_eq!(world.router.entries.len(), 1);
}

#[test]
fn a_ban_that_lapses_is_not_removed() {
    let mut world = World::new();
    world.ban(1, Some(world.router.now + 1_800_500));
    world.settle();
    let orders = world.orders;
    world.router.advance(1_800_500);
    world.desired.remove(prefix(1));
    world.send(8);
    assert_eq!(world.orders, orders);
}

#[test]
fn a_router_without_the_ipv6_table_gets_the_ipv4_bans() {
    let desired = Arc::new(Desired::new());
    let mut pipeline = new_pipeline(&desired, true, Counts::default());
    let now = Model { now: 0, ..Model::default() }.moment();
    let [four, six] = [prefix(1), "2001:db8::1/128".parse().unwrap()];
    for prefix in [four, six] {
        desired.set(prefix, Wanted { until: Moment::FOREVER, label: Label::test("test") });
    }
    assert_eq!(pipeline.print_due(), Some(Family::V4));
    pipeline.print_begins(Family::V4, now);
    pipeline.print_ends();
    assert_eq!(pipeline.print_due(), Some(Family::V6));
    pipeline.print_begins(Family::V6, now);
    pipeline.missing(Family::V6);
    pipeline.note(Changes::Prefixes(HashSet::from([four, six])));
    let mut budget = 100;
    assert_eq!(pipeline.next(now, &mut budget).map(|order| order.prefix), Some(four));
    assert_eq!(pipeline.next(now, &mut budget), None);
    assert!(pipeline.is_known());
}
