//! fail2ban's configuration as we read it, beside fail2ban's own reading of the same files. They are
//! Debian's package, unpacked by `cargo xtask setup`; none of its text is in this repository.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use atalaya_sensor::fail2ban::{Fail2ban, JailDefinition};
use atalaya_sensor::filter::{Host, Verdict};
use serde_json::Value;

/// Prints what fail2ban's client would tell its server, as JSON, a list of words a line.
const DUMP: &str = r"
import ast, json, subprocess, sys
root, folder = sys.argv[1:]
client = [sys.executable, '-W', 'ignore', root + '/usr/bin/fail2ban-client', '-c', folder, '-d']
environment = {'PYTHONPATH': root + '/usr/lib/python3/dist-packages', 'PATH': '/usr/bin:/bin'}
done = subprocess.run(client, env=environment, stdout=subprocess.PIPE, text=True, check=True)
for line in done.stdout.splitlines():
    if line.startswith('['):
        print(json.dumps(ast.literal_eval(line)))
";

/// Where Debian's package lies unpacked.
fn package() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let package = target.join("fail2ban");
    assert!(
        package.join("etc/fail2ban/jail.conf").is_file(),
        "fail2ban's files are not in {}: run `cargo xtask setup`",
        package.display()
    );
    package
}

/// A copy of the stock configuration, with a `jail.local` of the test's.
fn folder(jail_local: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let status =
        Command::new("cp").arg("-r").arg(package().join("etc/fail2ban/.")).arg(folder.path()).status();
    assert!(status.unwrap().success());
    std::fs::write(folder.path().join("jail.local"), jail_local).unwrap();
    folder
}

/// What fail2ban makes of each jail: its options, lists among them joined by newlines.
fn theirs(folder: &Path) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let output = Command::new("python3").args(["-c", DUMP]).arg(package()).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let words = |value: &Value| match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().map(|word| word.as_str().unwrap_or_default().to_owned()).collect(),
        other => vec![other.to_string()],
    };
    let mut jails: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let command: Vec<Value> = serde_json::from_str(line).unwrap();
        let [verb, jail, option, rest @ ..] = &command[..] else { continue };
        let (Some("set" | "multi-set"), Some(jail), Some(option)) =
            (verb.as_str(), jail.as_str(), option.as_str())
        else {
            continue;
        };
        let value: Vec<String> = rest.iter().flat_map(words).collect();
        let set = jails.entry(jail.to_owned()).or_default();
        match option {
            "addjournalmatch" => set.entry(option.to_owned()).or_default().push(value.join(" ")),
            // What the server took last is what holds.
            _ => drop(set.insert(option.to_owned(), value)),
        }
    }
    jails
}

/// The same of ours.
fn ours(jail: &JailDefinition) -> BTreeMap<&'static str, Vec<String>> {
    let filter = &jail.filter;
    let one = |text: &Option<String>| text.clone().into_iter().collect::<Vec<_>>();
    BTreeMap::from([
        ("addfailregex", filter.failregex.clone()),
        ("addignoreregex", filter.ignoreregex.clone()),
        ("prefregex", one(&filter.prefregex)),
        ("datepattern", one(&filter.datepattern)),
        ("usedns", one(&filter.usedns)),
        ("addjournalmatch", filter.journalmatch.iter().map(|line| line.replace(['"', '\''], "")).collect()),
        ("findtime", one(&jail.options.get("findtime").cloned())),
        ("bantime", one(&jail.options.get("bantime").cloned())),
        ("maxretry", one(&jail.options.get("maxretry").cloned())),
    ])
}

