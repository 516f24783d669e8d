//! The kernel's side of the running sensor: its loader, and the feeds of what is loaded.

use std::ffi::OsString;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::local_drop::LocalDrop;
use crate::channel::{Program, Wanted};
use crate::confine::Confinement;
use crate::confine::logs::WantedLogs;
use crate::kernel::logs::LogOpener;
use crate::source::logins::seen::{SeenService, SeenServices};

/// Whether this sensor was built with the kernel programs.
const BUILT_IN: bool = cfg!(feature = "kernel");
const NOT_BUILT_IN: &str = "this sensor was built without the kernel's side";

/// The loader, and a feed for each object that is loaded.
#[derive(Default)]
pub(super) struct Kernel {
    loader: Option<crate::kernel::process::Loader>,
    feeds: std::collections::HashMap<&'static str, CancellationToken>,
    /// Told when the jails of connections are others.
    guards: super::connections::Changed,
    /// Opens logs that the worker cannot reach.
    log_opener: Option<LogOpener>,
    /// The services whose logins were seen, over all feeds.
    seen: SeenServices,
    /// Why nothing can be loaded.
    trouble: Option<String>,
}

/// Whose feeds these are to be.
pub(super) struct Feeding<'a> {
    pub tasks: &'a TaskTracker,
    pub shutdown: &'a CancellationToken,
    /// The detector, which takes what they read.
    pub watch: &'a Shared,
    /// What drops on this host.
    pub local_drop: &'a LocalDrop,
}

// === impl Kernel ===

impl Kernel {
    /// Starts the loader with these arguments of the command line, and names the logs that it may open.
    pub(super) fn start(arguments: &[OsString], logs: WantedLogs) -> Self {
        let mut kernel = Self::default();
        if !BUILT_IN {
            kernel.trouble = Some(NOT_BUILT_IN.to_owned());
            return kernel;
        }
        match crate::kernel::process::Loader::start(arguments) {
            Ok(loader) => {
                match loader.name_logs(logs) {
                    Ok(opener) => kernel.log_opener = Some(opener),
                    Err(error) => tracing::warn!("logs that are made later may not be read: {error}"),
                }
                kernel.loader = Some(loader);
            }
            Err(error) => kernel.note(&error),
        }
        kernel
    }

    /// Loads what is wanted and lets it feed the jails; the sources that run.
    pub(super) async fn want(&mut self, wanted: Wanted, feeding: &Feeding<'_>) -> Vec<&'static str> {
        use crate::channel::ProgramState;
        use crate::channel::messages::{CONNECTIONS, LOCAL_DROP, LOGINS};

        if wanted.logins.is_none() {
            self.stop(LOGINS);
        }
        if wanted.connections.is_none() {
            self.stop(CONNECTIONS);
        }
        if !BUILT_IN {
            warn_of_missing(&wanted);
        }
        let Some(running) = &self.loader else { return Vec::new() };
        let questions = running.questions();
        let voucher = running.voucher();
        match running.want(wanted).await {
            Ok(mut loaded) => {
                // First, so that no offence waits for it.
                if let Some(maps) = loaded.remove(LOCAL_DROP) {
                    let adopted =
                        tokio::task::block_in_place(|| feeding.local_drop.adopt(maps, feeding.watch));
                    if let Err(error) = adopted {
                        self.note(&error);
                    }
                }
                if let Some(mut maps) = loaded.remove(LOGINS) {
                    let token = self.token(LOGINS, feeding);
                    if let Err(error) = super::syslog_calls::feed(&mut maps, token.clone(), feeding) {
                        self.note(&error);
                    }
                    if let Err(error) = super::logins::feed(maps, voucher, self.seen.clone(), token, feeding)
                    {
                        self.note(&error);
                    }
                }
                if let Some(maps) = loaded.remove(CONNECTIONS) {
                    let token = self.token(CONNECTIONS, feeding);
                    let fed = super::connections::feed(maps, token, questions, &self.guards, feeding);
                    if let Err(error) = fed {
                        self.note(&error);
                    }
                }
                self.guards.tell();
            }
            Err(error) => self.note(&error),
        }
        let programs = self.programs();
        let runs = |object: &&'static str| {
            programs.iter().any(|program| {
                program.state == ProgramState::On && program.name.split(':').next() == Some(*object)
            })
        };
        [LOGINS, CONNECTIONS, "scans"].into_iter().filter(runs).collect()
    }

    /// What the loader kept.
    pub(super) fn confinement(&self) -> Option<Confinement> {
        self.loader.as_ref().and_then(crate::kernel::process::Loader::confinement)
    }

    /// Who opens logs that the worker cannot reach.
    pub(super) fn log_opener(&self) -> Option<LogOpener> {
        self.log_opener.clone()
    }

    /// All programs as they stand.
    pub(super) fn programs(&self) -> Vec<Program> {
        self.loader.as_ref().map(crate::kernel::process::Loader::programs).unwrap_or_default()
    }

    /// The services whose logins were seen.
    pub(super) fn seen(&self) -> Vec<SeenService> {
        self.seen.list()
    }

    /// Why nothing can be loaded, where that is so.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Waits until the loader has ended, which it should not.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let ended = self.loader.as_ref().map(crate::kernel::process::Loader::ended);
        async move {
            match ended {
                Some(ended) => ended.cancelled().await,
                None => std::future::pending().await,
            }
        }
    }

    /// A token for a new feed of an object; the feed before it ends.
    fn token(&mut self, object: &'static str, feeding: &Feeding<'_>) -> CancellationToken {
        self.stop(object);
        let token = feeding.shutdown.child_token();
        self.feeds.insert(object, token.clone());
        token
    }

    fn stop(&mut self, object: &'static str) {
        if let Some(feed) = self.feeds.remove(object) {
            feed.cancel();
        }
    }

    fn note(&mut self, error: &dyn std::error::Error) {
        tracing::warn!("nothing is seen in the kernel: {error}; the other sources go on");
        self.trouble = Some(error.to_string());
    }
}

/// Says what of all that is wanted a sensor without kernel programs cannot do.
fn warn_of_missing(wanted: &Wanted) {
    if wanted.logins.is_some() || wanted.connections.is_some() {
        tracing::warn!("{NOT_BUILT_IN}: jails that need it see nothing");
    }
    if wanted.local_drop.as_ref().is_some_and(|drop| drop.settings.is_some()) {
        tracing::warn!("{NOT_BUILT_IN}: nothing is dropped on this host");
    }
}
