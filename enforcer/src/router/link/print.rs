//! Prints of the lists that do not end well: given up, or refused.

use tokio::time::Instant;

use super::{Errand, LONGEST_REFUSED_PAUSE, Link};
use crate::prefixes::Family;
use crate::router::sentence::{Trap, TrapMeaning};

impl Link<'_> {
    /// By when more is to be heard of the print that is under way. While a router scans its table nothing is, and how
    /// long that takes is its own affair; but where it answers what was sent after the print, the print's
    /// answer may be lost.
    pub(super) fn print_deadline(&self) -> Option<Instant> {
        self.pipeline.printing()?;
        let (patience, deadlines) = (self.workplace.patience, &self.workplace.config.deadlines);
        let whole = self.timers.print_began + patience.of(deadlines.print);
        let row = self.timers.print_heard + patience.of(deadlines.idle);
        Some(if self.timers.overtaken { whole.min(row) } else { whole })
    }

    /// Gives up the print that is under way, and has it sent again.
    pub(super) fn give_up_print(&mut self) {
        let Some(family) = self.pipeline.printing() else { return };
        self.session.give_up(|sent| matches!(sent.errand, Errand::Print(_)));
        self.pipeline.print_lost();
        self.workplace.patience.was_too_short();
        let now = Instant::now();
        self.timers.print_ended = now;
        self.workplace.fail(format!(
            "the {family} list was not told to its end within {} s, while other commands were answered; it is read again, with more patience",
            now.duration_since(self.timers.print_began).as_secs(),
        ));
    }

    /// Takes in that the IPv6 list is not told. Where the router has none, its bans are left out; else it is asked for
    /// again, and meanwhile the bans go out unread.
    pub(super) fn no_ipv6_list(&mut self, trap: &Trap) {
        if trap.meaning == TrapMeaning::NoSuchCommand {
            self.pipeline.missing(Family::V6);
            self.workplace.fail(format!(
                "the IPv6 address list cannot be read, so IPv6 bans are not on this router: {trap}; enable the ipv6 package, or set `ipv6 = false` for this router"
            ));
            self.settle();
            return;
        }
        let (now, pause) = (Instant::now(), self.timers.print_pause);
        self.pipeline.print_refused();
        self.pipeline.send_unread();
        (self.timers.print_ended, self.timers.print_again) = (now, Some(now + pause));
        self.timers.print_pause = (pause * 2).min(LONGEST_REFUSED_PAUSE);
        self.workplace.fail(format!(
            "the IPv6 address list was not told: {trap}; asked for again in {} s, and bans go out meanwhile",
            pause.as_secs_f64(),
        ));
    }
}
