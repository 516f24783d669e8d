//! A router's own addresses, and the private networks that it is connected to: who is there is no stranger, and a router
//! that masquerades hides all of them behind its own address. What is read, without I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::sentence::Row;

/// The most addresses that are kept of one router; the first stay.
const MOST: usize = 1024;

/// The longest name of an interface that is kept, in bytes; RouterOS's own are shorter.
const LONGEST_NAME: usize = 128;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum NetworkPage {
    /// `/ip/address`.
    Ipv4,
    /// `/ipv6/address`, which a router without IPv6 has not.
    Ipv6,
    /// `/ip/dhcp-client`, for the uplink. What a router was given by DHCP along with a default route is no network of ours.
    Uplink,
    /// The default routes of `/ip/route`: what they go out by is the uplink, also where it was configured by hand.
    Ipv4Default,
    /// Those of `/ipv6/route`.
    Ipv6Default,
}

/// What is read so far.
#[derive(Debug, Default)]
pub(super) struct NetworksReading {
    /// Addresses with the length of their network, and the names of their interfaces, of the bridge too.
    interfaces: BTreeSet<(IpNet, Box<[String]>)>,
    uplinks: BTreeSet<IpNet>,
    gateways: BTreeSet<Gateway>,
}

/// Where a default route goes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gateway {
    /// To a router in a connected network.
    Address(IpAddr),
    /// Out by an interface.
    Interface(String),
}

// === impl NetworkPage ===

impl NetworkPage {
    pub(super) const FIRST: Self = Self::Ipv4;

    /// The page after this one; without IPv6's where that is off.
    pub(super) fn next(self, ipv6: bool) -> Option<Self> {
        match self {
            Self::Ipv4 if ipv6 => Some(Self::Ipv6),
            Self::Ipv4 | Self::Ipv6 => Some(Self::Uplink),
            Self::Uplink => Some(Self::Ipv4Default),
            Self::Ipv4Default if ipv6 => Some(Self::Ipv6Default),
            Self::Ipv4Default | Self::Ipv6Default => None,
        }
    }

    /// The command, and the properties to ask for.
    pub(super) fn print(self) -> (&'static str, &'static str) {
        const ADDRESS: &str = "address,interface,actual-interface,disabled,invalid";
        // RouterOS 7 has `immediate-gw`, 6 has `gateway-status`.
        const ROUTE: &str = "gateway,immediate-gw,disabled";
        match self {
            Self::Ipv4 => ("/ip/address/print", ADDRESS),
            Self::Ipv6 => ("/ipv6/address/print", ADDRESS),
            Self::Uplink => ("/ip/dhcp-client/print", "address,disabled,invalid"),
            Self::Ipv4Default => ("/ip/route/print", ROUTE),
            Self::Ipv6Default => ("/ipv6/route/print", ROUTE),
        }
    }

    /// The destination of the routes to be shown, of which a router may have a million.
    pub(super) fn destination(self) -> Option<&'static str> {
        match self {
            Self::Ipv4 | Self::Ipv6 | Self::Uplink => None,
            Self::Ipv4Default => Some("0.0.0.0/0"),
            Self::Ipv6Default => Some("::/0"),
        }
    }
}

// === impl NetworksReading ===

