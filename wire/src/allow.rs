//! Addresses and networks that are never banned, and the one form in which addresses are compared.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Name, nat64};

/// The form in which every address is counted, compared and banned: an IPv4-mapped IPv6 address
/// (`::ffff:192.0.2.1`) is the IPv4 address that it maps, and one with NAT64's well-known prefix (`64:ff9b::192.0.2.1`)
/// the one of the host behind the translator. [`Nat64`](crate::Nat64) knows other prefixes too.
pub fn canonical(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => nat64::embedded(nat64::well_known(), v6).map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A set of addresses and networks. Written in JSON and TOML as a list of strings, each an address
/// (`192.0.2.1`) or a network (`192.0.2.0/24`, `2001:db8::/32`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Networks(Vec<IpNet>);

/// The allow list as the enforcer publishes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowList {
    /// What is never banned: the configured networks, the routers' addresses, the enforcer's own.
    pub networks: Networks,
    /// Which ledger the enforcer has, as in an [`Ack`](crate::Ack).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Name>,
}

/// `{0}` is neither an address nor a network; expected such as `192.0.2.1`, `192.0.2.0/24` or `2001:db8::/32`
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither an address nor a network; expected such as `192.0.2.1`, `192.0.2.0/24` or `2001:db8::/32`"
)]
pub struct NetworkError(String);

// === impl Networks ===

impl Networks {
    /// Adds a network; host bits are cleared and an IPv4-mapped network becomes an IPv4 one.
    pub fn insert(&mut self, network: IpNet) {
        let network = canonical_network(network);
        if !self.0.contains(&network) {
            self.0.push(network);
        }
    }

    /// Whether the address lies in any of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether any of the networks and the given one share an address.
    pub fn overlaps(&self, network: IpNet) -> bool {
        let network = canonical_network(network);
        self.0.iter().any(|own| own.contains(&network) || network.contains(own))
    }

    /// Whether one of the networks holds all addresses of the given one.
    pub fn covers(&self, network: IpNet) -> bool {
        let network = canonical_network(network);
        self.0.iter().any(|own| own.contains(&network))
    }

    /// The networks, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.0.iter().copied()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Extend<IpNet> for Networks {
    fn extend<T: IntoIterator<Item = IpNet>>(&mut self, networks: T) {
        for network in networks {
            self.insert(network);
        }
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        let mut set = Self::default();
        set.extend(networks);
        set
    }
}

impl TryFrom<Vec<String>> for Networks {
    type Error = NetworkError;

    fn try_from(texts: Vec<String>) -> Result<Self, NetworkError> {
        texts.iter().map(|text| parse_network(text)).collect()
    }
}

impl From<Networks> for Vec<String> {
    fn from(networks: Networks) -> Self {
        networks
            .iter()
            .map(|network| {
                if network.prefix_len() == network.max_prefix_len() {
                    network.addr().to_string()
                } else {
                    network.to_string()
                }
            })
            .collect()
    }
}

pub(crate) fn parse_network(text: &str) -> Result<IpNet, NetworkError> {
    let text = text.trim();
    IpAddr::from_str(text)
        .map(IpNet::from)
        .or_else(|_| IpNet::from_str(text))
        .map_err(|_| NetworkError(text.to_owned()))
}

/// The same form of a network: host bits cleared, and an IPv4 one where its addresses are.
pub fn canonical_network(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network.trunc() };
    if let IpAddr::V4(v4) = network.addr().to_canonical()
        && v6.prefix_len() >= 96
    {
        return ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(network, IpNet::V4).trunc();
    }
    nat64::embedded_network(nat64::well_known(), v6).map_or(network.trunc(), IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        Networks::try_from(texts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        let set = networks(&["192.0.2.0/24", "::ffff:198.51.100.7"]);
        assert!(set.contains("::ffff:192.0.2.9".parse().unwrap()));
        assert!(set.contains("198.51.100.7".parse().unwrap()));
        assert!(!set.contains("198.51.100.8".parse().unwrap()));
        assert!(set.covers("192.0.2.0/25".parse().unwrap()) && !set.covers("192.0.0.0/16".parse().unwrap()));
    }

    #[test]
    fn host_bits_are_cleared_and_single_addresses_print_without_a_length() {
        let texts: Vec<String> = networks(&["192.0.2.77/24", "2001:db8::1"]).into();
        assert_eq!(texts, ["192.0.2.0/24", "2001:db8::1"]);
    }

    #[test]
    fn a_range_is_refused_with_what_would_be_right() {
        let error = Networks::try_from(vec!["203.0.113.1-254".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("203.0.113.1-254"));
        assert!(error.to_string().contains("192.0.2.0/24"));
    }
}
