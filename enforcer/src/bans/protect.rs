//! Protection against locking oneself out: who logged in successfully lately, from which address. An offence of such an
//! address is not banned without a word, and no widened network covers it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    /// The most logins, each the last of one sensor from one address. Of the sensor that has the most, the latest stay.
    most: usize,
    /// The most of one sensor.
    most_of_one: usize,
    /// By address, of each sensor that saw one.
    logins: BTreeMap<IpAddr, Vec<Remembered>>,
    count: usize,
    by_time: BTreeSet<(Timestamp, IpAddr, Name)>,
    by_sensor: HashMap<Name, BTreeSet<(Timestamp, IpAddr)>>,
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
    /// Addresses that the sensor's earlier logins protect no more, because it has so many.
    pub displaced: u64,
}

// === impl Protect ===

impl Protect {
    /// Knows of no login yet, and will know of so many at most, and of so many of one sensor.
    pub fn new(config: ProtectConfig, most: usize, most_of_one: Option<usize>) -> Self {
        let most_of_one = most_of_one.unwrap_or(most).min(most);
        let (logins, by_time, by_sensor) = (BTreeMap::new(), BTreeSet::new(), HashMap::new());
        Self { config, most, most_of_one, logins, count: 0, by_time, by_sensor }
    }

    /// Protects by other settings from here on, with so many logins of one sensor at most: of the logins that are known
    /// those that they protect, and of one sensor the latest.
    pub fn configure(&mut self, config: ProtectConfig, most_of_one: Option<usize>, now: Timestamp) {
        let most_of_one = most_of_one.unwrap_or(self.most).min(self.most);
        if self.config == config && self.most_of_one == most_of_one {
            return;
        }
        (self.config, self.most_of_one) = (config, most_of_one);
        let gone: Vec<_> = self
            .by_time
            .iter()
            .filter(|(last, address, _)| {
                !(self.is_young(*last, now) && self.config.networks.contains(*address))
            })
            .cloned()
            .collect();
        for (last, address, sensor) in gone {
            self.forget(last, address, &sensor);
        }
        let sensors: Vec<Name> = self.by_sensor.keys().cloned().collect();
        for sensor in &sensors {
            self.keep_latest_of(sensor);
        }
    }

    /// Remembers a login; `None` where it protects nobody. A sensor that reports too many displaces its own, and no
    /// other's, not even from the same address.
    pub fn note(&mut self, login: GoodLogin, now: Timestamp) -> Option<Noted> {
        let (address, last, sensor) = (login.address, login.last, login.sensor.clone());
        let within = self.config.within?;
        if last.min(now) < now - within.signed() || !self.config.networks.contains(address) {
            return None;
        }
        let known = self.logins.get(&address).map_or(&[][..], Vec::as_slice);
        let before = known.iter().find(|known| known.login.sensor == sensor);
        if before.is_some_and(|before| before.login.last >= last) {
            return None;
        }
        let written = known.iter().map(|known| known.written).max();
        let write = written.is_none_or(|written| last.duration_since(written) >= WRITE_AGAIN);
        let new = !known.iter().any(|known| self.is_young(known.login.last, now));
        if let Some(before) = before.map(|before| before.login.last) {
            self.forget(before, address, &sensor);
        }
        let written = written.filter(|_| !write).unwrap_or(last);
        self.logins.entry(address).or_default().push(Remembered { login, written });
        self.count += 1;
        self.by_time.insert((last, address, sensor.clone()));
        self.by_sensor.entry(sensor.clone()).or_default().insert((last, address));
        let displaced = self.keep_latest_of(&sensor);
        while self.count > self.most
            && let Some((sensor, own)) = self.by_sensor.iter().max_by_key(|(_, own)| own.len())
            && let Some((last, address)) = own.first().copied()
        {
            self.forget(last, address, &sensor.clone());
        }
        Some(Noted { new, write, displaced })
    }

    /// Forgets logins that protect no longer; their addresses.
    pub fn expire(&mut self, now: Timestamp) -> Vec<IpAddr> {
        let mut expired = Vec::new();
        while let Some((last, address, sensor)) = self.by_time.first().cloned()
            && !self.is_young(last, now)
        {
            self.forget(last, address, &sensor);
            if !self.logins.contains_key(&address) {
                expired.push(address);
            }
        }
        expired
    }

    /// The login that protects an address, the latest of several.
    pub fn of(&self, address: IpAddr, now: Timestamp) -> Option<&GoodLogin> {
        self.latest(self.logins.get(&canonical(address))?, now)
    }

    /// A login that protects an address of a network.
    pub fn within(&self, network: IpNet, now: Timestamp) -> Option<&GoodLogin> {
        let addresses = self.logins.range(network.network()..=network.broadcast());
        addresses.into_iter().find_map(|(_, logins)| self.latest(logins, now))
    }

    /// How many addresses are protected.
    pub fn len(&self) -> usize {
        self.logins.len()
    }

    /// How many addresses the logins of each sensor protect.
    pub fn by_sensor(&self) -> BTreeMap<Name, usize> {
        self.by_sensor.iter().map(|(sensor, own)| (sensor.clone(), own.len())).collect()
    }

