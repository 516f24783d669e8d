//! How many entries of ours a router may hold, and what gives way where it holds as many.

use ipnet::IpNet;

use super::Pipeline;
use crate::desired::Moment;
use crate::prefixes::Family;

impl Pipeline {
    /// Forgets lapsed entries, and looks whether there is room for what was left out.
    pub fn sweep(&mut self, now: Moment) {
        self.actual.sweep(now);
        self.made_room = false;
        self.fresh.extend(self.no_room.drain(..));
        let free = self.view.limit().unwrap_or(0).saturating_sub(self.actual.ours() + self.adding);
        if self.view.is_bordered() && free > 2 * self.view.margin() && !self.has_next() {
            self.redraw();
        }
    }

    /// Sets how many entries of ours the router may hold.
    pub fn set_limit(&mut self, limit: Option<usize>) {
        if limit != self.view.limit() {
            self.view.set_limit(limit);
            self.queue_known();
        }
    }

    /// Whether the router holds as many entries of ours as it may.
    pub(super) fn is_full(&self) -> bool {
        self.view.limit().is_some_and(|limit| self.actual.ours() + self.adding >= limit)
    }

    /// A ban finds the router full: what is worth least goes, or this ban is left out.
    pub(super) fn make_room(&mut self, prefix: IpNet, now: Moment) {
        self.actual.sweep(now);
        if !self.is_full() {
            self.fresh.push_back(prefix);
            return;
        }
        if !self.made_room {
            self.made_room = true;
            self.view.settle();
            let mut surplus = self.actual.perhaps_ours(Family::V4);
            surplus.append(&mut self.actual.perhaps_ours(Family::V6));
            self.view.keep_unwanted(&mut surplus);
            self.fresh.extend(surplus);
        }
        if self.view.until(prefix).is_some() {
            self.no_room.push_back(prefix);
        }
    }

    fn redraw(&mut self) {
        self.view.settle();
        self.queue_known();
    }
}
