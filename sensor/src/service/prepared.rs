//! What comes before the runtime and its threads: the loader's start, and what the worker gives up.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use atalaya_program::open_files;

use super::kernel::Kernel;
use crate::config::Config;
use crate::confine::files::Reach;
use crate::confine::{self, Confinement};
use crate::store::make_private;

/// As many files as systemd allows a service.
const MOST_OPEN: u64 = 524_288;

/// What comes before the runtime and its threads.
pub struct Prepared {
    pub(super) kernel: Kernel,
    pub(super) bounds: Bounds,
    pub(super) confinement: Confinement,
}

/// What the worker can reach for the rest of its life.
pub(super) struct Bounds {
    /// `None` where it is not confined.
    reach: Option<Reach>,
    /// Where the configuration is read from.
    file: PathBuf,
}

/// Starts the loader, whose command line begins with `loader`, and gives up what the worker does not need.
/// `file` is where the configuration was read from.
pub fn prepare(config: &Config, file: &Path, loader: &[OsString]) -> Prepared {
    // Every log that is followed is open.
    open_files::raise(MOST_OPEN);
    let kernel = Kernel::start(loader, config.logs());
    // What is not there cannot be reached later.
    if let Err(error) = make_private(&config.state) {
        tracing::debug!(%error, "the state folder cannot be made");
    }
    let reach = if config.confine { config.reach(file) } else { Err("`confine = false`".to_owned()) };
    let low = |address: &std::net::SocketAddr| (1..1024).contains(&address.port());
    let privileged_port = config.syslog.udp.iter().chain(&config.syslog.tcp).any(low);
    let confinement = match &reach {
        Ok(reach) => confine::worker(reach, privileged_port),
        Err(why) => confine::nothing(why),
    };
    match &reach {
        Ok(_) => tracing::info!("confined: {confinement}"),
        Err(why) => tracing::warn!("the sensor is not confined: {why}"),
    }
    Prepared { kernel, bounds: Bounds { reach: reach.ok(), file: file.to_owned() }, confinement }
}

// === impl Bounds ===

impl Bounds {
    /// Lets a new configuration pass that needs no more than what can be reached.
    pub(super) fn admit(&self, config: Config) -> Result<Config, String> {
        let Some(reach) = &self.reach else { return Ok(config) };
        let beyond = match config.reach(&self.file) {
            Ok(wanted) => reach.lacks(&wanted).map(|path| format!("it needs {}", path.display())),
            Err(why) => Some(why),
        };
        match beyond {
            None => Ok(config),
            Some(why) => Err(format!(
                "the new configuration asks for more than the sensor kept when it started: {why}; \
                 start the sensor again, which loses nothing"
            )),
        }
    }
}
