//! The bans that stand: where offences are decided, from where routers learn at once, and from where
//! bans lapse at the second they end.
//!
//! [`Desired`] is their one copy in memory, for a million bans should be small. Whoever changes it
//! holds the lock of this module until the ledger's writer has the change too, so that memory and
//! disk see the same order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use atalaya_wire::{BanTime, Escalation, Evidence, Name, Networks, NumberedOffence, Offence, canonical};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::config::ListConfig;
use crate::ledger::{Ban, Change, Ledger, Receipt};
use crate::policy::{self, Decision, Severity, Standing};
use crate::router::{Desired, Label, Wanted};

/// For how long an earlier ban makes the next one longer.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The jail, and the sensor, of a ban by hand.
pub const BY_HAND: &str = "manual";

/// The bans of one list, and what follows from a decision.
#[derive(Debug)]
pub struct Bans {
    list: ListConfig,
    severity: BTreeMap<Name, Severity>,
    ledger: Ledger,
    desired: Arc<Desired>,
    allow: RwLock<Arc<Networks>>,
    book: Mutex<Book>,
    counters: Counters,
}

/// What was decided since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Offences that led to a new ban.
    pub banned: u64,
    /// Offences that made a ban end later.
    pub extended: u64,
    /// Offences of addresses whose ban ends no sooner anyway.
    pub already_banned: u64,
    /// Offences of addresses on the allow list, and of addresses that no host has.
    pub allowed: u64,
    /// Offences whose ban was over when they arrived.
    pub too_late: u64,
    /// Bans that ended in time.
    pub lapsed: u64,
}

/// Why something cannot be done by hand.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    /// The address is allowed.
    #[error(
        "{0} touches the allow list: it is, or holds, an address that is never banned; change `allow` in the configuration and restart first"
    )]
    Allowed(IpNet),
    /// The ban would end where it begins.
    #[error("a ban needs at least one second, such as --for 30m")]
    NoTime,
}

/// What came of a ban by hand.
#[derive(Debug)]
pub struct ByHand {
    /// Whether anything changed; if not, a ban stands that ends no sooner.
    pub changed: bool,
    /// When the ban ends; `None` for a permanent one.
    pub until: Option<Timestamp>,
    /// Tells when it is on disk.
    pub receipt: Receipt,
}

/// What the lock is for.
#[derive(Debug, Default)]
struct Book {
    /// When to look at which ban, in milliseconds since 1970; a ban that was extended meanwhile is put
    /// back, one that was lifted falls out.
    ends: BinaryHeap<Reverse<(i64, IpNet)>>,
    /// The standing bans of more than one address.
    wide: BTreeSet<IpNet>,
    /// Labels, shared by all bans of one jail and sensor.
    labels: HashMap<(Name, Name), Arc<Label>>,
}

#[derive(Debug, Default)]
struct Counters {
    banned: AtomicU64,
    extended: AtomicU64,
    already_banned: AtomicU64,
    allowed: AtomicU64,
    too_late: AtomicU64,
    lapsed: AtomicU64,
}

/// A decision, to be logged once the routers know.
struct Decided {
    decision: Decision,
    prefix: IpNet,
    jail: Name,
    time: Timestamp,
    failures: u32,
}

// === impl Bans ===

impl Bans {
    /// Takes over what the ledger holds. Bans that are over, or whose addresses are allowed now, end.
    pub fn new(
        list: ListConfig,
        severity: BTreeMap<Name, Severity>,
        ledger: Ledger,
        desired: Arc<Desired>,
        allow: Networks,
        saved: Vec<(IpNet, Standing, Arc<Label>)>,
        now: Timestamp,
    ) -> Self {
        let mut book = Book::default();
        book.ends.reserve_exact(saved.len());
        let mut ended = Vec::new();
        let standing = saved.into_iter().filter_map(|(prefix, ban, label)| {
            let end = |at, by: &str| Change::End { prefix, at, by: by.to_owned() };
            if let Some(until) = ban.until.filter(|until| *until <= now) {
                ended.push(end(until, "lapsed"));
                return None;
            }
            if allow.overlaps(prefix) {
                ended.push(end(now, "allow list"));
                return None;
            }
            book.watch(prefix, ban);
            Some((prefix, Wanted { until: ban.until, label }))
        });
        desired.set_many(standing);
        if !ended.is_empty() {
            tracing::info!(bans = ended.len(), "bans ended while the enforcer was down, or are allowed now");
        }
        ledger.write_surely(ended);
        let (allow, book) = (RwLock::new(Arc::new(allow)), Mutex::new(book));
        Self { list, severity, ledger, desired, allow, book, counters: Counters::default() }
    }

