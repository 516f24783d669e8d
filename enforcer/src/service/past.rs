//! With which lists and marks routers were ever run, so that what is ours there is known as ours.

use crate::ledger::{Change, Ledger, ListUse};
use crate::prefixes::Family;
use crate::router::{RouterConfig, plan};

/// Tells each router's worker of the ledger's word and of the marks that its entries had before, and the ledger of those of today. `before` is
/// what routers were run with.
pub fn with_their_past(
    mut routers: Vec<RouterConfig>,
    before: &[ListUse],
    ledger: &Ledger,
) -> Vec<RouterConfig> {
    let mut changes = Vec::new();
    for router in &mut routers {
        router.old_marks = plan::old_marks(router, before);
        router.lineage = Some(ledger.lineage());
        for used in before.iter().filter(|used| plan::is_of_before(router, used)) {
            tracing::warn!(
                router = %router.name, list = used.list, family = %used.family,
                "this router was run with another list before; entries of ours there expire by themselves, `atalaya-enforcer tidy` shows and removes them"
            );
        }
        let new = uses(router).into_iter().filter(|used| !before.contains(used));
        changes.extend(new.map(|used| Change::List(Box::new(used))));
    }
    ledger.write_surely(changes);
    routers
}

/// The lists and the mark of a router, as the ledger remembers them.
pub fn uses(router: &RouterConfig) -> [ListUse; 2] {
    [Family::V4, Family::V6].map(|family| ListUse {
        router: router.name.clone(),
        family,
        list: router.list(family).to_owned(),
        mark: router.mark.clone(),
    })
}
