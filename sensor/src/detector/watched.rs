//! A jail, what feeds it, and whom it does not count.

use atalaya_wire::Networks;
use jiff::tz::TimeZone;

use super::ignored::Spared;
use crate::jail::Jail;
use crate::jail::ignore::IgnoreList;
use crate::jail::settings::JailConfig;
use crate::jail::source::JailSource;

/// A jail, and what feeds it.
pub(super) struct Watched {
    pub(super) jail: Jail,
    pub(super) source: JailSource,
    /// The ports that it guards, or that its service has.
    pub(super) ports: Vec<u16>,
    pub(super) zone: Option<TimeZone>,
    pub(super) spared: Spared,
    /// What is to be looked up again and again.
    pub(super) lookups: IgnoreList,
}

// === impl Watched ===

impl Watched {
    /// A jail, which goes on where the one before it stood.
    pub(super) fn new(config: JailConfig, before: Option<Self>) -> Self {
        let JailConfig { policy, source, ports, zone, ignore, ignorecommand, ignore_self } = config;
        let (mut jail, looked_up, added) = match before {
            // What names stood for holds until they are looked up again.
            Some(before) => (before.jail, before.spared.looked_up, before.spared.added),
            None => (Jail::new(policy.clone()), Networks::default(), Networks::default()),
        };
        jail.set_policy(policy);
        let spared = Spared { looked_up, added, own: ignore_self, command: ignorecommand };
        Self { jail, source, ports, zone, spared, lookups: ignore }
    }
}
