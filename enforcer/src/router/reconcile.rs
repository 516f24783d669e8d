//! The smallest step from actual to desired, for one prefix: a pure function of what is wanted, what is
//! held, and the time. Reconciling a whole list is this step for every prefix of either side.
//!
//! Timeouts are computed here, at the moment of sending: what is left of the ban, rounded up, clamped to
//! RouterOS's largest. A difference of a few seconds is rounding and is let be.

use super::actual::{Held, Owner};
use super::address_list::LARGEST_TIMEOUT;
use super::order::Action;
use crate::desired::Moment;

/// The difference between wanted and held expiry, in seconds, that is let be. RouterOS shows whole
/// seconds, and a command or a reply may have waited for its turn.
pub const TOLERANCE: u64 = 5;

/// A ban with less than this left, in milliseconds, is not sent.
const TOO_SHORT: i64 = 1000;

/// What to do about one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the router holds what it should.
    Nothing,
    /// Send this: add what is missing, change what is held otherwise, or remove what is not wanted. Where a ban
    /// stands nevertheless, the step after a removal adds it anew.
    Do(Action),
    /// Print the list first: whose the entry is, or its id, is not known.
    Learn,
    /// Nothing for now: look again when what is there lapses.
    LookAgain {
        /// Just after the entry lapses.
        at: Moment,
    },
}

/// The step from what is held to what is wanted: the end of the ban, or `None` where no ban stands.
pub fn step(wanted: Option<Moment>, held: Option<Held>, now: Moment) -> Step {
    let held = held.filter(|held| !held.lapsed(now));
    match wanted {
        None => step_unwanted(held, now),
        // It would be over before the router had it.
        Some(until) if until.milliseconds_after(now) < TOO_SHORT => Step::Nothing,
        Some(until) => step_wanted(until, held, now),
    }
}

fn step_unwanted(held: Option<Held>, now: Moment) -> Step {
    match held {
        None | Some(Held { owner: Owner::Foreign, .. }) => Step::Nothing,
        Some(Held { owner: Owner::Unknown, .. }) => Step::Learn,
        // A ban's last second: the router drops the entry by itself.
        Some(held) if held.expires.seconds_after(now) <= TOLERANCE => Step::Nothing,
        Some(Held { id: Some(id), .. }) => Step::Do(Action::Remove { id }),
        Some(Held { id: None, .. }) => Step::Learn,
    }
}

