//! Where a ban comes from. The ledger, the routers' comments and the JSON name it by a jail and a sensor, as they
//! always did; three reserved names, which no sensor and no jail of one may have, stand for what is neither.

use std::fmt;
use std::sync::LazyLock;

use atalaya_wire::{Name, reserved};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a ban comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A jail of a sensor's.
    Sensor {
        /// The jail that decided.
        jail: Name,
        /// The sensor that reported.
        sensor: Name,
    },
    /// A jail of the enforcer's own, over what all sensors report.
    Fleet {
        /// The name after `fleet.` in the configuration.
        jail: Name,
    },
    /// A command of an administrator's on the enforcer's host.
    Hand,
    /// An entry that carried our mark on a router after the ledger was lost, and did not tell all.
    Router {
        /// The jail that its comment named.
        jail: Option<Name>,
        /// The sensor that its comment named.
        sensor: Option<Name>,
    },
}

static HAND: LazyLock<Name> = LazyLock::new(|| constant(reserved::HAND));
static FLEET: LazyLock<Name> = LazyLock::new(|| constant(reserved::FLEET));
static FOUND: LazyLock<Name> = LazyLock::new(|| constant(reserved::FOUND));

/// An origin as JSON has it.
#[derive(Serialize, Deserialize)]
struct Written {
    jail: Name,
    sensor: Name,
    #[serde(default, rename = "origin")]
    kind: String,
}

// === impl Origin ===

impl Origin {
    /// What the ledger, a comment or an answer of before named so.
    pub fn from_names(jail: Name, sensor: Name) -> Self {
        let known = |name: Name| Some(name).filter(|name| *name != *FOUND);
        if jail == *HAND && sensor == *HAND {
            Self::Hand
        } else if jail == *FOUND || sensor == *FOUND {
            Self::Router { jail: known(jail), sensor: known(sensor) }
        } else if sensor == *FLEET {
            Self::Fleet { jail }
        } else {
            Self::Sensor { jail, sensor }
        }
    }

    /// What an entry on a router tells of whose ban the ledger has lost.
    pub fn found(jail: Option<Name>, sensor: Option<Name>) -> Self {
        match (jail, sensor) {
            // The comment's template may have only one of them.
            (Some(name), None) | (None, Some(name)) if name == *HAND => Self::Hand,
            (jail, sensor) => Self::from_names(
                jail.unwrap_or_else(|| FOUND.clone()),
                sensor.unwrap_or_else(|| FOUND.clone()),
            ),
        }
    }

    /// The jail's name, or what stands in its place.
    pub fn jail(&self) -> &Name {
        match self {
            Self::Sensor { jail, .. } | Self::Fleet { jail } | Self::Router { jail: Some(jail), .. } => jail,
            Self::Hand => &HAND,
            Self::Router { jail: None, .. } => &FOUND,
        }
    }

    /// The sensor's name, or what stands in its place.
    pub fn sensor(&self) -> &Name {
        match self {
            Self::Sensor { sensor, .. } | Self::Router { sensor: Some(sensor), .. } => sensor,
            Self::Fleet { .. } => &FLEET,
            Self::Hand => &HAND,
            Self::Router { sensor: None, .. } => &FOUND,
        }
    }

    /// Which of the four it is, as JSON says it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Sensor { .. } => "sensor",
            Self::Fleet { .. } => "fleet",
            Self::Hand => "hand",
            Self::Router { .. } => "router",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sensor { jail, sensor } => write!(f, "by jail {jail} for sensor {sensor}"),
            Self::Fleet { jail } => write!(f, "by fleet jail {jail}"),
            Self::Hand => f.write_str("by hand"),
            Self::Router { jail: Some(jail), .. } => {
                write!(f, "by jail {jail}, as an entry on a router told after the ledger was lost")
            }
            Self::Router { .. } => f.write_str("by an entry found on a router after the ledger was lost"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (jail, sensor) = (self.jail().clone(), self.sensor().clone());
        Written { jail, sensor, kind: self.kind().to_owned() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Written { jail, sensor, .. } = Written::deserialize(deserializer)?;
        Ok(Self::from_names(jail, sensor))
    }
}

fn constant(name: &str) -> Name {
    name.parse().expect("a reserved name is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn every_origin_is_read_back_from_the_names_that_the_ledger_keeps() {
        let (ssh, web) = (name("ssh"), name("web-1"));
        for origin in [
            Origin::Sensor { jail: ssh.clone(), sensor: web.clone() },
            Origin::Fleet { jail: ssh.clone() },
            Origin::Hand,
            Origin::Router { jail: None, sensor: None },
            Origin::Router { jail: Some(ssh.clone()), sensor: None },
            Origin::Router { jail: None, sensor: Some(web.clone()) },
        ] {
            assert_eq!(Origin::from_names(origin.jail().clone(), origin.sensor().clone()), origin);
            let json = serde_json::to_value(&origin).unwrap();
            assert_eq!(json["jail"], origin.jail().as_str());
            assert_eq!(serde_json::from_value::<Origin>(json).unwrap(), origin);
        }
    }

    #[test]
    fn a_sensors_jail_of_before_that_is_named_manual_is_not_taken_for_a_hand() {
        let origin = Origin::from_names(name("manual"), name("web-1"));
        assert_eq!(origin.to_string(), "by jail manual for sensor web-1");
    }

    #[test]
    fn a_comment_that_tells_of_a_hand_alone_is_a_ban_by_hand_again() {
        assert_eq!(Origin::found(Some(name("manual")), None), Origin::Hand);
        assert_eq!(Origin::found(Some(name("manual")), Some(name("manual"))), Origin::Hand);
        assert_eq!(Origin::found(None, None), Origin::Router { jail: None, sensor: None });
    }
}
