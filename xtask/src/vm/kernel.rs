//! Debian's cloud kernels as the configured package sources offer them: found in apt's lists, downloaded, and
//! unpacked beside what is built. Nothing is installed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::process::output;

use crate::run::{announce, programs};

/// Depends on the kernel that this release of Debian is meant to run with.
const META: &str = "linux-image-cloud-amd64";
const PREFIX: &str = "linux-image-";
const SUFFIX: &str = "-cloud-amd64";

/// A kernel that is offered, in the order of its age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    /// The numbers of its release: 6, 1, 0, 56.
    numbers: Vec<u32>,
    /// The name of its Debian package.
    package: String,
}

/// A kernel whose package is unpacked.
pub struct Unpacked {
    /// The one whose image and modules are in the folder.
    pub kernel: Kernel,
    folder: PathBuf,
}

/// Finds the kernels that fit the wanted releases (`6.1`, or a whole release): the newest of each. Where none are
/// wanted: the one that this Debian runs with; with `all` the newest one too.
pub fn unpack(wanted: &[String], all: bool) -> Result<Vec<Unpacked>> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the virtual machines are x86-64 ones: there is no {META} for {}", std::env::consts::ARCH);
    }
    let attempt = || -> Result<Vec<Unpacked>> {
        choose(&offered()?, this_release().ok().as_ref(), wanted, all)?.iter().map(fetch).collect()
    };
    attempt().or_else(|error| {
        eprintln!("{error:#}");
        // Old lists name packages that are gone, and a fresh machine has no lists.
        announce("Debian's package lists", Command::new("apt-get").args(["update", "--quiet"]))?;
        attempt()
    })
}

/// All cloud kernels in apt's lists.
fn offered() -> Result<Vec<Kernel>> {
    let pattern = format!("^{PREFIX}[0-9].*{SUFFIX}$");
    let found = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    Ok(found.lines().filter_map(|line| Kernel::of_package(line.split_once(' ')?.0)).collect())
}

/// The kernel that the meta-package depends on.
fn this_release() -> Result<Kernel> {
    let found = output(Command::new("apt-cache").args(["depends", META]))?;
    found
        .lines()
        .find_map(|line| Kernel::of_package(line.trim().strip_prefix("Depends: ")?))
        .with_context(|| format!("{META} depends on no kernel:\n{found}"))
}

fn choose(
    offered: &[Kernel],
    this_release: Option<&Kernel>,
    wanted: &[String],
    all: bool,
) -> Result<Vec<Kernel>> {
    let newest = offered.iter().max();
    let mut chosen = Vec::new();
    if wanted.is_empty() {
        chosen.extend(this_release.or(newest));
        chosen.extend(newest.filter(|_| all));
    }
    for release in wanted {
        let fits = offered.iter().filter(|kernel| kernel.fits(release)).max();
        let fits = fits.with_context(|| {
            let mut sorted: Vec<_> = offered.iter().collect();
            sorted.sort();
            let mut series: Vec<_> = sorted.into_iter().map(Kernel::series).collect();
            series.dedup();
            format!("the package sources offer no kernel {release}; they offer {}", series.join(", "))
        })?;
        chosen.push(fits);
    }
    if chosen.is_empty() {
        bail!("the package sources offer no cloud kernel ({PREFIX}…{SUFFIX})");
    }
    let mut chosen: Vec<_> = chosen.into_iter().cloned().collect();
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
}

/// Downloads and unpacks a kernel that is not there yet.
fn fetch(kernel: &Kernel) -> Result<Unpacked> {
    let kernels = programs("kernels");
    let folder = kernels.join(&kernel.package);
    if !folder.is_dir() {
        let downloads = kernels.join("download");
        let _ = fs::remove_dir_all(&downloads);
        fs::create_dir_all(&downloads)?;
        let mut apt = Command::new("apt-get");
        apt.args(["download", "--quiet", &kernel.package]).current_dir(&downloads);
        announce("a kernel to boot; it is unpacked, not installed", &mut apt)?;
        let package = fs::read_dir(&downloads)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get downloaded no package")?;
        let draft = downloads.join("unpacked");
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("--extract").args([&package, &draft]);
        announce("beside what is built", &mut dpkg)?;
        // Whole or not at all, whatever happens in between.
        fs::rename(&draft, &folder)?;
        fs::remove_dir_all(&downloads)?;
        remove_older(&kernels, kernel)?;
    }
    Ok(Unpacked { kernel: kernel.clone(), folder })
}

