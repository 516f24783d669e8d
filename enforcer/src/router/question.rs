//! What a command asks of a router's worker, which answers from its mirror.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// What a router holds for one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "holds")]
pub enum Holding {
    /// There is no entry of exactly this prefix.
    Nothing,
    /// There is one of exactly this prefix.
    Entry {
        /// Whether it carries our mark.
        ours: bool,
        /// In how many seconds the router drops it; `None` for a static one.
        #[serde(rename = "left_seconds")]
        left: Option<u64>,
        /// Whether it is disabled, so that it keeps nobody out.
        #[serde(default)]
        disabled: bool,
    },
    /// The router is away, or its list has not been read yet.
    Unknown,
}

/// A question to a worker about its mirror.
#[derive(Debug)]
pub(super) struct Question {
    pub prefix: IpNet,
    pub answer: oneshot::Sender<Holding>,
}
