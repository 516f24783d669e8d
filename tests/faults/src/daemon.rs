//! One of Atalaya's processes: started, stopped, killed and started again, with its log in a file.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// How long a process may take to end when it is asked to.
const LAST_WORDS: Duration = Duration::from_secs(8);

/// A process that may run or not.
#[derive(Debug)]
pub struct Daemon {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    clock: Option<Clockwork>,
    child: Option<Child>,
}

/// What sets a process's clock apart from this machine's: libfaketime, which stands before the C library.
#[derive(Clone, Debug)]
pub struct Clockwork {
    /// The library.
    pub library: PathBuf,
    /// The file that says by how much the clock is off; looked at every second.
    pub file: PathBuf,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Resident memory, in KiB.
    pub memory: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

// === impl Daemon ===

impl Daemon {
    /// A program, its configuration, and the file that its log is added to. Nothing runs yet.
    pub fn new(program: PathBuf, config: PathBuf, log: PathBuf) -> Self {
        Self { program, config, log, clock: None, child: None }
    }

    /// With a clock that can be set; not before it starts.
    pub fn with_clock(mut self, clock: Clockwork) -> io::Result<Self> {
        fs::write(&clock.file, "+0")?;
        self.clock = Some(clock);
        Ok(self)
    }

    /// Sets its clock: it is off by so many seconds from now on, or within a second. False where it cannot be set.
    pub fn set_clock(&self, off: i64) -> io::Result<bool> {
        let Some(clock) = &self.clock else { return Ok(false) };
        let draft = clock.file.with_extension("draft");
        fs::write(&draft, format!("{off:+}"))?;
        fs::rename(draft, &clock.file)?;
        Ok(true)
    }

    /// A command of the program with its configuration.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config);
        command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env_remove("JOURNAL_STREAM");
        command
    }

    /// Starts it, where it does not run.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        // It ends with this program, whatever becomes of it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.program).arg("--config").arg(&self.config);
        command.args(["--log-format", "json", "run"]);
        command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env_remove("JOURNAL_STREAM");
        if let Some(Clockwork { library, file }) = &self.clock {
            // Intervals are true, and so are the dates of files.
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", file);
            command.env("FAKETIME_CACHE_DURATION", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            command.env("NO_FAKE_STAT", "1");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start setpriv (Debian's util-linux)")?);
        Ok(())
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub async fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let Some(child) = &mut self.child else { return Ok(()) };
        let until = Instant::now() + LAST_WORDS;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                // Whoever is asked before it listens for that ends by the signal.
                if !status.success() && status.signal() != Some(Signal::TERM.as_raw()) {
                    bail!("ended with {status} when it was asked to end");
                }
                return Ok(());
            }
            if Instant::now() > until {
                self.kill()?;
                bail!("did not end within {LAST_WORDS:?} when it was asked to");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends it a signal, where it runs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal).with_context(|| format!("{signal:?}"))?;
        }
        Ok(())
    }

    /// How it ended by itself, if it did.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(format!("ended by itself with {status}; its log ends with\n{}", self.last_lines()))
    }

    /// Whether its log has this.
    pub fn has_said(&self, what: &str) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains(what))
    }

    /// The panics in its log.
    pub fn panics(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("panicked at")).map(str::to_owned).collect()
    }

    /// What it holds now; `None` where it does not run.
    pub fn holdings(&self) -> Option<Holdings> {
        let proc = PathBuf::from(format!("/proc/{}", self.child.as_ref()?.id()));
        let memory = fs::read_to_string(proc.join("status")).ok()?;
        let memory = memory.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let memory = memory.trim().trim_end_matches(" kB").parse().ok()?;
        let descriptors = fs::read_dir(proc.join("fd")).ok()?.count();
        Some(Holdings { memory, descriptors })
    }

    fn last_lines(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A small file system in memory, which is unmounted with its owner. Needs root.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

// === impl SmallDisk ===

impl SmallDisk {
    /// Mounts one of so many MiB.
    pub fn mount(at: &Path, size: u32) -> Result<Self> {
        fs::create_dir_all(at)?;
        let options = format!("size={size}m,mode=700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status()?;
        if !mounted.success() {
            bail!("cannot mount a small disk at {}: this needs root", at.display());
        }
        Ok(Self(at.to_owned()))
    }

    /// Writes until nothing more fits.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.0.join("filler"))?;
        match io::copy(&mut io::repeat(0), &mut file) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => bail!("an endless file fits on a small disk"),
        }
    }

    /// Makes room again.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
