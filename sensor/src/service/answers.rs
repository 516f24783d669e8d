//! What the running sensor answers to the commands of this host.

use std::sync::PoisonError;

use atalaya_wire::Name;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::ban::never_banned;
use super::figures::{self, FigureSources};
use super::{Service, Sources, Watch, lock};
use crate::control::{Answer, FileStatus, JournalCounters, Request, Status};
use crate::source::logins::seen::{SeenService, unseen};
use crate::uplink::Uplink;
use crate::uplink::report::ReportStatus;

impl Service {
    /// Answers a command, here or, where it has to ask the enforcer, on a task of its own.
    pub(super) fn answer(&self, request: Request, reply: oneshot::Sender<Answer>, sources: &Sources) {
        let now = Timestamp::now();
        let done = |message: String| Answer::Done { message };
        let failed = |message: String| Answer::Failed { message };
        let unknown = |watch: &Watch, jail: &Name| {
            let jails: Vec<&str> = watch.detector.totals().map(|(name, _, _)| name.as_str()).collect();
            failed(format!("there is no jail `{jail}`; there are {}", jails.join(", ")))
        };
        let mut watch = lock(&self.desk.watch);
        let answer = match request {
            Request::Status { jail } => match &jail {
                Some(name) if !watch.detector.totals().any(|(other, _, _)| other == name) => {
                    unknown(&watch, name)
                }
                _ => {
                    let mut status = self.status(&watch, jail.as_ref(), sources, now);
                    let local_drop = self.desk.local_drop.clone();
                    // Asking the kernel of every ban and of every file takes its time, in which the jails go on.
                    self.tasks.spawn_blocking(move || {
                        status.files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
                        status.files.iter_mut().for_each(FileStatus::look);
                        local_drop.complete(&mut status);
                        let _ = reply.send(Answer::Status(Box::new(status)));
                    });
                    return;
                }
            },
            Request::Figures => {
                // Without the jails' bans, which may be many: what is told of jails are their totals.
                let mut status = self.without_jails(&watch, sources, self.kernel.seen());
                let totals = watch.detector.totals();
                let jails = totals.map(|(name, failing, totals)| (name.clone(), failing, totals)).collect();
                let steps = self.desk.outbox.steps();
                let local_drop = self.desk.local_drop.clone();
                self.tasks.spawn_blocking(move || {
                    status.local_drop = local_drop.status();
                    let text = figures::text(FigureSources { status, jails, steps });
                    let _ = reply.send(Answer::Figures { text });
                });
                return;
            }
            Request::Ban { jail, address, bantime } => {
                if let Some(why) = never_banned(address) {
                    failed(format!("{address} is never banned: {why}"))
                } else if let Some(bantime) = watch.detector.ban(&jail, address, bantime, now) {
                    let desk = self.desk.clone();
                    self.tasks.spawn(async move {
                        let _ = reply.send(desk.banned_by_hand(jail, address, bantime).await);
                    });
                    return;
                } else {
                    unknown(&watch, &jail)
                }
            }
            Request::Ignore { jail, network } => match watch.detector.spare(&jail, network) {
                Some(()) => {
                    self.desk.local_drop.refresh(&watch);
                    done(format!(
                        "{network} is protected in jail {jail} until the sensor ends; to protect it permanently, write it to `ignore`"
                    ))
                }
                None => unknown(&watch, &jail),
            },
            Request::Unban { jail, address } => {
                if let Some(name) = &jail
                    && !watch.detector.totals().any(|(other, _, _)| other == name)
                {
                    unknown(&watch, name)
                } else {
                    let desk = self.desk.clone();
                    self.tasks.spawn(async move {
                        let _ = reply.send(desk.unban(jail, address).await);
                    });
                    return;
                }
            }
            Request::Reload => failed("a reload is answered elsewhere".to_owned()),
        };
        drop(watch);
        let _ = reply.send(answer);
    }

    fn status(&self, watch: &Watch, jail: Option<&Name>, sources: &Sources, now: Timestamp) -> Status {
        let seen = self.kernel.seen();
        let mut jails = watch.detector.status(jail, now);
        for (name, services) in watch.detector.login_services() {
            if let Some(status) = jails.iter_mut().find(|status| status.name == *name) {
                status.troubles.extend(unseen(services, &seen));
            }
        }
        Status { jails, ..self.without_jails(watch, sources, seen) }
    }

    fn without_jails(&self, watch: &Watch, sources: &Sources, seen: Vec<SeenService>) -> Status {
        let link = self.desk.link.lock();
        let files = watch.positions.values();
        let files = files.map(|saved| FileStatus::new(saved.path.clone(), saved.position.offset)).collect();
        Status {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            enforcer: link.as_ref().map(|uplink| uplink.url().to_owned()),
            connected: link.as_ref().and_then(Uplink::is_connected),
            sources: sources.names.iter().map(ToString::to_string).collect(),
            programs: self.kernel.programs(),
            confinement: [("worker", Some(self.confinement.clone())), ("loader", self.kernel.confinement())]
                .into_iter()
                .filter_map(|(process, kept)| Some((process.to_owned(), kept?)))
                .collect(),
            logins: seen,
            kernel_trouble: self.kernel.trouble().map(ToOwned::to_owned),
            lines: watch.lines,
            lines_per_second: self.rate.lock().unwrap_or_else(PoisonError::into_inner).per_second(),
            backlog: sources.files.as_ref().map_or(0, |(handle, _)| handle.status().backlog()),
            unwatched: watch.files.as_ref().map_or(0, |files| files.unwatched()),
            unread: {
                let of_files = watch.files.iter().flat_map(|files| files.troubles());
                of_files.chain(watch.journal_status.iter().flat_map(|journal| journal.troubles())).collect()
            },
            journal: watch.journal_status.as_ref().map(|journal| JournalCounters {
                files: journal.files(),
                entries: journal.entries(),
                backlog: journal.backlog(),
                damaged: journal.damaged(),
                cut: journal.cut(),
                lost: journal.lost(),
            }),
            files,
            jails: Vec::new(),
            local_drop: None,
            state_trouble: self.desk.store.trouble(),
            outbox: self.desk.outbox.status(),
            reports: match watch.detector.reporting() {
                Some(pending) => ReportStatus { on: true, ..watch.reports.clone() }.with(pending),
                None => ReportStatus::default(),
            },
        }
    }
}
