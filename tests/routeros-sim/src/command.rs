//! A command as it arrived: its path, attributes, queries and tag.

use crate::sentence::Sentence;

/// A command, taken apart. Borrows its sentence.
#[derive(Debug)]
pub(crate) struct Command<'s> {
    pub(crate) path: &'s str,
    pub(crate) tag: Option<&'s [u8]>,
    attributes: Vec<(&'s str, &'s [u8])>,
    /// Without their `?`.
    pub(crate) queries: Vec<&'s [u8]>,
}

// === impl Command ===

impl<'s> Command<'s> {
    /// Takes a sentence apart; `None` where it does not begin with a path.
    pub(crate) fn parse(sentence: &'s Sentence) -> Option<Self> {
        let mut words = sentence.words();
        let path = std::str::from_utf8(words.next()?).ok().filter(|path| path.starts_with('/'))?;
        let mut command = Self { path, tag: None, attributes: Vec::new(), queries: Vec::new() };
        for word in words {
            match word {
                [b'?', query @ ..] => command.queries.push(query),
                [b'=', rest @ ..] => command.attributes.extend(pair(rest)),
                [b'.', b't', b'a', b'g', b'=', tag @ ..] => command.tag = Some(tag),
                // Other API attributes, and words that mean nothing, are passed over as RouterOS does.
                _ => {}
            }
        }
        Some(command)
    }

    /// An attribute's value, the last one where it is given twice.
    pub(crate) fn get(&self, name: &str) -> Option<&'s [u8]> {
        self.attributes.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// An attribute's value as text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The attributes' names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'s str> + '_ {
        self.attributes.iter().map(|(name, _)| *name)
    }
}

fn pair(word: &[u8]) -> Option<(&str, &[u8])> {
    let (name, value) = match word.iter().position(|byte| *byte == b'=') {
        Some(at) => (&word[..at], &word[at + 1..]),
        None => (word, &b""[..]),
    };
    Some((std::str::from_utf8(name).ok()?, value))
}
