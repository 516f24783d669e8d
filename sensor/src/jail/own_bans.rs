//! The bans that a jail asked for, with what the enforcer made of each. Those that it refused are bans no longer,
//! and are remembered apart. A plain function of what it is told and the time; bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use atalaya_wire::{Grounds, Left, Ruling};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// When a ban ends; `None` for one that is permanent.
pub type BanEnd = Option<Timestamp>;

/// How many refused bans are remembered: the latest.
const MOST_REFUSED: usize = 1000;
/// For how long one is remembered, if it would not have ended sooner.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);

/// A ban that a jail asked for, and that nobody refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnBan {
    /// When it ends: as the jail asked, and as the enforcer holds it once that has answered.
    pub until: BanEnd,
    /// The number under which its last offence went to the outbox; 0 where it did so before numbers were kept,
    /// `None` while it is not there, because the jail's ignorecommand is asked.
    pub sequence: Option<u64>,
    /// What the enforcer bans for it; `None` before its answer.
    pub net: Option<IpNet>,
    /// Whether this host lets it pass until the enforcer says that it is banned.
    pub held: bool,
    /// When the jail asked for it last; long ago where an earlier release saved it.
    #[serde(default)]
    pub asked: Timestamp,
}

/// A ban that the enforcer refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedBan {
    /// When the ban would have ended.
    pub until: BanEnd,
    /// When it was refused.
    pub at: Timestamp,
    /// As the enforcer gave them.
    pub grounds: Grounds,
}

/// What became of a ban. Serialized as it is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It stands, or waits for the enforcer's answer.
    Stands(OwnBan),
    /// The enforcer refused it.
    Refused(RefusedBan),
    /// It is over, or was lifted.
    Gone,
}

/// The bans of one jail, by the very address.
#[derive(Debug, Default)]
pub struct OwnBans {
    bans: BTreeMap<IpAddr, OwnBan>,
    refused: BTreeMap<IpAddr, RefusedBan>,
    changed: BTreeSet<IpAddr>,
}

// === impl OwnBan ===

impl OwnBan {
    /// One of which no more is known: it counts as not answered yet.
    pub fn unknown(until: BanEnd) -> Self {
        Self { until, sequence: Some(0), net: None, held: false, asked: Timestamp::default() }
    }

    /// Whether its time is not over.
    pub fn stands(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// Until when this host drops it by itself: to its end where the enforcer has said that it is banned, and before that
    /// for so long after the jail asked, where there is an enforcer to answer.
    pub fn drops_until(&self, unanswered: Option<SignedDuration>) -> BanEnd {
        match unanswered.filter(|_| self.net.is_none()) {
            Some(patience) => sooner(self.until, self.asked, patience),
            None => self.until,
        }
    }

    /// Whether this host drops it by itself: the enforcer bans it, or has not answered yet.
    pub fn drops(&self) -> bool {
        self.sequence.is_some() && (self.net.is_some() || !self.held)
    }
}

// === impl RefusedBan ===

impl RefusedBan {
    fn is_kept(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now) && now.duration_since(self.at) <= REMEMBERED
    }
}

// === impl OwnBans ===

impl OwnBans {
    /// Asks for a ban from an offence of this time on; one that stands grows no shorter. Past so many bans no
    /// more are kept.
    pub fn ask(&mut self, address: IpAddr, time: Timestamp, until: BanEnd, limit: usize) {
        self.refused.remove(&address);
        self.changed.insert(address);
        let ban = match self.bans.get(&address) {
            Some(before) if before.stands(time) => {
                let until = before.until.zip(until).map(|(before, until)| before.max(until));
                OwnBan { until, asked: time, ..*before }
            }
            None if self.bans.len() >= limit => return,
            _ => OwnBan { until, sequence: None, net: None, held: false, asked: time },
        };
        self.bans.insert(address, ban);
    }

    /// Notes under which number the offence of a ban went to the outbox, and whether this host waits for the
    /// enforcer before it drops.
    pub fn sent(&mut self, address: IpAddr, sequence: u64, held: bool) {
        if let Some(ban) = self.bans.get_mut(&address) {
            (ban.sequence, ban.held) = (Some(sequence), held);
            self.changed.insert(address);
        }
    }

