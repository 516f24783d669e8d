//! One jail of `sensor.toml`, as it is written, and what is wrong with it. What goes with a source, what holds for it where
//! nothing is said and what is wrong with its settings are its [`SourceRules`]: a new source is a new variant of
//! [`RawSource`] with rules of its own, and what it has to be told is a new key of [`RawJail`].

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;

use atalaya_program::config_file::ConfigError;
use atalaya_wire::{BanTime, Escalation, EscalationTable, Name, Seconds};
use serde::Deserialize;
use toml::Spanned;

use super::filters::Filters;
use super::{RawDefaults, yes};
use crate::confine::logs::{PathPattern, exists};
use crate::date;
use crate::filter::{Filter, FilterDefinition};
use crate::jail::ignore::{IgnoreCommand, IgnoreList};
use crate::jail::ports::{self, Ports};
use crate::jail::settings::JailConfig;
use crate::jail::source::JailSource;
use crate::jail::{KEPT, Policy, ScanPolicy};
use crate::source::journal::{JournalMatch, JournalPlace, Namespace, WantedJournal};

mod filter;

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
    journalpath: Option<Spanned<PathBuf>>,
    journalfiles: Option<Spanned<OneOrMany>>,
    namespace: Option<Spanned<String>>,
    journalflags: Option<Spanned<u32>>,
    logtimezone: Option<String>,
    maxretry: Option<u32>,
    findtime: Option<Seconds>,
    bantime: Option<BanTime>,
    decay: Option<Spanned<bool>>,
    escalate: Option<Escalate>,
    #[serde(default)]
    ignore: IgnoreList,
    ignorecommand: Option<String>,
    ignoreself: Option<bool>,
    ipv6_prefix: Option<u8>,
}

/// Where a jail looks for failures, as `source` says it.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawSource {
    Logins,
    Connections,
    Scan,
    Files,
    Journal,
    Syslog,
    SyslogCalls,
    /// Nothing is said: files where there are any, else the journal.
    #[default]
    #[serde(skip)]
    Lines,
}

