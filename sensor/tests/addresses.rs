//! Which address a line means where something follows it: a port, a colon and a text, a zone. Beside ours
//! stands what fail2ban's own code makes of the same line, which the test runs.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod package;

use std::io::Write;
use std::process::{Command, Stdio};

use atalaya_sensor::filter::{Filter, Host, LineOutcome, Match};

/// Takes pairs of a regex and a line, as JSON; prints for each the address, or null where the line does not
/// match or holds no address.
const THEIRS: &str = r"
import json, logging, sys
sys.path.insert(0, sys.argv[1] + '/usr/lib/python3/dist-packages')
logging.disable(logging.CRITICAL)
from fail2ban.server.filter import Filter
def address(regex, line):
    filter = Filter(None)
    filter.checkFindTime = False
    filter.setUseDns('raw')
    filter.setDatePattern('{NONE}')
    filter.addFailRegex(regex)
    found = filter.processLine(line)
    return str(found[0][1]) if found and found[0][1].isSingle else None
json.dump([address(regex, line) for regex, line in json.load(sys.stdin)], sys.stdout)
";

/// What follows the host in a regex.
const OPEN: &str = "";
const TIED: &str = r"(?::\d{1,5})?$";
const PORT: &str = r":\d+";

/// A text; what it means in a regex that is open behind the host, in one that allows a port and nothing
/// else, and in one that wants a port. Where fail2ban's value is another, it stands behind a bar.
const TABLE: &[[&str; 4]] = &[
    ["2001:db8::7", "2001:db8::7", "2001:db8::7", "-"],
    // Ports of one to five digits. What may be a group is one, unless the regex wants a port.
    ["2001:db8::7:1", "2001:db8::7:1", "2001:db8::7:1", "2001:db8::7"],
    ["2001:db8::7:80", "2001:db8::7:80", "2001:db8::7:80", "2001:db8::7"],
    ["2001:db8::7:443", "2001:db8::7:443", "2001:db8::7:443", "2001:db8::7"],
    ["2001:db8::7:5005", "2001:db8::7:5005", "2001:db8::7:5005", "2001:db8::7"],
    ["2001:db8::7:50058", "2001:db8::7 | 2001:db8::7:5005", "2001:db8::7", "2001:db8::7"],
    ["::1:50058", "::1 | ::0.1.80.5", "::1", "::1"],
    // All eight groups.
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "-"],
    ["2001:db8:1:2:3:4:5:6:8", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6"],
    ["2001:db8:1:2:3:4:5:6:80", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6"],
    ["2001:db8:1:2:3:4:5:6:5005", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6"],
    ["2001:db8:1:2:3:4:5:6:50058", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6"],
    // Too many groups are a fingerprint or the like, and no address.
    ["2001:db8:1:2:3:4:5:6:ab", "- | 2001:db8:1:2:3:4:5:6", "-", "-"],
    ["2001:db8:1:2:3:4:5:6:7:8", "- | 2001:db8:1:2:3:4:5:6", "-", "- | 2001:db8:1:2:3:4:5:6"],
    [
        "aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99",
        "- | aa:bb:cc:dd:ee:ff:0:11",
        "-",
        "- | aa:bb:cc:dd:ee:ff:0:11",
    ],
    // A text behind a colon.
    ["2001:db8::7: text", "2001:db8::7", "-", "-"],
    ["2001:db8::7:text", "2001:db8::7", "-", "-"],
    ["2001:db8::7:failed", "2001:db8::7 | 2001:db8::7:fa", "-", "-"],
    ["2001:db8::7:abcde", "2001:db8::7 | 2001:db8::7:abcd", "-", "-"],
    ["2001:db8::7:50058: text", "2001:db8::7 | 2001:db8::7:5005", "-", "2001:db8::7"],
    ["2001:db8:1:2:3:4:5:6: text", "2001:db8:1:2:3:4:5:6", "-", "-"],
    // Brackets.
    ["[2001:db8::7]", "2001:db8::7", "2001:db8::7", "-"],
    ["[2001:db8::7]:80", "2001:db8::7", "2001:db8::7", "2001:db8::7"],
    ["[2001:db8::7]:50058", "2001:db8::7", "2001:db8::7", "2001:db8::7"],
    ["[192.0.2.7]:80", "192.0.2.7", "192.0.2.7", "192.0.2.7"],
    // IPv4, and IPv4 in IPv6.
    ["192.0.2.7:80", "192.0.2.7", "192.0.2.7", "192.0.2.7"],
    ["192.0.2.7:50058", "192.0.2.7", "192.0.2.7", "192.0.2.7"],
    ["192.0.2.7:text", "192.0.2.7", "-", "-"],
    ["::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7", "- | ::ffff"],
    ["::ffff:192.0.2.7:50058", "192.0.2.7", "192.0.2.7", "192.0.2.7"],
    ["[::ffff:192.0.2.7]:50058", "192.0.2.7", "192.0.2.7", "192.0.2.7"],
    ["::ffff:192.0.2.7:ab", "192.0.2.7", "-", "- | ::ffff"],
    ["::FFFF:192.0.2.7", "192.0.2.7 | ::255.255.1.146", "192.0.2.7 | -", "- | ::ffff"],
    ["::ffff:c000:207", "192.0.2.7", "192.0.2.7", "::ffff:c000 | ::255.255.192.0"],
    ["::ffff:c000:207:50058", "192.0.2.7 | ::ffff:c000:207:5005", "192.0.2.7", "192.0.2.7"],
    ["64:ff9b::192.0.2.7", "192.0.2.7 | 64:ff9b::192", "192.0.2.7 | -", "-"],
    ["64:ff9b::192.0.2.7:50058", "192.0.2.7 | 64:ff9b::192", "192.0.2.7 | -", "192.0.2.7 | -"],
    // Nothing at the end.
    ["2001:db8::", "2001:db8::", "2001:db8::", "-"],
    ["2001:db8:::50058", "2001:db8:: | -", "2001:db8::", "2001:db8::"],
    ["2001:db8::7::", "-", "-", "-"],
    // A zone.
    ["fe80::1%eth0", "fe80::1", "-", "-"],
    ["fe80::1%eth0:50058", "fe80::1", "-", "-"],
    ["[fe80::1%eth0]:50058", "fe80::1", "-", "-"],
    // Other marks.
    ["2001:db8::7#50058", "2001:db8::7", "-", "-"],
    ["2001:db8::7, x", "2001:db8::7", "-", "-"],
    ["2001:db8::7. x", "2001:db8::7", "-", "-"],
    // Parts of longer words, and what is no address: they are never banned here.
    ["2001:db8::7.50058", "- | 2001:db8::7", "-", "-"],
    ["2001:db8::7.example.com", "- | 2001:db8::7", "-", "-"],
    ["2001:db8::7-x", "- | 2001:db8::7", "-", "-"],
    ["2001:db8::7:80.example.com", "- | 2001:db8::7:80", "-", "- | 2001:db8::7"],
    ["192.0.2.7.example.com", "- | 192.0.2.7", "-", "-"],
    ["2001:db8::12345", "- | 2001:db8::1234", "-", "-"],
    ["2001:db8:7", "-", "-", "-"],
    ["12:34:56", "-", "-", "-"],
];

#[test]
fn an_address_with_something_behind_it_is_read_as_fail2ban_reads_it() {
    let cell = |cell: &str| {
        let (ours, theirs) = cell.split_once(" | ").unwrap_or((cell, cell));
        let address = |text: &str| Some(text.to_owned()).filter(|text| text != "-");
        (address(ours), address(theirs))
    };
    let mut cases = Vec::new();
    for [text, open, tied, port] in TABLE {
        for (behind, expected) in [(OPEN, open), (TIED, tied), (PORT, port)] {
            cases.push((format!("from <HOST>{behind}"), format!("from {text}"), cell(expected)));
        }
    }
    let theirs = theirs(&cases.iter().map(|(regex, line, _)| (regex, line)).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for ((regex, line, expected), theirs) in cases.iter().zip(theirs) {
        let found = (address(regex, line), theirs);
        if found != *expected {
            wrong.push(format!("{regex}: {line}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} differences (ours, theirs):\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_tag_for_a_host_means_the_same_address() {
    let mut wrong = Vec::new();
    for [text, ..] in TABLE {
        for behind in [OPEN, TIED, PORT] {
            let line = format!("from {text}");
            let host = address(&format!("from <HOST>{behind}"), &line);
            let mut tags = vec!["ADDR", "SUBNET", "F-ADDR/", "F-SUBNET/"];
            match &host {
                Some(address) if !address.contains(':') => {
                    if !text.starts_with('[') && !text.contains("c000") && !text.starts_with("64:ff9b:") {
                        tags.extend(["IP4", "F-IP4/"]);
                    }
                }
                _ => tags.extend(["IP6", "F-IP6/"]),
            }
            for tag in tags {
                // A wildcard before it is another way through the engine.
                for before in ["from ", "^.*from "] {
                    let found = address(&format!("{before}<{tag}>{behind}"), &line);
                    if found != host {
                        wrong.push(format!("{before}<{tag}>{behind}: {text}: {found:?}, not {host:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

fn address(regex: &str, line: &str) -> Option<String> {
    match Filter::new(&[regex.to_owned()], &[]).unwrap().find(line.as_bytes()) {
        LineOutcome::Matched(Match { host: Host::Address(address), span, .. }) => {
            assert!(
                line.get(span.clone()).is_some_and(|place| !place.is_empty()),
                "{regex}: {line}: {span:?}"
            );
            Some(address.to_string())
        }
        _ => None,
    }
}

fn theirs(cases: &[(&String, &String)]) -> Vec<Option<String>> {
    let mut python = Command::new("python3")
        .args(["-c", THEIRS])
        .arg(package::package("bookworm"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(&serde_json::to_vec(cases).unwrap()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "fail2ban's code does not run");
    serde_json::from_slice(&output.stdout).unwrap()
}
