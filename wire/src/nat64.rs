//! Addresses of IPv4 hosts as IPv6-only ones see them, behind a translator (RFC 6052): `64:ff9b::192.0.2.1`, or with a
//! prefix of one's own, `2001:db8:64::192.0.2.1`. The host is the IPv4 one; a /64 there is everyone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{Networks, allow};

/// RFC 6052's lengths of prefixes, in bits.
const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];
/// The byte that every such address has as zero: an interface's identifier could mean something by it.
const RESERVED: usize = 8;

/// The prefixes of translators: the well-known one, `64:ff9b::/96`, and those of one's own network. Written as a list of
/// strings, without the well-known one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Nat64(Vec<Ipv6Net>);

/// A text that is no translator's prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no prefix of a NAT64; expected an IPv6 network of 32, 40, 48, 56, 64 or 96 bits, such as `2001:db8:64::/96`"
)]
pub struct Nat64Error(String);

// === impl Nat64 ===

impl Nat64 {
    /// The form in which an address is counted, compared and banned: that of the IPv4 host where it is one's behind a
    /// translator, else as [`canonical`](crate::canonical).
    pub fn client(&self, address: IpAddr) -> IpAddr {
        let address = allow::canonical(address);
        let IpAddr::V6(v6) = address else { return address };
        self.0.iter().find_map(|prefix| embedded(*prefix, v6)).map_or(address, IpAddr::V4)
    }

    /// A network in that form: IPv4 where it is of hosts behind one translator.
    pub fn network(&self, network: IpNet) -> IpNet {
        let network = allow::canonical_network(network);
        let IpNet::V6(v6) = network else { return network };
        self.0.iter().find_map(|prefix| embedded_network(*prefix, v6)).map_or(network, IpNet::V4)
    }

    /// Networks in that form.
    pub fn networks(&self, networks: &Networks) -> Networks {
        networks.iter().map(|network| self.network(network)).collect()
    }

    /// The addresses that stand for one: itself, and what it is behind each translator of one's own.
    pub fn forms(&self, address: IpAddr) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = if let IpAddr::V4(v4) = address { Some(v4) } else { None };
        let behind = move |prefix: &Ipv6Net| Some(IpAddr::V6(embed(*prefix, v4?)));
        std::iter::once(address).chain(self.0.iter().filter_map(behind))
    }

    /// Whether hosts behind a translator are in a network, which stands for everyone then.
    pub fn touches(&self, network: IpNet) -> bool {
        let IpNet::V6(network) = network else { return false };
        let touches = |prefix: &Ipv6Net| prefix.contains(&network) || network.contains(prefix);
        touches(&well_known()) || self.0.iter().any(touches)
    }

    /// Whether an address is one of a host behind a translator, as packets show it.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.touches(IpNet::from(address))
    }

    /// Whether there is none but the well-known one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<Vec<String>> for Nat64 {
    type Error = Nat64Error;

    fn try_from(texts: Vec<String>) -> Result<Self, Nat64Error> {
        let prefix = |text: String| {
            let prefix: Option<Ipv6Net> = text.trim().parse().ok();
            let prefix = prefix.filter(|prefix| LENGTHS.contains(&prefix.prefix_len()));
            prefix.map(|prefix| prefix.trunc()).filter(|prefix| has_room(*prefix)).ok_or(Nat64Error(text))
        };
        texts.into_iter().map(prefix).collect::<Result<_, _>>().map(Self)
    }
}

impl From<Nat64> for Vec<String> {
    fn from(prefixes: Nat64) -> Self {
        prefixes.0.iter().map(ToString::to_string).collect()
    }
}

/// `64:ff9b::/96`.
pub(crate) fn well_known() -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96)
}

/// The IPv4 address in one behind a translator with this prefix.
pub(crate) fn embedded(prefix: Ipv6Net, address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    if !prefix.contains(&address) || octets[RESERVED] != 0 {
        return None;
    }
    let mut v4 = [0; 4];
    places(prefix).zip(&mut v4).for_each(|(place, octet)| *octet = octets[place]);
    Some(v4.into())
}

/// The IPv4 network of one behind a translator, where it tells more than the prefix.
pub(crate) fn embedded_network(prefix: Ipv6Net, network: Ipv6Net) -> Option<Ipv4Net> {
    if network.prefix_len() <= prefix.prefix_len() {
        return None;
    }
    let v4 = embedded(prefix, network.network())?;
    // How many of its bits the network's length takes in; the reserved byte counts for none.
    let bits = places(prefix).map(|place| network.prefix_len().saturating_sub(place as u8 * 8).min(8)).sum();
    Ipv4Net::new(v4, bits).ok().filter(|v4| v4.prefix_len() > 0).map(|v4| v4.trunc())
}

fn embed(prefix: Ipv6Net, address: Ipv4Addr) -> Ipv6Addr {
    let mut octets = prefix.network().octets();
    places(prefix).zip(address.octets()).for_each(|(place, octet)| octets[place] = octet);
    octets.into()
}