/// What is particular to jails of one source.
struct SourceRules {
    /// The keys that go with it, in groups, of those that go with some sources and not with others.
    keys: &'static [&'static [&'static str]],
    /// What holds where nothing is said, made of what holds for all jails.
    standard: fn(&RawJail, &RawDefaults, Policy) -> Policy,
    /// What `maxretry` may be.
    maxretry: RangeInclusive<u32>,
    /// The longest `findtime`, in seconds.
    longest: u64,
    /// The ports that it speaks of, where it names none.
    ports: fn(&RawJail, &Name) -> Vec<u16>,
    /// Reads its settings.
    read: fn(&RawJail, &Whose<'_>) -> Result<JailSource, ConfigError>,
}

/// Whose settings are read, and how a mistake in them is told.
struct Whose<'a> {
    name: &'a Name,
    /// Where a filter may be found by its name.
    filters: &'a Filters,
    /// A mistake at a place of the file.
    at: &'a dyn Fn(Range<usize>, String) -> ConfigError,
    /// A mistake of the jail as a whole.
    wrong: &'a dyn Fn(String) -> ConfigError,
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

// === impl RawSource ===

impl RawSource {
    fn rules(self) -> &'static SourceRules {
        match self {
            Self::Logins => &LOGINS,
            Self::Connections => &CONNECTIONS,
            Self::Scan => &SCAN,
            Self::Files => &FILES,
            Self::Journal => &JOURNAL,
            Self::Syslog => &SYSLOG,
            Self::SyslogCalls => &SYSLOG_CALLS,
            Self::Lines => &LINES,
        }
    }
}

static LOGINS: SourceRules = SourceRules {
    keys: &[&["services", "ports", "decay"]],
    standard: of_failures,
    maxretry: FAILURES,
    longest: u64::MAX,
    ports: |jail, _| match many(jail.services.as_ref()).as_slice() {
        [] => ports::of_logins(),
        services => services.iter().flat_map(|service| ports::of(service)).copied().collect(),
    },
    read: |jail, _| Ok(JailSource::Logins { services: many(jail.services.as_ref()) }),
};

static CONNECTIONS: SourceRules = SourceRules {
    keys: &[&["ports", "short"]],
    standard: |jail, _, standard| {
        let (maxretry, findtime) = if jail.short.is_some() { (10, 600) } else { (30, 60) };
        Policy { maxretry, findtime: Seconds(findtime), ..standard }
    },
    maxretry: 1..=100_000,
    longest: LONGEST_WINDOW,
    ports: |_, _| Vec::new(),
    read: |jail, whose| match &jail.short {
        Some(short) if short.get_ref().0 == 0 => {
            let right = "`short` is 0; expected at least one second, such as \"10s\"";
            Err((whose.at)(short.span(), right.to_owned()))
        }
        short => Ok(JailSource::Connections { short: short.as_ref().map(|short| *short.get_ref()) }),
    },
};

static SCAN: SourceRules = SourceRules {
    keys: &[&["unverified", "interfaces"]],
    standard: |_, _, standard| of_scans(standard),
    maxretry: PORTS,
    longest: LONGEST_WINDOW,
    ports: |_, _| Vec::new(),
    read: |jail, whose| {
        let place = jail.interfaces.as_ref().map(Spanned::span).unwrap_or_default();
        let interfaces = many(jail.interfaces.as_ref());
        if let Some(name) = interfaces.iter().find(|name| !is_interface(name)) {
            let message = format!("`{name}` is no name of a network interface, such as `eth0`");
            return Err((whose.at)(place, message));
        }
        Ok(JailSource::Scan {
            unverified: jail.unverified.as_ref().is_some_and(|unverified| *unverified.get_ref()),
            interfaces,
        })
    },
};

static FILES: SourceRules = SourceRules { keys: &[FILTER, &["paths"]], ..OF_LINES };

static JOURNAL: SourceRules = SourceRules {
    keys: &[FILTER, JOURNALS],
    read: |jail, whose| {
        let (filter, definition) = jail.filter(whose)?;
        Ok(JailSource::Journal { wanted: journal(jail, &definition, whose)?, filter })
    },
    ..OF_LINES
};

static SYSLOG: SourceRules = SourceRules {
    keys: &[FILTER],
    read: |jail, whose| Ok(JailSource::Syslog { filter: jail.filter(whose)?.0 }),
    ..OF_LINES
};

static SYSLOG_CALLS: SourceRules = SourceRules {
    keys: &[FILTER, &["services"]],
    read: |jail, whose| {
        let (filter, _) = jail.filter(whose)?;
        Ok(JailSource::SyslogCalls { programs: many(jail.services.as_ref()), filter })
    },
    ..OF_LINES
};

static LINES: SourceRules = SourceRules {
    keys: &[FILTER, JOURNALS, &["paths"]],
    read: |jail, whose| {
        let (filter, definition) = jail.filter(whose)?;
        let wanted = journal(jail, &definition, whose)?;
        // Files that are there are read; a host without them has the journal.
        let has_files = jail.paths.is_some() || definition.paths.iter().any(|path| exists(path));
        if jail.names_journal() || !has_files && !definition.journalmatch.is_empty() {
            return Ok(JailSource::Journal { wanted, filter });
        }
        files(jail, whose, filter, definition)
    },
    ..OF_LINES
};

/// What all jails have in common that read lines.
const OF_LINES: SourceRules = SourceRules {
    keys: &[],
    standard: of_failures,
    maxretry: FAILURES,
    longest: u64::MAX,
    ports: |jail, name| {
        let named = jail.filter.as_ref().and_then(|filter| filter.get_ref().split('[').next());
        ports::of_jail(named.unwrap_or(name.as_str())).to_vec()
    },
    read: |jail, whose| {
        let (filter, definition) = jail.filter(whose)?;
        files(jail, whose, filter, definition)
    },
};

/// The keys of a jail that reads lines.
const FILTER: &[&str] =
    &["filter", "mode", "prefregex", "failregex", "ignoreregex", "datepattern", "ports", "decay", UNVERIFIED];
/// Of those, the one that goes with a filter that counts ports alone.
const UNVERIFIED: &str = "unverified";

/// The keys of a jail that reads a journal.
const JOURNALS: &[&str] = &["journalmatch", "journalpath", "journalfiles", "namespace", "journalflags"];

/// How many failures an offence may take.
const FAILURES: RangeInclusive<u32> = 1..=KEPT;

/// How many different ports an offence may take.
const PORTS: RangeInclusive<u32> = 2..=20;

/// What holds for those who try ports. The ban is short, for they may do it in another's name.
fn of_scans(standard: Policy) -> Policy {
    let bantime = BanTime::For(Seconds(600));
    Policy { maxretry: 10, findtime: Seconds(60), bantime, ..standard }
}

/// Those of `[defaults]` speak of failures: how many connections, or ports, are too many is another matter.
fn of_failures(_: &RawJail, defaults: &RawDefaults, standard: Policy) -> Policy {
    Policy {
        maxretry: defaults.maxretry.unwrap_or(standard.maxretry),
        findtime: defaults.findtime.unwrap_or(standard.findtime),
        ..standard
    }
}

/// Which journal a jail reads, and what of it.
fn journal(
    jail: &RawJail,
    definition: &FilterDefinition,
    whose: &Whose<'_>,
) -> Result<WantedJournal, ConfigError> {
    let entries = JournalMatch::parse(definition.journalmatch.iter().map(String::as_str));
    let entries = entries.map_err(whose.wrong)?;
    let mut place = JournalPlace::default();
    if let Some(folder) = &jail.journalpath {
        let path = folder.get_ref();
        let problem = if jail.journalfiles.is_some() {
            Some(
                "`journalpath` and `journalfiles` cannot both be: name the files, or their folder".to_owned(),
            )
        } else if path.is_absolute() {
            None
        } else {
            Some(format!("the path `{}` is not absolute: begin it with `/`", path.display()))
        };
        if let Some(problem) = problem {
            return Err((whose.at)(folder.span(), problem));
        }
        place.folder = Some(path.clone());
    }
    if let Some(files) = &jail.journalfiles {
        place.files = many(Some(files));
        let problem = place.files.iter().find_map(|path| Some((path, PathPattern::new(path).err()?)));
        let problem = problem.map(|(path, problem)| format!("the path `{path}` cannot be used: {problem}"));
        let empty = || place.files.is_empty().then(|| "`journalfiles` is empty".to_owned());
        if let Some(problem) = problem.or_else(empty) {
            return Err((whose.at)(files.span(), problem));
        }
    }
    if let Some(namespace) = &jail.namespace {
        let read = Namespace::parse(namespace.get_ref());
        place.namespace = read.map_err(|problem| (whose.at)(namespace.span(), problem))?;
    }
    if let Some(flags) = &jail.journalflags {
        place.set_flags(*flags.get_ref()).map_err(|problem| (whose.at)(flags.span(), problem))?;
    }
    Ok(WantedJournal { place, entries })
}

fn files(
    jail: &RawJail,
    whose: &Whose<'_>,
    filter: Filter,
    definition: FilterDefinition,
) -> Result<JailSource, ConfigError> {
    let wrong = |message: String| match &jail.paths {
        Some(paths) => (whose.at)(paths.span(), message),
        None => (whose.wrong)(message),
    };
    let paths = definition.paths;
    if paths.is_empty() {
        return Err(wrong(match jail.paths {
            Some(_) => "`paths` is empty".to_owned(),
            None => "it reads files and needs `paths`, such as [\"/var/log/syslog\"]".to_owned(),
        }));
    }
    if let Some(relative) = paths.iter().find(|path| !path.starts_with('/')) {
        return Err(wrong(format!("the path `{relative}` is not absolute: begin it with `/`")));
    }
    Ok(JailSource::Files { paths, filter })
}

// === impl RawJail ===

impl RawJail {
    /// Checks it. `filters` is where its filter may be found by name; `at` makes an error
    /// at a place of the file, `wrong` one of this jail.
    pub(super) fn check(
        self,
        name: &Name,
        defaults: &RawDefaults,
        ignore_self: bool,
        filters: &Filters,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
        wrong: &impl Fn(String) -> ConfigError,
    ) -> Result<JailConfig, ConfigError> {
        let rules = self.source.as_ref().map_or(RawSource::default(), |source| *source.get_ref()).rules();
        if let Some((key, span)) = self.given().find(|(key, _)| !rules.takes(key)) {
            let message =
                format!("`{key}` does not go with this jail's source; remove it, or choose another source");
            return Err(at(span, message));
        }
        let source = (rules.read)(&self, &Whose { name, filters, at, wrong })?;
        if let Some(unverified) = &self.unverified
            && source.filter().is_some()
            && !source.is_scan_of_lines()
        {
            let message = format!(
                "`{UNVERIFIED}` goes with filters that count ports alone, such as routeros-drop; remove it, or choose another filter"
            );
            return Err(at(unverified.span(), message));
        }
        let policy = self.policy(name, rules, defaults, &source).map_err(wrong)?;
        let ports = match &self.ports {
            Some(ports) => ports.get_ref().read().map_err(|message| at(ports.span(), message))?,
            None => (rules.ports)(&self, name),
        };
        let zone = self.logtimezone.as_deref().map(date::zone).transpose().map_err(wrong)?;
        let mut ignore = self.ignore.clone();
        ignore.names.extend(defaults.ignore.names.iter().cloned());
        ignore.files.extend(defaults.ignore.files.iter().cloned());
        let ignorecommand = self.ignorecommand.as_deref().map(|line| Arc::new(IgnoreCommand::new(line)));
        let ignore_self = self.ignoreself.unwrap_or(ignore_self);
        Ok(JailConfig { policy, source, ports, zone, ignore, ignorecommand, ignore_self })
    }

