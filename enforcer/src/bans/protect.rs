//! Protection against locking oneself out: who logged in successfully lately, from which address. An offence of such an
//! address is not banned without a word, and no widened network covers it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use atalaya_wire::{Login, Name, Networks, Seconds, canonical};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::ledger::GoodLogin;

/// How much newer a login is, at least, that is written to disk again.
const WRITE_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// The successful logins of the networks that are protected.
#[derive(Debug)]
pub struct Protect {
    config: ProtectConfig,
    /// The most addresses; the latest stay.
    most: usize,
    logins: BTreeMap<IpAddr, Remembered>,
    by_time: BTreeSet<(Timestamp, IpAddr)>,
}

#[derive(Debug)]
struct Remembered {
    login: GoodLogin,
    /// The time of the login that is on disk.
    written: Timestamp,
}

/// What a login changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Whether its address was not protected before.
    pub new: bool,
    /// Whether it is worth writing.
    pub write: bool,
}

// === impl Protect ===

impl Protect {
    /// Knows of no login yet, and will know of so many addresses at most.
    pub fn new(config: ProtectConfig, most: usize) -> Self {
        Self { config, most, logins: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Protects by other settings from here on: of the logins that are known those that they protect.
    pub fn configure(&mut self, config: ProtectConfig, now: Timestamp) {
        if self.config == config {
            return;
        }
        self.config = config;
        self.by_time.clear();
        for (address, remembered) in std::mem::take(&mut self.logins) {
            let last = remembered.login.last;
            if self.is_young(last, now) && self.config.networks.contains(address) {
                self.by_time.insert((last, address));
                self.logins.insert(address, remembered);
            }
        }
    }

    /// Remembers a login; `None` where it protects nobody.
    pub fn note(&mut self, login: GoodLogin, now: Timestamp) -> Option<Noted> {
        let address = login.address;
        let within = self.config.within?;
        if login.last.min(now) < now - within.signed() || !self.config.networks.contains(address) {
            return None;
        }
        let last = login.last;
        let before = self.logins.get(&address);
        if before.is_some_and(|before| before.login.last >= last) {
            return None;
        }
        let written = before.map(|before| before.written);
        let write = written.is_none_or(|written| last.duration_since(written) >= WRITE_AGAIN);
        let new = !before.is_some_and(|before| self.is_young(before.login.last, now));
        if let Some(before) = before {
            self.by_time.remove(&(before.login.last, address));
        }
        self.by_time.insert((last, address));
        let written = written.filter(|_| !write).unwrap_or(last);
        self.logins.insert(address, Remembered { login, written });
        while self.logins.len() > self.most
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            self.logins.remove(&oldest);
        }
        Some(Noted { new, write })
    }

    /// Forgets logins that protect no longer; their addresses.
    pub fn expire(&mut self, now: Timestamp) -> Vec<IpAddr> {
        let mut expired = Vec::new();
        while let Some((last, address)) = self.by_time.first().copied()
            && !self.is_young(last, now)
        {
            self.by_time.pop_first();
            self.logins.remove(&address);
            expired.push(address);
        }
        expired
    }

    /// The login that protects an address.
    pub fn of(&self, address: IpAddr, now: Timestamp) -> Option<&GoodLogin> {
        let login = &self.logins.get(&canonical(address))?.login;
        self.is_young(login.last, now).then_some(login)
    }

    /// A login that protects an address of a network.
    pub fn within(&self, network: IpNet, now: Timestamp) -> Option<&GoodLogin> {
        self.logins
            .range(network.network()..=network.broadcast())
            .map(|(_, remembered)| &remembered.login)
            .find(|login| self.is_young(login.last, now))
    }

    /// How many addresses are protected.
    pub fn len(&self) -> usize {
        self.logins.len()
    }

    /// Whether no address is protected at the moment.
    pub fn is_empty(&self) -> bool {
        self.logins.is_empty()
    }

    fn is_young(&self, last: Timestamp, now: Timestamp) -> bool {
        self.config.within.is_some_and(|within| now.duration_since(last) <= within.signed())
    }
}

/// What a sensor tells of a login, with its service and account cut to what is shown.
pub fn good_login(login: &Login, last: Timestamp, sensor: &Name) -> GoodLogin {
    let short = |text: &str| {
        let mut kept = String::new();
        for character in text.chars().filter(|character| !character.is_control()) {
            if kept.len() + character.len_utf8() > Login::LONGEST {
                break;
            }
            kept.push(character);
        }
        kept
    };
    GoodLogin {
        address: canonical(login.address),
        last,
        sensor: sensor.clone(),
        service: short(&login.service),
        account: short(&login.account),
    }
}

/// The networks that no one outside an organisation has: RFC 1918, RFC 6598, RFC 4193.
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

/// The `[protect]` table: who is not banned without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectConfig {
    /// For how long after a successful login on any sensor; `None` where nobody is protected.
    pub within: Option<Seconds>,
    /// Only addresses of these networks.
    pub networks: Networks,
}

