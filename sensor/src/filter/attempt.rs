//! Attempts: one refused guess that a daemon writes several lines of. The first line (`<F-FIRST>`) is the
//! failure; one more of its kind and one that may repeat it (`<F-AGAIN>`) are the same failure, where they
//! have the same id (`<F-ATTEMPT>`) and address. What comes after those is a failure of its own, so that
//! nobody guesses on for free with an id that he keeps.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Host;

/// How many attempts are remembered; beyond, the oldest is forgotten, and its next line counts.
const MOST: usize = 256;
/// The longest id that is remembered whole, in bytes; what is longer is taken for its beginning.
const LONGEST: usize = 128;
/// For how long an attempt's further lines are waited for.
const REMEMBERED: Duration = Duration::from_secs(120);

/// Whose attempt it is: the same id of another address is another attempt.
type AttemptKey = (Host, Vec<u8>);

/// The attempts of which further lines may come.
#[derive(Clone, Debug, Default)]
pub(super) struct AttemptMemory {
    told: HashMap<AttemptKey, ToldGuesses>,
    /// The same, the oldest first.
    order: VecDeque<(u64, AttemptKey)>,
    clock: u64,
}

/// What has been told of an attempt.
#[derive(Clone, Debug)]
struct ToldGuesses {
    number: u64,
    at: Instant,
    /// Whether one more first line, or one that repeats, is of the same failure.
    first: bool,
    again: bool,
}

// === impl AttemptMemory ===

impl AttemptMemory {
    /// Takes a line of an attempt. Whether an earlier one has told its failure.
    pub(super) fn has_told(&mut self, host: &Host, id: &[u8], is_first: bool, now: Instant) -> bool {
        let key = (host.clone(), id[..id.len().min(LONGEST)].to_vec());
        if let Some(told) = self.told.get_mut(&key)
            && now.duration_since(told.at) <= REMEMBERED
        {
            let open = if is_first { &mut told.first } else { &mut told.again };
            if std::mem::take(open) {
                return true;
            }
        }
        if is_first {
            self.keep(key, now);
        }
        false
    }

    fn keep(&mut self, key: AttemptKey, now: Instant) {
        self.clock += 1;
        self.told.insert(key.clone(), ToldGuesses { number: self.clock, at: now, first: true, again: true });
        self.order.push_back((self.clock, key));
        while self.order.len() > MOST {
            let Some((number, oldest)) = self.order.pop_front() else { break };
            // It may have begun anew since.
            if self.told.get(&oldest).is_some_and(|told| told.number == number) {
                self.told.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::Address(text.parse().unwrap())
    }

    #[test]
    fn further_guesses_of_an_attempt_count_and_the_first_counts_once() {
        let (mut attempts, now, host) = (AttemptMemory::default(), Instant::now(), host("192.0.2.7"));
        let mut told = |is_first| attempts.has_told(&host, b"1", is_first, now);
        assert!(!told(true), "the first line is the failure");
        assert!(told(false), "the first guess is the same");
        assert!(!told(false) && !told(false), "further guesses are not");
        assert!(told(true), "nor does a first line that comes twice count twice");
        assert!(!told(true), "but a third is of another guess");
    }

    #[test]
    fn an_id_of_another_address_or_of_long_ago_hides_nothing() {
        let (mut attempts, now) = (AttemptMemory::default(), Instant::now());
        assert!(!attempts.has_told(&host("192.0.2.7"), b"1", true, now));
        assert!(!attempts.has_told(&host("192.0.2.8"), b"1", false, now));
        let later = now + REMEMBERED + Duration::from_secs(1);
        assert!(!attempts.has_told(&host("192.0.2.7"), b"1", false, later));
    }

    #[test]
    fn a_flood_of_attempts_is_forgotten_from_its_beginning() {
        let (mut attempts, now, host) = (AttemptMemory::default(), Instant::now(), host("192.0.2.7"));
        for number in 0..10_000_u32 {
            assert!(!attempts.has_told(&host, &number.to_be_bytes(), true, now));
            assert!(attempts.told.len() <= MOST && attempts.order.len() <= MOST);
        }
        assert!(!attempts.has_told(&host, &0_u32.to_be_bytes(), false, now));
        assert!(attempts.has_told(&host, &9_999_u32.to_be_bytes(), false, now));
    }
}
