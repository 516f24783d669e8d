//! How the router is set up beside its address lists: rules, users, services, certificates. An
//! administrator's commands change it ([`terminal`](crate::terminal)), pages show it ([`page`](crate::page)).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::address::Family;
use crate::user::{Group, Policies, User};
use crate::version::Version;

/// What an administrator configured: users, groups, rules and services. A reboot keeps it.
pub(crate) struct Site {
    /// The board's, where it is one of MikroTik's.
    pub(crate) serial: Option<String>,
    /// What it is written and typed as.
    pub(crate) version: Version,
    pub(crate) users: Vec<User>,
    pub(crate) groups: Vec<Group>,
    /// In the order in which packets meet them.
    pub(crate) rules: Vec<Rule>,
    pub(crate) last_rule: u64,
    pub(crate) services: Vec<Service>,
    pub(crate) certificates: Vec<Certificate>,
    /// The addresses of its interfaces, each with the length of its network, as `192.168.88.1/24`, and the interface.
    pub(crate) addresses: Vec<(String, String)>,
    /// What it has by DHCP: an address like those above, and the gateway.
    pub(crate) leases: Vec<(String, String)>,
    /// SHA-256 of the certificate that a signature makes, in hexadecimal digits.
    pub(crate) fingerprint: Option<String>,
    /// Whether api-ssl presents it.
    pub(crate) presented: Arc<AtomicBool>,
    /// The routes that were configured by hand.
    pub(crate) routes: Vec<Route>,
}

/// A row of `/ip/route` or `/ipv6/route`. Nothing goes by it here.
pub(crate) struct Route {
    pub(crate) family: Family,
    pub(crate) destination: String,
    /// An address, `address%interface`, or an interface, as written.
    pub(crate) gateway: String,
    pub(crate) distance: String,
    pub(crate) dynamic: bool,
    pub(crate) disabled: bool,
}

/// The two tables of rules that can use an address list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chains {
    /// `/ip/firewall/raw`, and IPv6's.
    Raw,
    /// `/ip/firewall/filter`, and IPv6's.
    Filter,
}

/// A firewall rule. It filters nothing here.
#[derive(Clone)]
pub(crate) struct Rule {
    /// Never reused, and kept when the rule is moved.
    pub(crate) id: u64,
    pub(crate) family: Family,
    pub(crate) chains: Chains,
    /// What was given, but for `disabled` and `comment`.
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) disabled: bool,
    /// Whether something that it names is gone, such as its interface.
    pub(crate) invalid: bool,
    /// Whether a service of the router's made it.
    pub(crate) dynamic: bool,
    /// How many packets it took.
    pub(crate) packets: u64,
    pub(crate) comment: String,
}

/// A row of `/ip/service`.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) disabled: bool,
    /// From where it may be used, as written; shown, not enforced.
    pub(crate) address: String,
    /// The certificate's name, or `none`, for services with TLS.
    pub(crate) certificate: Option<String>,
}

/// A row of `/certificate`.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) name: String,
    pub(crate) common_name: String,
    pub(crate) key_usage: String,
    pub(crate) days_valid: String,
    /// SHA-256 in hexadecimal digits, once it is signed.
    pub(crate) fingerprint: Option<String>,
}

// === impl Site ===

impl Site {
    /// A site with these users and RouterOS's own groups and services.
    pub(crate) fn new(
        version: Version,
        users: Vec<User>,
        mut groups: Vec<Group>,
        services: Vec<Service>,
    ) -> Self {
        let read = Policies::FULL.without(&["ftp", "write", "policy"]);
        let write = Policies::FULL.without(&["ftp", "policy"]);
        for (name, policies) in [("read", read), ("write", write), ("full", Policies::FULL)] {
            groups.push(Group { name: name.to_owned(), policies });
        }
        Self {
            serial: None,
            version,
            users,
            groups,
            rules: Vec::new(),
            last_rule: 0,
            services,
            certificates: Vec::new(),
            addresses: Vec::new(),
            leases: Vec::new(),
            fingerprint: None,
            presented: Arc::new(AtomicBool::new(true)),
            routes: Vec::new(),
        }
    }

    /// The rules that use a list as the senders that they are for.
    pub(crate) fn rules_of(&mut self, list: &str) -> impl Iterator<Item = &mut Rule> {
        let uses = move |rule: &Rule| {
            rule.attributes.iter().any(|(name, value)| name == "src-address-list" && value == list)
        };
        self.rules.iter_mut().filter(move |rule| uses(rule))
    }

    /// The policies of a user's group.
    pub(crate) fn policies(&self, user: &User) -> Policies {
        let group = self.groups.iter().find(|group| group.name == user.group);
        group.map_or(Policies::FULL.without(&["api"]), |group| group.policies)
    }

    /// Has api-ssl present its certificate, or none.
    pub(crate) fn present(&self) {
        if let Some(certificate) = self.service("api-ssl").and_then(|service| service.certificate.as_deref())
        {
            self.presented.store(certificate != "none", Ordering::Relaxed);
        }
    }

    /// The service of this name.
    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}
