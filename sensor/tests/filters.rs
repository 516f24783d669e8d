//! The filters that come with the sensor, each beside its lines: a line that must match names the address
//! and the user that it must yield, a line that must not match is mostly an attack or a second line of the
//! same attempt.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use std::collections::BTreeSet;
use std::fs::{read_dir, read_to_string};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use atalaya_sensor::filter::{Filter, FilterDefinition, Host, LineOutcome, Match, Newlines, catalogue};
use atalaya_sensor::source::journal::JournalMatch;

/// The fewest lines of each kind for a filter.
const FEWEST: usize = 8;
/// Whom an attacker would have banned.
const VICTIM: &str = "203.0.113.66";
/// How far around an address a line is cut into pieces, in bytes.
const AROUND: usize = 70;
/// How many pieces are tried in place of a name.
const TRIED: usize = 300;

/// A filter, or a mode of it, and the log beside it: `NAME.log`, or `NAME.MODE.log`.
struct Written {
    name: String,
    definition: FilterDefinition,
    log: PathBuf,
}

/// A line of a filter's log.
struct Sample<'a> {
    number: usize,
    line: &'a str,
    /// The address and the user, where the line must match.
    expected: Option<(IpAddr, &'a str)>,
}

#[test]
fn every_filter_finds_the_true_address_or_none() {
    let (mut differences, mut filters) = (Vec::new(), 0);
    for Written { name, definition, log } in written() {
        filters += 1;
        let mut filter = compiled(&name, &definition);
        let log = read_to_string(log).unwrap();
        for sample in samples(&name, &log) {
            let found = filter.find(sample.line.as_bytes());
            let address = match &found {
                LineOutcome::Matched(Match { host: Host::Address(address), user, .. }) => {
                    Some((*address, user.as_deref().unwrap_or_default()))
                }
                _ => None,
            };
            if address != sample.expected {
                let expected =
                    sample.expected.map_or_else(|| "none".to_owned(), |(address, _)| address.to_string());
                differences.push(format!(
                    "{name}.log:{}: expected {expected}, found {found:?}\n    {}",
                    sample.number, sample.line
                ));
            }
        }
    }
    assert!(filters > 0, "there are no filters");
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn no_name_made_of_pieces_of_the_lines_themselves_brings_its_address_in() {
    // Many searches: a thread for each filter.
    let mut bent: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            written().into_iter().map(|written| scope.spawn(move || bent(&written))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    bent.truncate(20);
    assert!(bent.is_empty(), "{}", bent.join("\n"));
}

#[test]
fn no_filter_has_a_regex_that_an_attacker_can_bend() {
    for Written { name, definition, .. } in written() {
        let filter = compiled(&name, &definition);
        assert!(filter.warnings().is_empty(), "{name}: {:#?}", filter.warnings());
    }
}

#[test]
fn every_filter_says_what_it_counts_and_where_its_lines_are() {
    for Written { name: place, definition: written, .. } in written() {
        assert!(!written.description.is_empty() && !written.description.contains('\n'), "{place}");
        assert!(!written.paths.is_empty(), "{place}: no paths");
        assert!(written.paths.iter().all(|path| path.starts_with('/')), "{place}: {:?}", written.paths);
        JournalMatch::parse(written.journalmatch.iter().map(String::as_str)).unwrap();
    }
}

#[test]
fn every_filter_is_part_of_the_program_and_named_where_users_look() {
    let mut names: Vec<_> = written().into_iter().map(|written| written.name).collect();
    // The modes of a filter are no names of their own.
    names.retain(|name| !name.contains('['));
    names.sort();
    let known: Vec<_> = catalogue::names().collect();
    assert_eq!(known, names, "sensor/src/filter/catalogue.rs beside sensor/filters/");
    for document in ["README.md", "docs/from-fail2ban.md"] {
        let text = read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document)).unwrap();
        let words: BTreeSet<_> = text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .map(|word| word.trim_matches('-'))
            .collect();
        let missing: Vec<_> = names.iter().filter(|name| !words.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{document} does not name {missing:?}");
    }
}

#[test]
fn every_filter_whose_daemon_may_write_a_newline_warns_of_forged_lines() {
    for Written { name, definition, .. } in written() {
        let caution = compiled(&name, &definition).caution().to_owned();
        if definition.newlines != Newlines::Escaped {
            assert!(caution.contains("forge"), "{name}: {caution:?}");
        }
    }
}

#[test]
fn every_filter_has_enough_lines_and_every_log_its_filter() {
    let mut files = BTreeSet::new();
    for Written { name, log, definition } in written() {
        let text = read_to_string(&log).unwrap();
        let samples = samples(&name, &text);
        let matching = samples.iter().filter(|sample| sample.expected.is_some()).count();
        let missing = samples.len() - matching;
        assert!(matching >= FEWEST && missing >= FEWEST, "{name}: {matching} and {missing}");
        files.extend([log, folder().join(format!("{}.toml", definition.name))]);
    }
    for entry in read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        assert!(files.contains(&path), "{} belongs to no filter, or to no mode of one", path.display());
    }
}

