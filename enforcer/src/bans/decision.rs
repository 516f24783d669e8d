//! What an offence means: a ban, a longer ban, or nothing. Plain functions of the offence, the ban
//! that stands, and the time; no input or output.

use atalaya_wire::BanTime;
use jiff::Timestamp;

use crate::desired::Moment;

/// Why an address is not to be banned, if it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// It may be banned.
    None,
    /// It is on the allow list.
    Allowed,
    /// Someone logged in successfully from there within `protect.within`.
    Protected,
}

/// What to do about an offence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The address is on the allow list.
    Allowed,
    /// The address is protected by a successful login.
    Protected,
    /// The ban would be over already.
    Over,
    /// A ban stands that ends no sooner.
    AlreadyBanned,
    /// The ban that stands ends at this later moment now.
    Extended(Moment),
    /// A new ban, until then.
    Banned(Moment),
}

/// Decides on an offence (or a ban by hand) at a time. The ban runs from the offence's own time; one of the
/// future is dated now.
pub fn decide(
    time: Timestamp,
    bantime: BanTime,
    standing: Option<Moment>,
    exemption: Exemption,
    now: Timestamp,
) -> Decision {
    match exemption {
        Exemption::Allowed => return Decision::Allowed,
        Exemption::Protected => return Decision::Protected,
        Exemption::None => {}
    }
    let until = Moment::from(bantime.end(time.min(now)));
    let now = Moment::from(now);
    if until <= now {
        return Decision::Over;
    }
    match standing.filter(|stands| *stands > now) {
        None => Decision::Banned(until),
        Some(stands) if until <= stands => Decision::AlreadyBanned,
        Some(_) => Decision::Extended(until),
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

    fn until(second: i64) -> Moment {
        at(second).into()
    }

    const HALF_HOUR: BanTime = BanTime::For(Seconds(1800));
    const FOR_EVER: Moment = Moment::FOREVER;

    #[rstest]
    #[case::first(0, HALF_HOUR, None, 0, Decision::Banned(until(1800)))]
    #[case::arrives_late(0, HALF_HOUR, None, 600, Decision::Banned(until(1800)))]
    #[case::arrives_too_late(0, HALF_HOUR, None, 1800, Decision::Over)]
    #[case::of_the_future(900, HALF_HOUR, None, 0, Decision::Banned(until(1800)))]
    #[case::same_again(0, HALF_HOUR, Some(until(1800)), 1, Decision::AlreadyBanned)]
    #[case::shorter(5, BanTime::For(Seconds(60)), Some(until(1800)), 5, Decision::AlreadyBanned)]
    #[case::later(60, HALF_HOUR, Some(until(1800)), 60, Decision::Extended(until(1860)))]
    #[case::expired_before(1800, HALF_HOUR, Some(until(1800)), 1800, Decision::Banned(until(3600)))]
    #[case::for_ever(0, BanTime::Permanent, None, 0, Decision::Banned(FOR_EVER))]
    #[case::made_for_ever(0, BanTime::Permanent, Some(until(1800)), 0, Decision::Extended(FOR_EVER))]
    #[case::is_for_ever(0, HALF_HOUR, Some(FOR_EVER), 0, Decision::AlreadyBanned)]
    #[case::is_for_ever_again(0, BanTime::Permanent, Some(FOR_EVER), 0, Decision::AlreadyBanned)]
    fn an_offence_bans_extends_or_changes_nothing(
        #[case] time: i64,
        #[case] bantime: BanTime,
        #[case] standing: Option<Moment>,
        #[case] now: i64,
        #[case] expected: Decision,
    ) {
        assert_eq!(decide(at(time), bantime, standing, Exemption::None, at(now)), expected);
    }

    #[test]
    fn an_allowed_address_is_never_banned_and_a_protected_one_neither() {
        let decided = |exemption| decide(at(0), HALF_HOUR, None, exemption, at(0));
        assert_eq!(decided(Exemption::Allowed), Decision::Allowed);
        assert_eq!(decided(Exemption::Protected), Decision::Protected);
    }
}
