//! Failed logins as the kernel sees them: a uprobe in libaudit reports every verdict of PAM and sshd, about
//! two seconds before a log line could. The [loader](crate::kernel::logins) attaches it, [`record`] reads what it
//! reports, and [`attempt`] makes attempts of records: one failed password is one failure, though it gives up to four.

pub mod attempt;
pub mod record;

use std::net::IpAddr;
use std::time::Duration;

use atalaya_sensor_ebpf::logins::LOGINS_MAP;
use jiff::{SignedDuration, Timestamp};

use attempt::{Attempts, Verdict};
use record::Record;

use crate::kernel::maps::{self, Losses, Lost, Maps, MapsError, Ring};

/// A login attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// How it ended.
    pub outcome: LoginOutcome,
    /// The remote address, where it is a literal one of another host.
    pub address: Option<IpAddr>,
    /// The account that was tried; an attacker's text.
    pub account: String,
    /// The program that decided, such as `sshd`.
    pub service: String,
    /// When, by the wall clock.
    pub time: Timestamp,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub observed_ns: u64,
    /// The process.
    pub pid: u32,
    /// What was seen, in words.
    pub text: String,
}

/// How a login attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// It failed.
    Failed,
    /// It succeeded.
    Succeeded,
    /// It failed, and was a local one: `su`, `sudo`, a console. Shown, never banned.
    Local,
}

/// The running source.
pub struct Logins {
    ring: Ring,
    losses: Losses,
    attempts: Attempts,
    ready: std::collections::VecDeque<Attempt>,
}

// === impl Logins ===

impl Logins {
    /// Reads the object's maps. To be called within a tokio runtime.
    pub fn new(mut maps: Maps) -> Result<Self, MapsError> {
        Ok(Self {
            ring: maps.ring(LOGINS_MAP)?,
            losses: maps.losses()?,
            attempts: Attempts::default(),
            ready: std::collections::VecDeque::new(),
        })
    }

    /// The next attempt; waits for it. `None` where the ring cannot be read any more.
    pub async fn next(&mut self) -> Option<Attempt> {
        loop {
            if let Some(attempt) = self.ready.pop_front() {
                return Some(attempt);
            }
            let now_ns = monotonic_ns();
            let wait = self
                .attempts
                .next_settling()
                .map_or(Duration::from_secs(3600), |at| Duration::from_nanos(at.saturating_sub(now_ns)));
            let attempts = &mut self.attempts;
            let ready = &mut self.ready;
            let read = maps::read(&mut self.ring, |bytes| {
                let Some(mut record) = Record::read(bytes) else { return };
                record.look_up_owner();
                if let Some(verdict) = attempts.record(&record) {
                    ready.push_back(attempt(verdict));
                }
            });
            match tokio::time::timeout(wait, read).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the ring of logins cannot be read any more");
                    return None;
                }
                Err(_elapsed) => {
                    let settled = self.attempts.settle(monotonic_ns());
                    self.ready.extend(settled.into_iter().map(attempt));
                }
            }
        }
    }

    /// What the kernel program had to leave out, in all.
    pub fn lost(&self) -> Lost {
        self.losses.read()
    }

    /// Records of callers that were not root, and so were not believed.
    pub fn forged(&self) -> u64 {
        self.attempts.forged()
    }
}

fn attempt(verdict: Verdict) -> Attempt {
    let behind = i64::try_from(monotonic_ns().saturating_sub(verdict.time_ns)).unwrap_or(0);
    let time = Timestamp::now().saturating_sub(SignedDuration::from_nanos(behind)).unwrap_or(Timestamp::MIN);
    let address =
        verdict.address.map_or_else(|| "no remote address".to_owned(), |address| address.to_string());
    let ended = match verdict.outcome {
        LoginOutcome::Failed | LoginOutcome::Local => "failed",
        LoginOutcome::Succeeded => "succeeded",
    };
    let text = format!(
        "{}[{}]: login {ended} for {:?} from {address} ({})",
        verdict.service, verdict.pid, verdict.account, verdict.why
    );
    Attempt {
        outcome: verdict.outcome,
        address: verdict.address,
        account: verdict.account,
        service: verdict.service,
        time,
        observed_ns: verdict.time_ns,
        pid: verdict.pid,
        text,
    }
}

/// The clock of the records.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
