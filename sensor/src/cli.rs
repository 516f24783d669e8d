//! The command line: what can be asked of the program. Each command that does more than ask the running sensor has a file.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use atalaya_program::log::LogOptions;
use atalaya_wire::{BanTime, Name};
use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{self, Config};
use crate::control::{Answer, Request};
use crate::local_drop::session;
use crate::{fail2ban, service};

pub mod argument;
mod check;
mod join;
pub mod lint;
pub mod named;
mod socket;
pub mod status;
pub mod trial;
mod unload;

use named::Named;
use socket::{ask, said};

/// Notices failed logins in the kernel and in logs, and reports offences to Atalaya's enforcer.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Example: a sensor from nothing\n  \
    atalaya-sensor join https://enforcer.example:8443 TOKEN   # TOKEN from `atalaya-enforcer enrol NAME`\n  \
    atalaya-sensor check\n  atalaya-sensor run")]
pub struct Cli {
    /// Read the settings from this file
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Run fail2ban's enabled jails too, as they lie in this folder; their bans go to the routers
    #[arg(long, global = true, value_name = "DIR")]
    fail2ban: Option<PathBuf>,
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch, and report offences, until stopped
    #[command(after_help = "Examples:\n  atalaya-sensor run --config /etc/atalaya/sensor.toml\n  \
        atalaya-sensor run --fail2ban /etc/fail2ban")]
    Run,
    /// Check the configuration and print what it means
    #[command(after_help = "Examples:\n  atalaya-sensor check --config ./sensor.toml\n  \
        atalaya-sensor check --fail2ban /etc/fail2ban   # which of its jails run here, and why others do not\n  \
        atalaya-sensor check --json | jq '.jails[] | {name, reads, warnings}'\n\n\
        --json prints file, exists, state, jails (each with name, source, reads, maxretry, findtime, bantime, escalates, \
        ipv6_prefix, warnings, caution, notes), fail2ban (null, or folder, jails, left_out, notes), troubles (what this host \
        does not have), unread (logs that are not read: path and reason) and mistake (null). With a mistake it prints file \
        and mistake alone (file, line, column, message) and exits with 1.")]
    Check(check::Arguments),
    /// Show how the running sensor stands: sources, files, jails, and whom they banned
    #[command(after_help = "Examples:\n  atalaya-sensor status\n  atalaya-sensor status sshd\n  \
        atalaya-sensor status --json | jq '.jails[] | {name, banned: (.banned | length)}'")]
    Status {
        /// Only this jail, with the addresses that it banned
        jail: Option<Name>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Let the running sensor read its configuration again; counters and positions stay
    #[command(after_help = "Example:\n  atalaya-sensor check && atalaya-sensor reload")]
    Reload,
    /// Ban an address in a jail's name, through the enforcer
    #[command(
        after_help = "Examples:\n  atalaya-sensor ban sshd 192.0.2.1\n  atalaya-sensor ban sshd 192.0.2.1 --for 2h\n\n\
        The enforcer decides: what is on its allow list is not banned."
    )]
    Ban {
        /// A jail's name, as `status` lists it; its `bantime` holds unless `--for` is given
        jail: Name,
        /// The IPv4 or IPv6 address to ban
        address: IpAddr,
        /// For how long, such as 600, 30m or permanent; the jail's own time unless given
        #[arg(long = "for", value_name = "TIME")]
        bantime: Option<BanTime>,
    },
    /// Lift a ban that this sensor asked for, at the enforcer and on the routers, and whatever drops the address
    /// on this host
    #[command(
        after_help = "Examples:\n  atalaya-sensor unban 192.0.2.1\n  atalaya-sensor unban 192.0.2.1 --jail sshd\n\n\
        Without --jail also the enforcer's own ban is let go on this host, if it drops it; `atalaya-enforcer unban`\n\
        lifts that one."
    )]
    Unban {
        /// The IPv4 or IPv6 address whose bans are to end
        address: IpAddr,
        /// Only where this jail asked for it
        #[arg(long)]
        jail: Option<Name>,
    },
    /// Protect an address or network in a jail, until the sensor ends
    #[command(after_help = "Example:\n  atalaya-sensor ignore sshd 192.0.2.0/24\n\n\
        To protect it permanently, write it to the jail's `ignore`, and reload.")]
    Ignore {
        /// A jail's name, as `status` lists it
        jail: Name,
        /// An address, or a network such as 192.0.2.0/24
        network: String,
    },
    /// Write fail2ban's enabled jails as a configuration of our own
    #[command(
        after_help = "Example:\n  atalaya-sensor import /etc/fail2ban > sensor.toml\n  atalaya-sensor check --config sensor.toml\n\n\
        What cannot run here is written as a comment, with the reason."
    )]
    Import {
        /// The folder that holds fail2ban's jail.conf
        #[arg(default_value = "/etc/fail2ban")]
        folder: PathBuf,
    },
    /// Warn of filters that an attacker's text can bend, of regexes that never get their turn, of dates that never parse
    #[command(after_help = "Examples:\n  atalaya-sensor lint\n  atalaya-sensor lint sshd nginx\n  \
        atalaya-sensor lint ./my-filter.conf --dates /var/log/my.log\n\n\
        Exits with 1 where there is something to warn of. --json prints checked (a number) and warnings, each with \
        what (the jail or filter) and text.")]
    Lint(lint::Arguments),
    /// Join an enforcer, with the token that `atalaya-enforcer enrol NAME` printed
    #[command(after_help = "Examples:\n  \
        atalaya-sensor join https://enforcer.example:8443 atalaya1:web-1:…:…\n  \
        ssh enforcer.example atalaya-enforcer enrol web-1 | atalaya-sensor join https://enforcer.example:8443 -\n\n\
        The token holds a secret. Given as an argument it is wiped from the process list at once;\n\
        given on standard input (`-`) it was never there.\n\n\
        Where the configuration is not there yet, one is written with a jail for ssh.")]
    Join {
        /// Where the enforcer listens, such as `https://enforcer.example:8443`
        url: String,
        /// The token, or `-` to read it from standard input
        token: String,
        /// Store the membership even if the enforcer cannot be reached now
        #[arg(long)]
        offline: bool,
    },
    /// Remove all that the local drop left in the kernel, which stays there when the sensor ends
    #[command(after_help = "Examples:\n  systemctl stop atalaya-sensor && atalaya-sensor unload\n  \
        atalaya-sensor unload --all   # also what sensors with another `state` left\n\n\
        A sensor that runs is not disturbed: stop it first, or write `local_drop = false` and reload.")]
    Unload {
        /// Also of sensors with another state folder
        #[arg(long)]
        all: bool,
    },
    /// Try a regex, a filter or a jail on a log, a line or standard input
    #[command(after_help = "Examples:\n  \
        atalaya-sensor test /var/log/syslog '^.*\\[\\s*<HOST>\\s*\\].*authentication failed' --matched\n  \
        atalaya-sensor test /var/log/auth.log sshd --output 'ip time user'\n  \
        atalaya-sensor test /var/log/auth.log sshd --missed   # and why they missed\n  \
        atalaya-sensor test --fail2ban /etc/fail2ban /var/log/auth.log 'sshd[mode=aggressive]'\n  \
        atalaya-sensor test /var/log/my.log ./my-filter.conf\n  \
        atalaya-sensor test systemd-journal sshd --matched\n  \
        atalaya-sensor test 'systemd-journal[journalpath=/srv/journals]' 'bad login from <HOST>' --journalmatch _COMM=myd")]
    Test(trial::Arguments),
    /// Load and attach the kernel programs for the sensor that started this; not to be run by hand
    #[command(hide = true)]
    Loader,
    /// Write the manual's pages
    #[command(after_help = "Example:\n  atalaya-sensor man /tmp/man && man -l /tmp/man/atalaya-sensor.8")]
    Man {
        /// The folder; made where it is missing
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print a script that completes commands and options in a shell
    #[command(
        after_help = "Example:\n  atalaya-sensor completions bash > /etc/bash_completion.d/atalaya-sensor"
    )]
    Completions {
        /// The shell that is to read the script
        shell: clap_complete::Shell,
    },
}

