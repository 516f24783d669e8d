//! What a router answers: rows, ends and traps, read from the sentences that mikrotik-rs decodes.
//!
//! Read from the words rather than from mikrotik-rs's `CommandResponse`, which drops the `=ret=` of a
//! `!done` (the id of a new entry, or an old router's challenge) and refuses a `.tag` that is not the
//! second word.

use mikrotik_rs::proto::codec::{self, Decode, RawSentence};
use mikrotik_rs::proto::word::{Word, WordCategory};
use mikrotik_rs::{Tag, TrapCategory};

use super::address_list::printable;

/// The longest text of a router that is kept, in bytes: of a trap, a fatal reason, a name.
const LONGEST_TEXT: usize = 200;

/// One sentence from a router.
#[derive(Debug)]
pub enum Reply {
    /// A row of a print; more may follow.
    Row(Row),
    /// The command is done, with what it returned.
    Done {
        /// The value of `=ret=`: an id, a count.
        ret: Option<String>,
    },
    /// The command failed, for the reason in it.
    Trap(Trap),
    /// The session is over.
    Fatal(String),
}

/// The attributes of one row.
#[derive(Debug)]
pub struct Row {
    /// The sentence as it came.
    encoded: Box<[u8]>,
}

/// A command that the router refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Trap {
    /// What the refusal means here.
    pub meaning: TrapMeaning,
    /// RouterOS's own category, which it often leaves out.
    pub category: Option<TrapCategory>,
    /// RouterOS's text, without control characters, at most 200 bytes.
    pub message: String,
}

/// What a trap means to us, from its text: RouterOS's categories do not tell these apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrapMeaning {
    /// The entry is there already.
    Duplicate,
    /// The entry is not there.
    NoSuchItem,
    /// The table is not there, as `/ipv6` where the package is missing.
    NoSuchCommand,
    /// The user may not do it.
    Permission,
    /// A text that this release does not know.
    Other,
}

/// A sentence that breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the router broke the API protocol: {0}; is the port the API's (8728, or 8729 with TLS)?")]
pub struct ProtocolBreach(pub(super) String);

// === impl Reply ===

impl Reply {
    /// Reads one decoded sentence, given also as it came, and the tag of the command that it answers.
    pub fn parse(sentence: &RawSentence<'_>, encoded: &[u8]) -> Result<(Option<Tag>, Self), ProtocolBreach> {
        let mut words = sentence.words();
        let first = words.next().unwrap_or_default();
        let Ok(Word::Category(category)) = Word::try_from(first) else {
            return Err(ProtocolBreach(format!("a reply starts with `{}`", text(first))));
        };
        let mut tag = None;
        let mut message = None;
        let mut ret = None;
        let mut trap_category = None;
        for word in words {
            if let Some(digits) = word.strip_prefix(b".tag=") {
                let foreign = || ProtocolBreach(format!("a reply has the tag `{}`", text(digits)));
                tag = Some(Tag::try_from(digits).map_err(|_| foreign())?);
            } else if let Some((key, value)) = attribute(word) {
                match key {
                    b"message" => message = Some(text(value)),
                    b"ret" => ret = Some(text(value)),
                    b"category" => {
                        trap_category = text(value).parse::<u8>().ok().and_then(|n| n.try_into().ok());
                    }
                    _ => {}
                }
            } else {
                // The bare reason of a !fatal.
                message.get_or_insert_with(|| text(word));
            }
        }
        let message = message.unwrap_or_default();
        let reply = match category {
            WordCategory::Reply => Self::Row(Row { encoded: encoded.into() }),
            WordCategory::Done | WordCategory::Empty => Self::Done { ret },
            WordCategory::Trap => Self::Trap(Trap::new(trap_category, message)),
            WordCategory::Fatal => Self::Fatal(message),
        };
        Ok((tag, reply))
    }
}

// === impl Row ===

impl Row {
    /// Names and raw values of all attributes, in their order.
    pub fn attributes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut at = 0;
        let words = std::iter::from_fn(move || {
            let Ok(Decode::Complete { value: (length, prefix), .. }) =
                codec::decode_length(self.encoded.get(at..)?)
            else {
                return None;
            };
            if length == 0 {
                return None;
            }
            let start = at + prefix;
            at = start + length as usize;
            self.encoded.get(start..at)
        });
        words.filter_map(attribute)
    }

    /// How many bytes it takes.
    pub fn size(&self) -> usize {
        self.encoded.len()
    }

    /// The raw value of an attribute; empty where it has none, `None` where the row has no such.
    pub fn raw(&self, key: &str) -> Option<&[u8]> {
        self.attributes().find(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value)
    }

    /// The value of an attribute as text; `None` also where it is not UTF-8.
    pub fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.raw(key)?).ok()
    }

    /// The value of an attribute for people: without control characters and at most 200 bytes.
    pub fn shown(&self, key: &str) -> Option<String> {
        self.raw(key).map(text)
    }
}

