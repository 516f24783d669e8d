//! The sensor as a process that is killed as soon as it is ready.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// The process, and what it says; ended with the test.
struct Sensor {
    child: Child,
    said: Receiver<String>,
}

// === impl Sensor ===

impl Sensor {
    fn start(config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-sensor"));
        command.arg("--config").arg(config).args(["--log", "debug", "run"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, said) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, said }
    }

    /// Waits until it said something in which all these words are.
    #[track_caller]
    fn await_words(&self, words: &[&str]) {
        let until = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        loop {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if words.iter().all(|word| line.contains(word)) => return,
                Ok(line) => before.push(line),
                Err(error) => panic!("{words:?} was not said ({error}), but:\n{}", before.join("\n")),
            }
        }
    }

    /// Kills it with signal 9.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refuse(log: &Path, host: u8) {
    let mut file = File::options().create(true).append(true).open(log).unwrap();
    writeln!(file, "{} app refused login from 203.0.113.{host}", jiff::Timestamp::now()).unwrap();
}

#[test]
fn a_sensor_killed_when_it_says_ready_reads_on_where_it_began_and_new_logs_from_their_start() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let config = folder.path().join("sensor.toml");
    let text = format!(
        "state = {:?}\n[jail.app]\nsource = \"files\"\npaths = [\"{}/*.log\", {:?}]\n\
         failregex = 'refused login from <ADDR>$'\nmaxretry = 5\n",
        folder.path().join("state"),
        logs.display(),
        folder.path().join("later.log"),
    );
    fs::write(&config, text).unwrap();
    // From before it was ever started.
    refuse(&logs.join("there.log"), 1);
    let mut sensor = Sensor::start(&config);
    sensor.await_words(&["ready"]);
    sensor.kill();
    refuse(&logs.join("there.log"), 2);
    refuse(&logs.join("new.log"), 3);
    refuse(&folder.path().join("later.log"), 4);
    let sensor = Sensor::start(&config);
    let mut missing = vec!["203.0.113.2", "203.0.113.3", "203.0.113.4"];
    let until = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        let line = sensor.said.recv_timeout(until.saturating_duration_since(Instant::now()));
        let line = line.unwrap_or_else(|_| panic!("{missing:?} are not counted"));
        assert!(!line.contains("203.0.113.1"), "what was there before the first start is not read: {line}");
        missing.retain(|address| !(line.contains("failure jail") && line.contains(*address)));
    }
}
