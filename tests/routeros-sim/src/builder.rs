//! How a router is put together before it starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::board::{Board, Model};
use crate::clock::Clock;
use crate::cost::Costs;
use crate::event::Event;
use crate::page::Zone;
use crate::router::{Router, StartError};
use crate::site::Site;
use crate::state::{Settings, State};
use crate::user::{Group, Policies, User};

/// Settings of a router to be; see [`Router::builder`].
#[must_use]
pub struct Builder {
    listen: SocketAddr,
    users: Vec<NewUser>,
    identity: String,
    addresses: Vec<(String, String)>,
    leases: Vec<(String, String)>,
    version: String,
    costs: Costs,
    clock: Clock,
    max_sessions: usize,
    tls: bool,
    api_ssl: ApiSsl,
    journal: usize,
    table_capacity: usize,
    events: Option<mpsc::Sender<Event>>,
    board: Board,
    zone: Zone,
    ipv6: bool,
    refused: Vec<String>,
    commands: Vec<String>,
}

/// How api-ssl stands on a router that speaks the plain API; it has a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiSsl {
    /// Disabled and without a certificate, as a new router has it.
    Disabled,
    /// Enabled without a certificate: no handshake succeeds.
    WithoutCertificate,
    /// Enabled with a certificate.
    WithCertificate,
}

/// A user whose policies are not read yet.
struct NewUser {
    name: String,
    password: String,
    policies: String,
}

impl NewUser {
    fn new(name: &str, password: &str, policies: &[&str]) -> Self {
        Self { name: name.to_owned(), password: password.to_owned(), policies: policies.join(",") }
    }
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            users: vec![NewUser::new("atalaya", "secret", &["read", "write", "api"])],
            identity: "MikroTik".to_owned(),
            addresses: Vec::new(),
            leases: Vec::new(),
            version: "7.24".to_owned(),
            costs: Costs::default(),
            clock: Clock::new(),
            max_sessions: 20,
            tls: false,
            api_ssl: ApiSsl::Disabled,
            journal: 100_000,
            table_capacity: 2_000_000,
            events: None,
            board: Board::named("RB5009UG+S+".to_owned(), 1024 * 1024 * 1024),
            zone: Zone { name: "UTC".to_owned(), minutes: 0 },
            ipv6: true,
            refused: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Where to listen; port 0 takes a free one. Default `127.0.0.1:0`.
    pub fn listen(self, listen: SocketAddr) -> Self {
        Self { listen, ..self }
    }

    /// The user's name. Default `atalaya`.
    pub fn user(mut self, name: impl Into<String>) -> Self {
        self.users[0].name = name.into();
        self
    }

