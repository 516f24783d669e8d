//! One router's settings: where it is, which bans are for it, and how long things may take.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atalaya_wire::{Fingerprint, Name};

use super::address_list::{Mark, Marks};
use super::endpoint::Endpoint;
use super::view::{self, View};
use crate::desired::{Desired, Severity};
use crate::ledger::Lineage;
use crate::prefixes::Family;

/// One router, and how to treat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// The name in logs and status.
    pub name: Name,
    /// The host of its API, with a port where that is not the usual one (8729 with TLS, 8728 without).
    pub address: Endpoint,
    /// The API user; needs the policies `read`, `write` and `api`.
    pub user: String,
    /// The API user's password.
    pub password: Password,
    /// The SHA-256 of the router's certificate, for API-SSL; `None` for the plain API.
    pub tls: Option<Fingerprint>,
    /// The address lists, IPv4's first.
    pub lists: [String; 2],
    /// What opens the comment of our entries. Two enforcers with one list need different marks.
    pub mark: String,
    /// What opened it before the configuration was changed: such entries are ours too, and get the mark.
    pub old_marks: Vec<String>,
    /// The word of the ledger that our entries are of; without one every entry with the mark is ours.
    pub lineage: Option<Lineage>,
    /// Words of other ledgers whose entries are taken for ours.
    pub adopted: Vec<Lineage>,
    /// Whether nothing is sent that would change the router.
    pub read_only: bool,
    /// Whether to keep the IPv6 list too.
    pub ipv6: bool,
    /// Only bans of these jails are for this router; of all where none is named.
    pub jails: Vec<Name>,
    /// Only bans of this severity and above are.
    pub severity: Severity,
    /// The most entries of ours, of both families together; `None` for what its memory allows.
    pub max_entries: Option<usize>,
    /// The most commands in flight; at least 1. How many there are follows the router's answers.
    pub window: usize,
    /// The most commands a second; without limit where there is none.
    pub rate: Option<u32>,
    /// The load of the router's processor, in per cent, above which less is sent.
    pub max_cpu: u8,
    /// How often the whole list is read and reconciled; each time up to a tenth sooner.
    pub reconcile_every: Duration,
    /// How long things may take.
    pub deadlines: Deadlines,
}

/// How long things may take before a session is given up, and how long to wait before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For resolving the host; again for connecting; and again for the TLS handshake.
    pub connect: Duration,
    /// For the answer to the login.
    pub login: Duration,
    /// For the answer to an add, set or remove once a command that was sent later is answered: it was swallowed, and
    /// is sent again. It doubles up to `idle` until such a command is answered.
    pub overtaken: Duration,
    /// The same while nothing that was sent later is answered. Of a print, for the next row; each time that it was too
    /// short for a router's scan it doubles.
    pub idle: Duration,
    /// For the next answer while no print is in flight.
    pub answer: Duration,
    /// For the next sentence while a print is in flight and nothing at all is heard: a router scans its whole table
    /// before the first row, and may do nothing else meanwhile. That its host lives, TCP's keepalive tells.
    /// Each time that it was too short it doubles.
    pub scan: Duration,
    /// For a whole print, however busily its rows come; each time that it was too short it doubles.
    pub print: Duration,
    /// Between two questions for the router's load and uptime, which also keep an idle session alive and
    /// find a dead one.
    pub keepalive: Duration,
    /// Between two looks at the firewall rules; longer where a look takes the router long.
    pub rules: Duration,
    /// After how long a ban that the router should hold and does not is a fault.
    pub late: Duration,
    /// The first pause after a failure.
    pub shortest_pause: Duration,
    /// The longest pause between two attempts.
    pub longest_pause: Duration,
    /// The longest pause while nothing answers at the router's address: it is to have its bans soon after it is back, and
    /// such an attempt is no line in its log.
    pub absence: Duration,
    /// The first pause before commands that were refused are sent again; it doubles up to five minutes.
    pub refused_pause: Duration,
}

/// A password, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

// === impl RouterConfig ===

impl RouterConfig {
    /// The list of a family.
    pub fn list(&self, family: Family) -> &str {
        &self.lists[family.index()]
    }

    /// Which bans are for this router.
    pub fn takes(&self) -> view::Takes {
        view::Takes { jails: self.jails.clone(), severity: self.severity }
    }

    /// What of the desired bans is for this router, before any limit.
    pub(super) fn view(&self, desired: &Arc<Desired>) -> View {
        View::new(Arc::clone(desired), self.takes(), self.ipv6)
    }

    /// Whether a session that was opened with these settings does for others: what was connected to, and as whom, is
    /// the same.
    pub fn shares_session(&self, other: &Self) -> bool {
        let way = |config: &Self| (config.address.clone(), config.user.clone(), config.tls);
        way(self) == way(other) && self.password == other.password
    }

    /// What tells our entries from everyone else's.
    pub fn marks(&self) -> Marks {
        let marks = Marks::new(Mark::new(&self.mark), self.old_marks.iter().map(|mark| Mark::new(mark)));
        marks.of_lineage(self.lineage, &self.adopted)
    }

    /// A router on the plain API with the defaults: list `spammer`, mark `atalaya`, both families, 128
    /// commands in flight, a reconciliation every 15 minutes.
    pub fn new(name: Name, address: Endpoint, user: impl Into<String>, password: Password) -> Self {
        Self {
            name,
            address,
            user: user.into(),
            password,
            tls: None,
            lists: ["spammer".to_owned(), "spammer".to_owned()],
            mark: "atalaya".to_owned(),
            old_marks: Vec::new(),
            lineage: None,
            adopted: Vec::new(),
            read_only: false,
            ipv6: true,
            jails: Vec::new(),
            severity: Severity::Low,
            max_entries: None,
            window: 128,
            rate: None,
            max_cpu: 85,
            reconcile_every: Duration::from_mins(15),
            deadlines: Deadlines::default(),
        }
    }
}

// === impl Deadlines ===

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            login: Duration::from_secs(5),
            overtaken: Duration::from_secs(2),
            idle: Duration::from_secs(30),
            answer: Duration::from_secs(10),
            scan: Duration::from_mins(5),
            print: Duration::from_hours(1),
            keepalive: Duration::from_secs(5),
            rules: Duration::from_secs(30),
            late: Duration::from_mins(1),
            shortest_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(10),
            absence: Duration::from_secs(3),
            refused_pause: Duration::from_secs(5),
        }
    }
}

// === impl Password ===

impl Password {
    /// A password of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. Show and log it nowhere.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}
