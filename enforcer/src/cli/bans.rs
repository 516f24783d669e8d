//! `bans` and `history`: lists of bans, however long, printed as they arrive.

use std::io::{BufWriter, Write};
use std::path::Path;

use atalaya_enforcer::ledger::{Ban, Selection, Sort, Which};
use atalaya_wire::{Name, Seconds};
use ipnet::IpNet;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::paint::{Paint, Tone};
use super::socket::{Lines, Socket};
use super::words;

/// Which bans to show.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer bans --jail sshd --since 2h\n  \
    atalaya-enforcer bans --sort strikes --limit 20\n  \
    atalaya-enforcer bans --address 192.0.2.0/24 --json\n\n\
    The JSON is an array of {prefix, since, until, jail, sensor, origin, evidence: [{time, source, text}], strikes, ended, \
    ended_by}; fields are added, but do not change.")]
pub struct Arguments {
    #[command(flatten)]
    filter: Filter,
}

/// Which bans, of now and of before, to show.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer history --since yesterday\n  \
    atalaya-enforcer history --over --address 192.0.2.1\n  \
    atalaya-enforcer history --since 2026-01-01 --until 2026-02-01 --json\n\n\
    The JSON is that of `bans --json`; ended and ended_by are there once it is over.")]
pub struct History {
    #[command(flatten)]
    filter: Filter,
    /// Only bans that are over
    #[arg(long)]
    over: bool,
    /// Only those that began before: a time, or how long ago
    #[arg(long, value_name = "TIME|AGO", value_parser = moment)]
    until: Option<Timestamp>,
}

/// What both lists can be cut down to.
#[derive(clap::Args)]
struct Filter {
    /// Only those for which this jail asked
    #[arg(long)]
    jail: Option<Name>,
    /// Only those that this sensor reported
    #[arg(long)]
    sensor: Option<Name>,
    /// Only those that touch this address or network
    #[arg(long, value_name = "ADDRESS|NETWORK", value_parser = super::prefix)]
    address: Option<IpNet>,
    /// Only those that began since: how long ago (2h, 1d), a day, a time, `today` or `yesterday`
    #[arg(long, value_name = "AGO|TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// What comes first
    #[arg(long, value_name = "ORDER", default_value = "latest")]
    sort: SortOrder,
    /// The other way round
    #[arg(long)]
    reverse: bool,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SortOrder {
    /// What began last first
    Latest,
    /// What ends, or ended, first
    Ending,
    /// By address, IPv4 before IPv6
    Address,
    /// The most strikes first
    Strikes,
}

/// What the last column tells.
#[derive(Clone, Copy)]
enum Last {
    Ends,
    Ended,
}

// === impl Arguments ===

impl Arguments {
    /// Prints the bans that stand.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let json = self.filter.json;
        let selection = self.filter.selection(Which::Standing);
        list(config, &selection, json, Last::Ends, out)
    }
}

// === impl History ===

impl History {
    /// Prints the bans that stand and those that are over.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let json = self.filter.json;
        let which = if self.over { Which::Over } else { Which::All };
        let selection = Selection { before: self.until, ..self.filter.selection(which) };
        list(config, &selection, json, Last::Ended, out)
    }
}

// === impl Filter ===

impl Filter {
    fn selection(self, which: Which) -> Selection {
        let sort = match self.sort {
            SortOrder::Latest => Sort::Latest,
            SortOrder::Ending => Sort::Ending,
            SortOrder::Address => Sort::Address,
            SortOrder::Strikes => Sort::Strikes,
        };
        Selection {
            jail: self.jail,
            sensor: self.sensor,
            address: self.address,
            since: self.since,
            which,
            sort,
            reverse: self.reverse,
            limit: self.limit,
            ..Selection::default()
        }
    }
}

fn list(
    config: &Path,
    selection: &Selection,
    json: bool,
    last: Last,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let lines = Socket::of(config)?.bans(selection)?;
    // Lists may be a million lines.
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    if json {
        as_json(&mut out, lines)?;
    } else {
        as_table(&mut out, lines, last, Paint::of_stdout())?;
    }
    Ok(out.flush()?)
}

