//! `sensor.toml`: what the administrator wrote, checked and with defaults filled in. A mistake is
//! reported with file, line and column, what was found and what would be right.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use atalaya_program::config_file::{self, ConfigError, ConfigFile};
use atalaya_program::metrics::MetricsConfig;
use atalaya_sensor_ebpf::connections::{CONNECTION_JAILS, PORTS, SCAN_RULES, WATCHERS};
use atalaya_wire::{BanTime, Name, Nat64, Networks, Seconds, reserved};
use jiff::tz::TimeZone;
use serde::Deserialize;
use toml::Spanned;

use crate::channel::logins::Verdicts;
use crate::fail2ban;
use crate::filter::Filter;
use crate::jail::ignore::IgnoreList;
use crate::jail::settings::JailConfig;
use crate::jail::source::{guarded_ports, spoken_of};
use crate::source::journal::JournalPlace;
use atalaya_program::count::{agreeing, counted};

mod filters;
mod jail;
mod local_drop;
mod reach;

pub use filters::{Filters, read_file as read_filter_file};
use jail::RawJail;
pub use local_drop::LocalDropConfig;
use local_drop::RawLocalDrop;

/// Where the configuration is, unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/atalaya/sensor.toml";

/// The port of loopback on which figures are told where `[metrics]` says nothing else.
const METRICS_PORT: u16 = 8445;

/// The whole configuration of a sensor.
#[derive(Debug)]
pub struct Config {
    /// The folder of the sensor's durable state.
    pub state: PathBuf,
    /// Addresses and networks that no jail of this sensor counts.
    pub allow: Networks,
    /// Whether the host's own addresses are ignored too.
    pub ignore_self: bool,
    /// A folder of systemd's journal files, which jails read that name no other, instead of the system's own journal.
    pub journal: Option<PathBuf>,
    /// Folders below which a symbolic link to a log may lead that root alone does not decide on.
    pub follow: Vec<PathBuf>,
    /// Where to listen for syslog messages; empty lists where no listener is wanted.
    pub syslog: SyslogConfig,
    /// What the kernel's side looks at for logins.
    pub logins: LoginsConfig,
    /// Whether the enforcer is told of failures that make no offence, and of successful logins.
    pub report: bool,
    /// Whether and how this host itself drops what banned addresses send.
    pub local_drop: Option<LocalDropConfig>,
    /// Where figures are told to Prometheus; nowhere where there is no such table.
    pub metrics: Option<SocketAddr>,
    /// Whether the sensor's processes give up what they do not need.
    pub confine: bool,
    /// By which network fail2ban's jails count IPv6 failures, where `[defaults]` says so.
    ipv6_prefix: Option<u8>,
    /// The prefixes of NAT64 beside the well-known one.
    pub nat64: Nat64,
    /// Where filters of one's own are: their folder, and the files that jails name.
    filter_files: Vec<PathBuf>,
    /// The enabled jails: those of this file in the order of their names, then fail2ban's.
    pub jails: Vec<JailConfig>,
    /// fail2ban's folder, where its jails are to run here, and what came of it.
    pub fail2ban: Option<FromFail2ban>,
}

/// What came of fail2ban's folder, besides the jails.
#[derive(Debug)]
pub struct FromFail2ban {
    /// As `--fail2ban` or the settings name it.
    pub folder: PathBuf,
    /// How many of the jails are its.
    pub jails: usize,
    /// Its enabled jails that do not run here, each with the reason.
    pub left_out: Vec<(String, String)>,
    /// What of its options is not used here, a sentence each.
    pub notes: Vec<String>,
}

/// The `[syslog]` table: addresses on which syslog is received; none unless set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyslogConfig {
    /// UDP addresses to listen on, such as `0.0.0.0:514`.
    pub udp: Vec<SocketAddr>,
    /// TCP addresses to listen on.
    pub tcp: Vec<SocketAddr>,
    /// From where messages are taken, such as `["192.0.2.1", "10.0.0.0/8"]`; from everywhere where it is left out.
    pub from: Option<Networks>,
}

/// The `[logins]` table: which of the kernel's reports of logins are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoginsConfig {
    /// Whose verdicts are taken.
    pub verdicts: Verdicts,
    /// Whether the peer of a program that knows it by name alone is taken from the socket of which it asks
    /// `getpeername`. It costs every call of it on this host some ten microseconds.
    pub peers: bool,
}

