//! Attempts from records: a plain state machine of (records, time) without input or output.
//!
//! PAM's verdict on a password (`USER_AUTH`) is an attempt at once. sshd's own `USER_LOGIN` follows it
//! some two seconds later, and comes before it for an account that does not exist and for keys; so a
//! `USER_LOGIN` that no password explains waits: for a password, which it then belongs to; for a success,
//! which clears it; for the session's end (`USER_ERR`); or for [`SETTLING`]. Many keys of one agent are one.
//!
//! Where PAM itself is asked, a module's refusal (`MODULE_AUTH`) comes before PAM's verdict, which may be another:
//! a directory may know whom this host does not. It waits for [`SETTLING_MODULE`], less than PAM's own delay. What its
//! caller does next (`USER_AUTH`) tells the verdict; the next try or the end may be the first to tell of a refusal.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use atalaya_sensor_ebpf::logins::{MODULE_AUTH, USER_ACCT, USER_AUTH, USER_ERR, USER_LOGIN};

use super::LoginOutcome;
use super::record::Record;

/// How long a `USER_LOGIN` failure waits for what explains it, in nanoseconds: 10 s.
pub const SETTLING: u64 = 10_000_000_000;
/// How long a module's refusal waits for another module that lets in, in nanoseconds: 1 s.
pub const SETTLING_MODULE: u64 = 1_000_000_000;
/// How long a session without news is remembered, in nanoseconds: 3 min, more than sshd's own grace.
const FORGETTING: u64 = 180_000_000_000;
/// The most sessions at once; beyond, the one that was silent longest is forgotten.
const MOST: usize = 20_000;
/// How many sessions of one peer, the latest, are looked at for another process of the same attempt.
const LATEST: usize = 64;
/// The most refusals to a name that wait for their address; beyond, the oldest are told without one.
const MOST_NAMED: usize = 256;

/// An attempt, by the records' own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// As the last record of the attempt tells it.
    pub outcome: LoginOutcome,
    /// The remote address, where it is a literal one of another host.
    pub address: Option<IpAddr>,
    /// The account that was tried.
    pub account: String,
    /// The service, by PAM's name or the program's.
    pub service: String,
    /// The program, by its process's name.
    pub program: String,
    /// That of the record, as this host numbers it.
    pub pid: u32,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// What the attempt was known by.
    pub why: &'static str,
}

/// The sessions that are going on.
#[derive(Debug, Default)]
pub struct Attempts {
    sessions: HashMap<Key, ProcessSession>,
    /// The latest sessions of each peer.
    by_peer: HashMap<IpAddr, VecDeque<u32>>,
    /// By when there was news last.
    by_age: BTreeSet<(u64, Key)>,
    /// Those that wait, by when they have waited enough.
    settling: BTreeSet<(u64, Key)>,
    /// Passwords that sshd refused to a name (`UseDNS`), whose address its own verdict tells two seconds later.
    named: VecDeque<NamedRefusal>,
    forged: u64,
    forgotten: u64,
}

/// A refusal of somebody who is known by name, and the process that the one which refused is a child of.
#[derive(Debug)]
struct NamedRefusal {
    verdict: Verdict,
    parent: u32,
}

/// A process and its peer.
type Key = (u32, IpAddr);

#[derive(Debug, Default)]
struct ProcessSession {
    last_ns: u64,
    /// How many passwords failed; later records of the same ones are not counted again.
    passwords: u32,
    waiting: Option<Unexplained>,
    /// Whether one that waited was counted: the next password is the same attempt.
    prepaid: bool,
    /// Whether passwords that another process of the session checked explain its failures.
    explained: bool,
    /// How far a login came that was told of already: by the type of the record that said so last.
    let_in: Option<u32>,
}

/// A failure that waits for what explains it.
#[derive(Debug)]
struct Unexplained {
    /// In nanoseconds of `CLOCK_MONOTONIC`.
    until: u64,
    verdict: Verdict,
    /// Whether a module of PAM's refused: then only what the same process does next explains it.
    of_module: bool,
}

// === impl Attempts ===

