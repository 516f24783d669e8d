//! The filter: which lines are failures, and of whom. Takes fail2ban's failregex with its tags
//! (`<HOST>`, `<ADDR>`, `<F-USER>`…) on the `regex` crate, whose time is linear in the line, and works
//! on bytes, so that broken UTF-8 hides nothing.
//!
//! **Whose address.** A line holds text that the attacker chose, so a pattern may match at several
//! places. A wildcard at the beginning (`^.*`) only skips: the leftmost place where the rest matches
//! an *address* is taken, so that what a log puts before the attacker's text wins. Anything else means
//! what it says, as in fail2ban; where that leaves an attacker a say, [`Filter::warnings`] tells.

mod address;
mod attempt;
pub mod catalogue;
mod dateless;
mod definition;
mod explain;
mod header;
mod json;
mod literal;
mod machine;
mod pattern;
mod session;
mod sieve;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::date::Dates;
use address::{HostPlace, host, leftmost, named};
use atalaya_program::count::{agreeing, counted};
use attempt::AttemptMemory;
use dateless::Dateless;
pub use definition::{CountedThing, FilterDefinition, FilterMode, Newlines};
pub use explain::NearMiss;
pub use json::JsonFields;
use json::{JsonFailure, JsonMachine};
use literal::Text;
use machine::{Exhausted, Group, Groups, Machine};
pub use pattern::FilterError;
use pattern::{Pattern, Prefix};
use session::{Marks, Sessions};
pub use sieve::Scanner;
use sieve::{Candidates, Sieve};

/// So many patterns are tried one after another; of more it is looked up first which may match.
const FEW: usize = 2;
/// How much of the last lines a filter of several lines keeps, in bytes.
const BUFFER: usize = 1 << 20;

/// Regexes and dates ready for use, with what is remembered of earlier lines: give it the lines of one log, in
/// their order.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The lines that it must look at; all of them where there is none.
    gate: Option<Arc<Gate>>,
    /// What a line must match before all; its content is what the others see.
    prefix: Option<Prefix>,
    patterns: Vec<Pattern>,
    /// In place of patterns: which fields of a JSON object tell a failure.
    json: Option<JsonMachine>,
    ignore: Vec<Machine>,
    dates: Dates,
    /// The last lines, where a regex sees several at once.
    buffer: Option<Buffer>,
    /// The last line with a date, where some lines have theirs in one before.
    dated: Option<Vec<u8>>,
    sessions: Sessions,
    attempts: AttemptMemory,
    /// Other names of users.
    users: BTreeMap<String, String>,
    /// Whether a machine works on UTF-8 alone.
    needs_utf8: bool,
    /// How often a search was given up.
    exhausted: u64,
    counts_ports: bool,
    caution: String,
    warnings: Vec<String>,
}

/// Texts of which a line must hold one to be looked at.
#[derive(Debug)]
struct Gate {
    /// The lines that any pattern must look at.
    sieve: Sieve,
    /// Which patterns those are, where there are many.
    patterns: Option<Candidates>,
    /// Perhaps fewer texts, which more lines hold: better where many filters share one pass.
    cheapest: Vec<Text>,
}

/// The last lines, without their dates.
#[derive(Clone, Debug)]
struct Buffer {
    lines: VecDeque<Vec<u8>>,
    most: usize,
}

/// Whether a line must have what a prefregex looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeaderNeed {
    Needed,
    MayLack,
}

/// What a filter makes of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineOutcome {
    /// No failregex matches, or no host that failed can be told from this line and those before.
    Missed,
    /// A failregex matches, and an ignoreregex too, or an earlier line told this failure.
    Ignored,
    /// A failregex matches and no ignoreregex does: one failure.
    Matched(Match),
}

/// What a failregex took from a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// An address, or a name, which is never banned.
    pub host: Host,
    /// Which failregex, counted from zero.
    pub regex: usize,
    /// Where in the line the host stands; empty where an earlier line named it, or a field of JSON.
    pub span: Range<usize>,
    /// Whom they tried to be, where the line or its session says so.
    pub user: Option<String>,
    /// The port that they tried, where the line says so.
    pub port: Option<u16>,
    /// How many failures the line stands for: more than one where a syslog daemon says that it was repeated.
    pub times: u32,
    /// The line that has the date, where that is one before.
    pub dated: Option<Vec<u8>>,
}

/// Who failed, as the line says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A literal address, in its canonical form.
    Address(IpAddr),
    /// Something else; it is never banned.
    Name(String),
}

// === impl Filter ===

impl Filter {
    /// Compiles the regexes of a jail.
    pub fn new(failregex: &[String], ignoreregex: &[String]) -> Result<Self, FilterError> {
        let (failregex, ignoreregex) = (failregex.to_vec(), ignoreregex.to_vec());
        FilterDefinition { failregex, ignoreregex, ..FilterDefinition::default() }.compile()
    }

