//! Failed logins as the kernel sees them: a uprobe in libaudit reports every verdict of PAM and sshd, about
//! two seconds before a log line could. The [loader](crate::channel::logins) attaches it, [`record`] reads what it
//! reports, and [`mod@attempt`] makes attempts of records: one failed password is one failure, though it gives up to four.

pub mod attempt;
pub mod record;
pub mod seen;
pub mod service;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use atalaya_sensor_ebpf::logins::{DOUBTED_MAP, LOGINS_MAP};
use jiff::Timestamp;
use tokio::sync::mpsc;

use attempt::{Attempts, Verdict};
use record::Record;
use seen::SeenServices;

use crate::kernel::clock::{age, monotonic_ns};
use crate::kernel::maps::{self, Losses, LostRecords, Maps, MapsError, Ring};
use crate::kernel::process::Voucher;

/// A login attempt, of the one or more records that the libraries made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// As the library said it.
    pub outcome: LoginOutcome,
    /// The remote address, where it is a literal one of another host.
    pub address: Option<IpAddr>,
    /// The account that was tried; an attacker's text.
    pub account: String,
    /// What PAM was told to be asked for, where it is known, else the program that decided: `sshd`.
    pub service: String,
    /// The program that decided, by its process's name: `sshd-session`.
    pub program: String,
    /// When, by the wall clock.
    pub time: Timestamp,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub observed_ns: u64,
    /// The process that asked the library, as this host numbers it.
    pub pid: u32,
    /// What was seen, in words.
    pub text: String,
}

/// How a login attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// It failed; where there is an address, a jail may count it.
    Failed,
    /// It succeeded; where there is an address, the enforcer may protect it for that.
    Succeeded,
    /// It failed, and was a local one: `su`, `sudo`, a console. Shown, never banned.
    Local,
}

/// The worker's half of the object `logins`: reads its rings and makes attempts of the records.
pub struct Logins {
    ring: Ring,
    losses: Losses,
    doubted: mpsc::Receiver<Doubted>,
    attempts: Attempts,
    seen: SeenServices,
    ready: std::collections::VecDeque<Attempt>,
}

/// The source's other half, which asks whom to believe. What it waits for does not hold up the host's own logins.
pub struct Doubts {
    ring: Ring,
    voucher: Voucher,
    decided: mpsc::Sender<Doubted>,
}

/// A record that was asked about.
enum Doubted {
    Believed(Box<Record>),
    Forged(Box<Record>),
}

// === impl Logins ===

impl Logins {
    /// Reads the object's maps; the other half is to be [run](Doubts::run) beside it. What is seen of each service is
    /// added to `seen`. To be called within a tokio runtime.
    pub fn new(maps: &mut Maps, voucher: Voucher, seen: SeenServices) -> Result<(Self, Doubts), MapsError> {
        let (decided, doubted) = mpsc::channel(256);
        let logins = Self {
            ring: maps.ring(LOGINS_MAP)?,
            losses: maps.losses()?,
            doubted,
            attempts: Attempts::default(),
            seen,
            ready: std::collections::VecDeque::new(),
        };
        Ok((logins, Doubts { ring: maps.ring(DOUBTED_MAP)?, voucher, decided }))
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
            let take = |verdict| {
                self.seen.note(&verdict);
                attempt(verdict)
            };
            let read = maps::read(&mut self.ring, |bytes| {
                let Some(record) = Record::read(bytes) else { return };
                ready.extend(attempts.record(&record).map(take));
            });
            tokio::select! {
                biased;
                read = read => if let Err(error) = read {
                    tracing::error!(%error, "the ring of logins cannot be read any more");
                    return None;
                },
                Some(doubted) = self.doubted.recv() => match doubted {
                    Doubted::Believed(record) => self.ready.extend(self.attempts.record(&record).map(take)),
                    Doubted::Forged(record) => {
                        self.attempts.disbelieve();
                        self.seen.disbelieve(&record);
                    }
                },
                () = tokio::time::sleep(wait) => {
                    let settled = self.attempts.settle(monotonic_ns());
                    self.ready.extend(settled.into_iter().map(take));
                }
            }
        }
    }

    /// What the kernel program had to leave out, in all.
    pub fn lost(&self) -> LostRecords {
        self.losses.read()
    }

    /// Records of callers that were not believed.
    pub fn forged(&self) -> u64 {
        self.attempts.forged()
    }
}

// === impl Doubts ===

impl Doubts {
    /// Asks, until the ring cannot be read any more or nobody wants to know. Takes a quarter of the loader's time
    /// at most: a container that floods it is heard less, and what the ring cannot hold meanwhile is counted.
    pub async fn run(mut self) {
        /// How many records are taken from the ring at a time.
        const MOST: usize = 64;
        /// How much of the loader's time may be taken at once.
        const BURST: Duration = Duration::from_millis(200);
        /// What a local failure, which costs the loader nothing, stands for: each is a line of the log.
        const SHOWN: Duration = Duration::from_millis(2);
        let mut taken = Duration::ZERO;
        let mut last = Instant::now();
        loop {
            let mut records = Vec::new();
            let read = maps::read_some(&mut self.ring, MOST, |bytes| records.extend(Record::read(bytes)));
            if let Err(error) = read.await {
                tracing::error!(%error, "the ring of doubted logins cannot be read any more");
                return;
            }
            for record in records {
                let began = Instant::now();
                taken = taken.saturating_sub(began.duration_since(last) / 4);
                let is_local = record.peer().is_none();
                let doubted = self.decide(record).await;
                last = Instant::now();
                taken += if is_local { SHOWN } else { last.duration_since(began) };
                if self.decided.send(doubted).await.is_err() {
                    return;
                }
                if taken > BURST {
                    tokio::time::sleep(taken.saturating_sub(BURST) * 4).await;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn decide(&self, mut record: Record) -> Doubted {
        record.look_up_owner();
        let counts = match record.peer() {
            // A local failure, which is only shown.
            None => record.uid == 0 || record.set_user_id,
            Some(_) if record.uid != 0 => false,
            Some(address) => self.voucher.vouch(record.tgid, address).await.counts(),
        };
        let record = Box::new(record);
        if counts { Doubted::Believed(record) } else { Doubted::Forged(record) }
    }
}

fn attempt(verdict: Verdict) -> Attempt {
    let time = Timestamp::now().saturating_sub(age(verdict.time_ns)).unwrap_or(Timestamp::MIN);
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
        program: verdict.program,
        time,
        observed_ns: verdict.time_ns,
        pid: verdict.pid,
        text,
    }
}
