//! The router itself: its version, its memory, its clock.

use super::facts::{ClockFace, Facts};
use super::release::Release;
use super::{Finding, Grade, command};
use crate::router::RouterConfig;
use crate::router::view::entries_by_memory;
use atalaya_program::count::counted;

/// How far the router's clock may be from ours, in seconds.
const CLOCK_TOLERANCE: u64 = 60;

pub(super) fn examine(config: &RouterConfig, facts: &Facts) -> Vec<Finding> {
    vec![version(config, facts), memory(config, facts), clock(facts)]
}

fn version(config: &RouterConfig, facts: &Facts) -> Finding {
    const CHECK: &str = "version";
    let Some(resource) = facts.resource.shown() else {
        let says = format!(
            "the version of RouterOS cannot be told (/system/resource: {}): look with `/system/resource print`; 6.43 or later is needed",
            facts.resource.silence()
        );
        return Finding::new(CHECK, Grade::Unclear, says);
    };
    let text = &resource.version;
    let Some(release) = Release::parse(text) else {
        let says = format!(
            "the router calls its version `{text}`, which is not understood; 6.43 or later is needed"
        );
        return Finding::new(CHECK, Grade::Unclear, says);
    };
    if release < Release::FIRST {
        let says = format!("RouterOS {text} is not supported: update it to {} or later", Release::FIRST);
        return Finding::new(CHECK, Grade::Fault, says);
    }
    if !release.finished {
        let says =
            format!("RouterOS {text} is a release for tests: expect surprises, and prefer a stable one");
        return Finding::new(CHECK, Grade::Warning, says);
    }
    let ipv6 = if config.ipv6 {
        "; its IPv6 list forgets timeouts past 35w3d in silence, so longer bans are sent as that and renewed"
    } else {
        ""
    };
    Finding::good(CHECK, format!("RouterOS {text}{ipv6}"))
}

fn memory(config: &RouterConfig, facts: &Facts) -> Finding {
    const CHECK: &str = "memory";
    let resource = facts.resource.shown();
    let Some((resource, total)) = resource.and_then(|resource| Some((resource, resource.total_memory?)))
    else {
        let says = "how many entries the router may hold cannot be told, for it does not show its memory: set `max_entries` by hand, 32768 for each 256 MiB".to_owned();
        return Finding::new(CHECK, Grade::Unclear, says);
    };
    let suggested = entries_by_memory(total);
    let free = resource.free_memory.map_or_else(String::new, |free| format!(", {} free", mebibytes(free)));
    let board = format!("{} with {}{free}", resource.board, mebibytes(total));
    let held: usize =
        facts.lists.iter().filter_map(|list| list.shown()).map(|list| list.ours + list.foreign).sum();
    let scarce = resource.free_memory.is_some_and(|free| free < total / 10);
    match config.max_entries {
        Some(most) if most > suggested => Finding::new(
            CHECK,
            Grade::Warning,
            format!(
                "{board}: max_entries = {most} is more than such a board carries well; {suggested} is advised"
            ),
        ),
        _ if held > suggested => Finding::new(
            CHECK,
            Grade::Warning,
            format!("{board}: its lists hold {held} entries already; {suggested} is advised as the most"),
        ),
        _ if scarce => Finding::new(
            CHECK,
            Grade::Warning,
            format!("{board}: little memory is left for entries; max_entries = {} is safer", suggested / 4),
        ),
        Some(most) => Finding::good(CHECK, format!("{board}: max_entries = {most} fits")),
        None => Finding::good(CHECK, format!("{board}: up to {suggested} entries (max_entries)")),
    }
}

fn clock(facts: &Facts) -> Finding {
    const CHECK: &str = "clock";
    let Some(ClockFace { text, shows, ours }) = facts.clock.shown() else {
        let says = format!("the router's clock cannot be told (/system/clock: {})", facts.clock.silence());
        return Finding::new(CHECK, Grade::Unclear, says);
    };
    let Some(shows) = shows else {
        let says = format!(
            "the router's clock shows `{text}`, which is not understood: look with `/system/clock print`"
        );
        return Finding::new(CHECK, Grade::Unclear, says);
    };
    let off = shows.duration_since(*ours);
    let seconds = off.as_secs().unsigned_abs();
    if seconds <= CLOCK_TOLERANCE {
        return Finding::good(CHECK, "the router's clock agrees with ours");
    }
    let side = if off.is_negative() { "behind" } else { "ahead of" };
    let says = format!(
        "the router's clock is {} {side} ours: bans do not suffer, for their timeouts need no clock, but its log and certificates do",
        span(seconds)
    );
    let command = command::set_time_source(facts.release());
    Finding::new(CHECK, Grade::Warning, says).mended_by([command])
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}

/// Roughly how long, in words.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => counted(seconds / 86_400, "day"),
    }
}
