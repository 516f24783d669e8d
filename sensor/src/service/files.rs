//! Feeds the detector with the lines of log files, and keeps how far each is read together with what its
//! lines changed.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;
use jiff::Timestamp;

use super::{Shared, lock};
use crate::carrier::{Carried, Unpacker, container_of};
use crate::source::files::{
    Access, FollowedFile, Follower, FollowerHandle, Position, SavedPosition, Sink, Start,
};

/// How much is kept of lines of containers that are not complete, of all files together, in bytes.
const MOST_PIECES: usize = 16 << 20;

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
    let (saved, followed) = {
        let watch = lock(watch);
        (watch.positions.values().cloned().collect(), watch.followed.clone())
    };
    let mut follower =
        Follower::new(&patterns, saved, Start::End)?.with_access(access).with_followed(&followed);
    let handle = follower.handle();
    let mut sink = FileSink { watch: watch.clone(), jail_of_pattern, pieces: Pieces::default() };
    follower.begin(&mut sink);
    patterns.sort_unstable();
    patterns.dedup();
    let mut guard = lock(watch);
    if guard.followed != patterns {
        // With the positions that were just taken, so that none is missing of what is known.
        guard.unsaved.followed = Some(patterns.clone());
        guard.followed = patterns;
    }
    drop(guard);
    let thread = std::thread::Builder::new()
        .name("files".into())
        .spawn(move || follower.run(&mut sink))
        .context("cannot start the thread that follows files")?;
    Ok(Some((handle, thread)))
}

struct FileSink {
    watch: Shared,
    jail_of_pattern: Vec<usize>,
    pieces: Pieces,
}

/// The lines of containers that are not complete, by the device and inode of their file.
#[derive(Default)]
struct Pieces {
    unpackers: HashMap<(u64, u64), Unpacker>,
    /// How much they keep, in bytes.
    kept: usize,
    /// Lines cut or passed over since the start.
    cut: u64,
}

// === impl FileSink ===

impl Sink for FileSink {
    fn begin_within(&mut self, file: &FollowedFile, before: &[u8], is_all: bool, at: &Position) {
        if let Some(carrier) = file.carrier {
            self.pieces.keep(at, Unpacker::within(carrier, before, is_all), &file.path);
        }
    }

    fn lines(&mut self, file: &FollowedFile, lines: &[u8], after: &Position) {
        let now = Timestamp::now();
        let source = file.path.to_string_lossy();
        let mut jails: Vec<usize> =
            file.patterns.iter().filter_map(|pattern| self.jail_of_pattern.get(*pattern).copied()).collect();
        jails.sort_unstable();
        jails.dedup();
        let carried = self.pieces.unpack(file, lines, after);
        let mut watch = lock(&self.watch);
        match &carried {
            Some(carried) => {
                let container = || container_of(&file.path);
                watch.detector.carried_lines(&jails, &source, container, carried, now);
            }
            None => watch.detector.lines(&jails, &source, lines, now),
        }
        watch.lines += memchr::memchr_iter(b'\n', lines).count() as u64;
        let position = SavedPosition { path: file.path.to_path_buf(), position: after.clone() };
        let key = position.key();
        watch.unsaved.forgotten.remove(&key);
        watch.positions.insert(key.clone(), position.clone());
        watch.unsaved.positions.insert(key, position);
    }

    fn forget(&mut self, position: &SavedPosition) {
        self.pieces.take(&position.position);
        let key = position.key();
        let mut watch = lock(&self.watch);
        watch.unsaved.positions.remove(&key);
        watch.positions.remove(&key);
        watch.unsaved.forgotten.insert(key);
    }
}

// === impl Pieces ===

