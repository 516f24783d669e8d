//! What a router tells of itself: its load, its uptime, its memory, its serial number.

use std::time::Duration;

use tokio::time::Instant;

use super::{BOOT_TOLERANCE, Link, SWALLOWED_INTERVAL, Timers};
use crate::desired::ListPlace;
use crate::prefixes::Family;
use crate::router::address_list::parse_timeout;
use crate::router::sentence::Row;
use crate::router::session::SessionError;
use crate::router::view::entries_by_memory;

impl Link<'_> {
    /// When to ask for the router's resources next: now and then, and where the last add, set or remove is not answered,
    /// for the answer tells whether the router lives.
    pub(super) fn resource_due(&self) -> Instant {
        let Timers { resource, order_sent, order_answered, .. } = self.timers;
        let waits = self.pipeline.in_flight() > 0 && !self.timers.resource_asked;
        if !waits || self.pipeline.printing().is_some() {
            return resource;
        }
        let keepalive = self.workplace.config.deadlines.keepalive;
        let asked = resource.checked_sub(keepalive).unwrap_or(resource);
        resource.min(order_sent.max(order_answered).max(asked) + SWALLOWED_INTERVAL)
    }

    /// Takes the router's lists for this section of the configuration, unless another has them. Only boards of MikroTik's
    /// own say who they are; a machine that is a copy of another would pass for it by anything else.
    pub(super) fn claim(&mut self, row: &Row) -> Result<(), SessionError> {
        let config = &self.workplace.config;
        let Some(serial) = row.shown("serial-number").filter(|serial| !serial.is_empty()) else {
            return Ok(());
        };
        if config.read_only {
            return Ok(());
        }
        let families =
            [Family::V4, Family::V6].into_iter().filter(|family| *family == Family::V4 || config.ipv6);
        let places: Vec<ListPlace> =
            families.map(|family| (serial.clone(), family, config.list(family).to_owned())).collect();
        let claimed = self.workplace.desired.claim(&places, &config.name);
        claimed.map_err(|(other, (serial, _, list))| SessionError::SameRouter { other, serial, list })
    }

    pub(super) fn note_resource(&mut self, row: &Row) {
        let load: Option<u8> = row.text("cpu-load").and_then(|load| load.parse().ok());
        self.workplace.status.send_modify(|status| {
            status.version = row.shown("version");
            status.uptime = row.shown("uptime");
            status.cpu_load = load;
        });
        if let Some(load) = load {
            self.workplace.pace.loaded(load, Instant::now());
        }
        if let Some(uptime) = row.text("uptime").and_then(parse_timeout) {
            self.note_uptime(Duration::from_secs(uptime));
        }
        let memory: Option<u64> = row.text("total-memory").and_then(|bytes| bytes.parse().ok());
        self.workplace.memory_limit = memory.map(entries_by_memory).or(self.workplace.memory_limit);
        self.pipeline.set_limit(self.workplace.config.max_entries.or(self.workplace.memory_limit));
    }

    /// A router that booted lately has lost its list, also where the session seems to have survived.
    fn note_uptime(&mut self, uptime: Duration) {
        let booted = Instant::now().checked_sub(uptime);
        let later = match (self.workplace.booted, booted) {
            (Some(before), Some(booted)) => booted > before + BOOT_TOLERANCE,
            _ => false,
        };
        if later {
            tracing::warn!(router = %self.workplace.config.name, ?uptime, "the router has rebooted");
            self.workplace.status.send_modify(|status| status.reboots += 1);
            if booted > Some(self.began) {
                self.pipeline.reconcile_all();
                self.timers.look = Instant::now();
            }
        }
        self.workplace.booted = booted.or(self.workplace.booted);
    }
}
