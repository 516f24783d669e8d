//! `atalaya-sensor check`: what a configuration means, and what of it this host does not have.

use std::path::Path;
use std::process::ExitCode;

use atalaya_program::config_file::ConfigError;
use serde_json::{Value, json};

use crate::config::Config;
use crate::local_drop::session;
use crate::source::files::{Access, troubles_of};

/// The arguments of `atalaya-sensor check`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Prints it; status 1, or an error in words, where there is a mistake.
pub fn run(arguments: &Arguments, file: &Path, fail2ban: Option<&Path>) -> anyhow::Result<ExitCode> {
    let read = Config::read(file, fail2ban);
    if arguments.json {
        let checked = read.map_err(|error| mistake(&error)).and_then(|config| {
            let told = document(&config, file);
            let at_risk = config.check_session(session::client());
            at_risk.map(|()| told).map_err(|message| json!({"message": message}))
        });
        let (document, status) = match checked {
            Ok(document) => (document, ExitCode::SUCCESS),
            Err(mistake) => (json!({"file": file, "mistake": mistake}), ExitCode::FAILURE),
        };
        println!("{document:#}");
        return Ok(status);
    }
    let config = read?;
    print!("{config}");
    for trouble in config.troubles() {
        println!("warning: {trouble}");
    }
    for (path, what) in unread(&config) {
        println!("warning: not read: {path}: {what}");
    }
    config.check_session(session::client()).map_err(anyhow::Error::msg)?;
    if file.exists() {
        println!("{}: no mistakes", file.display());
    } else {
        println!("{} is not there: the defaults hold", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Logs that are not read now, with the reason.
fn unread(config: &Config) -> Vec<(String, String)> {
    let logs = config.logs();
    let troubles = troubles_of(&logs.patterns, &Access::new(logs.follow, None));
    troubles.into_iter().map(|(path, what)| (path.display().to_string(), what)).collect()
}

/// What `check --json` prints where there is no mistake; the help of `check` lists the fields, which are added, never
/// changed.
fn document(config: &Config, file: &Path) -> Value {
    let jails: Vec<Value> = config
        .jails
        .iter()
        .map(|jail| {
            let (policy, filter, guarded) = (&jail.policy, jail.source.filter(), config.guarded(jail));
            let (warnings, mut notes): (Vec<String>, Vec<String>) = jail
                .source
                .notes(&guarded, policy)
                .into_iter()
                .partition(|note| note.starts_with("warning: "));
            notes.iter_mut().for_each(|note| *note = note.trim_start_matches("note: ").to_owned());
            let warnings =
                warnings.into_iter().map(|warning| warning.trim_start_matches("warning: ").to_owned());
            let of_filter =
                filter.into_iter().flat_map(|filter| filter.warnings().iter().map(ToString::to_string));
            let caution =
                filter.map(|filter| filter.caution().to_owned()).filter(|caution| !caution.is_empty());
            json!({
                "name": policy.name,
                "source": jail.source.kind(),
                "reads": jail.source.description(&guarded),
                "maxretry": policy.maxretry,
                "findtime": policy.findtime,
                "bantime": policy.bantime,
                "escalates": policy.escalation.is_some(),
                "ipv6_prefix": policy.ipv6_prefix,
                "warnings": warnings.chain(of_filter).collect::<Vec<_>>(),
                "caution": caution,
                "notes": notes,
            })
        })
        .collect();
    let fail2ban = config.fail2ban.as_ref().map(|theirs| {
        let left_out = theirs.left_out.iter().map(|(jail, reason)| json!({"jail": jail, "reason": reason}));
        json!({
            "folder": theirs.folder, "jails": theirs.jails, "left_out": left_out.collect::<Vec<_>>(), "notes": theirs.notes,
        })
    });
    let unread = unread(config).into_iter().map(|(path, reason)| json!({"path": path, "reason": reason}));
    json!({
        "file": file,
        "exists": file.exists(),
        "state": config.state,
        "jails": jails,
        "fail2ban": fail2ban,
        "troubles": config.troubles(),
        "unread": unread.collect::<Vec<_>>(),
        "mistake": null,
    })
}

/// A mistake, with its place where it has one.
fn mistake(error: &ConfigError) -> Value {
    match error {
        ConfigError::Content { path, line, column, message } => {
            json!({"file": path, "line": line, "column": column, "message": message})
        }
        error => json!({"message": error.to_string()}),
    }
}