    /// Leaves out what these match too.
    pub fn ignore_too(&mut self, ignoreregex: &[String]) -> Result<(), FilterError> {
        for regex in ignoreregex {
            let machine = pattern::compile_any(regex, self.buffer.is_some())?;
            self.needs_utf8 |= machine.is_backtracking();
            self.ignore.push(machine);
        }
        Ok(())
    }

    /// The texts that are searched first, where every regex holds one. Several lines at once, or a
    /// date of any shape, leave none.
    fn choose_gate(&self) -> Option<Arc<Gate>> {
        if self.buffer.is_some() || !self.dates.are_words() {
            return None;
        }
        if let Some(json) = &self.json {
            let texts = json.required()?;
            return Some(Arc::new(Gate { sieve: Sieve::new(&texts)?, patterns: None, cheapest: texts }));
        }
        let of_prefix = self.prefix.as_ref().and_then(|prefix| literal::required(prefix.whole.source()));
        let of_each: Vec<Option<Vec<Text>>> =
            self.patterns.iter().map(|pattern| literal::required(pattern.any.source())).collect();
        let of_patterns = of_each.iter().cloned().collect::<Option<Vec<_>>>().map(|texts| {
            let mut texts = texts.concat();
            texts.sort_unstable();
            texts.dedup();
            texts
        });
        let patterns = if of_each.len() > FEW { Candidates::new(&of_each) } else { None };
        let texts = of_patterns.or_else(|| of_prefix.clone())?;
        let cheapest = of_prefix.filter(|prefix| prefix.len() < texts.len()).unwrap_or_else(|| texts.clone());
        Some(Arc::new(Gate { sieve: Sieve::new(&texts)?, patterns, cheapest }))
    }

    /// What this filter makes of one line; a line's end is not part of it.
    pub fn find(&mut self, line: &[u8]) -> LineOutcome {
        let line = trim_end(line);
        let dateless = Dateless::new(line, &self.dates);
        if !dateless.cut.is_empty() && self.dates.span_lines() {
            self.dated = Some(line.to_vec());
        }
        let mut verdict = self.judge(line, dateless, HeaderNeed::Needed);
        if verdict.is_none() && self.buffer.is_none() {
            let written = Dateless::as_written(line, &self.dates);
            verdict = written.and_then(|written| self.judge(line, written, HeaderNeed::Needed));
            if verdict.is_none() {
                let reformed = Dateless::new(line, &self.dates).reformed();
                verdict = reformed.and_then(|reformed| self.judge(line, reformed, HeaderNeed::Needed));
            }
        }
        verdict.unwrap_or(LineOutcome::Missed)
    }

    /// As [`Filter::find`], for a line that a program in a container wrote: where the prefregex looks for the header
    /// that a syslog daemon would have put before it, the line may lack that.
    pub fn find_carried(&mut self, text: &[u8]) -> LineOutcome {
        let line = trim_end(text);
        let dateless = Dateless::new(line, &self.dates);
        self.judge(line, dateless, HeaderNeed::MayLack).unwrap_or(LineOutcome::Missed)
    }

    /// As [`Filter::find`], for a message whose date is known by other means: none is looked for.
    pub fn find_message(&mut self, message: &[u8]) -> LineOutcome {
        let line = trim_end(message);
        self.judge(line, Dateless::whole(line), HeaderNeed::Needed).unwrap_or(LineOutcome::Missed)
    }

    /// `None` where no regex matches.
    fn judge(&mut self, line: &[u8], dateless: Dateless<'_>, header: HeaderNeed) -> Option<LineOutcome> {
        match self.search(line, dateless, header) {
            Ok(verdict) => verdict,
            Err(Exhausted) => {
                self.exhausted += 1;
                // A flood of such lines must not become a flood of messages.
                if self.exhausted.is_power_of_two() {
                    let line: String = String::from_utf8_lossy(line).chars().take(200).collect();
                    tracing::warn!(
                        line,
                        lines = self.exhausted,
                        "a regex took too many steps: the line counts as missed"
                    );
                }
                Some(LineOutcome::Missed)
            }
        }
    }

