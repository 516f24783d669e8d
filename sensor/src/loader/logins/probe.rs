//! The part: loads the object, attaches its programs to the libraries of this host and of each container, and
//! lets go of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atalaya_sensor_ebpf::logins::{
    ARRIVALS_MAP, ARRIVALS_PROGRAM, Arrival, DOUBTED_MAP, GLOBALS, LOGINS_MAP, PEERS_PROGRAM, SOCKET_GLOBALS,
    SYSLOG_MAP,
};
use atalaya_sensor_ebpf::losses::LOSSES_MAP;
use aya::maps::{MapData, RingBuf};
use aya::programs::BtfTracePoint;

use super::WantedLogins;
use super::files::Files;
use super::folders::Folders;
use super::hook::Subject;
use super::library;
use super::roots::{self, Changes, RootKey, Roots};
use super::survey::{Question, Survey};
use super::vouch;
use crate::channel::messages::Vouch;
use crate::channel::{Program, ProgramState};
use crate::loader::layout::{Layout, LayoutError};
use crate::loader::object::{Kit, Object, Refusal};
use crate::loader::part::{MapDescriptors, Part};
use crate::loader::tracefs;
use atalaya_program::count::{agreeing, counted};

/// How the program that watches for new containers is shown.
const ARRIVALS: &str = "logins: arrivals";
/// How many arrivals are looked at in one go.
const MOST_ARRIVALS: usize = 64;
/// How often the files of a container are looked at because they changed, between two looks around.
const MOST_CHANGES: u32 = 4;
/// How many looks at processes may hang; from then on there are none.
const MOST_HANGING: usize = 8;

/// The uprobes in the libraries that logins pass through; see [the module](super).
#[derive(Default)]
pub struct LoginsPart {
    wanted: WantedLogins,
    loaded: Option<LoadedLogins>,
    /// Why the object is not loaded.
    refusal: Option<Refusal>,
}

struct LoadedLogins {
    object: Object,
    wanted: WantedLogins,
    roots: Roots,
    files: Files,
    /// The folders of this host's libraries, and those of containers; neither where the kernel lets none be watched.
    folders: Option<(Folders, Folders)>,
    /// Whether not all of this host's are watched.
    unwatched: bool,
    /// How often the files of containers changed since the last look around.
    changed: HashMap<RootKey, u32>,
    /// Whose processes are to be looked at, and whether before the next look around.
    unsurveyed: HashSet<Option<RootKey>>,
    soon: bool,
    survey: Option<Survey>,
    /// Processes that a look hangs on, and the containers of such: not looked at any more.
    hanging: Vec<(u32, Option<RootKey>)>,
    arrivals: Result<RingBuf<MapData>, Refusal>,
}

// === impl LoginsPart ===

