//! One daemon tried: it, the sensor and all clients run, and what the sensor says of each client is counted.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::process::{Line, Process, output};
use atalaya_end_to_end::stage::is_ready;
use serde_json::Value;

use crate::daemons::host::DaemonHost;
use crate::daemons::image::{ACCOUNT, Layers, PASSWORD};
use crate::daemons::recipe::{Case, Family, Recipe, Seen, Tools};
use crate::run::interruption;
use crate::suite::Suite;

const START: Duration = Duration::from_secs(60);
/// What the sensor says: failures, and good logins.
const LOG: &str = "info,atalaya_sensor::service::logins=debug";
/// An account that is nowhere.
const UNKNOWN: &str = "nobody-of-the-daemons";
/// How long a client may take, in seconds: several refused passwords are 3 s each, on a loaded machine more.
const CLIENT: &str = "90";
/// What is expected may come so long after the last client has ended: the kernel's source waits 10 s for what explains
/// a refusal of sshd's own.
const LATEST: Duration = Duration::from_secs(15);
/// Once all is as expected, so long may more come, which would be too much.
const QUIET: Duration = Duration::from_millis(1500);

/// What came of one client.
#[derive(Debug)]
pub struct ClientResult {
    pub case: &'static Case,
    pub family: Family,
    pub expected: Seen,
    pub seen: Seen,
    /// How long after its client had ended the last failure was seen, in seconds, by the kernel's source and in the
    /// log; before is negative.
    pub late: [Option<f64>; 2],
    /// What went wrong with the client itself.
    pub trouble: Option<String>,
}

/// What came of a daemon.
#[derive(Debug)]
pub struct Tried {
    pub clients: Vec<ClientResult>,
    /// Failed logins of its accounts that the kernel's source saw and gave to no address: expected, and seen.
    pub nameless: [u32; 2],
    /// Who was accused by the log and is no client: a name that a client sent was taken for an address.
    pub strangers: BTreeSet<IpAddr>,
}

/// How a daemon is tried.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The sensor's program.
    pub sensor: &'a Path,
    /// What is expected of this one holds.
    pub suite: Suite,
    /// Print what the sensor, the daemon and the logs said.
    pub show: bool,
}

/// A client, while it runs and after.
struct Client {
    case: &'static Case,
    family: Family,
    address: IpAddr,
    expected: Seen,
    child: Child,
    /// What it says.
    said: PathBuf,
    ended: Option<SystemTime>,
}

/// What the sensor has said so far.
#[derive(Default)]
struct Account {
    show: bool,
    clients: Vec<IpAddr>,
    by_address: HashMap<IpAddr, (Seen, [Option<SystemTime>; 2])>,
    /// Failed logins without an address, of our accounts.
    nameless: u32,
}

/// The host with all that runs there.
struct Running<'a> {
    terms: Terms<'a>,
    recipe: &'static Recipe,
    // Ended in this order.
    daemon: Process,
    sensor: Process,
    _syslog: Process,
    host: DaemonHost,
}

/// Runs the daemon, the sensor and the clients.
pub fn run(recipe: &'static Recipe, layers: &Layers, terms: Terms<'_>) -> Result<Tried> {
    let mut running = Running::start(recipe, layers, terms)?;
    let lines = running.sensor.take_lines();
    let mut clients = running.start_clients()?;
    wait_for_all(&mut clients)?;

    let addresses = clients.iter().map(|client| client.address).collect();
    let mut account = Account { show: terms.show, clients: addresses, ..Account::default() };
    let nameless: u32 = clients.iter().map(|client| client.expected.nameless).sum();
    account.listen(&lines, |account| {
        let is_seen = |client: &Client| account.of(client.address).0 == client.expected_of_address();
        clients.iter().all(is_seen) && account.nameless == nameless
    })?;
    if terms.show {
        running.show();
    }
    let strangers = account
        .accused_by_log()
        .filter(|accused| clients.iter().all(|client| client.address != *accused))
        .collect();
    Ok(Tried {
        clients: clients.into_iter().map(|client| client.result(&account)).collect(),
        nameless: [nameless, account.nameless],
        strangers,
    })
}

