//! What a failure costs from the line to the counters, with and without reports: a log held in memory, of
//! which 41 % of the lines are failures of many addresses. Processor time is measured, so that what else the
//! machine does matters less. `cargo bench -p atalaya-sensor --bench detector`.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set its scene fails")]

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use atalaya_sensor::config::Config;
use atalaya_sensor::detector::{Detector, Handed, Ignored};
use jiff::Timestamp;
use jiff::tz::TimeZone;

const LINES: u32 = 2_000_000;
const ADDRESSES: [u32; 2] = [5_000, 200_000];
/// How often each is measured; the fastest counts.
const ROUNDS: usize = 5;
const JAIL: &str = "[jail.smtp]\nsource = \"files\"\npaths = \"/x\"\nmaxretry = 5\n\
    failregex = '^.*\\[\\s*<HOST>\\s*\\].*Error: authentication failed'\n";

fn main() {
    let now = Timestamp::now();
    for addresses in ADDRESSES {
        let log = log(addresses, now);
        let mut best = [Duration::MAX; 2];
        for _ in 0..ROUNDS {
            // In turn, so that both have the same neighbours on the machine.
            for reporting in [false, true] {
                let best = &mut best[usize::from(reporting)];
                *best = pass(&log, reporting, now).min(*best);
            }
        }
        for (what, best) in ["alone", "with reports"].iter().zip(best) {
            let rate = f64::from(LINES) / best.as_secs_f64() / 1e6;
            println!(
                "{addresses} addresses, {what}: {rate:.2} M lines/s, {:.0} ms",
                best.as_secs_f64() * 1e3
            );
        }
        let more = best[1].as_secs_f64() - best[0].as_secs_f64();
        println!("  a reported failure costs {:.0} ns more", more * 1e9 / (f64::from(LINES) * 0.41));
    }
}

/// Reads the log in blocks, and takes what is pending as often as a second passes.
fn pass(log: &str, reporting: bool, now: Timestamp) -> Duration {
    let config = Config::parse(JAIL, Path::new("sensor.toml")).unwrap();
    let mut detector = Detector::new(config.jails, Ignored::default(), TimeZone::UTC, |_, _| Handed::Asked);
    detector.set_reporting(reporting);
    let (start, mut taken) = (spent(), Instant::now());
    let mut rest = log.as_bytes();
    while !rest.is_empty() {
        let block = &rest[..rest.len().min(256 * 1024)];
        let end = block.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        detector.lines(&[0], "x", &rest[..end], now);
        rest = &rest[end..];
        if taken.elapsed() > Duration::from_secs(1) {
            taken = Instant::now();
            if let Some(pending) = detector.pending() {
                drop(pending.take());
            }
        }
    }
    spent().saturating_sub(start)
}

/// Processor time of this thread.
fn spent() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap())
}

fn log(addresses: u32, now: Timestamp) -> String {
    let mut log = String::new();
    for line in 0..LINES {
        if line % 100 < 41 {
            let host = Ipv4Addr::from(0x0B00_0000 + line.wrapping_mul(2_654_435_761) % addresses);
            writeln!(log, "{now} mail smtpd[{line}]: warning: unknown[{host}]: Error: authentication failed")
                .unwrap();
        } else {
            writeln!(log, "{now} mail smtpd[{line}]: connect from unknown[192.0.2.1]: nothing to see")
                .unwrap();
        }
    }
    log
}
