//! Looks at a router before and while it is trusted with bans: whether it can be reached and is who it was,
//! what its user may do, whether a rule uses the lists, and which RouterOS commands mend what is missing.
//!
//! [`visit()`] gathers [`Facts`] in one session of its own; [`examine`] says what they mean, without I/O.

use atalaya_wire::{Fingerprint, Name};
use serde::Serialize;

use super::RouterConfig;
use super::networks::RouterNetworks;
use crate::clock::Clock;

pub mod apply;
pub mod command;
mod entry;
pub mod facts;
mod lists;
mod probe;
pub mod release;
mod rights;
pub mod rules;
pub mod speed;
mod system;
mod visit;

pub use command::Remedy;
pub use facts::Facts;
pub use probe::presented_certificate;
pub use visit::{visit, visit_as};

/// How good a finding is, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Good,
    /// It cannot be told; the sentence says what would tell it.
    Unclear,
    /// Bans work, but something is better changed.
    Warning,
    /// Bans do not work, or not on this router.
    Fault,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked, such as `version` or `ipv4-rule`.
    pub check: &'static str,
    /// How good it is.
    pub grade: Grade,
    /// What was found, and what to do.
    pub says: String,
    /// The RouterOS commands that mend it, in order; safe to be pasted into the router's terminal.
    #[serde(serialize_with = "as_typed")]
    pub commands: Vec<Remedy>,
}

/// Everything that was found about a router.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// Its name in the configuration.
    pub router: Name,
    /// As configured: a port is there only where one was written.
    pub address: String,
    /// RouterOS's user for the API, as configured.
    pub user: String,
    /// The name that the router has for itself.
    pub identity: Option<String>,
    /// Its version of RouterOS.
    pub version: Option<String>,
    /// What RouterOS calls the model (`board-name`); `None` where it was not told.
    pub board: Option<String>,
    /// The findings, in the order in which a person would look.
    pub findings: Vec<Finding>,
    /// SHA-256 of the certificate that api-ssl presented, where none is pinned, and the port.
    #[serde(skip)]
    pub certificate: Option<(Fingerprint, u16)>,
    /// Its own addresses, and the private networks behind it.
    #[serde(skip)]
    pub networks: RouterNetworks,
    /// Whether the router has no `/ipv6`.
    #[serde(skip)]
    pub lacks_ipv6: bool,
}

/// Checks one router. `writes` says whether an entry may be added to a scratch list and removed again.
pub async fn check(config: &RouterConfig, clock: &Clock, writes: bool) -> Readiness {
    let facts = visit(config, clock, writes).await;
    let resource = facts.resource.shown();
    Readiness {
        router: config.name.clone(),
        address: config.address.to_string(),
        user: config.user.clone(),
        identity: facts.identity.shown().cloned(),
        version: resource.map(|resource| resource.version.clone()),
        board: resource.map(|resource| resource.board.clone()),
        findings: examine(config, &facts),
        certificate: facts.presented.as_ref().and_then(|(port, seen)| Some((*seen.as_ref().ok()?, *port))),
        lacks_ipv6: facts.lacks_ipv6(),
        networks: facts.networks,
    }
}

/// What the facts mean for bans on this router.
pub fn examine(config: &RouterConfig, facts: &Facts) -> Vec<Finding> {
    let mut findings = entry::examine(config, facts);
    if facts.entry.is_none() {
        findings.extend(system::examine(config, facts));
        findings.extend(speed::examine(config, facts));
        findings.extend(speed::examine_reading(config, facts));
        findings.extend(rights::examine(config, facts));
        findings.extend(rules::examine(config, facts));
        findings.extend(lists::examine(config, facts));
    }
    if let Some(broke) = &facts.broke {
        findings.push(Finding::new(
            "session",
            Grade::Fault,
            format!("the session broke before everything was read: {broke}; check again"),
        ));
    }
    let release = facts.release();
    for command in findings.iter_mut().flat_map(|finding| &mut finding.commands) {
        *command = command.clone().for_release(release);
    }
    findings
}

// === impl Finding ===

impl Finding {
    fn new(check: &'static str, grade: Grade, says: impl Into<String>) -> Self {
        Self { check, grade, says: says.into(), commands: Vec::new() }
    }

    fn good(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(check, Grade::Good, says)
    }

    fn mended_by(self, commands: impl IntoIterator<Item = Remedy>) -> Self {
        Self { commands: commands.into_iter().collect(), ..self }
    }
}

// === impl Readiness ===

impl Readiness {
    /// The worst of the findings.
    pub fn worst(&self) -> Grade {
        self.findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Good)
    }

    /// Whether the router let us in.
    pub fn admitted(&self) -> bool {
        self.findings.iter().any(|finding| finding.check == "login" && finding.grade == Grade::Good)
    }

    /// All commands that mend something, each once, in order.
    pub fn commands(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for command in self.findings.iter().flat_map(|finding| &finding.commands) {
            let typed = command.typed();
            if !all.contains(&typed) {
                all.push(typed);
            }
        }
        all
    }
}

fn as_typed<S: serde::Serializer>(commands: &[Remedy], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(commands.iter().map(Remedy::typed))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
