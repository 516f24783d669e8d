//! A sensor without the kernel's side has no maps: nothing can make [`Bans`].

use std::collections::HashSet;
use std::convert::Infallible;

use ipnet::IpNet;

use super::{DropTotals, Dropped};

/// The maps that are not there.
pub enum Bans {}

// === impl Bans ===

#[expect(missing_docs, reason = "none of this can be called")]
impl Bans {
    pub fn put(&mut self, _network: IpNet, _deadline: u64) -> Result<(), Infallible> {
        match *self {}
    }

    pub fn remove(&mut self, _network: IpNet) -> Result<(), Infallible> {
        match *self {}
    }

    pub fn dropped(&self, _network: IpNet) -> Option<Dropped> {
        match *self {}
    }

    pub fn all(&self) -> Vec<(IpNet, u64)> {
        match *self {}
    }

    pub fn allow(&mut self, _networks: &HashSet<IpNet>, _keep: bool) -> Result<(), Infallible> {
        match *self {}
    }

    pub fn totals(&self) -> DropTotals {
        match *self {}
    }
}
