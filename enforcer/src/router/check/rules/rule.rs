//! Firewall rules as a router prints them, and which of them are asked for.

use mikrotik_rs::proto::command::Cmd;
use mikrotik_rs::{CommandBuilder, QueryOperator};

use crate::prefixes::Family;
use crate::router::address_list::EntryId;
use crate::router::check::facts::Page;
use crate::router::sentence::{Row, text};

/// The most rules of a page that are kept.
pub const MOST_RULES: usize = 4096;

/// The most text of a page's rules that is kept, in bytes.
const MOST_TEXT: usize = 1024 * 1024;

/// The most conditions of a rule that are kept. RouterOS's manual lists some 60 of which a rule has a few.
const MOST_CONDITIONS: usize = 32;

/// The two tables of rules that can use an address list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chains {
    /// `/ip/firewall/raw`: before connections are tracked.
    Raw,
    /// `/ip/firewall/filter`: after connections are tracked.
    Filter,
}

/// A rule, as far as it tells what becomes of packets from a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What a command names it by.
    pub id: Option<EntryId>,
    /// The chain that it is in.
    pub chain: String,
    /// RouterOS's word: `drop`, `accept`, `jump`…
    pub action: String,
    /// Where it jumps to.
    pub jump_target: String,
    /// The list of senders that it is for, with a `!` for those that are not on it.
    pub list: String,
    /// Whether an administrator switched it off.
    pub disabled: bool,
    /// Whether RouterOS cannot carry it out, because something that it names is gone.
    pub invalid: bool,
    /// Whether a service of the router's made it: nobody can change it, and it goes with the service.
    pub dynamic: bool,
    /// How many packets it took since its counter began.
    pub packets: Option<u64>,
    /// What else it asks of a packet.
    pub conditions: Vec<Condition>,
}

/// What a rule asks of a packet, beside the list of its sender: `dst-port`, `25`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// RouterOS's name for it.
    pub name: String,
    /// As the router writes it.
    pub value: String,
}

/// The rules of a page while it is read.
#[derive(Debug, Default)]
pub struct Reading {
    rules: Vec<Rule>,
    length: usize,
    over: bool,
}

/// What a rule says beside its conditions. Everything else that it says counts as a condition, for a rule
/// that accepts only what meets a condition unknown here must not be taken for one that accepts all. That is
/// also why no `.proplist` is asked for: a condition that it does not name would not be seen.
const NO_CONDITIONS: [&str; 8] = [
    "comment",
    "log",
    "log-prefix",
    "bytes",
    "reject-with",
    "address-list",
    "address-list-timeout",
    "hw-offload",
];

// === impl Chains ===

impl Chains {
    /// The path of the `print` command.
    pub const fn print(self, family: Family) -> &'static str {
        match (family, self) {
            (Family::V4, Self::Raw) => "/ip/firewall/raw/print",
            (Family::V4, Self::Filter) => "/ip/firewall/filter/print",
            (Family::V6, Self::Raw) => "/ipv6/firewall/raw/print",
            (Family::V6, Self::Filter) => "/ipv6/firewall/filter/print",
        }
    }

    /// The directory of the table.
    pub fn directory(self, family: Family) -> &'static str {
        self.print(family).trim_end_matches("/print")
    }

    /// What its rules are called.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Raw => "raw rule",
            Self::Filter => "filter rule",
        }
    }

    /// The chains in which what comes from elsewhere begins.
    pub(super) const fn entries(self) -> &'static [&'static str] {
        match self {
            Self::Raw => &["prerouting"],
            Self::Filter => &["input", "forward"],
        }
    }

    /// The actions that decide on a packet, or send it to another chain, and that the table has.
    const fn decisive(self, family: Family) -> &'static [&'static str] {
        match (self, family) {
            (Self::Raw, _) => &["drop", "jump", "accept", "return"],
            (Self::Filter, Family::V4) => &["drop", "jump", "accept", "return", "reject", "tarpit"],
            (Self::Filter, Family::V6) => &["drop", "jump", "accept", "return", "reject"],
        }
    }

    /// Asks for the rules that decide what becomes of packets from a list, and for those that name it: a
    /// router may have thousands of others.
    pub fn ask(self, command: CommandBuilder<Cmd>, family: Family, list: &str) -> CommandBuilder<Cmd> {
        let actions = self.decisive(family);
        let either = vec![QueryOperator::Or; actions.len()];
        let named = command.query_equal("src-address-list", list);
        actions
            .iter()
            .fold(named, |command, action| command.query_equal("action", action))
            .query_operations(&either)
    }
}

// === impl Rule ===

