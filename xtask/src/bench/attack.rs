//! `cargo xtask bench attack`: what a real attack looks like from each source, from its first packet to the
//! entry on a router, beside Debian's fail2ban on the same machine, with the same attack and the same log.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::process::{Line, Process, output};
use atalaya_end_to_end::sshd::Sshd;
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER, RULES, START, Stage};
use serde_json::Value;

use crate::run::programs;

/// How long an attack may take to reach Atalaya's router, and how much longer fail2ban's.
const PATIENCE: Duration = Duration::from_secs(60);
const MORE: Duration = Duration::from_secs(20);

/// An attack, and the jail that is to see it.
struct Attack {
    name: &'static str,
    jail: &'static str,
    client: fn(&Namespace, &Sshd, &Path) -> Result<Command>,
}

const ATTACKS: [Attack; 5] = [
    Attack {
        name: "passwords (hydra, 4 at once), seen in the kernel",
        jail: "[jail.attack]\nsource = \"logins\"\nservices = [\"sshd\"]\n",
        client: passwords,
    },
    Attack {
        name: "passwords (hydra, 4 at once), seen in auth.log",
        jail: "[jail.attack]\nsource = \"files\"\nfilter = \"sshd\"\npaths = [\"AUTH_LOG\"]\n",
        client: passwords,
    },
    Attack {
        name: "connections that end before a login (ssh-keyscan, one after another), 3 in 600 s",
        jail: "[jail.attack]\nsource = \"connections\"\nports = [PORT]\nshort = \"10s\"\nmaxretry = 3\n",
        client: short_connections,
    },
    Attack {
        name: "the same at once (20), 12 new connections in 60 s",
        jail: "[jail.attack]\nsource = \"connections\"\nports = [PORT]\nmaxretry = 12\nfindtime = 60\n",
        client: many_connections,
    },
    Attack {
        name: "a scan of closed ports (a connect each) after one to sshd, 10 ports in 60 s",
        jail: "[jail.attack]\nsource = \"scan\"\nmaxretry = 10\nfindtime = 60\n",
        client: scan,
    },
];

/// Asks for a server's keys and leaves, for ever.
const KEYSCANS: &str = "while :; do ssh-keyscan -T 5 -t ed25519 -p \"$2\" \"$1\"; done";
/// Connects once to a port, then to the ports after it, for ever.
const SCAN: &str = r"
import socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
socket.create_connection((host, port), 5).close()
for number in range(1, 500):
    with socket.socket() as probe:
        probe.settimeout(1)
        probe.connect_ex((host, 20100 + number))
time.sleep(60)
";

/// Attacks, one after another, and prints a line for each.
pub fn run() -> Result<()> {
    println!(
        "attack: from its start to the entry on the router; fail2ban 1.0.2 (backend pyinotify) with the script that\n\
         logs in to the router for a ban; 3 failures in 600 s in both, the same sshd, the same auth.log"
    );
    for (number, attack) in (1u8..).zip(&ATTACKS) {
        let (atalaya, fail2ban) = play(attack, number).with_context(|| attack.name)?;
        let fail2ban = match fail2ban {
            Some(time) => format!("{:.2} s", time.as_secs_f64()),
            None => format!("nothing within {} s more", MORE.as_secs()),
        };
        println!("  {}: atalaya {:.3} s, fail2ban {fail2ban}", attack.name, atalaya.as_secs_f64());
    }
    println!();
    Ok(())
}

/// The time to Atalaya's router, and to fail2ban's where it got there.
fn play(attack: &Attack, number: u8) -> Result<(Duration, Option<Duration>)> {
    let attacker = IpAddr::from([10, 215, number, 2]);
    let namespace = Namespace::new(&[&attacker.to_string()])?;
    let mut sshd = Sshd::start(&namespace)?;
    let stage = Stage::new(&programs("release"))?;
    let log = stage.folder().join("auth.log");
    relay(sshd.take_log(), &log)?;

    let ours = Router::start(&stage, "the router")?;
    stage.write_enforcer_config(&[("bench", ours.address)], "")?;
    let jail = attack.jail.replace("AUTH_LOG", &log.to_string_lossy());
    stage.write_sensor_config(&jail.replace("PORT", &sshd.port().to_string()))?;
    let _enforcer = stage.start_enforcer()?;
    stage.join(&stage.enrol("bench")?)?;
    let _sensor = stage.start_sensor()?;
    let theirs = Router::start(&stage, "fail2ban's router")?;
    let _fail2ban = fail2ban(&stage, &log, theirs.address, START)?;

    let mut command = (attack.client)(&namespace, &sshd, stage.folder())?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let begin = Instant::now();
    let mut client = Ended(command.spawn().context("cannot start the attack")?);
    let Some(first) = ours.wait_for(attacker, begin, PATIENCE) else {
        bail!("{attacker} did not reach the router");
    };
    // A real router would have stopped it by now; it goes on, so that fail2ban has its chance.
    let second = theirs.wait_for(attacker, begin, MORE);
    client.end();
    Ok((first, second))
}

fn passwords(namespace: &Namespace, sshd: &Sshd, folder: &Path) -> Result<Command> {
    let list = folder.join("passwords");
    let words: String = (0..200).map(|number| format!("wrong-{number}\n")).collect();
    std::fs::write(&list, words)?;
    let [host, port] = target(namespace, sshd)?;
    let mut hydra = namespace.command("hydra");
    hydra.args(["-l", "root", "-t", "4", "-I", "-P"]).arg(list);
    hydra.arg(format!("ssh://{host}:{port}"));
    hydra.current_dir(folder);
    Ok(hydra)
}

