//! Finds among many files those that a new one may be the successor or the copy of.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::Opened;
use super::followed::Followed;
use super::position::{HEAD, bytes_at};

/// With fewer first bytes, nothing is known to be a copy.
pub(super) const TELLING: usize = 16;

/// Places of files by what is looked for.
pub(super) struct Index {
    /// The latest file of each path.
    pub(super) paths: HashMap<Arc<Path>, usize>,
    /// By their first bytes.
    beginnings: HashMap<[u8; TELLING], Vec<usize>>,
}

// === impl Index ===

impl Index {
    pub(super) fn of(files: &[Followed]) -> Self {
        let mut index = Self { paths: HashMap::new(), beginnings: HashMap::new() };
        for (place, file) in files.iter().enumerate() {
            index.paths.insert(file.file.path.clone(), place);
            if let Some(beginning) = file.head().first_chunk() {
                index.beginnings.entry(*beginning).or_default().push(place);
            }
        }
        index
    }

    /// Whether a file holds what was read of another one.
    pub(super) fn has_copied(&self, files: &[Followed], opened: &Opened) -> bool {
        let Ok(head) = bytes_at(&opened.file, 0, HEAD) else { return false };
        let candidates = head.first_chunk().and_then(|beginning| self.beginnings.get(beginning));
        candidates.into_iter().flatten().filter_map(|place| files.get(*place)).any(|file| {
            // Most logs begin with a date: what is in memory tells most of them apart.
            head.starts_with(file.head()) && file.is_copied_by(&opened.file)
        })
    }
}