// === impl Config ===

impl Config {
    /// Reads and checks a configuration file. With `fail2ban`, the jails of that folder run too,
    /// instead of what the file says of it, and the file may be missing.
    pub fn read(path: &Path, fail2ban: Option<&Path>) -> Result<Self, ConfigError> {
        let text = match config_file::read(path) {
            Err(ConfigError::Read { source, .. })
                if fail2ban.is_some() && source.kind() == std::io::ErrorKind::NotFound =>
            {
                String::new()
            }
            read => read?,
        };
        let mut config = Self::parse(&text, path)?;
        if let Some(folder) = fail2ban {
            config.take_fail2ban(folder)?;
        }
        Ok(config)
    }

    /// Takes over fail2ban's jails, instead of those that were taken over before.
    fn take_fail2ban(&mut self, folder: &Path) -> Result<(), ConfigError> {
        if let Some(before) = self.fail2ban.take() {
            self.jails.truncate(self.jails.len() - before.jails);
        }
        let mut imported = fail2ban::import(folder)
            .map_err(|error| ConfigError::Other { program: "fail2ban", source: Box::new(error) })?;
        if let Some(journal) = &self.journal {
            let places = imported.jails.iter_mut().filter_map(|jail| jail.source.journal_mut());
            for place in places.filter(|place| place.is_system()) {
                // As in fail2ban, where a folder is named: its default is for the system's own journal.
                *place = JournalPlace { folder: Some(journal.clone()), owners: None, ..place.clone() };
            }
        }
        if let Some(bits) = self.ipv6_prefix {
            imported.jails.iter_mut().for_each(|jail| jail.policy.ipv6_prefix = bits);
        }
        let own: Vec<Name> = self.jails.iter().map(|jail| jail.policy.name.clone()).collect();
        imported.jails.retain(|jail| {
            let name = &jail.policy.name;
            let reason = if own.contains(name) {
                "the jail of this name in our own configuration runs instead".to_owned()
            } else if let Some(meaning) = reserved::meaning(name) {
                format!("the name is reserved, {meaning}; rename the jail")
            } else {
                return true;
            };
            imported.left_out.push((name.to_string(), reason));
            false
        });
        self.fail2ban = Some(FromFail2ban {
            folder: folder.to_owned(),
            jails: imported.jails.len(),
            left_out: imported.left_out,
            notes: imported.notes,
        });
        self.jails.append(&mut imported.jails);
        Ok(())
    }

    /// Checks a configuration; `path` is where it came from, for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file = ConfigFile { path, text };
        let at = |span: Range<usize>, message: String| file.at(span, message);
        let raw: RawConfig = file.parse()?;

