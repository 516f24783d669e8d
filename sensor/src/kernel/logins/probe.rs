//! The part: loads the object, attaches its programs to the libraries of this host and of each container, and
//! lets go of them.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::Path;

use atalaya_sensor_ebpf::logins::{
    ARRIVALS_MAP, ARRIVALS_PROGRAM, Arrival, DOUBTED_MAP, GLOBALS, LOGINS_MAP, SYSLOG_MAP,
};
use atalaya_sensor_ebpf::losses::LOSSES_MAP;
use aya::maps::{MapData, RingBuf};
use aya::programs::uprobe::{UProbeLinkId, UProbeScope};
use aya::programs::{BtfTracePoint, UProbe};

use super::Wanted;
use super::hook::{HOOKS, Hook, Library, Subject};
use super::library::{self, FileKey, Found};
use super::roots::{self, Changes, RootKey, Roots};
use super::vouch::{self, Vouch};
use crate::kernel::elf;
use crate::kernel::layout::{Layout, LayoutError};
use crate::kernel::object::{Kit, Object, Refusal};
use crate::kernel::part::{Handed, Part};
use crate::kernel::{Program, ProgramState, tracefs};

/// How the program that watches for new containers is shown.
const ARRIVALS: &str = "logins: arrivals";
/// How many arrivals are looked at in one go.
const MOST_ARRIVALS: usize = 64;

/// The part.
#[derive(Default)]
pub struct Logins {
    wanted: Wanted,
    loaded: Option<Loaded>,
    /// Why the object is not loaded.
    refusal: Option<Refusal>,
}

struct Loaded {
    object: Object,
    roots: Roots,
    /// What is attached, by file.
    files: HashMap<FileKey, Attached>,
    /// What is attached to this host's own libraries.
    host: HashSet<FileKey>,
    /// What could not be, by subject.
    refusals: HashMap<Subject, Refusal>,
    arrivals: Result<RingBuf<MapData>, Refusal>,
    /// The loaded programs, by that of the hook that they are for.
    chosen: HashMap<&'static str, &'static str>,
}

struct Attached {
    /// Where it is, to be shown.
    path: String,
    /// The root through which it was opened; `None` for this host's.
    via: Option<RootKey>,
    /// All containers that have it.
    users: HashSet<RootKey>,
    /// By the hook's number.
    links: HashMap<usize, UProbeLinkId>,
}

// === impl Logins ===

impl Logins {
    /// Brings what is loaded to what is wanted.
    pub fn want(&mut self, wanted: Option<&Wanted>, kit: &Kit) -> Option<Handed> {
        self.wanted = wanted.copied().unwrap_or_default();
        if self.wanted == Wanted::default() {
            (self.loaded, self.refusal) = (None, None);
            return None;
        }
        if let Some(loaded) = &mut self.loaded {
            loaded.attach_everywhere(self.wanted);
            return None;
        }
        tracefs::mount_for_probes();
        match Loaded::new(kit) {
            Ok((mut loaded, handed)) => {
                loaded.attach_everywhere(self.wanted);
                self.loaded = Some(loaded);
                self.refusal = None;
                Some(handed)
            }
            Err(refusal) => {
                self.refusal = Some(refusal);
                None
            }
        }
    }

    /// Whether the word of a process outside of the host's mount namespace on an address counts.
    pub fn vouch(&self, process: u32, address: std::net::IpAddr) -> Vouch {
        self.loaded.as_ref().map_or(Vouch::Gone, |loaded| vouch::vouch(&loaded.roots, process, address))
    }
}

impl Part for Logins {
    fn look(&mut self) {
        if let Some(loaded) = &mut self.loaded {
            let changes = loaded.roots.look();
            loaded.follow(&changes, self.wanted);
            if changes.all {
                // Libraries may have been installed, or replaced, since.
                loaded.attach_everywhere(self.wanted);
            }
        }
    }

