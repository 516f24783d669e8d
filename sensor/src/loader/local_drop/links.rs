//! Holds the program on its interfaces through links that are pinned, so that it stays there without a sensor.

use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode};
use rustix::io::Errno;

use crate::pinned::Mode;
use crate::pinned::interfaces::Interface;
use crate::pinned::pins::Pins;

/// Puts the program in the place of the one that a pinned link holds, in one step: between two packets.
pub fn take_over(program: &mut Xdp, pinned: &Path) -> Result<(), String> {
    let failed =
        |error: &dyn std::error::Error| format!("the link {} is of no use: {error}", pinned.display());
    let link = PinnedLink::from_pin(pinned).map_err(|error| failed(&error))?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(|error| failed(&error))?;
    let id = program.attach_to_link(link).map_err(|error| failed(&error))?;
    // The pin alone holds the link, so that removing it detaches.
    program.take_link(id).map(drop).map_err(|error| failed(&error))
}

/// Attaches the program to an interface that has none, and pins the link; how it runs there, or why it
/// cannot. A program of someone else is left where it is.
pub fn attach(program: &mut Xdp, interface: &Interface, mode: Mode, pins: &Pins) -> Result<Mode, String> {
    let modes: &[_] = match mode {
        Mode::Auto => &[(Mode::Native, XdpMode::Driver), (Mode::Generic, XdpMode::Skb)],
        Mode::Native => &[(Mode::Native, XdpMode::Driver)],
        Mode::Generic => &[(Mode::Generic, XdpMode::Skb)],
    };
    let mut refusal = String::new();
    for (mode, flag) in modes {
        match program.attach_to_if_index(interface.index, *flag) {
            Ok(id) => {
                pin(program, id, &pins.link(interface.index, *mode))?;
                return Ok(*mode);
            }
            Err(error) if matches!(errno(&error), Some(Errno::BUSY | Errno::EXIST)) => {
                return Err(format!(
                    "another XDP program is attached there, which is left alone: see `ip link show {}`, detach it, or name other `interfaces`",
                    interface.name
                ));
            }
            Err(error) => {
                tracing::debug!(interface = interface.name, %mode, ?error, "XDP cannot be attached so");
                refusal = match errno(&error) {
                    Some(Errno::OPNOTSUPP) => format!("its driver has no {mode} XDP"),
                    Some(errno) => format!("{mode} XDP is refused: {errno}"),
                    None => format!("{mode} XDP is refused: {error}"),
                };
            }
        }
    }
    Err(refusal)
}

fn pin(program: &mut Xdp, id: XdpLinkId, path: &Path) -> Result<(), String> {
    let link = program.take_link(id).map_err(|error| error.to_string())?;
    let link = FdLink::try_from(link)
        .map_err(|_| "this kernel has no links for XDP: 5.9 or later is needed".to_owned())?;
    link.pin(path).map(drop).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("the link cannot be pinned at {}: {error}{cause}", path.display())
    })
}

/// The kernel's number of what went wrong, wherever in the error it is.
fn errno(error: &ProgramError) -> Option<Errno> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Errno::from_io_error(error);
        }
        next = error.source();
    }
    None
}
