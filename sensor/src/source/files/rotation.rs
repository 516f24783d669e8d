//! What rotation did while nobody looked: where the rest of a file is, and what came and went after it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::archives::{Era, LogArchive, Reached, settled_archives};
use super::followed::{Doubtful, Followed};
use super::index::TELLING;
use super::opened::nanoseconds;
use super::{Follower, Opened, SavedPosition, Sink, position};

/// What one file in doubt becomes: what is read before it, itself, and what is read after it.
struct Resolved {
    before: Vec<Followed>,
    after: Vec<Followed>,
}

// === impl Follower ===

impl Follower {
    /// Opens the files of the saved positions, wherever rotation took them, and those that came
    /// and went meanwhile, in the order in which they were written.
    pub(super) fn resume(&mut self, sink: &mut impl Sink) {
        let mut of_path: Vec<(PathBuf, Vec<SavedPosition>)> = Vec::new();
        let mut places: HashMap<PathBuf, usize> = HashMap::new();
        for saved in std::mem::take(&mut self.saved) {
            let place = *places.entry(saved.path.clone()).or_insert(of_path.len());
            if place == of_path.len() {
                of_path.push((saved.path.clone(), Vec::new()));
            }
            of_path[place].1.push(saved);
        }
        for (path, saved) in of_path {
            let patterns = self.patterns_of(&path);
            // No jail reads it any more; its position stays in case one will again.
            if !patterns.is_empty() {
                self.resume_log(&path.into(), &patterns, saved, sink);
            }
        }
        self.files.sort_by_key(Followed::modified);
        self.place();
    }

    fn resume_log(
        &mut self,
        path: &Arc<Path>,
        patterns: &[usize],
        saved: Vec<SavedPosition>,
        sink: &mut impl Sink,
    ) {
        let mut found: Vec<_> =
            saved.into_iter().map(|saved| (position::find(&self.access, &saved), saved)).collect();
        // A copy that has a position of its own was read further than the file that it was made of.
        found.sort_by_key(|(found, saved)| {
            found.as_ref().is_some_and(|(_, opened)| opened.id() != saved.position.id())
        });
        let (mut latest, mut is_there): (Option<Reached>, bool) = (None, false);
        let mut reached = Vec::new();
        for (found, saved) in found {
            let id = saved.position.id();
            let stands = if let Some((at, opened)) = found {
                is_there |= *at == **path;
                if *at != **path {
                    tracing::info!(path = %path.display(), now = %at.display(), "rotated meanwhile; reading on there");
                }
                let archive = LogArchive { at, opened };
                let era = archive.era();
                if !self.places.contains_key(&era.id) {
                    let file =
                        Followed::resumed(path.clone(), patterns.to_vec(), archive.opened, &saved.position);
                    sink.lines(&file.file, b"", &file.position());
                    self.add(file);
                }
                if era.id != id {
                    // What the file itself held since, and what was copied between, is not read.
                    reached.push(Reached::Archive(era.clone().of_copy()));
                    self.stale.push(saved);
                }
                Reached::Archive(era)
            } else {
                tracing::warn!(path = %path.display(), "the file that was followed is gone; what was written to it since is lost");
                let era =
                    Era { id, label: None, born: saved.position.born, modified: saved.position.modified };
                self.stale.push(saved);
                Reached::Log { era, before: None }
            };
            if latest.as_ref().is_none_or(|latest| stands.era().is_after(latest.era())) {
                latest = Some(stands);
            }
        }
        // What came before the latest one has positions of its own, or was read.
        reached.extend(latest.filter(|_| !is_there));
        for reached in reached {
            let archives = settled_archives(&self.access, path);
            let reached = reached.named_in(&archives);
            for file in self.unread(path, patterns, &reached, archives, None) {
                sink.lines(&file.file, b"", &file.position());
                self.add(file);
            }
        }
    }

