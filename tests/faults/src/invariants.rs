//! What must hold whatever happens, and what breaks it: plain functions of what was asked for ([`Claims`]), what a router
//! holds and what the ledger says.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use routeros_sim::Entry;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::claims::{ClaimKind, Claims, ENTRY_TOLERANCE, ROUNDING};
use crate::stage::{LIST, key};

/// What opens the comments of the enforcer's entries.
const MARK: &str = "atalaya";

/// Which of the invariants does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// What was acked, or written to a log that a sensor follows, is in the ledger, whatever happens after.
    NothingAckedIsLost,
    /// No entry outlives its ban.
    NothingOutlivesItsBan,
    /// No allowed address is on a router.
    NobodyAllowedIsBanned,
    /// Strangers' entries are as they were.
    StrangersAreLeftAlone,
    /// Routers hold what the ledger says, soon after the last fault.
    EverythingSettles,
    /// Processes hold as much memory and as many descriptors as before.
    NothingGrows,
    /// Nothing panics, and what is asked to stop does.
    ProcessesLive,
}

/// Something that breaks an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub what: String,
}

/// A ban as `history --json` tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct LedgerBan {
    /// The address, or the network with its length.
    #[serde(deserialize_with = "prefix")]
    pub prefix: IpNet,
    /// Until when; `None` for ever.
    pub until: Option<Timestamp>,
    /// When it was over.
    #[serde(default)]
    pub ended: Option<Timestamp>,
}

/// What one look at a router is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The router's name.
    pub router: &'a str,
    /// The time of the look.
    pub now: Timestamp,
    /// Since when the enforcer has reached this router without a fault, and had time to do what is due: what was asked for
    /// before then is done.
    pub caught_up: Option<Timestamp>,
    /// By how much the enforcer's clock may be off.
    pub clock_off: SignedDuration,
}

// === impl Invariant ===

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingAckedIsLost => "nothing acked or logged is lost",
            Self::NothingOutlivesItsBan => "nothing outlives its ban",
            Self::NobodyAllowedIsBanned => "no allowed address is on a router",
            Self::StrangersAreLeftAlone => "strangers' entries stay as they are",
            Self::EverythingSettles => "everything settles",
            Self::NothingGrows => "memory and descriptors are flat",
            Self::ProcessesLive => "processes live and end when asked",
        })
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BROKEN: {}: {}", self.invariant, self.what)
    }
}

/// Whether an entry carries our mark.
pub fn is_ours(entry: &Entry) -> bool {
    let after = entry.comment.strip_prefix(MARK);
    after.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric()))
}

/// What a router holds at any time: of ours nothing that nobody asked for, that stays for too long, or that was lifted or
/// allowed long enough ago.
pub fn judge_entries(claims: &Claims, moment: &Moment<'_>, entries: &[Entry]) -> Vec<Breach> {
    let Moment { router, now, caught_up, clock_off } = *moment;
    let mut breaches = Vec::new();
    let mut broken =
        |invariant, what: String| breaches.push(Breach { invariant, what: format!("{router}: {what}") });
    for entry in entries.iter().filter(|entry| is_ours(entry)) {
        let Some(prefix) = prefix_of(entry) else {
            broken(Invariant::NothingOutlivesItsBan, format!("{} is no address", entry.address));
            continue;
        };
        let Some(latest) = claims.latest_end(prefix) else {
            broken(Invariant::NothingOutlivesItsBan, format!("holds {prefix}, whom nobody asked to ban"));
            continue;
        };
        let until = until(entry, now);
        if until > latest.saturating_add(ENTRY_TOLERANCE + clock_off).unwrap_or(Timestamp::MAX) {
            broken(
                Invariant::NothingOutlivesItsBan,
                format!("holds {prefix} until {until:.1}; its bans are over at {latest:.1}"),
            );
        }
        let late = |since: Option<Timestamp>| since.filter(|since| caught_up.is_some_and(|up| *since <= up));
        if let Some(since) = late(claims.lifted_since(prefix)) {
            broken(
                Invariant::NothingOutlivesItsBan,
                format!("still holds {prefix}, which was unbanned at {since:.1}"),
            );
        }
        if let Some(since) = late(claims.allowed_since(prefix, now + clock_off)) {
            broken(
                Invariant::NobodyAllowedIsBanned,
                format!("holds {prefix}, which was allowed at {since:.1}"),
            );
        }
    }
    breaches
}

