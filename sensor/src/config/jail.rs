//! One jail of `sensor.toml`, as it is written, and what is wrong with it.

use std::ops::Range;
use std::sync::Arc;

use atalaya_wire::{BanTime, Escalation, EscalationTable, Name, Seconds};
use serde::Deserialize;
use toml::Spanned;

use super::filters::Filters;
use super::{ConfigError, RawDefaults, yes};
use crate::date;
use crate::filter::catalogue;
use crate::filter::{FilterDefinition, FilterError};
use crate::jail::Policy;
use crate::jail::ignore::{IgnoreCommand, IgnoreList};
use crate::jail::ports::{self, Ports};
use crate::jail::settings::JailConfig;
use crate::jail::source::JailSource;
use crate::source::files::exists;
use crate::source::journal::JournalMatch;

/// The most lines that a regex may see at once.
const MOST_LINES: u32 = 1000;
/// The longest time over which the kernel counts, in seconds: a week.
const LONGEST_WINDOW: u64 = 7 * 86_400;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJail {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    source: Option<Spanned<RawSource>>,
    services: Option<Spanned<OneOrMany>>,
    ports: Option<Spanned<Ports>>,
    short: Option<Spanned<Seconds>>,
    unverified: Option<Spanned<bool>>,
    interfaces: Option<Spanned<OneOrMany>>,
    pub(super) filter: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
    paths: Option<Spanned<OneOrMany>>,
    prefregex: Option<Spanned<String>>,
    failregex: Option<Spanned<OneOrMany>>,
    ignoreregex: Option<Spanned<OneOrMany>>,
    datepattern: Option<Spanned<OneOrMany>>,
    maxlines: Option<u32>,
    journalmatch: Option<Spanned<OneOrMany>>,
    logtimezone: Option<String>,
    maxretry: Option<u32>,
    findtime: Option<Seconds>,
    bantime: Option<BanTime>,
    decay: Option<bool>,
    escalate: Option<Escalate>,
    #[serde(default)]
    ignore: IgnoreList,
    ignorecommand: Option<String>,
    ignoreself: Option<bool>,
    ipv6_prefix: Option<u8>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum RawSource {
    Logins,
    Connections,
    Scan,
    Files,
    Journal,
    Syslog,
    #[serde(rename = "syslog-calls")]
    SyslogCalls,
}

/// `escalate = true`, or a table of what is other than usual.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Escalate {
    Usual(bool),
    Table(EscalationTable),
}

/// A string, or a list of strings.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

// === impl RawJail ===

impl RawJail {
    /// Checks it. `filters` are those that it may name; `at` makes an error
    /// at a place of the file, `wrong` one of this jail.
    pub(super) fn check(
        self,
        name: &Name,
        defaults: &RawDefaults,
        ignore_self: bool,
        filters: &Filters,
        at: impl Fn(Range<usize>, String) -> ConfigError,
        wrong: &impl Fn(String) -> ConfigError,
    ) -> Result<JailConfig, ConfigError> {
        let policy = self.policy(name, defaults).map_err(wrong)?;
        let ports = self.ports(name, &at)?;
        let zone = self.logtimezone.as_deref().map(date::zone).transpose().map_err(wrong)?;
        let mut ignore = self.ignore.clone();
        ignore.names.extend(defaults.ignore.names.iter().cloned());
        ignore.files.extend(defaults.ignore.files.iter().cloned());
        let ignorecommand = self.ignorecommand.as_deref().map(|line| Arc::new(IgnoreCommand::new(line)));
        let ignore_self = self.ignoreself.unwrap_or(ignore_self);
        let source = self.source(name, filters, at, wrong)?;
        Ok(JailConfig { policy, source, ports, zone, ignore, ignorecommand, ignore_self })
    }