    /// Forgets the saved positions that are of no more use, now that what goes on instead has one.
    pub(super) fn forget_stale(&mut self, sink: &mut impl Sink) {
        for saved in std::mem::take(&mut self.stale) {
            if !self.places.contains_key(&saved.position.id()) {
                sink.forget(&saved);
            }
        }
    }

    /// Adds the archives of a path that were written after the file at this place and were never followed: they came
    /// and went while nobody looked. The last file before the present one.
    pub(super) fn add_between(
        &mut self,
        path: &Arc<Path>,
        patterns: &[usize],
        place: usize,
        sink: &mut impl Sink,
    ) -> (u64, u64) {
        let old = &self.files[place];
        let (id, archives) = (old.id(), settled_archives(&self.access, path));
        let reached = match archives.iter().find(|archive| archive.opened.id() == id) {
            Some(archive) => Reached::Archive(archive.era()),
            None => Reached::Log { era: old.era(), before: None },
        };
        let mut last = id;
        for file in self.unread(path, patterns, &reached, archives, None) {
            last = file.id();
            sink.lines(&file.file, b"", &file.position());
            self.add(file);
        }
        last
    }

    /// Goes on with the files of which something had to be found out. Not while all names are looked at, for it
    /// changes the places of files.
    pub(super) fn resolve_doubts(&mut self, sink: &mut impl Sink) {
        if !std::mem::take(&mut self.is_doubtful) {
            return;
        }
        let mut resolved = HashMap::new();
        for place in 0..self.files.len() {
            let with = match self.files[place].doubt {
                Some(Doubtful::Content) => self.resolve_content(place),
                Some(Doubtful::Beginning) => self.resolve_beginning(place),
                None => continue,
            };
            if !(with.before.is_empty() && with.after.is_empty()) {
                resolved.insert(place, with);
            }
        }
        if resolved.is_empty() {
            return;
        }
        let files = std::mem::take(&mut self.files);
        for (place, file) in files.into_iter().enumerate() {
            let Some(Resolved { before, after }) = resolved.remove(&place) else {
                self.files.push(file);
                continue;
            };
            // Each of the earlier ones has its position before the file has its new one.
            for mut earlier in before {
                sink.lines(&earlier.file, b"", &earlier.position());
                self.watch(&mut earlier);
                self.files.push(earlier);
            }
            sink.lines(&file.file, b"", &file.position());
            self.files.push(file);
            for mut later in after {
                sink.lines(&later.file, b"", &later.position());
                self.watch(&mut later);
                self.files.push(later);
            }
        }
        self.place();
    }

    /// After a truncation: what the copy has beyond what was handed over comes next, in turns like all else, then what
    /// was copied and truncated since, then the file from its start.
    fn resolve_content(&mut self, place: usize) -> Resolved {
        self.handle.status.truncations.fetch_add(1, Ordering::Relaxed);
        let file = &self.files[place];
        let (path, patterns, id, era) =
            (file.file.path.clone(), file.file.patterns.clone(), file.id(), file.era());
        // Before its copies are looked for: what is copied later is written later.
        let modified = nanoseconds(file.open().metadata().and_then(|metadata| metadata.modified()));
        let mut archives = settled_archives(&self.access, &path);
        let copies = archives
            .iter()
            .enumerate()
            .filter(|(_, archive)| archive.opened.id() != id && file.is_copied_by(&archive.opened.file));
        let copy = copies
            .map(|(at, archive)| (at, archive.opened.modified()))
            .min_by_key(|(_, modified)| (*modified < era.modified, *modified))
            .map(|(at, _)| archives.swap_remove(at));
        let (mut before, mut last) = (Vec::new(), None);
        let reached = if let Some(copy) = copy {
            let copied = copy.era();
            last = Some(copied.id);
            match self.places.get(&copied.id).copied() {
                Some(known) if self.files[known].is_passed_over => {
                    if let Ok([copy, file]) = self.files.get_disjoint_mut([known, place]) {
                        copy.take_over(file);
                    }
                }
                Some(_) => {}
                None if self.finished_in(&copy.opened).is_some() => {}
                None => {
                    tracing::debug!(path = %path.display(), copy = %copy.at.display(), "reading the rest in the copy");
                    before.push(Followed::copy_of(&self.files[place], copy.opened));
                }
            }
            Reached::Archive(copied.of_copy())
        } else {
            tracing::debug!(path = %path.display(), "truncated, and no copy is beside it");
            Reached::Log { era, before: self.files[place].before }
        };
        let own = archives.iter().any(|archive| archive.opened.id() == id).then_some(modified).flatten();
        let unread = self.unread(&path, &patterns, &reached, archives, Some(place));
        let (later, after) = split(unread, own);
        before.extend(later);
        let file = &mut self.files[place];
        file.before = before.last().map(Followed::id).or(last).or(file.before);
        file.begin_anew(modified);
        Resolved { before, after }
    }

