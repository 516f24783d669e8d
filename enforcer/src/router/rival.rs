//! Other enforcers that keep their bans on the same list under the same mark. Their entries are none of ours, and are
//! neither changed nor removed: two that did so would undo each other's work for ever.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::address_list::Marks;
use super::pipeline::Pipeline;
use crate::ledger::Lineage;
use crate::prefixes::Family;

/// Entries of other enforcers under our mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rivals {
    /// When they were seen first, however often the session broke since.
    pub since: Timestamp,
    /// What opens our comments: `atalaya:k7f2`.
    pub ours: String,
    /// What opens theirs, the word of their ledger, and how many entries there are, of both families.
    pub others: Vec<Rival>,
}

/// The entries of another enforcer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rival {
    /// What opens their comments: `atalaya:x2yz`.
    pub opens: String,
    /// The word of its ledger.
    pub lineage: Lineage,
    /// How many entries, of both families.
    pub entries: usize,
}

// === impl Rivals ===

impl Rivals {
    /// As the lists were read last; `None` where there are none.
    pub(super) fn seen(pipeline: &Pipeline, marks: &Marks, since: Timestamp) -> Option<Self> {
        let mut counts = pipeline.rivals(Family::V4).clone();
        for (lineage, entries) in pipeline.rivals(Family::V6) {
            *counts.entry(*lineage).or_default() += entries;
        }
        let others: Vec<Rival> = counts
            .into_iter()
            .map(|(lineage, entries)| Rival { opens: marks.opening(Some(lineage)), lineage, entries })
            .collect();
        (!others.is_empty()).then(|| Self { since, ours: marks.opening(marks.lineage()), others })
    }
}
