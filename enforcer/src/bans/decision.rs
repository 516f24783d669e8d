//! What an offence means: a ban, a longer ban, or nothing. Plain functions of the offence, the ban
//! that stands, and the time; no input or output.

use atalaya_wire::BanTime;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A ban that stands, as far as a decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When it ends; `None` for a permanent one.
    pub until: Option<Timestamp>,
}

/// How bad what a jail sees is, as the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Left out first where a router cannot hold everything.
    Low,
    /// What a jail has where nothing is said.
    #[default]
    Medium,
    /// Left out last.
    High,
}

/// Why an address is not to be banned, if it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// It may be banned.
    None,
    /// It is on the allow list.
    Allowed,
    /// Someone logged in well from there lately.
    Protected,
}

/// What to do about an offence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The address is on the allow list.
    Allowed,
    /// The address is protected by a good login.
    Spared,
    /// The ban would be over already.
    Lapsed,
    /// A ban stands that ends no sooner.
    AlreadyBanned,
    /// The ban that stands ends later now.
    Extended(Standing),
    /// A new ban.
    Banned(Standing),
}

/// Decides on an offence (or a ban by hand) at a time. The ban runs from the offence's own time; one of the
/// future is dated now.
pub fn decide(
    time: Timestamp,
    bantime: BanTime,
    standing: Option<Standing>,
    exemption: Exemption,
    now: Timestamp,
) -> Decision {
    match exemption {
        Exemption::Allowed => return Decision::Allowed,
        Exemption::Protected => return Decision::Spared,
        Exemption::None => {}
    }
    let until = end(time.min(now), bantime);
    if until.is_some_and(|until| until <= now) {
        return Decision::Lapsed;
    }
    let wanted = Standing { until };
    match standing.filter(|standing| standing.until.is_none_or(|until| until > now)) {
        None => Decision::Banned(wanted),
        Some(Standing { until: None }) => Decision::AlreadyBanned,
        Some(Standing { until: Some(stands) }) if until.is_some_and(|until| until <= stands) => {
            Decision::AlreadyBanned
        }
        Some(_) => Decision::Extended(wanted),
    }
}

/// When a ban of this length ends, in whole milliseconds, as ledger and routers keep it; `None` for a
/// permanent one, and for one past the end of time.
fn end(from: Timestamp, bantime: BanTime) -> Option<Timestamp> {
    match bantime {
        BanTime::For(seconds) => {
            let end = from.checked_add(seconds.signed()).ok()?;
            Timestamp::from_millisecond(end.as_millisecond()).ok()
        }
        BanTime::Permanent => None,
    }
}

#[cfg(test)]
mod tests {
    use atalaya_wire::Seconds;
    use rstest::rstest;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn until(second: i64) -> Standing {
        Standing { until: Some(at(second)) }
    }

    const HALF_HOUR: BanTime = BanTime::For(Seconds(1800));
    const FOR_EVER: Standing = Standing { until: None };

    #[rstest]
    #[case::first(0, HALF_HOUR, None, 0, Decision::Banned(until(1800)))]
    #[case::arrives_late(0, HALF_HOUR, None, 600, Decision::Banned(until(1800)))]
    #[case::arrives_too_late(0, HALF_HOUR, None, 1800, Decision::Lapsed)]
    #[case::of_the_future(900, HALF_HOUR, None, 0, Decision::Banned(until(1800)))]
    #[case::same_again(0, HALF_HOUR, Some(until(1800)), 1, Decision::AlreadyBanned)]
    #[case::shorter(5, BanTime::For(Seconds(60)), Some(until(1800)), 5, Decision::AlreadyBanned)]
    #[case::later(60, HALF_HOUR, Some(until(1800)), 60, Decision::Extended(until(1860)))]
    #[case::lapsed_before(1800, HALF_HOUR, Some(until(1800)), 1800, Decision::Banned(until(3600)))]
    #[case::for_ever(0, BanTime::Permanent, None, 0, Decision::Banned(FOR_EVER))]
    #[case::made_for_ever(0, BanTime::Permanent, Some(until(1800)), 0, Decision::Extended(FOR_EVER))]
    #[case::is_for_ever(0, HALF_HOUR, Some(FOR_EVER), 0, Decision::AlreadyBanned)]
    #[case::is_for_ever_again(0, BanTime::Permanent, Some(FOR_EVER), 0, Decision::AlreadyBanned)]
    fn an_offence_bans_extends_or_changes_nothing(
        #[case] time: i64,
        #[case] bantime: BanTime,
        #[case] standing: Option<Standing>,
        #[case] now: i64,
        #[case] expected: Decision,
    ) {
        assert_eq!(decide(at(time), bantime, standing, Exemption::None, at(now)), expected);
    }

    #[test]
    fn an_allowed_address_is_never_banned_and_a_protected_one_is_spared() {
        let decided = |exemption| decide(at(0), HALF_HOUR, None, exemption, at(0));
        assert_eq!(decided(Exemption::Allowed), Decision::Allowed);
        assert_eq!(decided(Exemption::Protected), Decision::Spared);
    }
}
