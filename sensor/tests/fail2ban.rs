//! fail2ban's configuration as we read it, beside fail2ban's own reading of the same files. They are
//! Debian's package, unpacked by `cargo xtask setup`; none of its text is in this repository.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod package;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use atalaya_sensor::fail2ban::{Fail2ban, JailDefinition};
use atalaya_sensor::filter::Filter;
use package::package;
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

/// A copy of Debian 12's stock configuration, with a `jail.local` of the test's.
fn folder(jail_local: &str) -> tempfile::TempDir {
    folder_of(&package("bookworm"), jail_local)
}

/// The same of any package.
fn folder_of(package: &Path, jail_local: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("cp").arg("-r").arg(package.join("etc/fail2ban/.")).arg(folder.path()).status();
    assert!(status.unwrap().success());
    std::fs::write(folder.path().join("jail.local"), jail_local).unwrap();
    folder
}

/// What fail2ban makes of each jail: its options, lists among them joined by newlines.
fn theirs(package: &Path, folder: &Path) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let output = Command::new("python3").args(["-c", DUMP]).arg(package).arg(folder).output().unwrap();
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
        ("bantime.factor", one(&jail.options.get("bantime.factor").cloned())),
        ("bantime.rndtime", one(&jail.options.get("bantime.rndtime").cloned())),
        (
            "addignoreip",
            jail.option("ignoreip").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        ),
    ])
}

/// Compares every jail of a folder with what Debian 12's fail2ban makes of it; how many there were.
fn compare(folder: &Path) -> usize {
    compare_with(&package("bookworm"), folder)
}

/// The same with any fail2ban.
fn compare_with(package: &Path, folder: &Path) -> usize {
    let theirs = theirs(package, folder);
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

/// Every jail, and every filter with its default options.
fn compare_stock(suite: &str) {
    let package = package(suite);
    let all = folder_of(&package, "[DEFAULT]\nenabled = true\naction =\n");
    let jails = compare_with(&package, all.path());
    println!("{jails} jails of {suite}");
    assert!(jails > 80, "{jails} jails");

    let mut jails = String::from("[DEFAULT]\naction =\nlogpath = /dev/null\n");
    let mut filters: Vec<String> = std::fs::read_dir(package.join("etc/fail2ban/filter.d"))
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".conf")?.to_owned()))
        .filter(|name| !name.ends_with("-common") && name != "common")
        .collect();
    filters.sort_unstable();
    for filter in &filters {
        jails.push_str(&format!("[every-{filter}]\nenabled = true\nfilter = {filter}\n"));
    }
    let folder = folder_of(&package, &jails);
    // And `sshd`, which Debian enables.
    assert_eq!(compare_with(&package, folder.path()), filters.len() + 1);
    assert!(filters.len() > 85, "{} filters", filters.len());
}

#[test]
fn every_stock_jail_and_filter_of_debian_12_is_read_as_fail2ban_reads_it() {
    compare_stock("bookworm");
}

#[test]
#[ignore = "of a newer fail2ban: `cargo xtask test --all` fetches it and runs this"]
fn every_stock_jail_and_filter_of_debian_13_is_read_as_fail2ban_reads_it() {
    compare_stock("trixie");
}

