//! Which interfaces the program is attached to: those that are named, or else those through which strangers
//! reach this host.

use std::collections::HashSet;
use std::path::Path;

use crate::pinned::routes;

/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK` of `linux/if_arp.h`: what begins with an Ethernet header.
const ETHERNET: u32 = 1;
const LOOPBACK: u32 = 772;
const CLASS: &str = "/sys/class/net";

/// An interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// As in `if_nametoindex(3)`; another interface may get it after this one is gone.
    pub index: u32,
    /// As it was when this was read: interfaces can be renamed.
    pub name: String,
}

/// An interface, and what the choice depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number and name.
    pub interface: Interface,
    /// The kind of link: `ARPHRD_…` of `linux/if_arp.h`.
    pub kind: u32,
    /// Whether a default route leaves through it.
    pub has_route: bool,
    /// Whether it has an address that is valid beyond its own link.
    pub has_address: bool,
    /// Whether it is a bridge without a device of this host: of containers and virtual machines alone.
    pub is_inner_bridge: bool,
}

/// Where the program is to be attached, and where it cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// In the order of their numbers.
    pub interfaces: Vec<Interface>,
    /// What was named, or would be chosen, and cannot be: the name, and why.
    pub not: Vec<(String, String)>,
}

/// The name of the interface with this number.
pub fn name(index: u32) -> Option<String> {
    find().into_iter().map(|found| found.interface).find(|found| found.index == index).map(|found| found.name)
}

/// Chooses among the interfaces of this host.
pub fn choose(named: Option<&[String]>) -> Choice {
    choose_of(&find(), named)
}

/// The choice of [`choose`], as a plain function.
pub fn choose_of(found: &[Candidate], named: Option<&[String]>) -> Choice {
    let mut choice = Choice::default();
    for Candidate { interface, kind, has_route, has_address, is_inner_bridge } in found {
        let is_wanted = match named {
            Some(names) => names.contains(&interface.name),
            None => *kind != LOOPBACK && (*has_route || *has_address && !is_inner_bridge),
        };
        match kind {
            _ if !is_wanted => {}
            &ETHERNET | &LOOPBACK => choice.interfaces.push(interface.clone()),
            _ => {
                let why = "its packets have no Ethernet header (a tunnel?)".to_owned();
                choice.not.push((interface.name.clone(), why));
            }
        }
    }
    for name in named.unwrap_or_default() {
        if !found.iter().any(|found| found.interface.name == *name) {
            choice.not.push((name.clone(), "there is none of this name yet".to_owned()));
        }
    }
    choice.interfaces.sort_by_key(|interface| interface.index);
    choice
}

/// The interfaces of this host.
fn find() -> Vec<Candidate> {
    let with_route: HashSet<String> =
        routes::default_routes().into_iter().map(|route| route.interface).collect();
    let addresses = if_addrs::get_if_addrs().unwrap_or_default();
    let with_address: HashSet<&str> = addresses
        .iter()
        .filter(|address| !address.is_loopback() && !address.is_link_local())
        .map(|address| address.name.as_str())
        .collect();
    let Ok(entries) = std::fs::read_dir(CLASS) else { return Vec::new() };
    let found = |folder: &Path| {
        let number = |file: &str| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok();
        let name = folder.file_name()?.to_str()?.to_owned();
        Some(Candidate {
            kind: number("type")?,
            has_route: with_route.contains(&name),
            has_address: with_address.contains(name.as_str()),
            is_inner_bridge: is_inner_bridge(folder),
            interface: Interface { index: number("ifindex")?, name },
        })
    };
    entries.filter_map(|entry| found(&entry.ok()?.path())).collect()
}

fn is_inner_bridge(folder: &Path) -> bool {
    if !folder.join("bridge").exists() {
        return false;
    }
    let Ok(ports) = std::fs::read_dir(folder.join("brif")) else { return true };
    // A port is a link to the port's own folder in it; only one of a device has that device in its own.
    !ports.flatten().any(|port| Path::new(CLASS).join(port.file_name()).join("device").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(index: u32, name: &str, kind: u32, has_route: bool, has_address: bool) -> Candidate {
        let interface = Interface { index, name: name.to_owned() };
        Candidate { interface, kind, has_route, has_address, is_inner_bridge: false }
    }

    fn names(choice: &Choice) -> Vec<&str> {
        choice.interfaces.iter().map(|interface| interface.name.as_str()).collect()
    }

    #[test]
    fn strangers_come_through_default_routes_and_global_addresses_and_not_through_loopback_or_containers() {
        let docker = Candidate { is_inner_bridge: true, ..found(4, "docker0", ETHERNET, false, true) };
        let lan = Candidate { is_inner_bridge: true, ..found(5, "br0", ETHERNET, true, true) };
        let all = [
            found(3, "eth1", ETHERNET, false, true),
            found(1, "lo", LOOPBACK, false, true),
            found(2, "eth0", ETHERNET, true, false),
            found(6, "veth7", ETHERNET, false, false),
            found(7, "wg0", 65534, false, true),
            docker,
            lan,
        ];
        let choice = choose_of(&all, None);
        assert_eq!(names(&choice), ["eth0", "eth1", "br0"]);
        assert_eq!(choice.not.len(), 1);
        assert!(choice.not[0].0 == "wg0" && choice.not[0].1.contains("no Ethernet header"), "{choice:?}");
    }

    #[test]
    fn named_interfaces_are_chosen_alone_and_one_that_is_missing_is_told() {
        let all = [found(1, "lo", LOOPBACK, false, true), found(2, "eth0", ETHERNET, true, true)];
        let choice = choose_of(&all, Some(&["lo".to_owned(), "eth9".to_owned()]));
        assert_eq!(names(&choice), ["lo"]);
        assert_eq!(choice.not, [("eth9".to_owned(), "there is none of this name yet".to_owned())]);
    }
}
