//! A command as the router reads it from a sentence: path, attributes, queries, tag.

use crate::address::Family;
use crate::page::Page;
use crate::sentence::Sentence;
use crate::terminal::VERBS;

/// The parts of a command sentence.
#[derive(Debug)]
pub(crate) struct Command<'a> {
    /// The first word, such as `/ip/firewall/address-list/add`.
    pub(crate) path: &'a [u8],
    /// `=name=value` words in order. A value may be empty and its `=` missing.
    pub(crate) attributes: Vec<(&'a [u8], &'a [u8])>,
    /// `?…` words in order, with their `?`.
    pub(crate) queries: Vec<&'a [u8]>,
    /// The value of `.tag=`.
    pub(crate) tag: Option<&'a [u8]>,
}

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Login,
    Quit,
    Cancel,
    Print(Family),
    Add(Family),
    Set(Family),
    Remove(Family),
    /// Prints what is no address list.
    Page(Page),
    /// Sets up what the page shows.
    Setup(Page),
    /// The directory exists but has no such command.
    UnknownCommand,
    /// There is no such directory.
    UnknownPrefix,
}

impl<'a> Command<'a> {
    pub(crate) fn parse(sentence: &'a Sentence) -> Self {
        let mut words = sentence.words();
        let mut command = Self {
            path: words.next().unwrap_or_default(),
            attributes: Vec::with_capacity(6),
            queries: Vec::new(),
            tag: None,
        };
        for word in words {
            match word {
                [b'=', attribute @ ..] => command.attributes.push(split(attribute)),
                [b'?', ..] => command.queries.push(word),
                _ => {
                    if let Some(tag) = word.strip_prefix(b".tag=") {
                        command.tag = Some(tag);
                    }
                }
            }
        }
        command
    }

    /// The last value given for an attribute.
    pub(crate) fn attribute(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.attributes.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    pub(crate) fn verb(&self) -> Verb {
        Self::verb_of(self.path)
    }

    /// The path alone, without reading the rest.
    pub(crate) fn parse_path(sentence: &Sentence) -> &[u8] {
        sentence.words().next().unwrap_or_default()
    }

    /// What the command of this path asks for.
    pub(crate) fn verb_of(path: &[u8]) -> Verb {
        let slash = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let (directory, name) = path.split_at(slash);
        match directory {
            b"" => match name {
                b"/login" => Verb::Login,
                b"/quit" => Verb::Quit,
                b"/cancel" => Verb::Cancel,
                _ => Verb::UnknownCommand,
            },
            b"/ip/firewall/address-list" => table_verb(Family::V4, name),
            b"/ipv6/firewall/address-list" => table_verb(Family::V6, name),
            b"/ip" | b"/ip/firewall" | b"/ipv6" | b"/ipv6/firewall" | b"/system" => Verb::UnknownCommand,
            _ => match Page::of(directory) {
                Some(page) if matches!(name, b"/print" | b"/getall") => Verb::Page(page),
                Some(page) if is_setup(name) => Verb::Setup(page),
                Some(_) => Verb::UnknownCommand,
                None => Verb::UnknownPrefix,
            },
        }
    }
}

fn is_setup(name: &[u8]) -> bool {
    VERBS.iter().any(|verb| name.strip_prefix(b"/") == Some(verb.as_bytes()))
}

fn table_verb(family: Family, name: &[u8]) -> Verb {
    match name {
        b"/print" | b"/getall" => Verb::Print(family),
        b"/add" => Verb::Add(family),
        b"/set" => Verb::Set(family),
        b"/remove" => Verb::Remove(family),
        _ => Verb::UnknownCommand,
    }
}

fn split(attribute: &[u8]) -> (&[u8], &[u8]) {
    match attribute.iter().position(|&byte| byte == b'=') {
        Some(equals) => (&attribute[..equals], &attribute[equals + 1..]),
        None => (attribute, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_equals_signs_and_may_be_missing() {
        let sentence = Sentence::new(["/x/add", "=comment=a=b", "=list", ".tag=7", "?=list=y", "=comment=c"]);
        let command = Command::parse(&sentence);
        assert_eq!(command.attributes[0], (&b"comment"[..], &b"a=b"[..]));
        assert_eq!(command.attribute(b"list"), Some(&b""[..]));
        assert_eq!(command.attribute(b"comment"), Some(&b"c"[..]));
        assert_eq!((command.tag, command.queries.len()), (Some(&b"7"[..]), 1));
    }

    #[test]
    fn paths_lead_to_commands_or_to_the_right_kind_of_unknown() {
        for (path, verb) in [
            ("/login", Verb::Login),
            ("/ip/firewall/address-list/getall", Verb::Print(Family::V4)),
            ("/ipv6/firewall/address-list/remove", Verb::Remove(Family::V6)),
            ("/ip/firewall/address-list/destroy", Verb::UnknownCommand),
            ("/ip/firewall/print", Verb::UnknownCommand),
            ("/user/group/print", Verb::Page(Page::Groups)),
            ("/user/group/add", Verb::Setup(Page::Groups)),
            ("/user/group/destroy", Verb::UnknownCommand),
            ("/no/such/print", Verb::UnknownPrefix),
            ("nonsense", Verb::UnknownCommand),
            ("/", Verb::UnknownCommand),
        ] {
            assert_eq!(Command::parse(&Sentence::new([path])).verb(), verb, "{path}");
        }
    }
}
