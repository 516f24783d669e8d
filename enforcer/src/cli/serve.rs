//! `atalaya-enforcer run`: the signals, and systemd's readiness around the service.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::Context;
use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::config::Config;
use atalaya_enforcer::control::reload::ReloadRequest;
use atalaya_enforcer::service::{self, Reread};
use atalaya_program::open_files;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the service until SIGTERM or SIGINT. `reread` reads the configuration again, at SIGHUP and at
/// `atalaya-enforcer reload`.
pub fn run(config: Config, reread: Reread) -> anyhow::Result<()> {
    // Each sensor's connections are open files.
    open_files::raise(0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(serve(config, reread));
    // A request that is still read from the disk would hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    served
}

async fn serve(config: Config, reread: Reread) -> anyhow::Result<()> {
    for line in config.to_string().lines() {
        if let Some(warning) = line.strip_prefix("warning: ") {
            tracing::warn!("{warning}");
        } else {
            tracing::info!("{line}");
        }
    }
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let service = service::start_rereading(config, Clock::system(), reread).await?;
    tell_systemd("READY=1");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                tell_systemd(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_microseconds()));
                // What came of it, and a mistake too, is in the log.
                let _ = service.reload(ReloadRequest::default()).await;
                tell_systemd("READY=1");
            }
        }
    }
    tracing::info!("stopping");
    tell_systemd("STOPPING=1");
    service.stop().await;
    Ok(())
}

/// The time by which systemd sees that a reload began after it was asked for.
fn monotonic_microseconds() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// Tells systemd how the service is (`sd_notify(3)`), where systemd asked for it.
fn tell_systemd(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let told = address.and_then(|address| {
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    });
    if let Err(error) = told {
        tracing::warn!(%error, "systemd cannot be told {state}");
    }
}
