//! Follows log files: every line once, in order, across rotation, truncation and restarts.
//!
//! A file is its **inode**, not its name, as long as it is open; what was let go of is known by more, for
//! its inode may be the next file's. What is followed is open; names only tell what to open.
//!
//! - *Rename and create*: the open old file is drained, and watched on until it was quiet for
//!   [`QUIET`], for daemons write on until they reopen. The new file is read after it.
//! - *Copy and truncate*: a file that became shorter than what was read, or whose first bytes changed,
//!   was truncated. Lines that came between the last read and the truncation are in the copy beside
//!   it, which is known by the same first bytes; they are read there, then what was copied since, then the
//!   file from its start.
//!   A block counts only if, *after* it was read, the file is still the same, so that a truncation in
//!   the midst of reading cannot pass off new bytes as old ones.
//! - *Restart*: positions name device, inode, birth, offset and hashes of bytes. A file that was
//!   rotated meanwhile is found in its folder by inode or by hash, and those that came and went between it
//!   and the present one are the archives that are later than it ([`archives`]).
//! - Whatever is to be read has its position saved before what comes after it has one: a process that is
//!   killed leaves no gap.
//! - *Missed events*: inotify's are a hint. A full scan every [`RESCAN`] finds what they did not tell.

mod access;
mod archives;
mod followed;
mod index;
mod opened;
mod position;
mod rotation;
mod sink;
mod status;
mod survey;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::confine::logs::PathPattern;

pub use access::Access;
use followed::{Followed, TurnEnd};
use index::Index;
pub(crate) use opened::Opened;
pub use position::{Fingerprint, Position, SavedPosition};
pub use sink::{FollowedFile, Sink};
pub use status::{FilesStatus, MOST_TROUBLES, Troubles};
pub use survey::troubles_of;
use survey::{LogSurvey, note};

/// How long a file that lost its name must be quiet before it is let go.
pub const QUIET: Duration = Duration::from_secs(10);
/// How often everything is looked at, whatever inotify said.
pub const RESCAN: Duration = Duration::from_secs(2);
/// How long names are looked at before what has news is read: with very many files, a look at all takes longer than a
/// line may wait.
const SLICE: Duration = Duration::from_millis(5);
/// Names that change bring a look at all of them at once, but for so many times as long as the last one took: where they
/// change all the time, the rest is for reading.
const REST: u32 = 3;
/// The longest line; what goes beyond is cut off and counted.
pub const LONGEST_LINE: usize = 1 << 20;
/// How much one file may hand over before the next has its turn.
const TURN: usize = 1 << 20;
/// How many open files are left to the rest of the sensor, unless a quarter of all is less.
const SPARE_FILES: usize = 1000;
const TOO_MANY: &str =
    "as many files are followed as this process may open; raise LimitNOFILE= of its service";
/// How many paths that are not read are told of at once.
const TOLD: usize = 20;
/// The most finished files that are remembered, so that none is read again under its archive's name.
const REMEMBERED: usize = 1000;

/// Where reading of a file that was never seen before starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At its first line.
    Beginning,
    /// At its end, for files that are there when following starts; later ones are read whole.
    End,
}

/// Why files cannot be followed at all. A single file's trouble is logged, and the others go on.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A path is not usable as a pattern.
    #[error("the path `{path}` is not a usable pattern: {reason}")]
    Pattern {
        /// As configured, before links and wildcards were resolved.
        path: String,
        /// What is wrong in it, and what would be right.
        reason: String,
    },
    /// inotify, or the descriptor that wakes the thread, cannot be made.
    #[error("cannot watch files: {0}; raise fs.inotify.max_user_instances if it is exhausted")]
    Kernel(std::io::Error),
}

/// Stops a follower and reads its counters, from any thread.
#[derive(Clone, Debug)]
pub struct FollowerHandle {
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    status: Arc<FilesStatus>,
}

