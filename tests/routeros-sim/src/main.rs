//! `routeros-sim`: the simulator as a program.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use routeros_sim::{Event, Family, Fault, Router, Timeout};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;

/// Simulates the RouterOS API and its firewall address lists.
#[derive(Parser)]
#[command(version)]
#[command(after_help = "Examples:\n  \
    routeros-sim --listen 127.0.0.1:8728 --user u --password p\n  \
    routeros-sim --round-trip 33ms --insert-cost 1.2ms --events json --control")]
struct Cli {
    /// Where to listen; port 0 takes a free one, which the first line of output tells
    #[arg(long, default_value = "127.0.0.1:8728")]
    listen: SocketAddr,
    /// The only user
    #[arg(long, default_value = "admin")]
    user: String,
    /// The user's password
    #[arg(long, default_value = "", env = "ROUTEROS_SIM_PASSWORD", hide_env_values = true)]
    password: String,
    /// A file with the user's password
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    password_file: Option<PathBuf>,
    /// The system's name
    #[arg(long, default_value = "simulator")]
    identity: String,
    /// The RouterOS release
    #[arg(long, default_value = "7.24")]
    release: String,
    /// The user's policies
    #[arg(long, value_delimiter = ',', default_value = "read,write,api")]
    policies: Vec<String>,
    /// Speak API-SSL
    #[arg(long)]
    tls: bool,
    /// What passes between a command and its answer on the way
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = time)]
    round_trip: Duration,
    /// For how long an insertion keeps the router busy
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = time)]
    insert_cost: Duration,
    /// For how long each entry that a print passes keeps the router busy
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = time)]
    scan_cost: Duration,
    /// The most sessions at once
    #[arg(long, default_value_t = 20)]
    max_sessions: usize,
    /// How to print what happens
    #[arg(long, default_value = "text")]
    events: Events,
    /// Take commands on standard input; `help` lists them
    #[arg(long)]
    control: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Events {
    /// A line for a person
    Text,
    /// A JSON object a line
    Json,
    /// Nothing
    None,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("routeros-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let password = match &cli.password_file {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?
            .trim_end()
            .to_owned(),
        None => cli.password.clone(),
    };
    let policies: Vec<&str> = cli.policies.iter().map(String::as_str).collect();
    let router = Router::builder()
        .listen(cli.listen)
        .user(&cli.user)
        .password(&password)
        .identity(&cli.identity)
        .version(&cli.release)
        .policies(&policies)
        .round_trip(cli.round_trip)
        .insert_cost(cli.insert_cost)
        .scan_cost_per_entry(cli.scan_cost)
        .max_sessions(cli.max_sessions)
        .tls(cli.tls)
        .start()
        .await?;
    let events = (cli.events != Events::None).then(|| router.events());
    match cli.events {
        Events::Json => {
            print_line(&serde_json::json!({"event": "listening", "address": router.address()}).to_string());
        }
        Events::Text | Events::None => print_line(&format!("listening on {}", router.address())),
    }
    if let Some(events) = events {
        tokio::spawn(print_events(events, cli.events));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let control = async {
        if cli.control {
            control(&router, cli.events).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = control => {}
    }
    Ok(())
}

async fn print_events(mut events: tokio::sync::broadcast::Receiver<Arc<Event>>, form: Events) {
    let mut out = String::new();
    loop {
        match events.try_recv() {
            Ok(event) => {
                let json = serde_json::to_string(&*event).unwrap_or_default();
                if form == Events::Json {
                    out.push_str(&json);
                } else {
                    out.push_str(&text(&event));
                }
                out.push('\n');
                if out.len() < 64 * 1024 {
                    continue;
                }
            }
            Err(tokio::sync::broadcast::error::TryRecvError::Lagged(missed)) => {
                eprintln!("routeros-sim: {missed} events were not printed: the reader is too slow");
                continue;
            }
            Err(_) => {}
        }
        if out.is_empty() {
            match events.recv().await {
                Ok(event) => {
                    let json = serde_json::to_string(&*event).unwrap_or_default();
                    out.push_str(&if form == Events::Json { json } else { text(&event) });
                    out.push('\n');
                }
                Err(RecvError::Lagged(missed)) => eprintln!("routeros-sim: {missed} events were not printed"),
                Err(RecvError::Closed) => return,
            }
            continue;
        }
        print_line(out.trim_end());
        out.clear();
    }
}

fn text(event: &Event) -> String {
    let json = serde_json::to_value(&event.what).unwrap_or_default();
    let fields: Vec<String> = json
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "event")
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!("{} {} {}", event.at, json["event"].as_str().unwrap_or_default(), fields.join(" "))
}

async fn control(router: &Router, form: Events) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let (verb, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match verb {
            "list" => list(router, form),
            "count" => {
                let count = router.entries(Family::V4).len() + router.entries(Family::V6).len();
                print_line(&serde_json::json!({"event": "count", "entries": count}).to_string());
            }
            "reboot" => router.reboot().await,
            "down" => router.go_down().await,
            "up" => {
                if let Err(error) = router.come_up().await {
                    eprintln!("routeros-sim: {error}");
                }
            }
            "stall" => router.inject(Fault::Stall, "/", 0),
            "advance" => match Timeout::parse(rest.as_bytes()) {
                Some(time) => router.clock().advance(Duration::from_secs(time.0)),
                None => eprintln!("routeros-sim: `{rest}` is not a time; expected such as 10m or 00:10:00"),
            },
            "" => {}
            _ => eprintln!("commands: list, count, reboot, down, up, stall, advance TIME"),
        }
    }
}

fn list(router: &Router, form: Events) {
    let entries: Vec<serde_json::Value> = [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| router.entries(family))
        .map(|entry| {
            let timeout = entry.timeout_left.map(|left| Timeout(left.as_secs()).to_string());
            serde_json::json!({
                "list": entry.list, "address": entry.address, "timeout": timeout,
                "comment": entry.comment, "dynamic": entry.dynamic, "disabled": entry.disabled,
            })
        })
        .collect();
    if form == Events::Json {
        print_line(&serde_json::json!({"event": "list", "entries": entries}).to_string());
    } else {
        for entry in entries {
            print_line(&entry.to_string());
        }
    }
}

/// Prints whole lines at once; a reader that went away ends the printing, not the router.
fn print_line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// `33ms`, `1.2ms`, `2s`, or `0`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time: expected such as 33ms, 1.2ms or 2s");
    let (number, scale) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1e-3),
        (None, Some(number)) => (number, 1.0),
        (None, None) if text == "0" => ("0", 1.0),
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<f64>().map_err(|_| wrong())? * scale;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}