/// Where the bytes of the IPv4 address stand.
fn places(prefix: Ipv6Net) -> impl Iterator<Item = usize> {
    let first = usize::from(prefix.prefix_len() / 8);
    (first..16).filter(|place| *place != RESERVED).take(4)
}

/// Of a prefix of 96 bits the reserved byte is the prefix's own, and must be zero too.
fn has_room(prefix: Ipv6Net) -> bool {
    prefix.network().octets()[RESERVED] == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::canonical;

    fn nat64(texts: &[&str]) -> Nat64 {
        Nat64::try_from(texts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    // The examples of RFC 6052, 2.4.
    #[rstest]
    #[case("2001:db8::/32", "2001:db8:c000:221::")]
    #[case("2001:db8:100::/40", "2001:db8:1c0:2:21::")]
    #[case("2001:db8:122::/48", "2001:db8:122:c000:2:2100::")]
    #[case("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::")]
    #[case("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::")]
    #[case("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33")]
    fn an_address_behind_a_translator_is_the_ipv4_one(#[case] prefix: &str, #[case] address: &str) {
        let (nat64, address): (_, IpAddr) = (nat64(&[prefix]), address.parse().unwrap());
        let client: IpAddr = "192.0.2.33".parse().unwrap();
        assert_eq!(nat64.client(address), client);
        assert!(nat64.forms(client).any(|form| form == address));
        assert!(nat64.holds(address) && !nat64.holds("2001:dead::1".parse().unwrap()));
        assert_eq!(nat64.client("2001:dead::1".parse().unwrap()).to_string(), "2001:dead::1");
        // Not what the RFC makes.
        let IpAddr::V6(v6) = address else { panic!("{address}") };
        let odd = IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | 1 << 56));
        assert_eq!(nat64.client(odd), odd);
    }

    #[test]
    fn the_well_known_prefix_is_known_to_all_and_the_networks_in_it_are_ipv4() {
        let network = |text: &str| Nat64::default().network(text.parse().unwrap()).to_string();
        assert_eq!(canonical("64:ff9b::c000:201".parse().unwrap()).to_string(), "192.0.2.1");
        assert_eq!(network("64:ff9b::c000:200/120"), "192.0.2.0/24");
        assert_eq!(network("64:ff9b::c000:201/128"), "192.0.2.1/32");
        // Everyone: it stays what it is, and allows nobody.
        assert_eq!(network("64:ff9b::/96"), "64:ff9b::/96");
        for everyone in ["64:ff9b::/96", "64:ff9b::/64", "64:ff9b::/32"] {
            assert!(Nat64::default().touches(everyone.parse().unwrap()), "{everyone}");
        }
        // The local-use one (RFC 8215) has no length of its own.
        assert_eq!(canonical("64:ff9b:1::c000:201".parse().unwrap()).to_string(), "64:ff9b:1::c000:201");
        let own = nat64(&["64:ff9b:1::/96", "2001:db8:64::/64"]);
        assert_eq!(own.network("64:ff9b:1::c000:200/120".parse().unwrap()).to_string(), "192.0.2.0/24");
        assert_eq!(own.network("2001:db8:64:0:c0::/80".parse().unwrap()).to_string(), "192.0.0.0/8");
        let lists: Networks = ["64:ff9b::c000:201/128", "2001:db8:64:0:c6:3364::/96", "2001:db8::/48"]
            .map(|text| text.parse::<IpNet>().unwrap())
            .into_iter()
            .collect();
        let lists: Vec<String> = own.networks(&lists).into();
        assert_eq!(lists, ["192.0.2.1", "198.51.100.0/24", "2001:db8::/48"]);
    }

    #[rstest]
    #[case("2001:db8::/33")]
    #[case("2001:db8::1")]
    #[case("192.0.2.0/24")]
    #[case("2001:db8:64:0:ff00::/96")]
    fn what_is_no_prefix_is_refused_with_what_would_be_right(#[case] text: &str) {
        let error = Nat64::try_from(vec![text.to_owned()]).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("2001:db8:64::/96"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_put_behind_a_translator_comes_out_again(
            v4 in any::<u32>(), prefix in any::<u128>(), length in prop::sample::select(LENGTHS.to_vec()),
        ) {
            let prefix = Ipv6Net::new(Ipv6Addr::from_bits(prefix & !(0xff << 56)), length).unwrap().trunc();
            let v4 = Ipv4Addr::from_bits(v4);
            let address = embed(prefix, v4);
            prop_assert_eq!(embedded(prefix, address), Some(v4));
            for bits in length + 1..=128 {
                if let Some(network) = embedded_network(prefix, Ipv6Net::new(address, bits).unwrap()) {
                    prop_assert!(network.contains(&v4));
                }
            }
        }
    }
}
