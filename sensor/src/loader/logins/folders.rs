//! The folders in which libraries lie, and those that links lead to from there, watched (inotify(7)), so that a
//! library that is replaced is noticed at once. A watch holds no mount: what is watched can be unmounted.
//!
//! Events say only that it is time to look again, and what they miss (a mount over a folder, a folder that becomes
//! a link, a file that a server changes) the look around at all files finds. A container can make as many events
//! as it likes: of those of one folder only so many are taken between two looks around, after which it is not
//! watched until the next.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use super::library;
use super::roots::RootKey;

/// The most events of a folder between two looks around.
const MOST_EVENTS: u32 = 2000;
/// The most folders: the kernel lets a user have some 8,000 at least, and others of root's programs need some.
const MOST_FOLDERS: usize = 4000;
/// The most links after one another that are followed, as the kernel has it.
const MOST_LINKS: usize = 40;
/// How often events are read in one go.
const MOST_READS: usize = 64;

/// The watched folders of some roots; `None` is this host's.
#[derive(Debug)]
pub(super) struct Folders {
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, Folder>,
    /// Whether any number of events is taken.
    trusted: bool,
    /// Whose watches were given up.
    noisy: HashSet<Option<RootKey>>,
}

#[derive(Debug, Default)]
struct Folder {
    /// The names that matter in it, by root: several may have the same folder.
    names: HashMap<Option<RootKey>, BTreeSet<String>>,
    /// How many events there were since the last look around.
    events: u32,
}

/// A folder that is open, and its watch.
type WatchedFolder = Option<(OwnedFd, WatchDescriptor)>;

// === impl Folders ===

impl Folders {
    /// Watches none. Those that are `trusted` may make any number of events.
    pub(super) fn new(trusted: bool) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        Ok(Self { inotify, watched: HashMap::new(), trusted, noisy: HashSet::new() })
    }

    /// Watches the folders of a root as they are now; to be called before the files are looked for, so that no
    /// change is missed. With `within` those on the root's own mount alone. An error says why one of them is not
    /// watched; the others are.
    pub(super) fn follow(&mut self, of: Option<RootKey>, root: impl AsFd, within: bool) -> io::Result<()> {
        let mut opened: HashMap<String, WatchedFolder> = HashMap::new();
        let mut names: HashMap<WatchDescriptor, BTreeSet<String>> = HashMap::new();
        let mut trouble = Ok(());
        for (_, mut path) in library::paths() {
            let mut missing = false;
            for _ in 0..MOST_LINKS {
                let (folder, name) = path.rsplit_once('/').unwrap_or((".", &path));
                if matches!(name, "" | "." | "..") {
                    break;
                }
                if !opened.contains_key(folder) {
                    let opened_now = self.open(root.as_fd(), folder, within).unwrap_or_else(|error| {
                        trouble = Err(error);
                        None
                    });
                    opened.insert(folder.to_owned(), opened_now);
                }
                let Some(Some((place, watch))) = opened.get(folder) else {
                    // A folder that is not there may come: then its own name is what matters.
                    missing = true;
                    path = folder.to_owned();
                    continue;
                };
                names.entry(watch.clone()).or_default().insert(name.to_owned());
                if missing {
                    break;
                }
                // What is no link ends it.
                let Ok(target) = rustix::fs::readlinkat(place, name, Vec::new()) else { break };
                let Ok(target) = target.into_string() else { break };
                path =
                    target.strip_prefix('/').map_or_else(|| format!("{folder}/{target}"), ToOwned::to_owned);
            }
        }
        self.forget_but(of, &names);
        for (watch, names) in names {
            self.watched.entry(watch).or_default().names.insert(of, names);
        }
        trouble
    }

    /// Opens a folder and watches it; `None` where it is not there, or is not to be looked into.
    fn open(&mut self, root: BorrowedFd<'_>, path: &str, within: bool) -> io::Result<WatchedFolder> {
        let Ok(folder) = library::open_folder(root, path, within) else { return Ok(None) };
        let mask = WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVE_SELF
            | WatchMask::DELETE_SELF
            | WatchMask::ONLYDIR;
        let watch = self.inotify.watches().add(format!("/proc/self/fd/{}", folder.as_raw_fd()), mask);
        let watch = match watch {
            // Removed just now: its own name is noticed when it comes again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            watch => watch?,
        };
        if self.watched.len() >= MOST_FOLDERS && !self.watched.contains_key(&watch) {
            let _ = self.inotify.watches().remove(watch);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many folders are watched"));
        }
        self.watched.entry(watch.clone()).or_default();
        Ok(Some((folder, watch)))
    }

    /// Watches the folders of a root no more.
    pub(super) fn forget(&mut self, of: Option<RootKey>) {
        self.noisy.remove(&of);
        self.forget_but(of, &HashMap::new());
    }

    fn forget_but(&mut self, of: Option<RootKey>, but: &HashMap<WatchDescriptor, BTreeSet<String>>) {
        let mut watches = self.inotify.watches();
        self.watched.retain(|watch, folder| {
            if but.contains_key(watch) {
                return true;
            }
            folder.names.remove(&of);
            if folder.names.is_empty() {
                // Fails where the folder is gone, and the watch with it.
                let _ = watches.remove(watch.clone());
            }
            !folder.names.is_empty()
        });
    }

    /// The roots in which something was done to a name that matters, since the last call.
    pub(super) fn changed(&mut self) -> HashSet<Option<RootKey>> {
        let mut changed = HashSet::new();
        let mut buffer = [0; 16 * 1024];
        for _ in 0..MOST_READS {
            let Ok(events) = self.inotify.read_events(&mut buffer) else { break };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    changed.extend(self.watched.values().flat_map(|folder| folder.names.keys()));
                    continue;
                }
                // Of a watch that was given up some are left to read.
                let Some(folder) = self.watched.get_mut(&event.wd) else { continue };
                folder.events += 1;
                let name = event.name.and_then(|name| name.to_str());
                let of =
                    folder.names.iter().filter(|(_, names)| name.is_none_or(|name| names.contains(name)));
                changed.extend(of.map(|(of, _)| of));
                if event.mask.contains(EventMask::IGNORED) {
                    // The folder is gone, or its file system.
                    self.watched.remove(&event.wd);
                } else if !self.trusted && folder.events > MOST_EVENTS {
                    self.noisy.extend(folder.names.keys());
                    self.watched.remove(&event.wd);
                    let _ = self.inotify.watches().remove(event.wd);
                }
            }
        }
        changed
    }

    /// The roots that made too many events and are not watched whole since; all may make as many again.
    pub(super) fn calm(&mut self) -> HashSet<Option<RootKey>> {
        self.watched.values_mut().for_each(|folder| folder.events = 0);
        std::mem::take(&mut self.noisy)
    }
}

