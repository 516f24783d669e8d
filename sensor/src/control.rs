//! What the commands of this host say to the running sensor: one request and one answer, each a line
//! of JSON, over a Unix socket in the state folder that only its user may open.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atalaya_program::disk::FileTrouble;
use atalaya_wire::{BanTime, Name};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::channel::Program;
use crate::confine::Confinement;
use crate::detector::JailStatus;
use crate::local_drop::status::LocalDropStatus;
use crate::source::logins::seen::SeenService;
use crate::store::StateTrouble;
use crate::uplink::outbox::OutboxStatus;
use crate::uplink::report::ReportStatus;

/// The socket's name in the state folder.
const SOCKET: &str = "control.sock";
/// The longest request, and the longest answer, in bytes.
const LONGEST_REQUEST: u64 = 64 * 1024;
const LONGEST_ANSWER: u64 = 256 * 1024 * 1024;
/// How long a request and its answer may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the sensor stands; with all jails, or one.
    Status {
        /// Only this jail, which must run; all jails where it is `None`.
        jail: Option<Name>,
    },
    /// What Prometheus is told.
    Figures,
    /// Read the configuration again and go on with it.
    Reload,
    /// Ban an address in a jail's name.
    Ban {
        /// One that runs; its name stands on the ban.
        jail: Name,
        /// A single address; the jail, and the enforcer, may ban its network.
        address: IpAddr,
        /// For how long; the jail's own time where there is none.
        bantime: Option<BanTime>,
    },
    /// Lift a ban that this sensor asked for, and let pass what this host drops.
    Unban {
        /// In this jail; in all where there is none.
        jail: Option<Name>,
        /// A single address; bans that are counted as one with it (the jail's IPv6 prefix) end too.
        address: IpAddr,
    },
    /// Spare an address or network in a jail, until the sensor ends.
    Ignore {
        /// One that runs; other jails go on counting the network's failures.
        jail: Name,
        /// An address is a network of its full length.
        network: IpNet,
    },
}

/// What the sensor sends back, one to each request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// How the sensor stands.
    Status(Box<Status>),
    /// What Prometheus is told.
    Figures {
        /// In `OpenMetrics`' text.
        text: String,
    },
    /// It is done, in a sentence.
    Done {
        /// For people, on one line; the wording may change.
        message: String,
    },
    /// It is not, and why.
    Failed {
        /// What failed, and what to do.
        message: String,
    },
}

/// How a sensor stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version of its package: `0.1.0`.
    pub release: String,
    /// When the process began to run its jails; a reload does not change it.
    pub started: Timestamp,
    /// The enforcer's URL; `None` where it has not joined.
    pub enforcer: Option<String>,
    /// Whether the enforcer answered last; `None` where it was not asked yet.
    pub connected: Option<bool>,
    /// The sources that run.
    pub sources: Vec<String>,
    /// The kernel programs, each on, off or refused.
    #[serde(default)]
    pub programs: Vec<Program>,
    /// The services whose logins the kernel's side saw, in the order of their names.
    #[serde(default)]
    pub logins: Vec<SeenService>,
    /// What each of the sensor's processes kept.
    #[serde(default)]
    pub confinement: Vec<(String, Confinement)>,
    /// Why no kernel program can be loaded at all, where that is so.
    #[serde(default)]
    pub kernel_trouble: Option<String>,
    /// What is dropped on this host itself; `None` where nothing is.
    #[serde(default)]
    pub local_drop: Option<LocalDropStatus>,
    /// Lines and messages looked at since the start.
    pub lines: u64,
    /// Of these in a second, over the last ten.
    pub lines_per_second: f64,
    /// Bytes written to log files and not yet read.
    pub backlog: u64,
    /// Logs, and patterns of logs, that are not read, with the reason.
    #[serde(default)]
    pub unread: Vec<(PathBuf, String)>,
    /// How many log files are open that inotify tells nothing of; these are looked at every two seconds.
    #[serde(default)]
    pub unwatched: u64,
    /// The log files that are read, by name.
    pub files: Vec<FileStatus>,
    /// What was read of systemd's journal; `None` where no jail reads it.
    #[serde(default)]
    pub journal: Option<JournalCounters>,
    /// In the order of the settings; only the one that was asked for, where one was.
    pub jails: Vec<JailStatus>,
    /// Why the state cannot be written, where that is so.
    #[serde(default)]
    pub state_trouble: Option<StateTrouble>,
    /// The offences on their way to the enforcer.
    #[serde(default)]
    pub outbox: OutboxStatus,
    /// What the enforcer is told beside offences.
    #[serde(default)]
    pub reports: ReportStatus,
}

/// How far a log file is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileStatus {
    /// As the directory has it: globs are resolved.
    pub path: PathBuf,
    /// How much of it is read, in bytes.
    pub read: u64,
    /// How large it is, in bytes.
    pub size: u64,
}

impl FileStatus {
    /// A file that was read so far; its size is not looked at yet.
    pub fn new(path: PathBuf, read: u64) -> Self {
        Self { path, read, size: read }
    }

    /// Looks how large it is now; one that cannot be looked at stays as it was. A call of the system.
    pub fn look(&mut self) {
        self.size = std::fs::metadata(&self.path).map_or(self.size, |file| file.len());
    }
}

