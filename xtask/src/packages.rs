//! `cargo xtask packages`: proof that Debian's packages do what docs/install.md says, in a fresh root with its own systemd:
//! its lines are run there, a real failed login is banned at the simulator, an upgrade loses nothing, and a purge leaves
//! nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, output};

use crate::daemons::image::{ACCOUNT, Image};
use crate::package::{self, PROGRAMS};
use crate::run::{announce, cargo, programs, root};
use crate::setup;
use crate::suite::Suite;
use booted::{BootedDebian, Neighbour};

mod booted;

/// What Debian's own hosts have, and a minimal root has not.
const INSTALLED: &[&str] =
    &["systemd-sysv", "dbus", "openssh-server", "openssh-client", "iproute2", "adduser", "curl"];
/// How long a step may take that waits for something.
const PATIENCE: Duration = Duration::from_secs(30);
/// The router's address in docs/install.md, and its password.
const ROUTER: &str = "192.0.2.1";
const ROUTER_PASSWORD: &str = "router-password";
/// The host's address, and those of clients.
const HOST: &str = "198.51.100.1";
const CLIENTS: [&str; 3] = ["198.51.100.7", "198.51.100.8", "198.51.100.9"];
/// What the packages are upgraded to.
const NEXT: &str = "0.1.1-1";

/// Options of `cargo xtask packages`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The release of Debian; may be given more than once. Without it and --all: bookworm
    #[arg(long, value_enum)]
    suite: Vec<Suite>,
    /// Bookworm and trixie
    #[arg(long)]
    all: bool,
}

// === impl Arguments ===

impl Arguments {
    /// What `cargo xtask test` tries: the oldest release, or all.
    pub fn of_test(all: bool) -> Self {
        Self { suite: Vec::new(), all }
    }
}

/// Packs the programs as `cargo build` makes them, and tries the packages.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::Purpose::Test)?;
    let mut suites = arguments.suite.clone();
    if arguments.all {
        suites.extend([Suite::Bookworm, Suite::Trixie]);
    }
    if suites.is_empty() {
        suites.push(Suite::Bookworm);
    }
    suites.sort_unstable();
    suites.dedup();
    let packages = pack()?;
    check(&packages)?;
    for suite in suites {
        let began = Instant::now();
        try_on(suite, &packages).with_context(|| format!("the packages on Debian {}", suite.name()))?;
        println!(
            "packages on Debian {}: as documented, after {:.0} s",
            suite.name(),
            began.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// The packages of this build, and the same in a version that comes after it.
fn pack() -> Result<Vec<PathBuf>> {
    let build = ["build", "--workspace", "--bins"];
    announce("what is packed, and the simulator", cargo().args(build))?;
    let folder = programs("packages");
    std::fs::create_dir_all(&folder)?;
    let mut packages = Vec::new();
    for name in PROGRAMS {
        // Without its line tables: nine tenths of it.
        let stripped = folder.join(name);
        output(Command::new("strip").arg(programs("debug").join(name)).arg("-o").arg(&stripped))?;
        package::stage(&stripped, &packages[..packages.len().min(1)])?;
        packages.push(package::pack(name, None, true, &folder)?);
        packages.push(package::pack(name, Some(NEXT), true, &folder)?);
    }
    Ok(packages)
}

/// What lintian says; an error where it is anything that is not overridden with a reason.
fn check(packages: &[PathBuf]) -> Result<()> {
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error,warning", "--tag-display-limit", "0"]);
    // Its warning of being run as root is about packages of strangers.
    lintian.args(packages).stderr(Stdio::null());
    let done = lintian.output().context("cannot start lintian")?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success() && said.trim().is_empty(), "lintian, of the packages:\n{said}");
    println!("lintian: nothing but what packaging/debian/*/lintian-overrides give a reason for");
    Ok(())
}

/// What is tried on one release of Debian.
struct DocumentedHost {
    debian: BootedDebian,
    clients: Neighbour,
    router: Process,
    began: Instant,
}

// === impl DocumentedHost ===

impl DocumentedHost {
    fn new(suite: Suite, packages: &[PathBuf]) -> Result<Self> {
        let image = Image::of(suite, false)?;
        let layers = image.with("packages", INSTALLED)?;
        let began = Instant::now();
        let debian = BootedDebian::start(&layers)?;
        for package in packages {
            let name = package.file_name().context("a package without a name")?;
            std::fs::copy(package, debian.handed_in().join(name))
                .with_context(|| package.display().to_string())?;
        }
        std::fs::write(debian.handed_in().join("edge.password"), format!("{ROUTER_PASSWORD}\n"))?;
        let clients = debian.connect(HOST, CLIENTS[0])?;
        for client in &CLIENTS[1..] {
            output(clients.command("ip").args(["addr", "add", &format!("{client}/24"), "dev", "atalaya1"]))?;
        }
        // The names of docs/install.md: the enforcer and the host are one here.
        debian.run(&format!(
            "echo '127.0.0.1 enforcer.example web-1' >>/etc/hosts
             ip addr add {ROUTER}/32 dev lo
             install -d -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
             cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
             echo 'StrictHostKeyChecking accept-new' >/root/.ssh/config
             mkdir -p /run/sshd && systemctl start ssh"
        ))?;
        let mut router = debian.beside(&programs("debug").join("routeros-sim"));
        router.args(["--listen", &format!("{ROUTER}:8728"), "--password", ROUTER_PASSWORD]);
        for rule in documented(|line| line.strip_prefix("    ").filter(|line| line.contains("/firewall/")))? {
            router.args(["--terminal", &rule]);
        }
        let mut router = Process::start("the simulated router", &mut router)?;
        router.wait_for("listen", PATIENCE, |line| line.contains(ROUTER))?;
        Ok(Self { debian, clients, router, began })
    }

    /// Runs lines as an administrator would, and shows how long it all takes so far.
    fn administrate(&self, line: &str) -> Result<String> {
        let said = self.debian.run(&format!("cd /run/handed-in; {line}"))?;
        println!("  {:5.1} s  {line}", self.began.elapsed().as_secs_f64());
        Ok(said)
    }

    /// So many wrong passwords of a client, each in a connection of its own.
    fn fail(&self, client: &str, times: usize) -> Result<()> {
        let answer = self.debian.handed_in().join("askpass");
        std::fs::write(&answer, "#!/bin/sh\necho wrong\n")?;
        std::fs::set_permissions(&answer, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        for _ in 0..times {
            let mut ssh = self.clients.command("ssh");
            ssh.args(["-F", "none", "-b", client, "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"]);
            ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "NumberOfPasswordPrompts=1"]);
            ssh.args(["-o", "PreferredAuthentications=password", &format!("{ACCOUNT}@{HOST}"), "true"]);
            ssh.env_remove("SSH_AUTH_SOCK").env("SSH_ASKPASS", &answer).env("SSH_ASKPASS_REQUIRE", "force");
            let done = ssh.stdin(Stdio::null()).output()?;
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            ensure!(said.contains("Permission denied"), "the client was not refused: {said}");
        }
        Ok(())
    }

    fn is_banned(&mut self, client: &str) -> Result<()> {
        let logs = "journalctl --no-pager --unit atalaya-sensor --unit atalaya-enforcer";
        let banned = self.router.wait_for(&format!("ban {client}"), PATIENCE, |line| line.contains(client));
        if let Err(error) = banned {
            return Err(error.context(self.debian.run(logs)?));
        }
        println!("  {:5.1} s  {client} is on the router", self.began.elapsed().as_secs_f64());
        Ok(())
    }

    fn is_active(&self) -> Result<()> {
        for name in PROGRAMS {
            let state = self
                .debian
                .run(&format!("systemctl show --property ActiveState,SubState,NRestarts {name}"))?;
            ensure!(
                state.contains("ActiveState=active") && state.contains("NRestarts=0"),
                "{name}: {state}{}",
                self.debian.run(&format!("journalctl --no-pager --unit {name}"))?
            );
        }
        Ok(())
    }
}

