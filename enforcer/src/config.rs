//! `enforcer.toml`: what the administrator wrote, checked and with defaults filled in. A mistake is
//! reported with file, line and column, what was found and what would be right.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use atalaya_wire::{Fingerprint, Name, Networks};
use serde::Deserialize;
use toml::Spanned;

use crate::router::{Endpoint, Password, RouterConfig};

/// Where the configuration is, unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/atalaya/enforcer.toml";

/// The whole configuration of an enforcer.
#[derive(Debug)]
pub struct Config {
    /// Where sensors connect.
    pub listen: SocketAddr,
    /// The folder of the ledger and of the certificate.
    pub state: PathBuf,
    /// The socket for the commands of this host.
    pub socket: PathBuf,
    /// What is never banned.
    pub allow: Networks,
    /// The address list, and what its entries say.
    pub list: ListConfig,
    /// The routers, in the order of their names.
    pub routers: Vec<RouterConfig>,
    /// What an administrator should know, a sentence each.
    pub warnings: Vec<String>,
}

/// The `[list]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListConfig {
    /// The address list's name on the routers.
    pub name: String,
    /// What an entry's comment says after the mark; `{jail}` and `{sensor}` are filled in.
    pub comment: String,
    /// What opens the comment of our entries.
    pub mark: String,
}

/// What is wrong with the configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file's content is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// In characters, counted from one.
        column: usize,
        /// What was found and what was expected.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    #[serde(default = "default_listen")]
    listen: SocketAddr,
    #[serde(default = "default_state")]
    state: PathBuf,
    #[serde(default = "default_socket")]
    socket: PathBuf,
    #[serde(default)]
    allow: Networks,
    list: Option<Spanned<ListConfig>>,
    #[serde(default)]
    router: BTreeMap<Name, Spanned<RawRouter>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRouter {
    address: Spanned<String>,
    port: Option<u16>,
    user: String,
    password: Option<Spanned<String>>,
    password_file: Option<PathBuf>,
    #[serde(default)]
    tls: bool,
    fingerprint: Option<Fingerprint>,
    #[serde(default = "yes")]
    ipv6: bool,
    window: Option<Spanned<usize>>,
}

// === impl Config ===

impl Config {
    /// Reads and checks a configuration file, and the password files that it names.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let mut config = Self::parse(&text, path)?;
        let readable = path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
        if readable && text.lines().any(|line| line.trim_start().starts_with("password =")) {
            config.warnings.push(format!(
                "{} holds a password and everyone on this host can read it: chmod 640, or use password_file",
                path.display()
            ));
        }
        Ok(config)
    }

    /// Checks a configuration; `path` is where it came from, for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let at = |span: Range<usize>, message: String| {
            let (line, column) = position(text, span.start);
            ConfigError::Content { path: path.to_owned(), line, column, message }
        };
        let raw: RawConfig = toml::from_str(text)
            .map_err(|error| at(error.span().unwrap_or(0..0), error.message().to_owned()))?;
        let list = match raw.list {
            Some(list) => {
                list.get_ref().check().map_err(|message| at(list.span(), message))?;
                list.into_inner()
            }
            None => ListConfig::default(),
        };
        let mut warnings = Vec::new();
        let mut routers = Vec::new();
        for (name, router) in raw.router {
            routers.push(router.into_inner().check(name, &list, &mut warnings, &at)?);
        }
        Ok(Self {
            listen: raw.listen,
            state: raw.state,
            socket: raw.socket,
            allow: raw.allow,
            list,
            routers,
            warnings,
        })
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "listen: {}", self.listen)?;
        writeln!(f, "state: {}", self.state.display())?;
        writeln!(f, "list: {}, comments begin with `{}:`", self.list.name, self.list.mark)?;
        let allow: Vec<String> = self.allow.clone().into();
        writeln!(f, "allow: {}", if allow.is_empty() { "nothing configured".to_owned() } else { allow.join(", ") })?;
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

// === impl ListConfig ===

impl Default for ListConfig {
    fn default() -> Self {
        Self {
            name: "spammer".to_owned(),
            comment: "{jail} from {sensor}".to_owned(),
            mark: "atalaya".to_owned(),
        }
    }
}

impl ListConfig {
    /// The comment's text for a ban, without the mark.
    pub fn comment_of(&self, jail: &str, sensor: &str) -> String {
        self.comment.replace("{jail}", jail).replace("{sensor}", sensor)
    }

