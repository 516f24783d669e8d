//! fail2ban's jails as jails of ours. A jail that would mean something else here, or would ban whom
//! its administrator spared, is left out, with the reason: a wrong ban locks people out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use atalaya_wire::{Escalation, EscalationTable, Name};
use serde::Serialize;

use super::backend::{is_systemd, journal_place};
use super::definition::JailDefinition;
use super::{Fail2ban, Fail2banError, spared, time};
use crate::confine::logs::exists;
use crate::date;
use crate::jail::Policy;
use crate::jail::ignore::{IgnoreCommand, IgnoreList};
use crate::jail::ports;
use crate::jail::settings::JailConfig;
use crate::jail::source::JailSource;
use crate::source::journal::{JournalMatch, JournalPlace, WantedJournal};

/// Options that mean nothing here, with the values that mean nothing there either, and why.
const NOT_USED: [(&str, &[&str], &str); 4] = [
    ("usedns", &["no"], "whoever owns an address decides on its name: names are never banned"),
    ("maxmatches", &["", "5"], "each ban keeps its last five lines as evidence"),
    ("logencoding", &["", "auto", "utf-8", "UTF-8", "ascii"], "lines are read as bytes, whatever they mean"),
    ("ignorecache", &[""], "an ignorecommand's answers are remembered for five minutes"),
];

/// What a folder of fail2ban's came to.
#[derive(Debug, Default)]
pub struct Imported {
    /// The jails that run here.
    pub jails: Vec<JailConfig>,
    /// The enabled jails that do not, each with the reason.
    pub left_out: Vec<(String, String)>,
    /// What of the jails' options is not used here, a sentence each.
    pub notes: Vec<String>,
}

/// Reads a folder such as `/etc/fail2ban` and makes jails of those that are enabled there.
pub fn import(folder: &Path) -> Result<Imported, Fail2banError> {
    let read = Fail2ban::read(folder)?;
    let mut imported = Imported::default();
    let mut of_actions = BTreeSet::new();
    let mut others = BTreeSet::new();
    for (name, definition) in read.enabled() {
        let converted = definition.map_err(|error| error.to_string()).and_then(|definition| {
            let jail = convert(&definition)?;
            Ok((jail, definition))
        });
        match converted {
            Ok((jail, definition)) => {
                let systemd = definition.options.get("backend").is_some_and(|backend| is_systemd(backend));
                if jail.source.journal().is_some() && !systemd {
                    imported.notes.push(format!(
                        "jail {name} reads the journal, because none of its log files is there"
                    ));
                }
                let notes = notes(&definition);
                imported.notes.extend(notes.into_iter().map(|note| format!("jail {name} {note}")));
                imported.jails.push(jail);
                others.extend(NOT_USED.iter().filter(|(option, usual, _)| {
                    let set = definition.options.get(*option).or(if *option == "usedns" {
                        definition.filter.usedns.as_ref()
                    } else {
                        None
                    });
                    set.is_some_and(|value| !usual.contains(&value.trim()))
                }));
                of_actions.extend(definition.unused);
            }
            Err(reason) => imported.left_out.push((name.to_owned(), reason)),
        }
    }
    if !of_actions.is_empty() {
        let options = of_actions.into_iter().collect::<Vec<_>>().join(", ");
        imported.notes.push(format!("not used here, because the enforcer bans, on the routers: {options}"));
    }
    for (option, _, reason) in others {
        imported.notes.push(format!("{option} is not used here, because {reason}"));
    }
    Ok(imported)
}

