//! Follows the files of journals: every entry of every file once, in the order in which the file has them, across
//! rotation and restarts.
//!
//! A file is known by the number in its header, which stays as it is when journald gives it another name. How many of
//! its entries were read is all that is remembered of it, so that a clock that was set back, a host that sends late and
//! a reboot change nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};

use super::copies::Copies;
use super::entry::Entry;
use super::file::{JournalFile, JournalFileError, JournalHeader};
use super::matching::JournalMatch;
use super::place::JournalPlace;
use super::status::JournalStatus;
use super::watches::{FolderNews, JournalWatches};
use super::{Cursor, JournalSink, WantedJournal};
use crate::confine::logs::is_denied;
use crate::source::files::{MOST_TROUBLES, Troubles};

/// How often everything is looked at, whatever inotify said.
const RESCAN: Duration = Duration::from_secs(2);
/// How many entries of one file are looked at before the next has its turn.
const TURN: u64 = 2000;
/// How many entries before the first that is read are looked through for the pieces that belong to it.
const BEFORE: u64 = 500;
/// After how many entries in a row that cannot be read a file is given up.
const MOST_DAMAGED: u64 = 10_000;
/// The most files that are followed.
const MOST_FILES: usize = 20_000;
/// The most names of a folder that are looked at.
const MOST_NAMES: usize = 100_000;
/// How long a file that is gone is remembered, for it may come back.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// How many files that are not read are told of at once.
const TOLD: usize = 20;

/// How far a file is read; also, without entries, that a folder was followed before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalPosition {
    /// The number in the file's header, in hexadecimal digits; the path of a folder or a pattern.
    pub file: String,
    /// How many of its entries were read.
    pub entries: u64,
}

/// Why journals cannot be followed at all. A single file's trouble is logged, and the others go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch the journal: {0}; raise fs.inotify.max_user_instances if it is exhausted")]
pub struct JournalError(std::io::Error);

/// Stops a follower and reads its counters, from any thread.
#[derive(Clone, Debug)]
pub struct JournalHandle {
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    status: Arc<JournalStatus>,
}

/// The follower; [`JournalFollower::run`] is its thread.
#[derive(Debug)]
pub struct JournalFollower {
    wanted: Vec<WantedJournal>,
    /// Positions of files that were not seen yet, or are gone, and since when.
    absent: HashMap<String, (u64, Instant)>,
    /// Folders and patterns that were followed before: what is new there is read from its first entry.
    known: HashSet<String>,
    /// Where an earlier release stood.
    cursor: Option<Cursor>,
    machine: Option<String>,
    files: HashMap<u128, FollowedJournal>,
    names: HashMap<PathBuf, u128>,
    watches: JournalWatches,
    troubles: Troubles,
    copies: Copies,
    handle: JournalHandle,
    running: bool,
}

#[derive(Debug)]
struct FollowedJournal {
    path: PathBuf,
    /// Which of the wanted journals it is in.
    wanted: Vec<usize>,
    places: Arc<[JournalPlace]>,
    read: u64,
    /// As of the last look.
    entries: u64,
    /// When its first entry was written, in microseconds since 1970.
    first_written: u64,
    dirty: bool,
    /// Whether the last look did not find it.
    is_missing: bool,
    /// How many of the last entries could not be read.
    damaged: u64,
    /// Of an archive that is read: as long as it stays so, it need not be looked at.
    settled: Option<Stamp>,
}

/// What tells whether a file changed.
type Stamp = (u64, u64, u64, i64, i64);

// === impl JournalHandle ===

impl JournalHandle {
    /// Lets [`JournalFollower::run`] return after the entry that it is at.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }

