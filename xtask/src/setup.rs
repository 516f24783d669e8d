//! `cargo xtask setup`: finds what building and testing need, and installs what is missing, printing
//! each command and why. It never touches the default toolchain, and looks before it runs anything.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{announce, cargo, programs};
use crate::suite::Suite;
use crate::toolchain;

/// Debian's packages with a Rust compiler that has a core library for BPF, and LLVM to link with.
const BPF_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"];
/// Where Debian puts that compiler and that LLVM.
const DEBIAN_TOOLCHAIN: &str = "/usr";
const LLVM: &str = "/usr/lib/llvm-22";
/// What linking against it needs; other packages than llvm-22-dev leave the folder without it.
const LIBLLVM: &str = "/usr/lib/llvm-22/lib/libLLVM.so";
/// What the demo runs, and the tests too: a file of each, and its package.
const DEMO_PACKAGES: &[(&str, &str)] = &[("/usr/bin/ssh", "openssh-client"), ("/usr/sbin/ip", "iproute2")];
/// Where Debian installs sshd.
const SSHD: &str = "/usr/sbin/sshd";
/// What the tests run besides.
const TEST_PACKAGES: &[(&str, &str)] = &[
    (SSHD, "openssh-server"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/python3", "python3"),
    ("/usr/bin/journalctl", "systemd"),
    ("/lib/systemd/systemd-journal-remote", "systemd-journal-remote"),
    ("/usr/bin/rg", "ripgrep"),
    ("/usr/sbin/dovecot", "dovecot-core"),
    ("/usr/lib/dovecot/imap-login", "dovecot-imapd"),
    ("/usr/sbin/proftpd", "proftpd-core"),
    ("/usr/bin/gdb", "gdb"),
    ("/usr/bin/hydra", "hydra"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/sbin/logrotate", "logrotate"),
];

/// What handing out for two processors needs: a compiler of C for the other, its emulator, and what reads images.
const DISTRIBUTION_PACKAGES: &[(&str, &str)] = &[
    ("/usr/bin/aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross"),
    ("/usr/bin/qemu-aarch64", "qemu-user"),
    ("/usr/bin/umoci", "umoci"),
];

/// What makes Debian's packages.
const PACKING_PACKAGES: &[(&str, &str)] = &[("/usr/bin/dpkg-shlibdeps", "dpkg-dev")];
/// What looks at them, and makes the file roots that they are tried in.
const TRIAL_PACKAGES: &[(&str, &str)] =
    &[("/usr/bin/lintian", "lintian"), ("/usr/sbin/debootstrap", "debootstrap")];

/// The release of cargo-deb that packs.
const CARGO_DEB: &str = "3.8.0";
/// The release of cargo-cyclonedx whose lists are handed out.
const CYCLONEDX: &str = "0.5.9";

/// Packages that Debian builds in one go, and that accept only each other's very version: the first is asked for
/// in the version of the second, where that is installed, so that the second need not be upgraded.
const OF_ONE_SOURCE: &[(&str, &str)] = &[
    ("openssh-server", "openssh-client"),
    ("systemd-journal-remote", "systemd"),
    ("qemu-system-x86", "qemu-utils"),
];

/// What to set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Purpose {
    /// Building every crate, with the kernel programs
    Build,
    /// Building, and running the demo: nothing that is installed is upgraded or removed
    Demo,
    /// Building, and running the demo, the tests and the benchmarks
    Test,
    /// Packing Debian's packages
    Packages,
    /// Building what is handed out for amd64 and arm64
    Distribution,
}

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Arguments {
    /// What is to work afterwards
    #[arg(long = "for", value_enum, default_value = "test")]
    purpose: Purpose,
}

/// Sets up and says so.
pub fn run(arguments: &Arguments) -> Result<()> {
    ensure(arguments.purpose)?;
    if let Ok(found) = toolchain::find() {
        let core = if found.core { "with a core library for BPF" } else { "with the source of core" };
        println!("eBPF: rustup toolchain {} ({core}), {}", found.name, found.linker.display());
    }
    println!("everything is there");
    Ok(())
}

/// Makes sure that everything for a purpose is there; installs what is missing.
pub fn ensure(purpose: Purpose) -> Result<()> {
    ensure_compiler()?;
    ensure_linker()?;
    match purpose {
        Purpose::Build => Ok(()),
        Purpose::Demo => {
            let why = "the demo runs real ssh logins in a network namespace";
            install(why, &missing(DEMO_PACKAGES), Care::AddOnly)?;
            ensure_sshd()
        }
        Purpose::Test => {
            let packages = [missing(DEMO_PACKAGES), missing(TEST_PACKAGES)].concat();
            install("the tests run real daemons, clients and kernels", &packages, Care::Upgrade)?;
            ensure_fail2ban(&[Suite::Bookworm])?;
            ensure_prometheus()?;
            install("packages are looked at and tried", &missing(TRIAL_PACKAGES), Care::Upgrade)?;
            ensure_packing()
        }
        Purpose::Packages => ensure_packing(),
        Purpose::Distribution => {
            let why = "programs for another processor, and images, are built and tried";
            install(why, &missing(DISTRIBUTION_PACKAGES), Care::Upgrade)?;
            ensure_cyclonedx()
        }
    }
}

/// Whether the sensor's kernel part can be built as things are.
pub fn can_build_kernel_part() -> bool {
    toolchain::find().is_ok()
}

/// The packages of those whose files are not there.
fn missing(packages: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    packages.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect()
}

fn ensure_compiler() -> Result<()> {
    if toolchain::compiler().is_ok() {
        return Ok(());
    }
    let nightly = toolchain::toolchain_directory(toolchain::NIGHTLY).is_some();
    let debian = Path::new(DEBIAN_TOOLCHAIN);
    if toolchain::core_of(debian).is_none() {
        // rustup's own way first, where it can add components; it says no at once where it cannot.
        let mut rustup = Command::new("rustup");
        if nightly {
            rustup.args(["component", "add", "--toolchain", toolchain::NIGHTLY, "rust-src"]);
        } else {
            rustup.args([
                "toolchain",
                "install",
                toolchain::NIGHTLY,
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]);
        }
        let why = "the kernel programs need a compiler for BPF: a nightly toolchain with the source of core";
        if announce(why, &mut rustup).is_ok() && toolchain::compiler().is_ok() {
            return Ok(());
        }
        install(
            "rustup cannot add it here; Debian's Rust has a core library for BPF",
            &BPF_PACKAGES,
            Care::AddOnly,
        )?;
    }
    announce(
        "makes Debian's Rust a toolchain of rustup by a name of its own; the default stays",
        Command::new("rustup").args(["toolchain", "link", toolchain::LINKED, DEBIAN_TOOLCHAIN]),
    )?;
    if toolchain::compiler().is_err() {
        bail!("no compiler for BPF after all; try: rustup toolchain install nightly --component rust-src");
    }
    Ok(())
}

fn ensure_linker() -> Result<()> {
    if toolchain::linker().is_some() {
        return Ok(());
    }
    if !Path::new(LIBLLVM).exists() {
        install("bpf-linker is built against LLVM", &["llvm-22-dev"], Care::AddOnly)?;
    }
    announce(
        "links the kernel programs; about a minute",
        cargo().env("LLVM_PREFIX", LLVM).env_remove("RUSTC_BOOTSTRAP").args([
            "install",
            "bpf-linker",
            "--no-default-features",
            "--features",
            "llvm-22",
        ]),
    )
}

/// Unpacks Debian's Prometheus and its promtool, which the tests run: installing it would start a service.
fn ensure_prometheus() -> Result<()> {
    let folder = programs("prometheus");
    if !folder.join("usr/bin/promtool").exists() {
        let why = "the tests let a real Prometheus scrape the programs";
        Suite::Bookworm.lists()?.unpack(&["prometheus"], &folder, why)?;
    }
    Ok(())
}

/// The program that lists what a program is made of.
pub fn cyclonedx() -> PathBuf {
    programs("tools").join("bin/cargo-cyclonedx")
}

fn ensure_cyclonedx() -> Result<()> {
    ensure_tool(&cyclonedx(), "cargo-cyclonedx", CYCLONEDX, "lists what the programs are made of")
}

/// The program that makes Debian's packages.
pub fn cargo_deb() -> PathBuf {
    programs("tools").join("bin/cargo-deb")
}

fn ensure_packing() -> Result<()> {
    install("Debian's packages are made", &missing(PACKING_PACKAGES), Care::Upgrade)?;
    ensure_tool(&cargo_deb(), "cargo-deb", CARGO_DEB, "makes Debian's packages")
}

/// Builds a program of crates.io beside what is built, in the one release that is relied on.
fn ensure_tool(program: &Path, name: &str, release: &str, why: &str) -> Result<()> {
    if program.exists() {
        return Ok(());
    }
    let mut install = cargo();
    install.env_remove("RUSTC_BOOTSTRAP").args([
        "install",
        "--locked",
        &format!("{name}@{release}"),
        "--root",
    ]);
    announce(&format!("{why}; about a minute"), install.arg(programs("tools")))
}

/// Where the files of Debian's openssh-server are: below the root where it is installed, else below the folder of
/// what is built, where [`Purpose::Demo`] unpacks them.
pub fn sshd_below() -> PathBuf {
    if Path::new(SSHD).exists() { PathBuf::from("/") } else { programs("openssh-server") }
}

/// Unpacks Debian's sshd beside what is built, where it is not installed: installing it would start a service that
/// listens on port 22, and may upgrade the client.
fn ensure_sshd() -> Result<()> {
    let sshd = sshd_below().join("usr/sbin/sshd");
    if !sshd.exists() {
        unpack("openssh-server", "the demo's sshd; it is unpacked, not installed: its service would start")?;
    }
    let libraries = Command::new("ldd").arg(&sshd).output().context("cannot start ldd")?;
    let missing: Vec<String> =
        String::from_utf8_lossy(&libraries.stdout).lines().filter_map(missing_library).collect();
    let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
    install("sshd is linked against these", &missing, Care::AddOnly)
}

/// Debian's package of a library that a line of ldd(1) says is not there: by the rule of its policy (8.1), the
/// library's name and version as in its SONAME.
fn missing_library(line: &str) -> Option<String> {
    let (library, _) = line.trim().split_once(" => not found")?;
    let (name, version) = library.split_once(".so.")?;
    let dash = if name.ends_with(|last: char| last.is_ascii_digit()) { "-" } else { "" };
    Some(format!("{name}{dash}{version}").replace('_', "-"))
}

/// Installs debootstrap where it is not there.
pub fn ensure_debootstrap() -> Result<()> {
    let missing = !Path::new("/usr/sbin/debootstrap").exists();
    let why = "daemons run in file roots of their own suites, which debootstrap makes";
    install(why, if missing { &["debootstrap"] } else { &[] }, Care::AddOnly)
}

/// Unpacks the fail2ban of Debian's suites that is not there yet, for the tests that read its files where they lie.
pub fn ensure_fail2ban(suites: &[Suite]) -> Result<()> {
    for suite in suites {
        let folder = match suite {
            Suite::Bookworm => programs("fail2ban"),
            newer => programs(&format!("fail2ban-{}", newer.name())),
        };
        if !folder.join("etc/fail2ban/jail.conf").exists() {
            let why = "the tests read fail2ban's own configuration";
            suite.lists()?.unpack(&["fail2ban"], &folder, why)?;
        }
    }
    Ok(())
}

/// Unpacks a package of Debian's below a folder of its name, beside what is built.
fn unpack(package: &str, why: &str) -> Result<()> {
    let downloads = programs(&format!("{package}-package"));
    // What an interrupted download left is no package.
    if downloads.exists() {
        std::fs::remove_dir_all(&downloads)?;
    }
    std::fs::create_dir_all(&downloads)?;
    let download = || {
        let mut apt = Command::new("apt-get");
        apt.args(["download", "--quiet", package]).current_dir(&downloads);
        announce(why, &mut apt)
    };
    if download().is_err() {
        announce("Debian's package lists", Command::new("apt-get").args(["update", "--quiet"]))?;
        download()?;
    }
    let file = std::fs::read_dir(&downloads)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    let folder = programs(package);
    announce("beside what is built", Command::new("dpkg").arg("--extract").args([&file, &folder]))
}

/// What installing may do to what is installed already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Care {
    /// Nothing: what would upgrade or remove a package is refused.
    AddOnly,
    /// Upgrade it, and remove what stands in the way, having said so.
    Upgrade,
}

