//! A logged-in session at work: the pipeline's commands go out, the answers come in, and timers keep the
//! link and the list in order. One link lives as long as its session.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use tokio::time::Instant;

use super::actual::Owner;
use super::address_list::{EntryId, Marks};
use super::audit::{MissingBans, PIECE};
use super::check::rules::Chains;
use super::look::{Look, Next};
use super::networks::{NetworkPage, NetworksReading};
use super::order::{Order, Shown};
use super::pipeline::{Counts, Pipeline, Table};
use super::reading::{ListReading, Patience};
use super::rival::Rivals;
use super::sentence::Trap;
use super::session::{CommandAnswer, Session, SessionError};
use super::status::State;
use super::view::View;
use super::workplace::Workplace;
use super::{Deadlines, Holding, Question};
use crate::clock::ClockSteps;
use crate::desired::Moment;
use crate::prefixes::Family;

mod first;
mod networks;
mod orders;
mod print;
mod resource;
mod rest;
mod shown;

/// The most prefixes that are looked at before the socket is looked at again.
const LOOKED_AT: usize = 4096;

/// How long a print that would tell an id, an owner or a rule waits for quiet.
const QUIET: Duration = Duration::from_secs(5);

/// How often it is looked whether a command was not answered.
const SWALLOWED_INTERVAL: Duration = Duration::from_secs(1);

/// The longest pause before refused commands are sent again.
const LONGEST_REFUSED_PAUSE: Duration = Duration::from_mins(5);

/// By how much the time of boot may seem to move without a reboot: RouterOS tells whole seconds, late.
const BOOT_TOLERANCE: Duration = Duration::from_secs(5);

/// How many times as long as a look at the rules took the router is then left alone, up to
/// [`LONGEST_LEARN_GAP`]: it has other things to do.
const LEFT_ALONE: u32 = 20;

/// The longest pause between two prints made only to learn ids or owners.
const LONGEST_LEARN_GAP: Duration = Duration::from_mins(5);

/// A session at work.
pub(super) struct Link<'a> {
    workplace: &'a mut Workplace,
    session: Session<Purpose>,
    pipeline: Pipeline,
    look: Look,
    networks: NetworksReading,
    networks_asked: Option<NetworkPage>,
    marks: Marks,
    began: Instant,
    timers: Timers,
    latency: Option<Duration>,
    /// When the print that is under way was sent.
    reading_since: Timestamp,
    /// What is believed to be on the router ends by the wall clock.
    steps: ClockSteps,
    /// Prefixes whose commands were not sent to a read-only router since their table was printed.
    withheld: HashSet<IpNet>,
}

/// What a command in flight was sent for, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    errand: Errand,
    at: Instant,
}

/// What a command was sent for.
#[derive(Clone, Copy, Debug)]
enum Errand {
    Order(Order),
    Print(Family),
    Rules(Family, Chains),
    Resource,
    Identity,
    Networks(NetworkPage),
    Serial,
}

/// When to do what next.
struct Timers {
    /// Ask for the router's resources: the keepalive.
    resource: Instant,
    /// Whether that was asked and is not answered yet.
    resource_asked: bool,
    /// Look for commands that were not answered.
    swallowed: Instant,
    /// When this process was last held up, and answers waited.
    held_up: Instant,
    /// How often commands were given up since one was answered.
    given_up: u32,
    /// When the latest of the commands that were answered was sent.
    answered_sent: Instant,
    /// When an add, set or remove was sent last.
    order_sent: Instant,
    /// When one was answered last.
    order_answered: Instant,
    /// Read the lists anew, whatever is believed to be on them.
    reconcile: Instant,
    /// Send refused commands again; set while there are any.
    retry: Option<Instant>,
    retry_pause: Duration,
    /// When a wish to learn ids or owners came up.
    learn_since: Option<Instant>,
    /// No print for learning before this.
    learn_after: Instant,
    learn_gap: Duration,
    print_began: Instant,
    /// When a row of the print that is under way came last, or it was sent.
    print_heard: Instant,
    /// Whether since then a command was answered that was sent after the print: the router does not merely scan.
    overtaken: bool,
    /// Read the IPv6 list, which was refused.
    print_again: Option<Instant>,
    print_pause: Duration,
    /// Whether all bans were sent because the first reading took long.
    unread_sent: bool,
    print_ended: Instant,
    /// No look at the rules before this.
    look: Instant,
    look_began: Instant,
    /// When something was heard of the look that is under way.
    look_heard: Instant,
    look_ended: Instant,
}

// === impl Link ===

