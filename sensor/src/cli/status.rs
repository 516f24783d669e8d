//! How `atalaya-sensor status` shows the running sensor.

use std::collections::BTreeSet;
use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::{Timestamp, Unit};

use crate::channel::{Outdated, OutdatedProgram, Program, ProgramState};
use crate::cli::trial::{given_up, printable};
use crate::control::{FileStatus, JournalCounters, Status};
use crate::jail::BanEnd;
use crate::local_drop::status::{DroppedBan, LocalDropStatus};
use crate::source::logins::seen::SeenService;
use crate::store::StateTrouble;
use crate::uplink::outbox::OutboxStatus;
use atalaya_program::count::{agreeing, counted};

/// How many addresses of a jail are listed; the JSON has all.
const LISTED: usize = 50;

/// Prints all of it as one JSON document.
pub fn json(status: &Status, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, status)?;
    writeln!(out)
}

/// Prints tables; with `addresses` also whom the jails banned.
pub fn table(status: &Status, addresses: bool, out: &mut impl Write) -> io::Result<()> {
    head(status, out)?;
    for (process, kept) in &status.confinement {
        writeln!(out, "{process} kept {}", printable(kept.to_string().as_bytes()))?;
    }
    if let Some(trouble) = &status.kernel_trouble {
        writeln!(out, "nothing is seen in the kernel: {}", printable(trouble.as_bytes()))?;
    }
    if status.programs.iter().any(|program| program.state != ProgramState::Off) {
        writeln!(out, "{}", programs(&status.programs))?;
    }
    outdated(&status.programs, out)?;
    logins(&status.logins, out)?;
    if let Some(drop) = &status.local_drop {
        local_drop(drop, out)?;
    }
    let mut jails =
        new_table(["jail", "source", "failing", "failures", "banned now", "banned in total", "ignored"]);
    for jail in &status.jails {
        jails.add_row([
            jail.name.to_string(),
            short(&jail.source),
            jail.failing.to_string(),
            jail.failures.to_string(),
            jail.banned.len().to_string(),
            jail.offences.to_string(),
            jail.ignored.to_string(),
        ]);
    }
    writeln!(out, "{jails}")?;
    for jail in &status.jails {
        for trouble in &jail.troubles {
            writeln!(out, "jail {}: {}", jail.name, printable(trouble.as_bytes()))?;
        }
    }
    for jail in status.jails.iter().filter(|jail| jail.exhausted > 0) {
        writeln!(out, "jail {}: {}", jail.name, given_up(jail.exhausted))?;
    }
    for (path, what) in status.unread.iter().take(LISTED) {
        let path = path.to_string_lossy();
        writeln!(out, "not read: {}: {}", printable(path.as_bytes()), printable(what.as_bytes()))?;
    }
    more(status.unread.len(), out)?;
    if status.unwatched > 0 {
        writeln!(
            out,
            "{} {} looked at every two seconds only: inotify has no room left; raise fs.inotify.max_user_watches",
            counted(status.unwatched, "file"),
            agreeing(status.unwatched, "is", "are")
        )?;
    }
    files(&status.files, out)?;
    if !addresses {
        return Ok(());
    }
    for jail in &status.jails {
        writeln!(
            out,
            "{}: {} in {} {} for {}",
            jail.name,
            counted(jail.maxretry, "failure"),
            jail.findtime,
            agreeing(jail.maxretry, "bans", "ban"),
            jail.bantime
        )?;
        let mut banned = new_table(["banned", "until", "enforcer", "dropped here"]);
        for ban in jail.banned.iter().take(LISTED) {
            let dropped = ban.dropped.map(|dropped| counted(dropped.packets, "packet"));
            let verdict = match (ban.net, &status.enforcer) {
                (Some(_), _) => "bans it",
                (None, Some(_)) => "has not answered yet",
                (None, None) => "not joined",
            };
            banned.add_row([
                ban.address.to_string(),
                end(ban.until),
                verdict.to_owned(),
                dropped.unwrap_or_default(),
            ]);
        }
        writeln!(out, "{banned}")?;
        more(jail.banned.len(), out)?;
        if jail.refused.is_empty() {
            continue;
        }
        let mut refused = new_table(["not banned by the enforcer", "at", "because"]);
        for one in jail.refused.iter().take(LISTED) {
            refused.add_row([one.address.to_string(), end(Some(one.at)), one.grounds.to_string()]);
        }
        writeln!(out, "{refused}")?;
        more(jail.refused.len(), out)?;
    }
    Ok(())
}

