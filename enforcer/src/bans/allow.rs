//! The allow list: what is never banned. It is made of what is configured, of the routers' and this host's own
//! addresses, of the addresses that DNS names have, and of entries that were made at run time and may end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use atalaya_wire::{Name, Nat64, Networks, canonical};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ledger::Allowance;
use crate::prefixes::written;

/// The most entries at run time.
pub const MOST: usize = 1000;

/// The shortest prefix that can be allowed, in bits: a shorter one is an eighth of all addresses, or all that are used.
const SHORTEST: u8 = 4;

/// What no host has, so that it can attack nobody.
const NOBODYS: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
];

/// Where the allow list comes from.
#[derive(Debug, Default)]
pub struct Allow {
    configured: AllowConfig,
    /// What is ours without being configured.
    own: Vec<OwnNetwork>,
    answers: BTreeMap<String, Resolved>,
    /// What was allowed at run time, by its key.
    entries: BTreeMap<String, Allowance>,
}

/// An address or a network that is ours, as routers and this host tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnNetwork {
    /// An address alone, or all of a network.
    pub network: IpNet,
    /// Whose it is.
    pub whose: Whose,
}

/// Whose an address or a network is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// An interface of this host has it.
    Host,
    /// It is an address of this router.
    Router(Name),
    /// It is a private network that this router is connected to.
    Behind(Name),
}

/// Why something is never banned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowedBecause {
    /// The network of the allow list that it shares addresses with.
    #[serde(with = "crate::prefixes::json")]
    pub network: IpNet,
    /// Where that comes from.
    pub reason: AllowReason,
    /// The router whose address or network it is.
    #[serde(default)]
    pub router: Option<Name>,
    /// The DNS name that stands for it.
    pub name: Option<String>,
    /// The entry that was made at run time.
    pub entry: Option<Allowance>,
}

/// Where a network of the allow list comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllowReason {
    /// `allow` of the configuration has it, or has a name that stands for it.
    Configured,
    /// It was allowed at run time.
    RunTime,
    /// It is an address of the enforcer's host.
    Host,
    /// It is a router's own address.
    Router,
    /// A router is connected to it, and it is private.
    Connected,
    /// No host has it that could attack: loopback, link-local, multicast.
    Nobody,
}

/// What is known of a DNS name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The addresses of the last good answer.
    pub addresses: Vec<IpAddr>,
    /// Why the name cannot be looked up; `None` when all is well.
    pub trouble: Option<String>,
}

/// What can be allowed: an address or a network, or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An address or a network, in its canonical form.
    Network(IpNet),
    /// A name, in lower case.
    Name(String),
}

/// Why something cannot be allowed, or not be taken off the list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowError {
    /// It is nothing that could be allowed.
    #[error(
        "`{0}` is no address, no network and no host name; expected such as `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32` or `admin.example.org`"
    )]
    NotUnderstood(String),
    /// It is so large that nobody could be banned.
    #[error("{} in the allow list is so large that next to nobody could be banned; allow your own networks alone", written(*.0))]
    TooLarge(IpNet),
    /// Its time is over.
    #[error("an entry of the allow list needs at least one second")]
    NoTime,
    /// There are too many.
    #[error(
        "{MOST} entries were made at run time already: take some back, or write networks into `allow` of the configuration"
    )]
    TooMany,
    /// It is on the list, but not from run time.
    #[error("{0} is allowed by the configuration: change `allow` there, and `atalaya-enforcer reload`")]
    Configured(String),
    /// It is not on the list.
    #[error("{0} was not allowed at run time; `atalaya-enforcer allow` lists what was")]
    NotThere(String),
}

// === impl AllowedBecause ===

impl fmt::Display for AllowedBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = written(self.network);
        let router = self.router.as_ref().map(Name::as_str).unwrap_or_default();
        let name = self.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        match self.reason {
            AllowReason::Configured => write!(f, "{network}{name} is on the allow list of the configuration"),
            AllowReason::RunTime => write!(f, "{network}{name} is on the allow list, since run time"),
            AllowReason::Host => write!(f, "{network} is an address of the enforcer's host"),
            AllowReason::Router => write!(f, "{network} is an address of router {router}"),
            AllowReason::Connected => {
                write!(f, "router {router} is connected to the private network {network}")
            }
            AllowReason::Nobody => write!(f, "{network} is loopback, link-local, multicast or reserved"),
        }
    }
}

