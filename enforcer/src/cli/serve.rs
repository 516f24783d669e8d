//! `atalaya-enforcer run`: the signals, and systemd's readiness around the service.

use anyhow::Context;
use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::config::Config;
use atalaya_enforcer::control::reload::ReloadRequest;
use atalaya_enforcer::service::{self, Reread};
use atalaya_program::open_files;
use atalaya_program::systemd::Systemd;
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
    let systemd = Systemd::of_environment();
    let watchdog = tokio::spawn(systemd.clone().keep_watchdog());
    let service = service::start_rereading(config, Clock::system(), reread).await?;
    systemd.ready();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                systemd.reloading();
                // What came of it, and a mistake too, is in the log.
                let _ = service.reload(ReloadRequest::default()).await;
                systemd.ready();
            }
        }
    }
    tracing::info!("stopping");
    systemd.stopping();
    service.stop().await;
    watchdog.abort();
    Ok(())
}