    /// Whether no address is protected at the moment.
    pub fn is_empty(&self) -> bool {
        self.logins.is_empty()
    }

    fn latest<'a>(&self, logins: &'a [Remembered], now: Timestamp) -> Option<&'a GoodLogin> {
        let logins = logins.iter().map(|remembered| &remembered.login);
        logins.max_by_key(|login| login.last).filter(|login| self.is_young(login.last, now))
    }

    /// Forgets the earliest logins of a sensor that has too many; how many.
    fn keep_latest_of(&mut self, sensor: &Name) -> u64 {
        let mut forgotten = 0;
        while let Some(own) = self.by_sensor.get(sensor)
            && own.len() > self.most_of_one
            && let Some((last, address)) = own.first().copied()
        {
            self.forget(last, address, sensor);
            forgotten += 1;
        }
        forgotten
    }

    fn forget(&mut self, last: Timestamp, address: IpAddr, sensor: &Name) {
        self.by_time.remove(&(last, address, sensor.clone()));
        if let Some(own) = self.by_sensor.get_mut(sensor) {
            own.remove(&(last, address));
            if own.is_empty() {
                self.by_sensor.remove(sensor);
            }
        }
        let Some(logins) = self.logins.get_mut(&address) else { return };
        let before = logins.len();
        logins.retain(|known| known.login.sensor != *sensor);
        self.count -= before - logins.len();
        if logins.is_empty() {
            self.logins.remove(&address);
        }
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
        Protect::new(ProtectConfig { within: Some(Seconds(1000)), ..ProtectConfig::default() }, most, None)
    }

    #[test]
    fn a_login_protects_its_address_for_as_long_as_is_said_and_only_in_these_networks() {
        let mut protect = protect(10);
        assert_eq!(
            protect.note(login("10.0.0.1", 0), at(0)),
            Some(Noted { new: true, write: true, displaced: 0 })
        );
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
    fn invented_logins_of_one_sensor_displace_its_own_and_leave_the_others_protected() {
        let config = ProtectConfig { within: Some(Seconds(1000)), ..ProtectConfig::default() };
        let mut protect = Protect::new(config, 6, Some(4));
        let by = |sensor: &str, host: u8, second| GoodLogin {
            sensor: sensor.parse().unwrap(),
            ..login(&format!("10.0.0.{host}"), second)
        };
        protect.note(by("good", 1, 0), at(0));
        // Also from the address that the other sensor saw.
        let displaced: Vec<u64> = (1..=9)
            .map(|host| protect.note(by("evil", host, host.into()), at(10)).unwrap().displaced)
            .collect();
        assert_eq!(displaced, [0, 0, 0, 0, 1, 1, 1, 1, 1]);
        let protected = |protect: &Protect| -> Vec<u8> {
            (1..=9).filter(|host| protect.of(IpAddr::from([10, 0, 0, *host]), at(10)).is_some()).collect()
        };
        assert_eq!(protected(&protect), [1, 6, 7, 8, 9]);
        assert_eq!(protect.of("10.0.0.1".parse().unwrap(), at(10)).unwrap().sensor.as_str(), "good");
        for host in 11..=14 {
            protect.note(by(&format!("other-{host}"), host, 10), at(10));
        }
        assert_eq!(protected(&protect), [1, 9], "of the sensor with the most, while all are too many");
        assert_eq!(protect.by_sensor()[&"evil".parse::<Name>().unwrap()], 1);
    }

    #[test]
    fn other_settings_forget_the_logins_that_they_do_not_protect_and_of_each_sensor_the_earliest() {
        let config = ProtectConfig { within: Some(Seconds(1000)), ..ProtectConfig::default() };
        let mut protect = Protect::new(config.clone(), 10, None);
        for (sensor, host) in [("one", 1), ("one", 2), ("one", 3), ("two", 1), ("two", 4)] {
            let login = login(&format!("10.0.0.{host}"), i64::from(host));
            protect.note(GoodLogin { sensor: sensor.parse().unwrap(), ..login }, at(10));
        }
        let protected = |protect: &Protect| -> Vec<u8> {
            (1..=4).filter(|host| protect.of(IpAddr::from([10, 0, 0, *host]), at(10)).is_some()).collect()
        };
        protect.configure(config.clone(), Some(2), at(10));
        assert_eq!(protected(&protect), [1, 2, 3, 4], "the other sensor saw the first too");
        protect.configure(config.clone(), Some(1), at(10));
        assert_eq!(protected(&protect), [3, 4]);
        let networks = ["10.0.0.4/32".parse::<IpNet>().unwrap()].into_iter().collect();
        protect.configure(ProtectConfig { networks, ..config }, Some(1), at(10));
        assert_eq!((protected(&protect), protect.by_sensor().len()), (vec![4], 1));
        assert_eq!((protect.count, protect.by_time.len()), (1, 1));
    }

    #[test]
    fn nobody_is_protected_where_that_is_switched_off() {
        let off = ProtectConfig { within: None, ..ProtectConfig::default() };
        assert_eq!(Protect::new(off, 10, None).note(login("10.0.0.1", 0), at(0)), None);
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
