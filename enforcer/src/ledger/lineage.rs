//! The word by which a ledger's entries are told from those of another ledger under the same mark: four characters
//! in each entry's comment. It is made with the ledger and stays with it: in backups, which an enforcer elsewhere may
//! go on with, and in the state folder, where a lost ledger's successor finds it.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use atalaya_program::disk;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::schema;

/// The key in `meta`, and the file in the state folder.
const LINEAGE: &str = "lineage";

/// How many characters.
const LENGTH: usize = 4;

/// The characters, of which none opens a comment as a person would write it.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The word of a ledger and of those that come after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lineage([u8; LENGTH]);

/// `{0}` is no ledger's word; expected four characters of a-z and 2-7
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no ledger's word; expected four characters of a-z and 2-7, as comments on the router have them"
)]
pub struct LineageError(String);

// === impl Lineage ===

impl Lineage {
    /// Reads it at the beginning of bytes.
    pub fn at_start(bytes: &[u8]) -> Option<Self> {
        let word: [u8; LENGTH] = bytes.get(..LENGTH)?.try_into().ok()?;
        word.iter().all(|byte| ALPHABET.contains(byte)).then_some(Self(word))
    }

    /// That of the state in this folder; `None` where it cannot be read, or there is none yet.
    pub fn of_state(folder: &Path) -> Option<Self> {
        fs::read_to_string(folder.join(LINEAGE)).ok()?.trim().parse().ok()
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        // All of them are of the alphabet.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Of a ledger of this identity that had none yet.
    fn of_identity(identity: &str) -> Self {
        let digest = Sha256::digest(format!("lineage of {identity}"));
        let mut word = [0; LENGTH];
        for (character, byte) in word.iter_mut().zip(digest) {
            *character = ALPHABET[usize::from(byte) % ALPHABET.len()];
        }
        Self(word)
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Lineage {
    type Err = LineageError;

    fn from_str(text: &str) -> Result<Self, LineageError> {
        let whole = Self::at_start(text.as_bytes()).filter(|_| text.len() == LENGTH);
        whole.ok_or_else(|| LineageError(text.escape_debug().take(20).collect()))
    }
}

impl TryFrom<String> for Lineage {
    type Error = LineageError;

    fn try_from(text: String) -> Result<Self, LineageError> {
        text.parse()
    }
}

impl From<Lineage> for String {
    fn from(lineage: Lineage) -> Self {
        lineage.as_str().to_owned()
    }
}

/// The word of a ledger that was opened to be written: its own, or what the state folder knows of the one before it,
/// or a new one. A disk that takes nothing changes nothing of it: the same is found at the next start.
pub(super) fn settle(connection: &Connection, folder: &Path) -> Lineage {
    let path = folder.join(LINEAGE);
    let written = schema::meta(connection, LINEAGE).ok().flatten().and_then(|text| text.parse().ok());
    let beside = Lineage::of_state(folder);
    let lineage = written.or(beside).unwrap_or_else(|| {
        Lineage::of_identity(&schema::meta(connection, schema::IDENTITY).ok().flatten().unwrap_or_default())
    });
    if written.is_none()
        && let Err(error) = schema::set_meta(connection, LINEAGE, Some(lineage.as_str()))
    {
        tracing::warn!(%error, "the ledger's word cannot be written; it is at the next start");
    }
    let kept = if beside == Some(lineage) {
        disk::close_to_others(&path)
    } else {
        disk::write_private(&path, format!("{lineage}\n").as_bytes())
    };
    if let Err(error) = kept {
        tracing::warn!(path = %path.display(), %error, "the ledger's word cannot be written; it is at the next start");
    }
    lineage
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(identity: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(schema::TABLES).unwrap();
        schema::set_meta(&connection, schema::IDENTITY, Some(identity)).unwrap();
        connection
    }

    #[test]
    fn a_word_stays_with_a_ledger_whose_identity_changes_and_with_the_folder_of_a_lost_one() {
        let folder = tempfile::tempdir().unwrap();
        let connection = ledger("a");
        let word = settle(&connection, folder.path());
        schema::set_meta(&connection, schema::IDENTITY, Some("b")).unwrap();
        assert_eq!(settle(&connection, folder.path()), word);
        assert_eq!(settle(&ledger("c"), folder.path()), word, "what is new here goes on with the old word");
        let elsewhere = tempfile::tempdir().unwrap();
        settle(&ledger("d"), elsewhere.path());
        assert_eq!(settle(&connection, elsewhere.path()), word, "a backup brings its own");
        assert_eq!(settle(&ledger("e"), elsewhere.path()), word);
        assert_ne!(settle(&ledger("d"), tempfile::tempdir().unwrap().path()), word);
    }

    #[test]
    fn where_nothing_can_be_written_the_word_is_the_same_each_time() {
        let connection = ledger("a");
        connection.pragma_update(None, "query_only", true).unwrap();
        let nowhere = Path::new("/nowhere/at/all");
        assert_eq!(settle(&connection, nowhere), settle(&connection, nowhere));
    }

    #[test]
    fn what_is_no_word_is_refused() {
        assert_eq!("k7f2".parse::<Lineage>().unwrap().to_string(), "k7f2");
        for bad in ["", "k7f", "k7f22", "K7F2", "k7f1", " k7f", "k7é"] {
            assert!(bad.parse::<Lineage>().is_err(), "{bad}");
        }
        assert_eq!(Lineage::at_start(b"k7f2: ssh").unwrap().as_str(), "k7f2");
        assert_eq!(Lineage::at_start(b" ssh from web-1"), None);
    }
}
