//! `atalaya-sensor`: the command line. What each command does is in the library.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use atalaya_sensor::config::{self, Config};
use atalaya_sensor::membership::Membership;
use atalaya_sensor::uplink::Uplink;
use atalaya_sensor::{service, trial};
use atalaya_wire::JoinToken;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

mod argument;

/// Notices failed logins in the kernel and in logs, and reports offences to Atalaya's enforcer.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Example: a sensor from nothing\n  \
    atalaya-sensor join https://enforcer.example:8443 TOKEN   # TOKEN from `atalaya-enforcer enrol NAME`\n  \
    atalaya-sensor check\n  atalaya-sensor run")]
struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Run fail2ban's enabled jails too, as they lie in this folder; their bans go to the routers
    #[arg(long, global = true, value_name = "DIR")]
    fail2ban: Option<PathBuf>,
    /// What to log: error, warn, info, debug or trace, or a filter such as `atalaya_sensor=debug`
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
    /// Watch, and report offences, until stopped
    #[command(after_help = "Examples:\n  atalaya-sensor run --config /etc/atalaya/sensor.toml\n  \
        atalaya-sensor run --fail2ban /etc/fail2ban")]
    Run,
    /// Check the configuration and print what it means
    #[command(after_help = "Examples:\n  atalaya-sensor check --config ./sensor.toml\n  \
        atalaya-sensor check --fail2ban /etc/fail2ban   # which of its jails run here, and why others do not")]
    Check,
    /// Join an enforcer, with the token that `atalaya-enforcer enrol NAME` printed
    #[command(after_help = "Examples:\n  \
        atalaya-sensor join https://enforcer.example:8443 atalaya1:web-1:…:…\n  \
        ssh enforcer.example atalaya-enforcer enrol web-1 | atalaya-sensor join https://enforcer.example:8443 -\n\n\
        The token holds a secret. Given as an argument it is wiped from the process list at once;\n\
        given on standard input (`-`) it was never there.")]
    Join {
        /// Where the enforcer listens, such as `https://enforcer.example:8443`
        url: String,
        /// The token, or `-` to read it from standard input
        token: String,
        /// Store the membership even if the enforcer cannot be reached now
        #[arg(long)]
        offline: bool,
    },
    /// Try a regex or a jail on a log, a line or standard input
    #[command(after_help = "Examples:\n  \
        atalaya-sensor test /var/log/syslog '^.*\\[\\s*<HOST>\\s*\\].*authentication failed' --matched\n  \
        atalaya-sensor test /var/log/mail.log smtp\n  \
        journalctl -o short-iso | atalaya-sensor test - 'Failed password for .* from <HOST> port \\d+ ssh2$'")]
    Test(trial::Arguments),
    /// Print shell completions
    #[command(
        after_help = "Example:\n  atalaya-sensor completions bash > /etc/bash_completion.d/atalaya-sensor"
    )]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    if let Command::Join { token, .. } = &mut cli.command {
        argument::wipe(token);
    }
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("atalaya-sensor: {}", causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, without those that it says already.
fn causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        said if said.contains(&cause) => said.to_owned(),
        said => format!("{said}: {cause}"),
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run => {
            start_log(&cli.log, cli.log_format)?;
            let config = Config::read(&cli.config, cli.fail2ban.as_deref())?;
            for line in config.to_string().lines() {
                match line.trim_start().strip_prefix("warning: ") {
                    Some(warning) => tracing::warn!("{warning}"),
                    None => tracing::info!("{line}"),
                }
            }
            runtime()?.block_on(service::run(config))?;
        }
        Command::Check => {
            print!("{}", Config::read(&cli.config, cli.fail2ban.as_deref())?);
            if cli.config.exists() {
                println!("{}: no mistakes", cli.config.display());
            } else {
                println!("{} is not there: the defaults hold", cli.config.display());
            }
        }
        Command::Join { url, token, offline } => {
            let state = Config::read(&cli.config, cli.fail2ban.as_deref())?.state;
            join(&url, &token, &state, offline)?;
        }
        Command::Test(arguments) => {
            let resolve = |jail: &str| -> Option<atalaya_sensor::filter::Filter> {
                Config::read(&cli.config, cli.fail2ban.as_deref()).ok()?.filter_of(jail).cloned()
            };
            return trial::run(&arguments, resolve);
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "atalaya-sensor", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn join(url: &str, token: &str, state: &std::path::Path, offline: bool) -> anyhow::Result<()> {
    let mut text = token.to_owned();
    if token == "-" {
        if std::io::stdin().is_terminal() {
            eprintln!("Paste the token and press Enter and Ctrl-D:");
        }
        text.clear();
        std::io::stdin().take(4096).read_to_string(&mut text).context("cannot read the token")?;
    }
    let token: JoinToken = text.parse()?;
    let membership = Membership::new(url, token)?;
    if !offline {
        let uplink = Uplink::new(membership.clone())?;
        if let Err(error) = runtime()?.block_on(uplink.allow()) {
            bail!(
                "{error}\nNothing was stored. Where the enforcer is only away for now, join with --offline."
            );
        }
    }
    let path = membership.store(state)?;
    println!("joined {} as {}; stored in {}", membership.url, membership.sensor, path.display());
    Ok(())
}

fn start_log(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(level).with_context(|| format!("--log {level}: not a level or a filter"))?;
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