    /// The user's password. Default `secret`.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.users[0].password = password.into();
        self
    }

    /// The user's policies, of RouterOS's (`read`, `write`, `api`, …), which its group of the same name has.
    /// Default `read`, `write` and `api`.
    pub fn policies(mut self, policies: &[&str]) -> Self {
        self.users[0].policies = policies.join(",");
        self
    }

    /// Another user beside the first.
    pub fn another_user(mut self, name: &str, password: &str, policies: &[&str]) -> Self {
        self.users.push(NewUser::new(name, password, policies));
        self
    }

    /// The name in `/system/identity`. Default `MikroTik`.
    pub fn identity(self, identity: impl Into<String>) -> Self {
        Self { identity: identity.into(), ..self }
    }

    /// An address of one of its interfaces, with the length of its network: `192.168.88.1/24`. Nothing listens there.
    pub fn connected(mut self, address: impl Into<String>) -> Self {
        self.addresses.push((address.into(), "bridge".to_owned()));
        self
    }

    /// An address that it has by DHCP, with the length of its network, and the gateway there: its uplink.
    pub fn leased(mut self, address: impl Into<String>, gateway: impl Into<String>) -> Self {
        self.leases.push((address.into(), gateway.into()));
        self
    }

    /// The RouterOS version, such as `7.24` or `6.49.10`; it decides about challenge logins (before
    /// 6.43), how dates are written (7.10), `!empty` (7.18), and the name of a service's `available-from` (7.24).
    /// Default 7.24.
    pub fn version(self, version: impl Into<String>) -> Self {
        Self { version: version.into(), ..self }
    }

    /// How much later than its command's end each reply arrives. Default zero.
    pub fn round_trip(mut self, round_trip: Duration) -> Self {
        self.costs.round_trip = round_trip;
        self
    }

    /// How long each `add`, `set` and `remove` occupies the router. Default zero.
    pub fn insert_cost(mut self, insert: Duration) -> Self {
        (self.costs.insert, self.costs.remove) = (insert, None);
        self
    }

    /// How long `print` occupies the router for each entry of the table. Default zero.
    pub fn scan_cost_per_entry(mut self, scan: Duration) -> Self {
        self.costs.scan_per_entry = scan;
        self
    }

    /// The clock; routers given clones of one share it.
    pub fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The most connections at a time; further ones are closed at once. Default 20, as on RouterOS.
    pub fn max_sessions(self, max_sessions: usize) -> Self {
        Self { max_sessions, ..self }
    }

    /// How api-ssl stands beside the plain API, on a free port of the same address. Default disabled.
    pub fn api_ssl(self, api_ssl: ApiSsl) -> Self {
        Self { api_ssl, ..self }
    }

    /// The board's name and its memory in bytes. Default an RB5009 with 1 GiB.
    pub fn board(self, name: impl Into<String>, memory: u64) -> Self {
        Self { board: Board::named(name.into(), memory), ..self }
    }

    /// A board that someone measured: its name, memory and processor, and what commands cost on it. The round trip stays.
    pub fn model(mut self, model: Model) -> Self {
        self.board = model.board();
        self.costs = Costs { round_trip: self.costs.round_trip, ..model.costs() };
        self
    }

    /// The time zone that the clock shows: its name, and how many minutes it is ahead of UTC. Default UTC.
    pub fn time_zone(self, name: impl Into<String>, minutes: i32) -> Self {
        Self { zone: Zone { name: name.into(), minutes }, ..self }
    }

    /// Whether there is `/ipv6`; RouterOS 6 has it only with its package. Default yes.
    pub fn ipv6(self, ipv6: bool) -> Self {
        Self { ipv6, ..self }
    }

    /// Refuses everyone the commands whose path begins so, with `not enough permissions (9)`.
    pub fn refuse(mut self, path: impl Into<String>) -> Self {
        self.refused.push(path.into());
        self
    }

    /// A command that was typed at the router's terminal before the start; see [`Router::terminal`].
    pub fn terminal(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }

    /// Whether to speak TLS 1.2 (api-ssl) instead of plain TCP. Default no.
    pub fn tls(self, tls: bool) -> Self {
        Self { tls, ..self }
    }

    /// How many commands the journal keeps (64 MiB of them at most). Default 100,000.
    pub fn journal(self, commands: usize) -> Self {
        Self { journal: commands, ..self }
    }

    /// How many entries each table takes before it answers `failure: table is full`. Default 2,000,000.
    pub fn table_capacity(self, entries: usize) -> Self {
        Self { table_capacity: entries, ..self }
    }

    /// Where to send what happens. None is lost: a full channel makes sessions wait.
    pub fn events(self, events: mpsc::Sender<Event>) -> Self {
        Self { events: Some(events), ..self }
    }

    /// Opens the port and starts.
    pub async fn start(self) -> Result<Router, StartError> {
        let mut users = Vec::new();
        let mut groups = Vec::new();
        for user in self.users {
            let policies: Policies = user.policies.parse()?;
            groups.push(Group { name: user.name.clone(), policies });
            let NewUser { name, password, .. } = user;
            let group = name.clone();
            users.push(User { name, password, group, address: String::new(), disabled: false });
        }
        let version = self.version.parse()?;
        let site = Site {
            addresses: self.addresses,
            leases: self.leases,
            ..Site::new(version, users, groups, Vec::new())
        };
        let state = State::new(
            self.clock.now(),
            site,
            self.costs,
            self.table_capacity,
            self.journal,
            self.events.is_some(),
        );
        let settings = Settings {
            identity: self.identity,
            version,
            max_sessions: self.max_sessions,
            board: self.board,
            zone: self.zone,
            ipv6: self.ipv6,
            refused: self.refused,
        };
        let api_ssl = (!self.tls).then_some(self.api_ssl);
        let router = Router::start(self.listen, settings, self.clock, state, api_ssl, self.events).await?;
        for command in self.commands {
            router.terminal(&command)?;
        }
        Ok(router)
    }
}
