//! The libraries below a root folder, opened so that neither a link nor a special file leads astray.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};

use super::hook::Library;
use super::mounts;

/// Where distributions keep libraries.
pub(super) const FOLDERS: [&str; 10] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "lib",
    "usr/local/lib",
    "usr/local/lib64",
];
/// The largest library, in bytes; libc has 2 MB.
const LARGEST: u64 = 64 << 20;
/// A mount's type in `statfs(2)`: `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAY: u32 = 0x794c_7630;

/// What tells a file from all others, also from one that gets its inode's number after it. On an overlay the device
/// is each mount's own, while the kernel probes the file below, which containers of one image share: there size and
/// time stand in for the device. When the overlay was made to copy the file up (dpkg's second name does so), programs
/// that run go on with the file below; the copy has another time of birth, but all else of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FileKey {
    device: Option<(u32, u32)>,
    inode: u64,
    /// When it was made, where its file system keeps that and it is on no overlay: seconds and nanoseconds.
    born: (i64, u32),
    /// Who writes a file anew in its place changes these two.
    size: u64,
    modified: (i64, u32),
}

/// A library that was found.
#[derive(Debug)]
pub(super) struct FoundLibrary {
    pub library: Library,
    pub key: FileKey,
    pub file: File,
    /// As processes in the root have it.
    pub path: String,
}

// === impl FileKey ===

impl FileKey {
    /// What statx(2) tells of a file that is on no overlay.
    pub(super) fn new(stat: &Statx) -> Self {
        Self {
            device: Some((stat.stx_dev_major, stat.stx_dev_minor)),
            inode: stat.stx_ino,
            born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
            size: stat.stx_size,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        }
    }

    /// The same, if the file is on an overlay.
    pub(super) fn on_overlay(self) -> Self {
        Self { device: None, born: (0, 0), ..self }
    }

    /// Whether it is the very same file, with other content; on an overlay that cannot be told.
    pub(super) fn was_rewritten(&self, now: &Self) -> bool {
        let file = |key: &Self| (key.device, key.inode, key.born);
        self.device.is_some() && file(self) == file(now) && self != now
    }

    /// The number of its inode.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }
}

/// All libraries below a root, each file once. With `within` nothing on another mount than the root's own is looked
/// at: a container may have mounted there whatever never answers.
pub(super) fn find(root: impl AsFd, within: bool) -> Vec<FoundLibrary> {
    let mut found: Vec<FoundLibrary> = Vec::new();
    for (library, path) in paths() {
        match open(root.as_fd(), &path, within) {
            Ok((file, key)) if !found.iter().any(|other| other.key == key) => {
                found.push(FoundLibrary { library, key, file, path });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::debug!(%error, path, "not looked into"),
        }
    }
    found
}

/// Where a library may be, below a root.
pub(super) fn paths() -> impl Iterator<Item = (Library, String)> {
    Library::ALL.into_iter().flat_map(|library| {
        FOLDERS.iter().flat_map(move |folder| {
            library.names().iter().map(move |name| (library, format!("{folder}/{name}")))
        })
    })
}

/// Opens a library by its path below a root, as [`find`] does.
pub(super) fn open(root: impl AsFd, path: &str, within: bool) -> io::Result<(File, FileKey)> {
    let place = open_path(root, path, OFlags::PATH, within)?;
    let on_overlay = rustix::fs::fstatfs(&place)?.f_type as u32 == OVERLAY;
    let (file, key) = open_regular(&place)?;
    Ok((file, if on_overlay { key.on_overlay() } else { key }))
}

/// Opens a folder below a root without reading it.
pub(super) fn open_folder(root: impl AsFd, path: &str, within: bool) -> io::Result<OwnedFd> {
    open_path(root, path, OFlags::PATH | OFlags::DIRECTORY, within)
}

fn open_path(root: impl AsFd, path: &str, flags: OFlags, within: bool) -> io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    resolve.set(ResolveFlags::NO_XDEV, within);
    Ok(rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Opens a regular file of a bounded size for reading. What is anything else is not opened at all: opening a FIFO
/// waits, and opening a device acts. The key is that of a file on no overlay.
pub(super) fn open_regular(place: &OwnedFd) -> io::Result<(File, FileKey)> {
    let stat = stat(place, "", AtFlags::EMPTY_PATH)?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if stat.stx_size > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large for a library"));
    }
    let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
    Ok((file, FileKey::new(&stat)))
}

/// What is known of a file, and of the mount that it is on, without asking a server for it.
pub(super) fn stat(folder: impl AsFd, path: &str, flags: AtFlags) -> io::Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | mounts::NUMBER;
    Ok(rustix::fs::statx(folder, path, flags | AtFlags::STATX_DONT_SYNC, wanted)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn names(root: &Path) -> Vec<String> {
        find(File::open(root).unwrap(), true).into_iter().map(|found| found.path).collect()
    }

    fn key(root: &Path, path: &str) -> FileKey {
        open(File::open(root).unwrap(), path, true).unwrap().1
    }

    #[test]
    fn nothing_outside_of_the_root_and_no_special_file_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("usr/lib64");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(root.path().join("lib")).unwrap();
        // A link that means this host's file means the root's own, which is not there.
        symlink("/etc/passwd", folder.join("libaudit.so.1")).unwrap();
        symlink("../../../../../../../../../etc/passwd", folder.join("libpam.so.0")).unwrap();
        // Opening it for reading would wait for ever.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("lib/libpam.so.0"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        symlink("/proc/self/exe", folder.join("libc.so.6")).unwrap();
        assert!(names(root.path()).is_empty());
        // Huge, without taking room.
        std::fs::remove_file(folder.join("libc.so.6")).unwrap();
        File::create(folder.join("libc.so.6")).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(names(root.path()).is_empty());
        std::fs::remove_file(folder.join("libc.so.6")).unwrap();
        symlink("/folder/file", folder.join("libc.so.6")).unwrap();
        std::fs::create_dir(root.path().join("folder")).unwrap();
        std::fs::write(root.path().join("folder/file"), "x").unwrap();
        assert_eq!(names(root.path()), ["usr/lib64/libc.so.6"]);
    }

    #[test]
    fn a_file_of_two_names_is_found_once() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        symlink("usr/lib", root.path().join("lib")).unwrap();
        std::fs::write(root.path().join("usr/lib/libaudit.so.1"), "x").unwrap();
        assert_eq!(names(root.path()), ["usr/lib/libaudit.so.1"]);
    }

    #[test]
    fn a_file_that_is_written_anew_in_its_place_is_told_from_one_that_replaces_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::write(at("a"), "first").unwrap();
        let first = key(root.path(), "a");
        std::fs::write(at("a"), "longer than before").unwrap();
        let rewritten = key(root.path(), "a");
        assert!(first.was_rewritten(&rewritten) && first.inode() == rewritten.inode());
        // A new name, and no name any more, change nothing.
        let open = File::open(at("a")).unwrap();
        std::fs::rename(at("a"), at("b")).unwrap();
        assert_eq!(key(root.path(), "b"), rewritten);
        std::fs::remove_file(at("b")).unwrap();
        let of_open = FileKey::new(&stat(&open, "", AtFlags::EMPTY_PATH).unwrap());
        assert_eq!(of_open, rewritten);
        std::fs::write(at("a"), "longer than before").unwrap();
        let replaced = key(root.path(), "a");
        assert!(!rewritten.was_rewritten(&replaced) && rewritten != replaced);
    }
}
