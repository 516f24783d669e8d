//! `cargo xtask bench local-drop`: what an administrator says to the enforcer until a host obeys it in the kernel, with
//! real packets over a pair of virtual interfaces, a thousand a second.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::process::output;
use atalaya_end_to_end::stage::Stage;

use super::routers::at;
use crate::run::programs;

const ROUNDS: usize = 100;
const PEER: &str = "10.213.7.2";
/// Without a packet for so long, they are dropped: twenty are sent meanwhile.
const SILENCE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends a datagram a thousand times a second, for ever.
const SENDER: &str = "
import socket, sys, time
source, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind((source, 0))
while True:
    sender.sendto(b'x', (host, port))
    time.sleep(0.001)
";

/// The packets of a host in a namespace, as this host receives them.
struct Packets {
    socket: UdpSocket,
    sender: Child,
}

/// Measures and prints.
pub fn run() -> Result<()> {
    let stage = Stage::new(&programs("release"))?;
    let namespace = Namespace::new(&[PEER])?;
    stage.write_enforcer_config(&[], "[protect]\nwithin = 0\n")?;
    let enforcer = stage.start_enforcer()?;
    let interface = namespace.interface();
    stage.write_sensor_config(&format!(
        "[local_drop]\ninterfaces = [\"{interface}\"]\n[jail.web]\nsource = \"files\"\npaths = \"/dev/null\"\n\
         failregex = '^ bad login from <ADDR>$'\n"
    ))?;
    stage.join(&stage.enrol("bench")?)?;
    let sensor = stage.start_sensor()?;
    let packets = Packets::start(&namespace)?;
    let obey = |arguments: &[&str]| packets.obey(&stage, arguments);
    let (mut stops, mut unbans, mut allows) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        stops.push(obey(&["ban", PEER, "--for", "1h", "--force"])?);
        unbans.push(obey(&["unban", PEER])?);
        stops.push(obey(&["ban", PEER, "--for", "1h", "--force"])?);
        allows.push(obey(&["allow", PEER, "--for", "1h"])?);
        output(stage.enforcer().args(["allow", "--remove", PEER]))?;
    }
    println!(
        "local drop: from the start of the command, which itself takes some ms, to the packets in the kernel"
    );
    for (what, mut waits) in [("ban", stops), ("unban", unbans), ("allow", allows)] {
        waits.sort_unstable_by(f64::total_cmp);
        println!(
            "  {what}: p50 {:.1} ms, p99 {:.1} ms, worst of {} {:.1} ms (budget 50 ms)",
            at(&waits, 0.5),
            at(&waits, 0.99),
            waits.len(),
            at(&waits, 1.0)
        );
    }
    println!();
    drop(packets);
    sensor.terminate(PATIENCE)?;
    enforcer.terminate(PATIENCE)?;
    output(stage.sensor().arg("unload")).map(drop)
}

// === impl Packets ===

impl Packets {
    fn start(namespace: &Namespace) -> Result<Self> {
        let host = namespace.host_for(PEER.parse()?)?;
        let socket = UdpSocket::bind(SocketAddr::new(host, 0))?;
        let port = socket.local_addr()?.port().to_string();
        let mut python = namespace.command("python3");
        python.args(["-c", SENDER, PEER, &host.to_string(), &port]);
        let packets = Self { socket, sender: python.stdin(Stdio::null()).spawn().context("python3")? };
        ensure!(packets.comes_within(PATIENCE)?, "no packet ever came");
        Ok(packets)
    }

    /// Gives the enforcer a command that turns the packets on or off; how long that took in all, in milliseconds.
    fn obey(&self, stage: &Stage, arguments: &[&str]) -> Result<f64> {
        let flows = self.comes_within(SILENCE)?;
        let began = Instant::now();
        let mut command = stage.enforcer();
        let mut command =
            command.args(arguments).stdout(Stdio::null()).spawn().context("the enforcer's command")?;
        let mut last = began;
        let at = loop {
            let came = self.comes_within(SILENCE)?;
            match (came, flows) {
                (true, false) => break Instant::now(),
                (false, true) => break last,
                (true, true) => last = Instant::now(),
                (false, false) => {}
            }
            ensure!(began.elapsed() < PATIENCE, "`{}` is never obeyed", arguments.join(" "));
        };
        ensure!(command.wait()?.success(), "`{}` failed", arguments.join(" "));
        Ok(at.saturating_duration_since(began).as_secs_f64() * 1e3)
    }

    /// Whether one more packet comes in this time.
    fn comes_within(&self, time: Duration) -> Result<bool> {
        self.socket.set_nonblocking(true)?;
        while self.socket.recv(&mut [0; 16]).is_ok() {}
        self.socket.set_nonblocking(false)?;
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

impl Drop for Packets {
    fn drop(&mut self) {
        let _ = self.sender.kill();
        let _ = self.sender.wait();
    }
}