fn step_wanted(until: Moment, held: Option<Held>, now: Moment) -> Step {
    let left = until.seconds_after(now);
    let timeout = left.min(LARGEST_TIMEOUT);
    let Some(held) = held else { return Step::Do(Action::Add { timeout }) };
    let look_again = Step::LookAgain { at: held.expires.plus_seconds(1) };
    match held.owner {
        Owner::Unknown => return Step::Learn,
        // It keeps nobody out. Whether the router takes another beside it is not known before it is tried.
        Owner::Foreign if held.disabled && !held.rigid => return Step::Do(Action::Add { timeout }),
        Owner::Foreign if held.expires >= until => return Step::Nothing,
        Owner::Foreign => return look_again,
        Owner::Ours if held.disabled => {
            return held.id.map_or(Step::Learn, |id| Step::Do(Action::Remove { id }));
        }
        Owner::Ours => {}
    }
    if held.expires == Moment::FOREVER {
        // Someone made our entry static. Whether `set` makes it dynamic again is not known.
        return match (until == Moment::FOREVER, held.id) {
            (true, _) => Step::Nothing,
            (false, Some(id)) => Step::Do(Action::Remove { id }),
            (false, None) => Step::Learn,
        };
    }
    let held_left = held.expires.seconds_after(now);
    let close = TOLERANCE + u64::from(held.slack);
    let good = if left > LARGEST_TIMEOUT {
        // A permanent ban, or one beyond RouterOS's largest: renewed when half of that is gone.
        held_left >= LARGEST_TIMEOUT / 2
    } else {
        held_left.abs_diff(timeout) <= close
    };
    match held.id {
        _ if good && !held.stale => Step::Nothing,
        Some(id) if held.rigid => Step::Do(Action::Remove { id }),
        Some(id) => Step::Do(Action::Set { id, timeout }),
        None if good => Step::Nothing,
        // It lapses sooner than a print would tell its id.
        None if held_left <= close => look_again,
        None => Step::Learn,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::Action::{Add, Remove, Set};
    use super::*;
    use crate::router::address_list::EntryId;

    fn at(milliseconds: i64) -> Moment {
        Moment::from(Timestamp::from_millisecond(milliseconds).unwrap())
    }

    fn id() -> EntryId {
        EntryId::parse("*1A").unwrap()
    }

    fn ours(expires: Moment) -> Held {
        Held::ours(expires, Some(id()))
    }

    fn foreign(expires: Moment) -> Held {
        Held { owner: Owner::Foreign, ..ours(expires) }
    }

    const HALF: i64 = (LARGEST_TIMEOUT / 2).cast_signed() * 1000;
    const FULL: i64 = LARGEST_TIMEOUT.cast_signed() * 1000;

    #[rstest]
    #[case::what_is_left_is_rounded_up(Some(at(1_200_001)), None, Step::Do(Add { timeout: 1201 }))]
    #[case::less_than_a_second_is_not_sent(Some(at(999)), None, Step::Nothing)]
    #[case::one_second_is_sent(Some(at(1000)), None, Step::Do(Add { timeout: 1 }))]
    #[case::a_ban_that_ended_is_not_sent(Some(at(-5)), None, Step::Nothing)]
    #[case::permanent_is_the_largest(Some(Moment::FOREVER), None, Step::Do(Add { timeout: LARGEST_TIMEOUT }))]
    #[case::rounding_is_let_be(Some(at(60_000)), Some(ours(at(55_000))), Step::Nothing)]
    #[case::rounding_is_let_be_either_way(Some(at(60_000)), Some(ours(at(65_000))), Step::Nothing)]
    #[case::extended(Some(at(60_000)), Some(ours(at(30_000))), Step::Do(Set { id: id(), timeout: 60 }))]
    #[case::shortened(Some(at(60_000)), Some(ours(at(90_000))), Step::Do(Set { id: id(), timeout: 60 }))]
    #[case::lapsed_is_absent(Some(at(60_000)), Some(ours(at(0))), Step::Do(Add { timeout: 60 }))]
    #[case::permanent_with_half_left(Some(Moment::FOREVER), Some(ours(at(HALF))), Step::Nothing)]
    #[case::permanent_with_less(
        Some(Moment::FOREVER), Some(ours(at(HALF - 1000))), Step::Do(Set { id: id(), timeout: LARGEST_TIMEOUT }))]
    #[case::beyond_the_largest(Some(at(2 * FULL)), Some(ours(at(FULL - 9_000))), Step::Nothing)]
    #[case::foreign_covers(Some(at(60_000)), Some(foreign(Moment::FOREVER)), Step::Nothing)]
    #[case::foreign_covers_a_while(Some(at(60_000)), Some(foreign(at(30_000))), Step::LookAgain { at: at(31_000) })]
    #[case::foreign_lapsed(Some(at(60_000)), Some(foreign(at(0))), Step::Do(Add { timeout: 60 }))]
    #[case::not_wanted(None, Some(ours(at(60_000))), Step::Do(Remove { id: id() }))]
    #[case::about_to_lapse(None, Some(ours(at(4_000))), Step::Nothing)]
    #[case::foreign_is_never_removed(None, Some(foreign(at(60_000))), Step::Nothing)]
    #[case::a_stale_comment_is_set(
        Some(at(60_000)), Some(Held { stale: true, ..ours(at(60_000)) }), Step::Do(Set { id: id(), timeout: 60 }))]
    #[case::what_cannot_be_set_is_replaced(
        Some(at(60_000)), Some(Held { rigid: true, ..ours(at(30_000)) }), Step::Do(Remove { id: id() }))]
    #[case::what_cannot_be_set_and_is_right_stays(
        Some(at(60_000)), Some(Held { rigid: true, ..ours(at(60_000)) }), Step::Nothing)]
    #[case::disabled_of_ours_is_replaced(
        Some(at(60_000)), Some(Held { disabled: true, ..ours(at(60_000)) }), Step::Do(Remove { id: id() }))]
    #[case::disabled_of_ours_is_removed(
        None, Some(Held { disabled: true, ..ours(at(60_000)) }), Step::Do(Remove { id: id() }))]
    #[case::disabled_of_others_covers_nothing(
        Some(at(60_000)), Some(Held { disabled: true, ..foreign(Moment::FOREVER) }), Step::Do(Add { timeout: 60 }))]
    #[case::disabled_of_others_that_bars_ours(
        Some(at(60_000)), Some(Held { disabled: true, rigid: true, ..foreign(Moment::FOREVER) }), Step::Nothing)]
    #[case::disabled_of_others_that_bars_ours_for_a_while(
        Some(at(60_000)),
        Some(Held { disabled: true, rigid: true, ..foreign(at(30_000)) }),
        Step::LookAgain { at: at(31_000) })]
    #[case::static_of_ours_is_replaced(Some(at(60_000)), Some(ours(Moment::FOREVER)), Step::Do(Remove { id: id() }))]
    #[case::static_of_ours_for_a_permanent_ban(
        Some(Moment::FOREVER),
        Some(ours(Moment::FOREVER)),
        Step::Nothing
    )]
    fn steps(#[case] wanted: Option<Moment>, #[case] held: Option<Held>, #[case] expected: Step) {
        assert_eq!(step(wanted, held, at(0)), expected);
    }

    #[test]
    fn an_entry_without_id_or_owner_is_learnt_before_it_is_touched() {
        let unknown = Held { owner: Owner::Unknown, ..Held::ours(Moment::FOREVER, None) };
        let nameless = Held::ours(at(60_000), None);
        for wanted in [None, Some(at(1_800_000))] {
            assert_eq!(step(wanted, Some(unknown), at(0)), Step::Learn);
            assert_eq!(step(wanted, Some(nameless), at(0)), Step::Learn);
        }
        let lapsing = Held { expires: at(2_000), ..nameless };
        assert_eq!(step(Some(at(1_800_000)), Some(lapsing), at(0)), Step::LookAgain { at: at(3_000) });
    }

    fn moments() -> impl Strategy<Value = Moment> {
        prop_oneof![
            5 => (-100_000_i64..3_000_000).prop_map(at),
            1 => (0..3 * FULL).prop_map(at),
            1 => Just(Moment::FOREVER),
        ]
    }

    fn helds() -> impl Strategy<Value = Option<Held>> {
        let owner = prop_oneof![Just(Owner::Ours), Just(Owner::Foreign), Just(Owner::Unknown)];
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        prop::option::of((moments(), any::<bool>(), owner, 0..3_u8, flags).prop_map(
            |(expires, known, owner, slack, (stale, rigid, disabled))| Held {
                expires,
                id: known.then(id),
                owner,
                slack,
                stale,
                rigid,
                disabled,
            },
        ))
    }

    proptest! {
        #[test]
        fn no_step_touches_what_is_not_ours_or_sends_a_timeout_out_of_range(
            wanted in prop::option::of(moments()), held in helds(), now in 0..100_000_i64,
        ) {
            let now = at(now);
            let is_ours = held.is_some_and(|held| held.owner == Owner::Ours);
            match step(wanted, held, now) {
                Step::Do(Add { timeout }) => {
                    let barely = |held: Held| held.lapsed(now) || held.owner == Owner::Foreign && held.disabled;
                    prop_assert!(held.is_none_or(barely));
                    prop_assert!((1..=LARGEST_TIMEOUT).contains(&timeout));
                }
                Step::Do(Set { timeout, .. }) => {
                    prop_assert!(is_ours && (1..=LARGEST_TIMEOUT).contains(&timeout));
                }
                Step::Do(Remove { .. }) => prop_assert!(is_ours),
                Step::LookAgain { at } => prop_assert!(at > now && wanted.is_some()),
                Step::Nothing | Step::Learn => {}
            }
        }

        #[test]
        fn a_step_that_was_done_is_followed_by_none(wanted in prop::option::of(moments()), held in helds()) {
            let now = at(0);
            let after = match step(wanted, held, now) {
                Step::Do(Add { timeout } | Set { timeout, .. }) => Some(ours(now.plus_seconds(timeout))),
                Step::Do(Remove { .. }) => None,
                Step::Nothing | Step::Learn | Step::LookAgain { .. } => return Ok(()),
            };
            let next = step(wanted, after, now);
            let replaces = matches!(next, Step::Do(Add { .. })) && after.is_none();
            prop_assert!(next == Step::Nothing || replaces, "{next:?}");
        }
    }
}
