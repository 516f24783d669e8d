//! One open file: what of it was handed over, and how the next lines are read.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use memchr::{memchr, memrchr};
use rustix::fs::SeekFrom;

use super::archives::Era;
use super::index::TELLING;
use super::opened::nanoseconds;
use super::position::{Fingerprint, HEAD, LAST, Position, SavedPosition, bytes_at};
use super::{FilesStatus, FollowedFile, LONGEST_LINE, Opened, Sink};
use crate::carrier::{self, FirstLines};

/// How much of a file its first lines are looked for in, in bytes: engines part lines at 16 KiB.
const FIRST_LINES: usize = 64 * 1024;
/// How much is read at once, unless a line is longer.
const BLOCK: usize = 256 * 1024;

/// A file that is followed.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) file: FollowedFile,
    open: File,
    id: (u64, u64),
    born: Option<u64>,
    /// When it was written to last, at the last look at which it held what was read.
    modified: Option<u64>,
    /// The same at the last look, whatever it held.
    looked: Option<u64>,
    /// The file of the log that was read before this one, where that is known.
    pub(super) before: Option<(u64, u64)>,
    /// After the last line that was handed over.
    offset: u64,
    /// The file's size at the last look.
    pub(super) seen: u64,
    /// The first bytes as they were read.
    head: Vec<u8>,
    first: Fingerprint,
    /// What the first lines say of the file's form.
    first_lines: FirstLines,
    /// The last bytes before the offset.
    last: Vec<u8>,
    /// Whether the rest of a line that was cut is still to be passed over.
    skipping: bool,
    /// Whether the sink knows what stands before the offset, where that matters.
    begun: bool,
    /// Whether there may be something to read.
    pub(super) dirty: bool,
    /// Whether inotify tells of it.
    pub(super) watched: bool,
    /// The folder in which it lies, where a link led there.
    pub(super) folder: Option<PathBuf>,
    /// Since when a file without a name was not written to; `None` while it has one.
    pub(super) quiet_since: Option<Instant>,
    /// What is read now; empty between turns, since all files share one buffer.
    block: Vec<u8>,
    /// Bytes after the last line's end, as of the last read.
    tail: u64,
    /// What has to be found out before it is read on.
    pub(super) doubt: Option<Doubtful>,
    /// Whether no archive was left out between the file before it and its first line.
    pub(super) is_next: bool,
    /// Whether it is a copy, in which nobody writes on.
    pub(super) is_copy: bool,
    /// Whether it was taken for a copy of what was read, and nothing of it was handed over.
    pub(super) is_passed_over: bool,
}

/// What has to be found out of a file before it is read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubtful {
    /// It no longer holds what was read: where the rest of that is, and what came before that what it holds now.
    Content,
    /// Its first lines are there, or it was truncated before they were seen: whether it held others before, which were
    /// copied.
    Beginning,
}

/// How a turn of reading ended.
pub(super) enum TurnEnd {
    /// Everything that is there was handed over.
    AtEnd,
    /// The turn is over, and there is more.
    More,
    /// Something has to be found out first, as [`Followed::doubt`] says.
    Doubted,
}

// === impl Followed ===

impl Followed {
    /// A file from an offset on.
    pub(super) fn new(path: Arc<Path>, patterns: Vec<usize>, opened: Opened, offset: u64) -> Self {
        let (id, born, modified) = (opened.id(), opened.born(), opened.modified());
        let mut followed = Self {
            file: FollowedFile { path, patterns, carrier: None },
            open: opened.file,
            id,
            born,
            modified,
            looked: modified,
            before: None,
            offset,
            seen: opened.metadata.len(),
            head: Vec::new(),
            first: Fingerprint::of(&[]),
            first_lines: FirstLines::default(),
            last: Vec::new(),
            skipping: false,
            begun: false,
            dirty: true,
            watched: false,
            folder: opened.folder,
            quiet_since: None,
            block: Vec::new(),
            tail: 0,
            doubt: None,
            is_next: false,
            is_copy: false,
            is_passed_over: false,
        };
        followed.learn();
        followed
    }

    /// A file where reading of it stood.
    pub(super) fn resumed(path: Arc<Path>, patterns: Vec<usize>, opened: Opened, at: &Position) -> Self {
        let is_its_own = opened.id() == at.id();
        let mut followed = Self::new(path, patterns, opened, at.offset);
        if is_its_own {
            followed.modified = at.modified.or(followed.modified);
        } else {
            followed.is_copy = true;
        }
        followed
    }

    /// The copy of a file that was truncated, from where reading of that stood.
    pub(super) fn copy_of(truncated: &Self, opened: Opened) -> Self {
        let FollowedFile { path, patterns, .. } = truncated.file.clone();
        let mut copy = Self::new(path, patterns, opened, truncated.offset);
        copy.skipping = truncated.skipping;
        copy.is_copy = true;
        copy
    }

