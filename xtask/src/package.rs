//! Debian's packages of the two programs, by cargo-deb: what is in them is put together below `target/package`, and the rest
//! is said by `[package.metadata.deb]` of each.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use atalaya_end_to_end::process::output;

use crate::run::{announce, cargo, root};
use crate::setup;

/// The two programs, which are packages too; the sensor's is part of the enforcer's.
pub const PROGRAMS: [&str; 2] = ["atalaya-sensor", "atalaya-enforcer"];

/// Puts together what is in a program's package; the enforcer's has packages of the sensor too, for hosts that join.
pub fn stage(program: &Path, sensors: &[PathBuf]) -> Result<()> {
    let name = program.file_name().context("a program without a name")?.to_string_lossy().into_owned();
    let folder = root().join("target/package").join(&name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(folder.join("man"))?;
    std::fs::create_dir_all(folder.join("packages"))?;
    for package in sensors {
        let to = folder.join("packages").join(package.file_name().context("a package without a name")?);
        std::fs::copy(package, to).with_context(|| package.display().to_string())?;
    }
    std::fs::copy(program, folder.join(&name)).with_context(|| program.display().to_string())?;
    output(Command::new(program).arg("man").arg(folder.join("man")))?;
    for shell in ["bash", "zsh", "fish"] {
        let script = output(Command::new(program).args(["completions", shell]))?;
        std::fs::write(folder.join(format!("{name}.{shell}")), script)?;
    }
    let config = format!("{}.toml", name.trim_start_matches("atalaya-"));
    let text = std::fs::read_to_string(root().join("packaging/config").join(&config))?;
    std::fs::write(folder.join("man").join(format!("{config}.5")), manual_of(&config, &name, &text))?;
    Ok(())
}

/// Packs what was put together; `version` in place of that of Cargo.toml.
pub fn pack(name: &str, version: Option<&str>, quick: bool, to: &Path) -> Result<PathBuf> {
    let mut deb = Command::new(setup::cargo_deb());
    deb.current_dir(root()).env("CARGO", cargo().get_program()).arg("--no-build").args(["--package", name]);
    deb.args(["--no-strip", "--output"]).arg(to);
    if let Some(version) = version {
        deb.args(["--deb-version", version]);
    }
    if quick {
        deb.arg("--fast");
    }
    announce("Debian's package", &mut deb)?;
    let version =
        version.map_or_else(|| concat!(env!("CARGO_PKG_VERSION"), "-1").to_owned(), ToOwned::to_owned);
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    Ok(to.join(format!("{name}_{version}_{own}.deb")))
}

/// The manual's page of a configuration: what the file says that is installed, every key with what it means.
fn manual_of(config: &str, program: &str, text: &str) -> String {
    let shown: String = text
        .replace('\\', "\\\\")
        .replace('-', "\\-")
        .lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { format!("{line}\n") })
        .collect();
    format!(
        ".TH {config} 5 \"\" \"Atalaya {version}\" \"Atalaya\"\n\
         .SH NAME\n{config} \\- configuration of {program}\n\
         .SH SYNOPSIS\n/etc/atalaya/{config}\n\
         .SH DESCRIPTION\n\
         The file is TOML. A key that does not exist, or a value that cannot be, is refused with its line; nothing is\n\
         taken up then. {program} \\fBcheck\\fR says what the file means, and {program} \\fBreload\\fR takes it up\n\
         without a restart.\n\
         .SH KEYS\nThis is the file as it is installed, with every key and its default.\n.PP\n.nf\n{shown}.fi\n\
         .SH SEE ALSO\n.BR {program} (8)\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}