impl<'a> Link<'a> {
    pub(super) fn new(workplace: &'a mut Workplace, session: Session<Purpose>, counts: Counts) -> Self {
        // Part of the first reconciliation, but an attacker of this moment goes before those of before.
        let missed = workplace.subscription.take();
        let undone = std::mem::take(&mut workplace.undone);
        let config = &workplace.config;
        let view = View::new(Arc::clone(&workplace.desired), config.takes(), config.ipv6);
        let marks = config.marks();
        let mut pipeline = Pipeline::new(view, marks.clone(), config.ipv6, counts);
        pipeline.note_missed(missed, undone);
        pipeline.set_limit(config.max_entries.or(workplace.memory_limit));
        if workplace.unread {
            // No print came to its end in the last session, so nothing may wait for one in this.
            pipeline.send_unread();
        }
        let now = Instant::now();
        let timers = Timers {
            resource: now,
            resource_asked: false,
            swallowed: now,
            held_up: now,
            given_up: 0,
            answered_sent: now,
            order_sent: now,
            order_answered: now,
            reconcile: now + jittered(workplace.config.reconcile_every),
            retry: None,
            retry_pause: workplace.config.deadlines.refused_pause,
            learn_since: None,
            learn_after: now,
            learn_gap: Duration::ZERO,
            print_began: now,
            print_heard: now,
            overtaken: false,
            print_again: None,
            print_pause: workplace.config.deadlines.refused_pause,
            unread_sent: false,
            print_ended: now,
            look: now,
            look_began: now,
            look_heard: now,
            look_ended: now,
        };
        let (look, withheld, reading_since) = (Look::default(), HashSet::new(), workplace.clock.now());
        let networks = NetworksReading::default();
        let steps = ClockSteps::of(&workplace.clock);
        Self {
            workplace,
            session,
            pipeline,
            look,
            networks,
            networks_asked: None,
            marks,
            began: now,
            timers,
            latency: None,
            reading_since,
            steps,
            withheld,
        }
    }

    /// Works until the service stops, or there are other settings (`Ok`), or the session ends.
    pub(super) async fn run(&mut self) -> Result<(), SessionError> {
        self.ask("/system/identity/print", Errand::Identity, |command| command);
        self.ask_for_networks(NetworkPage::FIRST);
        self.ask("/system/routerboard/print", Errand::Serial, |command| {
            command.attribute(".proplist", Some("serial-number"))
        });
        loop {
            self.on_time();
            let more = self.fill();
            self.publish();
            let wake = self.next_timer();
            let Deadlines { idle, answer, .. } = self.workplace.config.deadlines;
            self.audit();
            if self.look_deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                // It answers everything else, so that the session would not notice.
                return Err(SessionError::Silent(idle));
            }
            self.session.set_idle(match self.pipeline.printing() {
                Some(_) => self.workplace.patience.of(self.workplace.config.deadlines.scan),
                None => answer,
            });
            tokio::select! {
                biased;
                () = self.workplace.stop.cancelled() => return self.finish().await,
                Ok(()) = self.workplace.settings.changed() => {
                    self.workplace.settings.mark_changed();
                    return self.come_to_rest().await;
                }
                answer = self.session.answer() => {
                    if self.pipeline.printing().is_some() && matches!(answer, Err(SessionError::Silent(_))) {
                        self.workplace.patience.was_too_short();
                    }
                    if self.is_scanning_routes() && matches!(answer, Err(SessionError::Silent(_))) {
                        self.workplace.silent_routes += 1;
                    }
                    self.take(answer?)?;
                    while let Some(answer) = self.session.received()? {
                        self.take(answer)?;
                    }
                }
                () = self.workplace.subscription.changed() => {}
                Some(question) = self.workplace.asked.recv() => self.tell(question),
                () = tokio::time::sleep_until(wake) => {}
                () = tokio::task::yield_now(), if more => {}
            }
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.pipeline.counts()
    }

    /// Leaves what was not carried out to the next session.
    pub(super) fn leave(&mut self) {
        self.workplace.undone = self.pipeline.undone();
        self.workplace.unread = !self.pipeline.is_known();
        self.workplace.desired.disclaim(&self.workplace.config.name);
    }

    /// Whether adds, sets or removes were in flight.
    pub(super) fn was_sending(&self) -> bool {
        self.pipeline.in_flight() > 0
    }

    /// Whether the whole list was read once.
    pub(super) fn was_good(&self) -> bool {
        self.pipeline.is_known()
    }

