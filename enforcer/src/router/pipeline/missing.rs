//! What a router should hold and does not, as far as it is known, and why.

use std::collections::HashSet;

use ipnet::IpNet;

use super::{Pipeline, Table};
use crate::desired::Moment;
use crate::prefixes::Family;
use crate::router::actual::Owner;
use atalaya_program::count::counted;

/// A ban with less than this left, in milliseconds, is not looked for: it may be over before it is there.
const ENDING: i64 = 2000;

impl Pipeline {
    /// Tells of the next bans after one those that the router does not hold, of at most so many that it looks at;
    /// after which it ended, or `None` at the end of all. Of a list that was not read yet, those are told that
    /// were sent, or wait for it.
    pub fn missing_after(
        &self,
        after: Option<IpNet>,
        most: usize,
        now: Moment,
        tell: &mut dyn FnMut(IpNet),
    ) -> Option<IpNet> {
        let unread = |prefix| self.tables[Family::of(prefix).index()] == Table::Unknown;
        let sent: HashSet<IpNet> = if self.tables.contains(&Table::Unknown) {
            let waiting = self.fresh.iter().chain(&self.backlog);
            waiting.chain(self.busy.keys()).chain(&self.failed).copied().collect()
        } else {
            HashSet::new()
        };
        self.view.each_after(after, most, |prefix, until| {
            let asked = !unread(prefix) || sent.contains(&prefix);
            let holds = || self.actual.get(prefix).is_some_and(|held| held.works(now));
            if until.milliseconds_after(now) > ENDING && asked && !holds() {
                tell(prefix);
            }
        })
    }

    /// Why the router does not hold a ban, for people.
    pub fn why_missing(&self, prefix: IpNet, now: Moment) -> String {
        let held = self.actual.get(prefix).filter(|held| !held.lapsed(now));
        if self.failed.contains(&prefix) {
            return "the router refuses it".to_owned();
        }
        match held {
            Some(held) if held.disabled && held.owner == Owner::Foreign => {
                return "an entry that is not ours and is disabled stands in its place, and the router takes no other beside it".to_owned();
            }
            Some(held) if held.disabled => return "its entry is disabled, and is being replaced".to_owned(),
            Some(held) if held.works(now) => return "it is there by now".to_owned(),
            _ => {}
        }
        if self.busy.contains_key(&prefix) {
            return "the router has not answered the command yet".to_owned();
        }
        match self.queued() {
            0 => "nothing is known of why".to_owned(),
            queued => format!("{} wait for the router", counted(queued, "command")),
        }
    }
}
