//! The journal as systemd-journald itself writes it, while it writes it: into `/run` first, copied to `/var` then, into new
//! files as they grow, and for a namespace apart. Read by a confined sensor, each entry once.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, output, signal};
use atalaya_end_to_end::stage::{Stage, is_ready};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const JOURNALD: &str = "/lib/systemd/systemd-journald";
/// Small files, no limit of messages, and nothing that is the kernel's.
const SETTINGS: &str =
    "[Journal]\nStorage=persistent\nSystemMaxFileSize=512K\nRateLimitBurst=0\nReadKMsg=no\nAudit=\n";

/// A host with a journald of its own: `/run` and `/var/log` are folders of the stage.
struct JournaldHost {
    stage: Stage,
    /// The one that is nobody's own, and that of the namespace `web`.
    daemons: [Process; 2],
}

// === impl JournaldHost ===

impl JournaldHost {
    fn start() -> Result<Self> {
        let stage = Stage::of_this_test()?;
        for folder in ["run/systemd/journal", "run/systemd/journal.web", "run/log/journal", "log/journal"] {
            std::fs::create_dir_all(stage.folder().join(folder))?;
        }
        for settings in ["journald.conf.d", "journald@web.conf.d"] {
            let folder = stage.folder().join("run/systemd").join(settings);
            std::fs::create_dir(&folder)?;
            std::fs::write(folder.join("test.conf"), SETTINGS)?;
        }
        let start = |name: &str, of: &[&str]| Process::start(name, own(&stage, Path::new(JOURNALD)).args(of));
        let daemons = [start("journald", &[])?, start("journald of web", &["web"])?];
        let host = Self { stage, daemons };
        for socket in [host.socket(""), host.socket(".web")] {
            until(|| Ok(socket.exists()), "journald opens its socket")?;
        }
        Ok(host)
    }

    fn socket(&self, namespace: &str) -> PathBuf {
        self.stage.folder().join(format!("run/systemd/journal{namespace}/socket"))
    }

    /// Logs so many failures, in a way that does not compress well.
    fn fail(&self, namespace: &str, count: usize) -> Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(self.socket(namespace))?;
        let mut noise = 1_u64;
        for number in 0..count {
            let mut message = format!("SYSLOG_IDENTIFIER=tst\nMESSAGE=bad 203.0.113.{} ", number % 250);
            for _ in 0..100 {
                // Numerical Recipes' generator.
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                message.push_str(&format!("{noise:016x}"));
            }
            socket.send((message + "\n").as_bytes())?;
        }
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&output(self.stage.sensor().args(["status", "--json"]))?)?)
    }

    /// What the jails have counted since the sensor's start.
    fn counted(&self) -> Result<(u64, u64)> {
        let status = self.status()?;
        let failures = |jail: usize| status["jails"][jail]["failures"].as_u64().context("no such jail");
        Ok((failures(0)?, failures(1)?))
    }

    /// Waits until the jails have counted so many failures; no more than these may come.
    fn wait_for(&self, all: u64, web: u64) -> Result<()> {
        let reached = || self.counted().map(|counted| counted.0 >= all && counted.1 >= web);
        until(reached, &format!("{all} and {web} failures"))?;
        let counted = self.counted()?;
        ensure!(counted == (all, web), "{counted:?} failures are counted, {all} and {web} were logged");
        Ok(())
    }

    /// Names of the files below a folder of the stage.
    fn files(&self, folder: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for machine in std::fs::read_dir(self.stage.folder().join(folder))? {
            for file in std::fs::read_dir(machine?.path())? {
                names.push(file?.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }
}

/// A program on that host.
fn own(stage: &Stage, program: &Path) -> Command {
    let script = "mount --bind \"$0/run\" /run && mount --bind \"$0/log\" /var/log && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script]).arg(stage.folder()).arg(program);
    command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env_remove("JOURNAL_STREAM");
    command
}

fn until(is_so: impl Fn() -> Result<bool>, what: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn each_entry_counts_once_over_a_move_to_var_new_files_and_namespaces() -> Result<()> {
    let host = JournaldHost::start()?;
    host.stage.write_sensor_config(
        "[defaults]\nmaxretry = 1000\n\
         [jail.all]\nsource = \"journal\"\nnamespace = \"*\"\njournalmatch = \"SYSLOG_IDENTIFIER=tst\"\nfailregex = 'bad <HOST> '\n\
         [jail.web]\nsource = \"journal\"\nnamespace = \"web\"\njournalmatch = \"SYSLOG_IDENTIFIER=tst\"\nfailregex = 'bad <HOST> '\n",
    )?;
    let program = host.stage.sensor();
    let start = || -> Result<Process> {
        let mut command = own(&host.stage, Path::new(program.get_program()));
        let mut sensor = Process::start(
            "the sensor",
            command.args(program.get_args()).args(["--log-format", "json", "run"]),
        )?;
        sensor.wait_for("become ready", PATIENCE, is_ready)?;
        Ok(sensor)
    };
    let sensor = start()?;
    let status = host.status()?;
    ensure!(status["confinement"].to_string().contains("starts nothing"), "{status:#}");

    host.fail("", 100)?;
    host.fail(".web", 50)?;
    host.wait_for(150, 50)?;
    // journald moves what it has to /var.
    signal("USR1", host.daemons[0].id())?;
    until(|| Ok(host.files("log/journal")?.len() > 1), "journald moves to /var")?;
    host.fail("", 1500)?;
    host.fail(".web", 500)?;
    host.wait_for(2150, 550)?;
    let files = host.files("log/journal")?;
    ensure!(files.iter().any(|name| name.contains('@')), "no file was rotated: {files:?}");

    // What is written, and rotated, while nobody reads.
    sensor.terminate(PATIENCE)?;
    host.fail("", 700)?;
    host.fail(".web", 300)?;
    let _sensor = start()?;
    host.wait_for(1000, 300)?;
    let status = host.status()?;
    for kind in ["damaged", "cut", "lost"] {
        ensure!(status["journal"][kind] == 0, "{kind}: {}", status["journal"]);
    }
    Ok(())
}
