//! `cargo xtask vm`: proof on many kernels. Boots Debian's kernels in virtual machines, with each lockdown; inside, the
//! real sensor sees real logins and connections. What a kernel refuses must be told as refused, and be expected.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kernel_init::{Outcome, Program, Report};

use crate::run::{announce, cargo, interruption};
use crate::setup;
use expectation::Lockdown;
use initramfs::Initramfs;
use kernel::{Kernel, Unpacked};
use machine::{Accelerator, Boot};
use verifier::Counts;

mod cpio;
mod expectation;
mod initramfs;
mod kernel;
mod machine;
mod table;
mod verifier;

/// Options of `cargo xtask vm`.
#[derive(Default, clap::Args)]
pub struct Arguments {
    /// All: the kernels of Debian 12, Debian 13 and sid, with each lockdown
    #[arg(long)]
    all: bool,
    /// Only this kernel: the newest of a series (6.12), or a release (6.1.0-56); may be given more than once
    #[arg(long, value_name = "RELEASE")]
    kernel: Vec<String>,
    /// Only with this lockdown; may be given more than once. Without it and --all: none
    #[arg(long, value_enum)]
    lockdown: Vec<Lockdown>,
    /// Keep the verifier's instruction counts of this run in sensor-ebpf/verifier.toml
    #[arg(long)]
    bless: bool,
}

/// One machine's run, and what it reported.
struct Run {
    kernel: Kernel,
    lockdown: Lockdown,
    programs: Vec<Program>,
    checks: Vec<(String, Outcome)>,
}

/// Boots the machines one after another; an error where anything is not as expected.
pub fn run(arguments: &Arguments) -> Result<()> {
    let interrupted = interruption()?;
    setup::ensure(setup::Purpose::Test)?;
    let kernels = kernel::unpack(&arguments.kernel, arguments.all)?;
    let packages = ["--package", "atalaya-sensor", "--package", "kernel-init"];
    announce("what runs inside", cargo().arg("build").args(packages))?;
    let accelerator = Accelerator::find();
    if accelerator == Accelerator::Emulation {
        println!("no KVM here: the processors are emulated");
    }
    let mut initramfs = Initramfs::gather("debug")?;
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("initramfs");

    let mut counts = Counts::read()?;
    if arguments.all && arguments.bless {
        // No kernel stays behind that is not booted any more.
        counts.forget();
    }
    let (mut runs, mut troubles) = (Vec::new(), Vec::new());
    for kernel in &kernels {
        initramfs.write(kernel, &image)?;
        let vmlinuz = kernel.image()?;
        let series = kernel.kernel.series();
        for lockdown in arguments.lockdowns() {
            let boot =
                Boot { accelerator, image: &vmlinuz, initramfs: &image, lockdown: lockdown.argument() };
            let mut run = Run::new(kernel, lockdown);
            let ended = run.play(&boot, &interrupted);
            if interrupted.load(Ordering::SeqCst) {
                bail!("interrupted; the virtual machine is gone");
            }
            if arguments.bless && ended.is_ok() {
                counts.keep(&series, lockdown, &run.programs);
            }
            let mut differs = run.troubles(ended);
            differs.extend(counts.deviations(&series, lockdown, &run.programs));
            troubles.extend(differs.into_iter().map(|trouble| format!("{}: {trouble}", run.title())));
            runs.push(run);
        }
    }
    if arguments.bless {
        counts.write()?;
    }
    println!("\n{}", table::tables(&runs));
    let booted: Vec<_> = runs.iter().map(|run| (run.kernel.series(), run.lockdown)).collect();
    if let Some(note) = counts.unknown(&booted) {
        println!("note: {note}\n");
    }
    if !troubles.is_empty() {
        bail!("not as expected:\n{}", troubles.join("\n"));
    }
    println!("virtual machines: {}, all as expected", runs.len());
    Ok(())
}

// === impl Arguments ===

impl Arguments {
    /// As a part of `cargo xtask test`: one machine, or all.
    pub fn of_test(all: bool) -> Self {
        Self { all, ..Self::default() }
    }

    fn lockdowns(&self) -> Vec<Lockdown> {
        match (&self.lockdown[..], self.all) {
            ([], true) => Lockdown::ALL.to_vec(),
            ([], false) => vec![Lockdown::None],
            (chosen, _) => Lockdown::ALL.into_iter().filter(|lockdown| chosen.contains(lockdown)).collect(),
        }
    }
}

// === impl Run ===

impl Run {
    fn new(kernel: &Unpacked, lockdown: Lockdown) -> Self {
        Self { kernel: kernel.kernel.clone(), lockdown, programs: Vec::new(), checks: Vec::new() }
    }

    /// How it is called in messages.
    fn title(&self) -> String {
        format!("{} {}", self.kernel, self.lockdown.name())
    }

    /// Boots the machine and shows its reports as they come.
    fn play(&mut self, boot: &Boot, interrupted: &AtomicBool) -> Result<()> {
        let start = Instant::now();
        println!("\nkernel {}, lockdown {}: boots", self.kernel, self.lockdown.name());
        let mut mistaken = None;
        machine::run(boot, interrupted, |report| {
            let after = start.elapsed().as_secs_f64();
            match report {
                Report::Kernel { release, lockdown } => {
                    println!("  {after:5.1} s  runs");
                    if release != self.kernel.release() || lockdown != self.lockdown.name() {
                        mistaken = Some(format!("it is kernel {release} with lockdown {lockdown}"));
                    }
                }
                Report::Program(program) => {
                    println!("  {after:5.1} s  {}: {} ({})", program.name, program.state, program.reason);
                    self.programs.push(program);
                }
                Report::Check { name, outcome, detail } => {
                    let word = match outcome {
                        Outcome::Passed => "passed",
                        Outcome::Failed => "FAILED",
                        Outcome::Skipped => "left out",
                    };
                    println!("  {after:5.1} s  {word}: {name} ({detail})");
                    self.checks.push((name, outcome));
                }
                Report::End { .. } => println!("  {after:5.1} s  ends"),
            }
        })
        .with_context(|| format!("after {:.1} s", start.elapsed().as_secs_f64()))?;
        mistaken.map_or(Ok(()), |mistake| bail!(mistake))
    }

    /// What was not as expected.
    fn troubles(&self, ended: Result<()>) -> Vec<String> {
        if let Err(error) = ended {
            return vec![format!("{error:#}")];
        }
        let failed = self.checks.iter().filter(|(_, outcome)| *outcome == Outcome::Failed);
        let mut troubles: Vec<_> = failed.map(|(name, _)| format!("failed: {name}")).collect();
        troubles.extend(expectation::deviations(self.kernel.version(), self.lockdown, &self.programs));
        troubles
    }
}
