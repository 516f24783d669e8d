//! Makes attempts of records: one failed password, or the key rounds of one session, is one failure,
//! though it gives one to four records. A plain function of (state, record, time), without I/O.
//!
//! What the records of one attempt look like (OpenSSH 9.2 with PAM, measured):
//!
//! | case | records |
//! |---|---|
//! | wrong password | 1100 failed at once; 1112 failed about 2 s later |
//! | unknown user | 1112 failed twice before any password; 1100 failed; 1112 failed |
//! | wrong keys | 1112 failed for each key; 1109 at the session's end |
//! | success | 1100 or 1101 with result 1 |
//! | `su`, `sudo` failing | 1100 failed without host and address |
//!
//! So 1100 counts at once. 1112 alone waits for the session's end: a password may follow, which counts
//! for both, or a success, which clears it.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use jiff::Timestamp;

use super::record::{Kind, Record};

/// A login attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// How it ended.
    pub outcome: LoginOutcome,
    /// Where it came from: a literal address that is not this host's loopback; `None` where the
    /// program gave none.
    pub address: Option<IpAddr>,
    /// The account's name as the program gave it: an attacker's text, at most 63 bytes; empty or `?`
    /// where the program hid it.
    pub account: String,
    /// The service: `sshd`, `vsftpd`, `su`…
    pub service: String,
    /// When, by the wall clock.
    pub time: Timestamp,
    /// When the kernel saw it, in nanoseconds of `CLOCK_MONOTONIC`.
    pub observed_ns: u64,
    /// The process that reported it.
    pub pid: u32,
    /// What was seen, in words.
    pub text: String,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// Authentication failed. Without an address it cannot be held against anyone.
    Failed,
    /// Authentication succeeded, from a remote address.
    Succeeded,
    /// Authentication failed on this host (`su`, `sudo`, a console): to be shown, never banned.
    Local,
}

/// The sessions whose attempts are not over, and what was refused.
#[derive(Debug)]
pub struct Attempts {
    sessions: HashMap<Key, Session>,
    /// Sessions in the order in which they began, the same ones as in `sessions`.
    order: VecDeque<Key>,
    /// Sessions by their parent process and peer: keyboard-interactive runs PAM in a child of the
    /// process that reports the login.
    children: HashMap<Key, Key>,
    /// How many sessions have an open round.
    open: usize,
    host_name: String,
    forged: u64,
    evicted: u64,
}

/// One connection of one peer, as far as records tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    process: u32,
    peer: IpAddr,
}

#[derive(Debug)]
struct Session {
    began_ns: u64,
    parent: Option<u32>,
    /// A failure was counted since the last success: what the login program adds to it is no news.
    counted: bool,
    /// A success was told since the last failure.
    succeeded: bool,
    /// The first failure of the login program itself, if nothing has decided it yet.
    round: Option<Record>,
}

/// Where a record says that its peer is.
#[derive(Debug, PartialEq, Eq)]
enum Peer {
    /// A literal address that can be held against.
    Remote(IpAddr),
    /// This host.
    Local,
    /// A name, which may be anyone's.
    Named,
}

// === impl Attempts ===

impl Attempts {
    /// The most sessions that are remembered; beyond it the oldest is decided as if it had ended.
    pub const MOST_SESSIONS: usize = 8192;
    /// For how long a session is remembered, in nanoseconds: longer than sshd's `LoginGraceTime` (120 s).
    pub const LONGEST_NS: u64 = 150_000_000_000;

    /// `host_name` is this host's name: sudo gives it as the remote host.
    pub fn new(host_name: impl Into<String>) -> Self {
        Self {
            sessions: HashMap::new(),
            order: VecDeque::new(),
            children: HashMap::new(),
            open: 0,
            host_name: host_name.into(),
            forged: 0,
            evicted: 0,
        }
    }

    /// Takes one record. Returns what it decides, in order: usually nothing or one attempt.
    pub fn record(&mut self, record: Record) -> Vec<Attempt> {
        let mut decided = self.expire(record.time_ns);
        let peer = peer(&record, &self.host_name);
        if !trusted(&record, &peer) {
            self.forged += 1;
            return decided;
        }
        let failed_password = record.kind == Kind::Auth && !record.success;
        match peer {
            Peer::Remote(address) => decided.extend(self.remote(record, address)),
            Peer::Local if failed_password => decided.push(attempt(&record, LoginOutcome::Local, None)),
            Peer::Named if failed_password => decided.push(attempt(&record, LoginOutcome::Failed, None)),
            Peer::Local | Peer::Named => {}
        }
        decided
    }

    /// Decides sessions that are older than [`Self::LONGEST_NS`].
    pub fn expire(&mut self, now_ns: u64) -> Vec<Attempt> {
        let mut decided = Vec::new();
        while let Some(key) = self.order.front().copied() {
            let young = |session: &Session| now_ns.saturating_sub(session.began_ns) < Self::LONGEST_NS;
            if self.sessions.get(&key).is_some_and(young) {
                break;
            }
            decided.extend(self.remove_oldest());
        }
        decided
    }

    /// Decides the sessions of a process that is gone.
    pub fn ended(&mut self, process: u32) -> Vec<Attempt> {
        let keys: Vec<Key> = self
            .sessions
            .iter()
            .filter(|(key, session)| key.process == process && session.round.is_some())
            .map(|(key, _)| *key)
            .collect();
        keys.into_iter().filter_map(|key| self.end(key)).collect()
    }

