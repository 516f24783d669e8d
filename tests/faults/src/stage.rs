//! Everyone who takes part in a run, set up in one folder: the enforcer and the sensors as processes, clients and routers
//! in this one, and ways between them that can be broken.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use routeros_sim::{Entry, Family, Router};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::daemon::{Clockwork, Daemon, SmallDisk};
use crate::logs::Log;
use crate::proxy::Proxy;
use crate::schedule::{Cast, Part, RouterRole};

/// The routers' user and its password.
const USER: &str = "atalaya";
const PASSWORD: &str = "secret";
/// The list on the routers.
pub const LIST: &str = "spammer";
/// How long a command may take before it counts as not answered.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
/// How large small disks are, in MiB.
const SMALL: u32 = 8;
/// The names of the sensors' two jails.
pub const JAILS: [&str; 2] = ["short", "long"];

/// The cast at its places.
pub struct Stage {
    folder: PathBuf,
    programs: PathBuf,
    /// The enforcer's process.
    pub enforcer: tokio::sync::Mutex<Daemon>,
    /// The sensors' processes.
    pub sensors: Vec<tokio::sync::Mutex<Daemon>>,
    logs: Vec<Mutex<Log>>,
    /// Clients that post by themselves.
    pub clients: Vec<Arc<Client>>,
    /// The routers, by what they are called.
    pub routers: Vec<Seat>,
    /// The ways from sensors and clients to the enforcer.
    pub uplinks: Vec<Proxy>,
    /// The disks that can be full.
    pub disks: BTreeMap<Part, SmallDisk>,
}

/// What a run needs.
#[derive(Clone, Debug)]
pub struct Means {
    /// The folder of the programs.
    pub programs: PathBuf,
    /// libfaketime; without it no clock is set.
    pub clockwork: Option<PathBuf>,
}

/// A router at its place.
pub struct Seat {
    /// What it is called.
    pub name: String,
    /// What it is like.
    pub role: RouterRole,
    /// The router.
    pub router: Router,
    /// The way from the enforcer to it.
    pub way: Proxy,
    /// What strangers put on it, by [`key`].
    pub strangers: BTreeMap<String, Entry>,
}

// === impl Stage ===

impl Stage {
    /// Sets everyone up in a folder; sensors have joined and everyone runs.
    pub async fn set(cast: &Cast, folder: &Path, means: &Means) -> Result<Self> {
        let programs = means.programs.as_path();
        let listen = free_address()?;
        let mut disks = BTreeMap::new();
        if cast.small_disks {
            disks.insert(Part::EnforcerDisk, SmallDisk::mount(&folder.join("enforcer"), SMALL)?);
            for place in 0..cast.sensors {
                let state = folder.join(format!("sensor-{place}/state"));
                disks.insert(Part::SensorDisk(place), SmallDisk::mount(&state, SMALL)?);
            }
        }
        let mut routers = Vec::new();
        for (place, role) in cast.routers.iter().enumerate() {
            routers.push(Seat::take(format!("router-{place}"), *role).await?);
        }
        let program = |name: &str| programs.join(name);
        let config = folder.join("enforcer.toml");
        write_private(&config, &enforcer_config(folder, listen, &routers))?;
        let mut enforcer = Daemon::new(program("atalaya-enforcer"), config, folder.join("enforcer.log"));
        if let Some(library) = &means.clockwork {
            let clock = Clockwork { library: library.clone(), file: folder.join("enforcer.clock") };
            enforcer = enforcer.with_clock(clock)?;
        }
        let mut stage = Self {
            folder: folder.to_owned(),
            programs: programs.to_owned(),
            enforcer: tokio::sync::Mutex::new(enforcer),
            sensors: Vec::new(),
            logs: Vec::new(),
            clients: Vec::new(),
            routers,
            uplinks: Vec::new(),
            disks,
        };
        stage.enforcer.lock().await.start()?;
        stage.until_ready().await?;
        for place in 0..cast.sensors {
            stage.seat_sensor(place, cast, listen, means).await?;
        }
        for (place, clock_off) in cast.clients.iter().enumerate() {
            let way = Proxy::start(listen).await?;
            let token = stage.command(&["enrol", &format!("client-{place}")]).await?;
            stage.clients.push(Arc::new(Client::new(way.address(), token.trim(), *clock_off)?));
            stage.uplinks.push(way);
        }
        stage.until_sensors_read().await?;
        Ok(stage)
    }

