//! Which routers hold a ban, as their workers know it: what a ban by hand has come to a moment later, and
//! what `show` tells.

use std::time::Duration;

use atalaya_wire::Name;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::prefixes::Family;
use crate::router::{Crew, Enforcement, Holding, RouterHandle, RouterStatus, State};
use atalaya_program::count::{agreeing, counted};

/// How long a command waits for the routers.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a router that is not there yet is asked again.
const PAUSE: Duration = Duration::from_millis(10);

/// What one router holds of an address or a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterHolding {
    /// The router that was asked.
    pub router: Name,
    /// The prefix that it was asked for: the address itself, or a network around it.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// What it holds for that.
    #[serde(flatten)]
    pub holding: Holding,
    /// Since when it is not logged in to; `None` for one that is.
    pub down_since: Option<Timestamp>,
    /// Whether the ban that stands is not for this router.
    #[serde(default)]
    pub refuses: bool,
    /// Why it does not hold what stands, or why that is not known; of an entry, why it keeps nobody out.
    pub why: Option<String>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// That each router holds one of the prefixes.
    Held,
    /// That none holds an entry of ours for any.
    Gone,
    /// Nothing is expected: what is held is only looked at.
    Look,
}

// === impl RouterHolding ===

impl RouterHolding {
    /// Whether the router holds an entry, whoever's, that is not disabled.
    pub fn holds(&self) -> bool {
        matches!(self.holding, Holding::Entry { disabled: false, .. })
    }

    fn is_ours(&self) -> bool {
        matches!(self.holding, Holding::Entry { ours: true, .. })
    }
}

/// Asks all routers at once for the first of some prefixes that each holds; waits for a goal for up to a
/// second. There must be a prefix.
pub async fn ask(
    routers: &Crew,
    down_since: impl Fn(&RouterStatus) -> Option<Timestamp>,
    prefixes: &[IpNet],
    goal: Goal,
) -> Vec<RouterHolding> {
    let deadline = Instant::now() + PATIENCE;
    let mut asked = JoinSet::new();
    for (place, router) in routers.iter().enumerate() {
        let (router, prefixes, down_since) =
            (router.clone(), prefixes.to_vec(), down_since(&router.status()));
        asked.spawn(async move {
            loop {
                let holding = look(&router, &prefixes, down_since).await;
                let settled = match goal {
                    Goal::Held => holding.holds() || !prefixes.iter().any(|prefix| router.takes(*prefix)),
                    Goal::Gone => !holding.is_ours(),
                    Goal::Look => true,
                };
                let waits = router.status().is_up() && !router.status().read_only;
                if settled || !waits || Instant::now() >= deadline {
                    return (place, holding);
                }
                sleep(PAUSE).await;
            }
        });
    }
    let mut holdings = asked.join_all().await;
    holdings.sort_by_key(|(place, _)| *place);
    holdings.into_iter().map(|(_, holding)| holding).collect()
}

async fn look(router: &RouterHandle, prefixes: &[IpNet], down_since: Option<Timestamp>) -> RouterHolding {
    let mut found = (prefixes[0], Holding::Nothing);
    for prefix in prefixes {
        let holding = router.holds(*prefix).await;
        if holding != Holding::Nothing {
            found = (*prefix, holding);
            break;
        }
    }
    let (prefix, holding) = found;
    let status = router.status();
    let taken = prefixes.iter().any(|prefix| router.takes(*prefix));
    let refusal = prefixes.iter().find_map(|prefix| router.refusal(*prefix)).filter(|_| !taken);
    let refuses = refusal.is_some();
    let why = match holding {
        Holding::Entry { ours: true, disabled: true, .. } => {
            Some("it is disabled and keeps nobody out; it is being replaced".to_owned())
        }
        Holding::Entry { disabled: true, .. } => Some(
            "it is disabled and keeps nobody out, and the router takes no other beside it: enable or remove it there".to_owned(),
        ),
        Holding::Entry { .. } => unenforced(&status, Family::of(prefix)),
        Holding::Nothing | Holding::Unknown => {
            refusal.map(|why| format!("it {why}")).or_else(|| missing(&status, taken))
        }
    };
    RouterHolding { router: status.name, prefix, holding, down_since, refuses, why }
}

