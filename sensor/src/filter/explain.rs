//! Why a line missed: the regex that got furthest, how far it got, and what it expects there.

use std::ops::Range;

use super::dateless::Dateless;
use super::machine::{Group, Machine};
use super::pattern;
use super::{Filter, trim_end};

/// A text counts as understood when so many characters of a regex's own stood in the line.
const LEAST: usize = 4;

/// How far a regex got in a line that missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// Which failregex, counted from zero; none where it is the prefregex.
    pub regex: Option<usize>,
    /// What of the line it matched.
    pub matched: Range<usize>,
    /// What it expects next, as it is written.
    pub expected: String,
    /// How much of its own text was found, to compare regexes.
    worth: usize,
}

// === impl Filter ===

impl Filter {
    /// The regex that got furthest in a line that it does not match; `None` where none got anywhere.
    pub fn explain(&self, line: &[u8]) -> Option<NearMiss> {
        let line = trim_end(line);
        let dateless = Dateless::new(line, &self.dates);
        let text = String::from_utf8_lossy(&dateless.text).into_owned();
        let multiline = self.buffer.is_some();
        let mut content = 0..text.len();
        if let Some(prefix) = &self.prefix {
            let found = prefix.search(text.as_bytes(), |_| ()).ok()?;
            match found {
                Some((found, ())) => content = found,
                None => {
                    let mut miss = furthest(&prefix.written, &text, multiline)?;
                    let place = |at: usize| dateless.place(at).min(line.len());
                    miss.matched = place(miss.matched.start)..place(miss.matched.end);
                    return Some(miss);
                }
            }
        }
        let inner = text.get(content.clone())?;
        let misses = self.patterns.iter().enumerate().filter_map(|(index, pattern)| {
            Some(NearMiss { regex: Some(index), ..furthest(&pattern.written, inner, multiline)? })
        });
        // Of several the first, as it is the first that wins.
        let mut best: Option<NearMiss> = None;
        for miss in misses {
            if best.as_ref().is_none_or(|best| miss.worth > best.worth) {
                best = Some(miss);
            }
        }
        let mut miss = best?;
        let place = |at: usize| dateless.place(at + content.start).min(line.len());
        miss.matched = place(miss.matched.start)..place(miss.matched.end);
        Some(miss)
    }
}

/// How far one regex gets.
fn furthest(written: &str, text: &str, multiline: bool) -> Option<NearMiss> {
    let pieces = pieces(written);
    let compile =
        |count: usize| -> Option<Machine> { pattern::compile_any(&pieces[..count].concat(), multiline).ok() };
    let place = |count: usize| -> Option<Range<usize>> {
        compile(count)?.search(text.as_bytes(), |groups| groups(Group::All).unwrap_or(0..0)).ok()?
    };
    // What fits with more pieces fits with fewer.
    let (mut fits, mut fails) = (0, pieces.len() + 1);
    while fits + 1 < fails {
        let middle = usize::midpoint(fits, fails);
        if place(middle).is_some() { fits = middle } else { fails = middle }
    }
    // A wildcard at the end matched whatever follows, which says nothing.
    let next = fits;
    while fits > 0 && is_wild(pieces[fits - 1]) {
        fits -= 1;
    }
    let worth = pieces[..fits].iter().map(|piece| literal_length(piece)).sum();
    if worth < LEAST || next >= pieces.len() {
        return None;
    }
    let matched = place(fits)?;
    let expected = pieces[fits..].iter().take(next - fits + 1).copied().collect();
    Some(NearMiss { regex: None, matched, expected, worth })
}

/// A regex taken apart at its top level: literals, classes, groups and tags, each with its repetition.
fn pieces(written: &str) -> Vec<&str> {
    let bytes = written.as_bytes();
    let mut pieces = Vec::new();
    let (mut at, mut start) = (0, 0);
    while at < bytes.len() {
        let end = piece_end(written, at);
        let end = repetition_end(bytes, end);
        // Plain characters stay together.
        let plain = end == at + 1 && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b' ');
        if !plain {
            if start < at {
                pieces.push(&written[start..at]);
            }
            pieces.push(&written[at..end]);
            start = end;
        }
        at = end;
    }
    if start < bytes.len() {
        pieces.push(&written[start..]);
    }
    // An alternation at the top level cannot be taken apart.
    if pieces.contains(&"|") { vec![written] } else { pieces }
}

