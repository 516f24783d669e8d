//! What happened in a run, as it happens: what was asked for and answered, what was done, and what broke.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use jiff::Timestamp;

use crate::claims::{ClaimId, ClaimKind, Claims};
use crate::invariants::{Breach, Invariant};

/// The most breaches that are kept: one that lasts is seen again and again.
const MOST_BREACHES: usize = 40;

/// The record of one run.
#[derive(Debug)]
pub struct Record {
    began: Instant,
    claims: Mutex<Claims>,
    lines: Mutex<Vec<String>>,
    breaches: Mutex<Breaches>,
}

#[derive(Debug, Default)]
struct Breaches {
    list: Vec<(Duration, Breach)>,
    /// What was seen already, without its times.
    seen: HashSet<String>,
}

// === impl Record ===

impl Record {
    /// An empty record that begins now.
    pub fn new() -> Self {
        Self { began: Instant::now(), claims: Mutex::default(), lines: Mutex::default(), breaches: Mutex::default() }
    }

    /// When the run began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Takes down what is asked for now.
    pub fn ask(&self, prefix: IpNet, kind: ClaimKind) -> ClaimId {
        self.claims().ask(prefix, kind, Timestamp::now())
    }

    /// The claims.
    pub fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down what was done, with the time.
    pub fn tell(&self, what: impl Into<String>) {
        let line = format!("{:7.3} s  {}", self.began.elapsed().as_secs_f64(), what.into());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Takes down what broke: one that lasts once.
    pub fn broke(&self, breach: Breach) {
        let key: String = breach.what.chars().filter(|c| !c.is_ascii_digit() || breach.what.len() < 20).collect();
        let key = format!("{}{}{key}", breach.invariant, first_prefix(&breach.what));
        let mut breaches = self.breaches.lock().unwrap_or_else(PoisonError::into_inner);
        if breaches.list.len() < MOST_BREACHES && breaches.seen.insert(key) {
            self.tell(breach.to_string());
            breaches.list.push((self.began.elapsed(), breach));
        }
    }

    /// Takes down that one invariant does not hold.
    pub fn breach(&self, invariant: Invariant, what: impl Into<String>) {
        self.broke(Breach { invariant, what: what.into() });
    }

    /// What broke.
    pub fn breaches(&self) -> Vec<Breach> {
        let breaches = self.breaches.lock().unwrap_or_else(PoisonError::into_inner);
        breaches.list.iter().map(|(_, breach)| breach.clone()).collect()
    }

    /// All that was done and that broke, a line each.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The address that a breach is about.
fn first_prefix(what: &str) -> &str {
    what.split([' ', ',']).find(|word| word.contains('/')).unwrap_or_default()
}

/// The address of an attacker: of every eighth an IPv6 one.
pub fn attacker_address(attacker: u16) -> IpAddr {
    let [high, low] = (attacker / 200, attacker % 200 + 1).into();
    if attacker % 8 == 7 {
        return Ipv6Addr::new(0x2001, 0xdb8, 0xa, attacker, 0, 0, 0, 1).into();
    }
    let network = [[192, 0, 2], [198, 51, 100], [203, 0, 113]][usize::from(high) % 3];
    Ipv4Addr::new(network[0], network[1], network[2], low as u8).into()
}

/// What is banned of an attacker: the address, or the IPv6 network of 64 bits around it.
pub fn attacker_prefix(attacker: u16) -> IpNet {
    let address = attacker_address(attacker);
    match address {
        IpAddr::V4(_) => address.into(),
        IpAddr::V6(_) => IpNet::new(address, 64).map_or(address.into(), |network| network.trunc()),
    }
}
