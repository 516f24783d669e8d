//! Files as they were when they were opened.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

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
        nanoseconds(self.metadata.created())
    }

    /// When it was written to last before it was opened, in nanoseconds since 1970.
    pub(super) fn modified(&self) -> Option<u64> {
        nanoseconds(self.metadata.modified())
    }
}

/// Since 1970, where it is known.
pub(super) fn nanoseconds(time: std::io::Result<SystemTime>) -> Option<u64> {
    let since = time.ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}
