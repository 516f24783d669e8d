//! Offences, and the batches that carry them.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{BanTime, Escalation, Name, NumberedRuling};

/// A jail's verdict that an address reached `maxretry` failures within `findtime`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offence {
    /// The jail that decided.
    pub jail: Name,
    /// The offender, in its [canonical](crate::canonical) form.
    pub address: IpAddr,
    /// When the last of the failures happened: the ban runs from here.
    pub time: Timestamp,
    /// How many failures were counted.
    pub failures: u32,
    /// For how long the jail asks to ban.
    pub bantime: BanTime,
    /// How much longer for an address that was banned before; not at all where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<Escalation>,
    /// What was seen, oldest first; at most [`Evidence::MOST`] pieces.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
}

/// One failure as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// As the log line dates it, or when the kernel saw it.
    pub time: Timestamp,
    /// Where it was seen: a log file's path, `syslog`, or `logins`.
    pub source: String,
    /// The log line, or what the kernel saw in words; at most [`Evidence::LONGEST`] bytes.
    pub text: String,
}

/// An [`Offence`] and its number at the sensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedOffence {
    /// Unique within the outbox and growing; gaps are allowed.
    pub sequence: u64,
    /// In JSON its fields stand beside the sequence.
    #[serde(flatten)]
    pub offence: Offence,
}

/// What a sensor posts: offences with growing sequence numbers. Posting the same batch again changes
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The protocol's [`VERSION`](crate::VERSION); the enforcer refuses a batch of another.
    pub version: u32,
    /// Names the outbox that numbered these offences (chosen at random when an outbox is made), so
    /// that a sensor that was set up anew may count from one again.
    pub outbox: Name,
    /// The sensor's clock at the moment of sending, by which the enforcer sees how far that clock is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Timestamp>,
    /// At most [`MAX_BATCH`](crate::MAX_BATCH), in growing order of sequence.
    pub offences: Vec<NumberedOffence>,
}

/// What a sensor posts to lift a ban that it asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unban {
    /// The address whose ban is to end.
    pub address: IpAddr,
    /// Only where this jail asked for it.
    #[serde(default)]
    pub jail: Option<Name>,
}

/// The enforcer's answer to a batch: its ledger has all of it on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The largest sequence of this outbox that the ledger has; 0 where it has none.
    pub through: u64,
    /// Which ledger has it. Where it is another one than before, the enforcer lost its ledger, and a
    /// sensor sends the bans that it asked for and that are not over once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Name>,
    /// What became of each offence of the batch, in its order; none from an enforcer of a release before this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rulings: Vec<NumberedRuling>,
    /// The offences of the batch that are taken for none, and will never be; those beside them are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedOffence>,
}

/// An offence that the enforcer took out of its batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedOffence {
    /// As in its [`NumberedOffence`].
    pub sequence: u64,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

// === impl Offence ===

impl Offence {
    /// Whether it is of a scan, by [`Evidence::SCAN`].
    pub fn is_scan(&self) -> bool {
        self.evidence.iter().any(|evidence| evidence.source == Evidence::SCAN)
    }
}

// === impl Evidence ===

impl Evidence {
    /// The most pieces of evidence with one offence.
    pub const MOST: usize = 5;

    /// The source of evidence of a scan: packets to many ports, which anyone sends in another's name easily. An offence
    /// with such evidence bans its address, and is no reason to ban the network around it.
    pub const SCAN: &str = "scan";

    /// The longest text, in bytes.
    pub const LONGEST: usize = 512;

    /// Makes a piece of evidence; the text is cut at [`Self::LONGEST`] bytes and control characters
    /// become spaces, for it is an attacker's.
    pub fn new(time: Timestamp, source: impl Into<String>, text: &str) -> Self {
        let mut kept = String::new();
        for character in text.chars() {
            let character = if character.is_control() { ' ' } else { character };
            if kept.len() + character.len_utf8() > Self::LONGEST {
                break;
            }
            kept.push(character);
        }
        Self { time, source: source.into(), text: kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_plain_json_that_a_shell_script_can_write() {
        let batch: Batch = serde_json::from_str(
            r#"{"version":1,"outbox":"curl","offences":[{"sequence":7,"jail":"smtp",
                "address":"192.0.2.1","time":"2026-11-24T10:00:00Z","failures":3,"bantime":1800}]}"#,
        )
        .unwrap();
        let first = &batch.offences[0];
        assert_eq!((first.sequence, first.offence.failures), (7, 3));
        assert_eq!(first.offence.bantime, BanTime::For(crate::Seconds(1800)));
        let again: Batch = serde_json::from_str(&serde_json::to_string(&batch).unwrap()).unwrap();
        assert_eq!(again, batch);
    }

    #[test]
    fn evidence_is_cut_at_a_character_and_cleared_of_control_characters() {
        let evidence = Evidence::new(Timestamp::UNIX_EPOCH, "x", &"a\u{1b}é".repeat(400));
        assert!(evidence.text.len() <= Evidence::LONGEST);
        assert!(!evidence.text.contains('\u{1b}'));
        assert!(evidence.text.starts_with("a éa é"));
    }
}
