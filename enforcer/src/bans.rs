//! The bans that stand: where offences are decided, from where routers learn at once, and from where
//! bans lapse at the second they end.
//!
//! What is changed is changed under one lock, which is held until the ledger's writer has the change too, so
//! that memory and disk see the same order. The ledger keeps each ban; what routers are to hold is derived from
//! them by [`crate::bans::widen`], in [`Desired`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use atalaya_wire::{
    BanTime, Escalation, Evidence, Name, Networks, NumberedOffence, Offence, Seconds, canonical,
};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use crate::config::{ListConfig, ProtectConfig, WidenConfig};
use crate::desired::{Desired, Label};
use crate::intake::fleet;
use crate::ledger::{Allowance, Ban, Change, GoodLogin, Ledger, LedgerError, MOST_LOGINS, Receipt, Spared};
use crate::prefixes;
use crate::prefixes::canonical as canonical_prefix;

pub mod allow;
mod book;
mod counts;
pub mod names;
pub mod policy;
pub mod protect;
mod reachable;
pub mod widen;

pub use counts::Counts;
pub use reachable::EXEMPT;

use allow::{Allow, AllowError, Answer, What};
use book::Book;
use counts::Counters;
use policy::{Decision, Exemption, Severity, Standing};
use protect::Protect;
use reachable::Reachable;
use widen::Widen;

/// For how long an earlier ban makes the next one longer.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The jail, and the sensor, of a ban by hand.
pub const BY_HAND: &str = "manual";

/// What decisions follow.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// What entries say.
    pub list: ListConfig,
    /// How bad what a jail sees is.
    pub severity: BTreeMap<Name, Severity>,
    /// When many bans become one of the network around them.
    pub widen: WidenConfig,
    /// Whether a router takes the bans of some jails only: then only bans of one jail become one.
    pub by_jail: bool,
    /// How bans grow whose offences say nothing of it.
    pub escalation: Option<Escalation>,
    /// Who is not banned without a word.
    pub protect: ProtectConfig,
}

/// The bans, and what follows from a decision.
#[derive(Debug)]
pub struct Bans {
    rules: Rules,
    ledger: Ledger,
    /// What is never banned, for those who only read it.
    allow: RwLock<Arc<Networks>>,
    book: Mutex<Book>,
    counters: Counters,
    names_changed: Notify,
}

/// Why something cannot be done by hand.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    /// The address is allowed.
    #[error(
        "{0} touches the allow list: it is, or holds, an address that is never banned; take it off the list first (`atalaya-enforcer allow` shows it)"
    )]
    Allowed(IpNet),
    /// The address is protected.
    #[error(
        "{} logged in well at {} ({} as {} on {}): banning {prefix} could lock someone out; add --force to ban it all the same",
        login.address, login.last.strftime("%Y-%m-%d %H:%M:%SZ"), login.service, login.account, login.sensor
    )]
    Protected {
        /// What was to be banned.
        prefix: IpNet,
        /// Whom it would lock out.
        login: Box<GoodLogin>,
    },
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

/// What came of a change of the allow list.
#[derive(Debug)]
pub struct Allowed {
    /// The entry.
    pub entry: Allowance,
    /// How many bans were lifted for it.
    pub lifted: usize,
    /// Tells when it is on disk.
    pub receipt: Receipt,
}

/// A decision, to be logged once the routers know.
struct Decided {
    decision: Decision,
    address: IpAddr,
    /// What its ban covers.
    prefix: IpNet,
    jail: Name,
    time: Timestamp,
    failures: u32,
    /// Who was spared.
    login: Option<GoodLogin>,
}

// === impl Bans ===

