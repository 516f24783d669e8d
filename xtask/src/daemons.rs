//! `cargo xtask daemons`: what the sensor sees of Debian's daemons. Each is installed in a file root of its suite,
//! started on a host of its own, and tried by real clients; what the kernel's source and the log's filter made of each
//! is held against what is expected.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::run::{announce, cargo, interruption};
use crate::setup;
use crate::suite::Suite;
use image::Image;
use recipe::Recipe;
use trial::{Terms, Tried};

mod guide;
mod host;
pub mod image;
mod recipe;
mod recipes;
mod table;
mod trial;

/// Options of `cargo xtask daemons`.
#[derive(Default, clap::Args)]
pub struct Arguments {
    /// Only daemons whose name holds one of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Of this suite of Debian; may be given more than once. Without it and --all: bookworm
    #[arg(long, value_enum)]
    suite: Vec<Suite>,
    /// All suites
    #[arg(long, conflicts_with = "suite")]
    all: bool,
    /// Make the file roots anew
    #[arg(long)]
    anew: bool,
    /// Print also what the sensor, each daemon and the logs said
    #[arg(long)]
    show: bool,
    /// Only write docs/daemons.md, from what is expected
    #[arg(long, conflicts_with_all = ["names", "suite", "all", "anew", "show"])]
    docs: bool,
}

/// What one daemon's run came to.
struct DaemonRun {
    suite: Suite,
    recipe: &'static Recipe,
    tried: Result<Tried>,
}

/// What `cargo xtask test` runs: quick, and of each kind of source.
const OF_TEST: [(Suite, &[&str]); 2] =
    [(Suite::Bookworm, &["sshd", "dovecot", "vsftpd"]), (Suite::Trixie, &["sshd", "dovecot"])];

/// Runs the daemons one after another; an error where anything is not as expected.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.docs {
        return guide::write();
    }
    let suites = match (&arguments.suite[..], arguments.all) {
        (_, true) => Suite::ALL.to_vec(),
        ([], false) => vec![Suite::Bookworm],
        (chosen, false) => chosen.to_vec(),
    };
    let is_wanted = |recipe: &Recipe| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| recipe.name.contains(name.as_str()))
    };
    if let Some(unknown) =
        arguments.names.iter().find(|name| !recipes::all().any(|recipe| recipe.name.contains(name.as_str())))
    {
        let known: Vec<_> = recipes::all().map(|recipe| recipe.name).collect();
        bail!("no daemon's name holds `{unknown}`; there are {}", known.join(", "));
    }
    let wanted: Vec<_> = suites
        .into_iter()
        .flat_map(|suite| {
            let fits = move |recipe: &&Recipe| recipe.is_for(suite);
            recipes::all().filter(fits).map(move |recipe| (suite, recipe))
        })
        .filter(|(_, recipe)| is_wanted(recipe))
        .collect();
    try_all(&wanted, arguments.anew, arguments.show)
}

/// As a part of `cargo xtask test`: some of two suites, or all of all.
pub fn run_of_test(all: bool) -> Result<()> {
    if all {
        return run(&Arguments { all: true, ..Arguments::default() });
    }
    let wanted: Vec<_> = OF_TEST
        .iter()
        .flat_map(|(suite, names)| {
            let named = move |recipe: &&Recipe| names.contains(&recipe.name) && recipe.is_for(*suite);
            recipes::all().filter(named).map(move |recipe| (*suite, recipe))
        })
        .collect();
    try_all(&wanted, false, false)
}

fn try_all(wanted: &[(Suite, &'static Recipe)], anew: bool, show: bool) -> Result<()> {
    setup::ensure(setup::Purpose::Test)?;
    announce("what is tried", cargo().args(["build", "--package", "atalaya-sensor"]))?;
    let sensor = host::sensor_program()?;
    let interrupted = interruption()?;
    let mut runs: Vec<DaemonRun> = Vec::new();
    for suite in Suite::ALL {
        let of_suite: Vec<_> = wanted.iter().filter(|(of, _)| *of == suite).collect();
        if of_suite.is_empty() {
            continue;
        }
        let image = Image::of(suite, anew)?;
        for (_, recipe) in of_suite {
            let layers = image.layers(recipe)?;
            let began = Instant::now();
            let tried = trial::run(recipe, &layers, Terms { sensor: &sensor, suite, show });
            if interrupted.load(Ordering::SeqCst) {
                bail!("interrupted; the daemon and its host are gone");
            }
            let run = DaemonRun { suite, recipe, tried };
            let word = if run.troubles().is_empty() { "as expected" } else { "NOT as expected" };
            println!("{} {}: {word} ({:.0} s)", suite.name(), recipe.name, began.elapsed().as_secs_f64());
            runs.push(run);
        }
    }
    println!("\n{}", table::table(&runs));
    let troubles: Vec<String> = runs.iter().flat_map(DaemonRun::troubles).collect();
    if !troubles.is_empty() {
        bail!("not as expected:\n{}", troubles.join("\n"));
    }
    println!("daemons: {}, all as expected", runs.len());
    Ok(())
}

// === impl DaemonRun ===

impl DaemonRun {
    /// What was not as expected, in sentences.
    fn troubles(&self) -> Vec<String> {
        let name = format!("{} {}", self.suite.name(), self.recipe.name);
        let tried = match &self.tried {
            Ok(tried) => tried,
            Err(error) => return vec![format!("{name}: {error:#}")],
        };
        let mut troubles = Vec::new();
        for client in &tried.clients {
            let what = format!("{name}, {} over {}", client.case.name, client.family.name());
            troubles.extend(client.trouble.iter().map(|trouble| format!("{what}: {trouble}")));
            if client.seen != client.expected {
                let words = table::words;
                troubles.push(format!(
                    "{what}: saw {}, expected {}",
                    words(client.seen),
                    words(client.expected)
                ));
            }
        }
        let [expected, seen] = tried.nameless;
        if expected != seen {
            troubles.push(format!("{name}: {seen} failed logins without an address, expected {expected}"));
        }
        let strangers = &tried.strangers;
        troubles.extend(
            strangers
                .iter()
                .map(|stranger| format!("{name}: the log accused {stranger}, which is no client")),
        );
        troubles
    }
}
