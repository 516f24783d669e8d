//! One visit to a router: a session that asks for every page that matters, reads the lists once, and tries
//! to change a scratch list. Every step has its deadline of the configuration; nothing else is changed.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use mikrotik_rs::CommandBuilder;
use mikrotik_rs::proto::command::Cmd;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::entry::is_unreached;
use super::facts::{
    Certificate, ClockFace, Facts, Group, IpService, ListContent, Page, Resource, User, WriteTest, families,
};
use super::probe::presented_certificate;
use super::rules::{Chains, Reading};
use super::speed::{Sample, measured};
use crate::clock::Clock;
use crate::prefixes::Family;
use crate::router::RouterConfig;
use crate::router::address_list::{Belonging, Marks};
use crate::router::endpoint::{API_PORT, API_TLS_PORT};
use crate::router::networks::{NetworkPage, NetworksReading};
use crate::router::sentence::{Row, Trap, TrapMeaning};
use crate::router::session::{CommandAnswer, Session, SessionError};

/// The list that the write test uses.
pub const SCRATCH_LIST: &str = "atalaya-check";

/// What it puts there: an address of TEST-NET-1 (RFC 5737), which is nobody's.
const SCRATCH_ADDRESS: &str = "192.0.2.1";

/// How many adds are timed, and the address before theirs, of TEST-NET-2 (RFC 5737).
const SAMPLE: u32 = 24;
const SAMPLE_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);

/// The most rows that are kept of a page that is no list.
const MOST_ROWS: usize = 2000;

/// The most bytes of rows that are kept in one visit. Those of a router that is well are a few hundred each.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Which page was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum PageName {
    Identity,
    Resource,
    Clock,
    User,
    Groups,
    Services,
    Certificates,
    Rules(Family, Chains),
    Networks(NetworkPage),
    List(Family),
    Write,
}

/// A session and what its answers brought.
struct Visit<'a> {
    config: &'a RouterConfig,
    marks: Marks,
    networks: NetworksReading,
    clock: &'a Clock,
    session: Session<PageName>,
    rows: HashMap<PageName, Vec<Row>>,
    /// How many bytes of rows were kept.
    kept: usize,
    asked_at: Instant,
    facts: Facts,
}

/// Looks at a router. `writes` says whether the write test may be made.
pub async fn visit(config: &RouterConfig, clock: &Clock, writes: bool) -> Facts {
    visit_as(config, config, clock, writes).await
}

/// Looks at a router as somebody else: what of users is asked for is the configured one's.
pub async fn visit_as(config: &RouterConfig, login: &RouterConfig, clock: &Clock, writes: bool) -> Facts {
    let mut facts = Facts::default();
    let connect = config.deadlines.connect;
    let port = if config.tls.is_some() { API_TLS_PORT } else { API_PORT };
    let addresses = match timeout(connect, config.address.resolve(port)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(source)) => {
            let host = config.address.host.clone();
            facts.entry = Some(SessionError::Resolve { host, source });
            return facts;
        }
        Err(_) => {
            facts.entry = Some(SessionError::ConnectDeadline(connect));
            return facts;
        }
    };
    facts.local = addresses.first().and_then(local_address);
    // A single address is tried by the session itself.
    if addresses.len() > 1 {
        facts.addresses = try_each(&addresses, connect).await;
    }
    let taken =
        |address: &&SocketAddr| facts.addresses.iter().any(|(one, tried)| one == *address && tried.is_ok());
    let (mut order, rest): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| taken(address));
    order.extend(rest);
    let facts = match Session::open(login, &order).await {
        Ok(session) => {
            let mut visit = Visit {
                config,
                marks: config.marks(),
                clock,
                session,
                networks: NetworksReading::default(),
                rows: HashMap::new(),
                kept: 0,
                asked_at: Instant::now(),
                facts,
            };
            if let Err(error) = visit.look(writes).await {
                visit.facts.broke = Some(error.to_string());
            }
            visit.facts
        }
        Err(error) => Facts { entry: Some(error), ..facts },
    };
    look_at_certificate(config, &order, facts).await
}