    fn waits(&mut self) -> Vec<BorrowedFd<'_>> {
        let Some(loaded) = &self.loaded else { return Vec::new() };
        let arrivals = loaded.arrivals.as_ref().ok().map(AsFd::as_fd);
        loaded.object.messages().into_iter().chain(arrivals).chain(loaded.roots.witnesses()).collect()
    }

    fn wake(&mut self) {
        let Some(loaded) = &mut self.loaded else { return };
        let changes = loaded.roots.ended();
        loaded.follow(&changes, self.wanted);
        for process in loaded.arrived() {
            let changes = loaded.roots.arrived(process);
            loaded.follow(&changes, self.wanted);
        }
    }

    fn programs(&self) -> Vec<Program> {
        if let Some(loaded) = &self.loaded {
            return loaded.programs(self.wanted);
        }
        let mut programs = Vec::new();
        for subject in Subject::ALL {
            let asked = subject.wanted(self.wanted, true, false);
            programs.push(match &self.refusal {
                Some(refusal) if asked => refusal.program(subject.shown()),
                _ => Program::not_on(subject.shown(), ProgramState::Off, subject.why_off(self.wanted)),
            });
        }
        programs
    }

    fn object(&mut self) -> Option<&mut Object> {
        self.loaded.as_mut().map(|loaded| &mut loaded.object)
    }
}

// === impl Loaded ===