/// What there is to say before any table.
fn head(status: &Status, out: &mut impl Write) -> io::Result<()> {
    let up = Timestamp::now().duration_since(status.started).as_secs();
    let enforcer = match (&status.enforcer, status.connected) {
        (None, _) => "not joined".to_owned(),
        (Some(url), Some(false)) => format!("{url}, which does not answer"),
        (Some(url), _) => url.clone(),
    };
    let sources = if status.sources.is_empty() { "none".to_owned() } else { status.sources.join(", ") };
    writeln!(
        out,
        "sensor {}, up {}, enforcer {enforcer}",
        status.release,
        atalaya_wire::Seconds(up.unsigned_abs())
    )?;
    writeln!(
        out,
        "sources {sources}; {}, {:.0} a second; {} to catch up",
        counted(status.lines, "line"),
        status.lines_per_second,
        indicatif::HumanBytes(status.backlog)
    )?;
    if let Some(read) = &status.journal {
        writeln!(out, "{}", journal(read))?;
    }
    if let Some(trouble) = &status.state_trouble {
        writeln!(out, "{}", state_trouble(trouble))?;
    }
    if status.enforcer.is_some() || status.outbox != OutboxStatus::default() {
        writeln!(out, "{}", outbox(status.outbox))?;
    }
    if status.reports.on {
        writeln!(out, "{}", reports(status))?;
    }
    Ok(())
}

/// Says how many of so many are not listed, where there are any.
fn more(all: usize, out: &mut impl Write) -> io::Result<()> {
    match all.checked_sub(LISTED) {
        Some(more) if more > 0 => writeln!(out, "and {more} more; --json has all"),
        _ => Ok(()),
    }
}

/// How far files are read: those of which something is left first.
fn files(files: &[FileStatus], out: &mut impl Write) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let mut shown: Vec<&FileStatus> = files.iter().collect();
    if shown.len() > LISTED {
        shown.sort_by_key(|file| std::cmp::Reverse(file.size.saturating_sub(file.read)));
    }
    let mut rows = new_table(["file", "read", "of"]);
    for file in shown.into_iter().take(LISTED) {
        let percent = (file.read.min(file.size) * 100).checked_div(file.size).unwrap_or(100);
        rows.add_row([
            printable(file.path.to_string_lossy().as_bytes()),
            format!("{percent} %"),
            indicatif::HumanBytes(file.size).to_string(),
        ]);
    }
    writeln!(out, "{rows}")?;
    more(files.len(), out)
}

/// What is dropped on this host: two lines, and the bans that dropped most.
fn local_drop(drop: &LocalDropStatus, out: &mut impl Write) -> io::Result<()> {
    let packets = counted(drop.dropped.packets, "packet");
    let bytes = indicatif::HumanBytes(drop.dropped.bytes);
    write!(
        out,
        "local drop: {}, of {} at most; {packets} dropped, {bytes}",
        counted(drop.bans, "ban"),
        drop.max_entries
    )?;
    if drop.left_out > 0 {
        write!(out, "; {} no room", counted(drop.left_out, "time"))?;
    }
    writeln!(out)?;
    let passed = match drop.allowed_packets {
        0 => String::new(),
        packets => format!("; {} passed for that, though banned", counted(packets, "packet")),
    };
    writeln!(
        out,
        "  {} {} protected, among them {}{passed}",
        drop.spared,
        agreeing(drop.spared, "address or network is", "addresses and networks are"),
        drop.lifelines
    )?;
    if let Some(fleet) = &drop.fleet {
        let how = match (fleet.connected, fleet.whole) {
            (true, true) => "followed",
            (true, false) => "coming",
            (false, _) => "not followed now; those that are known stand until they end",
        };
        let trouble = fleet.trouble.as_ref().map(|trouble| format!(": {}", printable(trouble.as_bytes())));
        writeln!(out, "  the fleet's bans are {how}{}", trouble.unwrap_or_default())?;
    }
    if let Some(trouble) = &drop.trouble {
        writeln!(out, "  {}", printable(trouble.as_bytes()))?;
    }
    if !drop.most.is_empty() {
        let mut most = new_table(["dropped most", "packets", "bytes", "until"]);
        for DroppedBan { network, until, dropped } in &drop.most {
            let who = if network.prefix_len() == network.max_prefix_len() {
                network.addr().to_string()
            } else {
                network.to_string()
            };
            let bytes = indicatif::HumanBytes(dropped.bytes).to_string();
            most.add_row([who, dropped.packets.to_string(), bytes, end(*until)]);
        }
        writeln!(out, "{most}")?;
    }
    Ok(())
}

/// When a ban ends, to the second.
fn end(until: BanEnd) -> String {
    until.map_or_else(
        || "permanent".to_owned(),
        |until| until.round(Unit::Second).unwrap_or(until).to_string(),
    )
}

