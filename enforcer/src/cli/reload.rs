//! `reload`: the running enforcer goes on with the configuration as it is now, after it was printed what that changes.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use atalaya_enforcer::config::{self, Config};
use atalaya_enforcer::control::reload::{ReloadAnswer, ReloadRequest};
use atalaya_wire::{Name, Problem};

use super::router::prompt::Prompt;
use super::socket::{Socket, print_json};
use super::words;

/// The socket's resource.
const PATH: &str = "reload";

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer reload --dry-run   # prints what would change, and changes nothing\n  \
    atalaya-enforcer reload\n\n\
    A mistake anywhere leaves everything as it was. Sensors stay connected; a router logs in anew only where its address, \
    user, password or fingerprint is another. SIGHUP does the same, and logs what changes.")]
pub struct Arguments {
    /// Change nothing: only print what would change
    #[arg(long)]
    dry_run: bool,
    /// Present a new certificate although enrolled sensors pin the one before; each must then join again
    #[arg(long)]
    new_certificate: bool,
    /// Print JSON: {changes, unchanged, warnings, applied, lifted, routers}
    #[arg(long)]
    json: bool,
}

// === impl Arguments ===

impl Arguments {
    /// Prints what changes, then lets it change.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let socket = socket(config)?;
        let Self { dry_run, new_certificate, json } = self;
        let would: ReloadAnswer = socket.post(PATH, &ReloadRequest { dry_run: true, new_certificate })?;
        if !json {
            print(out, &would)?;
        }
        if dry_run {
            return if json { print_json(out, &would) } else { Ok(()) };
        }
        let done = apply(&socket, &would, new_certificate)?;
        if json { print_json(out, &done) } else { print_done(out, &would, &done) }
    }
}

/// The way to the enforcer that runs. A mistake is told here as `check` tells it, also where none does; but the enforcer may
/// read what this command may not, for systemd gives passwords to the service alone: then its word counts.
fn socket(path: &Path) -> anyhow::Result<Socket> {
    let mistake = match Config::read(path) {
        Ok(config) => return Socket::at(&config.socket),
        Err(mistake) => mistake,
    };
    let Some(socket) = config::socket_of(path).and_then(|socket| Socket::at(&socket).ok()) else {
        return Err(mistake.into());
    };
    let look = ReloadRequest { dry_run: true, ..Default::default() };
    let would: anyhow::Result<ReloadAnswer> = socket.post(PATH, &look);
    match would {
        Err(error) if error.is::<Problem>() && !error.to_string().contains(&mistake.to_string()) => {
            Err(error)
        }
        Err(_no_answer_or_the_same) => Err(mistake.into()),
        Ok(_) => Ok(socket),
    }
}

/// Lets the enforcer that runs take up a router that was appended to the configuration; says how to start one where
/// none runs. Where other changes wait in the configuration too, they are made only if somebody agrees.
pub fn after_adding(
    router: &Name,
    config: &Path,
    prompt: Prompt,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let socket = Socket::of(config)?;
    let is_running = socket.answers().with_context(|| {
        format!(
            "{router} is in {}, but whether an enforcer runs cannot be told; `atalaya-enforcer reload`, by who may ask it, lets one that does take the router up",
            config.display()
        )
    })?;
    if !is_running {
        writeln!(
            out,
            "No enforcer runs: `atalaya-enforcer run` or `systemctl start atalaya-enforcer` starts it."
        )?;
        return Ok(());
    }
    // Where the enforcer refused, it goes on as before; where no answer came, nobody knows what it did.
    let not_taken_up = |error: anyhow::Error| {
        let what = if error.is::<Problem>() {
            "the running enforcer refused it and goes on as before; mend that, and let it take the router up with `atalaya-enforcer reload`"
        } else {
            "the running enforcer gave no answer that says what it did; `atalaya-enforcer routers` tells, and `atalaya-enforcer reload` lets it take the router up"
        };
        error.context(format!("{router} is in {}, but {what}", config.display()))
    };
    let look = ReloadRequest { dry_run: true, ..Default::default() };
    let would: ReloadAnswer = socket.post(PATH, &look).map_err(not_taken_up)?;
    let of_router = format!("router {router}: ");
    if !would.changes.iter().any(|line| line.starts_with(&of_router)) {
        writeln!(
            out,
            "The enforcer that runs reads another configuration; mend that, and let it take the router up with `atalaya-enforcer reload`."
        )?;
        return Ok(());
    }
    let alone = would.changes.iter().all(|line| line.starts_with(&of_router));
    if !alone {
        writeln!(out, "The configuration has other changes too, which the enforcer has not taken up yet:")?;
        print(out, &would)?;
    }
    if !prompt.agrees("Let the running enforcer take it up now?", alone)? {
        writeln!(out, "`atalaya-enforcer reload` lets the running enforcer take it up.")?;
        return Ok(());
    }
    let done = apply(&socket, &would, false).map_err(not_taken_up)?;
    writeln!(out, "The running enforcer has taken it up:")?;
    print(out, &done)
}

/// Lets the changes be made that were looked at before.
fn apply(socket: &Socket, would: &ReloadAnswer, new_certificate: bool) -> anyhow::Result<ReloadAnswer> {
    let done: ReloadAnswer = socket.post(PATH, &ReloadRequest { dry_run: false, new_certificate })?;
    if done.changes != would.changes {
        eprintln!("The configuration was changed in between; this is what was reloaded:");
    }
    Ok(done)
}

fn print(out: &mut impl Write, answer: &ReloadAnswer) -> anyhow::Result<()> {
    for line in &answer.changes {
        writeln!(out, "{}", words::harmless(line))?;
    }
    for line in &answer.unchanged {
        writeln!(out, "left as it is: {}", words::harmless(line))?;
    }
    for warning in &answer.warnings {
        writeln!(out, "warning: {}", words::harmless(warning))?;
    }
    if answer.changes.is_empty() {
        writeln!(out, "nothing to change")?;
    }
    Ok(out.flush()?)
}

fn print_done(out: &mut impl Write, would: &ReloadAnswer, done: &ReloadAnswer) -> anyhow::Result<()> {
    if done.changes != would.changes {
        print(out, done)?;
    }
    let (changes, routers) =
        (words::counted(done.changes.len(), "change"), words::counted(done.routers, "router"));
    write!(out, "reloaded: {changes}, {routers}")?;
    if done.lifted > 0 {
        let bans = words::counted(done.lifted, "ban");
        let whose = words::agreeing(done.lifted, "its address is", "their addresses are");
        write!(out, "; {bans} lifted: {whose} allowed now")?;
    }
    Ok(writeln!(out)?)
}
