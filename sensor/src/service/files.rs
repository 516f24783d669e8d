//! Feeds the detector with the lines of log files, and keeps how far each is read together with what its
//! lines changed.

use anyhow::Context;
use jiff::Timestamp;

use super::{Shared, lock};
use crate::source::files::{
    Access, FollowedFile, Follower, FollowerHandle, Position, SavedPosition, Sink, Start,
};

/// Follows the log files of all jails on a thread of its own, from where reading stands.
pub(super) fn follow(
    watch: &Shared,
    access: Access,
) -> anyhow::Result<Option<(FollowerHandle, std::thread::JoinHandle<()>)>> {
    let mut patterns = Vec::new();
    let mut jail_of_pattern = Vec::new();
    for (jail, paths) in lock(watch).detector.paths() {
        for path in paths {
            patterns.push(path);
            jail_of_pattern.push(jail);
        }
    }
    if patterns.is_empty() {
        return Ok(None);
    }
    let saved = lock(watch).positions.values().cloned().collect();
    let mut follower = Follower::new(&patterns, saved, Start::End)?.with_access(access);
    let handle = follower.handle();
    let mut sink = FileSink { watch: watch.clone(), jail_of_pattern };
    follower.begin(&mut sink);
    let thread = std::thread::Builder::new()
        .name("files".into())
        .spawn(move || follower.run(&mut sink))
        .context("cannot start the thread that follows files")?;
    Ok(Some((handle, thread)))
}

struct FileSink {
    watch: Shared,
    jail_of_pattern: Vec<usize>,
}

impl Sink for FileSink {
    fn lines(&mut self, file: &FollowedFile, lines: &[u8], after: &Position) {
        let now = Timestamp::now();
        let source = file.path.to_string_lossy();
        let mut jails: Vec<usize> =
            file.patterns.iter().filter_map(|pattern| self.jail_of_pattern.get(*pattern).copied()).collect();
        jails.sort_unstable();
        jails.dedup();
        let mut watch = lock(&self.watch);
        watch.detector.lines(&jails, &source, lines, now);
        watch.lines += memchr::memchr_iter(b'\n', lines).count() as u64;
        let position = SavedPosition { path: file.path.to_path_buf(), position: after.clone() };
        let key = position.key();
        watch.unsaved.forgotten.remove(&key);
        watch.positions.insert(key.clone(), position.clone());
        watch.unsaved.positions.insert(key, position);
    }

    fn forget(&mut self, position: &SavedPosition) {
        let key = position.key();
        let mut watch = lock(&self.watch);
        watch.unsaved.positions.remove(&key);
        watch.positions.remove(&key);
        watch.unsaved.forgotten.insert(key);
    }
}
