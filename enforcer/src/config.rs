//! `enforcer.toml`: what the administrator wrote, checked and with defaults filled in. A mistake is
//! reported with file, line and column, what was found and what would be right.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use atalaya_program::config_file::{self, ConfigError, ConfigFile};
use atalaya_program::metrics::MetricsConfig;
use atalaya_wire::{Escalation, EscalationTable, Name, Nat64};
use serde::Deserialize;
use toml::Spanned;

use crate::bans::allow::AllowConfig;
use crate::bans::protect::ProtectConfig;
use crate::bans::widen::WidenConfig;
use crate::desired::{ListConfig, Severity};
use crate::intake::SensorLimits;
use crate::intake::fleet::FleetConfig;
use crate::ledger::HistoryConfig;
use crate::router::RouterConfig;

pub mod changes;
mod jails;
mod list;
mod router;
mod sensors;
mod tables;
mod twins;

use list::RawList;

use router::RawRouter;
use sensors::RawSensors;
use tables::{RawFleet, RawHistory, RawProtect, RawWiden, check_allow, check_escalation};

/// Where the configuration is, unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/atalaya/enforcer.toml";

/// The port of loopback on which figures are told where `[metrics]` says nothing else.
const METRICS_PORT: u16 = 8444;

/// The whole configuration of an enforcer.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address and port on which sensors connect.
    pub listen: SocketAddr,
    /// The folder of the ledger and of the certificate.
    pub state: PathBuf,
    /// The socket for the commands of this host.
    pub socket: PathBuf,
    /// What is never banned.
    pub allow: AllowConfig,
    /// The address lists, and what their entries say.
    pub list: ListConfig,
    /// The severities of jails; medium where none is named.
    pub severity: BTreeMap<Name, Severity>,
    /// When many bans become one of the network around them.
    pub widen: WidenConfig,
    /// How bans grow whose jails say nothing of it; not at all where there is none.
    pub escalation: Option<Escalation>,
    /// The enforcer's own jails, in the order of their names.
    pub fleet: Vec<FleetConfig>,
    /// Who is not banned without a word.
    pub protect: ProtectConfig,
    /// How much of what is over is kept.
    pub history: HistoryConfig,
    /// What one sensor may take of what all share.
    pub sensors: SensorLimits,
    /// Where figures are told to Prometheus; nowhere where there is no such table.
    pub metrics: Option<SocketAddr>,
    /// The prefixes of NAT64 beside the well-known one.
    pub nat64: Nat64,
    /// The routers, in the order of their names.
    pub routers: Vec<RouterConfig>,
    /// What an administrator should know, a sentence each.
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    listen: Option<Spanned<String>>,
    #[serde(default = "default_state")]
    state: PathBuf,
    #[serde(default = "default_socket")]
    socket: PathBuf,
    #[serde(default)]
    allow: Vec<Spanned<String>>,
    #[serde(default)]
    nat64: Nat64,
    #[serde(default)]
    list: RawList,
    #[serde(default)]
    severity: BTreeMap<Name, Severity>,
    #[serde(default)]
    widen: RawWiden,
    escalation: Option<Spanned<EscalationTable>>,
    #[serde(default)]
    fleet: BTreeMap<Name, Spanned<RawFleet>>,
    #[serde(default)]
    protect: RawProtect,
    #[serde(default)]
    history: RawHistory,
    #[serde(default)]
    sensors: RawSensors,
    metrics: Option<MetricsConfig>,
    #[serde(default)]
    router: BTreeMap<Name, Spanned<RawRouter>>,
}

// === impl Config ===

