//! What a jail is set to, whichever file says it: `sensor.toml`, or fail2ban's.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::Policy;
use super::ignore::{IgnoreCommand, IgnoreList};
use super::source::JailSource;

/// A jail that is to run, from whichever file, with every default filled in.
#[derive(Debug)]
pub struct JailConfig {
    /// What it counts and when it decides.
    pub policy: Policy,
    /// What it reads, with the filter that takes failures from it.
    pub source: JailSource,
    /// The TCP ports that it guards, or that its service has.
    pub ports: Vec<u16>,
    /// The zone of dates that state none; the system's where there is none.
    pub zone: Option<TimeZone>,
    /// Whom it spares besides the networks of its policy: names and files, to be looked up.
    pub ignore: IgnoreList,
    /// Asked about an address before it is reported.
    pub ignorecommand: Option<Arc<IgnoreCommand>>,
    /// Whether the host's own addresses are spared.
    pub ignore_self: bool,
}
