//! `atalaya-enforcer`: the command line. What each command does is in the library.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::config::{self, Config};
use atalaya_enforcer::control::{BanRequest, UnbanRequest};
use atalaya_enforcer::tls::Identity;
use atalaya_enforcer::{enrolment, service};
use atalaya_wire::{BanTime, Name, Problem, Seconds};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use ipnet::IpNet;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Keeps the bans and holds every MikroTik router's address list to them.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Example: an enforcer from nothing\n  \
    atalaya-enforcer check\n  atalaya-enforcer run &\n  atalaya-enforcer enrol web-1   # prints the token for `atalaya-sensor join`")]
struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// What to log: error, warn, info, debug or trace, or a filter such as `atalaya_enforcer=debug`
    #[arg(long, global = true, value_name = "LEVEL", env = "ATALAYA_LOG", default_value = "info")]
    log: String,
    /// How to write the log
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// A line for a person
    Text,
    /// A JSON object a line, for programs
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Take offences and hold the routers to the bans, until stopped
    #[command(after_help = "Example:\n  atalaya-enforcer run --config /etc/atalaya/enforcer.toml")]
    Run,
    /// Check the configuration and print what it means
    #[command(after_help = "Example:\n  atalaya-enforcer check --config ./enforcer.toml")]
    Check,
    /// Let a sensor send, and print the token with which it joins
    #[command(after_help = "Example:\n  atalaya-enforcer enrol web-1 | ssh web-1 atalaya-sensor join https://enforcer.example:8443 -")]
    Enrol {
        /// The sensor's name
        name: Name,
        /// Give a sensor that is enrolled a new secret
        #[arg(long)]
        replace: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a sensor's right to send
    #[command(after_help = "Example:\n  atalaya-enforcer revoke web-1")]
    Revoke {
        /// The sensor's name
        name: Name,
    },
    /// List the enrolled sensors
    #[command(after_help = "Example:\n  atalaya-enforcer sensors --json")]
    Sensors {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the routers, the sensors and how many bans stand
    #[command(after_help = "Example:\n  atalaya-enforcer status")]
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the bans that stand, the latest first
    #[command(after_help = "Examples:\n  atalaya-enforcer bans --jail ssh\n  atalaya-enforcer bans --address 192.0.2.0/24 --json")]
    Bans {
        /// Only this jail's
        #[arg(long)]
        jail: Option<Name>,
        /// Only this sensor's
        #[arg(long)]
        sensor: Option<Name>,
        /// Only those that touch this address or network
        #[arg(long, value_parser = prefix)]
        address: Option<IpNet>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ban an address or a network by hand
    #[command(after_help = "Examples:\n  atalaya-enforcer ban 192.0.2.1 --for 2h --reason 'port scan'\n  atalaya-enforcer ban 2001:db8::/64 --for permanent")]
    Ban {
        /// The address or network
        #[arg(value_parser = prefix)]
        prefix: IpNet,
        /// For how long: 600, 10m, 1h30m, permanent
        #[arg(long = "for", value_name = "TIME", default_value_t = BanTime::For(Seconds(1800)))]
        bantime: BanTime,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Lift a ban
    #[command(after_help = "Example:\n  atalaya-enforcer unban 192.0.2.1")]
    Unban {
        /// The address or network
        #[arg(value_parser = prefix)]
        prefix: IpNet,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what each router holds, and its last error
    #[command(after_help = "Example:\n  atalaya-enforcer routers")]
    Routers {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print shell completions
    #[command(after_help = "Example:\n  atalaya-enforcer completions bash > /etc/bash_completion.d/atalaya-enforcer")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("atalaya-enforcer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "atalaya-enforcer", &mut std::io::stdout());
        return Ok(());
    }
    if matches!(cli.command, Command::Run) {
        start_log(&cli.log, cli.log_format)?;
    }
    let config = Config::read(&cli.config)?;
    let socket = config.socket.clone();
    match cli.command {
        Command::Run => runtime()?.block_on(serve(config)),
        Command::Check => {
            print!("{config}");
            println!("{}: no mistakes", cli.config.display());
            Ok(())
        }
        Command::Enrol { name, replace, json } => {
            let fingerprint = Identity::load_or_make(&config.state)?.fingerprint();
            let token = enrolment::enrol(&config.state, name, fingerprint, replace)?;
            if json {
                println!("{}", serde_json::json!({"sensor": token.sensor, "token": token.expose()}));
            } else {
                println!("{}", token.expose());
                let port = config.listen.port();
                eprintln!("On the sensor's host: atalaya-sensor join https://THIS_HOST:{port} TOKEN");
            }
            Ok(())
        }
        Command::Revoke { name } => Ok(enrolment::revoke(&config.state, &name)?),
        Command::Sensors { json } => {
            let sensors = serde_json::to_value(enrolment::sensors(&config.state)?)?;
            show(&sensors, json, &["name", "enrolled"])
        }
        Command::Status { json } => status(&runtime()?.block_on(ask(&socket, Ask::Get("status")))?, json),
        Command::Routers { json } => {
            let status = runtime()?.block_on(ask(&socket, Ask::Get("status")))?;
            routers(&status["routers"], json)
        }
        Command::Bans { jail, sensor, address, json } => {
            let bans = runtime()?.block_on(ask(&socket, Ask::Get("bans")))?;
            let wanted = |ban: &Value| {
                let is = |key: &str, name: &Option<Name>| name.as_ref().is_none_or(|name| ban[key] == name.as_str());
                let prefix = ban["prefix"].as_str().and_then(|text| text.parse::<IpNet>().ok());
                let touches = address
                    .is_none_or(|net| prefix.is_some_and(|prefix| net.contains(&prefix) || prefix.contains(&net)));
                is("jail", &jail) && is("sensor", &sensor) && touches
            };
            let bans = Value::Array(bans.as_array().into_iter().flatten().filter(|ban| wanted(ban)).cloned().collect());
            show(&bans, json, &["prefix", "jail", "sensor", "strikes", "since", "until"])
        }
        Command::Ban { prefix, bantime, reason, json } => {
            let request = BanRequest { prefix, bantime, reason };
            let ban = runtime()?.block_on(ask(&socket, Ask::Ban(request)))?;
            if json {
                println!("{ban}");
            } else {
                let until = ban["until"].as_str().map_or_else(|| "for ever".to_owned(), |until| format!("until {until}"));
                println!("banned {prefix} {until}");
            }
            Ok(())
        }
        Command::Unban { prefix, json } => {
            let answer = runtime()?.block_on(ask(&socket, Ask::Unban(UnbanRequest { prefix })))?;
            if json {
                println!("{answer}");
            } else {
                println!("lifted the ban of {prefix}");
            }
            Ok(())
        }
        Command::Completions { .. } => Ok(()),
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    for line in config.to_string().lines() {
        tracing::info!("{line}");
    }
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let service = service::start(config, Clock::system()).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    service.stop().await;
    Ok(())
}

enum Ask {
    Get(&'static str),
    Ban(BanRequest),
    Unban(UnbanRequest),
}

/// Asks the running enforcer.
async fn ask(socket: &Path, ask: Ask) -> anyhow::Result<Value> {
    let client = reqwest::Client::builder().unix_socket(socket).tls_backend_preconfigured(no_tls()?).build()?;
    let url = |path: &str| format!("http://enforcer/{path}");
    let request = match &ask {
        Ask::Get(path) => client.get(url(path)),
        Ask::Ban(request) => client.post(url("bans")).json(request),
        Ask::Unban(request) => client.delete(url(&format!("bans?prefix={}", request.prefix))),
    };
    let response = request.send().await.map_err(|error| {
        let _ = error;
        anyhow::anyhow!(
            "no enforcer answers at {}: is `atalaya-enforcer run` running with this configuration, and may this user open its socket?",
            socket.display()
        )
    })?;
    let good = response.status().is_success();
    let body = response.bytes().await?;
    if !good {
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => bail!("{problem}"),
            Err(_) => bail!("{}", String::from_utf8_lossy(&body)),
        }
    }
    serde_json::from_slice(&body).context("the enforcer's answer is not understood")
}

/// The socket is not encrypted, but the client wants to know how it would.
fn no_tls() -> anyhow::Result<rustls::ClientConfig> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}

fn status(status: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{status}");
        return Ok(());
    }
    println!(
        "atalaya-enforcer {}, running since {}: {} bans stand on list {}",
        text(&status["release"]),
        text(&status["started"]),
        status["bans"],
        text(&status["list"])
    );
    routers(&status["routers"], false)?;
    let mut table = table(&["sensor", "last heard", "offences", "sent again"]);
    for (name, seen) in status["sensors"].as_object().into_iter().flatten() {
        table.add_row([name.clone(), text(&seen["last"]), text(&seen["offences"]), text(&seen["again"])]);
    }
    println!("{table}");
    Ok(())
}

fn routers(routers: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{routers}");
        return Ok(());
    }
    let mut table = table(&["router", "address", "state", "ours", "desired", "foreign", "latency", "RouterOS", "last error"]);
    for router in routers.as_array().into_iter().flatten() {
        let latency = router["latency_us"].as_u64().map_or_else(String::new, |micros| format!("{:.1} ms", micros as f64 / 1e3));
        table.add_row([
            text(&router["name"]),
            text(&router["address"]),
            text(&router["state"]["is"]),
            text(&router["ours"]),
            text(&router["desired"]),
            text(&router["foreign"]),
            latency,
            text(&router["version"]),
            text(&router["last_error"]["text"]),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn show(rows: &Value, json: bool, columns: &[&str]) -> anyhow::Result<()> {
    if json {
        println!("{rows}");
        return Ok(());
    }
    let mut table = table(columns);
    for row in rows.as_array().into_iter().flatten() {
        table.add_row(columns.iter().map(|column| text(&row[*column])));
    }
    println!("{table}");
    Ok(())
}

fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(columns.iter().copied());
    table
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An address or a network.
fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<std::net::IpAddr>()
        .map(|address| IpNet::from(atalaya_wire::canonical(address)))
        .or_else(|_| text.parse::<IpNet>())
        .map_err(|_| "expected an address or a network, such as 192.0.2.1 or 2001:db8::/64".to_owned())
}

fn start_log(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).with_context(|| format!("--log {level}: not a level or a filter"))?;
    // journald adds its own time.
    let under_journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    match (format, under_journald) {
        (LogFormat::Json, _) => log.json().flatten_event(true).init(),
        (LogFormat::Text, true) => log.without_time().init(),
        (LogFormat::Text, false) => log.init(),
    }
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
