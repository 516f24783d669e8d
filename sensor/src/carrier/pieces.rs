//! The pieces of one line, joined: container engines part a long line, in files and in the journal.

use std::borrow::Cow;

/// The most of a joined line that is kept, in bytes.
pub const LONGEST: usize = 256 * 1024;

/// A line of which pieces have come and the end has not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OpenLine {
    /// None.
    #[default]
    Closed,
    /// What has come of it.
    Pieces(Vec<u8>),
    /// Its beginning is not known: it is passed over.
    Lost,
    /// Nothing of it was seen yet where reading began in the midst.
    Unseen,
}

// === impl OpenLine ===

impl OpenLine {
    /// Takes a piece; the whole line where it `ends` with it. `cut` counts lines that are cut or passed over.
    pub fn take<'a>(&mut self, text: Cow<'a, [u8]>, ends: bool, cut: &mut u64) -> Option<Cow<'a, [u8]>> {
        match (std::mem::take(self), ends) {
            (Self::Closed | Self::Unseen, true) => Some(text),
            (Self::Closed, false) => {
                let mut pieces = text.into_owned();
                *cut += u64::from(pieces.len() > LONGEST);
                pieces.truncate(LONGEST);
                *self = Self::Pieces(pieces);
                None
            }
            (Self::Pieces(mut pieces), _) => {
                let room = LONGEST.saturating_sub(pieces.len());
                *cut += u64::from(text.len() > room && (ends || room > 0));
                pieces.extend_from_slice(&text[..text.len().min(room)]);
                if ends {
                    return Some(pieces.into());
                }
                *self = Self::Pieces(pieces);
                None
            }
            (Self::Lost, true) => {
                *cut += 1;
                None
            }
            (Self::Lost | Self::Unseen, false) => {
                *self = Self::Lost;
                None
            }
        }
    }

    /// Forgets what has come of it: it is passed over.
    pub fn give_up(&mut self) {
        if matches!(self, Self::Pieces(_)) {
            *self = Self::Lost;
        }
    }

    /// How much it keeps, in bytes.
    pub fn kept(&self) -> usize {
        if let Self::Pieces(pieces) = self { pieces.len() } else { 0 }
    }
}
