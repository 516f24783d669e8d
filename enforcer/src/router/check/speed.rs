//! How long a list takes to be sent to this router, by what others measured of its board, else by a few adds of the
//! write test; and how long it takes to be read, where that was measured.

use std::time::Duration;

use super::facts::{Facts, WriteTest};
use super::system::span;
use super::{Finding, Grade};
use crate::router::RouterConfig;
use crate::router::view::entries_by_memory;

/// What others measured: what `board-name` holds, what the board is called, and how long it takes for an add, in
/// microseconds. The hAP ax³'s was 147 adds a second, the RB5009's 1.2 ms an entry, both by cs-routeros-bouncer's author.
const MEASURED: [(&[&str], &str, u64); 2] =
    [(&["RB5009"], "RB5009", 1200), (&["hAP ax", "3"], "hAP ax³", 6803)];

/// The same of an entry in a print of the whole list, of five properties as ours is, in microseconds: on the RB5009 22,037
/// in 2.24 s (cs-routeros-bouncer's author), on the hEX (`RB750Gr3`) 30,000 in a little over 20 s (in the field). Of the hAP
/// ax³ and of MIPSBE boards nobody published one.
const READ: [(&str, &str, u64); 2] = [("RB5009", "RB5009", 102), ("RB750Gr3", "RB750Gr3", 670)];

/// How many entries are said to be many, where neither the settings nor the memory say how many the router takes.
const MANY: usize = 25_000;

/// Adds that were timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How many.
    pub adds: u32,
    /// How long they took one after another, the way not counted.
    pub took: Duration,
}

/// What was measured of a board of this `board-name`: what it is called, and how long an add takes there.
pub fn measured(board: &str) -> Option<(&'static str, Duration)> {
    let known = MEASURED.iter().find(|(parts, ..)| parts.iter().all(|part| board.contains(part)));
    known.map(|(_, name, microseconds)| (*name, Duration::from_micros(*microseconds)))
}

/// How long new bans wait for a reading of the whole list; none where nobody measured the board. Nothing
/// says that a second session would help them: ten that added at once were no faster than one, and nobody measured an add of
/// one beside a print of another.
pub(super) fn examine_reading(config: &RouterConfig, facts: &Facts) -> Option<Finding> {
    let resource = facts.resource.shown()?;
    // The `RB750Gr3` is sold as the hEX; nobody looked which of the two it calls itself.
    let board = if resource.board == "hEX" { "RB750Gr3" } else { &resource.board };
    let (_, name, microseconds) = READ.iter().find(|(part, ..)| board.contains(part))?;
    let full = config.max_entries.or_else(|| resource.total_memory.map(entries_by_memory)).unwrap_or(MANY);
    let seconds = |entries: usize| (*microseconds * entries as u64).div_ceil(1_000_000);
    let says = format!(
        "a reading of 1000 entries takes about {}, of all {full} that the router may hold {}, as others measured on an {name}; what is banned meanwhile may wait until it is over",
        span(seconds(1000)),
        span(seconds(full))
    );
    Some(Finding::good("reading", says))
}

/// The finding; none where nothing could be written, which another finding says.
pub(super) fn examine(config: &RouterConfig, facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "speed";
    let resource = facts.resource.shown()?;
    let full = config.max_entries.or_else(|| resource.total_memory.map(entries_by_memory)).unwrap_or(MANY);
    let (add, how) = match (measured(&resource.board), facts.sample, &facts.write) {
        (Some((board, add)), ..) => (add, format!("as others measured on an {board}")),
        (None, Some(sample), _) => {
            let how = format!(
                "by the {} adds that this check timed: nobody published a measurement of this board, and with a long list it may be slower",
                sample.adds
            );
            (sample.took / sample.adds.max(1), how)
        }
        (None, None, WriteTest::Skipped) => {
            let says = format!(
                "how long a list takes cannot be told: nobody published a measurement of the {}, and without --read-only this check would time a few adds",
                resource.board
            );
            return Some(Finding::new(CHECK, Grade::Unclear, says));
        }
        (None, None, _) => return None,
    };
    let seconds = |entries: usize| (add.as_secs_f64() * entries as f64).ceil().max(1.0) as u64;
    let rate = (1.0 / add.as_secs_f64().max(1e-5)).round();
    let says = format!(
        "the router adds about {rate} entries a second, {how}: 1000 bans take {}, all {full} that it may hold {}",
        span(seconds(1000)),
        span(seconds(full))
    );
    Some(Finding::good(CHECK, says))
}
