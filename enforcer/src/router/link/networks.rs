//! A worker asks its router for the networks that it is connected to.

use super::{Errand, Link};
use crate::router::networks::{NetworkPage, NetworksReading};

/// After how many sessions that fell silent over it no routes are asked for any more.
const SILENT_ROUTES: u32 = 2;

impl Link<'_> {
    /// One page after the other, so that bans wait for none of them.
    pub(super) fn ask_for_networks(&mut self, page: NetworkPage) {
        if page == NetworkPage::FIRST {
            self.networks = NetworksReading::default();
        }
        let (path, properties) = page.print();
        self.networks_asked = Some(page);
        self.ask(path, Errand::Networks(page), |command| {
            let command = command.attribute(".proplist", Some(properties));
            match page.destination() {
                Some(destination) => command.query_equal("dst-address", destination),
                None => command,
            }
        });
    }

    /// Whether the router looks through its routes, of which it may have a million.
    pub(super) fn is_scanning_routes(&self) -> bool {
        self.networks_asked.is_some_and(|page| page.destination().is_some())
    }

    /// Asks for the next page, or shows what they come to. A page that the router refuses (it has no IPv6, or lets the user
    /// read less) is as one without rows.
    pub(super) fn networks_end(&mut self, page: NetworkPage) {
        let next = page.next(self.workplace.config.ipv6);
        // Some routers have too many routes to find one in time: they lose the look, not their bans.
        let skips = self.workplace.silent_routes >= SILENT_ROUTES;
        match next.filter(|next| next.destination().is_none() || !skips) {
            Some(next) => self.ask_for_networks(next),
            None => {
                if next.is_none() {
                    self.workplace.silent_routes = 0;
                }
                self.networks_asked = None;
                let networks = self.networks.networks();
                self.workplace.status.send_modify(|status| status.networks = networks);
            }
        }
    }
}