/// Security updates replace a kernel every few weeks; an older one of the same series is not booted again.
fn remove_older(kernels: &Path, than: &Kernel) -> Result<()> {
    for entry in fs::read_dir(kernels)? {
        let entry = entry?;
        let older = entry.file_name().to_str().and_then(Kernel::of_package);
        if older.is_some_and(|kernel| kernel.series() == than.series() && kernel < *than) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

// === impl Kernel ===

impl Kernel {
    /// The kernel of a package such as `linux-image-6.12.117+deb12-cloud-amd64`; not of a meta-package.
    fn of_package(package: &str) -> Option<Self> {
        let release = package.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let version = release.split_once('+').map_or(release, |(version, _)| version);
        let numbers: Vec<u32> = version.split(['.', '-']).map(str::parse).collect::<Result<_, _>>().ok()?;
        (numbers.len() >= 3).then(|| Self { numbers, package: package.to_owned() })
    }

    /// Its series as numbers: (6, 1).
    pub fn version(&self) -> (u32, u32) {
        (self.numbers[0], self.numbers[1])
    }

    /// The first two numbers, by which distributions speak of it: `6.1`.
    pub fn series(&self) -> String {
        format!("{}.{}", self.numbers[0], self.numbers[1])
    }

    /// Its release, as `uname -r` shows it: `6.1.0-56-cloud-amd64`.
    pub fn release(&self) -> &str {
        self.package.strip_prefix(PREFIX).unwrap_or(&self.package)
    }

    /// Whether `6.1`, `6.1.0-56` or `6.1.0-56-cloud-amd64` means this one.
    fn fits(&self, release: &str) -> bool {
        self.release() == release
            || self.release().strip_suffix(SUFFIX) == Some(release)
            || self.series() == release
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.release().strip_suffix(SUFFIX).unwrap_or(self.release()))
    }
}

// === impl Unpacked ===

impl Unpacked {
    /// The image to boot.
    pub fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.kernel.release()))
    }

    /// A module that is not built in, as the kernel takes it; `None` where this kernel has none of the name.
    pub fn module(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let folder = self.folder.join("lib/modules").join(self.kernel.release()).join("kernel");
        let plain = folder.join(format!("{path}.ko"));
        if plain.exists() {
            return Ok(Some(fs::read(&plain)?));
        }
        let packed = folder.join(format!("{path}.ko.xz"));
        if !packed.exists() {
            return Ok(None);
        }
        let unpacked =
            Command::new("xz").args(["--decompress", "--stdout"]).arg(&packed).output().context("xz")?;
        if !unpacked.status.success() {
            bail!("xz cannot unpack {}: {}", packed.display(), String::from_utf8_lossy(&unpacked.stderr));
        }
        Ok(Some(unpacked.stdout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels(packages: &[&str]) -> Vec<Kernel> {
        packages.iter().filter_map(|package| Kernel::of_package(package)).collect()
    }

    #[test]
    fn the_newest_is_newest_by_number_and_meta_packages_are_no_kernels() {
        let offered = kernels(&[
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-amd64",
        ]);
        assert_eq!(offered.len(), 3);
        let names = |wanted: &[&str], all| {
            let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
            let chosen =
                choose(&offered, Some(&offered[2]), &wanted, all).map_err(|error| error.to_string())?;
            Ok::<_, String>(chosen.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(names(&[], false).unwrap(), ["6.1.0-56"]);
        assert_eq!(names(&[], true).unwrap(), ["6.1.0-56", "6.12.117+deb12"]);
        assert_eq!(names(&["6.1"], false).unwrap(), ["6.1.0-56"]);
        assert_eq!(names(&["6.1.0-9", "6.12"], false).unwrap(), ["6.1.0-9", "6.12.117+deb12"]);
        assert!(names(&["6.13"], false).unwrap_err().contains("they offer 6.1, 6.12"));
        assert_eq!(offered[2].release(), "6.1.0-56-cloud-amd64");
    }
}