/// Installs Debian's packages, or says how.
fn install(why: &str, packages: &[&str], care: Care) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    let by_hand = format!("apt-get update && apt-get install {names}");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("{why}, and this is no Debian: install what Debian calls {names}, and run this again");
    }
    let id = Command::new("id").arg("-u").output()?;
    if id.stdout.trim_ascii() != b"0" {
        bail!("{why}, and only root can install it: run as root\n    {by_hand}\nand this again");
    }
    announce("Debian's package lists", apt().args(["update", "--quiet"]))?;
    let plain: Vec<String> = packages.iter().map(|package| (*package).to_owned()).collect();
    let fitting: Vec<String> = packages.iter().map(|package| in_fitting_version(package)).collect();
    // Versions that fit what is installed may not fit each other.
    let (packages, changes) = match changes(&fitting) {
        Ok(changes) => (fitting, changes),
        Err(_) => (plain.clone(), changes(&plain)?),
    };
    if !changes.is_empty() {
        let changes = changes.join(", ");
        if care == Care::AddOnly {
            bail!(
                "{why}, and installing it would {changes}: to have that done, run as root\n    {by_hand}\nand this again"
            );
        }
        eprintln!("installing {names} will {changes}");
    }
    let mut install = apt();
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages);
    if let Err(error) = announce(why, &mut install) {
        bail!("{error:#}\nrun as root, with a network\n    {by_hand}\nand this again");
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

/// What apt would upgrade, downgrade or remove for these packages, in words.
fn changes(packages: &[String]) -> Result<Vec<String>> {
    let mut simulate = apt();
    simulate.args(["install", "--simulate", "--quiet", "--no-install-recommends"]).args(packages);
    let output = simulate.output().context("cannot start apt-get")?;
    if !output.status.success() {
        bail!(
            "apt-get cannot install {}: {}",
            packages.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mut words = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // apt-get(8): `Remv qemu-utils [1:10.0]`, `Inst systemd [252.38] (252.39 …)`; what is new has no `[`.
        let mut parts = line.split(' ');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("Remv"), Some(package), _) => words.push(format!("remove {package}")),
            (Some("Inst"), Some(package), Some(old)) if old.starts_with('[') => {
                words.push(format!("upgrade {package}"));
            }
            _ => {}
        }
    }
    Ok(words)
}

