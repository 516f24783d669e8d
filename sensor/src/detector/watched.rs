//! A jail, what feeds it, and whom it does not count.

use atalaya_wire::Networks;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::clocks::Clocks;
use super::ignored::Spared;
use super::silence::Silence;
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
    pub(super) silence: Silence,
    /// Of the sources whose dates are off.
    pub(super) clocks: Clocks,
    /// What is to be looked up again and again.
    pub(super) lookups: IgnoreList,
}

// === impl Watched ===

impl Watched {
    /// A jail, which goes on where the one before it stood.
    pub(super) fn new(config: JailConfig, before: Option<Self>) -> Self {
        let JailConfig { policy, source, ports, zone, ignore, ignorecommand, ignore_self } = config;
        let silence = before.as_ref().map(|before| before.silence.clone()).unwrap_or_default();
        let (mut jail, looked_up, added, clocks) = match before {
            // What names stood for holds until they are looked up again.
            Some(before) => (before.jail, before.spared.looked_up, before.spared.added, before.clocks),
            None => (Jail::new(policy.clone()), Networks::default(), Networks::default(), Clocks::default()),
        };
        jail.set_policy(policy);
        let spared = Spared { looked_up, added, own: ignore_self, command: ignorecommand };
        Self { jail, source, ports, zone, spared, silence, clocks, lookups: ignore }
    }

    /// What keeps it from seeing, or from sparing, what it is set to: of this host, and now.
    pub(super) fn troubles(&self, now: Timestamp) -> Vec<String> {
        let mut troubles = self.source.troubles();
        troubles.extend(self.lookups.troubles());
        troubles.extend(self.clocks.troubles());
        // What the kernel counts is told at the limit alone.
        troubles.extend(self.silence.told_at(now).filter(|_| !self.source.is_counted_by_kernel()));
        troubles
    }
}
