//! How `atalaya-sensor status` shows the running sensor.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::{Timestamp, Unit};

use crate::cli::trial::printable;
use crate::control::Status;
use crate::jail::BanEnd;
use crate::kernel::{Program, ProgramState};
use crate::local_drop::status::{DroppedBan, LocalDropStatus};

/// How many addresses of a jail are listed; the JSON has all.
const LISTED: usize = 50;

/// Prints all of it as one JSON document.
pub fn json(status: &Status, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, status)?;
    writeln!(out)
}

/// Prints tables; with `addresses` also whom the jails banned.
pub fn table(status: &Status, addresses: bool, out: &mut impl Write) -> io::Result<()> {
    let now = Timestamp::now();
    let up = now.duration_since(status.started).as_secs();
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
        "sources {sources}; {} lines, {:.0} a second; {} to catch up",
        status.lines,
        status.lines_per_second,
        indicatif::HumanBytes(status.backlog)
    )?;
    if status.reports.on {
        writeln!(out, "{}", reports(status))?;
    }
    for (process, kept) in &status.confinement {
        writeln!(out, "{process} kept {}", printable(kept.to_string().as_bytes()))?;
    }
    if let Some(trouble) = &status.kernel_trouble {
        writeln!(out, "nothing is seen in the kernel: {}", printable(trouble.as_bytes()))?;
    }
    if status.programs.iter().any(|program| program.state != ProgramState::Off) {
        writeln!(out, "{}", programs(&status.programs))?;
    }
    if let Some(drop) = &status.local_drop {
        local_drop(drop, out)?;
    }
    let mut jails =
        new_table(["jail", "source", "failing", "failures", "banned now", "banned in all", "ignored"]);
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
    for jail in status.jails.iter().filter(|jail| jail.exhausted > 0) {
        writeln!(
            out,
            "jail {}: {} lines were given up, because a regex took too many steps",
            jail.name, jail.exhausted
        )?;
    }
    if !status.files.is_empty() {
        let mut files = new_table(["file", "read", "of"]);
        for file in &status.files {
            let percent = (file.read.min(file.size) * 100).checked_div(file.size).unwrap_or(100);
            files.add_row([
                printable(file.path.to_string_lossy().as_bytes()),
                format!("{percent} %"),
                indicatif::HumanBytes(file.size).to_string(),
            ]);
        }
        writeln!(out, "{files}")?;
    }
    if !addresses {
        return Ok(());
    }
    for jail in &status.jails {
        writeln!(
            out,
            "{}: {} failures in {} ban for {}",
            jail.name, jail.maxretry, jail.findtime, jail.bantime
        )?;
        let mut banned = new_table(["banned", "until", "dropped here"]);
        for ban in jail.banned.iter().take(LISTED) {
            let dropped = ban.dropped.map(|dropped| format!("{} packets", dropped.packets));
            banned.add_row([ban.address.to_string(), end(ban.until), dropped.unwrap_or_default()]);
        }
        writeln!(out, "{banned}")?;
        if jail.banned.len() > LISTED {
            writeln!(out, "and {} more; --json has all", jail.banned.len() - LISTED)?;
        }
    }
    Ok(())
}

/// What is dropped on this host: two lines, and the bans that dropped most.
fn local_drop(drop: &LocalDropStatus, out: &mut impl Write) -> io::Result<()> {
    let (packets, bytes) = (drop.dropped.packets, indicatif::HumanBytes(drop.dropped.bytes));
    write!(
        out,
        "local drop: {} bans, of {} at most; {packets} packets dropped, {bytes}",
        drop.bans, drop.max_entries
    )?;
    if drop.left_out > 0 {
        write!(out, "; {} times no room", drop.left_out)?;
    }
    writeln!(out)?;
    let passed = match drop.allowed_packets {
        0 => String::new(),
        packets => format!("; {packets} packets passed for that, though banned"),
    };
    writeln!(
        out,
        "  {} addresses and networks are spared, among them {}{passed}",
        drop.spared, drop.lifelines
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
    until
        .map_or_else(|| "for ever".to_owned(), |until| until.round(Unit::Second).unwrap_or(until).to_string())
}

/// What the enforcer was told beside offences, in a line.
fn reports(status: &Status) -> String {
    let reports = &status.reports;
    let mut line = format!(
        "reported {} failures and {} good logins; {} wait",
        reports.failures, reports.logins, reports.waiting
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
