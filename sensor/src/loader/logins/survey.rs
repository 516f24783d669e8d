//! Which of root's processes run on which file of a library, as /proc tells: a file that was replaced or removed
//! lives on in the processes that have it mapped, and is reached through them alone.
//!
//! Reading takes some 3 µs a mapping, and may wait for ever for a process that hangs while its mappings change, on
//! a dead server or one that is somebody's. So this is done seldom, and by a thread that can be left behind. Of
//! the processes of a container, which can have as many mappings as they like, so much is read in all; who has more
//! than that is unsure, not nobody.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::hook::Library;
use super::library::{self, FileKey};
use super::mounts::Mount;
use super::roots::{self, Home, RootKey};
use crate::loader::process::{TICK, started};

/// How much is read of a process of this host, in bytes: some 65,000 mappings, the kernel's bound, have less.
const MOST_OF_PROCESS: u64 = 16 << 20;
/// How much is read of all processes of a container's: some 400 with a hundred mappings each.
const MOST_OF_ROOT: u64 = 4 << 20;
/// How many mappings of a process are looked at closely.
const MOST_CANDIDATES: u32 = 64;
/// Through how many of the processes that run on a file it is tried to open it.
const MOST_TRIED: u32 = 4;
/// How much is read at once.
const PIECE: usize = 16 * 1024;
/// The longest line: a path has 4,096 bytes at most, each of which may take four.
const LONGEST_LINE: usize = 20_000;
const SECOND: i128 = 1_000_000_000;

/// The addresses of a mapping.
pub(super) type Range = (u64, u64);

/// A file that a process runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mapping {
    pub of: Option<RootKey>,
    pub process: u32,
    pub range: Range,
    /// As if it were on no overlay.
    pub key: FileKey,
}

/// A process, and what it was found to run on.
pub(super) type Held = (u32, Range, FileKey);

/// What is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Question {
    /// The root of this host, by which the others are known.
    pub host: RootKey,
    /// Processes of which it is known what they run on: whether they still do.
    pub holders: Vec<Held>,
    /// All processes of these roots, of which `None` is this host's; none where that is empty.
    pub of: HashSet<Option<RootKey>>,
    /// Those of them that can be.
    pub processes: Vec<u32>,
    /// Files that are looked for whatever their names are now, by the numbers of their inodes.
    pub inodes: HashSet<u64>,
    /// Files that need not be opened.
    pub attached: HashSet<FileKey>,
    /// Of which roots there are others.
    pub unsure: HashSet<Option<RootKey>>,
    /// The caller's mark of when it was asked.
    pub asked: u64,
}

/// The answer to a [`Question`], as far as it was looked at within its bounds.
#[derive(Debug, Default)]
pub(super) struct Surveyed {
    pub of: HashSet<Option<RootKey>>,
    pub asked: u64,
    /// Processes that run no more on what they ran on.
    pub ended: HashSet<Held>,
    pub found: Vec<Mapping>,
    /// Libraries that are not attached to, opened through a process that runs on them, by the mappings' keys.
    pub opened: HashMap<(Option<RootKey>, FileKey), OpenedLibrary>,
    /// Whose processes could not all be read to the end.
    pub unsure: HashSet<Option<RootKey>>,
}

/// What is told of a look.
enum News {
    /// A library was opened. Told at once, so that a look that hangs holds nothing.
    Opened(Option<RootKey>, FileKey, OpenedLibrary),
    /// All was looked at.
    End(Surveyed),
}

/// A library that was found in a process.
#[derive(Debug)]
pub(super) struct OpenedLibrary {
    pub library: Library,
    /// The path under which the process has it.
    pub path: String,
    pub file: Result<(File, FileKey), OpenError>,
}

