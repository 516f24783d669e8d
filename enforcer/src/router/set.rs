//! The routers' workers, as many as there are now: a reload of the configuration adds, ends and changes them one by
//! one, and whoever asks about them looks at those of one moment.

use std::sync::{Arc, PoisonError, RwLock};

use atalaya_wire::Name;

use super::RouterHandle;

/// The workers at one moment, in the order of the routers' names.
pub type Crew = Arc<[Arc<RouterHandle>]>;

/// The workers of all routers.
#[derive(Debug)]
pub struct RouterSet {
    crew: RwLock<Crew>,
}

// === impl RouterSet ===

impl RouterSet {
    /// Of these workers, in their order.
    pub fn new(crew: impl IntoIterator<Item = RouterHandle>) -> Self {
        Self { crew: RwLock::new(crew.into_iter().map(Arc::new).collect()) }
    }

    /// Goes on with these workers. Those that are no longer among them are left to the caller, who stops them.
    pub fn replace(&self, crew: Crew) {
        *self.crew.write().unwrap_or_else(PoisonError::into_inner) = crew;
    }

    /// The workers of this moment. One that a reload ends meanwhile answers that it has stopped.
    pub fn now(&self) -> Crew {
        self.crew.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The worker of a router.
    pub fn get(&self, name: &Name) -> Option<Arc<RouterHandle>> {
        self.now().iter().find(|router| router.name() == *name).cloned()
    }

    /// Waits until every worker has ended, which they do once their tokens are cancelled.
    pub async fn stopped(&self) {
        for router in self.now().iter() {
            router.stopped().await;
        }
    }
}
