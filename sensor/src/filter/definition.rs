//! A filter as it is written, whoever wrote it: fail2ban's files, our own, or a jail's lines.

use serde::Deserialize;

use super::json::{JsonFields, JsonMachine};
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
    /// What to do with host names: `yes`, `warn`, `no` or `raw`.
    #[serde(skip)]
    pub usedns: Option<String>,
}

// === impl FilterDefinition ===

impl FilterDefinition {
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
            needs_utf8,
            exhausted: 0,
            caution: self.caution.clone(),
            warnings,
        };
        filter.gate = filter.choose_gate();
        Ok(filter)
    }
}
