//! `cargo xtask faults`: random schedules of faults over real processes. What it builds and starts is `tests/faults`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::{announce, cargo, programs};
use crate::setup;
use crate::suite::Suite;

/// How many seeds `cargo xtask test` tries, and how many with `--all`.
const OF_TEST: [u64; 2] = [10, 100];
/// How many run at once: each mostly waits.
const PARALLEL: usize = 6;
/// The seed in which faults are planted: little else happens in it.
const OF_PLANTS: u64 = 8;
/// The faults that can be planted, as `faults --plant` takes them.
const PLANTS: [&str; 7] = ["lost-ack", "outliving", "allowed", "stranger", "cut-off", "descriptors", "end"];

/// Options of `cargo xtask faults`.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many seeds to try
    #[arg(long, value_name = "N", default_value_t = 10, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 1, conflicts_with = "seed")]
    from: u64,
    /// Try this one seed, and print its history whatever comes of it
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Print the schedule of the seed, and run nothing
    #[arg(long, requires = "seed")]
    show: bool,
    /// How many run at a time
    #[arg(long, value_name = "P", default_value_t = PARALLEL)]
    parallel: usize,
    /// Instead: plant a fault of each kind, one after another, and look whether it is noticed
    #[arg(long, conflicts_with_all = ["seeds", "from", "seed"])]
    planted: bool,
}

/// Builds, and tries the seeds; an error where one of them failed.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::Purpose::Test)?;
    build()?;
    if arguments.planted {
        return plant_all();
    }
    let mut faults = faults()?;
    match arguments.seed {
        Some(seed) => faults.arg("--seed").arg(seed.to_string()),
        None => faults.args(["--seeds", &arguments.seeds.to_string(), "--from", &arguments.from.to_string()]),
    };
    faults.args(["--parallel", &arguments.parallel.to_string()]);
    faults.args(arguments.show.then_some("--show"));
    announce("what must hold whatever happens", &mut faults)
}

/// As part of `cargo xtask test`, which has built everything: a few seeds; with `all`, more of them and the planted faults.
pub fn run_of_test(all: bool) -> Result<()> {
    let seeds = OF_TEST[usize::from(all)].to_string();
    let mut faults = faults()?;
    faults.args(["--seeds", &seeds, "--parallel", &PARALLEL.to_string()]);
    announce("what must hold whatever happens, in random schedules of faults", &mut faults)?;
    if all { plant_all() } else { Ok(()) }
}

fn plant_all() -> Result<()> {
    let seed = OF_PLANTS.to_string();
    PLANTS.iter().try_for_each(|plant| {
        announce("a planted fault is noticed", faults()?.args(["--seed", &seed, "--plant", plant]))
    })
}

fn build() -> Result<()> {
    let packages = ["faults", "atalaya-enforcer", "atalaya-sensor"];
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    announce("the programs, and who breaks them", cargo().args(["build", "--bins"]).args(packages))
}

fn faults() -> Result<Command> {
    let mut faults = Command::new(programs("debug").join("faults"));
    faults.arg("--clockwork").arg(clockwork()?);
    Ok(faults)
}

/// Debian's libfaketime, unpacked beside what is built where it is not there yet.
fn clockwork() -> Result<PathBuf> {
    let folder = programs("libfaketime");
    let found = || {
        let lib = folder.join("usr/lib");
        let places =
            fs::read_dir(lib).ok()?.flatten().map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
        places.into_iter().find(|library| library.is_file())
    };
    if found().is_none() {
        let why = "by it the clocks of sensors are set, and no other";
        Suite::Bookworm.lists()?.unpack(&["libfaketime"], &folder, why)?;
    }
    found().context("Debian's package libfaketime has no libfaketimeMT.so.1")
}
