//! `join`: makes this sensor one of an enforcer's.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use atalaya_program::config_file::ConfigError;
use atalaya_program::disk::FileTrouble;
use atalaya_wire::{AnyToken, FirstJoin, JoinToken};

use super::runtime;
use crate::config::Config;
use crate::uplink::Uplink;
use crate::uplink::membership::Membership;

/// What a sensor begins with that has no configuration yet: the first jail of README's.
const FIRST: &str = if cfg!(feature = "kernel") {
    "# Written by `atalaya-sensor join`. `atalaya-sensor check` says what it means; README.md has more to choose from.\n\n\
     [jail.ssh]                          # 3 failures in 10 minutes ban for 30 minutes\n\
     source = \"logins\"                   # what the kernel sees: sshd and everything else that uses PAM\n\
     services = [\"sshd\"]\n"
} else {
    "# Written by `atalaya-sensor join`. `atalaya-sensor check` says what it means; README.md has more to choose from.\n\n\
     [jail.sshd]                         # 3 failures in 10 minutes ban for 30 minutes\n"
};

/// Tries a token, read from standard input where it is `-`, and stores the membership in the state folder of the
/// configuration; one that is not there is written. With `offline` nothing is tried.
pub fn run(
    url: &str,
    token: &str,
    file: &Path,
    fail2ban: Option<&Path>,
    offline: bool,
) -> anyhow::Result<()> {
    let (state, is_first) = match Config::read(file, fail2ban) {
        Ok(config) => (config.state, false),
        Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            (Config::parse(FIRST, file)?.state, true)
        }
        Err(error) => return Err(error.into()),
    };
    let mut text = token.to_owned();
    if token == "-" {
        if io::stdin().is_terminal() {
            eprintln!("Paste the token and press Enter and Ctrl-D:");
        }
        text.clear();
        io::stdin().take(4096).read_to_string(&mut text).context("cannot read the token")?;
    }
    let membership = match text.parse()? {
        AnyToken::Lasting(token) => Membership::new(url, token)?,
        AnyToken::Once(_) if offline => {
            bail!(
                "this token is good for one join at the enforcer: --offline needs one of `atalaya-enforcer enrol` without --once"
            )
        }
        AnyToken::Once(token) => redeem(url, &token, &state)?,
    };
    if !offline {
        let uplink = Uplink::new(membership.clone())?;
        if let Err(error) = runtime()?.block_on(uplink.allow()) {
            bail!(
                "{error}\nNothing was stored. Where the enforcer is only away for now, join with --offline."
            );
        }
    }
    if is_first {
        write_first(file).with_context(|| format!("cannot write {}; nothing was stored", file.display()))?;
        println!("{} was not there: wrote one with a jail for ssh", file.display());
    }
    let path = membership.store(&state)?;
    Membership::forget_pending(&state)?;
    println!("joined {} as {}; stored in {}", membership.url, membership.sensor, path.display());
    Ok(())
}

/// Sets a secret of this sensor's own, by a token that is good for that once. The secret is on disk before it is sent: where the
/// answer is lost, the same token sets the same secret again.
fn redeem(url: &str, token: &JoinToken, state: &Path) -> anyhow::Result<Membership> {
    let first = Membership::new(url, token.clone())?;
    let pending = Membership::pending(state, &first)?;
    let uplink = Uplink::new(first)?;
    runtime()?.block_on(uplink.set_secret(&FirstJoin::of(&pending.secret))).map_err(|error| {
        anyhow::anyhow!("{error}\nNothing was stored. Where the enforcer is only away for now, join again within the token's hour.")
    })?;
    Ok(pending)
}

/// Writes the first configuration, never over another.
fn write_first(path: &Path) -> Result<(), FileTrouble> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| FileTrouble::of(path, error))?;
    }
    let write = || {
        let mut file = std::fs::File::options().write(true).create_new(true).open(path)?;
        let written = file.write_all(FIRST.as_bytes()).and_then(|()| file.sync_all());
        // Half of it would bar the next try, as a file that is there.
        written.inspect_err(|_| {
            let _ = std::fs::remove_file(path);
        })
    };
    write().map_err(|error| FileTrouble::of(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_configuration_has_a_jail_and_is_never_written_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("atalaya/sensor.toml");
        write_first(&path).unwrap();
        let config = Config::read(&path, None).unwrap();
        assert_eq!(config.jails.len(), 1, "{config}");
        assert_eq!(write_first(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
