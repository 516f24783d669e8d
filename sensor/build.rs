//! Builds the kernel programs from source and leaves the objects in `OUT_DIR`, where
//! the loader (`src/kernel/`) embeds them. Without the feature `kernel` it does nothing.

#[cfg(feature = "kernel")]
#[path = "../sensor-ebpf/toolchain.rs"]
mod toolchain;

fn main() -> anyhow::Result<()> {
    #[cfg(feature = "kernel")]
    kernel::build()?;
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}

#[cfg(feature = "kernel")]
mod kernel {
    use anyhow::{Context as _, bail};
    use aya_build::{Package, Toolchain};

    use crate::toolchain::{self, Missing};

    /// aya-build runs `cargo build --package atalaya-sensor-ebpf` for the BPF target, in a target
    /// directory of its own, and copies the objects to `OUT_DIR`.
    pub fn build() -> anyhow::Result<()> {
        // The shared package is watched by aya-build; these change what is found.
        for variable in [toolchain::OVERRIDE, "RUSTUP_HOME", "CARGO_HOME"] {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        let found = match toolchain::find() {
            Ok(found) => found,
            Err(missing) => {
                let missing = match missing {
                    Missing::Compiler { names } => {
                        format!("no rustup toolchain of these compiles for BPF: {}", names.join(", "))
                    }
                    Missing::Linker => {
                        format!("{} is neither on PATH nor in cargo's bin directory", toolchain::LINKER)
                    }
                };
                bail!(
                    "the kernel programs cannot be built: {missing}.\n\
                     Run `cargo xtask setup`, which installs what is missing and prints what it does, \n\
                     or build a sensor for logs only with `--no-default-features`."
                );
            }
        };
        aya_build::build_ebpf(
            [Package {
                name: "atalaya-sensor-ebpf",
                root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../sensor-ebpf"),
                ..Package::default()
            }],
            Toolchain::Custom(&found.name),
        )
        .with_context(|| format!("building the kernel programs with the rustup toolchain `{}`", found.name))
    }
}
