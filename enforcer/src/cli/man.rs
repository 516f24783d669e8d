//! `atalaya-enforcer man`: the manual's pages, from the same definition as the command line itself.

use std::path::PathBuf;

use anyhow::Context;
use atalaya_program::manual;
use clap::CommandFactory;

/// Where the pages go.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer man /usr/local/share/man/man1\n  \
    atalaya-enforcer man /tmp/man && man -l /tmp/man/atalaya-enforcer-bans.1")]
pub struct Arguments {
    /// The folder; made where it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Writes a page for the program and one for each command.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = &arguments.folder;
    manual::write(super::Cli::command(), folder)
        .with_context(|| format!("cannot write the manual's pages into {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_example() {
        let folder = tempfile::tempdir().unwrap();
        run(&Arguments { folder: folder.path().join("man1") }).unwrap();
        let commands = super::super::Cli::command();
        let names = commands.get_subcommands().map(|sub| format!("atalaya-enforcer-{}", sub.get_name()));
        let pages = names.map(|name| format!("{name}.1"));
        for name in pages.chain(["atalaya-enforcer.8".to_owned()]) {
            let page = std::fs::read_to_string(folder.path().join("man1").join(&name)).unwrap();
            assert!(page.contains(".SH EXAMPLES") && page.contains(".SH NAME"), "{name}");
        }
    }
}
