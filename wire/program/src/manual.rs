//! The manual's pages, from the same definition as the command line itself.

use std::io;
use std::path::Path;

use clap_mangen::Man;

/// Writes a page for a program (section 8) and one for each of its commands (section 1) into a folder, which is made where
/// it is missing.
pub fn write(program: clap::Command, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut program = program.disable_help_subcommand(true);
    // Gives the commands their whole names, `atalaya-enforcer-bans`.
    program.build();
    let source = format!("Atalaya {}", env!("CARGO_PKG_VERSION"));
    write_page(&program, "8", &source, folder)
}

fn write_page(command: &clap::Command, section: &str, source: &str, folder: &Path) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_page(sub, "1", source, folder)?;
    }
    let page = Man::new(command.clone()).source(source).section(section).manual("Atalaya");
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8(text).map_err(io::Error::other)?;
    // What follows a command's help is its examples. And its commands are of section 1 whatever the program's.
    let text = text.replace("\n.SH EXTRA\n", "\n.SH EXAMPLES\n");
    let text = if section == "1" { text } else { text.replace(&format!("({section})\n"), "(1)\n") };
    std::fs::write(folder.join(page.get_filename()), text)
}