// === impl Trap ===

impl Trap {
    /// A trap of this text.
    pub fn new(category: Option<TrapCategory>, message: String) -> Self {
        let meaning = if message.contains("already have such entry") {
            TrapMeaning::Duplicate
        } else if message.starts_with("no such item") {
            TrapMeaning::NoSuchItem
        } else if message.starts_with("no such command") || message.starts_with("bad command name") {
            TrapMeaning::NoSuchCommand
        } else if message.starts_with("not enough permissions") {
            TrapMeaning::Permission
        } else {
            TrapMeaning::Other
        };
        Self { meaning, category, message }
    }
}

/// `=key=value`, or `=key` as some versions write an empty value.
fn attribute(word: &[u8]) -> Option<(&[u8], &[u8])> {
    let word = word.strip_prefix(b"=")?;
    // `=.id=*1` has its `=` after the key, which never holds one.
    let at = word.iter().position(|byte| *byte == b'=');
    Some(at.map_or((word, &[][..]), |at| (&word[..at], &word[at + 1..])))
}

/// What a router wrote, for people: without control characters and at most 200 bytes.
pub(super) fn text(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(4 * LONGEST_TEXT)];
    printable(&String::from_utf8_lossy(bytes), LONGEST_TEXT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(words: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in words {
            codec::encode_word(word, &mut bytes);
        }
        codec::encode_terminator(&mut bytes);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<(Option<Tag>, Reply), ProtocolBreach> {
        match codec::decode_sentence(bytes).unwrap() {
            Decode::Complete { value, bytes_consumed } => Reply::parse(&value, &bytes[..bytes_consumed]),
            Decode::Incomplete { .. } => panic!("incomplete"),
        }
    }

    #[test]
    fn the_id_of_a_new_entry_is_read_wherever_the_tag_stands() {
        for words in [[b"!done", &b".tag=7"[..], b"=ret=*1A"], [b"!done", b"=ret=*1A", b".tag=7"]] {
            let (tag, reply) = parse(&encode(&words)).unwrap();
            assert_eq!(tag, Some(Tag::from_raw(7)));
            assert!(matches!(reply, Reply::Done { ret: Some(ret) } if ret == "*1A"));
        }
    }

    #[test]
    fn a_row_gives_its_attributes_and_an_empty_one_without_its_second_equals_sign() {
        let encoded = encode(&[b"!re", b".tag=7", b"=.id=*1", b"=comment", b"=address=1.2.3.4", b"=x=a=b"]);
        let (_, Reply::Row(row)) = parse(&encoded).unwrap() else { panic!("no row") };
        assert_eq!(row.text(".id"), Some("*1"));
        assert_eq!(row.text("comment"), Some(""));
        assert_eq!(row.text("address"), Some("1.2.3.4"));
        assert_eq!(row.text("x"), Some("a=b"));
        assert_eq!(row.raw("timeout"), None);
    }

    #[test]
    fn traps_are_told_apart_by_their_text() {
        for (message, meaning) in [
            ("failure: already have such entry", TrapMeaning::Duplicate),
            ("no such item (4)", TrapMeaning::NoSuchItem),
            ("no such command prefix", TrapMeaning::NoSuchCommand),
            ("not enough permissions (9)", TrapMeaning::Permission),
            ("value of timeout is out of range (00:00:00 .. 35w3d13:13:56)", TrapMeaning::Other),
        ] {
            assert_eq!(Trap::new(None, message.into()).meaning, meaning, "{message}");
        }
    }

    #[test]
    fn a_hostile_trap_is_cut_and_cleaned() {
        let message = [b"=message=\x1b[2J\xff".as_slice(), &[b'x'; 5000]].concat();
        let (_, Reply::Trap(trap)) = parse(&encode(&[b"!trap", &message, b"=category=9"])).unwrap() else {
            panic!("no trap");
        };
        assert!(trap.message.len() <= LONGEST_TEXT && !trap.message.contains('\x1b'));
        assert_eq!(trap.category, None);
    }

    #[test]
    fn what_is_no_reply_is_a_breach() {
        assert!(parse(&encode(&[b"HTTP/1.1 400"])).is_err());
        assert!(parse(&encode(&[b"!re", b".tag=x"])).is_err());
    }

    proptest! {
        #[test]
        fn no_sentence_makes_it_panic(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6)) {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            if let Ok((_, Reply::Row(row))) = parse(&encode(&words)) {
                row.raw("address");
                row.attributes().count();
            }
        }
    }
}
