//! A filter as it is written, whoever wrote it: fail2ban's files, our own, or a jail's lines.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::attempt::AttemptMemory;
use super::json::{JsonFields, JsonMachine};
use super::machine::Group;
use super::pattern::{self, FilterError, Pattern, Prefix};
use super::session::Sessions;
use super::{Buffer, Filter};
use crate::date::Dates;

/// A filter: which lines are failures, as regexes of fail2ban's language.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterDefinition {
    /// The filter's name, without options; empty where a jail has none.
    #[serde(skip)]
    pub name: String,
    /// What it counts, in a sentence.
    pub description: String,
    /// What no filter can mend and its user has to know.
    pub caution: String,
    /// What becomes of a line's end in what a client sends.
    pub newlines: Newlines,
    /// What of its lines is counted.
    pub counts: CountedThing,
    /// What a line must match before all, and which part of it the others see.
    pub prefregex: Option<String>,
    /// A line that matches one of these is a failure.
    pub failregex: Vec<String>,
    /// Unless it matches one of these.
    pub ignoreregex: Vec<String>,
    /// In place of a failregex, for lines that are JSON objects: which fields tell a failure.
    pub json: Option<JsonFields>,
    /// How dates are written, where it is not one of the usual forms.
    pub datepattern: Option<String>,
    /// How many lines a regex sees at once.
    pub maxlines: u32,
    /// Where the lines are, unless a jail says otherwise.
    pub paths: Vec<String>,
    /// What to read of the journal: a match each.
    pub journalmatch: Vec<String>,
    /// Other names of users, by what the daemon writes for them; empty where it stands for none.
    pub users: BTreeMap<String, String>,
    /// What to count besides, by the name of a mode.
    pub modes: BTreeMap<String, FilterMode>,
    /// What to do with host names: `yes`, `warn`, `no` or `raw`.
    #[serde(skip)]
    pub usedns: Option<String>,
}

/// What a daemon does with a line's end in what a client sends, in its own log file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Newlines {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// It is written as other characters, or the text is cut, or refused, before it.
    Escaped,
    /// It is written as it is: a client can write whole lines.
    Written,
}

/// What a jail counts of the lines that match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CountedThing {
    /// Each line: a failure.
    #[default]
    Failures,
    /// Different ports, as `<F-PORT>` finds them: the lines tell of a scan, which anyone can forge.
    Ports,
}

/// What a mode counts beyond what the filter does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterMode {
    /// Other modes that it includes.
    pub includes: Vec<String>,
    /// Further failures.
    pub failregex: Vec<String>,
    /// Further exceptions.
    pub ignoreregex: Vec<String>,
}

/// The mode that every filter has: itself.
const NORMAL: &str = "normal";
/// Said of every filter whose daemon writes lines' ends, unless it says more.
const FORGED: &str = "its daemon writes a newline that a client sends as it is: whoever may connect can forge a line, for any address; keep your own people on the allow list";

// === impl FilterDefinition ===

impl FilterDefinition {
    /// With what a mode counts besides; `normal`, or none, is the filter itself.
    pub fn in_mode(mut self, mode: &str) -> Result<Self, String> {
        if matches!(mode, "" | NORMAL) {
            return Ok(self);
        }
        let mut wanted = vec![mode.to_owned()];
        let mut taken = 0;
        while let Some(name) = wanted.get(taken) {
            let Some(mode) = self.modes.get(name) else {
                let mut names: Vec<_> = self.modes.keys().map(String::as_str).collect();
                names.insert(0, NORMAL);
                return Err(format!(
                    "the filter {} has no mode `{name}`; expected {}",
                    self.name,
                    names.join(" or ")
                ));
            };
            self.failregex.extend(mode.failregex.iter().cloned());
            self.ignoreregex.extend(mode.ignoreregex.iter().cloned());
            let more: Vec<_> = mode.includes.iter().filter(|name| !wanted.contains(name)).cloned().collect();
            wanted.extend(more);
            taken += 1;
        }
        Ok(self)
    }

    /// Compiles every regex and date pattern. An error names the first that cannot be used; one without a
    /// failregex is an error too.
    pub fn compile(&self) -> Result<Filter, FilterError> {
        let multiline = self.maxlines > 1;
        let written = |regexes: &[String]| -> Vec<String> {
            regexes.iter().filter(|regex| !regex.trim().is_empty()).cloned().collect()
        };
        let failregex = written(&self.failregex);
        let json = self.json.as_ref().map(JsonMachine::new).transpose()?;
        match (&json, failregex.is_empty()) {
            (None, true) => return Err(FilterError::Empty),
            (Some(_), false) => return Err(FilterError::Json),
            _ => {}
        }
        let prefix = self.prefregex.as_deref().map(|regex| Prefix::new(regex, multiline)).transpose()?;
        let patterns = failregex
            .iter()
            .map(|regex| Pattern::new(regex, prefix.as_ref().map(|prefix| &prefix.whole), multiline))
            .collect::<Result<Vec<_>, _>>()?;
        let ignore = written(&self.ignoreregex)
            .iter()
            .map(|regex| pattern::compile_any(regex, multiline))
            .collect::<Result<Vec<_>, _>>()?;
        let mut dates = self.datepattern.as_deref().map(Dates::new).transpose()?.unwrap_or_default();
        if let Some(time) = self.json.as_ref().and_then(|json| json.time.as_deref()) {
            dates = Dates::in_field(time);
        }
        let mut regexes = failregex.iter().chain(&self.prefregex);
        if regexes.any(|regex| regex.contains(r"<\d") || regex.contains("<[")) {
            dates.keep_priority();
        }
        let warnings = patterns
            .iter()
            .filter(|pattern| pattern.bendable)
            .map(|pattern| {
                format!(
                    "an attacker's text may decide whose address `{}` finds: something unbounded stands before <HOST>, and what follows does not reach the line's end; end it with what the log writes last and `$`, or let `\\S+` stand for the user name",
                    pattern.written
                )
            })
            .collect();
        let machines = prefix
            .iter()
            .map(|prefix| &prefix.whole)
            .chain(&ignore)
            .chain(patterns.iter().map(|pattern| &pattern.any));
        let needs_utf8 = machines.into_iter().any(super::Machine::is_backtracking);
        let counts_ports = self.counts == CountedThing::Ports;
        if counts_ports
            && let Some(pattern) =
                patterns.iter().find(|pattern| !pattern.any.groups().any(|group| group == Group::Port))
        {
            return Err(FilterError::NoPort { regex: pattern.written.clone() });
        }
        let mut filter = Filter {
            gate: None,
            prefix,
            patterns,
            json,
            ignore,
            dates,
            buffer: multiline.then(|| Buffer::new(self.maxlines as usize)),
            dated: None,
            sessions: Sessions::default(),
            attempts: AttemptMemory::default(),
            users: self.users.clone(),
            needs_utf8,
            exhausted: 0,
            counts_ports,
            caution: match self.newlines {
                Newlines::Written if self.caution.is_empty() => FORGED.to_owned(),
                _ => self.caution.clone(),
            },
            warnings,
        };
        filter.gate = filter.choose_gate();
        Ok(filter)
    }
}