#[test]
#[ignore = "of a newer fail2ban: `cargo xtask test --all` fetches it and runs this"]
fn every_stock_jail_and_filter_of_sid_is_read_as_fail2ban_reads_it() {
    compare_stock("sid");
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

/// Forms of `jail.local` as people publish them.
#[test]
fn published_forms_of_jails_are_read_as_fail2ban_reads_them() {
    const FORMS: &str = r#"
; a comment of the other kind
[INCLUDES]
before = paths-debian.conf
after  = paths-overrides.local

[Default]
bantime = 1m

[DEFAULT]
action =
logpath = /dev/null
ignoreip = 127.0.0.1/8
	::1
	10.1.1.0/24
bantime.increment = true
bantime.rndtime = 8m ; so that nobody knows
bantime  = 8640000
findtime: 10m
maxmatches = %(maxretry)s
fail2ban_agent = Fail2Ban/%(fail2ban_version)s
banaction = nftables[type=multiport]
action_x = %(banaction)s[port="%(port)s", protocol="%(protocol)s"]

[sshd]
Enabled = TRUE
mode    = aggressive
port    = 2222,ssh
logpath = %(sshd_log)s
backend = %(sshd_backend)s
maxretry = 3
bantime = -1

[sshd-long]
enabled = yes
filter  = sshd[mode="extra", publickey=invalid]
           [logtype=short]
bantime.factor = 24
findtime = %(sshd/findtime)s
maxretry = %(sshd/maxretry)s

[nginx-http-auth]
enabled = on
filter = nginx-http-auth
port = http,https
logpath = /dev/null
          /dev/zero

[web]
enabled = 1
filter =
failregex = ^<HOST> -.*"(GET|POST).*/wp-login\.php
            ^<HOST> -.*"GET /\.env HTTP/1\.[01]" 404
ignoreregex = \.(jpg|png|css) ; pictures
datepattern = %%d/%%b/%%Y:%%H:%%M:%%S %%z

[traefik]
enabled = true
filter = apache-auth
failregex = %(known/failregex)s
            ^<HOST> - \S+ \[\] \"[A-Z]+ .+\" 401 .+$
usedns = no
maxretry = 10
    
[mail]
enabled = true
filter = postfix[mode=auth]
journalmatch = _SYSTEMD_UNIT=postfix@-.service + _COMM=smtpd
backend = systemd[journalflags=1]

[named]
enabled = true
filter = named-refused
findtime = 1d
[recidive]
enabled  = true
filter   = recidive
logpath  = /dev/null
findtime = 1d
maxretry = 5
bantime  = 1w
"#;
    let folder = folder(FORMS);
    std::fs::remove_file(folder.path().join("jail.d/defaults-debian.conf")).unwrap();
    assert_eq!(compare(folder.path()), 8);
}

/// What would count nothing, or does not reach what it is meant for, is said where it is; what does is no news.
#[test]
fn what_of_a_jail_does_nothing_is_said_of_that_jail() {
    let folder = folder(
        "[DEFAULT]\nlogpath = /dev/null\n\
         [unknown-logtype]\nenabled = true\nfilter = sshd[logtype=jurnal]\n\
         [unknown-mode]\nenabled = true\nfilter = sshd[mode=agressive]\n\
         [postfix]\nenabled = true\nmode = auth\n\
         [idle]\nenabled = true\nfilter = sshd\nmode = aggressive\nport = 22\n\
         [recidive]\nenabled = true\n\
         [mails]\nenabled = true\nfilter = sshd\naction = %(action_mwl)s\n  my-script[x=\"a b\"]\n",
    );
    std::fs::remove_file(folder.path().join("jail.d/defaults-debian.conf")).unwrap();
    let imported = atalaya_sensor::fail2ban::import(folder.path()).unwrap();
    let names: Vec<&str> = imported.jails.iter().map(|jail| jail.policy.name.as_str()).collect();
    assert_eq!(names, ["postfix", "recidive", "idle", "mails"], "{:?}", imported.left_out);
    let left_out: BTreeMap<&str, &str> =
        imported.left_out.iter().map(|(name, reason)| (name.as_str(), reason.as_str())).collect();
    let logtype = left_out["unknown-logtype"];
    assert!(
        logtype.contains("needs <lt_jurnal/__prefix_line>, which is not set")
            && logtype.ends_with("the filter does not know the logtype `jurnal`"),
        "{logtype}"
    );
    let mode = left_out["unknown-mode"];
    assert!(mode.ends_with("the filter does not know the mode `agressive`"), "{mode}");
    let notes = imported.notes.join("\n");
    for (jail, says) in [
        ("recidive", "will find nothing while fail2ban is stopped"),
        ("mails", "does not run sendmail-whois-lines, my-script: "),
        (
            "idle",
            "sets `mode`, which does not reach its filter, here as in fail2ban: write it as in filter = sshd[mode=…]",
        ),
    ] {
        let said = imported
            .notes
            .iter()
            .any(|note| note.starts_with(&format!("jail {jail} ")) && note.contains(says));
        assert!(said, "{jail} {says}:\n{notes}");
    }
    assert!(!notes.contains("jail postfix sets"), "{notes}");
    let unused = imported.notes.iter().find(|note| note.starts_with("not used here")).unwrap();
    assert!(!unused.contains("mode") && unused.contains("port"), "{unused}");
    let toml = atalaya_sensor::fail2ban::as_toml(folder.path()).unwrap();
    assert!(toml.contains("# jail recidive reads the log in which fail2ban writes its bans"), "{toml}");
}

/// Each mistake is its jail's alone, and says where it is and what would be right.
#[test]
fn broken_filters_are_told_and_the_other_jails_run() {
    let folder = folder(
        "[DEFAULT]\nlogpath = /dev/null\nenabled = true\n[INCLUDES]\n[good]\nfilter = good\n[itself]\nfilter = itself\n\
         [circle]\nfilter = circle\n[regex]\nfilter = regex\n[date]\nfilter = date\n[missing]\nfilter = nowhere\n\
         [folder]\nfilter = folder\n[spared]\nfilter = good\nignoreip = 10.0.0.1-9\n",
    );
    let filters = folder.path().join("filter.d");
    for (name, text) in [
        ("good", "[Definition]\nfailregex = ^bad from <HOST>$\n"),
        ("itself", "[INCLUDES]\nbefore = itself.conf\n[Definition]\nfailregex = ^bad from <HOST>$\n"),
        ("circle", "[Definition]\nfailregex = ^%(one)s <HOST>$\none = %(two)s\ntwo = %(one)s\n"),
        ("regex", "[Definition]\nfailregex = ^(bad from <HOST>$\n"),
        ("date", "[Definition]\nfailregex = ^bad from <HOST>$\ndatepattern = ^%%Q\n"),
    ] {
        std::fs::write(filters.join(format!("{name}.conf")), text).unwrap();
    }
    std::fs::create_dir(filters.join("folder.conf")).unwrap();
    // Only the jails of this test: what is stock is disabled in its own sections.
    let jails = std::fs::read_to_string(folder.path().join("jail.conf")).unwrap();
    let defaults: String = jails.split("\n[sshd]").next().unwrap().to_owned();
    std::fs::write(folder.path().join("jail.conf"), defaults).unwrap();
    for entry in std::fs::read_dir(folder.path().join("jail.d")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }

    let imported = atalaya_sensor::fail2ban::import(folder.path()).unwrap();
    let names: Vec<String> = imported.jails.iter().map(|jail| jail.policy.name.to_string()).collect();
    assert_eq!(names, ["good", "itself"], "{:?}", imported.left_out);
    for (jail, says) in [
        ("circle", "circle"),
        ("regex", "unclosed group"),
        ("date", "%Q"),
        ("missing", "nowhere"),
        ("folder", "folder.conf"),
        ("spared", "10.0.0.1-9"),
    ] {
        let reason =
            imported.left_out.iter().find(|(name, _)| name == jail).map(|(_, reason)| reason.as_str());
        assert!(reason.is_some_and(|reason| reason.contains(says)), "{jail}: {reason:?}");
    }
}

#[test]
fn an_import_of_debian_12_is_read_back_as_the_same_jails() {
    import_stock("bookworm");
}

#[test]
#[ignore = "of a newer fail2ban: `cargo xtask test --all` fetches it and runs this"]
fn an_import_of_debian_13_is_read_back_as_the_same_jails() {
    import_stock("trixie");
}

#[test]
#[ignore = "of a newer fail2ban: `cargo xtask test --all` fetches it and runs this"]
fn an_import_of_sid_is_read_back_as_the_same_jails() {
    import_stock("sid");
}

/// All stock jails run here, and mean as TOML what they mean where they lie.
fn import_stock(suite: &str) {
    let jail_local = "[DEFAULT]\nenabled = true\naction =\nignoreip = 192.0.2.0/24 office.example\n";
    let folder = folder_of(&package(suite), jail_local);
    let imported = atalaya_sensor::fail2ban::import(folder.path()).unwrap();
    assert_eq!(imported.left_out, []);
    let text = atalaya_sensor::fail2ban::as_toml(folder.path()).unwrap();
    let config = atalaya_sensor::config::Config::parse(&text, Path::new("imported.toml")).unwrap();
    assert_eq!(config.jails.len(), imported.jails.len());
    for theirs in &imported.jails {
        let name = theirs.policy.name.as_str();
        let ours = config.jails.iter().find(|jail| jail.policy.name.as_str() == name).unwrap();
        let policy = |jail: &atalaya_sensor::jail::settings::JailConfig| {
            let policy = &jail.policy;
            (policy.maxretry, policy.findtime, policy.bantime, Vec::<String>::from(policy.ignore.clone()))
        };
        assert_eq!(policy(ours), policy(theirs), "{name}");
        assert_eq!(ours.ignore.names, theirs.ignore.names, "{name}");
        let regexes = |config: &atalaya_sensor::jail::settings::JailConfig| match &config.source {
            atalaya_sensor::jail::source::JailSource::Files { paths, filter } => {
                (paths.clone(), filter.regexes().map(str::to_owned).collect::<Vec<_>>())
            }
            atalaya_sensor::jail::source::JailSource::Journal { filter, .. } => {
                (Vec::new(), filter.regexes().map(str::to_owned).collect())
            }
            _ => panic!("{name} reads something else"),
        };
        assert_eq!(regexes(ours), regexes(theirs), "{name}");
    }
}

/// Long lines that an attacker may bring into a log, made of what filters look for.
fn hostile_lines() -> Vec<Vec<u8>> {
    const LENGTH: usize = 64 * 1024;
    let pieces = [
        "[1.1.1.1]",
        "1.1.1.1 ",
        "a",
        " ",
        "((((",
        " from 1.1.1.1 port 22 ",
        "Failed password for invalid user ",
        "user=<a>, ",
        ": ",
        "\"\\\"",
        "Sep  5 11:17:32 ",
        "2025-09-05 11:17:32 ",
        "\u{fffd}\u{e9}",
        "::1:",
    ];
    let starts = [
        "",
        "Sep  5 11:17:32 web sshd[1]: Failed password for ",
        "Sep  5 11:17:32 web dovecot: imap-login: Aborted login (auth failed, 1 attempts): user=<",
        "1.1.1.1 - - [05/Sep/2025:11:17:32 +0000] \"GET ",
    ];
    let mut lines = Vec::new();
    for start in starts {
        for piece in pieces {
            lines.push(format!("{start}{}", piece.repeat(LENGTH / piece.len())).into_bytes());
        }
    }
    lines
}

/// A search is given up after so many steps, and everything else is linear: no line of 64 kB holds a
/// filter up. The test is that it ends; what it takes is for the bench.
#[test]
fn no_filter_is_held_up_by_a_long_hostile_line() {
    let folder = package("bookworm").join("etc/fail2ban");
    let read = Fail2ban::read(&folder).unwrap();
    let lines = hostile_lines();
    let mut filters: Vec<(String, Filter)> = std::fs::read_dir(folder.join("filter.d"))
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".conf")?.to_owned()))
        .filter_map(|name| Some((name.clone(), read.filter(&name).ok()?.compile().ok()?)))
        .collect();
    assert!(filters.len() > 80, "only {} filters", filters.len());
    let ours = atalaya_sensor::filter::catalogue::names();
    filters.extend(ours.map(|name| {
        (format!("our {name}"), atalaya_sensor::filter::catalogue::filter(name).unwrap().compile().unwrap())
    }));
    let mut slowest = Vec::new();
    for (name, filter) in &mut filters {
        for (index, line) in lines.iter().enumerate() {
            let start = std::time::Instant::now();
            filter.find(line);
            slowest.push((start.elapsed(), name.clone(), index));
        }
    }
    slowest.sort_unstable();
    slowest.iter().rev().take(12).for_each(|(time, name, line)| println!("{time:?} {name}, line {line}"));
}
