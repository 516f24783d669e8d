//! Everyday commands of the project: `cargo xtask --help` is the contributors' map. Each prints what
//! it runs, and why.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod ci;
mod daemons;
mod demo;
mod dist;
mod faults;
mod package;
mod packages;
mod run;
mod setup;
mod suite;
mod test;
#[path = "../../sensor-ebpf/toolchain.rs"]
mod toolchain;
mod vm;

/// Everyday commands of the project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
#[command(after_help = "Example: from a fresh clone\n  cargo xtask demo\n  cargo xtask test")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what building and testing need
    #[command(after_help = "Example:\n  cargo xtask setup --for build")]
    Setup(setup::Arguments),
    /// Show the main job: failed logins become timed entries on a simulated router
    #[command(after_help = "Example:\n  cargo xtask demo")]
    Demo(demo::Arguments),
    /// Run every test, or those whose name holds a word
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test rotation\n  cargo xtask test --all"
    )]
    Test(test::Arguments),
    /// Run what must pass before a change lands: every test, the format, the lints, the links of the documentation
    #[command(after_help = "Example:\n  cargo xtask ci")]
    Ci,
    /// Prove the kernel programs on Debian's kernels, in virtual machines
    #[command(after_help = "Examples:\n  cargo xtask vm                  # the kernel of Debian 12\n  \
        cargo xtask vm --all            # and those of Debian 13 and sid, each with every lockdown\n  \
        cargo xtask vm --kernel 6.12 --lockdown integrity\n  \
        cargo xtask vm --all --bless    # keep the verifier's instruction counts as they are now\n\n\
        Needs no root where qemu-system-x86 is installed, and is faster where /dev/kvm can be used.")]
    Vm(vm::Arguments),
    /// Prove what the sensor sees of Debian's daemons: real ones, tried by real clients
    #[command(after_help = "Examples:\n  cargo xtask daemons                    # those of Debian 12\n  \
        cargo xtask daemons --suite trixie sshd dovecot\n  cargo xtask daemons --all\n\n\
        File roots are kept below target/daemons; --anew makes them again, with the newest packages.")]
    Daemons(daemons::Arguments),
    /// Try random schedules of faults over real processes: kills, cuts, lost answers, reboots, full disks
    #[command(after_help = "Examples:\n  cargo xtask faults --seeds 100\n  \
        cargo xtask faults --seed 42        # again, with its history\n  \
        cargo xtask faults --planted        # that each invariant is looked at\n\n\
        A seed makes one schedule. Which of two things that happen at once comes first is the machine's choice, so a\n\
        failure may need more than one try. Needs root for small disks; logs of failed runs are kept below target.")]
    Faults(faults::Arguments),
    /// Prove that Debian's packages do what docs/install.md says: installed, upgraded and purged under a real systemd
    #[command(after_help = "Examples:\n  cargo xtask packages                   # on Debian 12\n  \
        cargo xtask packages --suite trixie\n  cargo xtask packages --all\n\n\
        Needs root: it makes namespaces. File roots are kept below target/daemons.")]
    Packages(packages::Arguments),
    /// Build the two programs as they are handed out: optimized and stripped, and Debian's packages of them
    #[command(after_help = "Examples:\n  cargo xtask dist\n  cargo xtask dist --all --twice")]
    Dist(dist::Arguments),
    /// Measure the budgets of the design
    #[command(after_help = "Example:\n  cargo xtask bench latency")]
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Ci => ci::run(),
        Command::Vm(arguments) => vm::run(&arguments),
        Command::Daemons(arguments) => daemons::run(&arguments),
        Command::Faults(arguments) => faults::run(&arguments),
        Command::Packages(arguments) => packages::run(&arguments),
        Command::Dist(arguments) => dist::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
