//! The libraries below a root folder, opened so that neither a link nor a special file leads astray.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::hook::Library;

/// Where distributions keep libraries.
const FOLDERS: [&str; 10] = [
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
/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAY: u32 = 0x794c_7630;

/// What tells a file from all others. On an overlay the device is each mount's own, while the kernel probes the
/// file below, which containers of one image share: there size and time stand in for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    device: u64,
    inode: u64,
    overlay: Option<(u64, i64, i64)>,
}

/// A library that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub library: Library,
    pub key: FileKey,
    pub file: File,
    /// Below the root.
    pub path: String,
}

/// All libraries below a root, each file once. With `within` nothing on another mount than the root's own is looked
/// at: a container may have mounted there whatever never answers.
pub(super) fn find(root: impl AsFd, within: bool) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for library in Library::ALL {
        for folder in FOLDERS {
            for name in library.names() {
                let path = format!("{folder}/{name}");
                match open(root.as_fd(), &path, within) {
                    Ok((file, key)) if !found.iter().any(|other| other.key == key) => {
                        found.push(Found { library, key, file, path });
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => tracing::debug!(%error, path, "not looked into"),
                }
            }
        }
    }
    found
}

/// Opens a regular file of a bounded size. What is anything else is not opened at all: opening a FIFO waits, and
/// opening a device acts.
fn open(root: impl AsFd, path: &str, within: bool) -> io::Result<(File, FileKey)> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    resolve.set(ResolveFlags::NO_XDEV, within);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place: OwnedFd = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&place)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    if u64::try_from(stat.st_size).is_ok_and(|size| size > LARGEST) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large for a library"));
    }
    let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
    let of = file.metadata()?;
    let on_overlay = rustix::fs::fstatfs(&place)?.f_type as u32 == OVERLAY;
    let key = if on_overlay {
        let overlay = Some((of.size(), of.mtime(), of.mtime_nsec()));
        FileKey { device: 0, inode: of.ino(), overlay }
    } else {
        FileKey { device: of.dev(), inode: of.ino(), overlay: None }
    };
    Ok((file, key))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn names(root: &Path) -> Vec<String> {
        find(File::open(root).unwrap(), true).into_iter().map(|found| found.path).collect()
    }

    #[test]
    fn nothing_outside_of_the_root_and_no_special_file_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("usr/lib64");
        std::fs::create_dir_all(folder.join("security")).unwrap();
        // A link that means this host's file means the root's own, which is not there.
        symlink("/etc/passwd", folder.join("libaudit.so.1")).unwrap();
        symlink("../../../../../../../../../etc/passwd", folder.join("libpam.so.0")).unwrap();
        // Opening it for reading would wait for ever.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folder.join("security/pam_unix.so"),
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
}
