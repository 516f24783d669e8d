//! The first process of a virtual machine: makes the machine usable, runs the real sensor with every source of the
//! kernel, gives each something to see, reports, and switches the machine off. What it may use is in the
//! initramfs that `cargo xtask vm` made; tracefs is left unmounted on purpose, so that the sensor has to cope.

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result, bail};
use kernel_init::{Outcome, PORT, Report};
use rustix::system::RebootCommand;

mod checks;
mod ground;
mod knock;
mod sensor;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if !rustix::process::getpid().is_init() {
        if arguments.next().as_deref() == Some(knock::COMMAND) {
            return knock::run(arguments);
        }
        bail!("this is the first process of a virtual machine: run `cargo xtask vm`");
    }
    if let Err(error) = run() {
        eprintln!("kernel-init: {error:#}");
    }
    rustix::fs::sync();
    rustix::system::reboot(RebootCommand::PowerOff).context("the machine does not switch off")?;
    Ok(())
}

fn run() -> Result<()> {
    ground::lay()?;
    let mut port = Port(File::options().write(true).open(PORT).with_context(|| PORT.to_owned())?);
    port.say(&Report::Kernel { release: ground::release(), lockdown: ground::lockdown()? })?;
    let tried = checks::run(&mut |report| port.say(&report));
    if let Err(error) = &tried {
        port.say(&Report::Check {
            name: "the machine can be used".to_owned(),
            outcome: Outcome::Failed,
            detail: format!("{error:#}"),
        })?;
    }
    port.say(&Report::End { success: tried.is_ok_and(|held| held) })
}

/// The serial port that is heard outside.
struct Port(File);

// === impl Port ===

impl Port {
    fn say(&mut self, report: &Report) -> Result<()> {
        let line = serde_json::to_string(report)?;
        // Drained before the next: the machine may end at any moment.
        writeln!(self.0, "{line}").and_then(|()| Ok(rustix::termios::tcdrain(&self.0)?)).context(PORT)
    }
}
