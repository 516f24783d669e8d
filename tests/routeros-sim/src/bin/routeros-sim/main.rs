//! `routeros-sim`: the simulator as a program. The command line is read here; `output` prints what
//! happens, `control` takes commands while it runs.

mod control;
mod output;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use routeros_sim::{ApiSsl, Model, Router};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::output::Form;

/// Simulates the RouterOS API and its firewall address lists.
///
/// Prints one line for each thing that happens, the first one when it listens. It runs until SIGINT or
/// SIGTERM. It is no router: it filters nothing, and figures measured against it say nothing about one.
#[derive(Parser)]
#[command(name = "routeros-sim", version, after_help = EXAMPLES)]
struct Cli {
    /// Where to listen; port 0 takes a free one, which the first line of output tells
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8728")]
    listen: SocketAddr,

    /// The user's name
    #[arg(long, default_value = "atalaya")]
    user: String,

    /// The user's password
    #[arg(long, default_value = "secret", env = "ROUTEROS_SIM_PASSWORD", hide_env_values = true)]
    password: String,

    /// A file whose first line is the user's password
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    password_file: Option<PathBuf>,

    /// What the user may do: RouterOS's policies, of which read, write and api matter here
    #[arg(long, value_delimiter = ',', default_value = "read,write,api")]
    policies: Vec<String>,

    /// The router's name
    #[arg(long, value_name = "NAME", default_value = "MikroTik")]
    identity: String,

    /// The RouterOS release: from 7.18 prints that find nothing say !empty, before 6.43 only the login
    /// with a challenge is spoken
    #[arg(long, value_name = "VERSION", default_value = "7.24")]
    release: String,

    /// Speak TLS 1.2 (api-ssl) with a certificate made at the start
    #[arg(long)]
    tls: bool,

    /// How api-ssl stands beside the plain API, on a free port that `/ip/service/print` tells
    #[arg(long, value_name = "STATE", default_value = "disabled", conflicts_with = "tls")]
    api_ssl: ApiSslState,

    /// A command as typed at the router's terminal before the start; may be given many times
    #[arg(long, value_name = "COMMAND")]
    terminal: Vec<String>,

    /// Refuse commands whose path begins so, as to a user without the policies; may be given many times
    #[arg(long, value_name = "PATH")]
    refuse: Vec<String>,

    /// The board: rb5009, hap-ax3, hex or rb951 with the memory, the processor and the costs that were measured of it;
    /// or any other name, which costs nothing
    #[arg(long, value_name = "NAME", default_value = "RB5009UG+S+")]
    board: String,

    /// The memory in MiB of a board of another name
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u64,

    /// Take an add beside a disabled entry of the same address; it is not known whether RouterOS does
    #[arg(long)]
    beside_disabled: bool,

    /// Do without /ipv6
    #[arg(long)]
    no_ipv6: bool,

    /// Write the certificate's DER bytes to a file, for clients to pin
    #[arg(long, value_name = "FILE", requires = "tls")]
    certificate: Option<PathBuf>,

    /// How much later each reply arrives
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = time)]
    round_trip: Duration,

    /// How long each add, set and remove occupies the router; 1.2ms on an RB5009
    #[arg(long, value_name = "TIME", value_parser = time)]
    insert_cost: Option<Duration>,

    /// How long print occupies the router for each entry of the table; 50us on an RB5009
    #[arg(long, value_name = "TIME", value_parser = time)]
    scan_cost: Option<Duration>,

    /// The most connections at once
    #[arg(long, value_name = "N", default_value_t = 20)]
    max_sessions: usize,

    /// How to print what happens
    #[arg(long, value_name = "FORM", default_value = "text")]
    events: Form,

    /// Take commands on standard input; `help` lists them
    #[arg(long)]
    control: bool,
}

/// How api-ssl stands beside the plain API.
#[derive(Clone, Copy, ValueEnum)]
enum ApiSslState {
    /// Off, and without a certificate
    Disabled,
    /// On, but without a certificate: no handshake succeeds
    WithoutCertificate,
    /// On, with a certificate
    WithCertificate,
}

