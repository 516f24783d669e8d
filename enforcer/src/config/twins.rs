//! Two sections for one list of one router: each would remove what the other added.

use crate::prefixes::Family;
use crate::router::endpoint::{API_PORT, API_TLS_PORT};
use crate::router::{Endpoint, RouterConfig};

/// The first of the sections that is for the same list of the same router as one before it, and what to do; by
/// their places.
pub(super) fn find(routers: &[RouterConfig]) -> Option<(usize, String)> {
    routers.iter().enumerate().find_map(|(place, router)| {
        let other = routers[..place].iter().find_map(|other| Some((other, shared(router, other)?)));
        other.map(|(other, list)| (place, said(router, other, list)))
    })
}

/// A list that both keep.
fn shared<'a>(router: &'a RouterConfig, other: &RouterConfig) -> Option<&'a str> {
    let lists = [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| *family == Family::V4 || router.ipv6 && other.ipv6);
    let mut same = lists.filter(|family| router.list(*family) == other.list(*family));
    (way(router) == way(other)).then(|| same.next().map(|family| router.list(family))).flatten()
}

/// The host, and the port with its default. The ports of the API and of API-SSL are ways to one router.
fn way(config: &RouterConfig) -> (String, Option<u16>) {
    let Endpoint { host, port } = &config.address;
    let port = port.filter(|port| ![API_PORT, API_TLS_PORT].contains(port));
    (host.trim_end_matches('.').to_ascii_lowercase(), port)
}

fn said(router: &RouterConfig, other: &RouterConfig, list: &str) -> String {
    format!(
        "[router.{}] and [router.{}] are both for list {list} of {}: each would remove what the other adds. Make them one section, with the jails of both, or give one a `list` of its own",
        other.name, router.name, router.address
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::Password;

    fn router(name: &str, address: &str, lists: [&str; 2]) -> RouterConfig {
        let address = address.parse().unwrap();
        let mut config = RouterConfig::new(name.parse().unwrap(), address, "api", Password::new("x"));
        config.lists = lists.map(str::to_owned);
        config
    }

    #[test]
    fn one_list_of_one_router_in_two_sections_is_found_however_it_is_written() {
        for (first, second, found) in [
            (router("a", "192.0.2.1", ["x", "x"]), router("b", "192.0.2.1", ["x", "y"]), true),
            (router("a", "192.0.2.1", ["x", "y"]), router("b", "192.0.2.1:8728", ["z", "y"]), true),
            (router("a", "Edge.example", ["x", "x"]), router("b", "edge.example.:8729", ["x", "x"]), true),
            (router("a", "192.0.2.1", ["x", "x"]), router("b", "192.0.2.1", ["y", "y"]), false),
            (router("a", "192.0.2.1", ["x", "y"]), router("b", "192.0.2.1", ["y", "x"]), false),
            (router("a", "192.0.2.1", ["x", "x"]), router("b", "192.0.2.2", ["x", "x"]), false),
            // Two routers behind one address.
            (router("a", "192.0.2.1:1001", ["x", "x"]), router("b", "192.0.2.1:1002", ["x", "x"]), false),
        ] {
            let routers = [router("other", "203.0.113.1", ["x", "x"]), first, second];
            assert_eq!(find(&routers).map(|(place, _)| place), found.then_some(2), "{routers:?}");
        }
    }

    #[test]
    fn a_list_for_ipv6_counts_only_where_both_keep_one() {
        let mut routers = [router("a", "192.0.2.1", ["x", "y"]), router("b", "192.0.2.1", ["z", "y"])];
        assert!(find(&routers).is_some());
        routers[1].ipv6 = false;
        assert_eq!(find(&routers), None);
    }
}