    /// Counters that the thread goes on counting in.
    pub fn status(&self) -> Arc<JournalStatus> {
        self.status.clone()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

// === impl JournalFollower ===

impl JournalFollower {
    /// Prepares to follow journals, from where reading stood. Of a journal that was never followed, what is written
    /// from now on is read.
    pub fn new(
        wanted: Vec<WantedJournal>,
        saved: Vec<JournalPosition>,
        cursor: Option<Cursor>,
    ) -> Result<Self, JournalError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| JournalError(error.into()))?;
        let (known, saved): (Vec<_>, Vec<_>) =
            saved.into_iter().partition(|position| position.file.starts_with('/'));
        let machine = std::fs::read_to_string("/etc/machine-id").ok();
        Ok(Self {
            wanted,
            absent: saved.into_iter().map(|one| (one.file, (one.entries, Instant::now()))).collect(),
            known: known.into_iter().map(|one| one.file).collect(),
            cursor,
            machine: machine.map(|machine| machine.trim().to_owned()),
            files: HashMap::new(),
            names: HashMap::new(),
            watches: JournalWatches::new().map_err(JournalError)?,
            troubles: Troubles::new(),
            copies: Copies::default(),
            handle: JournalHandle { stop: Arc::default(), wake: Arc::new(wake), status: Arc::default() },
            running: false,
        })
    }

    /// What stops this follower and reads its counters.
    pub fn handle(&self) -> JournalHandle {
        self.handle.clone()
    }

    /// Looks for the files that are there and takes their positions; what is written from then on is read by
    /// [`Self::run`], which calls this if nobody did.
    pub fn begin(&mut self, sink: &mut impl JournalSink) {
        if self.running {
            return;
        }
        self.scan(sink);
        for name in self.wanted.iter().flat_map(|wanted| wanted.place.names()) {
            if self.known.insert(name.clone()) {
                sink.passed(JournalPosition { file: name, entries: 0 });
            }
        }
        self.running = true;
    }

    /// Follows until stopped. Blocks: give it a thread of its own.
    pub fn run(mut self, sink: &mut impl JournalSink) {
        self.begin(sink);
        let mut next_scan = Instant::now() + RESCAN;
        while !self.handle.stopped() {
            let (more, moved) = self.read(sink);
            let wait = if more || moved {
                Duration::ZERO
            } else {
                next_scan.saturating_duration_since(Instant::now())
            };
            let names_changed = self.wait(wait);
            if names_changed || moved || Instant::now() >= next_scan {
                self.scan(sink);
                next_scan = Instant::now() + RESCAN;
            }
        }
    }

    /// Reads all that is there now, from the first entry on, and returns; the file with the oldest entries first.
    pub fn read_all(mut self, sink: &mut impl JournalSink) -> Troubles {
        self.known.extend(self.wanted.iter().flat_map(|wanted| wanted.place.names()));
        self.begin(sink);
        let mut files: Vec<(u64, u128)> =
            self.files.iter().map(|(id, file)| (file.first_written, *id)).collect();
        files.sort_unstable();
        for (_, id) in files {
            while self.files.get(&id).is_some_and(|file| file.dirty) {
                if let Err(error) = self.read_file(id, sink)
                    && let Some(file) = self.files.remove(&id)
                {
                    note(&mut self.troubles, &file.path, &told(&error));
                }
            }
        }
        self.troubles.append(&mut self.handle.status.troubles());
        self.troubles
    }

