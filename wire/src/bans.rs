//! The stream of bans from the enforcer to sensors: which networks the fleet bans now, so that a host can drop
//! them by itself.
//!
//! The answer to `GET /v1/bans` ([`BANS_PATH`](crate::BANS_PATH)) never ends by itself: one [`BanLine`] of JSON a
//! line, at first [`BanLine::Begin`]. What goes over it are the entries that routers hold too: bans after
//! widening, the allow list applied.
//!
//! **Snapshot and resumption.** A follower names the [`Position`] that it reached last, and gets what changed
//! since. Where the enforcer cannot tell (it started anew, or the follower was away for longer than its bounded
//! memory of changes reaches), the stream begins with all bans, in the order of networks, and what the follower
//! held from before is replaced. New bans go between the pieces of a snapshot, and a snapshot that was cut goes on
//! where it was cut.
//!
//! **Time.** A ban comes with what is left of it, in milliseconds at the moment of sending, never with a time of
//! day: a clock that is wrong on either side then neither shortens nor lengthens a ban. It ends later than on the
//! routers by as long as its line was under way, and never sooner. A ban that just ends is not told; each has its
//! end.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::allow::{canonical_network, parse_network};
use crate::{Name, Seconds, VERSION};

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BanLine {
    /// The stream begins: first, and again where a follower that is too slow gets all bans anew.
    Begin(Begin),
    /// A ban, new or changed: it replaces what was said of exactly this network before.
    Ban {
        /// In its canonical form: no bit is set behind its length.
        #[serde(with = "network")]
        net: IpNet,
        /// For how much longer.
        ms: Left,
    },
    /// A ban was lifted before its end.
    Lift {
        /// What is banned no longer.
        #[serde(with = "network")]
        net: IpNet,
    },
    /// How far the lines before this one reach. Comes after each group of lines, and at least every
    /// [`HEARTBEAT_SECONDS`](crate::HEARTBEAT_SECONDS).
    Mark {
        /// As [`Position::through`]: the changes of the stream that a follower has with this mark.
        through: u64,
        /// As [`Position::after`]; the first mark without it says that the snapshot is whole.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_network")]
        after: Option<IpNet>,
        /// How often the allow list has changed in this stream: whoever was told another number reads it anew
        /// ([`ALLOW_PATH`](crate::ALLOW_PATH)). Enforcers of releases before do not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        allow: Option<u64>,
    },
}

/// How a stream begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The protocol's [`VERSION`], by which a follower knows whether it understands what comes.
    pub version: u32,
    /// Which ledger the enforcer has, as in an [`Ack`](crate::Ack).
    pub ledger: Name,
    /// As [`Position::stream`]: another run of the enforcer has another.
    pub stream: Name,
    /// Whether the stream goes on from the position that was asked for. Otherwise a snapshot begins, and at its
    /// end the follower lets go of what it did not name.
    pub resumed: bool,
}

/// What is left of a ban. In JSON a number of milliseconds, at most 100 years, or `-1` for a permanent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Left {
    /// From when the line is sent; at most 100 years.
    Milliseconds(u64),
    /// Until it is lifted.
    Permanent,
}

/// Where a follower stands in the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Names the run of the enforcer that numbers the changes; another one after each start.
    pub stream: Name,
    /// The number of the last change that the follower has.
    pub through: u64,
    /// Within a snapshot the last network that the follower has of it; `None` where it has all.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_network")]
    pub after: Option<IpNet>,
}

/// What a follower asks for, as the query of its request: `version=1&stream=NAME&through=7&after=192.0.2.1`,
/// the latter three from its [`Position`] or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Follow {
    /// The protocol's [`VERSION`]; ours where it is not said.
    #[serde(default = "ours")]
    version: u32,
    stream: Option<Name>,
    through: Option<u64>,
    #[serde(default, with = "optional_network")]
    after: Option<IpNet>,
}

// === impl Left ===

impl Left {
    /// The longest, in milliseconds.
    pub const LONGEST: u64 = Seconds::LONGEST.0 * 1000;
}

impl Serialize for Left {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Milliseconds(milliseconds) => serializer.serialize_u64(*milliseconds),
            Self::Permanent => serializer.serialize_i64(-1),
        }
    }
}

impl<'de> Deserialize<'de> for Left {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let left = i64::deserialize(deserializer)?;
        match u64::try_from(left) {
            Ok(left) if left <= Self::LONGEST => Ok(Self::Milliseconds(left)),
            Err(_) if left == -1 => Ok(Self::Permanent),
            _ => Err(serde::de::Error::custom(format_args!(
                "{left} is not what is left of a ban: expected -1 or 0 to {} milliseconds",
                Self::LONGEST
            ))),
        }
    }
}

// === impl Follow ===

impl Follow {
    /// Asks for what changed since a position, or for everything.
    pub fn new(position: Option<Position>) -> Self {
        let (stream, through, after) = match position {
            Some(Position { stream, through, after }) => (Some(stream), Some(through), after),
            None => (None, None, None),
        };
        Self { version: VERSION, stream, through, after }
    }

