//! Brings what the kernel programs log (aya-log) into tracing.

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The target of these events.
pub const TARGET: &str = "atalaya_sensor::kernel";

/// The most verbose level that tracing wants now; the kernel programs skip what is below it.
pub fn level() -> aya_log::Level {
    if tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
        aya_log::Level::Debug
    } else {
        aya_log::Level::Warn
    }
}

/// Passes messages on until the task is dropped.
pub async fn drain(logger: EbpfLogger<Tracing>) -> std::io::Result<()> {
    // SAFETY: the logger owns its map's descriptor, gives the same one always, and lives in the `AsyncFd`.
    #[expect(unsafe_code, reason = "tokio's promise about the descriptor is the caller's to keep")]
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }?;
    loop {
        let mut ready = logger.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

/// A [`log::Log`] that makes tracing events.
#[derive(Clone, Copy, Debug)]
pub struct Tracing;

impl log::Log for Tracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // tracing wants levels and targets as constants.
        match record.level() {
            log::Level::Error => tracing::error!(target: TARGET, "{}", record.args()),
            log::Level::Warn => tracing::warn!(target: TARGET, "{}", record.args()),
            log::Level::Info => tracing::info!(target: TARGET, "{}", record.args()),
            log::Level::Debug => tracing::debug!(target: TARGET, "{}", record.args()),
            log::Level::Trace => tracing::trace!(target: TARGET, "{}", record.args()),
        }
    }

    fn flush(&self) {}
}
