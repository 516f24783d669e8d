//! `router check`: every configured router at once, and what was found in words or as JSON.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::config::Config;
use atalaya_enforcer::ledger::Lineage;
use atalaya_enforcer::router::RouterConfig;
use atalaya_enforcer::router::check::{Finding, Grade, Readiness, check};
use atalaya_wire::Name;
use tokio::task::JoinSet;

use crate::cli::paint::{Paint, Tone};
use crate::cli::socket::print_json;
use crate::cli::words;

/// Which routers to look at, and how.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer router check\n  \
    atalaya-enforcer router check edge --read-only --json")]
pub struct Arguments {
    /// Only this router; all that are configured without it
    name: Option<Name>,
    /// Change nothing: do not try to add an entry to the scratch list `atalaya-check` and remove it again
    #[arg(long)]
    read_only: bool,
    /// Print JSON: [{router, address, user, identity, version, board, worst, findings, commands}]
    #[arg(long)]
    json: bool,
}

/// A report with what follows from it.
#[derive(serde::Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    report: &'a Readiness,
    worst: Grade,
    commands: Vec<String>,
}

// === impl Arguments ===

impl Arguments {
    /// Looks, prints, and tells of a fault by the exit code.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let Config { mut routers, state, .. } = Config::read(config)?;
        let lineage = Lineage::of_state(&state);
        routers.iter_mut().for_each(|router| router.lineage = lineage);
        if let Some(name) = &self.name {
            let names: Vec<String> = routers.iter().map(|router| router.name.to_string()).collect();
            routers.retain(|router| router.name == *name);
            if routers.is_empty() {
                bail!("no router is called {name}; {} has: {}", config.display(), names.join(", "));
            }
        }
        if routers.is_empty() {
            bail!("{} has no router yet: `atalaya-enforcer router add` adds one", config.display());
        }
        let reports = check_all(routers, !self.read_only)?;
        if self.json {
            let whole = reports.iter().map(|report| Whole {
                report,
                worst: report.worst(),
                commands: report.commands(),
            });
            print_json(out, &whole.collect::<Vec<_>>())?;
        } else {
            let paint = Paint::of_stdout();
            for report in &reports {
                show(out, report, paint)?;
            }
            summary(out, &reports)?;
        }
        let faulty = reports.iter().any(|report| report.worst() == Grade::Fault);
        Ok(if faulty { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Looks at all routers at once; the reports come in the order of the routers.
fn check_all(routers: Vec<RouterConfig>, writes: bool) -> anyhow::Result<Vec<Readiness>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut reports = runtime.block_on(async {
        let mut looks = JoinSet::new();
        for (place, router) in routers.into_iter().enumerate() {
            looks.spawn(async move { (place, check(&router, &Clock::system(), writes).await) });
        }
        looks.join_all().await
    });
    reports.sort_by_key(|(place, _)| *place);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

/// A router's findings, a paragraph each, and the commands in one block for copying.
pub fn show(out: &mut impl Write, report: &Readiness, paint: Paint) -> io::Result<()> {
    let told = [&report.board, &report.version, &report.identity];
    let [board, version, identity] = told.map(|text| text.as_deref().filter(|text| !text.is_empty()));
    let version = version.map(|version| format!("RouterOS {version}"));
    let identity = identity.map(|identity| format!("calls itself {identity}"));
    let place = format!("{} as {}", report.address, report.user);
    let head: Vec<&str> = [Some(place.as_str()), board, version.as_deref(), identity.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    writeln!(out, "{}  {}", paint.paint(Tone::Heading, report.router.as_str()), head.join(", "))?;
    for finding in &report.findings {
        for line in paragraph(finding, paint) {
            writeln!(out, "{line}")?;
        }
    }
    commands(out, &report.router, &report.commands())?;
    writeln!(out)
}

/// The commands as one block, without anything before them on their lines.
pub fn commands(out: &mut impl Write, router: &Name, commands: &[String]) -> io::Result<()> {
    if commands.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nTo be pasted into the terminal of {router} (ssh, or New Terminal in WinBox):\n")?;
    for command in commands {
        writeln!(out, "{command}")?;
    }
    Ok(())
}

fn paragraph(finding: &Finding, paint: Paint) -> Vec<String> {
    let (word, tone) = match finding.grade {
        Grade::Good => ("good", Tone::Good),
        Grade::Unclear => ("unclear", Tone::Heading),
        Grade::Warning => ("warning", Tone::Heading),
        Grade::Fault => ("FAULT", Tone::Bad),
    };
    let open = format!("  {word:<8} {:<12} ", finding.check);
    let mut lines = paint.paragraph(&open, &finding.says);
    let first = lines[0].replacen(word, &paint.paint(tone, word), 1);
    lines[0] = first;
    lines
}

fn summary(out: &mut impl Write, reports: &[Readiness]) -> io::Result<()> {
    let count = |grade| reports.iter().filter(|report| report.worst() == grade).count();
    let parts: Vec<String> = [
        (Grade::Fault, "with a fault"),
        (Grade::Warning, "with a warning"),
        (Grade::Unclear, "not wholly clear"),
        (Grade::Good, "good"),
    ]
    .into_iter()
    .filter(|(grade, _)| count(*grade) > 0)
    .map(|(grade, words)| format!("{} {words}", count(grade)))
    .collect();
    writeln!(out, "{}: {}", words::counted(reports.len(), "router"), parts.join(", "))
}