fn convert(definition: &JailDefinition) -> Result<JailConfig, String> {
    let option = |name: &str| definition.option(name);
    let name: Name = definition.name.parse().map_err(|error| format!("its name cannot be used: {error}"))?;
    let mut policy = Policy { decay: true, ..Policy::new(name) };
    if let Some(text) = option("maxretry") {
        // To fail2ban none and less are one, and nobody reaches what is beyond our largest.
        let number = text.parse::<i128>().map_err(|_| format!("maxretry: `{text}` is not a whole number"))?;
        policy.maxretry = number.clamp(1, u32::MAX.into()) as u32;
    }
    if let Some(text) = option("findtime") {
        policy.findtime = time::seconds(text).map_err(|problem| format!("findtime: {problem}"))?;
    }
    if let Some(text) = option("bantime") {
        policy.bantime = time::ban_time(text).map_err(|problem| format!("bantime: {problem}"))?;
    }
    policy.escalation = escalation(definition)?
        .map(Escalation::try_from)
        .transpose()
        .map_err(|error| format!("escalate: {error}"))?;
    let mut ignore = IgnoreList::default();
    for word in spared::words(definition.option("ignoreip").unwrap_or_default()) {
        ignore.add(&word).map_err(|problem| {
            format!("ignoreip: {problem}; without it this jail could ban whom you protect")
        })?;
    }
    policy.ignore = ignore.networks.clone();
    let ignorecommand = option("ignorecommand").map(|line| Arc::new(IgnoreCommand::new(line)));
    let ignore_self = option("ignoreself").and_then(super::definition::boolean).unwrap_or(true);
    let zone = option("logtimezone").map(date::zone).transpose();
    let zone = zone.map_err(|problem| format!("logtimezone: {problem}"))?;
    let filter = definition.filter.compile().map_err(|error| error.to_string())?;
    let paths: Vec<String> = definition.logpath.iter().map(|path| path.path.clone()).collect();
    // A host without these files has the journal; fail2ban would not start there.
    let is_auto = option("backend").is_none_or(|backend| backend == "auto");
    let no_file =
        is_auto && !definition.filter.journalmatch.is_empty() && !paths.iter().any(|path| exists(path));
    let backend = option("backend").unwrap_or_default();
    let source = if is_systemd(backend) || no_file {
        let entries = JournalMatch::parse(definition.filter.journalmatch.iter().map(String::as_str));
        let entries = entries.map_err(|problem| format!("journalmatch: {problem}"))?;
        JailSource::Journal { wanted: WantedJournal { place: journal_place(backend)?, entries }, filter }
    } else {
        if paths.is_empty() {
            return Err("it has no logpath: nothing to read".to_owned());
        }
        if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
            return Err(format!("logpath: `{path}` does not begin with `/`"));
        }
        JailSource::Files { paths, filter }
    };
    let ports = ports::of_jail(&definition.name).to_vec();
    Ok(JailConfig { policy, source, ports, zone, ignore, ignorecommand, ignore_self })
}

/// What of a jail that runs here does not do what it seems to, said of the jail.
fn notes(definition: &JailDefinition) -> Vec<String> {
    let mut notes = Vec::new();
    if definition.filter.name == "recidive" {
        notes.push(
            "reads the log in which fail2ban writes its bans, and will find nothing while fail2ban is stopped: let \
             the bans of those who come back grow instead, with bantime.increment = true or the enforcer's [escalation]"
                .to_owned(),
        );
    }
    let reports: Vec<&str> =
        definition.actions.iter().map(String::as_str).filter(|action| !is_firewall(action)).collect();
    if !reports.is_empty() {
        notes.push(format!(
            "does not run {}: bans are the enforcer's, on the routers, and nothing is mailed or reported elsewhere",
            reports.join(", ")
        ));
    }
    for option in &definition.idle {
        notes.push(format!(
            "sets `{option}`, which does not reach its filter, here as in fail2ban: write it as in filter = {}[{option}=…]",
            definition.filter.name
        ));
    }
    notes
}

/// Whether an action of fail2ban's own is one that bans on the host, in whose place the routers do.
fn is_firewall(action: &str) -> bool {
    const FIREWALLS: [&str; 20] = [
        "apf",
        "bsd-ipfw",
        "csf",
        "dummy",
        "firewallcmd",
        "hostsdeny",
        "ipfilter",
        "ipfw",
        "iptables",
        "mikrotik",
        "netscaler",
        "nftables",
        "nginx-block-map",
        "npf",
        "osx-",
        "pf",
        "route",
        "shorewall",
        "symbiosis",
        "ufw",
    ];
    FIREWALLS.iter().any(|firewall| action.starts_with(firewall))
}

/// A jail as `sensor.toml` has it.
#[derive(Serialize)]
struct TomlJail<'a> {
    source: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paths: Vec<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    journalmatch: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    journalpath: Option<&'a Path>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    journalfiles: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journalflags: Option<u32>,
    maxretry: u32,
    findtime: String,
    bantime: String,
    decay: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    escalate: Option<EscalationTable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ignore: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignorecommand: Option<&'a str>,
    #[serde(skip_serializing_if = "std::clone::Clone::clone")]
    ignoreself: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    logtimezone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datepattern: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maxlines: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefregex: Option<&'a str>,
    failregex: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ignoreregex: &'a [String],
}

