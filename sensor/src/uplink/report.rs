//! What the enforcer is told beside offences: every failure that a jail counted, whether or not an offence
//! came of it, summed up by jail and address; and the last successful login of each address. [`Pending`] gathers
//! it, [`Reporter`] makes reports of it. Neither does input or output; both are bounded, and count what they
//! drop.

use atalaya_wire::{Failures, Login, MAX_REPORT, Name, Report, VERSION};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::detector::pending::{Gathered, Pending, Tally, Unreported, is_fresh};

/// Makes reports, one after another: the next begins once the enforcer has the one before, which is
/// sent again unchanged until then, so that nothing counts twice.
#[derive(Debug)]
pub struct Reporter {
    outbox: Name,
    sequence: Sequence,
    failures: Vec<Failures>,
    logins: Vec<Login>,
    unanswered: Option<Report>,
    told: Told,
    lost: Unreported,
}

/// What the enforcer has, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    failures: u64,
    logins: u64,
}

/// Numbers that grow, also across restarts and when the clock is set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sequence {
    last: u64,
    /// No number from here on was given out; what is on disk.
    reserved: u64,
}

/// How reporting stands, as `status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportStatus {
    /// Whether the configuration wants it.
    pub on: bool,
    /// Failures that the enforcer was told of, since the start.
    pub failures: u64,
    /// Successful logins that it was told of, since the start.
    pub logins: u64,
    /// Entries that wait: failures of one address in one jail, or the login of one address.
    pub waiting: u64,
    /// Failures and logins dropped at a bound, since the start.
    pub dropped: u64,
    /// Failures that grew too old while the enforcer was away, since the start.
    pub forgotten: u64,
    /// Why the last report was not taken; `None` where it was.
    pub trouble: Option<String>,
}

// === impl Reporter ===

impl Reporter {
    /// A reporter for this outbox, whose sequence goes on from `reserved`, as an earlier run kept it.
    pub fn new(outbox: Name, reserved: u64) -> Self {
        Self {
            outbox,
            sequence: Sequence { last: reserved.saturating_sub(1), reserved },
            failures: Vec::new(),
            logins: Vec::new(),
            unanswered: None,
            told: Told::default(),
            lost: Unreported::default(),
        }
    }

    /// Takes what is pending, where all of before is told.
    pub fn gather(&mut self, pending: &mut Pending) {
        if self.unanswered.is_some() || !self.failures.is_empty() || !self.logins.is_empty() {
            return;
        }
        let Gathered { failures, logins } = pending.take();
        self.failures.extend(failures.into_iter().map(|((jail, address), Tally { count, last })| Failures {
            jail,
            address,
            count,
            last,
        }));
        self.logins.extend(logins.into_values());
    }

    /// The report to send now: again the one that has no answer, without what is too old by now, or a new
    /// one. `None` where there is nothing to tell.
    pub fn next(&mut self, now: Timestamp) -> Option<&Report> {
        if let Some(report) = &mut self.unanswered {
            keep_fresh(&mut report.failures, now, &mut self.lost);
            report.sent = now;
        }
        if self.unanswered.as_ref().is_none_or(|report| report.failures.len() + report.logins.len() == 0) {
            self.unanswered = self.begin(now);
        }
        self.unanswered.as_ref()
    }

    /// The enforcer has the last report.
    pub fn taken(&mut self) {
        if let Some(report) = self.unanswered.take() {
            self.told.failures += count(&report.failures);
            self.told.logins += report.logins.len() as u64;
        }
    }

    /// The enforcer will never take the last report.
    pub fn give_up(&mut self) {
        if let Some(report) = self.unanswered.take() {
            self.lost.dropped += count(&report.failures) + report.logins.len() as u64;
        }
    }

    /// Nothing is to be told any more, of what was gathered either.
    pub fn forget(&mut self) {
        self.unanswered = None;
        self.failures.clear();
        self.logins.clear();
    }

    /// The number from which a later run must go on, where it is to be kept now.
    pub fn reserve(&mut self) -> Option<u64> {
        self.sequence.reserve()
    }

    /// How reporting stands, together with what is pending.
    pub fn status(&self, on: bool, trouble: Option<String>) -> ReportStatus {
        let unanswered =
            self.unanswered.as_ref().map_or(0, |report| report.failures.len() + report.logins.len());
        ReportStatus {
            on,
            failures: self.told.failures,
            logins: self.told.logins,
            waiting: (unanswered + self.failures.len() + self.logins.len()) as u64,
            dropped: self.lost.dropped,
            forgotten: self.lost.forgotten,
            trouble,
        }
    }

