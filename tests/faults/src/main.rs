//! `faults`: random schedules of faults over real processes. `cargo xtask faults` builds what it needs and starts it.

mod claims;
mod client;
mod daemon;
mod invariants;
mod logs;
mod plant;
mod pressure;
mod proxy;
mod record;
mod run;
mod schedule;
mod stage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use plant::Plant;
use run::Outcome;
use schedule::{Schedule, Timed};
use stage::Means;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Carries out random schedules of faults over a real enforcer and real sensors, and looks whether what must hold holds.
#[derive(Parser)]
#[command(name = "faults", version)]
struct Cli {
    /// How many seeds to try
    #[arg(long, value_name = "N", default_value_t = 10, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 1, conflicts_with = "seed")]
    from: u64,
    /// Try this one seed, and print its history whatever comes of it
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// How many run at a time
    #[arg(long, value_name = "P", default_value_t = 8)]
    parallel: usize,
    /// Print the schedule of the seed, and run nothing
    #[arg(long, requires = "seed")]
    show: bool,
    /// Plant a fault that has to be noticed; the end is 0 where it is
    #[arg(long, value_name = "FAULT")]
    plant: Option<Plant>,
    /// Where the programs are
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Debian's libfaketime, by which the clocks of sensors are set; without it they are not
    #[arg(long, value_name = "FILE")]
    clockwork: Option<PathBuf>,
    /// Where folders of runs that failed are kept
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// What came of a seed.
struct Verdict {
    seed: u64,
    outcome: Result<Outcome>,
    /// Where its logs are, if it failed.
    kept: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let (Some(seed), true) = (cli.seed, cli.show) {
        print_schedule(&Schedule::of(seed));
        return ExitCode::SUCCESS;
    }
    match try_all(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[tokio::main]
async fn try_all(cli: &Cli) -> Result<bool> {
    // Fails where there is one already, which does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let programs = match &cli.programs {
        Some(programs) => programs.clone(),
        None => std::env::current_exe()?.parent().context("this program is in no folder")?.to_owned(),
    };
    for program in ["atalaya-enforcer", "atalaya-sensor"] {
        anyhow::ensure!(
            programs.join(program).is_file(),
            "{program} is not built: `cargo xtask faults` builds it"
        );
    }
    let means = Means { programs: programs.clone(), clockwork: cli.clockwork.clone() };
    let keep = cli.keep.clone().unwrap_or_else(|| programs.join("faults-kept"));
    let seeds: Vec<u64> =
        cli.seed.map_or_else(|| (cli.from..cli.from + cli.seeds).collect(), |seed| vec![seed]);
    let total = seeds.len();
    let (began, places) = (Instant::now(), Arc::new(Semaphore::new(cli.parallel.max(1))));
    let mut runs = JoinSet::new();
    for seed in seeds {
        let (places, means, keep, plant) = (places.clone(), means.clone(), keep.clone(), cli.plant);
        runs.spawn(async move {
            let _place = places.acquire_owned().await;
            try_seed(seed, plant, &means, &keep).await
        });
    }
    let (mut done, mut failed, mut settled) = (0, Vec::new(), Vec::new());
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        let verdict = tokio::select! {
            verdict = runs.join_next() => verdict,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminated.recv() => anyhow::bail!("terminated"),
        };
        // What is dropped at an interruption ends its processes and unmounts its disks.
        let Some(verdict) = verdict else { break };
        let verdict = verdict?;
        done += 1;
        settled.extend(verdict.outcome.as_ref().ok().and_then(|outcome| outcome.settled));
        let good = print_verdict(&verdict, done, total, cli);
        if !good {
            failed.push(verdict.seed);
        }
    }
    settled.sort_unstable();
    let middle = settled.get(settled.len() / 2).copied().unwrap_or_default();
    let last = settled.last().copied().unwrap_or_default();
    println!(
        "{total} seeds in {:.0?}: {} clean, settled {middle:.1?} after the last fault in the middle, {last:.1?} at the latest",
        began.elapsed(),
        total - failed.len(),
    );
    for seed in &failed {
        println!("failed: cargo xtask faults --seed {seed}");
    }
    Ok(failed.is_empty())
}

async fn try_seed(seed: u64, plant: Option<Plant>, means: &Means, keep: &Path) -> Verdict {
    let schedule = Schedule::of(seed);
    let folder = match tempfile::Builder::new().prefix(&format!("faults-{seed}-")).tempdir() {
        Ok(folder) => folder,
        Err(error) => return Verdict { seed, outcome: Err(error.into()), kept: None },
    };
    // What hangs is a failure, too.
    let outcome =
        tokio::time::timeout(Duration::from_secs(180), run::run(&schedule, plant, folder.path(), means))
            .await;
    let outcome =
        outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("it did not come to its end within three minutes")));
    let is_clean = outcome.as_ref().is_ok_and(|outcome| outcome.breaches.is_empty());
    let kept = (!is_clean && plant.is_none()).then(|| keep_folder(folder, seed, keep, &outcome));
    Verdict { seed, outcome, kept }
}

/// Moves a run's folder to where it is kept, with the run's history in it.
fn keep_folder(folder: tempfile::TempDir, seed: u64, keep: &Path, outcome: &Result<Outcome>) -> PathBuf {
    let to = keep.join(seed.to_string());
    let _ = std::fs::create_dir_all(keep);
    let _ = std::fs::remove_dir_all(&to);
    let from = folder.keep();
    let copied = std::process::Command::new("cp").arg("--recursive").args([&from, &to]).status();
    if copied.is_ok_and(|status| status.success()) {
        let _ = std::fs::remove_dir_all(&from);
        if let Ok(outcome) = outcome {
            let _ = std::fs::write(to.join("history"), outcome.lines.join("\n"));
        }
        to
    } else {
        from
    }
}

fn print_verdict(verdict: &Verdict, done: usize, total: usize, cli: &Cli) -> bool {
    let Verdict { seed, outcome, kept } = verdict;
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            println!("{done}/{total}  seed {seed}: {error:#}");
            return false;
        }
    };
    if let Some(plant) = cli.plant {
        let noticed = outcome.breaches.iter().any(|breach| breach.invariant == plant.breaks());
        println!(
            "{done}/{total}  seed {seed}: {plant:?} is {}",
            if noticed { "noticed" } else { "NOT NOTICED" }
        );
        outcome.breaches.iter().for_each(|breach| println!("    {breach}"));
        return noticed;
    }
    if outcome.breaches.is_empty() {
        let settled = outcome.settled.unwrap_or_default();
        println!("{done}/{total}  seed {seed}: clean, {} bans, settled after {settled:.1?}", outcome.bans);
    } else {
        println!("{done}/{total}  seed {seed}: FAILED");
    }
    if cli.seed.is_some() || !outcome.breaches.is_empty() {
        print_schedule(&Schedule::of(*seed));
        outcome.lines.iter().for_each(|line| println!("    {line}"));
    }
    outcome.breaches.iter().for_each(|breach| println!("    {breach}"));
    if let Some(kept) = kept {
        println!("    logs: {}", kept.display());
    }
    outcome.breaches.is_empty()
}

/// The cast, and all events but attacks, of which there are many.
fn print_schedule(schedule: &Schedule) {
    println!("    {:?}", schedule.cast);
    let is_told = |timed: &&Timed| !matches!(timed.event, schedule::Event::Attack { .. });
    schedule.events.iter().filter(is_told).for_each(|timed| println!("    {timed}"));
}
