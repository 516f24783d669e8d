//! One virtual machine, from its start to its end: qemu with a console, on its standard error, and the port of the
//! first process's reports, on its standard output. It ends with its owner, whatever happens, and on a panic, a stall
//! or Ctrl-C; then the console's last lines are told.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use atalaya_end_to_end::process::{Line, Process, output_with_input};
use kernel_init::Report;

const QEMU: &str = "qemu-system-x86_64";
/// How long a machine may say nothing: an emulated processor on a loaded host is slow.
const STALL: Duration = Duration::from_secs(150);
/// How long it may take in all.
const LONGEST: Duration = Duration::from_secs(600);
/// How long to go on reading after a panic: its reason comes after its first line.
const EPILOGUE: Duration = Duration::from_secs(3);
/// How many of the console's last lines are told.
const LAST_LINES: usize = 40;
/// How often Ctrl-C is looked for.
const TICK: Duration = Duration::from_millis(200);

/// How a report begins.
const REPORT: &str = "{\"report\":";

/// What executes a machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// This processor, through /dev/kvm.
    Kvm,
    /// An emulated one: some ten times slower, and everywhere.
    Emulation,
}

/// What a machine boots with.
pub struct Boot<'a> {
    /// KVM where the processor gives it, else emulation.
    pub accelerator: Accelerator,
    /// The kernel's image (`vmlinuz`).
    pub image: &'a Path,
    /// Its first file system.
    pub initramfs: &'a Path,
    /// The kernel's lockdown, where there is to be any.
    pub lockdown: Option<&'a str>,
}

/// Runs a machine to its end and hands over each report as it comes; an error where the machine did not come to its end
/// by itself.
pub fn run(boot: &Boot, interrupted: &AtomicBool, mut each: impl FnMut(Report)) -> Result<()> {
    let (sender, lines) = mpsc::channel();
    // Held until the end: dropping it ends qemu.
    let _machine = Process::start_into("the virtual machine", &mut qemu(boot), &sender, |line| line)?;
    drop(sender);
    let mut console = VecDeque::new();
    follow(&lines, &mut console, interrupted, &mut each).map_err(|error| {
        let lines: String = console.iter().map(|line| format!("    {line}\n")).collect();
        anyhow!("{error:#}; the console's last lines:\n{lines}")
    })
}

fn qemu(boot: &Boot) -> Command {
    // The kernel ends qemu when this thread ends, even if it is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", QEMU]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-machine", "q35", "-accel", boot.accelerator.name(), "-cpu", "max"]);
    command.args(["-smp", "2", "-m", "1024"]);
    command.args(["-serial", "file:/dev/stderr", "-chardev", "stdio,id=reports,signal=off"]);
    command.args(["-serial", "chardev:reports"]);
    command.arg("-kernel").arg(boot.image).arg("-initrd").arg(boot.initramfs);
    // What the kernel does not know, such as PATH, becomes the first process's environment.
    let mut line =
        "console=ttyS0 loglevel=5 panic=-1 oops=panic no_timer_check random.trust_cpu=on PATH=/usr/sbin:/usr/bin".to_owned();
    if let Some(lockdown) = boot.lockdown {
        line.push_str(&format!(" lockdown={lockdown}"));
    }
    command.arg("-append").arg(line);
    command
}

// === impl Accelerator ===

impl Accelerator {
    /// The faster one that works. A virtual machine may offer /dev/kvm and still be unable to run another inside, which
    /// shows when a processor is made: one is, and given nothing to do.
    pub fn find() -> Self {
        let mut probe = Command::new("prlimit");
        // It may abort; that shall leave no core file, and a hang no wait.
        probe.args(["--core=0", "timeout", "20", QEMU, "-nodefaults", "-no-user-config", "-display", "none"]);
        probe.args(["-machine", "q35", "-accel", Self::Kvm.name(), "-cpu", "max", "-S", "-monitor", "stdio"]);
        if output_with_input(&mut probe, "quit\n").is_ok() { Self::Kvm } else { Self::Emulation }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Emulation => "tcg",
        }
    }
}

fn follow(
    lines: &Receiver<Line>,
    console: &mut VecDeque<String>,
    interrupted: &AtomicBool,
    each: &mut impl FnMut(Report),
) -> Result<()> {
    let start = Instant::now();
    let mut heard = start;
    let mut panicked: Option<Instant> = None;
    let mut complete = false;
    loop {
        match lines.recv_timeout(TICK) {
            Ok(Line { text, .. }) if text.starts_with(REPORT) => {
                heard = Instant::now();
                let report = serde_json::from_str(&text)
                    .with_context(|| format!("the machine reports what is no report: {text}"))?;
                complete |= matches!(report, Report::End { .. });
                each(report);
            }
            Ok(Line { text, .. }) => {
                heard = Instant::now();
                if panicked.is_none() && text.contains("Kernel panic - not syncing") {
                    panicked = Some(heard);
                }
                if console.len() == LAST_LINES {
                    console.pop_front();
                }
                console.push_back(text);
            }
            Err(RecvTimeoutError::Disconnected) if panicked.is_some() => bail!("the kernel panicked"),
            // qemu has ended, and so have both of its outputs.
            Err(RecvTimeoutError::Disconnected) if complete => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => bail!("the machine ended before everything was tried"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if interrupted.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        if panicked.is_some_and(|at| at.elapsed() > EPILOGUE) {
            bail!("the kernel panicked");
        }
        if heard.elapsed() > STALL {
            bail!("the machine stalled: nothing was heard of it for {} s", STALL.as_secs());
        }
        if start.elapsed() > LONGEST {
            bail!("the machine did not end within {} s", LONGEST.as_secs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    const END: &str = "{\"report\":\"end\",\"success\":true}";

    /// What comes of a machine that prints these lines and ends.
    fn heard(lines: &[&str]) -> (Result<()>, Vec<Report>, VecDeque<String>) {
        let (sender, receiver) = mpsc::channel();
        for line in lines {
            sender.send(Line { at: SystemTime::now(), text: (*line).to_owned() }).unwrap();
        }
        drop(sender);
        let (mut reports, mut console) = (Vec::new(), VecDeque::new());
        let mut each = |report| reports.push(report);
        let ended = follow(&receiver, &mut console, &AtomicBool::new(false), &mut each);
        (ended, reports, console)
    }

    #[test]
    fn a_machine_that_reports_to_the_end_is_heard() {
        let (ended, reports, console) = heard(&["[0.1] hello", END]);
        assert!(ended.is_ok(), "{ended:?}");
        assert_eq!(reports, [Report::End { success: true }]);
        assert_eq!(console, ["[0.1] hello"]);
    }

    #[test]
    fn a_panic_an_early_end_and_a_broken_report_are_told_apart() {
        let panic = "[    2.1] Kernel panic - not syncing: Attempted to kill init!";
        for (lines, told) in [
            (&[END, panic][..], "panicked"),
            (&["[0.1] hello"], "before everything was tried"),
            (&["{\"report\":\"end\""], "is no report"),
        ] {
            let error = heard(lines).0.unwrap_err();
            assert!(format!("{error:#}").contains(told), "{error:#}");
        }
    }

    #[test]
    fn ctrl_c_ends_the_wait_for_a_machine_that_lives() {
        let (_alive, receiver) = mpsc::channel();
        let ended = follow(&receiver, &mut VecDeque::new(), &AtomicBool::new(true), &mut |_| {});
        assert!(ended.unwrap_err().to_string().contains("interrupted"));
    }
}