impl Config {
    /// Reads and checks a configuration file, and the password files that it names.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = config_file::read(path)?;
        let (mut config, holds_password) = Self::parse_file(&text, path)?;
        let readable = path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
        if readable && holds_password {
            config.warnings.push(format!(
                "{} holds a password and everyone on this host can read it: chmod 640 it, or use `password_file`",
                path.display()
            ));
        }
        Ok(config)
    }

    /// Checks a configuration; `path` is where it came from, for messages and for relative password files.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::parse_file(text, path).map(|(config, _)| config)
    }

    /// The configuration, and whether a password is written in the file itself.
    fn parse_file(text: &str, path: &Path) -> Result<(Self, bool), ConfigError> {
        let file = ConfigFile { path, text };
        let at = |span: Range<usize>, message: String| file.at(span, message);
        let raw: RawConfig = file.parse()?;
        let adopted = raw.list.adopted(&at)?;
        let list = raw.list.check(&at)?;
        let holds_password = raw.router.values().any(|router| router.get_ref().holds_password());
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut warnings = Vec::new();
        let mut routers = Vec::new();
        let mut spans = Vec::new();
        for (name, router) in raw.router {
            let span = router.span();
            routers.push(router.into_inner().check(&name, &span, folder, &list, &mut warnings, &at)?);
            spans.push(span);
        }
        routers.iter_mut().for_each(|router| router.adopted.clone_from(&adopted));
        if let Some((second, says)) = twins::find(&routers) {
            return Err(at(spans[second].clone(), says));
        }
        let config = Self {
            listen: check_listen(raw.listen, &at)?,
            state: raw.state,
            socket: raw.socket,
            allow: check_allow(raw.allow, &at)?,
            list,
            severity: raw.severity,
            widen: raw.widen.check(&at)?,
            escalation: raw.escalation.map(|escalation| check_escalation(escalation, &at)).transpose()?,
            fleet: raw
                .fleet
                .into_iter()
                .map(|(name, fleet)| {
                    let span = fleet.span();
                    fleet.into_inner().check(name, span, &at)
                })
                .collect::<Result<_, _>>()?,
            protect: raw.protect.check(&at)?,
            history: raw.history.check(&at)?,
            sensors: raw.sensors.check(&at)?,
            metrics: raw.metrics.map(|metrics| metrics.listen(METRICS_PORT)),
            nat64: raw.nat64,
            routers,
            warnings,
        };
        Ok((config, holds_password))
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "listen: {}", self.listen)?;
        writeln!(f, "state: {}", self.state.display())?;
        writeln!(f, "socket: {}", self.socket.display())?;
        let [ipv4, ipv6] = &self.list.names;
        let lists = if ipv4 == ipv6 { ipv4.clone() } else { format!("{ipv4}, {ipv6} for IPv6") };
        writeln!(f, "list: {lists}; comments begin with `{}:`", self.list.mark)?;
        let mut allow: Vec<String> = self.allow.networks.clone().into();
        allow.extend(self.allow.names.iter().cloned());
        writeln!(
            f,
            "allow: {}",
            if allow.is_empty() { "nothing configured".to_owned() } else { allow.join(", ") }
        )?;
        if !self.nat64.is_empty() {
            let prefixes: Vec<String> = self.nat64.clone().into();
            writeln!(
                f,
                "nat64: 64:ff9b::/96, {}: hosts behind these are their IPv4 addresses",
                prefixes.join(", ")
            )?;
        }
        if self.routers.is_empty() {
            writeln!(f, "no router is configured: bans are kept and go nowhere")?;
        }
        for router in &self.routers {
            let tls = if router.tls.is_some() { "TLS, pinned" } else { "not encrypted" };
            let families = if router.ipv6 { "IPv4 and IPv6" } else { "IPv4" };
            writeln!(f, "router {}: {} as {}, {tls}, {families}", router.name, router.address, router.user)?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

/// A value that passes the check, or the default where none is written.
fn checked(
    value: Option<Spanned<String>>,
    default: String,
    at: &impl Fn(Range<usize>, String) -> ConfigError,
    check: impl Fn(&str) -> Result<(), &'static str>,
) -> Result<String, ConfigError> {
    let Some(value) = value else { return Ok(default) };
    check(value.get_ref())
        .map_err(|expected| at(value.span(), format!("`{}`: {expected}", value.get_ref().escape_debug())))?;
    Ok(value.into_inner())
}

fn check_listen(
    raw: Option<Spanned<String>>,
    at: &impl Fn(Range<usize>, String) -> ConfigError,
) -> Result<SocketAddr, ConfigError> {
    let Some(raw) = raw else { return Ok(SocketAddr::from(([0, 0, 0, 0], 8443))) };
    raw.get_ref().parse().map_err(|_| {
        let text = raw.get_ref().escape_debug();
        at(
            raw.span(),
            format!("`{text}` is no address with a port; expected such as `0.0.0.0:8443` or `[::]:8443`"),
        )
    })
}

/// The socket that a configuration names, whatever else is wrong in it; none where it is no TOML.
pub fn socket_of(path: &Path) -> Option<PathBuf> {
    let table: toml::Table = std::fs::read_to_string(path).ok()?.parse().ok()?;
    Some(table.get("socket").and_then(toml::Value::as_str).map_or_else(default_socket, PathBuf::from))
}

fn default_state() -> PathBuf {
    "/var/lib/atalaya-enforcer".into()
}

fn default_socket() -> PathBuf {
    "/run/atalaya-enforcer/enforcer.sock".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: &str = "[router.edge]\naddress = \"192.0.2.1\"\nuser = \"u\"\npassword = \"p\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("enforcer.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_router_of_four_lines_has_the_defaults_that_users_know() {
        let config = parse(ROUTER).unwrap();
        let router = &config.routers[0];
        assert_eq!((router.lists[1].as_str(), router.mark.as_str()), ("spammer", "atalaya"));
        assert_eq!(config.list.comment_of("ssh", "web-1"), "ssh from web-1");
        assert!(config.warnings[0].contains("unencrypted"));
        assert!(!format!("{config:?}").contains("\"p\""), "the password is shown");
    }

    #[test]
    fn each_mistake_names_its_line_and_what_would_be_right() {
        let router = |more: &str| format!("{ROUTER}{more}\n");
        for (text, place, says) in [
            ("listen = \"everywhere\"\n".to_owned(), "enforcer.toml:1:10", "such as `0.0.0.0:8443`"),
            ("alow = []\n".to_owned(), "enforcer.toml:1:1", "alow"),
            ("nat64 = [\"2001:db8::/33\"]\n".to_owned(), "enforcer.toml:1:9", "32, 40, 48, 56, 64 or 96"),
            ("allow = [\"10.0.0.1-9\"]\n".to_owned(), "enforcer.toml:1:10", "10.0.0.1-9"),
            (router("window = 0"), "enforcer.toml:5:10", "1 to 1024"),
            (router("tls = true"), "enforcer.toml:5:7", "fingerprint"),
            (
                router(&format!("fingerprint = \"{}\"\ntls = false", "0".repeat(64))),
                "enforcer.toml:6:7",
                "no TLS",
            ),
            (router("port = 0"), "enforcer.toml:5:8", "1 to 65535"),
            (router("pasword = \"x\""), "enforcer.toml:5:1", "pasword"),
            (ROUTER.replace("\"p\"", "123"), "enforcer.toml:4:12", "text in quotes"),
            (ROUTER.replace("password = \"p\"\n", ""), "enforcer.toml:1:1", "password_file"),
            (
                ROUTER.replace("password = \"p\"", "password_file = \"/nowhere/x\""),
                "enforcer.toml:4:17",
                "/nowhere/x",
            ),
            (ROUTER.replace("edge", "\"a b\""), "enforcer.toml:1:9", "a b"),
            (router("password_file = \"/x\""), "enforcer.toml:4:12", "both"),
            (router("fingerprint = \"12\""), "enforcer.toml:5:15", "64 hexadecimal"),
            ("[list]\nname = \"a b\"\n".to_owned(), "enforcer.toml:2:8", "a b"),
            ("[list]\ncomment = \"{host}\"\n".to_owned(), "enforcer.toml:2:11", "{jail}"),
            ("[fleet.manual]\n".to_owned(), "enforcer.toml:1:1", "`manual` is reserved: bans by hand"),
            ("[fleet.recovered]\n".to_owned(), "enforcer.toml:1:1", "`recovered` is reserved"),
            ("[fleet.ssh]\njails = [\"ssh\"]\n".to_owned(), "enforcer.toml:1:1", "taken"),
            (
                "[router.edge]\naddress = \"\"\nuser = \"u\"\npassword = \"p\"\n".to_owned(),
                "enforcer.toml:2:11",
                "edge",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(place), "{text:?} gave {error:?}, not at {place}");
            assert!(error.contains(says), "{text:?} gave {error:?}, without {says:?}");
            assert!(!error.contains("123"), "the password is shown: {error:?}");
        }
    }

    #[test]
    fn a_password_file_is_read_beside_the_configuration_and_needs_no_warning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enforcer.toml");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "p w\n").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, ROUTER.replace("password = \"p\"", "password_file = \"secret\"")).unwrap();
        let config = Config::read(&path).unwrap();
        assert_eq!(config.routers[0].password.expose(), "p w");
        assert!(!config.warnings.iter().any(|warning| warning.contains("everyone")));
    }

    #[test]
    fn a_password_that_everyone_can_read_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enforcer.toml");
        std::fs::write(&path, ROUTER).unwrap();
        for (mode, warned) in [(0o644, true), (0o640, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let config = Config::read(&path).unwrap();
            assert_eq!(
                config.warnings.iter().any(|warning| warning.contains("everyone")),
                warned,
                "{mode:o}"
            );
        }
    }

    #[test]
    fn a_fingerprint_alone_means_tls() {
        let config = parse(&format!("{ROUTER}fingerprint = \"{}\"\n", "ab".repeat(32))).unwrap();
        assert!(config.routers[0].tls.is_some() && config.warnings.is_empty());
    }
}
