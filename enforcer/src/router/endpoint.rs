//! Where a router listens: a host and a port, and the addresses that stand behind it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The port of the plain API.
pub const API_PORT: u16 = 8728;

/// The port of the API over TLS.
pub const API_TLS_PORT: u16 = 8729;

/// `host`, `host:port`, an address, or `[address]:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A DNS name or an address, without brackets.
    pub host: String,
    /// The port, where one was given.
    pub port: Option<u16>,
}

/// `{0}` is not a router's address; expected a host or an address with or without a port, such as `192.0.2.1`, `router.example:8728` or `[2001:db8::1]:8728`
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a router's address; expected a host or an address with or without a port, such as `192.0.2.1`, `router.example:8728` or `[2001:db8::1]:8728`"
)]
pub struct EndpointError(String);

// === impl Endpoint ===

impl Endpoint {
    /// The socket addresses behind it, at the given port where it has none itself. Asks DNS where the
    /// host is a name; bound it with a deadline.
    pub async fn resolve(&self, default_port: u16) -> io::Result<Vec<SocketAddr>> {
        let port = self.port.unwrap_or(default_port);
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((self.host.as_str(), port)).await?.take(16).collect();
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError(text.escape_debug().take(80).collect());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: Some(address.port()) });
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            let address: IpAddr = inner.parse().map_err(|_| error())?;
            return Ok(Self { host: address.to_string(), port: None });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| error())?)),
            None => (text, None),
        };
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || host.len() > 253 || !host.chars().all(good) || port == Some(0) {
            return Err(error());
        }
        Ok(Self { host: host.to_owned(), port })
    }
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
    fn hosts_and_ports_are_told_apart(#[case] text: &str, #[case] host: &str, #[case] port: Option<u16>) {
        assert_eq!(text.parse(), Ok(Endpoint { host: host.to_owned(), port }));
    }

    #[rstest]
    #[case("")]
    #[case(":8728")]
    #[case("router:")]
    #[case("router:0")]
    #[case("router:99999")]
    #[case("http://router")]
    #[case("a b")]
    #[case("[router]:1")]
    fn what_is_no_endpoint_is_refused(#[case] text: &str) {
        assert!(text.parse::<Endpoint>().is_err(), "{text:?} passed");
    }
}
