//! Where what the jails find goes: to the log, to the next report, and offences at once.

use std::sync::{Arc, Mutex};

use atalaya_wire::Offence;
use jiff::Timestamp;

use super::pending::Pending;
use crate::jail::ignore::IgnoreCommand;
use crate::local_drop::trusted::Trusted;

/// How many failures are logged one by one in a second.
const MOST_SAID: u32 = 200;

/// Where what the jails find goes: to the log, to the next report, and offences at once.
pub(super) struct Outlet {
    pub(super) chatter: Chatter,
    /// What the enforcer is told of beside offences; `None` where it is told of nothing else.
    pub(super) pending: Option<Pending>,
    /// Where successful logins are noted, whether or not they are reported.
    pub(super) trusted: Arc<Mutex<Trusted>>,
    pub(super) offended: Box<Offended>,
}

/// Keeps a flood of failures from becoming a flood of log lines.
#[derive(Default)]
pub(super) struct Chatter {
    second: i64,
    said: u32,
    kept_back: u64,
}

/// Takes an offence, with the command that is to be asked about its address first, where there is one.
pub(super) type Offended = dyn FnMut(Offence, Option<Arc<IgnoreCommand>>) -> Handed + Send;

/// Where an offence went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// To the outbox, from which the enforcer is told.
    Sent(Sent),
    /// To its jail's ignorecommand, which is asked first.
    Asked,
    /// Nowhere, for want of room.
    Lost,
}

/// An offence on its way to the enforcer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its number in the outbox.
    pub sequence: u64,
    /// Whether this host lets the offender pass until the enforcer says that it is banned.
    pub held: bool,
}

// === impl Chatter ===

impl Chatter {
    /// Whether one more failure may be logged by itself this second. What is kept back is summed up.
    pub(super) fn may_say(&mut self, now: Timestamp) -> bool {
        if now.as_second() != self.second {
            if self.kept_back > 0 {
                tracing::info!(
                    failures = self.kept_back,
                    "more failures came than are logged one by one; all are counted"
                );
            }
            *self = Self { second: now.as_second(), said: 0, kept_back: 0 };
        }
        if self.said < MOST_SAID {
            self.said += 1;
            return true;
        }
        self.kept_back += 1;
        false
    }
}
