//! `allow` and `spared`: who is never banned, and who was not.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use atalaya_enforcer::control::allow::{
    AllowAnswer, AllowRequest, AllowedAnswer, AllowedBecause, DisallowRequest, ProtectedRequest,
};
use atalaya_enforcer::ledger::{Allowance, ProtectedOffence};
use atalaya_wire::BanTime;
use jiff::Timestamp;

use super::paint::{Paint, Tone};
use super::socket::{Socket, each, print_json};
use super::words;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer allow                                              # lists what is allowed\n  \
    atalaya-enforcer allow 192.0.2.7 --for 2h --reason 'my laptop'\n  \
    atalaya-enforcer allow admin.example.org                            # the addresses it has, as they change\n  \
    atalaya-enforcer allow --remove 192.0.2.7\n\n\
    The JSON of the list is {entries: [{what, since, until, reason, by}], names, networks, protected}, that of a change \
    {entry, lifted, cut: [{prefix, until, entries}], held_by, still, let_go, more_entries}, a line for each.")]
pub struct Arguments {
    /// Addresses, networks or DNS names; without any, lists what is allowed
    #[arg(value_name = "ADDRESS|NETWORK|NAME")]
    what: Vec<String>,
    /// For how long: 2h, 1d, permanent
    #[arg(long = "for", value_name = "TIME", default_value_t = BanTime::Permanent, requires = "what")]
    time: BanTime,
    /// Why; shown in the list
    #[arg(long, default_value = "", requires = "what", hide_default_value = true)]
    reason: String,
    /// Take what was allowed at run time off the list
    #[arg(long, requires = "what", conflicts_with_all = ["time", "reason"])]
    remove: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How many to show.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  atalaya-enforcer protected\n\n\
    The JSON is [{address, jail, sensor, at, why, evidence}], the latest first.")]
pub struct ProtectedArguments {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

// === impl Arguments ===

impl Arguments {
    /// Lists or changes what is allowed.
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let socket = Socket::of(config)?;
        if self.what.is_empty() {
            let list: AllowAnswer = socket.get("allow")?;
            if self.json {
                print_json(out, &list)?;
            } else {
                for line in lines(&list, Timestamp::now(), Paint::of_stdout()) {
                    writeln!(out, "{line}")?;
                }
            }
            return Ok(ExitCode::SUCCESS);
        }
        each(&self.what, |what| {
            let what = what.clone();
            let done: AllowedAnswer = if self.remove {
                socket.delete("allow", &DisallowRequest { what })?
            } else {
                let (time, reason, by) = (self.time, self.reason.clone(), super::who());
                socket.post("allow", &AllowRequest { what, time, reason, by })?
            };
            if self.json {
                return print_json(out, &done);
            }
            let what = words::harmless(&done.entry.what);
            if self.remove {
                return disallowed(&done, out);
            }
            let end = match done.entry.until {
                Some(until) => format!(
                    "until {} ({})",
                    words::moment(until),
                    words::until(Some(until), Timestamp::now())
                ),
                None => "until it is taken off the list".to_owned(),
            };
            writeln!(out, "{what} is allowed {end}: it is never banned")?;
            effect(&done, out)
        })
    }
}

/// What allowing something did to the bans.
fn effect(done: &AllowedAnswer, out: &mut impl Write) -> anyhow::Result<()> {
    let effect = &done.effect;
    if effect.lifted > 0 {
        writeln!(out, "  {} lifted", words::counted(effect.lifted, "ban"))?;
    }
    for network in &effect.let_go {
        writeln!(
            out,
            "  routers no longer hold the whole network {}, only its banned addresses",
            words::prefix(*network)
        )?;
    }
    for ban in &effect.cut {
        writeln!(
            out,
            "  the ban of the network {} stands ({}) and spares it: each router holds {} in the place of 1",
            words::prefix(ban.prefix),
            words::end(ban.until),
            words::counted(ban.entries, "entry")
        )?;
    }
    if effect.more_entries > 0 && (effect.let_go.len() + effect.cut.len()) > 0 {
        writeln!(out, "  that is {} more", words::counted(effect.more_entries, "entry"))?;
    }
    if !effect.cut.is_empty() {
        let when = if done.entry.until.is_some() {
            "when that time is over"
        } else {
            "when it is taken off the list"
        };
        writeln!(out, "  {when}, the network's ban keeps it out again")?;
    }
    Ok(())
}

/// What taking something off the list did.
fn disallowed(done: &AllowedAnswer, out: &mut impl Write) -> anyhow::Result<()> {
    let what = words::harmless(&done.entry.what);
    if let Some(still) = &done.effect.still {
        return Ok(writeln!(
            out,
            "{what} is off the list of run time, and still never banned: {}",
            words::harmless(&still.to_string())
        )?);
    }
    writeln!(out, "{what} can be banned again")?;
    for ban in &done.effect.held_by {
        writeln!(
            out,
            "  it is kept out again, by the ban of the network {}, {}",
            words::prefix(ban.prefix),
            words::end(ban.until)
        )?;
    }
    Ok(())
}

// === impl ProtectedArguments ===

impl ProtectedArguments {
    /// Lists the latest offences of protected addresses.
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let offences: Vec<ProtectedOffence> =
            Socket::of(config)?.ask("protected", &ProtectedRequest { limit: self.limit })?;
        if self.json {
            return print_json(out, &offences);
        }
        if offences.is_empty() {
            return Ok(writeln!(out, "no offence of a protected address")?);
        }
        let now = Timestamp::now();
        let row = |offence: &ProtectedOffence| {
            let row = [
                words::ago(offence.at, now),
                offence.address.to_string(),
                offence.jail.to_string(),
                offence.sensor.to_string(),
                words::harmless(&offence.why).into_owned(),
            ];
            (Tone::Plain, row)
        };
        let header = ["WHEN", "ADDRESS", "JAIL", "SENSOR", "WHY"];
        for line in Paint::of_stdout().table(header, &[], offences.iter().map(row).collect()) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

/// Why something is never banned, in words.
pub fn because(because: &AllowedBecause, now: Timestamp) -> String {
    match &because.entry {
        Some(entry) => {
            let what = words::prefix(because.network);
            let name =
                because.name.as_ref().map(|name| format!(" ({})", words::harmless(name))).unwrap_or_default();
            format!("{what}{name} is on the allow list: {}", said(entry, now))
        }
        None => words::harmless(&because.to_string()).into_owned(),
    }
}

fn lines(list: &AllowAnswer, now: Timestamp, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    if list.entries.is_empty() {
        lines.push("nothing is allowed at run time: atalaya-enforcer allow ADDRESS --for 2h".to_owned());
    } else {
        let row = |entry: &Allowance| {
            let row = [
                words::harmless(&entry.what).into_owned(),
                words::ago(entry.since, now),
                words::until(entry.until, now),
                words::harmless(&entry.by).into_owned(),
                words::harmless(&entry.reason).into_owned(),
            ];
            (Tone::Plain, row)
        };
        let rows = list.entries.iter().map(row).collect();
        lines.extend(paint.table(["ALLOWED", "SINCE", "ENDS", "BY", "REASON"], &[], rows));
    }
    for (name, answer) in &list.names {
        let open = format!("{}  ", words::harmless(name));
        let addresses: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
        let mut text = if addresses.is_empty() { "no address yet".to_owned() } else { addresses.join(" ") };
        if let Some(trouble) = &answer.trouble {
            text.push_str(&format!("; {}", words::harmless(trouble)));
        }
        let tone = if answer.trouble.is_some() { Tone::Bad } else { Tone::Plain };
        lines.extend(paint.paragraph(&open, &text).iter().map(|line| paint.paint(tone, line)));
    }
    let networks: Vec<String> = list.networks.iter().map(words::prefix).collect();
    lines.extend(paint.paragraph("never banned, in total: ", &networks.join(" ")));
    if list.protected > 0 {
        let who = words::counted(list.protected, "address");
        lines.push(format!(
            "protected by successful logins: {who}; `atalaya-enforcer protected` lists their offences"
        ));
    }
    lines
}

fn said(entry: &Allowance, now: Timestamp) -> String {
    let by = if entry.by.is_empty() { String::new() } else { format!(" by {}", words::harmless(&entry.by)) };
    let reason = if entry.reason.is_empty() {
        String::new()
    } else {
        format!(" ({})", words::harmless(&entry.reason))
    };
    let end =
        entry.until.map_or_else(String::new, |until| format!(", ends {}", words::until(Some(until), now)));
    format!("allowed {}{by}{reason}{end}", words::ago(entry.since, now))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_list_tells_entries_names_and_what_is_wrong_with_them_on_a_line_each() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let list: AllowAnswer = serde_json::from_value(json!({
            "entries": [{"what": "192.0.2.7", "since": at(0), "until": at(7200), "reason": "my\u{1b}[2J laptop", "by": "eve"}],
            "names": {"admin.example.org": {"addresses": ["192.0.2.9"], "trouble": "no answer"}},
            "networks": ["10.0.0.0/8", "192.0.2.7", "192.0.2.9"], "protected": 2,
        }))
        .unwrap();
        let text = lines(&list, at(60), Paint::plain(80, 24)).join("\n");
        for expected in [
            "192.0.2.7  1m ago  in 1h 59m  eve  my\u{fffd}[2J laptop",
            "admin.example.org  192.0.2.9; no answer",
            "10.0.0.0/8 192.0.2.7 192.0.2.9",
            "2 addresses",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let entry = list.entries[0].clone();
        let mut why: AllowedBecause = serde_json::from_value(json!({
            "network": "192.0.2.7/32", "reason": "run-time", "router": null, "name": null, "entry": entry,
        }))
        .unwrap();
        assert_eq!(
            because(&why, at(60)),
            "192.0.2.7 is on the allow list: allowed 1m ago by eve (my\u{fffd}[2J laptop), ends in 1h 59m"
        );
        why.entry = None;
        for (reason, expected) in [
            ("configured", "192.0.2.7 is on the allow list of the configuration"),
            ("host", "192.0.2.7 is an address of the enforcer's host"),
            ("router", "192.0.2.7 is an address of router edge"),
            ("connected", "router edge is connected to the private network 192.0.2.7"),
            ("nobody", "192.0.2.7 is loopback, link-local, multicast or reserved"),
        ] {
            why.reason = serde_json::from_value(json!(reason)).unwrap();
            why.router = Some("edge".parse().unwrap());
            assert_eq!(because(&why, at(60)), expected);
        }
    }
}