/// Why the state cannot be written, and what a restart would lose, in three lines.
fn state_trouble(StateTrouble { since, text, offences }: &StateTrouble) -> String {
    let lost = match offences {
        0 => "no offence is lost, for the enforcer has all that are not on disk".to_owned(),
        _ => format!(
            "{} that the enforcer does not have {} lost",
            counted(*offences, "offence"),
            agreeing(*offences, "is", "are")
        ),
    };
    format!(
        "THE STATE CANNOT BE WRITTEN since {}: {}\n  \
         offences leave as ever; the rest is kept in memory, and written once that is mended\n  \
         if the sensor is stopped or restarted before: {lost}; logs are read again from where they stood then; \
         failures seen since by syslog or in the kernel are forgotten",
        end(Some(*since)),
        printable(text.as_bytes())
    )
}

/// How many offences the enforcer does not have, in a line.
fn outbox(OutboxStatus { waiting, dropped }: OutboxStatus) -> String {
    let mut line = match waiting {
        1 => "1 offence waits for the enforcer".to_owned(),
        _ => format!("{waiting} offences wait for the enforcer"),
    };
    if dropped > 0 {
        line.push_str(&format!(", {dropped} dropped because too many waited"));
    }
    line
}

/// What was read of the journal, and what was not, in a line.
fn journal(read: &JournalCounters) -> String {
    let mut line = format!("journal: {} in {}", counted(read.entries, "entry"), counted(read.files, "file"));
    for (count, what) in [
        (read.backlog, "to catch up"),
        (read.cut, "cut, because they are too long or in an unknown form"),
        (read.damaged, "not read, because their file is damaged"),
        (read.lost, "deleted before they were read"),
    ] {
        if count > 0 {
            line.push_str(&format!("; {count} {what}"));
        }
    }
    line
}

