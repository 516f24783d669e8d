//! A host of its own for a sensor: a file root, mounts and processes that the sensor takes for this host's, because
//! the first process there has them. What would harm this host is done to it, such as replacing its libraries.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::container::{Root, libraries};
use crate::process::{Process, output};
use crate::stage::{Stage, is_ready};

const START: Duration = Duration::from_secs(30);
const PYTHON: &str = "/usr/bin/python3";
const SENSOR: &str = "/usr/bin/atalaya-sensor";
/// Where Debian keeps libraries, below the root.
const LIBRARIES: &str =
    if cfg!(target_arch = "aarch64") { "usr/lib/aarch64-linux-gnu" } else { "usr/lib/x86_64-linux-gnu" };
/// The library that a failed login is told to, and the link that leads to it.
const LIBRARY: &str = "libaudit.so.1.0.0";
const LINK: &str = "libaudit.so.1";

/// The host. Its processes end with it.
#[derive(Debug)]
pub struct OwnHost {
    root: Root,
    /// Its first process, in this host's count.
    first: u32,
    /// Keeps the host's first process; the host ends with it.
    _unshare: Process,
}

/// A program on it that has libaudit loaded and tells it of failed logins, as sshd does.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    /// Its process number on that host.
    id: u32,
}

// === impl OwnHost ===

impl OwnHost {
    /// Makes one for the stage's sensor. Needs root, and Debian's python3.
    pub fn new(stage: &Stage) -> Result<Self> {
        let root = Root::empty()?;
        let at = |path: &str| root.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(at(LIBRARIES))?;
        std::fs::create_dir_all(at("usr/lib64"))?;
        for link in ["lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), at(link))?;
        }
        let about = "import sysconfig, _ctypes; print(sysconfig.get_path('stdlib'), _ctypes.__file__)";
        let about = output(Command::new(PYTHON).args(["-c", about]))?;
        let (modules, ctypes) = about.trim().split_once(' ').context("python3 says nothing")?;
        let program = stage.sensor().get_program().to_owned();
        let program = Path::new(&program);
        let mut files = BTreeSet::from([PathBuf::from(PYTHON)]);
        let library = Path::new("/").join(LIBRARIES).join(LINK);
        for file in [Path::new(PYTHON), Path::new(ctypes), &library, program] {
            files.extend(libraries(file)?);
        }
        for file in files {
            root.copy(&file)?;
        }
        std::fs::copy(library, at(LIBRARIES).join(LIBRARY))?;
        std::os::unix::fs::symlink(LIBRARY, at(LIBRARIES).join(LINK))?;
        for folder in ["proc", "sys", "dev", "etc", "tmp", "var/lib/atalaya-sensor", modules] {
            std::fs::create_dir_all(at(folder))?;
        }
        std::fs::write(at("dev/null"), "")?;
        std::fs::write(at("dev/urandom"), "")?;
        std::fs::write(at(SENSOR), "")?;
        let script = format!(
            "cd {root} && mount --rbind /sys sys && mount -t proc proc proc && mount --bind {modules} .{modules} && \
             mount --bind /dev/null dev/null && mount --bind /dev/urandom dev/urandom && \
             mount --bind {program} .{SENSOR} && exec chroot . {PYTHON} -c 'print(\"up\", flush=True); input()'",
            root = root.path().display(),
            program = program.display(),
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
        let mut unshare = Process::start("a host of its own", &mut unshare)?;
        unshare.wait_for("start", START, |line| line == "up")?;
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let first = std::fs::read_to_string(&children)?.trim().parse().context(children)?;
        Ok(Self { root, first, _unshare: unshare })
    }

    /// A command of a program of it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--pid", "--root", "--wd=/", program]);
        command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env_remove("JOURNAL_STREAM");
        command
    }

    /// A command of its sensor.
    pub fn sensor(&self) -> Command {
        let mut command = self.command(SENSOR);
        command.args(["--config", "/etc/sensor.toml"]);
        command
    }

