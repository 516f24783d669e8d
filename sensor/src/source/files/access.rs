//! How log files are opened: by the rule of [`confine::logs`](crate::confine::logs), by this process where it can, else
//! by the privileged one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Dir;

use super::Opened;
use super::archives::keep_latest;
use crate::confine::logs::{LogPart, OpenedLog, Side, WantedLogs, is_archive, is_compressed, is_denied};
use crate::kernel::logs::LogOpener;

/// The most archives of one log that are looked at; the latest, where there are more.
const MOST_ARCHIVES: usize = 1000;

/// Who opens files, and where links may lead.
#[derive(Clone, Debug, Default)]
pub struct Access {
    logs: WantedLogs,
    opener: Option<LogOpener>,
}

// === impl Access ===

impl Access {
    /// Links may lead below these folders; `opener` opens what this process may not.
    pub fn new(follow: Vec<PathBuf>, opener: Option<LogOpener>) -> Self {
        Self { logs: WantedLogs { patterns: Vec::new(), follow }, opener }
    }

    fn open(&self, path: &Path, part: LogPart) -> io::Result<OpenedLog> {
        match (self.logs.open(path, &part), &self.opener) {
            (Err(error), Some(opener)) if is_denied(&error) => opener.open(path, part),
            (opened, _) => opened,
        }
    }

    /// Opens a regular file to read, without waiting on a pipe.
    pub(super) fn file(&self, path: &Path) -> io::Result<Opened> {
        Opened::new(self.open(path, LogPart::File)?)
    }

    /// The names in a folder in which a pattern is looked for; none where it is not there.
    pub(super) fn names(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        match self.open(folder, LogPart::Names) {
            Ok(folder) => list(folder),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// What a log was rotated to, beside it and, where it is a link, beside the file to which it leads, but for what
    /// is compressed.
    pub(super) fn archives(&self, path: &Path) -> Vec<(PathBuf, Opened)> {
        let mut found = self.archives_at(path, Side::Link);
        if path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
            found.extend(self.archives_at(path, Side::Target));
        }
        found
    }

    fn archives_at(&self, path: &Path, side: Side) -> Vec<(PathBuf, Opened)> {
        let listed = || {
            let folder = self.open(path, LogPart::Archives(side)).ok()?;
            let log = match (side, path.canonicalize()) {
                (Side::Target, Ok(real)) => real.file_name()?.to_owned(),
                _ => path.file_name()?.to_owned(),
            };
            let log = log.to_string_lossy().into_owned();
            let mut names = list(folder).ok()?;
            names.retain(|name| is_archive(&name.to_string_lossy(), &log) && !is_compressed(Path::new(name)));
            keep_latest(&mut names, MOST_ARCHIVES);
            let open = |name: OsString| {
                let opened = self.open(path, LogPart::Archive(side, name)).ok()?;
                Some((opened.at.clone()?, Opened::new(opened).ok()?))
            };
            Some(names.into_iter().filter_map(open).collect())
        };
        listed().unwrap_or_default()
    }
}

/// The names in an open folder.
fn list(folder: OpenedLog) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    // Not opened once more, which this process may not do with what another one opened.
    for entry in Dir::new(folder.file)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}
