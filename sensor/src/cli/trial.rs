//! `atalaya-sensor test`: what a filter would match, without a jail and without a ban. Reads a file, one
//! line, or standard input, in constant memory and at the speed of the running sensor.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use atalaya_program::colour;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::carrier::{Carried, Carrier, Unpacker};
use crate::cli::named::{self, Named};
use crate::date::Dates;
use crate::filter::{Filter, Host, LineOutcome, Match, lines};
use crate::source::journal::WantedJournal;
use atalaya_program::count::{agreeing, counted};

mod journal;

/// How much is read at once; also the longest line that is looked at whole, in bytes.
const BLOCK: usize = 1 << 20;

/// The arguments of `atalaya-sensor test`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A log file, `-` for standard input, a line itself, or `systemd-journal`, for that of a jail which reads one or of
    /// the system, also with fail2ban's options, such as `systemd-journal[namespace=web]`
    log: String,
    /// The name of a jail or filter, a filter's file, or a regex with `<HOST>`
    filter: String,
    /// A regex for lines to leave out
    #[arg(long, value_name = "REGEX")]
    ignoreregex: Vec<String>,
    /// Of the journal only these entries, such as `_SYSTEMD_UNIT=ssh.service`; those of the jail or filter unless given
    #[arg(long, value_name = "MATCH")]
    journalmatch: Vec<String>,
    /// Print the lines that match, with their addresses
    #[arg(long)]
    matched: bool,
    /// Print the lines that do not match, and which regex came closest
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
    /// Print only these of every match, such as 'ip time user'; also regex, line and text
    #[arg(long, value_name = "FIELDS", value_parser = fields, conflicts_with_all = ["json", "matched", "missed", "ignored"])]
    output: Option<FieldList>,
}

/// One thing to print of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Ip,
    Time,
    User,
    Regex,
    Line,
    Text,
}

#[derive(Clone, Debug)]
struct FieldList(Vec<Field>);

/// Counts of lines, over all files that were tried.
#[derive(Default)]
struct Sums {
    lines: u64,
    matched: u64,
    ignored: u64,
    /// Shown, not counted: the missed are what is left.
    missed_shown: u64,
    names: u64,
    hits: Vec<u64>,
    forms: BTreeMap<Option<Cow<'static, str>>, u64>,
    kept: Vec<serde_json::Value>,
}

/// What a trial is run with, besides the filter.
struct Trial<'a, W> {
    arguments: &'a Arguments,
    /// What the filter is, for people.
    what: String,
    dates: Dates,
    zone: TimeZone,
    /// For a log of a container engine.
    unpacker: Option<Unpacker>,
    /// For showing what matched; the one that judges keeps sessions.
    shown: Filter,
    out: W,
    colour: bool,
    tally: Sums,
}

/// What is tried.
enum Input<'a> {
    /// A log, and its size where it is known, in bytes.
    Bytes(&'a mut dyn Read, Option<u64>),
    /// A journal.
    Journal(WantedJournal),
}

/// Runs the trial and prints what it found. Status 0 where something matched, else 1.
pub fn run(arguments: &Arguments, named: &Named) -> anyhow::Result<ExitCode> {
    let mut found = named.find(&arguments.filter).map_err(anyhow::Error::msg)?;
    if !arguments.ignoreregex.is_empty() {
        found.filter.ignore_too(&arguments.ignoreregex)?;
    }
    let path = Path::new(&arguments.log);
    let wanted = journal::wanted(arguments, &found).map_err(anyhow::Error::msg)?;
    let (mut reader, size): (Box<dyn Read>, Option<u64>) = if wanted.is_some() {
        (Box::new(io::empty()), None)
    } else if arguments.log == "-" {
        (Box::new(io::stdin()), None)
    } else if path.exists() {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            bail!("{} is a folder; name a file in it", path.display());
        }
        (Box::new(file), Some(metadata.len()))
    } else if arguments.log.starts_with('/') && !arguments.log.contains(' ') {
        bail!("cannot read {}: there is no such file", path.display());
    } else {
        (Box::new(io::Cursor::new(arguments.log.clone().into_bytes())), None)
    };

    let named::NamedFilter { mut filter, what, zone, .. } = found;
    let colour = colour::is_wanted(&io::stdout());
    let tally = Sums { hits: vec![0; filter.regexes().count()], ..Sums::default() };
    let out = io::BufWriter::new(io::stdout().lock());
    let mut trial = Trial {
        arguments,
        what,
        dates: filter.dates(),
        zone,
        unpacker: None,
        shown: filter.clone(),
        out,
        colour,
        tally,
    };
    let input = match wanted {
        Some(wanted) => Input::Journal(wanted),
        None => Input::Bytes(&mut *reader, size),
    };
    match trial.run(&mut filter, input) {
        Ok(()) if trial.tally.matched > 0 => Ok(ExitCode::SUCCESS),
        Ok(()) => Ok(ExitCode::FAILURE),
        Err(error) => match error.downcast::<io::Error>() {
            // The reader of the output went away, which is no error.
            Ok(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            Ok(error) => Err(error.into()),
            Err(error) => Err(error),
        },
    }
}