/// The enabled jails of a folder such as `/etc/fail2ban`, written as `sensor.toml` has them; what does
/// not run here as comments.
pub fn as_toml(folder: &Path) -> Result<String, Fail2banError> {
    let read = Fail2ban::read(folder)?;
    let mut out = format!(
        "# fail2ban's jails of {}, as Atalaya's. Give this sensor a `state` of its own, or\n# take the jails over into your own file.\n",
        folder.display()
    );
    for (name, definition) in read.enabled() {
        let converted = definition.map_err(|error| error.to_string()).and_then(|definition| {
            let jail = convert(&definition)?;
            written(&definition, &jail).map(|text| (definition, text))
        });
        match converted {
            Ok((definition, text)) => {
                if !definition.unused.is_empty() {
                    let _ = write!(
                        out,
                        "\n# not used here, because the enforcer bans, on the routers: {}",
                        definition.unused.join(", ")
                    );
                }
                for note in notes(&definition) {
                    let _ = write!(out, "\n# jail {name} {note}");
                }
                let _ = write!(out, "\n{text}");
            }
            Err(reason) => {
                let _ = write!(out, "\n# jail {name} does not run here: {}\n", reason.replace('\n', "\n# "));
            }
        }
    }
    Ok(out)
}

fn written(definition: &JailDefinition, jail: &JailConfig) -> Result<String, String> {
    let option = |name: &str| definition.option(name);
    let filter = &definition.filter;
    let place = jail.source.journal().map(|wanted| &wanted.place);
    let toml = TomlJail {
        source: jail.source.kind(),
        paths: jail.source.paths().unwrap_or_default().iter().map(String::as_str).collect(),
        journalmatch: if place.is_some() { &filter.journalmatch } else { &[] },
        journalpath: place.and_then(|place| place.folder.as_deref()),
        journalfiles: place.map_or(&[], |place| &place.files),
        namespace: place.and_then(|place| place.namespace.text()),
        journalflags: place.map(JournalPlace::flags).filter(|flags| *flags != 0),
        maxretry: jail.policy.maxretry,
        findtime: jail.policy.findtime.to_string(),
        bantime: jail.policy.bantime.to_string(),
        decay: jail.policy.decay,
        escalate: escalation(definition)?,
        ignore: spared::words(definition.option("ignoreip").unwrap_or_default()),
        ignorecommand: option("ignorecommand"),
        ignoreself: jail.ignore_self,
        logtimezone: option("logtimezone"),
        datepattern: filter.datepattern.as_deref(),
        maxlines: Some(filter.maxlines).filter(|lines| *lines > 1),
        prefregex: filter.prefregex.as_deref(),
        failregex: &filter.failregex,
        ignoreregex: &filter.ignoreregex,
    };
    let jails = BTreeMap::from([("jail", BTreeMap::from([(&definition.name, toml)]))]);
    toml::to_string(&jails).map_err(|error| format!("it cannot be written as TOML: {error}"))
}

/// How the jail's bans grow, where they do.
fn escalation(definition: &JailDefinition) -> Result<Option<EscalationTable>, String> {
    /// How many earlier bans are told apart; fail2ban's own formula stops there.
    const STEPS: i32 = 20;
    let option = |name: &str| definition.option(name);
    let is_on = |name: &str| option(name).and_then(super::definition::boolean).unwrap_or(false);
    if !is_on("bantime.increment") {
        return Ok(None);
    }
    let number = |name: &str, text: &str| {
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
        number.ok_or_else(|| format!("{name}: `{text}` is not a number above 0"))
    };
    let factor = option("bantime.factor").map_or(Ok(1.0), time::factor);
    let factor = factor.map_err(|problem| format!("bantime.factor: {problem}"))?;
    let seconds = |name: &str| {
        option(name).map(time::seconds).transpose().map_err(|problem| format!("{name}: {problem}"))
    };
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    let multipliers = match (
        option("bantime.multipliers"),
        option("bantime.formula").map(squeezed).as_deref(),
    ) {
        (Some(list), _) => list
            .split_whitespace()
            .map(|text| Ok(number("bantime.multipliers", text)? * factor))
            .collect::<Result<Vec<f64>, String>>()?,
        (None, None | Some("ban.Time*(1<<(ban.Countifban.Count<20else20))*banFactor")) => {
            (0..=STEPS).map(|count| 2f64.powi(count) * factor).collect()
        }
        (None, Some("ban.Time*math.exp(float(ban.Count+1)*banFactor)/math.exp(1*banFactor)")) => {
            (0..=STEPS).map(|count| (f64::from(count) * factor).exp().min(1e12)).collect()
        }
        (None, Some(_)) => {
            return Err("bantime.formula is neither of the two that fail2ban documents: write its values as bantime.multipliers".to_owned());
        }
    };
    Ok(Some(EscalationTable {
        multipliers: Some(multipliers),
        max: seconds("bantime.maxtime")?,
        random: seconds("bantime.rndtime")?,
        overall: is_on("bantime.overalljails"),
        decay: None,
    }))
}