// === impl What ===

impl What {
    /// Reads what a person wrote.
    pub fn parse(text: &str) -> Result<Self, AllowError> {
        let text = text.trim();
        match Networks::try_from(vec![text.to_owned()]) {
            Ok(networks) => match networks.iter().next() {
                Some(network) if network.prefix_len() < SHORTEST => Err(AllowError::TooLarge(network)),
                Some(network) => Ok(Self::Network(network)),
                None => Err(AllowError::NotUnderstood(String::new())),
            },
            Err(_) if is_host_name(text) => Ok(Self::Name(text.trim_end_matches('.').to_ascii_lowercase())),
            Err(_) => Err(AllowError::NotUnderstood(text.escape_debug().take(80).collect())),
        }
    }

    /// The key of its entry: an address without its length, a network with it, a name.
    pub fn key(&self) -> String {
        match self {
            Self::Network(network) => written(*network),
            Self::Name(name) => name.clone(),
        }
    }
}

// === impl Allow ===

impl Allow {
    /// What is configured, and what was allowed at run time before.
    pub fn new(configured: AllowConfig, saved: Vec<Allowance>) -> Self {
        let entries = saved.into_iter().map(|entry| (entry.what.clone(), entry)).collect();
        Self { configured, own: Vec::new(), answers: BTreeMap::new(), entries }
    }

    /// Replaces what is configured; what was allowed at run time stays.
    pub fn configure(&mut self, configured: AllowConfig) {
        self.configured = configured;
        self.forget_answers();
    }

    /// Replaces what is ours without being configured; whether it is something else than before.
    pub fn set_own(&mut self, mut own: Vec<OwnNetwork>) -> bool {
        own.sort_unstable();
        own.dedup();
        let changed = own != self.own;
        self.own = own;
        changed
    }

    /// Why a prefix, or a part of it, is never banned; that which holds all of it where there is such, and of those what
    /// somebody can change.
    pub fn because(&self, prefix: IpNet, nat64: &Nat64) -> Option<AllowedBecause> {
        let mut found: Vec<AllowedBecause> = Vec::new();
        let mut add = |network: IpNet,
                       reason,
                       router: Option<&Name>,
                       name: Option<&String>,
                       entry: Option<&Allowance>| {
            let network = nat64.network(network);
            if network.contains(&prefix) || prefix.contains(&network) {
                let (router, name, entry) = (router.cloned(), name.cloned(), entry.cloned());
                found.push(AllowedBecause { network, reason, router, name, entry });
            }
        };
        for entry in self.entries.values() {
            if let Ok(What::Network(network)) = What::parse(&entry.what) {
                add(network, AllowReason::RunTime, None, None, Some(entry));
            }
        }
        for (name, answer) in &self.answers {
            let entry = self.entries.get(name);
            let reason = if entry.is_some() { AllowReason::RunTime } else { AllowReason::Configured };
            for address in &answer.addresses {
                add(IpNet::from(*address), reason, None, Some(name), entry);
            }
        }
        for network in self.configured.networks.iter() {
            add(network, AllowReason::Configured, None, None, None);
        }
        for own in &self.own {
            match &own.whose {
                Whose::Host => add(own.network, AllowReason::Host, None, None, None),
                Whose::Router(router) => add(own.network, AllowReason::Router, Some(router), None, None),
                Whose::Behind(router) => add(own.network, AllowReason::Connected, Some(router), None, None),
            }
        }
        for network in nobodys() {
            add(network, AllowReason::Nobody, None, None, None);
        }
        let whole = found.iter().position(|because| because.network.contains(&prefix)).unwrap_or(0);
        (whole < found.len()).then(|| found.swap_remove(whole))
    }

    /// Takes note of what a name's lookup gave; whether its addresses are others than before.
    pub fn set_answer(&mut self, name: &str, answer: Resolved) -> bool {
        let addresses = answer.addresses.clone();
        let before = self.answers.insert(name.to_owned(), answer);
        before.unwrap_or_default().addresses != addresses
    }

