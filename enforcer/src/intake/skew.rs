//! Sensors' clocks. A sensor that says when it sent something shows how far its clock is off; what it saw is
//! then dated by the enforcer's clock, so that a wrong clock makes no ban too short or too long.
//!
//! A ban runs from the time of the offence, and that time comes from another host. If the host's clock is two hours
//! behind, a ban of 30 minutes is over before it arrives and nobody is ever banned; if it is ahead, bans would last
//! longer than the jail says. What cannot be done is to take the time of arrival instead: a sensor that was cut off for
//! an hour sends an hour of offences at once, and their bans must not begin anew.
//!
//! So each message carries the sensor's clock at sending. The difference to ours is the clock's error plus the time on the
//! way, and applies to every date in the message alike:
//!
//! | | by the sensor's clock | as it is dated |
//! |---|---|---|
//! | the offence | 07:58:00 | 09:58:00 |
//! | the message is sent | 08:00:00 | |
//! | it arrives, by our clock | | 10:00:00: the sensor is 2 h behind |
//!
//! The two minutes that the offence waited are kept. Up to [`TOLERATED`] nothing is corrected, because that much may be
//! the way of the message; and no date is ever after the arrival, whatever a clock says.

use jiff::{SignedDuration, Timestamp};

/// How far a clock may be off, and how long a message may take, before its dates are corrected.
pub const TOLERATED: SignedDuration = SignedDuration::from_secs(30);

/// When a message arrived, and how far the clock is off that dated what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dating {
    arrived: Timestamp,
    /// How far the sensor's clock is behind ours, where it said; negative where it is ahead.
    skew: Option<SignedDuration>,
}

// === impl Dating ===

impl Dating {
    /// Of a message that was sent at a time by its sender's clock, where it says so.
    pub fn new(sent: Option<Timestamp>, arrived: Timestamp) -> Self {
        Self { arrived, skew: sent.map(|sent| arrived.duration_since(sent)) }
    }

    /// When something happened that the sensor dated; never after the message arrived. A message that waited
    /// is dated as well as any other.
    pub fn date(&self, time: Timestamp) -> Timestamp {
        let corrected = self.wrong_by().map_or(time, |skew| {
            let bound = if skew.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
            time.checked_add(skew).unwrap_or(bound)
        });
        corrected.min(self.arrived)
    }

    /// How many seconds the sensor's clock is behind ours (negative: ahead), the message's way included;
    /// `None` where the sensor did not say when it sent it.
    pub fn seconds(&self) -> Option<i64> {
        self.skew.map(|skew| skew.as_secs())
    }

    /// How far the clock is off, where that is more than tolerated.
    pub fn wrong_by(&self) -> Option<SignedDuration> {
        self.skew.filter(|skew| skew.abs() > TOLERATED)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_clock_that_is_wrong_by_an_hour_either_way_changes_no_date() {
        // Seen 100 s before it arrived: at once, or after it waited in the outbox for two hours.
        for off in [-3600, 0, 3600] {
            for waited in [100, 7200] {
                let dating = Dating::new(Some(at(off)), at(0));
                assert_eq!(dating.date(at(off - waited)), at(-waited), "{off} {waited}");
                assert_eq!(dating.seconds(), Some(-off));
            }
        }
    }

    #[test]
    fn a_clock_that_is_nearly_right_is_believed_but_for_the_future() {
        let dating = Dating::new(Some(at(-20)), at(0));
        assert_eq!(dating.date(at(-30)), at(-30));
        let silent = Dating::new(None, at(0));
        assert_eq!(silent.date(at(-5000)), at(-5000));
        assert_eq!(silent.date(at(3600)), at(0));
        assert_eq!((silent.seconds(), silent.wrong_by()), (None, None));
    }

    proptest! {
        #[test]
        fn no_date_is_after_the_arrival_and_none_overflows(
            sent in prop::option::of(any::<i64>()), arrived in any::<i64>(), time in any::<i64>(),
        ) {
            let clamp = |second: i64| {
                let range = Timestamp::MIN.as_second()..=Timestamp::MAX.as_second();
                Timestamp::from_second(second.clamp(*range.start(), *range.end())).unwrap()
            };
            let dating = Dating::new(sent.map(clamp), clamp(arrived));
            prop_assert!(dating.date(clamp(time)) <= clamp(arrived));
        }
    }
}
