//! The libraries' files that programs are attached to, and who needs each: roots in which a name leads to it, and
//! processes that run on it although no name does any more, for it was replaced or removed under them. A file
//! is let go of when nobody needs it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeLinkId, UProbeScope};

use super::WantedLogins;
use super::holder::{self, Holder};
use super::hook::{HOOKS, Hook, Library};
use super::library::{FileKey, FoundLibrary};
use super::roots::RootKey;
use super::survey::{Held, Mapping, OpenError, OpenedLibrary, Surveyed};
use crate::loader::elf;
use crate::loader::object::{Object, Refusal};

/// The most files of a root's that no name leads to any more; the oldest of more is let go of.
const MOST_OLD: usize = 16;
/// In how many looks nobody must be found on such a file: a process may have been between two others, or on its way.
const LOOKS: u8 = 2;
/// The most processes that are remembered of a file.
const MOST_HOLDERS: usize = 4096;

/// What is attached, in the programs of one object.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub by_key: HashMap<FileKey, Attached>,
    /// The loaded programs, by that of the hook that they are for.
    chosen: HashMap<&'static str, &'static str>,
    /// Those that the kernel refused.
    pub refused: HashMap<&'static str, Refusal>,
    /// Those that cannot do their work on this kernel.
    useless: HashMap<&'static str, Refusal>,
    /// Whether PAM reports to libaudit, by root.
    reports: HashMap<Option<RootKey>, bool>,
    /// Counts the times that a name was lost.
    losses: u64,
}

/// A file that is attached to.
#[derive(Debug)]
pub(super) struct Attached {
    pub library: Library,
    /// The root through which it was opened: one of those that need it.
    pub via: Option<RootKey>,
    pub needs: HashMap<Option<RootKey>, Need>,
    /// By the hook's number.
    pub links: HashMap<usize, UProbeLinkId>,
    /// What could not be attached, by the hook's number.
    pub troubles: HashMap<usize, Refusal>,
    /// Whether it is another kind of machine's, as 32-bit programs have theirs.
    is_alien: bool,
}

/// Why a root needs a file.
#[derive(Debug, Default)]
pub(super) struct Need {
    /// Its name there, now or once.
    pub path: String,
    /// Whether that still leads to it; if not, these keep it.
    pub named: bool,
    pub holders: Vec<Holder>,
    /// Which loss of a name it was.
    loss: u64,
    /// In how many looks at all processes since nobody was found.
    looks: u8,
    /// Whether not all processes could be looked at.
    unsure: bool,
    /// Whose these are, once they were told of.
    pub told: Option<String>,
}

/// Logs what happens to this host's libraries; of a container's, which it can change as often as it likes, only
/// where that is asked for.
macro_rules! tell {
    ($of:expr, $level:ident, $($what:tt)+) => {
        if $of.is_none() { tracing::$level!($($what)+) } else { tracing::debug!($($what)+) }
    };
}

/// Opens a file once more, by its path below a root.
pub(super) type Open<'a> = dyn Fn(Option<RootKey>, &str) -> Option<(File, FileKey)> + 'a;

// === impl Files ===

impl Files {
    /// With programs that are refused, for they cannot do their work on this kernel.
    pub(super) fn without(useless: HashMap<&'static str, Refusal>) -> Self {
        Self { refused: useless.clone(), useless, ..Self::default() }
    }

    /// Says to which files the names of a root lead now, and attaches to them; whether a name was lost.
    pub(super) fn name(
        &mut self,
        of: Option<RootKey>,
        found: Vec<FoundLibrary>,
        wanted: WantedLogins,
        object: &mut Object,
    ) -> bool {
        self.note_reports(of, &found);
        let keys: HashSet<FileKey> = found.iter().map(|found| found.key).collect();
        for FoundLibrary { library, key, file, path } in found {
            self.rewritten(key, object);
            let attached = self.by_key.entry(key).or_insert_with(|| Attached::new(library, of));
            attached.needs.insert(of, Need { path: format!("/{path}"), named: true, ..Need::default() });
            // A file that the host has too is the host's.
            if of.is_none() && attached.via.is_some() {
                self.detach(key, object);
            }
            self.attach(key, of, &file, wanted, object);
        }
        self.losses += 1;
        let mut lost = Vec::new();
        for attached in
            self.by_key.iter_mut().filter(|(key, _)| !keys.contains(key)).map(|(_, attached)| attached)
        {
            if let Some(need) = attached.needs.get_mut(&of).filter(|need| need.named) {
                (need.named, need.loss) = (false, self.losses);
                lost.push(attached.library);
            }
        }
        for library in &lost {
            let files = keys.iter().filter_map(|key| self.by_key.get(key));
            let now = files.filter(|attached| attached.library == *library && !attached.links.is_empty());
            for path in now.filter_map(|attached| Some(&attached.needs.get(&of)?.path)) {
                tell!(of, info, path, "a library was replaced: the new file is probed");
            }
        }
        while self.old(of).count() > MOST_OLD {
            let oldest = self.old(of).min_by_key(|(_, need)| need.loss).map(|(key, _)| key);
            tell!(
                of,
                warn,
                MOST_OLD,
                "too many libraries were replaced under running programs: the oldest is let go of"
            );
            oldest.and_then(|key| self.by_key.get_mut(&key)?.needs.remove(&of));
        }
        !lost.is_empty()
    }

