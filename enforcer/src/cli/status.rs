//! `status`, `routers` and `sensors`: the enforcer at a glance.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use atalaya_enforcer::config::Config;
use atalaya_enforcer::control::answers::{Fault, FaultKind};
use atalaya_enforcer::control::answers::{RouterAnswer, SensorAnswer, Status};
use atalaya_enforcer::control::open_files::OpenFiles;
use atalaya_enforcer::enrolment::{self, Sensor};
use atalaya_enforcer::intake::Seen;
use atalaya_enforcer::router::{Enforcement, RouterStatus, State};
use atalaya_wire::Name;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::sleep;

use super::paint::{Paint, Tone};
use super::socket::{Socket, print_json};
use super::words;

/// How many lines there are where the terminal does not say.
const USUAL_LINES: usize = 24;
/// What opens RouterOS commands.
const PASTE: &str = "paste into its terminal (ssh, or New Terminal in WinBox):";
/// How long `--check` waits for what is still being looked at.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);
/// After how long a reading is told of.
const LONG_READING: SignedDuration = SignedDuration::from_mins(1);
/// The pause between two looks whether that is over.
const CHECK_PAUSE: Duration = Duration::from_millis(100);

/// How to show the status.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer status\n  \
    atalaya-enforcer status --check || mail -s 'Atalaya has a fault' root   # for monitoring\n\n\
    While a router is still being looked at it is not known whether all is well; --check waits for that, up to 10 s, \
    and ends with 1 where it does not come out.\n\n\
    The JSON is {release, now, started, faults: [{kind, name, since, text, commands}], looking: [NAME], bans, decisions, \
    rates, open_files: {used, limit}, ledger_trouble, list, fingerprint, routers: […], sensors: {NAME: …}}; fields are added, but do not change.")]