/// What routers hold once everything is whole: what the ledger says, all of it, as long as it says, and nothing else.
pub fn judge_settled(router: &str, standing: &[LedgerBan], entries: &[Entry], now: Timestamp) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut broken = |what: String| {
        breaches.push(Breach { invariant: Invariant::EverythingSettles, what: format!("{router}: {what}") });
    };
    let held: HashMap<IpNet, &Entry> = entries
        .iter()
        .filter(|entry| !entry.disabled && entry.list == LIST)
        .filter_map(|entry| Some((prefix_of(entry)?, entry)))
        .collect();
    let ends = |ban: &LedgerBan| ban.until.unwrap_or(Timestamp::MAX);
    // What ends about now is there or not: a ban that grew by a few seconds alone is not sent anew.
    for ban in standing.iter().filter(|ban| ends(ban) > now + ENTRY_TOLERANCE) {
        match held.get(&ban.prefix) {
            None => broken(format!("does not hold {}, banned until {:.1}", ban.prefix, ends(ban))),
            // A stranger's entry bans as well as ours.
            Some(entry) if !is_ours(entry) => {}
            Some(entry) => {
                let until = until(entry, now);
                if until.duration_since(ends(ban)).abs() > ENTRY_TOLERANCE {
                    broken(format!("holds {} until {until:.1}, banned until {:.1}", ban.prefix, ends(ban)));
                }
            }
        }
    }
    let banned: HashMap<IpNet, &LedgerBan> = standing.iter().map(|ban| (ban.prefix, ban)).collect();
    for (prefix, entry) in &held {
        if is_ours(entry) && !banned.contains_key(prefix) && until(entry, now) > now + ENTRY_TOLERANCE {
            broken(format!("holds {prefix}, which is not banned"));
        }
    }
    breaches
}

/// What the ledger says of all that was asked for and answered.
pub fn judge_ledger(
    claims: &Claims,
    history: &[LedgerBan],
    now: Timestamp,
    clock_off: SignedDuration,
) -> Vec<Breach> {
    let mut by_prefix: HashMap<IpNet, Vec<&LedgerBan>> = HashMap::new();
    for ban in history {
        by_prefix.entry(ban.prefix).or_default().push(ban);
    }
    let mut breaches = Vec::new();
    for prefix in claims.prefixes() {
        let rows = by_prefix.get(&prefix).map_or(&[][..], Vec::as_slice);
        let stands =
            |ban: &&&LedgerBan| ban.ended.is_none() && ban.until.is_none_or(|until| until > now + ROUNDING);
        if let Some(until) = claims.must_stand_until(prefix)
            && until > Timestamp::MIN
            && !rows.iter().any(|ban| ban.until.is_none_or(|row| row + ROUNDING + clock_off >= until))
        {
            let what = format!(
                "{prefix} was acked, or logged, to be banned until {until:.1}; the ledger has {rows:?}"
            );
            breaches.push(Breach { invariant: Invariant::NothingAckedIsLost, what });
        }
        // What was acked and lifted since is there, too: as a ban that is over.
        let acked = claims.of(prefix).iter().any(|claim| {
            matches!(claim.kind, ClaimKind::Ban { earliest, .. } if earliest > Timestamp::MIN)
                && claim.done.is_some()
        });
        if acked && rows.is_empty() && !may_be_allowed(claims, prefix) {
            let what =
                format!("{prefix} was acked, or logged, to be banned, and the ledger knows nothing of it");
            breaches.push(Breach { invariant: Invariant::NothingAckedIsLost, what });
        }
        if let Some(ban) = rows.iter().find(stands) {
            if let Some(since) = claims.lifted_since(prefix) {
                let what =
                    format!("the unban of {prefix} was acked at {since:.1}, and the ledger has {ban:?}");
                breaches.push(Breach { invariant: Invariant::NothingAckedIsLost, what });
            }
            if let Some(since) = claims.allowed_since(prefix, now + clock_off) {
                let what = format!("{prefix} was allowed at {since:.1}, and the ledger has {ban:?}");
                breaches.push(Breach { invariant: Invariant::NobodyAllowedIsBanned, what });
            }
        }
    }
    for ban in history {
        let latest = claims.latest_end(ban.prefix);
        let until = ban.until.unwrap_or(Timestamp::MAX);
        if latest.is_none_or(|latest| {
            until > latest.saturating_add(ROUNDING + clock_off).unwrap_or(Timestamp::MAX)
        }) {
            let what = format!("the ledger bans {} until {until:.1}, which nobody asked for", ban.prefix);
            breaches.push(Breach { invariant: Invariant::NothingOutlivesItsBan, what });
        }
    }
    breaches
}