    /// Lets go of files that nothing else needs than this root, whose last process ended; `None` is this host's.
    pub(super) fn forget(&mut self, of: Option<RootKey>) {
        self.reports.remove(&of);
        self.by_key.values_mut().for_each(|attached| drop(attached.needs.remove(&of)));
    }

    /// Takes what was found of the processes, and attaches to what is not known yet and wanted; the roots in which of
    /// some file nobody is left.
    pub(super) fn survey(
        &mut self,
        mut surveyed: Surveyed,
        wanted: WantedLogins,
        object: &mut Object,
    ) -> HashSet<Option<RootKey>> {
        let mut holders: HashMap<(FileKey, Option<RootKey>), Vec<Mapping>> = HashMap::new();
        for mapping in std::mem::take(&mut surveyed.found) {
            let of = mapping.of;
            if let Some(opened) = surveyed.opened.remove(&(of, mapping.key)) {
                self.adopt(of, mapping.key, opened, wanted, object);
            }
            if let Some(key) = self.known(&mapping) {
                holders.entry((key, of)).or_default().push(mapping);
            }
        }
        for ((key, of), mappings) in &holders {
            let Some(attached) = self.by_key.get_mut(key) else { continue };
            // Another root's file, which is mounted into this one, is kept by its name there as long as it has one.
            if !attached.needs.values().any(|need| need.named) && !attached.needs.contains_key(of) {
                let path = attached.needs.values().next().map(|need| need.path.clone()).unwrap_or_default();
                attached.needs.insert(*of, Need { path, loss: self.losses, ..Need::default() });
            }
            if let Some(need) = attached.needs.get_mut(of).filter(|need| !need.named) {
                need.looks = 0;
                holder::renew(&mut need.holders, mappings.iter().take(MOST_HOLDERS));
            }
        }
        let mut unheld = HashSet::new();
        for (key, attached) in &mut self.by_key {
            for (of, need) in attached.needs.iter_mut().filter(|(_, need)| !need.named) {
                need.holders.retain(|holder| !surveyed.ended.contains(&holder.held(*key)));
                if surveyed.of.contains(of) {
                    need.unsure = surveyed.unsure.contains(of);
                    // What lost its name while they were looked at waits for the next time.
                    if !need.unsure && !holders.contains_key(&(*key, *of)) && need.loss <= surveyed.asked {
                        need.holders.clear();
                        need.looks += 1;
                    }
                }
                if need.holders.is_empty() && !need.unsure {
                    unheld.insert(*of);
                }
            }
        }
        self.tell();
        unheld
    }

    /// Tells of those that run on what was replaced.
    fn tell(&mut self) {
        let outdated = |(key, attached): (&FileKey, &Attached)| {
            let needs = attached.needs.iter();
            let untold = needs.filter(|(of, need)| {
                need.told.is_none() && !need.holders.is_empty() && self.is_outdated(**of, attached)
            });
            untold.map(|(of, _)| (*key, *of)).collect::<Vec<_>>()
        };
        let outdated: Vec<_> = self.by_key.iter().flat_map(outdated).collect();
        for (key, of) in outdated {
            let Some(need) = self.by_key.get_mut(&key).and_then(|attached| attached.needs.get_mut(&of))
            else {
                continue;
            };
            let Some(first) = need.holders.first().map(Holder::process) else { continue };
            let place = of.map_or_else(|| "this host".to_owned(), |_| holder::place_of(first));
            let (path, processes) = (&need.path, need.holders.len());
            tell!(
                of,
                info,
                path,
                processes,
                place,
                "programs run on with a library that was replaced: `status` names them"
            );
            need.told = Some(place);
        }
    }

