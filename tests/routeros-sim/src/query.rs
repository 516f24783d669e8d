//! Queries of `print`: `?name`, `?-name`, `?name=x`, `?<name=x`, `?>name=x` and `?#` operations on a
//! stack of truth values. What is left on the stack must all be true.
//!
//! Source: MikroTik's manual, "API", section "Queries".

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::timeout::Timeout;

/// The most tests and operations that one query may have.
pub const MAX_STEPS: usize = 1024;

/// Why a query cannot be carried out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QueryError {
    /// An operation needs more values than the stack has, or is not one.
    #[error("invalid query operation")]
    Operation,
    /// More than [`MAX_STEPS`] steps.
    #[error("query too long")]
    TooLong,
}

/// A query ready to be asked of many entries.
#[derive(Debug, Default)]
pub struct Query {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Has(Vec<u8>),
    Lacks(Vec<u8>),
    Compares(Vec<u8>, Ordering, Vec<u8>),
    Not,
    And,
    Or,
    /// Pushes a copy of the value this far below the top.
    Copy(usize),
    /// Replaces the stack by the value this far below the top.
    Only(usize),
}

impl Query {
    /// Reads the query words of a command, each with its `?`.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, QueryError> {
        let mut query = Self::default();
        for word in words {
            let word = word.strip_prefix(b"?").unwrap_or(word);
            match word {
                [b'#', operations @ ..] => query.push_operations(operations)?,
                [b'-', name @ ..] => query.push(Step::Lacks(name.to_vec()))?,
                [b'<', test @ ..] => query.push_comparison(test, Ordering::Less)?,
                [b'>', test @ ..] => query.push_comparison(test, Ordering::Greater)?,
                [b'=', test @ ..] | test => query.push_comparison(test, Ordering::Equal)?,
            }
        }
        Ok(query)
    }

    /// Whether the entry whose properties `property` returns is wanted.
    pub fn matches<'a>(&self, property: impl Fn(&[u8]) -> Option<Cow<'a, [u8]>>) -> Result<bool, QueryError> {
        let mut stack: Vec<bool> = Vec::new();
        for step in &self.steps {
            let value = match step {
                Step::Has(name) => property(name).is_some(),
                Step::Lacks(name) => property(name).is_none(),
                Step::Compares(name, wanted, value) => {
                    property(name).is_some_and(|found| compare(&found, value) == *wanted)
                }
                Step::Not => !stack.pop().ok_or(QueryError::Operation)?,
                Step::And | Step::Or => {
                    let (Some(right), Some(left)) = (stack.pop(), stack.pop()) else {
                        return Err(QueryError::Operation);
                    };
                    if matches!(step, Step::And) { left && right } else { left || right }
                }
                Step::Copy(depth) => at(&stack, *depth)?,
                Step::Only(depth) => {
                    let value = at(&stack, *depth)?;
                    stack.clear();
                    value
                }
            };
            stack.push(value);
        }
        Ok(stack.into_iter().all(|value| value))
    }

    /// Operations are read from left to right; a number is an index from the top of the stack.
    fn push_operations(&mut self, operations: &[u8]) -> Result<(), QueryError> {
        let mut rest = operations;
        let mut after_index = false;
        while let Some(&operation) = rest.first() {
            if operation.is_ascii_digit() {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let text = std::str::from_utf8(&rest[..digits]).map_err(|_| QueryError::Operation)?;
                let depth = text.parse().map_err(|_| QueryError::Operation)?;
                rest = &rest[digits..];
                self.push(if rest.is_empty() { Step::Only(depth) } else { Step::Copy(depth) })?;
                after_index = true;
                continue;
            }
            match operation {
                b'!' => self.push(Step::Not)?,
                b'&' => self.push(Step::And)?,
                b'|' => self.push(Step::Or)?,
                b'.' if after_index => {}
                b'.' => self.push(Step::Copy(0))?,
                _ => return Err(QueryError::Operation),
            }
            after_index = false;
            rest = &rest[1..];
        }
        Ok(())
    }

    fn push_comparison(&mut self, test: &[u8], wanted: Ordering) -> Result<(), QueryError> {
        self.push(match test.iter().position(|&byte| byte == b'=') {
            Some(equals) => Step::Compares(test[..equals].to_vec(), wanted, test[equals + 1..].to_vec()),
            None => Step::Has(test.to_vec()),
        })
    }

    fn push(&mut self, step: Step) -> Result<(), QueryError> {
        if self.steps.len() == MAX_STEPS {
            return Err(QueryError::TooLong);
        }
        self.steps.push(step);
        Ok(())
    }
}

