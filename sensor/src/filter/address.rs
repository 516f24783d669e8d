//! Whose line it is: which of the places that a regex offers is taken, and what stands there. The regex
//! finds what has an address's shape; whether it is one, and a whole one, is told here by reading it.
//!
//! **Whole addresses.** `1.2.3.4` of `1.2.3.4.example.com` is a part of a name. An IPv6 address is parted by
//! the same colons that may follow it, so that it ends where the next word cannot be one of its groups, or
//! where it has all eight. The same text may be an address to the end and one with a port: then it is the
//! longer one, as in fail2ban, unless the regex wants a port.
//!
//! | text | address |
//! |---|---|
//! | `2001:db8::7:50058` | `2001:db8::7`: no group has five digits |
//! | `2001:db8::7:5005` | all of it |
//! | `2001:db8::7:5005`, and the regex goes on with `:\d+` | `2001:db8::7` |
//! | `2001:db8:1:2:3:4:5:6:80` | `2001:db8:1:2:3:4:5:6`: it is full |
//! | `aa:bb:cc:dd:ee:ff:00:11:22:33` | none: what follows is no port |

use std::net::IpAddr;
use std::ops::Range;

use atalaya_wire::canonical;

use super::Host;
use super::machine::{Group, Groups};
use super::pattern::{self, Leading, SplitPattern};

/// How often a place that is no whole address is skipped in one line.
const RETRIES: usize = 16;
/// The longest IPv6 address without a dotted part, in bytes.
const LONGEST: usize = 39;
/// The most digits of one of its groups.
const GROUP: usize = 4;

/// A host, and where it stands.
pub(super) type HostPlace = (Host, Range<usize>);

/// The leftmost place of a match that is a whole address.
pub(super) fn leftmost(leading: &Leading, text: &[u8]) -> Option<HostPlace> {
    leading.parts.as_ref().and_then(|parts| leftmost_in_parts(parts, text)).or_else(|| {
        first_address(text, |from| {
            let captures = leading.whole.captures_at(text, from)?;
            host_range(&captures)
        })
    })
}

/// The same where the head's own choice of a place leaves one for the rest. Where it does not, another
/// choice may: that is for the whole regex to find.
fn leftmost_in_parts(parts: &SplitPattern, text: &[u8]) -> Option<HostPlace> {
    first_address(text, |from| {
        let (end, host) = if parts.is_bare {
            let found = parts.head.find_at(text, from)?.range();
            let start =
                found.start + text[found.clone()].iter().position(|byte| pattern::in_addresses(*byte))?;
            let length =
                text[start..found.end].iter().take_while(|byte| pattern::in_addresses(**byte)).count();
            (found.end, start..start + length)
        } else {
            let captures = parts.head.captures_at(text, from)?;
            (captures.get(0)?.end(), host_range(&captures)?)
        };
        parts.rest.is_match_at(text, end).then_some(host)
    })
}

/// The first of the places that `next` finds, each from a place in the text on, that is a whole address.
fn first_address(text: &[u8], next: impl Fn(usize) -> Option<Range<usize>>) -> Option<HostPlace> {
    let mut from = 0;
    for retry in 0..RETRIES {
        let place = next(from)?;
        from = place.start + 1;
        // The end of what is too long for an address may have the shape of one.
        if retry > 0 && follows_group(&text[..place.start]) {
            continue;
        }
        let found = whole_address(text, place);
        if found.is_some() {
            return found;
        }
    }
    None
}

fn host_range(captures: &regex::bytes::Captures<'_>) -> Option<Range<usize>> {
    let host = captures.name(pattern::IP4).or_else(|| captures.name(pattern::IP6))?;
    Some(host.range())
}

/// The host that a match found. An address that is only a part of a longer word is that word.
pub(super) fn host(groups: Groups<'_>, text: &[u8]) -> Option<HostPlace> {
    let address = groups(Group::Ip4).or_else(|| groups(Group::Ip6));
    if let Some(place) = address.clone().and_then(|found| whole_address(text, found)) {
        return Some(place);
    }
    let found = address.or_else(|| groups(Group::Dns))?;
    Some((Host::Name(String::from_utf8_lossy(&text[found.clone()]).into_owned()), found))
}

/// A text as a host: an address where it is one.
pub(super) fn named(text: &[u8]) -> Host {
    read(text).map_or_else(|| Host::Name(String::from_utf8_lossy(text).into_owned()), Host::Address)
}

fn read(text: &[u8]) -> Option<IpAddr> {
    Some(canonical(std::str::from_utf8(text).ok()?.parse().ok()?))
}

/// The address that begins at a place, where it is no part of a longer word: the whole place or, of what
/// may be IPv6, as much as is an address with something behind a colon.
fn whole_address(text: &[u8], place: Range<usize>) -> Option<HostPlace> {
    let Range { start, mut end } = place;
    if !text[start..end].contains(&b'.') {
        end = end.min(start + LONGEST + 1);
    }
    loop {
        let candidate = start..end;
        if let Some(address) = read(&text[candidate.clone()])
            && stands_alone(text, candidate.clone())
        {
            return Some((Host::Address(address), candidate));
        }
        if text[candidate.clone()].contains(&b'.') {
            return None;
        }
        end = start + text[candidate].iter().rposition(|byte| *byte == b':')?;
    }
}

/// Whether neither a letter, a digit, nor a dot or hyphen that joins more to it, touches the place, and
/// nothing after it that may be one more group of it.
fn stands_alone(text: &[u8], place: Range<usize>) -> bool {
    let joins = |byte: u8| matches!(byte, b'.' | b'-');
    let touched_before = match &text[..place.start] {
        [.., last] if is_word(*last) => true,
        [.., other, last] if joins(*last) => is_word(*other),
        _ => false,
    };
    let touched_after = match &text[place.end..] {
        [first, ..] if is_word(*first) => true,
        [first, next, ..] if joins(*first) => is_word(*next),
        [b':', b':', ..] => true,
        [b':', after @ ..] => {
            let place = &text[place];
            place.contains(&b':') && !place.contains(&b'.') && may_be_group(after)
        }
        _ => false,
    };
    !touched_before && !touched_after
}

/// Whether what follows an IPv6 address and a colon belongs to it. A word that is too long for a group, or
/// no hexadecimal number, does not; nor does a number that stands where a port does.
fn may_be_group(after: &[u8]) -> bool {
    let length = after.iter().take_while(|byte| is_word(**byte)).count();
    let (word, rest) = after.split_at(length);
    if length == 0 || length > GROUP || !word.iter().all(u8::is_ascii_hexdigit) {
        return false;
    }
    let goes_on = match rest {
        [b':', next, ..] => next.is_ascii_hexdigit() || *next == b':',
        [b'.' | b'-', next, ..] => is_word(*next),
        _ => false,
    };
    goes_on || !word.iter().all(u8::is_ascii_digit)
}

/// Whether what stands before an address may be one more group of it.
fn follows_group(before: &[u8]) -> bool {
    let Some(label) = before.strip_suffix(b":") else { return false };
    let label = label.strip_suffix(b":").unwrap_or(label);
    let length = label.iter().rev().take_while(|byte| is_word(**byte)).count();
    let word = &label[label.len() - length..];
    (1..=GROUP).contains(&length) && word.iter().all(u8::is_ascii_hexdigit)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}