        if let Some(bits) = &raw.defaults.ipv6_prefix {
            jail::check_ipv6_prefix(*bits.get_ref()).map_err(|message| at(bits.span(), message))?;
        }
        let filters = Filters::new(path, raw.filters.as_deref(), raw.fail2ban.as_deref());
        let mut filter_files = vec![filters.folder().to_owned()];
        let mut jails = Vec::new();
        for (name, spanned) in raw.jail {
            let span = spanned.span();
            let wrong = |message: String| at(span.clone(), format!("jail `{name}`: {message}"));
            let jail = spanned.into_inner();
            if !jail.enabled {
                continue;
            }
            if let Some(meaning) = reserved::meaning(&name) {
                return Err(wrong(format!("the name is reserved, {meaning}; choose another")));
            }
            filter_files.extend(jail.filter.as_ref().and_then(|filter| filters.file(filter.get_ref())));
            let mut jail = jail.check(&name, &raw.defaults, raw.ignoreself, &filters, &at, &wrong)?;
            if let Some(place) = jail.source.journal_mut().filter(|place| place.is_system()) {
                place.folder.clone_from(&raw.journal);
            }
            jails.push(jail);
        }
        let listens = !raw.syslog.udp.is_empty() || !raw.syslog.tcp.is_empty();
        if let Some(deaf) = jails.iter().find(|jail| jail.source.wants_syslog_listener())
            && !listens
        {
            let name = &deaf.policy.name;
            return Err(at(
                0..0,
                format!(
                    "jail `{name}` reads syslog, but nothing listens: add `[syslog]` with `udp = [\"0.0.0.0:514\"]` or `tcp`"
                ),
            ));
        }
        let mut follow = Vec::new();
        for folder in raw.follow {
            let span = folder.span();
            check_followed(folder.get_ref()).map_err(|message| at(span, message))?;
            follow.push(folder.into_inner());
        }
        let mut config = Self {
            state: raw.state,
            allow: raw.allow,
            ignore_self: raw.ignoreself,
            journal: raw.journal,
            follow,
            syslog: raw.syslog,
            logins: raw.logins,
            report: raw.report,
            local_drop: raw.local_drop.0,
            metrics: raw.metrics.map(|metrics| metrics.listen(METRICS_PORT)),
            confine: raw.confine,
            ipv6_prefix: raw.defaults.ipv6_prefix.map(Spanned::into_inner),
            nat64: raw.defaults.nat64,
            filter_files,
            jails,
            fail2ban: None,
        };
        if let Some(folder) = raw.fail2ban {
            config.take_fail2ban(&folder)?;
        }
        config.check_bounds().map_err(|message| at(0..0, message))?;
        Ok(config)
    }

    /// The ports that the jails other than those of connections speak of.
    pub fn spoken_of(&self) -> Vec<u16> {
        spoken_of(self.jails.iter().map(|jail| (&jail.source, &*jail.ports)))
    }

    /// The ports that a jail of connections guards.
    pub fn guarded(&self, jail: &JailConfig) -> Vec<u16> {
        guarded_ports(&jail.ports, &self.spoken_of()).to_vec()
    }

    /// Refuses more jails than the kernel programs have room for.
    fn check_bounds(&self) -> Result<(), String> {
        let mut watched: BTreeMap<u16, usize> = BTreeMap::new();
        let (mut counting, mut scans) = (0, 0);
        for jail in &self.jails {
            counting += usize::from(jail.source.is_connections());
            scans += usize::from(jail.source.is_scan());
            if jail.source.is_connections() {
                self.guarded(jail).into_iter().for_each(|port| *watched.entry(port).or_default() += 1);
            }
        }
        if counting > CONNECTION_JAILS {
            return Err(format!("{counting} jails count connections; expected at most {CONNECTION_JAILS}"));
        }
        if scans > SCAN_RULES as usize {
            return Err(format!("{scans} jails count scans; expected at most {SCAN_RULES}"));
        }
        if watched.len() > PORTS as usize {
            return Err(format!("{} ports are guarded; expected at most {PORTS}", watched.len()));
        }
        match watched.into_iter().find(|(_, jails)| *jails > WATCHERS) {
            Some((port, jails)) => {
                Err(format!("{jails} jails count connections to port {port}; expected at most {WATCHERS}"))
            }
            None => Ok(()),
        }
    }

    /// The filter of a jail that reads lines, and the zone of its dates.
    pub fn filter_of(&self, jail: &str) -> Option<(&Filter, Option<&TimeZone>)> {
        let jail = self.jails.iter().find(|config| config.policy.name.as_str() == jail)?;
        Some((jail.source.filter()?, jail.zone.as_ref()))
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "state: {}", self.state.display())?;
        for address in &self.syslog.udp {
            writeln!(f, "syslog: UDP {address}")?;
        }
        for address in &self.syslog.tcp {
            writeln!(f, "syslog: TCP {address}")?;
        }
        let mut addresses = self.syslog.udp.iter().chain(&self.syslog.tcp);
        match &self.syslog.from {
            Some(from) => writeln!(f, "  from {}", Vec::from(from.clone()).join(", "))?,
            None if addresses.any(|address| !address.ip().is_loopback()) => writeln!(
                f,
                "  warning: it takes messages from everywhere: whoever reaches the port can have any address banned by a few datagrams. Name the senders, such as `from = [\"192.0.2.1\"]` in [syslog]"
            )?,
            None => {}
        }
        if self.logins.verdicts != Verdicts::Auto {
            writeln!(
                f,
                "logins: verdicts of {} alone",
                if self.logins.verdicts == Verdicts::Pam { "PAM" } else { "audit" }
            )?;
        }
        if self.logins.peers {
            writeln!(f, "logins: the address of a peer that is told by name alone is taken from its socket")?;
        }
        f.write_str(&nat64_line(&self.nat64))?;
        if let Some(drop) = &self.local_drop {
            writeln!(f, "local drop: {drop}")?;
        }
        if self.report {
            writeln!(
                f,
                "reports: every failure, and successful logins where the kernel or the journal shows them, to the enforcer"
            )?;
        } else {
            writeln!(f, "reports: none (`report = false`): the enforcer hears of offences alone")?;
        }
        if self.jails.is_empty() {
            writeln!(f, "no jail is enabled: nothing will be banned")?;
        }
        for jail in &self.jails {
            let policy = &jail.policy;
            let guarded = self.guarded(jail);
            let source = jail.source.description(&guarded);
            writeln!(
                f,
                "jail {}: {source}; {} in {} {} for {}{}{}",
                policy.name,
                jail.source.counted(policy.maxretry),
                policy.findtime,
                agreeing(policy.maxretry, "bans", "ban"),
                policy.bantime,
                if policy.escalation.is_some() { ", longer each time" } else { "" },
                match policy.ipv6_prefix {
                    64 => String::new(),
                    bits => format!("; IPv6 by /{bits}"),
                }
            )?;
            for note in jail.source.notes(&guarded, policy) {
                writeln!(f, "  {note}")?;
            }
            if self.report && jail.ignorecommand.is_some() {
                writeln!(
                    f,
                    "  note: its failures are not reported: only its ignorecommand knows whom it protects"
                )?;
            }
            if let Some(filter) = jail.source.filter() {
                for warning in filter.warnings() {
                    writeln!(f, "  warning: {warning}")?;
                }
                if !filter.caution().is_empty() {
                    writeln!(f, "  caution: {}", filter.caution())?;
                }
            }
        }
        if let Some(fail2ban) = &self.fail2ban {
            let (jails, folder) = (fail2ban.jails, fail2ban.folder.display());
            writeln!(
                f,
                "fail2ban: {jails} of {} of {folder} {} here",
                counted(jails + fail2ban.left_out.len(), "enabled jail"),
                agreeing(jails, "runs", "run")
            )?;
            for (jail, reason) in &fail2ban.left_out {
                writeln!(f, "  warning: jail {jail} does not run: {reason}")?;
            }
            for note in &fail2ban.notes {
                writeln!(f, "  note: {note}")?;
            }
        }
        Ok(())
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    #[serde(default = "default_state")]
    state: PathBuf,
    #[serde(default)]
    allow: Networks,
    #[serde(default = "yes")]
    ignoreself: bool,
    #[serde(default)]
    defaults: RawDefaults,
    #[serde(default)]
    syslog: SyslogConfig,
    #[serde(default)]
    logins: LoginsConfig,
    #[serde(default = "yes")]
    report: bool,
    #[serde(default)]
    local_drop: RawLocalDrop,
    #[serde(default = "yes")]
    confine: bool,
    metrics: Option<MetricsConfig>,
    journal: Option<PathBuf>,
    #[serde(default)]
    follow: Vec<Spanned<PathBuf>>,
    fail2ban: Option<PathBuf>,
    filters: Option<PathBuf>,
    #[serde(default)]
    jail: BTreeMap<Name, Spanned<RawJail>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDefaults {
    maxretry: Option<u32>,
    findtime: Option<Seconds>,
    bantime: Option<BanTime>,
    #[serde(default)]
    ignore: IgnoreList,
    ipv6_prefix: Option<Spanned<u8>>,
    #[serde(default)]
    nat64: Nat64,
}

