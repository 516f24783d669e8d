//! The addresses behind a host's name, as this host finds them. Where the C library is part of the program (a static build),
//! it is not asked: it would load the host's own modules of nsswitch.conf(5), which are made for the host's version of it
//! alone. Seen with glibc 2.36 on Debian 13: the process ends by a signal. DNS and `/etc/hosts` are asked instead; names that
//! only a module knows (mDNS, LDAP) have no address there.

use std::io;
use std::net::SocketAddr;

use reqwest::dns::{Addrs, Resolve, Resolving};

/// How a client of HTTP looks up names: as [`look_up`] does.
#[derive(Clone, Copy, Debug)]
pub struct HostNames;

// === impl HostNames ===

impl Resolve for HostNames {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        Box::pin(async move {
            let addresses = look_up(name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The addresses of a host, each with this port, in the order in which to try them. Bound it with a deadline.
///
/// # Errors
/// Where the name has no address, or nobody can be asked.
pub async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    #[cfg(target_feature = "crt-static")]
    return ask_servers(host, port).await;
    #[cfg(not(target_feature = "crt-static"))]
    return Ok(tokio::net::lookup_host((host, port)).await?.collect());
}

/// Asks the servers of `/etc/resolv.conf`, after `/etc/hosts`; both are read anew each time.
#[cfg(any(test, target_feature = "crt-static"))]
async fn ask_servers(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    use hickory_resolver::TokioResolver;
    use hickory_resolver::config::LookupIpStrategy;

    let mut builder = TokioResolver::builder_tokio().map_err(io::Error::other)?;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    builder.options_mut().cache_size = 0;
    let resolver = builder.build().map_err(io::Error::other)?;
    let found = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
    Ok(found.iter().map(|address| SocketAddr::new(address, port)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_host_has_the_same_addresses_whoever_is_asked() {
        let sorted = |addresses: io::Result<Vec<SocketAddr>>| {
            let mut addresses = addresses.unwrap();
            addresses.sort_unstable();
            addresses
        };
        let through_libc = sorted(look_up("localhost", 22).await);
        assert!(through_libc.contains(&"127.0.0.1:22".parse().unwrap()), "{through_libc:?}");
        for address in through_libc {
            assert!(sorted(ask_servers("localhost", 22).await).contains(&address), "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_that_cannot_exist_is_an_error() {
        look_up("no such name", 22).await.unwrap_err();
        ask_servers("no such name", 22).await.unwrap_err();
    }
}
