//! The log of both programs: how much of it there is, and what it looks like on a terminal, in a pipe and in systemd's
//! journal.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use atalaya_end_to_end::process::Process;
use atalaya_end_to_end::stage::{START, Stage};
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// The two programs with configurations that hold, each under its name.
struct Programs(Stage);

/// A running program, which ends with the test.
struct Running(Child);

// === impl Programs ===

impl Programs {
    fn new() -> Self {
        let stage = Stage::of_this_test().unwrap();
        stage.write_enforcer_config(&[], "").unwrap();
        stage.write_sensor_config("").unwrap();
        Self(stage)
    }

    /// Of both programs, the command that runs them.
    fn commands(&self) -> [(&'static str, Command); 2] {
        [("atalaya-enforcer", self.0.enforcer()), ("atalaya-sensor", self.0.sensor())].map(
            |(name, mut command)| {
                command.arg("run").env_remove("NO_COLOR").env("TERM", "xterm");
                (name, command)
            },
        )
    }

    /// What a program says on standard error, which is `written` and read through `read`, until it is ready.
    fn says(command: &mut Command, written: OwnedFd, read: impl Read) -> Vec<String> {
        let running = Running(command.stdin(Stdio::null()).stderr(Stdio::from(written)).spawn().unwrap());
        // Else what is read would not end with the program.
        command.stderr(Stdio::null());
        let mut lines = Vec::new();
        for line in BufReader::new(read).lines() {
            let line = line.unwrap();
            let is_last = line.contains("ready");
            lines.push(line);
            if is_last {
                drop(running);
                return lines;
            }
        }
        panic!("it ended before it was ready: {lines:?}");
    }

    /// The same through a pipe that is the journal's.
    fn says_to_journal(command: &mut Command) -> Vec<String> {
        let (read, write) = std::io::pipe().unwrap();
        let stat = fstat(write.as_fd()).unwrap();
        command.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino));
        Self::says(command, write.into(), read)
    }

    /// The same on a terminal.
    fn says_on_terminal(command: &mut Command) -> Vec<String> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ptsname(&ours, Vec::new()).unwrap();
        let theirs = open(theirs, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        Self::says(command, theirs, File::from(ours))
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn has_time(line: &str) -> bool {
    // 2026-01-31T…
    let date = line.trim_start_matches("\u{1b}[2m").as_bytes();
    date.len() > 10 && date[..4].iter().all(u8::is_ascii_digit) && date[4] == b'-' && date[10] == b'T'
}

#[test]
fn what_is_logged_is_said_by_the_option_then_by_our_variable_then_by_rusts() {
    let programs = Programs::new();
    for (arguments, variables) in [
        (&["--log", "info"][..], &[("ATALAYA_LOG", "off"), ("RUST_LOG", "off")][..]),
        (&[], &[("ATALAYA_LOG", "info"), ("RUST_LOG", "off")]),
        (&[], &[("ATALAYA_LOG", ""), ("RUST_LOG", "")]),
    ] {
        for (name, mut command) in programs.commands() {
            command.args(arguments).envs(variables.iter().copied());
            let mut program = Process::start(name, &mut command).unwrap();
            program.wait_for("become ready", START, |line| line.contains(" INFO ready")).unwrap();
        }
    }
    for (name, mut command) in programs.commands() {
        let mut program = Process::start(name, command.env("RUST_LOG", "trace")).unwrap();
        program.wait_for("say the least", START, |line| line.contains("TRACE")).unwrap();
    }
}

#[test]
fn a_word_that_says_not_what_to_log_is_refused_with_where_it_stands_and_an_example() {
    let programs = Programs::new();
    for (arguments, variable, place) in [
        (&["--log", "verbose"][..], ("RUST_LOG", "info"), "--log `verbose`"),
        (&[], ("ATALAYA_LOG", "atalaya_sensor=loud"), "the environment variable ATALAYA_LOG `"),
        (&[], ("RUST_LOG", "warning"), "the environment variable RUST_LOG `warning`"),
    ] {
        for (name, mut command) in programs.commands() {
            let output = command.args(arguments).envs([variable]).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.starts_with(&format!("{name}: {place}")), "{said}");
            assert!(said.contains("neither a level") && said.contains("`info,hyper=warn`"), "{said}");
            assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        }
    }
}

#[test]
fn in_the_journal_each_line_has_a_priority_and_no_time_of_its_own() {
    let programs = Programs::new();
    for (name, mut command) in programs.commands() {
        let lines = Programs::says_to_journal(&mut command);
        for line in &lines {
            // sd-daemon(3), with syslog(3)'s numbers.
            let good =
                [("<6>", " INFO "), ("<4>", " WARN "), ("<3>", "ERROR ")].iter().any(|(priority, level)| {
                    line.strip_prefix(priority).is_some_and(|line| line.starts_with(level))
                });
            assert!(good, "{name}: {line}");
        }
    }
    for (name, mut command) in programs.commands() {
        for line in Programs::says_to_journal(command.args(["--log-format", "json"])) {
            let object: serde_json::Value =
                serde_json::from_str(&line[3..]).unwrap_or_else(|_| panic!("{name}: {line}"));
            let priority = if object["level"] == "WARN" { "<4>" } else { "<6>" };
            assert!(line.starts_with(priority), "{name}: {line}");
        }
    }
}

#[test]
fn in_the_journal_the_reason_why_a_program_ends_is_an_error() {
    let programs = Programs::new();
    std::fs::write(programs.0.folder().join("enforcer.toml"), "x = 1\n").unwrap();
    std::fs::write(programs.0.folder().join("sensor.toml"), "x = 1\n").unwrap();
    for (name, mut command) in programs.commands() {
        let (mut read, write) = std::io::pipe().unwrap();
        let stat = fstat(write.as_fd()).unwrap();
        command.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino)).stderr(write);
        assert_eq!(command.status().unwrap().code(), Some(1));
        drop(command);
        let mut said = String::new();
        read.read_to_string(&mut said).unwrap();
        assert!(said.starts_with(&format!("<3>{name}: ")), "{said}");
        assert!(said.lines().all(|line| line.starts_with("<3>")), "{said}");
    }
}

#[test]
fn a_log_elsewhere_than_in_the_journal_has_times_though_the_variable_was_inherited() {
    let programs = Programs::new();
    for (name, mut command) in programs.commands() {
        let (read, write) = std::io::pipe().unwrap();
        // As in a shell that a service of the desktop started.
        command.env("JOURNAL_STREAM", "9:12345");
        for line in Programs::says(&mut command, write.into(), read) {
            assert!(has_time(&line) && !line.contains('\u{1b}'), "{name}: {line}");
        }
    }
}

#[test]
fn a_terminal_has_colour_unless_no_color_is_set() {
    let programs = Programs::new();
    for (name, mut command) in programs.commands() {
        let lines = Programs::says_on_terminal(&mut command);
        assert!(lines.iter().all(|line| line.contains('\u{1b}') && has_time(line)), "{name}: {lines:?}");
    }
    for (name, mut command) in programs.commands() {
        let lines = Programs::says_on_terminal(command.env("NO_COLOR", "1"));
        assert!(lines.iter().all(|line| !line.contains('\u{1b}') && has_time(line)), "{name}: {lines:?}");
    }
}