fn try_on(suite: Suite, packages: &[PathBuf]) -> Result<()> {
    let kernel = Settings::of_this_machine()?;
    let mut scene = DocumentedHost::new(suite, packages)?;
    let lines = commands()?;
    ensure!(lines.len() >= 5, "docs/install.md has fewer lines than it had: {lines:?}");
    for line in lines {
        // apt(8) asks at a terminal only.
        scene.administrate(&line.replace("apt install", "apt-get install --yes"))?;
    }
    scene.is_active()?;
    for (name, most) in [("atalaya-enforcer", 3.0), ("atalaya-sensor", 5.0)] {
        let security = scene.debian.run(&format!("systemd-analyze security --no-pager {name}.service"))?;
        let line = security
            .lines()
            .find(|line| line.contains("Overall exposure level"))
            .context(security.clone())?;
        let level =
            line.split_whitespace().find_map(|word| word.parse::<f64>().ok()).context(line.to_owned())?;
        println!("           {name}: systemd-analyze security says {level}");
        ensure!(level < most, "{line}; expected less than {most}");
    }
    scene.fail(CLIENTS[0], 3)?;
    scene.is_banned(CLIENTS[0])?;
    let bans = scene.administrate("atalaya-enforcer bans")?;
    ensure!(bans.contains(CLIENTS[0]), "{bans}");

    // Two failures before an upgrade and one after it are three.
    scene.fail(CLIENTS[1], 2)?;
    scene.administrate(&format!(
        "apt-get install --yes ./atalaya-enforcer_{NEXT}_*.deb ./atalaya-sensor_{NEXT}_*.deb"
    ))?;
    scene.is_active()?;
    let bans = scene.administrate("atalaya-enforcer bans")?;
    ensure!(bans.contains(CLIENTS[0]), "the upgrade lost a ban: {bans}");
    scene.fail(CLIENTS[1], 1)?;
    scene.is_banned(CLIENTS[1])?;
    // The password for root alone, as docs/install.md has it.
    scene.debian.run(
        "cd /run/handed-in; install -D -m 600 edge.password /etc/atalaya/passwords/edge
         rm /etc/atalaya/router-edge.password
         mkdir /etc/systemd/system/atalaya-enforcer.service.d
         printf '[Service]\nLoadCredential=edge:/etc/atalaya/passwords/edge\n' >/etc/systemd/system/atalaya-enforcer.service.d/override.conf
         sed -i 's#^password_file = .*#password_file = \"/run/credentials/atalaya-enforcer.service/edge\"#' /etc/atalaya/enforcer.toml
         systemctl daemon-reload",
    )?;
    scene.administrate("systemctl restart atalaya-enforcer")?;
    scene.administrate("systemctl reload atalaya-enforcer atalaya-sensor")?;
    let before = scene.debian.run("systemctl show --property MainPID atalaya-sensor")?;
    scene.debian.run("systemctl kill --signal KILL --kill-whom main atalaya-sensor || systemctl kill --signal KILL --kill-who main atalaya-sensor")?;
    scene.debian.run(&format!(
        "while [ \"$(systemctl show --property MainPID,ActiveState atalaya-sensor | tr '\\n' ' ')\" = '{} ActiveState=active ' ] ||
             ! systemctl is-active --quiet atalaya-sensor; do sleep 0.1; done",
        before.trim()
    ))?;
    scene.fail(CLIENTS[2], 3)?;
    scene.is_banned(CLIENTS[2])?;

    // What the unit's bounds leave it: bans that outlive it lie in the kernel's own file system.
    scene.debian.run("sed -i 's/^enabled = false$/enabled = true/' /etc/atalaya/sensor.toml")?;
    scene.administrate("systemctl restart atalaya-sensor")?;
    let pinned = scene.debian.run("ls -R /sys/fs/bpf; atalaya-sensor status")?;
    ensure!(pinned.contains("/sys/fs/bpf/atalaya"), "local drop pinned nothing: {pinned}");

    scene.administrate("apt-get remove --yes atalaya-sensor atalaya-enforcer")?;
    let kept = scene.debian.run("ls /etc/atalaya /var/lib/atalaya-enforcer")?;
    ensure!(kept.contains("enforcer.toml") && kept.contains("ledger.sqlite3"), "removed too much: {kept}");
    scene.administrate("apt-get purge --yes atalaya-sensor atalaya-enforcer")?;
    // What the administrator wrote is theirs to remove.
    scene.debian.run("rm -r /etc/systemd/system/atalaya-enforcer.service.d")?;
    let left = scene.debian.run(
        "find / -xdev '(' -path /run/handed-in -o -path /var/log -o -path /proc -o -path /sys ')' -prune -o -iname '*atalaya*' -print
         find /sys/fs/bpf -iname '*atalaya*'
         find /run -path /run/handed-in -prune -o -iname '*atalaya*' -print
         getent passwd atalaya-enforcer || true; getent group atalaya-enforcer || true",
    )?;
    ensure!(left.trim().is_empty(), "a purge leaves:\n{left}");
    drop(scene);
    kernel.are_the_same()
}