impl Attempts {
    /// Takes a record; an attempt where it makes one.
    pub fn record(&mut self, record: &Record) -> Option<Verdict> {
        if record.uid != 0 {
            // Any user can call the function with any text; only root's programs are believed, and of
            // those that users start, only that a local login failed.
            if record.set_user_id && record.peer().is_none() {
                return local(record);
            }
            self.forged += 1;
            return None;
        }
        let Some(peer) = record.peer().filter(|peer| !is_local(*peer)) else {
            return self.without_address(record);
        };
        self.forget(record.time_ns);
        let key = (record.tgid, peer);
        if record.success {
            return self.success(record, key);
        }
        match record.kind {
            USER_AUTH => self.password(record, key),
            MODULE_AUTH => {
                self.module(record, key);
                None
            }
            USER_LOGIN => self.login(record, key),
            USER_ACCT => {
                Some(verdict(record, Some(peer), LoginOutcome::Failed, "the account may not log in"))
            }
            USER_ERR => self.end(record, key),
            _ => None,
        }
    }

    /// When the next attempt settles, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn next_settling(&self) -> Option<u64> {
        let named = self.named.front().map(|named| named.verdict.time_ns + SETTLING);
        self.settling.first().map(|(until, _)| *until).into_iter().chain(named).min()
    }

    /// The attempts that nothing explained in time.
    pub fn settle(&mut self, now_ns: u64) -> Vec<Verdict> {
        let mut settled = Vec::new();
        while let Some((_, key)) = self.settling.first().copied().filter(|(until, _)| *until <= now_ns) {
            settled.extend(self.take_waiting(key));
            if let Some(session) = self.sessions.get_mut(&key) {
                session.prepaid = true;
            }
        }
        while self.named.front().is_some_and(|named| named.verdict.time_ns + SETTLING <= now_ns) {
            settled.extend(self.named.pop_front().map(|named| named.verdict));
        }
        self.forget(now_ns);
        settled
    }

    /// Counts a record that was not believed.
    pub fn disbelieve(&mut self) {
        self.forged += 1;
    }

    /// Records of callers that were not root.
    pub fn forged(&self) -> u64 {
        self.forged
    }

    /// Sessions forgotten because there were too many.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A verdict on somebody who comes from no address that can be banned.
    fn without_address(&mut self, record: &Record) -> Option<Verdict> {
        let verdict = local(record)?;
        if verdict.outcome != LoginOutcome::Failed || !record.program.starts_with("sshd") {
            return Some(verdict);
        }
        self.named.push_back(NamedRefusal { verdict, parent: record.parent });
        if self.named.len() > MOST_NAMED { self.named.pop_front().map(|named| named.verdict) } else { None }
    }

    /// Takes out the password that sshd, or its process for an answer, refused to a name before its own verdict. Never
    /// that of another session: its address would be blamed for it.
    fn take_named(&mut self, record: &Record) -> Option<Verdict> {
        let of = |process: fn(&NamedRefusal) -> u32| {
            self.named.iter().position(|named| process(named) == record.tgid)
        };
        let at = of(|named| named.verdict.pid).or_else(|| of(|named| named.parent))?;
        self.named.remove(at).map(|named| named.verdict)
    }

    /// PAM refused: an attempt, at once.
    fn password(&mut self, record: &Record, key: Key) -> Option<Verdict> {
        self.explain(record, key);
        let session = self.session(record, key);
        session.passwords += 1;
        if std::mem::take(&mut session.prepaid) {
            return None;
        }
        Some(verdict(record, Some(key.1), LoginOutcome::Failed, "password refused"))
    }

    /// A module of PAM's refused: an attempt, unless another lets in.
    fn module(&mut self, record: &Record, key: Key) {
        self.explain(record, key);
        let verdict = verdict(record, Some(key.1), LoginOutcome::Failed, "password refused");
        let session = self.session(record, key);
        if !session.prepaid {
            let until = record.time_ns + SETTLING_MODULE;
            self.wait(key, Unexplained { until, verdict, of_module: true });
        }
    }

    /// A verdict on a password came: what waited before it belongs to it, whichever process of the session it was.
    /// Keyboard-interactive runs PAM in a process of its own.
    fn explain(&mut self, record: &Record, key: Key) {
        for other in self.latest(key.1) {
            let waits = self.sessions.get(&other).and_then(|session| session.waiting.as_ref());
            if waits.is_some_and(|waits| waits.until > record.time_ns && (other == key || !waits.of_module)) {
                self.take_waiting(other);
            }
        }
    }

    /// sshd's own verdict: explained by a password, or waiting for what explains it.
    fn login(&mut self, record: &Record, key: Key) -> Option<Verdict> {
        if record.program.starts_with("sshd")
            && let Some(named) = self.take_named(record)
        {
            let verdict = self.password(record, key)?;
            return Some(Verdict { account: named.account, ..verdict });
        }
        let by_other = self.explained_by_other(record, key);
        let session = self.session(record, key);
        session.explained |= by_other;
        if session.passwords == 0 && !by_other && !session.prepaid && session.waiting.is_none() {
            let verdict = verdict(record, Some(key.1), LoginOutcome::Failed, "key or account refused");
            self.wait(key, Unexplained { until: record.time_ns + SETTLING, verdict, of_module: false });
        }
        None
    }

    /// The session ended without success: what waited was an attempt.
    fn end(&mut self, record: &Record, key: Key) -> Option<Verdict> {
        let by_other = self.explained_by_other(record, key);
        match self.remove(key) {
            Some(ProcessSession { waiting: Some(waiting), .. }) => Some(waiting.verdict),
            Some(session)
                if session.passwords > 0
                    || session.prepaid
                    || session.explained
                    || session.let_in.is_some() =>
            {
                None
            }
            _ if by_other => None,
            _ => Some(verdict(record, Some(key.1), LoginOutcome::Failed, "ended without a login")),
        }
    }

    /// Whether another process of the same sshd session, the one that runs PAM for keyboard-interactive,
    /// refused a password just now.
    fn explained_by_other(&self, record: &Record, (tgid, peer): Key) -> bool {
        record.program.starts_with("sshd")
            && self.latest(peer).into_iter().any(|other| {
                other.0 != tgid
                    && self.sessions.get(&other).is_some_and(|session| {
                        session.passwords > 0 && session.last_ns + SETTLING > record.time_ns
                    })
            })
    }

    /// Somebody was let in: a login, unless the record is a later word on the same one.
    fn success(&mut self, record: &Record, key: Key) -> Option<Verdict> {
        let mut by_other = false;
        for other in self.latest(key.1) {
            let Some(session) = self.sessions.get(&other) else { continue };
            // The process that let the session in may not be the one that refused its keys.
            if session.last_ns + SETTLING > record.time_ns {
                by_other |= other != key && session.let_in.is_some();
                let of_module = session.waiting.as_ref().is_some_and(|waits| waits.of_module);
                if other == key || !of_module {
                    self.take_waiting(other);
                }
            }
        }
        let later = |told: u32| match record.kind {
            // Of PAM itself there is one word on each login.
            _ if record.service.is_some() => false,
            USER_ACCT => told == USER_AUTH,
            USER_LOGIN => told != USER_LOGIN,
            _ => false,
        };
        // sshd says last of all what a process of its own was told of an answer.
        let is_later = self.sessions.get(&key).and_then(|session| session.let_in).is_some_and(later)
            || (record.kind == USER_LOGIN && by_other);
        // A right key leaves no more than the word that its account may log in.
        if !matches!(record.kind, USER_AUTH | USER_ACCT | USER_LOGIN) {
            self.remove(key);
            return None;
        }
        let session = self.session(record, key);
        (session.passwords, session.prepaid, session.explained) = (0, false, false);
        session.let_in = Some(record.kind);
        (!is_later).then(|| verdict(record, Some(key.1), LoginOutcome::Succeeded, "let in"))
    }

    /// The session of a record, from now on.
    fn session(&mut self, record: &Record, key: Key) -> &mut ProcessSession {
        let session = self.sessions.entry(key).or_insert_with(|| {
            let latest = self.by_peer.entry(key.1).or_default();
            if latest.len() >= LATEST {
                latest.pop_front();
            }
            latest.push_back(key.0);
            ProcessSession::default()
        });
        self.by_age.remove(&(session.last_ns, key));
        session.last_ns = record.time_ns;
        self.by_age.insert((session.last_ns, key));
        session
    }

    fn wait(&mut self, key: Key, waiting: Unexplained) {
        self.take_waiting(key);
        if let Some(session) = self.sessions.get_mut(&key) {
            self.settling.insert((waiting.until, key));
            session.waiting = Some(waiting);
        }
    }

    fn take_waiting(&mut self, key: Key) -> Option<Verdict> {
        let Unexplained { until, verdict, .. } = self.sessions.get_mut(&key)?.waiting.take()?;
        self.settling.remove(&(until, key));
        Some(verdict)
    }

    fn remove(&mut self, key: Key) -> Option<ProcessSession> {
        let session = self.sessions.remove(&key)?;
        self.by_age.remove(&(session.last_ns, key));
        if let Some(Unexplained { until, .. }) = &session.waiting {
            self.settling.remove(&(*until, key));
        }
        if let Some(latest) = self.by_peer.get_mut(&key.1) {
            latest.retain(|tgid| *tgid != key.0);
            if latest.is_empty() {
                self.by_peer.remove(&key.1);
            }
        }
        Some(session)
    }

    /// The latest sessions of a peer.
    fn latest(&self, peer: IpAddr) -> Vec<Key> {
        self.by_peer.get(&peer).into_iter().flatten().map(|tgid| (*tgid, peer)).collect()
    }

    /// Makes room: old sessions go, and where there are too many, those that were silent longest.
    fn forget(&mut self, now_ns: u64) {
        while let Some((last_ns, key)) = self.by_age.first().copied() {
            let old = last_ns + FORGETTING <= now_ns;
            if !old && self.sessions.len() < MOST {
                break;
            }
            self.forgotten += u64::from(!old);
            self.remove(key);
        }
    }
}

