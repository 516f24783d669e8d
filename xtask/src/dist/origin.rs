//! Where programs come from: nothing of the machine that built them is in them, so that the same source gives the same
//! bytes anywhere, and a list says what they are made of.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use atalaya_end_to_end::process::output;

use super::archive::SUMS;
use super::build::{PROGRAMS, Processor};
use crate::run::{announce, cargo, programs, root};
use crate::setup;

/// Makes a command of cargo leave this machine's folders out of what it builds: those of panics' places, of line tables,
/// and of the source lines in kernel programs.
pub fn hide_this_machine(build: &mut Command) -> Result<()> {
    let home = |variable: &str, below: &str| -> Result<PathBuf> {
        match std::env::var_os(variable) {
            Some(folder) => Ok(folder.into()),
            None => Ok(PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(below)),
        }
    };
    // Where one is below another, the later one is taken.
    let folders = [
        (home("RUSTUP_HOME", ".rustup")?, "/rustup"),
        (home("CARGO_HOME", ".cargo")?, "/cargo"),
        (root().to_owned(), "/atalaya"),
        (programs(""), "/target"),
    ];
    let map = |option: &str| -> Vec<String> {
        folders.iter().map(|(folder, name)| format!("'{option}={}={name}'", folder.display())).collect()
    };
    // A wrapper, for what a build script compiles with flags of its own: the kernel programs.
    let wrapper = programs("dist-build").join("rustc-anywhere");
    std::fs::create_dir_all(programs("dist-build"))?;
    let script = format!("#!/bin/sh\nexec \"$@\" {}\n", map("--remap-path-prefix").join(" "));
    // cargo builds all anew where its wrapper is another.
    if std::fs::read_to_string(&wrapper).ok().as_ref() != Some(&script) {
        use std::os::unix::fs::PermissionsExt;

        std::fs::write(&wrapper, script)?;
        std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?;
    }
    build.env("RUSTC_WRAPPER", wrapper);
    build.env("CFLAGS", map("-ffile-prefix-map").join(" ").replace('\'', ""));
    build.env("SOURCE_DATE_EPOCH", moment()?);
    Ok(())
}

/// When the source was committed, in seconds since 1970: the age of all that is packed.
pub fn moment() -> Result<String> {
    if let Ok(moment) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(moment);
    }
    let committed = output(Command::new("git").current_dir(root()).args(["log", "-1", "--format=%ct"]));
    let committed = committed.context("no commit says how old the source is; set SOURCE_DATE_EPOCH")?;
    Ok(committed.trim().to_owned())
}

/// Writes what each program is made of, as `CycloneDX` has it (JSON, version 1.5).
pub fn parts_lists(folder: &Path) -> Result<Vec<PathBuf>> {
    const WRITTEN: &str = "parts.cdx.json";
    let mut list = Command::new(setup::cyclonedx());
    list.current_dir(root()).env("SOURCE_DATE_EPOCH", moment()?).env("CARGO", cargo().get_program());
    list.args(["cyclonedx", "--format", "json", "--spec-version", "1.5", "--quiet", "--no-build-deps"]);
    list.args(["--target", Processor::Amd64.target(), "--override-filename", "parts.cdx"]);
    let listed = announce("what they are made of", &mut list);
    let lists = listed.and_then(|()| {
        let list = |program: &&str| {
            let package = root().join(program.trim_start_matches("atalaya-"));
            let text = std::fs::read_to_string(package.join(WRITTEN))?;
            let to = folder.join(format!("{program}.cdx.json"));
            std::fs::write(&to, text.replace(&root().display().to_string(), "/atalaya"))?;
            Ok(to)
        };
        PROGRAMS.iter().map(list).collect()
    });
    // It writes one beside every package of the workspace.
    let pattern = format!("*{WRITTEN}");
    let mut written = Command::new("git");
    let written = output(written.current_dir(root()).args(["ls-files", "--others", "--", &pattern]))?;
    for file in written.lines() {
        std::fs::remove_file(root().join(file)).with_context(|| file.to_owned())?;
    }
    lists
}

/// Builds the committed source in another folder, and compares; an error where a byte differs.
pub fn built_elsewhere_is_the_same(folder: &Path) -> Result<()> {
    let changed = output(Command::new("git").current_dir(root()).args([
        "status",
        "--porcelain",
        "--untracked-files=no",
    ]))?;
    ensure!(changed.is_empty(), "only what is committed can be built elsewhere:\n{changed}");
    let elsewhere = tempfile::Builder::new().prefix("atalaya-again-").tempdir()?;
    let tree = elsewhere.path().join("tree");
    let mut clone = Command::new("git");
    clone.args(["clone", "--quiet", "--shared"]).arg(root()).arg(&tree);
    announce("the committed source, in another folder", &mut clone)?;
    // Tools, and the other processor's compiler, are no part of what is built.
    for tools in ["cross", "tools", "apt"] {
        std::fs::create_dir_all(tree.join("target"))?;
        std::os::unix::fs::symlink(programs(tools), tree.join("target").join(tools))?;
    }
    let mut again = cargo();
    again.current_dir(&tree).env_remove("CARGO_TARGET_DIR");
    announce(
        "all of it again: some minutes",
        again.args(["run", "--quiet", "--package", "xtask", "--", "dist", "--all"]),
    )?;
    let sums = |folder: &Path| -> Result<Vec<String>> {
        let text =
            std::fs::read_to_string(folder.join(SUMS)).with_context(|| folder.display().to_string())?;
        Ok(text.lines().map(ToOwned::to_owned).collect())
    };
    let (here, there) = (sums(folder)?, sums(&tree.join("target/dist"))?);
    let other: Vec<&String> = here.iter().filter(|line| !there.contains(line)).collect();
    if !other.is_empty() || here.len() != there.len() {
        let kept = elsewhere.keep();
        bail!("built twice, these are not the same; the second is in {}: {other:?}", kept.display());
    }
    println!("built twice, in two folders: the same bytes ({} files)", here.len());
    Ok(())
}