    /// Fills the window. True where prefixes were left unlooked at although the window is open.
    fn fill(&mut self) -> bool {
        let now = self.workplace.now();
        let mut budget = LOOKED_AT;
        while self.workplace.pace.admits(self.pipeline.in_flight(), Instant::now()) {
            if !self.pipeline.has_fresh() {
                let changes = self.workplace.subscription.take();
                if changes.is_empty() && !self.pipeline.has_next() {
                    return false;
                }
                self.pipeline.note(changes);
            }
            match self.pipeline.next(now, &mut budget) {
                Some(order) if self.workplace.config.read_only => {
                    tracing::debug!(router = %self.workplace.config.name, ?order, "not sent: read-only");
                    self.withheld.insert(order.prefix);
                    self.pipeline.withhold(order);
                }
                Some(order) => {
                    self.workplace.pace.sent();
                    self.send(order);
                }
                None if budget == 0 => return true,
                None => {}
            }
        }
        false
    }

    /// Looks whether the router holds what it should, a piece at a time.
    fn audit(&mut self) {
        if self.workplace.config.read_only {
            return;
        }
        let (pipeline, now) = (&self.pipeline, self.workplace.now());
        self.workplace
            .audit
            .piece(Instant::now(), |after, tell| pipeline.missing_after(after, PIECE, now, tell));
    }

    /// Answers a question about the mirror.
    fn tell(&self, question: Question) {
        let Question { prefix, answer } = question;
        let now = self.workplace.now();
        let held = self.pipeline.actual().get(prefix).filter(|held| !held.lapsed(now));
        let holding = match held {
            Some(held) => Holding::Entry {
                ours: held.owner == Owner::Ours,
                disabled: held.disabled,
                left: (held.expires != Moment::FOREVER).then(|| held.expires.seconds_after(now)),
            },
            None if self.pipeline.is_known() => Holding::Nothing,
            None => Holding::Unknown,
        };
        // Whoever asked may have given up.
        let _ = answer.send(holding);
    }

    fn take(&mut self, answer: CommandAnswer<Purpose>) -> Result<(), SessionError> {
        let (CommandAnswer::Row(sent, _) | CommandAnswer::Done(sent, _) | CommandAnswer::Trap(sent, _)) =
            &answer;
        let Purpose { errand, at } = *sent;
        let of_print = matches!(errand, Errand::Print(_));
        if !matches!(answer, CommandAnswer::Row(..)) {
            self.timers.answered_sent = self.timers.answered_sent.max(at);
        }
        self.timers.overtaken |=
            !of_print && self.pipeline.printing().is_some() && at > self.timers.print_began;
        match (errand, answer) {
            (Errand::Print(family), CommandAnswer::Row(_, row)) => {
                (self.timers.print_heard, self.timers.overtaken) = (Instant::now(), false);
                self.pipeline.listed();
                if let Some(shown) = Shown::read(family, &row, &self.marks) {
                    self.pipeline.row(shown, self.workplace.now());
                }
            }
            (Errand::Print(_), CommandAnswer::Done(..)) => self.print_ended(),
            (Errand::Print(Family::V6), CommandAnswer::Trap(_, trap)) => self.no_ipv6_list(&trap),
            (Errand::Print(family), CommandAnswer::Trap(_, trap)) => {
                return Err(SessionError::Refused { command: family.print(), trap });
            }
            (Errand::Networks(page), CommandAnswer::Row(_, row)) => self.networks.row(page, &row),
            (Errand::Networks(page), _) => self.networks_end(page),
            (Errand::Rules(family, _), CommandAnswer::Row(_, row)) => {
                self.timers.look_heard = Instant::now();
                self.look.row(family, &row);
            }
            (Errand::Rules(family, table), CommandAnswer::Done(..)) => self.rules_end(family, table, None),
            (Errand::Rules(family, table), CommandAnswer::Trap(_, trap)) => {
                self.rules_end(family, table, Some(&trap));
            }
            (Errand::Resource, CommandAnswer::Row(_, row)) => self.note_resource(&row),
            (Errand::Resource, _) => self.timers.resource_asked = false,
            (Errand::Identity, CommandAnswer::Row(_, row)) => {
                self.workplace.status.send_modify(|status| status.identity = row.shown("name"));
            }
            (Errand::Serial, CommandAnswer::Row(_, row)) => self.claim(&row)?,
            (Errand::Order(order), CommandAnswer::Done(_, ret)) => {
                self.note_answer(at);
                let id = ret.as_deref().and_then(EntryId::parse);
                self.pipeline.done(order, id, self.workplace.now());
            }
            (Errand::Order(order), CommandAnswer::Trap(_, trap)) => {
                self.note_answer(at);
                self.take_refusal(order, &trap);
            }
            // Nice to know, but nothing depends on it.
            (Errand::Identity | Errand::Serial, _) | (Errand::Order(_), CommandAnswer::Row(..)) => {}
        }
        Ok(())
    }

