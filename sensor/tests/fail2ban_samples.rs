//! The sample lines of fail2ban's own tests through its own filters, as Debian's packages of it have both: each line is
//! judged as fail2ban's test demands. None of its text is in this repository.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod package;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use atalaya_sensor::fail2ban::Fail2ban;
use atalaya_sensor::filter::{Filter, Host, LineOutcome};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use package::package;
use serde_json::Value;

/// Their tests' clock and zone, in POSIX's words.
const NOW: i64 = 1_124_013_600;
const ZONE: &str = "CET-1CEST-2,M3.5.0,M10.5.0";

/// One run of sample lines through the filters of their files, in the way of fail2ban's own test.
struct Corpus {
    name: String,
    read: Fail2ban,
    filters: BTreeMap<String, Result<Filter, String>>,
    checks: usize,
    differences: Vec<String>,
}

impl Corpus {
    /// Checks all lines of a file and of those that it adds.
    fn check_file(&mut self, path: &Path) {
        let mut files = vec![path.to_owned()];
        let mut common = serde_json::Map::new();
        let mut sets: Vec<serde_json::Map<String, Value>> = vec![serde_json::Map::new()];
        let mut next = 0;
        while let Some(path) = files.get(next).cloned() {
            next += 1;
            let mut skipped = false;
            let mut expected = Value::Null;
            for line in std::fs::read(&path).unwrap().split(|byte| *byte == b'\n') {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                // What their test takes for an instruction: `# failJSON: {…}`, also `##failJSON:`.
                let text = String::from_utf8_lossy(line);
                let comment = text.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim_start());
                let instruction = comment.and_then(|comment| comment.split_once(':')).filter(|(word, _)| {
                    ["failJSON", "fileOptions", "filterOptions", "addFILE"].contains(word)
                });
                if let Some((word, json)) = instruction {
                    let value: Value = serde_json::from_str(json.trim()).unwrap();
                    match word {
                        "fileOptions" => common.clone_from(value.as_object().unwrap()),
                        "addFILE" => files.push(path.with_file_name(value.as_str().unwrap())),
                        "filterOptions" => {
                            let list = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                            sets.clear();
                            skipped = false;
                            for own in list {
                                let mut set = common.clone();
                                set.extend(own.as_object().unwrap().clone());
                                let condition = set.get("test.condition").and_then(Value::as_str);
                                skipped = condition.is_some_and(|condition| !self.holds(condition, &set));
                                if !skipped {
                                    sets.push(set);
                                }
                            }
                        }
                        _ => expected = value,
                    }
                    continue;
                }
                let annotated = !expected.is_null();
                if skipped || (!annotated && (line.starts_with(b"#") || line.trim_ascii().is_empty())) {
                    expected = Value::Null;
                    continue;
                }
                let expected = std::mem::take(&mut expected);
                for set in &sets {
                    let constraint = expected["constraint"].as_str();
                    if constraint.is_none_or(|constraint| self.holds(constraint, set)) {
                        self.check_line(set, line, &expected);
                    }
                }
            }
        }
    }

    /// The few conditions that their files hold, which are Python there.
    fn holds(&self, condition: &str, set: &serde_json::Map<String, Value>) -> bool {
        let mode = set.get("mode").and_then(Value::as_str);
        match condition.replace(' ', "").as_str() {
            "name=='sshd'" => self.name == "sshd",
            "opts.get('mode')=='aggressive'" => mode == Some("aggressive"),
            "opts.get('mode')!='aggressive'" => mode != Some("aggressive"),
            other => panic!("an unknown condition in {}: {other}", self.name),
        }
    }

    fn check_line(&mut self, set: &serde_json::Map<String, Value>, line: &[u8], expected: &Value) {
        let options: Vec<String> = set
            .iter()
            .filter(|(name, _)| !name.starts_with("test."))
            .map(|(name, value)| format!("{name}=\"{}\"", value.as_str().unwrap()))
            .collect();
        let options = if options.is_empty() { String::new() } else { format!("[{}]", options.join(", ")) };
        let filter = format!("{}{options}", self.name);
        self.checks += 1;
        let read = &self.read;
        let compiled = self.filters.entry(filter.clone()).or_insert_with(|| {
            let definition = read.filter(&filter).map_err(|error| error.to_string())?;
            definition.compile().map_err(|error| error.to_string())
        });
        let text = String::from_utf8_lossy(line);
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(error) => {
                self.differences.push(format!("{filter}: {error}: {text}"));
                return;
            }
        };
        let now = Timestamp::from_second(NOW).unwrap();
        let journal = set.get("logtype").and_then(Value::as_str) == Some("journal");
        let verdict = if journal {
            let prefix = set.get("test.prefix-line").and_then(Value::as_str).unwrap_or_default();
            compiled.find_message(&[prefix.as_bytes(), line].concat())
        } else {
            compiled.find(line)
        };
        let found = match verdict {
            LineOutcome::Matched(found) => Some(found),
            _ => None,
        };
        let matches = expected["match"].as_bool().unwrap_or(false);
        let mut wrong = Vec::new();
        if found.is_some() != matches {
            wrong.push(format!("matched: {}, not {matches}", found.is_some()));
        }
        if let Some(found) = found.filter(|_| matches) {
            let host = match found.host {
                Host::Address(address) => address.to_string(),
                Host::Name(name) => name,
            };
            // The same address may be written in several ways.
            let canonical = |host: &str| {
                host.parse().map_or_else(|_| host.to_owned(), |address: std::net::IpAddr| address.to_string())
            };
            let stated = expected["host"].as_str().or(expected["dns"].as_str()).map(canonical);
            if stated.as_ref().is_some_and(|stated| *stated != host) {
                wrong.push(format!("host: {host}, not {}", stated.unwrap_or_default()));
            }
            if let Some(user) = expected["user"].as_str()
                && found.user.as_deref().unwrap_or_default() != user
            {
                wrong.push(format!("user: {:?}, not {user}", found.user));
            }
            let zone = TimeZone::posix(ZONE).unwrap();
            if let Some(time) = expected["time"].as_str().filter(|_| !journal) {
                // Theirs need not be padded: `2005-8-14T10:00:00`.
                let stated =
                    DateTime::strptime("%Y-%m-%dT%H:%M:%S", time.split('.').next().unwrap()).unwrap();
                let stated = zone.to_timestamp(stated).unwrap().as_second();
                let dated = found.dated.as_deref().unwrap_or(line);
                let found = compiled.dates().find(dated, now, &zone).map(|date| date.time.as_second());
                if found != Some(stated) {
                    let found = found.map(|second| Timestamp::from_second(second).unwrap().to_string());
                    wrong.push(format!("time: {found:?}, not {time}"));
                }
            }
        }
        if !wrong.is_empty() {
            self.differences.push(format!("{filter}: {}: {text}", wrong.join("; ")));
        }
    }
}

