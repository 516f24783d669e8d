//! A simulator of the RouterOS API and its firewall address lists, for tests, demos and benchmarks.
//!
//! It speaks the API as `mikrotik.com`'s manual and its clients' authors tell, keeps both address-list
//! tables on a clock that tests can move, takes as long as a real router was measured to take, and
//! fails on demand. It is written without any client library, so that it checks them.
//!
//! It is **not** RouterOS: every figure taken from it says so.

mod address;
mod clock;
mod command;
mod event;
mod fault;
mod query;
mod router;
mod sentence;
mod session;
mod table;
mod timeout;

pub use address::Family;
pub use clock::Clock;
pub use event::{Event, What};
pub use fault::Fault;
pub use router::{Builder, Counts, Router, StartError, TimedOut};
pub use table::Entry;
pub use timeout::{MAX_TIMEOUT, Timeout};
