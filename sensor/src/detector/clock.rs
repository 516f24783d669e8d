//! The clock of one source, as its lines show it. Containers write in UTC where the host does not, routers without NTP
//! are off by hours, and their failures are as fresh as any; but a backlog (a file that is read from its start, a relay's
//! queue) is old, and is to stay so. What tells them apart is how much a line's date lags behind its arrival:
//!
//! | lag | is | and the line is |
//! |---|---|---|
//! | no more than [`TOLERATED`], either way | a clock that is right | of its own date |
//! | the same, line after line, while time passes | a clock that is off by that much | of its date and the offset |
//! | shrinking line by line | a backlog, whose lines come faster than they were written | of its own date |
//! | that of a date before [`EPOCHS_END`] | a clock that was never set since it was started | of its arrival |
//!
//! **Whoever can write lines with dates of his choice cannot move the clock of honest ones.** A line whose date is right
//! is never corrected, whatever was learnt; and an offset is used for those lines alone that it brings to within
//! [`TOLERATED`] of their arrival. So the worst that can be done is that lines which are as old as an offset that
//! somebody feigns count as fresh.

use jiff::{SignedDuration, Timestamp};

/// So far off a clock is taken for right.
pub(super) const TOLERATED: SignedDuration = SignedDuration::from_secs(60);
/// Lags that differ by no more are the same: most dates have no fractions of seconds.
const JITTER: SignedDuration = SignedDuration::from_secs(2);
/// So many lines with the same lag make an offset,
const LINES: u32 = 3;
/// where so much time passes between them, in which a backlog's lag would shrink.
const SPAN: SignedDuration = SignedDuration::from_secs(2);
/// An offset that shrinks by more, and by more than any clock drifts, was a backlog's lag after all.
const SHRINKAGE: SignedDuration = SignedDuration::from_secs(5);
/// No clock drifts by more than this part.
const DRIFT: i32 = 500;
/// How long a source that was seen to shrink is taken for one with a backlog.
const DRAINING: SignedDuration = SignedDuration::from_secs(60);
/// How many offsets of one source are known at once: several senders may write into one file.
const MOST: usize = 4;
/// How long an offset is kept that no line has.
const KEPT: SignedDuration = SignedDuration::from_hours(1);
/// 2000-01-01: no log is older, and clocks that were never set begin in 1970.
const EPOCHS_END: i64 = 946_684_800;

/// How lines of a source come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Out of a file, which may hold lines of any time.
    Read,
    /// As they are sent; only a relay keeps lines back.
    Sent,
}

/// What the clock makes of a line's date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClockReading {
    /// The date is to be taken as it is.
    Right,
    /// The line is of this time.
    Corrected(Timestamp),
    /// The same, by an offset that this line has shown.
    Learnt(Timestamp, SignedDuration),
    /// The date is off. Whether that is the clock, the next lines will show; until then it stands as it is.
    Undecided,
    /// The clock was never set: the line is of now.
    Unset,
}

/// What is known of the clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SourceClock {
    offsets: Vec<Offset>,
    candidates: Vec<SuspectedOffset>,
    /// The date and the arrival of the last line that was off.
    last: Option<(Timestamp, Timestamp)>,
    /// Until when it is taken for one that has a backlog.
    draining_until: Option<Timestamp>,
}

/// What a clock is behind by; negative where it is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offset {
    /// The least lag, of the line that came the fastest.
    lag: SignedDuration,
    /// The lag when it was learnt, and when that was.
    learnt: (SignedDuration, Timestamp),
    used: Timestamp,
}

/// A lag that may be an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SuspectedOffset {
    lag: SignedDuration,
    since: Timestamp,
    lines: u32,
    used: Timestamp,
}

// === impl SourceClock ===

