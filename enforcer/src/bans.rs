//! The bans that stand: where offences are decided, from where routers learn at once, and from where
//! bans expire at the second they end.
//!
//! What is changed is changed under one lock, which is held until the ledger's writer has the change too, so
//! that memory and disk see the same order. The ledger keeps each ban; what routers are to hold is derived from
//! them by [`widen`], in [`Desired`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use atalaya_wire::{Escalation, Evidence, Name, Nat64, Networks, NumberedOffence, Offence};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::desired::{Desired, Labels, Moment, Origin, Wanted};
use crate::ledger::{
    Allowance, Change, Claim, EXPIRED, GoodLogin, Ledger, LedgerError, MOST_LOGINS, ProtectedOffence, Receipt,
};
use crate::prefixes::{self, canonical};

pub mod allow;
mod allowing;
mod book;
mod claims;
mod counts;
mod cut;
mod decided;
pub mod decision;
mod earlier;
mod hand;
pub mod names;
pub mod protect;
mod reachable;
mod reconfigure;
mod rulings;
mod standing;
mod take_back;
pub mod widen;

pub use allowing::{AllowEffect, Allowed, CutNetwork};
pub use counts::DecisionCounts;
pub use earlier::Earlier;
pub use hand::{ByHand, HandError};
pub use reachable::EXEMPT;
pub use standing::{Standing, StandingBan, WidenedNetwork};
pub use take_back::{TakenBack, TakenBackAll};

use allow::{Allow, AllowedBecause, OwnNetwork, Resolved};
use book::{Book, Growth, NewBan};
use counts::Counters;
use decision::Exemption;
use protect::{Protect, ProtectConfig};
use reachable::Reachable;
use widen::{Widen, WidenConfig};

/// The settings that decisions follow, until a reload brings others.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// What entries say, and how bad what a jail sees is.
    pub labels: Labels,
    /// When many bans become one of the network around them.
    pub widen: WidenConfig,
    /// Whether a router takes the bans of some jails only: then only bans of one jail become one.
    pub by_jail: bool,
    /// How bans grow whose offences say nothing of it.
    pub escalation: Option<Escalation>,
    /// Who is not banned without a word.
    pub protect: ProtectConfig,
    /// The most addresses that the logins of one sensor protect; any number without it.
    pub protected_by_one: Option<usize>,
    /// The prefixes of NAT64 beside the well-known one.
    pub nat64: Nat64,
}

/// So many bans are gone through under one lock, so that no decision waits for long.
const TOGETHER: usize = 256;

/// The bans, and what follows from a decision.
#[derive(Debug)]
pub struct Bans {
    rules: RwLock<Arc<Rules>>,
    ledger: Ledger,
    /// What is never banned, for those who only read it.
    allow: RwLock<Arc<Networks>>,
    book: Mutex<Book>,
    /// Held while one waits for the book, so that who takes it again and again lets others in between.
    turn: Mutex<()>,
    counters: Counters,
    names_changed: Notify,
}

// === impl Bans ===

impl Bans {
    /// Takes over what the ledger holds. Bans that are over, or whose addresses are allowed now, end.
    pub fn new(
        mut rules: Rules,
        ledger: Ledger,
        desired: Arc<Desired>,
        mut allow: Allow,
        saved: Vec<(IpNet, Wanted)>,
        logins: Vec<GoodLogin>,
        now: Timestamp,
    ) -> Self {
        let mut ended: Vec<Change> =
            allow.expire(now).into_iter().map(|entry| Change::Disallow { what: entry.what }).collect();
        let networks = rules.nat64.networks(&allow.networks());
        let mut protect = Protect::new(rules.protect.clone(), MOST_LOGINS, rules.protected_by_one);
        for login in logins {
            protect.note(login, now);
        }
        let widen = Widen::new(rules.widen, rules.by_jail);
        let labels = std::mem::take(&mut rules.labels);
        let reachable = Reachable::new(networks.clone(), protect, rules.nat64.clone());
        let mut book = Book::new(desired, widen, reachable, allow, labels);
        book.ends.reserve_exact(saved.len());
        let standing = saved.into_iter().filter(|(prefix, ban)| {
            let mut end = |at, by: &str| {
                ended.push(Change::End { prefix: *prefix, at, by: by.to_owned() });
                false
            };
            match ban.until.timestamp() {
                Some(until) if until <= now => end(until, EXPIRED),
                _ if networks.covers(*prefix) => end(now, "allow list"),
                _ => true,
            }
        });
        for prefix in book.load(standing, now) {
            book.lift(prefix, now);
            ended.push(Change::End { prefix, at: now, by: "allow list".to_owned() });
        }
        if !ended.is_empty() {
            tracing::info!(bans = ended.len(), "ended while the enforcer was down, or are allowed now");
        }
        ledger.write_surely(ended);
        let allow = RwLock::new(Arc::clone(&book.reachable.networks));
        Self {
            rules: RwLock::new(Arc::new(rules)),
            ledger,
            allow,
            book: Mutex::new(book),
            turn: Mutex::new(()),
            counters: Counters::default(),
            names_changed: Notify::new(),
        }
    }

