//! `plan` and `tidy`: what would be sent to routers, and what is left of ours on lists of before.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use atalaya_enforcer::config::Config;
use atalaya_enforcer::control::desired::Basis;
use atalaya_enforcer::desired::Desired;
use atalaya_enforcer::ledger::{Lineage, ListUse};
use atalaya_enforcer::router::RouterConfig;
use atalaya_enforcer::router::plan::{self, Does, Leftover, Plan};
use atalaya_enforcer::service;
use atalaya_program::causes::Causes;
use atalaya_wire::{Name, Seconds};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use super::paint::{Paint, Tone};
use super::socket::Socket;
use super::words;

/// Which routers to plan for.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atalaya-enforcer plan\n  atalaya-enforcer plan edge --all   # a router that was just added: nothing is sent to it\n\nThe JSON is an array, one object a router: `steps` with `prefix`, `does`, `timeout_seconds` and `why`; `error` where it cannot be read."
)]
pub struct Arguments {
    /// Of which routers; of all in the configuration where none is named
    routers: Vec<Name>,
    /// Print every command, not only the first 20 of each kind
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Which routers to tidy.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atalaya-enforcer tidy          # after `list` was renamed: shows what is left on the old one\n  atalaya-enforcer tidy edge --yes"
)]
pub struct Tidy {
    /// Of which routers; of all in the configuration where none is named
    routers: Vec<Name>,
    /// Remove them; without it they are only shown
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome<T> {
    Good(T),
    Bad { router: Name, error: String },
}

#[derive(Serialize)]
struct Tidied {
    router: Name,
    leftovers: Vec<Leftover>,
    removed: usize,
}

/// How many commands of each kind are printed.
const FEW: usize = 20;

// === impl Arguments ===

impl Arguments {
    /// Prints what would be sent.
    pub fn run(self, path: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let config = Config::read(path)?;
        let mut routers = chosen(&config, &self.routers)?;
        let (desired, lists, lineage) = basis(&config)?;
        let desired = Arc::new(desired);
        for router in &mut routers {
            router.old_marks = plan::old_marks(router, &lists);
            router.lineage = lineage;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut answers = Vec::new();
        for router in &routers {
            let planned = plan::plan(router, Arc::clone(&desired), &lists, Timestamp::now());
            answers.push(match runtime.block_on(planned) {
                Ok(plan) => Outcome::Good(plan),
                Err(error) => Outcome::Bad { router: router.name.clone(), error: error.to_string() },
            });
        }
        if self.json {
            writeln!(out, "{}", words::harmless_json(&serde_json::to_string(&answers)?))?;
        } else {
            for answer in &answers {
                self.print(out, answer)?;
            }
        }
        Ok(exit_code(&answers))
    }

    fn print(&self, out: &mut impl Write, answer: &Outcome<Plan>) -> anyhow::Result<()> {
        let paint = Paint::of_stdout();
        let plan = match answer {
            Outcome::Good(plan) => plan,
            Outcome::Bad { router, error } => return bad(out, router, error),
        };
        let version =
            plan.version.as_deref().map_or(String::new(), |version| format!(", RouterOS {version}"));
        let headline = format!("{}{version}", plan.router);
        writeln!(out, "{}", paint.paint(Tone::Heading, &words::harmless(&headline)))?;
        writeln!(out, "  {}", holdings(plan))?;
        for (kind, verb) in [("add", "to add"), ("set", "to change"), ("remove", "to remove")] {
            let steps: Vec<_> = plan.steps.iter().filter(|step| kind_of(step.does) == kind).collect();
            if steps.is_empty() {
                continue;
            }
            writeln!(out, "  {} {verb}", words::count(steps.len()))?;
            let most = if self.all { usize::MAX } else { FEW };
            for step in steps.iter().take(most) {
                let time = match step.does {
                    Does::Add { timeout } | Does::Set { timeout } => format!(" for {}", Seconds(timeout)),
                    Does::Remove => String::new(),
                };
                writeln!(out, "    {}{time}: {}", words::prefix(step.prefix), words::harmless(&step.why))?;
            }
            if steps.len() > most {
                writeln!(out, "    and {} more (--all shows them)", words::count(steps.len() - most))?;
            }
        }
        if plan.steps.is_empty() {
            writeln!(out, "  nothing to send: {}", paint.paint(Tone::Good, "it holds what it should"))?;
        }
        for left in &plan.leftovers {
            writeln!(
                out,
                "  {}; `atalaya-enforcer tidy {}` removes {}",
                leftover(left),
                plan.router,
                words::agreeing(left.entries, "it", "them")
            )?;
        }
        Ok(())
    }
}

// === impl Tidy ===

impl Tidy {
    /// Shows or removes what is left.
    pub fn run(self, path: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let config = Config::read(path)?;
        let mut routers = chosen(&config, &self.routers)?;
        let socket = Socket::at(&config.socket)?;
        let (_, lists, lineage) = basis(&config)?;
        routers.iter_mut().for_each(|router| router.lineage = lineage);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut answers = Vec::new();
        for router in &routers {
            answers.push(match runtime.block_on(self.tidy(router, &lists)) {
                Ok(tidied) => {
                    self.forget(&socket, router, &lists);
                    Outcome::Good(tidied)
                }
                Err(error) => {
                    Outcome::Bad { router: router.name.clone(), error: Causes(error.as_ref()).to_string() }
                }
            });
        }
        if self.json {
            writeln!(out, "{}", words::harmless_json(&serde_json::to_string(&answers)?))?;
            return Ok(exit_code(&answers));
        }
        for answer in &answers {
            let Tidied { router, leftovers, removed } = match answer {
                Outcome::Good(tidied) => tidied,
                Outcome::Bad { router, error } => {
                    bad(out, router, error)?;
                    continue;
                }
            };
            if leftovers.is_empty() {
                writeln!(out, "{router}: nothing of ours is on lists that it had before")?;
            }
            for left in leftovers {
                writeln!(out, "{router}: {}", leftover(left))?;
            }
            if self.yes && !leftovers.is_empty() {
                writeln!(out, "{router}: {} removed", words::count(*removed))?;
            } else if !leftovers.is_empty() {
                writeln!(out, "{router}: nothing was removed; --yes removes what is listed")?;
            }
        }
        Ok(exit_code(&answers))
    }

