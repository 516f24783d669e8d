//! The cast of an end-to-end run in one temporary folder: the simulated router, the enforcer and
//! the sensor, from the programs that cargo built.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::{Process, output, output_with_input};

/// How long a program may take to start on a loaded machine.
pub const START: Duration = Duration::from_secs(30);

/// The user and the password of the simulated router.
pub const ROUTER_USER: &str = "atalaya";
/// The simulated router's password.
pub const ROUTER_PASSWORD: &str = "demo-password";

/// What is typed at a router's terminal so that it drops by the lists, IPv4's first.
pub const RULES: [&str; 2] = [
    "/ip/firewall/raw add chain=prerouting action=drop src-address-list=spammer",
    "/ipv6/firewall/raw add chain=prerouting action=drop src-address-list=spammer",
];

/// The programs, and the folder with their configuration and state.
#[derive(Debug)]
pub struct Stage {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
}

// === impl Stage ===

impl Stage {
    /// A stage for the programs in the given folder (`target/debug`, `target/release`).
    pub fn new(programs: &Path) -> Result<Self> {
        for program in ["atalaya-sensor", "atalaya-enforcer", "routeros-sim"] {
            if !programs.join(program).is_file() {
                bail!("{} is not built: run `cargo build` first", programs.join(program).display());
            }
        }
        Ok(Self { programs: programs.to_owned(), folder: tempfile::tempdir()?, port: free_port()? })
    }

    /// A stage for the programs that were built together with the running test.
    pub fn of_this_test() -> Result<Self> {
        let test = std::env::current_exe()?;
        let programs = test.parent().and_then(Path::parent).context("the test is in no target folder")?;
        Self::new(programs)
    }

    /// Removed when this is dropped.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command of one of the programs.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        // The log's level is each test's to choose, not its environment's.
        command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env_remove("JOURNAL_STREAM");
        command
    }

    /// A command of a simulated router on a free port, at whose terminal this was typed: [`RULES`] for one that
    /// drops by its lists.
    pub fn router(&self, typed: &[&str]) -> Command {
        let mut command = self.program("routeros-sim");
        command.args(["--listen", "127.0.0.1:0", "--user", ROUTER_USER, "--password", ROUTER_PASSWORD]);
        for line in typed {
            command.args(["--terminal", line]);
        }
        command
    }

    /// A command of the enforcer, with the stage's configuration.
    pub fn enforcer(&self) -> Command {
        let mut command = self.program("atalaya-enforcer");
        command.arg("--config").arg(self.folder().join("enforcer.toml"));
        command
    }

    /// A command of the sensor, with the stage's configuration.
    pub fn sensor(&self) -> Command {
        let mut command = self.program("atalaya-sensor");
        command.arg("--config").arg(self.folder().join("sensor.toml"));
        command
    }

    /// Where the enforcer listens.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Writes the enforcer's configuration, with the given routers by name.
    pub fn write_enforcer_config(&self, routers: &[(&str, SocketAddr)], more: &str) -> Result<()> {
        let folder = self.folder().display();
        // Tests ban whole networks, and count single entries.
        let widen = if more.contains("[widen]") { "" } else { "[widen]\nipv4 = 0" };
        let mut text = format!(
            "listen = \"127.0.0.1:{}\"\nstate = \"{folder}/enforcer\"\nsocket = \"{folder}/enforcer.sock\"\n{more}\n{widen}\n",
            self.port
        );
        for (name, address) in routers {
            text.push_str(&format!(
                "[router.{name}]\naddress = \"{address}\"\nuser = \"{ROUTER_USER}\"\npassword = \"{ROUTER_PASSWORD}\"\n"
            ));
        }
        write_private(&self.folder().join("enforcer.toml"), &text)
    }

    /// Writes the sensor's configuration: the state folder and the given text.
    pub fn write_sensor_config(&self, text: &str) -> Result<()> {
        let text = format!("state = \"{}/sensor\"\n{text}", self.folder().display());
        write_private(&self.folder().join("sensor.toml"), &text)
    }

    /// Enrols a sensor; the token.
    pub fn enrol(&self, name: &str) -> Result<String> {
        Ok(output(self.enforcer().args(["enrol", name]))?.trim().to_owned())
    }

    /// Joins the sensor to the running enforcer.
    pub fn join(&self, token: &str) -> Result<()> {
        output_with_input(self.sensor().args(["join", &self.url(), "-"]), token).map(drop)
    }

    /// Starts the enforcer and waits until it is ready.
    pub fn start_enforcer(&self) -> Result<Process> {
        let mut enforcer =
            Process::start("the enforcer", self.enforcer().args(["--log-format", "json", "run"]))?;
        enforcer.wait_for("become ready", START, is_ready)?;
        Ok(enforcer)
    }

    /// Starts the sensor and waits until it is ready.
    pub fn start_sensor(&self) -> Result<Process> {
        let mut sensor = Process::start("the sensor", self.sensor().args(["--log-format", "json", "run"]))?;
        sensor.wait_for("become ready", START, is_ready)?;
        Ok(sensor)
    }
}

/// Whether a line of a program's JSON log says that it is ready.
pub fn is_ready(line: &str) -> bool {
    line.contains("\"message\":\"ready\"")
}

/// A TCP and UDP port of the loopback that is free now, and that no connection takes meanwhile: the kernel gives those
/// ports from 32,768 on.
pub fn free_port() -> Result<u16> {
    let is_free = |port: &u16| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
    };
    let mut tries = std::iter::repeat_with(|| fastrand::u16(10_000..32_768)).take(1000);
    tries.find(is_free).context("no port of the loopback is free")
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
