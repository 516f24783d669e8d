//! The stream of bans as a sensor follows it, here by curl: a snapshot, and a new ban's way.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use atalaya_end_to_end::process::Process;
use atalaya_end_to_end::stage::Stage;

use super::routers::{Log, at};
use super::{append, attacker, pause, resident};

/// How many new bans, and the pause between them.
const SINGLES: u32 = 300;
const PAUSE: Duration = Duration::from_millis(10);

/// Follows the bans of a running enforcer, and bans addresses one by one from a number on.
pub fn follow(stage: &Stage, enforcer: u32, token: &str, log: &Log, first: u32) -> Result<()> {
    let mut parts = token.split(':');
    let (name, secret) = (parts.nth(1).context("no name")?, parts.next().context("no secret")?);
    let mut config = String::new();
    writeln!(
        config,
        "url = \"{}/v1/bans\"\ninsecure\nsilent\nno-buffer\nuser = \"{name}:{secret}\"",
        stage.url()
    )?;
    // In a file, not among the arguments: it holds the secret.
    let path = stage.folder().join("follow.conf");
    std::fs::write(&path, config)?;

    let before = resident(enforcer)?;
    let (clock, mut bytes, mut lines, mut peak) = (Instant::now(), 0, 0_u64, before);
    let mut curl = Process::start("curl", Command::new("curl").arg("--config").arg(&path))?;
    curl.wait_for("tell all bans", Duration::from_secs(300), |line| {
        bytes += line.len() + 1;
        lines += 1;
        if lines.is_multiple_of(10_000) {
            peak = peak.max(resident(enforcer).unwrap_or_default());
        }
        line.starts_with("{\"mark\"") && !line.contains("after")
    })?;
    println!(
        "  a snapshot for a sensor: {lines} lines, {:.1} MB in {:.2} s; the enforcer's memory grew by {:.1} MB",
        bytes as f64 / 1e6,
        clock.elapsed().as_secs_f64(),
        peak.saturating_sub(before) as f64 / 1e6
    );

    let mut waits = Vec::new();
    for number in first..first + SINGLES {
        let (began, address) = (SystemTime::now(), format!("\"{}\"", attacker(number)));
        append(log, number)?;
        let told =
            curl.wait_for("tell a new ban", Duration::from_secs(30), |line| line.contains(&address))?;
        waits.push(told.at.duration_since(began).unwrap_or_default().as_secs_f64() * 1e3);
        pause(PAUSE);
    }
    waits.sort_unstable_by(f64::total_cmp);
    println!(
        "  {SINGLES} new bans: log line to the follower p50 {:.2} ms, p99 {:.2} ms\n",
        at(&waits, 0.5),
        at(&waits, 0.99)
    );
    Ok(())
}
