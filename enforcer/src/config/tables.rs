//! What decides beside the sensors' jails: `[severity]`, `[widen]`, `[escalation]`, `[fleet.NAME]`,
//! `[protect]` and `[history]`.

use std::ops::Range;

use atalaya_wire::{BanTime, Escalation, Name, Networks, Seconds};
use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use crate::bans::BY_HAND;
use crate::bans::names::Lookups;
use crate::intake::fleet;

/// The networks that no one outside an organisation has: RFC 1918, RFC 6598, RFC 4193.
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

/// What is never banned, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowConfig {
    /// Addresses and networks.
    pub networks: Networks,
    /// DNS names, whose addresses are looked up again when their time to live is over.
    pub names: Vec<String>,
    /// How they are looked up; no part of the file.
    pub lookups: Lookups,
}

/// The `[widen]` table: when many bans become one of the network around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WidenConfig {
    /// So many banned addresses of one IPv4 /24 ban the /24; `None` for never.
    pub ipv4: Option<usize>,
    /// So many banned prefixes of one IPv6 /48 ban the /48; `None` for never.
    pub ipv6: Option<usize>,
    /// What the ban of one IPv6 address covers, and what failures and strikes are counted by: 48 to 128.
    pub ipv6_prefix: u8,
}

/// A `[fleet.NAME]` table: a jail of the enforcer's own, over what all sensors report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetConfig {
    /// The name, which its bans carry as their jail.
    pub name: Name,
    /// The sensors' jails whose failures count; all of them where none is named.
    pub jails: Vec<Name>,
    /// So many failures ban.
    pub maxretry: u32,
    /// Within which time.
    pub findtime: Seconds,
    /// For how long.
    pub bantime: BanTime,
    /// On so many different sensors at least.
    pub sensors: usize,
}

/// The `[protect]` table: who is not banned without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectConfig {
    /// For how long after a good login on any sensor; `None` where nobody is protected.
    pub within: Option<Seconds>,
    /// Only addresses of these networks.
    pub networks: Networks,
}

/// The `[history]` table: how much of what is over the ledger keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    /// For how long after its end a ban is kept.
    pub keep: Seconds,
    /// How large the ledger may grow before the oldest of them go sooner, in bytes.
    pub max_size: u64,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWiden {
    ipv4: Option<Spanned<usize>>,
    ipv6: Option<Spanned<usize>>,
    ipv6_prefix: Option<Spanned<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEscalation {
    multipliers: Option<Spanned<Vec<f64>>>,
    max: Option<Seconds>,
    random: Option<Seconds>,
    #[serde(default)]
    overall: bool,
    decay: Option<Seconds>,
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

// === impl AllowConfig ===

impl AllowConfig {
    pub(super) fn check(
        raw: Vec<Spanned<String>>,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for entry in raw {
            let text = entry.get_ref().trim();
            match Networks::try_from(vec![text.to_owned()]) {
                Ok(network) => config.networks.extend(network.iter()),
                Err(_) if is_host_name(text) => {
                    config.names.push(text.trim_end_matches('.').to_ascii_lowercase());
                }
                Err(_) => {
                    let text = text.escape_debug();
                    return Err(at(
                        entry.span(),
                        format!(
                            "`{text}` is no address, no network and no host name; expected such as `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32` or `admin.example.org`"
                        ),
                    ));
                }
            }
        }
        Ok(config)
    }
}

/// Whether this is a DNS name with at least two labels, the last of which is no number.
pub fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let labels: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    let last = labels.last().copied().unwrap_or_default();
    text.len() <= 253
        && labels.len() >= 2
        && labels.iter().all(|part| label(part))
        && !last.bytes().all(|b| b.is_ascii_digit() || b == b'-')
}

// === impl WidenConfig ===

impl Default for WidenConfig {
    fn default() -> Self {
        Self { ipv4: Some(32), ipv6: None, ipv6_prefix: 64 }
    }
}

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

// === impl RawEscalation ===

impl RawEscalation {
    pub(super) fn check(
        self,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<Escalation, ConfigError> {
        let most = Escalation::MOST_STEPS;
        let thousandths = match self.multipliers {
            // Doubling, as fail2ban does.
            None => (0..=20).map(|count| 1000 << count).collect(),
            Some(given) => {
                let good = (1..=most).contains(&given.get_ref().len())
                    && given.get_ref().iter().all(|number| (0.001..=1e12).contains(number));
                if !good {
                    return Err(at(
                        given.span(),
                        format!("expected 1 to {most} multipliers from 0.001 to 1e12"),
                    ));
                }
                given.into_inner().iter().map(|number| (number * 1000.0).round() as u64).collect()
            }
        };
        Ok(Escalation {
            thousandths,
            max: self.max,
            random: self.random,
            overall: self.overall,
            decay: self.decay,
        })
    }
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
        let taken = [BY_HAND, fleet::SENSOR].contains(&name.as_str()) || self.jails.contains(&name);
        if taken {
            let message =
                format!("fleet.{name}: the name is taken: choose one that is no jail of a sensor's");
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

// === impl ProtectConfig ===

impl Default for ProtectConfig {
    fn default() -> Self {
        Self { within: Some(Seconds(7 * 86_400)), networks: private() }
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

fn private() -> Networks {
    PRIVATE.iter().filter_map(|network| network.parse::<IpNet>().ok()).collect()
}

// === impl HistoryConfig ===

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { keep: Seconds(365 * 86_400), max_size: 4_000_000_000 }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_told_from_a_mistyped_address() {
        for name in ["admin.example.org", "a-b.example.org.", "vpn.example.xn--p1ai"] {
            assert!(is_host_name(name), "{name}");
        }
        for other in ["10.0.0.1-9", "300.1.2.3", "10.0.0", "example", "a..b", "", "-a.example", "a b.example"]
        {
            assert!(!is_host_name(other), "{other}");
        }
    }
}
