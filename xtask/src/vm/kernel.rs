//! Debian's cloud kernels of several suites: found in package lists of the tests' own, downloaded, and unpacked beside
//! what is built. Nothing is installed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::programs;
use crate::suite::{PackageLists, Suite};

/// Depends on the kernel that a release of Debian is meant to run with.
const META: &str = "linux-image-cloud-amd64";
const PREFIX: &str = "linux-image-";
const SUFFIX: &str = "-cloud-amd64";
/// What a kernel's own package holds nothing of from 7.x on, but depends on: the image, and the modules.
const PARTS: [&str; 2] = ["linux-binary-", "linux-modules-"];
/// Where those lie, before and after Debian moved the image beside the modules.
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];

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

/// What a suite offers.
struct Offer {
    lists: PackageLists,
    kernels: Vec<Kernel>,
    /// The one that the suite is meant to run with.
    usual: Kernel,
}

/// Finds the kernels that fit the wanted releases (`6.1`, or a whole release), in whichever suite: the newest of each.
/// Where none are wanted: the one that Debian 12 runs with; with `all` those of the newer suites too.
pub fn unpack(wanted: &[String], all: bool) -> Result<Vec<Unpacked>> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the virtual machines are x86-64 ones: there is no {META} for {}", std::env::consts::ARCH);
    }
    let suites = if all || !wanted.is_empty() { &Suite::ALL[..] } else { &Suite::ALL[..1] };
    let offers: Vec<Offer> = suites.iter().map(|suite| Offer::of(*suite)).collect::<Result<_>>()?;
    let offered: Vec<&[Kernel]> = offers.iter().map(|offer| &offer.kernels[..]).collect();
    let usual: Vec<&Kernel> = offers.iter().map(|offer| &offer.usual).collect();
    let fetch = |kernel: &Kernel| {
        let offer = offers.iter().find(|offer| offer.kernels.contains(kernel));
        offer.context("a suite offers it")?.fetch(kernel)
    };
    choose(&offered, &usual, wanted)?.iter().map(fetch).collect()
}