    /// A report of what was gathered: both kinds together have at most [`MAX_REPORT`] entries, so that even
    /// the longest names fit [`MAX_BODY`](atalaya_wire::MAX_BODY).
    fn begin(&mut self, now: Timestamp) -> Option<Report> {
        keep_fresh(&mut self.failures, now, &mut self.lost);
        let failures = self.failures.split_off(self.failures.len().saturating_sub(MAX_REPORT));
        let room = MAX_REPORT - failures.len();
        let logins = self.logins.split_off(self.logins.len().saturating_sub(room));
        if failures.is_empty() && logins.is_empty() {
            return None;
        }
        let sequence = self.sequence.next(now);
        Some(Report { version: VERSION, outbox: self.outbox.clone(), sequence, sent: now, failures, logins })
    }
}

// === impl Sequence ===

impl Sequence {
    /// So many numbers are set aside at once: milliseconds of ten minutes.
    const STEP: u64 = 600_000;

    fn next(&mut self, now: Timestamp) -> u64 {
        self.last = (self.last + 1).max(u64::try_from(now.as_millisecond()).unwrap_or(0));
        self.last
    }

    fn reserve(&mut self) -> Option<u64> {
        (self.last >= self.reserved).then(|| {
            self.reserved = self.last + Self::STEP;
            self.reserved
        })
    }
}

// === impl ReportStatus ===

impl ReportStatus {
    /// Adds what is pending.
    pub fn with(mut self, pending: &Pending) -> Self {
        self.waiting += pending.len() as u64;
        self.dropped += pending.lost().dropped;
        self.forgotten += pending.lost().forgotten;
        self
    }
}

fn keep_fresh(failures: &mut Vec<Failures>, now: Timestamp, lost: &mut Unreported) {
    failures.retain(|failures| {
        let fresh = is_fresh(failures.last, now);
        lost.forgotten += if fresh { 0 } else { u64::from(failures.count) };
        fresh
    });
}

