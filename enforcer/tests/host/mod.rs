//! The real program on a host of its own: a folder with a configuration and what the program makes there.

#![allow(dead_code, reason = "each test binary uses another part of it")]
#![allow(clippy::unwrap_used, reason = "it serves tests only")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a configuration.
pub struct Host {
    pub folder: TempDir,
}

/// A running enforcer; killed where a test fails.
pub struct Running {
    pub child: Child,
    pub said: mpsc::Receiver<String>,
}

// === impl Host ===

impl Host {
    pub fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let text = format!(
            "listen = \"127.0.0.1:0\"\nstate = \"{path}/state\"\nsocket = \"{path}/run/enforcer.sock\"\n{more}"
        );
        std::fs::write(folder.path().join("enforcer.toml"), text).unwrap();
        Self { folder }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-enforcer"));
        command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env_remove("JOURNAL_STREAM");
        command.arg("--config").arg(self.folder.path().join("enforcer.toml")).args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints, which must succeed.
    pub fn prints(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.prints(arguments)).unwrap()
    }

    /// The message of a command that must fail with exit status 1.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
        stderr(&output)
    }

    /// Starts it, and waits for nothing.
    pub fn spawn(&self) -> Running {
        Running::spawn(self.command(&["run"]))
    }

    /// Starts it, and waits until it is ready.
    pub fn start(&self) -> Running {
        Running::of(self.command(&["run"]))
    }

    /// A file of its state.
    pub fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
    }

    /// The prefixes that are banned, sorted.
    pub fn banned(&self) -> Vec<String> {
        let bans = self.json(&["bans", "--json"]);
        let mut bans: Vec<String> =
            bans.as_array().unwrap().iter().map(|ban| ban["prefix"].as_str().unwrap().to_owned()).collect();
        bans.sort();
        bans
    }

    /// What is wrong, the worst first.
    pub fn faults(&self) -> Vec<String> {
        let status = self.json(&["status", "--json"]);
        let faults = status["faults"].as_array().unwrap();
        faults.iter().map(|fault| format!("{}: {}", fault["kind"], fault["text"])).collect()
    }
}

// === impl Running ===

impl Running {
    pub fn of(command: Command) -> Self {
        let running = Self::spawn(command);
        running.says("ready");
        running
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, said }
    }

    /// Waits for a line; returns all up to it, with it.
    pub fn says(&self, word: &str) -> String {
        let mut all = String::new();
        loop {
            let line = self.said.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("it does not say {word} ({error}): {all}"));
            all = all + &line + "\n";
            if line.contains(word) {
                return all;
            }
        }
    }

    /// What it said, where it ended before it was ready.
    pub fn ends_or_is_ready(&self) -> Option<String> {
        let mut all = String::new();
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok(line) if line.contains("ready") => return None,
                Ok(line) => all = all + &line + "\n",
                Err(mpsc::RecvTimeoutError::Disconnected) => return Some(all),
                Err(error) => panic!("it neither ends nor is ready ({error}): {all}"),
            }
        }
    }

    /// Does something, and ends it.
    pub fn stop_and<T>(self, first: impl FnOnce() -> T) -> T {
        let done = first();
        self.stop();
        done
    }

    /// Sends SIGTERM, and expects a clean end within two seconds.
    pub fn stop(mut self) {
        let began = Instant::now();
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        // Standard error closes with the process.
        while self.said.recv_timeout(PATIENCE).is_ok() {}
        assert!(self.child.wait().unwrap().success());
        assert!(began.elapsed() < Duration::from_secs(2), "it took {:?} to end", began.elapsed());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().unwrap().permissions().mode() & 0o777
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