impl NetworksReading {
    /// Takes a row.
    pub(super) fn row(&mut self, page: NetworkPage, row: &Row) {
        let is_off = |key: &str| matches!(row.text(key), Some("true" | "yes"));
        if is_off("disabled") || is_off("invalid") {
            return;
        }
        let texts = |keys: [&'static str; 2]| keys.into_iter().filter_map(|key| row.text(key));
        if page.destination().is_some() {
            texts(["gateway", "immediate-gw"]).for_each(|gateways| self.take_gateways(gateways));
            return;
        }
        let interfaces = texts(["interface", "actual-interface"]).collect::<Vec<_>>();
        self.take(page, row.text("address").unwrap_or_default(), &interfaces);
    }

    /// Takes an address with the length of its network; what is none is left out.
    fn take(&mut self, page: NetworkPage, address: &str, interfaces: &[&str]) {
        let Ok(address) = address.parse::<IpNet>() else { return };
        if page == NetworkPage::Uplink {
            if self.uplinks.len() < MOST {
                self.uplinks.insert(address);
            }
        } else if self.interfaces.len() < MOST {
            let names = interfaces.iter().filter(|name| name.len() <= LONGEST_NAME);
            self.interfaces.insert((address, names.map(|&name| name.to_owned()).collect()));
        }
    }

    /// Takes the gateways of a default route: `192.168.1.1`, `192.168.1.1%ether1`, `ether1`, and several of them.
    fn take_gateways(&mut self, gateways: &str) {
        for gateway in gateways.split([',', '%']).filter(|text| !text.is_empty()) {
            if self.gateways.len() >= MOST || gateway.len() > LONGEST_NAME {
                return;
            }
            self.gateways.insert(match gateway.parse::<IpAddr>() {
                Ok(address) => Gateway::Address(address),
                Err(_) => Gateway::Interface(gateway.to_owned()),
            });
        }
    }

    /// What it comes to, once every page was read.
    pub(super) fn networks(&self) -> RouterNetworks {
        let private: Vec<IpNet> = PRIVATE.iter().filter_map(|network| network.parse().ok()).collect();
        let is_private = |network: &IpNet| private.iter().any(|all| all.contains(network));
        let is_uplink = |(address, interfaces): &(IpNet, Box<[String]>)| {
            self.uplinks.iter().any(|uplink| uplink.trunc() == address.trunc())
                || self.gateways.iter().any(|gateway| match gateway {
                    Gateway::Address(gateway) => address.contains(gateway),
                    Gateway::Interface(name) => interfaces.contains(name),
                })
        };
        // Two addresses may be of one network.
        let uplinks: BTreeSet<IpNet> =
            self.interfaces.iter().filter(|one| is_uplink(one)).map(|(address, _)| address.trunc()).collect();
        let connected = self.interfaces.iter().map(|(address, _)| address.trunc());
        RouterNetworks {
            addresses: self.interfaces.iter().map(|(address, _)| address.addr()).collect(),
            private: connected.filter(|network| is_private(network) && !uplinks.contains(network)).collect(),
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
        for (page, address) in [
            (Ipv4, "192.168.88.1/24"),
            (Ipv4, "203.0.113.7/24"),
            (Ipv4, "192.168.1.2/24"),
            (Ipv4, "100.64.3.4/10"),
            (Ipv4, "172.16.0.1/12"),
            (Ipv4, "10.0.0.1/7"),
            (Ipv6, "fd00:88::1/64"),
            (Ipv6, "2001:db8::1/64"),
            (Ipv6, "fe80::1/64"),
            (Uplink, "192.168.1.2/24"),
        ] {
            reading.take(page, address, &[]);
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
            reading.take(NetworkPage::Ipv4, wild, &[]);
        }
        assert_eq!(reading.networks(), RouterNetworks::default());
        for number in 0..3000_u32 {
            let address = format!("{}/32", std::net::Ipv4Addr::from_bits(0x0A00_0000 + number));
            reading.take(NetworkPage::Ipv4, &address, &[]);
            reading.take_gateways(&format!("{number},ether{number}%{address}"));
        }
        assert_eq!((reading.networks().addresses.len(), reading.gateways.len()), (MOST, MOST));
    }

    #[test]
    fn what_a_default_route_goes_out_by_is_the_uplink_however_it_is_written() {
        for (gateways, ours) in [
            ("192.168.1.1", "192.168.88.0/24 fd00:88::/64"),
            ("192.168.1.1%ether1", "192.168.88.0/24 fd00:88::/64"),
            ("ether1", "192.168.88.0/24 fd00:88::/64"),
            // A bridge's address is of the bridge, and of what it is on.
            ("port-of-bridge", "192.168.1.0/24"),
            ("203.0.113.1,pppoe-out1", "192.168.1.0/24 192.168.88.0/24 fd00:88::/64"),
            ("fe80::1%bridge", "192.168.1.0/24"),
            ("fd00:88::ffff", "192.168.1.0/24 192.168.88.0/24"),
            ("", "192.168.1.0/24 192.168.88.0/24 fd00:88::/64"),
        ] {
            let mut reading = NetworksReading::default();
            for (page, address, interfaces) in [
                (NetworkPage::Ipv4, "192.168.1.2/24", ["ether1", "ether1"]),
                (NetworkPage::Ipv4, "192.168.1.3/24", ["vlan7", "vlan7"]),
                (NetworkPage::Ipv4, "192.168.88.1/24", ["bridge", "port-of-bridge"]),
                (NetworkPage::Ipv6, "fd00:88::1/64", ["bridge", "port-of-bridge"]),
            ] {
                reading.take(page, address, &interfaces);
            }
            reading.take_gateways(gateways);
            assert_eq!(texts(&reading.networks()).1.join(" "), ours, "{gateways}");
        }
    }
}
