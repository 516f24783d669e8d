//! The local drop with real packets: attackers in a network namespace behind a pair of virtual interfaces, real
//! failed logins, and what reaches this host. Needs root, and fails where it is missing.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::small_disk::SmallDisk;
use atalaya_end_to_end::sshd::Sshd;
use atalaya_end_to_end::stage::Stage;
use serde_json::Value;

#[path = "local_drop/rulings.rs"]
mod rulings;

const PATIENCE: Duration = Duration::from_secs(40);
/// How long is waited for a packet that should not come. It only has to be longer than one on its way.
const SILENCE: Duration = Duration::from_millis(700);

/// Sends a datagram twenty times a second from an address, for ever.
const SENDER: &str = "
import socket, sys, time
source, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
sender = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
sender.bind((source, 0))
while True:
    sender.sendto(b'x', (host, port))
    time.sleep(0.05)
";

/// The namespace, and a sensor on its interface whose one jail reads a log.
struct Scene {
    stage: Stage,
    namespace: Namespace,
    log: PathBuf,
}

/// Datagrams from one address, as this host receives them.
struct Stream {
    socket: UdpSocket,
    source: IpAddr,
    sender: Child,
}

// === impl Scene ===

impl Scene {
    fn new(addresses: &[&str]) -> Result<Self> {
        let stage = Stage::of_this_test()?;
        let log = stage.folder().join("log");
        std::fs::write(&log, "")?;
        Ok(Self { stage, namespace: Namespace::new(addresses)?, log })
    }

    /// Writes the configuration; `drop` is what stands in `[local_drop]`, `more` what stands before it.
    fn configure(&self, more: &str, drop: &str) -> Result<()> {
        let (log, interface) = (self.log.display(), self.namespace.interface());
        self.stage.write_sensor_config(&format!(
            "{more}\n[local_drop]\ninterfaces = [\"{interface}\"]\n{drop}\n[jail.web]\nsource = \"files\"\n\
             paths = \"{log}\"\nfailregex = '^ bad login from <ADDR>$'\nmaxretry = 1\nbantime = \"1h\"\n"
        ))
    }

    fn start(&self, more: &str, drop: &str) -> Result<Process> {
        self.configure(more, drop)?;
        let sensor = self.stage.start_sensor()?;
        let status = self.status()?;
        let program = program(&status)?;
        ensure!(program["state"] == "on", "{program}");
        Ok(sensor)
    }

    fn fail(&self, address: &str) -> Result<()> {
        use std::io::Write as _;
        let mut log = std::fs::File::options().append(true).open(&self.log)?;
        Ok(log.write_all(format!("{} bad login from {address}\n", jiff::Timestamp::now()).as_bytes())?)
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&output(self.stage.sensor().args(["status", "--json"]))?)?)
    }

    fn command(&self, arguments: &[&str]) -> Result<String> {
        output(self.stage.sensor().args(arguments))
    }

    fn stream(&self, source: &str) -> Result<Stream> {
        Stream::start(&self.namespace, source.parse()?)
    }

    /// Whether an XDP program is attached to the interface, as `ip` tells.
    fn is_attached(&self) -> Result<bool> {
        Ok(output(Command::new("ip").args(["link", "show", self.namespace.interface()]))?.contains("xdp"))
    }

    /// Where the sensor's bans are pinned.
    fn pins(&self) -> Result<PathBuf> {
        let state = self.stage.folder().join("sensor");
        let digest =
            output(Command::new("sh").args(["-c", &format!("printf %s {} | sha256sum", state.display())]))?;
        Ok(Path::new("/sys/fs/bpf/atalaya").join(format!("sensor-{}", &digest[..8])))
    }

    /// Waits until the interface has no program any more: the kernel detaches soon after the last file is gone.
    fn wait_for_detached(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.is_attached()? {
            ensure!(Instant::now() < until, "the program stays attached");
        }
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A test that failed leaves nothing in the kernel either.
        let _ = self.stage.sensor().arg("unload").output();
    }
}

// === impl Stream ===

