//! `local_drop`: whether banned addresses are dropped on this host too, and how.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use atalaya_sensor_ebpf::local_drop::BANS;
use atalaya_wire::{Networks, Seconds};
use ipnet::IpNet;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Config;
use crate::channel::local_drop::Settings;
use crate::pinned::Mode;

/// The most that can be asked for.
const MOST_ENTRIES: u32 = 4_194_304;
/// Long enough for an enforcer that is started anew, and short enough for whom it protects.
const UNANSWERED: Seconds = Seconds(300);
/// `IFNAMSIZ` of linux/if.h, with the final NUL.
const LONGEST_NAME: usize = 16;

/// The table, or what `true` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDropConfig {
    /// The interfaces, the mode, and how many bans at most: what the loader is told.
    pub settings: Settings,
    /// Whether the enforcer's bans of the whole fleet are dropped too.
    pub fleet: bool,
    /// For how long an offence of this host's own is dropped before the enforcer has said that it is banned; 0 for not
    /// before it has. Without an enforcer it is dropped for its whole time.
    pub unanswered: Seconds,
    /// Whether the configuration may run although it spares not even the client of the ssh session in which
    /// it is started.
    pub even_my_session: bool,
}

/// `local_drop` as it is written: `true`, `false`, or a table.
#[derive(Debug, Default)]
pub(super) struct RawLocalDrop(pub Option<LocalDropConfig>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawTable {
    enabled: bool,
    interfaces: Option<Vec<String>>,
    max_entries: u32,
    mode: Mode,
    fleet: bool,
    unanswered: Seconds,
    even_my_session: bool,
}

// === impl LocalDropConfig ===

impl Default for LocalDropConfig {
    fn default() -> Self {
        let settings = Settings { interfaces: None, max_entries: BANS, mode: Mode::Auto };
        Self { settings, fleet: true, unanswered: UNANSWERED, even_my_session: false }
    }
}

impl LocalDropConfig {
    /// The interfaces that it names and this host does not have now, in a sentence each.
    pub fn troubles(&self) -> Vec<String> {
        let named = self.settings.interfaces.iter().flatten();
        let absent = named.filter(|name| !Path::new("/sys/class/net").join(name).exists());
        absent
            .map(|name| format!("local_drop: there is no interface {name}; nothing is dropped there"))
            .collect()
    }
}

impl fmt::Display for LocalDropConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { interfaces, max_entries, mode } = &self.settings;
        match interfaces {
            Some(names) => write!(f, "on {}", names.join(", "))?,
            None => write!(f, "on every interface with a default route or a global address")?,
        }
        match mode {
            Mode::Auto => write!(f, ", in the driver where it can")?,
            Mode::Native => write!(f, ", in the driver alone")?,
            Mode::Generic => write!(f, ", after the driver")?,
        }
        let whose = if self.fleet { "bans of its own and of the fleet" } else { "bans of its own" };
        write!(
            f,
            "; {max_entries} {whose} at most, its own for {} until the enforcer confirms them",
            self.unanswered
        )
    }
}

impl Config {
    /// Refuses a configuration that could cut off the ssh session in which a command runs: all packets of a
    /// banned address are dropped, also those of connections that are open.
    pub fn check_session(&self, client: Option<IpAddr>) -> Result<(), String> {
        let (Some(drop), Some(client)) = (&self.local_drop, client) else { return Ok(()) };
        let spared = self.jails.iter().map(|jail| &jail.policy.ignore).chain([&self.allow]);
        if drop.even_my_session || spared.into_iter().any(|networks| networks.contains(client)) {
            return Ok(());
        }
        let mut with_client = Networks::default();
        with_client.extend(self.allow.iter().chain([IpNet::from(client)]));
        let list: Vec<String> =
            Vec::from(with_client).iter().map(|network| format!("\"{network}\"")).collect();
        Err(format!(
            "local_drop could cut off this very session, which comes from {client}: a few mistyped passwords from there, and this host drops all that it sends, open connections too. \
             Protect it with this line at the top of the configuration\n    allow = [{}]\nor, where you have another way in, say so with `even_my_session = true` in [local_drop]",
            list.join(", ")
        ))
    }
}

// === impl RawLocalDrop ===

impl<'de> Deserialize<'de> for RawLocalDrop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SwitchOrTable)
    }
}

struct SwitchOrTable;

// === impl SwitchOrTable ===

