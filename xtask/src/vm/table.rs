//! The result, as tables: kernels across, kernel programs and checks down.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use kernel_init::{Outcome, State};

use super::Run;

/// How wide the tables are, in columns of a terminal.
const WIDTH: u16 = 110;

/// Programs with the verifier's instruction counts, checks, and the reason of whatever is not on.
pub fn tables(runs: &[Run]) -> String {
    let mut programs = new_table("program (verifier's instructions)", runs);
    for name in names(runs, |run| run.programs.iter().map(|program| program.name.as_str()).collect()) {
        let cells = runs.iter().map(|run| {
            let program = run.programs.iter().find(|program| program.name == name);
            program.map_or_else(String::new, |program| match program.instructions {
                Some(instructions) => format!("{} {instructions}", program.state),
                None => program.state.to_string(),
            })
        });
        programs.add_row(std::iter::once(name.to_owned()).chain(cells));
    }
    let mut checks = new_table("check", runs);
    for name in names(runs, |run| run.checks.iter().map(|check| check.0.as_str()).collect()) {
        let cells = runs.iter().map(|run| match run.checks.iter().find(|check| check.0 == name) {
            Some((_, Outcome::Passed)) => "passed",
            Some((_, Outcome::Failed)) => "FAILED",
            Some((_, Outcome::Skipped)) => "-",
            None => "",
        });
        checks.add_row(std::iter::once(name).chain(cells));
    }
    format!("{programs}\n{checks}\n{}", reasons(runs))
}

/// Why programs are not on; said once where several kernels say the same.
fn reasons(runs: &[Run]) -> String {
    let mut said: Vec<(String, Vec<String>)> = Vec::new();
    for run in runs {
        for program in run.programs.iter().filter(|program| program.state != State::On) {
            let text = format!("{} is {}: {}", program.name, program.state, program.reason);
            match said.iter_mut().find(|(earlier, _)| *earlier == text) {
                Some((_, kernels)) => kernels.push(run.title()),
                None => said.push((text, vec![run.title()])),
            }
        }
    }
    said.iter().fold(String::new(), |mut text, (reason, kernels)| {
        let _ = writeln!(text, "{reason} [{}]", kernels.join(", "));
        text
    })
}

fn names<'a>(runs: &'a [Run], of: impl Fn(&'a Run) -> Vec<&'a str>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for name in runs.iter().flat_map(of) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn new_table(what: &str, runs: &[Run]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    let titles = runs.iter().map(|run| format!("{}\n{}", run.kernel.series(), run.lockdown.name()));
    table.set_header(std::iter::once(what.to_owned()).chain(titles));
    table
}