    /// Brings all to what is wanted and needed: lets go of what nobody needs, opens through another root what the
    /// one that it was opened through needs no more, attaches what could not be. The roots through whose processes
    /// alone something can be opened, which a look at them does.
    pub(super) fn settle(
        &mut self,
        wanted: WantedLogins,
        object: &mut Object,
        open: &Open<'_>,
    ) -> HashSet<Option<RootKey>> {
        let mut through_processes = HashSet::new();
        let all: Vec<FileKey> = self.by_key.keys().copied().collect();
        for key in all {
            self.drop_needs(key, wanted);
            let Some(attached) = self.by_key.get(&key) else { continue };
            let is_via_needed = attached.needs.contains_key(&attached.via);
            if is_via_needed && self.is_as_asked(attached, wanted) {
                continue;
            }
            let mut vias: Vec<Option<RootKey>> = attached.needs.keys().copied().collect();
            // A name is sure to lead to it, and this host's root stays.
            vias.sort_by_key(|via| (*via != attached.via, !attached.needs[via].named, *via));
            let opened = vias.iter().filter(|via| attached.needs[*via].named).find_map(|via| {
                let (file, opened) = open(*via, &attached.needs[via].path)?;
                (opened == key).then_some((*via, file))
            });
            if !is_via_needed {
                self.detach(key, object);
            }
            match (opened, vias.first()) {
                (Some((via, file)), _) => self.attach(key, via, &file, wanted, object),
                (None, Some(via)) if !is_via_needed => {
                    through_processes.extend(vias.iter().copied());
                    self.by_key.entry(key).and_modify(|attached| attached.via = *via);
                }
                (None, Some(_)) => {}
                (None, None) => drop(self.by_key.remove(&key)),
            }
        }
        through_processes
    }

    /// The processes that run on files that no name leads to.
    pub(super) fn holders(&self) -> Vec<(Option<RootKey>, Held)> {
        let mut holders = Vec::new();
        for (key, attached) in &self.by_key {
            for (of, need) in attached.needs.iter().filter(|(_, need)| !need.named) {
                holders.extend(need.holders.iter().map(|holder| (*of, holder.held(*key))));
            }
        }
        holders
    }

    /// The files to which all is attached that is wanted.
    pub(super) fn attached(&self, wanted: WantedLogins) -> HashSet<FileKey> {
        let files = self.by_key.iter();
        files.filter(|(_, attached)| self.is_as_asked(attached, wanted)).map(|(key, _)| *key).collect()
    }

    /// The roots whose programs may run on files that no name leads to.
    pub(super) fn with_old(&self) -> HashSet<Option<RootKey>> {
        let needs = self.by_key.values().flat_map(|attached| &attached.needs);
        needs.filter(|(_, need)| !need.named).map(|(of, _)| *of).collect()
    }

    /// Lets the kernel be asked once more for what it refused.
    pub(super) fn forget_refused(&mut self) {
        self.refused.clone_from(&self.useless);
    }

    /// How many names were lost.
    pub(super) fn losses(&self) -> u64 {
        self.losses
    }

    /// The numbers of the files' inodes.
    pub(super) fn inodes(&self) -> HashSet<u64> {
        self.by_key.keys().map(FileKey::inode).collect()
    }

    /// Whether a file that a root has no name for was replaced there.
    pub(super) fn is_outdated(&self, of: Option<RootKey>, attached: &Attached) -> bool {
        if attached.needs.get(&of).is_none_or(|need| need.named) {
            return false;
        }
        let names = |other: &Attached| other.needs.get(&of).is_some_and(|need| need.named);
        let has_another = self.by_key.values().any(|other| other.library == attached.library && names(other));
        has_another || !attached.needs.values().any(|need| need.named)
    }

    /// The files of a root that no name leads to.
    fn old(&self, of: Option<RootKey>) -> impl Iterator<Item = (FileKey, &Need)> {
        let needs =
            self.by_key.iter().filter_map(move |(key, attached)| Some((*key, attached.needs.get(&of)?)));
        needs.filter(|(_, need)| !need.named)
    }

    /// The file that a process was found on.
    fn known(&self, mapping: &Mapping) -> Option<FileKey> {
        [mapping.key, mapping.key.on_overlay()].into_iter().find(|key| self.by_key.contains_key(key))
    }

