//! Finds the toolchain that builds the kernel programs. The sensor's build script and `cargo xtask
//! setup` both include this file, so that what one accepts the other finds. It only looks: files
//! and directories, no process, no network.

use std::env;
use std::path::{Path, PathBuf};

/// Overrides the search: the name of a rustup toolchain.
pub const OVERRIDE: &str = "ATALAYA_EBPF_TOOLCHAIN";
/// The toolchain that `cargo xtask setup` links where rustup has none that fits.
pub const LINKED: &str = "atalaya-bpf";
/// rustup's own, which needs the component `rust-src`.
pub const NIGHTLY: &str = "nightly";
/// The linker for BPF objects.
pub const LINKER: &str = "bpf-linker";

/// A toolchain that can build for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Its name in rustup.
    pub name: String,
    /// Whether it has a core library for BPF; else it builds one from `rust-src`.
    pub core: bool,
    /// Where `bpf-linker` was found: on `PATH`, or in cargo's bin directory.
    pub linker: PathBuf,
}

/// The first thing without which kernel programs cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No toolchain has a core library for BPF or its source.
    Compiler {
        /// The names that were looked for.
        names: Vec<String>,
    },
    /// There is no `bpf-linker`, on `PATH` or in cargo's bin directory.
    Linker,
}

/// A toolchain that can build the kernel programs.
pub fn find() -> Result<Toolchain, Missing> {
    let (name, core) = compiler()?;
    let linker = linker().ok_or(Missing::Linker)?;
    Ok(Toolchain { name, core, linker })
}

/// The name of a toolchain that compiles for BPF, and whether it has a core library ready.
pub fn compiler() -> Result<(String, bool), Missing> {
    let names = match env::var(OVERRIDE) {
        Ok(name) => vec![name],
        // A ready core library first: it saves building one.
        Err(_) => vec![LINKED.to_owned(), NIGHTLY.to_owned()],
    };
    for name in &names {
        if let Some(core) = toolchain_directory(name).as_deref().and_then(core_of) {
            return Ok((name.clone(), core));
        }
    }
    Err(Missing::Compiler { names })
}

/// The path of `bpf-linker`: on `PATH`, else where `cargo install` puts it. rustup adds the latter to
/// `PATH` for what it runs.
pub fn linker() -> Option<PathBuf> {
    let on_path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&on_path)
        .chain(home("CARGO_HOME", ".cargo").map(|home| home.join("bin")))
        .map(|directory| directory.join(LINKER))
        .find(|path| path.is_file())
}

/// Where rustup keeps a toolchain: under its name, or the name and the host.
pub fn toolchain_directory(name: &str) -> Option<PathBuf> {
    let toolchains = home("RUSTUP_HOME", ".rustup")?.join("toolchains");
    let host = format!("{name}-{}-unknown-linux-gnu", env::consts::ARCH);
    [name, &host].into_iter().map(|name| toolchains.join(name)).find(|path| path.join("bin/rustc").exists())
}

/// Whether a toolchain has core for BPF ready (true), or its source (false), or neither.
pub fn core_of(toolchain: &Path) -> Option<bool> {
    let rustlib = toolchain.join("lib/rustlib");
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    if rustlib.join(target).join("lib").is_dir() {
        return Some(true);
    }
    rustlib.join("src/rust/library/core").is_dir().then_some(false)
}

fn home(variable: &str, below: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(below)))
}
