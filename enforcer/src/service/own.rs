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
use crate::router::RouterSet;

/// How often it is looked whether a router told of other networks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many times as seldom this host's addresses are looked at.
const HOST_TURNS: u32 = 30;

/// What is known before a router was reached: this host's addresses, and those of routers that the configuration has.
pub(super) fn at_start(config: &Config) -> Vec<OwnNetwork> {
    let routers = config.routers.iter();
    let known = routers.filter_map(|router| Some((router, router.address.host.parse::<IpAddr>().ok()?)));
    let known = known.map(|(router, address)| single(address, Whose::Router(router.name.clone())));
    known.chain(of_host()).collect()
}

/// What is known of the routers of this moment, and of this host.
pub(super) fn of_routers(routers: &RouterSet) -> Vec<OwnNetwork> {
    with_routers(of_host(), routers)
}

fn with_routers(mut own: Vec<OwnNetwork>, routers: &RouterSet) -> Vec<OwnNetwork> {
    for router in routers.now().iter() {
        let (name, told) = (router.name(), router.networks());
        let addresses = router.known_addresses().into_iter().chain(told.addresses);
        own.extend(addresses.map(|address| single(address, Whose::Router(name.clone()))));
        let behind = |network| OwnNetwork { network, whose: Whose::Behind(name.clone()) };
        own.extend(told.private.into_iter().map(behind));
    }
    own
}

/// Keeps the allow list to what routers and this host have, as it changes.
pub(super) async fn keep(bans: Arc<Bans>, routers: Arc<RouterSet>, clock: Clock) {
    let mut host = of_host();
    for turn in 1_u32.. {
        tokio::time::sleep(INTERVAL).await;
        if turn.is_multiple_of(HOST_TURNS) {
            host = of_host();
        }
        bans.set_own_networks(with_routers(host.clone(), &routers), clock.now());
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