    fn print_ended(&mut self) {
        let now = Instant::now();
        let found = self.pipeline.take_unexplained();
        if let Some(recovery) = self.workplace.recovery.as_ref().filter(|_| !found.is_empty()) {
            (recovery.adopt)(&self.workplace.config.name, found);
        }
        if let Some(family) = self.pipeline.printing() {
            self.workplace.rows[family.index()] = Some(self.pipeline.rows());
        }
        self.pipeline.print_ends();
        self.timers.print_pause = self.workplace.config.deadlines.refused_pause;
        self.note_rivals();
        self.workplace.patience = Patience::default();
        let took = self.timers.print_began.elapsed();
        self.timers.print_ended = now;
        self.timers.learn_after = now + self.timers.learn_gap.max(took * 2);
        // New bans wait for the scan of a large table, so that is not done all the time.
        self.timers.reconcile = self.timers.reconcile.max(now + took * LEFT_ALONE);
        self.settle();
    }

    /// Takes in that a page of rules was read, or refused.
    fn rules_end(&mut self, family: Family, table: Chains, refusal: Option<&Trap>) {
        self.timers.look_heard = Instant::now();
        let list = self.workplace.config.list(family).to_owned();
        match self.look.page_ends(family, table, refusal, &list) {
            Some(Next::Ask(table)) => self.ask_for_rules(family, table),
            Some(Next::Judged(judgement)) => self.workplace.judged(family, judgement),
            None => {}
        }
        if !self.look.is_under_way() {
            let now = Instant::now();
            let took = now.saturating_duration_since(self.timers.look_began);
            self.timers.look_ended = now;
            let pause = (took * LEFT_ALONE).min(LONGEST_LEARN_GAP);
            self.timers.look = now + jittered(self.workplace.config.deadlines.rules).max(pause);
        }
    }

    /// Shows that the first reading is over, once it is.
    fn settle(&self) {
        let reading = self.workplace.status.borrow().state == State::Reading;
        if reading && self.pipeline.is_known() {
            self.workplace.enter(State::Connected);
        }
    }

    /// Does what is due.
    fn on_time(&mut self) {
        let now = Instant::now();
        self.pipeline
            .set_recovering(self.workplace.recovery.as_ref().is_some_and(|recovery| recovery.is_active()));
        if self.resource_due() <= now {
            self.timers.resource = now + self.workplace.config.deadlines.keepalive;
            if !self.timers.resource_asked {
                self.timers.resource_asked = true;
                self.ask("/system/resource/print", Errand::Resource, |command| {
                    command.attribute(".proplist", Some("uptime,version,cpu-load,total-memory"))
                });
            }
            self.pipeline.sweep(self.workplace.now());
        }
        self.give_up_swallowed(now);
        if self.unread_due().is_some_and(|due| due <= now) {
            self.timers.unread_sent = true;
            self.pipeline.send_unread();
        }
        if self.print_deadline().is_some_and(|deadline| deadline <= now) {
            self.give_up_print();
        }
        if self.timers.print_again.is_some_and(|again| again <= now) {
            self.timers.print_again = None;
            self.pipeline.print_again(Family::V6);
        }
        if self.steps.look().is_some() {
            // When entries end was noted by the clock of before.
            self.timers.reconcile = now;
        }
        if self.timers.reconcile <= now {
            self.timers.reconcile = now + jittered(self.workplace.config.reconcile_every);
            self.pipeline.reconcile_all();
            self.timers.look = now;
            self.ask_for_networks(NetworkPage::FIRST);
        }
        if self.timers.retry.is_some_and(|retry| retry <= now) {
            self.timers.retry = None;
            self.pipeline.retry_failed();
        } else if self.timers.retry.is_none() && !self.pipeline.has_failed() && !self.pipeline.has_changes() {
            self.timers.retry_pause = self.workplace.config.deadlines.refused_pause;
        }
        self.pipeline.look_again(self.workplace.now());
        if let Some(family) = self.pipeline.print_due() {
            if !self.sends_first(now) {
                self.print(family);
            }
        } else if let Some(family) = self.pipeline.learn_due() {
            let since = *self.timers.learn_since.get_or_insert(now);
            if now >= self.timers.learn_after && (self.is_quiet() || now >= since + QUIET) {
                let long_ago = now >= self.timers.learn_after + LONGEST_LEARN_GAP / 5;
                let gap = if long_ago { Duration::ZERO } else { self.timers.learn_gap * 2 };
                self.timers.learn_gap = gap.clamp(Duration::from_secs(1), LONGEST_LEARN_GAP);
                self.print(family);
            }
        }
        if self.next_look().is_some_and(|look| look <= now) {
            self.look_at_rules();
        }
    }

