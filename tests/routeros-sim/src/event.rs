//! What happens on the router, one event at a time, for whoever watches.

use jiff::Timestamp;
use serde::Serialize;

use crate::address::Family;

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// When: for a command, the moment at which it was received from the wire, on the system's clock.
    pub at: Timestamp,
    /// The same, in nanoseconds since 1970.
    pub at_ns: i128,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// A session logged in.
    Login {
        /// As whom.
        user: String,
    },
    /// A login was refused.
    LoginFailure {
        /// As whom.
        user: String,
    },
    /// An entry was added.
    Add {
        /// Which table.
        family: Family,
        /// The list.
        list: String,
        /// The address.
        address: String,
        /// The timeout as RouterOS prints it; empty where there is none.
        timeout: String,
        /// The comment.
        comment: String,
    },
    /// An entry was there already.
    Duplicate {
        /// The list.
        list: String,
        /// The address.
        address: String,
    },
    /// An entry was changed.
    Set {
        /// The list.
        list: String,
        /// The address.
        address: String,
        /// The timeout as RouterOS prints it; empty where there is none.
        timeout: String,
    },
    /// An entry was removed.
    Remove {
        /// The list.
        list: String,
        /// The address.
        address: String,
    },
    /// An entry's time was over.
    Expire {
        /// The list.
        list: String,
        /// The address.
        address: String,
    },
    /// The router rebooted.
    Reboot,
}

// === impl Event ===

impl Event {
    pub(crate) fn new(at: Timestamp, what: What) -> Self {
        Self { at, at_ns: at.as_nanosecond(), what }
    }
}
