//! `atalaya-enforcer man`: the manual's pages, from the same definition as the command line itself.

use std::path::{Path, PathBuf};

use anyhow::Context;
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
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut command = super::Cli::command().disable_help_subcommand(true);
    // Gives the commands their whole names, `atalaya-enforcer-bans`.
    command.build();
    write(&command, folder)
}

fn write(command: &clap::Command, folder: &Path) -> anyhow::Result<()> {
    for sub in command.get_subcommands() {
        write(sub, folder)?;
    }
    let source = format!("Atalaya {}", env!("CARGO_PKG_VERSION"));
    let page = clap_mangen::Man::new(command.clone()).source(source).manual("Atalaya");
    let mut text = Vec::new();
    page.render(&mut text)?;
    // What follows a command's help is its examples.
    let text = String::from_utf8(text)?.replace("\n.SH EXTRA\n", "\n.SH EXAMPLES\n");
    let path = folder.join(page.get_filename());
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
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
        for name in names.chain(["atalaya-enforcer".to_owned()]) {
            let page = std::fs::read_to_string(folder.path().join(format!("man1/{name}.1"))).unwrap();
            assert!(page.contains(".SH EXAMPLES") && page.contains(".SH NAME"), "{name}");
        }
    }
}