/// Match or not, the host, the time to the second, and the user where one is stated: all sample lines of a suite's
/// package, which are at least so many.
fn judge_samples(suite: &str, at_least: usize) {
    let package = package(suite);
    let tests = package.join("usr/lib/python3/dist-packages/fail2ban/tests");
    // Two of their tests' own filters lie as in fail2ban's sources, to which they refer: seven folders up in Debian 12's
    // package, which was built deeper, and four in the newer ones.
    let sources = tempfile::tempdir().unwrap();
    let inner = sources.path().join("a/b/c/d/e/config");
    std::fs::create_dir_all(inner.parent().unwrap()).unwrap();
    let copies = [
        (package.join("etc/fail2ban"), sources.path().join("config")),
        (package.join("etc/fail2ban"), sources.path().join("a/b/c/config")),
        (tests.join("config"), inner.clone()),
    ];
    for (from, to) in &copies {
        assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
    }
    let folders = [package.join("etc/fail2ban"), inner];
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(tests.join("files/logs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    // Every filter loads; what is shared by several is none by itself.
    let stock = Fail2ban::read(&folders[0]).unwrap();
    for entry in std::fs::read_dir(folders[0].join("filter.d")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(name) = name.strip_suffix(".conf").filter(|name| !name.ends_with("common")) {
            stock.filter(name).unwrap().compile().unwrap();
        }
    }
    let (mut checks, mut differences, mut filters) = (0, Vec::new(), 0);
    for path in files.iter().filter(|path| path.is_file()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let holds_it = |folder: &&PathBuf| folder.join(format!("filter.d/{name}.conf")).exists();
        let Some(folder) = folders.iter().find(holds_it) else { continue };
        let read = Fail2ban::read(folder).unwrap();
        let mut corpus = Corpus { name, read, filters: BTreeMap::new(), checks: 0, differences: Vec::new() };
        corpus.check_file(path);
        filters += 1;
        checks += corpus.checks;
        differences.append(&mut corpus.differences);
    }
    let same = checks - differences.len();
    let percent = same as f64 * 100.0 / checks as f64;
    println!("{same} of {checks} checks of {filters} filters are the same: {percent:.2} %");
    differences.iter().for_each(|difference| println!("{difference}"));
    assert!(checks >= at_least, "only {checks} checks");
    assert!(differences.is_empty(), "only {percent:.2} %:\n{}", differences.join("\n"));
}

#[test]
fn the_sample_lines_of_debian_12_are_judged_as_fail2ban_judges_them() {
    judge_samples("bookworm", 1627);
}

#[test]
#[ignore = "of a newer fail2ban: `cargo xtask test --all` fetches it and runs this"]
fn the_sample_lines_of_debian_13_are_judged_as_fail2ban_judges_them() {
    judge_samples("trixie", 1671);
}

#[test]
#[ignore = "of a newer fail2ban: `cargo xtask test --all` fetches it and runs this"]
fn the_sample_lines_of_sid_are_judged_as_fail2ban_judges_them() {
    judge_samples("sid", 1811);
}
