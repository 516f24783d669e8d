//! Logs that the loader opens for the worker.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::process::{Heard, lock};
use crate::channel::messages::LoaderRequest;
use crate::channel::socket::Channel;
use crate::confine::logs::{LogPart, OpenedLog};

/// How long opening may take: the loader may be at loading or looking around.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the loader to open logs, from any thread.
#[derive(Clone)]
pub struct LogOpener {
    pub(super) channel: Arc<Channel>,
    pub(super) heard: Arc<Mutex<Heard>>,
}

/// Who waits for a log: what was opened, or why it was not.
pub(super) type Waiting = std::sync::mpsc::SyncSender<io::Result<OpenedLog>>;

// === impl LogOpener ===

impl LogOpener {
    /// Opens a part of a log. Blocks for ten seconds at most.
    ///
    /// # Errors
    /// As the loader met it, or that it does not answer.
    pub fn open(&self, path: &Path, part: LogPart) -> io::Result<OpenedLog> {
        let (sender, answer) = sync_channel(1);
        let question = {
            let mut heard = lock(&self.heard);
            heard.asked += 1;
            let question = heard.asked;
            heard.logs.insert(question, sender);
            question
        };
        let request = LoaderRequest::Open { question, path: path.to_owned(), part };
        let opened = self.channel.send(&request, &[]).and_then(|()| {
            let silent = |_| io::Error::other("the privileged process, which is to open it, does not answer");
            answer.recv_timeout(PATIENCE).map_err(silent)?
        });
        lock(&self.heard).logs.remove(&question);
        opened
    }
}

impl std::fmt::Debug for LogOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogOpener")
    }
}

/// Takes an answer apart.
pub(super) fn answer(
    at: Option<PathBuf>,
    trouble: Option<(Option<i32>, String)>,
    descriptors: Vec<OwnedFd>,
) -> io::Result<OpenedLog> {
    match (trouble, descriptors.into_iter().next()) {
        (Some((Some(number), _)), _) => Err(io::Error::from_raw_os_error(number)),
        (Some((None, words)), _) => Err(io::Error::other(words)),
        (None, Some(file)) => Ok(OpenedLog { file: File::from(file), at }),
        (None, None) => Err(io::Error::other("the privileged process sent no descriptor")),
    }
}
