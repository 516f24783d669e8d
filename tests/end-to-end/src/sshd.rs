//! A private sshd, Debian's own program with PAM, and clients that fail and succeed at it. It has
//! its own configuration, keys and port, and ends with its owner.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::process::{Line, Process, output};

/// The account that clients try with a wrong password. It exists, and cannot log in with any.
const ACCOUNT: &str = "root";
const START: Duration = Duration::from_secs(20);

/// An sshd with keys and settings of its own; it ends when this is dropped.
#[derive(Debug)]
pub struct Sshd {
    process: Process,
    folder: TempDir,
    port: u16,
    hosts: Vec<IpAddr>,
}

// === impl Sshd ===

impl Sshd {
    /// Starts an sshd that listens towards a namespace. Needs root and Debian's openssh-server.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        Self::start_from(namespace, Path::new("/"))
    }

    /// As [`Self::start`], with the files of Debian's openssh-server below a folder: unpacked there, not installed.
    pub fn start_from(namespace: &Namespace, unpacked: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        for (key, of) in [
            ("host", "the server"),
            ("good", "a client"),
            ("bad1", "a client"),
            ("bad2", "a client"),
            ("bad3", "a client"),
        ] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path(key));
            output(&mut keygen).with_context(|| format!("cannot make a key of {of}"))?;
        }
        std::fs::copy(path("good.pub"), path("authorized"))?;
        std::fs::write(path("askpass"), "#!/bin/sh\necho wrong-password\n")?;
        std::fs::set_permissions(path("askpass"), std::fs::Permissions::from_mode(0o700))?;
        // Privilege separation wants this folder, which Debian's service makes at boot.
        std::fs::create_dir_all("/run/sshd").context("cannot make /run/sshd: that needs root")?;
        let hosts = namespace.hosts().to_vec();
        let first = *hosts.first().context("the namespace has no address")?;
        let port = TcpListener::bind((first, 0))?.local_addr()?.port();
        let mut config = format!(
            "HostKey {}\nPidFile none\nUsePAM yes\nPasswordAuthentication yes\nKbdInteractiveAuthentication yes\n\
             PubkeyAuthentication yes\nPermitRootLogin yes\nAuthorizedKeysFile {}\nStrictModes no\nMaxAuthTries 20\n\
             MaxStartups 100\nUseDNS no\nLogLevel VERBOSE\nPrintMotd no\n",
            path("host").display(),
            path("authorized").display()
        );
        for host in &hosts {
            config.push_str(&format!("ListenAddress {}\n", SocketAddr::new(*host, port)));
        }
        if unpacked != Path::new("/") {
            // From 9.8 and from 10.0 on sshd runs these, and looks for them where they would be installed.
            for (option, program) in [("SshdSessionPath", "sshd-session"), ("SshdAuthPath", "sshd-auth")] {
                let program = unpacked.join("usr/lib/openssh").join(program);
                if program.exists() {
                    config.push_str(&format!("{option} {}\n", program.display()));
                }
            }
        }
        std::fs::write(path("sshd_config"), config)?;
        let mut sshd = command(&unpacked.join("usr/sbin/sshd"), &path("passwd"))?;
        sshd.arg("-D").arg("-e").arg("-f").arg(path("sshd_config"));
        let mut process = Process::start("sshd", &mut sshd).context("is openssh-server installed?")?;
        for _ in &hosts {
            process.wait_for("listen", START, |line| line.contains("Server listening"))?;
        }
        Ok(Self { process, folder, port, hosts })
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What sshd logs from now on, for someone else to read.
    pub fn take_log(&mut self) -> Receiver<Line> {
        self.process.take_lines()
    }

    /// What sshd logged since the last call, up to a line that fits.
    pub fn log_until(&mut self, within: Duration, is_last: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        self.process.wait_for("log what it saw", within, |line| {
            lines.push(line.to_owned());
            is_last(line)
        })?;
        Ok(lines)
    }

    /// A client that sends so many wrong passwords in one connection, not waited for.
    pub fn spawn_wrong_passwords(&self, namespace: &Namespace, from: IpAddr, count: u32) -> Result<Child> {
        self.spawn(
            namespace,
            from,
            ACCOUNT,
            &["-o", &format!("NumberOfPasswordPrompts={count}"), "-o", "PreferredAuthentications=password"],
        )
    }

    /// A client that gives so many wrong answers in one connection, keyboard-interactive, not waited for.
    pub fn spawn_wrong_answers(&self, namespace: &Namespace, from: IpAddr, count: u32) -> Result<Child> {
        let prompts = format!("NumberOfPasswordPrompts={count}");
        let options = ["-o", &prompts, "-o", "PreferredAuthentications=keyboard-interactive"];
        self.spawn(namespace, from, ACCOUNT, &options)
    }

    /// A client that sends one wrong password for an account that does not exist.
    pub fn spawn_unknown_user(&self, namespace: &Namespace, from: IpAddr) -> Result<Child> {
        self.spawn(
            namespace,
            from,
            "nobody-of-this-name",
            &["-o", "NumberOfPasswordPrompts=1", "-o", "PreferredAuthentications=password"],
        )
    }

    /// A client that offers so many keys (at most three) that are not the right one.
    pub fn spawn_wrong_keys(&self, namespace: &Namespace, from: IpAddr, count: usize) -> Result<Child> {
        let keys: Vec<String> = (1..=count)
            .map(|number| format!("IdentityFile={}", self.key(&format!("bad{number}")).display()))
            .collect();
        let mut options = vec!["-o", "PreferredAuthentications=publickey", "-o", "IdentitiesOnly=yes"];
        for key in &keys {
            options.extend(["-o", key]);
        }
        self.spawn(namespace, from, ACCOUNT, &options)
    }

    /// A client that logs in with the right key, after so many wrong ones.
    pub fn log_in(&self, namespace: &Namespace, from: IpAddr, wrong_first: usize) -> Result<()> {
        let mut keys: Vec<String> = (1..=wrong_first)
            .map(|number| format!("IdentityFile={}", self.key(&format!("bad{number}")).display()))
            .collect();
        keys.push(format!("IdentityFile={}", self.key("good").display()));
        let mut options = vec!["-o", "PreferredAuthentications=publickey", "-o", "IdentitiesOnly=yes"];
        for key in &keys {
            options.extend(["-o", key]);
        }
        let mut child = self.spawn(namespace, from, ACCOUNT, &options)?;
        let status = child.wait()?;
        if !status.success() {
            bail!("the right key was refused ({status})");
        }
        Ok(())
    }

    /// Ends a client and returns when it ended by itself.
    pub fn finish(mut client: Child, within: Duration) -> Result<Instant> {
        let until = Instant::now() + within;
        loop {
            if client.try_wait()?.is_some() {
                return Ok(Instant::now());
            }
            if Instant::now() > until {
                let _ = client.kill();
                let _ = client.wait();
                bail!("the ssh client did not end within {within:?}");
            }
            std::thread::yield_now();
        }
    }

    fn spawn(&self, namespace: &Namespace, from: IpAddr, account: &str, options: &[&str]) -> Result<Child> {
        let host = namespace.host_for(from)?;
        if !self.hosts.contains(&host) {
            bail!("the sshd does not listen on {host}");
        }
        let mut client = namespace.command("ssh");
        client.args(["-F", "none", "-b", &from.to_string()]);
        client.args(["-p", &self.port.to_string()]);
        client.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        client.args(["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20"]);
        client.args(options).arg(format!("{account}@{host}")).arg("true");
        // No agent of whoever runs this offers keys of its own.
        client.env_remove("SSH_AUTH_SOCK").env("HOME", self.folder.path());
        // Asked for a password, ssh runs this, as often as it asks.
        client.env("SSH_ASKPASS", self.key("askpass")).env("SSH_ASKPASS_REQUIRE", "force");
        client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        client.spawn().context("cannot start ssh; is openssh-client installed?")
    }

    fn key(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}

/// A command that runs sshd. Where its installation made no account for the half of it that has no rights, it sees
/// accounts of its own, written to a file, that are this host's and that one.
fn command(sshd: &Path, accounts: &Path) -> Result<Command> {
    let known = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    if known.lines().any(|account| account.starts_with("sshd:")) {
        return Ok(Command::new(sshd));
    }
    std::fs::write(accounts, format!("{known}sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"))?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/passwd && exec \"$@\""])
        .arg(accounts)
        .arg(sshd);
    Ok(command)
}
