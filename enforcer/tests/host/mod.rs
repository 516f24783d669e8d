//! The real program on a host of its own: a folder with a configuration.

#![allow(dead_code, reason = "each test binary uses another part of it")]
#![allow(clippy::unwrap_used, reason = "it serves tests only")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

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

    pub fn start(&self) -> Running {
        Running::of(self.command(&["run"]))
    }
}

// === impl Running ===

impl Running {
    pub fn of(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let running = Self { child, said };
        running.says("ready");
        running
    }

    pub fn says(&self, word: &str) -> String {
        loop {
            let line = self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it does not say {word}"));
            if line.contains(word) {
                return line;
            }
        }
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
