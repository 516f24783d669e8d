//! What is tried: for each source of the kernel something real to see, and whether the sensor saw it. A check whose
//! programs are not on is reported as left out; whether they ought to be on, `cargo xtask vm` knows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::sshd::Sshd;
use kernel_init::{Outcome, Program, Report, State};
use serde_json::Value;

use crate::sensor::Sensor;

/// Who fails a password by IPv4 and by IPv6.
const GUESSERS: [&str; 2] = ["10.215.88.2", "fd77:a7a2::2"];
/// How long anything may take: the processor may be emulated.
const PATIENCE: Duration = Duration::from_secs(60);

/// One check: what it shows, the programs that it needs (any of them), and the trial, which tells what it saw.
struct Check {
    name: &'static str,
    needs: &'static [&'static str],
    run: fn(&mut Scene) -> Result<String>,
}

const CHECKS: &[Check] = &[
    Check {
        name: "a wrong ssh password is seen with its address before sshd answers",
        needs: &["logins: audit"],
        run: |scene| scene.wrong_password(GUESSERS[0]),
    },
    Check {
        name: "a wrong ssh password over IPv6 is seen with its address",
        needs: &["logins: audit"],
        run: |scene| scene.wrong_password(GUESSERS[1]),
    },
];

/// Runs the sensor and all checks; whether every one held that could be tried.
pub fn run(say: &mut dyn FnMut(Report) -> Result<()>) -> Result<bool> {
    let mut scene = Scene::new()?;
    let programs = Sensor::programs()?;
    for program in &programs {
        say(Report::Program(program.clone()))?;
    }
    let mut held = true;
    for check in CHECKS {
        let (outcome, detail) = if is_on(&programs, check.needs) {
            match (check.run)(&mut scene) {
                Ok(seen) => (Outcome::Passed, seen),
                Err(error) => (Outcome::Failed, format!("{error:#}")),
            }
        } else {
            (Outcome::Skipped, format!("needs {}", check.needs.join(" or ")))
        };
        held &= outcome != Outcome::Failed;
        say(Report::Check { name: check.name.to_owned(), outcome, detail })?;
    }
    Ok(held)
}

fn is_on(programs: &[Program], any: &[&str]) -> bool {
    programs.iter().any(|program| program.state == State::On && any.contains(&program.name.as_str()))
}

/// Attackers in a namespace, a real sshd, and the sensor.
struct Scene {
    namespace: Namespace,
    sshd: Sshd,
    sensor: Sensor,
}

// === impl Scene ===

impl Scene {
    fn new() -> Result<Self> {
        let namespace = Namespace::new(&GUESSERS)?;
        let sshd = Sshd::start(&namespace)?;
        Ok(Self { namespace, sshd, sensor: Sensor::start()? })
    }

    fn wrong_password(&mut self, from: &str) -> Result<String> {
        let mut client = self.sshd.spawn_wrong_passwords(&self.namespace, from.parse()?, 1)?;
        let line = self.sensor.wait_for("see the failure", PATIENCE, |line| {
            line.contains("\"message\":\"failure\"") && line.contains(&format!("\"address\":\"{from}\""))
        })?;
        ensure!(client.try_wait()?.is_none(), "sshd had answered when the failure was seen");
        let event: Value = serde_json::from_str(&line)?;
        let source = event["source"].as_str().context("the failure names no source")?;
        Sshd::finish(client, PATIENCE)?;
        Ok(format!("{from}, by {source}"))
    }
}