impl Stream {
    fn start(namespace: &Namespace, source: IpAddr) -> Result<Self> {
        let host = namespace.host_for(source)?;
        let socket = UdpSocket::bind(SocketAddr::new(host, 0))?;
        let port = socket.local_addr()?.port().to_string();
        let mut python = namespace.command("python3");
        python.args(["-c", SENDER, &source.to_string(), &host.to_string(), &port]);
        let sender = python.stdin(Stdio::null()).spawn().context("python3")?;
        let stream = Self { socket, source, sender };
        stream.flows().context("no datagram ever came")?;
        Ok(stream)
    }

    /// Waits for one more datagram.
    fn flows(&self) -> Result<()> {
        self.drain()?;
        self.socket.set_read_timeout(Some(PATIENCE))?;
        self.socket.recv(&mut [0; 16]).with_context(|| format!("nothing comes from {}", self.source))?;
        Ok(())
    }

    /// Waits until datagrams come no more.
    fn ends(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.comes_within(SILENCE)? {
            ensure!(Instant::now() < until, "{} is never dropped", self.source);
        }
        Ok(())
    }

    /// How many datagrams came since the last look.
    fn drain(&self) -> Result<usize> {
        self.socket.set_nonblocking(true)?;
        let mut came = 0;
        while self.socket.recv(&mut [0; 16]).is_ok() {
            came += 1;
        }
        self.socket.set_nonblocking(false)?;
        Ok(came)
    }