    fn search(
        &mut self,
        line: &[u8],
        mut dateless: Dateless<'_>,
        header: HeaderNeed,
    ) -> Result<Option<LineOutcome>, Exhausted> {
        if self.needs_utf8 && std::str::from_utf8(&dateless.text).is_err() {
            dateless.text = String::from_utf8_lossy(&dateless.text).into_owned().into_bytes().into();
        }
        let several = self.buffer.as_mut().map(|buffer| buffer.push(&dateless.text));
        let text: &[u8] = several.as_deref().unwrap_or(&dateless.text);
        let (mut content, mut host_before, mut marks_before) = (0..text.len(), None, Marks::default());
        if let Some(prefix) = &self.prefix {
            let read = |groups: Groups<'_>| (host(groups, text), pattern::marks(text, groups));
            match prefix.search(text, read)? {
                Some((found, (host, marks))) => (content, host_before, marks_before) = (found, host, marks),
                None if header == HeaderNeed::MayLack => {}
                None => return Ok(None),
            }
        }
        let inner = &text[content.clone()];
        if let Some(json) = &self.json {
            let Some(JsonFailure { host, user }) = json.read(inner) else { return Ok(None) };
            for ignore in &self.ignore {
                if ignore.is_match(inner)? {
                    return Ok(Some(LineOutcome::Ignored));
                }
            }
            return Ok(Some(LineOutcome::Matched(Match {
                host,
                regex: 0,
                span: 0..0,
                user,
                port: None,
                times: 1,
                dated: None,
            })));
        }
        let candidates = self.gate.as_ref().and_then(|gate| Some(gate.patterns.as_ref()?.of(inner)));
        for (index, pattern) in self.patterns.iter().enumerate() {
            if candidates.as_ref().is_some_and(|candidates| !candidates.contains(index)) {
                continue;
            }
            let Some((host, marks)) = pattern.find(inner)? else { continue };
            for ignore in &self.ignore {
                if ignore.is_match(inner)? {
                    return Ok(Some(LineOutcome::Ignored));
                }
            }
            if let Some(buffer) = &mut self.buffer {
                buffer.keep_unmatched(&pattern.any, text)?;
            }
            let host = host.map(|(host, span)| (host, span.start + content.start..span.end + content.start));
            let (host, span) = host.or(host_before).unzip();
            let marks = marks.or(marks_before);
            let id = marks.id.as_ref().map(|id| named(id));
            let mut host = id.or(host);
            let mut user = marks.user.clone();
            if let Some(session) = marks.session.clone() {
                (host, user) = self.sessions.judge(session, host, &marks, Instant::now());
            } else if marks.no_failure || marks.gained {
                // Outside a session nothing can make a failure of it.
                host = None;
            }
            let Some(host) = host else { return Ok(Some(LineOutcome::Missed)) };
            if let Some(attempt) = marks.attempt.as_ref().filter(|_| marks.first || marks.again)
                && self.attempts.has_told(&host, attempt, marks.first, Instant::now())
            {
                return Ok(Some(LineOutcome::Ignored));
            }
            let user = user.map(|user| String::from_utf8_lossy(&user).into_owned());
            let user = user
                .map(|user| self.users.get(&user).cloned().unwrap_or(user))
                .filter(|user| !user.is_empty());
            // The host of a session may stand in an earlier line, that of several lines anywhere.
            let span = span.filter(|_| several.is_none()).map_or(0..0, |span| {
                let place = |at: usize| dateless.place(at).min(line.len());
                place(span.start)..place(span.end)
            });
            let times = if several.is_none() { dateless.times() } else { 1 };
            let dated = self.dated.clone().filter(|_| dateless.cut.is_empty());
            return Ok(Some(LineOutcome::Matched(Match {
                host,
                regex: index,
                span,
                user,
                port: marks.port,
                times,
                dated,
            })));
        }
        Ok(None)
    }

    /// Where in a line one of the failregexes matches, by its number, for showing it.
    pub fn matched_part(&self, line: &[u8], regex: usize) -> Option<Range<usize>> {
        let line = trim_end(line);
        let dateless = Dateless::new(line, &self.dates);
        let text = String::from_utf8_lossy(&dateless.text);
        let mut start = 0;
        if let Some(prefix) = &self.prefix {
            start = prefix.search(text.as_bytes(), |_| ()).ok()??.0.start;
        }
        let inner = text.as_bytes().get(start..)?;
        let found = self.patterns.get(regex)?.any.search(inner, |groups| groups(Group::All)).ok()???;
        let place = |at: usize| dateless.place(at + start).min(line.len());
        Some(place(found.start)..place(found.end))
    }

