//! `atalaya-sensor test`: what a filter would match, without a jail and without a ban. Reads a file, one
//! line, or standard input, in constant memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::filter::{Filter, Found, Host, Verdict};

/// The longest line that is looked at whole, in bytes; of a longer one the rest is passed over.
const LONGEST: u64 = 1 << 20;

/// The arguments of `atalaya-sensor test`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A log file, `-` for standard input, or a line itself
    log: String,
    /// A regex with <HOST>, or the name of a jail in the configuration
    regex: String,
    /// A regex for lines to leave out
    #[arg(long, value_name = "REGEX")]
    ignoreregex: Vec<String>,
    /// Print the lines that match, with their addresses
    #[arg(long)]
    matched: bool,
    /// Print the lines that do not match
    #[arg(long)]
    missed: bool,
    /// Print the lines that an ignoreregex leaves out
    #[arg(long)]
    ignored: bool,
    /// Print at most so many lines of each kind
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Default)]
struct Tally {
    lines: u64,
    matched: u64,
    missed: u64,
    ignored: u64,
    names: u64,
    hits: Vec<u64>,
    forms: BTreeMap<Option<String>, u64>,
    kept: Vec<serde_json::Value>,
}

/// Runs the trial and prints what it found; `resolve` gives the filter of a jail. Status 0 where
/// something matched, else 1.
pub fn run(arguments: &Arguments, resolve: impl Fn(&str) -> Option<Filter>) -> anyhow::Result<ExitCode> {
    let (mut filter, jail) = match resolve(&arguments.regex) {
        Some(filter) => (filter, Some(&arguments.regex)),
        None if !arguments.regex.contains('<') => {
            bail!(
                "`{}` is neither a jail that reads lines in the configuration nor a regex with <HOST>",
                arguments.regex
            )
        }
        None => (Filter::new(std::slice::from_ref(&arguments.regex), &arguments.ignoreregex)?, None),
    };
    let path = Path::new(&arguments.log);
    let (mut reader, size): (Box<dyn BufRead>, Option<u64>) = if arguments.log == "-" {
        (Box::new(BufReader::with_capacity(1 << 18, std::io::stdin())), None)
    } else if path.exists() {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            bail!("{} is a folder; name a file in it", path.display());
        }
        (Box::new(BufReader::with_capacity(1 << 18, file)), Some(metadata.len()))
    } else if arguments.log.starts_with('/') && !arguments.log.contains(' ') {
        bail!("cannot read {}: there is no such file", path.display());
    } else {
        (Box::new(std::io::Cursor::new(arguments.log.clone().into_bytes())), None)
    };

    let mut out = std::io::stdout().lock();
    if !arguments.json {
        let written = filter.warnings().iter().try_for_each(|warning| writeln!(out, "warning: {warning}"));
        if quiet(written)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let tally = match read(&mut *reader, size, arguments, &mut filter, &mut out) {
        Ok(tally) => tally,
        Err(error) => {
            return match error.downcast_ref::<std::io::Error>() {
                Some(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
                _ => Err(error),
            };
        }
    };
    quiet(tally.print(arguments, &filter, jail.map(String::as_str), &mut out))?;
    Ok(if tally.matched > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(
    mut reader: &mut dyn BufRead,
    size: Option<u64>,
    arguments: &Arguments,
    filter: &mut Filter,
    out: &mut impl Write,
) -> anyhow::Result<Tally> {
    let zone = TimeZone::system();
    let progress = progress(size);
    let mut tally = Tally { hits: vec![0; filter.regexes().count()], ..Tally::default() };
    let mut line = Vec::new();
    let mut done = 0;
    loop {
        line.clear();
        let read = (&mut reader).take(LONGEST).read_until(b'\n', &mut line).context("reading the log")?;
        if read == 0 {
            break;
        }
        if read as u64 == LONGEST && line.last() != Some(&b'\n') {
            reader.skip_until(b'\n').context("reading the log")?;
        }
        done += read as u64;
        tally.lines += 1;
        if tally.lines.is_multiple_of(10_000) {
            progress.set_position(done);
        }
        tally.line(&line, filter, &zone, arguments, out)?;
    }
    progress.finish_and_clear();
    Ok(tally)
}

// === impl Tally ===

impl Tally {
    fn line(
        &mut self,
        line: &[u8],
        filter: &mut Filter,
        zone: &TimeZone,
        arguments: &Arguments,
        out: &mut impl Write,
    ) -> std::io::Result<()> {
        let (kind, count, wanted) = match filter.find(line) {
            Verdict::Matched(found) => {
                self.matched += 1;
                self.hits[found.regex] += 1;
                self.names += u64::from(matches!(found.host, Host::Name(_)));
                let date = filter.dates().find(line, Timestamp::now(), zone);
                *self.forms.entry(date.as_ref().map(|date| date.form.clone())).or_default() += 1;
                if arguments.matched && self.matched <= arguments.limit {
                    let time = date.map(|date| date.time);
                    return self.keep_match(line, &found, time, arguments.json, out);
                }
                return Ok(());
            }
            Verdict::Ignored => {
                self.ignored += 1;
                ("ignored", self.ignored, arguments.ignored)
            }
            Verdict::Missed => {
                self.missed += 1;
                ("missed", self.missed, arguments.missed)
            }
        };
        if wanted && count <= arguments.limit {
            let text = printable(line);
            if arguments.json {
                self.kept.push(json!({"line": self.lines, "is": kind, "text": text}));
            } else {
                writeln!(out, "{kind} {:>7}: {text}", self.lines)?;
            }
        }
        Ok(())
    }

    fn keep_match(
        &mut self,
        line: &[u8],
        found: &Found,
        time: Option<Timestamp>,
        json: bool,
        out: &mut impl Write,
    ) -> std::io::Result<()> {
        let (host, bannable) = match &found.host {
            Host::Address(address) => (address.to_string(), true),
            Host::Name(name) => (printable(name.as_bytes()), false),
        };
        if json {
            self.kept.push(json!({
                "line": self.lines, "is": "matched", "host": host, "bannable": bannable,
                "time": time, "regex": found.regex + 1, "text": printable(line),
            }));
            return Ok(());
        }
        let (before, place, after) =
            (&line[..found.span.start], &line[found.span.clone()], &line[found.span.end..]);
        let (bold, plain) = if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            ("\x1b[1;31m", "\x1b[0m")
        } else {
            ("", "")
        };
        let note = if bannable { "" } else { " (a host name: never banned)" };
        writeln!(
            out,
            "matched {:>7}: {host}{note}: {}{bold}{}{plain}{}",
            self.lines,
            printable(before),
            printable(place),
            printable(after)
        )
    }

    fn print(
        &self,
        arguments: &Arguments,
        filter: &Filter,
        jail: Option<&str>,
        out: &mut impl Write,
    ) -> std::io::Result<()> {
        let name = |form: &Option<String>| {
            form.clone().unwrap_or_else(|| "none: these lines would count as now".to_owned())
        };
        if arguments.json {
            let regexes: Vec<_> = filter
                .regexes()
                .zip(&self.hits)
                .map(|(regex, hits)| json!({"regex": regex, "hits": hits}))
                .collect();
            let dates: BTreeMap<_, _> = self.forms.iter().map(|(form, hits)| (name(form), hits)).collect();
            return writeln!(
                out,
                "{}",
                json!({
                    "jail": jail, "lines": self.lines, "matched": self.matched, "missed": self.missed,
                    "ignored": self.ignored, "names": self.names, "regexes": regexes, "dates": dates,
                    "warnings": filter.warnings(), "kept": self.kept,
                })
            );
        }
        writeln!(out, "\nHits per regex:")?;
        for (index, (regex, hits)) in filter.regexes().zip(&self.hits).enumerate() {
            writeln!(out, "{hits:>9}  {}) {regex}", index + 1)?;
        }
        if !self.forms.is_empty() {
            writeln!(out, "Dates of the lines that matched:")?;
            for (form, hits) in &self.forms {
                writeln!(out, "{hits:>9}  {}", name(form))?;
            }
        }
        if self.names > 0 {
            writeln!(out, "{} matches found a host name, which is never banned", self.names)?;
        }
        writeln!(
            out,
            "\nLines: {} lines, {} ignored, {} matched, {} missed",
            self.lines, self.ignored, self.matched, self.missed
        )
    }
}

/// A line as it can be shown on a terminal: it is an attacker's.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    text.chars().map(|character| if character.is_control() { '·' } else { character }).collect()
}

/// Whether the reader of the output went away, which is no error.
fn quiet(written: std::io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn progress(size: Option<u64>) -> ProgressBar {
    let Some(size) = size.filter(|size| *size > 1 << 20 && std::io::stderr().is_terminal()) else {
        return ProgressBar::hidden();
    };
    let bar = ProgressBar::new(size);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    bar
}
