//! A simulator of the RouterOS API and its firewall address lists, for tests, demos and benchmarks.
//!
//! It speaks the binary API as MikroTik's routers do, with their texts, their normalisation and their
//! oddities, on a clock that tests can move, with costs that a test can set and faults that it can plan.
//! What it models, and where that is known from, is in `facts/ROUTEROS.md`; it is no router: nothing is
//! filtered, and figures measured against it say nothing about a real one.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use routeros_sim::{Family, Router};
//! use std::time::Duration;
//!
//! let router = Router::builder().user("u").password("p").round_trip(Duration::from_millis(33)).start().await?;
//! // … point a client at router.address() …
//! router.wait_for(|entries| entries.len() == 1, Duration::from_secs(5)).await?;
//! router.clock().advance(Duration::from_secs(1800));
//! assert!(router.entries(Family::V4).is_empty());
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod address;
mod address_list;
mod board;
mod builder;
mod clock;
mod command;
mod console;
mod cost;
mod event;
mod fault;
mod journal;
mod page;
mod query;
mod reply;
mod router;
pub mod sentence;
mod session;
mod shared;
mod site;
mod state;
mod terminal;
mod timeout;
mod tls;
mod user;
mod version;

pub use address::Family;
pub use board::Model;
pub use builder::{ApiSsl, Builder};
pub use clock::Clock;
pub use cost::Costs;
pub use event::{Event, EventEntry, EventKind};
pub use fault::Fault;
pub use journal::{CommandRecord, Counts, Outcome};
pub use router::{Entry, Refused, Router, StartError, TimedOut};
pub use terminal::TerminalError;
pub use timeout::{MAX_TIMEOUT, Timeout};
pub use tls::TlsError;
pub use user::PolicyError;
pub use version::VersionError;