impl Bans {
    /// Takes over what the ledger holds. Bans that are over, or whose addresses are allowed now, end.
    pub fn new(
        rules: Rules,
        ledger: Ledger,
        desired: Arc<Desired>,
        mut allow: Allow,
        saved: Vec<(IpNet, Standing, Arc<Label>)>,
        logins: Vec<GoodLogin>,
        now: Timestamp,
    ) -> Self {
        let mut ended: Vec<Change> =
            allow.expire(now).into_iter().map(|entry| Change::Disallow { what: entry.what }).collect();
        let networks = allow.networks();
        let mut protect = Protect::new(rules.protect.clone(), MOST_LOGINS);
        for login in logins {
            protect.note(login, now);
        }
        let widen = Widen::new(rules.widen, rules.by_jail);
        let mut book = Book::new(desired, widen, Reachable::new(networks.clone(), protect), allow);
        book.ends.reserve_exact(saved.len());
        let standing = saved.into_iter().filter(|(prefix, ban, _)| {
            let mut end = |at, by: &str| {
                ended.push(Change::End { prefix: *prefix, at, by: by.to_owned() });
                false
            };
            match ban.until {
                Some(until) if until <= now => end(until, "lapsed"),
                _ if networks.overlaps(*prefix) => end(now, "allow list"),
                _ => true,
            }
        });
        book.load(standing, now);
        if !ended.is_empty() {
            tracing::info!(bans = ended.len(), "ended while the enforcer was down, or are allowed now");
        }
        ledger.write_surely(ended);
        let allow = RwLock::new(Arc::clone(&book.reachable.networks));
        Self {
            rules,
            ledger,
            allow,
            book: Mutex::new(book),
            counters: Counters::default(),
            names_changed: Notify::new(),
        }
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
        let through = Change::Through { sensor: sensor.clone(), outbox: outbox.clone(), sequence };
        let offences = offences.into_iter().map(|numbered| numbered.offence);
        self.judge(sensor, offences, now, |changes| {
            self.ledger.write(changes.into_iter().chain([through]).collect())
        })
    }

    /// Decides on the offences of fleet jails, which nobody sends again.
    pub fn take_fleet(&self, offences: Vec<Offence>, now: Timestamp) -> Receipt {
        let sensor: Name = fleet::SENSOR.parse().expect("the constant is a name");
        self.judge(&sensor, offences.into_iter(), now, |changes| self.ledger.write_surely(changes))
    }

