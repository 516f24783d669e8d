//! What an address list takes as an address, and the one form it keeps of it.
//!
//! Network bits are cleared, `/32` falls away in IPv4 while `/128` appears in IPv6, and what is no
//! address at all becomes a DNS name with no error, as `facts/ROUTEROS.md` found on CHR 7.24.

use std::fmt::{self, Display};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Which of the two tables: `/ip/…` or `/ipv6/firewall/address-list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4, in `/ip/firewall/address-list`.
    V4,
    /// IPv6, in `/ipv6/firewall/address-list`.
    V6,
}

/// An address as a table keeps it: equal ones are duplicates of each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IPv4 network; a single address is a /32 and printed without it.
    V4(Ipv4Net),
    /// An IPv4 range that is no network, first and last.
    Range(Ipv4Addr, Ipv4Addr),
    /// An IPv6 network, always printed with its length.
    V6(Ipv6Net),
    /// Anything else: RouterOS would go and resolve it.
    Name(Box<str>),
}

/// The text was refused: RouterOS takes it neither for an address nor for a DNS name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("failure: {0} is not a valid dns name")]
pub struct AddressError(String);

impl Address {
    /// Reads and normalises `text` as the table of `family` does.
    pub fn parse(family: Family, text: &[u8]) -> Result<Self, AddressError> {
        let refused = || AddressError(String::from_utf8_lossy(text).into_owned());
        let text = std::str::from_utf8(text).map_err(|_| refused())?;
        let address = match family {
            Family::V4 => parse_v4(text),
            Family::V6 => parse_v6(text),
        };
        match address {
            Some(address) => Ok(address),
            None if is_name(text) => Ok(Self::Name(text.into())),
            None => Err(refused()),
        }
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(network) if network.prefix_len() == 32 => network.addr().fmt(f),
            Self::V4(network) => network.fmt(f),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::V6(network) => network.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

fn parse_v4(text: &str) -> Option<Address> {
    if let Some((first, last)) = text.split_once('-') {
        let (first, last): (Ipv4Addr, Ipv4Addr) = (first.parse().ok()?, last.parse().ok()?);
        return (first <= last)
            .then(|| network_of(first, last).map_or(Address::Range(first, last), Address::V4));
    }
    let network = match text.split_once('/') {
        Some(_) => text.parse::<Ipv4Net>().ok()?.trunc(),
        None => text.parse::<Ipv4Addr>().ok()?.into(),
    };
    Some(Address::V4(network))
}

/// The network of which these are the first and the last address, if they are.
fn network_of(first: Ipv4Addr, last: Ipv4Addr) -> Option<Ipv4Net> {
    let host_bits = first.to_bits() ^ last.to_bits();
    let is_whole = host_bits & host_bits.wrapping_add(1) == 0 && first.to_bits() & host_bits == 0;
    is_whole.then(|| Ipv4Net::new(first, host_bits.leading_zeros() as u8).ok())?
}

fn parse_v6(text: &str) -> Option<Address> {
    let network = match text.split_once('/') {
        Some(_) => text.parse::<Ipv6Net>().ok()?.trunc(),
        None => text.parse::<Ipv6Addr>().ok()?.into(),
    };
    Some(Address::V6(network))
}

/// RouterOS is generous: `203.0.113.1-254` and `no such thing` written together are names to it.
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'*');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Family::V4, "198.51.100.7/24", "198.51.100.0/24")]
    #[case(Family::V4, "1.2.3.4/32", "1.2.3.4")]
    #[case(Family::V4, "1.2.3.4", "1.2.3.4")]
    #[case(Family::V4, "0.0.0.0/0", "0.0.0.0/0")]
    #[case(Family::V4, "203.0.113.1-203.0.113.9", "203.0.113.1-203.0.113.9")]
    #[case(Family::V4, "192.168.0.0-192.168.1.255", "192.168.0.0/23")]
    #[case(Family::V4, "192.168.1.0-192.168.2.255", "192.168.1.0-192.168.2.255")]
    #[case(Family::V4, "198.51.100.1-198.51.100.1", "198.51.100.1")]
    #[case(Family::V4, "0.0.0.0-255.255.255.255", "0.0.0.0/0")]
    #[case(Family::V4, "203.0.113.1-254", "203.0.113.1-254")]
    #[case(Family::V4, "1.2.3.4.5", "1.2.3.4.5")]
    #[case(Family::V4, "example.org", "example.org")]
    #[case(Family::V6, "2001:db8::1", "2001:db8::1/128")]
    #[case(Family::V6, "2001:DB8:0:0::1/128", "2001:db8::1/128")]
    #[case(Family::V6, "2001:db8::1/64", "2001:db8::/64")]
    #[case(Family::V6, "::ffff:1.2.3.4", "::ffff:1.2.3.4/128")]
    fn kept_form(#[case] family: Family, #[case] text: &str, #[case] kept: &str) {
        assert_eq!(Address::parse(family, text.as_bytes()).expect("accepted").to_string(), kept);
    }

    #[rstest]
    #[case("::ffff:1.2.3.4")]
    #[case("2001:db8::1")]
    #[case("1.2.3.4/33")]
    #[case("two words")]
    #[case("")]
    fn refused_by_the_ipv4_list(#[case] text: &str) {
        let error = Address::parse(Family::V4, text.as_bytes()).expect_err("refused");
        assert_eq!(error.to_string(), format!("failure: {text} is not a valid dns name"));
    }

    proptest! {
        #[test]
        fn the_kept_form_is_kept_as_it_is(bits in any::<u32>(), length in 0u8..=32, wide in any::<u128>(), long in 0u8..=128) {
            for (family, text) in [
                (Family::V4, format!("{}/{length}", Ipv4Addr::from(bits))),
                (Family::V6, format!("{}/{long}", Ipv6Addr::from(wide))),
            ] {
                let once = Address::parse(family, text.as_bytes()).expect("an address");
                let twice = Address::parse(family, once.to_string().as_bytes()).expect("its own form");
                prop_assert_eq!(once, twice);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Address::parse(Family::V4, &text);
            let _ = Address::parse(Family::V6, &text);
        }
    }
}
