//! What is tried: for each source of the kernel something real to see, and whether the sensor saw it. A check whose
//! programs are not on is reported as left out; whether they ought to be on, `cargo xtask vm` knows.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::sshd::Sshd;
use kernel_init::{Outcome, Program, Report, State};
use serde_json::Value;

use crate::knock;
use crate::sensor::{self, Sensor};

/// Who fails a password by IPv4 and by IPv6.
const GUESSERS: [&str; 2] = ["10.215.88.2", "fd77:a7a2::2"];
/// Who connects too often, and who tries closed ports.
const FLOODER: &str = "10.215.88.3";
const SCANNER: &str = "10.215.88.4";
/// Who does nothing wrong.
const VISITOR: &str = "10.215.88.5";
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
    Check {
        name: "whoever connects too often is an offender",
        needs: &["connections: state"],
        run: Scene::flood,
    },
    Check {
        name: "whoever tries closed ports is an offender",
        needs: &["scans: resets", "scans: drops"],
        run: Scene::scan,
    },
    Check {
        name: "whoever is banned is dropped on this host",
        needs: &["local drop: xdp"],
        run: Scene::drop,
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

/// Attackers in a namespace, a real sshd, another server, and the sensor.
struct Scene {
    namespace: Namespace,
    sshd: Sshd,
    sensor: Sensor,
}

// === impl Scene ===

impl Scene {
    fn new() -> Result<Self> {
        let namespace = Namespace::new(&[GUESSERS[0], GUESSERS[1], FLOODER, SCANNER, VISITOR])?;
        let sshd = Sshd::start(&namespace)?;
        for host in namespace.hosts() {
            let listener = TcpListener::bind((*host, sensor::GUARDED))?;
            std::thread::spawn(move || listener.incoming().for_each(drop));
        }
        let sensor = Sensor::start(namespace.interface())?;
        Ok(Self { namespace, sshd, sensor })
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

    fn flood(&mut self) -> Result<String> {
        let port = sensor::GUARDED;
        let made = knock::from(&self.namespace, FLOODER, port..=port, sensor::FLOOD)?;
        ensure!(made == sensor::FLOOD, "{made} of {} connections were made", sensor::FLOOD);
        self.offence(FLOODER)
    }

    fn scan(&mut self) -> Result<String> {
        // Whoever never completed a handshake may be forged, and is not counted.
        let port = sensor::GUARDED;
        ensure!(knock::from(&self.namespace, SCANNER, port..=port, 1)? == 1, "the server does not answer");
        let (first, last) = (sensor::CLOSED, sensor::CLOSED + sensor::SCAN + 2);
        ensure!(knock::from(&self.namespace, SCANNER, first..=last, 1)? == 0, "a closed port answered");
        self.offence(SCANNER)
    }

    /// A ban by hand, so that it needs no other source.
    fn drop(&mut self) -> Result<String> {
        let (banned, other, port) = (GUESSERS[0], VISITOR, sensor::GUARDED);
        let answers = |from| knock::from(&self.namespace, from, port..=port, 1);
        ensure!(answers(banned)? == 1, "{banned} gets no answer before it is banned");
        sensor::ban("ssh", banned)?;
        let until = Instant::now() + PATIENCE;
        while answers(banned)? > 0 {
            ensure!(Instant::now() < until, "{banned} still gets an answer");
        }
        ensure!(answers(other)? == 1, "{other} is dropped too");
        Ok(format!("{banned} gets no answer, {other} does"))
    }

    fn offence(&mut self, of: &str) -> Result<String> {
        let line = self.sensor.wait_for("see the offence", PATIENCE, |line| {
            line.contains("\"message\":\"offence\"") && line.contains(&format!("\"address\":\"{of}\""))
        })?;
        let event: Value = serde_json::from_str(&line)?;
        Ok(format!("{of}, jail {}", event["jail"].as_str().context("the offence names no jail")?))
    }
}
