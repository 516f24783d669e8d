//! The router's users: name, password and the policies of their group.

use std::str::FromStr;

/// The policies that matter to the API and to address lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policies {
    /// May print.
    pub(crate) read: bool,
    /// May add, set and remove.
    pub(crate) write: bool,
    /// May log in over the API.
    pub(crate) api: bool,
}

/// A policy that the simulator does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown policy {0:?}; the simulator knows read, write and api")]
pub struct PolicyError(String);

impl FromStr for Policies {
    type Err = PolicyError;

    /// Reads a list such as `read,write,api`; those left out are denied.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut policies = Self { read: false, write: false, api: false };
        for policy in text.split(',').map(str::trim).filter(|policy| !policy.is_empty()) {
            match policy {
                "read" => policies.read = true,
                "write" => policies.write = true,
                "api" => policies.api = true,
                other => return Err(PolicyError(other.to_owned())),
            }
        }
        Ok(policies)
    }
}

/// Somebody who can log in.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) policies: Policies,
}