    /// Takes over who asked for bans that stand, where several did.
    pub fn load_claims(&self, claims: Vec<Claim>) {
        let mut book = self.lock();
        for claim in claims {
            if let Some((owner, end)) = book.owner(claim.prefix) {
                book.claims.load_claim(claim, (&owner, end));
            }
        }
    }

    /// How many addresses each sensor's logins protect.
    pub fn protected_by_sensor(&self) -> BTreeMap<Name, usize> {
        self.lock().reachable.protect.by_sensor()
    }

    /// Looks up the earlier bans by which those of a batch grow, to be handed to [`Self::take`]. Costs nothing where
    /// no ban grows.
    pub async fn earlier(&self, offences: &[NumberedOffence], now: Timestamp) -> Earlier {
        self.look_up(offences.iter().map(|numbered| &numbered.offence), now).await
    }

    /// Decides on a sensor's offences, in their order. Bans are on their way to the routers when this
    /// returns; the receipt tells when the ledger has them, and that its outbox was taken through a sequence.
    pub fn take(
        &self,
        sensor: &Name,
        (outbox, sequence): (&Name, u64),
        offences: Vec<NumberedOffence>,
        earlier: &Earlier,
        now: Timestamp,
    ) -> Receipt {
        let through = Change::Through { sensor: sensor.clone(), outbox: outbox.clone(), sequence };
        let offences = offences.into_iter().map(|numbered| {
            let origin = Origin::Sensor { jail: numbered.offence.jail.clone(), sensor: sensor.clone() };
            (origin, numbered.offence)
        });
        self.judge(offences, earlier, now, |changes| {
            self.ledger.write(changes.into_iter().chain([through]).collect())
        })
    }

    /// Decides on the offences of fleet jails, which nobody sends again.
    pub async fn take_fleet(&self, offences: Vec<Offence>, now: Timestamp) -> Receipt {
        let earlier = self.look_up(offences.iter(), now).await;
        let offences =
            offences.into_iter().map(|offence| (Origin::Fleet { jail: offence.jail.clone() }, offence));
        self.judge(offences, &earlier, now, |changes| self.ledger.write_surely(changes))
    }

    /// Takes over a ban that was found on a router while the ledger, which was lost, is gathered again. Whether
    /// it stands now for this; not where another stands, or where its address is allowed or protected.
    pub fn adopt(&self, prefix: IpNet, until: Moment, origin: Origin, router: &Name, now: Timestamp) -> bool {
        let prefix = canonical(prefix);
        let mut book = self.lock();
        let before = book.standing(prefix);
        let protected = book.reachable.protect.within(prefix, now).is_some();
        if before.is_some()
            || book.exemption(prefix, protected) != Exemption::None
            || until <= Moment::from(now)
        {
            return false;
        }
        let evidence = vec![Evidence::new(now, router.as_str(), &format!("found on router {router}"))];
        let ban = NewBan { prefix, since: now, until, origin, evidence };
        self.ledger.write_surely(book.set(ban, true, None, now));
        drop(book);
        self.counters.count_adopted();
        true
    }

    /// Ends what is over: bans, of which the routers let go by themselves, entries of the allow list, and
    /// protection. Returns how many bans. Where many end at once, decisions go on in between.
    pub fn expire(&self, now: Timestamp) -> usize {
        self.expire_between(now, |_| {})
    }

    /// The same; between two holds of the lock a function is told how many bans ended in the one before.
    fn expire_between(&self, now: Timestamp, mut between: impl FnMut(usize)) -> usize {
        let mut over = 0;
        let mut book = loop {
            let mut book = self.lock();
            let mut changes = Vec::new();
            let end = |prefix, at| changes.push(Change::End { prefix, at, by: EXPIRED.to_owned() });
            let all = book.expire(now, TOGETHER, end);
            let ended = changes.len();
            over += ended;
            if ended > 0 {
                self.ledger.write_surely(changes);
            }
            if all {
                break book;
            }
            drop(book);
            between(ended);
        };
        for prefix in book.reachable.expire(now) {
            book.review(prefix, now);
        }
        let expired = if book.allow.next_end().is_some_and(|end| end <= now) {
            book.allow.expire(now)
        } else {
            Vec::new()
        };
        if !expired.is_empty() {
            let changes = expired.iter().map(|entry| Change::Disallow { what: entry.what.clone() });
            self.ledger.write_surely(changes.collect());
            self.apply_allow(&mut book, now);
        }
        drop(book);
        for entry in expired {
            tracing::info!(what = entry.what, "off the allow list: its time is over");
            self.names_changed.notify_one();
        }
        self.counters.count_expired(over);
        over
    }

    /// Remembers a successful login, which protects its address; how many earlier ones of its sensor protect no more for
    /// it.
    pub fn note_login(&self, login: GoodLogin, now: Timestamp) -> u64 {
        let prefix = IpNet::from(login.address);
        let mut book = self.lock();
        let Some(noted) = book.reachable.protect.note(login.clone(), now) else { return 0 };
        if noted.new {
            book.review(prefix, now);
        }
        if noted.write {
            self.ledger.write_surely(vec![Change::Login(Box::new(login))]);
        }
        noted.displaced
    }

