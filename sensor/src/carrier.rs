//! Log files of container engines: Docker's `json-file` (`{"log":"…\n","stream":"stderr","time":"…"}`) and the form of
//! Kubernetes' CRI (`2026-11-30T08:20:00.123456789Z stderr F …`), which podman's `k8s-file` and `json-file` are too.
//! What the program wrote, and when, is taken out of it before any filter sees it.
//!
//! A file is of such a form by its first line, for good: a line that somebody smuggles into another file is what it
//! is. Where that line is the rest of one that was cut (by a truncation, say), two lines of one form after it decide. In
//! such a file a line that is not of the form is read as it is.
//!
//! Engines part a long line into pieces, and may put lines of the other stream between them: the pieces are joined, so
//! that no piece can pass for a line of its own.

mod container;
mod pieces;

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

pub use container::container_of;
pub use pieces::{LONGEST, OpenLine};

/// How a record of Docker's begins, in every version: no line of it is empty.
const DOCKER: &[u8] = br#"{"log":""#;

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Docker's `json-file`.
    Docker,
    /// The form of CRI.
    Cri,
}

/// Finds the form of a file by its first lines, which are shown to it whole and in their order.
#[derive(Clone, Debug, Default)]
pub struct FirstLines {
    seen: u8,
    /// The form of the second line, where the first one may be the rest of a line.
    second: Option<Carrier>,
    found: Option<Carrier>,
    is_settled: bool,
}

/// A line that a program wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried<'a> {
    /// When, by the engine's clock; `None` where the line of the file is not of its form.
    pub time: Option<Timestamp>,
    /// What, without line ends; the line of the file where it is not of its form.
    pub text: Cow<'a, [u8]>,
}

/// Takes the lines out of one file, and keeps the pieces of those that are not complete.
#[derive(Clone, Debug)]
pub struct Unpacker {
    carrier: Carrier,
    open: [OpenLine; 2],
    cut: u64,
    /// Whether the next line is the file's first.
    is_at_start: bool,
}

/// Where a program wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stream {
    Stdout,
    Stderr,
}

/// One line of a file, taken apart.
struct CarrierRecord<'a> {
    time: Timestamp,
    stream: Stream,
    text: Cow<'a, [u8]>,
    /// Whether the program's line ends with it.
    ends: bool,
}

/// As Docker writes it. A line with anything else in it is none of Docker's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DockerRecord<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    stream: Stream,
    #[serde(default, rename = "attrs")]
    _attributes: serde::de::IgnoredAny,
    time: Timestamp,
}

// === impl Carrier ===

impl Carrier {
    /// The form of a file that begins so.
    pub fn of(beginning: &[u8]) -> Option<Self> {
        let mut first_lines = FirstLines::default();
        first_lines.look(beginning);
        first_lines.found
    }

    /// The form of a line; its first 64 bytes suffice.
    fn of_line(line: &[u8]) -> Option<Self> {
        if line.starts_with(DOCKER) { Some(Self::Docker) } else { cri(line).map(|_| Self::Cri) }
    }

    fn read(self, line: &[u8]) -> Option<CarrierRecord<'_>> {
        match self {
            Self::Docker => docker(line),
            Self::Cri => cri(line),
        }
    }
}

// === impl FirstLines ===

impl FirstLines {
    /// Looks at the next lines.
    pub fn look(&mut self, lines: &[u8]) {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if self.is_settled {
                return;
            }
            self.take(line.strip_suffix(b"\n").unwrap_or(line));
        }
    }

    /// The form, as far as it is known.
    pub fn carrier(&self) -> Option<Carrier> {
        self.found
    }

    /// Whether further lines change nothing.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    fn take(&mut self, line: &[u8]) {
        // A truncated file may begin with a hole.
        let nuls = line.iter().take_while(|byte| **byte == 0).count();
        let line = &line[nuls..];
        let form = Carrier::of_line(line);
        match self.seen {
            0 => {
                self.found = form;
                self.is_settled = form.is_some() || is_whole(line);
            }
            1 => {
                self.second = form;
                self.is_settled = form.is_none();
            }
            _ => {
                self.found = form.filter(|_| form == self.second);
                self.is_settled = true;
            }
        }
        self.seen += 1;
    }
}

