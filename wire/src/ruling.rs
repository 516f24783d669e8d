//! What the enforcer made of an offence. It is the truth: what a sensor drops and shows by itself follows it.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Left;
use crate::bans::network;

/// What became of one offence, as it stands when the batch is acked. Of an offence that is posted again it is
/// what stands then, so that an answer that was lost is not missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedRuling {
    /// The offence's number at the sensor.
    pub sequence: u64,
    /// What became of it.
    #[serde(flatten)]
    pub ruling: Ruling,
}

/// Whether the offender is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// It is, whoever asked for it first.
    Banned {
        /// What the ban covers: the address, or for an IPv6 one the network that the enforcer bans with it.
        #[serde(with = "network")]
        net: IpNet,
        /// For how much longer: what the jail asked for, or more where bans grow.
        ms: Left,
    },
    /// It is not banned for this offence; it may be for another.
    Refused(Grounds),
}

/// Why an offender is not banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grounds {
    /// It is on the allow list.
    Allowed,
    /// Someone logged in successfully from there lately.
    Protected,
    /// Its ban would be over already, or was lifted since.
    Over,
    /// The enforcer could not take the offence as it is.
    Unusable,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

// === impl Grounds ===

impl std::fmt::Display for Grounds {
    /// As the end of a sentence: `not banned: …`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Allowed => "it is on the enforcer's allow list",
            Self::Protected => "someone logged in successfully from there lately",
            Self::Over => "its ban would be over, or was lifted since",
            Self::Unusable => "the enforcer could not take the offence",
            Self::Other => "for a reason that this release does not know",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ack;

    #[test]
    fn an_ack_is_plain_json_that_a_shell_script_can_read_and_one_without_rulings_is_understood() {
        let text = r#"{"through":8,"ledger":"l","rulings":[{"sequence":7,"banned":{"net":"2001:db8::/64","ms":1800000}},{"sequence":8,"refused":"protected"}]}"#;
        let ack: Ack = serde_json::from_str(text).unwrap();
        let net = "2001:db8::/64".parse().unwrap();
        let banned = Ruling::Banned { net, ms: Left::Milliseconds(1_800_000) };
        assert_eq!(ack.rulings[0], NumberedRuling { sequence: 7, ruling: banned });
        let refused = Ruling::Refused(Grounds::Protected);
        assert_eq!(ack.rulings[1], NumberedRuling { sequence: 8, ruling: refused });
        assert_eq!(serde_json::to_string(&ack).unwrap(), text);
        let old: Ack = serde_json::from_str(r#"{"through":8}"#).unwrap();
        assert_eq!((old.rulings, old.ledger), (Vec::new(), None));
    }

    #[test]
    fn a_reason_of_a_later_release_is_a_refusal_all_the_same() {
        let later: NumberedRuling = serde_json::from_str(r#"{"sequence":1,"refused":"moon"}"#).unwrap();
        assert_eq!(later.ruling, Ruling::Refused(Grounds::Other));
        for bad in
            [r#"{"sequence":1}"#, r#"{"sequence":1,"banned":{"net":"192.0.2.1"}}"#, r#"{"refused":"over"}"#]
        {
            assert!(serde_json::from_str::<NumberedRuling>(bad).is_err(), "{bad} passed");
        }
    }
}