/// What the enforcer was told beside offences, in a line.
fn reports(status: &Status) -> String {
    let reports = &status.reports;
    let mut line = format!(
        "reported {} and {}; {} {}",
        counted(reports.failures, "failure"),
        counted(reports.logins, "successful login"),
        reports.waiting,
        agreeing(reports.waiting, "waits", "wait")
    );
    for (count, what) in
        [(reports.dropped, "dropped at the memory's bounds"), (reports.forgotten, "forgotten after an hour")]
    {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    if let Some(trouble) = &reports.trouble {
        line.push_str(&format!("; not taken last: {}", printable(trouble.as_bytes())));
    }
    line
}

/// The kernel programs, each with where it is attached, or why not.
fn programs(programs: &[Program]) -> Table {
    let mut table = new_table(["kernel program", "is", "where, or why not"]);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    for program in programs {
        let state = match program.state {
            ProgramState::On => "on",
            ProgramState::Off => "off",
            ProgramState::Refused => "refused",
        };
        table.add_row([&program.name, state, &printable(program.reason.as_bytes())]);
    }
    table
}

/// The services whose logins were seen, and what to do about those that lead to nobody.
fn logins(services: &[SeenService], out: &mut impl Write) -> io::Result<()> {
    if services.is_empty() {
        return Ok(());
    }
    let mut table = new_table([
        "logins of",
        "failed",
        "good",
        "failed, a name for address",
        "failed, local",
        "not believed",
    ]);
    for seen in services {
        let counts = [seen.failed, seen.succeeded, seen.named, seen.local, seen.disbelieved];
        let counts = counts.map(|count| count.to_string());
        table.add_row([printable(seen.shown().as_bytes())].into_iter().chain(counts));
    }
    writeln!(out, "{table}")?;
    for advice in services.iter().filter_map(SeenService::advice) {
        writeln!(out, "{}", printable(advice.as_bytes()))?;
    }
    Ok(())
}

/// Who runs on a library of before its upgrade: a line for a library and place, of whichever upgrade.
fn outdated(programs: &[Program], out: &mut impl Write) -> io::Result<()> {
    // libc is probed for two things.
    let files: BTreeSet<&Outdated> = programs.iter().flat_map(|program| &program.outdated).collect();
    let mut merged: Vec<Outdated> = Vec::new();
    for file in files {
        let same = |other: &&mut Outdated| {
            (&other.library, &other.place, other.seen) == (&file.library, &file.place, file.seen)
        };
        match merged.iter_mut().find(same) {
            Some(other) => merge(other, file),
            None => merged.push(file.clone()),
        }
    }
    merged.sort_by_key(|old| old.place != "this host");
    for old in &merged {
        writeln!(out, "{}", printable(outdated_line(old).as_bytes()))?;
    }
    let more: usize = programs.iter().map(|program| program.more_outdated).max().unwrap_or_default();
    if more > 0 {
        writeln!(out, "and processes on {}", counted(more, "more such file"))?;
    }
    Ok(())
}

/// Adds those that run on another file of the same library.
fn merge(old: &mut Outdated, file: &Outdated) {
    old.processes += file.processes;
    for program in &file.programs {
        let same = |other: &&mut OutdatedProgram| {
            (&other.program, &other.service) == (&program.program, &program.service)
        };
        match old.programs.iter_mut().find(same) {
            Some(other) => {
                other.processes += program.processes;
                other.process = other.process.min(program.process);
            }
            None => old.programs.push(program.clone()),
        }
    }
}

fn outdated_line(old: &Outdated) -> String {
    let of_host = old.place == "this host";
    let processes = counted(old.processes, "process");
    let verb = agreeing(old.processes, "still runs", "still run");
    let place = if of_host { String::new() } else { format!(" in {}", old.place) };
    let mut listed: Vec<String> = Vec::new();
    let mut left = old.processes;
    for OutdatedProgram { program, process, processes, .. } in &old.programs {
        left = left.saturating_sub(*processes);
        listed.push(match processes {
            1 => format!("{program} (pid {process})"),
            _ => format!("{program} (pid {process} and {} more)", processes - 1),
        });
    }
    if left > 0 {
        listed.push(format!("and {left} more"));
    }
    let whose = agreeing(old.processes, "its", "their");
    let seen = if old.seen { "seen all the same" } else { "not seen" };
    let mut line = format!(
        "{processes} {verb}{place} on the {} of before its upgrade: {}; {whose} logins are {seen}",
        old.library,
        listed.join(", ")
    );
    let services: BTreeSet<&str> = old
        .programs
        .iter()
        .filter_map(|program| program.service.as_deref()?.strip_suffix(".service"))
        .collect();
    if !services.is_empty() {
        let services: Vec<&str> = services.into_iter().collect();
        line.push_str(&format!("; restart them with: systemctl restart {}", services.join(" ")));
    }
    // systemd itself, which no restart of a service ends.
    if of_host && old.programs.iter().any(|program| program.process == 1 && program.program == "systemd") {
        line.push_str("; systemd itself with: systemctl daemon-reexec");
    }
    line
}

fn new_table<const N: usize>(columns: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(columns);
    table
}

/// A source that fits a column.
fn short(source: &str) -> String {
    const LONGEST: usize = 40;
    let source = printable(source.as_bytes());
    if source.chars().count() <= LONGEST {
        source
    } else {
        source.chars().take(LONGEST - 1).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn program(program: &str, process: u32, processes: u32, service: Option<&str>) -> OutdatedProgram {
        OutdatedProgram {
            program: program.to_owned(),
            process,
            processes,
            service: service.map(ToOwned::to_owned),
        }
    }

    fn outdated(place: &str, seen: bool, processes: u32, programs: Vec<OutdatedProgram>) -> Outdated {
        let (library, path) = ("libaudit.so.1".to_owned(), "/usr/lib64/libaudit.so.1".to_owned());
        Outdated { library, path, place: place.to_owned(), seen, processes, programs }
    }

    #[rstest]
    #[case(0, &[
        "; 0 lines, 0 a second;", "reported 0 failures and 0 successful logins; 0 wait\n",
        "local drop: 0 bans, of 9 at most; 0 packets dropped,", "  0 addresses and networks are protected,",
        "a: 0 failures in 10m ban for 30m\n",
    ])]
    #[case(1, &[
        "; 1 line, 0 a second;", "reported 1 failure and 1 successful login; 1 waits\n",
        "local drop: 1 ban, of 9 at most; 1 packet dropped,", "; 1 time no room\n",
        "  1 address or network is protected,", "; 1 packet passed for that,",
        "jail a: 1 line was given up,", "\n1 file is looked at every two seconds only", "a: 1 failure in 10m bans for 30m\n", " 1 packet ",
    ])]
    #[case(2, &[
        "; 2 lines, 0 a second;", "reported 2 failures and 2 successful logins; 2 wait\n",
        "local drop: 2 bans, of 9 at most; 2 packets dropped,", "; 2 times no room\n",
        "  2 addresses and networks are protected,", "; 2 packets passed for that,",
        "jail a: 2 lines were given up,", "\n2 files are looked at every two seconds only", "a: 2 failures in 10m ban for 30m\n", " 2 packets ",
    ])]
    fn numbers_agree_with_their_nouns(#[case] number: u64, #[case] expected: &[&str]) {
        let dropped = serde_json::json!({"packets": number, "bytes": number});
        let ban = serde_json::json!({"address": "192.0.2.1", "until": null, "ban": null, "dropped": dropped});
        let status: Status = serde_json::from_value(serde_json::json!({
            "release": "1", "started": Timestamp::now(), "enforcer": null, "connected": null, "sources": [],
            "programs": [], "confinement": [], "kernel_trouble": null, "lines": number, "lines_per_second": 0.0,
            "backlog": 0, "unwatched": number, "files": [],
            "local_drop": {
                "bans": number, "max_entries": 9, "left_out": number, "dropped": dropped,
                "allowed_packets": number, "spared": number, "lifelines": "x", "most": [], "fleet": null, "trouble": null,
            },
            "reports": {
                "on": true, "failures": number, "logins": number, "waiting": number, "dropped": 0,
                "forgotten": 0, "trouble": null,
            },
            "jails": [{
                "name": "a", "source": "x", "maxretry": number, "findtime": 600, "bantime": 1800, "failing": 0,
                "failures": 0, "offences": 0, "ignored": 0, "old": 0, "dropped": 0, "exhausted": number,
                "banned": [ban], "refused": [],
            }],
        }))
        .unwrap();
        let mut text = Vec::new();
        table(&status, true, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in expected {
            assert!(text.contains(line), "no {line:?} in\n{text}");
        }
    }

    #[test]
    fn of_very_many_files_those_that_are_behind_are_shown_and_the_rest_is_counted() {
        let behind = FileStatus { path: "/var/log/sites/7.log".into(), read: 1, size: 4 };
        let read = (0..70).map(|number| FileStatus::new(format!("/var/log/sites/a{number}.log").into(), 8));
        let files: Vec<FileStatus> = read.chain([behind]).collect();
        let mut text = Vec::new();
        super::files(&files, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let first = text.lines().find(|line| line.contains(".log")).unwrap();
        assert!(first.contains("7.log") && first.contains("25 %"), "{first}");
        assert!(text.ends_with("and 21 more; --json has all\n"), "{text}");
    }

    #[test]
    fn files_of_several_upgrades_are_told_of_in_one_line_and_those_of_two_programs_once() {
        let first = outdated("this host", true, 3, vec![program("sshd", 900, 3, Some("ssh.service"))]);
        let mut second = outdated("this host", true, 2, vec![program("sshd", 812, 1, Some("ssh.service"))]);
        second.programs.push(program("cron", 600, 1, None));
        let elsewhere = outdated("a container", true, 1, vec![program("sshd", 4711, 1, None)]);
        let mut audit = Program::not_on("logins: audit", ProgramState::On, "");
        audit.outdated = vec![first, second, elsewhere];
        let mut again = audit.clone();
        again.more_outdated = 2;
        let mut text = Vec::new();
        super::outdated(&[audit, again], &mut text).unwrap();
        let expected = "5 processes still run on the libaudit.so.1 of before its upgrade: sshd (pid 812 and 3 more), \
            cron (pid 600); their logins are seen all the same; restart them with: systemctl restart ssh\n\
            1 process still runs in a container on the libaudit.so.1 of before its upgrade: \
            sshd (pid 4711); its logins are seen all the same\n\
            and processes on 2 more such files\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[rstest]
    #[case(
        ("this host", true, 1),
        vec![program("sshd", 812, 1, None)],
        "1 process still runs on the libaudit.so.1 of before its upgrade: sshd (pid 812); \
         its logins are seen all the same"
    )]
    #[case(
        ("this host", true, 34),
        vec![
            program("systemd", 1, 1, None),
            program("cron", 600, 1, Some("cron.service")),
            program("sshd", 812, 30, Some("ssh.service")),
        ],
        "34 processes still run on the libaudit.so.1 of before its upgrade: systemd (pid 1), cron (pid 600), \
         sshd (pid 812 and 29 more), and 2 more; their logins are seen all the same; \
         restart them with: systemctl restart cron ssh; systemd itself with: systemctl daemon-reexec"
    )]
    #[case(
        ("container web-3", false, 1),
        vec![program("systemd", 4711, 1, None)],
        "1 process still runs in container web-3 on the libaudit.so.1 of before its upgrade: systemd (pid 4711); \
         its logins are not seen"
    )]
    fn who_runs_on_an_old_library_is_told_in_a_line(
        #[case] (place, seen, processes): (&str, bool, u32),
        #[case] programs: Vec<OutdatedProgram>,
        #[case] line: &str,
    ) {
        assert_eq!(outdated_line(&outdated(place, seen, processes, programs)), line);
    }
}