/// Why what a router holds of a family keeps nobody out, where that is known.
fn unenforced(status: &RouterStatus, family: Family) -> Option<String> {
    match status.rules()[family.index()].1 {
        Enforcement::Passed { why, .. } => Some(format!("drops nothing: {why}")),
        _ => None,
    }
}

/// Why a router does not hold a ban; `None` where none stands for it.
fn missing(status: &RouterStatus, taken: bool) -> Option<String> {
    let why = match status.state {
        State::Connecting | State::Waiting { .. } => match &status.last_error {
            Some(error) => error.text.clone(),
            None => "not connected yet".to_owned(),
        },
        State::Stopped => "stopped".to_owned(),
        State::Reading => "its list is being read".to_owned(),
        State::Connected if !taken => return None,
        State::Connected if status.read_only => "read-only: nothing is sent to it".to_owned(),
        State::Connected if status.queued + status.in_flight > 0 => {
            match (status.queued + status.in_flight).saturating_sub(1) {
                0 => "on its way".to_owned(),
                others => format!("on its way, with {}", counted(others, "other")),
            }
        }
        State::Connected if status.left_out > 0 => {
            let others = match status.left_out - 1 {
                0 => String::new(),
                others => format!(", as {} {}", agreeing(others, "is", "are"), counted(others, "other ban")),
            };
            format!("left out: the router is at its limit{others}")
        }
        State::Connected => "not there yet".to_owned(),
    };
    Some(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_a_family_that_is_not_dropped_says_so() {
        let mut status =
            RouterStatus::new("edge".parse().unwrap(), "192.0.2.1".to_owned(), Timestamp::UNIX_EPOCH);
        assert_eq!(unenforced(&status, Family::V6), None, "it is not known yet");
        let (since, why) = (Timestamp::UNIX_EPOCH, "no enabled rule".to_owned());
        status.ipv6_rule = Enforcement::Passed { since, why, commands: Vec::new() };
        assert_eq!(unenforced(&status, Family::V6).unwrap(), "drops nothing: no enabled rule");
        assert_eq!(unenforced(&status, Family::V4), None);
    }

    #[test]
    fn a_ban_that_is_left_out_says_with_how_many_others() {
        let mut status =
            RouterStatus::new("edge".parse().unwrap(), "192.0.2.1".to_owned(), Timestamp::UNIX_EPOCH);
        status.state = State::Connected;
        for (left_out, expected) in [
            (1, "left out: the router is at its limit"),
            (2, "left out: the router is at its limit, as is 1 other ban"),
            (3, "left out: the router is at its limit, as are 2 other bans"),
        ] {
            status.left_out = left_out;
            assert_eq!(missing(&status, true).unwrap(), expected);
        }
    }

    #[test]
    fn why_a_ban_is_missing_depends_on_what_the_router_is_at() {
        let mut status =
            RouterStatus::new("edge".parse().unwrap(), "192.0.2.1".to_owned(), Timestamp::UNIX_EPOCH);
        let mut says = |state, taken, queued, expected: Option<&str>| {
            (status.state, status.queued) = (state, queued);
            let why = missing(&status, taken);
            assert_eq!(why.is_some(), expected.is_some(), "{why:?}");
            assert!(why.unwrap_or_default().contains(expected.unwrap_or("")));
        };
        says(State::Waiting { retry_ms: 1 }, true, 0, Some("not connected"));
        says(State::Reading, false, 0, Some("being read"));
        says(State::Connected, false, 0, None);
        says(State::Connected, true, 3, Some("on its way, with 2 others"));
        says(State::Connected, true, 2, Some("on its way, with 1 other"));
        says(State::Connected, true, 1, Some("on its way"));
        says(State::Connected, true, 0, Some("not there yet"));
    }
}
