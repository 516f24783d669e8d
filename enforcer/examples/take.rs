//! How long the enforcer takes over an offence, from its arrival to the routers' wishes and the ledger's queue:
//! 200,000 offences of different addresses (or of as many as an argument says), in batches of 1000 and
//! one by one. Run with `cargo run --release -p atalaya-enforcer --example take`.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on should say where")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use atalaya_enforcer::bans::allow::Allow;
use atalaya_enforcer::bans::allow::AllowConfig;
use atalaya_enforcer::bans::{Bans, Earlier, Rules};
use atalaya_enforcer::desired::{Desired, Labels};
use atalaya_enforcer::ledger::{Ledger, Terms};
use atalaya_wire::{BanTime, NumberedOffence, Offence, Seconds};
use jiff::Timestamp;

fn main() {
    let count: u32 = std::env::args().nth(1).map_or(200_000, |text| text.parse().unwrap());
    // Consecutive: whole networks of offenders. Spread: one of each network.
    for (name, step) in [("consecutive", 1), ("spread", 257)] {
        for size in [1000, 1] {
            measure(name, step, count, size);
        }
    }
}

fn measure(name: &str, step: u32, count: u32, size: u32) {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _, writer) = Ledger::open(folder.path(), &Terms::default(), &mut Labels::default()).unwrap();
    let desired = Arc::new(Desired::new());
    let mut subscription = desired.subscribe();
    let now = Timestamp::now();
    let allow = Allow::new(AllowConfig::default(), Vec::new());
    let bans = Bans::new(Rules::default(), ledger, desired.clone(), allow, Vec::new(), Vec::new(), now);
    let (sensor, outbox) = ("web-1".parse().unwrap(), "o".parse().unwrap());
    let mut longest = std::time::Duration::ZERO;
    let mut receipt = None;
    let began = Instant::now();
    for first in (0..count).step_by(size as usize) {
        let offences: Vec<NumberedOffence> =
            (first..(first + size).min(count)).map(|number| offence(number, step, now)).collect();
        let one = Instant::now();
        let sequence = u64::from(first + size);
        receipt = Some(bans.take(&sensor, (&outbox, sequence), offences, &Earlier::default(), now));
        longest = longest.max(one.elapsed());
        let _ = subscription.take();
    }
    let taken = began.elapsed();
    drop(bans);
    drop(receipt);
    writer.join();
    println!(
        "{name}, {size} at once: {:.2} us an offence, longest call {:.0} us, {} entries wanted, on disk after {:.1} s",
        taken.as_secs_f64() * 1e6 / f64::from(count),
        longest.as_secs_f64() * 1e6,
        desired.len(),
        began.elapsed().as_secs_f64()
    );
}

fn offence(number: u32, step: u32, now: Timestamp) -> NumberedOffence {
    let address = Ipv4Addr::from(0x0B00_0000_u32.wrapping_add(number.wrapping_mul(step)));
    let offence = Offence {
        jail: "ssh".parse().unwrap(),
        address: address.into(),
        time: now,
        failures: 3,
        bantime: BanTime::For(Seconds(1800)),
        escalation: None,
        evidence: Vec::new(),
    };
    NumberedOffence { sequence: u64::from(number) + 1, offence }
}
