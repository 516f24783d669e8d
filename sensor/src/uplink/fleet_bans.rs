//! The bans of the whole fleet, as the enforcer's stream tells them: from the bytes of the stream to changes of a
//! set of bans, and where to go on after a cut. No I/O is here; [`crate::uplink`] has the connection.
//!
//! The enforcer's certificate is pinned, but what it sends is checked all the same: a line that is too long, is
//! not understood or comes where it makes no sense ends the connection with an error.

use std::time::Duration;

use atalaya_wire::{BanLine, Begin, Left, MAX_BAN_LINE, Name, Position, VERSION};
use ipnet::IpNet;
use tokio::time::Instant;

/// A change of the set of the fleet's bans. Who applies all of them in their order, and lets go of what is over,
/// holds what the enforcer wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BanChange {
    /// A snapshot of all bans begins. What was held before stands on until [`Self::Whole`]; a snapshot that is cut
    /// goes on where it was cut, or begins anew with another `Reset`.
    Reset {
        /// Which ledger the bans are of.
        ledger: Name,
        /// The last of this sensor's offences that the enforcer had answered when the connection was opened: what
        /// it had banned for these is in the snapshot, unless it was lifted or is over.
        answered: u64,
    },
    /// A ban, new or changed: it replaces what was said of exactly this network before.
    Ban {
        /// What is banned, in its canonical form.
        network: IpNet,
        /// By this host's clock, from the seconds that were left when the line was sent.
        ends: Ends,
    },
    /// A ban was lifted before its end. There may be none of exactly this network.
    Lift {
        /// What is banned no longer.
        network: IpNet,
    },
    /// The snapshot is whole: what was held before its [`Self::Reset`] and not named by a [`Self::Ban`] since is
    /// banned no longer.
    Whole,
    /// Everything before this is what the position says; never within a snapshot. Who keeps the bans beyond the
    /// end of the process keeps this after them, and begins there the next time.
    Reached(Position),
    /// The allow list is another one than when this was told last: it is to be read anew.
    AllowList,
}

/// When a ban ends, by this host's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ends {
    /// By this host's monotonic clock.
    At(Instant),
    /// When it is lifted.
    Never,
}

/// The stream as it is read: over any number of connections, one after another.
#[derive(Debug, Default)]
pub struct Reading {
    /// Where to go on; `None` before the first mark of a snapshot.
    position: Option<Position>,
    /// Which stream the connection gives; `None` before its first line.
    stream: Option<Name>,
    /// As [`BanChange::Reset`] tells it.
    answered: u64,
    /// How often the allow list had changed, and in which stream, when that was told last.
    allow: Option<(Name, u64)>,
    /// The beginning of a line whose end has not come yet; shorter than [`MAX_BAN_LINE`].
    rest: Vec<u8>,
}

/// Why the stream cannot be read on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A line has no end.
    #[error("a line of the stream of bans is longer than {MAX_BAN_LINE} bytes")]
    TooLong,
    /// A line is not one.
    #[error("a line of the stream of bans is not understood: `{line}`: {reason}")]
    Malformed {
        /// Its first 100 characters, escaped.
        line: String,
        /// What was expected there, and where; 200 characters at most.
        reason: String,
    },
    /// The enforcer is of another release.
    #[error(
        "the stream of bans has version {0}; this sensor speaks version {VERSION}: use the same release on both sides"
    )]
    Version(u32),
    /// A line makes no sense where it is.
    #[error("the stream of bans has {0} where it cannot be")]
    OutOfPlace(&'static str),
}

// === impl Ends ===

impl Ends {
    /// The end of a ban of which so much was left when it arrived.
    pub fn of(left: Left, now: Instant) -> Self {
        match left {
            Left::Permanent => Self::Never,
            Left::Milliseconds(left) => {
                now.checked_add(Duration::from_millis(left)).map_or(Self::Never, Self::At)
            }
        }
    }
}

// === impl Reading ===

impl Reading {
    /// Goes on from a position, where bans were kept; otherwise everything is read.
    pub fn new(position: Option<Position>) -> Self {
        Self { position, ..Self::default() }
    }