    /// Looks at all names: which files there are, and which of them have news.
    fn scan(&mut self, sink: &mut impl JournalSink) {
        let mut found: Vec<(PathBuf, Vec<usize>)> = Vec::new();
        let mut at: HashMap<PathBuf, usize> = HashMap::new();
        let mut folders = BTreeSet::new();
        let troubles = &mut self.troubles;
        for (index, wanted) in self.wanted.iter().enumerate() {
            let is_system = wanted.place.is_system();
            let mut list = |folder: &Path| match names(folder) {
                Ok(names) => {
                    if names.len() == MOST_NAMES {
                        note(troubles, folder, "it holds more names than are looked at");
                    }
                    names
                }
                // A host may have either of the system's two.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_system => Vec::new(),
                Err(error) => {
                    note(troubles, folder, &told(&error.into()));
                    Vec::new()
                }
            };
            for path in wanted.place.paths(self.machine.as_deref(), &mut folders, &mut list) {
                match at.get(&path) {
                    Some(at) => found[*at].1.push(index),
                    None => {
                        at.insert(path.clone(), found.len());
                        found.push((path, vec![index]));
                    }
                }
            }
        }
        // Before the files are looked at, so that what is written from then on is told.
        self.watches.add(folders);
        let mut seen = HashSet::new();
        let before = std::mem::take(&mut self.names);
        for (path, wanted) in found {
            match self.look(&path, &wanted, before.get(&path), &mut seen, sink) {
                Ok(Some(id)) => drop(self.names.insert(path, id)),
                Ok(None) => {}
                Err(error) => {
                    // It is there still.
                    seen.extend(before.get(&path));
                    note(&mut self.troubles, &path, &told(&error));
                }
            }
        }
        self.forget(&seen, sink);
        let status = &self.handle.status;
        status.files.store(self.files.len() as u64, Ordering::Relaxed);
        let new = status.set_troubles(std::mem::take(&mut self.troubles));
        for (path, what) in new.iter().take(TOLD) {
            tracing::warn!(path = %path.display(), "the journal is not read: {what}; it is tried again every two seconds");
        }
        if let Some(more) = new.len().checked_sub(TOLD + 1) {
            tracing::warn!("and {} more; `atalaya-sensor status` names them", more + 1);
        }
    }