fn at(stack: &[bool], depth: usize) -> Result<bool, QueryError> {
    stack.iter().rev().nth(depth).copied().ok_or(QueryError::Operation)
}

/// Booleans in any spelling, numbers as numbers, timeouts as times, and else bytes.
fn compare(found: &[u8], wanted: &[u8]) -> Ordering {
    if let (Some(found), Some(wanted)) = (boolean(found), boolean(wanted)) {
        return found.cmp(&wanted);
    }
    if found == wanted {
        return Ordering::Equal;
    }
    match (Timeout::parse(found), Timeout::parse(wanted)) {
        (Some(found), Some(wanted)) => found.cmp(&wanted),
        _ => found.cmp(wanted),
    }
}

/// The truth value RouterOS reads from a word, if it is one.
pub(crate) fn boolean(word: &[u8]) -> Option<bool> {
    match word {
        b"yes" | b"true" => Some(true),
        b"no" | b"false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn ask(words: &[&str]) -> Result<bool, QueryError> {
        let entry = [("list", "spammer"), ("disabled", "false"), ("timeout", "29m59s"), ("n", "10")];
        Query::parse(words.iter().map(|word| word.as_bytes()))?.matches(|name| {
            entry.iter().find(|(key, _)| key.as_bytes() == name).map(|(_, value)| value.as_bytes().into())
        })
    }

    #[rstest]
    #[case(&[], true)]
    #[case(&["?list"], true)]
    #[case(&["?comment"], false)]
    #[case(&["?-comment"], true)]
    #[case(&["?-list"], false)]
    #[case(&["?list=spammer"], true)]
    #[case(&["?=list=spammer"], true)]
    #[case(&["?list=other"], false)]
    #[case(&["?disabled=no"], true)]
    #[case(&["?<timeout=30m"], true)]
    #[case(&["?>timeout=00:29:00"], true)]
    #[case(&["?>n=9"], true)]
    #[case(&["?<comment=x"], false)]
    #[case(&["?list=spammer", "?disabled=yes"], false)]
    #[case(&["?list=other", "?disabled=no", "?#|"], true)]
    #[case(&["?list=other", "?disabled=no", "?#&"], false)]
    #[case(&["?list=other", "?#!"], true)]
    #[case(&["?list=a", "?list=b", "?list=spammer", "?#||"], true)]
    #[case(&["?list=spammer", "?list=other", "?#1"], true)]
    #[case(&["?list=spammer", "?list=other", "?#0"], false)]
    #[case(&["?list=other", "?#.!|"], true)]
    #[case(&["?list=spammer", "?list=other", "?#1.|&"], true)]
    fn answers(#[case] words: &[&str], #[case] answer: bool) {
        assert_eq!(ask(words), Ok(answer));
    }

    #[rstest]
    #[case(&["?#!"])]
    #[case(&["?list", "?#&"])]
    #[case(&["?list", "?#7"])]
    #[case(&["?list", "?#x"])]
    fn errors(#[case] words: &[&str]) {
        assert_eq!(ask(words), Err(QueryError::Operation));
    }

    proptest! {
        #[test]
        fn no_words_make_it_panic(words in prop::collection::vec("\\?[-<>=#!&|.0-9a-z]{0,12}", 0..8)) {
            let _ = ask(&words.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}