    /// Notes under which number a ban went to the outbox once more.
    pub fn sent_again(&mut self, address: IpAddr, sequence: u64) {
        if let Some(OwnBan { held, .. }) = self.bans.get(&address).copied() {
            self.sent(address, sequence, held);
        }
    }

    /// Takes the enforcer's ruling on the offence of this number. Where a later offence of the address is under
    /// way, that one's ruling will say it. Returns whether it was taken.
    pub fn rule(&mut self, address: IpAddr, sequence: u64, ruling: Ruling, now: Timestamp) -> bool {
        let Some(ban) = self.bans.get_mut(&address) else { return false };
        if ban.sequence.is_none_or(|last| sequence < last) {
            return false;
        }
        self.changed.insert(address);
        match ruling {
            Ruling::Banned { net, ms } => {
                // The enforcer's certificate is pinned; all the same it bans nobody else with this one.
                let net = Some(net).filter(|net| net.contains(&address)).unwrap_or_else(|| address.into());
                let until = end(ms, now);
                *ban = OwnBan { until, sequence: Some(sequence), net: Some(net), held: false, ..*ban };
            }
            Ruling::Refused(grounds) => {
                let refused = RefusedBan { until: ban.until, at: now, grounds };
                self.bans.remove(&address);
                if refused.is_kept(now) {
                    self.refuse(address, refused);
                }
            }
        }
        true
    }

    /// Lets an address pass on this host until the enforcer says again that it is banned.
    pub fn hold(&mut self, address: IpAddr) {
        if let Some(ban) = self.bans.get_mut(&address) {
            (ban.net, ban.held) = (None, true);
            self.changed.insert(address);
        }
    }

    /// Forgets the ban of this very address.
    pub fn withdraw(&mut self, address: IpAddr) {
        if self.bans.remove(&address).is_some() | self.refused.remove(&address).is_some() {
            self.changed.insert(address);
        }
    }

    /// Takes over what was saved.
    pub fn restore(&mut self, address: IpAddr, fate: Fate) {
        match fate {
            Fate::Stands(ban) => drop(self.bans.insert(address, ban)),
            Fate::Refused(refused) => self.refuse(address, refused),
            Fate::Gone => {}
        }
    }

    /// What changed since the last call.
    pub fn take_changed(&mut self) -> Vec<(IpAddr, Fate)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|address| (address, self.fate(address))).collect()
    }

    /// What became of one ban. It is no change any more.
    pub fn take_fate(&mut self, address: IpAddr) -> Fate {
        self.changed.remove(&address);
        self.fate(address)
    }

    /// Forgets what is over.
    pub fn sweep(&mut self, now: Timestamp) {
        let Self { bans, refused, changed } = self;
        bans.retain(|address, ban| ban.stands(now) || !changed.insert(*address));
        refused.retain(|address, refused| refused.is_kept(now) || !changed.insert(*address));
    }

    /// What became of the ban of this very address.
    pub fn fate(&self, address: IpAddr) -> Fate {
        match (self.bans.get(&address), self.refused.get(&address)) {
            (Some(ban), _) => Fate::Stands(*ban),
            (None, Some(refused)) => Fate::Refused(*refused),
            (None, None) => Fate::Gone,
        }
    }

    /// The bans of these addresses, whether or not their time is over.
    pub fn range(&self, addresses: RangeInclusive<IpAddr>) -> impl Iterator<Item = (IpAddr, &OwnBan)> + '_ {
        self.bans.range(addresses).map(|(address, ban)| (*address, ban))
    }

    /// The bans that were sent to the enforcer and are not over.
    pub fn standing(&self, now: Timestamp) -> impl Iterator<Item = (IpAddr, &OwnBan)> + '_ {
        let stands = move |ban: &OwnBan| ban.sequence.is_some() && ban.stands(now);
        self.bans.iter().filter(move |(_, ban)| stands(ban)).map(|(address, ban)| (*address, ban))
    }

    /// What the enforcer refused lately, whose time is not over.
    pub fn refused(&self, now: Timestamp) -> impl Iterator<Item = (IpAddr, &RefusedBan)> + '_ {
        let kept = self.refused.iter().filter(move |(_, refused)| refused.is_kept(now));
        kept.map(|(address, refused)| (*address, refused))
    }

    fn refuse(&mut self, address: IpAddr, refused: RefusedBan) {
        self.refused.insert(address, refused);
        if self.refused.len() > MOST_REFUSED
            && let Some((oldest, _)) = self.refused.iter().min_by_key(|(_, refused)| refused.at)
        {
            let oldest = *oldest;
            self.refused.remove(&oldest);
            self.changed.insert(oldest);
        }
    }
}