// === impl ProtectConfig ===

impl Default for ProtectConfig {
    fn default() -> Self {
        Self { within: Some(Seconds(7 * 86_400)), networks: private() }
    }
}

/// The networks that no one outside an organisation has.
pub(crate) fn private() -> Networks {
    PRIVATE.iter().filter_map(|network| network.parse::<IpNet>().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn login(address: &str, second: i64) -> GoodLogin {
        GoodLogin {
            address: address.parse().unwrap(),
            last: at(second),
            sensor: "web-1".parse().unwrap(),
            service: "sshd".to_owned(),
            account: "ann".to_owned(),
        }
    }

    fn protect(most: usize) -> Protect {
        Protect::new(ProtectConfig { within: Some(Seconds(1000)), ..ProtectConfig::default() }, most)
    }

    #[test]
    fn a_login_protects_its_address_for_as_long_as_is_said_and_only_in_these_networks() {
        let mut protect = protect(10);
        assert_eq!(protect.note(login("10.0.0.1", 0), at(0)), Some(Noted { new: true, write: true }));
        assert_eq!(protect.note(login("192.0.2.1", 0), at(0)), None);
        assert_eq!(protect.note(login("10.0.0.2", -1001), at(0)), None);
        let address = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(protect.of(address, at(1000)).map(|login| login.account.as_str()), Some("ann"));
        assert!(protect.of(address, at(1001)).is_none());
        let network = |text: &str| protect.within(text.parse().unwrap(), at(0)).is_some();
        assert!(network("10.0.0.0/24") && network("10.0.0.1/32") && !network("10.0.1.0/24"));
        assert!(!network("::/0"));
        assert_eq!(protect.expire(at(1000)), Vec::<IpAddr>::new());
        assert_eq!(protect.expire(at(1001)), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert!(protect.is_empty());
    }

    #[test]
    fn a_busy_address_is_written_once_a_minute_and_an_old_login_changes_nothing() {
        let mut protect = protect(10);
        let mut note = |second| protect.note(login("10.0.0.1", second), at(second)).map(|noted| noted.write);
        assert_eq!(
            [0, 1, 59, 60, 30, 119, 120].map(&mut note),
            [Some(true), Some(false), Some(false), Some(true), None, Some(false), Some(true)]
        );
    }

    #[test]
    fn the_latest_logins_stay_where_there_are_too_many() {
        let mut protect = protect(2);
        for (host, second) in [(1, 5), (2, 3), (3, 4)] {
            protect.note(login(&format!("10.0.0.{host}"), second), at(10));
        }
        let of = |host: u8| protect.of(IpAddr::from([10, 0, 0, host]), at(10)).is_some();
        assert_eq!([of(1), of(2), of(3)], [true, false, true]);
    }

    #[test]
    fn nobody_is_protected_where_that_is_switched_off() {
        let off = ProtectConfig { within: None, ..ProtectConfig::default() };
        assert_eq!(Protect::new(off, 10).note(login("10.0.0.1", 0), at(0)), None);
    }

    #[test]
    fn what_a_sensor_calls_an_account_is_cut_and_cannot_bend_a_terminal() {
        let wild = Login {
            address: "::ffff:10.0.0.1".parse().unwrap(),
            service: "s\u{1b}[2Jshd".to_owned(),
            account: "é".repeat(100),
            time: at(0),
        };
        let login = good_login(&wild, at(1), &"web-1".parse().unwrap());
        assert_eq!((login.service.as_str(), login.account.len(), login.last), ("s[2Jshd", 64, at(1)));
        assert_eq!(login.address, "10.0.0.1".parse::<IpAddr>().unwrap());
    }
}
