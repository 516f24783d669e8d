//! The loader from the worker's side: started as a process of its own, asked, and listened to.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::logs::{self, LogOpener, Waiting};
use super::maps::Maps;
use crate::channel::messages::{Listener, LoaderRequest, Said, Vouch};
use crate::channel::socket::Channel;
use crate::channel::{Program, Wanted};
use crate::confine::Confinement;
use crate::confine::logs::WantedLogs;

/// How long loading may take. Verifying takes milliseconds, under emulation a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long looking for a listener may take: it is an offence that waits.
const PATIENCE_LISTENER: Duration = Duration::from_millis(500);

/// Asks the loader, for as long as it runs.
#[derive(Clone)]
pub struct Questions {
    channel: Arc<Channel>,
    heard: Arc<Mutex<Heard>>,
}

/// The running loader. Dropping it ends the loader, and with it all programs that are not pinned.
pub struct Loader {
    channel: Arc<Channel>,
    heard: Arc<Mutex<Heard>>,
    ended: CancellationToken,
    child: Child,
}

/// What the loader said last.
#[derive(Default)]
pub(super) struct Heard {
    programs: Vec<Program>,
    confinement: Option<Confinement>,
    answer: Option<oneshot::Sender<NewMaps>>,
    questions: HashMap<u64, oneshot::Sender<Option<Listener>>>,
    pub(super) asked: u64,
    /// Who waits for a log.
    pub(super) logs: HashMap<u64, Waiting>,
    /// Who waits for a word on an address, in the order of the questions.
    doubts: VecDeque<oneshot::Sender<Vouch>>,
}

/// Asks the loader whom to believe.
#[derive(Clone)]
pub struct Voucher {
    channel: Arc<Channel>,
    heard: Arc<Mutex<Heard>>,
}

/// New maps by object.
pub type NewMaps = HashMap<String, Maps>;

