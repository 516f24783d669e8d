//! Whose packets always pass, so that no ban cuts this host off: what it needs to be reached and to reach its
//! enforcer, and whom the administrator or any jail spares. A ban here cuts off all services at once, so
//! whom one jail spares is spared.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use atalaya_wire::{Networks, canonical};
use ipnet::IpNet;

use crate::pinned::routes;

/// What is not an address of another host, or only one of the own link, by which IPv6 finds its neighbours.
const NOBODY: [&str; 5] = ["0.0.0.0/32", "127.0.0.0/8", "::/128", "::1/128", "fe80::/10"];
/// Where the name servers are written: as they are asked, and as systemd-resolved asks them.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// What this host cannot do without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifelines {
    /// The routers of its default routes.
    pub gateways: Vec<IpAddr>,
    /// Those that resolv.conf and systemd-resolved name.
    pub name_servers: Vec<IpAddr>,
    /// The addresses to which the enforcer's name resolves.
    pub enforcer: Vec<IpAddr>,
}

// === impl Lifelines ===

impl Lifelines {
    /// Reads them; where the enforcer is must be found out elsewhere.
    pub fn read(enforcer: Vec<IpAddr>) -> Self {
        let mut gateways: Vec<IpAddr> =
            routes::default_routes().into_iter().filter_map(|route| route.gateway).collect();
        let texts = RESOLVERS.iter().filter_map(|path| std::fs::read_to_string(path).ok());
        let mut name_servers: Vec<IpAddr> = texts.flat_map(|text| name_servers(&text)).collect();
        for list in [&mut gateways, &mut name_servers] {
            list.sort_unstable();
            list.dedup();
        }
        Self { gateways, name_servers, enforcer }
    }

    /// All that is spared, together with lists of others.
    pub fn with<'a>(&self, lists: impl IntoIterator<Item = &'a Networks>) -> HashSet<IpNet> {
        let addresses = self.gateways.iter().chain(&self.name_servers).chain(&self.enforcer);
        let mut spared: HashSet<IpNet> = addresses.map(|address| canonical(*address).into()).collect();
        spared.extend(NOBODY.iter().filter_map(|network| network.parse::<IpNet>().ok()));
        spared.extend(lists.into_iter().flat_map(Networks::iter));
        spared
    }
}

impl fmt::Display for Lifelines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |addresses: &[IpAddr]| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") }
        };
        let Self { gateways, name_servers, enforcer } = self;
        write!(
            f,
            "gateways {}; name servers {}; enforcer {}",
            list(gateways),
            list(name_servers),
            list(enforcer)
        )
    }
}

/// The servers in the text of a resolv.conf(5).
fn name_servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let address = line.strip_prefix("nameserver")?.split_whitespace().next()?;
        address.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_with_zones_and_without_comments() {
        let text = "# nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0\nnameserver x\nsearch a\n";
        let expected: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }

    #[test]
    fn lifelines_lists_and_the_own_link_are_spared_together() {
        let lifelines =
            Lifelines { enforcer: vec!["::ffff:192.0.2.7".parse().unwrap()], ..Lifelines::default() };
        let list = Networks::try_from(vec!["198.51.100.0/24".to_owned()]).unwrap();
        let spared = lifelines.with([&list]);
        for network in ["192.0.2.7/32", "198.51.100.0/24", "fe80::/10", "127.0.0.0/8"] {
            assert!(spared.contains(&network.parse::<IpNet>().unwrap()), "{network}");
        }
        assert_eq!(lifelines.to_string(), "gateways none; name servers none; enforcer ::ffff:192.0.2.7");
    }
}
