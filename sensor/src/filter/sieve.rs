//! Finding the few lines that a filter must look at: one pass over a block for the texts of which each
//! match holds one, for one filter or for all that read the same file.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind, packed};
use memchr::memmem;

use super::literal::Text;
use super::{Filter, line_around, lines};

/// Finds the lines of a block that hold one of some texts.
#[derive(Clone, Debug)]
pub(super) struct Sieve {
    exact: Option<Search>,
    any_case: Option<Search>,
}

#[derive(Clone, Debug)]
enum Search {
    One(Box<memmem::Finder<'static>>),
    /// With vector instructions, where the processor has them.
    Packed(Arc<packed::Searcher>),
    Many(AhoCorasick),
}

// === impl Sieve ===

impl Sieve {
    /// `None` where the texts cannot be searched together: then every line is to be looked at.
    pub(super) fn new<'a>(texts: impl IntoIterator<Item = &'a Text>) -> Option<Self> {
        let (mut exact, mut any_case) = (Vec::new(), Vec::new());
        for text in texts {
            if text.any_case { &mut any_case } else { &mut exact }.push(text.text.as_str());
        }
        let search = |texts: Vec<&str>, any_case| {
            if texts.is_empty() { Some(None) } else { Search::new(&shortest(texts), any_case).map(Some) }
        };
        Some(Self { exact: search(exact, false)?, any_case: search(any_case, true)? })
    }

    /// Calls `each` with every line that holds one of the texts, with its end, in order.
    pub(super) fn lines<'b>(&self, block: &'b [u8], mut each: impl FnMut(&'b [u8])) {
        let next = |search: &Option<Search>, from: usize| match search {
            Some(search) => search.find(&block[from..]).map_or(usize::MAX, |hit| from + hit),
            None => usize::MAX,
        };
        let mut hits = (next(&self.exact, 0), next(&self.any_case, 0));
        while hits.0.min(hits.1) < block.len() {
            let line = line_around(block, hits.0.min(hits.1));
            let from = line.end;
            each(&block[line]);
            if hits.0 < from {
                hits.0 = next(&self.exact, from);
            }
            if hits.1 < from {
                hits.1 = next(&self.any_case, from);
            }
        }
    }
}

// === impl Search ===

impl Search {
    /// `None` where they cannot be searched together.
    fn new(texts: &[&str], any_case: bool) -> Option<Self> {
        if let ([text], false) = (texts, any_case) {
            return Some(Self::One(Box::new(memmem::Finder::new(text).into_owned())));
        }
        if !any_case && let Some(searcher) = pack(texts) {
            return Some(Self::Packed(Arc::new(searcher)));
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostFirst)
            .ascii_case_insensitive(any_case)
            .build(texts);
        automaton.ok().map(Self::Many)
    }

    fn find(&self, block: &[u8]) -> Option<usize> {
        match self {
            Self::One(finder) => finder.find(block),
            Self::Packed(searcher) => searcher.find(block).map(|hit| hit.start()),
            Self::Many(automaton) => automaton.find(block).map(|hit| hit.start()),
        }
    }
}

/// A search of many texts at once, which the crate itself would only build for few.
fn pack(texts: &[&str]) -> Option<packed::Searcher> {
    packed::Config::new().heuristic_pattern_limits(false).builder().extend(texts).build()
}

/// The texts without those that hold another of them: whoever finds that one finds them too.
fn shortest(mut texts: Vec<&str>) -> Vec<&str> {
    texts.sort_unstable_by_key(|text| text.len());
    let mut kept: Vec<&str> = Vec::new();
    for text in texts {
        if !kept.iter().any(|other| text.contains(other)) {
            kept.push(text);
        }
    }
    kept
}

/// Tells which patterns of a filter a text may match, so that the others need not be tried.
#[derive(Debug)]
pub(super) struct Candidates {
    texts: AhoCorasick,
    pattern_of: Vec<usize>,
    /// Those that cannot say what they look for.
    always: PatternSet,
}

/// Some of a filter's patterns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PatternSet(u128);

// === impl Candidates ===

impl Candidates {
    /// Takes the texts of each pattern. `None` where there are too many patterns, or nothing to tell.
    pub(super) fn new(of_each: &[Option<Vec<Text>>]) -> Option<Self> {
        if of_each.len() > u128::BITS as usize || of_each.iter().all(Option::is_none) {
            return None;
        }
        let mut always = PatternSet::default();
        let (mut texts, mut pattern_of) = (Vec::new(), Vec::new());
        for (pattern, own) in of_each.iter().enumerate() {
            match own {
                None => always.0 |= 1 << pattern,
                Some(own) => {
                    texts.extend(own.iter().map(|text| text.text.as_str()));
                    pattern_of.extend(own.iter().map(|_| pattern));
                }
            }
        }
        let texts = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .kind(Some(AhoCorasickKind::DFA))
            .build(texts)
            .ok()?;
        Some(Self { texts, pattern_of, always })
    }

    pub(super) fn of(&self, text: &[u8]) -> PatternSet {
        self.texts.find_overlapping_iter(text).fold(self.always, |PatternSet(set), hit| {
            PatternSet(set | 1 << self.pattern_of[hit.pattern().as_usize()])
        })
    }
}

// === impl PatternSet ===

impl PatternSet {
    pub(super) fn contains(self, pattern: usize) -> bool {
        self.0 >> pattern & 1 == 1
    }
}

/// Finds for several filters at once which of them must look at which line.
#[derive(Debug)]
pub struct Scanner {
    /// The filters that cannot say what they look for.
    always: Vec<usize>,
    together: Option<Together>,
}

#[derive(Debug)]
struct Together {
    sieve: Sieve,
    /// Finds all texts of a line, each once.
    owners: AhoCorasick,
    /// Which filter a text is of.
    filter_of: Vec<usize>,
}

// === impl Scanner ===

impl Scanner {
    /// Prepares filters, each under a number of the caller's.
    pub fn new<'a>(filters: impl IntoIterator<Item = (usize, &'a Filter)>) -> Self {
        let (mut always, mut texts, mut filter_of) = (Vec::new(), Vec::new(), Vec::new());
        for (number, filter) in filters {
            match filter.cheapest_texts() {
                Some(own) => {
                    filter_of.extend(own.iter().map(|_| number));
                    texts.extend(own);
                }
                None => always.push(number),
            }
        }
        let words = texts.iter().map(|text| text.text.as_str());
        let owners = AhoCorasick::builder().ascii_case_insensitive(true).build(words).ok();
        let together = Sieve::new(texts.iter().copied()).zip(owners);
        match together {
            Some((sieve, owners)) => Self { always, together: Some(Together { sieve, owners, filter_of }) },
            None => {
                always.extend(filter_of);
                always.dedup();
                Self { always, together: None }
            }
        }
    }

    /// Calls `each` with a filter's number and a line that it must look at, with its end. For each filter
    /// the lines come in their order.
    pub fn scan<'b>(&self, block: &'b [u8], mut each: impl FnMut(usize, &'b [u8])) {
        for line in lines(block).take_while(|_| !self.always.is_empty()) {
            self.always.iter().for_each(|number| each(*number, line));
        }
        let Some(Together { sieve, owners, filter_of }) = &self.together else { return };
        let mut concerned: Vec<usize> = Vec::new();
        sieve.lines(block, |line| {
            concerned.clear();
            for hit in owners.find_overlapping_iter(line) {
                let number = filter_of[hit.pattern().as_usize()];
                if !concerned.contains(&number) {
                    concerned.push(number);
                }
            }
            concerned.iter().for_each(|number| each(*number, line));
        });
    }
}
