//! fail2ban's configuration, read as it lies: `jail.conf`, its layers and its filters. What comes out
//! are definitions, with everything resolved; nothing of fail2ban's own is needed to use them.
//!
//! One jail's mistake is that jail's alone: the others are read on.

pub mod backend;
mod convert;
mod definition;
mod ini;
mod layers;
mod spared;
mod tags;
mod time;

use std::path::{Path, PathBuf};

pub use convert::{Imported, as_toml, import};
pub use definition::{JailDefinition, LogPath};
use layers::{Layers, Overrides};

use crate::filter::FilterDefinition;

/// Where distributions' packages put fail2ban's configuration.
pub const DEFAULT_FOLDER: &str = "/etc/fail2ban";

/// What is wrong in a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", location(file, *line))]
pub struct Fail2banError {
    /// The `.conf` or `.local` file, or the folder, in which it was found.
    pub file: PathBuf,
    /// Counted from one; zero where the whole file is meant.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// A configuration of fail2ban.
#[derive(Debug)]
pub struct Fail2ban {
    folder: PathBuf,
    jails: Layers,
}

// === impl Fail2ban ===

impl Fail2ban {
    /// Reads the jails below a folder, such as `/etc/fail2ban`.
    pub fn read(folder: &Path) -> Result<Self, Fail2banError> {
        let mut jails = Layers::read(folder, "jail")?;
        let file = ini::OptionPlace::whole(&folder.join("jail.conf"));
        for (option, text) in
            [("fail2ban_version", "1.0.2".to_owned()), ("fail2ban_confpath", folder.display().to_string())]
        {
            jails.defaults.insert(option.to_owned(), ini::Value { text, place: file.clone() });
        }
        Ok(Self { folder: folder.to_owned(), jails })
    }

    /// The names of all jails, enabled or not, in the order of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.jails.names()
    }

    /// The jails that are enabled, each whole or with what is wrong.
    pub fn enabled(&self) -> Vec<(&str, Result<JailDefinition, Fail2banError>)> {
        self.names()
            .filter_map(|name| match definition::is_enabled(&self.jails, name) {
                Ok(true) => Some((name, self.jail(name))),
                Ok(false) => None,
                Err(error) => Some((name, Err(error))),
            })
            .collect()
    }

    /// One jail, enabled or not.
    pub fn jail(&self, name: &str) -> Result<JailDefinition, Fail2banError> {
        definition::jail(&self.folder, &self.jails, name)
    }

    /// A filter by its name, with options as in `sshd[mode=aggressive]`, for no jail.
    pub fn filter(&self, filter: &str) -> Result<FilterDefinition, Fail2banError> {
        let place = ini::OptionPlace::whole(&self.folder);
        definition::filter(&self.folder, filter, "auto", &Overrides::new(), &place).map(|(filter, _)| filter)
    }

    /// A filter in a file of fail2ban's form, wherever it lies; what it includes is looked for beside it.
    pub fn filter_in_file(path: &Path) -> Result<FilterDefinition, Fail2banError> {
        definition::filter_in_file(path)
    }
}

fn location(file: &Path, line: usize) -> String {
    if line == 0 { file.display().to_string() } else { format!("{}:{line}", file.display()) }
}
