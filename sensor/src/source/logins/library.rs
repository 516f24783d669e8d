//! Finds the copies of libaudit on this host. A probe is on a file, by inode: containers have copies of
//! their own, and an upgrade makes a new one while running programs keep the old.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The library's file name.
pub const NAME: &str = "libaudit.so.1";

/// Where distributions put libraries.
const DIRECTORIES: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// The most copies that are probed; each costs one perf event a processor.
pub const MOST: usize = 256;

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// A path by which it can be opened now.
    pub path: PathBuf,
    /// What it is, however it is called.
    pub file: FileId,
}

/// A file's device and inode.
pub type FileId = (u64, u64);

/// All copies: in the usual places, and those that root's processes have mapped. Other users'
/// processes are left out: their verdicts do not count, and they could make copies at will.
pub fn find() -> Vec<Library> {
    let mut seen = HashSet::new();
    let usual = DIRECTORIES.iter().map(|directory| Path::new(directory).join(NAME));
    usual
        .chain(mapped())
        .filter_map(|path| {
            let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
            let file = (metadata.dev(), metadata.ino());
            seen.insert(file).then_some(Library { path, file })
        })
        .take(MOST)
        .collect()
}

/// The library as root's processes have it mapped, through `/proc/PID/map_files`, which reaches into
/// containers and to files that were deleted.
fn mapped() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()))
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() == 0))
        .filter_map(|entry| {
            let maps = fs::read_to_string(entry.path().join("maps")).ok()?;
            let range = maps.lines().find_map(mapping)?;
            Some(entry.path().join("map_files").join(range))
        })
}

/// The address range of a line of `/proc/PID/maps` that maps the library (proc(5)).
fn mapping(line: &str) -> Option<&str> {
    let path = &line[line.find('/')?..];
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().filter(|name| *name == NAME || name.starts_with("libaudit.so.1."))?;
    line.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_gives_the_range_of_the_library_alone() {
        let line = |path: &str| format!("7f12a000-7f12b000 r-xp 00002000 fe:01 1234    {path}");
        for path in ["/usr/lib/libaudit.so.1", "/lib/libaudit.so.1.0.0", "/lib/libaudit.so.1.0.0 (deleted)"] {
            assert_eq!(mapping(&line(path)), Some("7f12a000-7f12b000"), "{path}");
        }
        for path in
            ["", "[heap]", "/usr/lib/libauparse.so.0", "/home/x/libaudit.so.1/other", "/libaudit.so.12"]
        {
            assert_eq!(mapping(&line(path)), None, "{path}");
        }
    }
}
