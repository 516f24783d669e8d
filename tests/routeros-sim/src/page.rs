//! The pages beside the address lists that the API can print: system, users, services, certificates,
//! rules. Their names and values are RouterOS's; the order of properties is that of its own prints.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::Offset;

use crate::address::Family;
use crate::address_list::print_id;
use crate::board::Board;
use crate::site::{Certificate, Chains, Route, Rule, Service, Site};
use crate::timeout::Timeout;
use crate::user::{Group, User};
use crate::version::Version;

/// A page that is only read: it holds rows that clients print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Identity,
    Resource,
    Clock,
    Routerboard,
    Users,
    Groups,
    Services,
    Certificates,
    Addresses(Family),
    DhcpClients,
    /// `/system/ntp/client`, which shows nothing here.
    TimeSource,
    Routes(Family),
    Rules(Family, Chains),
}

/// One row of a page: properties in order.
pub(crate) struct Line(Vec<(Cow<'static, str>, String)>);

/// Where the router stands.
#[derive(Clone)]
pub(crate) struct Zone {
    pub(crate) name: String,
    /// East of Greenwich, in minutes.
    pub(crate) minutes: i32,
}

// === impl Page ===

impl Page {
    /// The page that a directory prints.
    pub(crate) fn of(directory: &[u8]) -> Option<Self> {
        Some(match directory {
            b"/system/identity" => Self::Identity,
            b"/system/resource" => Self::Resource,
            b"/system/clock" => Self::Clock,
            b"/system/routerboard" => Self::Routerboard,
            b"/user" => Self::Users,
            b"/user/group" => Self::Groups,
            b"/ip/service" => Self::Services,
            b"/certificate" => Self::Certificates,
            b"/ip/address" => Self::Addresses(Family::V4),
            b"/ipv6/address" => Self::Addresses(Family::V6),
            b"/ip/dhcp-client" => Self::DhcpClients,
            b"/ip/route" => Self::Routes(Family::V4),
            b"/ipv6/route" => Self::Routes(Family::V6),
            b"/system/ntp/client" => Self::TimeSource,
            b"/ip/firewall/raw" => Self::Rules(Family::V4, Chains::Raw),
            b"/ip/firewall/filter" => Self::Rules(Family::V4, Chains::Filter),
            b"/ipv6/firewall/raw" => Self::Rules(Family::V6, Chains::Raw),
            b"/ipv6/firewall/filter" => Self::Rules(Family::V6, Chains::Filter),
            _ => return None,
        })
    }
}

impl Site {
    /// What the terminal calls the row of this id: its name, or of a rule the id itself.
    pub(crate) fn item(&self, page: Page, id: &str) -> String {
        let lines = self.lines(page);
        let line = lines.iter().find(|line| line.get(b".id") == Some(id));
        line.and_then(|line| line.get(b"name")).unwrap_or(id).to_owned()
    }

    /// The id of the row that was added last.
    pub(crate) fn last_id(&self, page: Page) -> Option<String> {
        if let Page::Rules(..) = page {
            return Some(print_id(self.last_rule));
        }
        self.lines(page).last().and_then(|line| line.get(b".id")).map(str::to_owned)
    }

    /// All that the API can set up, as it is printed; passwords too, which RouterOS prints nowhere.
    pub(crate) fn setup(&self) -> Vec<String> {
        let rules = [Family::V4, Family::V6]
            .into_iter()
            .flat_map(|family| [Chains::Raw, Chains::Filter].map(|chains| Page::Rules(family, chains)));
        let pages = [Page::Users, Page::Groups, Page::Services, Page::Certificates].into_iter().chain(rules);
        let text = |line: Line| line.0.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        let passwords = self.users.iter().map(|user| format!("{} has {}", user.name, user.password));
        pages.flat_map(|page| self.lines(page)).map(text).chain(passwords).collect()
    }

    /// The rows of a page that shows what is configured; none for the others.
    pub(crate) fn lines(&self, page: Page) -> Vec<Line> {
        fn numbered<T>(rows: &[T], line: impl Fn(&T, Line) -> Line) -> Vec<Line> {
            let number = |at: usize| Line::new().and(".id", print_id(at as u64 + 1));
            rows.iter().enumerate().map(|(at, row)| line(row, number(at))).collect()
        }
        match page {
            Page::Routerboard => vec![routerboard(self.serial.as_deref())],
            Page::Users => numbered(&self.users, user),
            Page::Groups => numbered(&self.groups, group),
            Page::Services => numbered(&self.services, |row, line| service(self.version, row, line)),
            Page::Certificates => numbered(&self.certificates, certificate),
            Page::Addresses(family) => {
                let leased = self.leases.iter().map(|(address, _)| (address, "ether1", true));
                let by_hand =
                    self.addresses.iter().map(|(address, interface)| (address, interface.as_str(), false));
                let is_here = |address: &str| address.contains(':') == (family == Family::V6);
                let here: Vec<_> = by_hand.chain(leased).filter(|(address, ..)| is_here(address)).collect();
                numbered(&here, |(address, interface, dynamic), line| {
                    interface_address(address, interface, *dynamic, line)
                })
            }
            Page::DhcpClients => numbered(&self.leases, dhcp_client),
            Page::Routes(family) => {
                let leased: Vec<Route> = match family {
                    Family::V4 => self.leases.iter().map(|(_, gateway)| Route::leased(gateway)).collect(),
                    Family::V6 => Vec::new(),
                };
                let by_hand = self.routes.iter().filter(|route| route.family == family);
                let here: Vec<&Route> = by_hand.chain(&leased).collect();
                numbered(&here, |row, line| route(self.version, row, line))
            }
            Page::Rules(family, chains) => {
                let here = |rule: &&Rule| rule.family == family && rule.chains == chains;
                self.rules.iter().filter(here).map(line_of).collect()
            }
            Page::Identity | Page::Resource | Page::Clock | Page::TimeSource => Vec::new(),
        }
    }
}

/// The one row of `/system/resource`.
pub(crate) fn resource(version: Version, board: &Board, sessions: usize, uptime: u64, load: u8) -> Line {
    let free = board.free(sessions);
    let built = if version.dates_as_iso() { "2026-09-14 08:21:03" } else { "Sep/14/2026 08:21:03" };
    Line::new()
        .and("uptime", Timeout(uptime).to_string())
        .and("version", format!("{version} (stable)"))
        .and("build-time", built)
        .and("factory-software", "7.4.1")
        .and("free-memory", free.to_string())
        .and("total-memory", board.memory.to_string())
        .and("cpu", board.cpu)
        .and("cpu-count", board.cores.to_string())
        .and("cpu-frequency", board.megahertz.to_string())
        .and("cpu-load", load.to_string())
        .and("free-hdd-space", "1006186496")
        .and("total-hdd-space", "1073741824")
        .and("write-sect-since-reboot", "3584")
        .and("write-sect-total", "181344")
        .and("bad-blocks", "0")
        .and("architecture-name", board.architecture)
        .and("board-name", board.name.clone())
        .and("platform", "MikroTik")
}

/// The one row of `/system/routerboard`; other machines than MikroTik's have no serial number.
fn routerboard(serial: Option<&str>) -> Line {
    let line = Line::new().and("routerboard", serial.is_some().to_string());
    match serial {
        Some(serial) => line.and("serial-number", serial.to_owned()),
        None => line,
    }
}

/// The one row of `/system/identity`.
pub(crate) fn identity(name: &str) -> Line {
    Line::new().and("name", name)
}

/// `/system/clock`: dates as `2026-11-25` from 7.10, as `nov/25/2026` before.
pub(crate) fn clock(version: Version, zone: &Zone, now: Timestamp) -> Line {
    let offset = Offset::from_seconds(zone.minutes * 60).unwrap_or(Offset::UTC);
    let here = offset.to_datetime(now);
    let date = here.strftime(if version.dates_as_iso() { "%Y-%m-%d" } else { "%b/%d/%Y" }).to_string();
    let sign = if zone.minutes < 0 { '-' } else { '+' };
    let (hours, minutes) = (zone.minutes.abs() / 60, zone.minutes.abs() % 60);
    Line::new()
        .and("time", here.strftime("%H:%M:%S").to_string())
        .and("date", date.to_lowercase())
        .and("time-zone-autodetect", "true")
        .and("time-zone-name", zone.name.clone())
        .and("gmt-offset", format!("{sign}{hours:02}:{minutes:02}"))
        .and("dst-active", "false")
}

fn user(user: &User, line: Line) -> Line {
    line.and("name", user.name.clone())
        .and("group", user.group.clone())
        .and("address", user.address.clone())
        .and("inactivity-timeout", "10m")
        .and("inactivity-policy", "none")
        .and("expired", "false")
        .and("disabled", user.disabled.to_string())
}

fn group(group: &Group, line: Line) -> Line {
    line.and("name", group.name.clone()).and("policy", group.policies.to_string()).and("skin", "default")
}

fn service(version: Version, service: &Service, line: Line) -> Line {
    let mut line = line
        .and("name", service.name)
        .and("port", service.port.to_string())
        .and(version.service_limit(), service.address.clone());
    if let Some(certificate) = &service.certificate {
        line = line.and("certificate", certificate.clone()).and("tls-version", "any");
    }
    line.and("vrf", "main")
        .and("max-sessions", "20")
        .and("dynamic", "false")
        .and("invalid", "false")
        .and("disabled", service.disabled.to_string())
}

/// RouterOS 7's form; 6 has `gateway-status` in place of `immediate-gw`.
fn route(version: Version, route: &Route, line: Line) -> Line {
    let line = line.and("dst-address", route.destination.clone()).and("gateway", route.gateway.clone());
    let line = if version.routes_immediately() {
        line.and("immediate-gw", route.gateway.clone()).and("routing-table", "main")
    } else {
        line.and("gateway-status", format!("{} reachable", route.gateway))
    };
    line.and("distance", route.distance.clone())
        .and("scope", "30")
        .and("target-scope", "10")
        .and("dynamic", route.dynamic.to_string())
        .and("inactive", "false")
        .and("active", (!route.disabled).to_string())
        .and("static", (!route.dynamic).to_string())
        .and("disabled", route.disabled.to_string())
}

impl Route {
    /// The default route of a DHCP client.
    fn leased(gateway: &str) -> Self {
        Self {
            family: Family::V4,
            destination: "0.0.0.0/0".to_owned(),
            gateway: gateway.to_owned(),
            distance: "1".to_owned(),
            dynamic: true,
            disabled: false,
        }
    }
}

fn interface_address(address: &str, interface: &str, dynamic: bool, line: Line) -> Line {
    line.and("address", address)
        .and("interface", interface)
        .and("actual-interface", interface)
        .and("invalid", "false")
        .and("dynamic", dynamic.to_string())
        .and("disabled", "false")
}

fn dhcp_client((address, gateway): &(String, String), line: Line) -> Line {
    line.and("interface", "ether1")
        .and("add-default-route", "yes")
        .and("status", "bound")
        .and("address", address.clone())
        .and("gateway", gateway.clone())
        .and("dynamic", "false")
        .and("invalid", "false")
        .and("disabled", "false")
}

fn certificate(certificate: &Certificate, line: Line) -> Line {
    let line = line
        .and("name", certificate.name.clone())
        .and("common-name", certificate.common_name.clone())
        .and("key-size", "2048")
        .and("days-valid", certificate.days_valid.clone())
        .and("key-usage", certificate.key_usage.clone());
    let Some(fingerprint) = &certificate.fingerprint else {
        // A request that nobody has signed yet.
        return line.and("trusted", "false").and("private-key", "true");
    };
    line.and("fingerprint", fingerprint.clone())
        .and("trusted", "true")
        .and("private-key", "true")
        .and("expired", "false")
}

fn line_of(rule: &Rule) -> Line {
    let mut line = Line::new().and(".id", print_id(rule.id));
    let first = |name: &str| matches!(name, "chain" | "action");
    let (front, rest): (Vec<_>, Vec<_>) = rule.attributes.iter().partition(|(name, _)| first(name));
    for (name, value) in front.into_iter().chain(rest) {
        line.0.push((Cow::Owned(name.clone()), value.clone()));
    }
    if !rule.attributes.iter().any(|(name, _)| name == "log") {
        line = line.and("log", "false").and("log-prefix", "");
    }
    line = line
        // As if each were the shortest of TCP.
        .and("bytes", (rule.packets * 40).to_string())
        .and("packets", rule.packets.to_string())
        .and("invalid", rule.invalid.to_string())
        .and("dynamic", rule.dynamic.to_string())
        .and("disabled", rule.disabled.to_string());
    if rule.comment.is_empty() { line } else { line.and("comment", rule.comment.clone()) }
}

// === impl Line ===

impl Line {
    fn new() -> Self {
        Self(Vec::with_capacity(20))
    }

    fn and(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((Cow::Borrowed(name), value.into()));
        self
    }

    /// The value of a property.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.as_bytes() == name).map(|(_, value)| value.as_str())
    }

    /// Names and values in order.
    pub(crate) fn properties(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }
}