fn fields(text: &str) -> Result<FieldList, String> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    let fields: Vec<Field> = words
        .map(|word| match word.to_ascii_lowercase().trim_matches(['<', '>']) {
            "ip" | "host" | "address" | "f-id" => Ok(Field::Ip),
            "time" => Ok(Field::Time),
            "user" | "f-user" => Ok(Field::User),
            "regex" => Ok(Field::Regex),
            "line" => Ok(Field::Line),
            "text" | "row" | "msg" => Ok(Field::Text),
            other => Err(format!("`{other}` is none of ip, time, user, regex, line, text")),
        })
        .collect::<Result<_, _>>()?;
    if fields.is_empty() {
        Err("name at least one of ip, time, user, regex, line, text".to_owned())
    } else {
        Ok(FieldList(fields))
    }
}

// === impl Trial ===

impl<W: Write> Trial<'_, W> {
    fn run(&mut self, filter: &mut Filter, input: Input<'_>) -> anyhow::Result<()> {
        let only_fields = self.arguments.output.is_some();
        if !self.arguments.json && !only_fields {
            for warning in filter.warnings() {
                writeln!(self.out, "warning: {warning}")?;
            }
        }
        match input {
            Input::Bytes(reader, size) => self.read(filter, reader, size)?,
            Input::Journal(wanted) => self.journal(filter, wanted)?,
        }
        if self.arguments.json {
            self.print_json(filter)?;
        } else if !only_fields {
            self.print(filter)?;
        }
        self.out.flush()?;
        Ok(())
    }

    /// Reads the log in blocks of whole lines. Of a line that is longer than a block the rest is passed
    /// over.
    fn read(&mut self, filter: &mut Filter, reader: &mut dyn Read, size: Option<u64>) -> anyhow::Result<()> {
        let progress = progress(size);
        let mut buffer = vec![0; BLOCK];
        let (mut filled, mut done, mut skipping) = (0, 0, false);
        loop {
            let read = reader.read(&mut buffer[filled..]).context("reading the log")?;
            done += read as u64;
            progress.set_position(done);
            filled += read;
            let mut start = 0;
            if skipping {
                let end = memchr::memchr(b'\n', &buffer[..filled]);
                skipping = end.is_none();
                start = end.map_or(filled, |end| end + 1);
            }
            let end = match memchr::memrchr(b'\n', &buffer[start..filled]) {
                Some(newline) => start + newline + 1,
                None if read == 0 => filled,
                None if start == 0 && filled == BLOCK => {
                    skipping = true;
                    filled
                }
                None => start,
            };
            if self.tally.lines == 0 && self.unpacker.is_none() {
                self.unpacker = Carrier::of(&buffer[start..end]).map(Unpacker::at_start);
            }
            self.block(filter, &buffer[start..end])?;
            buffer.copy_within(end..filled, 0);
            filled -= end;
            if read == 0 {
                break;
            }
        }
        progress.finish_and_clear();
        Ok(())
    }

    /// Looks at whole lines.
    fn block(&mut self, filter: &mut Filter, block: &[u8]) -> io::Result<()> {
        if self.unpacker.is_some() {
            return self.carried(filter, block);
        }
        if self.arguments.missed {
            // Every line is wanted, also those that the filter need not look at.
            for line in lines(block) {
                let verdict = filter.find(line);
                self.tally.lines += 1;
                let number = self.tally.lines;
                if verdict == LineOutcome::Missed {
                    self.missed(filter, line, number)?;
                } else {
                    self.line(line, number, verdict, None)?;
                }
            }
            return Ok(());
        }
        let mut result = Ok(());
        let (mut counted, mut number) = (0, self.tally.lines + 1);
        filter.find_in_block(block, |line, verdict| {
            if result.is_ok() {
                let at = line.as_ptr() as usize - block.as_ptr() as usize;
                number += memchr::memchr_iter(b'\n', &block[counted..at]).count() as u64;
                counted = at;
                result = self.line(line, number, verdict, None);
            }
        });
        let unfinished = block.last().is_some_and(|last| *last != b'\n');
        self.tally.lines += memchr::memchr_iter(b'\n', block).count() as u64 + u64::from(unfinished);
        result
    }

    /// Looks at whole lines of a container engine's log. A line counts where its last piece stands.
    fn carried(&mut self, filter: &mut Filter, block: &[u8]) -> io::Result<()> {
        let Some(mut unpacker) = self.unpacker.take() else { return Ok(()) };
        for line in lines(block) {
            self.tally.lines += 1;
            let number = self.tally.lines;
            let Some(Carried { time, text }) = unpacker.take(line) else { continue };
            let verdict = if time.is_some() { filter.find_carried(&text) } else { filter.find(&text) };
            let time = time.map(|time| (time, "the container engine's"));
            if verdict == LineOutcome::Missed && self.arguments.missed {
                self.missed(filter, &text, number)?;
            } else {
                self.line(&text, number, verdict, time)?;
            }
        }
        self.unpacker = Some(unpacker);
        Ok(())
    }

    /// A line that a failregex matches. `carried` is when it was taken by who carried it, and who that was.
    fn line(
        &mut self,
        line: &[u8],
        number: u64,
        verdict: LineOutcome,
        carried: Option<(Timestamp, &'static str)>,
    ) -> io::Result<()> {
        let found = match verdict {
            LineOutcome::Matched(found) => found,
            LineOutcome::Ignored => {
                self.tally.ignored += 1;
                let wanted = self.arguments.ignored && self.tally.ignored <= self.arguments.limit;
                return if wanted { self.keep("ignored", number, line) } else { Ok(()) };
            }
            LineOutcome::Missed => return Ok(()),
        };
        self.tally.matched += 1;
        self.tally.hits[found.regex] += 1;
        self.tally.names += u64::from(matches!(found.host, Host::Name(_)));
        let dated = found.dated.as_deref().unwrap_or(line);
        let (time, form) = match carried {
            Some((time, whose)) => (Some(time), Some(whose.into())),
            None => {
                let date = self.dates.find(dated, Timestamp::now(), &self.zone);
                date.map(|date| (date.time, date.form)).unzip()
            }
        };
        *self.tally.forms.entry(form).or_default() += 1;
        if let Some(FieldList(fields)) = &self.arguments.output {
            let words: Vec<String> = fields
                .iter()
                .map(|field| match field {
                    Field::Ip => host(&found),
                    Field::Time => time.map_or_else(|| "-".to_owned(), |time| time.to_string()),
                    Field::User => {
                        let user = found.user.as_deref().filter(|user| !user.is_empty()).unwrap_or("-");
                        printable(user.as_bytes())
                    }
                    Field::Regex => (found.regex + 1).to_string(),
                    Field::Line => number.to_string(),
                    Field::Text => printable(line),
                })
                .collect();
            return writeln!(self.out, "{}", words.join(" "));
        }
        if self.arguments.matched && self.tally.matched <= self.arguments.limit {
            return self.keep_match(number, line, &found, time);
        }
        Ok(())
    }

    fn missed(&mut self, filter: &Filter, line: &[u8], number: u64) -> io::Result<()> {
        if self.tally.missed_shown >= self.arguments.limit {
            return Ok(());
        }
        self.tally.missed_shown += 1;
        let near = filter.explain(line);
        if self.arguments.json {
            let near = near.map(|near| {
                json!({
                    "regex": near.regex.map(|regex| regex + 1),
                    "matched": printable(&line[near.matched]),
                    "expected": near.expected,
                })
            });
            let text = printable(line);
            self.tally.kept.push(json!({"line": number, "is": "missed", "text": text, "near": near}));
            return Ok(());
        }
        self.keep("missed", number, line)?;
        let Some(near) = near else { return Ok(()) };
        let regex =
            near.regex.map_or_else(|| "the prefregex".to_owned(), |regex| format!("regex {}", regex + 1));
        let column = String::from_utf8_lossy(&line[..near.matched.end]).chars().count() + 1;
        writeln!(
            self.out,
            "                {regex} came closest: up to `{}`, column {column}, where it expects `{}`",
            printable(&line[near.matched]),
            near.expected
        )
    }

    fn keep(&mut self, kind: &str, number: u64, line: &[u8]) -> io::Result<()> {
        let text = printable(line);
        if self.arguments.json {
            self.tally.kept.push(json!({"line": number, "is": kind, "text": text}));
            return Ok(());
        }
        writeln!(self.out, "{kind} {number:>7}: {text}")
    }

    fn keep_match(
        &mut self,
        number: u64,
        line: &[u8],
        found: &Match,
        time: Option<Timestamp>,
    ) -> io::Result<()> {
        let (host, bannable) = (host(found), matches!(found.host, Host::Address(_)));
        let user = found.user.as_deref().map(|user| printable(user.as_bytes()));
        if self.arguments.json {
            self.tally.kept.push(json!({
                "line": number, "is": "matched", "host": host, "bannable": bannable, "user": user,
                "time": time, "regex": found.regex + 1, "text": printable(line),
            }));
            return Ok(());
        }
        let note = if bannable { "" } else { " (a host name: never banned)" };
        let text = if self.colour { self.in_colour(line, found) } else { printable(line) };
        writeln!(self.out, "matched {number:>7}: {host}{note}: {text}")
    }

    /// The part that matched in bold, the host in it in red.
    fn in_colour(&self, line: &[u8], found: &Match) -> String {
        let (bold, red, plain) = ("\x1b[1m", "\x1b[1;31m", "\x1b[0m");
        let whole = self.shown.matched_part(line, found.regex).unwrap_or_else(|| found.span.clone());
        let (start, end) = (whole.start.min(found.span.start), whole.end.max(found.span.end));
        let part = |range: Range<usize>| printable(line.get(range).unwrap_or_default());
        format!(
            "{}{bold}{}{red}{}{plain}{bold}{}{plain}{}",
            part(0..start),
            part(start..found.span.start),
            part(found.span.clone()),
            part(found.span.end..end),
            part(end..line.len())
        )
    }

    fn missed_count(&self) -> u64 {
        self.tally.lines - self.tally.matched - self.tally.ignored
    }

    fn print_json(&mut self, filter: &Filter) -> io::Result<()> {
        let tally = &self.tally;
        let hits = filter.regexes().zip(&tally.hits);
        let regexes: Vec<_> = hits.map(|(regex, hits)| json!({"regex": regex, "hits": hits})).collect();
        let dates: BTreeMap<_, _> =
            tally.forms.iter().map(|(form, hits)| (form.as_deref().unwrap_or("none"), hits)).collect();
        writeln!(
            self.out,
            "{}",
            json!({
                "filter": self.what, "lines": tally.lines, "matched": tally.matched,
                "missed": self.missed_count(), "ignored": tally.ignored, "names": tally.names,
                "exhausted": filter.exhausted(), "regexes": regexes, "dates": dates,
                "warnings": filter.warnings(), "kept": tally.kept,
            })
        )
    }

    fn print(&mut self, filter: &Filter) -> io::Result<()> {
        let (tally, out) = (&self.tally, &mut self.out);
        writeln!(out, "\nHits per regex of {}:", self.what)?;
        for (index, (regex, hits)) in filter.regexes().zip(&tally.hits).enumerate() {
            writeln!(out, "{hits:>9}  {}) {regex}", index + 1)?;
        }
        if !tally.forms.is_empty() {
            writeln!(out, "Dates of the lines that matched:")?;
            for (form, hits) in &tally.forms {
                let form = form.as_deref().unwrap_or("none: these lines would count as now");
                writeln!(out, "{hits:>9}  {form}")?;
            }
        }
        if tally.names > 0 {
            writeln!(out, "{} found a host name, which is never banned", counted(tally.names, "match"))?;
        }
        if filter.exhausted() > 0 {
            writeln!(out, "{}", given_up(filter.exhausted()))?;
        }
        let missed = tally.lines - tally.matched - tally.ignored;
        writeln!(
            out,
            "\nLines: {}, {} ignored, {} matched, {missed} missed",
            counted(tally.lines, "line"),
            tally.ignored,
            tally.matched
        )
    }
}

/// What is told of lines on which a search was broken off.
pub fn given_up(lines: u64) -> String {
    let (lines, were) = (counted(lines, "line"), agreeing(lines, "was", "were"));
    format!("{lines} {were} given up, because a regex took too many steps")
}

fn host(found: &Match) -> String {
    match &found.host {
        Host::Address(address) => address.to_string(),
        Host::Name(name) => printable(name.as_bytes()),
    }
}

/// A line as it can be shown on a terminal: it is an attacker's.
pub fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    text.chars().map(|character| if character.is_control() { '·' } else { character }).collect()
}

/// Passes over that the reader of the output went away, which is no error.
pub fn quiet(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn progress(size: Option<u64>) -> ProgressBar {
    let Some(size) = size.filter(|size| *size > 1 << 20 && io::stderr().is_terminal()) else {
        return ProgressBar::hidden();
    };
    let bar = ProgressBar::new(size);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    bar
}
