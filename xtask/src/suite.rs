//! Debian's suites beside the one that runs here: package lists of the tests' own, and packages that are unpacked
//! beside what is built. Nothing is installed, and the machine's own sources and lists stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::process::output;

use crate::run::{announce, programs};

/// Debian's keys, where its package `debian-archive-keyring` puts them.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"];
/// After this, package lists may name what Debian has replaced: they are fetched again.
const LISTS_LIFE: Duration = Duration::from_hours(24);

/// A release of Debian, whichever one runs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Suite {
    /// Debian 12
    Bookworm,
    /// Debian 13
    Trixie,
    /// Unstable, where what is newest comes first
    Sid,
}

/// A suite's packages, as apt knows them from a folder of its own.
pub struct PackageLists {
    suite: Suite,
    folder: PathBuf,
    /// Debian's name of a processor whose packages are known beside this machine's.
    foreign: Option<&'static str>,
}

/// Where this machine gets Debian's packages from.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    packages: String,
    security: Option<String>,
}

// === impl Suite ===

impl Suite {
    /// From the oldest to the newest.
    pub const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Sid];

    /// Its codename.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// Its package lists, fetched where there are none or where they are older than a day.
    pub fn lists(self) -> Result<PackageLists> {
        PackageLists { suite: self, folder: programs("apt").join(self.name()), foreign: None }.fresh()
    }

    /// The same with the packages of another processor, by Debian's name of it.
    pub fn lists_with(self, foreign: &'static str) -> Result<PackageLists> {
        let folder = programs("apt").join(format!("{}-{foreign}", self.name()));
        PackageLists { suite: self, folder, foreign: Some(foreign) }.fresh()
    }
}

// === impl PackageLists ===

impl PackageLists {
    /// As they are, fetched where there are none or where they are older than a day.
    fn fresh(self) -> Result<Self> {
        let lists = self;
        let fetched = lists.fetched();
        let age = fetched.and_then(|fetched| SystemTime::now().duration_since(fetched).ok());
        if age.is_none_or(|age| age > LISTS_LIFE)
            && let Err(error) = lists.fetch()
        {
            if fetched.is_none() {
                return Err(error.context(format!("no package lists of {}", lists.suite.name())));
            }
            eprintln!("{error:#}\nthe lists of before are used");
        }
        Ok(lists)
    }

    /// The names of the packages that a regular expression of apt's (POSIX, extended) fits.
    pub fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let found = output(self.apt("apt-cache").args(["search", "--names-only", pattern]))?;
        Ok(found.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect())
    }

    /// What a package depends on, by name.
    pub fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let found = output(self.apt("apt-cache").args(["depends", package]))?;
        Ok(found.lines().filter_map(|line| Some(line.trim().strip_prefix("Depends: ")?.to_owned())).collect())
    }

    /// Unpacks packages into one folder below that of what is built, which is there whole or not at all.
    pub fn unpack(&self, packages: &[&str], folder: &Path, why: &str) -> Result<()> {
        let parent = folder.parent().context("a folder to unpack into")?;
        fs::create_dir_all(parent)?;
        // What was interrupted before has another name, and goes with its folder.
        let downloads = tempfile::Builder::new().prefix(".download").tempdir_in(parent)?;
        let download = || {
            let mut apt = self.apt("apt-get");
            apt.args(["download", "--quiet"]).args(packages).current_dir(downloads.path());
            announce(&format!("{why}; of Debian {}, unpacked and not installed", self.suite.name()), &mut apt)
        };
        if download().is_err() {
            // Old lists name packages that are gone.
            self.fetch()?;
            download()?;
        }
        let draft = downloads.path().join("unpacked");
        let mut count = 0;
        for entry in fs::read_dir(downloads.path())? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                output(Command::new("dpkg").arg("--extract").args([&file, &draft]))?;
                count += 1;
            }
        }
        if count != packages.len() {
            bail!("apt-get downloaded {count} packages, not {}: {}", packages.len(), packages.join(", "));
        }
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::rename(&draft, folder).with_context(|| folder.display().to_string())
    }

    /// A command that makes a file root of the suite, with what syslog needs, where apt takes packages from too.
    pub fn debootstrap(&self, root: &Path) -> Result<Command> {
        crate::setup::ensure_debootstrap()?;
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", "--include=rsyslog", "--keyring", keyring()?, self.suite.name()]);
        command.arg(root).arg(Mirror::of_this_machine()?.packages);
        // It fetches by wget(1), which does not know apt's proxy.
        if std::env::var_os("http_proxy").is_none() {
            let proxy = output(Command::new("apt-config").args(["shell", "PROXY", "Acquire::http::Proxy"]))?;
            if let Some(proxy) = proxy.trim().strip_prefix("PROXY='").and_then(|rest| rest.strip_suffix('\''))
            {
                command.env("http_proxy", proxy);
            }
        }
        Ok(command)
    }

    /// What makes a program of apt's use these lists in place of the machine's, as `APT_CONFIG` takes it.
    pub fn apt_configuration(&self) -> PathBuf {
        self.folder.join("apt.conf")
    }

    /// Fetches them again.
    pub fn fetch(&self) -> Result<()> {
        fs::create_dir_all(self.folder.join("lists/partial"))?;
        fs::create_dir_all(self.folder.join("cache/archives/partial"))?;
        // No package counts as installed.
        fs::write(self.folder.join("status"), "")?;
        let sources = Mirror::of_this_machine()?.sources(self.suite, keyring()?);
        fs::write(self.folder.join("sources.list"), sources)?;
        fs::write(self.folder.join("apt.conf"), self.configuration())?;
        let why =
            format!("package lists of Debian {} beside what is built, not the machine's", self.suite.name());
        announce(&why, self.apt("apt-get").args(["update", "--quiet", "--error-on=any"]))?;
        fs::write(self.folder.join("fetched"), "")?;
        Ok(())
    }

    /// When the lists were last fetched, if they are there.
    fn fetched(&self) -> Option<SystemTime> {
        fs::metadata(self.folder.join("fetched")).ok()?.modified().ok()
    }

    /// A program of apt's with these lists in place of the machine's.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command.arg("--config-file").arg(self.apt_configuration());
        command
    }

    /// What apt reads after the machine's own configuration, whose proxies and the like stay.
    fn configuration(&self) -> String {
        let mut text = String::from(
            "// Neither the machine's sources, nor what is installed, nor what it prefers to take from where.\n",
        );
        for (option, file) in [
            ("State", ""),
            ("State::lists", "lists"),
            ("State::status", "status"),
            ("Cache", "cache"),
            ("Etc::sourcelist", "sources.list"),
        ] {
            text.push_str(&format!("Dir::{option} \"{}\";\n", self.folder.join(file).display()));
        }
        for nothing in ["sourceparts", "preferences", "preferencesparts"] {
            text.push_str(&format!("Dir::Etc::{nothing} \"/dev/null\";\n"));
        }
        if let Some(foreign) = self.foreign {
            // The first is this machine's.
            let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
            text.push_str(&format!("APT::Architectures {{ \"{own}\"; \"{foreign}\"; }};\n"));
        }
        text.push_str("// Texts for software centres, and descriptions in other languages.\n");
        text.push_str("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n");
        text.push_str("Acquire::Languages \"none\";\n");
        text
    }
}