/// The lines of docs/install.md that are such, in their order.
fn documented<'a>(such: impl FnMut(&'a str) -> Option<&'a str>) -> Result<Vec<String>> {
    static TEXT: OnceLock<String> = OnceLock::new();
    let read = std::fs::read_to_string(root().join("docs/install.md"))?;
    Ok(TEXT.get_or_init(|| read).lines().filter_map(such).map(ToOwned::to_owned).collect())
}

/// The lines of shell.
fn commands() -> Result<Vec<String>> {
    let mut inside = false;
    documented(|line| {
        if let Some(fence) = line.strip_prefix("```") {
            inside = fence == "sh";
            return None;
        }
        inside.then_some(line)
    })
}

/// What a host's systemd would set of the kernel, which is this machine's.
#[derive(PartialEq, Eq, Debug)]
struct Settings(Vec<(PathBuf, String)>);

// === impl Settings ===

impl Settings {
    fn of_this_machine() -> Result<Self> {
        let mut settings = Vec::new();
        for folder in ["kernel", "fs", "vm", "net/core"] {
            for entry in std::fs::read_dir(Path::new("/proc/sys").join(folder))? {
                let path = entry?.path();
                // Counters are no settings.
                let counts = ["random", "state", "nr", "pid", "max_newidle", "last"];
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_file()
                    && !counts.iter().any(|counter| name.contains(counter))
                    && let Ok(value) = std::fs::read_to_string(&path)
                {
                    settings.push((path, value));
                }
            }
        }
        settings.sort();
        Ok(Self(settings))
    }

    fn are_the_same(&self) -> Result<()> {
        let now = Self::of_this_machine()?;
        let changed: Vec<_> = self.0.iter().filter(|setting| !now.0.contains(setting)).collect();
        ensure!(changed.is_empty(), "settings of this machine's kernel were changed; before: {changed:?}");
        Ok(())
    }
}
