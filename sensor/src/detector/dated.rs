//! Failures of lines whose date another clock than this host's has written: counted by what is known of that clock.

use std::collections::HashSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::clock::{ClockReading, Delivery};
use super::clocks::{self, Clocks};
use super::feed::count;
use super::ignored::{Ignored, Spared};
use super::outlet::Outlet;
use super::watched::Watched;
use crate::date;
use crate::jail::{Failure, Jail};
use crate::rfc5424::Rfc5424Message;

/// The most clocks of which it is told that they are off.
const MOST_TOLD: usize = 1000;
/// The longest name of a host that tells senders apart, in bytes.
const LONGEST_HOST: usize = 64;

/// A line whose date is the daemon's or the sender's.
#[derive(Clone, Copy)]
pub(super) struct DatedLine<'a> {
    /// Whose clock it is: the file's, or the sender's.
    pub(super) clock: &'a str,
    pub(super) delivery: Delivery,
    /// When it arrived.
    pub(super) now: Timestamp,
}

/// What all jails have in common while a line is looked at.
pub(super) struct Common<'a> {
    pub(super) ignored: &'a Ignored,
    pub(super) skewed: &'a mut HashSet<String>,
    pub(super) outlet: &'a mut Outlet,
}

// === impl Watched ===

impl Watched {
    /// Takes note of the date of a line that is no failure, by which what was held may be decided on.
    pub(super) fn look_at_clock(&mut self, date: Timestamp, line: DatedLine<'_>, common: &mut Common<'_>) {
        let Self { jail, clocks, spared, .. } = self;
        if let ClockReading::Learnt(_, offset) = clocks.read(line.clock, date, line.now, line.delivery) {
            release(jail, clocks, spared, offset, line, common);
        }
    }
}

/// Counts a failure by its date, as its source's clock corrects it. One that is too old by a clock that is not decided on
/// yet is held until it is.
pub(super) fn count_dated(
    jail: &mut Jail,
    clocks: &mut Clocks,
    spared: &Spared,
    failure: Failure,
    line: DatedLine<'_>,
    common: &mut Common<'_>,
) {
    let now = line.now;
    let reading = clocks.read(line.clock, failure.time, now, line.delivery);
    let failure = match reading {
        ClockReading::Corrected(time) => failure.at(time),
        ClockReading::Learnt(time, offset) => {
            release(jail, clocks, spared, offset, line, common);
            failure.at(time)
        }
        ClockReading::Unset => {
            warn_skewed(common.skewed, line.clock, || {
                format!("the clock of {} was never set: its lines are of their arrival", line.clock)
            });
            failure.at(now)
        }
        ClockReading::Undecided if now.duration_since(failure.time) > jail.policy().findtime.signed() => {
            match clocks.hold(line.clock, failure, now) {
                Some(failure) => failure,
                None => return,
            }
        }
        ClockReading::Right | ClockReading::Undecided => failure,
    };
    count(jail, common.ignored, spared, failure, now, common.outlet);
}

/// Counts what was held of a source whose clock is decided on.
fn release(
    jail: &mut Jail,
    clocks: &mut Clocks,
    spared: &Spared,
    offset: SignedDuration,
    line: DatedLine<'_>,
    common: &mut Common<'_>,
) {
    warn_skewed(common.skewed, line.clock, || clocks::said(line.clock, offset));
    for failure in clocks.release(line.clock) {
        count(jail, common.ignored, spared, failure, line.now, common.outlet);
    }
}

/// Tells once of each clock that it is off, in words that say by how much.
fn warn_skewed(skewed: &mut HashSet<String>, clock: &str, words: impl FnOnce() -> String) {
    if skewed.len() < MOST_TOLD && skewed.insert(clock.to_owned()) {
        tracing::warn!(
            source = clock,
            "{}; set it right (NTP), or give the jail the `logtimezone` of its dates",
            words()
        );
    }
}

/// The host that a syslog message names, after its date.
pub(super) fn host_of(text: &[u8]) -> Option<String> {
    let message = Rfc5424Message::read(text).map(|message| message.line().bytes);
    let text = message.as_deref().unwrap_or(text);
    let (_, date) = date::find(text, Timestamp::UNIX_EPOCH, &TimeZone::UTC)?;
    let rest = text[date.end..].trim_ascii_start();
    let host = rest.split(|byte| *byte == b' ').next().filter(|host| !host.is_empty())?;
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b".:_-".contains(byte);
    let is_host = host.len() <= LONGEST_HOST && host.iter().all(is_host) && !host.ends_with(b":");
    is_host.then(|| String::from_utf8_lossy(host).into_owned())
}
