//! `unload`: removes all that the local drop left in the kernel.

use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::pinned::pins::{PinnedLink, Pins};
use crate::store;

/// Removes what is pinned, and says what it was. `state` is the sensor's state folder; with `all` what other sensors left
/// goes too, and an unknown one does not matter.
pub fn run(state: anyhow::Result<PathBuf>, all: bool) -> anyhow::Result<()> {
    let state = match state {
        Ok(state) => state,
        // A sensor that is being removed may have no configuration any more.
        Err(_) if all => PathBuf::new(),
        Err(error) => return Err(error),
    };
    let own = Pins::of_state(&state);
    if store::is_locked(&state) {
        bail!(
            "a sensor runs on {} and would go on dropping: stop it first, or write `local_drop = false` and run `atalaya-sensor reload`",
            state.display()
        );
    }
    let (wanted, others): (Vec<_>, Vec<_>) = Pins::of_all().into_iter().partition(|pins| all || *pins == own);
    if wanted.is_empty() {
        println!("nothing is left in the kernel by a sensor on {}", state.display());
    }
    for pins in wanted {
        let interfaces: Vec<String> = pins.links().iter().map(PinnedLink::to_string).collect();
        pins.remove().with_context(|| format!("cannot remove {}", pins.path().display()))?;
        let detached = if interfaces.is_empty() {
            String::new()
        } else {
            format!("; detached from {}", interfaces.join(", "))
        };
        println!("removed {}{detached}", pins.path().display());
    }
    for pins in others {
        println!(
            "left alone, of a sensor with another `state`: {} (--all removes it)",
            pins.path().display()
        );
    }
    Ok(())
}