/// Why a file cannot be opened through a process that runs on it.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// What lies there is none of a loader's business.
    #[error("{0}")]
    Elsewhere(&'static str),
    /// An overlay leads to a copy that was made of it since.
    #[error("its file lies below a copy that was made of it since")]
    BelowCopy,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A look that is going on.
#[derive(Debug)]
pub(super) struct Survey {
    news: Receiver<News>,
    opened: HashMap<(Option<RootKey>, FileKey), OpenedLibrary>,
    /// Readable when the look has ended: its other end is closed then.
    end: PipeReader,
    progress: Arc<Progress>,
    /// How far it was when that was asked last.
    before: Option<u64>,
}

/// How far a look is.
#[derive(Debug, Default)]
struct Progress {
    steps: AtomicU64,
    /// The process that is looked at.
    process: AtomicU32,
}

/// The thread's half of a [`Survey`].
struct Surveyor {
    question: Question,
    surveyed: Surveyed,
    news: Sender<News>,
    progress: Arc<Progress>,
    /// How much of each container is left to be read.
    left: HashMap<RootKey, u64>,
    /// How often it was tried to open a file, or that it is open.
    tried: HashMap<(Option<RootKey>, FileKey), Option<u32>>,
}

/// A process whose mappings are being read.
struct SurveyedProcess {
    of: Option<RootKey>,
    /// The mount that its root is on.
    mount: Mount,
    process: u32,
    /// Its root as its paths show it.
    root: Vec<u8>,
    candidates: u32,
}

/// A line of /proc/PID/maps, of a mapping that is run.
#[derive(Debug, PartialEq, Eq)]
struct MapsLine<'a> {
    range: Range,
    inode: u64,
    path: &'a [u8],
}

// === impl Survey ===

impl Survey {
    /// Starts a thread that looks; its answer is there when [`Self::answer`] gives one.
    pub(super) fn start(question: Question) -> io::Result<Self> {
        let (sender, news) = mpsc::channel();
        let (end, open) = io::pipe()?;
        let progress = Arc::<Progress>::default();
        let surveyor = Surveyor::new(question, sender, progress.clone());
        let look = move || {
            surveyor.look();
            drop(open);
        };
        std::thread::Builder::new().name("survey".to_owned()).spawn(look)?;
        Ok(Self { news, opened: HashMap::new(), end, progress, before: None })
    }

    /// What was found; `None` while it goes on.
    pub(super) fn answer(&mut self) -> Option<Surveyed> {
        loop {
            match self.news.try_recv() {
                Ok(News::Opened(of, key, opened)) => drop(self.opened.insert((of, key), opened)),
                Ok(News::End(surveyed)) => {
                    return Some(Surveyed { opened: std::mem::take(&mut self.opened), ..surveyed });
                }
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => return Some(Surveyed::default()),
            }
        }
    }

    /// The process that it hangs on, where it came no further since this was asked last.
    pub(super) fn hangs_on(&mut self) -> Option<u32> {
        let steps = self.progress.steps.load(Ordering::Relaxed);
        let hangs = self.before.replace(steps) == Some(steps);
        hangs.then(|| self.progress.process.load(Ordering::Relaxed))
    }
}

impl AsFd for Survey {
    /// Readable once there is an answer.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

// === impl Surveyor ===

impl Surveyor {
    fn new(mut question: Question, news: Sender<News>, progress: Arc<Progress>) -> Self {
        let unsure = std::mem::take(&mut question.unsure);
        let of = question.of.clone();
        let surveyed = Surveyed { of, unsure, asked: question.asked, ..Surveyed::default() };
        Self { question, surveyed, news, progress, left: HashMap::new(), tried: HashMap::new() }
    }

    fn look(mut self) {
        for holder in std::mem::take(&mut self.question.holders) {
            let (process, range, file) = holder;
            self.is_at(process);
            if !runs_on(process, range, &file) {
                self.surveyed.ended.insert(holder);
            }
        }
        for process in std::mem::take(&mut self.question.processes) {
            self.is_at(process);
            self.look_at(process);
        }
        // Nobody waits for it any more where that fails.
        let _ = self.news.send(News::End(self.surveyed));
    }