    fn check(&self) -> Result<(), String> {
        let plain = |text: &str| !text.is_empty() && text.len() <= 64 && text.chars().all(|c| c.is_ascii_graphic());
        if !plain(&self.name) {
            return Err(format!("the list's name `{}` is not 1 to 64 printable ASCII characters without blanks", self.name));
        }
        if !plain(&self.mark) || self.mark.contains(':') {
            return Err(format!("the mark `{}` is not 1 to 64 printable ASCII characters without blanks and colons", self.mark));
        }
        let rest = self.comment.replace("{jail}", "").replace("{sensor}", "");
        if rest.contains(['{', '}']) || rest.len() > 100 || rest.chars().any(char::is_control) {
            return Err(format!("the comment `{}` is not understood: use {{jail}} and {{sensor}}, and at most 100 other characters", self.comment));
        }
        Ok(())
    }
}

// === impl RawRouter ===

impl RawRouter {
    fn check(
        self,
        name: Name,
        list: &ListConfig,
        warnings: &mut Vec<String>,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<RouterConfig, ConfigError> {
        let span = self.address.span();
        let mut endpoint: Endpoint =
            self.address.get_ref().parse().map_err(|error| at(span.clone(), format!("router `{name}`: {error}")))?;
        if let Some(port) = self.port {
            if endpoint.port.is_some_and(|written| written != port) {
                return Err(at(span, format!("router `{name}`: two ports, in `address` and in `port`; leave one")));
            }
            endpoint.port = Some(port);
        }
        let password = match (self.password, self.password_file) {
            (Some(password), None) => password.into_inner(),
            (None, Some(file)) => read(&file)?.trim_end_matches(['\n', '\r']).to_owned(),
            (None, None) => return Err(at(span, format!("router `{name}`: neither `password` nor `password_file`"))),
            (Some(password), Some(_)) => {
                return Err(at(password.span(), format!("router `{name}`: both `password` and `password_file`; leave one")));
            }
        };
        if self.tls && self.fingerprint.is_none() {
            return Err(at(
                span,
                format!("router `{name}`: tls = true needs `fingerprint`, the SHA-256 of the router's certificate (/certificate print detail)"),
            ));
        }
        if !self.tls {
            if self.fingerprint.is_some() {
                return Err(at(span, format!("router `{name}`: a fingerprint without tls = true")));
            }
            warnings.push(format!(
                "router {name}: the API password crosses the network unencrypted; give the router a certificate, enable api-ssl, and set tls = true"
            ));
        }
        let mut config = RouterConfig::new(name.clone(), endpoint, self.user, Password::new(password));
        config.tls = self.fingerprint;
        config.list.clone_from(&list.name);
        config.mark.clone_from(&list.mark);
        config.ipv6 = self.ipv6;
        if let Some(window) = self.window {
            if !(1..=1024).contains(window.get_ref()) {
                return Err(at(window.span(), format!("router `{name}`: window is {}; expected 1 to 1024", window.get_ref())));
            }
            config.window = window.into_inner();
        }
        Ok(config)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8443))
}

fn default_state() -> PathBuf {
    "/var/lib/atalaya-enforcer".into()
}

fn default_socket() -> PathBuf {
    "/run/atalaya-enforcer/enforcer.sock".into()
}

fn yes() -> bool {
    true
}

/// The line and column of a byte offset, both counted from one.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn hint(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::NotFound {
        "; write it (README.md has one to begin with), or name another with --config"
    } else {
        ""
    }
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
        assert_eq!((router.list.as_str(), router.mark.as_str()), ("spammer", "atalaya"));
        assert_eq!(config.list.comment_of("ssh", "web-1"), "ssh from web-1");
        assert!(config.warnings[0].contains("unencrypted"));
        assert!(!format!("{config:?}").contains("\"p\""), "the password is shown");
    }

    #[test]
    fn each_mistake_names_its_line_and_what_would_be_right() {
        let router = |more: &str| format!("{ROUTER}{more}\n");
        for (text, place, says) in [
            ("listen = \"everywhere\"\n".to_owned(), "enforcer.toml:1:10", "socket address"),
            ("alow = []\n".to_owned(), "enforcer.toml:1:1", "alow"),
            ("allow = [\"10.0.0.1-9\"]\n".to_owned(), "enforcer.toml:1:9", "10.0.0.1-9"),
            (router("window = 0"), "enforcer.toml:5:10", "1 to 1024"),
            (router("tls = true"), "enforcer.toml:2:11", "fingerprint"),
            (router("password_file = \"/x\""), "enforcer.toml:4:12", "both"),
            (router("fingerprint = \"12\""), "enforcer.toml:5:15", "64 hexadecimal"),
            ("[list]\nname = \"a b\"\n".to_owned(), "enforcer.toml:1:1", "a b"),
            ("[list]\ncomment = \"{host}\"\n".to_owned(), "enforcer.toml:1:1", "{jail}"),
            ("[router.edge]\naddress = \"\"\nuser = \"u\"\npassword = \"p\"\n".to_owned(), "enforcer.toml:2:11", "edge"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(place), "{text:?} gave {error:?}, not at {place}");
            assert!(error.contains(says), "{text:?} gave {error:?}, without {says:?}");
        }
    }
}