    /// A new connection begins, when the enforcer has answered offences up to this one. Returns what it is to ask
    /// for.
    pub fn connect(&mut self, answered: u64) -> Option<Position> {
        self.answered = answered;
        self.stream = None;
        self.rest.clear();
        self.position.clone()
    }

    /// Reads bytes that arrived now, and adds what they change. After an error a new connection is to begin.
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        now: Instant,
        changes: &mut Vec<BanChange>,
    ) -> Result<(), StreamError> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, after) = bytes.split_at(end);
            bytes = &after[1..];
            if self.rest.len() + line.len() >= MAX_BAN_LINE {
                return Err(StreamError::TooLong);
            }
            if self.rest.is_empty() {
                self.line(line, now, changes)?;
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole, now, changes)?;
            }
        }
        if self.rest.len() + bytes.len() >= MAX_BAN_LINE {
            return Err(StreamError::TooLong);
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether all bans are known, as of some moment; not so within a snapshot.
    pub fn is_whole(&self) -> bool {
        self.position.as_ref().is_some_and(|position| position.after.is_none())
    }

    fn line(&mut self, line: &[u8], now: Instant, changes: &mut Vec<BanChange>) -> Result<(), StreamError> {
        let line = serde_json::from_slice(line).map_err(|error| StreamError::malformed(line, &error))?;
        match line {
            BanLine::Begin(begin) => self.begin(begin, changes)?,
            _ if self.stream.is_none() => {
                return Err(StreamError::OutOfPlace("something before its beginning"));
            }
            BanLine::Ban { net: network, ms } => {
                changes.push(BanChange::Ban { network, ends: Ends::of(ms, now) });
            }
            BanLine::Lift { net: network } => changes.push(BanChange::Lift { network }),
            BanLine::Mark { through, after, allow } => {
                self.mark(through, after, changes)?;
                self.note_allow(allow, changes);
            }
        }
        Ok(())
    }

    fn begin(&mut self, begin: Begin, changes: &mut Vec<BanChange>) -> Result<(), StreamError> {
        if begin.version != VERSION {
            return Err(StreamError::Version(begin.version));
        }
        if begin.resumed {
            let is_asked_for = self.position.as_ref().is_some_and(|asked| asked.stream == begin.stream);
            if !is_asked_for || self.stream.is_some() {
                return Err(StreamError::OutOfPlace("a resumption that was not asked for"));
            }
        } else {
            self.position = None;
            changes.push(BanChange::Reset { ledger: begin.ledger, answered: self.answered });
        }
        self.stream = Some(begin.stream);
        Ok(())
    }

    fn mark(
        &mut self,
        through: u64,
        after: Option<IpNet>,
        changes: &mut Vec<BanChange>,
    ) -> Result<(), StreamError> {
        let Some(stream) = self.stream.clone() else { return Ok(()) };
        let was_whole = self.is_whole();
        let goes_back = self.position.as_ref().is_some_and(|before| {
            through < before.through
                || after.is_some_and(|after| before.after.is_none_or(|last| after < last))
        });
        if goes_back {
            return Err(StreamError::OutOfPlace("a mark that goes back"));
        }
        let reached = Position { stream, through, after };
        if reached.after.is_none() {
            if !was_whole {
                changes.push(BanChange::Whole);
            }
            if self.position.as_ref() != Some(&reached) {
                changes.push(BanChange::Reached(reached.clone()));
            }
        }
        self.position = Some(reached);
        Ok(())
    }

    fn note_allow(&mut self, allow: Option<u64>, changes: &mut Vec<BanChange>) {
        let told = self.stream.clone().zip(allow);
        if told.is_some() && told != self.allow {
            changes.push(BanChange::AllowList);
            self.allow = told;
        }
    }
}

// === impl StreamError ===

impl StreamError {
    fn malformed(line: &[u8], error: &serde_json::Error) -> Self {
        let line = String::from_utf8_lossy(line).escape_debug().take(100).collect();
        Self::Malformed { line, reason: error.to_string().escape_debug().take(200).collect() }
    }
}

#[cfg(test)]
mod tests;
