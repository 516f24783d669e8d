//! How RouterOS writes what its firewall address lists hold: addresses, timeouts, entry ids, comments.
//!
//! Nothing but an address in the form that a router prints ever leaves here, because RouterOS takes
//! garbage for a DNS name without an error.

use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ledger::Lineage;
use crate::prefixes::Family;

/// The largest timeout that RouterOS keeps, in seconds: `35w3d13h13m56s`. Past it the IPv4 table refuses and
/// the IPv6 table wraps in silence, so nothing larger is ever sent.
pub const LARGEST_TIMEOUT: u64 = 21_474_836;

/// The longest comment that is sent, in bytes, the mark included.
pub const LONGEST_COMMENT: usize = 200;

/// The id that a router gave an entry, such as `*1A`. Ids grow and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(NonZeroU32);

/// What opens the comment of every entry that is ours, and tells it from everyone else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark(Arc<str>);

/// The mark of our entries, and those that they had before the configuration was changed; and the word of the ledger
/// that they are of, which stands after the mark: `atalaya:k7f2: ssh from web-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    current: Mark,
    old: Vec<Mark>,
    /// Without one, entries say only the mark, and every one with the mark is ours.
    lineage: Option<Lineage>,
    adopted: Vec<Lineage>,
}

/// Belonging a comment says that its entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belonging {
    /// It carries our mark, and no word of another ledger.
    Ours,
    /// It carries our mark and the word of another ledger.
    Rival(Lineage),
    /// It carries no mark of ours.
    Other,
}

// === impl Family ===

impl Family {
    /// The path of the `add` command.
    pub const fn add(self) -> &'static str {
        match self {
            Self::V4 => "/ip/firewall/address-list/add",
            Self::V6 => "/ipv6/firewall/address-list/add",
        }
    }

    /// The path of the `set` command.
    pub const fn set(self) -> &'static str {
        match self {
            Self::V4 => "/ip/firewall/address-list/set",
            Self::V6 => "/ipv6/firewall/address-list/set",
        }
    }

    /// The path of the `remove` command.
    pub const fn remove(self) -> &'static str {
        match self {
            Self::V4 => "/ip/firewall/address-list/remove",
            Self::V6 => "/ipv6/firewall/address-list/remove",
        }
    }

    /// The path of the `print` command.
    pub const fn print(self) -> &'static str {
        match self {
            Self::V4 => "/ip/firewall/address-list/print",
            Self::V6 => "/ipv6/firewall/address-list/print",
        }
    }
}

// === impl EntryId ===

impl EntryId {
    /// Reads `*1A`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('*').filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let number = u32::from_str_radix(digits, 16).ok()?;
        NonZeroU32::new(number).map(Self)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "*{:X}", self.0)
    }
}

// === impl Mark ===

impl Mark {
    /// A mark of this text, made safe for a comment.
    pub fn new(text: &str) -> Self {
        Self(printable(text, LONGEST_COMMENT / 2).into())
    }

    /// The comment of an entry of ours: the mark, then what is to be said about the ban.
    pub fn comment(&self, text: &str) -> String {
        let mut comment = format!("{}: ", self.0);
        comment.push_str(&printable(text, LONGEST_COMMENT - comment.len()));
        comment
    }

    /// Whether the comment carries the mark: the mark alone, or the mark and a colon.
    pub fn owns(&self, comment: &[u8]) -> bool {
        self.read(comment).is_some()
    }

    /// The word of a ledger that a comment of this mark carries, if any, and where what it says begins.
    fn read(&self, comment: &[u8]) -> Option<(Option<Lineage>, usize)> {
        let rest = comment.strip_prefix(self.0.as_bytes())?;
        let start = self.0.len();
        let Some(rest) = rest.strip_prefix(b":") else { return rest.is_empty().then_some((None, start)) };
        match Lineage::at_start(rest) {
            Some(lineage) if rest.get(lineage.as_str().len()) == Some(&b':') => {
                Some((Some(lineage), start + lineage.as_str().len() + 2))
            }
            _ => Some((None, start + 1)),
        }
    }
}

// === impl Marks ===

impl Marks {
    /// The mark, and the earlier ones.
    pub fn new(current: Mark, old: impl IntoIterator<Item = Mark>) -> Self {
        let old = old.into_iter().filter(|mark| *mark != current).collect();
        Self { current, old, lineage: None, adopted: Vec::new() }
    }

    /// With the word of the ledger that the entries are of, and those of others that are taken for it.
    pub fn of_lineage(self, lineage: Option<Lineage>, adopted: &[Lineage]) -> Self {
        Self { lineage, adopted: adopted.to_vec(), ..self }
    }

    /// The mark that new entries get.
    pub fn current(&self) -> &Mark {
        &self.current
    }

    /// The comment of an entry of ours: the mark, the ledger's word, then what is to be said about the ban.
    pub fn comment(&self, text: &str) -> String {
        Mark(self.opening(self.lineage).into()).comment(text)
    }

