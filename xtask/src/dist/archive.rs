//! Archives of the two programs for hosts without Debian's packages, and the checksums of all that is handed out.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::build::{self, Built, Processor};
use super::origin;
use crate::run::{announce, root};

/// The file of checksums, as `sha256sum --check` reads it.
pub const SUMS: &str = "SHA256SUMS";
/// What lies beside the programs, from the root of the source.
const BESIDE: [&str; 5] = ["README.md", "CHANGELOG.md", "LICENSES", "docs", "packaging"];

/// Packs the programs for a processor, with their manual, completions, units and documentation.
pub fn pack(programs: &[Built], processor: Processor, folder: &Path) -> Result<PathBuf> {
    let name = format!("atalaya-{}-linux-{}", env!("CARGO_PKG_VERSION"), processor.debian());
    let stage = tempfile::Builder::new().prefix(".archive").tempdir_in(folder)?;
    let inside = stage.path().join(&name);
    std::fs::create_dir_all(inside.join("completions"))?;
    for Built { program, .. } in programs {
        let called = program.file_name().context("a program without a name")?;
        std::fs::copy(program, inside.join(called)).with_context(|| program.display().to_string())?;
        for (shell, file) in [("bash", ".bash"), ("zsh", ".zsh"), ("fish", ".fish")] {
            let script = build::said(build::start(program, processor).args(["completions", shell]))?;
            let called = format!("{}{file}", called.to_string_lossy());
            std::fs::write(inside.join("completions").join(called), script)?;
        }
        // Only the enforcer writes its manual.
        if called == "atalaya-enforcer" {
            build::said(build::start(program, processor).arg("man").arg(inside.join("man")))?;
        }
    }
    let mut copy = Command::new("cp");
    copy.current_dir(root()).arg("--recursive").args(BESIDE).arg(&inside);
    announce("what lies beside the programs", &mut copy)?;
    let plain = stage.path().join("plain.tar");
    tar(stage.path(), &[&name], 0, &plain)?;
    let to = folder.join(format!("{name}.tar.gz"));
    std::fs::rename(gzip(&plain)?, &to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(to)
}

/// Adds entries of a folder to an archive, which is made where it is not there: in an order, and with owners, ages and rights,
/// that depend on nothing else.
pub fn tar(folder: &Path, entries: &[&str], owner: u32, to: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg(if to.exists() { "--append" } else { "--create" });
    tar.args(["--format=gnu", "--sort=name", "--numeric-owner", "--mode=u=rwX,go=rX"]);
    tar.args([format!("--owner={owner}"), format!("--group={owner}")]);
    tar.arg(format!("--mtime=@{}", origin::moment()?)).arg("--file").arg(to);
    announce("the same bytes wherever it is packed", tar.arg("--directory").arg(folder).args(entries))
}

/// Packs a file more densely, beside it: as `NAME.gz`, without its name and age in the header.
pub fn gzip(file: &Path) -> Result<PathBuf> {
    let mut gzip = Command::new("gzip");
    gzip.args(["--no-name", "--best", "--keep", "--force"]).arg(file);
    announce("packed more densely", &mut gzip)?;
    let mut name = file.as_os_str().to_owned();
    name.push(".gz");
    Ok(name.into())
}

/// Writes the checksums of files that lie in a folder.
pub fn checksums(folder: &Path, files: &[PathBuf]) -> Result<PathBuf> {
    let mut text = String::new();
    for file in files {
        let name = file.file_name().context("a file without a name")?.to_string_lossy();
        text.push_str(&format!("{}  {name}\n", digest(file)?));
    }
    let to = folder.join(SUMS);
    std::fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(to)
}

/// A file's SHA-256, in lower-case hexadecimal digits.
pub fn digest(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(HEXLOWER.encode(&Sha256::digest(bytes)))
}
