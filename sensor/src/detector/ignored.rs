//! Whom the jails do not count.

use std::net::IpAddr;
use std::sync::Arc;

use atalaya_wire::{Nat64, Networks};

use crate::jail::ignore::IgnoreCommand;

/// What no jail counts.
#[derive(Clone, Debug, Default)]
pub struct Ignored {
    /// `ignore` of the settings, for all jails; a reload replaces it.
    pub configured: Networks,
    /// The host's own addresses.
    pub own: Networks,
    /// The enforcer's allow list.
    pub enforcer: Networks,
    /// Behind which prefixes hosts are that are meant by their IPv4 addresses; the lists may have either form.
    pub nat64: Nat64,
}

/// Whom one jail spares, besides what all do and its policy says.
#[derive(Default)]
pub(super) struct Spared {
    /// What names and files stand for now.
    pub(super) looked_up: Networks,
    /// Added by `atalaya-sensor ignore`, and forgotten when the sensor ends.
    pub(super) added: Networks,
    /// The host's own addresses.
    pub(super) own: bool,
    /// Asked before an address is reported.
    pub(super) command: Option<Arc<IgnoreCommand>>,
}

// === impl Ignored ===

impl Ignored {
    /// Whether a jail may not count this address: configured, the host's own, on the enforcer's list,
    /// spared by the jail, or not an address of another host at all.
    pub(super) fn contains(&self, address: IpAddr, spared: &Spared) -> bool {
        let address = self.nat64.client(address);
        address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || self.nat64.forms(address).any(|form| {
                self.configured.contains(form)
                    || spared.own && self.own.contains(form)
                    || spared.looked_up.contains(form)
                    || spared.added.contains(form)
                    || self.enforcer.contains(form)
            })
    }
}