impl SourceClock {
    /// What a line's date means that arrived at a time. A plain function of what was seen before, the date and the
    /// arrival; it keeps at most a few lags.
    pub(super) fn read(&mut self, date: Timestamp, arrival: Timestamp, delivery: Delivery) -> ClockReading {
        if let Some(reading) = by_itself(date, arrival) {
            return reading;
        }
        let lag = arrival.duration_since(date);
        self.offsets.retain(|offset| arrival.duration_since(offset.used) <= KEPT);
        let before = self.last.replace((date, arrival));
        if let Some(at) = self.offsets.iter().position(|offset| near(offset.lag, lag, TOLERATED)) {
            if let Some(time) = self.offsets[at].correct(date, arrival) {
                return ClockReading::Corrected(time);
            }
            self.offsets.remove(at);
            self.draining_until = arrival.checked_add(DRAINING).ok();
            return ClockReading::Undecided;
        }
        let Some(at) = self.candidates.iter().position(|candidate| near(candidate.lag, lag, JITTER)) else {
            let before = before.map(|(date, arrival)| arrival.duration_since(date));
            if before.is_some_and(|before| before.saturating_sub(lag) > JITTER) {
                self.draining_until = arrival.checked_add(DRAINING).ok();
            }
            self.suspect(SuspectedOffset { lag, since: arrival, lines: 1, used: arrival });
            return ClockReading::Undecided;
        };
        if delivery == Delivery::Read && before == Some((date, arrival)) {
            // Lines that came together with the same date say no more than one.
            return ClockReading::Undecided;
        }
        let candidate = &mut self.candidates[at];
        candidate.lines = candidate.lines.saturating_add(1);
        (candidate.lag, candidate.used) = (candidate.lag.min(lag), arrival);
        let SuspectedOffset { lag, since, lines, .. } = *candidate;
        let at_once = delivery == Delivery::Sent && self.draining_until.is_none_or(|until| until <= arrival);
        let is_constant = lines >= LINES && (at_once || arrival.duration_since(since) >= SPAN);
        if !is_constant || self.offsets.len() >= MOST {
            return ClockReading::Undecided;
        }
        self.candidates.remove(at);
        let offset = Offset { lag, learnt: (lag, arrival), used: arrival };
        self.offsets.push(offset);
        ClockReading::Learnt(offset.time(date, arrival), lag)
    }

    /// What the line of a date is of that arrived before an offset was learnt; its own date, where it has none.
    pub(super) fn corrected(&self, date: Timestamp, arrival: Timestamp) -> Timestamp {
        let lag = arrival.duration_since(date);
        let offset = self.offsets.iter().find(|offset| near(offset.lag, lag, TOLERATED));
        offset.map_or(date, |offset| offset.time(date, arrival))
    }

    /// By what its lines are behind (or, negative, ahead) and corrected.
    pub(super) fn offsets(&self) -> impl Iterator<Item = SignedDuration> + '_ {
        self.offsets.iter().map(|offset| offset.lag)
    }

    /// Keeps a lag in mind; past the bound the one that no line had for longest goes.
    fn suspect(&mut self, candidate: SuspectedOffset) {
        if self.candidates.len() >= MOST
            && let Some(oldest) = (0..MOST).min_by_key(|at| self.candidates[*at].used)
        {
            self.candidates.remove(oldest);
        }
        self.candidates.push(candidate);
    }
}

// === impl Offset ===

impl Offset {
    /// The time of a line whose lag is near; `None` where it shrinks as no clock's does.
    fn correct(&mut self, date: Timestamp, arrival: Timestamp) -> Option<Timestamp> {
        self.used = arrival;
        let lag = arrival.duration_since(date);
        if lag < self.lag {
            let (learnt, since) = self.learnt;
            let drift = arrival.duration_since(since).checked_div(DRIFT)?;
            if learnt.saturating_sub(lag) > SHRINKAGE.saturating_add(drift) {
                return None;
            }
            self.lag = lag;
        }
        Some(self.time(date, arrival))
    }

    /// Nothing is of a time after its arrival.
    fn time(&self, date: Timestamp, arrival: Timestamp) -> Timestamp {
        date.checked_add(self.lag).unwrap_or(arrival).min(arrival)
    }
}

/// What a date means by itself, whatever was seen before; `None` where it is off.
pub(super) fn by_itself(date: Timestamp, arrival: Timestamp) -> Option<ClockReading> {
    if date.as_second() < EPOCHS_END {
        return Some(ClockReading::Unset);
    }
    (arrival.duration_since(date).abs() <= TOLERATED).then_some(ClockReading::Right)
}