/// What is said of the prefixes of NAT64 where there is one beside the well-known one, as a line.
fn nat64_line(nat64: &Nat64) -> String {
    let prefixes: Vec<String> = nat64.clone().into();
    if prefixes.is_empty() {
        return String::new();
    }
    format!("nat64: 64:ff9b::/96, {}: hosts behind these are their IPv4 addresses\n", prefixes.join(", "))
}

/// The state folder that a configuration names, whatever else is wrong in it.
pub fn state_of(path: &Path) -> Option<PathBuf> {
    let table = table(path)?;
    Some(table.get("state").and_then(|state| state.as_str()).map_or_else(default_state, PathBuf::from))
}

/// Where a configuration finds filters, whatever else is wrong in it: fail2ban's in the given folder, else in the
/// one that it names, else in `stock`.
pub fn filters_of(path: &Path, fail2ban: Option<&Path>, stock: Option<&Path>) -> Filters {
    let table = table(path).unwrap_or_default();
    let named = |key: &str| table.get(key).and_then(|folder| folder.as_str()).map(Path::new);
    Filters::new(path, named("filters"), fail2ban.or(named("fail2ban")).or(stock))
}

fn table(path: &Path) -> Option<toml::Table> {
    std::fs::read_to_string(path).ok()?.parse().ok()
}