impl Loaded {
    fn new(kit: &Kit) -> Result<(Self, Handed), Refusal> {
        let roots = Roots::new().map_err(|error| Refusal::of(&error))?;
        let globals = globals().unwrap_or_else(|error| {
            tracing::warn!("{error}: every login is checked with the loader, and keyboard-interactive is not seen through PAM");
            [0; GLOBALS.len()]
        });
        let known = globals[0] != 0;
        let mut object =
            kit.load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/logins")), |loader| {
                for (name, value) in GLOBALS.iter().zip(&globals) {
                    loader.override_global(name, value, true);
                }
            })?;
        let arrivals = if known {
            watch_arrivals(&mut object, kit)
        } else {
            Err(Refusal::because("the kernel has no type information"))
        };
        let handed = object.maps(&[LOGINS_MAP, DOUBTED_MAP, SYSLOG_MAP, LOSSES_MAP])?;
        let loaded = Self {
            object,
            roots,
            files: HashMap::new(),
            host: HashSet::new(),
            refusals: HashMap::new(),
            arrivals,
            chosen: HashMap::new(),
        };
        Ok((loaded, handed))
    }

    /// Lets go of roots that went, attaches in those that came.
    fn follow(&mut self, changes: &Changes, wanted: Wanted) {
        for key in &changes.went {
            self.release(key, wanted);
        }
        for key in &changes.came {
            self.attach_in(key, wanted);
        }
    }

    fn attach_everywhere(&mut self, wanted: Wanted) {
        match roots::host() {
            Ok(root) => {
                let found = library::find(&root, false);
                let keys = found.iter().map(|found| found.key).collect();
                self.attach(found, None, wanted);
                for gone in std::mem::replace(&mut self.host, keys) {
                    if !self.host.contains(&gone) {
                        self.drop_user(&gone, None, wanted);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "this host's root cannot be opened"),
        }
        let all: Vec<RootKey> = self.roots.keys().collect();
        for key in all {
            self.attach_in(&key, wanted);
        }
    }

    fn attach_in(&mut self, key: &RootKey, wanted: Wanted) {
        let Some(root) = self.roots.open(key) else {
            tracing::debug!(?key, "a root is gone, or not of a local file system: not looked into");
            return;
        };
        let found = library::find(&root, true);
        drop(root);
        let keys: HashSet<FileKey> = found.iter().map(|found| found.key).collect();
        let gone: Vec<FileKey> = self
            .files
            .iter()
            .filter(|(file, attached)| attached.users.contains(key) && !keys.contains(*file))
            .map(|(file, _)| *file)
            .collect();
        self.attach(found, Some(*key), wanted);
        for file in gone {
            self.drop_user(&file, Some(key), wanted);
        }
    }

    /// Attaches what is wanted to libraries of one root, and detaches what is not.
    fn attach(&mut self, found: Vec<Found>, root: Option<RootKey>, wanted: Wanted) {
        let pam = found.iter().find(|found| found.library == Library::Pam);
        // Where there is no libpam nothing is lost by asking for libaudit alone.
        let reports = pam.is_none_or(|pam| {
            elf::Library::read(&pam.file).is_ok_and(|library| library.needs(Library::Audit.names()[0]))
        });
        for found in found {
            let attached = self.files.entry(found.key).or_insert_with(|| Attached {
                path: format!("/{}", found.path),
                via: root,
                users: HashSet::new(),
                links: HashMap::new(),
            });
            attached.users.extend(root);
            // A file that the host has too is the host's.
            if root.is_some() && attached.via != root {
                continue;
            }
            let mut symbols = None;
            for (number, hook) in HOOKS.iter().enumerate().filter(|(_, hook)| hook.library == found.library) {
                let asked = hook.subject.wanted(wanted, root.is_none(), reports);
                if asked == attached.links.contains_key(&number) {
                    continue;
                }
                let chosen = choose(&mut self.object, &mut self.chosen, hook);
                let outcome = chosen.and_then(|name| {
                    let program: &mut UProbe = self.object.program(name)?;
                    if let Some(link) = attached.links.remove(&number) {
                        return program.detach(link).map_err(|error| Refusal::of(&error));
                    }
                    let symbols = symbols.get_or_insert_with(|| elf::Library::read(&found.file));
                    let symbols = symbols.as_ref().map_err(|error| Refusal::because(error.to_string()))?;
                    let offset = symbols
                        .function(hook.function)
                        .map_err(|error| Refusal::because(error.to_string()))?;
                    let path = format!("/proc/self/fd/{}", found.file.as_raw_fd());
                    let link = program
                        .attach(offset, Path::new(&path), UProbeScope::AllProcesses)
                        .map_err(|error| Refusal::of(&error))?;
                    attached.links.insert(number, link);
                    Ok(())
                });
                if let Err(refusal) = outcome {
                    if root.is_some() {
                        tracing::debug!(path = attached.path, "not attached in a container: {refusal}");
                    } else {
                        self.refusals.insert(hook.subject, refusal);
                    }
                }
            }
        }
    }

    fn release(&mut self, key: &RootKey, wanted: Wanted) {
        let users = |attached: &Attached| attached.users.contains(key);
        let of: Vec<FileKey> =
            self.files.iter().filter(|(_, attached)| users(attached)).map(|(file, _)| *file).collect();
        for file in of {
            self.drop_user(&file, Some(key), wanted);
        }
    }

    /// A root has a file no more: where it was opened through that root, it is let go of, and opened through
    /// another that has it.
    fn drop_user(&mut self, file: &FileKey, root: Option<&RootKey>, wanted: Wanted) {
        let Some(attached) = self.files.get_mut(file) else { return };
        if let Some(root) = root {
            attached.users.remove(root);
        }
        if attached.via.as_ref() != root {
            return;
        }
        let Some(attached) = self.files.remove(file) else { return };
        for (number, link) in attached.links {
            let name = self.chosen(HOOKS[number].program);
            let program: Result<&mut UProbe, Refusal> = self.object.program(name);
            if let Ok(program) = program
                && let Err(error) = program.detach(link)
            {
                tracing::debug!(%error, path = attached.path, "not detached");
            }
        }
        for other in attached.users {
            self.attach_in(&other, wanted);
        }
    }

    /// The processes that the kernel program told of.
    fn arrived(&mut self) -> HashSet<u32> {
        let Ok(ring) = &mut self.arrivals else { return HashSet::new() };
        let mut processes = HashSet::new();
        while processes.len() < MOST_ARRIVALS
            && let Some(record) = ring.next()
        {
            if let Some(tgid) = record.first_chunk().filter(|_| record.len() == size_of::<Arrival>()) {
                processes.insert(u32::from_ne_bytes(*tgid));
            }
        }
        processes
    }

    fn programs(&self, wanted: Wanted) -> Vec<Program> {
        let mut programs: Vec<Program> =
            Subject::ALL.into_iter().map(|subject| self.program(subject, wanted)).collect();
        programs.push(match &self.arrivals {
            Ok(_) => {
                let roots = self.roots.count();
                let left_out = match self.roots.left_out {
                    0 => String::new(),
                    count => format!("; {count} times one too many, which was left out"),
                };
                let reason = format!("every exec; {roots} roots of containers are known{left_out}");
                self.object.on(ARRIVALS, ARRIVALS_PROGRAM, reason)
            }
            Err(refusal) => Program::not_on(
                ARRIVALS,
                ProgramState::Refused,
                format!("{refusal}; containers are noticed after 5 seconds at most"),
            ),
        });
        programs
    }

    fn program(&self, subject: Subject, wanted: Wanted) -> Program {
        let counts = |hook: &Hook| match subject {
            // What remembers the call is of no use without what reads the answer, which a kernel may refuse alone.
            Subject::Peers => hook.program == subject.program(),
            _ => hook.subject == subject,
        };
        let has = |attached: &Attached| attached.links.keys().any(|number| counts(&HOOKS[*number]));
        let mut paths: Vec<&str> = Vec::new();
        let mut containers: HashSet<RootKey> = HashSet::new();
        for attached in self.files.values().filter(|attached| has(attached)) {
            if attached.via.is_none() {
                paths.push(&attached.path);
            }
            containers.extend(&attached.users);
        }
        paths.sort_unstable();
        if paths.is_empty() && containers.is_empty() {
            let asked = subject.wanted(wanted, true, false);
            return match self.refusals.get(&subject) {
                Some(refusal) if asked => refusal.program(subject.shown()),
                _ if subject.wanted(wanted, true, true) => {
                    Program::not_on(subject.shown(), ProgramState::Off, "this host has none of its libraries")
                }
                _ => Program::not_on(subject.shown(), ProgramState::Off, subject.why_off(wanted)),
            };
        }
        let mut places: Vec<String> = paths.into_iter().map(ToOwned::to_owned).collect();
        match containers.len() {
            0 => {}
            1 => places.push("1 container".to_owned()),
            count => places.push(format!("{count} containers")),
        }
        self.object.on(subject.shown(), self.chosen(subject.program()), places.join(", "))
    }

    /// The program that runs in the place of this one: itself, unless the kernel refused it.
    fn chosen(&self, program: &'static str) -> &'static str {
        self.chosen.get(program).copied().unwrap_or(program)
    }
}

/// Loads a hook's program, unless it is loaded, or where the kernel refuses it the one that stands in for it; which
/// it was. Where both are refused, the first one's reason is the one to tell.
fn choose(
    object: &mut Object,
    chosen: &mut HashMap<&'static str, &'static str>,
    hook: &Hook,
) -> Result<&'static str, Refusal> {
    if let Some(name) = chosen.get(hook.program) {
        return Ok(name);
    }
    let mut load = |name: &'static str| {
        let program: &mut UProbe = object.program(name)?;
        program.load().map_err(|error| Refusal::of(&error)).map(|()| name)
    };
    let name = load(hook.program).or_else(|refusal| {
        hook.instead.ok_or(()).and_then(|other| load(other).map_err(|_| ())).map_err(|()| refusal)
    })?;
    chosen.insert(hook.program, name);
    Ok(name)
}

