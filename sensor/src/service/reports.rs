//! Tells the enforcer once a second what is [pending](crate::detector::pending::Pending), as long as there is anything.
//! An enforcer that does not answer, or knows nothing of reports, holds up nothing else.

use std::time::Duration;

use atalaya_wire::{ProblemCode, Report};
use jiff::Timestamp;
use tokio::time::MissedTickBehavior;

use super::{Shared, lock};
use crate::uplink::report::Reporter;
use crate::uplink::{REFUSED_PAUSE, UplinkError, backoff};

/// How often the enforcer is told.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing is told to an enforcer of a release without reports.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(300);

/// Reports for ever. `send` posts a report once; `keep` puts on disk from which sequence a later run goes on.
pub(super) async fn tell<Answer: Future<Output = Result<(), UplinkError>>>(
    mut reporter: Reporter,
    watch: &Shared,
    mut send: impl FnMut(Report) -> Answer,
    keep: impl Fn(u64),
) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pauses = backoff();
    let mut trouble: Option<String> = None;
    loop {
        interval.tick().await;
        let is_on = {
            let mut watch = lock(watch);
            let pending = watch.detector.pending();
            let is_on = pending.is_some();
            if let Some(pending) = pending {
                reporter.gather(pending);
            }
            watch.reports = reporter.status(is_on, trouble.clone());
            is_on
        };
        if !is_on {
            reporter.forget();
            continue;
        }
        let mut pause = None;
        while pause.is_none()
            && let Some(report) = reporter.next(Timestamp::now())
        {
            let answer = send(report.clone()).await;
            if let Some(reserved) = reporter.reserve() {
                keep(reserved);
            }
            let Err(error) = answer else {
                reporter.taken();
                pauses = backoff();
                if trouble.take().is_some() {
                    tracing::info!("the enforcer takes reports again");
                }
                continue;
            };
            let is_new = trouble.is_none();
            match error.code() {
                Some(ProblemCode::NotFound) => {
                    if is_new {
                        tracing::info!(
                            minutes = UNKNOWN_PAUSE.as_secs() / 60,
                            "the enforcer is of a release that takes no reports: they wait, and it is tried again now and then"
                        );
                    }
                    pause = Some(UNKNOWN_PAUSE);
                }
                Some(ProblemCode::Malformed | ProblemCode::TooLarge) => {
                    tracing::error!(%error, "the enforcer cannot take this report; it is dropped");
                    reporter.give_up();
                    continue;
                }
                Some(ProblemCode::Unauthorized | ProblemCode::UnknownVersion) => pause = Some(REFUSED_PAUSE),
                _ => pause = Some(error.wait().or_else(|| pauses.next()).unwrap_or(REFUSED_PAUSE)),
            }
            if is_new && error.code() != Some(ProblemCode::NotFound) {
                tracing::warn!(%error, "reports wait, an hour at most; offences have a way of their own");
            }
            trouble = Some(error.to_string());
        }
        lock(watch).reports = reporter.status(true, trouble.clone());
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use atalaya_wire::{Name, Problem};
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;
    use crate::detector::pending::Pending;
    use crate::service::Watch;

    /// An enforcer that gives these answers in turn, and then takes everything; the reports as they come.
    fn enforcer(
        answers: Vec<Option<ProblemCode>>,
    ) -> (Shared, mpsc::UnboundedReceiver<(Instant, Report)>, tokio::task::JoinHandle<()>) {
        let watch: Shared = Arc::new(Mutex::new(Watch::for_test("")));
        let (sender, reports) = mpsc::unbounded_channel();
        let mut answers = answers.into_iter();
        let task = tokio::spawn({
            let watch = watch.clone();
            async move {
                let send = |report| {
                    let _ = sender.send((Instant::now(), report));
                    let refused = answers.next().flatten().map(|code| UplinkError::Refused {
                        url: "https://x".to_owned(),
                        problem: match code {
                            ProblemCode::TooMany => Problem::too_many("no", WAIT),
                            code => Problem::new(code, "no"),
                        },
                    });
                    async move { refused.map_or(Ok(()), Err) }
                };
                tell(Reporter::new("outbox".parse().unwrap(), 0), &watch, send, |_| {}).await;
            }
        });
        (watch, reports, task)
    }

    fn fail(watch: &Shared, count: u32) {
        let (jail, now): (Name, _) = ("a".parse().unwrap(), Timestamp::now());
        let mut watch = lock(watch);
        watch.detector.pending().unwrap().failures(jail, "192.0.2.1".parse().unwrap(), count, now);
    }

    /// For how long an enforcer lets a sensor wait that sends too much.
    const WAIT: Duration = Duration::from_secs(42);

    #[tokio::test(start_paused = true)]
    async fn a_sensor_that_sends_too_much_waits_for_as_long_as_it_is_told_and_loses_nothing() {
        let (watch, mut reports, task) = enforcer(vec![Some(ProblemCode::TooMany)]);
        fail(&watch, 2);
        let (start, first) = reports.recv().await.unwrap();
        let (again, second) = reports.recv().await.unwrap();
        assert!(
            again - start >= WAIT && again - start < WAIT + Duration::from_secs(3),
            "{:?}",
            again - start
        );
        assert_eq!((second.sequence, second.failures[0].count), (first.sequence, 2));
        task.abort();
    }

    // The clock of these tests runs ahead as soon as nothing else is to do.
    #[tokio::test(start_paused = true)]
    async fn an_enforcer_without_reports_is_left_alone_for_minutes_and_then_gets_the_same_report() {
        let (watch, mut reports, task) = enforcer(vec![Some(ProblemCode::NotFound)]);
        fail(&watch, 2);
        let (start, first) = reports.recv().await.unwrap();
        fail(&watch, 5);
        let (again, second) = reports.recv().await.unwrap();
        assert!(again - start >= UNKNOWN_PAUSE);
        assert_eq!((second.sequence, second.failures[0].count), (first.sequence, 2));
        assert!(second.sent > first.sent);
        assert_eq!(reports.recv().await.unwrap().1.failures[0].count, 5);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_that_cannot_be_taken_is_dropped_and_counted_and_the_next_goes_out() {
        let (watch, mut reports, task) = enforcer(vec![None, Some(ProblemCode::Malformed)]);
        for count in [1, 2, 3] {
            fail(&watch, count);
            assert_eq!(reports.recv().await.unwrap().1.failures[0].count, count);
        }
        tokio::time::sleep(2 * INTERVAL).await;
        let status = lock(&watch).reports.clone();
        assert_eq!((status.failures, status.dropped, status.waiting), (4, 2, 0));
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_enforcer_that_is_away_gets_it_later_and_nothing_after_reporting_is_switched_off() {
        let (watch, mut reports, task) = enforcer(vec![Some(ProblemCode::Unavailable); 3]);
        fail(&watch, 1);
        for _ in 0..2 {
            assert_eq!(reports.recv().await.unwrap().1.failures[0].count, 1);
        }
        assert!(lock(&watch).reports.trouble.is_some());
        lock(&watch).detector.set_reporting(false);
        tokio::time::sleep(20 * INTERVAL).await;
        while reports.try_recv().is_ok() {}
        lock(&watch).detector.set_reporting(true);
        assert!(lock(&watch).detector.reporting().is_some_and(Pending::is_empty));
        fail(&watch, 7);
        assert_eq!(reports.recv().await.unwrap().1.failures[0].count, 7);
        task.abort();
    }
}