/// The sensor's settings: all logins of the kernel's, and the log, with limits that are not reached.
fn configure(host: &DaemonHost, recipe: &Recipe) -> Result<()> {
    let mut settings = String::from(
        "state = \"/var/lib/atalaya-sensor\"\nignoreself = false\n[jail.kernel]\nsource = \"logins\"\nmaxretry = 1000\n",
    );
    if let Some((filter, log)) = recipe.log {
        settings
            .push_str(&format!("[jail.log]\nfilter = \"{filter}\"\npaths = [\"{log}\"]\nmaxretry = 1000\n"));
    }
    if recipe.peers {
        settings.push_str("[logins]\npeers = true\n");
    }
    host.write("/etc/sensor.toml", &settings)?;
    output(host.command("chmod").args(["600", "/etc/sensor.toml"])).map(drop)
}

/// Waits until the clients have ended, which their own deadline makes sure of.
fn wait_for_all(clients: &mut [Client]) -> Result<()> {
    /// How often is looked: there is no one event for several children.
    const LOOK: Duration = Duration::from_millis(10);
    let interrupted = interruption()?;
    // Nothing is sent: this is a way to wait.
    let (_sender, never) = mpsc::channel::<()>();
    while clients.iter().any(|client| client.ended.is_none()) {
        let _ = never.recv_timeout(LOOK);
        for client in clients.iter_mut().filter(|client| client.ended.is_none()) {
            if client.child.try_wait()?.is_some() {
                client.ended = Some(SystemTime::now());
            }
        }
        if interrupted.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
    }
    Ok(())
}

fn seconds_after(of: SystemTime, then: SystemTime) -> f64 {
    match then.duration_since(of) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// The ends of the logs, for whoever works on a recipe.
fn logs(host: &DaemonHost, recipe: &Recipe) -> String {
    let script = "for file in /var/log/auth.log /var/log/mail.log /var/log/syslog $0; do \
        test -s $file && echo \"--- $file\" && tail -n 40 $file; done; true";
    let log = recipe.log.map_or("/nowhere", |(_, log)| log);
    output(host.command("sh").args(["-c", script, log])).unwrap_or_else(|error| format!("{error:#}"))
}

// === impl Running ===

impl<'a> Running<'a> {
    fn start(recipe: &'static Recipe, layers: &Layers, terms: Terms<'a>) -> Result<Self> {
        let host = DaemonHost::new(layers, terms.sensor, u8::try_from(recipe.cases.len())?, recipe.names)?;
        let shell = |script: &str| {
            let mut command = host.command("sh");
            command.args(["-c", script]).envs([("ACCOUNT", ACCOUNT), ("PASSWORD", PASSWORD)]);
            command
        };
        output(&mut shell(&format!("set -e\n{}", recipe.prepare))).context("preparing it")?;
        let syslog = Process::start("rsyslogd", host.command("rsyslogd").arg("-n"))?;
        configure(&host, recipe)?;
        let mut command = host.sensor();
        command.args(["--config", "/etc/sensor.toml", "--log", LOG, "--log-format", "json", "run"]);
        let mut sensor = Process::start("the sensor", &mut command)?;
        sensor.wait_for("become ready", START, is_ready)?;
        output(&mut shell("until test -S /dev/log; do sleep 0.05; done")).context("rsyslogd")?;
        let mut daemon = Process::start(recipe.name, &mut shell(recipe.start))?;
        for port in recipe.listens {
            let is_up = host.wait_for_port(*port, &mut daemon, START);
            is_up.with_context(|| format!("it did not start; its logs:\n{}", logs(&host, recipe)))?;
        }
        Ok(Self { terms, recipe, daemon, sensor, _syslog: syslog, host })
    }

    /// All at once, or each when the one before it has ended.
    fn start_clients(&self) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for (number, case) in (0..).zip(self.recipe.cases) {
            for family in Family::ALL {
                clients.push(self.start_client(number, case, family)?);
                if self.recipe.in_turn {
                    wait_for_all(&mut clients)?;
                }
            }
        }
        Ok(clients)
    }

    fn start_client(&self, number: u8, case: &'static Case, family: Family) -> Result<Client> {
        let (host, to) = (&self.host, self.host.daemon(number, family).to_string());
        let url = if family == Family::V6 { format!("[{to}]") } else { to.clone() };
        let mut command = host.client_command(case.tools == Tools::Root, "timeout");
        command.args(["--foreground", CLIENT, "bash", "-c", &format!("exec 2>&1\n{}", case.client)]);
        command.envs([("TO", to), ("URL", url)]);
        command.envs([("ACCOUNT", ACCOUNT), ("PASSWORD", PASSWORD), ("UNKNOWN", UNKNOWN)]);
        // No agent of whoever runs this offers keys of its own.
        command.env("WORK", host.work()).env("HOME", host.work()).env_remove("SSH_AUTH_SOCK");
        let said = host.work().join(format!("said-{number}-{}", family.name()));
        command.stdin(Stdio::null()).stdout(File::create(&said)?).stderr(Stdio::null());
        Ok(Client {
            case,
            family,
            address: host.client(number, family),
            expected: case.expected(self.terms.suite),
            child: command.spawn().context("a client")?,
            said,
            ended: None,
        })
    }

    fn show(&mut self) {
        let _ = self.daemon.wait_for("say more", Duration::from_millis(100), |_| false);
        eprintln!("--- {} said\n{}{}", self.recipe.name, self.daemon.said(), logs(&self.host, self.recipe));
    }
}