const EXAMPLES: &str = "\
Examples:
  routeros-sim --listen 127.0.0.1:8728 --user u --password p
      a router that costs nothing, for tests of clients
  routeros-sim --board rb5009 --round-trip 33ms --events json
      one like an RB5009 across a WAN
  routeros-sim --tls --listen 127.0.0.1:8729 --certificate /tmp/router.der
      api-ssl, with the certificate for clients to pin
  routeros-sim --terminal '/ip/firewall/raw add chain=prerouting action=drop src-address-list=spammer'
      one with a rule that uses the list
  routeros-sim --control
      then type: list, advance 10m, reboot, down, up, stall, resume, help, or a RouterOS command";

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("routeros-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn run(cli: &Cli) -> anyhow::Result<()> {
    // Before the first line of output, so that whoever waits for it can already end us cleanly.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let policies: Vec<&str> = cli.policies.iter().map(String::as_str).collect();
    let mut builder = Router::builder()
        .listen(cli.listen)
        .user(&cli.user)
        .password(cli.password()?)
        .policies(&policies)
        .identity(&cli.identity)
        .version(&cli.release)
        .tls(cli.tls)
        .api_ssl(match cli.api_ssl {
            ApiSslState::Disabled => ApiSsl::Disabled,
            ApiSslState::WithoutCertificate => ApiSsl::WithoutCertificate,
            ApiSslState::WithCertificate => ApiSsl::WithCertificate,
        })
        .ipv6(!cli.no_ipv6)
        .round_trip(cli.round_trip)
        .max_sessions(cli.max_sessions);
    builder = match Model::of(&cli.board) {
        Some(model) => builder.model(model),
        None => builder.board(&cli.board, cli.memory.saturating_mul(1024 * 1024)),
    };
    if let Some(insert) = cli.insert_cost {
        builder = builder.insert_cost(insert);
    }
    if let Some(scan) = cli.scan_cost {
        builder = builder.scan_cost_per_entry(scan);
    }
    for path in &cli.refuse {
        builder = builder.refuse(path);
    }
    for command in &cli.terminal {
        builder = builder.terminal(command);
    }
    let mut events = None;
    if cli.events != Form::None {
        let (sender, receiver) = mpsc::channel(4096);
        builder = builder.events(sender);
        events = Some(receiver);
    }
    let router = builder.start().await?;
    router.take_beside_disabled(cli.beside_disabled);
    if let (Some(file), Some(certificate)) = (&cli.certificate, router.certificate()) {
        std::fs::write(file, certificate).with_context(|| format!("cannot write {}", file.display()))?;
    }
    output::listening(cli.events, router.address());
    if let Some(events) = events {
        let form = cli.events;
        tokio::task::spawn_blocking(move || output::print(events, form));
    }
    if cli.control {
        let (router, form) = (router.clone(), cli.events);
        tokio::spawn(async move { control::obey(&router, form).await });
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // A blocked reader of our output or an open standard input must not keep the program alive.
    std::process::exit(0)
}

impl Cli {
    fn password(&self) -> anyhow::Result<String> {
        let Some(file) = &self.password_file else { return Ok(self.password.clone()) };
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

/// `33ms`, `1.2ms`, `50us`, `2s`, or `0`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a time such as 33ms, 1.2ms, 50us or 2s".to_owned();
    let units = [("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .or((text == "0").then_some((text, 1.0)))
        .ok_or_else(wrong)?;
    let seconds = number.trim().parse::<f64>().map_err(|_| wrong())? * unit;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_in_the_units_that_people_write() {
        assert_eq!(time("1.2ms"), Ok(Duration::from_micros(1200)));
        assert_eq!(time("50us"), Ok(Duration::from_micros(50)));
        assert_eq!((time("2s"), time("0")), (Ok(Duration::from_secs(2)), Ok(Duration::ZERO)));
        for wrong in ["", "5", "ms", "-1s", "1h", "infs", "nans"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
