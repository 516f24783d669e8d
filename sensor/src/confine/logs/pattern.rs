//! A path with wildcards, and the paths that match it now. `*`, `?` and `[…]` match within one
//! component, as in a shell; archives that are compressed are passed over unless named in full.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use globset::{Glob, GlobMatcher};

/// The most paths that one pattern may match.
pub const MOST: usize = 100_000;
const COMPRESSED: [&str; 5] = ["gz", "xz", "bz2", "zst", "lz4"];

/// A pattern, taken apart.
#[derive(Debug)]
pub struct PathPattern {
    parts: Vec<PathPart>,
}

#[derive(Debug)]
enum PathPart {
    Plain(PathBuf),
    Wild { matcher: GlobMatcher, hidden: bool },
}

// === impl PathPattern ===

impl PathPattern {
    /// Takes a path apart.
    ///
    /// # Errors
    /// What is wrong in it, in words.
    pub fn new(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err("it is not absolute".to_owned());
        }
        let mut parts = Vec::new();
        for component in Path::new(text).components() {
            let Component::Normal(name) = component else {
                if component == Component::ParentDir {
                    return Err("it holds `..`".to_owned());
                }
                continue;
            };
            let name = name.to_string_lossy();
            if name.contains(['*', '?', '[']) {
                let matcher = Glob::new(&name).map_err(|error| error.to_string())?.compile_matcher();
                parts.push(PathPart::Wild { matcher, hidden: name.starts_with('.') });
            } else if let Some(PathPart::Plain(plain)) = parts.last_mut() {
                plain.push(&*name);
            } else {
                parts.push(PathPart::Plain(PathBuf::from(&*name)));
            }
        }
        Ok(Self { parts })
    }

    /// The paths that match now, sorted within each folder; the folders in which a name that appears
    /// would matter are added to `folders`. `names` lists a folder.
    pub fn paths(
        &self,
        folders: &mut HashSet<PathBuf>,
        names: &mut impl FnMut(&Path) -> Vec<OsString>,
    ) -> Vec<PathBuf> {
        let mut paths = vec![PathBuf::from("/")];
        for (index, part) in self.parts.iter().enumerate() {
            let last = index + 1 == self.parts.len();
            paths = match part {
                PathPart::Plain(plain) => paths
                    .into_iter()
                    .map(|base| base.join(plain))
                    .inspect(|path| {
                        if last {
                            folders.extend(path.parent().map(Path::to_owned));
                        }
                    })
                    .collect(),
                PathPart::Wild { .. } => paths
                    .into_iter()
                    .inspect(|base| {
                        folders.insert(base.clone());
                    })
                    .flat_map(|base| part.children(&base, last, names(&base)))
                    .take(MOST)
                    .collect(),
            };
        }
        paths
    }

    /// Whether names in this folder could make a path of [`Self::paths`].
    pub fn looks_into(&self, folder: &Path) -> bool {
        let depth = names_of(folder).count();
        let mut before = 0;
        let mut wild = false;
        for part in &self.parts {
            wild = matches!(part, PathPart::Wild { .. });
            if wild && before == depth {
                break;
            }
            before += part.names();
        }
        wild && before == depth && self.begins(folder)
    }

    /// Whether a path's names are those with which the pattern begins.
    fn begins(&self, path: &Path) -> bool {
        let mut left = names_of(path).count();
        let mut names = names_of(path);
        for part in &self.parts {
            if left == 0 {
                break;
            }
            if left < part.names() || !part.take(&mut names) {
                return false;
            }
            left -= part.names();
        }
        true
    }

    /// Whether a path could be one of [`Self::paths`].
    pub fn matches(&self, path: &Path) -> bool {
        let mut names = names_of(path);
        self.parts.iter().all(|part| part.take(&mut names)) && names.next().is_none()
    }
}

// === impl PathPart ===

impl PathPart {
    /// How many names it stands for.
    fn names(&self) -> usize {
        match self {
            Self::Plain(plain) => plain.components().count(),
            Self::Wild { .. } => 1,
        }
    }

    /// Takes the names that it stands for; whether they fit.
    fn take<'a>(&self, names: &mut impl Iterator<Item = &'a OsStr>) -> bool {
        match self {
            Self::Plain(plain) => {
                plain.iter().all(|expected| names.next().is_some_and(|name| name == expected))
            }
            Self::Wild { .. } => names.next().is_some_and(|name| self.takes(Path::new(name))),
        }
    }

    fn takes(&self, name: &Path) -> bool {
        match self {
            Self::Plain(plain) => plain == name,
            Self::Wild { matcher, hidden } => {
                matcher.is_match(name) && (*hidden || !name.to_string_lossy().starts_with('.'))
            }
        }
    }

    fn children(&self, folder: &Path, last: bool, names: Vec<OsString>) -> Vec<PathBuf> {
        let mut children: Vec<PathBuf> = names
            .into_iter()
            .filter(|name| self.takes(Path::new(name)))
            .map(|name| folder.join(name))
            .filter(|path| !last || !is_compressed(path))
            .collect();
        children.sort_unstable();
        children
    }
}

fn names_of(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}

/// Whether a file's name says that it is compressed.
pub fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| COMPRESSED.iter().any(|known| extension == *known))
}

/// Whether a path is there, or something that a pattern fits.
pub fn exists(pattern: &str) -> bool {
    let path = Path::new(pattern);
    if !pattern.contains(['*', '?', '[']) {
        return path.exists();
    }
    let folder = path.parent().filter(|folder| !folder.to_string_lossy().contains(['*', '?', '[']));
    let Ok(glob) = Glob::new(pattern) else { return false };
    let matcher = glob.compile_matcher();
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
    entries.filter_map(Result::ok).any(|entry| matcher.is_match(entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_within_a_component_and_pass_over_hidden_and_compressed_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a/x.log", "b/x.log", "b/y.log", "b/.x.log", "b/z.log.gz", "b/deep/x.log"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let pattern = PathPattern::new(&format!("{}/*/?.log*", folder.path().display())).unwrap();
        let mut folders = HashSet::new();
        let names: Vec<String> = pattern
            .paths(&mut folders, &mut |folder| {
                std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
            })
            .iter()
            .map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["a/x.log", "b/x.log", "b/y.log"]);
        assert!(folders.contains(folder.path()) && folders.contains(&folder.path().join("b")));
        assert!(pattern.matches(&folder.path().join("c/w.log")));
        assert!(!pattern.matches(&folder.path().join("c/d/w.log")));
        assert!(pattern.looks_into(folder.path()) && pattern.looks_into(&folder.path().join("c")));
        assert!(!pattern.looks_into(&folder.path().join("c/d")) && !pattern.looks_into(Path::new("/")));
    }

    #[test]
    fn a_relative_path_and_a_broken_class_are_refused() {
        assert!(PathPattern::new("var/log").is_err());
        assert!(PathPattern::new("/var/log/[a").is_err());
        assert!(PathPattern::new("/var/../log").is_err());
    }
}
