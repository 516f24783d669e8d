//! The course of packets through a table of rules: where those whose sender is on a list are dropped, and
//! which rules would do so and never get them.
//!
//! Packets are not simulated one by one. What is followed is a set of them, described by the conditions
//! that rules on the way asked for, in the words in which they asked: packets that came by a jump for
//! `protocol=tcp` all are TCP. A rule gets none of a set if one before it took everything of a set that holds
//! it, which is so if it asked for nothing that this set does not promise. `accept protocol=tcp` leaves nothing
//! for `drop protocol=tcp dst-port=25`, and everything else for `drop`. Conditions that mean the same in other
//! words are taken for different ones, so that a rule may count as reached which is not, and never the other
//! way round.

use std::collections::{HashMap, HashSet};

use super::rule::{Chains, Condition, Rule};

/// The most rules that are looked at, those of a chain once for each way into it.
const MOST_LOOKS: usize = 16_384;

/// The most sets that are remembered as taken; those that come later are taken for not taken.
const MOST_TAKEN: usize = 1024;

/// The most jumps into one another. RouterOS gives no bound.
const DEEPEST: usize = 32;

/// What becomes of packets whose sender is on a list.
#[derive(Debug, Default)]
pub(super) struct Course<'a> {
    /// Where they are dropped, in the order of the rules.
    pub(super) uses: Vec<Use<'a>>,
    /// Rules that name the list and drop nothing by it.
    pub(super) idle: Vec<Idle<'a>>,
    /// The first rule in a chain where packets begin that lets all of them past what follows.
    pub(super) barrier: Option<&'a Rule>,
    /// Whether everything was looked at.
    pub(super) whole: bool,
}

/// A rule that drops what is on the list.
#[derive(Clone, Debug)]
pub(super) struct Use<'a> {
    pub(super) rule: &'a Rule,
    /// The chain where its packets began.
    pub(super) entry: &'a str,
    /// What it, and the jumps to it, ask of a packet, but for its sender and the way in.
    pub(super) conditions: Vec<&'a str>,
}

/// A rule that names the list and drops nothing by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle<'a> {
    pub(super) rule: &'a Rule,
    pub(super) why: Why<'a>,
    /// The rule that would have to come after it, also where that is not all that is wrong.
    pub(super) after: Option<Taken<'a>>,
}

/// Why a rule drops nothing, the easiest to mend first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why<'a> {
    /// It is switched off.
    Disabled,
    /// A rule before it takes all that it asks for.
    After,
    /// RouterOS finds it invalid.
    Invalid,
    /// No packet from outside comes to its chain.
    Unreached,
    /// It does something else with them.
    Action(&'a str),
    /// It is for packets that go to the list.
    Destination,
    /// It sends them to a chain where nothing drops them.
    Jump,
}

/// A rule that takes packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken<'a> {
    /// The rule whose action decided on them.
    pub(super) by: &'a Rule,
    /// The rule of the chain where packets begin: itself, or the jump that leads to it.
    pub(super) at: &'a Rule,
}

/// Packets that a rule took, and what they all are.
struct Gone<'a> {
    packets: Vec<&'a Condition>,
    taken: Taken<'a>,
    /// Whether they only left the chain.
    returned: bool,
}

/// The packets that come by one way.
#[derive(Clone, Default)]
struct Way<'a> {
    packets: Vec<&'a Condition>,
    /// Whether they were asked for by the list already.
    listed: bool,
    /// The jump in the chain where they began.
    at: Option<&'a Rule>,
    /// The chains that they are in.
    chains: Vec<&'a str>,
}

struct Walk<'a, 'l> {
    list: &'l str,
    entry: &'a str,
    chains: HashMap<&'a str, Vec<(usize, &'a Rule)>>,
    gone: Vec<Gone<'a>>,
    reached: HashSet<&'a str>,
    /// Rules that got nothing, by their place.
    missed: HashMap<usize, Taken<'a>>,
    used: HashSet<usize>,
    looks: usize,
    course: Course<'a>,
}

