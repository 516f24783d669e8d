//! Lines that container engines parted for the journal, joined, of all containers at once.

use std::borrow::Cow;
use std::collections::HashMap;

use super::entry::Entry;
use crate::carrier::OpenLine;

/// How much is kept of lines of containers that are not complete, in bytes: of root's engines, and of other users'.
const MOST_PIECES: [usize; 2] = [16 << 20, 4 << 20];
/// Of how many outputs of containers.
const MOST_STREAMS: [usize; 2] = [10_000, 1000];

/// Lines of containers that are not complete, by [`ContainerPiece::stream`](super::ContainerPiece).
#[derive(Debug, Default)]
pub struct JournalPieces {
    open: HashMap<String, OpenLine>,
    /// How much they keep, in bytes, and how many they are: of root's engines, and of other users'.
    kept: [usize; 2],
    streams: [usize; 2],
    /// Lines that were cut or passed over.
    cut: u64,
}

// === impl JournalPieces ===

impl JournalPieces {
    /// The entry with its whole line, where it is no piece; with the last piece of a line, all of it.
    pub fn join(&mut self, mut entry: Entry) -> Option<Entry> {
        let Some(piece) = entry.piece() else { return Some(entry) };
        if piece.ends && !self.open.contains_key(&piece.stream) {
            return Some(entry);
        }
        let whose = usize::from(!piece.is_roots);
        let mut open = match self.open.remove(&piece.stream) {
            Some(open) => {
                self.streams[whose] -= 1;
                open
            }
            None => OpenLine::Closed,
        };
        self.kept[whose] -= open.kept();
        let line = open.take(piece.text.into(), piece.ends, &mut self.cut).map(Cow::into_owned);
        self.keep(whose, piece.stream, open);
        entry.set_message(&line?);
        Some(entry)
    }

    /// Looks at an entry that was read before; `is_all` says whether nothing stood before the first of these.
    pub fn before(&mut self, entry: &Entry, is_all: bool) {
        let Some(piece) = entry.piece() else { return };
        let whose = usize::from(!piece.is_roots);
        let mut open = match self.open.remove(&piece.stream) {
            Some(open) => {
                self.streams[whose] -= 1;
                open
            }
            None if is_all => OpenLine::Closed,
            None => OpenLine::Unseen,
        };
        self.kept[whose] -= open.kept();
        open.take(piece.text.into(), piece.ends, &mut 0);
        // Known to be closed, where nothing is known of others.
        self.insert(whose, piece.stream, open);
    }

    /// How many lines were cut or passed over since the last call.
    pub fn take_cut(&mut self) -> u64 {
        std::mem::take(&mut self.cut)
    }

    fn keep(&mut self, whose: usize, stream: String, open: OpenLine) {
        if open != OpenLine::Closed {
            self.insert(whose, stream, open);
        }
    }

    /// Keeps what is not complete; past the bound this one loses its pieces.
    fn insert(&mut self, whose: usize, stream: String, mut open: OpenLine) {
        if self.kept[whose] + open.kept() > MOST_PIECES[whose] {
            open.give_up();
        }
        if self.streams[whose] >= MOST_STREAMS[whose] {
            self.cut += u64::from(open != OpenLine::Closed);
            return;
        }
        self.kept[whose] += open.kept();
        self.streams[whose] += 1;
        self.open.insert(stream, open);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    /// What a container's engine of this user wrote to an output.
    fn piece(user: &str, container: usize, priority: u8, text: &str, is_partial: bool) -> Entry {
        let partial = if is_partial { "CONTAINER_PARTIAL_MESSAGE=true" } else { "X=1" };
        let fields = [
            "_COMM=conmon".to_owned(),
            format!("_UID={user}"),
            format!("CONTAINER_ID_FULL={container}"),
            format!("PRIORITY={priority}"),
            partial.to_owned(),
            format!("MESSAGE={text}"),
        ];
        let fields = fields.into_iter().map(|field| field.into_bytes().into()).collect();
        Entry::new(Timestamp::UNIX_EPOCH, fields).unwrap()
    }

    fn joined(pieces: &mut JournalPieces, entry: Entry) -> Option<String> {
        pieces.join(entry).map(|entry| String::from_utf8_lossy(&entry.text).into_owned())
    }

    #[test]
    fn pieces_of_one_output_of_one_container_make_a_line() {
        let mut pieces = JournalPieces::default();
        assert_eq!(joined(&mut pieces, piece("0", 1, 6, "begin, ", true)), None);
        for (user, container, priority) in [("0", 2, 6), ("0", 1, 3), ("1000", 1, 6)] {
            let other = piece(user, container, priority, "another\n", false);
            assert_eq!(joined(&mut pieces, other).as_deref(), Some("conmon: another"));
        }
        assert_eq!(joined(&mut pieces, piece("0", 1, 6, "middle, ", true)), None);
        assert_eq!(
            joined(&mut pieces, piece("0", 1, 6, "end\n", false)).as_deref(),
            Some("conmon: begin, middle, end")
        );
        assert!(pieces.open.is_empty() && pieces.kept == [0, 0] && pieces.streams == [0, 0]);
    }

    #[test]
    fn a_line_that_was_begun_before_is_whole_or_passed_over_and_never_begins_with_a_piece() {
        for (is_all, whole) in [(true, Some("conmon: begin, end")), (false, None)] {
            let mut pieces = JournalPieces::default();
            pieces.before(&piece("0", 1, 6, "begin, ", true), is_all);
            assert_eq!(joined(&mut pieces, piece("0", 1, 6, "end", false)).as_deref(), whole);
            assert_eq!(pieces.cut, u64::from(!is_all));
        }
        let mut pieces = JournalPieces::default();
        pieces.before(&piece("0", 1, 6, "the line before", false), false);
        pieces.before(&piece("0", 1, 6, "begin, ", true), false);
        assert_eq!(
            joined(&mut pieces, piece("0", 1, 6, "end", false)).as_deref(),
            Some("conmon: begin, end")
        );
    }

    #[test]
    fn lines_that_never_end_keep_a_bounded_part_of_them_and_take_none_of_roots_room() {
        let mut pieces = JournalPieces::default();
        let text = "x".repeat(100_000);
        assert_eq!(joined(&mut pieces, piece("0", 0, 6, "of root, ", true)), None);
        for container in 0..2000 {
            assert_eq!(joined(&mut pieces, piece("1000", container, 6, &text, true)), None);
            assert!(pieces.kept[1] <= MOST_PIECES[1] && pieces.streams[1] <= MOST_STREAMS[1]);
        }
        assert_eq!(
            pieces.kept.iter().sum::<usize>(),
            pieces.open.values().map(OpenLine::kept).sum::<usize>()
        );
        assert_eq!(pieces.open.len(), pieces.streams.iter().sum::<usize>());
        assert_eq!(pieces.cut, 1000);
        assert_eq!(
            joined(&mut pieces, piece("0", 0, 6, "whole", false)).as_deref(),
            Some("conmon: of root, whole")
        );
        // Of what was let go of nothing becomes a line.
        assert_eq!(joined(&mut pieces, piece("1000", 999, 6, "end", false)), None);
    }
}
