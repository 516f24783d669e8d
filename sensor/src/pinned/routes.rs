//! The default routes of this host, by which it reaches the world and the world it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `RTF_UP` and `RTF_REJECT` of linux/route.h.
const UP: u32 = 0x1;
const REJECT: u32 = 0x200;

/// A default route, IPv4 or IPv6, that is up and does not reject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The name of the interface that it leaves through.
    pub interface: String,
    /// To which router; `None` where all are reached directly.
    pub gateway: Option<IpAddr>,
}

/// The default routes of both families, of the main table.
pub fn default_routes() -> Vec<Route> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut routes = ipv4(&read("/proc/self/net/route"));
    routes.extend(ipv6(&read("/proc/self/net/ipv6_route")));
    routes
}

/// Those in the text of `/proc/net/route` (`proc_net(5)`): the words are hexadecimal, addresses in this
/// processor's order of bytes.
fn ipv4(text: &str) -> Vec<Route> {
    let route = |line: &str| {
        let [interface, destination, gateway, flags, _, _, _, mask] = words(line)?;
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        let is_default = number(destination)? == 0 && number(mask)? == 0;
        let is_used = number(flags)? & (UP | REJECT) == UP;
        let gateway = Ipv4Addr::from(number(gateway)?.to_ne_bytes());
        let gateway = (!gateway.is_unspecified()).then_some(gateway.into());
        (is_default && is_used).then(|| Route { interface: interface.to_owned(), gateway })
    };
    text.lines().filter_map(route).collect()
}

/// Those in the text of `/proc/net/ipv6_route`: hexadecimal, addresses as they are written.
fn ipv6(text: &str) -> Vec<Route> {
    let route = |line: &str| {
        let [destination, length, _, _, gateway, _, _, _, flags, interface] = words(line)?;
        let address = |text: &str| u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from_bits);
        let is_default = address(destination)?.is_unspecified() && length == "00";
        let is_used = u32::from_str_radix(flags, 16).ok()? & (UP | REJECT) == UP;
        let gateway = address(gateway)?;
        let gateway = (!gateway.is_unspecified()).then_some(gateway.into());
        (is_default && is_used).then(|| Route { interface: interface.to_owned(), gateway })
    };
    text.lines().filter_map(route).collect()
}

/// The first words of a line.
fn words<const N: usize>(line: &str) -> Option<[&str; N]> {
    let words: Vec<&str> = line.split_whitespace().take(N).collect();
    words.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_default_routes_that_are_up_are_taken_with_their_gateways() {
        let gateway = u32::from_ne_bytes([192, 0, 2, 1]);
        let text = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t{gateway:08X}\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
             eth0\t000200C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n\
             ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n\
             dead\t00000000\t00000000\t0000\t0\t0\t0\t00000000\t0\t0\t0\n\
             half\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\ncut\t00000000\n"
        );
        let route = |interface: &str, gateway: Option<&str>| Route {
            interface: interface.to_owned(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        };
        assert_eq!(ipv4(&text), [route("eth0", Some("192.0.2.1")), route("ppp0", None)]);
        let zero = "0".repeat(32);
        let text = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             fe80000000000000{} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n",
            "0".repeat(16)
        );
        assert_eq!(ipv6(&text), [route("eth0", Some("fe80::1"))]);
    }
}