fn count(failures: &[Failures]) -> u64 {
    failures.iter().map(|failures| u64::from(failures.count)).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::IpAddr;

    use atalaya_wire::MAX_BODY;
    use proptest::prelude::*;

    use super::*;
    use crate::detector::pending::cut;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn jail(name: &str) -> Name {
        name.parse().unwrap()
    }

    fn host(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0xC000_0200 + number).into()
    }

    fn reporter() -> Reporter {
        Reporter::new(jail("outbox"), 0)
    }

    #[test]
    fn failures_are_summed_up_by_jail_and_address_and_told_once() {
        let (mut pending, mut reporter) = (Pending::default(), reporter());
        for (name, address, second) in [
            ("a", "192.0.2.1", 3),
            ("a", "::ffff:192.0.2.1", 1),
            ("b", "192.0.2.1", 2),
            ("a", "2001:db8::1", 2),
        ] {
            pending.failures(jail(name), address.parse().unwrap(), 1, at(second));
        }
        reporter.gather(&mut pending);
        let mut report = reporter.next(at(4)).unwrap().clone();
        report.failures.sort_by_key(|failures| (failures.jail.clone(), failures.address));
        let said: Vec<_> = report.failures.iter().map(|f| (f.jail.as_str(), f.count, f.last)).collect();
        assert_eq!(said, [("a", 2, at(3)), ("a", 1, at(2)), ("b", 1, at(2))]);
        reporter.taken();
        reporter.gather(&mut pending);
        assert_eq!(reporter.next(at(5)), None);
        assert_eq!(reporter.status(true, None).failures, 4);
    }

    #[test]
    fn what_has_no_answer_is_sent_again_unchanged_under_its_number_and_a_new_moment() {
        let (mut pending, mut reporter) = (Pending::default(), reporter());
        pending.failures(jail("a"), host(1), 2, at(0));
        reporter.gather(&mut pending);
        let first = reporter.next(at(1)).unwrap().clone();
        pending.failures(jail("a"), host(1), 1, at(1));
        reporter.gather(&mut pending);
        let again = reporter.next(at(2)).unwrap().clone();
        assert_eq!(again, Report { sent: at(2), ..first.clone() });
        reporter.taken();
        reporter.gather(&mut pending);
        let second = reporter.next(at(2)).unwrap();
        assert!(second.sequence > first.sequence);
        assert_eq!(second.failures[0].count, 1);
    }

    #[test]
    fn more_addresses_than_fit_are_dropped_and_counted_and_known_ones_still_count() {
        let (mut pending, mut reporter) = (Pending::default(), reporter());
        let most = u32::try_from(MAX_REPORT).unwrap();
        for number in 0..most + 5 {
            pending.failures(jail("a"), host(number), 1, at(0));
            pending.login(host(number), "sshd", "root", at(0));
        }
        pending.failures(jail("a"), host(0), 7, at(0));
        assert_eq!((pending.len(), pending.lost().dropped), (2 * MAX_REPORT, 10));
        reporter.gather(&mut pending);
        let mut told = (0, 0);
        while let Some(report) = reporter.next(at(1)) {
            assert!(report.failures.len() + report.logins.len() <= MAX_REPORT);
            told = (told.0 + count(&report.failures), told.1 + report.logins.len());
            reporter.taken();
        }
        assert_eq!(told, (MAX_REPORT as u64 + 7, MAX_REPORT));
    }

    #[test]
    fn the_largest_report_fits_the_body_that_the_enforcer_takes() {
        let address = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        let last = "2026-11-24T10:00:00.123456789Z".parse().unwrap();
        let text = cut(&"\"".repeat(200));
        let login = Login { address, service: text.clone(), account: text, time: last };
        let failures = Failures { jail: jail(&"j".repeat(64)), address, count: u32::MAX, last };
        let mut report = Report {
            version: VERSION,
            outbox: jail(&"o".repeat(64)),
            sequence: u64::MAX,
            sent: last,
            failures: vec![failures; MAX_REPORT],
            logins: Vec::new(),
        };
        assert!(serde_json::to_vec(&report).unwrap().len() < MAX_BODY);
        report.failures.clear();
        report.logins = vec![login; MAX_REPORT];
        assert!(serde_json::to_vec(&report).unwrap().len() < MAX_BODY);
    }

    #[test]
    fn failures_of_more_than_an_hour_ago_are_forgotten_wherever_they_wait_and_logins_are_not() {
        let (mut pending, mut reporter) = (Pending::default(), reporter());
        pending.failures(jail("a"), host(1), 2, at(0));
        pending.login(host(1), "sshd", "root", at(0));
        reporter.gather(&mut pending);
        assert_eq!(reporter.next(at(3600)).unwrap().failures.len(), 1);
        pending.failures(jail("a"), host(2), 3, at(0));
        pending.sweep(at(3601));
        let report = reporter.next(at(3601)).unwrap();
        assert_eq!((report.failures.len(), report.logins.len()), (0, 1));
        let status = reporter.status(true, None).with(&pending);
        assert_eq!((status.forgotten, status.waiting, status.dropped), (5, 1, 0));
    }

    #[test]
    fn the_sequence_grows_across_a_restart_with_a_clock_that_was_set_back() {
        let mut reporter = reporter();
        let mut kept = 0;
        let mut last = 0;
        for (restarts, second) in [(false, 1000), (false, 1000), (false, 900), (true, 0), (true, -5000)] {
            if restarts {
                reporter = Reporter::new(jail("outbox"), kept);
            }
            let mut pending = Pending::default();
            pending.failures(jail("a"), host(1), 1, at(second));
            reporter.gather(&mut pending);
            let sequence = reporter.next(at(second)).unwrap().sequence;
            assert!(sequence > last, "{sequence} after {last}");
            last = sequence;
            kept = reporter.reserve().unwrap_or(kept);
            reporter.taken();
        }
    }

    /// What happens to a sensor, one after another.
    #[derive(Clone, Debug)]
    enum Event {
        Fails {
            jail: bool,
            host: u32,
            count: u32,
        },
        /// A second passes; what becomes of the report, if there is one.
        Tick(Fate),
        Sweep,
    }

    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Taken,
        NeverArrives,
        AnswerIsLost,
    }

    fn event() -> impl Strategy<Value = Event> {
        let fate = prop_oneof![Just(Fate::Taken), Just(Fate::NeverArrives), Just(Fate::AnswerIsLost)];
        prop_oneof![
            4 => (any::<bool>(), 0..5u32, 1..4u32).prop_map(|(jail, host, count)| Event::Fails { jail, host, count }),
            3 => fate.prop_map(Event::Tick),
            1 => Just(Event::Sweep),
        ]
    }

    proptest! {
        /// The enforcer takes each sequence once; nothing is older than an hour.
        #[test]
        fn every_counted_failure_arrives_exactly_once(events in prop::collection::vec(event(), 0..200)) {
            let (mut pending, mut reporter) = (Pending::default(), reporter());
            let mut counted: HashMap<(Name, IpAddr), u64> = HashMap::new();
            let mut arrived: HashMap<(Name, IpAddr), u64> = HashMap::new();
            let mut through = 0;
            let quiet = std::iter::repeat_n(Event::Tick(Fate::Taken), 3);
            for (second, event) in (0..).zip(events.into_iter().chain(quiet)) {
                match event {
                    Event::Fails { jail: which, host: number, count } => {
                        let key = (jail(if which { "a" } else { "b" }), host(number));
                        *counted.entry(key.clone()).or_default() += u64::from(count);
                        pending.failures(key.0, key.1, count, at(second));
                    }
                    Event::Sweep => pending.sweep(at(second)),
                    Event::Tick(fate) => {
                        reporter.gather(&mut pending);
                        let Some(report) = reporter.next(at(second)) else { continue };
                        if !matches!(fate, Fate::NeverArrives) && report.sequence > through {
                            through = report.sequence;
                            for failures in &report.failures {
                                *arrived.entry((failures.jail.clone(), failures.address)).or_default()
                                    += u64::from(failures.count);
                            }
                        }
                        if matches!(fate, Fate::Taken) {
                            reporter.taken();
                        }
                    }
                }
            }
            prop_assert_eq!(arrived, counted);
            prop_assert!(pending.is_empty());
        }
    }
}
