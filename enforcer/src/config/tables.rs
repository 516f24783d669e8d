//! What decides beside the sensors' jails: `allow`, `[widen]`, `[escalation]`, `[fleet.NAME]`, `[protect]` and
//! `[history]`. What each means is with the room that it sets.

use std::ops::Range;

use atalaya_program::config_file::ConfigError;
use atalaya_wire::{BanTime, Escalation, EscalationTable, Name, Networks, Seconds, reserved};
use serde::Deserialize;
use toml::Spanned;

use crate::bans::allow::{AllowConfig, What};
use crate::bans::protect::{ProtectConfig, private};
use crate::bans::widen::WidenConfig;
use crate::intake::fleet::FleetConfig;
use crate::ledger::HistoryConfig;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWiden {
    ipv4: Option<Spanned<usize>>,
    ipv6: Option<Spanned<usize>>,
    ipv6_prefix: Option<Spanned<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFleet {
    #[serde(default)]
    jails: Vec<Name>,
    maxretry: Option<Spanned<u32>>,
    findtime: Option<Spanned<Seconds>>,
    bantime: Option<BanTime>,
    sensors: Option<Spanned<usize>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProtect {
    within: Option<Seconds>,
    networks: Option<Spanned<Vec<String>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHistory {
    keep: Option<Seconds>,
    max_megabytes: Option<Spanned<u64>>,
}

/// The `allow` list of the file.
pub(super) fn check_allow(
    raw: Vec<Spanned<String>>,
    at: &impl Fn(Range<usize>, String) -> ConfigError,
) -> Result<AllowConfig, ConfigError> {
    let mut config = AllowConfig::default();
    for entry in raw {
        match What::parse(entry.get_ref()) {
            Ok(What::Network(network)) => config.networks.insert(network),
            Ok(What::Name(name)) => config.names.push(name),
            Err(error) => return Err(at(entry.span(), error.to_string())),
        }
    }
    Ok(config)
}

// === impl RawWiden ===

impl RawWiden {
    pub(super) fn check(
        self,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<WidenConfig, ConfigError> {
        let standard = WidenConfig::default();
        let threshold = |value: Option<Spanned<usize>>, standard: Option<usize>, most: usize| match value {
            None => Ok(standard),
            Some(value) if *value.get_ref() == 0 => Ok(None),
            Some(value) if (2..=most).contains(value.get_ref()) => Ok(Some(value.into_inner())),
            Some(value) => {
                let found = value.get_ref();
                Err(at(value.span(), format!("{found}; expected 2 to {most}, or 0 for never")))
            }
        };
        let ipv6_prefix = match self.ipv6_prefix {
            None => standard.ipv6_prefix,
            Some(value) if (48..=128).contains(value.get_ref()) => value.into_inner(),
            Some(value) => {
                return Err(at(
                    value.span(),
                    format!("ipv6_prefix is {}; expected 48 to 128", value.get_ref()),
                ));
            }
        };
        Ok(WidenConfig {
            ipv4: threshold(self.ipv4, standard.ipv4, 256)?,
            ipv6: threshold(self.ipv6, standard.ipv6, 65_536)?,
            ipv6_prefix,
        })
    }
}

pub(super) fn check_escalation(
    raw: Spanned<EscalationTable>,
    at: &impl Fn(Range<usize>, String) -> ConfigError,
) -> Result<Escalation, ConfigError> {
    let span = raw.span();
    raw.into_inner().try_into().map_err(|error| at(span, format!("escalation: {error}")))
}

// === impl RawFleet ===

impl RawFleet {
    pub(super) fn check(
        self,
        name: Name,
        span: Range<usize>,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<FleetConfig, ConfigError> {
        // Its bans would pass for those of another.
        if let Some(meaning) = reserved::meaning(&name) {
            let message = format!("fleet.{name}: the name `{name}` is reserved: {meaning}; choose another");
            return Err(at(span, message));
        }
        if self.jails.contains(&name) {
            let message =
                format!("fleet.{name}: the name is taken by a sensor's jail that it counts; choose another");
            return Err(at(span, message));
        }
        let maxretry = match self.maxretry {
            None => 10,
            Some(value) if (1..=100_000).contains(value.get_ref()) => value.into_inner(),
            Some(value) => return Err(at(value.span(), "maxretry: expected 1 to 100000".to_owned())),
        };
        let findtime = match self.findtime {
            None => Seconds(600),
            Some(value) if (1..=86_400 * 7).contains(&value.get_ref().0) => value.into_inner(),
            Some(value) => return Err(at(value.span(), "findtime: expected 1s to 7d".to_owned())),
        };
        let sensors = match self.sensors {
            None => 1,
            Some(value) if (1..=1000).contains(value.get_ref()) => value.into_inner(),
            Some(value) => return Err(at(value.span(), "sensors: expected 1 to 1000".to_owned())),
        };
        let bantime = self.bantime.unwrap_or(BanTime::For(Seconds(3600)));
        Ok(FleetConfig { name, jails: self.jails, maxretry, findtime, bantime, sensors })
    }
}

impl RawProtect {
    pub(super) fn check(
        self,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<ProtectConfig, ConfigError> {
        let standard = ProtectConfig::default();
        let within = self.within.map_or(standard.within, |within| Some(within).filter(|within| within.0 > 0));
        let Some(given) = self.networks else { return Ok(ProtectConfig { within, ..standard }) };
        let mut networks = Networks::default();
        for text in given.get_ref() {
            match text.trim() {
                "private" => networks.extend(private().iter()),
                "all" => networks.extend(["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse().ok())),
                text => match Networks::try_from(vec![text.to_owned()]) {
                    Ok(network) => networks.extend(network.iter()),
                    Err(error) => {
                        return Err(at(given.span(), format!("{error}; or `private`, or `all`")));
                    }
                },
            }
        }
        Ok(ProtectConfig { within, networks })
    }
}

impl RawHistory {
    pub(super) fn check(
        self,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<HistoryConfig, ConfigError> {
        let standard = HistoryConfig::default();
        let max_size = match self.max_megabytes {
            None => standard.max_size,
            Some(value) if (10..=1_000_000).contains(value.get_ref()) => value.into_inner() * 1_000_000,
            Some(value) => return Err(at(value.span(), "max_megabytes: expected 10 to 1000000".to_owned())),
        };
        Ok(HistoryConfig { keep: self.keep.unwrap_or(standard.keep), max_size })
    }
}