/// Compares every jail of a folder; how many there were.
fn compare(folder: &Path) -> usize {
    let theirs = theirs(folder);
    let read = Fail2ban::read(folder).unwrap();
    let mut differences = Vec::new();
    let enabled = read.enabled();
    for (name, jail) in &enabled {
        let jail = match jail {
            Ok(jail) => jail,
            Err(error) => {
                differences.push(format!("{name}: {error}"));
                continue;
            }
        };
        let Some(theirs) = theirs.get(*name) else {
            differences.push(format!("{name}: fail2ban does not read it"));
            continue;
        };
        let maxlines = jail.filter.maxlines.to_string();
        if theirs.get("maxlines").is_some_and(|lines| *lines != [maxlines.clone()]) {
            differences.push(format!("{name}: maxlines {maxlines} is not {:?}", theirs["maxlines"]));
        }
        for (option, ours) in ours(jail) {
            let theirs = theirs.get(option).cloned().unwrap_or_default();
            let blank = |list: &[String]| list.iter().all(|text| text.trim().is_empty());
            if ours != theirs && !(blank(&ours) && blank(&theirs)) {
                differences.push(format!("{name}: {option}\n  ours   {ours:?}\n  theirs {theirs:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    enabled.len()
}

#[test]
fn every_stock_jail_is_read_as_fail2ban_reads_it() {
    let folder = folder("[DEFAULT]\nenabled = true\naction =\n");
    assert!(compare(folder.path()) > 80);
}

#[test]
fn every_stock_filter_with_default_options_is_read_as_fail2ban_reads_it() {
    let mut jails = String::from("[DEFAULT]\naction =\nlogpath = /dev/null\n");
    let mut filters: Vec<String> = std::fs::read_dir(package().join("etc/fail2ban/filter.d"))
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".conf")?.to_owned()))
        .filter(|name| !name.ends_with("-common") && name != "common")
        .collect();
    filters.sort_unstable();
    for filter in &filters {
        jails.push_str(&format!("[every-{filter}]\nenabled = true\nfilter = {filter}\n"));
    }
    let folder = folder(&jails);
    // And `sshd`, which Debian enables.
    assert_eq!(compare(folder.path()), filters.len() + 1);
    assert!(filters.len() > 85, "{} filters", filters.len());
}

#[test]
fn modes_layers_and_known_are_read_as_fail2ban_reads_them() {
    let folder = folder(
        "[DEFAULT]\naction =\nbantime = 1h\n\
         [sshd]\nenabled = true\nfilter = sshd[mode=aggressive, publickey=any]\nmaxretry = 3\n\
         failregex = %(known/failregex)s\n  ^another <HOST>$\n\
         [postfix]\nenabled = true\nmode = more\n\
         [dovecot]\nenabled = true\nbackend = systemd\n\
         [twice]\nenabled = true\nfilter = %(sshd/filter)s[logtype=journal]\nbantime = %(sshd/maxretry)sh\n",
    );
    let write = |path: &str, text: &str| std::fs::write(folder.path().join(path), text).unwrap();
    write("jail.d/20.conf", "[sshd]\nfindtime = 20m\n");
    write("jail.d/10.conf", "[sshd]\nfindtime = 10m\nmaxretry = 9\n");
    write("jail.d/zz.local", "[sshd]\nbantime = 2h\nmaxretry = %(known/maxretry)s0\n");
    write("filter.d/dovecot.local", "[Definition]\nfailregex = %(known/failregex)s\n  ^mine <ADDR>$\n");
    assert_eq!(compare(folder.path()), 4);
}

#[test]
fn a_jails_mistake_is_its_own() {
    let folder = folder(
        "[a]\nenabled = true\nfilter = not-there\n[b]\nenabled = perhaps\n\
         [c]\nenabled = true\nfilter = sshd[mode\n[d]\nenabled = true\nfilter = sshd\nfindtime = %(nothing)s\n\
         [e]\nenabled = true\nfilter = circle\n[f]\nenabled = true\nfilter = itself\n\
         [good]\nenabled = true\nfilter = sshd\n",
    );
    let write = |path: &str, text: &str| std::fs::write(folder.path().join(path), text).unwrap();
    write("filter.d/circle.conf", "[Definition]\nx = %(failregex)s\nfailregex = %(x)s\n");
    write("filter.d/itself.conf", "[INCLUDES]\nbefore = itself.conf\n[Definition]\nfailregex = ^<ADDR>$\n");
    let read = Fail2ban::read(folder.path()).unwrap();
    let found: BTreeMap<&str, String> = read
        .enabled()
        .into_iter()
        .map(|(name, jail)| {
            (
                name,
                jail.map_or_else(|error| error.to_string(), |jail| jail.filter.failregex.len().to_string()),
            )
        })
        .collect();
    assert!(found["a"].contains("filter.d/not-there.conf: is not there"), "{}", found["a"]);
    assert!(found["b"].contains("jail.local:5: `enabled` of jail `b` is `perhaps`"), "{}", found["b"]);
    assert!(found["c"].contains("jail.local:8: `sshd[mode`: a `[` is not closed"), "{}", found["c"]);
    assert!(
        found["d"].contains("jail.local:12: `findtime` refers to %(nothing)s, which is not set"),
        "{}",
        found["d"]
    );
    assert!(found["e"].contains("circle.conf:3: `failregex` refers to itself"), "{}", found["e"]);
    assert_eq!(found["f"], "1");
    assert!(found["good"].parse::<usize>().unwrap() > 10, "{}", found["good"]);
}

/// A line of a sample log, and what fail2ban's own tests say of it.
struct Sample {
    /// Under which options of the filter it is tried.
    options: Vec<String>,
    expected: Value,
    line: Vec<u8>,
}

/// The lines of a sample log. Those that hold only under a condition on the test itself are left out.
fn samples(path: &Path, into: &mut Vec<Sample>) {
    let text = std::fs::read(path).unwrap();
    let mut options = vec![String::new()];
    let mut expected = Value::Null;
    let set = |option: &Value| {
        let pairs = option.as_object().into_iter().flatten();
        let pairs: Vec<String> = pairs
            .map(|(name, value)| {
                format!("{name}=\"{}\"", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            })
            .collect();
        if pairs.is_empty() { String::new() } else { format!("[{}]", pairs.join(", ")) }
    };
    for line in text.split(|byte| *byte == b'\n') {
        let comment =
            std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix('#')).map(str::trim_start);
        let Some(comment) = comment else {
            if !line.trim_ascii().is_empty() {
                let expected = std::mem::take(&mut expected);
                if expected.get("constraint").is_none() {
                    into.push(Sample { options: options.clone(), expected, line: line.to_vec() });
                }
            }
            continue;
        };
        if let Some(json) = comment.strip_prefix("failJSON:") {
            expected = serde_json::from_str(json).unwrap_or(Value::Null);
        } else if let Some(json) = comment.strip_prefix("filterOptions:") {
            let list: Value = serde_json::from_str(json).unwrap();
            options = match &list {
                Value::Array(list) => list.iter().map(set).collect(),
                one => vec![set(one)],
            };
        } else if let Some(json) = comment.strip_prefix("addFILE:") {
            let name: String = serde_json::from_str(json).unwrap();
            samples(&path.with_file_name(name), into);
        }
    }
}

/// Match or not, and the host. fail2ban's own tests also hold the time and the user.
#[test]
fn most_sample_lines_are_judged_as_fail2ban_judges_them() {
    let folder = package().join("etc/fail2ban");
    let read = Fail2ban::read(&folder).unwrap();
    let logs = package().join("usr/lib/python3/dist-packages/fail2ban/tests/files/logs");
    let (mut checks, mut same, mut unsupported) = (0, 0, 0);
    let mut differences = Vec::new();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    for path in files.iter().filter(|path| path.is_file()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if !folder.join(format!("filter.d/{name}.conf")).exists() {
            continue;
        }
        let mut lines = Vec::new();
        samples(path, &mut lines);
        let mut sets: Vec<String> = lines.iter().flat_map(|sample| sample.options.clone()).collect();
        sets.sort_unstable();
        sets.dedup();
        for options in sets {
            let lines: Vec<&Sample> =
                lines.iter().filter(|sample| sample.options.contains(&options)).collect();
            checks += lines.len();
            let filter = read.filter(&format!("{name}{options}")).map_err(|error| error.to_string());
            let Ok(mut filter) = filter.and_then(|definition| definition.compile()) else {
                unsupported += lines.len();
                continue;
            };
            for Sample { expected, line, .. } in lines {
                let found = match filter.find(line) {
                    Verdict::Matched(found) => Some(match found.host {
                        Host::Address(address) => address.to_string(),
                        Host::Name(name) => name,
                    }),
                    _ => None,
                };
                let matches = expected["match"].as_bool().unwrap_or(false);
                let host = expected["host"].as_str().filter(|_| matches);
                let host = host.map(|host| {
                    host.parse()
                        .map_or_else(|_| host.to_owned(), |address: std::net::IpAddr| address.to_string())
                });
                if found.is_some() == matches && (host.is_none() || found == host) {
                    same += 1;
                } else {
                    differences.push(format!(
                        "{name}{options}: found {found:?}, not {host:?}: {}",
                        String::from_utf8_lossy(line)
                    ));
                }
            }
        }
    }
    println!(
        "{same} of {checks} checks are the same; {unsupported} are of filters that are not supported yet"
    );
    differences.iter().for_each(|difference| println!("{difference}"));
    // What is reached so far, which may not fall; fail2ban's own count is the goal.
    assert!(same * 100 >= checks * 75, "only {same} of {checks}");
}
