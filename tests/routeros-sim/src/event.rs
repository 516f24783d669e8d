//! What happens at the router, as a stream for whoever watches: one event for each change.

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::address::Family;

/// Something that happened at the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened; it says which of the other fields are there.
    pub kind: EventKind,
    /// On the router's clock: when the command came in from the wire, when the entry lapsed, or when
    /// the thing happened.
    pub at: Timestamp,
    /// The session that caused it, if one did.
    pub session: Option<u64>,
    /// The user of a login.
    pub user: Option<String>,
    /// The entry that was added, changed, removed or refused; `None` for what is no entry's.
    pub entry: Option<EventEntry>,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A login with the right password.
    Login,
    /// A login with a wrong user or password, or from where the user may not log in.
    LoginFailure,
    /// An entry was added.
    Add,
    /// An add was refused because the entry was there.
    Duplicate,
    /// An entry was changed.
    Set,
    /// An entry was removed.
    Remove,
    /// An entry reached its timeout.
    Expire,
    /// The router started anew: static entries stay, those with a timeout are gone.
    Reboot,
    /// The port was closed.
    Down,
    /// The port was opened again.
    Up,
}

/// The entry that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventEntry {
    /// The table it is in, IPv4's or IPv6's.
    pub family: Family,
    /// Its id, such as `*1A`; of a duplicate, empty.
    pub id: String,
    /// The name of its list.
    pub list: String,
    /// Its address, normalised; of a duplicate, as it was sent.
    pub address: String,
    /// What is left of its timeout, as RouterOS prints it.
    pub timeout: Option<String>,
    /// As RouterOS keeps it; empty where it has none.
    pub comment: String,
    /// Whether it is disabled.
    pub disabled: bool,
}

impl EventKind {
    /// The word that stands for it in JSON and text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::LoginFailure => "login-failure",
            Self::Add => "add",
            Self::Duplicate => "duplicate",
            Self::Set => "set",
            Self::Remove => "remove",
            Self::Expire => "expire",
            Self::Reboot => "reboot",
            Self::Down => "down",
            Self::Up => "up",
        }
    }
}

impl Serialize for Event {
    /// One flat object. `at` is RFC 3339 with microseconds, `at_ns` the same in Unix nanoseconds.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Event", 12)?;
        object.serialize_field("event", self.kind.as_str())?;
        object.serialize_field("at", &format!("{:.6}", self.at))?;
        object.serialize_field("at_ns", &(self.at.as_nanosecond() as i64))?;
        if let Some(session) = self.session {
            object.serialize_field("session", &session)?;
        }
        if let Some(user) = &self.user {
            object.serialize_field("user", user)?;
        }
        if let Some(entry) = &self.entry {
            object.serialize_field("family", &entry.family)?;
            object.serialize_field("id", &entry.id)?;
            object.serialize_field("list", &entry.list)?;
            object.serialize_field("address", &entry.address)?;
            object.serialize_field("timeout", &entry.timeout)?;
            object.serialize_field("comment", &entry.comment)?;
            object.serialize_field("disabled", &entry.disabled)?;
        }
        object.end()
    }
}
