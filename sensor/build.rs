//! Builds the kernel programs from source and leaves the objects in `OUT_DIR`, where
//! the loader (`src/loader/`) embeds them, packed. Without the feature `kernel` it does nothing.

#[cfg(feature = "kernel")]
#[path = "../sensor-ebpf/toolchain.rs"]
mod toolchain;

#[cfg(feature = "kernel")]
fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    kernel::build()
}

#[cfg(not(feature = "kernel"))]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}

#[cfg(feature = "kernel")]
mod kernel {
    use std::path::{Path, PathBuf};

    use anyhow::{Context as _, bail};
    use aya_build::{Package, Toolchain};
    use object::build::elf::{Builder, SectionData};

    use crate::toolchain::{self, Missing};

    /// The objects, as the programs of `sensor-ebpf` are called.
    const OBJECTS: [&str; 3] = ["connections", "local_drop", "logins"];

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
        .with_context(|| {
            format!("building the kernel programs with the rustup toolchain `{}`", found.name)
        })?;
        let folder = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
        for object in OBJECTS {
            let path = folder.join(object);
            let packed = strip(&path).map(|stripped| lz4_flex::block::compress_prepend_size(&stripped));
            let written = packed.and_then(|packed| Ok(std::fs::write(&path, packed)?));
            written.with_context(|| format!("the kernel object `{object}`"))?;
        }
        Ok(())
    }

    /// Takes out what a debugger would read, nine tenths of an object; the kernel's own form of it, BTF, stays.
    fn strip(path: &Path) -> anyhow::Result<Vec<u8>> {
        let bytes = std::fs::read(path)?;
        let mut builder = Builder::read(&*bytes)?;
        for section in &mut builder.sections {
            // `.debug_info` and the like, and their relocations, `.rel.debug_info`.
            section.delete = section.name.starts_with(b".debug_") || section.name.starts_with(b".rel.debug_");
        }
        builder.delete_orphans();
        // LLVM writes one table for the names of sections and symbols, the builder wants two.
        if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
            let names = builder.sections.add();
            names.name = ".shstrtab".into();
            names.sh_type = object::elf::SHT_STRTAB;
            names.sh_addralign = 1;
            names.data = SectionData::SectionString;
        }
        let mut stripped = Vec::new();
        builder.write(&mut stripped)?;
        Ok(stripped)
    }
}
