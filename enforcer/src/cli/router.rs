//! `router add` and `router check`: making a router ready for bans, and looking whether it is.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

mod add;
mod apply;
mod check;
mod hush;
mod own;
pub mod prompt;
mod section;
mod unfinished;

pub use prompt::Prompt;

/// The examples of `router --help`.
pub const EXAMPLES: &str = "Examples:\n  \
    atalaya-enforcer router add edge --address 192.0.2.1 --apply\n  \
    atalaya-enforcer router check";

#[derive(clap::Subcommand)]
pub enum RouterCommand {
    /// Connect to a router, print the RouterOS commands for what is missing or do them, and configure it
    Add(add::Arguments),
    /// Look whether the routers are ready for bans; exit status 1 where there is a fault
    Check(check::Arguments),
}

// === impl RouterCommand ===

impl RouterCommand {
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match self {
            Self::Add(add) => add.run(config, out),
            Self::Check(check) => check.run(config, out),
        }
    }
}
