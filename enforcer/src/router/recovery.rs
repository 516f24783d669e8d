//! While a lost ledger is gathered again: what the workers do with entries of ours that no ban explains.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atalaya_wire::Name;

use super::order::Unexplained;

/// Where entries go that carry our mark and that no ban explains, while the ledger is not whole: they are
/// adopted as bans instead of being removed.
pub struct Recovery {
    active: AtomicBool,
    pub(super) adopt: Box<Adopt>,
}

/// Takes what one router holds and no ban explains.
type Adopt = dyn Fn(&Name, Vec<Unexplained>) + Send + Sync;

// === impl Recovery ===

impl Recovery {
    /// A recovery that goes on until [`Self::end`]; `adopt` is called with a router's name.
    pub fn new(adopt: impl Fn(&Name, Vec<Unexplained>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { active: AtomicBool::new(true), adopt: Box::new(adopt) })
    }

    /// Whether it still goes on.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// The ledger is whole again: what no ban explains is removed from here on.
    pub fn end(&self) {
        self.active.store(false, Ordering::SeqCst);
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery").field("active", &self.active).finish_non_exhaustive()
    }
}