    /// Adds an entry, or replaces the one of its key. Its key is what the entry has been given.
    pub fn insert(&mut self, entry: Allowance, now: Timestamp) -> Result<(), AllowError> {
        if entry.until.is_some_and(|until| until <= now) {
            return Err(AllowError::NoTime);
        }
        if self.entries.len() >= MOST && !self.entries.contains_key(&entry.what) {
            return Err(AllowError::TooMany);
        }
        self.entries.insert(entry.what.clone(), entry);
        Ok(())
    }

    /// Takes an entry off the list that was made at run time.
    pub fn remove(&mut self, what: &What) -> Result<Allowance, AllowError> {
        let key = what.key();
        let removed = self.entries.remove(&key).ok_or_else(|| {
            let configured = match what {
                What::Network(network) => self.configured.networks.iter().any(|known| known == *network),
                What::Name(name) => self.configured.names.contains(name),
            };
            if configured { AllowError::Configured(key) } else { AllowError::NotThere(key) }
        })?;
        self.forget_answers();
        Ok(removed)
    }

    /// Takes the entries off the list whose time is over.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Allowance> {
        let is_over = |_: &String, entry: &mut Allowance| entry.until.is_some_and(|until| until <= now);
        let expired: Vec<Allowance> = self.entries.extract_if(.., is_over).map(|(_, entry)| entry).collect();
        if !expired.is_empty() {
            self.forget_answers();
        }
        expired
    }

    /// When the next entry ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.entries.values().filter_map(|entry| entry.until).min()
    }

    /// What was allowed at run time.
    pub fn entries(&self) -> Vec<Allowance> {
        self.entries.values().cloned().collect()
    }

    /// The DNS names on the list.
    pub fn names(&self) -> BTreeSet<String> {
        let made = self.entries.keys().filter(|key| is_host_name(key)).cloned();
        self.configured.names.iter().cloned().chain(made).collect()
    }

    /// What is known of each name; nothing yet of one that was not looked up.
    pub fn answers(&self) -> BTreeMap<String, Resolved> {
        let answer = |name: String| (name.clone(), self.answers.get(&name).cloned().unwrap_or_default());
        self.names().into_iter().map(answer).collect()
    }

    /// The whole list, as addresses and networks.
    pub fn networks(&self) -> Networks {
        let mut networks = self.configured.networks.clone();
        networks.extend(nobodys());
        networks.extend(self.own.iter().map(|own| own.network));
        let answers = self.answers.values().flat_map(|answer| &answer.addresses);
        networks.extend(answers.map(|address| IpNet::from(canonical(*address))));
        for key in self.entries.keys() {
            if let Ok(What::Network(network)) = What::parse(key) {
                networks.insert(network);
            }
        }
        networks
    }

    fn forget_answers(&mut self) {
        let names = self.names();
        self.answers.retain(|name, _| names.contains(name));
    }
}

fn nobodys() -> impl Iterator<Item = IpNet> {
    NOBODYS.iter().filter_map(|network| network.parse().ok())
}

/// What is never banned, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowConfig {
    /// Addresses and networks, from the start to the end of the run.
    pub networks: Networks,
    /// DNS names, whose addresses are looked up again when their time to live is over.
    pub names: Vec<String>,
    /// How they are looked up; no part of the file.
    pub lookups: Lookups,
}

/// Whether this is a DNS name with at least two labels, the last of which is no number.
pub fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let labels: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    let last = labels.last().copied().unwrap_or_default();
    text.len() <= 253
        && labels.len() >= 2
        && labels.iter().all(|part| label(part))
        && !last.bytes().all(|b| b.is_ascii_digit() || b == b'-')
}

/// How names are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookups {
    /// The name server; the system's where none is named.
    pub server: Option<SocketAddr>,
    /// The shortest time between two lookups of a name, whatever its time to live, and after a failure.
    pub shortest: Duration,
    /// The longest time between two lookups, whatever the time to live.
    pub longest: Duration,
}

// === impl Lookups ===