    /// Decides on a sensor's offences, in their order. Bans are on their way to the routers when this
    /// returns; the receipt tells when the ledger has them, and the outbox's sequence.
    pub fn take(
        &self,
        sensor: &Name,
        outbox: &Name,
        offences: Vec<NumberedOffence>,
        now: Timestamp,
    ) -> Receipt {
        let Some(sequence) = offences.last().map(|last| last.sequence) else {
            return self.ledger.write(Vec::new());
        };
        let allow = self.allow();
        let mut decided = Vec::with_capacity(offences.len());
        let mut changes = Vec::with_capacity(offences.len() + 1);
        let mut book = self.lock();
        for NumberedOffence { offence, .. } in offences {
            decided.push(self.decide(&mut book, sensor, offence, &allow, now, &mut changes));
        }
        changes.push(Change::Through { sensor: sensor.clone(), outbox: outbox.clone(), sequence });
        let receipt = self.ledger.write(changes);
        drop(book);
        for one in &decided {
            self.counters.count(one.decision);
            one.log(sensor);
        }
        receipt
    }

    /// Bans by hand, from now; as for offences, a ban that stands can only become longer.
    pub fn ban(
        &self,
        prefix: IpNet,
        bantime: BanTime,
        reason: &str,
        now: Timestamp,
    ) -> Result<ByHand, HandError> {
        let prefix = crate::router::address_list::canonical(prefix);
        let mut book = self.lock();
        let before = self.standing(prefix);
        let mut changes = Vec::new();
        let ban = match policy::decide(prefix, now, bantime, before, &self.allow(), now) {
            Decision::Allowed => return Err(HandError::Allowed(prefix)),
            Decision::Lapsed => return Err(HandError::NoTime),
            Decision::AlreadyBanned => {
                let until = before.and_then(|ban| ban.until);
                return Ok(ByHand { changed: false, until, receipt: self.ledger.write(Vec::new()) });
            }
            Decision::Extended(ban) => ban,
            Decision::Banned(ban) => {
                book.begin(prefix, ban, before, &mut changes);
                ban
            }
        };
        let name: Name = BY_HAND.parse().expect("the constant is a name");
        let label = self.label(&mut book, &name, &name);
        self.desired.set(prefix, Wanted { until: ban.until, label });
        changes.push(Change::Ban(Box::new(Ban {
            prefix,
            since: now,
            until: ban.until,
            jail: name.clone(),
            sensor: name,
            evidence: if reason.is_empty() {
                Vec::new()
            } else {
                vec![Evidence::new(now, "by hand", reason)]
            },
            strikes: 0,
            ended: None,
            ended_by: None,
        })));
        let receipt = self.ledger.write_surely(changes);
        Ok(ByHand { changed: true, until: ban.until, receipt })
    }

    /// Lifts a ban; `None` where none stands.
    pub fn unban(&self, prefix: IpNet, by: &str, at: Timestamp) -> Option<Receipt> {
        let prefix = crate::router::address_list::canonical(prefix);
        let mut book = self.lock();
        self.standing(prefix)?;
        Some(self.lift(&mut book, prefix, by, at))
    }