/// Whether a line is one of another log, and not the rest of one: it begins as an object of JSON, or with a time of day
/// that is not what an engine wrote.
fn is_whole(line: &[u8]) -> bool {
    const DATE: usize = 32;
    let is_clock = |window: &[u8]| {
        let fits =
            |(byte, shape): (&u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
        window.iter().zip(b"00:00:00").all(fits)
    };
    let mut fields = line.split(|byte| *byte == b' ').skip(1);
    let is_engines =
        matches!(fields.next(), Some(b"stdout" | b"stderr")) && matches!(fields.next(), Some(b"F" | b"P"));
    line.starts_with(b"{") || !is_engines && line[..line.len().min(DATE)].windows(8).any(is_clock)
}

// === impl Unpacker ===

impl Unpacker {
    /// For a file of which nothing is open.
    pub fn new(carrier: Carrier) -> Self {
        Self { carrier, open: Default::default(), cut: 0, is_at_start: false }
    }

    /// For a file from its first line on. Where that is not of the form, it is the rest of a line that was cut, and is
    /// passed over: no part of a line is to pass for a line of its own.
    pub fn at_start(carrier: Carrier) -> Self {
        Self { is_at_start: true, ..Self::new(carrier) }
    }

    /// For a file from somewhere on: `before` are whole lines that stand before it. Where they are not all that do,
    /// pieces among them may lack their beginning: the line that these belong to is passed over.
    pub fn within(carrier: Carrier, before: &[u8], is_all: bool) -> Self {
        let mut unpacker = Self::new(carrier);
        if !is_all {
            unpacker.open = [OpenLine::Unseen, OpenLine::Unseen];
        }
        for line in before.split_inclusive(|byte| *byte == b'\n') {
            unpacker.take(line);
        }
        unpacker.cut = 0;
        for open in unpacker.open.iter_mut().filter(|open| **open == OpenLine::Unseen) {
            *open = OpenLine::Closed;
        }
        unpacker
    }

    /// The program's line that a line of the file completes; `None` where it is a piece only.
    pub fn take<'a>(&mut self, line: &'a [u8]) -> Option<Carried<'a>> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let is_first = std::mem::take(&mut self.is_at_start);
        let Some(CarrierRecord { time, stream, text, ends }) = self.carrier.read(line) else {
            if is_first {
                self.cut += 1;
                return None;
            }
            return Some(Carried { time: None, text: line.into() });
        };
        let text = self.open[stream as usize].take(text, ends, &mut self.cut)?;
        Some(Carried { time: Some(time), text: one_line(text) })
    }

    /// Forgets the pieces that it keeps; the lines that they belong to are passed over.
    pub fn give_up(&mut self) {
        self.open.iter_mut().for_each(OpenLine::give_up);
    }

    /// Whether it keeps nothing, so that a new one would do as well.
    pub fn is_empty(&self) -> bool {
        self.open.iter().all(|open| *open == OpenLine::Closed)
    }

    /// How much it keeps, in bytes.
    pub fn kept(&self) -> usize {
        self.open.iter().map(OpenLine::kept).sum()
    }

    /// How many lines were cut at [`LONGEST`] or passed over since the last call.
    pub fn take_cut(&mut self) -> u64 {
        std::mem::take(&mut self.cut)
    }
}

/// Reads a line of Docker's. A piece is one without a line end.
fn docker(line: &[u8]) -> Option<CarrierRecord<'_>> {
    let DockerRecord { log, stream, time, .. } = serde_json::from_slice(line).ok()?;
    let text = match log {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    let ends = text.ends_with(b"\n");
    Some(CarrierRecord { time, stream, text, ends })
}

/// Reads a line of CRI's: `TIME STREAM TAGS TEXT`, where the first tag is `P` for a piece and `F` for the last.
fn cri(line: &[u8]) -> Option<CarrierRecord<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let ends = match tags.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let time = std::str::from_utf8(time).ok()?;
    let time = Some(time).filter(|time| (20..=35).contains(&time.len()) && time.as_bytes()[10] == b'T')?;
    Some(CarrierRecord {
        time: time.parse().ok()?,
        stream,
        text: fields.next().unwrap_or_default().into(),
        ends,
    })
}

/// A line of a log has no line ends in it; those behind it are left out.
fn one_line(text: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let end = text.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    if memchr::memchr2(b'\n', b'\r', &text[..end]).is_some() {
        let blank = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
        return text[..end].iter().map(blank).collect();
    }
    match text {
        Cow::Borrowed(text) => text[..end].into(),
        Cow::Owned(mut text) => {
            text.truncate(end);
            text.into()
        }
    }
}

#[cfg(test)]
mod tests;