/// Asks api-ssl for its certificate, where none is pinned and it is known or likely where it listens.
async fn look_at_certificate(config: &RouterConfig, addresses: &[SocketAddr], mut facts: Facts) -> Facts {
    if facts.entry.as_ref().is_some_and(is_unreached) {
        return facts;
    }
    let known = facts.service("api-ssl").map(|service| (service.disabled, service.port));
    let port = match known {
        Some((true, _)) => None,
        Some((false, port)) => port,
        // Where the port is not the usual one, the other's is anyone's guess.
        None => config.address.port.is_none_or(|port| port == API_PORT).then_some(API_TLS_PORT),
    };
    if config.tls.is_none()
        && let Some(port) = port
    {
        let addresses: Vec<SocketAddr> =
            addresses.iter().map(|address| SocketAddr::new(address.ip(), port)).collect();
        facts.presented = Some((port, presented_certificate(&addresses, config.deadlines.connect).await));
    }
    facts
}

/// From where packets to that address leave; none is sent.
fn local_address(to: &SocketAddr) -> Option<std::net::IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

/// Connects to each address at once.
async fn try_each(
    addresses: &[SocketAddr],
    deadline: Duration,
) -> Vec<(SocketAddr, Result<Duration, String>)> {
    let mut tries = JoinSet::new();
    for (place, address) in addresses.iter().copied().enumerate() {
        tries.spawn(async move {
            let began = Instant::now();
            let tried = match timeout(deadline, TcpStream::connect(address)).await {
                Ok(Ok(_)) => Ok(began.elapsed()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("nothing within {} s", deadline.as_secs_f64())),
            };
            (place, address, tried)
        });
    }
    let mut tried = tries.join_all().await;
    tried.sort_by_key(|(place, ..)| *place);
    tried.into_iter().map(|(_, address, tried)| (address, tried)).collect()
}

// === impl Visit ===