/// The follower; [`Follower::run`] is its thread.
#[derive(Debug)]
pub struct Follower {
    patterns: Vec<PathPattern>,
    /// As they were given, for those who read of them.
    texts: Vec<String>,
    access: Access,
    start: Start,
    /// In the order in which they are read: an old file stands before the one that replaced it.
    files: Vec<Followed>,
    saved: Vec<SavedPosition>,
    /// Saved positions of which the file is gone, or another one goes on.
    stale: Vec<SavedPosition>,
    /// Paths that an earlier run followed: what is new there now is read from its start.
    known: HashSet<PathBuf>,
    /// Places of the patterns that an earlier run followed: a file of theirs that has no position came since.
    followed: HashSet<usize>,
    /// Where reading of files ended that were let go of, the oldest first.
    finished: VecDeque<Position>,
    /// What the files read into, one after another.
    buffer: Vec<u8>,
    /// The most files that may be open: the rest of the sensor needs some too.
    most: usize,
    /// Where each file stands in `files`.
    places: HashMap<(u64, u64), usize>,
    /// How many files are followed under each path.
    names: HashMap<Arc<Path>, usize>,
    inotify: Inotify,
    folders: HashMap<PathBuf, WatchDescriptor>,
    file_watches: HashMap<WatchDescriptor, (u64, u64)>,
    /// What could not be read at the last try, by path.
    unreadable: Troubles,
    handle: FollowerHandle,
    /// Whether something has to be found out of a file before it is read on.
    is_doubtful: bool,
    /// Whether the first scan is over: files that appear later are read from their start.
    running: bool,
}

// === impl FollowerHandle ===

impl FollowerHandle {
    /// Lets [`Follower::run`] return after the block that it is at.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }

    /// Counters that the thread goes on counting in.
    pub fn status(&self) -> Arc<FilesStatus> {
        self.status.clone()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

// === impl Follower ===

impl Follower {
    /// Prepares to follow the files that match the patterns, from the saved positions on.
    pub fn new(patterns: &[String], saved: Vec<SavedPosition>, start: Start) -> Result<Self, FilesError> {
        let texts = patterns.to_vec();
        let taken_apart = patterns.iter().map(|path| {
            PathPattern::new(path).map_err(|reason| FilesError::Pattern { path: path.clone(), reason })
        });
        let patterns = taken_apart.collect::<Result<_, _>>()?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| FilesError::Kernel(error.into()))?;
        let handle = FollowerHandle { stop: Arc::default(), wake: Arc::new(wake), status: Arc::default() };
        Ok(Self {
            patterns,
            texts,
            access: Access::default(),
            start,
            files: Vec::new(),
            known: saved.iter().map(|saved| saved.path.clone()).collect(),
            saved,
            stale: Vec::new(),
            followed: HashSet::new(),
            finished: VecDeque::new(),
            buffer: Vec::new(),
            most: most_files(),
            places: HashMap::new(),
            names: HashMap::new(),
            inotify: Inotify::init().map_err(FilesError::Kernel)?,
            folders: HashMap::new(),
            file_watches: HashMap::new(),
            unreadable: Troubles::new(),
            handle,
            is_doubtful: false,
            running: false,
        })
    }

    /// Opens files in this way; without it, links lead nowhere that is not root's, and nobody else opens what this
    /// process may not.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Reads files of these paths and patterns from their start where they have no position: an earlier run followed
    /// them too, so they are new.
    #[must_use]
    pub fn with_followed(mut self, texts: &[String]) -> Self {
        let was_followed = |(_, text): &(usize, &String)| texts.contains(text);
        self.followed = self.texts.iter().enumerate().filter(was_followed).map(|(place, _)| place).collect();
        self
    }

    /// What stops this follower and reads its counters.
    pub fn handle(&self) -> FollowerHandle {
        self.handle.clone()
    }

    /// Looks for the files that are there and takes their positions; what is written from then on is
    /// read by [`Self::run`], which calls this if nobody did.
    pub fn begin(&mut self, sink: &mut impl Sink) {
        if !self.running {
            self.resume(sink);
            self.scan(sink);
            self.forget_stale(sink);
            self.running = true;
        }
    }

    /// Follows until stopped. Blocks: give it a thread of its own.
    pub fn run(mut self, sink: &mut impl Sink) {
        self.begin(sink);
        let (mut next_scan, mut not_before) = (Instant::now() + RESCAN, Instant::now());
        while !self.handle.stopped() {
            let more = self.read(sink);
            self.resolve_doubts(sink);
            if self.handle.stopped() {
                break;
            }
            let wait =
                if more { Duration::ZERO } else { next_scan.saturating_duration_since(Instant::now()) };
            if self.wait(wait) {
                next_scan = next_scan.min(not_before);
            }
            let begin = Instant::now();
            if begin >= next_scan {
                let names_changed = self.scan(sink);
                self.let_go(sink);
                // What inotify does not tell of.
                self.files.iter_mut().for_each(|file| file.dirty |= !file.watched);
                not_before = Instant::now() + begin.elapsed() * REST;
                next_scan = if names_changed { not_before } else { Instant::now() + RESCAN };
            }
        }
    }

    /// Looks at all names: which files they stand for now, and which files have lost theirs. Once running, what has news
    /// is read meanwhile; whether names changed since.
    fn scan(&mut self, sink: &mut impl Sink) -> bool {
        let (mut names_changed, mut slice) = (false, Instant::now());
        let mut survey = LogSurvey::new(&self.patterns, &self.access);
        let mut live = HashSet::new();
        // Made where something is new, which is seldom.
        let mut index = None;
        for (path, patterns) in std::mem::take(&mut survey.named) {
            if self.running && slice.elapsed() > SLICE {
                names_changed |= self.wait(Duration::ZERO);
                self.read(sink);
                slice = Instant::now();
            }
            // A name that still stands for a file that is followed need not be opened again.
            let known = std::fs::metadata(&path)
                .ok()
                .filter(|metadata| self.places.contains_key(&(metadata.dev(), metadata.ino())));
            if known.is_none() && self.files.len() >= self.most {
                survey.find(&patterns);
                note(&mut survey.troubles, &path, TOO_MANY);
                continue;
            }
            let opened = if known.is_some() { None } else { survey.open(&self.access, &path, &patterns) };
            let Some(metadata) = known.as_ref().or(opened.as_ref().map(|opened| &opened.metadata)) else {
                continue;
            };
            survey.find(&patterns);
            let id = (metadata.dev(), metadata.ino());
            if let Some(file) = self.places.get(&id).and_then(|place| self.files.get_mut(*place)) {
                // Two names of one file, or a rename within a pattern, are one file still.
                file.dirty |= metadata.len() != file.seen;
                survey.folders.extend(file.folder.clone());
                file.quiet_since = None;
                live.insert(id);
                continue;
            }
            let Some(opened) = opened else { continue };
            let finished = self.finished_in(&opened).map(|position| position.offset);
            let path: Arc<Path> = path.into();
            let index = index.get_or_insert_with(|| Index::of(&self.files));
            let replaced = index.paths.get(&path).copied();
            let mut before = None;
            if let Some(old) = replaced {
                self.handle.status.rotations.fetch_add(1, Ordering::Relaxed);
                tracing::info!(path = %path.display(), "rotated; the old file is read to its end first");
                before = Some(self.add_between(&path, &patterns, old, sink));
                // Rotated once more since it was opened, it was found among the archives.
                if self.places.contains_key(&id) {
                    live.insert(id);
                    continue;
                }
            }
            let is_at_end = !self.running
                && self.start == Start::End
                && !self.known.contains(&*path)
                && !patterns.iter().any(|pattern| self.followed.contains(pattern));
            let mut is_passed_over = false;
            let offset = if let Some(offset) = finished {
                tracing::info!(path = %path.display(), "it is back; reading on where it was let go of");
                offset
            } else if is_at_end {
                opened.metadata.len()
            } else if index.has_copied(&self.files, &opened) {
                // copytruncate's copy, under a name that a pattern matches: its lines were read.
                tracing::debug!(path = %path.display(), "a copy of a followed file; passed over");
                is_passed_over = true;
                opened.metadata.len()
            } else {
                0
            };
            let mut file = Followed::new(path, patterns, opened, offset);
            (file.before, file.is_passed_over) = (before, is_passed_over);
            if offset > 0 && finished.is_none() {
                file.start_at_line();
            }
            // Saved at once, so that lines written while the sensor is down are read later.
            sink.lines(&file.file, b"", &file.position());
            live.insert(id);
            self.add(file);
        }
        self.watch_folders(std::mem::take(&mut survey.folders));
        self.tell(survey.into_troubles(&self.texts));
        let now = Instant::now();
        for file in &mut self.files {
            if !live.contains(&file.id()) && file.quiet_since.is_none() {
                file.quiet_since = Some(now);
                file.dirty = true;
            }
        }
        let unwatched = self.files.iter().filter(|file| !file.watched).count();
        self.handle.status.followed.store(self.files.len() as u64, Ordering::Relaxed);
        self.handle.status.unwatched.store(unwatched as u64, Ordering::Relaxed);
        names_changed
    }

    /// Gives every file with news its turn; whether there is more to read.
    fn read(&mut self, sink: &mut impl Sink) -> bool {
        let mut more = false;
        let mut backlog = 0;
        // Paths of which an older file has more to read, among those that have several.
        let mut behind: HashSet<Arc<Path>> = HashSet::new();
        for index in 0..self.files.len() {
            if !self.files[index].dirty {
                continue;
            }
            // An old file is drained before the one that took its name.
            let path = self.files[index].file.path.clone();
            let is_alone = self.names.get(&path).is_none_or(|files| *files < 2);
            if self.files[index].doubt.is_some() || (!is_alone && behind.contains(&path)) {
                behind.insert(path);
                more = true;
                continue;
            }
            let status = self.handle.status.clone();
            let file = &mut self.files[index];
            let before = file.seen;
            let progress = file.read(TURN, &mut self.buffer, sink, &status);
            if file.seen != before {
                file.quiet_since = file.quiet_since.map(|_| Instant::now());
            }
            match progress {
                Ok(TurnEnd::AtEnd) => file.dirty = false,
                Ok(TurnEnd::More) => more = true,
                Ok(TurnEnd::Doubted) => {
                    self.is_doubtful = true;
                    more = true;
                }
                Err(error) => {
                    file.dirty = false;
                    note(&mut self.unreadable, &path, &error.to_string());
                    continue;
                }
            }
            backlog += self.files[index].backlog();
            if !is_alone && self.files[index].dirty {
                behind.insert(path);
            }
            if self.handle.stopped() {
                break;
            }
        }
        self.handle.status.backlog.store(backlog, Ordering::Relaxed);
        more
    }

    /// Lets go of files that have no name and were quiet for long enough.
    fn let_go(&mut self, sink: &mut impl Sink) {
        let status = self.handle.status.clone();
        let (mut index, mut went) = (0, false);
        while index < self.files.len() {
            let file = &mut self.files[index];
            let gone = !file.dirty && file.quiet_since.is_some_and(|since| since.elapsed() > QUIET);
            if !gone || file.has_grown() || file.backlog() > file.tail() {
                index += 1;
                continue;
            }
            file.hand_over_tail(&mut self.buffer, sink, &status);
            let file = self.files.remove(index);
            tracing::debug!(path = %file.file.path.display(), "the old file is quiet; let go");
            self.unwatch(file.id());
            went = true;
            if let Some(files) = self.names.get_mut(&file.file.path) {
                *files -= 1;
                if *files == 0 {
                    self.names.remove(&file.file.path);
                }
            }
            sink.forget(&file.saved_position());
            if self.finished.len() == REMEMBERED {
                self.finished.pop_front();
            }
            self.finished.push_back(file.position());
        }
        if went {
            self.place();
        }
    }

    /// Waits for news, at most so long; whether names may have changed.
    fn wait(&mut self, at_most: Duration) -> bool {
        {
            let mut fds = [
                PollFd::from_borrowed_fd(self.inotify.as_fd(), PollFlags::IN),
                PollFd::new(&*self.handle.wake, PollFlags::IN),
            ];
            let timeout =
                Timespec { tv_sec: at_most.as_secs().cast_signed(), tv_nsec: at_most.subsec_nanos().into() };
            // An interrupted wait is a short one.
            let _ = poll(&mut fds, Some(&timeout));
        }
        let mut buffer = [0; 16 * 1024];
        let mut names_changed = false;
        loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return names_changed,
                Err(_) => return true,
            };
            let mut any = false;
            for event in events {
                any = true;
                if event.mask.contains(EventMask::MODIFY)
                    && let Some(id) = self.file_watches.get(&event.wd)
                {
                    if let Some(file) = self.places.get(id).and_then(|place| self.files.get_mut(*place)) {
                        file.dirty = true;
                        if let Some(since) = &mut file.quiet_since {
                            *since = Instant::now();
                        }
                    }
                } else {
                    if event.mask.contains(EventMask::IGNORED) {
                        self.folders.retain(|_, wd| *wd != event.wd);
                        self.file_watches.remove(&event.wd);
                    }
                    // Another folder may have its name now, which is watched with the next scan.
                    if event.mask.contains(EventMask::MOVE_SELF)
                        && self.folders.extract_if(|_, wd| *wd == event.wd).next().is_some()
                    {
                        let _ = self.inotify.watches().remove(event.wd);
                    }
                    if event.mask.contains(EventMask::Q_OVERFLOW) {
                        self.files.iter_mut().for_each(|file| file.dirty = true);
                    }
                    names_changed = true;
                }
            }
            if !any {
                return names_changed;
            }
        }
    }

    fn add(&mut self, mut file: Followed) {
        self.watch(&mut file);
        self.places.insert(file.id(), self.files.len());
        self.files.push(file);
    }

    /// Watches a file, which is to be read.
    fn watch(&mut self, file: &mut Followed) {
        // Through the open file, so that a symlink's target and a renamed file are watched too.
        let mask = WatchMask::MODIFY | WatchMask::ATTRIB | WatchMask::MOVE_SELF;
        match self.inotify.watches().add(file.open_path(), mask) {
            Ok(watch) => {
                self.file_watches.insert(watch, file.id());
                file.watched = true;
            }
            Err(error) => {
                tracing::debug!(path = %file.file.path.display(), %error, "not watched; looked at every two seconds");
            }
        }
        file.dirty = true;
        *self.names.entry(file.file.path.clone()).or_default() += 1;
    }

    /// Ends the watch of a file that is let go of: nobody would know what its events are about.
    fn unwatch(&mut self, id: (u64, u64)) {
        let watches: Vec<WatchDescriptor> =
            self.file_watches.extract_if(|_, of| *of == id).map(|(watch, _)| watch).collect();
        for watch in watches {
            // A deleted file's ended with it.
            let _ = self.inotify.watches().remove(watch);
        }
    }

    /// Finds the places of files anew, after some were let go of or sorted.
    fn place(&mut self) {
        self.places = self.files.iter().enumerate().map(|(place, file)| (file.id(), place)).collect();
    }

    /// Where reading of this file ended, if it is one that was let go of.
    fn finished_in(&self, opened: &Opened) -> Option<&Position> {
        self.finished.iter().rev().find(|position| position.is_in(opened))
    }

    fn watch_folders(&mut self, folders: HashSet<PathBuf>) {
        let mask = WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::MOVE_SELF
            | WatchMask::DELETE_SELF
            | WatchMask::ONLYDIR;
        for folder in folders {
            if !self.folders.contains_key(&folder)
                && let Ok(watch) = self.inotify.watches().add(&folder, mask)
            {
                self.folders.insert(folder, watch);
            }
        }
    }

    fn patterns_of(&self, path: &Path) -> Vec<usize> {
        let matches = |(_, pattern): &(usize, &PathPattern)| pattern.matches(path);
        self.patterns.iter().enumerate().filter(matches).map(|(index, _)| index).collect()
    }

    /// Says once what is not read, and keeps it for those who ask.
    fn tell(&mut self, mut troubles: Troubles) {
        troubles.append(&mut std::mem::take(&mut self.unreadable));
        let new = self.handle.status.set_troubles(troubles);
        for (path, what) in new.iter().take(TOLD) {
            tracing::warn!(path = %path.display(), "not read: {what}; it is tried again every two seconds");
        }
        if let Some(more) = new.len().checked_sub(TOLD + 1) {
            tracing::warn!("and {} more; `atalaya-sensor status` names them", more + 1);
        }
    }
}

/// How many files may be followed with as many as this process may open.
fn most_files() -> usize {
    use rustix::process::{Resource, getrlimit};
    let open = getrlimit(Resource::Nofile).current.and_then(|open| usize::try_from(open).ok());
    open.map_or(usize::MAX, |open| open - (open / 4).min(SPARE_FILES))
}
