//! The real sensor, with a configuration that uses every source of the kernel, and no enforcer.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::stage::is_ready;
use kernel_init::Program;
use serde_json::Value;

/// The program, in the initramfs.
const SENSOR: &str = "/usr/bin/atalaya-sensor";
const CONFIG: &str = "/run/sensor.toml";
/// A port whose connections are counted.
pub const GUARDED: u16 = 7022;
/// So many connections are a flood.
pub const FLOOD: u32 = 8;
/// So many closed ports are a scan.
pub const SCAN: u16 = 10;
/// The first of the ports at which nobody listens.
pub const CLOSED: u16 = 20_100;
/// How long it may take to start: the processor may be emulated.
const START: Duration = Duration::from_secs(60);

/// The sensor under test; it ends when this is dropped.
pub struct Sensor(Process);

// === impl Sensor ===

impl Sensor {
    /// Starts it and waits until it is ready. It drops at an interface.
    pub fn start(interface: &str) -> Result<Self> {
        let config = format!(
            "state = \"/run/sensor\"\n\
             [local_drop]\ninterfaces = [\"{interface}\"]\n\
             [logins]\npeers = true\n\
             [jail.ssh]\nsource = \"logins\"\n\
             [jail.sshd]\nsource = \"syslog-calls\"\nservices = \"sshd\"\n\
             [jail.flood]\nsource = \"connections\"\nports = {GUARDED}\nmaxretry = {FLOOD}\nfindtime = 600\n\
             [jail.scan]\nsource = \"scan\"\nmaxretry = {SCAN}\nfindtime = 600\n"
        );
        std::fs::write(CONFIG, config)?;
        let mut command = sensor();
        command.args(["--log-format", "json", "run"]);
        let mut process = Process::start("the sensor", &mut command)?;
        process.wait_for("become ready", START, is_ready)?;
        Ok(Self(process))
    }

    /// Waits for a line of its log.
    pub fn wait_for(&mut self, what: &str, within: Duration, is: impl FnMut(&str) -> bool) -> Result<String> {
        Ok(self.0.wait_for(what, within, is)?.text)
    }

    /// What its status says of the kernel's programs.
    pub fn programs() -> Result<Vec<Program>> {
        let text = output(sensor().args(["status", "--json"]))?;
        let mut status: Value = serde_json::from_str(&text)?;
        serde_json::from_value(status["programs"].take())
            .with_context(|| format!("the status has no list of programs: {text}"))
    }
}

/// Bans an address in a jail's name.
pub fn ban(jail: &str, address: &str) -> Result<()> {
    output(sensor().args(["ban", jail, address])).map(drop)
}

fn sensor() -> Command {
    let mut command = Command::new(SENSOR);
    command.args(["--config", CONFIG]);
    command
}
