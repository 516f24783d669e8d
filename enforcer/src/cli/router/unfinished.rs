//! What was answered to `router add` so far, in a file beside the configuration: a walk that was broken off, by Ctrl-C, a
//! full disk or a lost connection, goes on from there. A password is in it only where it was made for a new user, for it may
//! be on the router already; so nobody else may read it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use atalaya_wire::{Fingerprint, Name};
use serde::{Deserialize, Serialize};

use super::prompt::Prompt;

/// The answers. Those that were not given yet are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    pub name: Option<Name>,
    pub address: Option<String>,
    pub user: Option<String>,
    pub fingerprint: Option<Fingerprint>,
    /// One's own networks; `None` where it was not asked.
    pub allow: Option<Vec<String>>,
    /// The password that was made for a new user; none that somebody typed.
    pub password: Option<String>,
    /// Whether the user is one that the router may not know yet.
    #[serde(default)]
    pub is_new: bool,
}

/// The file with the answers.
pub struct Unfinished {
    path: PathBuf,
    pub answers: Answers,
    /// Whether it was said that they cannot be kept.
    warned: bool,
}

// === impl Unfinished ===

impl Unfinished {
    /// That of a configuration, with nothing answered.
    pub fn beside(config: &Path) -> Self {
        let mut name = config.file_name().unwrap_or_default().to_owned();
        name.push(".router-add");
        Self { path: config.with_file_name(name), answers: Answers::default(), warned: false }
    }

    /// What was answered before, where a walk was broken off.
    pub fn earlier(&self) -> Option<Answers> {
        let answers: Answers = toml::from_str(&fs::read_to_string(&self.path).ok()?).ok()?;
        Some(answers).filter(|answers| answers.name.is_some())
    }

    /// Keeps the answers, in one step, readable for its owner alone.
    pub fn keep(&self) -> anyhow::Result<()> {
        make_folder(&self.path)?;
        let write = || -> io::Result<()> {
            let mut new = self.path.clone().into_os_string();
            new.push(format!("-{}", std::process::id()));
            let text = toml::to_string(&self.answers).map_err(io::Error::other)?;
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&new, &self.path));
            if written.is_err() {
                let _ = fs::remove_file(&new);
            }
            written
        };
        write().with_context(|| format!("cannot keep the answers in {}", self.path.display()))
    }

    /// Keeps the answers of somebody; where nobody answers there is nothing to keep. That it cannot be done ends no walk: what
    /// is answered is still in memory.
    pub fn keep_of(&mut self, prompt: Prompt) {
        if prompt.is_somebody()
            && let Err(error) = self.keep()
        {
            if !self.warned {
                eprintln!("{error:#}; a walk that is broken off now begins anew.");
            }
            self.warned = true;
        }
    }

    /// Whether the answers of this moment are in the file.
    pub fn is_kept(&self) -> bool {
        self.earlier().as_ref() == Some(&self.answers)
    }

    /// Forgets them: all that they are for is done.
    pub fn done(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the folder of the configuration where it is missing. The sensor's configuration may be there too, which needs no
/// secrecy; passwords are in files of their own.
pub fn make_folder(config: &Path) -> anyhow::Result<()> {
    let Some(folder) = config.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn answers_are_kept_for_their_owner_alone_and_found_again_until_all_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("etc/atalaya/enforcer.toml");
        let mut unfinished = Unfinished::beside(&config);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(unfinished.earlier(), None);
        unfinished.answers = Answers {
            name: Some("edge".parse().unwrap()),
            allow: Some(vec!["192.0.2.0/24".to_owned()]),
            password: Some("p \"w".to_owned()),
            ..Answers::default()
        };
        unfinished.keep().unwrap();
        unfinished.keep().unwrap();
        assert_eq!((mode(&unfinished.path), mode(config.parent().unwrap())), (0o600, 0o755));
        assert_eq!(Unfinished::beside(&config).earlier(), Some(unfinished.answers.clone()));
        unfinished.done();
        assert_eq!(unfinished.earlier(), None);
        assert_eq!(fs::read_dir(config.parent().unwrap()).unwrap().count(), 0);
        // What is no unfinished is no obstacle.
        fs::write(&unfinished.path, "name = 5").unwrap();
        assert_eq!(unfinished.earlier(), None);
    }
}