    /// Before its first lines: what it held before them and was copied and truncated unseen.
    fn resolve_beginning(&mut self, place: usize) -> Resolved {
        let file = &self.files[place];
        let (path, patterns, id, era) =
            (file.file.path.clone(), file.file.patterns.clone(), file.id(), file.era());
        let (mut before, mut after) = (Vec::new(), Vec::new());
        // Nothing comes into a folder without a trace.
        let folders = [path.parent(), file.folder.as_deref()];
        let changed = folders.into_iter().flatten().any(|folder| {
            nanoseconds(std::fs::metadata(folder).and_then(|metadata| metadata.modified())) >= era.modified
        });
        if changed {
            let archives = settled_archives(&self.access, &path);
            let own = archives.iter().find(|archive| archive.opened.id() == id);
            let own = own.and_then(|archive| archive.opened.modified());
            let reached = Reached::Log { era, before: file.before };
            (before, after) = split(self.unread(&path, &patterns, &reached, archives, Some(place)), own);
        }
        let file = &mut self.files[place];
        file.before = before.last().map(Followed::id).or(file.before);
        file.begin_next();
        Resolved { before, after }
    }

    /// The archives of a path that come after what was read and were never followed, to be read from their start.
    /// `except` is the place of the file of which that is found out: what it holds now is read there.
    fn unread(
        &self,
        path: &Arc<Path>,
        patterns: &[usize],
        reached: &Reached,
        mut archives: Vec<LogArchive>,
        except: Option<usize>,
    ) -> Vec<Followed> {
        let itself = except.and_then(|place| self.files.get(place));
        let is_alone = self.names.get(path).copied().unwrap_or(0) <= usize::from(itself.is_some());
        let is_read_in = |opened: &Opened, followed: &Followed| {
            itself.is_none_or(|file| file.id() != followed.id())
                && followed.file.path.as_os_str() == path.as_os_str()
                && followed.head().len() >= TELLING
                && followed.is_copied_by(&opened.file)
        };
        archives.retain(|archive| {
            let opened = &archive.opened;
            let is_known = || {
                self.places.contains_key(&opened.id())
                    || self.finished_in(opened).is_some()
                    || itself.is_some_and(|file| archive.is_beginning_of(file.open()))
                    || (!is_alone && self.files.iter().any(|followed| is_read_in(opened, followed)))
            };
            opened.metadata.len() > 0 && reached.is_before(&archive.era()) && !is_known()
        });
        LogArchive::sort(&mut archives);
        let follow = |archive: LogArchive| {
            tracing::info!(path = %path.display(), archive = %archive.at.display(), "came and went meanwhile; reading it");
            let mut file = Followed::new(path.clone(), patterns.to_vec(), archive.opened, 0);
            file.is_next = true;
            file
        };
        archives.into_iter().map(follow).collect()
    }
}

/// Parts what was written before a file that is an archive by now from what was written after it; all is before one
/// that is none.
fn split(files: Vec<Followed>, own: Option<u64>) -> (Vec<Followed>, Vec<Followed>) {
    files
        .into_iter()
        .partition(|file| own.is_none_or(|own| file.era().modified.is_none_or(|modified| modified < own)))
}