    /// The protocol's version that the position was made by.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Where the follower stands; `None` for one that has nothing.
    pub fn position(self) -> Option<Position> {
        Some(Position { stream: self.stream?, through: self.through?, after: self.after })
    }
}

impl fmt::Display for Follow {
    /// As a query. None of its characters needs an escape there (RFC 3986, 3.4).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version={}", self.version)?;
        if let (Some(stream), Some(through)) = (&self.stream, self.through) {
            write!(f, "&stream={stream}&through={through}")?;
            if let Some(after) = self.after {
                write!(f, "&after={after}")?;
            }
        }
        Ok(())
    }
}

fn ours() -> u32 {
    VERSION
}

/// A network as text, a single address without its length; read in its canonical form.
pub(crate) mod network {
    use super::{Deserializer, IpNet, Serializer, canonical_network, fmt, parse_network};

    struct NetworkVisitor;

    pub(crate) fn serialize<S: Serializer>(network: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
        if network.prefix_len() == network.max_prefix_len() {
            serializer.collect_str(&network.addr())
        } else {
            serializer.collect_str(network)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
        deserializer.deserialize_str(NetworkVisitor)
    }

    impl serde::de::Visitor<'_> for NetworkVisitor {
        type Value = IpNet;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address or a network such as \"192.0.2.1\" or \"2001:db8::/64\"")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<IpNet, E> {
            parse_network(text).map(canonical_network).map_err(E::custom)
        }
    }
}

/// As [`network`], or nothing.
mod optional_network {
    use super::{Deserialize, Deserializer, IpNet, Serialize, Serializer, network};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Network(#[serde(with = "network")] IpNet);

    #[expect(clippy::ref_option, reason = "serde hands it so")]
    pub(super) fn serialize<S: Serializer>(
        network: &Option<IpNet>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        network.map(Network).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNet>, D::Error> {
        Ok(Option::<Network>::deserialize(deserializer)?.map(|Network(network)| network))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> Result<BanLine, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn lines_are_plain_json_that_a_shell_script_can_read() {
        let net: IpNet = "192.0.2.1/32".parse().unwrap();
        let ban = BanLine::Ban { net, ms: Left::Milliseconds(1_800_000) };
        assert_eq!(serde_json::to_string(&ban).unwrap(), r#"{"ban":{"net":"192.0.2.1","ms":1800000}}"#);
        let permanent = r#"{"ban":{"net":"2001:db8::/64","ms":-1}}"#;
        assert_eq!(serde_json::to_string(&line(permanent).unwrap()).unwrap(), permanent);
        let mark = BanLine::Mark { through: 7, after: None, allow: None };
        assert_eq!(serde_json::to_string(&mark).unwrap(), r#"{"mark":{"through":7}}"#);
        let longest = BanLine::Begin(Begin {
            version: u32::MAX,
            ledger: "x".repeat(Name::LONGEST).parse().unwrap(),
            stream: "x".repeat(Name::LONGEST).parse().unwrap(),
            resumed: false,
        });
        assert!(serde_json::to_vec(&longest).unwrap().len() < crate::MAX_BAN_LINE);
    }

    #[test]
    fn networks_are_read_in_their_canonical_form_and_nonsense_is_not_read() {
        let net = |text: &str| line(&format!(r#"{{"lift":{{"net":"{text}"}}}}"#));
        let canonical = |text: &str| match net(text).unwrap() {
            BanLine::Lift { net } => net.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(canonical("192.0.2.77/24"), "192.0.2.0/24");
        assert_eq!(canonical("::ffff:192.0.2.1"), "192.0.2.1/32");
        for bad in ["192.0.2.1/33", "2001:db8::/129", "192.0.2.1/-1", "x", "", "192.0.2.1-9"] {
            assert!(net(bad).is_err(), "{bad} passed");
        }
        for bad in ["-2", "1.5", "3153600000001", "18446744073709551616", "\"1\"", "null"] {
            assert!(line(&format!(r#"{{"ban":{{"net":"::1","ms":{bad}}}}}"#)).is_err(), "{bad} passed");
        }
    }

    #[test]
    fn a_ban_without_an_end_is_not_taken_for_a_permanent_one() {
        assert!(line(r#"{"ban":{"net":"192.0.2.1"}}"#).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(
            bits in any::<u32>(), length in 0..=32u8, wide in any::<u128>(), six in 0..=128u8,
            ms in prop::option::of(0..=Left::LONGEST), through in any::<u64>(), allow in any::<Option<u64>>(),
        ) {
            let four = IpNet::new(bits.to_be_bytes().into(), length).unwrap().trunc();
            let six = canonical_network(IpNet::new(wide.to_be_bytes().into(), six).unwrap());
            for net in [four, six] {
                let ms = ms.map_or(Left::Permanent, Left::Milliseconds);
                for one in [BanLine::Ban { net, ms }, BanLine::Lift { net }, BanLine::Mark { through, after: Some(net), allow }] {
                    let text = serde_json::to_string(&one).unwrap();
                    prop_assert!(text.len() < crate::MAX_BAN_LINE);
                    prop_assert_eq!(line(&text).unwrap(), one);
                }
            }
        }

        #[test]
        fn no_line_causes_a_panic(text in "\\PC*") {
            let _ = line(&text);
        }
    }
}