/// A record without a remote literal address: `su`, `sudo`, or a program that knows only a name.
fn local(record: &Record) -> Option<Verdict> {
    if record.success || record.kind != USER_AUTH {
        return None;
    }
    let named = record.names_remote() && record.peer().is_none();
    let outcome = if named { LoginOutcome::Failed } else { LoginOutcome::Local };
    Some(verdict(
        record,
        None,
        outcome,
        if named { "the peer is known by name only" } else { "a local login" },
    ))
}

fn verdict(record: &Record, address: Option<IpAddr>, outcome: LoginOutcome, why: &'static str) -> Verdict {
    Verdict {
        outcome,
        address,
        account: record.account.clone().unwrap_or_default(),
        service: record.service().to_owned(),
        program: record.program.clone(),
        pid: record.tgid,
        time_ns: record.time_ns,
        why,
    }
}

fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const PEER: &str = "192.0.2.7";

    /// Type, result, milliseconds, process; the peer stands in `host` for PAM and in `addr` for sshd.
    type Step = (u32, bool, u64, u32);

    fn record((kind, success, at_ms, tgid): Step, peer: &str) -> Record {
        let by_pam = matches!(kind, USER_AUTH | USER_ACCT | USER_ERR);
        let text = Some(peer.to_owned());
        Record {
            time_ns: at_ms * 1_000_000,
            kind,
            success,
            tgid,
            parent: tgid / 10,
            uid: 0,
            set_user_id: false,
            host: if by_pam { text.clone() } else { None },
            addr: text,
            account: Some("x".to_owned()),
            service: None,
            asked: None,
            program: "sshd-session".to_owned(),
        }
    }

    /// The failures of a session, and when each was known, in milliseconds.
    fn failures(steps: &[Step]) -> Vec<u64> {
        let mut attempts = Attempts::default();
        let mut known = Vec::new();
        for step in steps {
            let failed = |verdict: &Verdict| verdict.outcome == LoginOutcome::Failed;
            while let Some(at) = attempts.next_settling().filter(|at| *at <= step.2 * 1_000_000) {
                known.extend(attempts.settle(at).iter().filter(|v| failed(v)).map(|_| at / 1_000_000));
            }
            known.extend(attempts.record(&record(*step, PEER)).filter(failed).map(|_| step.2));
        }
        while let Some(at) = attempts.next_settling() {
            known.extend(attempts.settle(at).iter().map(|_| at / 1_000_000));
        }
        known
    }

    #[rstest]
    #[case::password(&[(USER_AUTH, true, 0, 1), (USER_ACCT, true, 1, 1)], 1)]
    #[case::password_at_a_terminal(&[(USER_AUTH, true, 0, 1), (USER_ACCT, true, 1, 1), (USER_LOGIN, true, 9, 1)], 1)]
    #[case::answer_at_a_terminal(&[(USER_AUTH, true, 0, 2), (USER_ACCT, true, 1, 2), (USER_LOGIN, true, 9, 1)], 1)]
    #[case::key(&[(USER_LOGIN, false, 0, 1), (USER_ACCT, true, 20, 1)], 1)]
    #[case::key_at_a_terminal(&[(USER_ACCT, true, 20, 1), (USER_LOGIN, true, 30, 1)], 1)]
    #[case::key_without_pam(&[(USER_LOGIN, true, 20, 1)], 1)]
    #[case::two_keys_at_once(&[
        (USER_ACCT, true, 0, 1), (USER_ACCT, true, 1, 2), (USER_LOGIN, true, 9, 1), (USER_LOGIN, true, 9, 2),
    ], 2)]
    #[case::two_passwords_that_one_process_looked_at(&[
        (USER_AUTH, true, 0, 1), (USER_ACCT, true, 1, 1), (USER_AUTH, true, 50, 1), (USER_ACCT, true, 51, 1),
    ], 2)]
    #[case::two_passwords_of_whose_accounts_nobody_asks(&[(USER_AUTH, true, 0, 1), (USER_AUTH, true, 50, 1)], 2)]
    #[case::wrong_password(&[(USER_AUTH, false, 0, 1), (USER_LOGIN, false, 1900, 1)], 0)]
    #[case::right_key_of_an_account_that_may_not(&[(USER_ACCT, false, 0, 1)], 0)]
    #[case::end(&[(USER_ERR, true, 0, 1)], 0)]
    fn one_login_is_told_once(#[case] steps: &[Step], #[case] expected: usize) {
        let mut attempts = Attempts::default();
        let verdicts = steps.iter().filter_map(|step| attempts.record(&record(*step, PEER)));
        let good: Vec<Verdict> = verdicts.filter(|one| one.outcome == LoginOutcome::Succeeded).collect();
        assert_eq!(good.len(), expected, "{good:?}");
        assert!(good.iter().all(|one| one.address == Some(PEER.parse().unwrap()) && one.account == "x"));
    }

    #[rstest]
    #[case::wrong_password(&[(USER_AUTH, false, 0, 1), (USER_LOGIN, false, 1900, 1)], &[0])]
    #[case::three_wrong_passwords(&[
        (USER_AUTH, false, 0, 1), (USER_LOGIN, false, 1900, 1),
        (USER_AUTH, false, 2500, 1), (USER_LOGIN, false, 4400, 1),
        (USER_AUTH, false, 5000, 1), (USER_LOGIN, false, 6900, 1),
    ], &[0, 2500, 5000])]
    #[case::invalid_user(&[
        (USER_LOGIN, false, 0, 1), (USER_LOGIN, false, 1, 1), (USER_AUTH, false, 50, 1), (USER_LOGIN, false, 2300, 1),
    ], &[50])]
    #[case::invalid_user_who_types_slowly(&[
        (USER_LOGIN, false, 0, 1), (USER_LOGIN, false, 1, 1), (USER_AUTH, false, 30_000, 1), (USER_LOGIN, false, 32_300, 1),
    ], &[10_000])]
    #[case::invalid_user_who_leaves(&[(USER_LOGIN, false, 0, 1), (USER_LOGIN, false, 1, 1)], &[10_000])]
    #[case::failed_key(&[(USER_LOGIN, false, 0, 1), (USER_ERR, false, 80, 1)], &[80])]
    #[case::an_agent_with_several_wrong_keys(&[
        (USER_LOGIN, false, 0, 1), (USER_LOGIN, false, 10, 1), (USER_LOGIN, false, 20, 1), (USER_ERR, false, 30, 1),
    ], &[30])]
    #[case::an_agent_whose_last_key_is_right(&[
        (USER_LOGIN, false, 0, 1), (USER_LOGIN, false, 10, 1), (USER_ACCT, true, 20, 1),
    ], &[])]
    #[case::keys_then_a_right_password(&[
        (USER_LOGIN, false, 0, 1), (USER_LOGIN, false, 10, 1), (USER_AUTH, true, 4000, 1), (USER_ACCT, true, 4001, 1),
    ], &[])]
    #[case::success(&[(USER_AUTH, true, 0, 1), (USER_ACCT, true, 1, 1), (USER_LOGIN, true, 9, 1)], &[])]
    #[case::disconnect_before_authentication(&[], &[])]
    #[case::keyboard_interactive_in_a_fork(&[(USER_AUTH, false, 0, 2), (USER_LOGIN, false, 1900, 1)], &[0])]
    #[case::keyboard_interactive_in_two_forks_until_the_end(&[
        (USER_AUTH, false, 0, 2), (USER_LOGIN, false, 1900, 1), (USER_AUTH, false, 2500, 3), (USER_LOGIN, false, 4400, 1),
        (USER_ERR, false, 30_000, 1),
    ], &[0, 2500])]
    #[case::keyboard_interactive_that_ends_before_sshd_says_so(&[
        (USER_AUTH, false, 0, 2), (USER_ERR, false, 1900, 1),
    ], &[0])]
    #[case::invalid_user_keyboard_interactive(&[
        (USER_LOGIN, false, 0, 1), (USER_AUTH, false, 50, 2), (USER_LOGIN, false, 2300, 1),
    ], &[50])]
    #[case::a_password_after_a_success_counts_again(&[
        (USER_AUTH, true, 0, 1), (USER_AUTH, false, 5000, 1),
    ], &[5000])]
    #[case::two_sessions_are_two(&[
        (USER_AUTH, false, 0, 1), (USER_AUTH, false, 5, 2), (USER_LOGIN, false, 1900, 1), (USER_LOGIN, false, 1905, 2),
    ], &[0, 5])]
    #[case::pam_refused_at_once_and_at_the_end(&[(MODULE_AUTH, false, 0, 1), (USER_AUTH, false, 2000, 1)], &[1000])]
    #[case::pam_refused_and_another_module_let_in(&[(MODULE_AUTH, false, 0, 1), (USER_AUTH, true, 300, 1)], &[])]
    #[case::pam_let_in_and_another_module_refused(&[(USER_AUTH, false, 2000, 1)], &[2000])]
    #[case::pam_without_a_delay(&[
        (MODULE_AUTH, false, 0, 1), (USER_AUTH, false, 40, 1), (MODULE_AUTH, false, 41, 1), (USER_AUTH, false, 80, 1),
    ], &[40, 80])]
    #[case::pam_twice_and_then_right(&[
        (MODULE_AUTH, false, 0, 1), (USER_AUTH, false, 3500, 1), (MODULE_AUTH, false, 3510, 1),
        (USER_AUTH, false, 7000, 1), (USER_AUTH, true, 7010, 1),
    ], &[1000, 4510])]
    #[case::pam_in_a_process_for_each_answer(&[(MODULE_AUTH, false, 0, 2), (MODULE_AUTH, false, 600, 3)], &[1000, 1600])]
    #[case::pam_refused_beside_a_login_of_another_process(&[
        (MODULE_AUTH, false, 0, 2), (USER_AUTH, true, 600, 3),
    ], &[1000])]
    fn one_attempt_is_one_failure(#[case] steps: &[Step], #[case] known: &[u64]) {
        assert_eq!(failures(steps), known);
    }

    #[test]
    fn a_local_failure_is_shown_and_has_no_address() {
        let mut local = record((USER_AUTH, false, 0, 1), PEER);
        (local.host, local.addr, local.program) = (None, None, "su".to_owned());
        let verdict = Attempts::default().record(&local).unwrap();
        assert_eq!((verdict.outcome, verdict.address), (LoginOutcome::Local, None));
        local.addr = Some("127.0.0.1".to_owned());
        let verdict = Attempts::default().record(&local).unwrap();
        assert_eq!((verdict.outcome, verdict.address), (LoginOutcome::Local, None));
    }

    #[test]
    fn a_peer_known_by_name_alone_is_never_an_address() {
        let mut named = record((USER_AUTH, false, 0, 1), PEER);
        named.program = "vsftpd".to_owned();
        (named.host, named.addr) = (Some("evil.example".to_owned()), None);
        let verdict = Attempts::default().record(&named).unwrap();
        assert_eq!((verdict.outcome, verdict.address), (LoginOutcome::Failed, None));
        named.host = Some("::ffff:192.0.2.7".to_owned());
        assert_eq!(Attempts::default().record(&named).unwrap().address, Some(PEER.parse().unwrap()));
    }

    #[rstest]
    #[case::passwords(&[
        (USER_AUTH, false, 0, 1), (USER_LOGIN, false, 1600, 1), (USER_AUTH, false, 3000, 1), (USER_LOGIN, false, 6600, 1),
    ], &[1600, 6600])]
    #[case::answers(&[
        (USER_AUTH, false, 0, 12), (USER_LOGIN, false, 2400, 1), (USER_AUTH, false, 2500, 13), (USER_LOGIN, false, 4300, 1),
        (USER_ERR, false, 4301, 1),
    ], &[2400, 4300])]
    #[case::unknown_user(&[
        (USER_LOGIN, false, 0, 1), (USER_LOGIN, false, 1, 1), (USER_AUTH, false, 20, 1), (USER_LOGIN, false, 2050, 1),
    ], &[2050])]
    #[case::beside_another_session(&[
        (USER_AUTH, false, 0, 1), (USER_LOGIN, false, 50, 4), (USER_LOGIN, false, 51, 4),
        (USER_LOGIN, false, 2000, 1),
    ], &[2000])]
    #[case::of_another_sshd(&[(USER_AUTH, false, 0, 1), (USER_LOGIN, false, 20_000, 2)], &[10_000, 30_000])]
    fn where_sshd_says_a_name_first_one_password_is_one_failure_of_the_address_that_it_says_last(
        #[case] steps: &[Step],
        #[case] known: &[u64],
    ) {
        let mut attempts = Attempts::default();
        let (mut seen, mut addresses) = (Vec::new(), Vec::new());
        let mut tell = |verdicts: Vec<Verdict>, at: u64| {
            seen.extend(verdicts.iter().map(|_| at));
            addresses.extend(verdicts.into_iter().map(|verdict| verdict.address));
        };
        for step in steps {
            while let Some(at) = attempts.next_settling().filter(|at| *at <= step.2 * 1_000_000) {
                tell(attempts.settle(at), at / 1_000_000);
            }
            let mut record = record(*step, PEER);
            if step.0 != USER_LOGIN {
                (record.host, record.addr) = (Some("evil.example".to_owned()), None);
            }
            tell(attempts.record(&record).into_iter().collect(), step.2);
        }
        while let Some(at) = attempts.next_settling() {
            tell(attempts.settle(at), at / 1_000_000);
        }
        assert_eq!(seen, known);
        // What no verdict of its own followed stays without an address.
        let first = if known[0] == 10_000 { None } else { Some(PEER.parse().unwrap()) };
        assert_eq!(addresses[0], first);
    }

    #[test]
    fn only_root_is_believed() {
        let mut forged = record((USER_AUTH, false, 0, 1), PEER);
        forged.uid = 1000;
        let mut attempts = Attempts::default();
        assert_eq!(attempts.record(&forged), None);
        assert_eq!(attempts.forged(), 1);
        // Not even of a set-user-id program is an address believed.
        forged.set_user_id = true;
        assert_eq!(attempts.record(&forged), None);
        assert_eq!(attempts.forged(), 2);
    }

    #[test]
    fn a_flood_of_sessions_is_bounded() {
        let mut attempts = Attempts::default();
        for tgid in 0..(MOST as u32 + 100) {
            attempts.record(&record((USER_LOGIN, false, u64::from(tgid), tgid), PEER));
        }
        assert!(attempts.sessions.len() <= MOST);
        assert_eq!(attempts.forgotten(), 100);
    }

    proptest! {
        #[test]
        fn n_passwords_with_any_noise_around_them_are_at_most_n_failures_or_one(
            passwords in 0u64..5,
            noise in prop::collection::vec((0u64..30_000, prop_oneof![Just(USER_LOGIN), Just(USER_ERR)]), 0..8),
        ) {
            let mut steps: Vec<Step> = (0..passwords).map(|n| (USER_AUTH, false, n * 3000 + 100, 1)).collect();
            steps.extend(noise.into_iter().filter(|(_, kind)| *kind == USER_LOGIN).map(|(at, kind)| (kind, false, at, 1)));
            steps.sort_by_key(|step| step.2);
            let count = failures(&steps).len() as u64;
            prop_assert!(count <= passwords.max(u64::from(!steps.is_empty())), "{count} of {passwords}: {steps:?}");
            prop_assert!(count >= passwords.min(1));
        }
    }

    #[test]
    fn settling_is_ten_seconds() {
        assert_eq!(SETTLING, 10 * SECOND);
    }
}
