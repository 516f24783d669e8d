//! Asks the enforcer once a second, on a thread of its own, so that keys are never slow; and hears the
//! signals that end the program.

use std::sync::mpsc::Sender;
use std::time::Duration;

use atalaya_enforcer::control::status::Status;
use atalaya_enforcer::ledger::{Ban, Selection, Which};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cli::socket::Socket;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// After how long without an answer the enforcer counts as gone.
const DEADLINE: Duration = Duration::from_secs(5);
/// How many of the latest bans are asked for.
const LATEST: u64 = 100;

/// What the enforcer said, or that it says nothing.
#[derive(Debug)]
pub enum Report {
    /// Its answers.
    Now {
        /// The status.
        status: Box<Status>,
        /// The bans that began last, also those that are over; the latest first.
        latest: Vec<Ban>,
    },
    /// Why it does not answer.
    Lost(String),
    /// A signal: end.
    Stop,
}

/// Reports once a second until nobody listens or a signal comes.
pub fn run(socket: &Socket, reports: &Sender<Report>) {
    socket.block_on(async {
        tokio::select! {
            () = ask(socket, reports) => {}
            () = stopped() => drop(reports.send(Report::Stop)),
        }
    });
}

async fn ask(socket: &Socket, reports: &Sender<Report>) {
    let mut interval = interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let report = match timeout(DEADLINE, answers(socket)).await {
            Ok(Ok((status, latest))) => Report::Now { status: Box::new(status), latest },
            Ok(Err(error)) => Report::Lost(format!("{error:#}")),
            Err(_) => Report::Lost(format!("no answer within {} s", DEADLINE.as_secs())),
        };
        if reports.send(report).is_err() {
            return;
        }
    }
}

async fn answers(socket: &Socket) -> anyhow::Result<(Status, Vec<Ban>)> {
    let status = socket.fetch("status").await?;
    let selection = Selection { which: Which::All, limit: Some(LATEST), ..Selection::default() };
    Ok((status, socket.fetch_bans(&selection).await?))
}

async fn stopped() {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = kinds.map(signal) else {
        // The keys still work.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
}
