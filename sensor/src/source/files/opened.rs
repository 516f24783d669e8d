//! Files as they were when they were opened.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::Access;
use crate::confine::logs::OpenedLog;

/// An open file with what was known of it when it was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(super) file: File,
    pub(super) metadata: std::fs::Metadata,
    /// The folder in which it lies, where a link led there.
    pub(super) folder: Option<PathBuf>,
}

// === impl Opened ===

impl Opened {
    /// Of a regular file.
    pub(super) fn new(opened: OpenedLog) -> std::io::Result<Self> {
        let metadata = opened.file.metadata()?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        let folder = opened.at.and_then(|at| Some(at.parent()?.to_owned()));
        Ok(Self { file: opened.file, metadata, folder })
    }

    pub(super) fn id(&self) -> (u64, u64) {
        (self.metadata.dev(), self.metadata.ino())
    }

    /// When it was made, in nanoseconds since 1970, where its file system says so.
    pub(super) fn born(&self) -> Option<u64> {
        let since = self.metadata.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(since.as_nanos()).ok()
    }
}

/// The archives of a path, each file once. A rotation that goes on renames them while they are listed, and
/// one may be passed over or met twice: they are listed until two lists agree.
pub(super) fn settled_archives(access: &Access, path: &Path) -> Vec<(PathBuf, Opened)> {
    const LISTS: usize = 8;
    let mut all: Vec<(PathBuf, Opened)> = Vec::new();
    let mut before = HashSet::new();
    for _ in 0..LISTS {
        let listed = access.archives(path);
        let ids: HashSet<_> = listed.iter().map(|(_, file)| file.id()).collect();
        for (at, file) in listed {
            if !all.iter().any(|(_, known)| known.id() == file.id()) {
                all.push((at, file));
            }
        }
        if ids == before {
            break;
        }
        before = ids;
    }
    all
}
