//! A container without an image: a file root of its own with copies of sshd, its libraries and PAM's modules, in
//! its own mount, process and network namespaces.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::process::{Process, output};

const START: Duration = Duration::from_secs(20);
/// The port of its sshd.
const PORT: u16 = 2222;
/// PAM's modules that it has.
const MODULES: [&str; 2] = ["pam_unix.so", "pam_permit.so"];

/// A file root, mostly on a file system of its own, which is gone when this is dropped.
#[derive(Debug)]
pub struct Root {
    folder: TempDir,
    /// What is mounted there is on top of this one.
    _upper: Option<Box<Root>>,
}

/// A running container, whose only program is sshd.
#[derive(Debug)]
pub struct Container {
    sshd: Process,
    port: u16,
}

/// A client that sends one wrong password at once, and another when it is told to.
#[derive(Debug)]
pub struct SlowClient {
    ssh: Process,
    folder: TempDir,
}

// === impl Root ===

impl Root {
    /// Makes one that holds sshd and what it needs. Needs root.
    pub fn new() -> Result<Self> {
        Self::empty()?.with_sshd()
    }

    /// Makes such a one that is no file system of its own, but a folder of this host's.
    pub fn in_folder() -> Result<Self> {
        Self { folder: tempfile::tempdir()?, _upper: None }.with_sshd()
    }

    /// Makes one whose files are those of another, until they are changed: an overlay, as containers have that are
    /// made from the same image.
    pub fn of_image(image: &Self) -> Result<Self> {
        let (folder, upper) = (tempfile::tempdir()?, Self::empty()?);
        let [changed, work] = ["changed", "work"].map(|name| upper.path().join(name));
        std::fs::create_dir(&changed)?;
        std::fs::create_dir(&work)?;
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            image.path().display(),
            changed.display(),
            work.display()
        );
        let mut mount = Command::new("mount");
        output(mount.args(["-t", "overlay", "-o", &options, "none"]).arg(folder.path()))?;
        Ok(Self { folder, _upper: Some(Box::new(upper)) })
    }

    fn with_sshd(self) -> Result<Self> {
        let root = self;
        let of_modules = ["/lib/x86_64-linux-gnu/security", "/lib/aarch64-linux-gnu/security"];
        let modules = of_modules.iter().map(Path::new).find(|folder| folder.exists());
        let modules = modules.context("PAM's modules are not where Debian has them")?;
        let mut files = BTreeSet::from([PathBuf::from("/usr/sbin/sshd")]);
        files.extend(MODULES.iter().map(|name| modules.join(name)));
        for file in files.clone() {
            files.extend(libraries(&file)?);
        }
        for file in files {
            root.copy(&file)?;
        }
        for folder in ["etc/pam.d", "etc/ssh", "run/sshd", "dev", "proc", "root", "tmp"] {
            std::fs::create_dir_all(root.path().join(folder))?;
        }
        for (name, text) in [
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n"),
            ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
            ("etc/shadow", "root:!:19000:0:99999:7:::\nsshd:!:19000::::::\n"),
            ("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"),
            (
                "etc/pam.d/sshd",
                "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n",
            ),
            (
                "etc/ssh/sshd_config",
                "Port 2222\nHostKey /etc/ssh/host\nPidFile none\nUsePAM yes\nPasswordAuthentication yes\n\
                 KbdInteractiveAuthentication yes\nPermitRootLogin yes\nMaxAuthTries 20\nUseDNS no\n",
            ),
        ] {
            std::fs::write(root.path().join(name), text)?;
        }
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(root.path().join("etc/ssh/host"));
        output(&mut keygen)?;
        for (name, minor) in [("null", "3"), ("urandom", "9")] {
            let device = root.path().join("dev").join(name);
            output(Command::new("mknod").args(["-m", "666"]).arg(device).args(["c", "1", minor]))?;
        }
        Ok(root)
    }

    /// Makes one that holds this host's programs and libraries, at another place.
    pub fn of_this_host() -> Result<Self> {
        let root = Self::empty()?;
        std::fs::create_dir(root.path().join("usr"))?;
        for link in ["bin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), root.path().join(link))?;
        }
        output(Command::new("mount").args(["--bind", "/usr"]).arg(root.path().join("usr")))?;
        Ok(root)
    }

    pub(crate) fn empty() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut mount = Command::new("mount");
        output(mount.args(["-t", "tmpfs", "-o", "size=64m", "none"]).arg(folder.path()))
            .context("cannot mount a file system: that needs root")?;
        Ok(Self { folder, _upper: None })
    }

    /// The folder, as this host has it; removed when this is dropped.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where it has a library.
    pub fn library(&self, name: &str) -> Result<PathBuf> {
        let folders =
            ["lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"].map(|folder| self.path().join(folder));
        let files = folders.iter().map(|folder| folder.join(name));
        files.into_iter().find(|file| file.exists()).with_context(|| format!("{name} is not in it"))
    }

    /// A command that runs a program of it, in a mount namespace of its own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--root"]).arg(self.path()).arg(program);
        command
    }

    /// Unmounts its file system, which fails while anything holds a file of it.
    pub fn unmount(&self) -> Result<()> {
        output(Command::new("umount").arg(self.path())).map(drop)
    }

    pub(crate) fn copy(&self, file: &Path) -> Result<()> {
        let to = self.path().join(file.strip_prefix("/")?);
        std::fs::create_dir_all(to.parent().context("a file in no folder")?)?;
        std::fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
        Ok(())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let lazily = |path: PathBuf| {
            let _ = Command::new("umount").arg("--lazy").arg(path).stderr(Stdio::null()).status();
        };
        lazily(self.path().join("usr"));
        lazily(self.path().to_owned());
    }
}

