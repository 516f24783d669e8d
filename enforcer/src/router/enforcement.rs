//! Whether what a router holds is enforced: a ban is where a rule drops by the list that it is on. The
//! worker looks at the rules time and again; this is what it saw last.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::check::Grade;
use super::check::release::Release;
use super::check::rules::Judgement;

/// What becomes of packets from a family's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is")]
pub enum Enforcement {
    /// Nothing of the family is held: by configuration, or because the router has no such table.
    Off,
    /// Its rules have not been read in this session.
    Unread,
    /// A rule drops them, or a part of them.
    Dropped {
        /// What does, for people: the rule, and where it stands.
        says: String,
        /// How many packets such rules dropped since their counters began, where the router tells.
        packets: Option<u64>,
    },
    /// No rule drops them.
    Passed {
        /// When that was seen first, however often the session broke since.
        since: Timestamp,
        /// What is missing, for people: the rule, its state, or a rule before it that accepts.
        why: String,
        /// The commands for the router's terminal that mend it, in order.
        commands: Vec<String>,
    },
    /// It cannot be told.
    Unclear {
        /// When that was seen first.
        since: Timestamp,
        /// Why, and what would tell it.
        why: String,
    },
}

// === impl Enforcement ===

impl Enforcement {
    /// What a judgement comes to, with what was so before.
    pub(super) fn judged(
        judgement: Judgement,
        before: Option<&Self>,
        now: Timestamp,
        release: Option<Release>,
    ) -> Self {
        let Judgement { grade, says, commands, packets } = judgement;
        match grade {
            Grade::Good | Grade::Warning => Self::Dropped { says, packets },
            Grade::Fault => {
                let since = match before {
                    Some(Self::Passed { since, .. }) => *since,
                    _ => now,
                };
                let commands =
                    commands.into_iter().map(|command| command.for_release(release).typed()).collect();
                Self::Passed { since, why: says, commands }
            }
            Grade::Unclear => {
                let since = match before {
                    Some(Self::Unclear { since, .. }) => *since,
                    _ => now,
                };
                Self::Unclear { since, why: says }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefixes::Family;
    use crate::router::check::command::add_rule;

    fn judgement(grade: Grade) -> Judgement {
        let command = add_rule(Family::V4, "bad", None);
        Judgement { grade, says: "x".to_owned(), commands: vec![command], packets: Some(7) }
    }

    #[test]
    fn a_fault_is_as_old_as_its_first_look_and_its_commands_are_the_releases() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let judged = |grade, before: Option<&_>, now, release| {
            Enforcement::judged(judgement(grade), before, at(now), release)
        };
        let first = judged(Grade::Fault, None, 1, Release::parse("7.24"));
        let again = judged(Grade::Fault, Some(&first), 2, Release::parse("6.49"));
        let mending =
            "/ip firewall raw add chain=prerouting action=drop src-address-list=bad comment=\"atalaya\"";
        let Enforcement::Passed { since, commands, .. } = &again else { panic!("{again:?}") };
        assert_eq!((*since, commands[0].as_str()), (at(1), mending));
        let unclear = judged(Grade::Unclear, Some(&again), 3, None);
        assert!(matches!(unclear, Enforcement::Unclear { since, .. } if since == at(3)), "{unclear:?}");
        let well = judged(Grade::Warning, Some(&unclear), 4, None);
        assert_eq!(well, Enforcement::Dropped { says: "x".to_owned(), packets: Some(7) });
        let later = judged(Grade::Fault, Some(&well), 5, None);
        assert!(matches!(later, Enforcement::Passed { since, .. } if since == at(5)), "{later:?}");
    }
}
