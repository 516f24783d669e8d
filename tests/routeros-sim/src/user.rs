//! The router's users and groups: names, passwords, and what the policies of a group grant.

use std::fmt::{self, Display};
use std::str::FromStr;

/// The policies of RouterOS 7, in the order in which it prints them.
const POLICIES: [&str; 17] = [
    "local",
    "telnet",
    "ssh",
    "ftp",
    "reboot",
    "read",
    "write",
    "policy",
    "test",
    "winbox",
    "password",
    "web",
    "sniff",
    "sensitive",
    "api",
    "romon",
    "rest-api",
];

/// The policies that a group grants. Of these `read` (prints), `write` (changes) and `api` (logs in over
/// the API) matter to what the simulator does; the others are only shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policies(u32);

/// A policy that RouterOS does not have.
#[derive(Debug, thiserror::Error)]
#[error("unknown policy {0:?}; RouterOS has {known}", known = POLICIES.join(", "))]
pub struct PolicyError(String);

/// Somebody who can log in.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) group: String,
    /// From where it may log in, as written; shown, not enforced.
    pub(crate) address: String,
    pub(crate) disabled: bool,
}

/// What its users may do.
#[derive(Clone)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) policies: Policies,
}

// === impl Policies ===

impl Policies {
    /// All of them, as group `full` has.
    pub(crate) const FULL: Self = Self((1 << POLICIES.len()) - 1);

    /// Whether it may print.
    pub(crate) fn read(self) -> bool {
        self.grants("read")
    }

    /// Whether it may add, set and remove.
    pub(crate) fn write(self) -> bool {
        self.grants("write")
    }

    /// Whether it may change users and groups, along with `write`.
    pub(crate) fn policy(self) -> bool {
        self.grants("policy")
    }

    /// Whether it may log in over the API.
    pub(crate) fn api(self) -> bool {
        self.grants("api")
    }

    pub(crate) fn without(self, denied: &[&str]) -> Self {
        let bit = |name: &&str| POLICIES.iter().position(|policy| policy == name).map_or(0, |at| 1 << at);
        Self(self.0 & !denied.iter().map(bit).sum::<u32>())
    }

    fn grants(self, name: &str) -> bool {
        POLICIES.iter().position(|policy| *policy == name).is_some_and(|at| self.0 & (1 << at) != 0)
    }
}

impl FromStr for Policies {
    type Err = PolicyError;

    /// Reads a list such as `read,write,api`; those left out, or with a `!`, are denied.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut granted = 0;
        for policy in text.split(',').map(str::trim).filter(|policy| !policy.is_empty()) {
            let (name, denied) = policy.strip_prefix('!').map_or((policy, false), |name| (name, true));
            let at = POLICIES.iter().position(|known| *known == name);
            let bit = 1 << at.ok_or_else(|| PolicyError(policy.to_owned()))?;
            granted = if denied { granted & !bit } else { granted | bit };
        }
        Ok(Self(granted))
    }
}

impl Display for Policies {
    /// As `/user/group/print` does: what is granted, then what is denied with a `!`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let granted = POLICIES.iter().filter(|policy| self.grants(policy)).map(|policy| (*policy).to_owned());
        let denied = POLICIES.iter().filter(|policy| !self.grants(policy)).map(|policy| format!("!{policy}"));
        f.write_str(&granted.chain(denied).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_printed_as_routeros_prints_it_and_reads_as_itself() {
        let read = Policies::FULL.without(&["ftp", "write", "policy"]);
        let printed = read.to_string();
        assert_eq!(
            printed,
            "local,telnet,ssh,reboot,read,test,winbox,password,web,sniff,sensitive,api,romon,rest-api,!ftp,!write,!policy"
        );
        assert_eq!(printed.parse::<Policies>().unwrap(), read);
        assert!("read,tele".parse::<Policies>().is_err());
    }
}