/// What strangers' entries are to be, and what is there.
pub fn judge_strangers(router: &str, expected: &BTreeMap<String, Entry>, entries: &[Entry]) -> Vec<Breach> {
    let strangers: BTreeMap<String, &Entry> =
        entries.iter().filter(|entry| !is_ours(entry)).map(|entry| (key(entry), entry)).collect();
    let broken = |what: String| Breach {
        invariant: Invariant::StrangersAreLeftAlone,
        what: format!("{router}: {what}"),
    };
    let gone = expected.iter().filter_map(|(id, entry)| match strangers.get(id) {
        Some(found) if *found == entry => None,
        Some(found) => Some(broken(format!("{entry:?} became {found:?}"))),
        None => Some(broken(format!("{entry:?} is gone"))),
    });
    let new = strangers.iter().filter(|(id, _)| !expected.contains_key(*id));
    gone.chain(new.map(|(_, entry)| broken(format!("{entry:?} is nobody's")))).collect()
}

fn may_be_allowed(claims: &Claims, prefix: IpNet) -> bool {
    claims.of(prefix).iter().any(|claim| matches!(claim.kind, ClaimKind::Allow(_)))
}

fn until(entry: &Entry, now: Timestamp) -> Timestamp {
    let left = entry.timeout_left.map(|left| SignedDuration::try_from(left).unwrap_or(SignedDuration::MAX));
    left.and_then(|left| now.checked_add(left).ok()).unwrap_or(Timestamp::MAX)
}

fn prefix_of(entry: &Entry) -> Option<IpNet> {
    read_prefix(&entry.address)
}

fn prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    let text = String::deserialize(deserializer)?;
    read_prefix(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no address and no network")))
}

