//! Who logged in successfully lately, and so is not dropped on this host by a jail here alone. It follows the
//! enforcer's protection: in private networks a login counts for a week, against every jail. Others, of whom
//! anyone may be behind a stolen password, are spared for a day, and only from jails that saw no failed login
//! (scans, floods). The enforcer's own bans, and those by hand, are dropped all the same.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use atalaya_wire::canonical;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

/// How many addresses are remembered: those that logged in last.
const MOST: usize = 10_000;
const PRIVATE_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);
const LIFE: SignedDuration = SignedDuration::from_hours(24);

/// The last successful login of each address, since the start.
#[derive(Debug, Default)]
pub struct Trusted {
    logins: HashMap<IpAddr, Timestamp>,
    by_time: BTreeSet<(Timestamp, IpAddr)>,
}

// === impl Trusted ===

impl Trusted {
    /// Notes a successful login.
    pub fn note(&mut self, address: IpAddr, time: Timestamp) {
        let address = canonical(address);
        if let Some(before) = self.logins.get(&address).copied() {
            if before >= time {
                return;
            }
            self.by_time.remove(&(before, address));
        }
        self.logins.insert(address, time);
        self.by_time.insert((time, address));
        if self.logins.len() > MOST
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            self.logins.remove(&oldest);
        }
    }

    /// Whether an address of the network is spared; `of_logins` says whether the jail saw logins fail.
    pub fn spares(&self, network: IpNet, of_logins: bool, now: Timestamp) -> bool {
        let is_spared = |(address, time): (&IpAddr, &Timestamp)| {
            let life = if is_private(*address) { Some(PRIVATE_LIFE) } else { (!of_logins).then_some(LIFE) };
            life.is_some_and(|life| now.duration_since(*time) <= life)
        };
        if network.prefix_len() == network.max_prefix_len() {
            return self.logins.get_key_value(&network.addr()).is_some_and(is_spared);
        }
        self.logins.iter().filter(|(address, _)| network.contains(*address)).any(is_spared)
    }
}

/// Networks of RFC 1918 and RFC 4193, and the own link.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap()
    }

    #[test]
    fn a_private_address_is_spared_for_a_week_and_a_stranger_for_a_day_from_scans_alone() {
        let mut trusted = Trusted::default();
        trusted.note("::ffff:10.0.0.5".parse().unwrap(), at(0));
        trusted.note("203.0.113.5".parse().unwrap(), at(0));
        trusted.note("2001:db8:0:7::9".parse().unwrap(), at(0));
        let spares = |net: &str, of_logins, hour| trusted.spares(net.parse().unwrap(), of_logins, at(hour));
        assert!(spares("10.0.0.5/32", true, 7 * 24) && !spares("10.0.0.5/32", true, 7 * 24 + 1));
        assert!(!spares("10.0.0.6/32", true, 0));
        assert!(!spares("203.0.113.5/32", true, 1));
        assert!(spares("203.0.113.5/32", false, 24) && !spares("203.0.113.5/32", false, 25));
        assert!(spares("2001:db8:0:7::/64", false, 1) && !spares("2001:db8:0:8::/64", false, 1));
    }

    #[test]
    fn the_latest_logins_stay_where_there_are_too_many() {
        let mut trusted = Trusted::default();
        let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0A00_0000 + number));
        trusted.note(address(0), at(2));
        for number in 1..=MOST as u32 {
            trusted.note(address(number), at(1));
        }
        assert_eq!(trusted.logins.len(), MOST);
        assert_eq!(trusted.by_time.len(), MOST);
        assert!(trusted.spares(address(0).into(), true, at(2)));
    }
}