    /// The enforcer's socket for commands.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("enforcer.sock")
    }

    /// A sensor's log.
    pub fn log(&self, sensor: usize) -> MutexGuard<'_, Log> {
        self.logs[sensor].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a command of the enforcer's, as an administrator does; its standard output.
    pub async fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new(self.programs.join("atalaya-enforcer"));
        command.arg("--config").arg(self.folder.join("enforcer.toml")).args(arguments);
        command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").kill_on_drop(true).stdin(Stdio::null());
        let output =
            tokio::time::timeout(COMMAND_DEADLINE, command.output()).await.context("it took too long")??;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn until_ready(&self) -> Result<()> {
        let until = Instant::now() + 3 * COMMAND_DEADLINE;
        loop {
            match self.command(&["sensors", "--json"]).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => {
                    return Err(error.context("the enforcer does not start"));
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until all sensors read their logs, and have it on disk where those end: a sensor that knows nothing of a log
    /// begins at its end.
    async fn until_sensors_read(&self) -> Result<()> {
        let until = Instant::now() + 3 * COMMAND_DEADLINE;
        for sensor in &self.sensors {
            while !sensor.lock().await.has_said("\"message\":\"ready\"") {
                anyhow::ensure!(Instant::now() < until, "a sensor does not start");
                sleep(Duration::from_millis(50)).await;
            }
        }
        // Positions go to disk every second.
        sleep(Duration::from_millis(1500)).await;
        Ok(())
    }

    async fn seat_sensor(
        &mut self,
        place: usize,
        cast: &Cast,
        enforcer: SocketAddr,
        means: &Means,
    ) -> Result<()> {
        let folder = self.folder.join(format!("sensor-{place}"));
        let log = Log::new(folder.join("logs"))?;
        let mut text = format!("state = \"{}/state\"\n", folder.display());
        for (jail, bantime) in JAILS.iter().zip(cast.bantimes) {
            let _ = write!(
                text,
                "[jail.{jail}]\nsource = \"files\"\npaths = [\"{}\"]\nbantime = {bantime}\n\
                 failregex = '^.*\\[\\s*<HOST>\\s*\\].*Error: {jail} failed'\n",
                log.path().display()
            );
        }
        let config = folder.join("sensor.toml");
        write_private(&config, &text)?;
        let mut sensor = Daemon::new(self.programs.join("atalaya-sensor"), config, folder.join("sensor.log"));
        if let Some(library) = &means.clockwork {
            // Beside its configuration, where the confined process may read.
            sensor = sensor.with_clock(Clockwork { library: library.clone(), file: folder.join("clock") })?;
        }
        let way = Proxy::start(enforcer).await?;
        let token = self.command(&["enrol", &format!("sensor-{place}")]).await?;
        let url = format!("https://{}", way.address());
        let until = Instant::now() + COMMAND_DEADLINE;
        while let Err(error) = join(&sensor, &url, &token).await {
            // The enforcer answers commands a moment before it listens.
            if Instant::now() > until {
                return Err(error.context(format!("sensor {place} cannot join")));
            }
            sleep(Duration::from_millis(100)).await;
        }
        sensor.start()?;
        self.sensors.push(tokio::sync::Mutex::new(sensor));
        self.logs.push(Mutex::new(log));
        self.uplinks.push(way);
        Ok(())
    }
}

// === impl Seat ===

impl Seat {
    async fn take(name: String, role: RouterRole) -> Result<Self> {
        let mut builder = Router::builder()
            .user(USER)
            .password(PASSWORD)
            .identity(&name)
            .insert_cost(Duration::from_micros(role.insert_us))
            .scan_cost_per_entry(Duration::from_micros(role.scan_us))
            .round_trip(Duration::from_millis(role.round_trip_ms));
        for family in ["ip", "ipv6"] {
            builder = builder.terminal(format!(
                "/{family}/firewall/raw add chain=prerouting action=drop src-address-list={LIST}"
            ));
        }
        let router = builder.start().await?;
        for number in 0..role.strangers {
            let address = format!("11.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
            let (list, comment) =
                [(LIST, "mine"), ("geoblock", ""), (LIST, "atalaya2: another's")][number as usize % 3];
            router.insert_foreign(Family::V4, list, &address, comment, None).context("a stranger's entry")?;
        }
        let way = Proxy::start(router.address()).await?;
        let mut seat = Self { name, role, router, way, strangers: BTreeMap::new() };
        seat.strangers = seat.entries().into_iter().map(|entry| (key(&entry), entry)).collect();
        Ok(seat)
    }

    /// What it holds, in both tables.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = self.router.entries(Family::V4);
        entries.append(&mut self.router.entries(Family::V6));
        entries
    }

    /// How long it takes by itself to be told of so many bans, with its list read a few times.
    pub fn own_time(&self, bans: usize) -> Duration {
        let role = &self.role;
        let scan = Duration::from_micros(role.scan_us) * (bans as u32 + role.strangers);
        Duration::from_micros(role.insert_us) * bans as u32
            + 4 * scan
            + 10 * Duration::from_millis(role.round_trip_ms)
    }
}

/// What tells an entry from all others of its router.
pub fn key(entry: &Entry) -> String {
    format!("{:?} {}", entry.family, entry.id)
}

async fn join(sensor: &Daemon, url: &str, token: &str) -> Result<()> {
    let mut join = tokio::process::Command::from(sensor.command());
    join.args(["join", url, "-"]).kill_on_drop(true);
    let mut join = join.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    join.stdin.take().context("standard input")?.write_all(token.as_bytes()).await?;
    let joined = join.wait_with_output().await?;
    anyhow::ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    Ok(())
}

/// A port of the loopback that is free now, and that no connection takes meanwhile: the kernel gives those ports from
/// 32,768 on.
fn free_address() -> Result<SocketAddr> {
    let mut tries = std::iter::repeat_with(|| fastrand::u16(10_000..32_768)).take(1000);
    let free = tries.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free.context("no port of the loopback is free")?)))
}

fn enforcer_config(folder: &Path, listen: SocketAddr, routers: &[Seat]) -> String {
    let folder = folder.display();
    let mut text = format!(
        "listen = \"{listen}\"\nstate = \"{folder}/enforcer\"\nsocket = \"{folder}/enforcer.sock\"\n[widen]\nipv4 = 0\n"
    );
    for Seat { name, way, .. } in routers {
        let address = way.address();
        let _ = write!(
            text,
            "[router.{name}]\naddress = \"{address}\"\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n"
        );
    }
    text
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::File::options().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())
}
