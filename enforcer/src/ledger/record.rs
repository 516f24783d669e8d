//! What the ledger keeps, in memory: its records, the changes to them, and the terms on which they are kept.

use std::collections::HashMap;

use atalaya_wire::{Evidence, Name, Seconds};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::desired::{Moment, Origin, Wanted};
use crate::prefixes::Family;

/// A ban as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The address or network.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// From when: the time of the offence, not of its arrival.
    pub since: Timestamp,
    /// Until when; `None` for a permanent one.
    pub until: Option<Timestamp>,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
    /// What was seen, the oldest first; at most five pieces.
    pub evidence: Vec<Evidence>,
    /// How often this prefix was banned, this time included; set by the ledger.
    pub strikes: u32,
    /// When it was over; `None` for one that stands. Set by the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// `expired` (`lapsed` in rows of earlier releases), or who ended it and why. Set by the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
}

/// The source of the evidence that holds the reason of a ban by hand.
pub const BY_HAND: &str = "by hand";

/// An entry of the allow list that was made at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// An address, a network, or a DNS name; the key.
    pub what: String,
    /// When it was allowed.
    pub since: Timestamp,
    /// Until when; `None` for ever.
    pub until: Option<Timestamp>,
    /// Why, in the words of whoever did it; may be empty.
    pub reason: String,
    /// Who allowed it: the user on the enforcer's host who gave the command.
    pub by: String,
}

/// The last successful login from an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoodLogin {
    /// The address, as the host's network.
    pub address: std::net::IpAddr,
    /// When, by the enforcer's clock.
    pub last: Timestamp,
    /// The sensor that saw it.
    pub sensor: Name,
    /// What let it in, such as `sshd`.
    pub service: String,
    /// The account that was logged in to.
    pub account: String,
}

/// An offence that was not turned into a ban, because the address is protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectedOffence {
    /// The offender's address, not the unit around it.
    pub address: std::net::IpAddr,
    /// The jail that decided.
    pub jail: Name,
    /// The sensor that reported.
    pub sensor: Name,
    /// When it was spared.
    pub at: Timestamp,
    /// Which login protects the address, in words.
    pub why: String,
    /// What was seen, the oldest first; at most five pieces.
    pub evidence: Vec<Evidence>,
}

/// An address list, and the mark of our entries there, that a router was once run with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ListUse {
    /// The router's name in the configuration of then.
    pub router: Name,
    /// Which of its tables.
    pub family: Family,
    /// The name of the list on the router.
    pub list: String,
    /// What opens the comments of our entries.
    pub mark: String,
}

/// That somebody asked for a ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The prefix whose ban it is.
    pub prefix: IpNet,
    /// Who asked.
    pub origin: Origin,
    /// Until when.
    pub until: Moment,
}

/// A change to the ledger. Making the same change again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A ban, or a later end of the one that stands.
    Ban(Box<Ban>),
    /// Somebody asks for a ban that others asked for too.
    Claim(Box<Claim>),
    /// A sensor takes back what it asked for; the ban stands on for others.
    TakeBack {
        /// Who asked for what is left of it, and until when.
        left: Box<Claim>,
        /// Who takes it back.
        sensor: Name,
        /// What it asked for by this jail; by all where there is none.
        jail: Option<Name>,
    },
    /// The ban that stands has ended.
    End {
        /// The prefix whose ban it is.
        prefix: IpNet,
        /// When it ended, which may be before this is written.
        at: Timestamp,
        /// `expired`, or who unbanned and why.
        by: String,
    },
    /// Everything up to this sequence of a sensor's outbox is in the ledger.
    Through {
        /// The sensor that posted the batch.
        sensor: Name,
        /// The outbox that numbered it.
        outbox: Name,
        /// The last sequence of the batch, refused offences included.
        sequence: u64,
    },
    /// An entry of the allow list; replaces the one of the same key.
    Allow(Box<Allowance>),
    /// An entry of the allow list is gone.
    Disallow {
        /// The address, network or name, as it was allowed.
        what: String,
    },
    /// A successful login; an earlier one than what is known of the address changes nothing.
    Login(Box<GoodLogin>),
    /// An offence that was not turned into a ban.
    Protected(Box<ProtectedOffence>),
    /// A router is run with this list and mark.
    List(Box<ListUse>),
    /// A router has no entry of ours left on this list with this mark.
    ForgetList(Box<ListUse>),
    /// What could be gathered again after the loss of a ledger is gathered.
    Recovered,
}

/// For how long an earlier ban makes the next one longer. Bans that are over for less stay in the ledger, unless it is
/// too large.
pub const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A ban that was, as far as the next one of the same prefix grows by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierBan {
    /// From when: the time of the offence, not of its arrival.
    pub since: Timestamp,
    /// When it ended or is to end; `None` for a permanent one.
    pub end: Option<Timestamp>,
}

/// What the ledger holds when the enforcer starts.
#[derive(Debug)]
pub struct Saved {
    /// The ledger's name, which it has for life: a new one where the ledger was lost or restored.
    pub id: Name,
    /// The bans that stand, also those whose time is over and whose end is not written yet.
    pub bans: Vec<(IpNet, Wanted)>,
    /// Who asked for bans that several asked for.
    pub claims: Vec<Claim>,
    /// The largest sequence by sensor and outbox.
    pub through: HashMap<(Name, Name), u64>,
    /// The entries of the allow list that were made at run time, also those whose time is over.
    pub allowances: Vec<Allowance>,
    /// The successful logins that are young enough, the latest first.
    pub logins: Vec<GoodLogin>,
    /// Whether a ledger before this one was lost: bans that routers hold and the ledger does not are to be
    /// taken over, until [`Change::Recovered`].
    pub recovering: bool,
}

/// On what terms a ledger is kept.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// How much of what is over is kept.
    pub history: HistoryConfig,
    /// How young a successful login must be to be read at the start; none are read where there is no such time.
    pub logins: Option<Seconds>,
    /// The clock by which old rows are too old.
    pub clock: Clock,
}

/// The `[history]` table: how much of what is over the ledger keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    /// For how long after its end a ban is kept.
    pub keep: Seconds,
    /// How large the ledger may grow before the oldest of them go sooner, in bytes.
    pub max_size: u64,
}

// === impl HistoryConfig ===

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { keep: Seconds(365 * 86_400), max_size: 4_000_000_000 }
    }
}