    /// Calls `each` for every line of a block that is not missed.
    pub fn find_in_block<'b>(&mut self, block: &'b [u8], mut each: impl FnMut(&'b [u8], LineOutcome)) {
        let gate = self.gate.clone();
        let look = |line: &'b [u8]| match self.find(line) {
            LineOutcome::Missed => {}
            verdict => each(trim_end(line), verdict),
        };
        match &gate {
            Some(gate) => gate.sieve.lines(block, look),
            None => lines(block).for_each(look),
        }
    }

    /// Whether it knows texts that a line must hold, so that it need not look at each.
    pub fn is_gated(&self) -> bool {
        self.gate.is_some()
    }

    /// Whether different ports are to be counted, and not lines.
    pub fn counts_ports(&self) -> bool {
        self.counts_ports
    }

    /// The fewest texts of which each line that matches holds one.
    fn cheapest_texts(&self) -> Option<&[Text]> {
        self.gate.as_ref().map(|gate| gate.cheapest.as_slice())
    }

    /// How the lines write their dates.
    pub fn dates(&self) -> Dates {
        self.dates.clone()
    }

    /// How many lines were given up because a regex took too many steps.
    pub fn exhausted(&self) -> u64 {
        self.exhausted
    }

    /// What no filter of this log can mend; empty where nothing is known.
    pub fn caution(&self) -> &str {
        &self.caution
    }

    /// What an administrator should know of this filter, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What makes a filter worse than it looks, a sentence each: regexes that never get their turn, host
    /// names that are found and never banned.
    pub fn lint(&self) -> Vec<String> {
        let mut said = Vec::new();
        for (index, later) in self.patterns.iter().enumerate() {
            let first = self.patterns[..index].iter().find(|earlier| pattern::wins_always(earlier, later));
            if let Some(earlier) = first {
                said.push(format!(
                    "`{}` never gets its turn: `{}` before it matches every such line",
                    later.written, earlier.written
                ));
            }
        }
        let named = self.patterns.iter().filter(|pattern| pattern.names_only()).count();
        if named > 0 {
            said.push(format!(
                "{} {} for host names alone (<DNS>): whoever owns an address decides on its name, so names are never banned",
                counted(named, "regex"),
                agreeing(named, "looks", "look")
            ));
        }
        said
    }

    /// The failregexes as they were written; what stands for them in a filter of JSON lines.
    pub fn regexes(&self) -> impl Iterator<Item = &str> {
        let written = self.patterns.iter().map(|pattern| pattern.written.as_str());
        written.chain(self.json.iter().map(|json| json.written.as_str()))
    }
}

// === impl Pattern ===

impl Pattern {
    /// The host of the line and its place, where it has one, and what else it says; `None` where it
    /// does not match.
    fn find(&self, text: &[u8]) -> Result<Option<(Option<HostPlace>, Marks)>, Exhausted> {
        if let Some(addresses) = &self.leading
            && let Some(place) = leftmost(addresses, text)
        {
            let marks = if self.marked {
                self.any.search(text, |groups| pattern::marks(text, groups))?
            } else {
                None
            };
            return Ok(Some((Some(place), marks.unwrap_or_default())));
        }
        self.any.search(text, |groups| {
            let marks = if self.marked { pattern::marks(text, groups) } else { Marks::default() };
            (host(groups, text), marks)
        })
    }
}

// === impl Buffer ===

impl Buffer {
    fn new(most: usize) -> Self {
        Self { lines: VecDeque::new(), most }
    }

    /// Adds a line; the last ones together, each with its end.
    fn push(&mut self, line: &[u8]) -> Vec<u8> {
        self.lines.push_back(line.to_vec());
        while self.lines.len() > self.most
            || self.lines.len() > 1 && self.lines.iter().map(Vec::len).sum::<usize>() > BUFFER
        {
            self.lines.pop_front();
        }
        let mut text = Vec::new();
        for line in &self.lines {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        text
    }

    /// Forgets the lines that a match took; those that it only skipped may belong to another.
    fn keep_unmatched(&mut self, machine: &Machine, text: &[u8]) -> Result<(), Exhausted> {
        let Some((whole, skipped)) = machine.search(text, |groups| {
            let skipped: Vec<Range<usize>> =
                (0..pattern::MOST_SKIPS).filter_map(|number| groups(Group::Skipped(number))).collect();
            (groups(Group::All), skipped)
        })?
        else {
            return Ok(());
        };
        let Some(whole) = whole else { return Ok(()) };
        let mut start = 0;
        let taken = |start: usize, end: usize| {
            start < whole.end.max(whole.start + 1)
                && end > whole.start
                && !skipped.iter().any(|skip| skip.start <= start && end <= skip.end)
        };
        self.lines.retain(|line| {
            let end = start + line.len() + 1;
            let keep = !taken(start, end);
            start = end;
            keep
        });
        Ok(())
    }
}

/// The lines of a block, each with its end.
pub fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    block.split_inclusive(|byte| *byte == b'\n')
}

/// The line around a place in a block, with its end.
fn line_around(block: &[u8], place: usize) -> Range<usize> {
    let start = memchr::memrchr(b'\n', &block[..place]).map_or(0, |newline| newline + 1);
    let end = memchr::memchr(b'\n', &block[place..]).map_or(block.len(), |newline| place + newline + 1);
    start..end
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests;
