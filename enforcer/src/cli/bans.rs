//! `bans`: the bans that stand.

use std::io::Write;
use std::path::Path;

use atalaya_enforcer::ledger::{Ban, Selection};
use atalaya_wire::Name;
use comfy_table::{Table, presets};
use ipnet::IpNet;

use super::socket::{Lines, Socket};
use super::words;

/// Which bans to show.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atalaya-enforcer bans --jail ssh\n  atalaya-enforcer bans --address 192.0.2.0/24 --json"
)]
pub struct Arguments {
    /// Only this jail's
    #[arg(long)]
    jail: Option<Name>,
    /// Only those that this sensor reported
    #[arg(long)]
    sensor: Option<Name>,
    /// Only those that touch this address or network
    #[arg(long, value_parser = super::prefix)]
    address: Option<IpNet>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

// === impl Arguments ===

impl Arguments {
    /// Prints the bans.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let selection =
            Selection { jail: self.jail, sensor: self.sensor, address: self.address, ..Selection::default() };
        let bans = Socket::of(config)?.bans(&selection)?;
        if self.json { as_json(out, bans) } else { as_table(out, bans) }
    }
}

fn as_table(out: &mut impl Write, mut lines: Lines) -> anyhow::Result<()> {
    let now = jiff::Timestamp::now();
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["address", "jail", "sensor", "strikes", "since", "until"]);
    while let Some(line) = lines.next()? {
        let ban: Ban = serde_json::from_slice(&line)?;
        table.add_row([
            words::prefix(ban.prefix),
            ban.jail.to_string(),
            ban.sensor.to_string(),
            ban.strikes.to_string(),
            words::moment(ban.since),
            ban.until.map_or_else(|| "permanent".to_owned(), |until| words::until(Some(until), now)),
        ]);
    }
    Ok(writeln!(out, "{table}")?)
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
