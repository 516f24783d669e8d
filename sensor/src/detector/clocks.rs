//! The clocks of a jail's sources: of each file, and of each sender of syslog by its address and host. Only those that are
//! off are known here, so that a flood of senders takes no memory while their dates are right; and what an undecided
//! clock's lines told is held until it is decided. All of it is bounded.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::clock::{ClockReading, Delivery, SourceClock, by_itself};
use crate::jail::Failure;

/// How many sources of one jail are known to be off at once. Past it those that no line came from for longest are
/// forgotten.
const MOST: usize = 1024;
/// How many failures of one source, and of all of a jail's, are held.
const MOST_HELD: usize = 16;
const MOST_HELD_OF_ALL: usize = 1024;
/// How long a failure is held, and how long a source is known that says nothing.
const HELD: SignedDuration = SignedDuration::from_mins(10);
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// The sources whose clocks are off, by their names.
#[derive(Default)]
pub(super) struct Clocks {
    of: HashMap<String, Known>,
    held: usize,
}

/// A source whose clock is off, or may be.
struct Known {
    clock: SourceClock,
    held: Vec<(Failure, Timestamp)>,
    touched: Timestamp,
}

// === impl Clocks ===

impl Clocks {
    /// What the clock of a source makes of a date whose line arrived now.
    pub(super) fn read(
        &mut self,
        source: &str,
        date: Timestamp,
        now: Timestamp,
        delivery: Delivery,
    ) -> ClockReading {
        // Most dates are right, and need not be looked up.
        if let Some(reading) = by_itself(date, now) {
            return reading;
        }
        if !self.of.contains_key(source) {
            if self.of.len() >= MOST && !self.forget_one() {
                return ClockReading::Right;
            }
            let known = Known { clock: SourceClock::default(), held: Vec::new(), touched: now };
            self.of.insert(source.to_owned(), known);
        }
        let Some(known) = self.of.get_mut(source) else { return ClockReading::Right };
        known.touched = now;
        known.clock.read(date, now, delivery)
    }

    /// Whether a source is known to be off, or may be: then each of its lines helps to tell.
    pub(super) fn suspect(&self, source: &str) -> bool {
        self.of.contains_key(source)
    }

    /// Holds a failure until its source's clock is decided on; gives it back where there is no room.
    pub(super) fn hold(&mut self, source: &str, failure: Failure, now: Timestamp) -> Option<Failure> {
        match self.of.get_mut(source) {
            Some(known) if known.held.len() < MOST_HELD && self.held < MOST_HELD_OF_ALL => {
                known.held.push((failure, now));
                self.held += 1;
                None
            }
            _ => Some(failure),
        }
    }

    /// What was held of a source whose offset is known now, each of the time that it says.
    pub(super) fn release(&mut self, source: &str) -> Vec<Failure> {
        let Some(known) = self.of.get_mut(source) else { return Vec::new() };
        let held = std::mem::take(&mut known.held);
        self.held -= held.len();
        held.into_iter()
            .map(|(failure, arrived)| {
                let time = known.clock.corrected(failure.time, arrived);
                failure.at(time)
            })
            .collect()
    }

    /// Forgets what said nothing for long; what was held in vain, which is of its own date then.
    pub(super) fn sweep(&mut self, now: Timestamp) -> Vec<Failure> {
        self.of.retain(|_, known| !known.held.is_empty() || now.duration_since(known.touched) <= KEPT);
        let mut vain = Vec::new();
        for known in self.of.values_mut() {
            let is_old = |(_, arrived): &(Failure, Timestamp)| now.duration_since(*arrived) > HELD;
            if known.held.first().is_some_and(is_old) {
                vain.extend(known.held.drain(..).map(|(failure, _)| failure));
            }
        }
        self.held -= vain.len();
        vain
    }

    /// In words, of each source whose clock is corrected, for people; the first few.
    pub(super) fn troubles(&self) -> Vec<String> {
        const SHOWN: usize = 5;
        let mut said: Vec<String> = self
            .of
            .iter()
            .flat_map(|(source, known)| known.clock.offsets().map(move |offset| said(source, offset)))
            .collect();
        said.sort_unstable();
        let more = said.len().saturating_sub(SHOWN);
        said.truncate(SHOWN);
        if more > 0 {
            said.push(format!("and {more} more clocks that are off"));
        }
        said
    }

    /// Makes room; of sources of which something is held nobody is forgotten, for it would be lost.
    fn forget_one(&mut self) -> bool {
        let idle = self.of.iter().filter(|(_, known)| known.held.is_empty());
        let by_use = |(_, known): &(&String, &Known)| (known.clock.offsets().next().is_some(), known.touched);
        let oldest = idle.min_by_key(by_use).map(|(source, _)| source.clone());
        oldest.is_some_and(|source| self.of.remove(&source).is_some())
    }
}

/// That a clock is off, and by how much.
pub(super) fn said(source: &str, offset: SignedDuration) -> String {
    let way = if offset.is_negative() { "ahead" } else { "behind" };
    format!("the clock of {source} is {} s {way}: its lines are corrected by that", offset.as_secs().abs())
}

#[cfg(test)]
mod tests {
    use atalaya_wire::Evidence;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    fn failure(time: Timestamp) -> Failure {
        let address = "192.0.2.1".parse().unwrap();
        Failure { address, time, weight: 1, port: None, evidence: Evidence::new(time, "x", "") }
    }

    #[test]
    fn senders_beyond_counting_leave_those_that_are_known_and_what_they_hold_is_bounded() {
        let mut clocks = Clocks::default();
        for second in 0..3 {
            clocks.read("router", at(second - 3600), at(second), Delivery::Sent);
        }
        for number in 0..5000 {
            let source = number.to_string();
            let date = at(number - 7200);
            let _ = clocks.read(&source, date, at(number), Delivery::Sent);
            for _ in 0..20 {
                let _ = clocks.hold(&source, failure(date), at(number));
            }
            assert!(clocks.of.len() <= MOST && clocks.held <= MOST_HELD_OF_ALL);
            let held: usize = clocks.of.values().map(|known| known.held.len()).sum();
            assert_eq!(held, clocks.held);
        }
        assert_eq!(
            clocks.troubles(),
            ["the clock of router is 3600 s behind: its lines are corrected by that"]
        );
        let vain = clocks.sweep(at(10_000));
        assert_eq!((vain.len(), clocks.held), (MOST_HELD_OF_ALL, 0));
        clocks.sweep(at(200_000));
        assert!(clocks.of.is_empty());
    }

    #[test]
    fn what_is_right_takes_no_memory() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.read("x", at(-30), at(0), Delivery::Sent), ClockReading::Right);
        assert!(!clocks.suspect("x"));
    }
}