    /// The processes with sessions that wait for their end.
    pub fn waiting(&self) -> Vec<u32> {
        if self.open == 0 {
            return Vec::new();
        }
        let open = self.sessions.iter().filter(|(_, session)| session.round.is_some());
        open.map(|(key, _)| key.process).collect()
    }

    /// How many records were refused because their caller was not root.
    pub fn forged(&self) -> u64 {
        self.forged
    }

    /// How many sessions were decided early because there were too many.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    fn remote(&mut self, record: Record, address: IpAddr) -> Vec<Attempt> {
        let own = Key { process: record.tgid, peer: address };
        let mut decided = Vec::new();
        let known = self.find(&record, own);
        match record.kind {
            // What ends or clears a session that is not known says nothing about the next one.
            Kind::Error => return known.and_then(|key| self.end(key)).into_iter().collect(),
            Kind::Account if !record.success => return decided,
            _ => {}
        }
        let key = known.unwrap_or_else(|| {
            decided.extend(self.begin(own, &record));
            own
        });
        let Some(session) = self.sessions.get_mut(&key) else { return decided };
        if record.success {
            self.open -= usize::from(session.round.take().is_some());
            session.counted = false;
            // The verdict on the account follows the one on the password, and may still be a refusal.
            if record.kind != Kind::Auth && !session.succeeded {
                session.succeeded = true;
                decided.push(attempt(&record, LoginOutcome::Succeeded, Some(address)));
            }
        } else if record.kind == Kind::Auth {
            self.open -= usize::from(session.round.take().is_some());
            session.counted = true;
            session.succeeded = false;
            decided.push(attempt(&record, LoginOutcome::Failed, Some(address)));
        } else if !session.counted {
            session.succeeded = false;
            if session.round.is_none() {
                self.open += 1;
                session.round = Some(record);
            }
        }
        decided
    }

    /// The session of a record: its own process's, its parent's, or its child's.
    fn find(&self, record: &Record, own: Key) -> Option<Key> {
        if self.sessions.contains_key(&own) {
            return Some(own);
        }
        let parent = record.caller.map(|caller| Key { process: caller.parent, peer: own.peer });
        parent
            .filter(|parent| self.sessions.contains_key(parent))
            .or_else(|| self.children.get(&own).copied())
    }

    fn begin(&mut self, key: Key, record: &Record) -> Option<Attempt> {
        let mut decided = None;
        if self.order.len() >= Self::MOST_SESSIONS {
            self.evicted += 1;
            decided = self.remove_oldest();
        }
        let parent = record.caller.map(|caller| caller.parent);
        if let Some(parent) = parent {
            self.children.insert(Key { process: parent, peer: key.peer }, key);
        }
        let session =
            Session { began_ns: record.time_ns, parent, counted: false, succeeded: false, round: None };
        self.sessions.insert(key, session);
        self.order.push_back(key);
        decided
    }

    fn remove_oldest(&mut self) -> Option<Attempt> {
        let key = self.order.pop_front()?;
        let decided = self.end(key);
        let session = self.sessions.remove(&key)?;
        if let Some(parent) = session.parent {
            let parent = Key { process: parent, peer: key.peer };
            if self.children.get(&parent) == Some(&key) {
                self.children.remove(&parent);
            }
        }
        decided
    }

    /// The session is over: its open round is one failure. The process's number may be another's next.
    fn end(&mut self, key: Key) -> Option<Attempt> {
        let session = self.sessions.get_mut(&key)?;
        session.counted = false;
        let round = session.round.take()?;
        self.open -= 1;
        let mut failed = attempt(&round, LoginOutcome::Failed, Some(key.peer));
        failed.text.push_str(", by key or unknown user, without a password");
        Some(failed)
    }
}

/// Any user can call the probed function in a process of his own. So only what a root process says
/// can be held against an address; what runs setuid (`su`, `sudo`) is believed about this host alone.
fn trusted(record: &Record, peer: &Peer) -> bool {
    let setuid = record.caller.is_some_and(|caller| caller.euid == 0);
    record.uid == 0 || (setuid && !matches!(peer, Peer::Remote(_)))
}

fn peer(record: &Record, host_name: &str) -> Peer {
    let texts = [record.addr.as_deref(), record.host.as_deref()];
    let given = || texts.into_iter().flatten().filter(|text| !text.is_empty());
    for text in given() {
        if let Ok(address) = text.parse::<IpAddr>() {
            let address = atalaya_wire::canonical(address);
            let here = address.is_loopback() || address.is_unspecified() || address.is_multicast();
            return if here { Peer::Local } else { Peer::Remote(address) };
        }
    }
    let own = |name: &str| name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(host_name);
    if given().all(own) { Peer::Local } else { Peer::Named }
}

fn attempt(record: &Record, outcome: LoginOutcome, address: Option<IpAddr>) -> Attempt {
    let account = record.account.clone().unwrap_or_default();
    let verdict = match outcome {
        LoginOutcome::Failed | LoginOutcome::Local => "failed",
        LoginOutcome::Succeeded => "succeeded",
    };
    let (service, pid) = (record.service(), record.tgid);
    let operation = record.op.as_deref().unwrap_or("login").escape_debug();
    let mut text = format!("{service}[{pid}]: {operation} {verdict} for {account:?}");
    let from = match (address, &record.host) {
        (Some(address), _) => format!(" from {address}"),
        (None, Some(host)) => format!(" from {host:?}"),
        (None, None) => String::new(),
    };
    text.push_str(&from);
    Attempt {
        outcome,
        address,
        account,
        service: service.to_owned(),
        time: record.time,
        observed_ns: record.time_ns,
        pid,
        text,
    }
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
