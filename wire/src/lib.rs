//! What Atalaya's sensor and enforcer say to each other: types and version, nothing else.
//!
//! A sensor posts [`Batch`]es as JSON over HTTPS to [`OFFENCES_PATH`], with HTTP Basic
//! authentication (sensor name, secret), and gets an [`Ack`] with a [`Ruling`] on each offence, or a
//! [`Problem`]. It reads the shared [`AllowList`] from [`ALLOW_PATH`], lifts bans of its own at [`UNBAN_PATH`],
//! and tells of every failure that its jails count and of successful logins at [`REPORTS_PATH`]. It follows the
//! fleet's bans at [`BANS_PATH`], as [`BanLine`]s. A shell script with curl can do the same.

#![forbid(unsafe_code)]

mod allow;
mod bans;
mod batch;
mod escalation;
mod name;
mod nat64;
mod problem;
mod report;
pub mod reserved;
mod ruling;
mod time;
mod token;

pub use allow::{AllowList, NetworkError, Networks, canonical, canonical_network};
pub use bans::{BanLine, Begin, Follow, Left, Position};
pub use batch::{Ack, Batch, Evidence, NumberedOffence, Offence, RefusedOffence, Unban};
pub use escalation::{Escalation, EscalationError, EscalationTable};
pub use name::{Name, NameError};
pub use nat64::{Nat64, Nat64Error};
pub use problem::{Problem, ProblemCode};
pub use report::{Failures, Login, Report};
pub use ruling::{Grounds, NumberedRuling, Ruling};
pub use time::{BanTime, Seconds, TimeError};
pub use token::{AnyToken, Fingerprint, FirstJoin, JoinToken, Secret, TokenError};

/// The version of this protocol. A batch of another version is refused with
/// [`ProblemCode::UnknownVersion`].
pub const VERSION: u32 = 1;

/// Where a sensor sets its secret: `POST` of a [`FirstJoin`], with HTTP Basic authentication by its name and the secret of a
/// token that is good for one join. The same may be sent again, for its answer may be lost.
pub const JOIN_PATH: &str = "/v1/join";

/// Where such a token gets the sensor's package too: `GET`, followed by `/` and Debian's name of the processor.
pub const PACKAGE_PATH: &str = "/v1/package";

/// Where a sensor posts its batches.
pub const OFFENCES_PATH: &str = "/v1/offences";

/// Where a sensor reads the allow list.
pub const ALLOW_PATH: &str = "/v1/allow";

/// Where a sensor posts an [`Unban`]. The answer has no body; a ban that another sensor asked for is not
/// found.
pub const UNBAN_PATH: &str = "/v1/unban";

/// Where a sensor posts a [`Report`]. The answer has no body.
pub const REPORTS_PATH: &str = "/v1/reports";

/// Where a sensor follows the bans: a GET whose query is a [`Follow`], and whose answer goes on, one [`BanLine`] a
/// line, until one side ends it.
pub const BANS_PATH: &str = "/v1/bans";

/// How often at least a line comes over the stream of bans, in seconds. A follower that gets nothing for three
/// times as long takes the connection for cut.
pub const HEARTBEAT_SECONDS: u64 = 15;

/// The longest line of the stream of bans, in bytes, its end included; a follower refuses longer ones.
pub const MAX_BAN_LINE: usize = 512;

/// The most failures, and the most logins, in one [`Report`]; the enforcer refuses more.
pub const MAX_REPORT: usize = 10_000;

/// The most offences in one [`Batch`]; the enforcer refuses more.
pub const MAX_BATCH: usize = 1000;

/// The largest body of one batch in bytes; the enforcer refuses more.
pub const MAX_BODY: usize = 4 * 1024 * 1024;