    /// The first bytes, as far as they were read.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    pub(super) fn id(&self) -> (u64, u64) {
        self.id
    }

    /// A path that opens this very file, whatever its name is now.
    pub(super) fn open_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.open.as_raw_fd()))
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.open.metadata().and_then(|metadata| metadata.modified()).ok()
    }

    pub(super) fn position(&self) -> Position {
        let last = Fingerprint::of(&self.last);
        let ((device, inode), born, modified) = (self.id, self.born, self.modified);
        Position { device, inode, born, modified, offset: self.offset, first: self.first, last }
    }

    /// When it was written, where no archive's name tells more.
    pub(super) fn era(&self) -> Era {
        Era { id: self.id, label: None, born: self.born, modified: self.modified }
    }

    /// The file as it is now.
    pub(super) fn open(&self) -> &File {
        &self.open
    }

    pub(super) fn saved_position(&self) -> SavedPosition {
        SavedPosition { path: self.file.path.to_path_buf(), position: self.position() }
    }

    /// Bytes that are there and not handed over.
    pub(super) fn backlog(&self) -> u64 {
        self.seen.saturating_sub(self.offset)
    }

    /// Bytes after the last line's end, as of the last read.
    pub(super) fn tail(&self) -> u64 {
        self.tail
    }

    /// Whether it was written to since the last look; where its events cannot be had, nothing else tells.
    pub(super) fn has_grown(&self) -> bool {
        self.open.metadata().is_ok_and(|metadata| metadata.len() != self.seen)
    }

    /// Whether another file holds what was read of this one, and enough of it to tell.
    pub(super) fn is_copied_by(&self, other: &File) -> bool {
        self.head.len() >= TELLING && self.has_same_bytes(other).unwrap_or(false)
    }

    /// Where reading starts at the end of a file whose last line is not complete, at that line.
    pub(super) fn start_at_line(&mut self) {
        let from = self.offset.saturating_sub(LONGEST_LINE as u64);
        let mut before = vec![0; (self.offset - from) as usize];
        if self.open.read_exact_at(&mut before, from).is_ok() {
            let end = memrchr(b'\n', &before).map_or(0, |newline| newline as u64 + 1);
            if from == 0 || end > 0 {
                self.offset = from + end;
            }
        }
        self.last.clear();
        self.learn();
    }

    /// Hands over at most about `most` bytes of whole lines. `buffer` is all files'.
    pub(super) fn read(
        &mut self,
        most: usize,
        buffer: &mut Vec<u8>,
        sink: &mut impl Sink,
        status: &FilesStatus,
    ) -> std::io::Result<TurnEnd> {
        self.block = std::mem::take(buffer);
        let ended = self.read_blocks(most, sink, status);
        self.tail = match ended {
            Ok(TurnEnd::AtEnd) => self.seen.saturating_sub(self.offset),
            _ => 0,
        };
        *buffer = std::mem::take(&mut self.block);
        if self.is_copy && self.tail > 0 {
            // What stands after its last line's end is all there will be.
            let tail = self.tail;
            self.hand_over_tail(buffer, sink, status);
            self.tail = tail.min(self.backlog());
        }
        ended
    }

    fn read_blocks(
        &mut self,
        most: usize,
        sink: &mut impl Sink,
        status: &FilesStatus,
    ) -> std::io::Result<TurnEnd> {
        let mut handed = 0;
        while handed < most {
            let before = self.offset;
            let filled = self.fill(BLOCK)?;
            if !self.is_same()? {
                return Ok(self.doubt(Doubtful::Content));
            }
            // Empty, it may have held lines and been truncated since.
            let has_news = || match filled {
                0 => self.looked != self.modified,
                _ => self.block.iter().any(|byte| *byte != 0),
            };
            if self.offset == 0 && !self.is_next && has_news() {
                self.head = self.block[..filled.min(HEAD)].to_vec();
                self.first = Fingerprint::of(&self.head);
                return Ok(self.doubt(Doubtful::Beginning));
            }
            if self.block.first() == Some(&0) {
                handed += filled;
                if self.pass_over_nuls()? {
                    continue;
                }
                return Ok(TurnEnd::AtEnd);
            }
            self.hand_over(filled, sink, status);
            let advanced = (self.offset - before) as usize;
            if advanced == 0 {
                if filled < BLOCK {
                    return Ok(TurnEnd::AtEnd);
                }
                // A line longer than the block.
                let filled = self.fill(LONGEST_LINE)?;
                if !self.is_same()? {
                    return Ok(self.doubt(Doubtful::Content));
                }
                self.hand_over(filled, sink, status);
                if self.offset == before {
                    if filled < LONGEST_LINE {
                        return Ok(TurnEnd::AtEnd);
                    }
                    self.cut(sink, status);
                }
            }
            handed += (self.offset - before) as usize;
        }
        Ok(TurnEnd::More)
    }

    fn doubt(&mut self, what: Doubtful) -> TurnEnd {
        self.doubt = Some(what);
        TurnEnd::Doubted
    }

    /// Goes on with its first lines, before which nothing was left out.
    pub(super) fn begin_next(&mut self) {
        self.doubt = None;
        self.is_next = !self.head.is_empty();
        self.modified = self.looked;
    }

    /// Reads the file from its start, after a truncation; `modified` is from before its copies were looked for.
    pub(super) fn begin_anew(&mut self, modified: Option<u64>) {
        tracing::info!(path = %self.file.path.display(), "truncated; reading from its start");
        self.doubt = None;
        self.is_next = false;
        self.modified = modified;
        self.offset = 0;
        self.tail = 0;
        self.skipping = false;
        self.begun = false;
        self.head.clear();
        self.first = Fingerprint::of(&[]);
        self.first_lines = FirstLines::default();
        self.file.carrier = None;
        self.last.clear();
    }

    /// Reads a copy that was passed over from where reading of its original stood.
    pub(super) fn take_over(&mut self, truncated: &Self) {
        self.offset = truncated.offset;
        self.skipping = truncated.skipping;
        (self.is_copy, self.is_passed_over, self.dirty, self.begun) = (true, false, true, false);
        self.learn();
    }

    /// Hands over what stands after the last line's end in a file that ended for good.
    pub(super) fn hand_over_tail(
        &mut self,
        buffer: &mut Vec<u8>,
        sink: &mut impl Sink,
        status: &FilesStatus,
    ) {
        let length = usize::try_from(self.tail).unwrap_or(LONGEST_LINE).min(LONGEST_LINE);
        self.tail = 0;
        self.block = std::mem::take(buffer);
        let is_read = length > 0 && !self.skipping && self.fill(length).is_ok();
        let tail = std::mem::take(&mut self.block);
        if is_read && tail.iter().any(|byte| *byte != 0) {
            self.begin(sink);
            self.advance(&tail);
            status.bytes.fetch_add(tail.len() as u64, Ordering::Relaxed);
            sink.lines(&self.file, &tail, &self.position());
        }
        *buffer = tail;
    }

    /// Passes over the NULs with which the block begins, and the hole that they may be of: a file that was truncated
    /// under a daemon that does not append begins with one. Whether there may be more to read: NULs up to the end of a
    /// file may be written over, and are left.
    fn pass_over_nuls(&mut self) -> std::io::Result<bool> {
        let nuls = self.block.iter().take_while(|byte| **byte == 0).count();
        if nuls < self.block.len() {
            let block = std::mem::take(&mut self.block);
            self.advance(&block[..nuls]);
            self.block = block;
            return Ok(true);
        }
        let data = match rustix::fs::seek(&self.open, SeekFrom::Data(self.offset)) {
            Ok(data) => data.max(self.offset + nuls as u64),
            Err(rustix::io::Errno::NXIO) => return Ok(false),
            // A file system that knows no holes.
            Err(_) => self.offset + nuls as u64,
        };
        if data >= self.seen {
            return Ok(false);
        }
        self.offset = data;
        let before = LAST as u64;
        self.last = bytes_at(&self.open, data.saturating_sub(before), LAST.min(data as usize))?;
        if self.head.len() < HEAD {
            self.head = bytes_at(&self.open, 0, HEAD)?;
            self.first = Fingerprint::of(&self.head);
        }
        Ok(true)
    }

    /// Reads what is there after the offset, at most so much, into the block.
    fn fill(&mut self, most: usize) -> std::io::Result<usize> {
        // No more than is there: clearing a whole block takes longer than reading a line.
        let there = self.open.metadata()?.len().saturating_sub(self.offset);
        let most = most.min(usize::try_from(there).unwrap_or(most).saturating_add(1));
        self.block.clear();
        self.block.resize(most, 0);
        let mut filled = 0;
        while filled < most {
            match self.open.read_at(&mut self.block[filled..], self.offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.block.truncate(filled);
        Ok(filled)
    }

    /// Whether the file still begins as it did and is as long as what was read of it. Asked after
    /// reading: what was read before a truncation is good.
    fn is_same(&mut self) -> std::io::Result<bool> {
        let metadata = self.open.metadata()?;
        self.seen = metadata.len();
        self.looked = nanoseconds(metadata.modified());
        if self.seen < self.offset + self.block.len() as u64 {
            return Ok(false);
        }
        let is_same = self.has_same_bytes(&self.open)?;
        // Of a file of which nothing was read there is nothing by which it could be known.
        if is_same && self.offset > 0 {
            self.modified = self.looked;
        }
        Ok(is_same)
    }

    fn has_same_bytes(&self, other: &File) -> std::io::Result<bool> {
        let before = self.offset - self.last.len() as u64;
        Ok(bytes_at(other, 0, self.head.len())? == self.head
            && bytes_at(other, before, self.last.len())? == self.last)
    }

    /// Hands over the whole lines of the block.
    fn hand_over(&mut self, filled: usize, sink: &mut impl Sink, status: &FilesStatus) {
        let block = std::mem::take(&mut self.block);
        let mut start = 0;
        if self.skipping {
            start = memchr(b'\n', &block[..filled]).map_or(filled, |newline| newline + 1);
            self.skipping = start == filled && block.last() != Some(&b'\n');
            self.advance(&block[..start]);
        }
        let end = memrchr(b'\n', &block[start..filled]).map_or(start, |newline| start + newline + 1);
        if end > start {
            self.begin(sink);
            self.advance(&block[start..end]);
            status.bytes.fetch_add((end - start) as u64, Ordering::Relaxed);
            sink.lines(&self.file, &block[start..end], &self.position());
        }
        self.block = block;
    }

    /// Hands over the first part of a line that is too long, and passes over the rest of it.
    fn cut(&mut self, sink: &mut impl Sink, status: &FilesStatus) {
        let mut line = std::mem::take(&mut self.block);
        self.begin(sink);
        self.advance(&line);
        self.skipping = true;
        status.cut_lines.fetch_add(1, Ordering::Relaxed);
        line.push(b'\n');
        sink.lines(&self.file, &line, &self.position());
        self.block = line;
    }

    /// Before the first lines are handed over of a file that container engines write, where they are not the file's
    /// first: the sink is told what stands before them.
    fn begin(&mut self, sink: &mut impl Sink) {
        if std::mem::replace(&mut self.begun, true) || self.offset == 0 || self.file.carrier.is_none() {
            return;
        }
        let from = self.offset.saturating_sub(carrier::LONGEST as u64);
        let mut before = vec![0; (self.offset - from) as usize];
        if self.open.read_exact_at(&mut before, from).is_err() {
            before.clear();
        }
        let whole = if from == 0 { 0 } else { memchr(b'\n', &before).map_or(before.len(), |end| end + 1) };
        sink.begin_within(&self.file, &before[whole..], from == 0, &self.position());
    }

    /// Moves the offset over bytes that were read, and keeps what tells the file from others.
    fn advance(&mut self, bytes: &[u8]) {
        self.is_passed_over = false;
        if self.offset == 0 {
            self.head.clear();
        }
        let room = HEAD - self.head.len();
        if room > 0 && self.head.len() as u64 == self.offset {
            self.head.extend_from_slice(&bytes[..room.min(bytes.len())]);
            self.first = Fingerprint::of(&self.head);
        }
        if !self.first_lines.is_settled() && bytes.iter().any(|byte| *byte != 0) {
            self.first_lines.look(bytes);
            self.file.carrier = self.first_lines.carrier();
        }
        if !bytes.is_empty() {
            self.last.clear();
            self.last.extend_from_slice(&bytes[bytes.len().saturating_sub(LAST)..]);
        }
        self.offset += bytes.len() as u64;
    }

    /// Finds the file's form in as much of it as was read: nearly always by the first bytes, else by what first lines need
    /// that are long.
    fn look_at_first_lines(&mut self, read: usize) {
        let whole = |bytes: &[u8]| memrchr(b'\n', bytes).map_or(0, |end| end + 1);
        self.first_lines.look(&self.head[..whole(&self.head)]);
        if !self.first_lines.is_settled() && read > self.head.len() {
            let mut beginning = vec![0; read.min(FIRST_LINES)];
            if self.open.read_exact_at(&mut beginning, 0).is_ok() {
                self.first_lines = FirstLines::default();
                self.first_lines.look(&beginning[..whole(&beginning)]);
            }
        }
        self.file.carrier = self.first_lines.carrier();
    }

    /// Learns from the file what [`Self::advance`] would have kept up to the offset.
    fn learn(&mut self) {
        let length = usize::try_from(self.offset).unwrap_or(usize::MAX);
        self.head = bytes_at(&self.open, 0, length.min(HEAD)).unwrap_or_default();
        self.first = Fingerprint::of(&self.head);
        self.first_lines = FirstLines::default();
        self.look_at_first_lines(length);
        let last = length.min(LAST);
        self.last = bytes_at(&self.open, self.offset - last as u64, last).unwrap_or_default();
    }
}