/// What is wrong with a folder of `follow`.
fn check_followed(folder: &Path) -> Result<(), String> {
    let plain = folder.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !folder.is_absolute() || !plain || folder == Path::new("/") {
        return Err(format!(
            "`follow` holds {}; expected absolute folders below `/`, without `..`",
            folder.display()
        ));
    }
    // Whoever can change a link in its path would decide where all others may lead.
    match folder.canonicalize() {
        Ok(real) if real != *folder => Err(format!(
            "`follow` holds {}, which leads to {}; expected a path without links",
            folder.display(),
            real.display()
        )),
        _ => Ok(()),
    }
}

fn default_state() -> PathBuf {
    "/var/lib/atalaya-sensor".into()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::source::JailSource;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("sensor.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_listener_that_anybody_can_reach_is_warned_of_and_one_with_named_senders_says_from_where() {
        let shown = |table: &str| parse(&format!("[syslog]\n{table}\n")).unwrap().to_string();
        let warning = "can have any address banned by a few datagrams";
        assert!(shown("udp = [\"0.0.0.0:514\"]").contains(warning));
        assert!(shown("tcp = [\"127.0.0.1:514\", \"[::]:514\"]").contains(warning));
        assert!(!shown("tcp = [\"127.0.0.1:514\"]").contains(warning));
        let named = shown("udp = [\"0.0.0.0:514\"]\nfrom = [\"192.0.2.1\", \"10.0.0.0/8\"]");
        assert!(named.contains("from 192.0.2.1, 10.0.0.0/8") && !named.contains(warning), "{named}");
        let wrong = parse("[syslog]\nudp = [\"0.0.0.0:514\"]\nfrom = [\"192.0.2.1-9\"]\n").unwrap_err();
        assert!(wrong.contains("192.0.2.1-9"), "{wrong}");
    }

    #[test]
    fn logins_have_a_table_and_syslog_calls_a_filter() {
        let config = parse(
            "[logins]\nverdicts = \"pam\"\npeers = true\n[jail.sshd]\nsource = \"syslog-calls\"\nservices = \"sshd\"\n",
        )
        .unwrap();
        assert_eq!(config.logins, LoginsConfig { verdicts: Verdicts::Pam, peers: true });
        let JailSource::SyslogCalls { programs, .. } = &config.jails[0].source else { panic!("{config}") };
        assert_eq!(programs, &["sshd"]);
        let shown = config.to_string();
        assert!(shown.contains("what sshd says to syslog") && shown.contains("verdicts of PAM"), "{shown}");
        let wrong = parse("[logins]\nverdicts = \"both\"\n").unwrap_err();
        assert!(wrong.contains("sensor.toml:2:12") && wrong.contains("auto"), "{wrong}");
        let wrong = parse("[jail.x]\nsource = \"syslog-calls\"\n").unwrap_err();
        assert!(wrong.contains("failregex"), "{wrong}");
    }

    #[test]
    fn a_jail_of_one_line_has_the_defaults_that_users_know() {
        let config = parse("[jail.ssh]\nsource = \"logins\"\n").unwrap();
        let policy = &config.jails[0].policy;
        assert_eq!((policy.maxretry, policy.findtime), (3, Seconds(600)));
        assert_eq!(policy.bantime, BanTime::For(Seconds(1800)));
        assert!(config.ignore_self);
    }

    #[test]
    fn a_jails_own_values_win_over_the_defaults_and_ignores_add_up() {
        let config = parse(
            "[defaults]\nmaxretry = 5\nfindtime = \"1h\"\nignore = [\"192.0.2.1\"]\n\
             [jail.a]\nsource = \"logins\"\nmaxretry = 2\nbantime = -1\nignore = [\"198.51.100.0/24\"]\n",
        )
        .unwrap();
        let policy = &config.jails[0].policy;
        assert_eq!((policy.maxretry, policy.findtime), (2, Seconds(3600)));
        assert_eq!(policy.bantime, BanTime::Permanent);
        assert_eq!(policy.ignore.iter().count(), 2);
    }

    #[test]
    fn a_filter_of_ours_needs_one_line() {
        let config = parse("[jail.sshd]\n").unwrap();
        assert!(matches!(config.jails[0].source, JailSource::Files { .. } | JailSource::Journal { .. }));
        let config = parse("[jail.ssh]\nfilter = \"sshd\"\nsource = \"journal\"\nmaxretry = 2\n").unwrap();
        assert!(matches!(config.jails[0].source, JailSource::Journal { .. }));
        assert_eq!(config.jails[0].policy.maxretry, 2);
    }

    #[test]
    fn a_jail_reads_the_journal_that_it_names_and_others_the_one_of_all() {
        let config = parse(
            "journal = \"/srv/j\"\n[jail.a]\nfilter = \"sshd\"\njournalflags = 4\n[jail.b]\nfilter = \"sshd\"\njournalpath = \"/srv/b\"\n\
             [jail.c]\nfilter = \"sshd\"\nsource = \"journal\"\n[jail.d]\nfilter = \"sshd\"\njournalfiles = [\"/a/*.journal\"]\nnamespace = \"*\"\n",
        )
        .unwrap()
        .to_string();
        for line in [
            "jail a: systemd's journal in /srv/j, of the system's services; ",
            "jail b: systemd's journal in /srv/b; ",
            "jail c: systemd's journal in /srv/j; ",
            "jail d: systemd's journal in /a/*.journal, of all namespaces; ",
        ] {
            assert!(config.contains(line), "no {line:?} in {config}");
        }
    }

    #[test]
    fn check_says_whether_failures_are_reported_and_how_ipv6_is_counted() {
        let jail = "[jail.a]\nsource = \"logins\"\n";
        let said = parse(&format!("[defaults]\nipv6_prefix = 96\n{jail}ignorecommand = \"x\"\n"))
            .unwrap()
            .to_string();
        assert!(said.contains("reports: every failure") && said.contains("IPv6 by /96"), "{said}");
        assert!(said.contains("not reported"), "{said}");
        let said = parse(&format!("report = false\n[defaults]\nipv6_prefix = 96\n{jail}ipv6_prefix = 64\n"))
            .unwrap()
            .to_string();
        assert!(said.contains("reports: none") && !said.contains("IPv6"), "{said}");
    }

    #[test]
    fn the_defaults_say_how_fail2bans_jails_count_ipv6_for_it_has_no_word_for_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("filter.d")).unwrap();
        let write = |path: &str, text: &str| std::fs::write(folder.path().join(path), text).unwrap();
        write("filter.d/x.conf", "[Definition]\nfailregex = ^bad <HOST>$\n");
        write("jail.conf", "[x]\nenabled = true\nfilter = x\nlogpath = /x\nbackend = polling\n");
        for (defaults, expected) in [("", 64), ("[defaults]\nipv6_prefix = 128\n", 128)] {
            let config = parse(&format!("fail2ban = {:?}\n{defaults}", folder.path())).unwrap();
            assert_eq!(config.jails.len(), 1, "{config}");
            assert_eq!(config.jails[0].policy.ipv6_prefix, expected);
        }
    }

    #[test]
    fn jails_that_the_kernel_counts_for_have_their_own_defaults_and_check_says_what_they_mean() {
        let said = parse(
            "[defaults]\nmaxretry = 3\nfindtime = \"1h\"\n[jail.a]\nsource = \"connections\"\n\
             [jail.b]\nsource = \"logins\"\nservices = [\"sshd\", \"dovecot\"]\n\
             [jail.c]\nsource = \"connections\"\nshort = \"10s\"\nports = [\"ssh\", 443]\n\
             [jail.d]\nsource = \"scan\"\n[jail.e]\nsource = \"scan\"\nunverified = true\nbantime = 60\n\
             [jail.routeros-drop]\nsource = \"syslog\"\n[syslog]\nudp = [\"127.0.0.1:514\"]\n",
        )
        .unwrap()
        .to_string();
        for line in [
            "jail a: connections to ports 22, 110, 143, 993, 995; 30 new ones in 1m ban for 30m\n",
            "jail c: connections to ports 22, 443; 10 that end within 10s, with no login from their address, in 10m ban for 30m\n",
            "jail d: closed ports; 10 different ones touched in 1m ban for 10m\n",
            "jail e: closed ports; 10 different ones touched in 1m ban for 1m\n",
            "jail routeros-drop: syslog messages; 10 different ports tried in 1m ban for 10m\n",
            "  note: only addresses that completed a connection to this host within the last hour count, as the kernel",
            "  warning: nobody logs in to port 443",
            "  note: only addresses that completed a connection",
            "  warning: unverified: whoever can forge",
        ] {
            assert!(said.contains(line), "no {line:?} in {said}");
        }
        let alone = parse("[jail.a]\nsource = \"connections\"\n").unwrap().to_string();
        assert!(alone.contains("guards no port"), "{alone}");
        let at_once = parse(
            "[defaults]\nmaxretry = 1\n[jail.a]\nsource = \"logins\"\n\
             [jail.c]\nsource = \"connections\"\nshort = \"10s\"\nmaxretry = 1\n",
        )
        .unwrap()
        .to_string();
        for line in [
            "; 1 failure in 10m bans for 30m\n",
            "; 1 that ends within 10s, with no login from its address, in 10m bans for 30m\n",
        ] {
            assert!(at_once.contains(line), "no {line:?} in {at_once}");
        }
    }

    #[test]
    fn more_jails_than_the_kernel_programs_have_room_for_are_refused() {
        let jails = |count: usize, of: &str| -> String {
            (0..count).map(|number| format!("[jail.j{number}]\nsource = {of}\n")).collect()
        };
        let refused = |count: usize, of: &str| parse(&jails(count, of)).unwrap_err();
        assert!(parse(&jails(4, "\"scan\"")).is_ok());
        assert!(refused(5, "\"scan\"").contains("at most 4"));
        assert!(parse(&jails(4, "\"connections\"\nports = 22")).is_ok());
        assert!(refused(5, "\"connections\"\nports = 22").contains("port 22"));
        assert!(parse(&jails(31, "\"connections\"")).is_ok());
        assert!(refused(32, "\"connections\"").contains("at most 31"));
        let ports = |first: u16| format!("\"connections\"\nports = \"{first}:{}\"", first + 1023);
        let one = format!("[jail.one]\nsource = {}\n", ports(1));
        assert!(parse(&one).is_ok());
        assert!(parse(&(one + &jails(1, &ports(2)))).unwrap_err().contains("1025 ports"));
    }

    #[test]
    fn each_mistake_names_its_line_and_what_would_be_right() {
        for (text, place, says) in [
            ("[jail.a]\nsource = \"logs\"\n", "sensor.toml:2:10", "logins"),
            ("[jail.a]\nsource = \"files\"\nfailregex = '<HOST>'\n", "sensor.toml:1:1", "paths"),
            ("[jail.a]\nsource = \"files\"\npaths = \"/x\"\n", "sensor.toml:1:1", "failregex"),
            ("[jail.a]\nfilter = \"ssh\"\n", "sensor.toml:2:10", "sshd"),
            ("[jail.sshd]\ndatepattern = '%Q'\n", "sensor.toml:1:1", "%Q"),
            ("[jail.manual]\nsource = \"logins\"\n", "sensor.toml:1:1", "reserved, bans by hand"),
            ("[jail.recovered]\nsource = \"logins\"\n", "sensor.toml:1:1", "reserved"),
            ("[jail.sshd]\nlogtimezone = 'Mars'\n", "sensor.toml:1:1", "Mars"),
            ("[jail.sshd]\njournalmatch = 'x'\n", "sensor.toml:1:1", "FIELD=value"),
            ("[jail.sshd]\nescalate = { multipliers = [] }\n", "sensor.toml:1:1", "multipliers"),
            ("[jail.sshd]\nignore = ['10.0.0.1-9']\n", "sensor.toml:2:10", "10.0.0.1-9"),
            ("[jail.a]\nsource = \"logins\"\npaths = \"/x\"\n", "sensor.toml:3:9", "paths"),
            ("[jail.a]\nsource = \"logins\"\nbantme = 3\n", "sensor.toml:3:1", "bantme"),
            ("[jail.a]\nsource = \"logins\"\nbantime = \"soon\"\n", "sensor.toml:3:11", "1h30m"),
            ("[jail.a]\nsource = \"logins\"\nmaxretry = 0\n", "sensor.toml:1:1", "1 to 1000"),
            ("[jail.a]\nsource = \"logins\"\nipv6_prefix = 48\n", "sensor.toml:1:1", "64 (all"),
            ("[defaults]\nnat64 = [\"2001:db8::/33\"]\n", "sensor.toml:2:9", "32, 40, 48, 56, 64 or 96"),
            ("[defaults]\nipv6_prefix = 129\n", "sensor.toml:2:15", "64 (all"),
            ("[jail.\"a b\"]\nsource = \"logins\"\n", "sensor.toml:1:7", "a b"),
            (
                "[jail.a]\nsource = \"files\"\npaths = \"x\"\nfailregex = '<HOST>'\n",
                "sensor.toml:3:9",
                "absolute",
            ),
            (
                "[jail.a]\nsource = \"files\"\npaths = \"/x\"\nfailregex = '(<HOST>'\n",
                "sensor.toml:4:13",
                "(",
            ),
            ("[jail.a]\nsource = \"syslog\"\nfailregex = '<HOST>'\n", "sensor.toml:1:1", "[syslog]"),
            ("[jail.a]\nsource = \"connections\"\nports = [0]\n", "sensor.toml:3:9", "1 to 65535"),
            ("[jail.a]\nsource = \"connections\"\nservices = \"sshd\"\n", "sensor.toml:3:12", "services"),
            ("[jail.a]\nsource = \"connections\"\nshort = 0\n", "sensor.toml:3:9", "10s"),
            ("[jail.a]\nsource = \"connections\"\nfindtime = \"8d\"\n", "sensor.toml:1:1", "at most 7d"),
            ("[jail.a]\nsource = \"connections\"\ndecay = true\n", "sensor.toml:3:9", "decay"),
            ("[jail.a]\nsource = \"logins\"\nshort = 10\n", "sensor.toml:3:9", "short"),
            ("[jail.a]\nsource = \"scan\"\nports = [22]\n", "sensor.toml:3:9", "ports"),
            ("[jail.a]\nsource = \"scan\"\nmaxretry = 21\n", "sensor.toml:1:1", "2 to 20"),
            ("[jail.a]\nsource = \"scan\"\ninterfaces = \"../x\"\n", "sensor.toml:3:14", "eth0"),
            ("[jail.a]\nsource = \"logins\"\nunverified = true\n", "sensor.toml:3:14", "unverified"),
            ("[jail.sshd]\nsource = \"files\"\nunverified = true\n", "sensor.toml:3:14", "count ports"),
            ("[jail.routeros-drop]\nsource = \"files\"\nmaxretry = 30\n", "sensor.toml:1:1", "2 to 20"),
            ("[jail.sshd]\nsource = \"journal\"\npaths = \"/x\"\n", "sensor.toml:3:9", "paths"),
            ("[jail.sshd]\nsource = \"files\"\njournalmatch = \"A=b\"\n", "sensor.toml:3:16", "journalmatch"),
            ("[jail.sshd]\nsource = \"files\"\nnamespace = \"x\"\n", "sensor.toml:3:13", "namespace"),
            ("[jail.sshd]\njournalpath = \"x\"\n", "sensor.toml:2:15", "absolute"),
            ("[jail.sshd]\njournalpath = \"/x\"\njournalfiles = \"/y\"\n", "sensor.toml:2:15", "cannot both"),
            ("[jail.sshd]\njournalfiles = []\n", "sensor.toml:2:16", "empty"),
            ("[jail.sshd]\njournalfiles = \"y\"\n", "sensor.toml:2:16", "absolute"),
            ("[jail.sshd]\nnamespace = \"a/b\"\n", "sensor.toml:2:13", "`+NAME`"),
            ("[jail.sshd]\njournalflags = 16\n", "sensor.toml:2:16", "a sum of"),
            ("[jail.sshd]\nservices = \"sshd\"\n", "sensor.toml:2:12", "services"),
            ("allow = [\"10.0.0.1-9\"]\n", "sensor.toml:1:9", "10.0.0.1-9"),
            ("state = [\n", "sensor.toml:", ""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(place), "{text:?} gave {error:?}, not at {place}");
            assert!(error.contains(says), "{text:?} gave {error:?}, without {says:?}");
        }
    }
}