/// The end of a ban, or so long after a time where that is sooner.
pub fn sooner(until: BanEnd, time: Timestamp, patience: SignedDuration) -> BanEnd {
    let limit = time.saturating_add(patience).unwrap_or(Timestamp::MAX);
    Some(until.map_or(limit, |until| until.min(limit)))
}

/// The end of a ban of which so much is left.
fn end(left: Left, now: Timestamp) -> BanEnd {
    match left {
        Left::Permanent => None,
        Left::Milliseconds(left) => {
            now.checked_add(SignedDuration::from_millis(i64::try_from(left).unwrap_or(i64::MAX))).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn banned(net: &str, seconds: u64) -> Ruling {
        Ruling::Banned { net: net.parse().unwrap(), ms: Left::Milliseconds(seconds * 1000) }
    }

    const REFUSED: Ruling = Ruling::Refused(Grounds::Protected);
    const HOST: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));

    #[test]
    fn a_ban_without_an_answer_drops_for_a_while_after_it_was_asked_for_last_and_an_answered_one_to_its_end()
    {
        let mut bans = one();
        let patience = Some(SignedDuration::from_secs(300));
        assert_eq!(the_one(&bans).drops_until(None), Some(at(1800)), "there is no enforcer to answer");
        assert_eq!(the_one(&bans).drops_until(patience), Some(at(300)));
        bans.ask(HOST, at(1600), Some(at(3400)), 10);
        assert_eq!(the_one(&bans).drops_until(patience), Some(at(1900)));
        bans.ask(HOST, at(1610), None, 10);
        assert_eq!(the_one(&bans).drops_until(patience), Some(at(1910)));
        bans.sent(HOST, 6, false);
        assert!(bans.rule(HOST, 6, banned("2001:db8::/64", 3000), at(1611)));
        assert_eq!(the_one(&bans).drops_until(patience), Some(at(4611)));
        // As an earlier release saved it.
        assert_eq!(OwnBan::unknown(None).drops_until(patience), Some(Timestamp::from_second(300).unwrap()));
    }

    /// One ban, sent under number 5, until 1800.
    fn one() -> OwnBans {
        let mut bans = OwnBans::default();
        bans.ask(HOST, at(0), Some(at(1800)), 10);
        bans.sent(HOST, 5, false);
        bans
    }

    fn the_one(bans: &OwnBans) -> OwnBan {
        match bans.fate(HOST) {
            Fate::Stands(ban) => ban,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_answered_and_what_is_banned_drops_and_what_is_refused_does_not() {
        let mut bans = one();
        assert!(the_one(&bans).drops());
        assert!(bans.rule(HOST, 5, banned("2001:db8::/64", 7200), at(1)));
        let ban = the_one(&bans);
        assert_eq!((ban.until, ban.net), (Some(at(7201)), Some("2001:db8::/64".parse().unwrap())));
        assert!(ban.drops());
        // Of an offence that is sent again the enforcer says what stands then.
        assert!(bans.rule(HOST, 5, REFUSED, at(2)));
        assert_eq!(bans.standing(at(2)).count(), 0);
        let refused = RefusedBan { until: Some(at(7201)), at: at(2), grounds: Grounds::Protected };
        assert_eq!(bans.fate(HOST), Fate::Refused(refused));
        assert_eq!(bans.take_changed(), [(HOST, Fate::Refused(refused))]);
    }

    #[test]
    fn a_ruling_on_an_earlier_offence_or_after_an_unban_changes_nothing() {
        let mut bans = one();
        bans.ask(HOST, at(10), Some(at(1810)), 10);
        bans.sent(HOST, 9, false);
        assert!(!bans.rule(HOST, 5, REFUSED, at(11)));
        assert!(the_one(&bans).drops());
        bans.withdraw(HOST);
        for ruling in [REFUSED, banned("2001:db8::/64", 60)] {
            assert!(!bans.rule(HOST, 9, ruling, at(12)));
        }
        assert_eq!(bans.fate(HOST), Fate::Gone);
    }

    #[test]
    fn a_refused_offence_that_comes_again_is_asked_anew() {
        let mut bans = one();
        bans.rule(HOST, 5, REFUSED, at(1));
        bans.ask(HOST, at(10), Some(at(1810)), 10);
        assert!(!the_one(&bans).drops(), "its ignorecommand is asked");
        bans.sent(HOST, 6, false);
        assert!(the_one(&bans).drops());
        assert_eq!(bans.refused(at(10)).count(), 0);
        bans.rule(HOST, 6, banned("2001:db8::7/128", 60), at(11));
        assert_eq!(the_one(&bans).net, Some("2001:db8::7/128".parse().unwrap()));
    }

    #[test]
    fn a_ban_that_stands_is_not_shortened_by_an_offence_and_is_by_the_enforcer() {
        let mut bans = one();
        bans.rule(HOST, 5, Ruling::Banned { net: HOST.into(), ms: Left::Permanent }, at(1));
        bans.ask(HOST, at(10), Some(at(70)), 10);
        assert_eq!((the_one(&bans).until, the_one(&bans).drops()), (None, true));
        bans.sent(HOST, 6, true);
        assert!(the_one(&bans).drops(), "the enforcer has banned it");
        bans.rule(HOST, 6, banned("2001:db8::/64", 60), at(11));
        assert_eq!(the_one(&bans).until, Some(at(71)));
        // Long after its end it begins anew, not answered.
        bans.ask(HOST, at(100), Some(at(160)), 10);
        assert_eq!(
            the_one(&bans),
            OwnBan { sequence: None, asked: at(100), ..OwnBan::unknown(Some(at(160))) }
        );
    }

    #[test]
    fn who_is_held_passes_until_the_enforcer_bans() {
        let mut bans = one();
        bans.sent(HOST, 6, true);
        assert!(!the_one(&bans).drops());
        assert_eq!(bans.standing(at(1)).count(), 1, "it was asked for");
        bans.rule(HOST, 6, banned("2001:db8::/64", 60), at(1));
        assert!(the_one(&bans).drops());
        bans.hold(HOST);
        assert!(!the_one(&bans).drops());
    }

    #[test]
    fn a_ruling_over_other_addresses_is_one_over_the_address_alone() {
        let mut bans = one();
        bans.rule(HOST, 5, banned("192.0.2.0/24", 60), at(1));
        assert_eq!(the_one(&bans).net, Some(HOST.into()));
    }

    #[test]
    fn what_a_release_before_this_one_saved_waits_for_any_answer() {
        let mut bans = OwnBans::default();
        bans.restore(HOST, Fate::Stands(OwnBan::unknown(Some(at(1800)))));
        assert!(the_one(&bans).drops());
        assert!(bans.rule(HOST, 3, REFUSED, at(1)));
    }

    #[test]
    fn bans_and_refusals_are_bounded_and_forgotten_in_time() {
        let mut bans = OwnBans::default();
        let host = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0xC612_0000 + number));
        for number in 0..=MOST_REFUSED as u32 {
            bans.ask(host(number), at(0), None, 1);
            bans.sent(host(number), u64::from(number) + 1, false);
            bans.ask(host(9999), at(0), None, 1);
            assert_eq!(bans.fate(host(9999)), Fate::Gone, "there is room for one");
            bans.rule(host(number), u64::from(number) + 1, REFUSED, at(number.into()));
        }
        assert_eq!((bans.refused(at(0)).count(), bans.fate(host(0))), (MOST_REFUSED, Fate::Gone));
        bans.take_changed();
        bans.sweep(at(1) + REMEMBERED);
        assert_eq!(bans.take_changed(), []);
        bans.sweep(at(2) + REMEMBERED);
        assert_eq!(bans.take_changed(), [(host(1), Fate::Gone)]);
    }
}