impl Rule {
    /// Takes what is known from a row of `print`, and counts as a condition what is not.
    pub fn read(row: &Row) -> Self {
        let mut rule = Self::default();
        for (name, value) in row.attributes() {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            match name {
                ".id" => rule.id = std::str::from_utf8(value).ok().and_then(EntryId::parse),
                "chain" => rule.chain = text(value),
                "action" => rule.action = text(value),
                "jump-target" => rule.jump_target = text(value),
                "src-address-list" => rule.list = text(value),
                "disabled" => rule.disabled = is_yes(value),
                "invalid" => rule.invalid = is_yes(value),
                "dynamic" => rule.dynamic = is_yes(value),
                "packets" => {
                    rule.packets = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                }
                // `.about` and the like are RouterOS's own remarks.
                _ if name.starts_with('.') || value.is_empty() || NO_CONDITIONS.contains(&name) => {}
                _ if rule.conditions.len() < MOST_CONDITIONS => {
                    rule.conditions.push(Condition { name: text(name.as_bytes()), value: text(value) });
                }
                _ => {}
            }
        }
        rule
    }

    /// Whether it keeps packets from going on.
    pub(super) fn is_drop(&self) -> bool {
        matches!(self.action.as_str(), "drop" | "reject" | "tarpit")
    }

    /// Whether it is in force.
    pub(super) fn is_on(&self) -> bool {
        !self.disabled && !self.invalid
    }

    /// How long its texts are, in bytes.
    fn length(&self) -> usize {
        let conditions = self.conditions.iter().map(|one| one.name.len() + one.value.len());
        let own = [&self.chain, &self.action, &self.jump_target, &self.list];
        own.map(String::len).iter().sum::<usize>() + conditions.sum::<usize>()
    }
}

// === impl Condition ===

impl Condition {
    /// Whether it only says where a packet comes in. Attackers come in from outside, and a rule that drops
    /// there drops them.
    pub(super) fn is_of_the_way_in(&self) -> bool {
        matches!(
            self.name.as_str(),
            "in-interface" | "in-interface-list" | "in-bridge-port" | "in-bridge-port-list"
        )
    }
}

// === impl Reading ===

impl Reading {
    /// Takes the next row; beyond a bound nothing is kept, and the page cannot be judged.
    pub fn take(&mut self, row: &Row) {
        if self.over {
            return;
        }
        let rule = Rule::read(row);
        self.length += rule.length();
        self.over = self.rules.len() == MOST_RULES || self.length > MOST_TEXT;
        if self.over {
            self.rules = Vec::new();
        } else {
            self.rules.push(rule);
        }
    }

    /// The page, once it is complete. What was not kept whole cannot be judged, since any rule may turn what
    /// those before it do.
    pub fn finish(self) -> Page<Vec<Rule>> {
        if self.over {
            return Page::Failed(format!("over {MOST_RULES} rules, too many to be judged"));
        }
        Page::Shown(self.rules)
    }
}

fn is_yes(value: &[u8]) -> bool {
    matches!(value, b"true" | b"yes")
}

#[cfg(test)]
mod tests {
    use mikrotik_rs::proto::codec;
    use proptest::prelude::*;

    use super::*;
    use crate::router::sentence::Reply;

    fn row(words: &[&str]) -> Row {
        let mut bytes = Vec::new();
        for word in std::iter::once(&"!re").chain(words) {
            codec::encode_word(word.as_bytes(), &mut bytes);
        }
        codec::encode_terminator(&mut bytes);
        let codec::Decode::Complete { value, .. } = codec::decode_sentence(&bytes).unwrap() else { panic!() };
        match Reply::parse(&value, &bytes).unwrap().1 {
            Reply::Row(row) => row,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_that_is_no_remark_is_a_condition_also_what_is_not_known() {
        let rule = Rule::read(&row(&[
            "=.id=*1A",
            "=chain=forward",
            "=action=accept",
            "=ipsec-policy=in,ipsec",
            "=flux=7",
            "=src-address=",
            "=comment=defconf: accept",
            "=log=false",
            "=log-prefix=x",
            "=bytes=52",
            "=packets=1",
            "=.about=in-interface is slave",
            "=invalid=true",
            "=dynamic=false",
            "=disabled=false",
        ]));
        let names: Vec<&str> = rule.conditions.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["ipsec-policy", "flux"]);
        assert_eq!((rule.id, rule.packets), (EntryId::parse("*1A"), Some(1)));
        assert!(rule.invalid && !rule.disabled && !rule.dynamic && !rule.is_on());
    }

    #[test]
    fn a_page_that_is_too_long_is_not_kept_and_not_judged() {
        let read = |rows: usize, words: &[&str]| {
            let (mut reading, row) = (Reading::default(), row(words));
            (0..rows).for_each(|_| reading.take(&row));
            (reading.rules.len(), reading.finish())
        };
        let (kept, page) = read(MOST_RULES, &["=chain=input"]);
        assert_eq!((kept, page.shown().map(Vec::len)), (MOST_RULES, Some(MOST_RULES)));
        assert_eq!(read(MOST_RULES + 1, &["=chain=input"]).0, 0);
        let many: Vec<String> = (0..500).map(|at| format!("=c{at}={}", "x".repeat(900))).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let (kept, page) = read(1000, &many);
        assert!(kept == 0 && matches!(page, Page::Failed(_)), "{kept}");
    }

    proptest! {
        #[test]
        fn no_row_makes_reading_panic(words in prop::collection::vec("=?\\PC{0,20}=?\\PC{0,20}", 0..20)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            Reading::default().take(&row(&words));
        }
    }
}
