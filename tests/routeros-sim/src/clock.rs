//! The router's wall clock: the system's, plus an offset that tests move forward.
//!
//! Moving it makes entries lapse and uptime grow at once; it does not hurry costs or round trips,
//! which are real waiting.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// A clock that can be moved forward. Clones are the same clock, so routers can share one.
#[derive(Clone, Debug)]
pub struct Clock {
    offset: Arc<watch::Sender<SignedDuration>>,
}

impl Clock {
    /// A clock that shows the system's time.
    pub fn new() -> Self {
        Self { offset: Arc::new(watch::Sender::new(SignedDuration::ZERO)) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
        self.offset.send_modify(|offset| *offset = offset.saturating_add(by));
    }

    /// What the clock shows; it stays at the end of time when moved past it.
    pub fn now(&self) -> Timestamp {
        let offset = *self.offset.borrow();
        Timestamp::now().saturating_add(offset).unwrap_or(Timestamp::MAX)
    }

    /// Tells of each move.
    pub(crate) fn moves(&self) -> watch::Receiver<SignedDuration> {
        self.offset.subscribe()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_clock_shows_later_for_every_holder_of_it() {
        let clock = Clock::new();
        let shared = clock.clone();
        let before = shared.now();
        clock.advance(Duration::from_mins(10));
        let moved = shared.now().duration_since(before);
        assert!((600..602).contains(&moved.as_secs()), "{moved}");
        clock.advance(Duration::MAX);
        assert_eq!(shared.now(), Timestamp::MAX);
    }
}