    /// Whether it says which journal is read.
    fn names_journal(&self) -> bool {
        self.journalpath.is_some()
            || self.journalfiles.is_some()
            || self.namespace.is_some()
            || self.journalflags.is_some()
    }

    /// The keys that it has, each with its place, of those that do not go with all sources.
    fn given(&self) -> impl Iterator<Item = (&'static str, Range<usize>)> {
        fn span<T>(value: Option<&Spanned<T>>) -> Option<Range<usize>> {
            value.map(Spanned::span)
        }
        let keys = [
            ("services", span(self.services.as_ref())),
            ("ports", span(self.ports.as_ref())),
            ("short", span(self.short.as_ref())),
            ("unverified", span(self.unverified.as_ref())),
            ("interfaces", span(self.interfaces.as_ref())),
            ("filter", span(self.filter.as_ref())),
            ("mode", span(self.mode.as_ref())),
            ("paths", span(self.paths.as_ref())),
            ("prefregex", span(self.prefregex.as_ref())),
            ("failregex", span(self.failregex.as_ref())),
            ("ignoreregex", span(self.ignoreregex.as_ref())),
            ("datepattern", span(self.datepattern.as_ref())),
            ("journalmatch", span(self.journalmatch.as_ref())),
            ("journalpath", span(self.journalpath.as_ref())),
            ("journalfiles", span(self.journalfiles.as_ref())),
            ("namespace", span(self.namespace.as_ref())),
            ("journalflags", span(self.journalflags.as_ref())),
            ("decay", span(self.decay.as_ref())),
        ];
        keys.into_iter().filter_map(|(key, span)| Some((key, span?)))
    }