    /// What opens the comments of a ledger's entries under our mark: `atalaya:k7f2`.
    pub fn opening(&self, lineage: Option<Lineage>) -> String {
        lineage.map_or_else(|| self.current.0.to_string(), |lineage| format!("{}:{lineage}", self.current.0))
    }

    /// The word of the ledger that our entries are of.
    pub fn lineage(&self) -> Option<Lineage> {
        self.lineage
    }

    /// Whether a comment is today's but for the ledger's word, which it lacks: of a release before there was one.
    pub fn lacks_only_lineage(&self, comment: &str, text: &str) -> bool {
        self.lineage.is_some() && comment == self.current.comment(text)
    }

    /// Belonging the entry of a comment is. A ledger's word was not always there, and what has none is ours.
    pub fn whose(&self, comment: &[u8]) -> Belonging {
        let mut read = std::iter::once(&self.current).chain(&self.old).filter_map(|mark| mark.read(comment));
        match (read.next(), self.lineage) {
            (None, _) => Belonging::Other,
            (Some((Some(word), _)), Some(ours)) if word != ours && !self.adopted.contains(&word) => {
                Belonging::Rival(word)
            }
            (Some(_), _) => Belonging::Ours,
        }
    }

    /// What a comment of ours says after its mark.
    pub fn text<'a>(&self, comment: &'a str) -> &'a str {
        let mut marks = std::iter::once(&self.current).chain(&self.old);
        let start = marks.find_map(|mark| mark.read(comment.as_bytes())).map(|(_, start)| start);
        start.and_then(|start| comment.get(start..)).unwrap_or_default().trim_start_matches([':', ' '])
    }
}

/// The prefix as RouterOS prints it: IPv4 hosts without `/32`, IPv6 always with its length.
pub fn address_text(prefix: IpNet) -> String {
    match prefix {
        IpNet::V4(v4) if v4.prefix_len() == 32 => v4.addr().to_string(),
        prefix => prefix.to_string(),
    }
}

/// The prefix that a router's entry stands for; `None` for ranges and DNS names.
pub fn parse_address(family: Family, text: &str) -> Option<IpNet> {
    let prefix = match family {
        Family::V4 => match text.parse::<Ipv4Addr>() {
            Ok(address) => IpNet::V4(address.into()),
            Err(_) => IpNet::V4(Ipv4Net::from_str(text).ok()?),
        },
        Family::V6 => match text.parse::<Ipv6Addr>() {
            Ok(address) => IpNet::V6(address.into()),
            Err(_) => IpNet::V6(Ipv6Net::from_str(text).ok()?),
        },
    };
    Some(prefix.trunc())
}

/// Seconds as RouterOS prints a timeout: `23h59m55s`, `1w2d`, `0s`.
pub fn timeout_text(seconds: u64) -> String {
    if seconds == 0 {
        return "0s".to_owned();
    }
    let mut text = String::with_capacity(16);
    let mut rest = seconds;
    for (unit, length) in [('w', 604_800), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)] {
        if rest >= length {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{unit}", rest / length);
            rest %= length;
        }
    }
    text
}

/// The whole seconds of a timeout in any form that RouterOS prints or takes: `1d2h3m4s`, `00:30:00`,
/// `35w3d13:13:56`, `1800`; a fraction of a second is dropped. `None` for anything else.
pub fn parse_timeout(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        if after.starts_with([':', '.']) {
            return total.checked_add(parse_clock(rest)?);
        }
        let number: u64 = digits.parse().ok()?;
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "" if digits.len() == text.trim().len() => number,
            "s" => number,
            "m" => number.checked_mul(60)?,
            "h" => number.checked_mul(3600)?,
            "d" => number.checked_mul(86_400)?,
            "w" => number.checked_mul(604_800)?,
            "ms" | "us" | "ns" => 0,
            _ => return None,
        };
        total = total.checked_add(seconds)?;
        rest = after.trim_start();
    }
    Some(total)
}

/// `HH:MM:SS`, with or without a fraction.
fn parse_clock(text: &str) -> Option<u64> {
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    let mut total = 0_u64;
    let mut parts = 0;
    for part in whole.split(':') {
        let number: u64 = part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())??;
        total = total.checked_mul(60)?.checked_add(number)?;
        parts += 1;
    }
    match parts {
        3 => Some(total),
        2 => total.checked_mul(60),
        _ => None,
    }
}

