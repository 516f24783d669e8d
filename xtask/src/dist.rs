//! `cargo xtask dist`: the two programs as they are handed out. Each is stripped, and what it was stripped of lies
//! beside it, where debuggers and Rust's own backtraces look for it. With `--all` also what needs nothing of a host:
//! archives of static programs for both processors, an image of the enforcer, what all is made of, and the checksums.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::package;
use crate::run::programs;
use crate::setup;
use build::{Built, Processor, Route};

mod archive;
mod build;
mod cross;
mod oci;
mod origin;

/// The largest that a program may be, in bytes: one that uses the host's C library, and one that brings its own along. What
/// tells Prometheus and systemd, and writes the manual, is 0.3 MB of them.
const LARGEST: u64 = 10_500_000;
const LARGEST_STATIC: u64 = 12_000_000;
/// The largest that the image of the enforcer may be, in bytes.
const LARGEST_IMAGE: u64 = 15_000_000;

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A sensor that reads logs only: without eBPF, and without the toolchain that it needs
    #[arg(long)]
    logs_only: bool,
    /// Also what runs on any Linux, for amd64 and arm64: archives, the enforcer's image, parts lists, checksums
    #[arg(long, conflicts_with = "logs_only")]
    all: bool,
    /// Build all of that a second time, in a copy of the committed tree elsewhere: the bytes must be the same
    #[arg(long, requires = "all")]
    twice: bool,
}

/// Builds and strips the programs, and says how large they are; an error where one is larger than it may be.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.logs_only {
        setup::ensure(setup::Purpose::Build)?;
    }
    let folder = programs("dist");
    let here = Route { processor: Processor::Amd64, bundled: false };
    let native = build::build(here.of_this_machine(), arguments.logs_only, &folder)?;
    let (mut too_large, mut packages) = (Vec::new(), Vec::new());
    println!("{}:", folder.display());
    if !arguments.logs_only {
        setup::ensure(setup::Purpose::Packages)?;
        // The sensor's first: it is part of the enforcer's.
        for Built { program, .. } in native.iter().rev() {
            package::stage(program, &packages)?;
            let package = package::pack(&name(program), None, false, &folder)?;
            println!("  {:45} {:5.1} MB", name(&package), mega(std::fs::metadata(&package)?.len()));
            packages.push(package);
        }
    }
    show(&native, LARGEST, &mut too_large)?;
    if arguments.all {
        all(packages, &folder, &mut too_large)?;
    }
    if !too_large.is_empty() {
        bail!(
            "they are built, and larger than they may be: {}; `cargo bloat --profile distribution --crates` shows what takes the room",
            too_large.join(", ")
        );
    }
    if arguments.twice {
        origin::built_elsewhere_is_the_same(&folder)?;
    }
    Ok(())
}

/// What runs on any Linux.
fn all(packages: Vec<PathBuf>, folder: &Path, too_large: &mut Vec<String>) -> Result<()> {
    setup::ensure(setup::Purpose::Distribution)?;
    let mut handed_out = packages;
    let mut images = Vec::new();
    for processor in [Processor::Amd64, Processor::Arm64] {
        let built = build::build(
            Route { processor, bundled: true },
            false,
            &folder.join(format!("static-{}", processor.debian())),
        )?;
        show(&built, LARGEST_STATIC, too_large)?;
        built.iter().try_for_each(|program| build::starts(program, processor))?;
        handed_out.push(archive::pack(&built, processor, folder)?);
        images.push((processor, built));
    }
    let image = oci::pack(&images, folder)?;
    if std::fs::metadata(&image)?.len() > LARGEST_IMAGE {
        too_large.push(image.display().to_string());
    }
    handed_out.push(image);
    handed_out.extend(origin::parts_lists(folder)?);
    let sums = archive::checksums(folder, &handed_out)?;
    println!("handed out, with checksums in {}:", sums.display());
    for file in &handed_out {
        println!("  {:45} {:5.1} MB", name(file), mega(std::fs::metadata(file)?.len()));
    }
    Ok(())
}

/// Shows how large programs are; which are larger than they may be is added to `too_large`.
fn show(built: &[Built], largest: u64, too_large: &mut Vec<String>) -> Result<()> {
    for Built { program, lines } in built {
        let size = |path: &PathBuf| std::fs::metadata(path).with_context(|| path.display().to_string());
        let (bytes, of_lines) = (size(program)?.len(), size(lines)?.len());
        println!(
            "  {:17} {:5.1} MB, and {:5.1} MB of line tables in {}",
            name(program),
            mega(bytes),
            mega(of_lines),
            name(lines)
        );
        if bytes > largest {
            too_large.push(program.display().to_string());
        }
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Bytes in MB.
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
