//! Who takes the lines of the files that are followed.

use std::path::Path;
use std::sync::Arc;

use super::{Position, SavedPosition};
use crate::carrier::Carrier;

/// A file as the sink sees it.
#[derive(Clone, Debug)]
pub struct FollowedFile {
    /// The path under which it was found.
    pub path: Arc<Path>,
    /// The patterns that it matches, by their place in the list given to [`Follower::new`](super::Follower::new).
    pub patterns: Vec<usize>,
    /// The form of a container engine, where its first line is of one.
    pub carrier: Option<Carrier>,
}

/// Takes lines. Calls come one after another, from the follower's thread.
pub trait Sink {
    /// Before the first lines of a file with a carrier's form that is read from somewhere on: whole lines that stand
    /// before them, and whether these are all that do.
    fn begin_within(&mut self, _file: &FollowedFile, _before: &[u8], _is_all: bool, _at: &Position) {}

    /// Whole lines, each with its end (only the last line of a file that ended for good may lack
    /// it), and the position after them: save both effects together, and no line is lost or doubled.
    fn lines(&mut self, file: &FollowedFile, lines: &[u8], after: &Position);

    /// A file that is gone and read to its end; its position is of no more use.
    fn forget(&mut self, position: &SavedPosition);
}
