//! The log on standard error.

use std::io::IsTerminal;

use anyhow::Context;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How the log is written.
#[derive(Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// A line for a person
    Text,
    /// A JSON object a line, for programs
    Json,
}

/// Starts it; `level` is a level or a filter, as of `--log`.
pub fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(level).with_context(|| format!("--log {level}: not a level or a filter"))?;
    // journald adds its own time.
    let under_journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    match (format, under_journald) {
        (LogFormat::Json, _) => log.json().flatten_event(true).init(),
        (LogFormat::Text, true) => log.without_time().init(),
        (LogFormat::Text, false) => log.init(),
    }
    Ok(())
}
