//! Whether a firewall rule uses the lists: without one, bans are kept and nothing is dropped.

use super::facts::{Facts, Rule, families};
use super::{Finding, Grade, command};
use crate::prefixes::Family;
use crate::router::RouterConfig;

/// A chain that packets reach, and which of them do.
#[derive(Clone)]
struct Use<'a> {
    chain: &'a str,
    /// Those alone whose sender is on the list.
    narrowed: bool,
    /// What else they must be.
    conditions: Vec<&'static str>,
}

pub(super) fn examine(config: &RouterConfig, facts: &Facts) -> Vec<Finding> {
    if facts.lacks_ipv6() {
        let says = "this router has no /ipv6, so IPv6 bans cannot be on it: set `ipv6 = false` for it, or turn IPv6 on (RouterOS 7: /ipv6/settings set disable-ipv6=no; 6: /system package enable ipv6, then reboot)";
        return vec![family(config, facts, Family::V4), Finding::new("ipv6", Grade::Fault, says)];
    }
    families(config.ipv6).map(|one| family(config, facts, one)).collect()
}

fn family(config: &RouterConfig, facts: &Facts, family: Family) -> Finding {
    let check = match family {
        Family::V4 => "ipv4-rule",
        Family::V6 => "ipv6-rule",
    };
    let list = config.list(family);
    let add = || [command::add_rule(family, list)];
    let raw = facts.raw[family.index()].shown();
    let filter = facts.filter[family.index()].shown();
    let raw_uses = raw.map_or_else(Vec::new, |rules| uses(rules, list, &["prerouting"]));
    let filter_uses = filter.map_or_else(Vec::new, |rules| uses(rules, list, &["input", "forward"]));
    if let Some(rule) = raw_uses.iter().find(|rule| rule.conditions.is_empty()) {
        return Finding::good(check, format!("a raw rule in {} drops what is on list {list}", rule.chain));
    }
    if let Some(rule) = raw_uses.first() {
        let says = format!(
            "the raw rule that uses list {list} drops a part only of what its entries send (it asks for {})",
            rule.conditions.join(", ")
        );
        return Finding::new(check, Grade::Warning, says).mended_by(add());
    }
    if raw.is_none() {
        let path = if family == Family::V4 { "/ip/firewall/raw" } else { "/ipv6/firewall/raw" };
        let silence = facts.raw[family.index()].silence();
        let says = format!(
            "whether a rule uses list {list} cannot be told ({path}: {silence}): look with `{path} print where src-address-list={}`",
            command::word(list)
        );
        return Finding::new(check, Grade::Unclear, says);
    }
    let covers = |chain: &str| filter_uses.iter().any(|rule| rule.chain == chain || chain.is_empty());
    if covers("") {
        let half = match (covers("input"), covers("forward")) {
            (true, false) => ", and it guards the router alone, not the hosts behind it",
            (false, true) => ", and it guards the hosts behind the router, not the router itself",
            _ => "",
        };
        let says = format!(
            "a filter rule drops what is on list {list}{half}; a raw rule in prerouting does it before connections are tracked, which costs the router less"
        );
        return Finding::new(check, Grade::Warning, says).mended_by(add());
    }
    let off = raw.is_some_and(|rules| {
        rules
            .iter()
            .any(|rule| rule.disabled && rule.chain == "prerouting" && rule.list == list && is_drop(rule))
    });
    if off {
        let says =
            format!("the raw rule that uses list {list} is disabled: bans are kept, and nothing is dropped");
        return Finding::new(check, Grade::Fault, says).mended_by([command::enable_rule(family, list)]);
    }
    let says = format!("no enabled rule uses list {list}: {family} bans are kept, and nothing is dropped");
    Finding::new(check, Grade::Fault, says).mended_by(add())
}

// === impl Use ===

impl Use<'_> {
    fn is_like(&self, other: &Self) -> bool {
        self.chain == other.chain
            && self.narrowed == other.narrowed
            && self.conditions.is_empty() == other.conditions.is_empty()
    }
}

/// The places where what is on the list is dropped, in chains that packets reach from these.
fn uses<'a>(rules: &'a [Rule], list: &str, entries: &[&'a str]) -> Vec<Use<'a>> {
    let entry = |chain: &&'a str| Use { chain, narrowed: false, conditions: Vec::new() };
    let mut reached: Vec<Use<'a>> = entries.iter().map(entry).collect();
    let mut dropped = Vec::new();
    let mut next = 0;
    while let Some(from) = reached.get(next).cloned() {
        next += 1;
        for rule in rules.iter().filter(|rule| rule.chain == from.chain && !rule.disabled) {
            let named = rule.list == list;
            if !named && !rule.list.is_empty() {
                continue;
            }
            let conditions = from.conditions.iter().chain(&rule.conditions).copied().collect();
            let narrowed = from.narrowed || named;
            if is_drop(rule) && narrowed {
                dropped.push(Use { chain: &rule.chain, narrowed, conditions });
            } else if rule.action == "jump" {
                let to = Use { chain: &rule.jump_target, narrowed, conditions };
                // Each chain at most four times, however the rules jump.
                if !reached.iter().any(|one| one.is_like(&to)) {
                    reached.push(to);
                }
            }
        }
    }
    dropped
}

fn is_drop(rule: &Rule) -> bool {
    matches!(rule.action.as_str(), "drop" | "reject" | "tarpit")
}
