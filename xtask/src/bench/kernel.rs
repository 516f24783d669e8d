//! What the sensor costs the kernel and the host: nanoseconds an event in each kernel program, connections a second
//! with it and without, packets in the local drop, what the ring of logins carries, and what an idle sensor takes.
//! Beside it, where there is one, what the same would cost otherwise. Whatever runs on this host besides is
//! measured with it, so what is compared alternates over several rounds, and the median is told.

mod connections;
mod idle;
mod logins;
mod statistics;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::stage::Stage;
use serde_json::Value;

use crate::run::{announce, cargo, programs};
use statistics::Statistics;

/// Where the loopback's server listens, whose connections a jail counts.
const PORT: u16 = 47_022;
/// How long the sensor may take to end.
const END: Duration = Duration::from_secs(10);

/// Measures and prints all of it.
pub(super) fn run() -> Result<()> {
    println!("kernel: a sensor with every source of the kernel, and no enforcer\n");
    let bench = KernelBench::new()?;
    bench.events()?;
    logins::cost_of_a_call(&bench)?;
    logins::cost_of_a_system_call()?;
    connections::rate(&bench)?;
    logins::ring(&bench)?;
    idle::measure(&bench)?;
    println!("  local drop: packets in its XDP program (budget: under 100 ns a passed packet with 1 M bans)");
    let bench = ["bench", "--quiet", "--package", "atalaya-sensor", "--bench", "local_drop"];
    announce("one packet after another, in the kernel's own test run", cargo().args(bench))
}

/// The stage of the sensor that is measured.
struct KernelBench {
    stage: Stage,
}

// === impl KernelBench ===

impl KernelBench {
    fn new() -> Result<Self> {
        let stage = Stage::new(&programs("release"))?;
        // What nobody reaches: nothing is banned while it is measured.
        stage.write_sensor_config(&format!(
            "[jail.ssh]\nsource = \"logins\"\nmaxretry = 1000\n\
             [jail.flood]\nsource = \"connections\"\nports = [{PORT}]\nmaxretry = 100000\n\
             [jail.scan]\nsource = \"scan\"\nmaxretry = 20\n"
        ))?;
        Ok(Self { stage })
    }

    /// Starts the sensor and waits until it is ready.
    fn sensor(&self) -> Result<Process> {
        let mut command = self.stage.sensor();
        command.args(["--log", "warn,atalaya_sensor::service=info", "--log-format", "json", "run"]);
        let mut sensor = Process::start("the sensor", &mut command)?;
        sensor.wait_for(
            "become ready",
            atalaya_end_to_end::stage::START,
            atalaya_end_to_end::stage::is_ready,
        )?;
        Ok(sensor)
    }

    /// What the sensor's status says of the kernel's programs.
    fn programs(&self) -> Result<Vec<Value>> {
        let text = output(self.stage.sensor().args(["status", "--json"]))?;
        let status: Value = serde_json::from_str(&text)?;
        Ok(status["programs"].as_array().context("the status has no programs")?.clone())
    }

    /// Nanoseconds an event of each program, of the kernel's own statistics, under a load of each kind.
    fn events(&self) -> Result<()> {
        println!(
            "  ns an event in each program, by the kernel's own statistics (the way into it not counted;"
        );
        println!("  budgets: 1000 ns a login record, 150 ns a state change)");
        let statistics = Statistics::enable()?;
        let sensor = self.sensor()?;
        let programs = self.programs()?;
        let before = statistics.of(&programs)?;
        logins::calls(logins::CALLS)?;
        connections::Server::start()?.round(20_000)?;
        connections::closed_ports(20_000)?;
        let after = statistics.of(&programs)?;
        for program in &programs {
            let name = program["name"].as_str().unwrap_or_default();
            let id = program["id"].as_u64();
            let runs = id.and_then(|id| Some((before.get(&id)?, after.get(&id)?)));
            match runs {
                Some((before, after)) if after.count > before.count => {
                    let count = after.count - before.count;
                    let each = (after.nanoseconds - before.nanoseconds) as f64 / count as f64;
                    println!("    {name:24} {each:8.0} ns   ({count} events)");
                }
                Some(_) => println!("    {name:24}        - ns   (on, and nothing to see)"),
                None => {
                    println!("    {name:24}        -      ({})", program["state"].as_str().unwrap_or("?"));
                }
            }
        }
        println!();
        end(sensor)
    }
}

/// Ends the sensor; its programs are out of the kernel when it has.
fn end(sensor: Process) -> Result<()> {
    let status = sensor.terminate(END)?;
    if !status.success() {
        bail!("the sensor ended with {status}");
    }
    Ok(())
}

/// The upper of the two in the middle where their number is even; NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