pub struct Arguments {
    /// Exit with status 1 unless all is well
    #[arg(long)]
    check: bool,
    /// Show all faults, routers and sensors, however many screens they fill
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How to show the routers.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  atalaya-enforcer routers\n\n\
    The JSON is an array of the routers of `status --json`.")]
pub struct Routers {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How to show the sensors.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  atalaya-enforcer sensors --json\n\n\
    The JSON is [{name, enrolled, last, offences, …}]; what only a running enforcer knows is left out where none runs.\n\
    FOLLOWS says whether the sensor follows the bans now, to drop them on its host too.")]
pub struct Sensors {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A sensor in JSON.
#[derive(Serialize)]
struct SensorLine<'a> {
    #[serde(flatten)]
    sensor: &'a Sensor,
    #[serde(flatten)]
    seen: Option<&'a Seen>,
}

// === impl Arguments ===

impl Arguments {
    /// Exit status 1 with `--check` where there is a fault.
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let socket = Socket::of(config)?;
        let status = if self.check { settled(&socket)? } else { socket.get::<Status>("status")? };
        if self.json {
            print_json(out, &status)?;
        } else {
            let paint = Paint::of_stdout();
            let lines = if self.all { usize::MAX } else { paint.lines().unwrap_or(USUAL_LINES) };
            // The shell's prompt has the last line.
            for line in screen(&status, paint, lines - 1) {
                writeln!(out, "{line}")?;
            }
        }
        Ok(if self.check && !status.is_well() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

// === impl Routers ===

impl Routers {
    /// Prints what each router holds.
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let status: Status = Socket::of(config)?.get("status")?;
        if self.json {
            return print_json(out, &status.routers);
        }
        let paint = Paint::of_stdout();
        for line in paint.table(ROUTER_HEADER, &ROUTER_NUMBERS, router_rows(&status)) {
            writeln!(out, "{line}")?;
        }
        for line in readings(&status, usize::MAX, paint) {
            writeln!(out, "{line}")?;
        }
        for router in &status.routers {
            for (family, rule) in router.status.rules() {
                let open = format!("{}: {family}: ", router.status.name);
                for line in rule_text(rule).iter().flat_map(|text| paint.paragraph(&open, text)) {
                    writeln!(out, "{line}")?;
                }
            }
            if let Some(error) = &router.status.last_error {
                let text = format!("{}, {}", words::harmless(&error.text), words::ago(error.at, status.now));
                let open = format!("{}: last error: ", router.status.name);
                for line in paint.paragraph(&open, &text) {
                    writeln!(out, "{line}")?;
                }
            }
        }
        Ok(())
    }
}

// === impl Sensors ===

impl Sensors {
    /// Prints who may send, and where an enforcer runs what they did.
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let config = Config::read(config)?;
        let enrolled = enrolment::sensors(&config.state)?;
        let status = Socket::at(&config.socket).and_then(|socket| socket.get::<Status>("status")).ok();
        let known = |name: &Name| status.as_ref().and_then(|status| status.sensors.get(name));
        if self.json {
            let sensors: Vec<_> = enrolled
                .iter()
                .map(|sensor| SensorLine { sensor, seen: known(&sensor.name).map(|known| &known.seen) })
                .collect();
            return print_json(out, &sensors);
        }
        let sensors: Vec<(Name, SensorAnswer)> = enrolled
            .into_iter()
            .map(|sensor| {
                let seen = known(&sensor.name).map(|known| known.seen.clone()).unwrap_or_default();
                (sensor.name, SensorAnswer { enrolled: Some(sensor.enrolled), jails: sensor.jails, seen })
            })
            .collect();
        let paint = Paint::of_stdout();
        let (faults, now) =
            status.map_or_else(|| (Vec::new(), Timestamp::now()), |status| (status.faults, status.now));
        let rows = sensors.iter().map(|(name, sensor)| sensor_row(name, sensor, &faults, now)).collect();
        for line in paint.table(SENSOR_HEADER, &SENSOR_NUMBERS, rows) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

const ROUTER_HEADER: [&str; 8] =
    ["ROUTER", "STATE", "OURS", "FOREIGN", "QUEUE", "LATENCY", "CPU", "ROUTEROS"];
const ROUTER_NUMBERS: [usize; 5] = [2, 3, 4, 5, 6];
const SENSOR_HEADER: [&str; 8] =
    ["SENSOR", "HEARD", "OFFENCES", "SENT AGAIN", "REPORTS", "CLOCK", "FOLLOWS", "ENROLLED"];
const SENSOR_NUMBERS: [usize; 4] = [2, 3, 4, 5];

/// The status in at most so many lines, of which a usual site needs fewer than 24.
pub fn screen(status: &Status, paint: Paint, lines: usize) -> Vec<String> {
    let mut screen = vec![headline(status, paint)];
    let faults = faults(status, paint, lines.saturating_sub(14).max(4));
    // A command may be longer than a row.
    let lines = lines.saturating_sub(paint.rows(&faults) - faults.len());
    screen.extend(faults.iter().map(|line| paint.paint(Tone::Bad, line)));
    screen.extend(activity(status, paint));

    screen.push(String::new());
    let sensors = status.sensors.len();
    // Half of what is left is the routers' at least, and what the sensors do not need.
    let rest = lines.saturating_sub(screen.len() + 4);
    let room = rest.saturating_sub(sensors).max(rest / 2).max(3);
    screen.extend(cut_rows(
        paint.table(ROUTER_HEADER, &ROUTER_NUMBERS, router_rows(status)),
        room,
        "atalaya-enforcer routers",
    ));
    screen.extend(readings(status, 2, paint));
    screen.push(String::new());
    let faulty = |name: &Name| status.faults.iter().any(|fault| is_sensors(fault, name));
    // Many that have not joined yet hide none of those that have.
    let is_heard = |(_, sensor): &(&Name, &SensorAnswer)| sensor.seen.last.is_some();
    let (mut rows, unheard): (Vec<_>, Vec<_>) = status.sensors.iter().partition(is_heard);
    let unheard = if unheard.len() > 1 {
        unheard.len()
    } else {
        rows.extend(unheard);
        0
    };
    rows.sort_by_key(|(name, _)| !faulty(name));
    let rows: Vec<_> =
        rows.iter().map(|(name, sensor)| sensor_row(name, sensor, &status.faults, status.now)).collect();
    let room = lines.saturating_sub(screen.len() + 1 + usize::from(unheard > 0)).max(3);
    if sensors == 0 {
        screen.push("no sensor is enrolled: atalaya-enforcer enrol NAME".to_owned());
    } else if !rows.is_empty() {
        let table = paint.table(SENSOR_HEADER, &SENSOR_NUMBERS, rows);
        screen.extend(cut_rows(table, room, "atalaya-enforcer sensors"));
    }
    if unheard > 0 {
        let enrolled = words::counted(unheard, "enrolled sensor");
        screen.push(format!("{enrolled} not heard yet: atalaya-enforcer sensors"));
    }
    screen
}

/// The status once nothing is being looked at any more, or a fault is known.
fn settled(socket: &Socket) -> anyhow::Result<Status> {
    socket.block_on(async {
        let end = Instant::now() + CHECK_PATIENCE;
        loop {
            let status: Status = socket.fetch("status").await?;
            if status.looking.is_empty() || !status.faults.is_empty() || Instant::now() >= end {
                return Ok(status);
            }
            sleep(CHECK_PAUSE).await;
        }
    })
}

/// The faults in at most so many rows of the terminal. RouterOS commands are shown while there is room, and not
/// broken, so that they can be copied whole.
fn faults(status: &Status, paint: Paint, most: usize) -> Vec<String> {
    let short = |fault: &Fault| {
        let mut lines = paint.paragraph("  ! ", &fault_text(fault, status.now));
        lines.extend(next_command(fault).map(|command| format!("    {command}")));
        lines
    };
    let whole = |fault: &Fault| {
        let mut lines = paint.paragraph("  ! ", &fault_text(fault, status.now));
        lines.extend(paint.paragraph("    ", PASTE));
        lines.extend(fault.commands.iter().map(|command| format!("    {}", words::harmless(command))));
        lines
    };
    let shorts: Vec<Vec<String>> = status.faults.iter().map(short).collect();
    // What those that follow need at least.
    let mut needed = shorts.iter().map(Vec::len).sum::<usize>();
    let mut lines = Vec::new();
    let mut left = most;
    for (place, (fault, short)) in status.faults.iter().zip(shorts).enumerate() {
        needed -= short.len();
        let whole = whole(fault);
        let fits = !fault.commands.is_empty() && paint.rows(&whole).saturating_add(needed) <= left;
        let text = if fits { whole } else { short };
        let rows = paint.rows(&text);
        let more = status.faults.len() - place;
        if rows + usize::from(more > 1) > left {
            lines.push(format!(
                "  ! and {}: atalaya-enforcer status --all",
                words::counted(more, "more fault")
            ));
            break;
        }
        left -= rows;
        lines.extend(text);
    }
    lines
}

/// Whether all is well, in words.
fn headline(status: &Status, paint: Paint) -> String {
    let up = words::length(status.now.duration_since(status.started));
    let about = format!("atalaya-enforcer {}, up {up}: ", words::harmless(&status.release));
    let (tone, mut text) = wellness(status);
    if tone == Tone::Heading {
        let whose = if status.looking.len() == 1 { "its" } else { "their" };
        text.push_str(&format!(" ({whose} rules are not read yet)"));
    }
    format!("{}{}", paint.paint(Tone::Heading, &about), paint.paint(tone, &text))
}

/// Whether all is well, in a few words.
pub fn wellness(status: &Status) -> (Tone, String) {
    let looking = match &status.looking[..] {
        [] => None,
        [name] => Some(format!("looking at router {name}")),
        several => Some(format!("looking at {}", words::counted(several.len(), "router"))),
    };
    match (status.faults.len(), looking) {
        (0, None) => (Tone::Good, "all is well".to_owned()),
        (0, Some(looking)) => (Tone::Heading, looking),
        (faults, None) => (Tone::Bad, words::counted(faults, "fault")),
        (faults, Some(looking)) => (Tone::Bad, format!("{}, {looking}", words::counted(faults, "fault"))),
    }
}

/// A fault in words: what it is of, for how long, and what.
pub fn fault_text(fault: &Fault, now: Timestamp) -> String {
    let of = match fault.kind {
        FaultKind::Ledger => "the ledger",
        FaultKind::NoRouter | FaultKind::NotTaken => "configuration",
        FaultKind::NotDropped
        | FaultKind::NotHeld
        | FaultKind::Rivals
        | FaultKind::RouterDown
        | FaultKind::RouterRefuses
        | FaultKind::RouterFull
        | FaultKind::RulesUnclear => "router",
        FaultKind::SensorSilent if fault.name.is_none() => "sensors",
        FaultKind::SensorOdd | FaultKind::SensorSilent | FaultKind::SensorClock => "sensor",
        FaultKind::Connections => "connections",
        FaultKind::Strangers => "strangers",
        FaultKind::OpenFiles => "open files",
        FaultKind::FleetFull => "memory",
    };
    let name = fault.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let since = fault.since.map(|since| format!(" for {}", words::length(now.duration_since(since))));
    format!("{of}{name}{}: {}", since.unwrap_or_default(), words::harmless(&fault.text))
}

/// What prints the commands that mend a fault, where they are not shown.
pub fn next_command(fault: &Fault) -> Option<String> {
    let name = fault.name.as_ref().filter(|_| !fault.commands.is_empty())?;
    Some(format!("atalaya-enforcer router check {name}  # prints what mends it"))
}

/// How many bans stand, and what came and went.
fn activity(status: &Status, paint: Paint) -> Vec<String> {
    let rates = &status.rates;
    let times = |offences: u64, bans: u64, lapses: u64, commands: u64| {
        format!(
            "{}, {} banned, {} expired, {} to routers",
            words::counted(offences, "offence"),
            words::count(bans),
            words::count(lapses),
            words::counted(commands, "command")
        )
    };
    let minute = times(
        rates.offences.last_minute,
        rates.bans.last_minute,
        rates.lapses.last_minute,
        rates.commands.last_minute,
    );
    let quarter = times(
        rates.offences.last_15_minutes,
        rates.bans.last_15_minutes,
        rates.lapses.last_15_minutes,
        rates.commands.last_15_minutes,
    );
    let stand = words::agreeing(status.bans, "stands", "stand");
    let standing =
        format!("{} {stand} on list {}", words::counted(status.bans, "ban"), words::harmless(&status.list));
    // Beside it, because a usual site fills the screen.
    let files = status.open_files.map(|files| format!("; {}", open_files(files))).unwrap_or_default();
    let mut lines = vec![
        format!("{}{files}", paint.paint(Tone::Heading, &standing)),
        format!("  last minute      {minute}"),
        format!("  last 15 minutes  {quarter}"),
    ];
    let notes = [
        (status.widened as u64, "network", "widened"),
        (status.allowances as u64, "entry", "allowed at run time"),
        (status.protected as u64, "address", "protected by successful logins"),
        (status.decisions.protected, "offence", "that led to no ban for that"),
    ];
    let notes: Vec<String> = notes
        .iter()
        .filter(|(number, ..)| *number > 0)
        .map(|(number, noun, what)| format!("{} {what}", words::counted(*number, noun)))
        .collect();
    if !notes.is_empty() {
        lines.push(format!("  {}", notes.join(", ")));
    }
    lines.extend(status.fleet.iter().map(|jail| {
        let counting = words::counted(jail.counting, "offender");
        format!("  fleet jail {}: counts {counting}, banned {}", jail.jail, words::count(jail.bans))
    }));
    lines
}

/// How many files are open, of how many.
pub fn open_files(files: OpenFiles) -> String {
    match files.limit {
        Some(limit) => format!("{} of {} files open", words::count(files.used), words::count(limit)),
        None => format!("{} open, without a limit", words::counted(files.used, "file")),
    }
}

fn router_rows(status: &Status) -> Vec<(Tone, [String; 8])> {
    let mut rows: Vec<_> = status.routers.iter().map(|router| router_row(router, status)).collect();
    rows.sort_by_key(|(tone, _)| *tone != Tone::Bad);
    rows
}

fn router_row(router: &RouterAnswer, status: &Status) -> (Tone, [String; 8]) {
    let RouterAnswer { status: router, down_since, .. } = router;
    let faulty = status
        .faults
        .iter()
        .any(|fault| fault.name.as_ref() == Some(&router.name) && fault.kind.is_routers());
    let ours = if router.is_up() {
        format!("{} of {}", words::count(router.ours), words::count(router.desired))
    } else {
        "-".to_owned()
    };
    let known = |count: usize| if router.is_up() { words::count(count) } else { "-".to_owned() };
    (
        if faulty { Tone::Bad } else { Tone::Plain },
        [
            router.name.to_string(),
            router_state(router, *down_since, status.now),
            ours,
            known(router.foreign),
            words::count(router.queued + router.in_flight),
            router.latency_us.map_or_else(|| "-".to_owned(), words::micros),
            router.cpu_load.map_or_else(|| "-".to_owned(), |load| format!("{load}%")),
            router.version.as_deref().map_or("-".into(), words::harmless).into_owned(),
        ],
    )
}

/// How far the readings are that take over a minute, the longest first, and at most so many.
fn readings(status: &Status, most: usize, paint: Paint) -> Vec<String> {
    let routers = status.routers.iter().map(|router| &router.status);
    let mut long: Vec<_> = routers
        .filter_map(|router| Some((router, router.reading?)))
        .filter(|(_, reading)| status.now.duration_since(reading.since) >= LONG_READING)
        .collect();
    long.sort_by_key(|(_, reading)| reading.since);
    let shown = long.iter().take(most).map(|(router, reading)| {
        let before = reading.before.map(|before| format!(", of {} the last time", words::count(before)));
        let far = match reading.rows {
            0 => "it scans its table and has told nothing yet".to_owned(),
            rows => format!("{} so far{}", words::counted(rows, "entry"), before.unwrap_or_default()),
        };
        let took = words::length(status.now.duration_since(reading.since));
        let family = reading.family;
        format!("{}: reading its {family} list for {took}: {far}; new bans are sent meanwhile", router.name)
    });
    let rest = long.len().saturating_sub(most);
    let more = (rest > 0).then(|| {
        format!("and {} for over a minute: atalaya-enforcer routers", words::counted(rest, "other"))
    });
    shown.chain(more).flat_map(|text| paint.paragraph("  ", &text)).collect()
}

/// What a router is at, in a word or two.
pub fn router_state(router: &RouterStatus, down_since: Option<Timestamp>, now: Timestamp) -> String {
    let down = down_since.map(|since| format!("down {}", words::length(now.duration_since(since))));
    match (router.state, down) {
        (State::Connected, _) if router.read_only => "read-only".to_owned(),
        (State::Connected, _) if router.lets_pass() => "not dropping".to_owned(),
        (State::Connected, _) if router.is_unread() => "up, reading".to_owned(),
        (State::Connected, _) => "up".to_owned(),
        (State::Reading, _) => "up, reading".to_owned(),
        (State::Stopped, _) => "stopped".to_owned(),
        (State::Connecting | State::Waiting { .. }, down) => down.unwrap_or_else(|| "connecting".to_owned()),
    }
}

/// What becomes of packets from a list, in words; nothing where there is nothing to say.
fn rule_text(rule: &Enforcement) -> Option<String> {
    match rule {
        Enforcement::Off => None,
        Enforcement::Unread => Some("its rules are not read yet".to_owned()),
        Enforcement::Dropped { says, packets } => {
            let packets = packets.map(|packets| format!(", {}", words::counted(packets, "packet")));
            Some(format!("{}{}", words::harmless(says), packets.unwrap_or_default()))
        }
        Enforcement::Passed { why, .. } => Some(format!("nothing is dropped: {}", words::harmless(why))),
        Enforcement::Unclear { why, .. } => Some(words::harmless(why).into_owned()),
    }
}

fn sensor_row(name: &Name, sensor: &SensorAnswer, faults: &[Fault], now: Timestamp) -> (Tone, [String; 8]) {
    let bad = faults.iter().any(|fault| is_sensors(fault, name));
    let tone = if bad { Tone::Bad } else { Tone::Plain };
    let seen = &sensor.seen;
    let row = [
        name.to_string(),
        seen.last.map_or_else(|| "not yet".to_owned(), |last| words::ago(last, now)),
        words::count(seen.offences),
        words::count(seen.again),
        words::count(seen.reports),
        seen.skew_seconds.map_or_else(|| "-".to_owned(), |skew| format!("{:+} s", -skew)),
        if seen.follows { "yes" } else { "-" }.to_owned(),
        sensor.enrolled.map_or_else(|| "no more".to_owned(), words::moment),
    ];
    (tone, row)
}

fn is_sensors(fault: &Fault, name: &Name) -> bool {
    fault.kind.is_sensors() && fault.name.as_ref() == Some(name)
}

/// A table's first rows, and which command shows the rest.
fn cut_rows(mut table: Vec<String>, room: usize, command: &str) -> Vec<String> {
    let rows = table.len() - 1;
    if rows > room {
        table.truncate(room);
        table.push(format!("and {} more: {command}", rows + 1 - room));
    }
    table
}

#[cfg(test)]
pub mod tests;
