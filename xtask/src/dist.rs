//! `cargo xtask dist`: the two programs as they are handed out. Each is stripped, and what it was stripped of lies
//! beside it, where debuggers and Rust's own backtraces look for it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{announce, cargo, programs};
use crate::setup;

/// The programs that are handed out.
const PROGRAMS: [&str; 2] = ["atalaya-enforcer", "atalaya-sensor"];
/// Their profile of Cargo.toml, which is Cargo's folder of it too.
const PROFILE: &str = "distribution";
/// The largest that a program may be, in bytes.
const LARGEST: u64 = 10_000_000;

/// How the loader is told what to adjust where the program was loaded: 18,000 places of 24 bytes each become a bitmap.
/// Its readers are glibc 2.36 and musl 1.2.4, or later; what links for other processors here knows it not yet. And
/// functions that are the same, and whose addresses nobody compares, are one.
#[cfg(target_arch = "x86_64")]
const LINKING: &[&str] = &["-Clink-arg=-Wl,-z,pack-relative-relocs", "-Clink-arg=-Wl,--icf=safe"];
#[cfg(not(target_arch = "x86_64"))]
const LINKING: &[&str] = &[];

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub struct Arguments {
    /// A sensor that reads logs only: without eBPF, and without the toolchain that it needs
    #[arg(long)]
    logs_only: bool,
}

/// Builds and strips the programs, and says how large they are; an error where one is larger than it may be.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.logs_only {
        setup::ensure(setup::Purpose::Build)?;
    }
    for name in PROGRAMS {
        let mut build = cargo();
        build.args(["rustc", "--profile", PROFILE, "--package", name, "--bin", name]);
        if arguments.logs_only {
            build.arg("--no-default-features");
        }
        build.arg("--").args(LINKING);
        announce("optimized across all crates: some minutes", &mut build)?;
    }
    let folder = programs("dist");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for name in PROGRAMS {
        part(&programs(PROFILE).join(name), &folder)?;
    }
    let mut too_large = Vec::new();
    println!("{}:", folder.display());
    for name in PROGRAMS {
        let size = |name: &str| Ok::<_, std::io::Error>(std::fs::metadata(folder.join(name))?.len());
        let (program, lines) = (size(name)?, size(&format!("{name}.debug"))?);
        println!(
            "  {name:17} {:5.1} MB, and {:5.1} MB of line tables in {name}.debug",
            mega(program),
            mega(lines)
        );
        if program > LARGEST {
            too_large.push(name);
        }
    }
    if !too_large.is_empty() {
        bail!(
            "they are built, and over {} MB: {}; `cargo bloat --profile distribution --crates` shows what takes the room",
            mega(LARGEST),
            too_large.join(", ")
        );
    }
    Ok(())
}

/// Parts a program into what runs and what only debuggers read, in a folder.
fn part(program: &Path, folder: &Path) -> Result<()> {
    let name = program.file_name().context("a program without a name")?.to_string_lossy();
    let (stripped, lines) = (folder.join(&*name), folder.join(format!("{name}.debug")));
    // objcopy writes into a file that is there; one that runs cannot be written into, but replaced.
    let unfinished = folder.join(format!("{name}.unfinished"));
    let objcopy = |why: &str, options: &[&str], from: &Path, to: &Path| {
        announce(why, Command::new("objcopy").args(options).args([from, to]))
            .context("objcopy comes with the C compiler, in Debian's binutils")
    };
    objcopy(
        "line tables, for debuggers",
        &["--only-keep-debug", "--compress-debug-sections"],
        program,
        &lines,
    )?;
    let link = format!("--add-gnu-debuglink={}", lines.display());
    objcopy("what runs", &["--strip-all", &link], program, &unfinished)?;
    std::fs::rename(&unfinished, &stripped).with_context(|| format!("cannot write {}", stripped.display()))
}

/// Bytes in MB.
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