fn read_prefix(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use routeros_sim::Family;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn who() -> IpNet {
        "198.51.100.7/32".parse().expect("an address")
    }

    /// An entry of ours for [`who`] with so many seconds left.
    fn entry(left: u64) -> Entry {
        Entry {
            family: Family::V4,
            id: "*1".to_owned(),
            list: LIST.to_owned(),
            address: "198.51.100.7".to_owned(),
            timeout_left: Some(Duration::from_secs(left)),
            comment: "atalaya: ssh at web-1".to_owned(),
            disabled: false,
            dynamic: true,
        }
    }

    fn ban(until: i64) -> LedgerBan {
        LedgerBan { prefix: who(), until: Some(at(until)), ended: None }
    }

    fn asked(kinds: &[ClaimKind]) -> Claims {
        let mut claims = Claims::default();
        for (second, kind) in (0..).zip(kinds) {
            let id = claims.ask(who(), kind.clone(), at(2 * second));
            claims.done(&id, at(2 * second + 1));
        }
        claims
    }

    fn until(second: i64) -> ClaimKind {
        ClaimKind::Ban { earliest: at(second), latest: Some(at(second)) }
    }

    /// What is broken by these entries, looked at after twenty seconds, everything reached for the last ten.
    fn broken(kinds: &[ClaimKind], entries: &[Entry]) -> Vec<Invariant> {
        let moment =
            Moment { router: "r", now: at(20), caught_up: Some(at(10)), clock_off: SignedDuration::ZERO };
        let breaches = judge_entries(&asked(kinds), &moment, entries);
        breaches.into_iter().map(|breach| breach.invariant).collect()
    }

    #[test]
    fn an_entry_may_stay_as_long_as_its_ban_and_no_longer() {
        assert_eq!(broken(&[until(60)], &[entry(40)]), []);
        assert_eq!(broken(&[until(60)], &[entry(60)]), [Invariant::NothingOutlivesItsBan]);
        assert_eq!(broken(&[], &[entry(40)]), [Invariant::NothingOutlivesItsBan]);
        assert_eq!(broken(&[until(60), ClaimKind::Unban], &[entry(40)]), [Invariant::NothingOutlivesItsBan]);
        assert_eq!(broken(&[ClaimKind::Unban, until(60)], &[entry(40)]), []);
        assert_eq!(
            broken(&[until(60), ClaimKind::Allow(at(90))], &[entry(40)]),
            [Invariant::NobodyAllowedIsBanned]
        );
        let foreign = Entry { comment: "atalaya2: x".to_owned(), ..entry(600) };
        assert_eq!(broken(&[], &[foreign]), []);
    }

    #[test]
    fn what_crossed_a_fault_is_not_late_yet() {
        let claims = asked(&[until(60), ClaimKind::Unban]);
        let moment = Moment { router: "r", now: at(20), caught_up: None, clock_off: SignedDuration::ZERO };
        assert_eq!(judge_entries(&claims, &moment, &[entry(40)]), []);
    }

    #[test]
    fn a_settled_router_holds_what_the_ledger_says_for_as_long_and_nothing_else() {
        let unsettled = |standing: &[LedgerBan], entries: &[Entry]| {
            judge_settled("r", standing, entries, at(20))
                .into_iter()
                .map(|breach| breach.what)
                .collect::<Vec<_>>()
        };
        assert_eq!(unsettled(&[ban(60)], &[entry(40)]), [""; 0]);
        assert_eq!(unsettled(&[ban(21)], &[]), [""; 0], "it ends just now");
        let disabled = Entry { disabled: true, ..entry(40) };
        for (standing, entries, says) in [
            (vec![ban(60)], vec![], "does not hold"),
            (vec![ban(60)], vec![disabled], "does not hold"),
            (vec![ban(60)], vec![entry(20)], "until"),
            (vec![], vec![entry(40)], "which is not banned"),
        ] {
            let found = unsettled(&standing, &entries);
            assert!(found.len() == 1 && found[0].contains(says), "{says}: {found:?}");
        }
    }

    #[test]
    fn the_ledger_has_what_was_acked_and_not_what_was_lifted_or_allowed() {
        let broken = |kinds: &[ClaimKind], rows: &[LedgerBan]| {
            let breaches = judge_ledger(&asked(kinds), rows, at(20), SignedDuration::ZERO);
            breaches.into_iter().map(|breach| breach.invariant).collect::<std::collections::BTreeSet<_>>()
        };
        assert!(broken(&[until(60)], &[ban(60)]).is_empty());
        let over = LedgerBan { ended: Some(at(10)), ..ban(60) };
        assert!(broken(&[until(60), ClaimKind::Unban], &[over]).is_empty());
        for (kinds, rows, invariant) in [
            (vec![until(60)], vec![], Invariant::NothingAckedIsLost),
            (vec![until(60)], vec![ban(30)], Invariant::NothingAckedIsLost),
            (vec![until(60), ClaimKind::Unban], vec![ban(60)], Invariant::NothingAckedIsLost),
            (vec![until(60), ClaimKind::Allow(at(600))], vec![ban(60)], Invariant::NobodyAllowedIsBanned),
            (vec![], vec![ban(60)], Invariant::NothingOutlivesItsBan),
            (vec![until(60)], vec![ban(90)], Invariant::NothingOutlivesItsBan),
        ] {
            let found = broken(&kinds, &rows);
            assert!(found.iter().eq([&invariant]), "{kinds:?} {rows:?}: {found:?}");
        }
    }

    #[test]
    fn a_strangers_entry_that_is_gone_changed_or_new_is_noticed() {
        let stranger = Entry { comment: "mine".to_owned(), timeout_left: None, ..entry(0) };
        let expected = BTreeMap::from([(key(&stranger), stranger.clone())]);
        assert_eq!(judge_strangers("r", &expected, &[stranger.clone(), entry(40)]), []);
        let changed = Entry { comment: "yours".to_owned(), ..stranger.clone() };
        let new = Entry { id: "*2".to_owned(), ..stranger.clone() };
        for entries in [vec![], vec![changed], vec![stranger, new]] {
            assert_eq!(judge_strangers("r", &expected, &entries).len(), 1, "{entries:?}");
        }
    }
}