/// The lines with a name made of pieces that bring the pieces' address in.
fn bent(Written { name, definition, log }: &Written) -> Vec<String> {
    let mut filter = compiled(name, definition);
    let log = read_to_string(log).unwrap();
    let samples = samples(name, &log);
    let mut attacks: Vec<String> = samples.iter().flat_map(pieces).collect();
    if name == "nginx" {
        // Its names end at the first colon.
        attacks.iter_mut().for_each(|attack| *attack = attack.replace(':', ""));
    }
    if definition.json.is_some() {
        // A value in JSON.
        let escaped = |attack: &String| {
            let quoted = serde_json::to_string(attack).unwrap();
            quoted[1..quoted.len() - 1].to_owned()
        };
        attacks = attacks.iter().map(escaped).collect();
    }
    let mut bent = Vec::new();
    for (line, chosen) in samples.iter().flat_map(chosen) {
        // Another part of the pieces for every line, the same in every run.
        let stride = attacks.len() / TRIED + 1;
        for attack in attacks.iter().skip(line.len() % stride).step_by(stride) {
            let line = chosen.replace('\0', attack);
            let found = filter.find(line.as_bytes());
            if matches!(&found, LineOutcome::Matched(Match { host: Host::Address(address), .. }) if address.to_string() == VICTIM)
            {
                bent.push(format!("{name}: {line}"));
            }
        }
    }
    bent
}

/// What an attacker would write: a sample's line around its address, cut at every place that ends or begins
/// a word, with the victim's address.
fn pieces(sample: &Sample<'_>) -> BTreeSet<String> {
    let Some((address, _)) = sample.expected else { return BTreeSet::new() };
    let address = address.to_string();
    let Some(start) = sample.line.rfind(&address) else { return BTreeSet::new() };
    let end = start + address.len();
    let is_edge = |at: &usize| {
        let word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = sample.line.as_bytes();
        !(word(at.checked_sub(1).and_then(|before| bytes.get(before))) && word(bytes.get(*at)))
    };
    let begins: Vec<_> = (start.saturating_sub(AROUND)..=start).filter(is_edge).collect();
    let ends: Vec<_> = (end..=sample.line.len().min(end + AROUND)).filter(is_edge).collect();
    let piece =
        |begin: usize, last: usize| [&sample.line[begin..start], VICTIM, &sample.line[end..last]].concat();
    begins.iter().flat_map(|begin| ends.iter().map(move |last| piece(*begin, *last))).collect()
}

/// A sample's line, and the same with what its client chose, the user or the database, as `\0`; with
/// another text beside it, too.
fn chosen<'a>(sample: &Sample<'a>) -> Vec<(&'a str, String)> {
    let Some((_, user)) = sample.expected else { return Vec::new() };
    let names =
        [user, "@app", "db=app"].into_iter().filter(|name| name.len() > 2 && sample.line.contains(name));
    names
        .flat_map(|name| {
            let kept = &name[..name.rfind(['@', '=']).filter(|_| name != user).map_or(0, |at| at + 1)];
            ["\0", "x\0", "\0x", "x \0", "\0 y", "x\0y"]
                .map(|place| (sample.line, sample.line.replace(name, &[kept, place].concat())))
        })
        .collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("filters")
}

/// The filters and those of their modes that have a log, in order.
fn written() -> Vec<Written> {
    let mut paths: Vec<_> = read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let modes = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let definition: FilterDefinition = toml::from_str(&read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let definition = FilterDefinition { name: name.clone(), ..definition };
        let mut written: Vec<Written> = definition
            .modes
            .keys()
            .map(|mode| Written {
                name: format!("{name}[mode={mode}]"),
                definition: definition.clone().in_mode(mode).unwrap(),
                log: folder().join(format!("{name}.{mode}.log")),
            })
            .filter(|written| written.log.is_file())
            .collect();
        written.insert(0, Written { log: folder().join(format!("{name}.log")), name, definition });
        written
    };
    paths.into_iter().flat_map(modes).collect()
}

fn compiled(name: &str, definition: &FilterDefinition) -> Filter {
    definition.compile().unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The lines of a log: `! ADDRESS | USER | LINE` must match, `- LINE` must not, `#` begins a comment.
fn samples<'a>(name: &str, log: &'a str) -> Vec<Sample<'a>> {
    let sample = |(index, text): (usize, &'a str)| {
        let number = index + 1;
        if text.is_empty() || text.starts_with('#') {
            return None;
        }
        if let Some(line) = text.strip_prefix("- ") {
            return Some(Sample { number, line, expected: None });
        }
        let parts = text.strip_prefix("! ").and_then(|rest| {
            let (address, rest) = rest.split_once(" |")?;
            let (user, line) = rest.split_once("| ")?;
            Some((address.parse().ok()?, user.trim(), line))
        });
        let (address, user, line) =
            parts.unwrap_or_else(|| panic!("{name}:{number}: expected `! ADDRESS | USER | LINE`: {text}"));
        Some(Sample { number, line, expected: Some((address, user)) })
    };
    log.lines().enumerate().filter_map(sample).collect()
}
