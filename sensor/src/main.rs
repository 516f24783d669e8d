//! `atalaya-sensor`: see the library.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use atalaya_program::causes::Causes;
use atalaya_program::log::tell_end;
use atalaya_sensor::cli::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::of_arguments(), loader) {
        Ok(code) => code,
        Err(error) => {
            tell_end("atalaya-sensor", &Causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Runs the privileged process.
#[cfg(feature = "kernel")]
fn loader(socket: OwnedFd) -> anyhow::Result<()> {
    let channel = atalaya_sensor::channel::socket::Channel::from_descriptor(socket);
    atalaya_sensor::loader::run(&channel)
}

#[cfg(not(feature = "kernel"))]
fn loader(_socket: OwnedFd) -> anyhow::Result<()> {
    anyhow::bail!("this sensor was built without the kernel's side")
}
