//! What searches: the `regex` crate, whose time is linear in the line; and only for what that cannot
//! express (look-around, back-references, conditionals) `fancy-regex`, which backtracks, behind a limit.

use std::ops::Range;

use fancy_regex::RegexBuilder as BacktrackingBuilder;
use regex::bytes::{Regex, RegexBuilder};

use super::pattern::{DNS, FilterError, IP4, IP6, syntax};

/// The largest compiled program, in bytes.
const SIZE_LIMIT: usize = 10 << 20;
/// How many steps back a search may take in one line.
const STEPS: usize = 100_000;

/// A group that means something, by what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Ip4,
    Ip6,
    Dns,
    Content,
    Session,
    NoFailure,
    Gained,
    Forget,
    Id,
    User,
    OtherUser,
    Port,
    Attempt,
    First,
    Again,
    Skipped(usize),
    All,
}

/// The groups of a compiled regex: what each says, and its number.
#[derive(Clone, Debug, Default)]
struct Numbers(Vec<(Group, usize)>);

/// A regex, and what its named groups mean, so that a match is asked by meaning.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    engine: RegexEngine,
    numbers: Numbers,
}

#[derive(Clone, Debug)]
enum RegexEngine {
    Linear(Regex),
    /// Works on UTF-8 alone.
    Backtracking(Box<fancy_regex::Regex>),
}

/// The search took more steps than it may.
#[derive(Debug)]
pub(super) struct Exhausted;

/// The place of a group, where it took part and is not empty; the first such, where several say the same.
pub(super) type Groups<'a> = &'a dyn Fn(Group) -> Option<Range<usize>>;

// === impl Machine ===

impl Machine {
    /// Compiles an expanded regex, which `written` stands for in messages.
    pub(super) fn new(written: &str, expanded: &str) -> Result<Self, FilterError> {
        let error = match linear(expanded) {
            Ok(regex) => return Ok(Self::of(RegexEngine::Linear(regex))),
            Err(error) => error.to_string(),
        };
        // Rust's and Python's conditionals differ in how they name a group.
        let backtracking = conditionals(expanded);
        if error.contains("exceeds size limit") {
            return Err(syntax(written, &error));
        }
        match BacktrackingBuilder::new(&backtracking).backtrack_limit(STEPS).build() {
            Ok(regex) => Ok(Self::of(RegexEngine::Backtracking(Box::new(regex)))),
            // What the stricter one says is the better message, unless it only lacks the feature.
            Err(other) => {
                let lacks = error.contains("look-around") || error.contains("backreference");
                Err(syntax(written, &if lacks { other.to_string() } else { error }))
            }
        }
    }

    fn of(engine: RegexEngine) -> Self {
        let numbers = match &engine {
            RegexEngine::Linear(regex) => Numbers::of(regex.capture_names()),
            RegexEngine::Backtracking(regex) => Numbers::of(regex.capture_names()),
        };
        Self { engine, numbers }
    }

    pub(super) fn is_backtracking(&self) -> bool {
        matches!(self.engine, RegexEngine::Backtracking(_))
    }

    /// What its groups say.
    pub(super) fn groups(&self) -> impl Iterator<Item = Group> {
        self.numbers.0.iter().map(|(group, _)| *group)
    }

    /// The regex as it was compiled.
    pub(super) fn source(&self) -> &str {
        match &self.engine {
            RegexEngine::Linear(regex) => regex.as_str(),
            RegexEngine::Backtracking(regex) => regex.as_str(),
        }
    }

    pub(super) fn is_match(&self, text: &[u8]) -> Result<bool, Exhausted> {
        match &self.engine {
            RegexEngine::Linear(regex) => Ok(regex.is_match(text)),
            RegexEngine::Backtracking(regex) => regex.is_match(utf8(text)).map_err(|_| Exhausted),
        }
    }

    /// Searches, and hands over the groups of the match.
    pub(super) fn search<T>(
        &self,
        text: &[u8],
        read: impl FnOnce(Groups<'_>) -> T,
    ) -> Result<Option<T>, Exhausted> {
        match &self.engine {
            RegexEngine::Linear(regex) => Ok(regex.captures(text).map(|captures| {
                read(&|group| self.numbers.place(group, |number| Some(captures.get(number)?.range())))
            })),
            RegexEngine::Backtracking(regex) => {
                let captures = regex.captures(utf8(text)).map_err(|_| Exhausted)?;
                Ok(captures.map(|captures| {
                    read(&|group| self.numbers.place(group, |number| Some(captures.get(number)?.range())))
                }))
            }
        }
    }
}

// === impl Numbers ===

impl Numbers {
    /// From the names of a regex's groups, by their numbers.
    fn of<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Self {
        let mut numbers: Vec<(Group, usize)> =
            names.enumerate().filter_map(|(number, name)| Some((group(name?)?, number))).collect();
        numbers.push((Group::All, 0));
        Self(numbers)
    }

    fn place(&self, group: Group, find: impl Fn(usize) -> Option<Range<usize>>) -> Option<Range<usize>> {
        let mut numbers = self.0.iter().filter(|(other, _)| *other == group);
        numbers.find_map(|(_, number)| find(*number).filter(|range| !range.is_empty()))
    }
}

pub(super) fn group(name: &str) -> Option<Group> {
    Some(match name {
        // The short names are those of fail2ban, for groups that are written out.
        IP4 | "ip4" => Group::Ip4,
        IP6 | "ip6" => Group::Ip6,
        DNS | "dns" => Group::Dns,
        "content" => Group::Content,
        "mlfid" => Group::Session,
        "nofail" => Group::NoFailure,
        "mlfgained" => Group::Gained,
        "mlfforget" => Group::Forget,
        "fid" => Group::Id,
        "user" => Group::User,
        "fport" => Group::Port,
        "attempt" => Group::Attempt,
        "first" => Group::First,
        "again" => Group::Again,
        _ if name.starts_with("alt_user") => Group::OtherUser,
        _ => Group::Skipped(name.strip_prefix("skiplines")?.parse().ok()?),
    })
}

/// Compiles for bytes, not characters: broken UTF-8 in a user name must not hide the line from `.`.
pub(super) fn linear(expanded: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(expanded).unicode(false).size_limit(SIZE_LIMIT).build()
}

/// The filter makes the text UTF-8 before a machine that needs it sees it.
fn utf8(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}

/// `(?(name)` is `(?(<name>)` for `fancy-regex`; as written it would mean something else.
fn conditionals(expanded: &str) -> String {
    let mut out = String::with_capacity(expanded.len());
    let mut rest = expanded;
    while let Some(at) = rest.find("(?(") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(')').unwrap_or(0);
        let name = &after[..end];
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_name {
            out.push_str(&format!("<{name}>"));
            rest = &after[end..];
        } else {
            rest = after;
        }
    }
    out.push_str(rest);
    out
}
