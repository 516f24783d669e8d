//! A `[router.NAME]` table: one router, and how it is treated.

use std::fmt;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use atalaya_program::config_file::ConfigError;
use atalaya_wire::{Fingerprint, Name, Seconds};
use serde::Deserialize;
use toml::Spanned;

use super::checked;
use super::list::is_list_name;
use crate::desired::{ListConfig, Severity};
use crate::router::endpoint::{API_PORT, API_TLS_PORT};
use crate::router::{Endpoint, Password, RouterConfig};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRouter {
    address: Spanned<String>,
    port: Option<Spanned<u16>>,
    user: Spanned<String>,
    password: Option<Spanned<Hidden>>,
    password_file: Option<Spanned<PathBuf>>,
    tls: Option<Spanned<bool>>,
    fingerprint: Option<Spanned<Fingerprint>>,
    #[serde(default = "yes")]
    ipv6: bool,
    list: Option<Spanned<String>>,
    ipv6_list: Option<Spanned<String>>,
    #[serde(default)]
    jails: Vec<Name>,
    severity: Option<Severity>,
    max_entries: Option<Spanned<usize>>,
    window: Option<Spanned<usize>>,
    rate: Option<Spanned<u32>>,
    max_cpu: Option<Spanned<u8>>,
    reconcile: Option<Spanned<Seconds>>,
    #[serde(default)]
    read_only: bool,
}

/// How much a router is asked to do.
struct Limits {
    max_entries: Option<Spanned<usize>>,
    window: Option<Spanned<usize>>,
    rate: Option<Spanned<u32>>,
    max_cpu: Option<Spanned<u8>>,
    reconcile: Option<Spanned<Seconds>>,
}

/// A password that no error message repeats.
struct Hidden(String);

// === impl RawRouter ===

impl RawRouter {
    /// Whether a password is written in the file itself.
    pub(super) fn holds_password(&self) -> bool {
        self.password.is_some()
    }

