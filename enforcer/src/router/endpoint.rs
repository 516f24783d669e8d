//! Where a router listens: a host and a port, and the addresses that stand behind it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use atalaya_program::host_names;

/// The port of the plain API.
pub const API_PORT: u16 = 8728;

/// The port of the API over TLS.
pub const API_TLS_PORT: u16 = 8729;

/// `host`, `host:port`, an address, or `[address]:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A DNS name or an address, without brackets; of a link-local one with its interface, `fe80::1%eth0`.
    pub host: String,
    /// The port, where one was given.
    pub port: Option<u16>,
}

/// Why something is no router's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is no host, with or without a port.
    #[error(
        "`{0}` is not a router's address; expected a host or an address with or without a port, such as `192.0.2.1`, `router.example:8728` or `[2001:db8::1]:8728`"
    )]
    NotUnderstood(String),
    /// It is neither a name nor an address that there is.
    #[error("`{0}` is no IPv4 address: it has four numbers from 0 to 255")]
    NoSuchAddress(String),
    /// Its port is none.
    #[error("`{0}` has no port that there is; expected 1 to 65535")]
    Port(String),
    /// A link-local address says nothing without its interface.
    #[error("`{0}` is link-local: say by which interface it is reached, such as `{0}%eth0`")]
    NoInterface(String),
}

// === impl Endpoint ===

impl Endpoint {
    /// The socket addresses behind it, at the given port where it has none itself. Asks DNS where the
    /// host is a name; bound it with a deadline.
    pub async fn resolve(&self, default_port: u16) -> io::Result<Vec<SocketAddr>> {
        let port = self.port.unwrap_or(default_port);
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        if let Some((address, interface)) = scoped(&self.host) {
            return Ok(vec![SocketAddrV6::new(address, port, 0, interface_index(interface)?).into()]);
        }
        let mut addresses = host_names::look_up(&self.host, port).await?;
        addresses.truncate(16);
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let shown: String = text.escape_debug().take(80).collect();
        let error = || EndpointError::NotUnderstood(shown.clone());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(error)?;
                if !host.contains(':') {
                    return Err(error());
                }
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(error)?) })
            }
            // An IPv6 address without brackets has no port.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match port.map(str::parse::<u16>) {
            Some(Ok(0)) => return Err(EndpointError::Port(shown)),
            Some(Err(_))
                if port.is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())) =>
            {
                return Err(EndpointError::Port(shown));
            }
            Some(parsed) => Some(parsed.map_err(|_| error())?),
            None => None,
        };
        if let Ok(address) = host.parse::<IpAddr>() {
            if let IpAddr::V6(v6) = address
                && v6.is_unicast_link_local()
            {
                return Err(EndpointError::NoInterface(v6.to_string()));
            }
            return Ok(Self { host: address.to_string(), port });
        }
        if let Some((address, interface)) = scoped(host) {
            return Ok(Self { host: format!("{address}%{interface}"), port });
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || host.len() > 253 || !host.chars().all(good) {
            return Err(error());
        }
        // No name ends in a number (RFC 1123, 2.1): it is an address that was mistyped.
        let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(EndpointError::NoSuchAddress(shown));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// A link-local address and its interface's name or number, of `fe80::1%eth0`.
fn scoped(host: &str) -> Option<(Ipv6Addr, &str)> {
    let (address, interface) = host.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    // As the kernel names them: at most 15 bytes, no blank, no slash.
    let good = (1..=15).contains(&interface.len())
        && interface.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'%');
    (address.is_unicast_link_local() && good).then_some((address, interface))
}

fn interface_index(interface: &str) -> io::Result<u32> {
    if let Ok(index) = interface.parse() {
        return Ok(index);
    }
    let known = if_addrs::get_if_addrs()?;
    known.iter().find(|one| one.name == interface).and_then(|one| one.index).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("this host has no interface {interface} that is up"))
    })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("192.0.2.1", "192.0.2.1", None)]
    #[case("192.0.2.1:18728", "192.0.2.1", Some(18728))]
    #[case("2001:db8::1", "2001:db8::1", None)]
    #[case("[2001:db8::1]", "2001:db8::1", None)]
    #[case("[2001:db8::1]:8729", "2001:db8::1", Some(8729))]
    #[case("router.example", "router.example", None)]
    #[case("router_1:8728", "router_1", Some(8728))]
    #[case("router1.", "router1.", None)]
    #[case("fe80::1%eth0", "fe80::1%eth0", None)]
    #[case("[fe80::1%2]:8729", "fe80::1%2", Some(8729))]
    fn hosts_and_ports_are_told_apart(#[case] text: &str, #[case] host: &str, #[case] port: Option<u16>) {
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!(endpoint, Endpoint { host: host.to_owned(), port });
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint), "it is written as it is read");
    }

    #[rstest]
    #[case("", "not a router's address")]
    #[case("192.0.2.300", "no IPv4 address: it has four numbers from 0 to 255")]
    #[case("192.0.2", "no IPv4 address")]
    #[case("192.0.2.1:0", "expected 1 to 65535")]
    #[case("[2001:db8::1]:0", "expected 1 to 65535")]
    #[case("fe80::1", "say by which interface it is reached, such as `fe80::1%eth0`")]
    #[case("[fe80::1]:8728", "such as `fe80::1%eth0`")]
    #[case("2001:db8::1%eth0", "not a router's address")]
    #[case("fe80::1%", "not a router's address")]
    #[case("192.0.2.0/24", "not a router's address")]
    #[case(":8728", "not a router's address")]
    #[case("router:", "not a router's address")]
    #[case("router:0", "expected 1 to 65535")]
    #[case("router:99999", "expected 1 to 65535")]
    #[case("http://router", "not a router's address")]
    #[case("a b", "not a router's address")]
    #[case("[router]:1", "not a router's address")]
    fn what_is_no_endpoint_is_refused_with_the_reason(#[case] text: &str, #[case] says: &str) {
        let error = text.parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }

    #[tokio::test]
    async fn a_link_local_address_is_reached_by_its_interface() {
        let endpoint: Endpoint = "fe80::1%lo".parse().unwrap();
        assert_eq!(endpoint.resolve(8728).await.unwrap()[0].to_string(), "[fe80::1%1]:8728");
        let nowhere: Endpoint = "fe80::1%nowhere0".parse().unwrap();
        assert!(nowhere.resolve(8728).await.unwrap_err().to_string().contains("no interface nowhere0"));
    }
}