fn short_connections(namespace: &Namespace, sshd: &Sshd, _: &Path) -> Result<Command> {
    let mut shell = namespace.command("sh");
    shell.args(["-c", KEYSCANS, "keyscans"]).args(target(namespace, sshd)?);
    Ok(shell)
}

fn many_connections(namespace: &Namespace, sshd: &Sshd, _: &Path) -> Result<Command> {
    let mut shell = namespace.command("sh");
    let at_once = format!("for i in $(seq 20); do ({KEYSCANS}) & done; wait");
    shell.args(["-c", &at_once, "keyscans"]).args(target(namespace, sshd)?);
    Ok(shell)
}

fn scan(namespace: &Namespace, sshd: &Sshd, _: &Path) -> Result<Command> {
    let mut python = namespace.command("python3");
    python.args(["-c", SCAN]).args(target(namespace, sshd)?);
    Ok(python)
}

/// The host and the port of the sshd.
fn target(namespace: &Namespace, sshd: &Sshd) -> Result<[String; 2]> {
    let host = namespace.hosts().first().context("the namespace has no address")?;
    Ok([host.to_string(), sshd.port().to_string()])
}

/// A simulated router, and when an address came to it.
pub(super) struct Router {
    _process: Process,
    events: Receiver<(Instant, Line)>,
    pub(super) address: SocketAddr,
}

// === impl Router ===

impl Router {
    pub(super) fn start(stage: &Stage, name: &str) -> Result<Self> {
        let (sender, events) = mpsc::channel();
        let mut router = stage.router(&RULES);
        router.args(["--events", "json"]);
        let process = Process::start_into(name, &mut router, &sender, |line| (Instant::now(), line))?;
        let (_, listening) = events.recv_timeout(START).context("the simulator does not start")?;
        let event: Value = serde_json::from_str(&listening.text)?;
        let address = event["address"].as_str().context("the simulator does not say where it listens")?;
        Ok(Self { _process: process, events, address: address.parse()? })
    }

    /// How long after `begin` the address was added, waiting that much from now.
    fn wait_for(&self, address: IpAddr, begin: Instant, within: Duration) -> Option<Duration> {
        let until = Instant::now() + within;
        while let Ok((at, line)) = self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            let event: Value = serde_json::from_str(&line.text).unwrap_or_default();
            if event["event"] == "add" && event["address"] == address.to_string() {
                return Some(at.saturating_duration_since(begin));
            }
        }
        None
    }

    /// When each address was added, in nanoseconds since the epoch, once there are so many.
    pub(super) fn adds(&self, count: usize, within: Duration) -> HashMap<IpAddr, u128> {
        let (until, mut adds) = (Instant::now() + within, HashMap::new());
        while adds.len() < count
            && let Ok((_, line)) = self.events.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            adds.extend(super::added(&line));
        }
        adds
    }
}

/// A process that is killed with what it started, whatever happens.
struct Ended(Child);

// === impl Ended ===

impl Ended {
    fn end(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes what sshd says as syslog would.
fn relay(lines: Receiver<Line>, log: &Path) -> Result<()> {
    let mut file = std::fs::File::create(log)?;
    std::thread::spawn(move || {
        for line in lines {
            let now = jiff::ZonedDateTime::now().strftime("%b %e %H:%M:%S").to_string();
            if writeln!(file, "{now} host sshd[7]: {}", line.text.trim_end()).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Debian's fail2ban, as users run it: its own sshd jail, and a script that logs in to the router for each ban.
pub(super) fn fail2ban(stage: &Stage, log: &Path, router: SocketAddr, within: Duration) -> Result<Process> {
    let python = super::venv()?;
    let unpacked = programs("fail2ban");
    let folder = stage.folder().join("fail2ban");
    output(Command::new("cp").arg("-r").arg(unpacked.join("etc/fail2ban")).arg(&folder))?;
    let script = folder.join("ban.py");
    std::fs::write(&script, BAN)?;
    std::fs::write(
        folder.join("action.d/router.conf"),
        format!(
            "[Definition]\nactionban = {} {} {} {} {ROUTER_USER} {ROUTER_PASSWORD} <ip> <bantime>\n",
            python.display(),
            script.display(),
            router.ip(),
            router.port()
        ),
    )?;
    // Without the bans of earlier runs, which it keeps in /var/lib else.
    std::fs::write(folder.join("fail2ban.local"), "[Definition]\ndbfile = None\n")?;
    std::fs::write(
        folder.join("jail.local"),
        format!(
            "[sshd]\nenabled = true\nfilter = sshd[mode=aggressive]\nbackend = pyinotify\nlogpath = {}\nmaxretry = 3\nfindtime = 600\n\
             bantime = 1800\naction = router\n",
            log.display()
        ),
    )?;
    let mut server = Command::new(python);
    server.env("PYTHONPATH", unpacked.join("usr/lib/python3/dist-packages"));
    server
        .arg(unpacked.join("usr/bin/fail2ban-server"))
        .args(["-xf", "--logtarget", "STDOUT", "-c"])
        .arg(&folder);
    server.arg("-s").arg(folder.join("socket")).arg("-p").arg(folder.join("pid")).arg("start");
    let mut process = Process::start("fail2ban", &mut server)?;
    process.wait_for("start its jail", within, |line| line.contains("Jail 'sshd' started"))?;
    Ok(process)
}

/// What users run today for each ban.
const BAN: &str = r"
import sys, routeros_api
host, port, user, password, address, bantime = sys.argv[1:]
pool = routeros_api.RouterOsApiPool(host, username=user, password=password, port=int(port), plaintext_login=True)
pool.get_api().get_resource('/ip/firewall/address-list').add(
    list='spammer', address=address, timeout='%ds' % int(float(bantime)), comment='fail2ban', disabled='no')
pool.disconnect()
";
