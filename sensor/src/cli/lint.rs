//! `atalaya-sensor lint`: what is wrong with filters before an attacker finds it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use jiff::Timestamp;

use crate::cli::named::{Named, NamedFilter};
use crate::cli::trial::printable;

/// How much of a log is looked at, in lines, and the longest of them, in bytes.
const LINES: usize = 100_000;
const LONGEST: u64 = 1 << 20;

/// The arguments of `atalaya-sensor lint`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Names of jails or filters, files, or regexes; all jails of the configuration unless given
    filters: Vec<String>,
    /// Also tell whether dates can be read in this log
    #[arg(long, value_name = "FILE")]
    dates: Option<PathBuf>,
}

/// Prints warnings. Status 1 where there is one.
pub fn run(arguments: &Arguments, named: &Named) -> anyhow::Result<ExitCode> {
    let words = if arguments.filters.is_empty() {
        named.jails().map_err(anyhow::Error::msg)?
    } else {
        arguments.filters.clone()
    };
    let mut warnings = 0;
    let mut tell = |what: &str, warning: &str| {
        warnings += 1;
        println!("{what}: {warning}");
    };
    for word in &words {
        let found = match named.find(word) {
            Ok(found) => found,
            Err(error) => {
                tell(word, &error);
                continue;
            }
        };
        found.filter.warnings().iter().for_each(|warning| tell(&found.what, warning));
        if !found.filter.caution().is_empty() {
            tell(&found.what, found.filter.caution());
        }
        found.filter.lint().iter().for_each(|warning| tell(&found.what, warning));
        if let Some(log) = &arguments.dates
            && let Some(warning) = dates(log, &found)?
        {
            tell(&found.what, &warning);
        }
    }
    let checked = words.len();
    match warnings {
        0 => println!("{checked} checked: nothing to warn of"),
        1 => println!("{checked} checked, 1 warning"),
        count => println!("{checked} checked, {count} warnings"),
    }
    Ok(if warnings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is wrong with the dates of a log, as a filter reads them.
fn dates(log: &PathBuf, found: &NamedFilter) -> anyhow::Result<Option<String>> {
    let file = File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
    if file.metadata()?.is_dir() {
        bail!("{} is a folder; name a file in it", log.display());
    }
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let dates = found.filter.dates();
    let now = Timestamp::now();
    let (mut lines, mut dateless, mut ahead, mut example) = (0usize, 0usize, 0usize, String::new());
    let mut line = Vec::new();
    while lines < LINES {
        line.clear();
        if (&mut reader).take(LONGEST).read_until(b'\n', &mut line).context("reading the log")? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        lines += 1;
        match dates.find(line.trim_ascii_end(), now, &found.zone) {
            Some(date) if date.time.duration_since(now).as_secs() > 60 => ahead += 1,
            Some(_) => {}
            None => {
                if dateless == 0 {
                    example = printable(&line).chars().take(80).collect();
                }
                dateless += 1;
            }
        }
    }
    let log = log.display();
    Ok(match (lines, dateless, ahead) {
        (0, _, _) => Some(format!("{log} has no line: nothing to try dates on")),
        (lines, dateless, _) if dateless == lines => Some(format!(
            "no date of {log} can be read ({lines} lines, such as `{example}`): they would count as now; give a `datepattern`"
        )),
        (lines, dateless, _) if dateless > 0 => Some(format!(
            "{dateless} of {lines} lines of {log} have no date that can be read, such as `{example}`: they would count as now"
        )),
        (_, _, ahead) if ahead > 0 => Some(format!(
            "{ahead} dates of {log} lie in the future, and would count as now: is it of another time zone? Give a `logtimezone`"
        )),
        _ => None,
    })
}