fn piece_end(written: &str, at: usize) -> usize {
    let bytes = written.as_bytes();
    let rest = &written[at..];
    match bytes[at] {
        b'\\' => at + 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        b'[' => class_end(bytes, at),
        b'(' => group_end(bytes, at),
        b'<' => {
            let Some(close) = rest.find('>') else { return at + 1 };
            let name = &rest[1..close];
            let is_tag = name.starts_with(|c: char| c.is_ascii_uppercase())
                && name
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '/'));
            if !is_tag {
                return at + 1;
            }
            let closing = format!("</{name}>");
            rest.find(&closing).map_or(at + close + 1, |end| at + end + closing.len())
        }
        _ => at + rest.chars().next().map_or(1, char::len_utf8),
    }
}

fn class_end(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    if bytes.get(at) == Some(&b'^') {
        at += 1;
    }
    if bytes.get(at) == Some(&b']') {
        at += 1;
    }
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b']' => return at + 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

fn group_end(bytes: &[u8], open: usize) -> usize {
    let (mut at, mut depth) = (open, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'[' => {
                at = class_end(bytes, at);
                continue;
            }
            b'(' => depth += 1,
            b')' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

fn repetition_end(bytes: &[u8], mut at: usize) -> usize {
    match bytes.get(at) {
        Some(b'*' | b'+' | b'?') => at += 1,
        Some(b'{') if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => {
            at += bytes[at..].iter().position(|byte| *byte == b'}').map_or(1, |close| close + 1);
        }
        _ => return at,
    }
    if bytes.get(at) == Some(&b'?') { at + 1 } else { at }
}

fn is_wild(piece: &str) -> bool {
    [".*", ".+", ".*?", ".+?"].contains(&piece)
}

/// How many characters of a piece stand for themselves.
fn literal_length(piece: &str) -> usize {
    match piece.as_bytes().first() {
        Some(b'[' | b'\\' | b'.' | b'^' | b'$') => 0,
        // A group that fits says at least as much as its letters, roughly.
        Some(b'(' | b'<') => usize::from(!piece.starts_with("(?")),
        _ => piece.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r"^Failed \S+ for <F-USER>.*</F-USER> from <HOST> port \d+$",
        &["^", "Failed ", r"\S+", " for ", "<F-USER>.*</F-USER>", " from ", "<HOST>", " port ", r"\d+", "$"])]
    #[case(r"(?:a|b)+[]x]{2,3}?c\)", &["(?:a|b)+", "[]x]{2,3}?", "c", r"\)"])]
    #[case("a|b", &["a|b"])]
    fn a_regex_is_taken_apart(#[case] written: &str, #[case] expected: &[&str]) {
        assert_eq!(pieces(written), expected);
    }

    proptest! {
        #[test]
        fn no_regex_and_no_line_cause_a_panic(
            regex in "(\\PC|[<>HOST^.*()\\[\\]\\\\?|+{}é ]|<HOST>|from ){0,12}",
            prefixed in any::<bool>(),
            line in prop::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'f'), Just(b'1'), Just(b'.')], 0..60),
        ) {
            let definition = crate::filter::FilterDefinition {
                prefregex: prefixed.then(|| format!("^abcd{regex}<F-CONTENT>.+</F-CONTENT>$")),
                failregex: vec![regex, "^from <HOST>$".to_owned()],
                ..crate::filter::FilterDefinition::default()
            };
            if let Ok(mut filter) = definition.compile() {
                filter.find(&line);
                if let Some(miss) = filter.explain(&line) {
                    prop_assert!(miss.matched.start <= miss.matched.end && miss.matched.end <= line.len());
                }
            }
        }
    }

    #[test]
    fn the_regex_that_got_furthest_says_where_it_stopped() {
        let regexes =
            [r"^Invalid user \S+ from <ADDR>$", r"^Failed password for \S+ from <ADDR> port \d+ ssh2$"];
        let filter = Filter::new(&regexes.map(str::to_owned), &[]).unwrap();
        let line = "2025-09-05T11:17:32Z Failed password for root from 192.0.2.1 gate 22 ssh2";
        assert_eq!(filter.explain(line.as_bytes()), None, "the blank after the date");
        let line = "2025-09-05T11:17:32ZFailed password for root from 192.0.2.1 gate 22 ssh2";
        let miss = filter.explain(line.as_bytes()).unwrap();
        assert_eq!(miss.regex, Some(1));
        assert_eq!(&line[miss.matched], "Failed password for root from 192.0.2.1");
        assert_eq!(miss.expected, " port ");
        assert_eq!(filter.explain(b"nothing of the kind"), None);
    }
}
