//! What the router was asked and what it answered: a bounded record of commands, and counts.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::sentence::Sentence;

/// The most bytes of command words that the journal holds.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// One command as it was received, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRecord {
    /// When it came in from the wire, on the router's clock.
    pub at: Timestamp,
    /// The session it came in on, counted from 1 since the start.
    pub session: u64,
    /// Its words; passwords read `***`.
    pub words: Vec<String>,
    /// What the client was answered, or that it was not.
    pub outcome: Outcome,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `!done`, with what `=ret=` said.
    Done {
        /// The value of `=ret=`: the id of an added entry, or a count.
        ret: Option<String>,
    },
    /// `!trap` with this text, then `!done`.
    Trap {
        /// RouterOS's words, as the client got them.
        message: String,
    },
    /// `!fatal` and the end of the connection.
    Fatal {
        /// RouterOS's words, as the client got them.
        reason: String,
    },
    /// A fault kept the answer back, wholly or in part.
    Lost {
        /// Whether the command was carried out all the same.
        applied: bool,
    },
}

/// How often things happened since the start; a reboot does not reset them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Connections accepted, also those that never log in.
    pub sessions: u64,
    /// Connections refused at `max-sessions`.
    pub sessions_refused: u64,
    /// Logins with the right password.
    pub logins: u64,
    /// Logins refused, whatever for.
    pub login_failures: u64,
    /// Commands carried out or refused, of any kind.
    pub commands: u64,
    /// Entries added over the API.
    pub adds: u64,
    /// Adds answered with `already have such entry`.
    pub duplicates: u64,
    /// Entries changed over the API.
    pub sets: u64,
    /// Entries removed over the API.
    pub removes: u64,
    /// Prints of address lists, counts included.
    pub prints: u64,
    /// Commands ended by `/cancel`.
    pub cancelled: u64,
    /// Traps of any kind.
    pub traps: u64,
    /// Entries that reached their timeout.
    pub expired: u64,
    /// Reboots, asked for by a client or by a test.
    pub reboots: u64,
}

/// The last commands, bounded in number and in bytes.
#[derive(Debug)]
pub(crate) struct Journal {
    entries: VecDeque<JournalEntry>,
    bytes: usize,
    capacity: usize,
}

#[derive(Debug)]
struct JournalEntry {
    at: Timestamp,
    session: u64,
    sentence: Sentence,
    outcome: Outcome,
}

impl Journal {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, capacity }
    }

    pub(crate) fn record(&mut self, at: Timestamp, session: u64, sentence: Sentence, outcome: Outcome) {
        if self.capacity == 0 {
            return;
        }
        let sentence = redact(sentence);
        self.bytes += sentence.size();
        self.entries.push_back(JournalEntry { at, session, sentence, outcome });
        while self.entries.len() > self.capacity || self.bytes > MAX_BYTES {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.sentence.size();
        }
    }

    pub(crate) fn records(&self) -> Vec<CommandRecord> {
        self.entries
            .iter()
            .map(|entry| CommandRecord {
                at: entry.at,
                session: entry.session,
                words: entry
                    .sentence
                    .words()
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect(),
                outcome: entry.outcome.clone(),
            })
            .collect()
    }
}

/// Only logins carry secrets.
fn redact(sentence: Sentence) -> Sentence {
    if sentence.words().next() != Some(b"/login") {
        return sentence;
    }
    Sentence::new(sentence.words().map(|word| {
        [&b"=password="[..], b"=response="]
            .into_iter()
            .find(|name| word.starts_with(name))
            .map_or_else(|| word.to_vec(), |name| [name, b"***"].concat())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_get_into_the_journal() {
        let mut journal = Journal::new(10);
        let login = Sentence::new(["/login", "=name=admin", "=password=hunter2"]);
        journal.record(Timestamp::UNIX_EPOCH, 1, login, Outcome::Done { ret: None });
        assert_eq!(journal.records()[0].words, ["/login", "=name=admin", "=password=***"]);
    }

    #[test]
    fn the_oldest_commands_fall_out_at_either_bound() {
        let mut journal = Journal::new(1500);
        for number in 0..2000 {
            let command = Sentence::new([format!("/{number}"), "x".repeat(60_000)]);
            journal.record(Timestamp::UNIX_EPOCH, 1, command, Outcome::Done { ret: None });
        }
        assert!(journal.bytes <= MAX_BYTES);
        assert!(journal.entries.len() < 1500);
        assert_eq!(journal.records().last().map(|record| record.words[0].clone()), Some("/1999".to_owned()));
    }
}
