//! Compiling for another processor: with Debian's Rust and its standard library of that processor, unpacked beside what
//! is built, and Debian's cross compiler for the parts in C. rustup could add the library too, where it reaches its server.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::build::Processor;
use crate::run::programs;
use crate::suite::Suite;

/// Whose Rust it is: Debian keeps that of bookworm as new as browsers need it.
const SUITE: Suite = Suite::Bookworm;
const COMPILER: &str = "rustc-web";
const LIBRARY: &str = "libstd-rust-web-dev";

/// The emulator of a processor, for programs of Linux.
pub fn emulator(processor: Processor) -> &'static str {
    match processor {
        Processor::Amd64 => "qemu-x86_64",
        Processor::Arm64 => "qemu-aarch64",
    }
}

/// Makes a command of cargo compile for another processor.
pub fn compile_for(processor: Processor, build: &mut Command) -> Result<()> {
    let rustc = compiler(processor)?;
    let target = processor.target();
    let gcc = match processor {
        Processor::Amd64 => "x86_64-linux-gnu-gcc",
        Processor::Arm64 => "aarch64-linux-gnu-gcc",
    };
    build.env("RUSTC", rustc);
    build.env(format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_")), gcc);
    build.env(format!("CC_{}", target.replace('-', "_")), gcc);
    Ok(())
}

/// Debian's Rust with the library of a processor; unpacked where it is not there.
fn compiler(processor: Processor) -> Result<PathBuf> {
    let root = programs("cross").join(processor.debian());
    let rustc = root.join("rustc");
    if !rustc.exists() {
        let lists = SUITE.lists_with(processor.debian())?;
        // The versions are part of these names: libstd-rust-web-1.96, and libllvm22.
        let first = |package: &str, prefix: &str| -> Result<String> {
            let all = lists.dependencies(package)?;
            let found = all.into_iter().find(|name| name.starts_with(prefix));
            found.with_context(|| format!("{package} of Debian {} depends on no {prefix}…", SUITE.name()))
        };
        let shared = first(LIBRARY, "libstd-rust-")?;
        let llvm = first(&shared, "libllvm")?;
        let foreign = format!("{LIBRARY}:{}", processor.debian());
        lists.unpack(
            &[COMPILER, LIBRARY, &shared, &llvm, &foreign],
            &root,
            "a compiler of Rust with the library of another processor",
        )?;
        write_wrapper(&root, &rustc)?;
    }
    Ok(rustc)
}

/// A script that runs the compiler from where it is unpacked.
fn write_wrapper(root: &Path, rustc: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let own = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let script = format!(
        "#!/bin/sh\nroot='{}'\nLD_LIBRARY_PATH=\"$root/usr/lib:$root{own}\" exec \"$root/usr/bin/rustc\" --sysroot \"$root/usr\" \"$@\"\n",
        root.display()
    );
    // Whole or not at all: its being there means that the rest is.
    let draft = rustc.with_extension("draft");
    std::fs::write(&draft, script)?;
    std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o755))?;
    std::fs::rename(&draft, rustc).with_context(|| rustc.display().to_string())
}
