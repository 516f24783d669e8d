//! Commands on standard input, for demos and for people: what an administrator or the power company
//! would do to the router.

use std::time::Duration;

use routeros_sim::{Family, Fault, Router, Timeout};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::output::{self, Form};

const HELP: &str = "\
list          print both tables
count         print how many entries they hold, and what was counted
advance TIME  move the clock forward, such as 10m or 00:10:00
reboot        drop sessions and dynamic entries
down          close the port
up            open it again
stall         answer nothing more on the session that sends the next command
resume        end all stalls
/COMMAND      what the router's terminal takes: add, enable, disable, remove and move in /ip/firewall/raw
              and /ip/firewall/filter (and /ipv6/…); add in /user/group, /user, /certificate; set in
              /user, /ip/service; /certificate sign
help          print this";

/// Obeys until standard input closes.
pub async fn obey(router: &Router, form: Form) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => obey_line(router, form, line.trim()).await,
            Ok(None) => return,
            Err(error) => {
                eprintln!("routeros-sim: cannot read commands: {error}");
                return;
            }
        }
    }
}

async fn obey_line(router: &Router, form: Form, line: &str) {
    let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match verb {
        "" => {}
        "list" => {
            let mut entries = router.entries(Family::V4);
            entries.append(&mut router.entries(Family::V6));
            output::list(form, &entries);
        }
        "count" => {
            let entries = router.entry_count(Family::V4) + router.entry_count(Family::V6);
            let count = json!({"event": "count", "entries": entries, "counts": router.counts()});
            output::say(&count.to_string());
        }
        "advance" => match Timeout::parse(rest.trim().as_bytes()) {
            Some(time) => router.clock().advance(Duration::from_secs(time.0)),
            None => eprintln!("routeros-sim: {rest:?} is no time; write it as 10m or 00:10:00"),
        },
        "reboot" => router.reboot().await,
        "down" => router.go_down().await,
        "up" => {
            if let Err(error) = router.come_up().await {
                eprintln!("routeros-sim: {error}");
            }
        }
        "stall" => router.inject(Fault::Stall, "", 0),
        "resume" => router.resume(),
        _ if line.starts_with('/') => match router.terminal(line) {
            Ok(()) => eprintln!("done"),
            Err(error) => eprintln!("{error}"),
        },
        "help" => eprintln!("{HELP}"),
        other => eprintln!("routeros-sim: unknown command {other:?}; `help` lists them"),
    }
}