impl Visit<'_> {
    async fn look(&mut self, writes: bool) -> Result<(), SessionError> {
        if writes {
            self.facts.write = WriteTest::Unfinished;
        }
        let user = self.config.user.clone();
        self.ask("/system/identity/print", PageName::Identity, |command| command);
        self.ask("/system/clock/print", PageName::Clock, |command| command);
        self.ask("/system/resource/print", PageName::Resource, |command| command);
        self.ask("/user/print", PageName::User, |command| command.query_equal("name", &user));
        self.ask("/user/group/print", PageName::Groups, |command| command);
        self.ask("/ip/service/print", PageName::Services, |command| command);
        self.ask("/certificate/print", PageName::Certificates, |command| {
            command.attribute(".proplist", Some("name,fingerprint"))
        });
        for family in families(self.config.ipv6) {
            let list = self.config.list(family).to_owned();
            for table in [Chains::Raw, Chains::Filter] {
                let asked = PageName::Rules(family, table);
                self.ask(table.print(family), asked, |command| table.ask(command, family, &list));
            }
        }
        self.read_all().await?;
        // Routes too may be many.
        self.session.set_idle(self.config.deadlines.scan);
        self.read_networks().await?;
        // The lists come last, for a big one keeps the router busy before its first row.
        for family in families(self.config.ipv6) {
            let list = self.config.list(family).to_owned();
            self.ask(family.print(), PageName::List(family), |command| {
                command.attribute(".proplist", Some("comment")).query_equal("list", &list)
            });
            self.read_all().await?;
        }
        // So does the write test where it finds its entry there already.
        if writes {
            self.facts.write = self.try_to_write().await?;
            let board = self.facts.resource.shown().map(|resource| resource.board.as_str());
            if self.facts.write == WriteTest::Passed && board.is_some_and(|board| measured(board).is_none()) {
                self.facts.sample = self.time_adds().await?;
            }
        }
        Ok(())
    }

    async fn read_networks(&mut self) -> Result<(), SessionError> {
        let mut page = Some(NetworkPage::FIRST);
        while let Some(asked) = page {
            let (path, properties) = asked.print();
            self.ask(path, PageName::Networks(asked), |command| {
                let command = command.attribute(".proplist", Some(properties));
                match asked.destination() {
                    Some(destination) => command.query_equal("dst-address", destination),
                    None => command,
                }
            });
            self.read_all().await?;
            page = asked.next(self.config.ipv6);
        }
        self.facts.networks = self.networks.networks();
        Ok(())
    }

    fn ask(
        &mut self,
        path: &str,
        asked: PageName,
        arguments: impl FnOnce(CommandBuilder<Cmd>) -> CommandBuilder<Cmd>,
    ) {
        if self.session.in_flight() == 0 {
            self.asked_at = Instant::now();
        }
        let command = arguments(self.session.command(path));
        self.session.send(command, asked);
        self.rows.insert(asked, Vec::new());
    }

    /// Takes answers until nothing is in flight.
    async fn read_all(&mut self) -> Result<(), SessionError> {
        let mut content = ListContent::default();
        let mut rules: HashMap<PageName, Reading> = HashMap::new();
        while self.session.in_flight() > 0 {
            let answer = self.session.answer().await?;
            if self.facts.round_trip.is_none() {
                self.facts.round_trip = Some(self.asked_at.elapsed());
            }
            match answer {
                CommandAnswer::Row(PageName::List(_), row) => {
                    let comment = row.raw("comment").unwrap_or_default();
                    content.count(&String::from_utf8_lossy(comment), self.marks.whose(comment));
                }
                CommandAnswer::Row(asked @ PageName::Rules(..), row) => {
                    rules.entry(asked).or_default().take(&row);
                }
                CommandAnswer::Row(PageName::Networks(page), row) => self.networks.row(page, &row),
                CommandAnswer::Row(asked, row) => {
                    let rows = self.rows.entry(asked).or_default();
                    if rows.len() < MOST_ROWS && self.kept + row.size() <= MOST_BYTES {
                        self.kept += row.size();
                        rows.push(row);
                    }
                }
                CommandAnswer::Done(PageName::List(family), _) => {
                    self.facts.lists[family.index()] = Page::Shown(std::mem::take(&mut content));
                }
                CommandAnswer::Done(asked @ PageName::Rules(family, table), _) => {
                    let page = rules.remove(&asked).unwrap_or_default().finish();
                    *self.facts.rules(family, table) = page;
                }
                CommandAnswer::Done(asked, _) => self.note(asked),
                CommandAnswer::Trap(asked, trap) => self.note_refusal(asked, &trap),
            }
        }
        Ok(())
    }

    /// Reads the rows of a page that is complete.
    fn note(&mut self, asked: PageName) {
        let rows = self.rows.remove(&asked).unwrap_or_default();
        let first = rows.first();
        let facts = &mut self.facts;
        match asked {
            PageName::Identity => {
                facts.identity = of_one(first.map(|row| row.shown("name").unwrap_or_default()));
            }
            PageName::Resource => facts.resource = of_one(first.map(Resource::read)),
            PageName::Clock => {
                facts.clock = of_one(first.map(|row| ClockFace::read(row, self.clock.now())));
            }
            PageName::User => facts.user = Page::Shown(first.map(User::read)),
            PageName::Groups => facts.groups = Page::Shown(rows.iter().map(Group::read).collect()),
            PageName::Services => {
                facts.services = Page::Shown(rows.iter().filter_map(IpService::read).collect());
            }
            PageName::Certificates => {
                facts.certificates = Page::Shown(rows.iter().map(Certificate::read).collect());
            }
            PageName::Rules(..) | PageName::Networks(_) | PageName::List(_) | PageName::Write => {}
        }
    }

    fn note_refusal(&mut self, asked: PageName, trap: &Trap) {
        self.rows.remove(&asked);
        let facts = &mut self.facts;
        match asked {
            PageName::Identity => facts.identity = Page::refused(trap),
            PageName::Resource => facts.resource = Page::refused(trap),
            PageName::Clock => facts.clock = Page::refused(trap),
            PageName::User => facts.user = Page::refused(trap),
            PageName::Groups => facts.groups = Page::refused(trap),
            PageName::Services => facts.services = Page::refused(trap),
            PageName::Certificates => facts.certificates = Page::refused(trap),
            PageName::Rules(family, table) => *facts.rules(family, table) = Page::refused(trap),
            PageName::List(family) => facts.lists[family.index()] = Page::refused(trap),
            PageName::Networks(_) | PageName::Write => {}
        }
    }

    /// Adds an entry to the scratch list, gives it another timeout, and removes it. Where a step fails, the
    /// entry's own timeout removes it.
    async fn try_to_write(&mut self) -> Result<WriteTest, SessionError> {
        let failed = |step, trap| Ok(WriteTest::Failed { step, trap });
        let comment = self.marks.current().comment("check");
        let add = self
            .session
            .command(Family::V4.add())
            .attribute("list", Some(SCRATCH_LIST))
            .attribute("address", Some(SCRATCH_ADDRESS))
            .attribute("timeout", Some("10s"))
            .attribute("comment", Some(&comment));
        let id = match self.carry_out(add).await? {
            Ok(id) => id,
            // Another check at the same moment, or one that broke off.
            Err(trap) if trap.meaning == TrapMeaning::Duplicate => None,
            Err(trap) => return failed("add", trap),
        };
        let id = match id {
            Some(id) => match self.scratch_entry().await? {
                Ok(Some(_)) => id,
                Ok(None) => return Ok(WriteTest::Vanished),
                // Who may not read finds out elsewhere.
                Err(trap) if trap.meaning == TrapMeaning::Permission => id,
                Err(trap) => return failed("print", trap),
            },
            None => match self.scratch_entry().await? {
                Ok(Some(id)) => id,
                // It lapsed meanwhile, or is another's. The add was permitted in any case.
                Ok(None) => return Ok(WriteTest::Passed),
                Err(trap) => return failed("print", trap),
            },
        };
        let set = self.session.command(Family::V4.set());
        let set = set.attribute(".id", Some(&id)).attribute("timeout", Some("20s"));
        if let Err(trap) = self.carry_out(set).await?
            && trap.meaning != TrapMeaning::NoSuchItem
        {
            return failed("set", trap);
        }
        let remove = self.session.command(Family::V4.remove()).attribute(".id", Some(&id));
        match self.carry_out(remove).await? {
            Err(trap) if trap.meaning != TrapMeaning::NoSuchItem => failed("remove", trap),
            _ => Ok(WriteTest::Passed),
        }
    }

    /// Adds some entries to the scratch list at once, and removes them. `None` where one is refused, as where those of
    /// another check are there; what is not removed ends by its own timeout.
    async fn time_adds(&mut self) -> Result<Option<Sample>, SessionError> {
        let comment = self.marks.current().comment("check");
        let began = Instant::now();
        for place in 1..=SAMPLE {
            let address = Ipv4Addr::from(SAMPLE_ADDRESS.to_bits() + place).to_string();
            let add = self
                .session
                .command(Family::V4.add())
                .attribute("list", Some(SCRATCH_LIST))
                .attribute("address", Some(&address))
                .attribute("timeout", Some("10s"))
                .attribute("comment", Some(&comment));
            self.session.send(add, PageName::Write);
        }
        let mut ids = Vec::new();
        let (mut refused, mut first) = (false, None);
        while self.session.in_flight() > 0 {
            let answer = self.session.answer().await?;
            first = first.or_else(|| Some(Instant::now()));
            match answer {
                CommandAnswer::Done(_, id) => ids.extend(id),
                CommandAnswer::Trap(..) => refused = true,
                CommandAnswer::Row(..) => {}
            }
        }
        // Both leave out the way; where either was held up, the other is longer.
        let after_first = first.map_or(Duration::ZERO, |first| first.elapsed());
        let took = began.elapsed().saturating_sub(self.facts.round_trip.unwrap_or_default()).max(after_first);
        if !ids.is_empty() {
            let remove = self.session.command(Family::V4.remove()).attribute(".id", Some(&ids.join(",")));
            // One that ended meanwhile is no harm.
            let _ = self.carry_out(remove).await?;
        }
        Ok((!refused).then_some(Sample { adds: SAMPLE, took }))
    }

    /// The id of the entry that the write test finds in its place.
    async fn scratch_entry(&mut self) -> Result<Result<Option<String>, Trap>, SessionError> {
        let print = self.session.command(Family::V4.print()).attribute(".proplist", Some(".id,comment"));
        let print = print.query_equal("list", SCRATCH_LIST).query_equal("address", SCRATCH_ADDRESS);
        if let Err(trap) = self.carry_out(print).await? {
            return Ok(Err(trap));
        }
        let rows = self.rows.remove(&PageName::Write).unwrap_or_default();
        let ours = |row: &&Row| self.marks.whose(row.raw("comment").unwrap_or_default()) == Belonging::Ours;
        Ok(Ok(rows.iter().find(ours).and_then(|row| row.shown(".id"))))
    }

    /// One command to its end; rows are kept under [`PageName::Write`].
    async fn carry_out(
        &mut self,
        command: CommandBuilder<Cmd>,
    ) -> Result<Result<Option<String>, Trap>, SessionError> {
        self.session.send(command, PageName::Write);
        loop {
            match self.session.answer().await? {
                CommandAnswer::Row(_, row) => {
                    let rows = self.rows.entry(PageName::Write).or_default();
                    if rows.is_empty() {
                        rows.push(row);
                    }
                }
                CommandAnswer::Done(_, ret) => return Ok(Ok(ret)),
                CommandAnswer::Trap(_, trap) => return Ok(Err(trap)),
            }
        }
    }
}

/// A page that has one row on every router.
fn of_one<T>(row: Option<T>) -> Page<T> {
    row.map_or_else(|| Page::Failed("it is empty".to_owned()), Page::Shown)
}
