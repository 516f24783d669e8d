//! The file roots that daemons run in: one of each suite, made by debootstrap, and beside it what each daemon's packages
//! add to it. Both are made once, below the folder of what is built, and are there whole or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::process::Process;
use tempfile::TempDir;

use crate::daemons::recipe::Recipe;
use crate::run::{interruption, programs};
use crate::suite::{PackageLists, Suite};

/// The account that may log in everywhere.
pub const ACCOUNT: &str = "ana-of-the-daemons";
/// Its password.
pub const PASSWORD: &str = "right-password";
/// What the file root itself is made of; a change makes it anew.
const MADE_AS: &str = "4";
/// Where a file root is put together, and where daemons see it: in memory, in mount namespaces of their own.
const WORKSHOP: &str = "workshop";
const DRAFT: &str = ".draft";
/// How much memory it may take; only what is written is taken.
const ROOM: &str = "size=4g,mode=755";

/// In its own mount namespace: debootstrap into memory, which spares its thousands of waits for the disk; then what
/// all daemons need; then to the disk. `$1` workshop, `$2` draft, `$3` account, `$4` password, then debootstrap.
const MAKE_BASE: &str = r#"
set -e
mount -t proc proc /proc
workshop=$1 draft=$2 account=$3 password=$4
shift 4
mount -t tmpfs -o "$ROOM" none "$workshop"
"$@"
cd "$workshop/root"
printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
for path in /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info; do
    echo "path-exclude=$path/*"