    fn comes_within(&self, time: Duration) -> Result<bool> {
        self.drain()?;
        self.socket.set_read_timeout(Some(time))?;
        match self.socket.recv(&mut [0; 16]) {
            Ok(_) => Ok(true),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.sender.kill();
        let _ = self.sender.wait();
    }
}

/// The program of the local drop in a status.
fn program(status: &Value) -> Result<Value> {
    let programs = status["programs"].as_array().context("no programs")?;
    let program = programs.iter().find(|program| program["name"] == "local drop: xdp");
    program.cloned().with_context(|| format!("no local drop in {status}"))
}

#[test]
fn a_failed_ssh_login_is_dropped_before_the_client_hears_of_it_and_other_hosts_go_on() -> Result<()> {
    let [attacker, friend] = ["10.216.10.2", "10.216.10.3"];
    let scene = Scene::new(&[attacker, friend])?;
    let sshd = Sshd::start(&scene.namespace)?;
    scene.stage.write_sensor_config(&format!(
        "[local_drop]\ninterfaces = [\"{}\"]\n[jail.ssh]\nsource = \"logins\"\nservices = [\"sshd\"]\nmaxretry = 1\n",
        scene.namespace.interface()
    ))?;
    let mut sensor = scene.stage.start_sensor()?;
    let (from_attacker, from_friend) = (scene.stream(attacker)?, scene.stream(friend)?);
    let mut client = sshd.spawn_wrong_passwords(&scene.namespace, attacker.parse()?, 1)?;
    sensor.wait_for("see the offence", PATIENCE, |line| line.contains("\"message\":\"offence\""))?;
    from_attacker.ends()?;
    ensure!(client.try_wait()?.is_none(), "the client had heard of its failure");
    let _ = client.kill();
    let _ = client.wait();
    // Who logged in successfully lately is not dropped for a wrong password.
    sshd.log_in(&scene.namespace, friend.parse()?, 0)?;
    let client = sshd.spawn_wrong_passwords(&scene.namespace, friend.parse()?, 1)?;
    sensor.wait_for("spare the friend", PATIENCE, |line| {
        line.contains("a successful login came from there lately") && line.contains(friend)
    })?;
    Sshd::finish(client, PATIENCE)?;
    from_friend.flows()?;
    let status = scene.status()?;
    let drop = &status["local_drop"];
    ensure!(drop["bans"] == 1 && drop["dropped"]["packets"].as_u64() > Some(0), "{drop}");
    ensure!(drop["most"][0]["network"] == format!("{attacker}/32"), "{drop}");
    let banned = &status["jails"][0]["banned"];
    let banned = banned.as_array().and_then(|banned| banned.iter().find(|ban| ban["address"] == attacker));
    let banned = banned.context("the jail does not know of it")?;
    ensure!(banned["dropped"]["packets"].as_u64() > Some(0), "{banned}");
    ensure!(scene.command(&["status", "ssh"])?.contains(" packets"), "no packets in the table");
    Ok(())
}

#[test]
fn bans_hold_without_a_sensor_after_kill_9_and_a_new_sensor_takes_them_over_without_a_gap() -> Result<()> {
    let [attacker, second, hand] = ["10.216.11.2", "10.216.11.3", "10.216.11.4"];
    let scene = Scene::new(&[attacker, second, hand])?;
    let sensor = scene.start("", "")?;
    let streams = [scene.stream(attacker)?, scene.stream(second)?];
    let other = scene.stream(hand)?;
    scene.fail(attacker)?;
    streams[0].ends()?;
    scene.fail(second)?;
    streams[1].ends()?;
    streams.iter().try_for_each(|stream| stream.drain().map(drop))?;
    sensor.kill()?;
    ensure!(scene.is_attached()?, "the program went with the sensor");
    other.flows()?;
    let sensor = scene.start("", "")?;
    other.flows()?;
    let bans = &scene.status()?["local_drop"]["bans"];
    ensure!(*bans == 2, "{bans} bans stand");
    // A program of another size of maps takes its place between two packets, with the bans in it.
    sensor.terminate(PATIENCE)?;
    let sensor = scene.start("", "max_entries = 5000")?;
    ensure!(scene.status()?["local_drop"]["max_entries"] == 5000);
    // And by a reload, and for good by a second one that finds nothing to change.
    scene.configure("", "max_entries = 6000")?;
    scene.command(&["reload"])?;
    scene.command(&["reload"])?;
    ensure!(scene.status()?["local_drop"]["bans"] == 2);
    ensure!(std::fs::read_dir(scene.pins()?.join("local_drop"))?.count() == 2, "old maps stay");
    for stream in &streams {
        ensure!(stream.drain()? == 0, "a packet of {} passed meanwhile", stream.source);
        ensure!(!stream.comes_within(SILENCE)?, "{} passes", stream.source);
    }
    scene.command(&["ban", "web", hand])?;
    other.ends()?;
    scene.command(&["unban", hand])?;
    other.flows()?;
    sensor.terminate(PATIENCE)?;
    Ok(())
}

#[test]
fn a_ban_ends_by_itself_also_while_no_sensor_runs() -> Result<()> {
    let [short, long] = ["10.216.12.2", "10.216.12.3"];
    let scene = Scene::new(&[short, long])?;
    let sensor = scene.start("", "")?;
    let (from_short, from_long) = (scene.stream(short)?, scene.stream(long)?);
    scene.command(&["ban", "web", short, "--for", "4"])?;
    scene.command(&["ban", "web", long, "--for", "1h"])?;
    from_long.ends()?;
    sensor.kill()?;
    from_short.flows()?;
    ensure!(!from_long.comes_within(SILENCE)?, "{long} passes");
    Ok(())
}

#[test]
fn ipv6_is_dropped_by_the_network_of_the_host_and_whom_anyone_allows_passes() -> Result<()> {
    let [offender, neighbour, stranger] = ["fd77:a7a3::2", "fd77:a7a3::3", "fd77:a7a4::2"];
    let [allowed, ignored] = ["10.216.13.2", "10.216.13.3"];
    let scene = Scene::new(&[offender, neighbour, stranger, allowed, ignored])?;
    let _sensor = scene.start(&format!("allow = [\"{allowed}\"]"), "")?;
    let streams: Vec<Stream> = [offender, neighbour, stranger, allowed, ignored]
        .iter()
        .map(|from| scene.stream(from))
        .collect::<Result<_>>()?;
    scene.fail(offender)?;
    streams[0].ends()?;
    streams[1].ends()?;
    streams[2].flows()?;
    // By hand anyone can be banned; whether that is held to here, the allow list says.
    scene.command(&["ban", "web", allowed])?;
    scene.command(&["ban", "web", ignored])?;
    streams[4].ends()?;
    streams[3].flows()?;
    scene.command(&["ignore", "web", ignored])?;
    streams[4].flows()?;
    let passed = &scene.status()?["local_drop"]["allowed_packets"];
    ensure!(passed.as_u64() > Some(0), "{passed}");
    Ok(())
}

#[test]
fn switching_it_off_or_unloading_leaves_nothing_and_a_running_sensor_is_not_disturbed() -> Result<()> {
    let attacker = "10.216.14.2";
    let scene = Scene::new(&[attacker])?;
    let sensor = scene.start("", "")?;
    let from_attacker = scene.stream(attacker)?;
    let pins = scene.pins()?;
    scene.fail(attacker)?;
    from_attacker.ends()?;
    ensure!(pins.exists(), "{} is not where it is pinned", pins.display());
    let refused = scene.stage.sensor().arg("unload").output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("a sensor runs"), "{said}");
    sensor.terminate(PATIENCE)?;
    let said = scene.command(&["unload"])?;
    ensure!(said.contains(scene.namespace.interface()) && said.contains("(native)"), "{said}");
    ensure!(!pins.exists(), "{} is left", pins.display());
    scene.wait_for_detached()?;
    from_attacker.flows()?;
    ensure!(scene.command(&["unload"])?.contains("nothing is left"));
    // Started again the ban stands again, for the jail knows of it; switched off, it is gone with all the rest.
    let _sensor = scene.start("", "mode = \"generic\"")?;
    from_attacker.ends()?;
    let reason = program(&scene.status()?)?["reason"].to_string();
    ensure!(reason.contains("(generic)"), "{reason}");
    scene.configure("", "enabled = false")?;
    scene.command(&["reload"])?;
    ensure!(!pins.exists(), "{} is left", pins.display());
    scene.wait_for_detached()?;
    from_attacker.flows()?;
    ensure!(program(&scene.status()?)?["state"] == "off");
    Ok(())
}