    /// Attaches to a library that was found in a process.
    fn adopt(
        &mut self,
        of: Option<RootKey>,
        key: FileKey,
        opened: OpenedLibrary,
        wanted: WantedLogins,
        object: &mut Object,
    ) {
        let OpenedLibrary { library, path, file, .. } = opened;
        let (file, key) = match file {
            Ok((file, key)) => (Ok(file), key),
            // It is known of, and no more.
            Err(error @ OpenError::BelowCopy) => (Err(error), key.on_overlay()),
            Err(error) => {
                tracing::debug!(path, %error, "not opened through a process");
                return;
            }
        };
        let is_new = !self.by_key.contains_key(&key);
        if is_new && (!self.any_asked(library, of, wanted) || self.old(of).count() >= MOST_OLD) {
            return;
        }
        let loss = self.losses;
        let attached = self.by_key.entry(key).or_insert_with(|| Attached::new(library, of));
        attached.needs.entry(of).or_insert_with(|| Need { path, loss, ..Need::default() });
        match file {
            Ok(file) => self.attach(key, of, &file, wanted, object),
            Err(error) => {
                let hooks = HOOKS.iter().enumerate().filter(|(_, hook)| hook.library == library);
                let troubles = hooks.map(|(number, _)| (number, Refusal::because(error.to_string())));
                attached.troubles.extend(troubles);
            }
        }
    }

    /// Whether PAM in a root reports to libaudit. While its file is away, or not whole, what was before holds.
    fn note_reports(&mut self, of: Option<RootKey>, found: &[FoundLibrary]) {
        let pam = found.iter().find(|found| found.library == Library::Pam);
        let audit = Library::Audit.names()[0];
        match pam.map(|pam| elf::SymbolTables::read(&pam.file)) {
            Some(Ok(pam)) => drop(self.reports.insert(of, pam.needs(audit))),
            Some(Err(_)) => drop(self.reports.entry(of).or_insert(false)),
            // Where there is no libpam nothing is lost by asking for libaudit alone.
            None => drop(self.reports.entry(of).or_insert(true)),
        }
    }

    fn any_asked(&self, library: Library, of: Option<RootKey>, wanted: WantedLogins) -> bool {
        let reports = self.reports.get(&of).copied().unwrap_or(true);
        HOOKS.iter().any(|hook| hook.library == library && hook.subject.wanted(wanted, of.is_none(), reports))
    }

    fn asked(&self, attached: &Attached, of: Option<RootKey>, hook: &Hook, wanted: WantedLogins) -> bool {
        let reports = self.reports.get(&of).copied().unwrap_or(true);
        hook.library == attached.library
            && hook.subject.wanted(wanted, of.is_none(), reports)
            && !self.refused.contains_key(hook.program)
            && !attached.is_alien
    }

    fn is_as_asked(&self, attached: &Attached, wanted: WantedLogins) -> bool {
        let is_as_asked = |(number, hook): (usize, &Hook)| {
            let asked = self.asked(attached, attached.via, hook, wanted);
            asked == attached.links.contains_key(&number)
                && (asked || !attached.troubles.contains_key(&number))
        };
        HOOKS.iter().enumerate().all(is_as_asked)
    }

    /// A file that was written anew in its place holds other functions at other places.
    fn rewritten(&mut self, key: FileKey, object: &mut Object) {
        let before = self.by_key.keys().find(|before| before.was_rewritten(&key)).copied();
        if let Some(before) = before.filter(|_| !self.by_key.contains_key(&key)) {
            self.detach(before, object);
            if let Some(attached) = self.by_key.remove(&before) {
                self.by_key.insert(key, attached);
            }
        }
    }

    /// Drops the needs of a file that are none any more.
    fn drop_needs(&mut self, key: FileKey, wanted: WantedLogins) {
        let Some(attached) = self.by_key.get(&key) else { return };
        let is_none = |(of, need): &(&Option<RootKey>, &Need)| {
            !(need.named || need.is_held() && self.any_asked(attached.library, **of, wanted))
        };
        let none: Vec<Option<RootKey>> = attached.needs.iter().filter(is_none).map(|(of, _)| *of).collect();
        let Some(attached) = self.by_key.get_mut(&key) else { return };
        for of in none {
            if let Some(Need { path, told: Some(place), .. }) = attached.needs.remove(&of) {
                tell!(
                    of,
                    info,
                    path,
                    place,
                    "nobody runs on with the library that was replaced: it is let go of"
                );
            }
        }
    }

