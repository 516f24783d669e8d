//! What a sensor takes that has nothing to do: memory and processor of all its processes.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{KernelBench, end};
use crate::bench::{pause, resident};

/// What start-up leaves behind is over.
const SETTLE: Duration = Duration::from_secs(5);
/// Over which time the processor is measured.
const WINDOW: Duration = Duration::from_secs(30);

/// Measures and prints it.
pub fn measure(bench: &KernelBench) -> Result<()> {
    println!("  an idle sensor, over {} s", WINDOW.as_secs());
    let sensor = bench.sensor()?;
    pause(SETTLE);
    let processes = family(sensor.id())?;
    let (start, before) = (Instant::now(), spent(&processes)?);
    pause(WINDOW);
    let share = spent(&processes)?.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
    let (mut all_resident, mut all_proportional) = (0, 0);
    for process in &processes {
        let (name, resident) = (name(*process)?, resident(*process)?);
        let proportional = proportional(*process)?;
        println!(
            "    {name:32} {:5.1} MB resident, {:5.1} MB with its share of what is shared",
            resident as f64 / 1e6,
            proportional as f64 / 1e6
        );
        all_resident += resident;
        all_proportional += proportional;
    }
    println!(
        "    together {:.1} MB resident, {:.1} MB proportional (budget: under 20 MB); {:.3} % of a core (budget: 0.1 %)\n",
        all_resident as f64 / 1e6,
        all_proportional as f64 / 1e6,
        share * 100.0
    );
    end(sensor)
}

/// A process and all that descend from it.
fn family(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Ok(parent) = field(process, "PPid:") {
            parents.push((process, parent as u32));
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(of) = family.get(next).copied() {
        family.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(process, _)| process));
        next += 1;
    }
    Ok(family)
}

/// The processor's time of all threads, to the nanosecond (the first field of schedstat).
fn spent(processes: &[u32]) -> Result<Duration> {
    let mut nanoseconds = 0;
    for process in processes {
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>().context("schedstat")?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Memory of a process, pages that it shares with others counted by its part of them.
fn proportional(process: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// The last word of its command line: the sensor's command.
fn name(process: u32) -> Result<String> {
    let line = fs::read(format!("/proc/{process}/cmdline"))?;
    let mut words: Vec<_> = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    let last = words.pop().unwrap_or_default();
    Ok(format!("atalaya-sensor {}", String::from_utf8_lossy(last)))
}

fn field(process: u32, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| key.to_owned())?;
    Ok(line.trim().parse()?)
}
