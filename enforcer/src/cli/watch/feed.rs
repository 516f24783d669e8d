//! Asks the enforcer once a second, on a thread of its own, so that keys are never slow; and ends the
//! program at a signal, or when its terminal is gone.

use std::sync::mpsc::Sender;
use std::time::Duration;

use atalaya_enforcer::control::answers::Status;
use atalaya_enforcer::ledger::{Ban, Selection, Which};
use atalaya_program::causes::Causes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cli::socket::Socket;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// After how long without an answer the enforcer counts as gone.
const DEADLINE: Duration = Duration::from_secs(5);
/// How many of the latest bans are asked for.
const LATEST: u64 = 100;
/// How long the screen may take to end by itself, in steps of [`STEP`].
const STEPS: u32 = 20;
/// The pause between two looks whether it has.
const STEP: Duration = Duration::from_millis(50);

/// What the enforcer said, or that it says nothing.
#[derive(Debug)]
pub enum News {
    Now {
        /// As `status --json` has it.
        status: Box<Status>,
        /// The bans that began last, also those that are over; the latest first.
        latest: Vec<Ban>,
    },
    /// Why it does not answer.
    Lost(String),
    /// A signal came: the screen is to be given back.
    Stop,
}

/// Reports once a second until nobody listens, a signal comes, or the terminal is gone, where there is one. Says
/// through `ready` once a signal would end it in order: the terminal is not to be taken before.
pub fn run(socket: &Socket, reports: &Sender<News>, ready: &Sender<()>, has_terminal: bool) {
    socket.block_on(async {
        let stopped = stopped();
        let _ = ready.send(());
        tokio::select! {
            () = ask(socket, reports) => return,
            () = stopped => {}
            () = hung_up(), if has_terminal => {}
        }
        for _ in 0..STEPS {
            if reports.send(News::Stop).is_err() {
                return;
            }
            tokio::time::sleep(STEP).await;
        }
        // Waiting for a key at a terminal that is gone never ends, and takes a whole processor.
        let _ = ratatui::try_restore();
        std::process::exit(0);
    });
}

async fn ask(socket: &Socket, reports: &Sender<News>) {
    let mut interval = interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let report = match timeout(DEADLINE, answers(socket)).await {
            Ok(Ok((status, latest))) => News::Now { status: Box::new(status), latest },
            Ok(Err(error)) => News::Lost(Causes(error.as_ref()).to_string()),
            Err(_) => News::Lost(format!("no answer within {} s", DEADLINE.as_secs())),
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

/// Takes the signals that end it from now on, and waits for one.
fn stopped() -> impl Future<Output = ()> {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let signals = kinds.map(signal);
    async move {
        let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
            // The keys still work.
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Waits until nobody is at the other end of the terminal.
async fn hung_up() {
    let mut interval = interval(INTERVAL);
    loop {
        interval.tick().await;
        if is_hung_up() {
            return;
        }
    }
}

/// Whether nobody is at the other end of the terminal any more.
pub fn is_hung_up() -> bool {
    let mut input = [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::empty())];
    let looked = poll(&mut input, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    looked.is_ok() && input[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
