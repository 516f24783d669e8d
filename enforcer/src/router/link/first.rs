//! What a new session does before it has read the list: bans go first, for a router may do one command at a time, and
//! its scan may take minutes.

use std::time::Duration;

use tokio::time::Instant;

use super::Link;

/// For how long a new session sends the bans that its router does not have yet before it reads the list.
const SENT_FIRST: Duration = Duration::from_secs(10);

/// For how long bans that were sent before the first reading hold that up while no answer comes.
const SENT_FIRST_SILENCE: Duration = Duration::from_secs(1);

impl Link<'_> {
    /// Whether bans go out before the list is read for the first time: a router may do one command at a time, and
    /// its scan may take minutes.
    pub(super) fn sends_first(&self, now: Instant) -> bool {
        let waiting = self.pipeline.has_next() || self.pipeline.in_flight() > 0;
        !self.pipeline.is_known() && waiting && now < self.sends_first_until()
    }

    /// Until when that is, if more is to be sent until then.
    pub(super) fn sends_first_until(&self) -> Instant {
        let until = self.began + SENT_FIRST;
        // What is not answered may have been swallowed; the reading tells.
        if self.pipeline.in_flight() == 0 {
            until
        } else {
            until.min(self.timers.order_answered + SENT_FIRST_SILENCE)
        }
    }

    /// When all bans are to go out although the first reading is not over: it may take minutes, or never end.
    pub(super) fn unread_due(&self) -> Option<Instant> {
        let waits =
            self.pipeline.printing().is_some() && !self.pipeline.is_known() && !self.timers.unread_sent;
        waits.then(|| self.timers.print_began + self.workplace.config.deadlines.answer)
    }
}