#[test]
fn a_program_of_another_release_drops_until_the_bans_stand_in_the_new_maps() -> Result<()> {
    let attacker = "10.216.15.2";
    let scene = Scene::new(&[attacker])?;
    let sensor = scene.start("", "max_entries = 1000")?;
    let from_attacker = scene.stream(attacker)?;
    scene.fail(attacker)?;
    from_attacker.ends()?;
    from_attacker.drain()?;
    sensor.terminate(PATIENCE)?;
    let folder = scene.pins()?.join("local_drop");
    std::fs::rename(folder.join("v1-1000"), folder.join("v0-1000"))?;
    let _sensor = scene.start("", "max_entries = 1000")?;
    let until = Instant::now() + PATIENCE;
    while folder.join("v0-1000").exists() {
        ensure!(Instant::now() < until, "the maps of before are never removed");
    }
    ensure!(from_attacker.drain()? == 0, "a packet passed");
    ensure!(!from_attacker.comes_within(SILENCE)?, "it passes");
    ensure!(program(&scene.status()?)?["reason"].to_string().contains("(native)"));
    Ok(())
}

#[test]
fn a_program_of_somebody_else_is_left_alone_with_the_reason() -> Result<()> {
    let scene = Scene::new(&["10.216.16.2"])?;
    let first = scene.start("", "")?;
    let other = Scene::new(&["10.216.17.2"])?;
    other.stage.write_sensor_config(&format!(
        "[local_drop]\ninterfaces = [\"{}\", \"{}\", \"nowhere0\"]\n",
        other.namespace.interface(),
        scene.namespace.interface()
    ))?;
    let _second = other.stage.start_sensor()?;
    let program = program(&other.status()?)?;
    let reason = program["reason"].as_str().context("no reason")?;
    ensure!(
        program["state"] == "on" && reason.contains("another XDP program is attached there"),
        "{program}"
    );
    ensure!(reason.contains("not on nowhere0"), "{reason}");
    first.terminate(PATIENCE)?;
    // Unloaded, its place is free, and is taken within seconds.
    scene.command(&["unload"])?;
    let until = Instant::now() + PATIENCE;
    loop {
        let status = other.status()?;
        let reason = self::program(&status)?["reason"].to_string();
        if !reason.contains("another XDP program") {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("never attached: {reason}");
        }
    }
}

