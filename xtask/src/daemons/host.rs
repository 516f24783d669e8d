//! A host for one daemon, and a network of clients beside it: a file root in memory over what was installed, and
//! namespaces of mounts, processes, the network and the host's name. The sensor there takes it for its own host. All of
//! it is gone when its processes are, whatever ends them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::process::{Process, output, output_with_input};
use tempfile::TempDir;

use crate::daemons::image::{Layers, PASSWORD, contained, seen_by};
use crate::daemons::recipe::{Family, Port};
use crate::run::interruption;

const START: Duration = Duration::from_secs(30);
/// Where the sensor is on that host.
const SENSOR: &str = "/usr/bin/atalaya-sensor";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What the daemon knows its clients' addresses by.
const NAMES: &str = "clients.example";

/// Its first process. `$1` workshop, `$2` the layers of the file root, `$3` the sensor's program.
const BOOT: &str = r#"
set -e
mount -t proc proc /proc
mount -t tmpfs -o "$ROOM" none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" none "$1/root"
cd "$1/root"
hostname daemons
echo daemons >etc/hostname
mount --rbind /sys sys
mount -t proc proc proc
mount -t tmpfs -o mode=755 none dev
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    numbers=${device#*:}
    mknod -m 666 "dev/${device%%:*}" c "${numbers%:*}" "${numbers#*:}"
done
mkdir dev/pts dev/shm dev/net
mknod -m 666 dev/net/tun c 10 200
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=755 none run
mkdir -p run/lock var/lib/atalaya-sensor
chmod 1777 run/lock dev/shm
touch usr/bin/atalaya-sensor
mount --bind "$3" usr/bin/atalaya-sensor
exec chroot "$1/root" sh -c 'echo up; read -r _'
"#;

/// The host and its neighbour. Dropping it ends both.
#[derive(Debug)]
pub struct DaemonHost {
    /// Its first process, as this machine numbers it.
    first: u32,
    /// Keep the two alive.
    _host: Process,
    clients: Process,
    /// What clients need: keys, and programs that answer for a password.
    work: TempDir,
    net: u16,
}

// === impl DaemonHost ===

impl DaemonHost {
    /// Makes it, for so many clients. Needs root.
    pub fn new(layers: &Layers, sensor: &Path, clients: u8, names: bool) -> Result<Self> {
        let mut boot = contained(&["--net", "--uts", "--ipc"], BOOT);
        boot.arg(&layers.workshop).arg(&layers.lower).arg(sensor);
        let mut host = Process::start("the daemon's host", &mut boot)?;
        host.wait_for("start", START, |line| line == "up").context("needs root, and overlayfs")?;
        let children = format!("/proc/{0}/task/{0}/children", host.id());
        let first = fs::read_to_string(&children)?.trim().parse().context(children)?;
        let mut neighbour = Command::new("setpriv");
        neighbour.args(["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "echo up; read -r _"]);
        let mut neighbour = Process::start("the clients' network", &mut neighbour)?;
        neighbour.wait_for("start", START, |line| line == "up")?;
        // Others may run the same at the same time, and all sensors of a machine see all.
        let net = std::process::id() as u16;
        let host = Self { first, _host: host, clients: neighbour, work: tempfile::tempdir()?, net };
        host.connect(clients, names)?;
        host.equip()?;
        Ok(host)
    }

    /// A client's address.
    pub fn client(&self, number: u8, family: Family) -> IpAddr {
        match family {
            // A network for each, so that the kernel chooses the address for clients that cannot.
            Family::V4 => self.v4(number, 2),
            Family::V6 => self.v6(number, 0x66),
        }
    }

    /// The daemon's address for a client.
    pub fn daemon(&self, number: u8, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4(number, 1),
            Family::V6 => self.v6(number, 1),
        }
    }

    /// What clients need.
    pub fn work(&self) -> &Path {
        self.work.path()
    }

    /// Writes a file on the host.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = seen_by(self.first, path);
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// A command of the host. It is in no process group of this machine's: smbd ends its whole group when it ends.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.enter(&["--net"]);
        command.args(["setsid", program]);
        command
    }

    /// A command of the sensor there.
    pub fn sensor(&self) -> Command {
        self.command(SENSOR)
    }

    /// A command in the clients' network, of this machine's programs or of the host's.
    pub fn client_command(&self, of_host: bool, program: &str) -> Command {
        let net = format!("--net=/proc/{}/ns/net", self.clients.id());
        let mut command = if of_host { self.enter(&[&net]) } else { Command::new("nsenter") };
        if !of_host {
            command.arg(&net);
        }
        command.arg(program);
        command
    }

    /// Waits until something listens there.
    pub fn wait_for_port(&self, port: Port, daemon: &mut Process, within: Duration) -> Result<()> {
        /// How often it is looked for: there is no event for it.
        const LOOK: Duration = Duration::from_millis(50);
        let interrupted = interruption()?;
        // Nothing is sent: this is a way to wait.
        let (_sender, never) = mpsc::channel::<()>();
        let (number, protocol, state) = match port {
            Port::Tcp(number) => (number, "tcp", "0A"),
            Port::Udp(number) => (number, "udp", "07"),
        };
        let until = Instant::now() + within;
        loop {
            // proc_net(5): the local address and port, the remote, the state.
            let mut table = self.command("cat");
            table.args([format!("/proc/net/{protocol}"), format!("/proc/net/{protocol}6")]);
            let local = format!(":{number:04X}");
            let listens = output(&mut table)?.lines().any(|line| {
                let mut words = line.split_whitespace().skip(1);
                let (mine, _, now) = (words.next(), words.next(), words.next());
                mine.is_some_and(|mine| mine.ends_with(&local)) && now == Some(state)
            });
            if listens {
                return Ok(());
            }
            if interrupted.load(Ordering::SeqCst) {
                bail!("interrupted");
            }
            if daemon.has_ended()? {
                bail!("it ended and said\n{}", daemon.said());
            }
            if Instant::now() > until {
                bail!("nothing listens on {protocol} port {number}; it said\n{}", daemon.said());
            }
            let _ = never.recv_timeout(LOOK);
        }
    }

    /// The two interfaces, and an address each for every client.
    fn connect(&self, clients: u8, with_names: bool) -> Result<()> {
        let inside = self.clients.id();
        let host = || {
            let mut ip = Command::new("nsenter");
            ip.args(["--target", &self.first.to_string(), "--net", "ip"]);
            ip
        };
        let netns = inside.to_string();
        let link = ["link", "add", "at0", "type", "veth", "peer", "name", "at1", "netns", &netns];
        output(host().args(link)).context("needs iproute2")?;
        let (mut ours, mut theirs) = (String::new(), String::new());
        let mut names = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for batch in [&mut ours, &mut theirs] {
            batch.push_str("link set lo up\n");
        }
        for number in 0..clients {
            let (v4, v6) = (self.client(number, Family::V4), self.client(number, Family::V6));
            theirs.push_str(&format!("address add {v4}/30 dev at1\naddress add {v6}/64 dev at1 nodad\n"));
            let [to_v4, to_v6] = Family::ALL.map(|family| self.daemon(number, family));
            ours.push_str(&format!("address add {to_v4}/30 dev at0\naddress add {to_v6}/64 dev at0 nodad\n"));
            if !with_names {
                continue;
            }
            names.push_str(&format!("{v4} v4-{number}.{NAMES}\n{v6} v6-{number}.{NAMES}\n"));
        }
        ours.push_str("link set at0 up\n");
        theirs.push_str("link set at1 up\n");
        output_with_input(host().args(["-batch", "-"]), &ours)?;
        let mut ip = Command::new("nsenter");
        ip.arg(format!("--net=/proc/{inside}/ns/net")).args(["ip", "-batch", "-"]);
        output_with_input(&mut ip, &theirs)?;
        self.write("/etc/hosts", &format!("{names}127.0.1.1 daemons.example daemons\n"))
    }

    /// Keys, and programs that ssh asks for a password.
    fn equip(&self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        for key in ["good", "bad"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(self.work().join(key));
            output(&mut keygen)?;
        }
        self.write("/etc/good.pub", &fs::read_to_string(self.work().join("good.pub"))?)?;
        for (name, password) in [("wrong", "wrong-password"), ("right", PASSWORD)] {
            let file = self.work().join(name);
            fs::write(&file, format!("#!/bin/sh\necho {password}\n"))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn enter(&self, more: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string()]);
        command.args(["--mount", "--pid", "--uts", "--ipc", "--root", "--wd"]).args(more);
        command.env_clear().envs([("PATH", PATH), ("HOME", "/root"), ("LC_ALL", "C"), ("TERM", "dumb")]);
        command
    }

    fn v4(&self, number: u8, last: u8) -> IpAddr {
        Ipv4Addr::new(10, 77, self.net as u8, number * 4 + last).into()
    }

    fn v6(&self, number: u8, last: u16) -> IpAddr {
        Ipv6Addr::new(0xfd77, self.net, 0, u16::from(number), 0, 0, 0, last).into()
    }
}

/// The sensor's program, built for this machine.
pub fn sensor_program() -> Result<PathBuf> {
    let program = crate::run::programs("debug").join("atalaya-sensor");
    program.canonicalize().with_context(|| format!("{} is not built", program.display()))
}
