//! What is ours without being configured, and therefore never banned: the addresses of this host and of the routers, and
//! the private networks that routers are connected to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atalaya_wire::canonical;
use ipnet::IpNet;

use crate::bans::Bans;
use crate::bans::allow::{OwnNetwork, Whose};
use crate::clock::Clock;
use crate::config::Config;
use crate::router::Routers;

/// How often the addresses of the routers and of this host are looked at anew.
const ALLOW_INTERVAL: Duration = Duration::from_secs(30);
/// How often, while something of a router is not known yet.
const SOON: Duration = Duration::from_secs(1);

/// What is known before a router was reached: this host's addresses, and those of routers that the configuration has.
pub(super) fn at_start(config: &Config) -> Vec<OwnNetwork> {
    let routers = config.routers.iter();
    let known = routers.filter_map(|router| Some((router, router.address.host.parse::<IpAddr>().ok()?)));
    let known = known.map(|(router, address)| single(address, Whose::Router(router.name.clone())));
    known.chain(of_host()).collect()
}

/// What is known of the routers of this moment, and of this host.
pub(super) fn of_routers(routers: &Routers) -> Vec<OwnNetwork> {
    let mut own = of_host();
    for router in routers.now().iter() {
        let name = router.name();
        let addresses = router.known_addresses().into_iter();
        own.extend(addresses.map(|address| single(address, Whose::Router(name.clone()))));
    }
    own
}

/// Keeps the allow list to what routers and this host have, as it changes.
pub(super) async fn keep(bans: Arc<Bans>, routers: Arc<Routers>, clock: Clock) {
    loop {
        // A router's addresses are known once its name is resolved, which is soon.
        let soon = routers.now().iter().any(|router| router.addresses().is_empty());
        tokio::time::sleep(if soon { SOON } else { ALLOW_INTERVAL }).await;
        bans.set_own_networks(of_routers(&routers), clock.now());
    }
}

fn of_host() -> Vec<OwnNetwork> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.iter().map(|interface| single(interface.ip(), Whose::Host)).collect(),
        Err(error) => {
            tracing::warn!(%error, "the host's own addresses cannot be read");
            Vec::new()
        }
    }
}

fn single(address: IpAddr, whose: Whose) -> OwnNetwork {
    OwnNetwork { network: IpNet::from(canonical(address)), whose }
}
