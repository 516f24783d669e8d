//! Whether a firewall rule uses the lists: without one, bans are kept and nothing is dropped. `router check`
//! asks once, and the worker of a router again and again; both are told the same.

use super::command::Remedy;
use super::facts::{Facts, Page, families};
use super::{Finding, Grade, command};
use crate::prefixes::Family;
use crate::router::RouterConfig;

mod course;
mod rule;

pub use rule::{Chains, Condition, Reading, Rule};

use course::{Course, Idle, Use, Why};

/// What the rules of a family come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// [`Grade::Fault`] where nothing is dropped; with [`Grade::Warning`], at least a part is.
    pub grade: Grade,
    /// What was found. Of a fault the cause alone, which two families may share.
    pub says: String,
    /// The RouterOS 7 commands that mend it, in order.
    pub commands: Vec<Remedy>,
    /// How many packets the rules dropped since their counters began, where the router tells.
    pub packets: Option<u64>,
}

pub(super) fn examine(config: &RouterConfig, facts: &Facts) -> Vec<Finding> {
    let family = |family: Family| {
        let place = family.index();
        let judgement = judge(family, config.list(family), &facts.raw[place], &facts.filter[place]);
        let says = match judgement.grade {
            Grade::Fault => format!("{}: {family} bans are kept, and nothing is dropped", judgement.says),
            _ => judgement.says,
        };
        let check = match family {
            Family::V4 => "ipv4-rule",
            Family::V6 => "ipv6-rule",
        };
        Finding::new(check, judgement.grade, says).mended_by(judgement.commands)
    };
    if facts.lacks_ipv6() {
        let says = "this router has no /ipv6, so IPv6 bans cannot be on it: set `ipv6 = false` for it, or turn IPv6 on (RouterOS 7: /ipv6/settings set disable-ipv6=no; 6: /system package enable ipv6, then reboot)";
        return vec![family(Family::V4), Finding::new("ipv6", Grade::Fault, says)];
    }
    families(config.ipv6).map(family).collect()
}

/// What a family's rules do with what is on the list. The filter rules need not be read where the raw rules
/// drop by it.
pub fn judge(family: Family, list: &str, raw: &Page<Vec<Rule>>, filter: &Page<Vec<Rule>>) -> Judgement {
    let raws = Course::follow(shown(raw), list, Chains::Raw);
    let filters = Course::follow(shown(filter), list, Chains::Filter);
    let add = || vec![command::add_rule(family, list, raws.barrier.and_then(|rule| rule.id))];
    if let Some(used) = raws.uses.iter().min_by_key(|one| (!one.conditions.is_empty(), one.rule.dynamic)) {
        let chain = &used.rule.chain;
        let (grade, says) = if !used.conditions.is_empty() {
            let asked = asked(used);
            let says = format!(
                "the raw rule that uses list {list} drops a part only of what its entries send (it asks for {asked})"
            );
            (Grade::Warning, says)
        } else if used.rule.dynamic {
            let says = format!(
                "a dynamic raw rule in {chain} drops what is on list {list}: it goes with the service that made it"
            );
            (Grade::Warning, says)
        } else {
            (Grade::Good, format!("a raw rule in {chain} drops what is on list {list}"))
        };
        let commands = if grade == Grade::Good { Vec::new() } else { add() };
        return Judgement { grade, says, commands, packets: packets(&raws.uses) };
    }
    if !filters.uses.is_empty() {
        let says = by_filter(&filters.uses, list);
        let packets = packets(&filters.uses);
        return Judgement { grade: Grade::Warning, says, commands: add(), packets };
    }
    let silent =
        [(Chains::Raw, raw), (Chains::Filter, filter)].into_iter().find(|(_, page)| page.shown().is_none());
    if let Some((table, page)) = silent {
        let path = table.directory(family);
        let says = format!(
            "whether a rule uses list {list} cannot be told ({path}: {}): look with `{path} print where src-address-list={}`",
            page.silence(),
            command::word(list)
        );
        return Judgement { grade: Grade::Unclear, says, commands: Vec::new(), packets: None };
    }
    if !(raws.whole && filters.whole) {
        let says = format!(
            "whether a rule uses list {list} cannot be told: the rules jump to one another in too many ways"
        );
        return Judgement { grade: Grade::Unclear, says, commands: Vec::new(), packets: None };
    }
    let idle = raws.idle.iter().map(|idle| (*idle, Chains::Raw));
    let idle = idle.chain(filters.idle.iter().map(|idle| (*idle, Chains::Filter)));
    let (says, commands) = match idle.min_by_key(|(idle, table)| (idle.why, *table)) {
        Some((idle, table)) => {
            (cause(idle, table, list), mended(idle, table, family, list).unwrap_or_else(add))
        }
        None => (format!("no enabled rule uses list {list}"), add()),
    };
    Judgement { grade: Grade::Fault, says, commands, packets: None }
}