impl AsFd for Folders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// A root as distributions with one `/usr` have it, with a library.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("usr/lib/x86_64-linux-gnu")).unwrap();
        symlink("usr/lib", at("lib")).unwrap();
        fs::write(at("usr/lib/x86_64-linux-gnu/libaudit.so.1.0.0"), "x").unwrap();
        symlink("libaudit.so.1.0.0", at("usr/lib/x86_64-linux-gnu/libaudit.so.1")).unwrap();
        root
    }

    fn follow(folders: &mut Folders, root: &Path) {
        folders.follow(None, File::open(root).unwrap(), true).unwrap();
    }

    fn watched(root: &Path) -> Folders {
        let mut folders = Folders::new(false).unwrap();
        follow(&mut folders, root);
        folders
    }

    #[test]
    fn a_library_is_noticed_when_it_is_replaced_and_not_while_its_successor_is_written() {
        let root = root();
        let mut folders = watched(root.path());
        let folder = root.path().join("usr/lib/x86_64-linux-gnu");
        fs::write(folder.join("libaudit.so.1.0.0.dpkg-new"), "y").unwrap();
        fs::write(folder.join("libz.so.1"), "y").unwrap();
        assert!(folders.changed().is_empty());
        fs::rename(folder.join("libaudit.so.1.0.0.dpkg-new"), folder.join("libaudit.so.1.0.0")).unwrap();
        assert_eq!(folders.changed(), [None].into());
        assert!(folders.changed().is_empty());
        // In its place.
        fs::write(folder.join("libaudit.so.1.0.0"), "z").unwrap();
        assert_eq!(folders.changed(), [None].into());
        // Gone, and there again.
        fs::remove_file(folder.join("libaudit.so.1.0.0")).unwrap();
        assert_eq!(folders.changed(), [None].into());
        fs::write(folder.join("libaudit.so.1.0.0"), "z").unwrap();
        assert_eq!(folders.changed(), [None].into());
        // One that was not there.
        fs::write(folder.join("libpam.so.0"), "z").unwrap();
        assert_eq!(folders.changed(), [None].into());
    }

    #[test]
    fn a_link_that_leads_elsewhere_and_what_it_leads_to_are_watched() {
        let root = root();
        let folder = root.path().join("usr/lib/x86_64-linux-gnu");
        let mut folders = watched(root.path());
        fs::create_dir(root.path().join("opt")).unwrap();
        fs::write(root.path().join("opt/audit"), "y").unwrap();
        symlink("/opt/audit", folder.join("new")).unwrap();
        fs::rename(folder.join("new"), folder.join("libaudit.so.1")).unwrap();
        assert_eq!(folders.changed(), [None].into());
        follow(&mut folders, root.path());
        fs::write(root.path().join("opt/new"), "y").unwrap();
        assert!(folders.changed().is_empty());
        fs::rename(root.path().join("opt/new"), root.path().join("opt/audit")).unwrap();
        assert_eq!(folders.changed(), [None].into());
        // What it led to before does not matter any more.
        fs::remove_file(folder.join("libaudit.so.1.0.0")).unwrap();
        assert!(folders.changed().is_empty());
        // Links in a circle are left alone.
        symlink("circle", folder.join("circle")).unwrap();
        fs::rename(folder.join("circle"), folder.join("libaudit.so.1")).unwrap();
        follow(&mut folders, root.path());
    }

    #[test]
    fn a_folder_that_is_replaced_is_noticed_and_the_new_one_is_watched() {
        let root = root();
        let above = root.path().join("usr/lib");
        let folder = above.join("x86_64-linux-gnu");
        let mut folders = watched(root.path());
        fs::rename(&folder, above.join("old")).unwrap();
        fs::create_dir(&folder).unwrap();
        assert_eq!(folders.changed(), [None].into());
        follow(&mut folders, root.path());
        folders.changed();
        fs::write(folder.join("libpam.so.0"), "z").unwrap();
        assert_eq!(folders.changed(), [None].into());
        fs::write(above.join("old/libpam.so.0"), "z").unwrap();
        assert!(folders.changed().is_empty());
        // One that is gone for a while.
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(folders.changed(), [None].into());
        follow(&mut folders, root.path());
        folders.changed();
        fs::create_dir(&folder).unwrap();
        assert_eq!(folders.changed(), [None].into());
    }

    #[test]
    fn who_makes_too_many_events_is_watched_again_at_the_next_look_around_and_is_known_till_then() {
        let root = root();
        let folder = root.path().join("usr/lib/x86_64-linux-gnu");
        let mut folders = watched(root.path());
        for _ in 0..MOST_EVENTS {
            // Two events each.
            fs::write(folder.join("noise"), "x").unwrap();
            fs::remove_file(folder.join("noise")).unwrap();
        }
        while !folders.changed().is_empty() {}
        fs::write(folder.join("libaudit.so.1.0.0"), "z").unwrap();
        assert!(folders.changed().is_empty());
        assert_eq!(folders.calm(), [None].into());
        follow(&mut folders, root.path());
        folders.changed();
        fs::write(folder.join("libaudit.so.1.0.0"), "z").unwrap();
        assert_eq!(folders.changed(), [None].into());
    }

    #[test]
    fn a_root_that_is_forgotten_tells_nothing_and_leaves_the_folders_that_others_have() {
        let root = root();
        let mut folders = watched(root.path());
        let other = Some(RootKey::default());
        folders.follow(other, File::open(root.path()).unwrap(), true).unwrap();
        let library = root.path().join("usr/lib/x86_64-linux-gnu/libaudit.so.1.0.0");
        fs::write(&library, "z").unwrap();
        assert_eq!(folders.changed(), [None, other].into());
        folders.forget(None);
        fs::write(&library, "z").unwrap();
        assert_eq!(folders.changed(), [other].into());
        folders.forget(other);
        fs::write(&library, "z").unwrap();
        assert!(folders.changed().is_empty() && folders.watched.is_empty());
    }
}
