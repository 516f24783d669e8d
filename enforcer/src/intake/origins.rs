//! From which addresses sensors came: their connections have places of their own, which strangers cannot take. It is
//! kept over a restart, for then all sensors come back at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

/// For how long an address is known after a sensor came from there.
const KNOWN_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How much later a sensor has to come again for that to be worth keeping.
const WORTH_KEEPING: SignedDuration = SignedDuration::from_hours(24);
/// The most addresses that are known. Those that were seen longest ago go.
const MOST: usize = 20_000;

/// The addresses of sensors: IPv4 ones, and the /64s of IPv6 ones.
#[derive(Debug, Default)]
pub struct Origins(Mutex<KnownOrigins>);

#[derive(Debug, Default)]
struct KnownOrigins {
    /// When a sensor came from there last.
    seen: HashMap<IpAddr, Timestamp>,
    /// What is to be kept.
    fresh: Vec<(IpAddr, Timestamp)>,
}

// === impl Origins ===

impl Origins {
    /// Those that were kept.
    pub fn new(kept: impl IntoIterator<Item = (IpAddr, Timestamp)>) -> Self {
        Self(Mutex::new(KnownOrigins { seen: kept.into_iter().take(MOST).collect(), fresh: Vec::new() }))
    }

    /// What was seen then, or earlier, is known no more.
    pub fn forgotten(now: Timestamp) -> Timestamp {
        now.checked_sub(KNOWN_FOR).unwrap_or(Timestamp::MIN)
    }

    /// What has changed since the last call, to be kept.
    pub fn take_fresh(&self) -> Vec<(IpAddr, Timestamp)> {
        std::mem::take(&mut self.known().fresh)
    }

    /// Whether a sensor came from an address lately.
    pub(super) fn knows(&self, origin: IpAddr, now: Timestamp) -> bool {
        self.known().seen.get(&origin).is_some_and(|seen| now.duration_since(*seen) < KNOWN_FOR)
    }

    /// Takes note that a sensor came from an address.
    pub(super) fn note(&self, origin: IpAddr, now: Timestamp) {
        let mut known = self.known();
        let before = known.seen.get(&origin);
        if before.is_some_and(|before| now.duration_since(*before) < WORTH_KEEPING) {
            return;
        }
        if before.is_none() && known.seen.len() >= MOST {
            let longest_ago = known.seen.iter().min_by_key(|(_, seen)| **seen).map(|(address, _)| *address);
            if let Some(longest_ago) = longest_ago {
                known.seen.remove(&longest_ago);
            }
        }
        known.seen.insert(origin, now);
        if known.fresh.len() < MOST {
            known.fresh.push((origin, now));
        }
    }

    fn known(&self) -> MutexGuard<'_, KnownOrigins> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_for_a_month_after_a_sensor_came_and_kept_once_a_day() {
        let at = |hour: i64| Timestamp::from_second(1_800_000_000 + 3600 * hour).unwrap();
        let [first, second] = ["192.0.2.1", "2001:db8::"].map(|text| text.parse::<IpAddr>().unwrap());
        let origins = Origins::new([(second, at(-100))]);
        assert!(!origins.knows(first, at(0)) && origins.knows(second, at(0)));
        for hour in [0, 1, 23, 24, 25] {
            origins.note(first, at(hour));
        }
        assert_eq!(origins.take_fresh(), [(first, at(0)), (first, at(24))]);
        assert!(origins.take_fresh().is_empty());
        assert!(origins.knows(first, at(24 + 719)) && !origins.knows(first, at(24 + 720)));
    }

    #[test]
    fn no_more_than_so_many_addresses_are_known() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let host = |number: u32| IpAddr::from(number.to_be_bytes());
        let origins = Origins::default();
        for number in 0..=MOST as u32 {
            origins.note(host(number), at(number.into()));
        }
        let end = at(MOST as i64);
        assert!(
            !origins.knows(host(0), end)
                && origins.knows(host(1), end)
                && origins.knows(host(MOST as u32), end)
        );
        assert_eq!(origins.known().fresh.len(), MOST);
    }
}
