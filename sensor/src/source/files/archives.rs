//! In what order the files of one log were written: the log itself, and the archives that rotation made of it.
//!
//! A name alone does not tell: `.1` is the newest of logrotate's and the oldest of others'. Nor does the last write:
//! a daemon writes on in a renamed file until it reopens. Nor does the birth: a copy is born after all that stands in
//! it. So an archive comes after a file that is one too if **two of the three say so**, and after a log that none of
//! the archives holds if it was both born and written later.

use std::cmp::{Ordering, Reverse};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::position::bytes_at;
use super::{Access, Opened};

/// What a file is called by in its folder, as far as it matters for the order.
type Label = Option<String>;

/// An archive of a log.
#[derive(Debug)]
pub(super) struct LogArchive {
    pub(super) at: PathBuf,
    pub(super) opened: Opened,
}

/// When a file of a log was written, as far as its name and its times tell. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Era {
    pub(super) id: (u64, u64),
    /// `None` where it is no archive.
    pub(super) label: Label,
    pub(super) born: Option<u64>,
    pub(super) modified: Option<u64>,
}

/// How far the files of a log were read.
#[derive(Debug)]
pub(super) enum Reached {
    /// Up to and with an archive.
    Archive(Era),
    /// Up to a log that none of the archives holds. Where the file before it is known, one that was written at the very
    /// time at which the log was seen last comes after it if it is another one: times go in steps of some milliseconds.
    Log { era: Era, before: Option<(u64, u64)> },
}

// === impl LogArchive ===

impl LogArchive {
    pub(super) fn era(&self) -> Era {
        Era {
            id: self.opened.id(),
            label: self.at.file_name().map(|name| name.to_string_lossy().into_owned()),
            born: self.opened.born(),
            modified: self.opened.modified(),
        }
    }

    /// The earliest first. Where the times are the same, the names decide.
    pub(super) fn sort(archives: &mut [Self]) {
        archives.sort_by_cached_key(|archive| {
            let label = archive.era().label.unwrap_or_default();
            (archive.opened.modified(), Reverse(rotation_number(&label)), label)
        });
    }

    /// Whether a log begins with all that stands in here: it is a copy of the log, which is not truncated yet.
    pub(super) fn is_beginning_of(&self, log: &std::fs::File) -> bool {
        const PIECE: u64 = 256;
        let (Ok(copy), Ok(whole)) = (self.opened.file.metadata(), log.metadata()) else { return false };
        let end = copy.len().saturating_sub(PIECE);
        let is_same_at = |at| {
            let piece = bytes_at(&self.opened.file, at, PIECE as usize);
            piece.is_ok_and(|piece| bytes_at(log, at, piece.len()).is_ok_and(|other| other == piece))
        };
        copy.len() <= whole.len() && is_same_at(0) && is_same_at(end)
    }
}

// === impl Era ===

impl Era {
    /// Of a copy: it was born after all that stands in it, which tells nothing.
    pub(super) fn of_copy(self) -> Self {
        Self { born: None, ..self }
    }

    /// Whether this file of a log was written after another one, by two of three.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        let times = |a: Option<u64>, b: Option<u64>| Some(a?.cmp(&b?));
        let written = times(self.modified, other.modified).unwrap_or(Ordering::Equal);
        let labels = self.label.as_deref().zip(other.label.as_deref()).map(|(a, b)| by_label(a, b));
        let born = times(self.born, other.born);
        let votes = [Some(written), labels, born].into_iter().flatten();
        let sum: i32 = votes.map(|vote| vote as i32).sum();
        sum.cmp(&0).then(written).then(labels.unwrap_or(Ordering::Equal)).is_gt()
    }
}

// === impl Reached ===

impl Reached {
    pub(super) fn era(&self) -> &Era {
        match self {
            Self::Archive(era) | Self::Log { era, .. } => era,
        }
    }

    /// With the name that the archive has in this list: a rotation that goes on renames it.
    pub(super) fn named_in(self, archives: &[LogArchive]) -> Self {
        match self {
            Self::Archive(era) => {
                let listed = archives.iter().find(|archive| archive.opened.id() == era.id);
                let label = listed.map_or(era.label, |archive| archive.era().label);
                Self::Archive(Era { label, ..era })
            }
            log @ Self::Log { .. } => log,
        }
    }

    /// Whether an archive is of what comes after.
    pub(super) fn is_before(&self, archive: &Era) -> bool {
        match self {
            Self::Archive(era) => archive.id != era.id && archive.is_after(era),
            Self::Log { era, before } => {
                // The log itself may have been truncated and renamed.
                let is_later = archive.id == era.id
                    || era.born.zip(archive.born).is_none_or(|(log, archive)| archive > log);
                let Some((log, archive_modified)) = era.modified.zip(archive.modified) else { return false };
                let is_other = before.is_some_and(|before| before != archive.id);
                is_later && (archive_modified > log || (archive_modified == log && is_other))
            }
        }
    }
}

