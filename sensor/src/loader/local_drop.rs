//! The object `local_drop` in the loader.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use atalaya_sensor_ebpf::local_drop::{
    ALLOW_MAP, BANS_MAP, DROP_PROGRAM, KINDS_MAP, PREFIXES_MAP, TOTALS_MAP, VERSION,
};
use aya::programs::Xdp;

use crate::channel::local_drop::{SHOWN, Settings, WantedLocalDrop};
use crate::channel::{Program, ProgramState};
use crate::loader::object::{Kit, Object, Refusal};
use crate::loader::part::{MapDescriptors, Part};
use crate::pinned::Mode;
use crate::pinned::bans::Bans;
use crate::pinned::interfaces::{self, Choice, Interface};
use crate::pinned::pins::Pins;

mod links;

/// The object of `sensor-ebpf/src/bin/local_drop`, as the build script compiled it.
pub static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/local_drop"));

/// All maps; all are pinned.
const MAPS: [&str; 5] = [BANS_MAP, PREFIXES_MAP, ALLOW_MAP, KINDS_MAP, TOTALS_MAP];

/// The XDP program that drops what banned addresses send.
#[derive(Default)]
pub struct LocalDropPart {
    running: Option<Standing>,
    programs: Vec<Program>,
}

/// The object that is loaded, with the settings that it has now.
struct Standing {
    object: Object,
    pins: Pins,
    settings: Settings,
    /// Where its maps are pinned.
    maps: PathBuf,
    /// Interfaces where this very program runs, by number.
    taken: BTreeMap<u32, Mode>,
    /// Whether programs of another release are left in place, until the worker has filled the new maps.
    waits: bool,
}

// === impl LocalDropPart ===

impl LocalDropPart {
    /// Brings what is loaded, and what is pinned, to what is wanted. Without a word on it nothing is touched.
    pub fn want(&mut self, wanted: Option<&WantedLocalDrop>, kit: &Kit) -> Option<MapDescriptors> {
        let wanted = wanted?;
        let pins = Pins::at(&wanted.pins);
        let Some(settings) = &wanted.settings else {
            self.running = None;
            let mut reason = "`local_drop` is not on".to_owned();
            match pins.remove() {
                Ok(false) => {}
                Ok(true) => tracing::info!("local drop: what an earlier run left in place is removed"),
                Err(error) => {
                    reason = format!("{reason}, but {} cannot be removed: {error}", pins.path().display());
                }
            }
            self.programs = vec![Program::not_on(SHOWN, ProgramState::Off, reason)];
            return None;
        };
        if let Some(running) = &mut self.running
            && running.settings.max_entries == settings.max_entries
        {
            running.settings = settings.clone();
            self.programs = vec![running.sync()];
            return None;
        }
        match load(kit, &pins, settings) {
            Ok((mut running, handed)) => {
                self.programs = vec![running.sync()];
                self.running = Some(running);
                Some(handed)
            }
            Err(refusal) => {
                self.programs = vec![refusal.program(SHOWN)];
                None
            }
        }
    }
}

impl Part for LocalDropPart {
    fn look(&mut self) {
        if let Some(running) = &mut self.running {
            running.waits = false;
            self.programs = vec![running.sync()];
        }
    }

    fn programs(&self) -> Vec<Program> {
        self.programs.clone()
    }

    fn object(&mut self) -> Option<&mut Object> {
        self.running.as_mut().map(|running| &mut running.object)
    }
}

/// Loads the object with the maps that are pinned, or with new ones, which get what stands in those of
/// another size. Nothing is attached yet.
fn load(kit: &Kit, pins: &Pins, settings: &Settings) -> Result<(Standing, MapDescriptors), Refusal> {
    let maps = pins.make(VERSION, settings.max_entries).map_err(|error| unpinnable(pins, &error))?;
    let object = kit.load(OBJECT, |loader| {
        for name in MAPS {
            loader.map_pin_path(name, maps.join(name));
        }
        for name in [BANS_MAP, PREFIXES_MAP] {
            loader.map_max_entries(name, settings.max_entries);
        }
    });
    let mut object = object?;
    let program: &mut Xdp = object.program(DROP_PROGRAM)?;
    program.load().map_err(|error| Refusal::of(&error))?;
    let mut waits = false;
    for other in pins.other_maps(&maps) {
        if Pins::is_of_version(&other, VERSION) {
            let copied = Bans::pinned(&other).and_then(|from| Bans::pinned(&maps)?.copy(&from));
            if let Err(error) = copied {
                tracing::warn!(%error, "local drop: the bans of the maps of another size are not taken over");
            }
        } else {
            waits |= !pins.links().is_empty();
        }
    }
    let handed = object.maps(&MAPS)?;
    let pins = pins.clone();
    let settings = settings.clone();
    Ok((Standing { object, pins, settings, maps, taken: BTreeMap::new(), waits }, handed))
}