    fn is_at(&self, process: u32) {
        self.progress.process.store(process, Ordering::Relaxed);
        self.progress.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at a process, where it is root's and of one of the roots.
    fn look_at(&mut self, process: u32) -> Option<()> {
        // The root is not kept open, which would hold its mount for as long as this hangs.
        let Home { foreign: of, mount, .. } = roots::home(&self.question.host, process).ok()?;
        if !self.question.of.contains(&of) || !roots::users(process)?.contains(&0) {
            return None;
        }
        let mut maps = File::open(format!("/proc/{process}/maps")).ok()?;
        let root = std::fs::read_link(format!("/proc/{process}/root")).ok()?;
        let root = root.as_os_str().as_bytes();
        let root = root.strip_suffix(b"/").unwrap_or(root).to_owned();
        let mut reading = SurveyedProcess { of, mount, process, root, candidates: 0 };
        let mut left = match of {
            None => MOST_OF_PROCESS,
            Some(root) => self.left.remove(&root).unwrap_or(MOST_OF_ROOT),
        };
        let mut lines = Vec::new();
        let mut piece = [0; PIECE];
        // What is gone has nothing mapped.
        while let Ok(read @ 1..) = maps.read(&mut piece) {
            self.progress.steps.fetch_add(1, Ordering::Relaxed);
            lines.extend_from_slice(&piece[..read]);
            let end = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in lines[..end].split(|byte| *byte == b'\n').filter_map(MapsLine::read) {
                self.look_into(&mut reading, &line);
            }
            lines.drain(..end);
            left = left.saturating_sub(read as u64);
            if left == 0 || reading.candidates >= MOST_CANDIDATES || lines.len() > LONGEST_LINE {
                self.surveyed.unsure.insert(of);
                break;
            }
        }
        self.left.extend(of.map(|root| (root, left)));
        Some(())
    }

    fn look_into(&mut self, reading: &mut SurveyedProcess, line: &MapsLine<'_>) {
        let library = line.library(&reading.root);
        if library.is_none() && !self.question.inodes.contains(&line.inode) {
            return;
        }
        reading.candidates += 1;
        let (of, process, range) = (reading.of, reading.process, line.range);
        let key = match key(process, range) {
            Ok(key) => key,
            // Unmapped since, or the process's end.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::debug!(process, %error, "what a process runs on cannot be looked at");
                self.surveyed.unsure.insert(of);
                return;
            }
        };
        self.surveyed.found.push(Mapping { of, process, range, key });
        let Some(library) = library else { return };
        if [key, key.on_overlay()].iter().any(|key| self.question.attached.contains(key)) {
            return;
        }
        let tried = self.tried.entry((of, key)).or_insert(Some(0));
        let Some(tries) = tried.filter(|tries| *tries < MOST_TRIED) else { return };
        let path = std::fs::read_link(link(process, range)).unwrap_or_default();
        let path = path.to_string_lossy();
        let path = path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned();
        let file = open(of, reading.mount, process, range);
        *tried = file.is_err().then_some(tries + 1);
        let _ = self.news.send(News::Opened(of, key, OpenedLibrary { library, path, file }));
    }
}

// === impl MapsLine ===

impl<'a> MapsLine<'a> {
    /// Reads one as `proc_pid_maps(5)` has it; `None` for all but the mapping of a file that may be run.
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let mut field = || std::str::from_utf8(fields.next()?).ok();
        let (start, end) = field()?.split_once('-')?;
        let runs = field()?.as_bytes().get(2) == Some(&b'x');
        let inode = field().and_then(|_| field()).and_then(|_| field())?.parse().ok()?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        let range = (address(start)?, address(end)?);
        let path = fields.next().unwrap_or_default().trim_ascii_start();
        (runs && inode != 0).then_some(Self { range, inode, path })
    }

    /// The library that it is by its name, in a folder of libraries below a root.
    fn library(&self, root: &[u8]) -> Option<Library> {
        let path = std::str::from_utf8(self.path.strip_prefix(root)?.strip_prefix(b"/")?).ok()?;
        let below = |folder: &&str| path.strip_prefix(*folder)?.strip_prefix('/');
        library::FOLDERS.iter().filter_map(below).find_map(Library::of)
    }
}

/// Which file a process has mapped, as if that were on no overlay.
fn key(process: u32, range: Range) -> io::Result<FileKey> {
    Ok(FileKey::new(&library::stat(CWD, &link(process, range), AtFlags::empty())?))
}

