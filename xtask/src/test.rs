//! `cargo xtask test`: every test, with the programs and packages that they need.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{announce, cargo};
use crate::suite::Suite;
use crate::{daemons, faults, packages, setup, vm};

/// Options of `cargo xtask test`.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Run only the tests whose name holds this
    filter: Option<String>,
    /// Also what takes long: the fail2ban of newer Debians, the kernel programs in all virtual machines, all daemons, and more schedules of faults
    #[arg(long, conflicts_with = "filter")]
    all: bool,
}

/// Sets up, builds everything, and runs every test. With a name, what is no test of that name is left out.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::Purpose::Test)?;
    if arguments.all {
        setup::ensure_fail2ban(&Suite::ALL)?;
    }
    let all = arguments.filter.is_none();
    // The end-to-end tests start the programs as processes.
    announce(
        "the end-to-end tests start the programs themselves",
        cargo().args(["build", "--workspace", "--bins"]),
    )?;
    if all {
        announce(
            "the sensor for logs only needs no eBPF toolchain",
            cargo().args(["check", "--package", "atalaya-sensor", "--no-default-features"]),
        )?;
    }
    let nextest = cargo().args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
    let mut tests = cargo();
    if nextest {
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
        tests.args(arguments.all.then_some(["--run-ignored", "all"]).into_iter().flatten());
    } else {
        tests.args(["test", "--workspace", "--no-fail-fast"]);
    }
    let what = arguments.filter.as_ref().map(|name| format!("the tests whose name holds `{name}`"));
    tests.args(&arguments.filter);
    if arguments.all && !nextest {
        tests.args(["--", "--include-ignored"]);
    }
    announce(what.as_deref().unwrap_or("every test"), &mut tests)?;
    if !all {
        return Ok(());
    }
    if nextest {
        announce(
            "nextest leaves out the examples in the documentation",
            cargo().args(["test", "--workspace", "--doc", "--quiet"]),
        )?;
    }
    licences()?;
    faults::run_of_test(arguments.all)?;
    vm::run(&vm::Arguments::of_test(arguments.all))?;
    packages::run(&packages::Arguments::of_test(arguments.all))?;
    daemons::run_of_test(arguments.all)
}

/// The sensor is permissively licensed, so nothing under the AGPL may be linked into it. `deny.toml`
/// holds this and the rest where cargo-deny is installed; this part is held everywhere.
fn licences() -> Result<()> {
    let output = cargo()
        .args([
            "tree",
            "--package",
            "atalaya-sensor",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}\t{l}",
        ])
        .output()?;
    let tree = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || tree.lines().count() < 10 {
        bail!("cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    if let Some(line) = tree.lines().find(|line| line.contains("AGPL")) {
        bail!("the sensor links {line}: keep AGPL code on the enforcer's side");
    }
    println!("licences: nothing under the AGPL in the sensor ({} packages looked at)", tree.lines().count());
    let mut deny = cargo();
    deny.args(["deny", "--version"]);
    if deny.output().is_ok_and(|output| output.status.success()) {
        announce("deny.toml", Command::new("cargo").args(["deny", "check", "licenses", "bans", "sources"]))?;
    }
    Ok(())
}
