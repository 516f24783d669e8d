//! The adds, sets and removes of a session: how they are written, and what comes of their answers, refusals and
//! of no answer at all.

use atalaya_program::count::counted;
use ipnet::IpNet;
use tokio::time::Instant;

use super::{Errand, LONGEST_REFUSED_PAUSE, Link, Purpose, SWALLOWED_INTERVAL};
use crate::prefixes::Family;
use crate::router::Deadlines;
use crate::router::address_list::{address_text, timeout_text};
use crate::router::order::{Action, Order};
use crate::router::sentence::{Trap, TrapMeaning};

impl Link<'_> {
    pub(super) fn send(&mut self, order: Order) {
        let Order { prefix, action } = order;
        let family = order.family();
        let command = match action {
            Action::Add { timeout } => {
                let comment = self.comment(prefix);
                self.session
                    .command(family.add())
                    .attribute("list", Some(self.workplace.config.list(family)))
                    .attribute("address", Some(&address_text(prefix)))
                    .attribute("timeout", Some(&timeout_text(timeout)))
                    .attribute("comment", Some(&comment))
            }
            Action::Set { id, timeout } => {
                let comment = self.comment(prefix);
                self.session
                    .command(family.set())
                    .attribute(".id", Some(&id.to_string()))
                    .attribute("timeout", Some(&timeout_text(timeout)))
                    .attribute("comment", Some(&comment))
            }
            Action::Remove { id } => {
                self.session.command(family.remove()).attribute(".id", Some(&id.to_string()))
            }
        };
        let now = Instant::now();
        self.timers.order_sent = now;
        self.session.send(command, Purpose { errand: Errand::Order(order), at: now });
    }

    fn comment(&self, prefix: IpNet) -> String {
        // A ban that was lifted this moment has no label; its entry goes next.
        let label = self.pipeline.view().label(prefix);
        label.map_or_else(|| self.marks.comment(""), |label| self.pipeline.comment(&label))
    }

    pub(super) fn note_answer(&mut self, sent: Instant) {
        let now = Instant::now();
        (self.timers.order_answered, self.timers.given_up) = (now, 0);
        let took = now.saturating_duration_since(sent);
        self.latency = Some(took);
        self.workplace.answered.took(took);
        self.workplace.pace.done();
        // What waited behind a print says nothing about the router's speed.
        let printing = self.pipeline.printing().is_some() || self.look.is_under_way();
        if !printing && sent > self.timers.print_ended.max(self.timers.look_ended) {
            self.workplace.pace.answered(took, self.pipeline.in_flight().saturating_sub(1), now);
        }
    }

    pub(super) fn take_refusal(&mut self, order: Order, trap: &Trap) {
        if matches!(trap.meaning, TrapMeaning::Other | TrapMeaning::Permission) {
            self.workplace.pace.refused(Instant::now());
        }
        if !self.pipeline.refused(order, trap, self.workplace.now()) {
            return;
        }
        if trap.meaning == TrapMeaning::NoSuchCommand && order.family() == Family::V6 {
            self.pipeline.missing(Family::V6);
        }
        if self.timers.retry.is_some() {
            // Said already, for another entry; it is counted.
            return;
        }
        self.timers.retry = Some(Instant::now() + self.timers.retry_pause);
        let advice = match trap.meaning {
            TrapMeaning::Permission => "; the user's group needs the policies read, write and api",
            _ => "",
        };
        self.workplace.fail(format!(
            "{} of {} was refused: {trap}{advice}; sent again in {} s",
            order.action.noun(),
            address_text(order.prefix),
            self.timers.retry_pause.as_secs_f64(),
        ));
        self.timers.retry_pause = (self.timers.retry_pause * 2).min(LONGEST_REFUSED_PAUSE);
    }

    /// Gives up commands that were not answered although the router lives: they are sent again, which does no harm
    /// where they were carried out. What waits behind a print or a look at the rules is not late.
    pub(super) fn give_up_swallowed(&mut self, now: Instant) {
        if now < self.timers.swallowed {
            return;
        }
        let Deadlines { overtaken, idle, .. } = self.workplace.config.deadlines;
        // A router that is busy with its lists may answer other commands: it is not sent the same again and again.
        let overtaken = (overtaken * 2u32.saturating_pow(self.timers.given_up)).min(idle);
        let interval = SWALLOWED_INTERVAL.min(overtaken / 4);
        if now > self.timers.swallowed + SWALLOWED_INTERVAL {
            // This process was held up: what was answered meanwhile is not read yet.
            self.timers.held_up = now;
        }
        self.timers.swallowed = now + interval;
        if self.pipeline.printing().is_some() || self.look.is_under_way() {
            return;
        }
        let (held_up_until, answered) = (
            self.timers.print_ended.max(self.timers.look_ended).max(self.timers.held_up),
            self.timers.answered_sent,
        );
        let deadline = |sent: &Purpose| if sent.at < answered { overtaken } else { idle };
        let lost = self.session.give_up(|sent| sent.at.max(held_up_until) + deadline(sent) <= now);
        let mut orders = lost.into_iter().filter_map(|sent| match sent.errand {
            Errand::Order(order) => Some((order, deadline(&sent))),
            Errand::Resource => {
                self.timers.resource_asked = false;
                None
            }
            _ => None,
        });
        let Some((first, within)) = orders.next() else { return };
        self.timers.given_up = self.timers.given_up.saturating_add(1);
        let mut count = 0;
        for order in std::iter::once(first).chain(orders.map(|(order, _)| order)) {
            count += 1;
            self.pipeline.swallowed(order);
        }
        let others = match count - 1 {
            0 => String::new(),
            others => format!(" and to {}", counted(others, "other command")),
        };
        self.workplace.fail(format!(
            "no answer to {} of {}{others} within {} s, while others were answered; sent again",
            first.action.noun(),
            address_text(first.prefix),
            within.as_secs_f64(),
        ));
    }
}