/// The text without control characters, cut to so many bytes at a character's end.
pub(super) fn printable(text: &str, bytes: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(bytes));
    for c in text.chars().filter(|c| !c.is_control()) {
        if clean.len() + c.len_utf8() > bytes {
            break;
        }
        clean.push(c);
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::prefixes::canonical;

    #[rstest]
    #[case("23h59m55s", 86_395)]
    #[case("1w2d", 777_600)]
    #[case("00:30:00", 1800)]
    #[case("00:30", 1800)]
    #[case("1800", 1800)]
    #[case("35w3d13h13m56s", LARGEST_TIMEOUT)]
    #[case("35w3d13:13:56", LARGEST_TIMEOUT)]
    #[case("1d2h3m4s", 93_784)]
    #[case("1s500ms", 1)]
    #[case("0s", 0)]
    #[case("1d 01:00:00", 90_000)]
    fn every_form_of_a_timeout_is_read(#[case] text: &str, #[case] seconds: u64) {
        assert_eq!(parse_timeout(text), Some(seconds));
    }

    #[rstest]
    #[case("")]
    #[case("soon")]
    #[case("m")]
    #[case("5x")]
    #[case("1:2:3:4")]
    #[case("99999999999999999999w")]
    #[case("18446744073709551615w")]
    fn what_is_no_timeout_is_refused(#[case] text: &str) {
        assert_eq!(parse_timeout(text), None);
    }

    #[rstest]
    #[case("1.2.3.4/32", "1.2.3.4")]
    #[case("198.51.100.7/24", "198.51.100.0/24")]
    #[case("2001:DB8::1/128", "2001:db8::1/128")]
    #[case("2001:db8::1/64", "2001:db8::/64")]
    #[case("::ffff:1.2.3.4/128", "1.2.3.4")]
    fn prefixes_take_the_form_that_the_router_prints(#[case] prefix: &str, #[case] text: &str) {
        let prefix = canonical(prefix.parse().unwrap());
        assert_eq!(address_text(prefix), text);
        assert_eq!(parse_address(Family::of(prefix), text), Some(prefix));
    }

    #[test]
    fn ranges_and_names_are_no_prefix() {
        for text in ["203.0.113.1-203.0.113.9", "example.org", "", "1.2.3.4/33", "2001:db8::1"] {
            assert_eq!(parse_address(Family::V4, text), None, "{text}");
        }
    }

    #[test]
    fn only_the_whole_mark_makes_a_comment_ours() {
        let mark = Mark::new("atalaya");
        assert!(mark.owns(mark.comment("sshd at web-1").as_bytes()));
        assert!(mark.owns(b"atalaya"));
        for foreign in ["", "atalayas: x", "atalaya2", "my atalaya: x", "Atalaya: x"] {
            assert!(!mark.owns(foreign.as_bytes()), "{foreign:?} passed for ours");
        }
    }

    #[test]
    fn a_comment_tells_which_ledger_its_entry_is_of_and_one_without_is_ours() {
        let [ours, other, adopted]: [Lineage; 3] = ["k7f2", "x2yz", "aaaa"].map(|word| word.parse().unwrap());
        let old = Mark::new("watchman");
        let marks = Marks::new(Mark::new("atalaya"), [old]).of_lineage(Some(ours), &[adopted]);
        assert_eq!(marks.comment("ssh from web-1"), "atalaya:k7f2: ssh from web-1");
        for (comment, whose, text) in [
            ("atalaya:k7f2: ssh from web-1", Belonging::Ours, "ssh from web-1"),
            ("atalaya: ssh from web-1", Belonging::Ours, "ssh from web-1"),
            ("atalaya", Belonging::Ours, ""),
            ("watchman:k7f2: x", Belonging::Ours, "x"),
            ("atalaya:aaaa: x", Belonging::Ours, "x"),
            ("atalaya:x2yz: x", Belonging::Rival(other), "x"),
            ("watchman:x2yz:", Belonging::Rival(other), ""),
            ("atalaya:x2yz", Belonging::Ours, "x2yz"),
            ("atalaya: x2yz: x", Belonging::Ours, "x2yz: x"),
            ("atalayas:k7f2: x", Belonging::Other, ""),
            ("by hand", Belonging::Other, ""),
        ] {
            assert_eq!(marks.whose(comment.as_bytes()), whose, "{comment}");
            assert_eq!(marks.text(comment), text, "{comment}");
        }
        assert!(marks.lacks_only_lineage("atalaya: ssh", "ssh"));
        assert!(!marks.lacks_only_lineage("atalaya:k7f2: ssh", "ssh"));
        let without = Marks::new(Mark::new("atalaya"), []);
        assert_eq!(without.comment("x"), "atalaya: x");
        assert_eq!(without.whose(b"atalaya:x2yz: x"), Belonging::Ours);
    }

    #[test]
    fn a_comment_carries_no_control_character_and_stays_short() {
        let comment = Mark::new("atalaya").comment(&format!("a\r\n\0=b\u{7f}{}", "é".repeat(500)));
        assert!(comment.starts_with("atalaya: a=bé"));
        assert!(comment.len() <= LONGEST_COMMENT && !comment.contains(char::is_control));
    }

    #[test]
    fn ids_are_read_as_written() {
        assert_eq!(EntryId::parse("*1A").unwrap().to_string(), "*1A");
        for bad in ["", "*", "1A", "*G", "*0", "*100000000", "*+1"] {
            assert_eq!(EntryId::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_timeout_reads_as_itself(seconds in 0..=LARGEST_TIMEOUT) {
            prop_assert_eq!(parse_timeout(&timeout_text(seconds)), Some(seconds));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,30}", likely in "[0-9wdhms:. ]{0,24}") {
            parse_timeout(&text);
            parse_timeout(&likely);
            EntryId::parse(&text);
            parse_address(Family::V4, &text);
            parse_address(Family::V6, &text);
        }
    }
}
