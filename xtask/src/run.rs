//! How the everyday commands run others: each is printed before it starts, with the reason.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// A command of cargo, at the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // .cargo/config.toml sets it for build scripts, and so for whatever `cargo xtask` runs.
    command.current_dir(root()).env_remove("CARGO_TERM_QUIET");
    command
}

/// The folder of the workspace's Cargo.toml.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds for a profile (`debug`, `release`).
pub fn programs(profile: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(profile)
}

/// Prints a command and why it runs, and runs it; a failure is an error.
pub fn announce(why: &str, command: &mut Command) -> Result<()> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            // Cargo's own path says less than its name.
            word.strip_suffix("/cargo").map_or_else(|| word.to_string(), |_| "cargo".to_owned())
        })
        .collect();
    let (bold, plain) = if std::io::stderr().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    eprintln!("{bold}$ {}{plain}   # {why}", words.join(" "));
    let status = command.status().with_context(|| format!("cannot start {}", words[0]))?;
    if !status.success() {
        bail!("`{}` failed ({status})", words.join(" "));
    }
    Ok(())
}

/// Becomes true at Ctrl-C, from the first call on: whoever asks looks at it, and cleans up before it ends.
pub fn interruption() -> Result<Arc<AtomicBool>> {
    static ASKED: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(interrupted) = &*asked {
        return Ok(interrupted.clone());
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let set = interrupted.clone();
    ctrlc::set_handler(move || set.store(true, Ordering::SeqCst))?;
    *asked = Some(interrupted.clone());
    Ok(interrupted)
}
