//! The real program with a configuration and a state folder of its own.

#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a configuration.
pub struct Host {
    pub folder: TempDir,
}

/// A running enforcer; killed with its owner.
pub struct Running {
    pub child: Child,
    lines: BufReader<ChildStderr>,
}

// === impl Host ===

impl Host {
    pub fn new() -> Self {
        Self::with("")
    }

    /// With more lines at the end of the configuration.
    pub fn with(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let text = format!(
            "listen = \"127.0.0.1:0\"\nstate = \"{path}/state\"\nsocket = \"{path}/run/enforcer.sock\"\n{more}"
        );
        fs::write(folder.path().join("enforcer.toml"), text).unwrap();
        Self { folder }
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-enforcer"));
        command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env_remove("JOURNAL_STREAM");
        command.arg("--config").arg(self.folder.path().join("enforcer.toml")).args(arguments);
        command
    }

    /// What a command prints, which must succeed.
    pub fn prints(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The message of a command that must fail.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub fn banned(&self) -> Vec<String> {
        let bans: Value = serde_json::from_str(&self.prints(&["bans", "--json"])).unwrap();
        let mut bans: Vec<String> =
            bans.as_array().unwrap().iter().map(|ban| ban["prefix"].as_str().unwrap().to_owned()).collect();
        bans.sort();
        bans
    }

    pub fn spawn(&self) -> Running {
        let mut child = self.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Running { child, lines }
    }

    pub fn start(&self) -> Running {
        let mut running = self.spawn();
        running.says("ready");
        running
    }

    /// What is wrong, the worst first.
    pub fn faults(&self) -> Vec<String> {
        let status: Value = serde_json::from_str(&self.prints(&["status", "--json"])).unwrap();
        let faults = status["faults"].as_array().unwrap();
        faults.iter().map(|fault| format!("{}: {}", fault["kind"], fault["text"])).collect()
    }
}

// === impl Running ===

impl Running {
    /// Waits for a line; returns all up to it.
    pub fn says(&mut self, word: &str) -> String {
        let mut said = String::new();
        loop {
            let before = said.len();
            assert!(self.lines.read_line(&mut said).unwrap() > 0, "it ended without `{word}`: {said}");
            if said[before..].contains(word) {
                return said;
            }
        }
    }
}

impl Running {
    /// What it said, where it ended before it was ready.
    pub fn ends_or_is_ready(&mut self) -> Option<String> {
        let mut said = String::new();
        while self.lines.read_line(&mut said).unwrap() > 0 {
            if said.lines().last().is_some_and(|line| line.contains("ready")) {
                return None;
            }
        }
        Some(said)
    }

    /// Does something, and ends it.
    pub fn stop_and<T>(self, first: impl FnOnce() -> T) -> T {
        let done = first();
        self.stop();
        done
    }

    /// Ends it as systemd does, and waits.
    pub fn stop(mut self) {
        let number = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(number, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A ledger of the first release, with bans and a sensor.
pub fn first_release(ledger: &Connection, bans: u32) {
    ledger
        .execute_batch(&format!(
            "CREATE TABLE bans (
                 id INTEGER PRIMARY KEY, prefix TEXT NOT NULL, list TEXT NOT NULL,
                 since INTEGER NOT NULL, until INTEGER, jail TEXT NOT NULL, sensor TEXT NOT NULL,
                 evidence TEXT NOT NULL, strikes INTEGER NOT NULL, ended INTEGER, ended_by TEXT);
             CREATE UNIQUE INDEX standing ON bans (prefix, list) WHERE ended IS NULL;
             CREATE INDEX history ON bans (prefix);
             CREATE TABLE intake (sensor TEXT NOT NULL, outbox TEXT NOT NULL, through INTEGER NOT NULL,
                 PRIMARY KEY (sensor, outbox)) WITHOUT ROWID;
             CREATE TABLE sensors (name TEXT PRIMARY KEY, digest BLOB NOT NULL, enrolled INTEGER NOT NULL) WITHOUT ROWID;
             INSERT INTO sensors VALUES ('web-1', zeroblob(32), 1800000000000);
             WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {bans})
             INSERT INTO bans SELECT n, '20.' || (n >> 8) || '.' || (n & 255) || '.1/32', 'spammer',
                 1800000000000, NULL, 'ssh', 'web-1', '[]', 1, NULL, NULL FROM number;
             PRAGMA user_version = 1;"
        ))
        .unwrap();
}
