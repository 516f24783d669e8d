//! What systemd is told of a service (`sd_notify(3)`), where it asked for it: that it is ready, reloads, ends, and, as
//! often as its watchdog wants, that it still does its work.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The way to systemd, opened while the process may still do so; nothing where systemd did not start it.
#[derive(Clone, Debug, Default)]
pub struct Systemd {
    socket: Option<Arc<UnixDatagram>>,
    /// How long it may be silent, where systemd watches.
    watchdog: Option<Duration>,
}

// === impl Systemd ===

impl Systemd {
    /// As the environment says: `NOTIFY_SOCKET`, and `WATCHDOG_USEC`. What cannot be opened is logged.
    pub fn of_environment() -> Self {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&path),
        };
        let open = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address?)?;
            // systemd that reads nothing must not hold up the service.
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(Arc::new(socket))
        };
        let socket = open().inspect_err(|error| tracing::warn!(%error, "systemd cannot be told anything"));
        let microseconds = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        Self { socket: socket.ok(), watchdog: microseconds.map(Duration::from_micros) }
    }

    /// That it is ready, also after a reload.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// That a reload begins. systemd sees by the time that it began after it was asked for.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    /// That it ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Tells the watchdog twice in its time that this runtime still gets to its tasks. Ends at once without a watchdog,
    /// else only with its task.
    pub async fn keep_watchdog(self) {
        let Some(within) = self.watchdog.filter(|within| *within >= Duration::from_millis(2)) else { return };
        let mut every = tokio::time::interval(within / 2);
        loop {
            every.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            tracing::warn!(%error, "systemd cannot be told {}", state.lines().next().unwrap_or_default());
        }
    }
}
