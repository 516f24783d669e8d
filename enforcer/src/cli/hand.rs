//! `ban` and `unban`: bans by hand.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use atalaya_enforcer::control::bans::{BanAnswer, BanRequest, UnbanAnswer, UnbanRequest};
use atalaya_enforcer::control::holding::RouterHolding;
use atalaya_enforcer::control::sensors::{SensorUnbanAnswer, SensorUnbanRequest};
use atalaya_enforcer::router::Holding;
use atalaya_wire::{BanTime, Name, Problem, ProblemCode, Seconds};
use ipnet::IpNet;
use jiff::Timestamp;

use super::address::on_routers;
use super::router::Prompt;
use super::socket::{Socket, each, print_json};
use super::words;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer ban 192.0.2.1 --for 2h --reason 'port scan'\n  \
    atalaya-enforcer ban 2001:db8::/64 198.51.100.0/24 --for permanent\n\n\
    The JSON is {prefix, until, changed, routers}, a line for each address; routers as in `show --json`.")]
pub struct BanArguments {
    /// The addresses or networks
    #[arg(value_parser = super::prefix, value_name = "ADDRESS|NETWORK", required = true)]
    prefixes: Vec<IpNet>,
    /// For how long: 600, 10m, 1h30m, permanent
    #[arg(long = "for", value_name = "TIME", default_value_t = BanTime::For(Seconds(1800)))]
    bantime: BanTime,
    /// Why; kept in the ledger
    #[arg(long, default_value = "")]
    reason: String,
    /// Ban also who logged in successfully from there lately, and private addresses
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Whose ban to lift.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer unban 192.0.2.1 --reason 'our own scanner'\n  \
    atalaya-enforcer unban 198.51.100.7 2001:db8::/64\n  \
    atalaya-enforcer unban --sensor web-1   # all that this sensor asked for, and nobody else\n\n\
    The JSON is {prefix, routers, still}, a line for each address; routers as in `show --json`, still as its \
    standing.bans; with --sensor it is {sensor, lifted, stand}.")]
pub struct UnbanArguments {
    /// The addresses or networks, as they were banned
    #[arg(value_parser = super::prefix, value_name = "ADDRESS|NETWORK", required_unless_present = "sensor")]
    prefixes: Vec<IpNet>,
    /// Lift all that this sensor asked for; what others asked for too stands on for these
    #[arg(long, value_name = "NAME", conflicts_with = "prefixes")]
    sensor: Option<Name>,
    /// Why; kept in the ledger
    #[arg(long, default_value = "")]
    reason: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

// === impl BanArguments ===

impl BanArguments {
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let socket = Socket::of(config)?;
        each(&self.prefixes, |&prefix| {
            let (bantime, reason, force) = (self.bantime, self.reason.clone(), self.force);
            let mut request = BanRequest { prefix, bantime, reason, force };
            let done = match socket.post("bans", &request) {
                Err(error) if needs_force(&error) && Prompt::new().is_somebody() => {
                    eprintln!("{error}");
                    if !Prompt::new()
                        .agrees(&format!("Ban {} all the same?", words::prefix(prefix)), false)?
                    {
                        bail!("{} is not banned", words::prefix(prefix));
                    }
                    request.force = true;
                    socket.post("bans", &request)
                }
                done => done,
            }?;
            self.print(&done, out)
        })
    }

    fn print(&self, done: &BanAnswer, out: &mut impl Write) -> anyhow::Result<()> {
        if self.json {
            return print_json(out, done);
        }
        let now = Timestamp::now();
        let what = if done.changed { "banned" } else { "already banned:" };
        let left = if done.until.is_some() {
            format!(" ({})", words::until(done.until, now))
        } else {
            String::new()
        };
        writeln!(out, "{what} {} {}{left}", words::prefix(done.prefix), words::end(done.until))?;
        if let Some(text) = on_routers(&done.routers, now) {
            writeln!(out, "  {text}")?;
        }
        Ok(())
    }
}

/// Whether the enforcer does it once it is asked again with force.
fn needs_force(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Problem>().is_some_and(|problem| problem.code == ProblemCode::NeedsForce)
}

// === impl UnbanArguments ===

impl UnbanArguments {
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let socket = Socket::of(config)?;
        if let Some(sensor) = self.sensor.clone() {
            let request = SensorUnbanRequest { sensor, by: super::who(), reason: self.reason.clone() };
            let done: SensorUnbanAnswer = socket.post("sensors/unban", &request)?;
            return self.print_all(&done, out).map(|()| ExitCode::SUCCESS);
        }
        each(&self.prefixes, |&prefix| {
            let request = UnbanRequest { prefix, by: super::who(), reason: self.reason.clone() };
            let done = socket.delete("bans", &request)?;
            self.print(&done, out)
        })
    }

    fn print_all(&self, done: &SensorUnbanAnswer, out: &mut impl Write) -> anyhow::Result<()> {
        if self.json {
            return print_json(out, done);
        }
        let stand = match done.stand {
            0 => String::new(),
            stand => format!(
                "; {} {}, because others asked for {} too",
                words::counted(stand, "ban"),
                words::agreeing(stand, "stands", "stand"),
                words::agreeing(stand, "it", "them")
            ),
        };
        let lifted = words::counted(done.lifted, "ban");
        Ok(writeln!(out, "lifted {lifted} that only {} asked for{stand}", done.sensor)?)
    }

    fn print(&self, done: &UnbanAnswer, out: &mut impl Write) -> anyhow::Result<()> {
        if self.json {
            return print_json(out, done);
        }
        let now = Timestamp::now();
        writeln!(out, "lifted the ban of {}", words::prefix(done.prefix))?;
        if let Some(ban) = done.still.first() {
            let network = words::prefix(ban.prefix);
            writeln!(
                out,
                "  it is still kept out: the network {network} is banned {}, {}; `atalaya-enforcer unban {network}` lifts that",
                ban.origin,
                words::end(ban.until)
            )?;
            return Ok(());
        }
        for router in &done.routers {
            let text = match router.holding {
                Holding::Entry { ours: false, .. } => "keeps an entry for it that is not ours".to_owned(),
                Holding::Entry { .. } => "still holds it; its removal is on the way".to_owned(),
                Holding::Unknown => match router.down_since {
                    Some(since) => format!(
                        "down for {}; it is removed there once it is back",
                        words::length(now.duration_since(since))
                    ),
                    None => "its list is being read; it is removed there after that".to_owned(),
                },
                Holding::Nothing => continue,
            };
            writeln!(out, "  {}: {text}", router.router)?;
        }
        let is_gone = |router: &RouterHolding| matches!(router.holding, Holding::Nothing);
        if !done.routers.is_empty() && done.routers.iter().all(is_gone) {
            writeln!(out, "  no router holds it any more")?;
        }
        Ok(())
    }
}
