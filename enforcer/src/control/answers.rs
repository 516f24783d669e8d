//! What `GET /status` answers: the enforcer, its routers and its sensors at one moment, and what is wrong.

use std::collections::{BTreeMap, BTreeSet};

use atalaya_wire::{Fingerprint, Name};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::open_files::OpenFiles;
use super::rates::RatesAnswer;
use super::untaken::UntakenBans;
use crate::bans::DecisionCounts;
use crate::intake::Seen;
use crate::intake::entrance::ConnectionsStatus;
use crate::intake::fleet::FleetStatus;
use crate::router::RouterStatus;

/// The answer to `GET /status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version of its package: `0.1.0`.
    pub release: String,
    /// When this was so, by the enforcer's clock.
    pub now: Timestamp,
    /// By the wall clock of its host.
    pub started: Timestamp,
    /// What is wrong, the worst first. All is well where this and [`Self::looking`] are empty.
    pub faults: Vec<Fault>,
    /// Routers of which it is not known yet whether they drop anything.
    #[serde(default)]
    pub looking: Vec<Name>,
    /// How many bans stand, on whatever list, by whatever origin.
    pub bans: usize,
    /// Bans that no router takes.
    #[serde(default)]
    pub untaken: UntakenBans,
    /// Networks that routers hold in the place of their addresses, because many of these are banned.
    pub widened: usize,
    /// Entries of the allow list that were made at run time.
    pub allowances: usize,
    /// Addresses that a successful login protects.
    pub protected: usize,
    /// What each jail that counts over all sensors has done, in the order of the settings.
    pub fleet: Vec<FleetStatus>,
    /// What was decided since the start.
    pub decisions: DecisionCounts,
    /// How many offences, bans and commands there were of late.
    pub rates: RatesAnswer,
    /// The enforcer's open descriptors and how many it may have; `None` where the system does not say.
    #[serde(default)]
    pub open_files: Option<OpenFiles>,
    /// Who is connected.
    #[serde(default)]
    pub connections: ConnectionsStatus,
    /// Why the ledger cannot be written; `None` when all is well.
    pub ledger_trouble: Option<String>,
    /// The address list's name.
    pub list: String,
    /// The certificate that sensors pin.
    pub fingerprint: Fingerprint,
    /// The routers, as they are configured.
    pub routers: Vec<RouterAnswer>,
    /// The sensors that are enrolled, and those that sent something since the start.
    pub sensors: BTreeMap<Name, SensorAnswer>,
}

/// A router: where it stands, and how it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouterAnswer {
    /// Where it and its worker stand.
    #[serde(flatten)]
    pub status: RouterStatus,
    /// Since when it is not logged in to; `None` for one that is.
    pub down_since: Option<Timestamp>,
    /// The latest latencies of commands, the oldest first, in microseconds: at most 60, of the last
    /// command of each second that had one.
    pub latencies_us: Vec<u64>,
}

/// A sensor: whether it may send, and what it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SensorAnswer {
    /// When it was enrolled; `None` for one that is no more.
    pub enrolled: Option<Timestamp>,
    /// The jails that it may name; any where there is no list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jails: Option<BTreeSet<Name>>,
    /// What is known of it since the start.
    #[serde(flatten)]
    pub seen: Seen,
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// Which router or sensor; `None` where it is the enforcer itself.
    pub name: Option<Name>,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
    /// What is wrong and what to do.
    pub text: String,
    /// The commands for the router's terminal that mend it, in order; none for faults of other kinds.
    #[serde(default)]
    pub commands: Vec<String>,
}

/// What kind of fault, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The ledger cannot be written.
    Ledger,
    /// No router is configured.
    NoRouter,
    /// A router drops nothing by the list: nobody is kept out.
    NotDropped,
    /// No router takes some bans.
    NotTaken,
    /// A router does not hold bans that it should.
    NotHeld,
    /// Another enforcer keeps its bans on a router's lists under the same mark.
    Rivals,
    /// A router is not logged in to.
    RouterDown,
    /// A router refuses commands.
    RouterRefuses,
    /// A router is at its limit of entries, so that bans are left out.
    RouterFull,
    /// Whether a router drops anything cannot be told.
    RulesUnclear,
    /// Nearly all descriptors that the enforcer may have are open.
    OpenFiles,
    /// Sensors find no place for their connections.
    Connections,
    /// Strangers hold all places that strangers may have.
    Strangers,
    /// A sensor sends too much, or what it may not.
    SensorOdd,
    /// A sensor is silent, or several were never heard.
    SensorSilent,
    /// A sensor's clock is wrong.
    SensorClock,
    /// Fleet jails forgot offenders, because there were too many.
    FleetFull,
}
