//! Prints what happens, a line for each event, in the form that was asked for.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;

use clap::ValueEnum;
use routeros_sim::{Entry, Event, Timeout};
use serde_json::json;
use tokio::sync::mpsc::Receiver;

/// In which form to print.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A line for a person
    Text,
    /// A JSON object a line
    Json,
    /// Nothing but that it listens
    None,
}

/// The first line: where clients find the router.
pub fn listening(form: Form, address: SocketAddr) {
    say(&match form {
        Form::Json => json!({"event": "listening", "address": address.to_string()}).to_string(),
        Form::Text | Form::None => format!("listening on {address}"),
    });
}

/// Prints events until there are no more, and whatever has gathered in one go. Blocks.
pub fn print(mut events: Receiver<Event>, form: Form) {
    let mut gathered = Vec::new();
    let mut lines = String::new();
    while events.blocking_recv_many(&mut gathered, 1024) > 0 {
        for event in gathered.drain(..) {
            match form {
                // An event is made of strings and numbers, which always are JSON.
                Form::Json => lines.push_str(&serde_json::to_string(&event).unwrap_or_default()),
                Form::Text | Form::None => text(&mut lines, &event),
            }
            lines.push('\n');
        }
        if !say(lines.trim_end()) {
            return;
        }
        lines.clear();
    }
}

/// Prints the tables: one JSON object, or a line for each entry.
pub fn list(form: Form, entries: &[Entry]) {
    let timeout = |entry: &Entry| entry.timeout_left.map(|left| Timeout(left.as_secs()).to_string());
    if form == Form::Json {
        let entries: Vec<serde_json::Value> = entries
            .iter()
            .map(|entry| {
                json!({
                    "family": entry.family, "id": entry.id, "list": entry.list, "address": entry.address,
                    "timeout": timeout(entry), "comment": entry.comment, "dynamic": entry.dynamic,
                    "disabled": entry.disabled,
                })
            })
            .collect();
        say(&json!({"event": "list", "entries": entries}).to_string());
        return;
    }
    let mut lines = format!("{} entries", entries.len());
    for entry in entries {
        let flags =
            format!("{}{}", if entry.disabled { 'X' } else { ' ' }, if entry.dynamic { 'D' } else { ' ' });
        let _ = write!(
            lines,
            "\n{flags} {:<6} {:<16} {:<40} {:<16} {}",
            entry.id,
            plain(&entry.list),
            plain(&entry.address),
            timeout(entry).unwrap_or_default(),
            plain(&entry.comment),
        );
    }
    say(&lines);
}

/// Prints lines at once; false when nobody reads them any more.
pub fn say(text: &str) -> bool {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

fn text(line: &mut String, event: &Event) {
    let _ = write!(line, "{:.6} {}", event.at, event.kind.as_str());
    if let Some(user) = &event.user {
        let _ = write!(line, " user={}", plain(user));
    }
    if let Some(entry) = &event.entry {
        let _ = write!(line, " {} {}", plain(&entry.list), plain(&entry.address));
        if let Some(timeout) = &entry.timeout {
            let _ = write!(line, " timeout={timeout}");
        }
        if !entry.comment.is_empty() {
            let _ = write!(line, " comment={:?}", entry.comment);
        }
    }
}

/// What clients sent may hold control characters, which do not belong on a terminal.
fn plain(text: &str) -> String {
    text.escape_debug().to_string()
}
