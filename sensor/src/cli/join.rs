//! `join`: makes this sensor one of an enforcer's.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, bail};
use atalaya_wire::JoinToken;

use super::runtime;
use crate::uplink::Uplink;
use crate::uplink::membership::Membership;

/// Tries a token, read from standard input where it is `-`, and stores the membership. With `offline` nothing is tried.
pub fn run(url: &str, token: &str, state: &Path, offline: bool) -> anyhow::Result<()> {
    let mut text = token.to_owned();
    if token == "-" {
        if std::io::stdin().is_terminal() {
            eprintln!("Paste the token and press Enter and Ctrl-D:");
        }
        text.clear();
        std::io::stdin().take(4096).read_to_string(&mut text).context("cannot read the token")?;
    }
    let token: JoinToken = text.parse()?;
    let membership = Membership::new(url, token)?;
    if !offline {
        let uplink = Uplink::new(membership.clone())?;
        if let Err(error) = runtime()?.block_on(uplink.allow()) {
            bail!(
                "{error}\nNothing was stored. Where the enforcer is only away for now, join with --offline."
            );
        }
    }
    let path = membership.store(state)?;
    println!("joined {} as {}; stored in {}", membership.url, membership.sensor, path.display());
    Ok(())
}
