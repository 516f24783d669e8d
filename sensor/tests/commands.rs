//! The commands as a person or a script runs them: what they print, and with what status they end.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Runs the sensor with a configuration: its output, and whether it ended well.
fn run(config: &Path, arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-sensor"));
    let output = command.arg("--config").arg(config).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text + &String::from_utf8_lossy(&output.stderr), output.status.success())
}

fn json_of(config: &Path, arguments: &[&str]) -> (Value, bool) {
    let (text, is_well) = run(config, arguments);
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")), is_well)
}

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn check_as_json_says_what_check_says_and_a_mistake_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("absent.log");
    let text = format!(
        "state = \"{0}/state\"\n[jail.a]\nsource = \"files\"\npaths = {log:?}\nfailregex = 'from <HOST>$'\n\
         [jail.b]\nsource = \"scan\"\ninterfaces = \"eth77\"\nunverified = true\n",
        folder.path().display()
    );
    let config = write(folder.path(), "sensor.toml", &text);
    let (told, is_well) = json_of(&config, &["check", "--json"]);
    assert!(is_well, "{told:#}");
    assert_eq!((&told["mistake"], &told["exists"]), (&Value::Null, &json!(true)));
    let a = &told["jails"][0];
    assert_eq!(
        (&a["name"], &a["source"], &a["maxretry"], &a["findtime"], &a["ipv6_prefix"]),
        (&json!("a"), &json!("files"), &json!(3), &json!(600), &json!(64)),
    );
    assert_eq!(a["reads"], json!(format!("files {}", log.display())));
    assert!(told["jails"][1]["warnings"][0].as_str().unwrap().starts_with("unverified: "), "{told:#}");
    assert!(told["troubles"][0].as_str().unwrap().contains("eth77"), "{told:#}");
    assert_eq!(told["unread"][0]["path"], json!(log));

    let config = write(folder.path(), "wrong.toml", "[jail.a]\nsource = \"logs\"\n");
    let (told, is_well) = json_of(&config, &["check", "--json"]);
    assert!(!is_well);
    assert_eq!((&told["mistake"]["line"], &told["mistake"]["column"]), (&json!(2), &json!(10)), "{told:#}");
    let (told, is_well) = json_of(&folder.path().join("absent.toml"), &["check", "--json"]);
    assert!(!is_well && told["mistake"]["message"].as_str().unwrap().contains("absent.toml"), "{told:#}");
}

#[test]
fn lint_as_json_says_of_what_it_warns() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sensor.toml");
    let (told, is_well) = json_of(&config, &["lint", "--json", "^from <HOST>$", "no-such-filter"]);
    assert!(!is_well);
    assert_eq!(
        (&told["checked"], &told["warnings"][0]["what"]),
        (&json!(2), &json!("no-such-filter")),
        "{told:#}"
    );
    let (told, is_well) = json_of(&config, &["lint", "--json", "^from <HOST>$"]);
    assert!(is_well, "{told:#}");
    assert_eq!(told, json!({"checked": 1, "warnings": []}));
}

/// Adds a message of a program to a journal.
fn log(journal: &Path, program: &str, message: &str) {
    let now = jiff::Timestamp::now().as_microsecond();
    let mut remote = Command::new("/lib/systemd/systemd-journal-remote")
        .arg(format!("--output={}", journal.display()))
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let entry = format!(
        "__REALTIME_TIMESTAMP={now}\n__MONOTONIC_TIMESTAMP={now}\n_BOOT_ID={:032}\n_HOSTNAME=web\n\
         SYSLOG_IDENTIFIER={program}\n_COMM={program}\n_PID=7\nMESSAGE={message}\n\n",
        1
    );
    remote.stdin.take().unwrap().write_all(entry.as_bytes()).unwrap();
    assert!(remote.wait().unwrap().success());
}

#[test]
fn a_filter_is_tried_on_the_journal_that_is_named_or_that_its_jail_reads() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    for (file, program) in [("b.journal", "myd"), ("a.journal", "other")] {
        log(&journal.join(file), program, "refused 192.0.2.7");
        log(&journal.join(file), program, "welcome");
    }
    let text = format!(
        "state = \"{0}/state\"\n[jail.my]\nsource = \"journal\"\njournalpath = {journal:?}\njournalmatch = \"_COMM=myd\"\n\
         failregex = ': refused <HOST>$'\n",
        folder.path().display()
    );
    let config = write(folder.path(), "sensor.toml", &text);
    let named = format!("systemd-journal[journalpath={}]", journal.display());
    let tried = |arguments: &[&str]| {
        let (told, is_well) = json_of(&config, &[&["test", "--json", "--matched"], arguments].concat());
        assert!(is_well, "{told:#}");
        (told["lines"].as_u64().unwrap(), told["matched"].as_u64().unwrap(), told["kept"][0].clone())
    };
    let (lines, matched, first) = tried(&["systemd-journal", "my"]);
    assert_eq!((lines, matched), (2, 1));
    assert_eq!(
        (&first["host"], &first["text"]),
        (&json!("192.0.2.7"), &json!("web myd[7]: refused 192.0.2.7"))
    );
    assert!(
        tried(&[&named, ": refused <HOST>$"]).2["text"].as_str().unwrap().contains("myd"),
        "the oldest comes first"
    );
    assert_eq!(tried(&[&named, ": refused <HOST>$"]).0, 4);
    assert_eq!(tried(&[&named, ": refused <HOST>$", "--journalmatch", "_COMM=other"]).0, 2);
    for (arguments, says) in [
        (["test", "systemd-journal[journalpath=/nowhere]", "my"], "no journal at /nowhere"),
        (["test", "systemd-journal[journalflags=x]", "my"], "journalflags"),
        (["test", "--journalmatch=_COMM=x", "a line my"], "--journalmatch goes with"),
    ] {
        let mut arguments = arguments.to_vec();
        if arguments[1].starts_with("--") {
            arguments.push("my");
        }
        let (text, is_well) = run(&config, &arguments);
        assert!(!is_well && text.contains(says), "{arguments:?}: {text}");
    }
}