fn near(one: SignedDuration, other: SignedDuration, by: SignedDuration) -> bool {
    one.saturating_sub(other).abs() <= by
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::Delivery::{Read, Sent};
    use super::*;

    const HOUR: i64 = 3600;

    /// In milliseconds from a moment of 2026.
    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(1_796_000_000_000 + millisecond).unwrap()
    }

    /// The lags, in milliseconds, that lines are left with that arrive at so many milliseconds with so many seconds of lag,
    /// dated by whole seconds.
    fn left(delivery: Delivery, lines: &[(i64, i64)]) -> Vec<i64> {
        let mut clock = SourceClock::default();
        let read = |(arrival, lag): &(i64, i64)| {
            let date = Timestamp::from_second(at(arrival - lag * 1000).as_second()).unwrap();
            let time = match clock.read(date, at(*arrival), delivery) {
                ClockReading::Right | ClockReading::Undecided => date,
                ClockReading::Corrected(time) | ClockReading::Learnt(time, _) => time,
                ClockReading::Unset => at(*arrival),
            };
            (at(*arrival).duration_since(time).as_millis() as i64).div_euclid(1000)
        };
        lines.iter().map(read).collect()
    }

    #[rstest]
    // A clock that is right, or nearly so, whatever came before.
    #[case::right(Read, &[(0, 0), (10, 30), (20, -30), (30, 60)], &[0, 30, -30, 60])]
    // Another zone's, behind and ahead: three lines over two seconds show it.
    #[case::behind(Read, &[(0, HOUR), (1000, HOUR), (2100, HOUR), (9000, HOUR)], &[HOUR, HOUR, 0, 0])]
    #[case::ahead(Read, &[(0, -HOUR), (1000, -HOUR), (2100, -HOUR), (9000, -HOUR)], &[-HOUR, -HOUR, 0, 0])]
    #[case::a_day_behind(Read, &[(0, 86_400), (1000, 86_400), (2100, 86_400)], &[86_400, 86_400, 0])]
    // No zone's, and a line that came late keeps its distance.
    #[case::any(Read, &[(0, 5123), (1500, 5123), (3000, 5123), (60_000, 5153)], &[5123, 5123, 0, 30])]
    // A file that is read from its start: all at once.
    #[case::file(Read, &[(0, 9000), (1, 8000), (2, 7000), (3, 6000), (4, 5000)], &[9000, 8000, 7000, 6000, 5000])]
    #[case::same_second(Read, &[(0, HOUR), (1, HOUR), (2, HOUR), (3, HOUR)], &[HOUR, HOUR, HOUR, HOUR])]
    // A relay's queue, which takes its time.
    #[case::queue(Sent, &[(0, 900), (1000, 800), (2000, 700), (3000, 600), (4000, 500)], &[900, 800, 700, 600, 500])]
    #[case::burst_in_a_queue(Sent, &[(0, 900), (1, 890), (2, 890), (3, 890), (4, 890)], &[900, 890, 890, 890, 890])]
    // A sender: three lines suffice, however fast.
    #[case::sender(Sent, &[(0, HOUR), (1, HOUR), (2, HOUR)], &[HOUR, HOUR, 0])]
    // Two senders in one file, and one that is right.
    #[case::two(
        Read,
        &[(0, HOUR), (1, -7200), (2, 0), (1500, HOUR), (1501, -7200), (3000, HOUR), (3001, -7200), (3002, 0), (4000, HOUR)],
        &[HOUR, -7200, 0, HOUR, -7200, 0, 0, 0, 0]
    )]
    // What looked like an offset shrinks: a slow queue.
    #[case::slow_queue(
        Read,
        &[(0, 900), (1000, 899), (2100, 898), (3000, 897), (5000, 891), (6000, 885)],
        &[900, 899, 0, 0, 891, 885]
    )]
    // The clock is set right.
    #[case::set(Read, &[(0, HOUR), (1000, HOUR), (2100, HOUR), (9000, 0), (9100, 1)], &[HOUR, HOUR, 0, 0, 1])]
    // RouterOS between its start and NTP: 1970, and where the year is not written, last January.
    #[case::unset(Read, &[(0, 1_796_000_000)], &[0])]
    #[case::january(Sent, &[(0, 332 * 86_400), (1, 332 * 86_400), (2, 332 * 86_400)], &[332 * 86_400, 332 * 86_400, 0])]
    fn a_line_is_of_the_time_that_its_sources_clock_says(
        #[case] delivery: Delivery,
        #[case] lines: &[(i64, i64)],
        #[case] expected: &[i64],
    ) {
        assert_eq!(left(delivery, lines), expected);
    }

    #[test]
    fn what_came_before_an_offset_was_learnt_is_corrected_by_it_too() {
        let mut clock = SourceClock::default();
        let lines = [0, 1000, 2500].map(|arrival| (at(arrival - HOUR * 1000), at(arrival)));
        let [first, ..] = lines.map(|(date, arrival)| clock.read(date, arrival, Read));
        assert_eq!(first, ClockReading::Undecided);
        for (date, arrival) in lines {
            assert_eq!(clock.corrected(date, arrival), arrival);
        }
        assert_eq!(clock.corrected(at(-2 * HOUR * 1000), at(0)), at(-2 * HOUR * 1000));
    }

    fn any_delivery() -> impl Strategy<Value = Delivery> {
        prop::sample::select(vec![Read, Sent])
    }

    proptest! {
        #[test]
        fn no_dates_move_a_line_whose_date_is_right_nor_bring_one_farther_than_its_arrival(
            lines in prop::collection::vec(
                (0..3000i64, prop_oneof![-90_000..90_000i64, Just(3600i64), Just(-3600), Just(3610), -70..70i64]), 0..200),
            delivery in any_delivery(),
        ) {
            let (mut clock, mut arrival) = (SourceClock::default(), 0);
            for (pause, lag) in lines {
                arrival += pause;
                let (date, arrived) = (at(arrival - lag * 1000), at(arrival));
                match clock.read(date, arrived, delivery) {
                    ClockReading::Right => prop_assert!(lag.abs() <= 60),
                    ClockReading::Corrected(time) | ClockReading::Learnt(time, _) => {
                        prop_assert!(lag.abs() > 60);
                        prop_assert!(time <= arrived && arrived.duration_since(time) <= TOLERATED);
                    }
                    ClockReading::Undecided => prop_assert!(lag.abs() > 60),
                    ClockReading::Unset => prop_assert!(false),
                }
                prop_assert!(clock.offsets.len() <= MOST && clock.candidates.len() <= MOST);
            }
        }

        #[test]
        fn a_file_that_is_read_at_once_keeps_its_dates(
            spans in prop::collection::vec(0..5000i64, 1..100), delivery in Just(Read),
        ) {
            let mut clock = SourceClock::default();
            let mut date = -86_400_000;
            for (read, span) in spans.into_iter().enumerate() {
                date += span;
                // 100 lines in less than two seconds.
                let reading = clock.read(at(date), at(read as i64 * 15), delivery);
                prop_assert_eq!(reading, ClockReading::Undecided);
            }
        }

        #[test]
        fn lines_of_a_clock_that_is_off_keep_their_spacing(
            offset in prop_oneof![70..100_000i64, -100_000..-70i64],
            pauses in prop::collection::vec((1100..20_000i64, 0..900i64), 4..40),
        ) {
            let mut clock = SourceClock::default();
            let mut written = 0;
            for (number, (pause, delay)) in pauses.into_iter().enumerate() {
                written += pause;
                let date = Timestamp::from_second(at(written - offset * 1000).as_second()).unwrap();
                let reading = clock.read(date, at(written + delay), Read);
                if let ClockReading::Corrected(time) | ClockReading::Learnt(time, _) = reading {
                    prop_assert!(time.duration_since(at(written)).abs() <= JITTER, "{number}: {time}");
                } else {
                    prop_assert!(number < 3, "{number}: {reading:?}");
                }
            }
        }
    }
}
