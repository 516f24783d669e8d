//! What Prometheus is told, at `/metrics` of a port of its own: the figures that `status` shows, and how long each step took.
//! docs/metrics.md has all of them.

use atalaya_program::metrics::{Durations, Figures, Labels};
use atalaya_wire::Name;
use tokio::sync::{mpsc, oneshot};

use crate::channel::ProgramState;
use crate::control::{Answer, FileStatus, PendingRequest, Request, Status};
use crate::jail::Totals;

/// Of so many files each has rows of its own, in the order of their names; sums count all.
const MOST_FILES: usize = 1000;

/// What the figures are made of.
pub(super) struct FigureSources {
    /// As `status` has it, without its jails.
    pub(super) status: Status,
    /// Each jail: how many addresses it counts now, and its totals since the start.
    pub(super) jails: Vec<(Name, usize, Totals)>,
    /// From an offence's last failure until it was decided on, and from sending to the enforcer's answer.
    pub(super) steps: [Durations; 2],
}

/// Asks the running service; nothing where it ends.
pub(super) async fn asked(calls: mpsc::Sender<PendingRequest>) -> String {
    let (reply, answer) = oneshot::channel();
    if calls.send((Request::Figures, reply)).await.is_err() {
        return String::new();
    }
    match answer.await {
        Ok(Answer::Figures { text }) => text,
        Ok(Answer::Status(_) | Answer::Done { .. } | Answer::Failed { .. }) | Err(_) => String::new(),
    }
}

/// The figures as `OpenMetrics`' text. Looks how large each file is: a call of the system for each.
pub(super) fn text(counted: FigureSources) -> String {
    let FigureSources { mut status, jails, steps: [decided, answered] } = counted;
    let started = status.started.as_millisecond() as f64 / 1000.0;
    let mut figures = Figures::of_process("atalaya_sensor", &status.release, started);
    of_jails(&jails, &mut figures);
    of_reading(&mut status, &mut figures);
    of_enforcer(&status, &mut figures);
    figures.durations(
        "atalaya_sensor_decision_seconds",
        "From the time of an offence's last failure, as its source dates it, until it is decided on",
        [(Vec::new(), decided)],
    );
    figures.durations(
        "atalaya_sensor_answer_seconds",
        "From sending offences until the enforcer has them on disk and answered",
        [(Vec::new(), answered)],
    );
    if let Some(drop) = &status.local_drop {
        figures.value(
            "atalaya_sensor_local_drop_bans",
            "Bans that this host drops by itself",
            drop.bans as f64,
        );
        figures.total(
            "atalaya_sensor_local_drop_packets",
            "Packets dropped on this host",
            drop.dropped.packets as f64,
        );
        figures.total(
            "atalaya_sensor_local_drop_left_out",
            "Bans that found no room there",
            drop.left_out as f64,
        );
    }
    figures.text()
}

fn of_jails(jails: &[(Name, usize, Totals)], figures: &mut Figures) {
    let label = |name: &Name| -> Labels { vec![("jail", name.to_string())] };
    figures.gauge(
        "atalaya_sensor_jail_failing_addresses",
        "Addresses that the jail counts now",
        jails.iter().map(|(name, failing, _)| (label(name), *failing as f64)),
    );
    let mut counter = |name, help, value: fn(&Totals) -> u64| {
        figures.counter(
            name,
            help,
            jails.iter().map(|(jail, _, totals)| (label(jail), value(totals) as f64)),
        );
    };
    counter("atalaya_sensor_failures", "Failures that the jail counted", |totals| totals.failures);
    counter("atalaya_sensor_offences", "Offences of the jail", |totals| totals.offences);
    counter("atalaya_sensor_ignored_failures", "Failures of ignored addresses", |totals| totals.ignored);
    counter("atalaya_sensor_old_failures", "Failures older than the jail's findtime", |totals| totals.old);
    counter("atalaya_sensor_forgotten_addresses", "Addresses forgotten at the memory's bound", |totals| {
        totals.dropped
    });
}

fn of_reading(status: &mut Status, figures: &mut Figures) {
    figures.total("atalaya_sensor_lines", "Lines and messages looked at", status.lines as f64);
    figures.value(
        "atalaya_sensor_backlog_bytes",
        "Bytes of logs written and not yet read",
        status.backlog as f64,
    );
    figures.value("atalaya_sensor_files", "Log files that are read", status.files.len() as f64);
    figures.value(
        "atalaya_sensor_unread_logs",
        "Logs that are wanted and not read",
        status.unread.len() as f64,
    );
    status.files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    status.files.truncate(MOST_FILES);
    status.files.iter_mut().for_each(FileStatus::look);
    let label = |file: &FileStatus| -> Labels { vec![("path", file.path.display().to_string())] };
    figures.gauge(
        "atalaya_sensor_file_position_bytes",
        "How much of the file is read",
        status.files.iter().map(|file| (label(file), file.read as f64)),
    );
    figures.gauge(
        "atalaya_sensor_file_size_bytes",
        "How large the file is",
        status.files.iter().map(|file| (label(file), file.size as f64)),
    );
    if let Some(journal) = &status.journal {
        figures.value(
            "atalaya_sensor_journal_backlog_entries",
            "Entries not yet read",
            journal.backlog as f64,
        );
        figures.total(
            "atalaya_sensor_journal_entries",
            "Entries of systemd's journal read",
            journal.entries as f64,
        );
        figures.total(
            "atalaya_sensor_journal_damaged_entries",
            "Entries that cannot be read",
            journal.damaged as f64,
        );
        figures.total(
            "atalaya_sensor_journal_lost_entries",
            "Entries gone before they were read",
            journal.lost as f64,
        );
    }
    let program = |name: &str, state: ProgramState| {
        (vec![("program", name.to_owned())], f64::from(u8::from(state == ProgramState::On)))
    };
    figures.gauge(
        "atalaya_sensor_kernel_program_on",
        "1 where the kernel program is loaded and attached, 0 where the kernel refused it",
        status
            .programs
            .iter()
            .filter(|program| program.state != ProgramState::Off)
            .map(|each| program(&each.name, each.state)),
    );
}

fn of_enforcer(status: &Status, figures: &mut Figures) {
    if let Some(connected) = status.connected {
        let connected = f64::from(u8::from(connected));
        figures.value("atalaya_sensor_enforcer_connected", "1 where the enforcer answered last", connected);
    }
    figures.value(
        "atalaya_sensor_outbox_offences",
        "Offences that the enforcer has not acked",
        status.outbox.waiting as f64,
    );
    figures.total(
        "atalaya_sensor_outbox_dropped_offences",
        "Offences dropped at the outbox's bound",
        status.outbox.dropped as f64,
    );
    figures.total(
        "atalaya_sensor_reported_failures",
        "Failures told to the enforcer",
        status.reports.failures as f64,
    );
    figures.total(
        "atalaya_sensor_reports_dropped",
        "Failures and logins that were not told",
        status.reports.dropped as f64,
    );
    figures.value(
        "atalaya_sensor_state_trouble",
        "1 while the state cannot be written",
        f64::from(u8::from(status.state_trouble.is_some())),
    );
}