#[test]
fn a_configuration_that_could_cut_off_the_session_it_is_started_from_is_refused() -> Result<()> {
    let scene = Scene::new(&["10.216.18.2"])?;
    scene.configure("", "")?;
    let sensor = scene.stage.sensor();
    let words: Vec<_> = std::iter::once(sensor.get_program()).chain(sensor.get_args()).collect();
    for command in ["check", "run", "reload"] {
        // Behind a program that hides the variable, as sudo does.
        let mut shell = Command::new("sh");
        shell.args(["-c", "env -u SSH_CONNECTION \"$@\"; exit $?", "sh"]).args(&words).arg(command);
        shell.env("SSH_CONNECTION", "203.0.113.5 50000 192.0.2.1 22");
        let refused = shell.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(!refused.status.success(), "{command} goes on");
        ensure!(said.contains("allow = [\"203.0.113.5\"]"), "{command}: {said}");
    }
    Ok(())
}

#[test]
fn the_fleets_bans_come_by_the_enforcers_stream_outlast_it_and_are_lifted_by_it() -> Result<()> {
    let [single, of_network, own, spared] = ["10.216.19.2", "10.217.19.2", "10.216.19.3", "10.216.19.4"];
    let scene = Scene::new(&[single, of_network, own, spared])?;
    scene.stage.write_enforcer_config(&[], &format!("allow = [\"{spared}\"]\n[protect]\nwithin = 0\n"))?;
    let enforcer = scene.stage.start_enforcer()?;
    let enforce = |arguments: &[&str]| output(scene.stage.enforcer().args(arguments));
    scene.configure("", "")?;
    scene.stage.join(&scene.stage.enrol("web-1")?)?;
    enforce(&["ban", single, "--for", "1h", "--force"])?;
    let streams: Vec<Stream> =
        [single, of_network, own, spared].iter().map(|from| scene.stream(from)).collect::<Result<_>>()?;
    let sensor = scene.start("", "")?;
    // One that stood before, in the snapshot, and then a whole network.
    streams[0].ends()?;
    enforce(&["ban", "10.217.19.2/31", "--for", "1h", "--force"])?;
    streams[1].ends()?;
    scene.fail(own)?;
    streams[2].ends()?;
    scene.fail(spared)?;
    streams[3].flows()?;
    // The enforcer's word lifts what a jail here wanted too, and a restart does not bring it back.
    enforce(&["unban", own])?;
    streams[2].flows()?;
    enforce(&["unban", "10.217.19.2/31"])?;
    streams[1].flows()?;
    let status = scene.status()?;
    ensure!(status["local_drop"]["fleet"]["whole"] == true, "{}", status["local_drop"]);
    ensure!(
        status["local_drop"]["lifelines"].as_str().is_some_and(|said| said.contains("enforcer 127.0.0.1"))
    );
    // Without an enforcer, and over a restart without one, what is known stands.
    enforcer.kill()?;
    sensor.terminate(PATIENCE)?;
    streams[0].drain()?;
    let sensor = scene.start("", "")?;
    streams[2].flows()?;
    ensure!(streams[0].drain()? == 0, "a packet passed meanwhile");
    // It comes back with the ban, and the sensor hears of the end that another had put to it.
    let _enforcer = scene.stage.start_enforcer()?;
    enforce(&["unban", single])?;
    streams[0].flows()?;
    enforce(&["ban", single, "--for", "1h", "--force"])?;
    streams[0].ends()?;
    // Not wanted any more, they are gone.
    scene.configure("", "fleet = false")?;
    scene.command(&["reload"])?;
    streams[0].flows()?;
    sensor.terminate(PATIENCE)?;
    Ok(())
}

#[test]
fn who_offends_is_dropped_also_by_a_sensor_that_started_on_a_full_disk() -> Result<()> {
    let attacker = "10.216.10.2";
    let scene = Scene::new(&[attacker])?;
    let disk = SmallDisk::mount(&scene.stage.folder().join("sensor"), "8m")?;
    scene.start("", "")?.terminate(PATIENCE)?;
    disk.fill()?;
    let _sensor = scene.start("", "")?;
    ensure!(!scene.status()?["state_trouble"].is_null());
    let stream = scene.stream(attacker)?;
    scene.fail(attacker)?;
    stream.ends()
}