/// Whether a process still runs on a file. It does where that cannot be told.
fn runs_on(process: u32, range: Range, file: &FileKey) -> bool {
    match key(process, range) {
        Ok(key) => key == *file || key.on_overlay() == *file,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Opens a file that a process runs on: of a local file system, and in a container on the mount of its root.
fn open(of: Option<RootKey>, root: Mount, process: u32, range: Range) -> Result<(File, FileKey), OpenError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place =
        rustix::fs::openat(CWD, link(process, range), flags, Mode::empty()).map_err(io::Error::from)?;
    let stat = library::stat(&place, "", AtFlags::EMPTY_PATH)?;
    let mount = Mount::of(&stat);
    if of.is_some() && mount.id != root.id {
        return Err(OpenError::Elsewhere("it is on another mount than its container"));
    }
    if !mount.is_local(process) {
        return Err(OpenError::Elsewhere("it is on no local file system"));
    }
    let (file, key) = library::open_regular(&place)?;
    if !mount.is_overlay(process) {
        return Ok((file, key));
    }
    let born = i128::from(stat.stx_btime.tv_sec) * SECOND + i128::from(stat.stx_btime.tv_nsec);
    if started(process).is_some_and(|started| started + TICK < born) {
        return Err(OpenError::BelowCopy);
    }
    Ok((file, key.on_overlay()))
}

/// The kernel's link to what is mapped, which needs `SYS_ADMIN` or `CHECKPOINT_RESTORE`.
fn link(process: u32, (start, end): Range) -> String {
    format!("/proc/{process}/map_files/{start:x}-{end:x}")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", "/usr/lib/x86_64-linux-gnu/libaudit.so.1.0.0 (deleted)", Some(Library::Audit))]
    #[case("", "/usr/lib/x86_64-linux-gnu/libaudit.so.1.0.0.dpkg-tmp (deleted)", Some(Library::Audit))]
    #[case("", "/lib/x86_64-linux-gnu/libc-2.31.so", Some(Library::C))]
    #[case("", "/lib/ld-musl-x86_64.so.1", Some(Library::C))]
    #[case("/srv/root", "/srv/root/usr/lib64/libpam.so.0.85.1", Some(Library::Pam))]
    #[case("/srv/root", "/usr/lib64/libpam.so.0.85.1", None)]
    #[case("", "/opt/usr/lib64/libpam.so.0.85.1", None)]
    #[case("", "/usr/lib64/libpamc.so.0", None)]
    #[case("", "/usr/lib64/libcap.so.2", None)]
    #[case("", "/lib/x86_64-linux-gnu/security/pam_unix.so", None)]
    fn a_library_is_known_by_its_name_below_the_root_whatever_its_release(
        #[case] root: &str,
        #[case] path: &str,
        #[case] library: Option<Library>,
    ) {
        let line = format!("7f6be934f000-7f6be9356000 r-xp 00003000 fe:00 10510381                   {path}");
        assert_eq!(MapsLine::read(line.as_bytes()).unwrap().library(root.as_bytes()), library);
    }

    #[test]
    fn a_look_hangs_that_comes_no_further_from_one_question_to_the_next() {
        let progress = Arc::<Progress>::default();
        let (sender, news) = mpsc::channel();
        let (end, _open) = io::pipe().unwrap();
        let (opened, before) = (HashMap::new(), None);
        let mut survey = Survey { news, opened, end, progress: progress.clone(), before };
        let step = |process| {
            progress.process.store(process, Ordering::Relaxed);
            progress.steps.fetch_add(1, Ordering::Relaxed);
        };
        assert_eq!(survey.hangs_on(), None);
        step(7);
        assert_eq!(survey.hangs_on(), None);
        assert_eq!(survey.hangs_on(), Some(7));
        step(8);
        assert_eq!(survey.hangs_on(), None);
        assert!(survey.answer().is_none());
        drop(sender);
        assert!(survey.answer().is_some());
    }

    #[test]
    fn a_process_was_started_before_now_and_after_its_parent() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = i128::try_from(now.as_nanos()).unwrap();
        let own = started(std::process::id()).unwrap();
        assert!(own <= now && own > now - 3600 * SECOND, "{own} {now}");
        assert!(started(std::os::unix::process::parent_id()).unwrap() <= own);
        assert_eq!(started(0), None);
    }

    #[test]
    fn only_files_that_are_run_are_read() {
        let text = b"55d0c0a00000-55d0c0a2c000 r--p 00000000 fe:00 123    /usr/bin/x\n\
            55d0c0a2c000-55d0c0b00000 r-xp 0002c000 fe:00 123    /usr/bin/a b\\012c\n\
            7ffd1b5f0000-7ffd1b5f2000 r-xp 00000000 00:00 0      [vdso]\n\
            400000-401000 r-xs 00000000 00:27 2\n\
            7f00-\nr-xp\n\xff-\xff r-xp 0 0 1 x\n";
        let lines: Vec<MapsLine<'_>> = text.split(|byte| *byte == b'\n').filter_map(MapsLine::read).collect();
        let first =
            MapsLine { range: (0x55d0_c0a2_c000, 0x55d0_c0b0_0000), inode: 123, path: b"/usr/bin/a b\\012c" };
        assert_eq!(lines, [first, MapsLine { range: (0x40_0000, 0x40_1000), inode: 2, path: b"" }]);
    }
}
