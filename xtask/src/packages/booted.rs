//! A Debian that runs with its own systemd, in namespaces of this machine: what an administrator's host is to packages. It has
//! a network of its own, with this machine's programs at the other end, and may change nothing of the machine's kernel.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, output};
use tempfile::TempDir;

use crate::daemons::image::{Layers, contained};

/// How long it may take to start, and to stop.
const START: Duration = Duration::from_secs(90);

/// In namespaces of mounts and processes: a cgroup for all that runs there, so that its systemd manages that and no other.
/// `$1` workshop, `$2` lower folders, `$3` what is handed in, `$4` the cgroup's name, `$5` the script that goes on.
const OUTER: &str = r#"
set -e
mount -t tmpfs -o "$ROOM" none "$1"
mkdir "$1/cgroup" "$1/upper" "$1/work" "$1/root"
mount -t cgroup2 none "$1/cgroup"
mkdir "$1/cgroup/$4"
echo $$ >"$1/cgroup/$4/cgroup.procs"
umount "$1/cgroup"
exec unshare --cgroup sh -c "$5" sh "$@"
"#;

/// The file root, and its own systemd. The kernel's settings and devices are the machine's: they can be looked at only.
const INNER: &str = r#"
set -e
cd "$1"
mount -t overlay -o "lowerdir=$2,upperdir=upper,workdir=work" none root
mkdir root/run/handed-in 2>/dev/null || true
cd root
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tracefs tracefs sys/kernel/tracing
mount -t tmpfs -o mode=755 none dev
for device in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"
done
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 none run
mkdir run/handed-in before
mount --bind "$3" run/handed-in
rm -f usr/sbin/policy-rc.d
for unit in systemd-modules-load systemd-sysctl; do
    ln -s /dev/null "etc/systemd/system/$unit.service"
done
: >etc/machine-id
: >etc/resolv.conf
echo web-1 >etc/hostname
ip link set lo up
pivot_root . before
umount -l before
rmdir before
mount --make-rshared /
exec env -i container=atalaya PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --show-status=false
"#;

/// Removes the cgroups of one that ended. `$1` a folder to mount at, `$2` the cgroup's name.
const TIDY: &str = r#"
mount -t cgroup2 none "$1" || exit 0
cd "$1"
# What was killed with its namespace ends a little later, and its cgroups are taken until then.
for try in $(seq 100); do
    find "$2" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d "$2" ] || break
    sleep 0.1
done
"#;

/// The host. Dropping it ends all that runs there.
pub struct BootedDebian {
    /// Its systemd, as this machine numbers it.
    first: u32,
    /// Ends all when it ends.
    process: Option<Process>,
    cgroup: String,
    handed_in: TempDir,
}

// === impl BootedDebian ===

impl BootedDebian {
    /// Starts it, and waits until its systemd has started all. Needs root.
    pub fn start(layers: &Layers) -> Result<Self> {
        let handed_in = tempfile::tempdir()?;
        let cgroup = format!("atalaya-packages-{}", std::process::id());
        let mut boot = contained(&["--net", "--uts", "--ipc"], OUTER);
        boot.arg(&layers.workshop).arg(&layers.lower).arg(handed_in.path()).args([&cgroup, INNER]);
        let mut process = Process::start("the packages' host", &mut boot)?;
        let children = format!("/proc/{0}/task/{0}/children", process.id());
        let first = || -> Option<u32> {
            let first: u32 = fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{first}/comm")).ok()?;
            (name.trim() == "systemd").then_some(first)
        };
        let until = std::time::Instant::now() + START;
        let first = loop {
            if let Some(first) = first() {
                break first;
            }
            ensure!(
                !process.has_ended()? && std::time::Instant::now() < until,
                "no systemd starts; this needs root, overlayfs and cgroup2: {}",
                process.said()
            );
            std::thread::yield_now();
        };
        let host = Self { first, process: Some(process), cgroup, handed_in };
        let state = || host.command(&["systemctl", "is-system-running", "--wait"]).output();
        // Its bus comes a little later than itself.
        let mut said = String::new();
        while !["running", "degraded"].contains(&said.trim()) {
            ensure!(std::time::Instant::now() < until, "systemd does not end its start: {said}");
            said = String::from_utf8_lossy(&state()?.stdout).into_owned();
        }
        ensure!(
            said.trim() == "running",
            "systemd is {}: {}",
            said.trim(),
            host.run("systemctl --failed --no-pager")?
        );
        Ok(host)
    }

    /// A folder of this machine that the host sees as `/run/handed-in`.
    pub fn handed_in(&self) -> &Path {
        self.handed_in.path()
    }

    /// A command in the host.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.enter(&["--all", "--root", "--wd"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"]);
        command.args(["DEBIAN_FRONTEND=noninteractive"]).args(words);
        command
    }

    /// What a line of shell prints in the host; an error, with what it printed, where it fails.
    pub fn run(&self, line: &str) -> Result<String> {
        let done = self.command(&["sh", "-c", &format!("{{ {line}\n}} 2>&1")]).output()?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure!(done.status.success(), "`{line}` failed ({}):\n{said}", done.status);
        Ok(said)
    }

    /// A command of this machine's that has the host's network and nothing else of it.
    pub fn beside(&self, program: &Path) -> Command {
        let mut command = self.enter(&["--net"]);
        command.arg(program);
        command
    }

    /// Gives it a link to a network of its own; the process that holds that.
    pub fn connect(&self, own: &str, other: &str) -> Result<Neighbour> {
        let mut held = Command::new("setpriv");
        held.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "sh",
            "-c",
            "ip link set lo up; echo up; read -r _",
        ]);
        let mut held = Process::start("the clients' network", &mut held)?;
        held.wait_for("start", START, |line| line == "up")?;
        let host = self.first.to_string();
        let neighbour = held.id().to_string();
        let link = format!(
            "ip link add atalaya0 netns {host} type veth peer name atalaya1 netns {neighbour}
             nsenter -n -t {host} ip addr add {own}/24 dev atalaya0
             nsenter -n -t {host} ip link set atalaya0 up
             nsenter -n -t {neighbour} ip addr add {other}/24 dev atalaya1
             nsenter -n -t {neighbour} ip link set atalaya1 up"
        );
        output(Command::new("sh").args(["-ec", &link])).context("cannot connect the host")?;
        Ok(Neighbour { held })
    }

    fn enter(&self, namespaces: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string()]).args(namespaces).arg("--");
        command
    }
}

impl Drop for BootedDebian {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            let _ = process.kill();
        }
        let _ = contained(&[], TIDY).arg(self.handed_in.path()).arg(&self.cgroup).output();
    }
}

/// A network beside a host, from which clients come.
pub struct Neighbour {
    held: Process,
}

// === impl Neighbour ===

impl Neighbour {
    /// A command of this machine's that has this network.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.held.id().to_string(), program]);
        command
    }
}