    /// Ends the bans that are over; the routers let go of them by themselves. Returns how many.
    pub fn lapse(&self, now: Timestamp) -> usize {
        let mut book = self.lock();
        let mut changes = Vec::new();
        while let Some(Reverse((end, prefix))) = book.ends.peek().copied()
            && end <= now.as_millisecond()
        {
            book.ends.pop();
            let Some(ban) = self.standing(prefix) else { continue };
            match ban.until {
                Some(until) if until <= now => {
                    self.desired.remove(prefix);
                    book.wide.remove(&prefix);
                    changes.push(Change::End { prefix, at: until, by: "lapsed".to_owned() });
                }
                _ => book.watch(prefix, ban),
            }
        }
        let lapsed = changes.len();
        self.ledger.write_surely(changes);
        drop(book);
        self.counters.lapsed.fetch_add(lapsed as u64, Ordering::Relaxed);
        lapsed
    }

    /// What is never banned.
    pub fn allow(&self) -> Arc<Networks> {
        self.allow.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces what is never banned, and lifts the bans that touch what is new on it. Returns how many.
    pub fn set_allow(&self, allow: Networks, at: Timestamp) -> usize {
        let mut book = self.lock();
        let before = self.allow();
        let allow = Arc::new(allow);
        *self.allow.write().unwrap_or_else(PoisonError::into_inner) = allow.clone();
        // New while running are single addresses: routers', and this host's.
        let new = allow.iter().filter(|network| !before.iter().any(|known| known == *network));
        let single = new.filter(|network| self.desired.get(*network).is_some());
        let wide = book.wide.iter().copied().filter(|prefix| allow.overlaps(*prefix));
        let touched: BTreeSet<IpNet> = single.chain(wide).collect();
        for prefix in &touched {
            self.lift(&mut book, *prefix, "allow list", at);
        }
        touched.len()
    }

    /// How many bans stand.
    pub fn len(&self) -> usize {
        self.desired.len()
    }

    /// Whether no ban stands.
    pub fn is_empty(&self) -> bool {
        self.desired.is_empty()
    }

    /// What was decided since the start.
    pub fn counts(&self) -> Counts {
        self.counters.counts()
    }

    /// Decides on one offence and tells the routers. An offence that changes nothing has a change for
    /// the ledger where a ban stands, so that a ban that was decided but could not be written is written
    /// when the offence comes again.
    fn decide(
        &self,
        book: &mut Book,
        sensor: &Name,
        offence: Offence,
        allow: &Networks,
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Decided {
        let prefix = IpNet::from(canonical(offence.address));
        let before = self.standing(prefix);
        let bantime = match (&offence.escalation, before) {
            (Some(escalation), None) => self.escalated(prefix, &offence, escalation, now),
            _ => offence.bantime,
        };
        let decision = policy::decide(prefix, offence.time, bantime, before, allow, now);
        let decided = Decided {
            decision,
            prefix,
            jail: offence.jail.clone(),
            time: offence.time,
            failures: offence.failures,
        };
        let (ban, changed) = match (decision, before) {
            (Decision::Extended(ban) | Decision::Banned(ban), _) => (ban, true),
            (Decision::AlreadyBanned, Some(ban)) => (ban, false),
            (Decision::Allowed | Decision::Lapsed | Decision::AlreadyBanned, _) => return decided,
        };
        if changed {
            let label = self.label(book, &offence.jail, sensor);
            self.desired.set(prefix, Wanted { until: ban.until, label });
        }
        if matches!(decision, Decision::Banned(_)) {
            book.begin(prefix, ban, before, changes);
        }
        changes.push(Change::Ban(Box::new(Ban {
            prefix,
            since: offence.time.min(now),
            until: ban.until,
            jail: offence.jail,
            sensor: sensor.clone(),
            evidence: offence.evidence,
            strikes: 0,
            ended: None,
            ended_by: None,
        })));
        decided
    }

    /// The time of a ban that grows with those before it.
    fn escalated(
        &self,
        prefix: IpNet,
        offence: &Offence,
        escalation: &Escalation,
        now: Timestamp,
    ) -> BanTime {
        let jail = Some(&offence.jail).filter(|_| !escalation.overall);
        let since = now.checked_sub(REMEMBERED).unwrap_or(Timestamp::MIN);
        match self.ledger.earlier_bans(prefix, jail, since) {
            Ok(earlier) => escalation.time(offence.bantime, earlier.count, fastrand::f64()),
            Err(error) => {
                tracing::warn!(%prefix, %error, "earlier bans cannot be looked up: banned for the jail's own time");
                offence.bantime
            }
        }
    }

    fn lift(&self, book: &mut Book, prefix: IpNet, by: &str, at: Timestamp) -> Receipt {
        self.desired.remove(prefix);
        book.wide.remove(&prefix);
        book.forget_lifted(&self.desired);
        self.ledger.write_surely(vec![Change::End { prefix, at, by: by.to_owned() }])
    }

    fn label(&self, book: &mut Book, jail: &Name, sensor: &Name) -> Arc<Label> {
        /// Names are few in practice, but sensors choose those of jails.
        const MOST: usize = 100_000;
        if book.labels.len() > MOST {
            book.labels.clear();
        }
        let label = book
            .labels
            .entry((jail.clone(), sensor.clone()))
            .or_insert_with(|| Label::new(jail.clone(), sensor.clone(), &self.list, &self.severity).into());
        label.clone()
    }

    fn standing(&self, prefix: IpNet) -> Option<Standing> {
        self.desired.get(prefix).map(|wanted| Standing { until: wanted.until })
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Book ===

impl Book {
    /// A new ban, which may come before it was seen that the one before is over.
    fn begin(&mut self, prefix: IpNet, ban: Standing, before: Option<Standing>, changes: &mut Vec<Change>) {
        match before.and_then(|before| before.until) {
            // Its end is watched already, and the later one is found when that comes.
            Some(at) => changes.push(Change::End { prefix, at, by: "lapsed".to_owned() }),
            None => self.watch(prefix, ban),
        }
    }

    fn watch(&mut self, prefix: IpNet, ban: Standing) {
        if prefix.prefix_len() < prefix.max_prefix_len() {
            self.wide.insert(prefix);
        }
        if let Some(until) = ban.until {
            self.ends.push(Reverse((until.as_millisecond(), prefix)));
        }
    }

    /// Bans that are lifted and set again, over and over, must not pile up.
    fn forget_lifted(&mut self, desired: &Desired) {
        if self.ends.len() > 2 * desired.len() + 1000 {
            let mut seen = BTreeSet::new();
            self.ends.retain(|Reverse((_, prefix))| desired.get(*prefix).is_some() && seen.insert(*prefix));
        }
    }
}

// === impl Decided ===

impl Decided {
    fn log(&self, sensor: &Name) {
        let (address, jail, failures) = (self.prefix.addr(), &self.jail, self.failures);
        let until =
            |ban: Standing| ban.until.map_or_else(|| "for ever".to_owned(), |until| until.to_string());
        match self.decision {
            Decision::Banned(ban) => {
                tracing::info!(%address, %jail, %sensor, failures, until = until(ban), "ban");
            }
            Decision::Extended(ban) => {
                tracing::info!(%address, %jail, %sensor, failures, until = until(ban), "extended");
            }
            Decision::AlreadyBanned => tracing::debug!(%address, %jail, %sensor, "already banned"),
            Decision::Allowed => {
                tracing::info!(%address, %jail, %sensor, "not banned: the address is on the allow list");
            }
            Decision::Lapsed => {
                tracing::info!(%address, %jail, %sensor, time = %self.time, "not banned: the ban would be over already");
            }
        }
    }
}

// === impl Counters ===

impl Counters {
    fn count(&self, decision: Decision) {
        let counter = match decision {
            Decision::Banned(_) => &self.banned,
            Decision::Extended(_) => &self.extended,
            Decision::AlreadyBanned => &self.already_banned,
            Decision::Allowed => &self.allowed,
            Decision::Lapsed => &self.too_late,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            banned: read(&self.banned),
            extended: read(&self.extended),
            already_banned: read(&self.already_banned),
            allowed: read(&self.allowed),
            too_late: read(&self.too_late),
            lapsed: read(&self.lapsed),
        }
    }
}

#[cfg(test)]
mod tests {
    use atalaya_wire::Seconds;

    use super::*;
    use crate::ledger::{Selection, Terms, Writer};

    struct Scene {
        bans: Bans,
        desired: Arc<Desired>,
        ledger: Ledger,
        _writer: Writer,
        _folder: tempfile::TempDir,
    }

    fn scene(saved: &[(&str, Option<i64>)], allow: &str) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _, writer) = Ledger::open(folder.path(), &Terms::default(), &|jail, sensor| {
            Label::new(jail, sensor, &ListConfig::default(), &BTreeMap::new())
        })
        .unwrap();
        let desired = Arc::new(Desired::new());
        let allow: Networks = [allow.parse().unwrap()].into_iter().collect();
        let saved = saved
            .iter()
            .map(|(prefix, until)| (net(prefix), Standing { until: until.map(at) }, Label::test("saved")))
            .collect();
        let bans = Bans::new(
            ListConfig::default(),
            BTreeMap::new(),
            ledger.clone(),
            desired.clone(),
            allow,
            saved,
            at(0),
        );
        Scene { bans, desired, ledger, _writer: writer, _folder: folder }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn offence(sequence: u64, address: &str, second: i64) -> NumberedOffence {
        let offence = Offence {
            jail: "ssh".parse().unwrap(),
            address: address.parse().unwrap(),
            time: at(second),
            failures: 3,
            bantime: BanTime::For(Seconds(1800)),
            escalation: None,
            evidence: Vec::new(),
        };
        NumberedOffence { sequence, offence }
    }

    impl Scene {
        fn take(&self, offence: NumberedOffence, now: i64) -> Receipt {
            self.bans.take(&"web-1".parse().unwrap(), &"o".parse().unwrap(), vec![offence], at(now))
        }

        fn until(&self, prefix: &str) -> Option<Timestamp> {
            self.desired.get(net(prefix)).and_then(|wanted| wanted.until)
        }

        fn in_ledger(&self, now: i64) -> Vec<(IpNet, u32)> {
            let mut bans = Vec::new();
            self.ledger
                .each_ban(&Selection::default(), at(now), &mut |ban| {
                    bans.push((ban.prefix, ban.strikes));
                    true
                })
                .unwrap();
            bans
        }
    }

    #[tokio::test]
    async fn a_ban_grows_with_those_before_it_of_its_own_jail_or_of_all() {
        let scene = scene(&[], "10.0.0.0/8");
        let name = |text: &str| text.parse::<Name>().unwrap();
        let mut sequence = 0;
        let mut ban = |jail: &str, second: i64, overall: bool| {
            sequence += 1;
            let mut numbered = offence(sequence, "192.0.2.1", second);
            numbered.offence.jail = name(jail);
            numbered.offence.bantime = BanTime::For(Seconds(600));
            numbered.offence.escalation = Some(Escalation {
                thousandths: vec![1000, 2000, 4000],
                max: None,
                random: None,
                overall,
                decay: None,
            });
            scene.bans.take(&name("web"), &name("box"), vec![numbered], at(second))
        };
        let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
        let left = |second: i64| {
            scene.bans.standing(prefix).unwrap().until.unwrap().duration_since(at(second)).as_secs()
        };
        for (jail, second, overall, expected) in [
            ("a", 0, false, 600),
            ("a", 1000, false, 1200),
            ("b", 3000, false, 600),
            ("b", 4000, true, 2400),
            ("a", 7000, false, 2400),
            // Long ago is forgotten.
            ("a", 4_000_000, false, 600),
        ] {
            scene.bans.lapse(at(second));
            ban(jail, second, overall).committed().await.unwrap();
            assert_eq!(left(second), expected, "{jail} at {second}");
        }
    }

    #[tokio::test]
    async fn routers_know_of_a_ban_before_the_ledger_has_it() {
        let scene = scene(&[], "10.0.0.0/8");
        let receipt = scene.take(offence(1, "::ffff:192.0.2.1", 0), 5);
        assert_eq!(scene.until("192.0.2.1/32"), Some(at(1800)));
        receipt.committed().await.unwrap();
        assert_eq!(scene.in_ledger(5), [(net("192.0.2.1/32"), 1)]);
        let label = scene.desired.get(net("192.0.2.1/32")).unwrap().label;
        assert_eq!(label.comment, "ssh from web-1");
    }

    #[tokio::test]
    async fn an_extended_ban_lapses_at_its_later_end_and_then_bans_again_with_the_next_strike() {
        let scene = scene(&[], "10.0.0.0/8");
        scene.take(offence(1, "192.0.2.1", 0), 0).committed().await.unwrap();
        scene.take(offence(2, "192.0.2.1", 600), 600).committed().await.unwrap();
        assert_eq!(scene.until("192.0.2.1/32"), Some(at(2400)));
        assert_eq!(scene.bans.lapse(at(1800)), 0);
        assert_eq!(scene.bans.lapse(at(2399)), 0);
        assert_eq!(scene.bans.lapse(at(2400)), 1);
        assert!(scene.bans.is_empty());
        scene.take(offence(3, "192.0.2.1", 2400), 2400).committed().await.unwrap();
        assert_eq!(scene.in_ledger(2400), [(net("192.0.2.1/32"), 2)]);
        let counts = scene.bans.counts();
        assert_eq!((counts.banned, counts.extended, counts.lapsed), (2, 1, 1));
    }

    #[tokio::test]
    async fn what_is_over_or_allowed_does_not_stand_after_a_start() {
        let saved = [
            ("192.0.2.1/32", Some(10)),
            ("192.0.2.2/32", Some(-1)),
            ("10.1.0.0/16", None),
            ("2001:db8::/64", None),
        ];
        let scene = scene(&saved, "10.0.0.0/8");
        assert_eq!(scene.bans.len(), 2);
        assert!(
            scene.desired.get(net("2001:db8::/64")).is_some() && scene.until("192.0.2.1/32") == Some(at(10))
        );
    }

    #[tokio::test]
    async fn a_ban_by_hand_is_refused_for_allowed_networks_and_never_shortens() {
        let scene = scene(&[], "10.0.0.0/8");
        let ban =
            |prefix: &str, seconds| scene.bans.ban(net(prefix), BanTime::For(Seconds(seconds)), "why", at(0));
        assert!(matches!(ban("10.1.2.3/32", 60), Err(HandError::Allowed(_))));
        assert!(matches!(ban("0.0.0.0/0", 60), Err(HandError::Allowed(_))));
        assert!(matches!(ban("192.0.2.1/32", 0), Err(HandError::NoTime)));
        assert!(ban("192.0.2.7/24", 60).unwrap().changed);
        let shorter = ban("192.0.2.0/24", 30).unwrap();
        assert!(!shorter.changed && shorter.until == Some(at(60)));
        let receipt = scene.bans.unban(net("192.0.2.0/24"), "by hand", at(1)).unwrap();
        receipt.committed().await.unwrap();
        assert!(scene.bans.is_empty() && scene.in_ledger(1).is_empty());
        assert!(scene.bans.unban(net("192.0.2.0/24"), "by hand", at(1)).is_none());
    }

    #[tokio::test]
    async fn an_address_that_becomes_allowed_is_unbanned_and_so_is_a_network_around_it() {
        let scene = scene(
            &[("192.0.2.1/32", None), ("198.51.100.0/24", None), ("203.0.113.1/32", None)],
            "10.0.0.0/8",
        );
        let allow = ["192.0.2.1/32", "198.51.100.9/32"].into_iter().map(net).collect();
        assert_eq!(scene.bans.set_allow(allow, at(0)), 2);
        assert_eq!(scene.bans.len(), 1);
        assert!(scene.desired.get(net("203.0.113.1/32")).is_some());
    }

    #[test]
    fn lifting_and_banning_over_and_over_does_not_pile_up() {
        let scene = scene(&[], "10.0.0.0/8");
        for round in 0..5000 {
            scene.bans.ban(net("192.0.2.1/32"), BanTime::For(Seconds(60)), "", at(round)).unwrap();
            scene.bans.unban(net("192.0.2.1/32"), "by hand", at(round)).unwrap();
        }
        assert!(scene.bans.lock().ends.len() <= 1001);
    }
}
