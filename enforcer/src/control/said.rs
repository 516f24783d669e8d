//! What administrators say, as the ledger keeps it, and that it is kept.

use atalaya_wire::{Problem, ProblemCode};
use axum::http::StatusCode;

use super::Refused;
use crate::ledger::Receipt;

/// The longest reason that is kept, in characters.
pub(super) const LONGEST_REASON: usize = 256;

/// The longest name of who asks, in characters.
pub(super) const LONGEST_WHO: usize = 64;

/// A text for the ledger: without control characters, and no longer than so many characters.
pub(super) fn clean(text: &str, most: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
}

/// Who did something and why, as the ledger keeps it.
pub(super) fn by_hand(by: &str, reason: &str) -> String {
    let (by, reason) = (clean(by, LONGEST_WHO), clean(reason, LONGEST_REASON));
    match (by.is_empty(), reason.is_empty()) {
        (true, true) => "by hand".to_owned(),
        (false, true) => format!("by hand, {by}"),
        (true, false) => format!("by hand: {reason}"),
        (false, false) => format!("by hand, {by}: {reason}"),
    }
}

pub(super) async fn committed(receipt: Receipt) -> Result<(), Refused> {
    receipt.committed().await.map_err(|error| {
        let message = format!(
            "done on the routers, but {error}; it is kept in memory until it is written, and forgotten if the enforcer is stopped before"
        );
        Refused(StatusCode::SERVICE_UNAVAILABLE, Problem::new(ProblemCode::Unavailable, message))
    })
}