/// The wanted kernels, or the usual ones of the suites.
fn choose(offered: &[&[Kernel]], usual: &[&Kernel], wanted: &[String]) -> Result<Vec<Kernel>> {
    let mut chosen: Vec<Kernel> = Vec::new();
    if wanted.is_empty() {
        chosen.extend(usual.iter().map(|kernel| (*kernel).clone()));
    }
    let all = || offered.iter().copied().flatten();
    for release in wanted {
        let fits = all().filter(|kernel| kernel.fits(release)).max();
        let fits = fits.with_context(|| {
            let mut sorted: Vec<_> = all().collect();
            sorted.sort();
            let mut series: Vec<_> = sorted.into_iter().map(Kernel::series).collect();
            series.dedup();
            format!("the package sources offer no kernel {release}; they offer {}", series.join(", "))
        })?;
        chosen.push(fits.clone());
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
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

// === impl Offer ===

impl Offer {
    fn of(suite: Suite) -> Result<Self> {
        let lists = suite.lists()?;
        let names = lists.names(&format!("^{PREFIX}[0-9].*{SUFFIX}$"))?;
        let kernels: Vec<Kernel> = names.iter().filter_map(|name| Kernel::of_package(name)).collect();
        let depends = lists.dependencies(META)?;
        let usual = depends.iter().find_map(|name| Kernel::of_package(name));
        let usual = usual.with_context(|| {
            format!("{META} of Debian {} depends on no kernel, but on {}", suite.name(), depends.join(", "))
        })?;
        Ok(Self { lists, kernels, usual })
    }

    /// Downloads and unpacks a kernel that is not there yet.
    fn fetch(&self, kernel: &Kernel) -> Result<Unpacked> {
        let kernels = programs("kernels");
        let folder = kernels.join(&kernel.package);
        if !folder.is_dir() {
            let mut packages = self.lists.dependencies(&kernel.package)?;
            let is_part =
                |name: &String| PARTS.iter().any(|part| name.strip_prefix(part) == Some(kernel.release()));
            packages.retain(is_part);
            if packages.is_empty() {
                packages.push(kernel.package.clone());
            }
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            self.lists.unpack(&packages, &folder, "a kernel to boot")?;
            remove_older(&kernels, kernel)?;
        }
        Ok(Unpacked { kernel: kernel.clone(), folder })
    }
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
    /// The image to boot: below /boot, or beside the modules.
    pub fn image(&self) -> Result<PathBuf> {
        let boot = self.folder.join("boot").join(format!("vmlinuz-{}", self.kernel.release()));
        if boot.exists() { Ok(boot) } else { Ok(self.modules("vmlinuz")?.join("vmlinuz")) }
    }

    /// The folder of this release's modules that holds a file or folder.
    fn modules(&self, holds: &str) -> Result<PathBuf> {
        let folders = MODULES.map(|folder| self.folder.join(folder).join(self.kernel.release()));
        let found = folders.into_iter().find(|folder| folder.join(holds).exists());
        found.with_context(|| format!("{} holds no {holds}", self.folder.display()))
    }

    /// A module that is not built in, as the kernel takes it; `None` where this kernel has none of the name.
    pub fn module(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let folder = self.modules("kernel")?.join("kernel");
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
        let bookworm = kernels(&[
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-amd64",
        ]);
        assert_eq!(bookworm.len(), 3);
        let trixie =
            kernels(&["linux-image-6.12.107+deb13-cloud-amd64", "linux-image-6.12.117+deb13-cloud-amd64"]);
        let sid = kernels(&["linux-image-7.2.13+deb14-cloud-amd64"]);
        let names = |wanted: &[&str]| {
            let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
            let usual = [&bookworm[2], &trixie[1], &sid[0]];
            let chosen =
                choose(&[&bookworm, &trixie, &sid], &usual, &wanted).map_err(|error| error.to_string())?;
            Ok::<_, String>(chosen.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["6.1.0-56", "6.12.117+deb13", "7.2.13+deb14"]);
        assert_eq!(names(&["6.1"]).unwrap(), ["6.1.0-56"]);
        assert_eq!(names(&["6.1.0-9", "6.12"]).unwrap(), ["6.1.0-9", "6.12.117+deb13"]);
        assert_eq!(names(&["7.2.13+deb14-cloud-amd64"]).unwrap(), ["7.2.13+deb14"]);
        assert!(names(&["6.13"]).unwrap_err().contains("they offer 6.1, 6.12, 7.2"));
        assert_eq!(bookworm[2].release(), "6.1.0-56-cloud-amd64");
    }

    #[test]
    fn the_image_and_the_modules_are_found_where_either_packaging_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        };
        let unpacked = |package| Unpacked {
            kernel: Kernel::of_package(package).unwrap(),
            folder: folder.path().to_owned(),
        };
        let [old, new] =
            ["linux-image-6.1.0-56-cloud-amd64", "linux-image-7.2.13+deb14-cloud-amd64"].map(unpacked);
        write("boot/vmlinuz-6.1.0-56-cloud-amd64");
        write("lib/modules/6.1.0-56-cloud-amd64/kernel/drivers/net/veth.ko");
        assert!(new.image().unwrap_err().to_string().contains("holds no vmlinuz"));
        write("usr/lib/modules/7.2.13+deb14-cloud-amd64/vmlinuz");
        write("usr/lib/modules/7.2.13+deb14-cloud-amd64/kernel/drivers/net/veth.ko");
        for kernel in [old, new] {
            assert!(kernel.image().unwrap().is_file());
            assert_eq!(kernel.module("drivers/net/veth").unwrap().unwrap(), b"content");
            assert_eq!(kernel.module("drivers/net/other").unwrap(), None);
        }
    }
}
