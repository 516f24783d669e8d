//! What a session shows of itself and its router, in the router's status.

use super::{Link, ListReading, MissingBans, Rivals, Table};
use crate::router::enforcement::Enforcement;

impl Link<'_> {
    pub(super) fn publish(&self) {
        let pipeline = &self.pipeline;
        let [ipv4, ipv6] = pipeline.tables();
        let reading = pipeline.printing().map(|family| ListReading {
            family,
            since: self.reading_since,
            rows: pipeline.rows(),
            before: self.workplace.rows[family.index()],
        });
        let missing = self.workplace.audit.late().map(|(count, example, since)| MissingBans {
            count,
            example,
            since: self.workplace.clock.now() - since.elapsed(),
            why: pipeline.why_missing(example, self.workplace.now()),
        });
        self.workplace.status.send_modify(|status| {
            status.reading = reading;
            status.missing = missing;
            status.ipv4 = ipv4;
            status.ipv6 = ipv6;
            if matches!(ipv6, Table::Off | Table::Missing) {
                status.ipv6_rule = Enforcement::Off;
            }
            status.ours = pipeline.actual().ours();
            status.foreign = pipeline.actual().others();
            status.queued = pipeline.queued();
            status.in_flight = pipeline.in_flight();
            status.counts = pipeline.counts();
            status.latency_us = self.latency.map(|latency| latency.as_micros() as u64);
            status.round_trip_us = self.workplace.pace.round_trip().map(|trip| trip.as_micros() as u64);
            status.window = self.workplace.pace.window();
            status.most_a_second = self.workplace.pace.most_a_second().map(f64::round);
            status.limit = pipeline.view().limit();
            status.left_out = pipeline.view().left_out();
            status.withheld = self.withheld.len();
        });
    }

    /// Shows, and logs when it is new, that another enforcer is at this router's lists.
    pub(super) fn note_rivals(&mut self) {
        let before = self.workplace.rivals.as_ref().map(|rivals| rivals.since);
        let seen =
            Rivals::seen(&self.pipeline, &self.marks, before.unwrap_or_else(|| self.workplace.clock.now()));
        if seen.is_none() && !self.pipeline.is_known() {
            // The other list may have them still.
            return;
        }
        if let Some(Rivals { ours, others, .. }) = seen.as_ref().filter(|_| before.is_none()) {
            tracing::warn!(
                router = %self.workplace.config.name, ours, ?others,
                "another enforcer keeps its bans on the same list under the same mark; its entries are left alone"
            );
        }
        self.workplace.status.send_modify(|status| status.rivals.clone_from(&seen));
        self.workplace.rivals = seen;
    }
}