    /// Attaches what is wanted to a file through a root, and detaches what is not, unless it is attached through
    /// another.
    fn attach(
        &mut self,
        key: FileKey,
        via: Option<RootKey>,
        file: &File,
        wanted: WantedLogins,
        object: &mut Object,
    ) {
        let Some(mut attached) = self.by_key.remove(&key) else { return };
        if attached.links.is_empty() {
            attached.via = via;
        }
        if attached.via == via {
            self.bring(&mut attached, file, wanted, object);
        }
        self.by_key.insert(key, attached);
    }

    fn bring(&mut self, attached: &mut Attached, file: &File, wanted: WantedLogins, object: &mut Object) {
        let mut symbols = None;
        for (number, hook) in HOOKS.iter().enumerate().filter(|(_, hook)| hook.library == attached.library) {
            let asked = self.asked(attached, attached.via, hook, wanted);
            if !asked {
                attached.troubles.remove(&number);
            }
            if asked == attached.links.contains_key(&number) {
                continue;
            }
            if let Some(link) = attached.links.remove(&number) {
                self.unlink(number, link, object);
                continue;
            }
            let name = match self.choose(hook, object) {
                Ok(name) => name,
                Err(refusal) => {
                    self.refused.insert(hook.program, refusal);
                    continue;
                }
            };
            let because = |error: &std::io::Error| Refusal::because(error.to_string());
            let symbols = symbols.get_or_insert_with(|| elf::SymbolTables::read(file));
            if symbols.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::Unsupported) {
                attached.is_alien = true;
                return;
            }
            let outcome = symbols.as_ref().map_err(because).and_then(|symbols| {
                let offset = symbols.function(hook.function).map_err(|error| because(&error))?;
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let program: &mut UProbe = object.program(name)?;
                let link = program.attach(offset, Path::new(&path), UProbeScope::AllProcesses);
                link.map_err(|error| Refusal::of(&error))
            });
            match outcome {
                Ok(link) => {
                    attached.links.insert(number, link);
                    attached.troubles.remove(&number);
                }
                Err(refusal) => {
                    let path = attached.needs.get(&attached.via).map(|need| &need.path);
                    if attached.troubles.insert(number, refusal.clone()).as_ref() != Some(&refusal) {
                        let function = hook.function;
                        tell!(attached.via, warn, path, function, "not attached, and tried again: {refusal}");
                    }
                }
            }
        }
    }

    /// Detaches all from a file.
    fn detach(&mut self, key: FileKey, object: &mut Object) {
        let Some(attached) = self.by_key.get_mut(&key) else { return };
        attached.troubles.clear();
        attached.is_alien = false;
        for (number, link) in std::mem::take(&mut attached.links) {
            self.unlink(number, link, object);
        }
    }

    fn unlink(&self, number: usize, link: UProbeLinkId, object: &mut Object) {
        let hook = &HOOKS[number];
        let program: Result<&mut UProbe, Refusal> = object.program(self.chosen(hook.program));
        if let Ok(program) = program
            && let Err(error) = program.detach(link)
        {
            tracing::debug!(%error, function = hook.function, "not detached");
        }
    }

    /// Loads a hook's program, unless it is loaded, or where the kernel refuses it the one that stands in for it;
    /// which it was. Where both are refused, the first one's reason is the one to tell.
    fn choose(&mut self, hook: &Hook, object: &mut Object) -> Result<&'static str, Refusal> {
        if let Some(name) = self.chosen.get(hook.program) {
            return Ok(name);
        }
        let mut load = |name: &'static str| {
            let program: &mut UProbe = object.program(name)?;
            program.load().map_err(|error| Refusal::of(&error)).map(|()| name)
        };
        let name = load(hook.program).or_else(|refusal| {
            hook.instead.ok_or(()).and_then(|other| load(other).map_err(|_| ())).map_err(|()| refusal)
        })?;
        self.chosen.insert(hook.program, name);
        Ok(name)
    }

    /// The program that runs in the place of this one: itself, unless the kernel refused it.
    pub(super) fn chosen(&self, program: &'static str) -> &'static str {
        self.chosen.get(program).copied().unwrap_or(program)
    }
}

// === impl Attached ===

impl Attached {
    fn new(library: Library, via: Option<RootKey>) -> Self {
        let (needs, links, troubles) = Default::default();
        Self { library, via, needs, links, troubles, is_alien: false }
    }
}

// === impl Need ===

impl Need {
    /// Whether processes may still run on a file that has no name.
    fn is_held(&self) -> bool {
        !self.holders.is_empty() || self.unsure || self.looks < LOOKS
    }
}
