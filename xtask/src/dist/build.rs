//! Builds the two programs for a processor, with the host's C library or with one of their own, and parts each into what
//! runs and what only debuggers read.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{cross, origin};
use crate::run::{announce, cargo, programs};

/// The programs that are handed out.
pub const PROGRAMS: [&str; 2] = ["atalaya-enforcer", "atalaya-sensor"];
/// Their profile of Cargo.toml, which is Cargo's folder of it too.
const PROFILE: &str = "distribution";

/// Which processor a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    Amd64,
    Arm64,
}

/// How a program is built.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub processor: Processor,
    /// Whether the C library is part of the program, which then runs on any Linux.
    pub bundled: bool,
}

/// A program that is built: what runs, and its line tables.
#[derive(Clone, Debug)]
pub struct Built {
    pub program: PathBuf,
    pub lines: PathBuf,
}

// === impl Processor ===

impl Processor {
    /// Debian's name of it, and that of container images.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's name of the target.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Whether programs of it run on this machine as they are.
    pub fn is_here(self) -> bool {
        self.target().starts_with(std::env::consts::ARCH)
    }

    /// What the tools for its programs begin with.
    fn tools(self) -> &'static str {
        if self.is_here() {
            return "";
        }
        match self {
            Self::Amd64 => "x86_64-linux-gnu-",
            Self::Arm64 => "aarch64-linux-gnu-",
        }
    }
}

// === impl Route ===

impl Route {
    /// The same for the processor of this machine.
    pub fn of_this_machine(self) -> Self {
        let processor = if cfg!(target_arch = "aarch64") { Processor::Arm64 } else { Processor::Amd64 };
        Self { processor, ..self }
    }

    /// What rustc is told beside the profile.
    fn flags(self) -> Vec<&'static str> {
        let mut flags = Vec::new();
        if self.processor == Processor::Amd64 && self.processor.is_here() {
            // How the loader is told what to adjust where the program was loaded: 18,000 places of 24 bytes each become a
            // bitmap. Its readers are glibc 2.36 and musl 1.2.4, or later; what links for other processors here knows it
            // not yet. And functions that are the same, and whose addresses nobody compares, are one.
            flags.extend(["-Clink-arg=-Wl,-z,pack-relative-relocs", "-Clink-arg=-Wl,--icf=safe"]);
        }
        if self.bundled {
            flags.push("-Ctarget-feature=+crt-static");
        }
        flags
    }
}

/// Builds both programs, into a folder.
pub fn build(route: Route, logs_only: bool, folder: &Path) -> Result<Vec<Built>> {
    let target = route.processor.target();
    let mut build = cargo();
    build.args(["build", "--profile", PROFILE, "--target", target]);
    for name in PROGRAMS {
        build.args(["--package", name, "--bin", name]);
    }
    if logs_only {
        build.args(["--no-default-features"]);
    }
    let variable = target.to_uppercase().replace('-', "_");
    build.env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), route.flags().join(" "));
    // A folder for each way: else each would take the other's place.
    let way = if route.bundled { "static" } else { "shared" };
    let built_below = programs("dist-build").join(way);
    build.env("CARGO_TARGET_DIR", &built_below);
    origin::hide_this_machine(&mut build)?;
    if !route.processor.is_here() {
        cross::compile_for(route.processor, &mut build)?;
    }
    announce("optimized across all crates: some minutes", &mut build)?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let made = built_below.join(target).join(PROFILE);
    PROGRAMS.iter().map(|name| part(&made.join(name), route.processor, folder)).collect()
}

/// Parts a program into what runs and what only debuggers read, in a folder.
fn part(program: &Path, processor: Processor, folder: &Path) -> Result<Built> {
    let name = program.file_name().context("a program without a name")?.to_string_lossy();
    let (stripped, lines) = (folder.join(&*name), folder.join(format!("{name}.debug")));
    // objcopy writes into a file that is there; one that runs cannot be written into, but replaced.
    let unfinished = folder.join(format!("{name}.unfinished"));
    let tool = format!("{}objcopy", processor.tools());
    let objcopy = |why: &str, options: &[&str], from: &Path, to: &Path| {
        announce(why, Command::new(&tool).args(options).args([from, to]))
            .with_context(|| format!("{tool} comes with the C compiler, in Debian's binutils"))
    };
    objcopy(
        "line tables, for debuggers",
        &["--only-keep-debug", "--compress-debug-sections"],
        program,
        &lines,
    )?;
    let link = format!("--add-gnu-debuglink={}", lines.display());
    objcopy("what runs", &["--strip-all", &link], program, &unfinished)?;
    std::fs::rename(&unfinished, &stripped)
        .with_context(|| format!("cannot write {}", stripped.display()))?;
    Ok(Built { program: stripped, lines })
}

/// A command of a program, on an emulated processor where it is not for this one.
pub fn start(program: &Path, processor: Processor) -> Command {
    if processor.is_here() {
        return Command::new(program);
    }
    let mut emulated = Command::new(cross::emulator(processor));
    emulated.arg(program);
    emulated
}

/// What a command says; an error where it fails.
pub fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a program; an error where it does not say its version.
pub fn starts(built: &Built, processor: Processor) -> Result<()> {
    let version = said(start(&built.program, processor).arg("--version"))?;
    ensure!(version.contains(env!("CARGO_PKG_VERSION")), "{} says: {version}", built.program.display());
    Ok(())
}