// === impl Cli ===

impl Cli {
    /// Reads the arguments of this process, and wipes a secret among them from the process list.
    pub fn of_arguments() -> Self {
        let mut cli = Self::parse();
        if let Command::Join { token, .. } = &mut cli.command {
            argument::wipe(token);
        }
        cli
    }
}

/// Does what the command line says. `loader` is what the privileged process does, at its end of a socket pair: nothing
/// else here knows of it.
///
/// # Errors
/// What went wrong, in words for the terminal.
pub fn run(cli: Cli, loader: impl FnOnce(OwnedFd) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run => {
            cli.log.start()?;
            let config = Config::read(&cli.config, cli.fail2ban.as_deref())?;
            config.check_session(session::client()).map_err(anyhow::Error::msg)?;
            for line in config.to_string().lines() {
                match line.trim_start().strip_prefix("warning: ") {
                    Some(warning) => tracing::warn!("{warning}"),
                    None => tracing::info!("{line}"),
                }
            }
            config.troubles().iter().for_each(|trouble| tracing::warn!("{trouble}"));
            let reread = || Config::read(&cli.config, cli.fail2ban.as_deref());
            let prepared = service::prepare(&config, &cli.config, &cli.log.arguments()?);
            runtime()?.block_on(service::run(config, prepared, reread))?;
        }
        Command::Loader => {
            cli.log.start()?;
            let socket = std::io::stdin().as_fd().try_clone_to_owned().context("no socket of a sensor")?;
            loader(socket)?;
        }
        Command::Check(arguments) => return check::run(&arguments, &cli.config, cli.fail2ban.as_deref()),
        Command::Join { url, token, offline } => {
            join::run(&url, &token, &cli.config, cli.fail2ban.as_deref(), offline)?;
        }
        Command::Test(arguments) => {
            let named = Named::new(&cli.config, cli.fail2ban.as_deref());
            return trial::run(&arguments, &named);
        }
        Command::Lint(arguments) => {
            let named = Named::new(&cli.config, cli.fail2ban.as_deref());
            return lint::run(&arguments, &named);
        }
        Command::Import { folder } => print!("{}", fail2ban::as_toml(&folder)?),
        Command::Status { ref jail, json } => {
            let answer = ask(&state_of(&cli)?, &Request::Status { jail: jail.clone() })?;
            let Answer::Status(status) = answer else { return said(answer) };
            let mut out = std::io::stdout().lock();
            let written = if json {
                status::json(&status, &mut out)
            } else {
                status::table(&status, jail.is_some(), &mut out)
            };
            trial::quiet(written)?;
        }
        Command::Reload => {
            // What is wrong in the configuration, the sensor says.
            if let Ok(config) = Config::read(&cli.config, cli.fail2ban.as_deref()) {
                config.check_session(session::client()).map_err(anyhow::Error::msg)?;
            }
            return said(ask(&state_of(&cli)?, &Request::Reload)?);
        }
        Command::Unload { all } => unload::run(state_of(&cli), all)?,
        Command::Ban { ref jail, address, bantime } => {
            return said(ask(&state_of(&cli)?, &Request::Ban { jail: jail.clone(), address, bantime })?);
        }
        Command::Unban { address, ref jail } => {
            return said(ask(&state_of(&cli)?, &Request::Unban { jail: jail.clone(), address })?);
        }
        Command::Ignore { ref jail, ref network } => {
            let network = network.parse().or_else(|_| network.parse::<IpAddr>().map(Into::into));
            let network = network.map_err(|_| {
                anyhow::anyhow!("that is neither an address nor a network such as 192.0.2.0/24")
            })?;
            return said(ask(&state_of(&cli)?, &Request::Ignore { jail: jail.clone(), network })?);
        }
        Command::Man { folder } => {
            atalaya_program::manual::write(Cli::command(), &folder)
                .with_context(|| format!("cannot write the manual's pages into {}", folder.display()))?;
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "atalaya-sensor", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The state folder. A mistake in the jails must not keep from asking a sensor that runs with what was right
/// before.
fn state_of(cli: &Cli) -> anyhow::Result<PathBuf> {
    match Config::read(&cli.config, cli.fail2ban.as_deref()) {
        Ok(config) => Ok(config.state),
        Err(error) => Ok(config::state_of(&cli.config).ok_or(error)?),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