/// Rows of fixed widths, so that the first one need not wait for the last. What is too long moves the
/// rest of its own row alone.
fn as_table(out: &mut impl Write, mut lines: Lines, last: Last, paint: Paint) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let mut header = Some(match last {
        Last::Ends => "ENDS",
        Last::Ended => "ENDED",
    });
    while let Some(line) = lines.next()? {
        let ban: Ban = serde_json::from_slice(&line)?;
        if let Some(last) = header.take() {
            let header = row("ADDRESS", "JAIL", "SENSOR", "STRIKES", "BANNED", last);
            writeln!(out, "{}", paint.paint(Tone::Heading, &header))?;
        }
        let end = match last {
            Last::Ends => words::until(ban.until, now),
            Last::Ended => ended(&ban, now),
        };
        let (prefix, strikes) = (words::prefix(ban.prefix), ban.strikes.to_string());
        let since = words::ago(ban.since, now);
        let line =
            row(&prefix, ban.origin.jail().as_str(), ban.origin.sensor().as_str(), &strikes, &since, &end);
        writeln!(out, "{line}")?;
    }
    if header.is_some() {
        writeln!(out, "no ban is found")?;
    }
    Ok(())
}

fn row(prefix: &str, jail: &str, sensor: &str, strikes: &str, since: &str, end: &str) -> String {
    format!("{prefix:<18} {jail:<12} {sensor:<12} {strikes:>7}  {since:<11} {end}")
}

/// When a ban ended and who ended it, or that it stands.
fn ended(ban: &Ban, now: Timestamp) -> String {
    match (ban.ended, &ban.ended_by) {
        (Some(ended), Some(by)) => format!("{}, {}", words::ago(ended, now), words::harmless(by)),
        (Some(ended), None) => words::ago(ended, now),
        (None, _) => match ban.until {
            None => "permanent".to_owned(),
            Some(until) if until > now => format!("stands, ends {}", words::until(ban.until, now)),
            Some(until) => format!("{}, expired", words::ago(until, now)),
        },
    }
}

/// A JSON array, printed as it arrives.
fn as_json(out: &mut impl Write, mut lines: Lines) -> anyhow::Result<()> {
    write!(out, "[")?;
    let mut separator = "";
    while let Some(line) = lines.next()? {
        let line = String::from_utf8_lossy(&line);
        write!(out, "{separator}{}", words::harmless_json(&line))?;
        separator = ",\n";
    }
    Ok(writeln!(out, "]")?)
}

/// A moment of the past: how long ago, a day, a time of this host's zone, or one with its own zone.
fn moment(text: &str) -> Result<Timestamp, String> {
    moment_at(text, Timestamp::now(), &TimeZone::system()).ok_or_else(|| {
        "expected how long ago (`2h`, `1d`), `today`, `yesterday`, a day (`2026-01-31`) or a time (`2026-01-31T08:00`)"
            .to_owned()
    })
}

fn moment_at(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let at = |time: DateTime| zone.to_timestamp(time).ok();
    let today = zone.to_datetime(now).date();
    match text {
        "today" => return at(today.into()),
        "yesterday" => return at(today.yesterday().ok()?.into()),
        _ => {}
    }
    if let Ok(ago) = text.parse::<Seconds>() {
        return now.checked_sub(ago.signed()).ok();
    }
    text.parse::<Timestamp>().ok().or_else(|| at(text.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2h", "2026-03-10T10:30:00Z")]
    #[case("600", "2026-03-10T12:20:00Z")]
    #[case("today", "2026-03-09T23:00:00Z")]
    #[case("yesterday", "2026-03-08T23:00:00Z")]
    #[case("2026-01-31", "2026-01-30T23:00:00Z")]
    #[case("2026-01-31 08:00", "2026-01-31T07:00:00Z")]
    #[case("2026-01-31T08:00:00Z", "2026-01-31T08:00:00Z")]
    fn a_moment_is_how_long_ago_or_a_time_of_this_hosts_zone(#[case] text: &str, #[case] expected: &str) {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let now: Timestamp = "2026-03-10T12:30:00Z".parse().unwrap();
        assert_eq!(moment_at(text, now, &zone).map(|time| time.to_string()).as_deref(), Some(expected));
        assert_eq!(moment_at("soon", now, &zone), None);
    }

    #[test]
    fn the_past_of_a_ban_says_who_ended_it() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut ban: Ban = serde_json::from_value(serde_json::json!({
            "prefix": "192.0.2.1/32", "since": at(0), "until": at(600), "jail": "ssh", "sensor": "web-1",
            "evidence": [], "strikes": 1, "ended": null, "ended_by": null,
        }))
        .unwrap();
        assert_eq!(ended(&ban, at(300)), "stands, ends in 5m");
        assert_eq!(ended(&ban, at(660)), "1m ago, expired");
        ban.ended = Some(at(300));
        ban.ended_by = Some("by hand, eve\u{1b}[2J".to_owned());
        assert_eq!(ended(&ban, at(360)), "1m ago, by hand, eve\u{fffd}[2J");
    }
}
