//! Where reading stands in a file, in a form that finds the file again: device, inode, time of birth, offset
//! and hashes of its first bytes and of those before the offset. None of them alone would do: file systems
//! give an inode to the next file as soon as it is free.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::archives::settled_archives;
use super::{Access, Opened};

/// The most first bytes, and the most bytes before the offset, that tell a file from another. The
/// first ones alone would not do: some daemons begin every file with the same words.
pub(super) const HEAD: usize = 256;
pub(super) const LAST: usize = 64;

/// A hash of a few of a file's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Of how many bytes; never more than were read.
    pub length: u32,
    /// The first 16 bytes of their SHA-256.
    pub hash: u128,
}

/// Where reading of one file stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The device that holds the file.
    pub device: u64,
    /// The file's inode there.
    pub inode: u64,
    /// When the file was made, in nanoseconds since 1970; `None` where the file system does not say, and in
    /// positions that were saved before this was kept.
    #[serde(default)]
    pub born: Option<u64>,
    /// When the file was written to last, in nanoseconds since 1970, at a look at which it still held what was read:
    /// what is rotated away later is written later. `None` in positions that were saved before this was kept.
    #[serde(default)]
    pub modified: Option<u64>,
    /// Bytes from the start, after the last line that was handed over.
    pub offset: u64,
    /// The file's first bytes, at most 256.
    pub first: Fingerprint,
    /// The last bytes before the offset, at most 64.
    pub last: Fingerprint,
}

/// A position and the path under which its file was followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPosition {
    /// The path at that time; after a rotation the file has another.
    pub path: PathBuf,
    /// How far it was read, and by what it is known again.
    pub position: Position,
}

// === impl Fingerprint ===

impl Fingerprint {
    pub(super) fn of(head: &[u8]) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&Sha256::digest(head)[..16]);
        Self { length: head.len() as u32, hash: u128::from_be_bytes(hash) }
    }

    /// Whether a file has the same bytes, from an offset on.
    fn is_at(self, file: &File, offset: u64) -> bool {
        bytes_at(file, offset, self.length as usize).is_ok_and(|bytes| Self::of(&bytes) == self)
    }
}

// === impl Position ===

impl Position {
    pub(super) fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether this is the position's own file: its inode may be another's by now.
    pub(super) fn is_in(&self, opened: &Opened) -> bool {
        self.id() == opened.id() && !self.is_before(opened) && self.is_of_content(opened)
    }

    /// Whether the file has the position's inode, but was made at another time.
    fn is_before(&self, opened: &Opened) -> bool {
        self.id() == opened.id() && self.born.zip(opened.born()).is_some_and(|(born, other)| born != other)
    }

    /// Whether the file holds what was read: it is the same one, or a copy.
    fn is_of_content(&self, opened: &Opened) -> bool {
        opened.metadata.len() >= self.offset
            && self.first.is_at(&opened.file, 0)
            && self.last.is_at(&opened.file, self.offset.saturating_sub(u64::from(self.last.length)))
    }
}

// === impl SavedPosition ===

impl SavedPosition {
    /// What tells this file from all others that are there: its device and inode.
    pub fn key(&self) -> String {
        format!("{}:{}", self.position.device, self.position.inode)
    }
}

/// A file's bytes from an offset on, at most so many.
pub(super) fn bytes_at(file: &File, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length.min(HEAD)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Finds the file of a saved position, under its own path or among its archives: by its inode, else
/// (a copy) by its first bytes. Of several copies, the first one that was made after the last look at the file.
pub(super) fn find(access: &Access, saved: &SavedPosition) -> Option<(PathBuf, Opened)> {
    let named = access.file(&saved.path);
    if let Ok(opened) = &named
        && saved.position.is_in(opened)
    {
        return Some((saved.path.clone(), named.ok()?));
    }
    let archives = settled_archives(access, &saved.path).into_iter();
    let mut candidates: Vec<_> = archives.map(|archive| (archive.at, archive.opened)).collect();
    if let Ok(opened) = named {
        candidates.insert(0, (saved.path.clone(), opened));
    }
    let position = &saved.position;
    candidates.retain(|(_, opened)| !position.is_before(opened) && position.is_of_content(opened));
    let same = |(_, opened): &(PathBuf, Opened)| opened.id() == position.id();
    let place = candidates.iter().position(same).or_else(|| {
        // First bytes that are few, or none, are no proof of a copy.
        let copies = candidates.iter().enumerate().filter(|_| position.first.length >= 16);
        let modified = copies.map(|(place, (_, opened))| (place, opened.modified()));
        modified
            .min_by_key(|(_, modified)| (*modified < position.modified, *modified))
            .map(|(place, _)| place)
    })?;
    Some(candidates.swap_remove(place))
}