/// A package as apt takes it: in the version that fits what is installed, where Debian still has that one.
fn in_fitting_version(package: &str) -> String {
    let fitting = || {
        let (_, installed) = OF_ONE_SOURCE.iter().find(|(of, _)| *of == package)?;
        let query = Command::new("dpkg-query")
            .args(["--show", "--showformat=${db:Status-Status} ${Version}", installed])
            .output()
            .ok()?;
        let query = String::from_utf8(query.stdout).ok()?;
        let version = query.strip_prefix("installed ")?;
        let known = Command::new("apt-cache").args(["madison", package]).output().ok()?;
        let known = String::from_utf8(known.stdout).ok()?;
        known
            .lines()
            .any(|line| line.split('|').nth(1).is_some_and(|known| known.trim() == version))
            .then(|| format!("{package}={version}"))
    };
    fitting().unwrap_or_else(|| package.to_owned())
}

#[cfg(test)]
mod tests {
    use super::missing_library;

    #[test]
    fn the_package_of_a_library_that_is_missing_is_known_by_its_soname() {
        let package = |library: &str| missing_library(&format!("\t{library} => not found"));
        assert_eq!(package("libwrap.so.0").as_deref(), Some("libwrap0"));
        assert_eq!(package("libgssapi_krb5.so.2").as_deref(), Some("libgssapi-krb5-2"));
        assert_eq!(package("libkrb5.so.3").as_deref(), Some("libkrb5-3"));
        assert_eq!(
            missing_library("\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f0000000000)"),
            None
        );
    }
}
