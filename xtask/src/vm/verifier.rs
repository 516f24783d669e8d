//! How many instructions each kernel's verifier looked at for each program, beside the numbers that are kept in
//! `sensor-ebpf/verifier.toml`. The verifier gives up at a million, and what it looks at grows by leaps when a
//! branch or a loop comes in: a leap shows here long before a kernel refuses the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use atalaya_end_to_end::process::output;
use kernel_init::Program;
use serde::{Deserialize, Serialize};

use super::expectation::Lockdown;
use crate::run::root;
use crate::toolchain;

/// A count may differ by this share, or by this many, without being told: a security update of the kernel, or a change of
/// another program in the same object, moves it by a few per cent. Another compiler may double it, so each has
/// numbers of its own.
const SHARE: f64 = 0.10;
const FEW: u32 = 100;

const HEAD: &str = "\
# How many instructions the verifier of each kernel series looks at for each kernel program (its limit is a
# million), as `cargo xtask vm --all` compares them. Written by `cargo xtask vm --all --bless`;
# `ATALAYA_EBPF_TOOLCHAIN` chooses the compiler.
";

/// The kept numbers: by compiler, by kernel series and lockdown (which chooses between programs), and by program.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts {
    compilers: BTreeMap<String, BTreeMap<String, BTreeMap<String, u32>>>,
    /// The one that is used here.
    #[serde(skip)]
    compiler: String,
}

// === impl Counts ===

impl Counts {
    /// Reads the kept numbers of all compilers, and finds out which compiler is used here.
    pub fn read() -> Result<Self> {
        let path = path();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let counts: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
        Ok(Self { compiler: compiler()?, ..counts })
    }

    /// Writes them back, with the head that says how they come about.
    pub fn write(&self) -> Result<()> {
        fs::write(path(), format!("{HEAD}\n{}", toml::to_string(self)?)).context("cannot write the counts")
    }

    /// Forgets what was kept of this compiler.
    pub fn forget(&mut self) {
        self.compilers.remove(&self.compiler);
    }

    /// Keeps what a kernel counted in place of what was kept of it before.
    pub fn keep(&mut self, series: &str, lockdown: Lockdown, programs: &[Program]) {
        let counts = counted(programs).map(|(name, now)| (name.to_owned(), now)).collect();
        self.compilers.entry(self.compiler.clone()).or_default().insert(key(series, lockdown), counts);
    }

    /// Where nothing is kept of this compiler or of a kernel that was booted, which is no failure, since sid's kernel is
    /// another every few weeks: a sentence that says so.
    pub fn unknown(&self, booted: &[(String, Lockdown)]) -> Option<String> {
        let Some(kernels) = self.compilers.get(&self.compiler) else {
            let known: Vec<_> = self.compilers.keys().map(String::as_str).collect();
            return Some(format!(
                "sensor-ebpf/verifier.toml has counts of {} and not of {}, so that they are not compared; to keep \
                 these: cargo xtask vm --all --bless",
                known.join(", "),
                self.compiler
            ));
        };
        let keys = booted.iter().map(|(series, lockdown)| key(series, *lockdown));
        let unknown: Vec<String> = keys.filter(|key| !kernels.contains_key(key)).collect();
        (!unknown.is_empty()).then(|| {
            format!(
                "sensor-ebpf/verifier.toml has no counts of {}, so that they are not compared; to keep these: cargo \
                 xtask vm --all --bless",
                unknown.join(", ")
            )
        })
    }

    /// What differs from the kept numbers, in sentences.
    pub fn deviations(&self, series: &str, lockdown: Lockdown, programs: &[Program]) -> Vec<String> {
        let Some(kernels) = self.compilers.get(&self.compiler) else { return Vec::new() };
        let bless = format!("cargo xtask vm --kernel {series} --lockdown {} --bless", lockdown.name());
        let Some(kept) = kernels.get(&key(series, lockdown)) else { return Vec::new() };
        counted(programs)
            .filter_map(|(name, now)| match kept.get(name) {
                Some(before) if near(*before, now) => None,
                Some(before) => Some(format!(
                    "{name}: the verifier's instructions changed from {before} to {now}; if meant: {bless}"
                )),
                None => Some(format!("{name}: {now} instructions, not kept yet: {bless}")),
            })
            .collect()
    }
}

fn key(series: &str, lockdown: Lockdown) -> String {
    format!("{series} {}", lockdown.name())
}

fn counted(programs: &[Program]) -> impl Iterator<Item = (&str, u32)> {
    programs.iter().filter_map(|program| Some((program.name.as_str(), program.instructions?)))
}

fn near(before: u32, now: u32) -> bool {
    let difference = before.abs_diff(now);
    difference <= FEW || f64::from(difference) <= f64::from(before) * SHARE
}

fn path() -> PathBuf {
    root().join("sensor-ebpf/verifier.toml")
}

/// The compiler of the kernel programs.
fn compiler() -> Result<String> {
    let found = toolchain::find().map_err(|_| anyhow::anyhow!("no compiler for BPF"))?;
    let folder = toolchain::toolchain_directory(&found.name).context("the compiler for BPF is gone")?;
    let version = output(Command::new(folder.join("bin/rustc")).arg("--version"))?;
    Ok(version.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel_init::State;

    fn programs(instructions: u32) -> [Program; 1] {
        [Program {
            name: "logins: audit".to_owned(),
            state: State::On,
            reason: String::new(),
            instructions: Some(instructions),
        }]
    }

    #[test]
    fn a_leap_is_told_and_a_few_per_cent_are_not() {
        let mut counts = Counts { compiler: "rustc 1.96.0".to_owned(), ..Counts::default() };
        let booted = ["6.1", "6.12"].map(|series| (series.to_owned(), Lockdown::None));
        assert!(counts.unknown(&booted).unwrap().contains("not of rustc 1.96.0"));
        counts.keep("6.12", Lockdown::None, &programs(2000));
        assert_eq!(counts.unknown(&booted[1..]), None);
        assert!(counts.unknown(&booted).unwrap().contains("no counts of 6.1 none, so"));
        let differs = |counts: &Counts, now| counts.deviations("6.1", Lockdown::None, &programs(now));
        assert!(differs(&counts, 2000).is_empty());
        counts.keep("6.1", Lockdown::None, &programs(2000));
        counts.keep("6.1", Lockdown::Confidentiality, &programs(9000));
        for near in [1810, 2000, 2199] {
            assert!(differs(&counts, near).is_empty(), "{near}");
        }
        for far in [1700, 2300] {
            let told = differs(&counts, far);
            assert!(told[0].contains(&format!("from 2000 to {far}")), "{told:?}");
            assert!(told[0].ends_with("cargo xtask vm --kernel 6.1 --lockdown none --bless"), "{told:?}");
        }
        let text = toml::to_string(&counts).unwrap();
        let read = Counts { compiler: counts.compiler.clone(), ..toml::from_str(&text).unwrap() };
        assert_eq!(read, counts, "{text}");
    }
}