    /// Replaces what is ours without being configured (addresses of this host and of routers, and private networks behind
    /// those), which is allowed too. Returns how many bans were lifted for it.
    pub fn set_own_networks(&self, own: Vec<OwnNetwork>, now: Timestamp) -> usize {
        let mut book = self.lock();
        if book.allow.set_own(own) { self.apply_allow(&mut book, now).lifted } else { 0 }
    }

    /// Takes note of what a DNS name on the allow list stands for.
    pub fn set_answer(&self, name: &str, answer: Resolved, now: Timestamp) {
        let addresses = answer.addresses.clone();
        let mut book = self.lock();
        // It may have gone from the list while it was looked up.
        if !book.allow.names().contains(name) || !book.allow.set_answer(name, answer) {
            return;
        }
        let lifted = self.apply_allow(&mut book, now).lifted;
        drop(book);
        tracing::info!(name, ?addresses, lifted, "a name on the allow list has these addresses now");
    }

    /// What was allowed at run time.
    pub fn allowances(&self) -> Vec<Allowance> {
        self.lock().allow.entries()
    }

    /// The DNS names on the allow list, and what is known of each.
    pub fn answers(&self) -> BTreeMap<String, Resolved> {
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
    pub fn protected_offences(&self, limit: usize) -> Result<Vec<ProtectedOffence>, LedgerError> {
        self.ledger.protected_offences(limit)
    }

    /// How many addresses are protected by a successful login.
    pub fn protected(&self) -> usize {
        self.lock().reachable.protect.len()
    }

    /// As what an address is banned: by itself, or by the unit around it where it is an IPv6 one; `None` where
    /// neither is banned.
    pub fn banned_as(&self, prefix: IpNet) -> Option<IpNet> {
        self.lock().banned_as(canonical(prefix))
    }

    /// The successful login that protects an address, or an address within a network.
    pub fn protected_by(&self, prefix: IpNet, now: Timestamp) -> Option<GoodLogin> {
        self.lock().reachable.protect.within(canonical(prefix), now).cloned()
    }

    /// What one offender is counted and banned by: an IPv4 address, the unit around an IPv6 one.
    pub fn unit_of(&self, address: IpAddr) -> IpNet {
        prefixes::unit_of(self.client(address), self.rules().widen.ipv6_prefix)
    }

    /// The form in which an address is counted and banned: that of the IPv4 host behind a NAT64, where it is one's.
    pub fn client(&self, address: IpAddr) -> IpAddr {
        self.rules().nat64.client(address)
    }

    /// The same of a prefix.
    pub fn clients(&self, prefix: IpNet) -> IpNet {
        self.rules().nat64.network(prefix)
    }

    /// Why a prefix is never banned, or not as a whole; `None` where it can be.
    pub fn allowed_because(&self, prefix: IpNet) -> Option<AllowedBecause> {
        self.lock().allow.because(self.clients(prefix), &self.rules().nat64)
    }

    /// What keeps a prefix out, as memory has it, whatever state the ledger is in.
    pub fn standing(&self, prefix: IpNet) -> Standing {
        self.lock().standing_of(canonical(prefix))
    }

    /// How many networks are widened.
    pub fn widened(&self) -> usize {
        self.lock().widen.wide()
    }

    /// The widened network that covers an address or a network.
    pub fn widened_around(&self, prefix: IpNet) -> Option<IpNet> {
        self.lock().widen.wide_around(canonical(prefix))
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
    pub fn counts(&self) -> DecisionCounts {
        self.counters.counts()
    }

    /// Decides on offences and tells the routers, hands what changed to the ledger, and logs.
    fn judge(
        &self,
        offences: impl ExactSizeIterator<Item = (Origin, Offence)>,
        earlier: &Earlier,
        now: Timestamp,
        write: impl FnOnce(Vec<Change>) -> Receipt,
    ) -> Receipt {
        let mut decided = Vec::with_capacity(offences.len());
        let mut changes = Vec::with_capacity(offences.len() + 1);
        let mut book = self.lock();
        let rules = self.rules();
        for (origin, offence) in offences {
            let escalation = offence.escalation.clone().or_else(|| rules.escalation.clone());
            let growth = escalation.map(|escalation| Growth { escalation, earlier, chance: fastrand::f64() });
            decided.push(book.decide(origin, offence, growth.as_ref(), now, &mut changes));
        }
        let receipt = write(changes);
        drop(book);
        for one in &decided {
            self.counters.count(one.decision);
            one.log();
        }
        receipt
    }

    /// Off this thread, which may be one of the runtime's.
    async fn look_up<'a>(&self, offences: impl Iterator<Item = &'a Offence>, now: Timestamp) -> Earlier {
        let rules = self.rules();
        let wanted = earlier::Keys::of(offences, rules.escalation.as_ref(), rules.widen.ipv6_prefix);
        if wanted.is_empty() {
            return Earlier::default();
        }
        let ledger = self.ledger.clone();
        tokio::task::spawn_blocking(move || wanted.look_up(&ledger, now)).await.unwrap_or_default()
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
