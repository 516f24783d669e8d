//! What inotify tells of the folders of journals. It is a hint: what it does not tell is found at the next look.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The folders that are watched.
#[derive(Debug)]
pub(super) struct JournalWatches {
    inotify: Inotify,
    folders: HashMap<WatchDescriptor, PathBuf>,
}

/// What was told.
#[derive(Debug, Default)]
pub(super) struct FolderNews {
    /// Files to which something was written.
    pub(super) written: HashSet<PathBuf>,
    /// Whether names came, went, or stand for something else.
    pub(super) names_changed: bool,
}

// === impl JournalWatches ===

impl JournalWatches {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { inotify: Inotify::init()?, folders: HashMap::new() })
    }

    /// Watches these folders too, where they are there.
    pub(super) fn add(&mut self, folders: BTreeSet<PathBuf>) {
        let mask = WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::MOVE_SELF
            | WatchMask::DELETE_SELF
            | WatchMask::ONLYDIR;
        let watched: HashSet<&PathBuf> = self.folders.values().collect();
        let new: Vec<PathBuf> = folders.into_iter().filter(|folder| !watched.contains(folder)).collect();
        for folder in new {
            if let Ok(watch) = self.inotify.watches().add(&folder, mask) {
                self.folders.insert(watch, folder);
            }
        }
    }

    /// Waits for news, at most so long, or until `wake` is written to.
    pub(super) fn wait(&mut self, wake: &OwnedFd, at_most: Duration) -> FolderNews {
        {
            let mut fds = [
                PollFd::from_borrowed_fd(self.inotify.as_fd(), PollFlags::IN),
                PollFd::new(wake, PollFlags::IN),
            ];
            let timeout =
                Timespec { tv_sec: at_most.as_secs().cast_signed(), tv_nsec: at_most.subsec_nanos().into() };
            // An interrupted wait is a short one.
            let _ = poll(&mut fds, Some(&timeout));
        }
        let mut buffer = [0; 16 * 1024];
        let mut news = FolderNews::default();
        loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return news,
                Err(_) => return FolderNews { names_changed: true, ..news },
            };
            let mut any = false;
            for event in events {
                any = true;
                // journald tells of each entry by giving the file the length that it has.
                let file = event.mask.contains(EventMask::MODIFY).then_some(event.name).flatten();
                match file.and_then(|name| Some(self.folders.get(&event.wd)?.join(name))) {
                    Some(path) => drop(news.written.insert(path)),
                    None => news.names_changed = true,
                }
                if event.mask.intersects(EventMask::IGNORED | EventMask::MOVE_SELF) {
                    self.folders.remove(&event.wd);
                    let _ = self.inotify.watches().remove(event.wd);
                }
            }
            if !any {
                return news;
            }
        }
    }
}
