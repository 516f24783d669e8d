//! `ban` and `unban`: bans by hand.

use std::io::Write;
use std::path::Path;

use atalaya_enforcer::control::bans::BanRequest;
use atalaya_wire::{BanTime, Seconds};
use ipnet::IpNet;

use super::socket::{Socket, print_json};
use super::words;

/// Whom to ban.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer ban 192.0.2.1 --for 2h --reason 'port scan'\n  \
    atalaya-enforcer ban 2001:db8::/64 --for permanent")]
pub struct Ban {
    /// The address or network
    #[arg(value_parser = super::prefix, value_name = "ADDRESS|NETWORK")]
    prefix: IpNet,
    /// For how long: 600, 10m, 1h30m, permanent
    #[arg(long = "for", value_name = "TIME", default_value_t = BanTime::For(Seconds(1800)))]
    bantime: BanTime,
    /// Why; kept in the ledger
    #[arg(long, default_value = "")]
    reason: String,
    /// Ban also who logged in well from there lately
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Whose ban to lift.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  atalaya-enforcer unban 192.0.2.1")]
pub struct Unban {
    /// The address or network, as it was banned
    #[arg(value_parser = super::prefix, value_name = "ADDRESS|NETWORK")]
    prefix: IpNet,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

// === impl Ban ===

impl Ban {
    /// Bans.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let Self { prefix, bantime, reason, force, .. } = self;
        let request = BanRequest { prefix, bantime, reason, force };
        let done = Socket::of(config)?.ban(&request)?;
        if self.json {
            return print_json(out, &done);
        }
        let what = if done.changed { "banned" } else { "already banned:" };
        Ok(writeln!(out, "{what} {} {}", words::prefix(done.prefix), words::end(done.until))?)
    }
}

// === impl Unban ===

impl Unban {
    /// Unbans.
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let done = Socket::of(config)?.unban(self.prefix)?;
        if self.json {
            return print_json(out, &done);
        }
        Ok(writeln!(out, "lifted the ban of {}", words::prefix(done.prefix))?)
    }
}
