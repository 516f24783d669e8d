//! `cargo xtask bench sensors`: what many sensors wait for, and what one of them can take from the others. The load is
//! made on this host and takes processors from the enforcer, so each figure is told beside the one without it. The peer is
//! the local API of Debian's `CrowdSec`, with as many machines.

use std::process::Command;

use anyhow::Result;

use super::crowdsec::LocalApi;
use crate::run::{announce, cargo, programs};

/// Each case of the load program (`enforcer/examples/sensors.rs`), what it tells, and the budget.
const CASES: [(&str, &[&str], &str); 10] = [
    ("200 sensors, 200 offences a second", &["acks", "200", "1", "10"], "none set"),
    ("200 sensors, 2,000 offences a second", &["acks", "200", "10", "10"], "none set"),
    (
        "200 sensors, 200 a second, beside a noisy neighbour",
        &["noisy", "200", "1", "10"],
        "p50 and p99 at most doubled",
    ),
    ("2,000 sensors, 2,000 offences a second", &["acks", "2000", "1", "10"], "none set"),
    ("2,000 sensors, 10,000 offences a second", &["acks", "2000", "5", "10"], "none set"),
    ("2,000 sensors, 20,000 offences a second", &["acks", "2000", "10", "10"], "p99 < 100 ms"),
    (
        "2,000 sensors, 2,000 a second, beside a noisy neighbour",
        &["noisy", "2000", "1", "10"],
        "at most doubled",
    ),
    ("one sensor begins 600 bodies of 4 MiB and ends none", &["bodies", "600"], "none set"),
    ("2,000 sensors behind one address lose the enforcer", &["storm", "2000"], "all back within 10 s"),
    ("the same again, with what the first left behind", &["storm", "2000"], "all back within 10 s"),
];

/// Builds the load program, and runs each case with an enforcer of its own.
pub fn run() -> Result<()> {
    let build = ["build", "--release", "--package", "atalaya-enforcer", "--example", "sensors"];
    announce("the load of many sensors", cargo().args(build))?;
    let (load, enforcer) = (programs("release/examples/sensors"), programs("release/atalaya-enforcer"));
    println!("sensors: an enforcer without routers, its ledger on this host's disk, over TLS");
    for (what, arguments, budget) in CASES {
        println!("  {what} (budget: {budget})");
        announce(what, Command::new(&load).arg(&enforcer).args(arguments))?;
    }
    println!("  the peer: over plain HTTP, its database on this host's disk");
    for rate in [1, 10] {
        LocalApi::start(200)?.told(rate)?;
    }
    println!();
    Ok(())
}
