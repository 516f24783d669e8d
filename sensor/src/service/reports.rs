//! Tells the enforcer once a second what is [pending](crate::report::Pending), as long as there is anything.
//! An enforcer that does not answer, or knows nothing of reports, holds up nothing else.

use std::time::Duration;

use atalaya_wire::{ProblemCode, Report};
use jiff::Timestamp;
use tokio::time::MissedTickBehavior;

use super::{Shared, lock};
use crate::report::Reporter;
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
                _ => pause = Some(pauses.next().unwrap_or(REFUSED_PAUSE)),
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
