//! What the loader does with each object alike. What can be asked of one differs, so each has a `want` of its
//! own: it brings what is loaded to what is wanted, and returns maps only where the object was loaded just now.
//! A change of what is wanted leaves a loaded object's maps in place wherever it can, so that nothing is missed.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::object::Object;
use crate::channel::Program;

/// Maps that were loaded just now, by name.
pub type MapDescriptors = Vec<(String, OwnedFd)>;

/// One object in the loader.
pub trait Part {
    /// Looks around: at programs of this host that came, and that ended. Called every few seconds.
    fn look(&mut self) {}

    /// What becomes readable when there is something to do before the next look, its messages with it.
    fn waits(&mut self) -> Vec<BorrowedFd<'_>> {
        self.object().and_then(|object| Object::messages(object)).into_iter().collect()
    }

    /// Does what there is to do before the next look, if anything; must not leave what is readable so. Whether its
    /// programs may stand otherwise than before.
    fn wake(&mut self) -> bool {
        false
    }

    /// Its programs, each with how it stands.
    fn programs(&self) -> Vec<Program>;

    /// The loaded object, for its messages.
    fn object(&mut self) -> Option<&mut Object>;
}
