//! Which files patterns stand for now, and which of them are not read, with the reason.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Access, MOST_TROUBLES, Opened, Troubles};
use crate::confine::logs::{MOST_PATHS, PathPattern};

const ABSENT: &str = "there is no such file; it is read once it is there";
const FULL: &str = "it stands for more than 100,000 files, of which the rest is not read";

/// What is there now.
#[derive(Debug, Default)]
pub(super) struct LogSurvey {
    /// Paths in the order of the patterns, each once, with the patterns that it matches.
    pub(super) named: Vec<(PathBuf, Vec<usize>)>,
    /// The folders in which a name that appears would matter.
    pub(super) folders: HashSet<PathBuf>,
    /// Paths and patterns that are not read.
    pub(super) troubles: Troubles,
    /// Patterns of which not all paths are read.
    full: Vec<usize>,
    /// Whether anything is there of each pattern.
    found: Vec<bool>,
}

// === impl LogSurvey ===

impl LogSurvey {
    /// Looks for the names.
    pub(super) fn new(patterns: &[PathPattern], access: &Access) -> Self {
        let mut survey = Self { found: vec![false; patterns.len()], ..Self::default() };
        let Self { named, folders, troubles, full, .. } = &mut survey;
        let mut places: HashMap<PathBuf, usize> = HashMap::new();
        for (index, pattern) in patterns.iter().enumerate() {
            let mut names = |folder: &Path| {
                access.names(folder).unwrap_or_else(|error| {
                    note(troubles, folder, &error.to_string());
                    Vec::new()
                })
            };
            let paths = pattern.paths(folders, &mut names);
            if paths.len() == MOST_PATHS {
                full.push(index);
            }
            for path in paths {
                let place = *places.entry(path).or_insert_with_key(|path| {
                    named.push((path.clone(), Vec::new()));
                    named.len() - 1
                });
                if let Some((_, patterns)) = named.get_mut(place) {
                    patterns.push(index);
                }
            }
        }
        survey
    }

    /// Notes that a path is there.
    pub(super) fn find(&mut self, patterns: &[usize]) {
        patterns.iter().for_each(|pattern| self.found[*pattern] = true);
    }

    /// Opens a path; what keeps it from being read is noted.
    pub(super) fn open(&mut self, access: &Access, path: &Path, patterns: &[usize]) -> Option<Opened> {
        let what = match access.file(path) {
            Ok(opened) => {
                self.find(patterns);
                // A name that comes where a link leads matters too.
                self.folders.extend(opened.folder.clone());
                return Some(opened);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
                    return None;
                }
                "the link leads to nothing".to_owned()
            }
            Err(error) => error.to_string(),
        };
        self.find(patterns);
        note(&mut self.troubles, path, &what);
        None
    }

    /// What is not read, with the patterns of which nothing is there. `texts` are the patterns as they were given.
    pub(super) fn into_troubles(mut self, texts: &[String]) -> Troubles {
        let absent = texts.iter().zip(&self.found).filter(|(_, found)| !**found);
        absent.for_each(|(text, _)| note(&mut self.troubles, Path::new(text), ABSENT));
        for text in self.full.iter().filter_map(|pattern| texts.get(*pattern)) {
            note(&mut self.troubles, Path::new(text), FULL);
        }
        self.troubles
    }
}

/// Adds why a path is not read, where there is room.
pub(super) fn note(troubles: &mut Troubles, path: &Path, what: &str) {
    if troubles.len() < MOST_TROUBLES {
        troubles.insert(path.to_owned(), what.to_owned());
    }
}

/// What of these patterns is not read, as this process meets it now.
pub fn troubles_of(texts: &[String], access: &Access) -> Troubles {
    let mut troubles = Troubles::new();
    let taken_apart = texts.iter().filter_map(|text| match PathPattern::new(text) {
        Ok(pattern) => Some((text.clone(), pattern)),
        Err(reason) => {
            note(&mut troubles, Path::new(text), &reason);
            None
        }
    });
    let (texts, patterns): (Vec<String>, Vec<PathPattern>) = taken_apart.unzip();
    let mut survey = LogSurvey::new(&patterns, access);
    for (path, of) in std::mem::take(&mut survey.named) {
        survey.open(access, &path, &of);
    }
    troubles.append(&mut survey.into_troubles(&texts));
    troubles
}