// === impl Mirror ===

impl Mirror {
    /// From the lists that the machine's own apt has.
    fn of_this_machine() -> Result<Self> {
        let read = || -> Result<Option<Self>> {
            let format = "$(LABEL)\t$(COMPONENT)\t$(CREATED_BY)\t$(REPO_URI)";
            Ok(Self::among(&output(Command::new("apt-get").args(["indextargets", "--format", format]))?))
        };
        if let Some(mirror) = read()? {
            return Ok(mirror);
        }
        // apt knows whose packages a source has only once it has the source's lists.
        announce("where Debian's packages come from", Command::new("apt-get").args(["update", "--quiet"]))?;
        read()?.context("apt has no source of Debian's packages here (component main): the tests need one")
    }

    /// From lines of label, component, kind of list and address.
    fn among(targets: &str) -> Option<Self> {
        let of = |wanted: &str| {
            targets.lines().find_map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                let [label, "main", "Packages", address] = fields[..] else { return None };
                (label == wanted).then(|| address.trim_end_matches('/').to_owned())
            })
        };
        Some(Self { packages: of("Debian")?, security: of("Debian-Security") })
    }

    /// A suite's sources, as sources.list(5) has them. Sid has no security updates apart.
    fn sources(&self, suite: Suite, keyring: &str) -> String {
        let name = suite.name();
        let mut sources = format!("deb [signed-by={keyring}] {} {name} main\n", self.packages);
        if let Some(security) = self.security.as_ref().filter(|_| suite != Suite::Sid) {
            sources.push_str(&format!("deb [signed-by={keyring}] {security} {name}-security main\n"));
        }
        sources
    }
}

fn keyring() -> Result<&'static str> {
    KEYRINGS.into_iter().find(|path| Path::new(path).exists()).with_context(|| {
        format!(
            "{} is not there: install debian-archive-keyring, so that packages can be trusted",
            KEYRINGS[1]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_machines_and_other_vendors_are_none() {
        let targets = "Debian\tmain\tDEP-11\thttp://mirror.example/texts/\n\
            . nodistro\tmain\tPackages\thttp://vendor.example/\n\
            Debian\tcontrib\tPackages\thttp://mirror.example/contrib/\n\
            Debian\tmain\tPackages\thttp://mirror.example/debian/\n\
            Debian-Security\tmain\tPackages\thttp://mirror.example/security/\n";
        let mirror = Mirror::among(targets).unwrap();
        assert_eq!(
            mirror.sources(Suite::Trixie, "/k"),
            "deb [signed-by=/k] http://mirror.example/debian trixie main\n\
             deb [signed-by=/k] http://mirror.example/security trixie-security main\n"
        );
        assert_eq!(
            mirror.sources(Suite::Sid, "/k"),
            "deb [signed-by=/k] http://mirror.example/debian sid main\n"
        );
        assert_eq!(Mirror::among("Ubuntu\tmain\tPackages\thttp://mirror.example/ubuntu/\n"), None);
    }
}