/// The archives of a path, each file once. A rotation that goes on renames them while they are listed, and
/// one may be passed over or met twice: they are listed until two lists agree on the names too.
pub(super) fn settled_archives(access: &Access, path: &Path) -> Vec<LogArchive> {
    const LISTS: usize = 16;
    let mut all: Vec<LogArchive> = Vec::new();
    let (mut known, mut before) = (HashSet::new(), HashSet::new());
    for _ in 0..LISTS {
        let listed = access.archives(path);
        let names: HashSet<_> = listed.iter().map(|(at, opened)| (at.clone(), opened.id())).collect();
        for (at, opened) in listed {
            if known.insert(opened.id()) {
                all.push(LogArchive { at, opened });
            }
        }
        if names == before {
            break;
        }
        before = names;
    }
    all
}

/// The number that rotation counts up in a name: the last digits in it, where they are too few for a date.
fn rotation_number(name: &str) -> Option<u32> {
    const MOST_DIGITS: usize = 5;
    let start = name.trim_end_matches(|letter: char| letter.is_ascii_digit()).len();
    let is_number = (1..=MOST_DIGITS).contains(&(name.len() - start)) && !has_date(&name[..start]);
    if is_number { name[start..].parse().ok() } else { None }
}

/// Whether a name holds as many digits as a date has.
fn has_date(name: &str) -> bool {
    name.bytes().filter(u8::is_ascii_digit).count() >= 8
}

/// Which of two archives' names is of the later one. Numbers count up with age; dates of one form, such as
/// `-20261130`, are in their own order.
fn by_label(a: &str, b: &str) -> Ordering {
    if let (Some(first), Some(second)) = (rotation_number(a), rotation_number(b)) {
        return second.cmp(&first);
    }
    let form = |name: &str| name.replace(|letter: char| letter.is_ascii_digit(), "0");
    if has_date(a) && form(a) == form(b) { a.cmp(b) } else { Ordering::Equal }
}

/// The names that are kept of too many, the latest first as far as names tell.
pub(super) fn keep_latest(names: &mut Vec<std::ffi::OsString>, most: usize) {
    if names.len() > most {
        names.sort_by_cached_key(|name| {
            let name = name.to_string_lossy().into_owned();
            (rotation_number(&name).unwrap_or(0), Reverse(name))
        });
        names.truncate(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn era(label: &str, born: u64, modified: u64) -> Era {
        let label = (!label.is_empty()).then(|| label.to_owned());
        Era { id: (1, born), label, born: Some(born), modified: Some(modified) }
    }

    #[test]
    fn two_of_name_birth_and_last_write_say_which_archive_was_written_later() {
        let cases = [
            ("renamed, as logrotate numbers them", ("x.log.1", 20, 30), ("x.log.2", 10, 20)),
            ("renamed, as others number them", ("x.log.8", 20, 30), ("x.log.7", 10, 20)),
            ("written on in, until the daemon reopened", ("x.log.1", 20, 22), ("x.log.2", 10, 25)),
            ("renamed after its first copy was made", ("x.log.1", 10, 30), ("x.log.2", 20, 20)),
            ("dated, and written on in", ("x.log-20261201", 20, 22), ("x.log-20261130", 10, 25)),
            (
                "dated twice a day",
                ("x.log-20261130-1790000002", 10, 30),
                ("x.log-20261130-1790000001", 20, 20),
            ),
            ("dated, the day first", ("x.log-01122026", 20, 30), ("x.log-30112026", 10, 20)),
            ("with more digits", ("x.log.9", 20, 20), ("x.log.10", 10, 20)),
            (
                "truncated and renamed in the step of the clock of its copy",
                ("x.log.1", 10, 20),
                ("x.log.2", 20, 20),
            ),
            ("written in the same step of the clock", ("x.log.1", 20, 20), ("x.log.2", 20, 20)),
        ];
        for (what, late, early) in cases {
            let era = |(label, born, modified)| era(label, born, modified);
            assert!(era(late).is_after(&era(early)), "{what}");
            assert!(!era(early).is_after(&era(late)), "{what}, the other way round");
        }
    }

    #[test]
    fn an_archive_comes_after_a_log_if_it_was_born_and_written_after_the_log_was_seen() {
        let log = Reached::Log { era: era("", 100, 200), before: Some((1, 150)) };
        let after = |born, modified| log.is_before(&era("x.log.1", born, modified));
        assert!(after(210, 220), "a copy");
        assert!(after(100, 220), "the log itself, truncated and renamed");
        assert!(!after(50, 220), "the one before, in which a daemon wrote on");
        assert!(!after(150, 190), "a copy of what was read");
        assert!(!after(150, 200), "the copy that is known, of the same step of the clock");
        assert!(after(199, 200), "another one");
        let unknown = Reached::Log { era: Era { modified: None, ..era("", 100, 0) }, before: None };
        assert!(!unknown.is_before(&era("x.log.1", 210, 220)), "nobody knows");
    }

    #[test]
    fn of_too_many_names_the_latest_are_kept() {
        let mut names: Vec<std::ffi::OsString> =
            (1..=30).map(|number| format!("x.log.{number}").into()).collect();
        keep_latest(&mut names, 3);
        assert_eq!(names, ["x.log.1", "x.log.2", "x.log.3"]);
        let mut names: Vec<std::ffi::OsString> =
            (10..=30).map(|day| format!("x.log-202611{day}").into()).collect();
        keep_latest(&mut names, 2);
        assert_eq!(names, ["x.log-20261130", "x.log-20261129"]);
    }
}
