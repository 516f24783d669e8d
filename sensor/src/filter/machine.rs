//! What searches: the `regex` crate, whose time is linear in the line; and only for what that cannot
//! express (look-around, back-references, conditionals) `fancy-regex`, which backtracks, behind a limit.

use std::ops::Range;

use fancy_regex::RegexBuilder as BacktrackingBuilder;
use regex::bytes::{Regex, RegexBuilder};

use super::pattern::{FilterError, syntax};

/// The largest compiled program, in bytes.
const SIZE_LIMIT: usize = 10 << 20;
/// How many steps back a search may take in one line.
const STEPS: usize = 100_000;

/// A compiled regex.
#[derive(Clone, Debug)]
pub(super) enum Machine {
    Linear(Regex),
    /// Works on UTF-8 alone.
    Backtracking(Box<fancy_regex::Regex>),
}

/// The search took more steps than it may.
#[derive(Debug)]
pub(super) struct Exhausted;

/// The place of a group by its name, where it took part and is not empty; of the whole match by none.
pub(super) type Groups<'a> = &'a dyn Fn(&str) -> Option<Range<usize>>;

// === impl Machine ===

impl Machine {
    /// Compiles an expanded regex, which `written` stands for in messages.
    pub(super) fn new(written: &str, expanded: &str) -> Result<Self, FilterError> {
        let error = match linear(expanded) {
            Ok(regex) => return Ok(Self::Linear(regex)),
            Err(error) => error.to_string(),
        };
        // Rust's and Python's conditionals differ in how they name a group.
        let backtracking = conditionals(expanded);
        if error.contains("exceeds size limit") {
            return Err(syntax(written, &error));
        }
        match BacktrackingBuilder::new(&backtracking).backtrack_limit(STEPS).build() {
            Ok(regex) => Ok(Self::Backtracking(Box::new(regex))),
            // What the stricter one says is the better message, unless it only lacks the feature.
            Err(other) => {
                let lacks = error.contains("look-around") || error.contains("backreference");
                Err(syntax(written, &if lacks { other.to_string() } else { error }))
            }
        }
    }

    pub(super) fn is_backtracking(&self) -> bool {
        matches!(self, Self::Backtracking(_))
    }

    /// The names of its groups.
    pub(super) fn names(&self) -> Vec<&str> {
        match self {
            Self::Linear(regex) => regex.capture_names().flatten().collect(),
            Self::Backtracking(regex) => regex.capture_names().flatten().collect(),
        }
    }

    /// The regex as it was compiled.
    pub(super) fn source(&self) -> &str {
        match self {
            Self::Linear(regex) => regex.as_str(),
            Self::Backtracking(regex) => regex.as_str(),
        }
    }

    pub(super) fn is_match(&self, text: &[u8]) -> Result<bool, Exhausted> {
        match self {
            Self::Linear(regex) => Ok(regex.is_match(text)),
            Self::Backtracking(regex) => regex.is_match(utf8(text)).map_err(|_| Exhausted),
        }
    }

    /// Searches, and hands over the groups of the match.
    pub(super) fn search<T>(
        &self,
        text: &[u8],
        read: impl FnOnce(Groups<'_>) -> T,
    ) -> Result<Option<T>, Exhausted> {
        let not_empty = |range: &Range<usize>| !range.is_empty();
        match self {
            Self::Linear(regex) => {
                if !regex.is_match(text) {
                    return Ok(None);
                }
                let captures = regex.captures(text);
                Ok(captures.map(|captures| {
                    let group =
                        |name: &str| if name.is_empty() { captures.get(0) } else { captures.name(name) };
                    read(&|name| group(name).map(|group| group.range()).filter(not_empty))
                }))
            }
            Self::Backtracking(regex) => {
                let captures = regex.captures(utf8(text)).map_err(|_| Exhausted)?;
                Ok(captures.map(|captures| {
                    let group =
                        |name: &str| if name.is_empty() { captures.get(0) } else { captures.name(name) };
                    read(&|name| group(name).map(|group| group.range()).filter(not_empty))
                }))
            }
        }
    }
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