done >etc/dpkg/dpkg.cfg.d/less
chroot . useradd --create-home --shell /bin/sh "$account"
echo "$account:$password" | chroot . chpasswd
# What the kernel logs is this machine's, and none of its business.
sed -i /imklog/d etc/rsyslog.conf
rm -f var/cache/apt/archives/*.deb etc/resolv.conf
cp -a . "$draft"
"#;

/// In its own mount namespace: packages over a file root, by this machine's apt with the suite's lists; what that changed
/// goes to the disk. `$1` workshop, `$2` draft, `$3` file root, then the packages.
const MAKE_LAYER: &str = r#"
set -e
mount -t proc proc /proc
workshop=$1 draft=$2 base=$3
shift 3
mount -t tmpfs -o "$ROOM" none "$workshop"
cd "$workshop"
mkdir upper work root
mount -t overlay -o "lowerdir=$base,upperdir=upper,workdir=work" none root
mount -t proc proc root/proc
mount -t tmpfs -o mode=755 none root/dev
for device in null:3 zero:5 random:8 urandom:9; do
    mknod -m 666 "root/dev/${device%:*}" c 1 "${device#*:}"
done
root=$workshop/root
apt-get -o "Dir::State::status=$root/var/lib/dpkg/status" \
    -o "Dir::State::extended_states=$root/var/lib/apt/extended_states" \
    -o "Dir::Cache=$root/var/cache/apt" -o "Dir::Log=$root/var/log/apt" \
    -o "DPkg::Chroot-Directory=$root" -o DPkg::Options::=--force-unsafe-io -o APT::Sandbox::User=root \
    --yes --quiet --no-install-recommends install "$@"
rm -rf root/var/cache/apt/* root/var/lib/apt/lists/*
cp -a upper "$draft"
"#;

/// A suite's file roots.
pub struct Image {
    suite: Suite,
    folder: PathBuf,
    lists: PackageLists,
    /// Held while this is: nobody else makes or removes anything there.
    _lock: File,
}

/// A daemon's file root: two folders of which one lies over the other.
#[derive(Debug)]
pub struct Layers {
    /// What overlayfs calls them, the upper one first.
    pub lower: String,
    /// Where they may be mounted.
    pub workshop: PathBuf,
}

// === impl Image ===

impl Image {
    /// Finds a suite's file root, or makes it, for about a minute.
    pub fn of(suite: Suite, anew: bool) -> Result<Self> {
        let folder = programs("daemons").join(suite.name());
        if folder.display().to_string().contains([':', ',', '\\']) {
            bail!("overlayfs takes no colon and no comma in a path, and {} has one", folder.display());
        }
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.with_extension("lock"))?;
        if lock.try_lock().is_err() {
            eprintln!("waits for another run with Debian {}", suite.name());
            lock.lock()?;
        }
        let image = Self { suite, lists: suite.lists()?, folder, _lock: lock };
        let made_as = fs::read_to_string(image.folder.join("made-as")).unwrap_or_default();
        if anew || made_as != MADE_AS {
            image.remove()?;
            image.make()?;
        }
        fs::create_dir_all(image.folder.join(WORKSHOP))?;
        image.remove_drafts()?;
        Ok(image)
    }

    /// A daemon's file root, whose packages are installed where they are not yet.
    pub fn layers(&self, recipe: &Recipe) -> Result<Layers> {
        self.with(recipe.layer, recipe.packages(self.suite))
    }

    /// A file root with packages, by a name of theirs; they are installed where they are not yet.
    pub fn with(&self, layer: &str, wanted: &[&str]) -> Result<Layers> {
        let folder = self.folder.join("with").join(layer);
        let packages = wanted.join(" ");
        let files = folder.join("files");
        if fs::read_to_string(folder.join("packages")).ok().as_deref() != Some(&packages) {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            let installed = self.install(wanted).or_else(|error| {
                if interruption()?.load(Ordering::SeqCst) {
                    return Err(error);
                }
                // Old lists name packages that are gone.
                self.lists.fetch()?;
                self.install(wanted)
            })?;
            fs::write(installed.path().join("packages"), &packages)?;
            fs::create_dir_all(self.folder.join("with"))?;
            fs::rename(installed.keep(), &folder)?;
        }
        let lower = format!("{}:{}", files.display(), self.folder.join("base").display());
        Ok(Layers { lower, workshop: self.folder.join(WORKSHOP) })
    }

    /// Installs packages; the draft of their layer.
    fn install(&self, packages: &[&str]) -> Result<TempDir> {
        let draft = self.draft()?;
        let mut script = contained(&[], MAKE_LAYER);
        script.env("APT_CONFIG", self.lists.apt_configuration());
        script.arg(self.folder.join(WORKSHOP)).arg(draft.path().join("files")).arg(self.folder.join("base"));
        let what = format!("installs {} beside Debian {}", packages.join(" "), self.suite.name());
        follow(&what, script.args(packages))?;
        Ok(draft)
    }

    fn make(&self) -> Result<()> {
        fs::create_dir_all(self.folder.join(WORKSHOP))?;
        let draft = self.draft()?;
        let workshop = self.folder.join(WORKSHOP);
        let debootstrap = self.lists.debootstrap(&workshop.join("root"))?;
        let mut script = contained(&[], MAKE_BASE);
        script.arg(&workshop).arg(draft.path().join("base")).args([ACCOUNT, PASSWORD]);
        script.arg(debootstrap.get_program()).args(debootstrap.get_args());
        for (name, value) in debootstrap.get_envs() {
            script.env(name, value.unwrap_or_default());
        }
        follow(&format!("makes a file root of Debian {} by debootstrap", self.suite.name()), &mut script)?;
        fs::rename(draft.path().join("base"), self.folder.join("base"))?;
        fs::write(self.folder.join("made-as"), MADE_AS)?;
        Ok(())
    }

    /// A folder that counts for nothing until it gets another name.
    fn draft(&self) -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix(DRAFT).tempdir_in(&self.folder)?)
    }

    /// What was killed before.
    fn remove_drafts(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(DRAFT) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        if self.folder.exists() {
            // First what says that all is there.
            let _ = fs::remove_file(self.folder.join("made-as"));
            fs::remove_dir_all(&self.folder)
                .with_context(|| format!("cannot remove {}", self.folder.display()))?;
        }
        Ok(())
    }
}

/// A shell script in namespaces of its own, of mounts, processes and these. All of it ends with this process, however
/// that ends. Its arguments are to be added.
pub fn contained(namespaces: &[&str], script: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
    command.args(namespaces).args(["sh", "-c", script, "sh"]);
    command.env("ROOM", ROOM).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

/// Runs what takes long, and shows on a terminal what it says last; all of that where it fails.
fn follow(what: &str, command: &mut Command) -> Result<()> {
    use std::io::{IsTerminal as _, Write as _};
    /// How often an interruption is looked for.
    const LOOK: Duration = Duration::from_millis(200);
    /// Of what it says, so much fits into a line of a terminal, in characters.
    const WIDTH: usize = 70;
    let interrupted = interruption()?;
    let began = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    eprintln!("{what}");
    let mut process = Process::start(what, command)?;
    let lines = process.take_lines();
    let mut said = Vec::new();
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => {
                if terminal {
                    let text: String = line.text.chars().take(WIDTH).collect();
                    eprint!("\r\x1b[K  {:3.0} s  {text}", began.elapsed().as_secs_f64());
                    let _ = std::io::stderr().flush();
                }
                said.push(line.text);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if interrupted.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
    }
    let status = process.wait_for_end(LOOK * 50)?;
    if terminal {
        eprint!("\r\x1b[K");
    }
    if !status.success() {
        let last = said.len().saturating_sub(30);
        bail!("{what}: {status}; it said\n  {}", said[last..].join("\n  "));
    }
    eprintln!("  done after {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Where a folder of a file root lies that is mounted for a process.
pub fn seen_by(process: u32, path: &str) -> PathBuf {
    Path::new("/proc").join(process.to_string()).join("root").join(path.trim_start_matches('/'))
}