// === impl Standing ===

impl Standing {
    /// Brings the links to the interfaces that are chosen now, and removes the maps of before.
    fn sync(&mut self) -> Program {
        let choice = interfaces::choose(self.settings.interfaces.as_deref());
        if self.waits {
            let reason =
                "the program of another release still drops, until the bans stand in the maps of this one";
            return self.object.on(SHOWN, DROP_PROGRAM, reason);
        }
        let refused = match self.sync_links(&choice) {
            Ok(refused) => refused,
            Err(refusal) => return refusal.program(SHOWN),
        };
        for other in self.pins.other_maps(&self.maps) {
            if let Err(error) = std::fs::remove_dir_all(&other) {
                tracing::warn!(path = %other.display(), %error, "local drop: the maps of before cannot be removed");
            }
        }
        self.tell(&choice, refused)
    }

    /// What was refused: interface and reason.
    fn sync_links(&mut self, choice: &Choice) -> Result<Vec<(String, String)>, Refusal> {
        let Self { object, pins, settings, taken, .. } = self;
        let program: &mut Xdp = object.program(DROP_PROGRAM)?;
        let mut refused = Vec::new();
        let mut pinned = BTreeMap::new();
        for link in pins.links() {
            let is_chosen = choice.interfaces.iter().any(|interface| interface.index == link.interface);
            let is_so = settings.mode == Mode::Auto || settings.mode == link.mode;
            let is_new = !taken.contains_key(&link.interface);
            let is_held = is_chosen && is_so && (!is_new || taken_over(program, &link.path));
            if is_held {
                pinned.insert(link.interface, link.mode);
            } else if let Err(error) = std::fs::remove_file(&link.path) {
                tracing::warn!(path = %link.path.display(), %error, "local drop: a link cannot be removed");
            }
        }
        for interface in &choice.interfaces {
            if pinned.contains_key(&interface.index) {
                continue;
            }
            match links::attach(program, interface, settings.mode, pins) {
                Ok(mode) => {
                    tracing::info!(interface = interface.name, %mode, "local drop: attached");
                    pinned.insert(interface.index, mode);
                }
                Err(why) => refused.push((interface.name.clone(), why)),
            }
        }
        *taken = pinned;
        Ok(refused)
    }

    fn tell(&self, choice: &Choice, refused: Vec<(String, String)>) -> Program {
        let attached = |interface: &Interface| {
            self.taken.get(&interface.index).map(|mode| format!("{} ({mode})", interface.name))
        };
        let on: Vec<String> = choice.interfaces.iter().filter_map(attached).collect();
        let is_refused = !refused.is_empty();
        let not = choice.not.iter().cloned().chain(refused);
        let not: Vec<String> = not.map(|(name, why)| format!("not on {name}: {why}")).collect();
        if !on.is_empty() {
            return self.object.on(SHOWN, DROP_PROGRAM, [vec![on.join(", ")], not].concat().join("; "));
        }
        if is_refused {
            return Refusal::because(not.join("; ")).program(SHOWN);
        }
        let none = match &self.settings.interfaces {
            Some(_) => String::new(),
            None => {
                "no interface has a default route or a global address: name some in `interfaces`".to_owned()
            }
        };
        let reason =
            [vec![none].into_iter().filter(|none| !none.is_empty()).collect(), not].concat().join("; ");
        Program::not_on(SHOWN, ProgramState::Off, reason)
    }
}

/// Whether the link that an earlier program left is this one's now.
fn taken_over(program: &mut Xdp, path: &std::path::Path) -> bool {
    match links::take_over(program, path) {
        Ok(()) => true,
        Err(why) => {
            tracing::debug!("local drop: {why}; the program is attached anew");
            false
        }
    }
}

fn unpinnable(pins: &Pins, error: &io::Error) -> Refusal {
    Refusal::because(format!(
        "bans cannot be pinned in {}: {error}; the file system bpf must be there and writable: mount -t bpf bpf /sys/fs/bpf",
        pins.path().display()
    ))
}
