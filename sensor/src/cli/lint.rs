//! `atalaya-sensor lint`: what is wrong with filters before an attacker finds it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use jiff::Timestamp;
use serde_json::json;

use crate::carrier::Carrier;
use crate::cli::named::{Named, NamedFilter};
use crate::cli::trial::printable;
use atalaya_program::count::{agreeing, counted};

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
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Prints warnings. Status 1 where there is one.
pub fn run(arguments: &Arguments, named: &Named) -> anyhow::Result<ExitCode> {
    let words = if arguments.filters.is_empty() {
        named.jails().map_err(anyhow::Error::msg)?
    } else {
        arguments.filters.clone()
    };
    let mut warnings = Vec::new();
    let mut tell = |what: &str, text: &str| {
        if !arguments.json {
            println!("{what}: {text}");
        }
        warnings.push(json!({"what": what, "text": text}));
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
    let status = if warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if arguments.json {
        println!("{:#}", json!({"checked": words.len(), "warnings": warnings}));
    } else {
        println!("{}", sum(words.len(), warnings.len()));
    }
    Ok(status)
}

fn sum(checked: usize, warnings: usize) -> String {
    match warnings {
        0 => format!("{checked} checked: nothing to warn of"),
        _ => format!("{checked} checked, {}", counted(warnings, "warning")),
    }
}

/// What is wrong with the dates of a log, as a filter reads them.
fn dates(log: &PathBuf, found: &NamedFilter) -> anyhow::Result<Option<String>> {
    let file = File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
    if file.metadata()?.is_dir() {
        bail!("{} is a folder; name a file in it", log.display());
    }
    let mut reader = BufReader::with_capacity(1 << 18, file);
    if Carrier::of(reader.fill_buf().context("reading the log")?).is_some() {
        // The container engine dates each line.
        return Ok(None);
    }
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
            "no date of {log} can be read ({}, such as `{example}`): {} would count as now; give a `datepattern`",
            counted(lines, "line"),
            agreeing(lines, "it", "they")
        )),
        (lines, dateless, _) if dateless > 0 => Some(format!(
            "{dateless} of {} of {log} {} no date that can be read, such as `{example}`: {} would count as now",
            counted(lines, "line"),
            agreeing(dateless, "has", "have"),
            agreeing(dateless, "it", "they")
        )),
        (_, _, ahead) if ahead > 0 => Some(format!(
            "{} of {log} {} in the future, and would count as now: is it of another time zone? Give a `logtimezone`",
            counted(ahead, "date"),
            agreeing(ahead, "lies", "lie")
        )),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use jiff::tz::TimeZone;
    use rstest::rstest;

    use super::*;
    use crate::filter::FilterDefinition;

    #[test]
    fn the_sum_agrees_with_its_numbers() {
        let sums = [0, 1, 2].map(|warnings| sum(3, warnings));
        assert_eq!(sums, ["3 checked: nothing to warn of", "3 checked, 1 warning", "3 checked, 2 warnings"]);
    }

    #[rstest]
    #[case("", "has no line")]
    #[case("x\n", "(1 line, such as `x`): it would count as now")]
    #[case("x\nx\n", "(2 lines, such as `x`): they would count as now")]
    #[case(
        "x\n2020-01-01 00:00:00 y\n",
        "1 of 2 lines of LOG has no date that can be read, such as `x`: it would"
    )]
    #[case(
        "x\nx\n2020-01-01 00:00:00 y\n",
        "2 of 3 lines of LOG have no date that can be read, such as `x`: they would"
    )]
    #[case("9999-01-01 00:00:00 y\n", "1 date of LOG lies in the future")]
    #[case("9999-01-01 00:00:00 y\n9999-01-01 00:00:00 y\n", "2 dates of LOG lie in the future")]
    fn what_is_said_of_dates_agrees_with_its_numbers(#[case] lines: &str, #[case] expected: &str) {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        log.write_all(lines.as_bytes()).unwrap();
        let failregex = vec!["from <HOST>$".to_owned()];
        let filter = FilterDefinition { failregex, ..FilterDefinition::default() }.compile().unwrap();
        let found = NamedFilter { filter, what: "x".to_owned(), zone: TimeZone::UTC, journal: None };
        let path = log.path().to_owned();
        let said = dates(&path, &found).unwrap().unwrap().replace(&path.display().to_string(), "LOG");
        assert!(said.contains(expected), "{said}");
    }
}