    /// What the jail guards, or speaks of.
    fn ports(
        &self,
        name: &Name,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<Vec<u16>, ConfigError> {
        if let Some(ports) = &self.ports {
            return ports.get_ref().read().map_err(|message| at(ports.span(), message));
        }
        if matches!(self.kind(), Some(RawSource::Connections | RawSource::Scan)) {
            return Ok(Vec::new());
        }
        if self.kind() == Some(RawSource::Logins) {
            let services = many(self.services.clone());
            return Ok(match services.as_slice() {
                [] => ports::of_logins(),
                services => services.iter().flat_map(|service| ports::of(service)).copied().collect(),
            });
        }
        let filter =
            self.filter.as_ref().map(|filter| filter.get_ref().split('[').next().unwrap_or_default());
        Ok(ports::of_jail(filter.unwrap_or(name.as_str())).to_vec())
    }

    fn kind(&self) -> Option<RawSource> {
        self.source.as_ref().map(|source| *source.get_ref())
    }

    /// What holds where nothing is said. Those of `[defaults]` speak of failures: how many connections, or
    /// ports, are too many is another matter.
    fn standard(&self, name: &Name, defaults: &RawDefaults) -> Policy {
        let standard = Policy::new(name.clone());
        let bantime = defaults.bantime.unwrap_or(standard.bantime);
        match self.kind() {
            Some(RawSource::Connections) if self.short.is_some() => {
                Policy { maxretry: 10, findtime: Seconds(600), bantime, ..standard }
            }
            Some(RawSource::Connections) => {
                Policy { maxretry: 30, findtime: Seconds(60), bantime, ..standard }
            }
            // Short, for whoever touches closed ports may do it in another's name.
            Some(RawSource::Scan) => Policy {
                maxretry: 10,
                findtime: Seconds(60),
                bantime: BanTime::For(Seconds(600)),
                ..standard
            },
            _ => Policy {
                maxretry: defaults.maxretry.unwrap_or(standard.maxretry),
                findtime: defaults.findtime.unwrap_or(standard.findtime),
                bantime,
                ..standard
            },
        }
    }

    fn policy(&self, name: &Name, defaults: &RawDefaults) -> Result<Policy, String> {
        let standard = self.standard(name, defaults);
        let mut ignore = defaults.ignore.networks.clone();
        ignore.extend(self.ignore.networks.iter());
        let policy = Policy {
            maxretry: self.maxretry.unwrap_or(standard.maxretry),
            findtime: self.findtime.unwrap_or(standard.findtime),
            bantime: self.bantime.unwrap_or(standard.bantime),
            decay: self.decay.unwrap_or(standard.decay),
            escalation: match &self.escalate {
                None | Some(Escalate::Usual(false)) => None,
                Some(Escalate::Usual(true)) => Some(escalation(EscalationTable::default())?),
                Some(Escalate::Table(table)) => Some(escalation(table.clone())?),
            },
            ignore,
            ipv6_prefix: self
                .ipv6_prefix
                .or(defaults.ipv6_prefix.as_ref().map(|bits| *bits.get_ref()))
                .unwrap_or(standard.ipv6_prefix),
            ..standard
        };
        check_ipv6_prefix(policy.ipv6_prefix)?;
        let allowed = match self.kind() {
            Some(RawSource::Connections) => 1..=100_000,
            Some(RawSource::Scan) => 2..=20,
            _ => 1..=1000,
        };
        if !allowed.contains(&policy.maxretry) {
            let (least, most) = allowed.into_inner();
            return Err(format!("maxretry is {}; expected {least} to {most}", policy.maxretry));
        }
        if matches!(self.kind(), Some(RawSource::Connections | RawSource::Scan)) {
            if policy.findtime.0 > LONGEST_WINDOW {
                return Err(format!(
                    "findtime is {}; the kernel counts over at most {}",
                    policy.findtime,
                    Seconds(LONGEST_WINDOW)
                ));
            }
            if self.decay.is_some() {
                return Err("`decay` does not go with this jail's source; remove it".to_owned());
            }
        }
        if policy.findtime.0 == 0 {
            return Err("findtime is 0; expected at least one second, such as \"10m\"".to_owned());
        }
        if policy.bantime == BanTime::For(Seconds(0)) {
            return Err(
                "bantime is 0; expected at least one second, such as \"30m\", or \"permanent\"".to_owned()
            );
        }
        Ok(policy)
    }

    fn source(
        self,
        name: &Name,
        filters: &Filters,
        at: impl Fn(Range<usize>, String) -> ConfigError,
        wrong: &impl Fn(String) -> ConfigError,
    ) -> Result<JailSource, ConfigError> {
        let misplaced = |key: &str, place: Option<Range<usize>>| match place {
            Some(span) => Err(at(
                span,
                format!("`{key}` does not go with this jail's source; remove it, or choose another source"),
            )),
            None => Ok(()),
        };
        let span = |value: &Option<Spanned<OneOrMany>>| value.as_ref().map(Spanned::span);
        let source = self.kind();
        if source != Some(RawSource::Connections) {
            misplaced("short", self.short.as_ref().map(Spanned::span))?;
        }
        if source != Some(RawSource::Scan) {
            misplaced("unverified", self.unverified.as_ref().map(Spanned::span))?;
            misplaced("interfaces", span(&self.interfaces))?;
        }
        if matches!(source, Some(RawSource::Logins | RawSource::Connections | RawSource::Scan)) {
            misplaced("filter", self.filter.as_ref().map(Spanned::span))?;
            misplaced("mode", self.mode.as_ref().map(Spanned::span))?;
            misplaced("paths", span(&self.paths))?;
            misplaced("prefregex", self.prefregex.as_ref().map(Spanned::span))?;
            misplaced("failregex", span(&self.failregex))?;
            misplaced("ignoreregex", span(&self.ignoreregex))?;
            misplaced("datepattern", span(&self.datepattern))?;
            misplaced("journalmatch", span(&self.journalmatch))?;
        }
        if source == Some(RawSource::Logins) {
            return Ok(JailSource::Logins { services: many(self.services) });
        }
        if source != Some(RawSource::SyslogCalls) {
            misplaced("services", span(&self.services))?;
        }
        if source == Some(RawSource::Connections) {
            if let Some(short) = self.short.as_ref().filter(|short| short.get_ref().0 == 0) {
                return Err(at(
                    short.span(),
                    "`short` is 0; expected at least one second, such as \"10s\"".to_owned(),
                ));
            }
            return Ok(JailSource::Connections { short: self.short.map(Spanned::into_inner) });
        }
        if source == Some(RawSource::Scan) {
            misplaced("ports", self.ports.as_ref().map(Spanned::span))?;
            let interfaces = many(self.interfaces.clone());
            if let (Some(name), Some(span)) =
                (interfaces.iter().find(|name| !is_interface(name)), span(&self.interfaces))
            {
                return Err(at(span, format!("`{name}` is no name of a network interface, such as `eth0`")));
            }
            let unverified = self.unverified.is_some_and(Spanned::into_inner);
            return Ok(JailSource::Scan { unverified, interfaces });
        }
        if source != Some(RawSource::Journal) && source.is_some() {
            misplaced("journalmatch", span(&self.journalmatch))?;
        }
        if matches!(source, Some(RawSource::Journal | RawSource::Syslog | RawSource::SyslogCalls)) {
            misplaced("paths", span(&self.paths))?;
        }
        let definition = self.definition(name, filters, &at, wrong)?;
        let place = span(&self.failregex).or_else(|| self.prefregex.as_ref().map(Spanned::span));
        let filter = definition.compile().map_err(|error| match (&error, place) {
            (FilterError::Date(_), _) | (_, None) => wrong(error.to_string()),
            (_, Some(place)) => at(place, error.to_string()),
        })?;
        let wanted =
            JournalMatch::parse(definition.journalmatch.iter().map(String::as_str)).map_err(wrong)?;
        let paths = definition.paths;
        // Files that are there are read; a host without them has the journal.
        let has_files = self.paths.is_some() || paths.iter().any(|path| exists(path));
        match source {
            Some(RawSource::Syslog) => Ok(JailSource::Syslog { filter }),
            Some(RawSource::SyslogCalls) => {
                Ok(JailSource::SyslogCalls { programs: many(self.services), filter })
            }
            Some(RawSource::Journal) => Ok(JailSource::Journal { wanted, filter }),
            None if !has_files && !definition.journalmatch.is_empty() => {
                Ok(JailSource::Journal { wanted, filter })
            }
            _ if paths.is_empty() => Err(match span(&self.paths) {
                Some(span) => at(span, "`paths` is empty".to_owned()),
                None => wrong("it reads files and needs `paths`, such as [\"/var/log/syslog\"]".to_owned()),
            }),
            _ => {
                if let Some(relative) = paths.iter().find(|path| !path.starts_with('/')) {
                    let message = format!("the path `{relative}` is not absolute: begin it with `/`");
                    return Err(span(&self.paths)
                        .map_or_else(|| wrong(message.clone()), |span| at(span, message.clone())));
                }
                Ok(JailSource::Files { paths, filter })
            }
        }
    }

    /// The filter as the jail has it: a named one, or ours of the jail's own name, with what the jail
    /// says in its place.
    fn definition(
        &self,
        name: &Name,
        filters: &Filters,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
        wrong: &impl Fn(String) -> ConfigError,
    ) -> Result<FilterDefinition, ConfigError> {
        let mode = self.mode.as_ref().map(|mode| mode.get_ref().as_str());
        let at_mode = |message: String| match &self.mode {
            Some(mode) => at(mode.span(), message),
            None => wrong(message),
        };
        let mut definition = match &self.filter {
            Some(named) => {
                filters.find(named.get_ref(), mode).map_err(|message| at(named.span(), message))?
            }
            None if self.failregex.is_none() => {
                let filter = filters.known(name.as_str()).map_err(wrong)?.ok_or_else(|| {
                    wrong(format!(
                        "it reads lines and needs a `failregex`, such as '^.*\\[<HOST>\\].*authentication failed', or a `filter`: {}",
                        catalogue::names().collect::<Vec<_>>().join(", ")
                    ))
                })?;
                filter.in_mode(mode.unwrap_or_default()).map_err(at_mode)?
            }
            None if mode.is_some() => {
                return Err(at_mode("a `mode` is a filter's; name the `filter`".to_owned()));
            }
            None => FilterDefinition::default(),
        };
        let list = |value: &Option<Spanned<OneOrMany>>, of: &mut Vec<String>| {
            if value.is_some() {
                *of = many(value.clone());
            }
        };
        list(&self.failregex, &mut definition.failregex);
        list(&self.ignoreregex, &mut definition.ignoreregex);
        list(&self.paths, &mut definition.paths);
        list(&self.journalmatch, &mut definition.journalmatch);
        if let Some(prefregex) = &self.prefregex {
            definition.prefregex = Some(prefregex.get_ref().clone());
        }
        if self.datepattern.is_some() {
            definition.datepattern = Some(many(self.datepattern.clone()).join("\n"));
        }
        if let Some(lines) = self.maxlines {
            if !(1..=MOST_LINES).contains(&lines) {
                return Err(wrong(format!("maxlines is {lines}; expected 1 to {MOST_LINES}")));
            }
            definition.maxlines = lines;
        }
        Ok(definition)
    }
}

fn escalation(table: EscalationTable) -> Result<Escalation, String> {
    Escalation::try_from(table).map_err(|error| format!("escalate: {error}"))
}

/// Whether the kernel lets an interface have this name.
fn is_interface(name: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_graphic() && !"/:".contains(c);
    (1..16).contains(&name.len()) && name.chars().all(is_fine) && !matches!(name, "." | "..")
}

/// Refuses what is no network of one IPv6 host.
pub(super) fn check_ipv6_prefix(bits: u8) -> Result<(), String> {
    if (64..=128).contains(&bits) {
        return Ok(());
    }
    Err(format!(
        "ipv6_prefix is {bits}; expected 64 (all that one host has) to 128 (every address by itself)"
    ))
}

fn many(value: Option<Spanned<OneOrMany>>) -> Vec<String> {
    match value.map(Spanned::into_inner) {
        Some(OneOrMany::One(text)) => vec![text],
        Some(OneOrMany::Many(texts)) => texts,
        None => Vec::new(),
    }
}
