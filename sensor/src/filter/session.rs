//! Sessions: lines of a log that a common id (`<F-MLFID>`) ties together. One line may name the
//! address, another say that the login failed; a login that succeeds takes back what was pending.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::Host;

/// How many sessions are open at once; beyond, the one that was silent longest is forgotten.
const MOST: usize = 100;
/// How long a silent session is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How many different users of one session are told apart.
const USERS: usize = 16;

/// What a line says besides the host.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    /// What `<F-MLFID>` took: it ties the lines of one session together.
    pub(super) session: Option<Vec<u8>>,
    /// What `<F-USER>` or `<F-ALT_USER>` took.
    pub(super) user: Option<Vec<u8>>,
    /// An id to ban by, instead of the host.
    pub(super) id: Option<Vec<u8>>,
    /// It is no failure by itself.
    pub(super) no_failure: bool,
    /// `<F-MLFGAINED>` took part: the login succeeded, and what failed before it no longer counts.
    pub(super) gained: bool,
    /// `<F-MLFFORGET>` took part: the session ends.
    pub(super) forget: bool,
    /// The port that was tried.
    pub(super) port: Option<u16>,
    /// Which attempt, or connection with attempts, the line is of.
    pub(super) attempt: Option<Vec<u8>>,
    /// It is the first line of its attempt, before others of the same failure.
    pub(super) first: bool,
    /// It may be of a failure that an earlier line of its attempt told.
    pub(super) again: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    open: HashMap<Vec<u8>, Session>,
    /// The ids by their last activity, so that the one that was silent longest is found at once.
    activity: BTreeMap<u64, Vec<u8>>,
    clock: u64,
}

#[derive(Clone, Debug)]
struct Session {
    seen: Instant,
    touched: u64,
    host: Option<Host>,
    /// The last that was named.
    user: Option<Vec<u8>>,
    users: HashSet<Vec<u8>>,
    no_failure: bool,
    /// A failure was seen, and its host was not known yet.
    pending: bool,
}

// === impl Marks ===

impl Marks {
    /// These, where they are set, else those before.
    pub(super) fn or(self, before: Self) -> Self {
        Self {
            session: self.session.or(before.session),
            user: self.user.or(before.user),
            id: self.id.or(before.id),
            no_failure: self.no_failure || before.no_failure,
            gained: self.gained || before.gained,
            forget: self.forget || before.forget,
            port: self.port.or(before.port),
            attempt: self.attempt.or(before.attempt),
            first: self.first || before.first,
            again: self.again || before.again,
        }
    }
}

// === impl Sessions ===

impl Sessions {
    /// Takes a line of a session; the host and the user, where this line completes a failure.
    pub(super) fn judge(
        &mut self,
        id: Vec<u8>,
        host: Option<Host>,
        marks: &Marks,
        now: Instant,
    ) -> (Option<Host>, Option<Vec<u8>>) {
        let known = self.remove(&id).filter(|session| now.duration_since(session.seen) <= REMEMBERED);
        let mut session = known.unwrap_or_else(|| Session {
            seen: now,
            touched: 0,
            host: None,
            user: None,
            users: HashSet::new(),
            no_failure: false,
            pending: false,
        });
        session.seen = now;
        session.no_failure = marks.no_failure || marks.gained;
        session.pending &= !marks.gained;
        if host.is_some() {
            session.host = host;
        }
        if let Some(user) = &marks.user {
            if session.users.len() < USERS {
                session.users.insert(user.clone());
            }
            session.user = Some(user.clone());
        }
        // What is pending, or one more user, makes a failure even of a line that is none by itself.
        if std::mem::take(&mut session.pending) || session.users.len() > 1 {
            session.no_failure = false;
        }
        let failed = if session.no_failure { None } else { session.host.clone() };
        let user = session.user.clone();
        session.pending = !session.no_failure && session.host.is_none();
        if !marks.forget {
            self.keep(id, session);
        }
        (failed, user)
    }

    fn remove(&mut self, id: &[u8]) -> Option<Session> {
        let session = self.open.remove(id)?;
        self.activity.remove(&session.touched);
        Some(session)
    }

    fn keep(&mut self, id: Vec<u8>, mut session: Session) {
        if self.open.len() >= MOST
            && let Some((_, oldest)) = self.activity.pop_first()
        {
            self.open.remove(&oldest);
        }
        self.clock += 1;
        session.touched = self.clock;
        self.activity.insert(self.clock, id.clone());
        self.open.insert(id, session);
    }
}
