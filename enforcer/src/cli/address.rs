//! `show`: all that is known of an address or a network.

use std::io::Write;
use std::path::Path;

use atalaya_enforcer::control::address::{AddressAnswer, AddressRequest};
use atalaya_enforcer::control::holding::RouterHolding;
use atalaya_enforcer::ledger::Ban;
use atalaya_enforcer::router::Holding;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use super::allow::because;
use super::paint::{Paint, Tone};
use super::socket::{Socket, print_json};
use super::words;

/// How many earlier bans are shown.
const EARLIER: usize = 10;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer show 192.0.2.1\n  \
    atalaya-enforcer show 2001:db8::/64 --json\n\n\
    The JSON is {prefix, now, standing: {bans: [{prefix, until, jail, sensor, origin, entries}], sparing, widened, held_as}, \
    history_trouble, ban, around, within, earlier, allowed, login, protected, widened, routers: [{router, prefix, holds, ours, \
    left_seconds, down_since, why}]}, bans as in `bans --json`; fields are added, but do not change.")]
pub struct Arguments {
    /// The address or network
    #[arg(value_parser = super::prefix, value_name = "ADDRESS|NETWORK")]
    prefix: IpNet,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

// === impl Arguments ===

impl Arguments {
    /// Prints what is known.
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let known: AddressAnswer =
            Socket::of(config)?.ask("address", &AddressRequest { prefix: self.prefix })?;
        if self.json {
            return print_json(out, &known);
        }
        for line in lines(&known, Paint::of_stdout()) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

/// What is known, for a person.
fn lines(known: &AddressAnswer, paint: Paint) -> Vec<String> {
    let now = known.now;
    let address = words::prefix(known.prefix);
    let (tone, verdict) = verdict(known);
    let mut lines =
        vec![format!("{}: {}", paint.paint(Tone::Heading, &address), paint.paint(tone, &verdict))];
    if let Some(allowed) = &known.allowed {
        lines.extend(paint.paragraph("  ", &format!("never banned: {}", because(allowed, now))));
    }
    if let Some(login) = known.protected.as_ref().or(known.login.as_ref()) {
        let protects = if known.protected.is_some() { "protected: " } else { "" };
        let text = format!(
            "{protects}{} logged in successfully from {} on {} by {}, {}",
            words::harmless(&login.account),
            login.address,
            login.sensor,
            words::harmless(&login.service),
            words::ago(login.last, now)
        );
        lines.extend(paint.paragraph("  ", &text));
    }
    if let Some(widened) = known.widened {
        let text = format!(
            "many addresses of {} are banned: the routers hold the whole network",
            words::prefix(widened)
        );
        lines.extend(paint.paragraph("  ", &text));
    }
    for ban in known.ban.iter().chain(&known.around) {
        lines.extend(ban_lines(ban, now, paint));
    }
    for ban in known.standing.bans.iter().chain(&known.standing.sparing).filter(|ban| ban.entries > 1) {
        let text = format!(
            "the ban of {} spares what is allowed in it: each router holds {} in the place of 1",
            words::prefix(ban.prefix),
            words::counted(ban.entries, "entry")
        );
        lines.extend(paint.paragraph("  ", &text));
    }
    // What is not written yet: the disk is full, or another program has locked the ledger.
    let in_ledger = |prefix| known.ban.iter().chain(&known.around).any(|ban| ban.prefix == prefix);
    for ban in known.standing.bans.iter().filter(|ban| !in_ledger(ban.prefix)) {
        let why = if known.history_trouble.is_some() { "" } else { "; the ledger does not have it yet" };
        let text = format!("{} banned {}{why}", words::prefix(ban.prefix), ban.origin);
        lines.extend(paint.paragraph("  ", &text));
    }
    if let Some(trouble) = &known.history_trouble {
        let text = format!(
            "its history and what was seen are not readable now: {}; what is said here is from memory",
            words::harmless(trouble)
        );
        lines.extend(paint.paragraph("  ", &text).iter().map(|line| paint.paint(Tone::Bad, line)));
    }
    if !known.within.is_empty() {
        lines.push(paint.paint(Tone::Heading, "banned within it"));
        for ban in &known.within {
            lines.push(format!(
                "  {:<18} {:<12} ends {}",
                words::prefix(ban.prefix),
                ban.origin.jail().as_str(),
                words::until(ban.until, now)
            ));
        }
    }
    if !known.routers.is_empty() {
        lines.push(paint.paint(Tone::Heading, "routers"));
        let width = known.routers.iter().map(|router| router.router.as_str().len()).max().unwrap_or(0);
        for router in &known.routers {
            let open = format!("  {:<width$}  ", router.router.as_str());
            let bad = router.down_since.is_some();
            for line in paint.paragraph(&open, &holding(router, known.prefix, now)) {
                lines.push(paint.paint(if bad { Tone::Bad } else { Tone::Plain }, &line));
            }
        }
    }
    if let Some(ban) = known.ban.as_ref().or(known.around.first())
        && !known.routers.is_empty()
        && known.routers.iter().all(|router| router.refuses)
    {
        let text = format!("no router takes bans of {}: nobody is kept out", ban.origin.jail());
        lines.extend(paint.paragraph("  ", &text).iter().map(|line| paint.paint(Tone::Bad, line)));
    }
    if !known.earlier.is_empty() {
        lines.push(paint.paint(Tone::Heading, "earlier bans"));
        for ban in known.earlier.iter().take(EARLIER) {
            lines.push(format!("  {}", earlier(ban, now)));
        }
        if known.earlier.len() > EARLIER {
            let more = known.earlier.len() - EARLIER;
            lines.push(format!("  and {more} more: atalaya-enforcer history --over --address {address}"));
        }
    }
    lines
}

/// Whether it is kept out, in words.
fn verdict(known: &AddressAnswer) -> (Tone, String) {
    let now = known.now;
    let standing = &known.standing;
    if let Some(ban) = standing.bans.iter().find(|ban| ban.prefix == known.prefix) {
        return (Tone::Bad, format!("banned, {}", ends(ban.until, now)));
    }
    if let Some(around) = standing.bans.first() {
        let network = words::prefix(around.prefix);
        return (Tone::Bad, format!("banned with the network {network}, {}", ends(around.until, now)));
    }
    if let Some(widened) = &standing.widened {
        let network = words::prefix(widened.prefix);
        let text = format!(
            "banned with the network {network}, of which many addresses are banned, {}",
            ends(widened.until, now)
        );
        return (Tone::Bad, text);
    }
    if let Some(ban) = standing.sparing.first() {
        let network = words::prefix(ban.prefix);
        return (Tone::Good, format!("not banned; the ban of the network {network} spares it"));
    }
    let before = match known.earlier.len() {
        _ if known.history_trouble.is_some() => "not banned".to_owned(),
        0 => "not banned, and was not before".to_owned(),
        1 => "not banned; it was once before".to_owned(),
        many => format!("not banned; it was {} before", words::counted(many, "time")),
    };
    (Tone::Good, before)
}

fn ends(until: Option<Timestamp>, now: Timestamp) -> String {
    match until {
        None => "permanent".to_owned(),
        Some(end) => format!("ends {} ({})", words::until(until, now), words::moment(end)),
    }
}

/// A ban that stands, and what was seen.
fn ban_lines(ban: &Ban, now: Timestamp, paint: Paint) -> Vec<String> {
    let strike = match ban.strikes {
        0 | 1 => "the first time".to_owned(),
        strikes => format!("strike {strikes}"),
    };
    let by = by(ban);
    let mut lines = vec![format!(
        "  {} banned {by}, {} ({}), {strike}",
        words::prefix(ban.prefix),
        words::ago(ban.since, now),
        words::moment(ban.since)
    )];
    for seen in &ban.evidence {
        let open = format!("    {}  ", words::hour(seen.time));
        let text = format!("{}: {}", words::harmless(&seen.source), words::harmless(&seen.text));
        lines.extend(paint.paragraph(&open, &text));
    }
    lines
}

fn by(ban: &Ban) -> String {
    ban.origin.to_string()
}

fn earlier(ban: &Ban, now: Timestamp) -> String {
    let ended = match (ban.ended, &ban.ended_by) {
        (Some(ended), Some(by)) => format!("ended {}, {}", words::ago(ended, now), words::harmless(by)),
        _ => ban.until.map_or_else(String::new, |until| format!("ended {}", words::ago(until, now))),
    };
    format!("{}  {}, {ended}", words::moment(ban.since), by(ban))
}

/// What a router holds, in words.
pub fn holding(router: &RouterHolding, asked: IpNet, now: Timestamp) -> String {
    match router.holding {
        Holding::Entry { ours, left, .. } => {
            let what = if router.prefix == asked {
                "holds it".to_owned()
            } else {
                format!("holds {}", words::prefix(router.prefix))
            };
            let whose = if ours { "" } else { ", an entry that is not ours" };
            let left = left.map_or_else(
                || "without a timeout".to_owned(),
                |left| format!("{} left", words::length(SignedDuration::from_secs(left.cast_signed()))),
            );
            let but = router.why.as_deref().map(|why| format!(", but {}", words::harmless(why)));
            format!("{what}{whose}, {left}{}", but.unwrap_or_default())
        }
        Holding::Nothing | Holding::Unknown => {
            let not = if router.holding == Holding::Nothing { "does not hold it" } else { "cannot tell" };
            match (&router.why, router.down_since) {
                (Some(why), Some(since)) => {
                    let down = words::length(now.duration_since(since));
                    format!("{not}: down for {down}: {}", words::harmless(why))
                }
                (Some(why), None) => format!("{not}: {}", words::harmless(why)),
                (None, _) => not.to_owned(),
            }
        }
    }
}

/// On how many routers something is, and what is with the others; `None` where no router is concerned.
pub fn on_routers(routers: &[RouterHolding], now: Timestamp) -> Option<String> {
    // Those that are well without it are not concerned.
    let concerned: Vec<_> = routers.iter().filter(|router| router.holds() || router.why.is_some()).collect();
    if concerned.is_empty() {
        return None;
    }
    let held = concerned.iter().filter(|router| router.holds()).count();
    let mut text = if held == concerned.len() && held == 1 {
        format!("on router {}", concerned[0].router)
    } else if held == concerned.len() {
        format!("on all {}", words::counted(held, "router"))
    } else {
        format!("on {held} of {}", words::counted(concerned.len(), "router"))
    };
    for router in concerned {
        text.push_str(&match (router.down_since, &router.why) {
            (_, None) if router.holds() => continue,
            (_, Some(why)) if router.holds() => format!("; {} {}", router.router, words::harmless(why)),
            (Some(since), _) => {
                format!("; {} is down for {}", router.router, words::length(now.duration_since(since)))
            }
            (None, Some(why)) => format!("; {}: {}", router.router, words::harmless(why)),
            (None, None) => format!("; {}: not there", router.router),
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use atalaya_enforcer::bans::WidenedNetwork;
    use atalaya_enforcer::bans::allow::{AllowReason, AllowedBecause};
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn standing(prefix: &str, entries: usize) -> serde_json::Value {
        json!({"prefix": prefix, "until": at(1800), "jail": "ssh", "sensor": "web-1", "entries": entries})
    }

    fn known() -> AddressAnswer {
        let ban = json!({
            "prefix": "192.0.2.1/32", "since": at(0), "until": at(1800), "jail": "ssh", "sensor": "web-1",
            "evidence": [{"time": at(0), "source": "auth.log", "text": "Failed password\u{1b}[2J"}], "strikes": 3,
        });
        let mut over = ban.clone();
        over["ended"] = json!(at(-90));
        over["ended_by"] = json!("expired");
        serde_json::from_value(json!({
            "prefix": "192.0.2.1/32", "now": at(120), "ban": ban, "history_trouble": null,
            "standing": {"bans": [standing("192.0.2.1/32", 1)], "sparing": [], "widened": null, "held_as": []}, "around": [], "within": [], "earlier": vec![over; 12],
            "allowed": null, "login": null, "protected": null, "widened": null, "routers": [
                {"router": "edge-1", "prefix": "192.0.2.1/32", "holds": "entry", "ours": true, "left_seconds": 1680,
                 "down_since": null, "why": null},
                {"router": "edge-0", "prefix": "192.0.2.1/32", "holds": "entry", "ours": true, "left_seconds": 1680,
                 "down_since": null, "why": "drops nothing: no enabled rule"},
                {"router": "edge-2", "prefix": "192.0.2.1/32", "holds": "unknown", "down_since": at(0),
                 "why": "no route"},
                {"router": "edge-3", "prefix": "192.0.2.1/32", "holds": "nothing", "down_since": null, "why": null},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_banned_address_shows_until_when_why_where_and_what_was_before() {
        let text = lines(&known(), Paint::plain(80, 24)).join("\n");
        for expected in [
            "192.0.2.1: banned, ends in 28m (2027-01-15 08:30:00Z)",
            "jail ssh for sensor web-1, 2m ago",
            "strike 3",
            "auth.log: Failed password\u{fffd}[2J",
            "edge-1  holds it, 28m left",
            "edge-0  holds it, 28m left, but drops nothing: no enabled rule",
            "edge-2  cannot tell: down for 2m: no route",
            "edge-3  does not hold it",
            "ended 3m 30s ago, expired",
            "and 2 more: atalaya-enforcer history --over --address 192.0.2.1",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn what_stands_is_told_from_memory_where_the_ledger_lacks_it_or_cannot_be_read() {
        let mut known = known();
        known.ban = None;
        let text = lines(&known, Paint::plain(200, 24)).join("\n");
        assert!(
            text.contains(
                "  192.0.2.1 banned by jail ssh for sensor web-1; the ledger does not have it yet\n"
            ),
            "{text}"
        );
        known.history_trouble = Some("the ledger does not answer\u{1b}[2J".to_owned());
        known.earlier.clear();
        let text = lines(&known, Paint::plain(200, 24)).join("\n");
        let expected = "192.0.2.1: banned, ends in 28m (2027-01-15 08:30:00Z)\n  192.0.2.1 banned by jail ssh for sensor web-1\n  its history and what was seen are not readable now: the ledger does not answer\u{fffd}[2J; what is said here is from memory\n";
        assert!(text.starts_with(expected), "{text}");
        known.standing.bans.clear();
        assert!(
            lines(&known, Paint::plain(80, 24))[0].ends_with(": not banned"),
            "what was before is not known"
        );
    }

    #[test]
    fn an_address_that_is_not_banned_says_so_and_what_covers_it() {
        let mut known = known();
        known.ban = None;
        known.standing.bans.clear();
        assert!(lines(&known, Paint::plain(80, 24))[0].contains("not banned; it was 12 times before"));
        known.earlier.clear();
        let network = "192.0.2.0/24".parse().unwrap();
        let reason = AllowReason::Configured;
        known.allowed = Some(AllowedBecause { network, reason, router: None, name: None, entry: None });
        let text = lines(&known, Paint::plain(80, 24)).join("\n");
        assert!(
            text.contains("not banned, and was not before") && text.contains("192.0.2.0/24 is on the allow"),
            "{text}"
        );
        let heading = |known: &AddressAnswer| lines(known, Paint::plain(80, 24))[0].clone();
        known.standing.sparing = vec![serde_json::from_value(standing("192.0.2.0/24", 8)).unwrap()];
        assert_eq!(heading(&known), "192.0.2.1: not banned; the ban of the network 192.0.2.0/24 spares it");
        let text = lines(&known, Paint::plain(80, 24)).join("\n");
        assert!(text.contains("each router holds 8\n  entries in the place of 1"), "{text}");
        known.standing.widened = Some(WidenedNetwork { prefix: network, until: Some(at(1800)) });
        let expected = "192.0.2.1: banned with the network 192.0.2.0/24, of which many addresses are banned, ends in 28m (2027-01-15 08:30:00Z)";
        assert_eq!(heading(&known), expected);
        known.standing.bans = std::mem::take(&mut known.standing.sparing);
        assert!(heading(&known).contains("banned with the network 192.0.2.0/24, ends in 28m"));
    }

    #[test]
    fn a_ban_is_told_to_be_on_so_many_of_the_routers_it_is_for() {
        let mut routers = known().routers;
        let told = on_routers(&routers, at(60)).unwrap();
        assert_eq!(told, "on 2 of 3 routers; edge-0 drops nothing: no enabled rule; edge-2 is down for 1m");
        routers.truncate(1);
        assert_eq!(on_routers(&routers, at(60)).unwrap(), "on router edge-1");
        assert_eq!(on_routers(&[], at(60)), None);
    }
}