fn shown(page: &Page<Vec<Rule>>) -> &[Rule] {
    page.shown().map_or(&[], Vec::as_slice)
}

/// What filter rules come to that drop what is on the list.
fn by_filter(uses: &[Use<'_>], list: &str) -> String {
    let covers = |entry: &str| uses.iter().any(|one| one.entry == entry);
    let half = match (covers("input"), covers("forward")) {
        (true, false) => ", and it guards the router alone, not the hosts behind it",
        (false, true) => ", and it guards the hosts behind the router, not the router itself",
        _ => "",
    };
    let part = match uses.iter().find(|one| one.conditions.is_empty()) {
        Some(_) => String::new(),
        None => format!("a part of (it asks for {}) ", asked(&uses[0])),
    };
    format!(
        "a filter rule drops {part}what is on list {list}{half}; a raw rule in prerouting does it before connections are tracked, which costs the router less"
    )
}

/// Why a rule that names the list drops nothing by it.
fn cause(Idle { rule, why, after }: Idle<'_>, table: Chains, list: &str) -> String {
    let noun = table.noun();
    let uses = format!("the {noun} that uses list {list}");
    match why {
        Why::Disabled => format!("{uses} is disabled"),
        Why::After => {
            let action = after.map_or("", |taken| &taken.by.action);
            format!("{uses} is never reached: a rule before it takes all its packets (action={action})")
        }
        Why::Invalid => format!("{uses} is invalid: something that it names is gone from the router"),
        Why::Unreached => {
            format!("{uses} stands in chain {}, where no packet from outside comes", rule.chain)
        }
        Why::Action(action) => format!("{uses} does not drop (action={action})"),
        Why::Destination => format!(
            "the {noun} with list {list} drops what goes to it (dst-address-list), not what comes from it (src-address-list)"
        ),
        Why::Jump => format!("{uses} jumps to chain {}, where nothing is dropped", rule.jump_target),
    }
}

/// The commands that put a rule into force; `None` where a new one is better.
fn mended(idle: Idle<'_>, table: Chains, family: Family, list: &str) -> Option<Vec<Remedy>> {
    let Idle { rule, why, after } = idle;
    let begins = table == Chains::Raw && table.entries().contains(&rule.chain.as_str());
    if !begins || rule.dynamic || !matches!(why, Why::Disabled | Why::After) {
        return None;
    }
    let enable = rule.disabled.then(|| command::enable_rule(family, &rule.action, list));
    let moved = match after {
        Some(taken) => Some(command::move_rule(family, rule.id?, taken.at.id?)),
        None => None,
    };
    Some(enable.into_iter().chain(moved).collect())
}

/// What a rule asks for, as far as it is read out.
fn asked(used: &Use<'_>) -> String {
    used.conditions.iter().take(4).copied().collect::<Vec<_>>().join(", ")
}

/// How many packets rules took; a rule that is come to by several ways counts once.
fn packets(uses: &[Use<'_>]) -> Option<u64> {
    let mut rules: Vec<&Rule> = uses.iter().map(|one| one.rule).collect();
    rules.sort_unstable_by_key(|rule| std::ptr::from_ref(*rule));
    rules.dedup_by_key(|rule| std::ptr::from_ref(*rule));
    let told = rules.iter().filter_map(|rule| rule.packets);
    told.reduce(u64::saturating_add)
}