/// Why nothing can be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// The process cannot be started.
    #[error("the loader of the kernel programs cannot be started: {0}")]
    Start(#[source] std::io::Error),
    /// It cannot be asked.
    #[error("the loader of the kernel programs cannot be asked: {0}")]
    Ask(#[source] std::io::Error),
    /// It ended, or takes too long.
    #[error("the loader of the kernel programs {0}; its own lines above say more")]
    Silent(&'static str),
}

// === impl Loader ===

impl Loader {
    /// Starts the loader: this program again, with the command `loader` and these arguments before it.
    pub fn start(arguments: &[impl AsRef<OsStr>]) -> Result<Self, LoaderError> {
        let (ours, theirs) = Channel::pair().map_err(LoaderError::Start)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("atalaya-sensor").args(arguments).arg("loader");
        command.stdin(Stdio::from(theirs.into_descriptor())).stdout(Stdio::null());
        // A terminal's Ctrl-C is for the worker, with which the loader ends.
        command.process_group(0);
        let child = command.spawn().map_err(LoaderError::Start)?;
        let channel = Arc::new(ours);
        let heard = Arc::<Mutex<Heard>>::default();
        let ended = CancellationToken::new();
        let listener = {
            let (channel, heard, ended) = (channel.clone(), heard.clone(), ended.clone());
            move || {
                listen(&channel, &heard);
                // Whoever waits for an answer learns that there will be none.
                let mut heard = lock(&heard);
                heard.answer = None;
                heard.questions.clear();
                heard.doubts.clear();
                heard.logs.clear();
                drop(heard);
                ended.cancel();
            }
        };
        std::thread::Builder::new().name("loader".to_owned()).spawn(listener).map_err(LoaderError::Start)?;
        Ok(Self { channel, heard, ended, child })
    }

    /// Brings what is loaded to what is wanted; the maps of objects that were loaded just now.
    pub async fn want(&self, wanted: Wanted) -> Result<NewMaps, LoaderError> {
        let (sender, answer) = oneshot::channel();
        lock(&self.heard).answer = Some(sender);
        if self.ended.is_cancelled() {
            return Err(LoaderError::Silent("has ended"));
        }
        self.channel.send(&LoaderRequest::Want(wanted), &[]).map_err(LoaderError::Ask)?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(loaded)) => Ok(loaded),
            Ok(Err(_)) => Err(LoaderError::Silent("has ended")),
            Err(_) => Err(LoaderError::Silent("does not answer")),
        }
    }

    /// Names the logs that it may open for the worker, once and for all, and returns who asks for them.
    ///
    /// # Errors
    /// Where it cannot be told: it has ended, or the list is longer than a message.
    pub fn name_logs(&self, wanted: WantedLogs) -> Result<LogOpener, LoaderError> {
        self.channel.send(&LoaderRequest::Logs(wanted), &[]).map_err(LoaderError::Ask)?;
        Ok(LogOpener { channel: self.channel.clone(), heard: self.heard.clone() })
    }

    /// Asks it, also from elsewhere.
    pub fn questions(&self) -> Questions {
        Questions { channel: self.channel.clone(), heard: self.heard.clone() }
    }

    /// Who asks the loader whom to believe.
    pub fn voucher(&self) -> Voucher {
        Voucher { channel: self.channel.clone(), heard: self.heard.clone() }
    }

    /// All programs as they stand.
    pub fn programs(&self) -> Vec<Program> {
        lock(&self.heard).programs.clone()
    }

    /// What the loader kept; `None` until it has loaded something.
    pub fn confinement(&self) -> Option<Confinement> {
        lock(&self.heard).confinement.clone()
    }

    /// Cancelled when the loader has ended.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

// === impl Questions ===

impl Questions {
    /// All programs as they stand.
    pub fn programs(&self) -> Vec<Program> {
        lock(&self.heard).programs.clone()
    }

    /// Who listens on a port, in a network namespace by its number. `None` where nobody does, or where the
    /// loader does not say so in time.
    pub async fn listener(&self, netns: u32, port: u16) -> Option<Listener> {
        let (sender, answer) = oneshot::channel();
        let question = {
            let mut heard = lock(&self.heard);
            heard.asked += 1;
            let question = heard.asked;
            heard.questions.insert(question, sender);
            question
        };
        let sent = self.channel.send(&LoaderRequest::Listener { question, netns, port }, &[]);
        let answered = match sent {
            Ok(()) => tokio::time::timeout(PATIENCE_LISTENER, answer).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        lock(&self.heard).questions.remove(&question);
        answered.flatten()
    }
}

// === impl Voucher ===

impl Voucher {
    /// Whether the word of a process on an address counts. It does not where the loader has ended.
    pub async fn vouch(&self, process: u32, address: IpAddr) -> Vouch {
        let (sender, answer) = oneshot::channel();
        {
            // Sent under the lock, so that questions and who waits are in the same order.
            let mut heard = lock(&self.heard);
            if self.channel.send(&LoaderRequest::Vouch { process, address }, &[]).is_err() {
                return Vouch::Gone;
            }
            heard.doubts.push_back(sender);
        }
        answer.await.unwrap_or(Vouch::Gone)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// Listens until the loader has ended.
fn listen(channel: &Channel, heard: &Mutex<Heard>) {
    loop {
        match channel.receive::<Said>() {
            Ok(Some((Said::Loaded { programs, confinement, maps }, descriptors))) => {
                let mut heard = lock(heard);
                tell(&heard.programs, &programs);
                heard.programs = programs;
                heard.confinement = Some(confinement);
                if let Some(answer) = heard.answer.take() {
                    let _ = answer.send(by_object(maps, descriptors));
                }
            }
            Ok(Some((Said::Listener { question, listener }, _))) => {
                if let Some(waiting) = lock(heard).questions.remove(&question) {
                    let _ = waiting.send(listener);
                }
            }
            Ok(Some((Said::Opened { question, at, trouble }, descriptors))) => {
                if let Some(waiting) = lock(heard).logs.remove(&question) {
                    let _ = waiting.send(logs::answer(at, trouble, descriptors));
                }
            }
            Ok(Some((Said::Vouched(vouch), _))) => {
                if let Some(asker) = lock(heard).doubts.pop_front() {
                    let _ = asker.send(vouch);
                }
            }
            Ok(Some((Said::Changed { programs }, _))) => {
                let mut heard = lock(heard);
                tell(&heard.programs, &programs);
                heard.programs = programs;
            }
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "what the loader of the kernel programs says cannot be read");
                return;
            }
        }
    }
}

/// Tells of programs that stand otherwise than before.
fn tell(before: &[Program], now: &[Program]) {
    use crate::channel::ProgramState;
    for program in now {
        if before.iter().any(|old| old.name == program.name && old.state == program.state) {
            continue;
        }
        let Program { name, reason, .. } = program;
        match program.state {
            ProgramState::On => tracing::info!(program = name, "on: {reason}"),
            ProgramState::Off => tracing::debug!(program = name, "off: {reason}"),
            ProgramState::Refused => {
                tracing::warn!(program = name, "refused: {reason}; the other programs and sources go on");
            }
        }
    }
}

fn by_object(maps: Vec<(String, String)>, descriptors: Vec<OwnedFd>) -> NewMaps {
    let mut objects: HashMap<String, Vec<(String, OwnedFd)>> = HashMap::new();
    for ((object, map), descriptor) in maps.into_iter().zip(descriptors) {
        objects.entry(object).or_default().push((map, descriptor));
    }
    objects.into_iter().map(|(object, maps)| (object, Maps::new(maps))).collect()
}

pub(super) fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