    /// Whether nothing waits and nothing is in flight.
    fn is_quiet(&self) -> bool {
        !self.pipeline.has_next() && self.pipeline.in_flight() == 0
    }

    /// When to look at the rules next; `None` while a look or a print of a list is under way. Bans go before
    /// it, but not for long: a router does one command at a time, and a look is a few.
    fn next_look(&self) -> Option<Instant> {
        if self.look.is_under_way() || self.pipeline.printing().is_some() {
            return None;
        }
        let due = self.timers.look;
        Some(if self.is_quiet() { due } else { due.max(self.timers.print_ended) + QUIET })
    }

    /// By when something is to be heard of the look that is under way; its pages may wait behind a print.
    fn look_deadline(&self) -> Option<Instant> {
        let waits = self.look.is_under_way() && self.pipeline.printing().is_none();
        let since = self.timers.look_heard.max(self.timers.print_ended);
        waits.then(|| since + self.workplace.config.deadlines.idle)
    }

    fn look_at_rules(&mut self) {
        let now = Instant::now();
        (self.timers.look_began, self.timers.look_heard) = (now, now);
        for (family, table) in [Family::V4, Family::V6].into_iter().zip(self.pipeline.tables()) {
            if matches!(table, Table::Known | Table::Unknown) {
                let first = self.look.begin(family);
                self.ask_for_rules(family, first);
            }
        }
    }

    fn ask_for_rules(&mut self, family: Family, table: Chains) {
        let list = self.workplace.config.list(family).to_owned();
        let asked = Errand::Rules(family, table);
        self.ask(table.print(family), asked, |command| table.ask(command, family, &list));
    }

    /// When [`Link::on_time`] has something to do at the latest.
    fn next_timer(&self) -> Instant {
        let now = Instant::now();
        let mut next = self.resource_due().min(self.timers.reconcile);
        next = next.min(self.timers.retry.unwrap_or(next));
        if self.pipeline.has_next() {
            next = next.min(self.workplace.pace.next(now).unwrap_or(next));
        }
        if let Some(at) = self.pipeline.next_look() {
            // The wall clock may be moved, so look at it once a second.
            let wait = at.milliseconds_after(self.workplace.now()).clamp(1, 1000);
            next = next.min(now + Duration::from_millis(wait.cast_unsigned()));
        }
        if self.pipeline.learn_due().is_some() {
            let since = self.timers.learn_since.unwrap_or(now);
            let at = if self.is_quiet() { now } else { since + QUIET };
            next = next.min(self.timers.learn_after.max(at));
        }
        if self.session.in_flight() > 0 {
            next = next.min(self.timers.swallowed);
        }
        if self.sends_first(now) {
            next = next.min(self.sends_first_until());
        }
        next = next.min(self.unread_due().unwrap_or(next));
        next = next.min(self.print_deadline().or(self.timers.print_again).unwrap_or(next));
        if !self.workplace.config.read_only {
            next = next.min(self.workplace.audit.next(now));
        }
        next.min(self.next_look().or_else(|| self.look_deadline()).unwrap_or(next))
    }

    fn print(&mut self, family: Family) {
        self.timers.learn_since = None;
        let now = Instant::now();
        (self.timers.print_began, self.timers.print_heard, self.timers.overtaken) = (now, now, false);
        self.reading_since = self.workplace.clock.now();
        self.pipeline.print_begins(family, self.workplace.now());
        self.withheld.retain(|prefix| Family::of(*prefix) != family);
        let list = self.workplace.config.list(family).to_owned();
        self.ask(family.print(), Errand::Print(family), |command| Shown::ask(command, &list));
    }

    fn ask(&mut self, path: &str, asked: Errand, arguments: impl FnOnce(Building) -> Building) {
        let command = arguments(self.session.command(path));
        self.session.send(command, Purpose { errand: asked, at: Instant::now() });
    }
}

type Building = mikrotik_rs::CommandBuilder<mikrotik_rs::proto::command::Cmd>;

/// The duration, up to a tenth shorter, so that many routers are not printed at once.
pub(super) fn jittered(duration: Duration) -> Duration {
    let random = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
    duration.mul_f64(1.0 - random / 10.0)
}
