//! `backup` and `restore`: the ledger, the enrolled sensors and the certificate in one file, and back.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use atalaya_enforcer::config::Config;
use atalaya_enforcer::ledger::backup::{self, Summary};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use jiff::Timestamp;

#[derive(clap::Args)]
#[command(
    after_help = "Works beside a running enforcer, which is not held up. The file holds secrets (the certificate's key), \
    and is made for this user alone.\n\nExamples:\n  atalaya-enforcer backup /var/backups/atalaya-$(date +%F).sqlite3\n  \
    atalaya-enforcer restore /var/backups/atalaya-2026-11-25.sqlite3   # with the enforcer stopped"
)]
pub struct Backup {
    /// The file to make
    file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Print JSON: {file, bytes, standing, over, sensors, certificate}
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(
    after_help = "What is in the state folder is set aside there under names with `.before-restore-` and the time. Bans \
    that came after the backup and that routers hold are taken over from there at the next start.\n\nExample:\n  \
    systemctl stop atalaya-enforcer\n  atalaya-enforcer restore /var/backups/atalaya-2026-11-25.sqlite3\n  \
    systemctl start atalaya-enforcer"
)]
pub struct Restore {
    /// A file that `backup` made
    file: PathBuf,
    /// Print JSON: {file, bytes, standing, over, sensors, certificate}
    #[arg(long)]
    json: bool,
}

// === impl Backup ===

impl Backup {
    /// Saves, and prints what was saved.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let state = Config::read(config)?.state;
        let bar = bar();
        let summary = backup::save(&state, &self.file, self.force, &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        print("saved to", &self.file, summary, self.json, out)
    }
}

// === impl Restore ===

impl Restore {
    /// Restores, and prints what came back.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let state = Config::read(config)?.state;
        let bar = bar();
        let summary = backup::restore(&self.file, &state, Timestamp::now(), &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        print("restored from", &self.file, summary, self.json, out)
    }
}

fn print(what: &str, file: &Path, summary: Summary, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let Summary { bytes, standing, over, sensors, certificate } = summary;
    if json {
        let mut value = serde_json::to_value(summary)?;
        value["file"] = serde_json::json!(file);
        writeln!(out, "{value}")?;
    } else {
        writeln!(
            out,
            "{what} {}, {}, checked; bans that stand: {}, that are over: {}; sensors: {}; {}",
            file.display(),
            HumanBytes(bytes),
            HumanCount(standing),
            HumanCount(over),
            HumanCount(sensors),
            if certificate {
                "with the certificate"
            } else {
                "WITHOUT A CERTIFICATE: where none is in the state folder, sensors have to join again"
            }
        )?;
    }
    Ok(())
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent} % {eta}") {
        bar.set_style(style);
    }
    bar
}