    fn policy(
        &self,
        name: &Name,
        rules: &SourceRules,
        defaults: &RawDefaults,
        source: &JailSource,
    ) -> Result<Policy, String> {
        let standard = Policy::new(name.clone());
        let bantime = defaults.bantime.unwrap_or(standard.bantime);
        let standard = Policy { bantime, ..standard };
        let counts_ports = source.is_scan() || source.is_scan_of_lines();
        let standard =
            if counts_ports { of_scans(standard) } else { (rules.standard)(self, defaults, standard) };
        let unverified = self.unverified.as_ref().is_some_and(|unverified| *unverified.get_ref());
        let mut ignore = defaults.ignore.networks.clone();
        ignore.extend(self.ignore.networks.iter());
        let policy = Policy {
            maxretry: self.maxretry.unwrap_or(standard.maxretry),
            findtime: self.findtime.unwrap_or(standard.findtime),
            bantime: self.bantime.unwrap_or(standard.bantime),
            decay: !counts_ports && self.decay.as_ref().map_or(standard.decay, |decay| *decay.get_ref()),
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
            scan: counts_ports.then_some(ScanPolicy { unverified }),
            ..standard
        };
        check_ipv6_prefix(policy.ipv6_prefix)?;
        let retries = if counts_ports { &PORTS } else { &rules.maxretry };
        let (least, most) = (*retries.start(), *retries.end());
        if policy.maxretry < least || (policy.maxretry > most && !policy.decay) {
            let decay = if most == KEPT { ", or more with `decay = true`" } else { "" };
            return Err(format!("maxretry is {}; expected {least} to {most}{decay}", policy.maxretry));
        }
        if policy.findtime.0 > rules.longest {
            return Err(format!(
                "findtime is {}; the kernel counts over at most {}",
                policy.findtime,
                Seconds(rules.longest)
            ));
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
}

// === impl SourceRules ===

impl SourceRules {
    fn takes(&self, key: &str) -> bool {
        self.keys.iter().any(|keys| keys.contains(&key))
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

fn many(value: Option<&Spanned<OneOrMany>>) -> Vec<String> {
    match value.map(Spanned::get_ref) {
        Some(OneOrMany::One(text)) => vec![text.clone()],
        Some(OneOrMany::Many(texts)) => texts.clone(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_that_goes_with_a_source_is_one_whose_place_is_known() {
        let jail: RawJail = toml::from_str(
            "services = 'x'\nports = 22\nshort = 1\nunverified = true\ninterfaces = 'x'\nfilter = 'x'\nmode = 'x'\npaths = 'x'\n\
             prefregex = 'x'\nfailregex = 'x'\nignoreregex = 'x'\ndatepattern = 'x'\njournalmatch = 'x'\njournalpath = 'x'\njournalfiles = 'x'\nnamespace = 'x'\njournalflags = 4\ndecay = true\n",
        )
        .unwrap();
        let given: Vec<&str> = jail.given().map(|(key, _)| key).collect();
        for rules in [&LOGINS, &CONNECTIONS, &SCAN, &FILES, &JOURNAL, &SYSLOG, &SYSLOG_CALLS, &LINES] {
            for key in rules.keys.iter().copied().flatten() {
                assert!(given.contains(key), "{key}");
            }
        }
    }
}