impl Default for Lookups {
    fn default() -> Self {
        Self { server: None, shortest: Duration::from_secs(30), longest: Duration::from_secs(3600) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_told_from_a_mistyped_address() {
        for name in ["admin.example.org", "a-b.example.org.", "vpn.example.xn--p1ai"] {
            assert!(is_host_name(name), "{name}");
        }
        for other in ["10.0.0.1-9", "300.1.2.3", "10.0.0", "example", "a..b", "", "-a.example", "a b.example"]
        {
            assert!(!is_host_name(other), "{other}");
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn entry(what: &str, until: Option<i64>) -> Allowance {
        Allowance {
            what: What::parse(what).unwrap().key(),
            since: at(0),
            until: until.map(at),
            reason: String::new(),
            by: "test".to_owned(),
        }
    }

    fn allow() -> Allow {
        let configured = AllowConfig {
            networks: ["192.0.2.0/24".parse().unwrap()].into_iter().collect(),
            names: vec!["vpn.example.org".to_owned()],
            ..AllowConfig::default()
        };
        Allow::new(configured, vec![entry("198.51.100.1", Some(10))])
    }

    #[test]
    fn each_source_is_on_the_list_and_goes_when_its_time_is_over() {
        let mut allow = allow();
        let has = |allow: &Allow, address: &str| allow.networks().contains(address.parse().unwrap());
        assert!(has(&allow, "192.0.2.9") && has(&allow, "127.0.0.1") && has(&allow, "198.51.100.1"));
        let own = || vec![OwnNetwork { network: "203.0.113.1/32".parse().unwrap(), whose: Whose::Host }];
        assert!(allow.set_own(own()));
        assert!(!allow.set_own(own()));
        allow.insert(entry("2001:db8::7/64", None), at(0)).unwrap();
        allow.insert(entry("Home.Example.org.", Some(20)), at(0)).unwrap();
        assert_eq!(allow.names().len(), 2);
        let answer = Resolved { addresses: vec!["203.0.113.9".parse().unwrap()], trouble: None };
        assert!(allow.set_answer("home.example.org", answer.clone()));
        assert!(
            !allow.set_answer("home.example.org", Resolved { trouble: Some("slow".to_owned()), ..answer })
        );
        assert!(has(&allow, "203.0.113.9") && has(&allow, "203.0.113.1") && has(&allow, "2001:db8::1"));
        assert_eq!(allow.next_end(), Some(at(10)));
        assert_eq!(allow.expire(at(10)).len(), 1);
        assert!(!has(&allow, "198.51.100.1") && has(&allow, "203.0.113.9"));
        assert_eq!(allow.expire(at(20)).len(), 1);
        assert!(!has(&allow, "203.0.113.9"), "the addresses of a name outlive it");
        assert_eq!(allow.next_end(), None);
    }

    #[test]
    fn a_mistake_says_what_would_be_right() {
        let mut allow = allow();
        assert!(What::parse("192.0.2.1-9").unwrap_err().to_string().contains("admin.example.org"));
        for large in ["0.0.0.0/0", "::/0", "128.0.0.0/1", "2000::/3"] {
            assert!(matches!(What::parse(large), Err(AllowError::TooLarge(_))), "{large}");
        }
        assert!(What::parse("10.0.0.0/8").is_ok() && What::parse("fc00::/7").is_ok());
        assert_eq!(allow.insert(entry("192.0.2.1", Some(5)), at(5)), Err(AllowError::NoTime));
        let remove = |allow: &mut Allow, what: &str| allow.remove(&What::parse(what).unwrap());
        assert!(matches!(remove(&mut allow, "192.0.2.0/24"), Err(AllowError::Configured(_))));
        assert!(matches!(remove(&mut allow, "vpn.example.org"), Err(AllowError::Configured(_))));
        assert!(matches!(remove(&mut allow, "203.0.113.7"), Err(AllowError::NotThere(_))));
        assert!(remove(&mut allow, "::ffff:198.51.100.1").is_ok());
        for host in 0..MOST as u32 {
            allow.insert(entry(&std::net::Ipv4Addr::from_bits(host).to_string(), None), at(0)).unwrap();
        }
        assert_eq!(allow.insert(entry("198.51.100.1", None), at(0)), Err(AllowError::TooMany));
        assert!(allow.insert(entry("0.0.0.1", None), at(0)).is_ok());
    }
}