    pub(super) fn check(
        self,
        name: &Name,
        whole: &Range<usize>,
        folder: &Path,
        list: &ListConfig,
        warnings: &mut Vec<String>,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<RouterConfig, ConfigError> {
        let wrong =
            |span: Range<usize>, message: &dyn fmt::Display| at(span, format!("router `{name}`: {message}"));
        let mut endpoint: Endpoint =
            self.address.get_ref().parse().map_err(|error| wrong(self.address.span(), &error))?;
        if let Some(port) = self.port {
            if *port.get_ref() == 0 || endpoint.port.is_some_and(|written| written != *port.get_ref()) {
                return Err(wrong(port.span(), &"expected a port from 1 to 65535, here or in `address`"));
            }
            endpoint.port = Some(port.into_inner());
        }
        if self.user.get_ref().is_empty() {
            return Err(wrong(self.user.span(), &"`user` is empty"));
        }
        let password = match (self.password, self.password_file) {
            (Some(password), None) if password.get_ref().0.is_empty() => {
                return Err(wrong(password.span(), &"`password` is empty: give the user one on the router"));
            }
            (Some(password), None) => password.into_inner().0,
            (None, Some(file)) => {
                let read = read_password(&folder.join(file.get_ref()), name, warnings);
                read.map_err(|error| wrong(file.span(), &error))?
            }
            (None, None) => {
                return Err(wrong(
                    whole.clone(),
                    &"it needs `password`, or `password_file` with the name of a file",
                ));
            }
            (Some(password), Some(_)) => {
                return Err(wrong(password.span(), &"both `password` and `password_file`; leave one"));
            }
        };
        // A fingerprint alone says enough.
        match (&self.tls, &self.fingerprint) {
            (Some(tls), None) if *tls.get_ref() => {
                return Err(wrong(
                    tls.span(),
                    &format_args!(
                        "TLS needs `fingerprint` too, the SHA-256 of the certificate that the router is known by; `openssl s_client -connect {} </dev/null | openssl x509 -noout -fingerprint -sha256` shows what it presents, `/certificate print detail` on the router what is right",
                        Endpoint { port: endpoint.port.or(Some(API_TLS_PORT)), ..endpoint.clone() }
                    ),
                ));
            }
            (Some(tls), Some(_)) if !*tls.get_ref() => {
                return Err(wrong(tls.span(), &"a fingerprint, but no TLS: leave one of the two lines away"));
            }
            (_, None) if endpoint.port == Some(API_TLS_PORT) => warnings.push(format!(
                "router {name}: port {API_TLS_PORT} is usually api-ssl's, which speaks TLS: set `fingerprint`, or the port of the plain API ({API_PORT})"
            )),
            (_, None) => warnings.push(format!(
                "router {name}: the API password crosses the network unencrypted; give the router a certificate, enable api-ssl, and set `fingerprint`"
            )),
            (_, Some(_)) if endpoint.port == Some(API_PORT) => warnings.push(format!(
                "router {name}: port {API_PORT} is usually the plain API's, and `fingerprint` asks for TLS: set the port of api-ssl ({API_TLS_PORT})"
            )),
            _ => {}
        }
        let mut config =
            RouterConfig::new(name.clone(), endpoint, self.user.into_inner(), Password::new(password));
        config.tls = self.fingerprint.map(Spanned::into_inner);
        let [name_v4, name_v6] = &list.names;
        let ours = checked(self.list, name_v4.clone(), at, is_list_name)?;
        // A list of its own is meant for both families, unless the other is named too.
        let other = if ours == *name_v4 { name_v6.clone() } else { ours.clone() };
        config.lists = [ours, checked(self.ipv6_list, other, at, is_list_name)?];
        config.mark.clone_from(&list.mark);
        config.ipv6 = self.ipv6;
        config.jails = self.jails;
        config.read_only = self.read_only;
        config.severity = self.severity.unwrap_or(Severity::Low);
        let limits = Limits {
            max_entries: self.max_entries,
            window: self.window,
            rate: self.rate,
            max_cpu: self.max_cpu,
            reconcile: self.reconcile,
        };
        limits.set(&mut config, wrong)?;
        Ok(config)
    }
}

/// The one line of a password file. A file that others may read is warned of.
fn read_password(path: &Path, router: &Name, warnings: &mut Vec<String>) -> Result<String, String> {
    let path_shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path_shown}: {error}"))?;
    let mut lines = text.lines();
    let password = lines.next().unwrap_or_default();
    if password.is_empty() {
        return Err(format!(
            "{path_shown} is empty, or begins with an empty line; expected the password on its only line"
        ));
    }
    if lines.any(|line| !line.is_empty()) {
        return Err(format!("{path_shown} has more than one line; expected the password alone"));
    }
    let readable = path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
    if readable {
        warnings.push(format!(
            "router {router}: everyone on this host can read the password in {path_shown}: chmod 600 it"
        ));
    }
    Ok(password.to_owned())
}

// === impl Limits ===

impl Limits {
    fn set(
        self,
        config: &mut RouterConfig,
        wrong: impl Fn(Range<usize>, &dyn fmt::Display) -> ConfigError,
    ) -> Result<(), ConfigError> {
        if let Some(window) = self.window {
            if !(1..=1024).contains(window.get_ref()) {
                let message = format!("window is {}; expected 1 to 1024", window.get_ref());
                return Err(wrong(window.span(), &message));
            }
            config.window = window.into_inner();
        }
        if let Some(most) = self.max_entries {
            if *most.get_ref() == 0 {
                return Err(wrong(
                    most.span(),
                    &"max_entries is 0; expected how many entries the router may hold",
                ));
            }
            config.max_entries = Some(most.into_inner());
        }
        if let Some(rate) = self.rate {
            if *rate.get_ref() == 0 {
                return Err(wrong(rate.span(), &"rate is 0; expected the most commands a second"));
            }
            config.rate = Some(rate.into_inner());
        }
        if let Some(load) = self.max_cpu {
            if !(10..=100).contains(load.get_ref()) {
                let message = format!("max_cpu is {}; expected 10 to 100 per cent", load.get_ref());
                return Err(wrong(load.span(), &message));
            }
            config.max_cpu = load.into_inner();
        }
        if let Some(every) = self.reconcile {
            if !(10..=86_400).contains(&every.get_ref().0) {
                return Err(wrong(every.span(), &"reconcile: expected 10s to 1d"));
            }
            config.reconcile_every = every.get_ref().duration();
        }
        Ok(())
    }
}

// === impl Hidden ===

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom("a password is text in quotes")),
        }
    }
}

fn yes() -> bool {
    true
}