// === impl Container ===

impl Container {
    /// Starts sshd in namespaces of its own, of which the network's is given.
    pub fn start(root: &Root, network: &Namespace) -> Result<Self> {
        let mut command = network.command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--root"]).arg(root.path());
        Self::run(command, PORT)
    }

    /// Starts sshd in a file root of its own, and all else of this host.
    pub fn start_in_root_alone(root: &Root) -> Result<Self> {
        let mut command = Command::new("chroot");
        command.arg(root.path());
        Self::run(command, PORT)
    }

    /// Starts sshd in a file root and a network of its own, and all else of this host. There may be several in one
    /// root, on a port each.
    pub fn start_in_root_and_network(root: &Root, network: &Namespace, port: u16) -> Result<Self> {
        let mut command = network.command_with_mounts("chroot");
        command.arg(root.path());
        Self::run(command, port)
    }

    fn run(mut command: Command, port: u16) -> Result<Self> {
        command.args(["/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/sshd_config", "-p", &port.to_string()]);
        let mut sshd = Process::start("the container's sshd", &mut command)?;
        sshd.wait_for("listen", START, |line| line.contains("Server listening"))?;
        Ok(Self { sshd, port })
    }

    /// Its sshd's process, where that is in no process namespace of its own.
    pub fn id(&self) -> u32 {
        self.sshd.id()
    }

    /// A client of this host that sends so many wrong passwords to an address of the container's; waited for.
    pub fn fail_logins(&self, address: IpAddr, count: u32) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut ssh = self.client(folder.path(), "echo wrong-password", address, count)?;
        let said = ssh.stdin(Stdio::null()).output().context("ssh")?.stderr;
        let said = String::from_utf8_lossy(&said);
        ensure!(said.contains("Permission denied"), "the container's sshd did not refuse: {said}");
        Ok(())
    }

    /// A client of this host that is connected from one wrong password to the next.
    pub fn start_slow_client(&self, address: IpAddr) -> Result<SlowClient> {
        let folder = tempfile::tempdir()?;
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        output(Command::new("mkfifo").arg(&second))?;
        std::fs::write(&first, "wrong-password")?;
        // Asked again, it waits for the second password.
        let script = format!("cat {0} 2>/dev/null && rm {0} || cat {1}", first.display(), second.display());
        let mut ssh = self.client(folder.path(), &script, address, 2)?;
        Ok(SlowClient { ssh: Process::start("ssh", &mut ssh)?, folder })
    }

    fn client(&self, folder: &Path, password: &str, address: IpAddr, count: u32) -> Result<Command> {
        let askpass = folder.join("askpass");
        std::fs::write(&askpass, format!("#!/bin/sh\n{password}\n"))?;
        std::fs::set_permissions(&askpass, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-p", &self.port.to_string(), "-o", "StrictHostKeyChecking=no"]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
        let prompts = format!("NumberOfPasswordPrompts={count}");
        ssh.args(["-o", "PreferredAuthentications=password", "-o", &prompts]);
        ssh.arg(format!("root@{address}")).arg("true").env_remove("SSH_AUTH_SOCK");
        ssh.env("HOME", folder).env("SSH_ASKPASS", &askpass).env("SSH_ASKPASS_REQUIRE", "force");
        Ok(ssh)
    }

    /// Ends it, and all its processes.
    pub fn stop(self) -> Result<()> {
        self.sshd.kill()
    }
}

// === impl SlowClient ===

impl SlowClient {
    /// Sends the second password, and waits for the end.
    pub fn fail_again(mut self) -> Result<()> {
        std::fs::write(self.folder.path().join("second"), "wrong-password")?;
        self.ssh.wait_for("be refused", START, |line| line.contains("Permission denied"))?;
        self.ssh.wait_for_end(START).map(drop)
    }
}

/// The libraries that a program or library loads.
pub(crate) fn libraries(file: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(Command::new("ldd").arg(file))?;
    let words = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}