    /// Looks at one name: the number of the file that it stands for, where it is one to read.
    fn look(
        &mut self,
        path: &Path,
        wanted: &[usize],
        before: Option<&u128>,
        seen: &mut HashSet<u128>,
        sink: &mut impl JournalSink,
    ) -> Result<Option<u128>, JournalFileError> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            // It went since the folder was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // One that was made a moment ago.
        if metadata.len() == 0 {
            return Ok(None);
        }
        let stamp = stamp(&metadata);
        if let Some(id) = before
            && let Some(followed) = self.files.get(id)
            && followed.settled == Some(stamp)
            && followed.path == path
            && seen.insert(*id)
        {
            return Ok(Some(*id));
        }
        let file = open(path)?;
        let header = JournalHeader::read(&file)?;
        let id = header.file_id;
        if !self.files.contains_key(&id) {
            if self.files.len() >= MOST_FILES {
                let full = "as many files of journals are followed as can be; name fewer, or remove old ones";
                return Err(std::io::Error::other(full).into());
            }
            let read = self.start_of(file, &header, path, wanted)?;
            let places = wanted.iter().map(|index| self.wanted[*index].place.clone()).collect();
            let followed = FollowedJournal {
                path: path.to_owned(),
                wanted: wanted.to_vec(),
                places,
                read,
                entries: header.entries,
                first_written: header.first_written,
                dirty: true,
                is_missing: false,
                damaged: 0,
                settled: None,
            };
            self.files.insert(id, followed);
            // Saved at once, so that what is written while the sensor is down is read later.
            sink.passed(position(id, read));
            self.look_before(id, sink);
        }
        let Some(followed) = self.files.get_mut(&id) else { return Ok(None) };
        // Of copies of one file the longest is read.
        if !seen.insert(id) && header.entries <= followed.entries {
            return Ok(Some(id));
        }
        path.clone_into(&mut followed.path);
        if followed.wanted != wanted {
            followed.places = wanted.iter().map(|index| self.wanted[*index].place.clone()).collect();
            followed.wanted = wanted.to_vec();
        }
        followed.entries = header.entries;
        followed.dirty = header.entries > followed.read;
        followed.settled = (header.is_archived && !followed.dirty).then_some(stamp);
        Ok(Some(id))
    }

    /// How many entries of a file that was not followed yet are passed over.
    fn start_of(
        &mut self,
        file: File,
        header: &JournalHeader,
        path: &Path,
        wanted: &[usize],
    ) -> Result<u64, JournalFileError> {
        if let Some((read, _)) = self.absent.remove(&key(header.file_id)) {
            return Ok(read);
        }
        let is_new = self.running
            || wanted.iter().any(|index| {
                let place = &self.wanted[*index].place;
                let mut names = place.names().into_iter();
                names.any(|name| {
                    self.known.contains(&name) && (path.starts_with(&name) || !place.files.is_empty())
                })
            });
        if is_new {
            return Ok(0);
        }
        let Some(cursor) = &self.cursor else { return Ok(header.entries) };
        let is_own = cursor.series() == Some(header.seqnum_id);
        let last = cursor.number().filter(|_| is_own);
        let mut file = JournalFile::open(file)?;
        let (mut from, mut to) = (0, header.entries);
        while from < to {
            let middle = from + (to - from) / 2;
            let entry = file.entry(middle)?;
            let was_read = match last {
                Some(last) => entry.seqnum <= last,
                None => entry.written <= cursor.time,
            };
            if was_read { from = middle + 1 } else { to = middle }
        }
        Ok(from)
    }

    /// Hands over what stands before the first entry that is read: a line's first pieces may be there.
    fn look_before(&mut self, id: u128, sink: &mut impl JournalSink) {
        let Some(followed) = self.files.get(&id) else { return };
        let Ok(mut file) = open(&followed.path).map_err(Into::into).and_then(JournalFile::open) else {
            return;
        };
        let first = followed.read.saturating_sub(BEFORE);
        for number in first..followed.read.min(file.header().entries) {
            let Ok(raw) = file.entry(number) else { continue };
            let fields = file.fields(&raw).fields;
            if let Some(entry) = Entry::new(raw.written, fields).filter(|entry| entry.piece().is_some()) {
                sink.before(&entry, first == 0);
            }
        }
    }

    /// Lets go of files that are gone, and of the memory of those that are gone for long.
    fn forget(&mut self, seen: &HashSet<u128>, sink: &mut impl JournalSink) {
        // One that got another name while the names were listed is found by the next look.
        let gone = self.files.extract_if(|id, file| {
            let was_missing = std::mem::replace(&mut file.is_missing, !seen.contains(id));
            was_missing && file.is_missing
        });
        for (id, file) in gone {
            let unread = file.entries.saturating_sub(file.read);
            if unread > 0 {
                self.handle.status.lost.fetch_add(unread, Ordering::Relaxed);
                tracing::warn!(path = %file.path.display(), entries = unread, "a file of the journal is gone before all of it was read");
            }
            self.absent.insert(key(id), (file.read, Instant::now()));
        }
        let old = self.absent.extract_if(|_, (_, since)| since.elapsed() > REMEMBERED);
        for (file, _) in old {
            sink.forget(&file);
        }
    }

    /// Gives every file with news its turn; whether there is more to read, and whether a name stands for another file.
    fn read(&mut self, sink: &mut impl JournalSink) -> (bool, bool) {
        let (mut more, mut moved, mut backlog) = (false, false, 0);
        let dirty = self.files.iter().filter(|(_, file)| file.dirty);
        let mut dirty: Vec<(u64, u128)> = dirty.map(|(id, file)| (file.first_written, *id)).collect();
        // What rotated, before what took its name.
        dirty.sort_unstable();
        for (_, id) in dirty {
            if self.handle.stopped() {
                break;
            }
            match self.read_file(id, sink) {
                Ok(true) => {}
                Ok(false) => moved = true,
                Err(error) => {
                    let Some(file) = self.files.get_mut(&id) else { continue };
                    file.dirty = false;
                    note(&mut self.troubles, &file.path, &told(&error));
                }
            }
            let Some(file) = self.files.get(&id) else { continue };
            more |= file.dirty;
            backlog = file.entries.saturating_sub(file.read).saturating_add(backlog);
        }
        self.handle.status.backlog.store(backlog, Ordering::Relaxed);
        (more, moved)
    }

    /// One file's turn; whether it was still the file of that name.
    fn read_file(&mut self, id: u128, sink: &mut impl JournalSink) -> Result<bool, JournalFileError> {
        let Some(followed) = self.files.get_mut(&id) else { return Ok(true) };
        let opened = match open(&followed.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            opened => Some(JournalFile::open(opened?)?),
        };
        let Some(mut file) = opened.filter(|file| file.header().file_id == id) else {
            followed.dirty = false;
            return Ok(false);
        };
        followed.entries = file.header().entries;
        let matches: Vec<&JournalMatch> =
            followed.wanted.iter().map(|index| &self.wanted[*index].entries).collect();
        let status = &self.handle.status;
        let (start, end) = (followed.read, followed.entries.min(followed.read.saturating_add(TURN)));
        let (mut handed, mut looked_at) = (start, 0);
        while followed.read < end && !self.handle.stop.load(Ordering::SeqCst) {
            let number = followed.read;
            followed.read += 1;
            looked_at += 1;
            let raw = match file.entry(number) {
                Ok(raw) => raw,
                Err(JournalFileError::Read(error)) => {
                    followed.read = number;
                    return Err(error.into());
                }
                Err(error) => {
                    let before = status.damaged.fetch_add(1, Ordering::Relaxed);
                    followed.damaged += 1;
                    if matches!(error, JournalFileError::Ended(_)) || followed.damaged >= MOST_DAMAGED {
                        // Its header can say anything: nobody goes on looking for so many.
                        followed.read = followed.entries;
                        note(&mut self.troubles, &followed.path, &told(&error));
                    }
                    // A damaged file must not become a flood of messages.
                    if before.leading_zeros() != (before + 1).leading_zeros() {
                        tracing::warn!(path = %followed.path.display(), entries = before + 1, "entries of the journal cannot be read ({error}), in total since the start");
                    }
                    continue;
                }
            };
            followed.damaged = 0;
            let fields = file.fields(&raw);
            if fields.is_cut {
                status.cut.fetch_add(1, Ordering::Relaxed);
            }
            if !matches.iter().any(|wanted| wanted.wants(&fields.fields)) {
                continue;
            }
            if self.copies.is_one(&raw.identity, id) {
                continue;
            }
            let Some(mut entry) = Entry::new(raw.written, fields.fields) else { continue };
            entry.is_local = followed.places.iter().any(|place| !place.is_system())
                || self.machine.is_some() && entry.field("_MACHINE_ID") == self.machine.as_deref();
            entry.places = followed.places.clone();
            sink.entry(entry, position(id, followed.read));
            handed = followed.read;
        }
        status.entries.fetch_add(looked_at, Ordering::Relaxed);
        if handed < followed.read {
            sink.passed(position(id, followed.read));
        }
        followed.dirty = followed.read < followed.entries;
        Ok(true)
    }

    /// Waits for news, at most so long; whether names may have changed.
    fn wait(&mut self, at_most: Duration) -> bool {
        let FolderNews { written, mut names_changed } = self.watches.wait(&self.handle.wake, at_most);
        for path in written {
            match self.names.get(&path).and_then(|id| self.files.get_mut(id)) {
                Some(file) => file.dirty = true,
                None => names_changed = true,
            }
        }
        names_changed
    }
}

/// An error, with what to do where this process gave up the right.
fn told(error: &JournalFileError) -> String {
    match error {
        JournalFileError::Read(cause) if is_denied(cause) => {
            format!("{cause}; what was not there when the sensor started is out of its reach: start it again")
        }
        error => error.to_string(),
    }
}

fn key(id: u128) -> String {
    format!("{id:032x}")
}

fn position(id: u128, entries: u64) -> JournalPosition {
    JournalPosition { file: key(id), entries }
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    (metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// Opens a regular file; anything else could keep this thread waiting.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("that is no regular file")) }
}

fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let names = std::fs::read_dir(folder)?
        .take(MOST_NAMES)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    Ok(names)
}

/// Adds why a path is not read, where there is room.
fn note(troubles: &mut Troubles, path: &Path, what: &str) {
    if troubles.len() < MOST_TROUBLES {
        troubles.insert(path.to_owned(), what.to_owned());
    }
}