    /// Bans by hand, from now; as for offences, a ban that stands can only become longer. Who is protected by a
    /// good login is banned by force only.
    pub fn ban(
        &self,
        prefix: IpNet,
        bantime: BanTime,
        reason: &str,
        force: bool,
        now: Timestamp,
    ) -> Result<ByHand, HandError> {
        let prefix = canonical_prefix(prefix);
        let mut book = self.lock();
        let before = book.standing(prefix);
        let login = book.reachable.protect.within(prefix, now).filter(|_| !force).cloned();
        let exemption = book.exemption(prefix, login.is_some());
        let mut changes = Vec::new();
        let ban = match policy::decide(now, bantime, before, exemption, now) {
            Decision::Allowed => return Err(HandError::Allowed(prefix)),
            Decision::Spared => {
                return Err(login.map_or(HandError::NoTime, |login| HandError::Protected {
                    prefix,
                    login: Box::new(login),
                }));
            }
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
        book.set(prefix, ban, label, now);
        let evidence =
            if reason.is_empty() { Vec::new() } else { vec![Evidence::new(now, "by hand", reason)] };
        changes.push(ban_of(prefix, now, ban, name.clone(), name, evidence));
        let receipt = self.ledger.write_surely(changes);
        if before.is_none() {
            self.counters.count_by_hand();
        }
        Ok(ByHand { changed: true, until: ban.until, receipt })
    }

    /// Takes over a ban that was found on a router while the ledger, which was lost, is gathered again. Whether
    /// it stands now for this; not where another stands, or where its address is allowed or protected.
    pub fn adopt(
        &self,
        prefix: IpNet,
        until: Option<Timestamp>,
        jail: Name,
        sensor: Name,
        router: &Name,
        now: Timestamp,
    ) -> bool {
        let prefix = canonical_prefix(prefix);
        let mut book = self.lock();
        let before = book.standing(prefix);
        let protected = book.reachable.protect.within(prefix, now).is_some();
        if before.is_some()
            || book.exemption(prefix, protected) != Exemption::None
            || until.is_some_and(|until| until <= now)
        {
            return false;
        }
        let ban = Standing {
            until: until.and_then(|until| Timestamp::from_millisecond(until.as_millisecond()).ok()),
        };
        let mut changes = Vec::new();
        book.begin(prefix, ban, None, &mut changes);
        let label = self.label(&mut book, &jail, &sensor);
        book.set(prefix, ban, label, now);
        let evidence = vec![Evidence::new(now, router.as_str(), &format!("found on router {router}"))];
        changes.push(ban_of(prefix, now, ban, jail, sensor, evidence));
        self.ledger.write_surely(changes);
        drop(book);
        self.counters.count_adopted();
        true
    }

    /// Lifts a ban; `None` where none stands. Of an IPv6 address, the ban of the unit around it is lifted where it
    /// has none of its own. For an hour no widened network covers what was unbanned; an address that only a
    /// widened network covers is made reachable so, too.
    pub fn unban(&self, prefix: IpNet, by: &str, at: Timestamp) -> Option<Receipt> {
        let prefix = canonical_prefix(prefix);
        let mut book = self.lock();
        let banned = book.banned_as(prefix);
        let network = book.widen.wide_around(prefix);
        if banned.is_none() && network.is_none() {
            return None;
        }
        let forgotten = book.reachable.exempt(banned.unwrap_or(prefix), at);
        let mut changes = Vec::new();
        if let Some(prefix) = banned {
            book.lift(prefix, at);
            changes.push(Change::End { prefix, at, by: by.to_owned() });
        }
        let receipt = self.ledger.write_surely(changes);
        if let Some(network) = network {
            book.review(prefix, at);
            tracing::info!(%prefix, %network, "a widened network is let go for what was unbanned in it");
        }
        if let Some(forgotten) = forgotten {
            book.review(forgotten, at);
        }
        Some(receipt)
    }

    /// Ends what is over: bans, of which the routers let go by themselves, entries of the allow list, and
    /// protection. Returns how many bans.
    pub fn lapse(&self, now: Timestamp) -> usize {
        let mut book = self.lock();
        let mut changes = Vec::new();
        book.lapse(now, |prefix, at| changes.push(Change::End { prefix, at, by: "lapsed".to_owned() }));
        let lapsed = changes.len();
        for prefix in book.reachable.expire(now) {
            book.review(prefix, now);
        }
        let expired = if book.allow.next_end().is_some_and(|end| end <= now) {
            book.allow.expire(now)
        } else {
            Vec::new()
        };
        changes.extend(expired.iter().map(|entry| Change::Disallow { what: entry.what.clone() }));
        self.ledger.write_surely(changes);
        if !expired.is_empty() {
            self.apply_allow(&mut book, now);
        }
        drop(book);
        for entry in expired {
            tracing::info!(what = entry.what, "off the allow list: its time is over");
            self.names_changed.notify_one();
        }
        self.counters.count_lapsed(lapsed);
        lapsed
    }

    /// Remembers a good login, which protects its address.
    pub fn note_login(&self, login: GoodLogin, now: Timestamp) {
        let prefix = IpNet::from(login.address);
        let mut book = self.lock();
        let Some(noted) = book.reachable.protect.note(login.clone(), now) else { return };
        if noted.new {
            book.review(prefix, now);
        }
        if noted.write {
            self.ledger.write_surely(vec![Change::Login(Box::new(login))]);
        }
    }

    /// Allows an address, a network or a DNS name until a time, or for ever; lifts the bans that it touches.
    pub fn allow_at_run_time(
        &self,
        what: &str,
        until: Option<Timestamp>,
        reason: &str,
        by: &str,
        now: Timestamp,
    ) -> Result<Allowed, AllowError> {
        let what = What::parse(what)?.key();
        let (reason, by) = (reason.to_owned(), by.to_owned());
        let entry = Allowance { what, since: now, until, reason, by };
        let mut book = self.lock();
        book.allow.insert(entry.clone(), now)?;
        let receipt = self.ledger.write_surely(vec![Change::Allow(Box::new(entry.clone()))]);
        let lifted = self.apply_allow(&mut book, now);
        drop(book);
        self.names_changed.notify_one();
        Ok(Allowed { entry, lifted, receipt })
    }

    /// Takes back what was allowed at run time.
    pub fn disallow(&self, what: &str, now: Timestamp) -> Result<Allowed, AllowError> {
        let what = What::parse(what)?;
        let mut book = self.lock();
        let entry = book.allow.remove(&what)?;
        let receipt = self.ledger.write_surely(vec![Change::Disallow { what: what.key() }]);
        let lifted = self.apply_allow(&mut book, now);
        Ok(Allowed { entry, lifted, receipt })
    }

    /// Replaces the addresses of the routers and of this host, which are allowed too. Returns how many bans
    /// were lifted for it.
    pub fn set_own_addresses(&self, addresses: Vec<IpAddr>, now: Timestamp) -> usize {
        let mut book = self.lock();
        if book.allow.set_own(addresses) { self.apply_allow(&mut book, now) } else { 0 }
    }

    /// Takes note of what a DNS name on the allow list stands for.
    pub fn set_answer(&self, name: &str, answer: Answer, now: Timestamp) {
        let addresses = answer.addresses.clone();
        let mut book = self.lock();
        // It may have gone from the list while it was looked up.
        if !book.allow.names().contains(name) || !book.allow.set_answer(name, answer) {
            return;
        }
        let lifted = self.apply_allow(&mut book, now);
        drop(book);
        tracing::info!(name, ?addresses, lifted, "a name on the allow list has these addresses now");
    }

    /// What was allowed at run time.
    pub fn allowances(&self) -> Vec<Allowance> {
        self.lock().allow.entries()
    }

    /// The DNS names on the allow list, and what is known of each.
    pub fn answers(&self) -> BTreeMap<String, Answer> {
        self.lock().allow.answers()
    }

    /// The DNS names on the allow list.
    pub fn allowed_names(&self) -> BTreeSet<String> {
        self.lock().allow.names()
    }

    /// Waits until the names on the allow list may be others.
    pub async fn names_changed(&self) {
        self.names_changed.notified().await;
    }

    /// What is never banned.
    pub fn allow(&self) -> Arc<Networks> {
        self.allow.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest offences of protected addresses, the latest first. Blocks: it reads the disk.
    pub fn spared(&self, limit: usize) -> Result<Vec<Spared>, LedgerError> {
        self.ledger.spared(limit)
    }

    /// How many addresses are protected by a good login.
    pub fn protected(&self) -> usize {
        self.lock().reachable.protect.len()
    }

    /// As what an address is banned: by itself, or by the unit around it where it is an IPv6 one; `None` where
    /// neither is banned.
    pub fn banned_as(&self, prefix: IpNet) -> Option<IpNet> {
        self.lock().banned_as(canonical_prefix(prefix))
    }

    /// The good login that protects an address, or an address within a network.
    pub fn protected_by(&self, prefix: IpNet, now: Timestamp) -> Option<GoodLogin> {
        self.lock().reachable.protect.within(canonical_prefix(prefix), now).cloned()
    }

    /// What one offender is counted and banned by: an IPv4 address, the unit around an IPv6 one.
    pub fn unit_of(&self, address: IpAddr) -> IpNet {
        prefixes::unit_of(canonical(address), self.rules.widen.ipv6_prefix)
    }

    /// How many networks are widened.
    pub fn widened(&self) -> usize {
        self.lock().widen.wide()
    }

    /// The widened network that covers an address or a network.
    pub fn widened_around(&self, prefix: IpNet) -> Option<IpNet> {
        self.lock().widen.wide_around(canonical_prefix(prefix))
    }

    /// How many bans stand.
    pub fn len(&self) -> usize {
        self.lock().widen.bans().len()
    }

    /// Whether no ban stands.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was decided since the start.
    pub fn counts(&self) -> Counts {
        self.counters.counts()
    }

    /// Decides on offences and tells the routers, hands what changed to the ledger, and logs.
    fn judge(
        &self,
        sensor: &Name,
        offences: impl ExactSizeIterator<Item = Offence>,
        now: Timestamp,
        write: impl FnOnce(Vec<Change>) -> Receipt,
    ) -> Receipt {
        let mut decided = Vec::with_capacity(offences.len());
        let mut changes = Vec::with_capacity(offences.len() + 1);
        let mut book = self.lock();
        for offence in offences {
            decided.push(self.decide(&mut book, sensor, offence, now, &mut changes));
        }
        let receipt = write(changes);
        drop(book);
        for one in &decided {
            self.counters.count(one.decision);
            one.log(sensor);
        }
        receipt
    }

    /// Decides on one offence and tells the routers. An offence that changes nothing has a change for
    /// the ledger where a ban stands, so that a ban that was decided but could not be written is written
    /// when the offence comes again.
    fn decide(
        &self,
        book: &mut Book,
        sensor: &Name,
        offence: Offence,
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Decided {
        let address = canonical(offence.address);
        let prefix = book.offender(address, now);
        let before = book.standing(prefix);
        let login = book.reachable.protect.of(address, now).cloned();
        let exemption = book.exemption(prefix, login.is_some());
        let escalation = offence.escalation.as_ref().or(self.rules.escalation.as_ref());
        let stands = before.is_some_and(|ban| ban.until.is_none_or(|until| until > now));
        let bantime = match escalation {
            Some(escalation) if !stands && exemption == Exemption::None => {
                self.escalated(prefix, &offence, escalation, now)
            }
            _ => offence.bantime,
        };
        let decision = policy::decide(offence.time, bantime, before, exemption, now);
        let (jail, time, failures) = (offence.jail.clone(), offence.time, offence.failures);
        let decided = Decided { decision, address, prefix, jail, time, failures, login };
        let (ban, changed) = match (decision, before) {
            (Decision::Extended(ban) | Decision::Banned(ban), _) => (ban, true),
            (Decision::AlreadyBanned, Some(ban)) => (ban, false),
            (Decision::Spared, _) => {
                changes.extend(decided.spared(sensor, offence, now));
                return decided;
            }
            (Decision::Allowed | Decision::Lapsed | Decision::AlreadyBanned, _) => return decided,
        };
        if changed {
            let label = self.label(book, &offence.jail, sensor);
            book.set(prefix, ban, label, now);
        }
        if matches!(decision, Decision::Banned(_)) {
            book.begin(prefix, ban, before, changes);
        }
        let since = offence.time.min(now);
        changes.push(ban_of(prefix, since, ban, offence.jail, sensor.clone(), offence.evidence));
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
            Ok(earlier) => {
                let quiet =
                    earlier.last_end.map_or(0, |end| offence.time.min(now).duration_since(end).as_secs());
                let count = escalation.remembered(earlier.count, Seconds(u64::try_from(quiet).unwrap_or(0)));
                escalation.time(offence.bantime, count, fastrand::f64())
            }
            Err(error) => {
                tracing::warn!(%prefix, %error, "earlier bans cannot be looked up: banned for the jail's own time");
                offence.bantime
            }
        }
    }

    /// Makes what the allow list is made of hold: lifts the bans that touch what is new on it, and weighs the
    /// widened networks around what is new or gone. Returns how many bans.
    fn apply_allow(&self, book: &mut Book, at: Timestamp) -> usize {
        let before = Arc::clone(&book.reachable.networks);
        let allow = Arc::new(book.allow.networks());
        book.reachable.networks = Arc::clone(&allow);
        *self.allow.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&allow);
        let (old, new): (BTreeSet<IpNet>, BTreeSet<IpNet>) =
            (before.iter().collect(), allow.iter().collect());
        let mut changes = Vec::new();
        for network in new.difference(&old) {
            for prefix in book.widen.bans().touching(*network) {
                book.lift(prefix, at);
                changes.push(Change::End { prefix, at, by: "allow list".to_owned() });
            }
        }
        let lifted = changes.len();
        self.ledger.write_surely(changes);
        for network in new.symmetric_difference(&old) {
            book.review(*network, at);
        }
        if lifted > 0 {
            tracing::warn!(bans = lifted, "bans lifted: their addresses are on the allow list now");
        }
        lifted
    }

    fn label(&self, book: &mut Book, jail: &Name, sensor: &Name) -> Arc<Label> {
        book.label(jail, sensor, &self.rules.list, &self.rules.severity)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Decided ===

impl Decided {
    /// What the ledger keeps of an offence that led to no ban because of a good login.
    fn spared(&self, sensor: &Name, offence: Offence, now: Timestamp) -> Option<Change> {
        let login = self.login.as_ref()?;
        let why =
            format!("{} logged in on {} by {} at {}", login.account, login.sensor, login.service, login.last);
        let (address, jail, sensor, evidence) =
            (self.address, offence.jail, sensor.clone(), offence.evidence);
        Some(Change::Spared(Box::new(Spared { address, jail, sensor, at: now, why, evidence })))
    }

    fn log(&self, sensor: &Name) {
        let (address, jail, failures) = (self.address, &self.jail, self.failures);
        let covers = Some(self.prefix).filter(|prefix| prefix.prefix_len() < prefix.max_prefix_len());
        let covers = covers.map(tracing::field::display);
        let until =
            |ban: Standing| ban.until.map_or_else(|| "for ever".to_owned(), |until| until.to_string());
        match self.decision {
            Decision::Banned(ban) => {
                tracing::info!(%address, covers, %jail, %sensor, failures, until = until(ban), "ban");
            }
            Decision::Extended(ban) => {
                tracing::info!(%address, covers, %jail, %sensor, failures, until = until(ban), "extended");
            }
            Decision::AlreadyBanned => tracing::debug!(%address, %jail, %sensor, "already banned"),
            Decision::Allowed => {
                tracing::info!(%address, %jail, %sensor, "not banned: the address is on the allow list");
            }
            Decision::Spared => {
                if let Some(login) = &self.login {
                    tracing::warn!(
                        %address, %jail, %sensor, failures,
                        account = login.account, service = login.service, host = %login.sensor, login = %login.last,
                        "spared: someone logged in well from this address lately; `atalaya-enforcer ban --force` bans it all the same"
                    );
                }
            }
            Decision::Lapsed => {
                tracing::info!(%address, %jail, %sensor, time = %self.time, "not banned: the ban would be over already");
            }
        }
    }
}

fn ban_of(
    prefix: IpNet,
    since: Timestamp,
    ban: Standing,
    jail: Name,
    sensor: Name,
    evidence: Vec<Evidence>,
) -> Change {
    let (strikes, ended, ended_by) = (0, None, None);
    Change::Ban(Box::new(Ban {
        prefix,
        since,
        until: ban.until,
        jail,
        sensor,
        evidence,
        strikes,
        ended,
        ended_by,
    }))
}

#[cfg(test)]
mod tests;
