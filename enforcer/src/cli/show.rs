//! What the commands print: tables for people, JSON for programs.

use std::io::{self, Write};

use atalaya_enforcer::enrolment::Sensor;
use atalaya_enforcer::ledger::Ban;
use comfy_table::{Table, presets};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::Value;

use super::socket::Lines;

/// The enforcer at a glance, from the answer to `GET /status`.
pub fn status(out: &mut impl Write, status: &Value) -> io::Result<()> {
    writeln!(
        out,
        "atalaya-enforcer {}, running since {}",
        text(&status["release"]),
        text(&status["started"])
    )?;
    writeln!(out, "{} bans stand on list {}", status["bans"], text(&status["list"]))?;
    let decisions = &status["decisions"];
    writeln!(
        out,
        "since the start: {} banned, {} extended, {} banned already, {} allowed, {} too late, {} lapsed",
        decisions["banned"],
        decisions["extended"],
        decisions["already_banned"],
        decisions["allowed"],
        decisions["too_late"],
        decisions["lapsed"]
    )?;
    writeln!(out, "certificate {}", text(&status["fingerprint"]))?;
    routers(out, &status["routers"])?;
    let mut table = table(["sensor", "last heard", "offences", "sent again"]);
    for (name, seen) in status["sensors"].as_object().into_iter().flatten() {
        table.add_row([name.clone(), text(&seen["last"]), text(&seen["offences"]), text(&seen["again"])]);
    }
    writeln!(out, "{table}")
}

/// What each router holds, from the answer to `GET /status`.
pub fn routers(out: &mut impl Write, routers: &Value) -> io::Result<()> {
    let mut table = table([
        "router",
        "address",
        "state",
        "ours",
        "desired",
        "foreign",
        "latency",
        "RouterOS",
        "last error",
    ]);
    for router in routers.as_array().into_iter().flatten() {
        let latency = router["latency_us"].as_u64();
        table.add_row([
            text(&router["name"]),
            text(&router["address"]),
            text(&router["state"]["is"]),
            text(&router["ours"]),
            text(&router["desired"]),
            text(&router["foreign"]),
            latency.map_or_else(|| "-".to_owned(), |micros| format!("{:.1} ms", micros as f64 / 1e3)),
            text(&router["version"]),
            text(&router["last_error"]["text"]),
        ]);
    }
    writeln!(out, "{table}")
}

/// Who may send.
pub fn sensors(out: &mut impl Write, sensors: &[Sensor]) -> io::Result<()> {
    let mut table = table(["sensor", "enrolled"]);
    for sensor in sensors {
        table.add_row([sensor.name.to_string(), moment(sensor.enrolled)]);
    }
    writeln!(out, "{table}")
}

/// The bans as a table.
pub fn bans(out: &mut impl Write, mut lines: Lines) -> anyhow::Result<()> {
    let mut table = table(["address", "jail", "sensor", "strikes", "since", "until"]);
    while let Some(line) = lines.next()? {
        let ban: Ban = serde_json::from_slice(&line)?;
        table.add_row([
            prefix(ban.prefix),
            ban.jail.to_string(),
            ban.sensor.to_string(),
            ban.strikes.to_string(),
            moment(ban.since),
            ban.until.map_or_else(|| "permanent".to_owned(), moment),
        ]);
    }
    Ok(writeln!(out, "{table}")?)
}

/// The bans as a JSON array, printed as they arrive.
pub fn bans_as_json(out: &mut impl Write, mut lines: Lines) -> anyhow::Result<()> {
    write!(out, "[")?;
    let mut separator: &[u8] = b"";
    while let Some(line) = lines.next()? {
        out.write_all(separator)?;
        out.write_all(&line)?;
        separator = b",\n";
    }
    Ok(writeln!(out, "]")?)
}

/// An address without its length, a network with it.
pub fn prefix(prefix: IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    }
}

/// When a ban ends, in words.
pub fn end(until: Option<Timestamp>) -> String {
    until.map_or_else(|| "for ever".to_owned(), |until| format!("until {}", moment(until)))
}

fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A value in a cell: no control character, of a router say, reaches the terminal, and a time is cut to
/// the second.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text
            .parse()
            .map_or_else(|_| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(), moment),
        other => other.to_string(),
    }
}

fn table<const N: usize>(columns: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(columns);
    table
}
