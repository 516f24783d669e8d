//! The commands that go to a router's address lists, and the entries that come back.

use ipnet::IpNet;
use mikrotik_rs::CommandBuilder;
use mikrotik_rs::proto::command::Cmd;

use super::address_list::{Belonging, EntryId, Marks, parse_address, parse_timeout};
use super::sentence::Row;
use crate::desired::Moment;
use crate::ledger::Lineage;
use crate::prefixes::Family;

/// A command to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The prefix of the entry that it adds, changes or removes.
    pub prefix: IpNet,
    /// What to do with it.
    pub action: Action,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Add an entry with this timeout in seconds.
    Add {
        /// The timeout, in seconds; at most 21,474,836.
        timeout: u64,
    },
    /// Give the entry this timeout in seconds, and its comment.
    Set {
        /// The id that the router gave the entry.
        id: EntryId,
        /// The timeout, in seconds; at most 21,474,836.
        timeout: u64,
    },
    /// Remove an entry of ours that is wanted no more.
    Remove {
        /// The id that the router gave the entry.
        id: EntryId,
    },
}

/// An entry as a print shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The prefix that it stands for, in its canonical form.
    pub prefix: IpNet,
    /// Its id; `None` where the router did not tell it.
    pub id: Option<EntryId>,
    /// Seconds until the router drops it; `None` for a static entry.
    pub timeout: Option<u64>,
    /// Whether it is disabled.
    pub disabled: bool,
    /// Its comment, where that says that the entry is ours.
    pub comment: Option<String>,
    /// The word of another ledger that its comment carries beside our mark.
    pub rival: Option<Lineage>,
}

/// An entry that carries our mark and that no ban explains, found while the ledger is being recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unexplained {
    /// The prefix that it stands for, in its canonical form.
    pub prefix: IpNet,
    /// When the router drops it.
    pub expires: Moment,
    /// Its comment, without the mark.
    pub text: String,
}

// === impl Order ===

impl Order {
    /// The table that it is for.
    pub fn family(self) -> Family {
        Family::of(self.prefix)
    }
}

// === impl Action ===

impl Action {
    /// What it is called in a sentence.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Add { .. } => "the add",
            Self::Set { .. } => "the new timeout",
            Self::Remove { .. } => "the removal",
        }
    }
}

// === impl Shown ===

impl Shown {
    /// Completes a `print` of one list: with the properties that are needed and no others, for the router's
    /// time goes by them.
    pub fn ask(print: CommandBuilder<Cmd>, list: &str) -> CommandBuilder<Cmd> {
        print.attribute(".proplist", Some(".id,address,timeout,disabled,comment")).query_equal("list", list)
    }

    /// Reads a row; `None` for what is no prefix, such as a range or a DNS name.
    pub fn read(family: Family, row: &Row, marks: &Marks) -> Option<Self> {
        let comment = row.raw("comment").unwrap_or_default();
        let whose = marks.whose(comment);
        Some(Self {
            prefix: parse_address(family, row.text("address")?)?,
            id: row.text(".id").and_then(EntryId::parse),
            timeout: row.text("timeout").and_then(parse_timeout),
            disabled: matches!(row.raw("disabled"), Some(b"true" | b"yes")),
            comment: (whose == Belonging::Ours).then(|| String::from_utf8_lossy(comment).into_owned()),
            rival: match whose {
                Belonging::Rival(rival) => Some(rival),
                Belonging::Ours | Belonging::Other => None,
            },
        })
    }
}