/// What was read of systemd's journal since the start, or the last reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalCounters {
    /// Files of the journals that are read now.
    pub files: u64,
    /// Entries that were looked at.
    pub entries: u64,
    /// Entries that are there and not yet looked at.
    pub backlog: u64,
    /// Entries that could not be read, because their file is damaged.
    pub damaged: u64,
    /// Entries of which something was cut or left out.
    pub cut: u64,
    /// Entries of files that were deleted before they were read.
    pub lost: u64,
}

/// A request, and where its answer goes.
pub type PendingRequest = (Request, oneshot::Sender<Answer>);

/// Why the sensor cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket is missing or denied, or nobody listens on it.
    #[error("no sensor answers at {}: {source}; is it running (`atalaya-sensor run`), with this `state`, and may this user ask it?", path.display())]
    Nobody {
        /// `control.sock` of the state folder that was looked in.
        path: PathBuf,
        /// What connecting to it, or talking to it, failed with.
        source: io::Error,
    },
    /// It answers, and not as a sensor does.
    #[error("the sensor at {} gave no answer that can be understood: {reason}", path.display())]
    Broken {
        /// The socket whose other end is no sensor, or one of another release.
        path: PathBuf,
        /// What is wrong with what came, or that nothing did.
        reason: String,
    },
    /// The socket cannot be made.
    #[error("cannot open the socket {}: {}", path.display(), source.or("check that this user may write there"))]
    Socket {
        /// Where it was to be made: `control.sock` of the state folder.
        path: PathBuf,
        /// What making, binding or protecting it failed with.
        source: FileTrouble,
    },
}

// === impl ControlError ===

impl ControlError {
    /// Whether it is for the disk, which may take a socket later.
    fn is_of_the_disk(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(self, Self::Socket { source, .. }
            if matches!(source.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull))
    }
}

/// Opens the socket in a state folder, whose lock this process holds.
pub fn listen(state: &Path) -> Result<UnixListener, ControlError> {
    let path = state.join(SOCKET);
    let failed = |source| ControlError::Socket { path: path.clone(), source: FileTrouble::of(&path, source) };
    // Under another name until its mode is right, so that nobody else gets in between.
    let draft = state.join(format!("{SOCKET}.new"));
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&draft).map_err(failed)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&draft, &path).map_err(failed)?;
    Ok(listener)
}

/// As [`listen`]; `None` where the disk takes no socket now, which [`listen_later`] waits for.
pub fn listen_as_possible(state: &Path) -> Result<Option<UnixListener>, ControlError> {
    match listen(state) {
        Err(error) if error.is_of_the_disk() => {
            tracing::error!("{error}; until then no command of this host is answered, `status` among them");
            Ok(None)
        }
        listener => listener.map(Some),
    }
}

/// Opens the socket as soon as the disk takes it.
pub async fn listen_later(state: &Path) -> UnixListener {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Ok(listener) = listen(state) {
            return listener;
        }
    }
}

/// Answers requests, for ever.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<PendingRequest>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(DEADLINE, answer(stream, calls)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a command cannot be answered");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, calls: mpsc::Sender<PendingRequest>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    BufReader::new(reader).take(LONGEST_REQUEST).read_until(b'\n', &mut line).await?;
    let failed = |message: String| Answer::Failed { message };
    let answer = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            let sent = calls.send((request, reply)).await;
            match (sent, answer.await) {
                (Ok(()), Ok(answer)) => answer,
                _ => failed("the sensor is stopping".to_owned()),
            }
        }
        Err(error) => failed(format!("the request cannot be understood: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    writer.write_all(&text).await?;
    writer.shutdown().await
}

/// Asks the sensor that runs on a state folder.
pub async fn ask(state: &Path, request: &Request) -> Result<Answer, ControlError> {
    let path = state.join(SOCKET);
    let nobody = |source| ControlError::Nobody { path: path.clone(), source };
    let broken = |reason: String| ControlError::Broken { path: path.clone(), reason };
    let mut stream = UnixStream::connect(&path).await.map_err(nobody)?;
    let exchange = async {
        let mut text = serde_json::to_vec(request).map_err(|error| broken(error.to_string()))?;
        text.push(b'\n');
        stream.write_all(&text).await.map_err(|error| broken(error.to_string()))?;
        let mut line = Vec::new();
        let mut reader = BufReader::new(stream).take(LONGEST_ANSWER);
        reader.read_until(b'\n', &mut line).await.map_err(|error| broken(error.to_string()))?;
        serde_json::from_slice(&line).map_err(|error| broken(error.to_string()))
    };
    tokio::time::timeout(DEADLINE, exchange)
        .await
        .map_err(|_| broken(format!("none within {} s", DEADLINE.as_secs())))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_gets_its_answer_and_nonsense_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let nobody = ask(folder.path(), &Request::Reload).await.unwrap_err();
        assert!(nobody.to_string().contains("is it running"), "{nobody}");

        let listener = listen(folder.path()).unwrap();
        let mode = folder.path().join(SOCKET).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (calls, mut inbox) = mpsc::channel::<PendingRequest>(1);
        tokio::spawn(serve(listener, calls));
        tokio::spawn(async move {
            while let Some((request, reply)) = inbox.recv().await {
                let _ = reply.send(Answer::Done { message: format!("{request:?}") });
            }
        });
        let answer = ask(folder.path(), &Request::Reload).await.unwrap();
        assert!(matches!(answer, Answer::Done { message } if message == "Reload"));

        let mut stream = UnixStream::connect(folder.path().join(SOCKET)).await.unwrap();
        stream.write_all(b"{\"command\":\"dance\"}\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("cannot be understood"), "{text}");
    }
}