    /// Starts a sensor on that host, with these settings besides its `state`.
    pub fn start_sensor(&self, config: &str) -> Result<Process> {
        let config = format!("state = \"/var/lib/atalaya-sensor\"\n{config}");
        let file = self.root.path().join("etc/sensor.toml");
        std::fs::write(&file, config)?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let mut command = self.sensor();
        let mut sensor =
            Process::start("the sensor", command.args(["--log", "info", "--log-format", "json", "run"]))?;
        sensor.wait_for("become ready", START, is_ready)?;
        Ok(sensor)
    }

    /// Starts a daemon, which loads the library that the name leads to now.
    pub fn start_daemon(&self) -> Result<Daemon> {
        self.start_daemon_on(LINK)
    }

    /// Starts a daemon, which loads that file, by its name in the folder of libraries.
    pub fn start_daemon_on(&self, library: &str) -> Result<Daemon> {
        let script = "import ctypes, os, sys\n\
            audit, c = ctypes.CDLL(sys.argv[1]), ctypes.CDLL(None)\n\
            print(os.getpid(), flush=True)\n\
            while line := input():\n \
            how, address = line.split()\n \
            if how == 'login': audit.audit_log_acct_message(-1, 1100, None, b'x', b'x', -1, address.encode(), None, b'x', 0)\n \
            else: c.syslog(38, b'Failed password for root from %s port 22 ssh2', address.encode())\n \
            print('told', flush=True)\n";
        let library = format!("/{LIBRARIES}/{library}");
        let mut process = Process::start("a daemon", self.command(PYTHON).args(["-c", script, &library]))?;
        let id = process.wait_for("start", START, |line| line.parse::<u32>().is_ok())?.text.parse()?;
        Ok(Daemon { process, id })
    }

    /// Makes another release of the library, whose function lies elsewhere in its file; where that is.
    pub fn build_library(&self) -> Result<PathBuf> {
        let source = self.root.path().join("tmp/audit.c");
        std::fs::write(
            &source,
            "char other(int n) { char room[4096] = {0}; return room[n] + room[n + 7]; }\n\
             int audit_log_acct_message(void) { return other(1); }\n",
        )?;
        let built = self.root.path().join("tmp/built.so");
        let mut compiler = Command::new("cc");
        output(
            compiler.args(["-shared", "-fPIC", "-Wl,-soname,libaudit.so.1", "-o"]).arg(&built).arg(&source),
        )?;
        Ok(built)
    }

    /// Where its file of the library is, in this host's files.
    pub fn library(&self) -> PathBuf {
        self.root.path().join(LIBRARIES).join(LIBRARY)
    }

    /// The link that leads to it.
    pub fn link(&self) -> PathBuf {
        self.root.path().join(LIBRARIES).join(LINK)
    }

    /// Where its libc is.
    pub fn libc(&self) -> PathBuf {
        self.root.path().join(LIBRARIES).join("libc.so.6")
    }

    /// Replaces a file by another with the same content, as dpkg does: made beside it, the old one kept under a
    /// third name until the new one has its name.
    pub fn upgrade(file: &Path) -> Result<()> {
        let beside = |end: &str| {
            let mut name = file.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        std::fs::copy(file, beside(".dpkg-new"))?;
        std::fs::hard_link(file, beside(".dpkg-tmp"))?;
        std::fs::rename(beside(".dpkg-new"), file)?;
        std::fs::remove_file(beside(".dpkg-tmp"))?;
        Ok(())
    }
}

// === impl Daemon ===

impl Daemon {
    /// Its number on that host.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Tells libaudit of a failed login from an address.
    pub fn fail_login(&mut self, from: IpAddr) -> Result<()> {
        self.tell(&format!("login {from}"))
    }

    /// Tells syslog of one.
    pub fn log_failure(&mut self, from: IpAddr) -> Result<()> {
        self.tell(&format!("syslog {from}"))
    }

    fn tell(&mut self, what: &str) -> Result<()> {
        self.process.tell(what)?;
        self.process.wait_for("tell of it", START, |line| line == "told").map(drop)
    }

    /// Lets it end by itself; an error where it fails.
    pub fn stop(mut self) -> Result<()> {
        self.process.tell("")?;
        let status = self.process.wait_for_end(START)?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}