impl<'de> Visitor<'de> for SwitchOrTable {
    type Value = RawLocalDrop;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`true`, `false` or a table [local_drop]")
    }

    fn visit_bool<E>(self, on: bool) -> Result<RawLocalDrop, E> {
        Ok(RawLocalDrop(on.then(LocalDropConfig::default)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawLocalDrop, A::Error> {
        let table = RawTable::deserialize(MapAccessDeserializer::new(map))?;
        if !(1..=MOST_ENTRIES).contains(&table.max_entries) {
            return Err(A::Error::custom(format!("max_entries must be 1 to {MOST_ENTRIES}")));
        }
        if let Some(names) = &table.interfaces {
            if names.is_empty() {
                let right = "interfaces must name at least one, such as [\"eth0\"], or be left out";
                return Err(A::Error::custom(right));
            }
            let is_name =
                |name: &&String| (1..LONGEST_NAME).contains(&name.len()) && !name.contains(['/', ' ']);
            if let Some(wrong) = names.iter().find(|name| !is_name(name)) {
                return Err(A::Error::custom(format!("`{wrong}` is no name of an interface")));
            }
        }
        let RawTable { enabled, interfaces, max_entries, mode, fleet, unanswered, even_my_session } = table;
        let settings = Settings { interfaces, max_entries, mode };
        Ok(RawLocalDrop(enabled.then_some(LocalDropConfig { settings, fleet, unanswered, even_my_session })))
    }
}

// === impl RawTable ===

impl Default for RawTable {
    fn default() -> Self {
        let LocalDropConfig { settings, fleet, unanswered, even_my_session } = LocalDropConfig::default();
        let Settings { interfaces, max_entries, mode } = settings;
        Self { enabled: true, interfaces, max_entries, mode, fleet, unanswered, even_my_session }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("sensor.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_off_unless_it_is_said_and_true_stands_for_the_defaults() {
        for off in ["", "local_drop = false\n", "[local_drop]\nenabled = false\nmode = \"native\"\n"] {
            assert_eq!(parse(off).unwrap().local_drop, None, "{off}");
        }
        for on in ["local_drop = true\n", "[local_drop]\n"] {
            assert_eq!(parse(on).unwrap().local_drop, Some(LocalDropConfig::default()), "{on}");
        }
        let config = parse(
            "[local_drop]\ninterfaces = [\"eth0\"]\nmax_entries = 9\nmode = \"generic\"\nfleet = false\n",
        );
        let said = config.unwrap().to_string();
        let expected = "local drop: on eth0, after the driver; 9 bans of its own at most, its own for 5m until the enforcer confirms them";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn each_mistake_names_its_line_and_what_would_be_right() {
        for (text, place, says) in [
            ("local_drop = \"yes\"\n", "sensor.toml:1:14", "`true`, `false` or a table"),
            ("[local_drop]\nmode = \"fast\"\n", "sensor.toml:", "native"),
            ("[local_drop]\nmax_entries = 0\n", "sensor.toml:", "1 to 4194304"),
            ("[local_drop]\nunanswered = \"soon\"\n", "sensor.toml:", "10m"),
            ("[local_drop]\ninterfaces = []\n", "sensor.toml:", "at least one"),
            ("[local_drop]\ninterfaces = [\"a/b\"]\n", "sensor.toml:", "a/b"),
            ("[local_drop]\ninterface = [\"a\"]\n", "sensor.toml:", "interfaces"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(place), "{text:?} gave {error:?}, not at {place}");
            assert!(error.contains(says), "{text:?} gave {error:?}, without {says:?}");
        }
    }

    #[test]
    fn a_session_that_is_not_spared_refuses_the_configuration_and_shows_the_line_to_add() {
        let client: Option<IpAddr> = Some("203.0.113.5".parse().unwrap());
        let check = |text: &str| parse(text).unwrap().check_session(client);
        let refusal = check("allow = [\"198.51.100.0/24\"]\nlocal_drop = true\n").unwrap_err();
        assert!(refusal.contains("allow = [\"198.51.100.0/24\", \"203.0.113.5\"]"), "{refusal}");
        let spared = refusal.lines().nth(1).unwrap().trim();
        assert_eq!(check(&format!("{spared}\nlocal_drop = true\n")), Ok(()));
        assert_eq!(check("local_drop = false\n"), Ok(()));
        assert_eq!(check("[local_drop]\neven_my_session = true\n"), Ok(()));
        let jail = "[jail.a]\nsource = \"logins\"\nignore = [\"203.0.113.0/24\"]\n";
        assert_eq!(check(&format!("local_drop = true\n{jail}")), Ok(()));
        assert_eq!(parse("local_drop = true\n").unwrap().check_session(None), Ok(()));
    }
}