    /// Nothing is left on the lists of before, so that nobody need be told of them again.
    fn forget(&self, socket: &Socket, router: &RouterConfig, lists: &[ListUse]) {
        let gone: Vec<ListUse> =
            lists.iter().filter(|used| plan::is_of_before(router, used)).cloned().collect();
        if self.yes && !gone.is_empty() {
            // Where no enforcer runs, the next `tidy` does it.
            let _ = socket.post::<()>("lists/forget", &gone);
        }
    }

    async fn tidy(&self, router: &RouterConfig, lists: &[ListUse]) -> anyhow::Result<Tidied> {
        let leftovers = plan::leftovers(router, lists).await?;
        let total: usize = leftovers.iter().map(|left| left.entries).sum();
        let removed = if self.yes && total > 0 {
            let bar = progress(total, &router.name);
            let removed = plan::tidy(router, &leftovers, |done| bar.set_position(done as u64)).await;
            bar.finish_and_clear();
            removed?
        } else {
            0
        };
        Ok(Tidied { router: router.name.clone(), leftovers, removed })
    }
}

/// The bans and the lists of before: from the running enforcer, or from its ledger where none runs.
fn basis(config: &Config) -> anyhow::Result<(Desired, Vec<ListUse>, Option<Lineage>)> {
    let mut basis = match Socket::at(&config.socket)?.get::<Basis>("desired") {
        Ok(basis) => basis,
        Err(_) if std::os::unix::net::UnixStream::connect(&config.socket).is_err() => {
            service::basis(config).context("no enforcer runs, and its ledger cannot be read in its place")?
        }
        Err(error) => return Err(error),
    };
    let lists = std::mem::take(&mut basis.lists);
    let lineage = basis.lineage;
    Ok((basis.desired(), lists, lineage))
}

fn chosen(config: &Config, names: &[Name]) -> anyhow::Result<Vec<RouterConfig>> {
    if let Some(unknown) =
        names.iter().find(|name| !config.routers.iter().any(|router| router.name == **name))
    {
        let known: Vec<&str> = config.routers.iter().map(|router| router.name.as_str()).collect();
        bail!("no router named {unknown} is in the configuration; there are: {}", known.join(", "));
    }
    if config.routers.is_empty() {
        bail!("no router is in the configuration; `atalaya-enforcer router add` walks through adding one");
    }
    let wanted = |router: &&RouterConfig| names.is_empty() || names.contains(&router.name);
    Ok(config.routers.iter().filter(wanted).cloned().collect())
}

fn bad(out: &mut impl Write, router: &Name, error: &str) -> anyhow::Result<()> {
    let paint = Paint::of_stdout();
    Ok(writeln!(out, "{}: {}", router, paint.paint(Tone::Bad, &words::harmless(error)))?)
}

fn exit_code<T>(answers: &[Outcome<T>]) -> ExitCode {
    let failed = answers.iter().any(|answer| matches!(answer, Outcome::Bad { .. }));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// How full a router is, and how many bans are for it.
fn holdings(plan: &Plan) -> String {
    let left_out = match (plan.left_out, plan.limit) {
        (0, _) | (_, None) => String::new(),
        (left_out, Some(limit)) => format!(
            ", of which {} {} left out at its limit of {} (`max_entries`)",
            words::count(left_out),
            words::agreeing(left_out, "is", "are"),
            words::count(limit)
        ),
    };
    format!(
        "it holds {} of ours and {} of others; {} for it{left_out}",
        words::counted(plan.ours, "entry"),
        words::count(plan.foreign),
        words::counted(plan.desired, "ban")
    )
}

fn leftover(left: &Leftover) -> String {
    format!(
        "{} of ours on the {} list `{}` of before",
        words::counted(left.entries, "entry"),
        left.family,
        left.list
    )
}

fn kind_of(does: Does) -> &'static str {
    match does {
        Does::Add { .. } => "add",
        Does::Set { .. } => "set",
        Does::Remove => "remove",
    }
}

fn progress(total: usize, router: &Name) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix}: {bar:30} {pos} of {len} removed, {eta} left");
    let bar = ProgressBar::new(total as u64).with_prefix(router.to_string());
    style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
}

#[cfg(test)]
mod tests {
    use atalaya_enforcer::router::pipeline::Table;

    use super::*;

    #[test]
    fn what_a_router_holds_agrees_with_its_numbers() {
        let mut plan = Plan {
            router: "edge".parse().unwrap(),
            version: None,
            tables: [Table::Unknown; 2],
            ours: 0,
            foreign: 0,
            desired: 0,
            limit: Some(1000),
            left_out: 0,
            steps: Vec::new(),
            leftovers: Vec::new(),
        };
        for (number, expected) in [
            (0, "it holds 0 entries of ours and 0 of others; 0 bans for it"),
            (
                1,
                "it holds 1 entry of ours and 1 of others; 1 ban for it, of which 1 is left out at its limit of 1,000 (`max_entries`)",
            ),
            (
                2,
                "it holds 2 entries of ours and 2 of others; 2 bans for it, of which 2 are left out at its limit of 1,000 (`max_entries`)",
            ),
        ] {
            (plan.ours, plan.foreign, plan.desired, plan.left_out) = (number, number, number, number);
            assert_eq!(holdings(&plan), expected);
        }
    }
}