// === impl Client ===

impl Client {
    /// What is to be seen of its address; who has none is counted for the daemon as a whole.
    fn expected_of_address(&self) -> Seen {
        Seen { nameless: 0, ..self.expected }
    }

    fn result(mut self, account: &Account) -> ClientResult {
        let (seen, last) = account.of(self.address);
        let late = last.map(|last| Some(seconds_after(self.ended?, last?)));
        let said = std::fs::read(&self.said).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let told = self.case.told;
        let status =
            self.child.try_wait().ok().flatten().map_or_else(String::new, |status| status.to_string());
        let trouble = (!said.contains(told))
            .then(|| format!("its client was not told `{told}` ({status}): {}", said.trim()));
        let expected = self.expected_of_address();
        ClientResult { case: self.case, family: self.family, expected, seen, late, trouble }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Account ===

impl Account {
    /// Takes what the sensor says until it is complete and nothing more comes, or it is too late.
    fn listen(&mut self, lines: &Receiver<Line>, is_complete: impl Fn(&Self) -> bool) -> Result<()> {
        /// How often an interruption is looked for.
        const LOOK: Duration = Duration::from_millis(200);
        let interrupted = interruption()?;
        let latest = SystemTime::now() + LATEST;
        let mut last = SystemTime::now();
        loop {
            if let Ok(line) = lines.recv_timeout(LOOK)
                && self.take(&line)
            {
                last = line.at.max(last);
            }
            if interrupted.load(Ordering::SeqCst) {
                bail!("interrupted");
            }
            let now = SystemTime::now();
            if now > latest || (now > last + QUIET && is_complete(self)) {
                return Ok(());
            }
        }
    }

    /// Takes a line; whether it counts. All sensors of a machine see all, so that the kernel's source tells of others too.
    fn take(&mut self, line: &Line) -> bool {
        if self.show {
            eprintln!("{}", line.text);
        }
        let Ok(event) = serde_json::from_str::<Value>(&line.text) else { return false };
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let address = text("address").trim_start_matches("Some(").trim_end_matches(')').parse();
        match (text("message"), address) {
            ("failure", Ok(address)) => {
                let (seen, last) = self.by_address.entry(address).or_default();
                let log = usize::from(text("jail") == "log");
                *[&mut seen.kernel, &mut seen.log][log] += 1;
                last[log] = Some(line.at);
                log == 1 || self.clients.contains(&address)
            }
            ("login", Ok(address)) => {
                self.by_address.entry(address).or_default().0.logins += 1;
                self.clients.contains(&address)
            }
            (message, _) if message.ends_with("shown, never banned") => {
                let account = text("account").trim_matches('"');
                let is_ours = [ACCOUNT, UNKNOWN].contains(&account);
                self.nameless += u32::from(is_ours);
                is_ours
            }
            _ => false,
        }
    }

    fn accused_by_log(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.iter().filter(|(_, (seen, _))| seen.log > 0).map(|(address, _)| *address)
    }

    /// What was seen of an address, and when last.
    fn of(&self, address: IpAddr) -> (Seen, [Option<SystemTime>; 2]) {
        self.by_address.get(&address).copied().unwrap_or_default()
    }
}