impl<'a> Course<'a> {
    /// Follows the packets from a list through a table.
    pub(super) fn follow(rules: &'a [Rule], list: &str, table: Chains) -> Self {
        let mut chains: HashMap<&str, Vec<(usize, &Rule)>> = HashMap::new();
        for (place, rule) in rules.iter().enumerate() {
            chains.entry(&rule.chain).or_default().push((place, rule));
        }
        let mut walk = Walk {
            list,
            entry: "",
            chains,
            gone: Vec::new(),
            reached: HashSet::new(),
            missed: HashMap::new(),
            used: HashSet::new(),
            looks: 0,
            course: Course { whole: true, ..Course::default() },
        };
        for entry in table.entries() {
            walk.entry = entry;
            walk.gone.clear();
            walk.chain(entry, &Way::default());
        }
        walk.finish(rules)
    }
}

// === impl Walk ===

impl<'a> Walk<'a, '_> {
    /// What of the packets goes on in the chain that they came from, by what is asked of them.
    fn chain(&mut self, chain: &'a str, way: &Way<'a>) -> Vec<Vec<&'a Condition>> {
        self.reached.insert(chain);
        let before = self.gone.len();
        let rules = self.chains.get(chain).cloned().unwrap_or_default();
        let left = self.rules(&rules, chain, way);
        // What left the chain by a return was not taken by what came after that, and goes on in the chain
        // that it came from.
        if let Some(first) = self.gone[before..].iter().position(|gone| gone.returned) {
            self.gone.truncate(before + first);
        }
        left
    }

    /// The same of the rules from one on. Where a jump lets only a part of the packets come back, the rules after it are
    /// looked at for each such part.
    fn rules(
        &mut self,
        rules: &[(usize, &'a Rule)],
        chain: &'a str,
        way: &Way<'a>,
    ) -> Vec<Vec<&'a Condition>> {
        let (mut left, mut taken) = (Vec::new(), false);
        for (number, (place, rule)) in rules.iter().enumerate() {
            self.looks += 1;
            if self.looks > MOST_LOOKS {
                self.course.whole = false;
                break;
            }
            let Some(back) = self.rule(*place, rule, chain, way, &mut left) else { continue };
            // Nothing is left: what comes after is looked at for what it misses.
            taken |= back.is_empty();
            if taken {
                continue;
            }
            for packets in back {
                let part = Way { packets, ..way.clone() };
                left.extend(self.rules(&rules[number + 1..], chain, &part));
            }
            return left;
        }
        if !taken {
            left.push(way.packets.clone());
        }
        left
    }

    /// Looks at one rule. `None` where the packets go on to the next, those that it does not ask for at least; else what of them
    /// does. What returns is added to `left`.
    fn rule(
        &mut self,
        place: usize,
        rule: &'a Rule,
        chain: &'a str,
        way: &Way<'a>,
        left: &mut Vec<Vec<&'a Condition>>,
    ) -> Option<Vec<Vec<&'a Condition>>> {
        let named = rule.list == self.list;
        let negated = rule.list.strip_prefix('!');
        // Who is on ours may be on another list too, or not: nobody knows here.
        let never = negated == Some(self.list) || !(named || rule.list.is_empty() || negated.is_some());
        if never {
            return None;
        }
        let mut packets = way.packets.clone();
        packets.extend(rule.conditions.iter().filter(|one| !way.packets.contains(one)));
        let taken = Taken { by: rule, at: way.at.unwrap_or(rule) };
        let listed = way.listed || named;
        let drops = rule.is_drop() && listed;
        let holds = |gone: &&Gone<'_>| gone.packets.iter().all(|one| packets.contains(one));
        if let Some(gone) = self.gone.iter().find(holds) {
            self.missed.entry(place).or_insert(gone.taken);
            return None;
        }
        if !rule.is_on() {
            return None;
        }
        // Whether it asks for all of them, but for who is on the list: of those alone it is to be said what becomes.
        let all = packets.len() == way.packets.len();
        match rule.action.as_str() {
            "jump" => {
                let chains: Vec<&str> = way.chains.iter().copied().chain([chain]).collect();
                // Nothing comes out of a circle that did not come out before.
                if chains.len() <= DEEPEST && !chains.contains(&rule.jump_target.as_str()) {
                    let at = Some(taken.at);
                    let back = self.chain(&rule.jump_target, &Way { packets, listed, at, chains });
                    return (all && !back.contains(&way.packets)).then_some(back);
                }
                None
            }
            _ if drops => {
                self.used.insert(place);
                let asked = packets.iter().filter(|one| !one.is_of_the_way_in());
                let conditions = asked.map(|one| one.name.as_str()).collect();
                self.course.uses.push(Use { rule, entry: self.entry, conditions });
                self.take(packets, taken, false);
                all.then(Vec::new)
            }
            "accept" | "drop" | "reject" | "tarpit" => {
                if packets.is_empty() {
                    self.course.barrier.get_or_insert(taken.at);
                }
                self.take(packets, taken, false);
                all.then(Vec::new)
            }
            "return" => {
                if packets.is_empty() && way.at.is_none() {
                    self.course.barrier.get_or_insert(rule);
                }
                left.push(packets.clone());
                self.take(packets, taken, true);
                all.then(Vec::new)
            }
            // Whatever else there is lets packets go on to the next rule, by RouterOS's manual.
            _ => None,
        }
    }

    fn take(&mut self, packets: Vec<&'a Condition>, taken: Taken<'a>, returned: bool) {
        if self.gone.len() < MOST_TAKEN {
            self.gone.push(Gone { packets, taken, returned });
        }
    }

    /// Sees which of the rules that name the list drop nothing, and why.
    fn finish(mut self, rules: &'a [Rule]) -> Course<'a> {
        for (place, rule) in rules.iter().enumerate().filter(|(place, _)| !self.used.contains(place)) {
            let after = self.missed.get(&place).copied();
            let why = match rule.action.as_str() {
                _ if rule.list != self.list => {
                    let to_list = |one: &Condition| one.name == "dst-address-list" && one.value == self.list;
                    if !(rule.is_drop() && rule.is_on() && rule.conditions.iter().any(to_list)) {
                        continue;
                    }
                    Why::Destination
                }
                action if !rule.is_drop() && action != "jump" => Why::Action(action),
                _ if rule.disabled => Why::Disabled,
                _ if rule.invalid => Why::Invalid,
                _ if after.is_some() => Why::After,
                _ if !self.reached.contains(rule.chain.as_str()) => Why::Unreached,
                "jump" => Why::Jump,
                _ => continue,
            };
            self.course.idle.push(Idle { rule, why, after });
        }
        self.course
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: &str = "spammer";
    const ENTRY: &str = "prerouting";

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let chain = || prop::sample::select(vec![ENTRY, ENTRY, "x", "y"]);
        let action = prop::sample::select(vec!["accept", "drop", "drop", "return", "jump", "jump", "log"]);
        let list = prop::sample::select(vec!["", "", LIST, LIST, "!spammer", "other", "!other"]);
        let conditions = prop::collection::btree_set(prop::sample::select(vec!["a", "b"]), 0..3);
        let rule = (chain(), action, chain(), list, conditions, prop::bool::weighted(0.1));
        let rule = rule.prop_map(|(chain, action, jump_target, list, conditions, disabled)| Rule {
            chain: chain.to_owned(),
            action: action.to_owned(),
            jump_target: jump_target.to_owned(),
            list: list.to_owned(),
            disabled,
            conditions: conditions
                .into_iter()
                .map(|name| Condition { name: name.to_owned(), value: "1".to_owned() })
                .collect(),
            ..Rule::default()
        });
        prop::collection::vec(rule, 0..9)
    }

    /// Whether a rule drops this packet because its sender is on the list, and on no other; `None` where the
    /// packet leaves the chain.
    fn fate<'a>(
        rules: &'a [Rule],
        packet: &[&str],
        chain: &'a str,
        listed: bool,
        within: &[&str],
    ) -> Option<bool> {
        for rule in rules.iter().filter(|rule| rule.chain == chain && !rule.disabled) {
            let of_list = matches!(rule.list.as_str(), "" | LIST | "!other");
            if !of_list || !rule.conditions.iter().all(|one| packet.contains(&one.name.as_str())) {
                continue;
            }
            let listed = listed || rule.list == LIST;
            match rule.action.as_str() {
                "accept" => return Some(false),
                "drop" => return Some(listed),
                "return" => return None,
                "jump" if rule.jump_target != chain && !within.contains(&rule.jump_target.as_str()) => {
                    let within = [within, &[chain]].concat();
                    if let Some(fate) = fate(rules, packet, &rule.jump_target, listed, &within) {
                        return Some(fate);
                    }
                }
                _ => {}
            }
        }
        None
    }

    #[test]
    fn a_chain_that_accepts_all_but_what_it_returns_leaves_a_part_to_the_drop_after_it() {
        let rule = |chain: &str, action: &str, asks: &[&str]| Rule {
            chain: chain.to_owned(),
            action: action.to_owned(),
            jump_target: "x".to_owned(),
            list: if action == "drop" { LIST.to_owned() } else { String::new() },
            conditions: asks
                .iter()
                .map(|name| Condition { name: (*name).to_owned(), value: "1".to_owned() })
                .collect(),
            ..Rule::default()
        };
        let rules = [
            rule(ENTRY, "jump", &[]),
            rule(ENTRY, "drop", &[]),
            rule("x", "return", &["a"]),
            rule("x", "return", &["b"]),
            rule("x", "accept", &[]),
        ];
        let course = Course::follow(&rules, LIST, Chains::Raw);
        let asked: Vec<_> = course.uses.iter().map(|one| one.conditions.clone()).collect();
        assert_eq!(asked, [["a"], ["b"]]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]
        #[test]
        fn packets_fare_as_it_is_said(rules in rules()) {
            let course = Course::follow(&rules, LIST, Chains::Raw);
            let dropped = |packet: &[&str]| fate(&rules, packet, ENTRY, false, &[]) == Some(true);
            // Where no use is seen, nothing is dropped.
            if course.uses.is_empty() {
                for packet in [&[][..], &["a"], &["b"], &["a", "b"]] {
                    prop_assert!(!dropped(packet), "{:?}", packet);
                }
            }
            // A use without conditions drops the packet that meets none.
            let whole = course.uses.iter().any(|one| one.conditions.is_empty());
            prop_assert_eq!(whole, dropped(&[]));
            // And so does a new rule where it is said to belong.
            let before = course.barrier.map(|barrier| rules.iter().position(|rule| std::ptr::eq(rule, barrier)));
            let mut more = rules.clone();
            more.insert(before.flatten().unwrap_or(rules.len()), Rule {
                chain: ENTRY.to_owned(),
                action: "drop".to_owned(),
                list: LIST.to_owned(),
                ..Rule::default()
            });
            prop_assert_eq!(fate(&more, &[], ENTRY, false, &[]), Some(true));
        }

        #[test]
        fn a_rule_that_is_moved_where_it_is_said_drops(rules in rules()) {
            let number = |(place, rule): (usize, Rule)| Rule {
                id: crate::router::address_list::EntryId::parse(&format!("*{}", place + 1)),
                ..rule
            };
            let mut rules: Vec<Rule> = rules.into_iter().enumerate().map(number).collect();
            let course = Course::follow(&rules, LIST, Chains::Raw);
            let late = course.idle.iter().find(|idle| idle.rule.chain == ENTRY && idle.why == Why::After);
            if let (true, Some(idle)) = (course.uses.is_empty(), late) {
                let before = idle.after.unwrap().at.id;
                let moved = rules.iter().position(|rule| rule.id == idle.rule.id).unwrap();
                let drops = rules[moved].is_drop();
                let rule = rules.remove(moved);
                let place = rules.iter().position(|rule| rule.id == before).unwrap();
                rules.insert(place, rule);
                let after = Course::follow(&rules, LIST, Chains::Raw);
                prop_assert!(!drops || !after.uses.is_empty(), "{:#?}", after);
            }
        }
    }
}