impl LoginsPart {
    /// Brings what is loaded to what is wanted.
    pub fn want(&mut self, wanted: Option<&WantedLogins>, kit: &Kit) -> Option<MapDescriptors> {
        self.wanted = wanted.copied().unwrap_or_default();
        if self.wanted == WantedLogins::default() {
            (self.loaded, self.refusal) = (None, None);
            return None;
        }
        if let Some(loaded) = &mut self.loaded {
            loaded.want(self.wanted);
            return None;
        }
        tracefs::mount_for_probes();
        match LoadedLogins::new(kit) {
            Ok((mut loaded, handed)) => {
                loaded.want(self.wanted);
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

impl Part for LoginsPart {
    fn look(&mut self) {
        if let Some(loaded) = &mut self.loaded {
            loaded.look();
        }
    }

    fn waits(&mut self) -> Vec<BorrowedFd<'_>> {
        let Some(loaded) = &self.loaded else { return Vec::new() };
        let arrivals = loaded.arrivals.as_ref().ok().map(AsFd::as_fd);
        let folders = loaded.folders.iter().flat_map(|(host, containers)| [host.as_fd(), containers.as_fd()]);
        let survey = loaded.survey.as_ref().map(AsFd::as_fd);
        let others = arrivals.into_iter().chain(folders).chain(survey).chain(loaded.roots.witnesses());
        loaded.object.messages().into_iter().chain(others).collect()
    }

    fn wake(&mut self) -> bool {
        self.loaded.as_mut().is_some_and(LoadedLogins::wake)
    }

    fn programs(&self) -> Vec<Program> {
        if let Some(loaded) = &self.loaded {
            return loaded.programs();
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

// === impl LoadedLogins ===

impl LoadedLogins {
    fn new(kit: &Kit) -> Result<(Self, MapDescriptors), Refusal> {
        let roots = Roots::new().map_err(|error| Refusal::of(&error))?;
        let layout = Layout::read();
        let globals = layout
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|layout| globals(layout).map_err(|error| error.to_string()));
        let known = globals.is_ok();
        let globals = globals.unwrap_or_else(|error| {
            tracing::warn!("{error}: every login is checked with the loader, and keyboard-interactive is not seen through PAM");
            [0; GLOBALS.len()]
        });
        let sockets = match &layout {
            Ok(layout) if known => {
                socket_globals(layout).map_err(|error| Refusal::because(error.to_string()))
            }
            Ok(_) => Err(Refusal::because("the layout of this kernel's processes is not known")),
            Err(error) => Err(Refusal::because(error.to_string())),
        };
        let (sockets, useless) = match sockets {
            Ok(sockets) => (sockets, HashMap::new()),
            Err(refusal) => ([0; SOCKET_GLOBALS.len()], HashMap::from([(PEERS_PROGRAM, refusal)])),
        };
        // Megabytes, which loading needs no more.
        drop(layout);
        let mut object = kit.load(include_bytes!(concat!(env!("OUT_DIR"), "/logins")), |loader| {
            let all = GLOBALS.iter().zip(&globals).chain(SOCKET_GLOBALS.iter().zip(&sockets));
            for (name, value) in all {
                loader.override_global(name, value, true);
            }
        })?;
        let arrivals = if known {
            watch_arrivals(&mut object, kit)
        } else {
            Err(Refusal::because("the kernel has no type information"))
        };
        let folders = Folders::new(true).and_then(|host| Ok((host, Folders::new(false)?)));
        let folders = folders.inspect_err(|error| {
            tracing::warn!(%error, "folders of libraries are not watched: raise fs.inotify.max_user_instances; until then a library that is replaced is noticed after seconds, in containers after a minute");
        });
        let handed = object.maps(&[LOGINS_MAP, DOUBTED_MAP, SYSLOG_MAP, LOSSES_MAP])?;
        let loaded = Self {
            object,
            wanted: WantedLogins::default(),
            roots,
            files: Files::without(useless),
            folders: folders.ok(),
            unwatched: false,
            changed: HashMap::new(),
            unsurveyed: HashSet::new(),
            soon: false,
            survey: None,
            hanging: Vec::new(),
            arrivals,
        };
        Ok((loaded, handed))
    }

    fn want(&mut self, wanted: WantedLogins) {
        self.wanted = wanted;
        self.look_everywhere();
        // Programs may run on what was replaced before. Not looked at here, where this process may not be confined yet:
        // a thread has what it was started with.
        self.unsurveyed.insert(None);
        self.soon = true;
    }

    fn look(&mut self) {
        let changes = self.roots.look();
        self.follow(&changes);
        let noisy = self.folders.as_mut().map(|(_, containers)| containers.calm()).unwrap_or_default();
        let put_off =
            std::mem::take(&mut self.changed).into_iter().filter(|(_, times)| *times > MOST_CHANGES);
        let late: HashSet<Option<RootKey>> = put_off.map(|(root, _)| Some(root)).chain(noisy).collect();
        if changes.all {
            // Libraries may have been installed, or replaced unnoticed, since.
            self.files.forget_refused();
            self.look_everywhere();
            self.unsurveyed.extend(self.files.with_old());
        } else {
            if self.unwatched || self.folders.is_none() {
                self.look_in(None);
            }
            late.into_iter().for_each(|of| self.look_in(of));
        }
        self.settle();
        self.leave_hanging();
        self.start_survey();
    }

    /// Does what there is to do; whether anything was.
    fn wake(&mut self) -> bool {
        let ended = self.roots.ended();
        let mut any = self.follow(&ended);
        for process in self.arrived() {
            let changes = self.roots.arrived(process);
            any |= self.follow(&changes);
        }
        let changed = self.folders.as_mut().map(|(host, containers)| (host.changed(), containers.changed()));
        let (host, containers) = changed.unwrap_or_default();
        for of in host.into_iter().chain(containers) {
            let times =
                of.map_or(0, |root| *self.changed.entry(root).and_modify(|times| *times += 1).or_insert(1));
            if times <= MOST_CHANGES {
                self.look_in(of);
                any = true;
            }
        }
        any |= self.end_survey();
        if std::mem::take(&mut self.soon) {
            self.start_survey();
        }
        any
    }

    /// Lets go of roots that went, attaches in those that came; whether there were any.
    fn follow(&mut self, changes: &Changes) -> bool {
        for root in &changes.went {
            let of = Some(*root);
            self.files.forget(of);
            if let Some((_, containers)) = &mut self.folders {
                containers.forget(of);
            }
            self.changed.remove(root);
        }
        if !changes.went.is_empty() {
            self.settle();
        }
        for root in &changes.came {
            self.look_in(Some(*root));
            self.unsurveyed.insert(Some(*root));
        }
        !changes.went.is_empty() || !changes.came.is_empty()
    }

    fn look_everywhere(&mut self) {
        self.look_in(None);
        let all: Vec<RootKey> = self.roots.keys().collect();
        for root in all {
            self.look_in(Some(root));
        }
    }

    /// Attaches to the files that the names of a root lead to now.
    fn look_in(&mut self, of: Option<RootKey>) {
        let Some(root) = open(&self.roots, of) else { return };
        if let Some((host, containers)) = &mut self.folders {
            let folders = if of.is_none() { host } else { containers };
            let watched = folders.follow(of, &root, of.is_some());
            match (watched, of) {
                (Ok(()), None) => self.unwatched = false,
                (Err(error), None) => {
                    if !std::mem::replace(&mut self.unwatched, true) {
                        tracing::warn!(%error, "not all folders of libraries are watched: raise fs.inotify.max_user_watches; until then a library that is replaced is noticed after seconds");
                    }
                }
                (Err(error), Some(_)) => {
                    tracing::debug!(%error, "folders of a container are not watched: its libraries are looked at every minute");
                }
                (Ok(()), Some(_)) => {}
            }
        }
        let found = library::find(&root, of.is_some());
        drop(root);
        if self.files.name(of, found, self.wanted, &mut self.object) {
            self.unsurveyed.insert(of);
        }
        self.settle();
    }

    fn settle(&mut self) {
        let roots = &self.roots;
        let through_processes = self.files.settle(self.wanted, &mut self.object, &|of, path| {
            library::open(open(roots, of)?, path.trim_start_matches('/'), of.is_some()).ok()
        });
        self.unsurveyed.extend(through_processes);
    }

    /// Starts to look at the processes that are to be looked at, and at those that hold old files.
    fn start_survey(&mut self) {
        let holders = self.files.holders();
        let nothing = holders.is_empty() && self.unsurveyed.is_empty();
        if nothing || self.survey.is_some() || self.hanging.len() >= MOST_HANGING {
            return;
        }
        let mut of = std::mem::take(&mut self.unsurveyed);
        let mut processes: BTreeSet<u32> =
            of.iter().flatten().flat_map(|root| self.roots.processes(root)).collect();
        if of.contains(&None) {
            // Containers may have a folder of this host's as theirs.
            of.extend(self.roots.keys().map(Some));
            processes.extend(roots::running());
        }
        // Of a container that makes one process hang no other is looked at.
        let hangs = |of: &Option<RootKey>| of.is_some() && self.hanging.iter().any(|(_, other)| other == of);
        let hanging = |process: &u32| self.hanging.iter().any(|(other, _)| other == process);
        of.retain(|of| !hangs(of));
        processes.retain(|process| !hanging(process));
        let holders = holders.into_iter().filter(|(of, held)| !hangs(of) && !hanging(&held.0));
        let question = Question {
            host: self.roots.host(),
            holders: holders.map(|(_, held)| held).collect(),
            of,
            unsure: self.hanging.iter().map(|(_, of)| *of).collect(),
            processes: processes.into_iter().collect(),
            inodes: self.files.inodes(),
            attached: self.files.attached(self.wanted),
            asked: self.files.losses(),
        };
        match Survey::start(question) {
            Ok(survey) => self.survey = Some(survey),
            Err(error) => {
                tracing::warn!(%error, "who runs on old libraries cannot be looked at now");
                self.unsurveyed.insert(None);
            }
        }
    }

    /// Takes what a look at processes found; whether it ended.
    fn end_survey(&mut self) -> bool {
        let Some(surveyed) = self.survey.as_mut().and_then(Survey::answer) else { return false };
        self.survey = None;
        let were_holders_alone = surveyed.of.is_empty();
        let unheld = self.files.survey(surveyed, self.wanted, &mut self.object);
        self.soon |= were_holders_alone && !unheld.is_empty();
        self.unsurveyed.extend(unheld);
        self.settle();
        true
    }

    /// Leaves a look behind that hangs, and what it hangs on out of the next.
    fn leave_hanging(&mut self) {
        self.hanging.retain(|(process, _)| std::fs::exists(format!("/proc/{process}")).unwrap_or(true));
        let Some(process) = self.survey.as_mut().and_then(Survey::hangs_on) else { return };
        let of = self.roots.home(process).ok().and_then(|home| home.foreign);
        tracing::warn!(process, "a process hangs, and does not let be seen what it runs on: left out");
        self.hanging.push((process, of));
        self.survey = None;
        self.unsurveyed.insert(None);
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

    fn programs(&self) -> Vec<Program> {
        let program = |subject| self.files.program(subject, self.wanted, &self.object);
        let mut programs: Vec<Program> = Subject::ALL.into_iter().map(program).collect();
        programs.push(match &self.arrivals {
            Ok(_) => {
                let roots = self.roots.count();
                let left_out = match self.roots.left_out {
                    0 => String::new(),
                    count => format!("; {} one too many, which was left out", counted(count, "time")),
                };
                let are = agreeing(roots, "is", "are");
                let roots = counted(roots, "root");
                let reason = format!("every exec; {roots} of containers {are} known{left_out}");
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
}

/// An open path to a root that can be looked into.
fn open(roots: &Roots, of: Option<RootKey>) -> Option<OwnedFd> {
    match of {
        None => roots::host()
            .inspect_err(|error| tracing::warn!(%error, "this host's root cannot be opened"))
            .ok(),
        Some(key) => {
            let root = roots.open(&key);
            if root.is_none() {
                tracing::debug!(?key, "a root is gone, or not of a local file system: not looked into");
            }
            root
        }
    }
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
fn globals(layout: &Layout) -> Result<[u32; GLOBALS.len()], LayoutError> {
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

/// The same, in the order of [`SOCKET_GLOBALS`].
fn socket_globals(layout: &Layout) -> Result<[u32; SOCKET_GLOBALS.len()], LayoutError> {
    Ok([
        layout.offset("task_struct", "files")?,
        layout.offset("files_struct", "fdt")?,
        layout.offset("fdtable", "fd")?,
        layout.offset("fdtable", "max_fds")?,
        layout.offset("file", "f_inode")?,
        layout.offset("inode", "i_mode")?,
        layout.offset("file", "private_data")?,
        layout.offset("socket", "sk")?,
        layout.offset("sock", "__sk_common.skc_family")?,
        layout.offset("sock", "__sk_common.skc_daddr")?,
        layout.offset("sock", "__sk_common.skc_v6_daddr")?,
    ])
}
