//! Jails that a router is said to take and of which nothing else tells: mistakes in writing, often.

use std::collections::BTreeSet;

use super::Config;
use crate::ledger;

// === impl Config ===

impl Config {
    /// What is to be said of jails in routers' `jails` that neither `[severity]` nor `[fleet]` nor a ban in the ledger
    /// names. Nothing where there is no ban yet, for then no jail is known.
    pub fn unknown_jails(&self) -> Vec<String> {
        let Ok(mut known) = ledger::jails(&self.state) else { return Vec::new() };
        if known.is_empty() {
            return Vec::new();
        }
        known.extend(self.severity.keys().map(ToString::to_string));
        known.extend(self.fleet.iter().map(|fleet| fleet.name.to_string()));
        let listed: BTreeSet<&str> = known.iter().map(String::as_str).collect();
        let listed = listed.into_iter().take(20).collect::<Vec<_>>().join(", ");
        let routers =
            self.routers.iter().flat_map(|router| router.jails.iter().map(move |jail| (router, jail)));
        let unknown = routers.filter(|(_, jail)| !known.contains(jail.as_str()));
        unknown
            .map(|(router, jail)| {
                format!(
                    "[router.{}] takes the bans of jail `{jail}`, of which nothing is known: no ban of it is in the ledger, and neither [severity] nor [fleet] names it. Known are: {listed}",
                    router.name
                )
            })
            .collect()
    }
}
