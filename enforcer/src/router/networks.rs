//! A router's own addresses, and the private networks that it is connected to: who is there is no stranger, and a router
//! that masquerades hides all of them behind its own address. What is read, without I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::sentence::Row;

/// The most addresses that are kept of one router; the first stay.
const MOST: usize = 1024;

/// The networks that a router is connected to and that nobody outside has: RFC 1918, RFC 4193. Not RFC 6598, which is
/// what a provider gives its customers: who is there is a stranger.
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// What a router said of its networks, as it was read last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterNetworks {
    /// Its own addresses, on whatever interface.
    pub addresses: BTreeSet<IpAddr>,
    /// The private networks that it is connected to, but for that of its uplink.
    #[serde(with = "crate::prefixes::json::list")]
    pub private: BTreeSet<IpNet>,
}

/// The pages that tell of them, in the order in which they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NetworkPage {
    /// `/ip/address`.
    Ipv4,
    /// `/ipv6/address`, which a router without IPv6 has not.
    Ipv6,
    /// `/ip/dhcp-client`, for the uplink. What a router was given by DHCP along with a default route is no network of ours.
    Uplink,
}

/// What is read so far.
#[derive(Debug, Default)]
pub(super) struct NetworksReading {
    interfaces: BTreeSet<IpNet>,
    uplinks: BTreeSet<IpNet>,
}

// === impl NetworkPage ===

impl NetworkPage {
    pub(super) const FIRST: Self = Self::Ipv4;

    /// The page after this one; without IPv6's where that is off.
    pub(super) fn next(self, ipv6: bool) -> Option<Self> {
        match self {
            Self::Ipv4 if ipv6 => Some(Self::Ipv6),
            Self::Ipv4 | Self::Ipv6 => Some(Self::Uplink),
            Self::Uplink => None,
        }
    }

    /// The command, and the properties to ask for.
    pub(super) fn print(self) -> (&'static str, &'static str) {
        match self {
            Self::Ipv4 => ("/ip/address/print", "address,disabled,invalid"),
            Self::Ipv6 => ("/ipv6/address/print", "address,disabled,invalid"),
            Self::Uplink => ("/ip/dhcp-client/print", "address,disabled,invalid"),
        }
    }
}

// === impl NetworksReading ===

impl NetworksReading {
    /// Takes a row.
    pub(super) fn row(&mut self, page: NetworkPage, row: &Row) {
        let is_off = |key: &str| matches!(row.text(key), Some("true" | "yes"));
        self.take(page, row.text("address").unwrap_or_default(), is_off("disabled") || is_off("invalid"));
    }

    /// Takes an address with the length of its network; what is none is left out.
    fn take(&mut self, page: NetworkPage, address: &str, is_off: bool) {
        let rows = match page {
            NetworkPage::Ipv4 | NetworkPage::Ipv6 => &mut self.interfaces,
            NetworkPage::Uplink => &mut self.uplinks,
        };
        if let Ok(address) = address.parse::<IpNet>()
            && !is_off
            && rows.len() < MOST
        {
            rows.insert(address);
        }
    }

    /// What it comes to, once every page was read.
    pub(super) fn networks(&self) -> RouterNetworks {
        let private: Vec<IpNet> = PRIVATE.iter().filter_map(|network| network.parse().ok()).collect();
        let is_private = |network: &IpNet| private.iter().any(|all| all.contains(network));
        let is_uplink = |network: &IpNet| self.uplinks.iter().any(|uplink| uplink.trunc() == *network);
        let connected = self.interfaces.iter().map(IpNet::trunc);
        RouterNetworks {
            addresses: self.interfaces.iter().map(IpNet::addr).collect(),
            private: connected.filter(|network| is_private(network) && !is_uplink(network)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(networks: &RouterNetworks) -> (Vec<String>, Vec<String>) {
        let addresses = networks.addresses.iter().map(ToString::to_string).collect();
        (addresses, networks.private.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn private_networks_are_kept_but_for_the_uplinks_and_public_ones_never() {
        use NetworkPage::{Ipv4, Ipv6, Uplink};
        let mut reading = NetworksReading::default();
        for (page, address, is_off) in [
            (Ipv4, "192.168.88.1/24", false),
            (Ipv4, "203.0.113.7/24", false),
            (Ipv4, "192.168.1.2/24", false),
            (Ipv4, "100.64.3.4/10", false),
            (Ipv4, "10.9.0.1/16", true),
            (Ipv4, "172.16.0.1/12", false),
            (Ipv4, "10.0.0.1/7", false),
            (Ipv6, "fd00:88::1/64", false),
            (Ipv6, "2001:db8::1/64", false),
            (Ipv6, "fe80::1/64", false),
            (Uplink, "192.168.1.2/24", false),
        ] {
            reading.take(page, address, is_off);
        }
        let (addresses, private) = texts(&reading.networks());
        let own = [
            "10.0.0.1",
            "100.64.3.4",
            "172.16.0.1",
            "192.168.1.2",
            "192.168.88.1",
            "203.0.113.7",
            "2001:db8::1",
            "fd00:88::1",
            "fe80::1",
        ];
        assert_eq!(addresses, own);
        assert_eq!(private, ["172.16.0.0/12", "192.168.88.0/24", "fd00:88::/64"]);
    }

    #[test]
    fn what_is_no_address_is_left_out_and_there_is_an_end() {
        let mut reading = NetworksReading::default();
        for wild in ["", "192.168.88.1", "192.168.88.1/33", "x/24", "\u{1b}[2J"] {
            reading.take(NetworkPage::Ipv4, wild, false);
        }
        assert_eq!(reading.networks(), RouterNetworks::default());
        for number in 0..3000_u32 {
            let address = format!("{}/32", std::net::Ipv4Addr::from_bits(0x0A00_0000 + number));
            reading.take(NetworkPage::Ipv4, &address, false);
        }
        assert_eq!(reading.networks().addresses.len(), MOST);
    }
}
