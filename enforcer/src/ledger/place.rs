//! Where a prefix stands in the order of addresses: the key by which the ledger finds bans of a
//! network's addresses, and of the networks around an address, without looking at all of them.

use std::net::IpAddr;

use ipnet::IpNet;
use rusqlite::types::{ToSql, ToSqlOutput};

/// A prefix as bytes that sort as addresses do: the family (4 or 6), the first address, the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    bytes: [u8; 18],
    length: usize,
}

// === impl Place ===

impl Place {
    /// The place of a prefix.
    pub fn of(prefix: IpNet) -> Self {
        Self::new(prefix.network(), prefix.prefix_len())
    }

    /// The first and the last place of what lies within a network.
    pub fn within(network: IpNet) -> (Self, Self) {
        (Self::new(network.network(), 0), Self::new(network.broadcast(), network.max_prefix_len()))
    }

    /// The places of the networks around a prefix, itself not included.
    pub fn around(prefix: IpNet) -> impl Iterator<Item = Self> {
        (0..prefix.prefix_len())
            .filter_map(move |length| Some(Self::of(IpNet::new(prefix.addr(), length).ok()?.trunc())))
    }

    /// The bytes, as the index sorts them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn new(first: IpAddr, prefix_length: u8) -> Self {
        let mut bytes = [0; 18];
        let end = match first {
            IpAddr::V4(address) => {
                bytes[0] = 4;
                bytes[1..5].copy_from_slice(&address.octets());
                5
            }
            IpAddr::V6(address) => {
                bytes[0] = 6;
                bytes[1..17].copy_from_slice(&address.octets());
                17
            }
        };
        bytes[end] = prefix_length;
        Self { bytes, length: end + 1 }
    }
}

impl ToSql for Place {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.as_bytes().to_sql()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = IpNet> {
        // Few bits differ, so that prefixes often lie within one another.
        let v4 = (0..4u32, 0..=32u8).prop_map(|(bits, length)| {
            IpNet::new(IpAddr::from((0xc000_0200 | bits << 6).to_be_bytes()), length).unwrap().trunc()
        });
        let v6 = (0..4u128, 0..=128u8).prop_map(|(bits, length)| {
            IpNet::new(IpAddr::from((0xc000_0200 << 96 | bits << 70).to_be_bytes()), length).unwrap().trunc()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn places_find_exactly_the_prefixes_that_share_an_address(one in prefix(), other in prefix()) {
            let (first, last) = Place::within(one);
            let place = Place::of(other);
            let found = (first.as_bytes()..=last.as_bytes()).contains(&place.as_bytes())
                || Place::around(one).any(|around| around == place);
            prop_assert_eq!(found, one.contains(&other) || other.contains(&one));
        }

        #[test]
        fn each_prefix_has_a_place_of_its_own(one in prefix(), other in prefix()) {
            prop_assert_eq!(Place::of(one) == Place::of(other), one == other);
        }
    }
}
