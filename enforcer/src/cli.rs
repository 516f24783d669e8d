//! The commands and their options, and what each of them calls.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use atalaya_enforcer::config::{self, Config};
use atalaya_enforcer::control::{BanAnswer, BanRequest};
use atalaya_enforcer::enrolment;
use atalaya_enforcer::ledger::Selection;
use atalaya_enforcer::tls::Identity;
use atalaya_wire::{BanTime, Name, Seconds};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use self::socket::Socket;

mod serve;
mod show;
mod socket;

/// Keeps the bans and holds every MikroTik router's address list to them.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Example: an enforcer from nothing\n  \
    atalaya-enforcer check\n  atalaya-enforcer run &\n  atalaya-enforcer enrol web-1   # prints the token for `atalaya-sensor join`")]
pub struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// What to log: error, warn, info, debug or trace, or a filter such as `atalaya_enforcer=debug`; without it, what
    /// `RUST_LOG` says, and else info
    #[arg(long, global = true, value_name = "LEVEL", env = "ATALAYA_LOG")]
    log: Option<String>,
    /// How to write the log
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// How to write the log.
#[derive(Clone, Copy, ValueEnum)]
pub enum LogFormat {
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
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a sensor send, and print the token with which it joins
    #[command(
        after_help = "Example:\n  atalaya-enforcer enrol web-1 | ssh web-1 atalaya-sensor join https://enforcer.example:8443 -"
    )]
    Enrol {
        /// The sensor's name
        name: Name,
        /// Give a sensor that is enrolled a new secret; the old one stops working
        #[arg(long)]
        replace: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a sensor's right to send; its bans stand
    #[command(after_help = "Example:\n  atalaya-enforcer revoke web-1")]
    Revoke {
        /// The sensor's name
        name: Name,
        /// Print JSON
        #[arg(long)]
        json: bool,
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
    #[command(
        after_help = "Examples:\n  atalaya-enforcer bans --jail ssh\n  atalaya-enforcer bans --address 192.0.2.0/24 --json"
    )]
    Bans {
        /// Only this jail's
        #[arg(long)]
        jail: Option<Name>,
        /// Only those that this sensor reported
        #[arg(long)]
        sensor: Option<Name>,
        /// Only those that touch this address or network
        #[arg(long, value_parser = prefix)]
        address: Option<IpNet>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ban an address or a network by hand; a ban that stands can only become longer
    #[command(
        after_help = "Examples:\n  atalaya-enforcer ban 192.0.2.1 --for 2h --reason 'port scan'\n  atalaya-enforcer ban 2001:db8::/64 --for permanent"
    )]
    Ban {
        /// The address or network
        #[arg(value_parser = prefix, value_name = "ADDRESS|NETWORK")]
        prefix: IpNet,
        /// For how long: 600, 10m, 1h30m, permanent
        #[arg(long = "for", value_name = "TIME", default_value_t = BanTime::For(Seconds(1800)))]
        bantime: BanTime,
        /// Why; kept in the ledger
        #[arg(long, default_value = "")]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Lift a ban
    #[command(after_help = "Example:\n  atalaya-enforcer unban 192.0.2.1")]
    Unban {
        /// The address or network, as it was banned
        #[arg(value_parser = prefix, value_name = "ADDRESS|NETWORK")]
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
    #[command(
        after_help = "Example:\n  atalaya-enforcer completions bash > /etc/bash_completion.d/atalaya-enforcer"
    )]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Does what the command line asks for.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "atalaya-enforcer", &mut script);
            out.write_all(&script)?;
        }
        Command::Run => {
            drop(out);
            serve::start_log(cli.log.as_deref(), cli.log_format)?;
            return serve::run(Config::read(&cli.config)?);
        }
        Command::Check { json } => {
            let config = Config::read(&cli.config)?;
            if json {
                let ok = serde_json::json!({"config": cli.config, "warnings": config.warnings});
                writeln!(out, "{ok}")?;
            } else {
                write!(out, "{config}")?;
                writeln!(out, "{}: no mistakes", cli.config.display())?;
            }
        }
        Command::Enrol { name, replace, json } => {
            let config = Config::read(&cli.config)?;
            let fingerprint = Identity::load_or_make(&config.state)?.fingerprint();
            let token = enrolment::enrol(&config.state, name, fingerprint, replace)?;
            if json {
                writeln!(out, "{}", serde_json::json!({"sensor": token.sensor, "token": token.expose()}))?;
            } else {
                writeln!(out, "{}", token.expose())?;
                let port = config.listen.port();
                eprintln!("On the sensor's host: atalaya-sensor join https://HOST:{port} TOKEN");
            }
        }
        Command::Revoke { name, json } => {
            enrolment::revoke(&Config::read(&cli.config)?.state, &name)?;
            if json {
                writeln!(out, "{}", serde_json::json!({"revoked": name}))?;
            } else {
                writeln!(out, "{name} can send no more; what it reported stays banned")?;
            }
        }
        Command::Sensors { json } => {
            let sensors = enrolment::sensors(&Config::read(&cli.config)?.state)?;
            if json {
                writeln!(out, "{}", serde_json::to_string(&sensors)?)?;
            } else {
                show::sensors(&mut out, &sensors)?;
            }
        }
        Command::Status { json } => {
            let status = Socket::of(&cli.config)?.get("status")?;
            if json {
                writeln!(out, "{status}")?;
            } else {
                show::status(&mut out, &status)?;
            }
        }
        Command::Routers { json } => {
            let mut status = Socket::of(&cli.config)?.get("status")?;
            let routers = status["routers"].take();
            if json {
                writeln!(out, "{routers}")?;
            } else {
                show::routers(&mut out, &routers)?;
            }
        }
        Command::Bans { jail, sensor, address, json } => {
            let selection = Selection { jail, sensor, address, ..Selection::default() };
            let bans = Socket::of(&cli.config)?.bans(&selection)?;
            if json {
                show::bans_as_json(&mut out, bans)?;
            } else {
                show::bans(&mut out, bans)?;
            }
        }
        Command::Ban { prefix, bantime, reason, json } => {
            let request = BanRequest { prefix, bantime, reason };
            let done = Socket::of(&cli.config)?.ban(&request)?;
            if json {
                writeln!(out, "{done}")?;
            } else {
                let done: BanAnswer = serde_json::from_value(done).context(
                    "the answer is not understood: is the enforcer of another release than this command?",
                )?;
                let what = if done.changed { "banned" } else { "already banned:" };
                writeln!(out, "{what} {} {}", show::prefix(done.prefix), show::end(done.until))?;
            }
        }
        Command::Unban { prefix, json } => {
            let done = Socket::of(&cli.config)?.unban(prefix)?;
            if json {
                writeln!(out, "{done}")?;
            } else {
                writeln!(out, "lifted the ban of {}", show::prefix(prefix))?;
            }
        }
    }
    Ok(())
}

/// An address or a network.
fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<std::net::IpAddr>()
        .map(IpNet::from)
        .or_else(|_| text.parse::<IpNet>())
        .map(atalaya_enforcer::router::address_list::canonical)
        .map_err(|_| "expected an address or a network, such as 192.0.2.1 or 2001:db8::/64".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_an_example() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands_mut() {
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Example"), "{}", sub.get_name());
        }
    }

    #[test]
    fn a_mapped_address_is_banned_as_the_ipv4_address_that_it_is() {
        assert_eq!(prefix("::ffff:192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert_eq!(prefix("192.0.2.9/24").unwrap().to_string(), "192.0.2.0/24");
        assert!(prefix("192.0.2.1-9").is_err());
    }
}
