//! The commands and their options, and what each of them calls.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use atalaya_enforcer::config::{self, Config};
use atalaya_program::log::LogOptions;
use clap::{CommandFactory, Parser, Subcommand};
use ipnet::IpNet;

mod address;
mod allow;
mod backup;
mod bans;
mod enrolment;
mod hand;
mod man;
mod paint;
mod plan;
mod reload;
mod router;
mod serve;
mod socket;
mod status;
mod watch;
mod words;

/// Keeps the bans and holds every MikroTik router's address list to them.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Example: an enforcer from nothing\n  \
    atalaya-enforcer check\n  atalaya-enforcer run &\n  atalaya-enforcer enrol web-1   # prints the token for `atalaya-sensor join`")]
pub struct Cli {
    /// Read the settings from this file
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take offences and hold the routers to the bans, until stopped
    #[command(
        after_help = "Examples:\n  atalaya-enforcer run --config /etc/atalaya/enforcer.toml\n  atalaya-enforcer run --read-only   # decides and reads, and sends routers nothing"
    )]
    Run {
        /// Send routers nothing that would change them; `status` shows how much that is, `plan` what
        #[arg(long)]
        read_only: bool,
    },
    /// Print what changed in the configuration, and let the running enforcer go on with it
    Reload(reload::Arguments),
    /// Check the configuration and print what it means
    #[command(after_help = "Example:\n  atalaya-enforcer check --config ./enforcer.toml")]
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show on one screen whether all is well: faults, bans, routers, sensors
    Status(status::Arguments),
    /// Watch it all live: routers, rates, latencies, new bans
    Watch(watch::Arguments),
    /// List the bans that stand, the latest first
    Bans(bans::Arguments),
    /// List the bans that stand and those that are over, and who ended them
    History(bans::History),
    /// Show all that is known of an address: bans, evidence, strikes, which routers hold it
    Show(address::Arguments),
    /// Ban an address or a network by hand; a ban that stands can only become longer
    Ban(hand::BanArguments),
    /// Lift a ban
    Unban(hand::UnbanArguments),
    /// List what is never banned, or allow an address, a network or a DNS name, for a time or for good
    Allow(allow::Arguments),
    /// List the offences of addresses that a successful login protects: they led to no ban
    #[command(alias = "spared")]
    Protected(allow::ProtectedArguments),
    /// Show what each router holds, and its last error
    Routers(status::Routers),
    /// Show what would be sent to routers now, and why, without sending it
    Plan(plan::Arguments),
    /// Remove what is left of ours on lists that a router was configured with before
    Tidy(plan::Tidy),
    /// Add a router step by step, or look whether one is ready for bans
    #[command(after_help = router::EXAMPLES)]
    Router {
        #[command(subcommand)]
        command: router::RouterCommand,
    },
    /// List the enrolled sensors, and what they sent
    Sensors(status::Sensors),
    /// Let a sensor send, and print the token with which it joins
    Enrol(enrolment::Enrol),
    /// Show or change which jails a sensor may name
    Jails(enrolment::Jails),
    /// Take a sensor's right to send; its bans stand
    Revoke(enrolment::Revoke),
    /// Save the ledger, the enrolled sensors and the certificate to one file
    Backup(backup::Backup),
    /// Bring back what `backup` saved, with the enforcer stopped
    Restore(backup::Restore),
    /// Write the manual's pages
    Man(man::Arguments),
    /// Print a script that completes commands and options in a shell
    #[command(
        after_help = "Example:\n  atalaya-enforcer completions bash > /etc/bash_completion.d/atalaya-enforcer"
    )]
    Completions {
        /// The shell that is to read the script
        shell: clap_complete::Shell,
    },
}

/// Does what the command line asks for; a failure that is no error, such as a fault that `status --check`
/// found, is in the exit code.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let config = cli.config.as_path();
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "atalaya-enforcer", &mut script);
            out.write_all(&script)?;
        }
        Command::Run { read_only } => {
            drop(out);
            cli.log.start()?;
            let path = cli.config.clone();
            let read = move || {
                let mut config = Config::read(&path)?;
                for router in &mut config.routers {
                    router.read_only |= read_only;
                }
                Ok(config)
            };
            serve::run(read()?, Box::new(read))?;
        }
        Command::Reload(reload) => reload.run(config, &mut out)?,
        Command::Check { json } => {
            let mut read = Config::read(config)?;
            read.warnings.extend(read.unknown_jails());
            if json {
                let ok = serde_json::json!({"config": config, "warnings": read.warnings});
                writeln!(out, "{ok}")?;
            } else {
                write!(out, "{read}")?;
                writeln!(out, "{}: no mistakes", config.display())?;
            }
        }
        Command::Backup(backup) => backup.run(config, &mut out)?,
        Command::Restore(restore) => restore.run(config, &mut out)?,
        Command::Enrol(enrol) => enrol.run(config, &mut out)?,
        Command::Jails(jails) => jails.run(config, &mut out)?,
        Command::Revoke(revoke) => revoke.run(config, &mut out)?,
        Command::Sensors(sensors) => sensors.run(config, &mut out)?,
        Command::Status(status) => return status.run(config, &mut out),
        Command::Watch(watch) => {
            drop(out);
            watch.run(config)?;
        }
        Command::Bans(bans) => bans.run(config, &mut out)?,
        Command::History(history) => history.run(config, &mut out)?,
        Command::Show(show) => show.run(config, &mut out)?,
        Command::Ban(ban) => return ban.run(config, &mut out),
        Command::Unban(unban) => return unban.run(config, &mut out),
        Command::Allow(allow) => return allow.run(config, &mut out),
        Command::Protected(protected) => protected.run(config, &mut out)?,
        Command::Routers(routers) => routers.run(config, &mut out)?,
        Command::Plan(plan) => return plan.run(config, &mut out),
        Command::Tidy(tidy) => return tidy.run(config, &mut out),
        Command::Router { command } => return command.run(config, &mut out),
        Command::Man(man) => man::run(&man)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Who runs the command, for the ledger.
fn who() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    named.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| match rustix::process::getuid() {
        uid if uid.is_root() => "root".to_owned(),
        uid => format!("uid {}", uid.as_raw()),
    })
}

/// An address or a network.
fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<std::net::IpAddr>()
        .map(IpNet::from)
        .or_else(|_| text.parse::<IpNet>())
        .map(atalaya_enforcer::prefixes::canonical)
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
