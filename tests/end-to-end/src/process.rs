//! One real process: started, watched line by line, ended. It ends with its owner, whatever happens.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

/// A line that a process printed.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was read.
    pub at: SystemTime,
    /// Without the line's end.
    pub text: String,
}

/// A running process whose output is read as it comes. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    /// The last lines, for the message when something goes wrong.
    recent: VecDeque<String>,
}

const RECENT: usize = 40;
/// How long the last words of a process that has ended may take to be read.
const LAST_LINES: Duration = Duration::from_millis(200);

// === impl Process ===

impl Process {
    /// Starts a command; standard output and standard error are read together.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let (sender, lines) = mpsc::channel();
        Self::start_into(name, command, &sender, |line| line).map(|mut process| {
            process.lines = lines;
            process
        })
    }

    /// Starts a command whose lines go, wrapped, to a channel shared with others.
    pub fn start_into<T: Send + 'static>(
        name: &str,
        command: &mut Command,
        sender: &Sender<T>,
        wrap: impl Fn(Line) -> T + Clone + Send + 'static,
    ) -> Result<Self> {
        let mut child =
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start {name} ({})", command.get_program().display()))?;
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            read_lines(stdout, sender.clone(), wrap.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            read_lines(stderr, sender.clone(), wrap);
        }
        let (_, lines) = mpsc::channel();
        Ok(Self { name: name.to_owned(), child, stdin, lines, recent: VecDeque::new() })
    }

    /// In the process namespace of this test.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that satisfies the condition and returns it.
    pub fn wait_for(
        &mut self,
        what: &str,
        within: Duration,
        mut is: impl FnMut(&str) -> bool,
    ) -> Result<Line> {
        let until = Instant::now() + within;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.keep(line.text.clone());
                    if is(&line.text) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} did not {what} within {within:?}; its last lines:\n{}", self.name, self.said())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!(
                        "{} ended ({status}) and did not {what}; its last lines:\n{}",
                        self.name,
                        self.said()
                    )
                }
            }
        }
    }

    /// Whether it has ended. What it said is kept for [`Self::said`].
    pub fn has_ended(&mut self) -> Result<bool> {
        let status = self.child.try_wait()?;
        while let Ok(line) =
            self.lines.recv_timeout(if status.is_some() { LAST_LINES } else { Duration::ZERO })
        {
            self.keep(line.text);
        }
        Ok(status.is_some())
    }

    /// The lines from now on, for someone else to read.
    pub fn take_lines(&mut self) -> Receiver<Line> {
        let (_, none) = mpsc::channel();
        std::mem::replace(&mut self.lines, none)
    }

    /// The last lines that were read by [`Self::wait_for`].
    pub fn said(&self) -> String {
        self.recent.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// Writes a line to the process's standard input.
    pub fn tell(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        writeln!(stdin, "{text}")
            .and_then(|()| stdin.flush())
            .with_context(|| format!("cannot write to {}", self.name))
    }

    fn keep(&mut self, text: String) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(text);
    }

    /// Asks the process to end, and waits until it has.
    pub fn terminate(self, within: Duration) -> Result<ExitStatus> {
        signal("TERM", self.id())?;
        self.wait_for_end(within)
    }

    /// Waits until the process has ended, and kills it if that takes longer.
    pub fn wait_for_end(mut self, within: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + within;
        loop {
            // The output ends when the process does: that is the event to wait for.
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::yield_now(),
            }
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("{} did not end within {within:?}", self.name);
            }
        }
    }

    /// Kills the process, as `kill -9` does.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by its name without `SIG`.
pub fn signal(name: &str, process: u32) -> Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status()?;
    if !status.success() {
        bail!("kill -{name} {process} failed");
    }
    Ok(())
}

/// Runs a command to its end and returns its standard output; a failure shows what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    output_with_input(command, "")
}

/// As [`output`], with something to read on standard input.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that reads nothing may have closed it already.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{shown} failed ({}):\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(stdout)
}

fn read_lines<T: Send + 'static>(
    source: impl Read + Send + 'static,
    sender: Sender<T>,
    wrap: impl Fn(Line) -> T + Send + 'static,
) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(source);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            if sender.send(wrap(Line { at: SystemTime::now(), text })).is_err() {
                // Nobody listens any more; reading on keeps the process from blocking.
                let _ = std::io::copy(&mut reader, &mut std::io::sink());
                return;
            }
        }
    });
}