impl Pieces {
    /// The lines that the programs of a container wrote; `None` for a file of any other kind.
    fn unpack<'a>(
        &mut self,
        file: &FollowedFile,
        lines: &'a [u8],
        after: &Position,
    ) -> Option<Vec<Carried<'a>>> {
        let carrier = file.carrier?;
        let before = self.take(after);
        // After a truncation it begins anew.
        let is_start = after.offset <= lines.len() as u64;
        let mut unpacker = match before {
            _ if is_start => Unpacker::at_start(carrier),
            Some(before) => before,
            None => Unpacker::new(carrier),
        };
        let carried =
            lines.split_inclusive(|byte| *byte == b'\n').filter_map(|line| unpacker.take(line)).collect();
        self.keep(after, unpacker, &file.path);
        Some(carried)
    }

    fn take(&mut self, at: &Position) -> Option<Unpacker> {
        let unpacker = self.unpackers.remove(&(at.device, at.inode))?;
        self.kept -= unpacker.kept();
        Some(unpacker)
    }

    /// Keeps what is not complete; past the bound of all files this one loses its pieces.
    fn keep(&mut self, at: &Position, mut unpacker: Unpacker, path: &Path) {
        self.take(at);
        let cut = unpacker.take_cut();
        self.cut += cut;
        // A flood of such lines must not become a flood of messages.
        if (self.cut - cut).leading_zeros() != self.cut.leading_zeros() {
            tracing::warn!(
                path = %path.display(),
                lines = self.cut,
                "lines of containers that are too long were cut or passed over, in total since the start"
            );
        }
        if self.kept + unpacker.kept() > MOST_PIECES {
            unpacker.give_up();
        }
        if !unpacker.is_empty() {
            self.kept += unpacker.kept();
            self.unpackers.insert((at.device, at.inode), unpacker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carrier::Carrier;
    use crate::source::files::Fingerprint;

    fn file() -> FollowedFile {
        FollowedFile { path: Path::new("/x").into(), patterns: Vec::new(), carrier: Some(Carrier::Cri) }
    }

    /// Lines that end at an offset of the file with this inode.
    fn unpack(pieces: &mut Pieces, inode: u64, offset: usize, lines: &str) -> Vec<String> {
        let (first, last) = (Fingerprint::default(), Fingerprint::default());
        let after =
            Position { device: 1, inode, born: None, modified: None, offset: offset as u64, first, last };
        let carried = pieces.unpack(&file(), lines.as_bytes(), &after).unwrap();
        carried.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect()
    }

    fn line(tag: &str, text: &str) -> String {
        format!("2026-11-30T08:20:00Z stdout {tag} {text}\n")
    }

    #[test]
    fn pieces_of_a_file_wait_for_the_rest_of_their_line_until_the_file_is_truncated() {
        let (mut pieces, piece, end) = (Pieces::default(), line("P", "a"), line("F", "b"));
        assert_eq!(unpack(&mut pieces, 7, piece.len(), &piece), [""; 0]);
        assert_eq!(unpack(&mut pieces, 8, end.len(), &end), ["b"]);
        assert_eq!(unpack(&mut pieces, 7, piece.len() + end.len(), &end), ["ab"]);
        assert!(pieces.unpackers.is_empty() && pieces.kept == 0);
        unpack(&mut pieces, 7, 1000, &piece);
        assert_eq!(unpack(&mut pieces, 7, end.len(), &end), ["b"]);
    }

    #[test]
    fn lines_of_many_files_that_never_end_keep_a_bounded_part_of_them() {
        let (mut pieces, piece) = (Pieces::default(), line("P", &"x".repeat(16 * 1024)));
        for file in 0..200 {
            for round in 1..=16 {
                unpack(&mut pieces, file, round * piece.len(), &piece);
                assert!(pieces.kept <= MOST_PIECES);
                assert_eq!(pieces.kept, pieces.unpackers.values().map(Unpacker::kept).sum::<usize>());
            }
        }
        // Of what was let go of nothing becomes a line.
        let (end, next) = (line("F", "end"), line("F", "next"));
        assert_eq!(unpack(&mut pieces, 199, 1 << 20, &(end + &next)), ["next"]);
        assert_eq!(pieces.cut, 1);
    }
}