fn watch_arrivals(object: &mut Object, kit: &Kit) -> Result<RingBuf<MapData>, Refusal> {
    let btf = kit.btf().ok_or_else(|| Refusal::because("the kernel has no type information"))?;
    let program: &mut BtfTracePoint = object.program(ARRIVALS_PROGRAM)?;
    program.load(ARRIVALS_PROGRAM, btf).map_err(|error| Refusal::of(&error))?;
    program.attach().map_err(|error| Refusal::of(&error))?;
    let ring = object.ebpf().take_map(ARRIVALS_MAP);
    let ring =
        ring.ok_or_else(|| Refusal::because("the embedded eBPF object lacks a map: this build is broken"))?;
    RingBuf::try_from(ring).map_err(|error| Refusal::of(&error))
}

/// The values of the programs' globals, in the order of [`GLOBALS`].
fn globals() -> Result<[u32; GLOBALS.len()], LayoutError> {
    let layout = Layout::read()?;
    let host = roots::host_mounts()?;
    Ok([
        1,
        host as u32,
        layout.offset("task_struct", "nsproxy")?,
        layout.offset("task_struct", "real_parent")?,
        layout.offset("task_struct", "group_leader")?,
        layout.offset("task_struct", "tgid")?,
        layout.offset("task_struct", "start_time")?,
        layout.offset("nsproxy", "mnt_ns")?,
        layout.offset("mnt_namespace", "ns.inum")?,
    ])
}
