//! What a router's worker shows of itself, for people and for metrics.

use std::net::IpAddr;

use atalaya_wire::Name;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::audit::MissingBans;
use super::enforcement::Enforcement;
use super::networks::RouterNetworks;
use super::pipeline::{Counts, Table};
use super::reading::ListReading;
use super::rival::Rivals;
use crate::prefixes::Family;

/// A router and its worker at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouterStatus {
    /// The router's name in the configuration.
    pub name: Name,
    /// The address as it is configured, a name perhaps.
    pub address: String,
    /// What the address resolved to last; empty until it has.
    pub addresses: Vec<IpAddr>,
    /// Its own addresses and the private networks that it is connected to, which are never banned; none until it has told.
    #[serde(default)]
    pub networks: RouterNetworks,
    /// What the worker is at.
    pub state: State,
    /// Since when it is at it.
    pub since: Timestamp,
    /// The last thing that went wrong, also where it went well since.
    pub last_error: Option<RouterError>,
    /// The router's own name, where it has told.
    pub identity: Option<String>,
    /// The version of RouterOS, where the router has told.
    pub version: Option<String>,
    /// How long the router is up, in RouterOS's form, where it has told; some seconds old.
    pub uptime: Option<String>,
    /// The load of the router's processor in per cent, where it has told; some seconds old.
    pub cpu_load: Option<u8>,
    /// How far the IPv4 list is known.
    pub ipv4: Table,
    /// How far the IPv6 list is known.
    pub ipv6: Table,
    /// What becomes of packets from the IPv4 list.
    pub ipv4_rule: Enforcement,
    /// What becomes of packets from the IPv6 list.
    pub ipv6_rule: Enforcement,
    /// Bans that it should hold and does not, for over a minute; `None` where there are none.
    #[serde(default)]
    pub missing: Option<MissingBans>,
    /// Other enforcers that keep their bans on its lists under our mark, as these were read last.
    #[serde(default)]
    pub rivals: Option<Rivals>,
    /// The list that is being read, where one is.
    #[serde(default)]
    pub reading: Option<ListReading>,
    /// Entries of the list that are ours. Lapsed ones are counted for up to a minute.
    pub ours: usize,
    /// Entries of the list that are someone else's, or may be.
    pub foreign: usize,
    /// Bans that are for the router, those that are left out included.
    pub desired: usize,
    /// Prefixes that wait for their turn or for a retry.
    pub queued: usize,
    /// Commands sent and not yet answered.
    pub in_flight: usize,
    /// What was done since the service started.
    #[serde(flatten)]
    pub counts: Counts,
    /// From sending the last add, set or remove to its answer, in microseconds.
    pub latency_us: Option<u64>,
    /// The last such times, smoothed, but for those that a print held up; in microseconds.
    pub round_trip_us: Option<u64>,
    /// The most commands in flight at the moment.
    pub window: usize,
    /// The most commands a second at the moment, by configuration or because the router is busy; `None` without
    /// limit.
    pub most_a_second: Option<f64>,
    /// The most entries of ours that the router may hold; `None` where nothing limits it.
    pub limit: Option<usize>,
    /// Bans that are left out because of that limit.
    pub left_out: usize,
    /// Whether nothing is sent, by configuration or `run --read-only`.
    pub read_only: bool,
    /// Prefixes for which something would have been sent, were the router not read-only.
    pub withheld: usize,
    /// Reboots noticed since the service started.
    pub reboots: u64,
    /// Logins since the service started.
    pub sessions: u64,
}

/// What a worker is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is")]
pub enum State {
    /// Connecting and logging in.
    Connecting,
    /// Logged in; what the list holds is not known yet. New bans are sent already.
    Reading,
    /// Logged in, and knows what the list holds.
    Connected,
    /// Waiting before it tries again.
    Waiting {
        /// The whole pause, in milliseconds.
        retry_ms: u64,
    },
    /// Stopped, with the service.
    Stopped,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterError {
    /// When it happened, by the enforcer's clock.
    pub at: Timestamp,
    /// What, and what to do about it.
    pub text: String,
}

// === impl RouterStatus ===

impl RouterStatus {
    /// Of a worker that has just been started.
    pub fn new(name: Name, address: String, now: Timestamp) -> Self {
        Self {
            name,
            address,
            addresses: Vec::new(),
            networks: RouterNetworks::default(),
            state: State::Connecting,
            since: now,
            last_error: None,
            identity: None,
            version: None,
            uptime: None,
            cpu_load: None,
            ipv4: Table::Unknown,
            ipv6: Table::Unknown,
            ipv4_rule: Enforcement::Unread,
            ipv6_rule: Enforcement::Unread,
            missing: None,
            rivals: None,
            reading: None,
            ours: 0,
            foreign: 0,
            desired: 0,
            queued: 0,
            in_flight: 0,
            counts: Counts::default(),
            latency_us: None,
            round_trip_us: None,
            window: 0,
            most_a_second: None,
            limit: None,
            left_out: 0,
            read_only: false,
            withheld: 0,
            reboots: 0,
            sessions: 0,
        }
    }

    /// Takes in that what was seen of the rules is over.
    pub fn forget_rules(&mut self, ipv6: bool) {
        self.ipv4_rule = Enforcement::Unread;
        self.ipv6_rule = if ipv6 { Enforcement::Unread } else { Enforcement::Off };
    }

    /// What becomes of packets from a family's list, to be set.
    pub fn rule_mut(&mut self, family: Family) -> &mut Enforcement {
        match family {
            Family::V4 => &mut self.ipv4_rule,
            Family::V6 => &mut self.ipv6_rule,
        }
    }

    /// What becomes of packets from each family's list.
    pub fn rules(&self) -> [(Family, &Enforcement); 2] {
        [(Family::V4, &self.ipv4_rule), (Family::V6, &self.ipv6_rule)]
    }

    /// Whether nothing is dropped of a family that the router holds.
    pub fn lets_pass(&self) -> bool {
        self.rules().iter().any(|(_, rule)| matches!(rule, Enforcement::Passed { .. }))
    }

    /// Whether rules are still to be read.
    pub fn is_unread(&self) -> bool {
        self.rules().iter().any(|(_, rule)| **rule == Enforcement::Unread)
    }

    /// Whether the router is logged in to.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Reading | State::Connected)
    }
}
