//! What happened in a run, as it happens: what was asked for and answered, what was done, and what broke.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::claims::{ClaimId, ClaimKind, Claims};
use crate::invariants::{Breach, Invariant};

/// The most breaches of one invariant that are kept.
const MOST_BREACHES: usize = 6;

/// The record of one run.
#[derive(Debug)]
pub struct Record {
    began: Instant,
    claims: Mutex<Claims>,
    lines: Mutex<Vec<String>>,
    breaches: Mutex<Breaches>,
    enforcer_clock: Mutex<EnforcerClock>,
}

/// By how many seconds the clock of the enforcer's host is off, and was at the least and at the most.
#[derive(Clone, Copy, Debug, Default)]
struct EnforcerClock {
    off: i64,
    least: i64,
    most: i64,
}

#[derive(Debug, Default)]
struct Breaches {
    list: Vec<Breach>,
    /// What was seen already, without its times.
    seen: HashSet<String>,
}

// === impl Record ===

impl Record {
    /// An empty record that begins now.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            claims: Mutex::default(),
            lines: Mutex::default(),
            breaches: Mutex::default(),
            enforcer_clock: Mutex::default(),
        }
    }

    /// Takes down that the clock of the enforcer's host is off by so many seconds from now on.
    pub fn set_enforcer_clock(&self, off: i64) {
        let mut clock = self.enforcer_clock.lock().unwrap_or_else(PoisonError::into_inner);
        *clock = EnforcerClock { off, least: clock.least.min(off), most: clock.most.max(off) };
    }

    /// What the enforcer's clock shows.
    pub fn enforcer_now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(self.enforcer_clock().off)
    }

    /// By how much two times of the enforcer's clock may be further apart than they were, or closer.
    pub fn clock_spread(&self) -> SignedDuration {
        let EnforcerClock { least, most, .. } = self.enforcer_clock();
        SignedDuration::from_secs(most - least)
    }

    fn enforcer_clock(&self) -> EnforcerClock {
        *self.enforcer_clock.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Takes down what broke: what lasts once.
    pub fn broke(&self, breach: Breach) {
        let key = format!("{}{}", breach.invariant, subject(&breach.what));
        let mut breaches = self.breaches.lock().unwrap_or_else(PoisonError::into_inner);
        if !breaches.seen.insert(key) {
            return;
        }
        let before = breaches.list.iter().filter(|known| known.invariant == breach.invariant).count();
        if before < MOST_BREACHES {
            self.tell(breach.to_string());
            breaches.list.push(breach);
        }
    }

    /// Takes down that one invariant does not hold.
    pub fn breach(&self, invariant: Invariant, what: impl Into<String>) {
        self.broke(Breach { invariant, what: what.into() });
    }

    /// What broke.
    pub fn breaches(&self) -> Vec<Breach> {
        self.breaches.lock().unwrap_or_else(PoisonError::into_inner).list.clone()
    }

    /// All that was done and that broke, a line each.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a breach is about: the address and the router where it names them, else all of it.
fn subject(what: &str) -> String {
    match what.split([' ', ',', ':']).position(|word| word.contains('/')) {
        None => what.to_owned(),
        Some(_) => {
            let is_subject = |word: &&str| word.contains('/') || word.starts_with("router-");
            what.split([' ', ',']).filter(is_subject).take(2).collect()
        }
    }
}

/// The address of an attacker: of every eighth an IPv6 one.
pub fn attacker_address(attacker: u16) -> IpAddr {
    if attacker % 8 == 7 {
        return Ipv6Addr::new(0x2001, 0xdb8, 0xa, attacker, 0, 0, 0, 1).into();
    }
    // Of the networks for documentation (RFC 5737); hosts that tests run on may have addresses of 192.0.2.0/24.
    let host = (attacker % 240 + 1) as u8;
    let network = if attacker < 240 { [198, 51, 100] } else { [203, 0, 113] };
    Ipv4Addr::new(network[0], network[1], network[2], host).into()
}

/// What is banned of an attacker: the address, or the IPv6 network of 64 bits around it.
pub fn attacker_prefix(attacker: u16) -> IpNet {
    let address = attacker_address(attacker);
    match address {
        IpAddr::V4(_) => address.into(),
        IpAddr::V6(_) => IpNet::new(address, 64).map_or(address.into(), |network| network.trunc()),
    }
}
