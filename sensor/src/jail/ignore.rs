//! Whom a jail spares: networks, names that are looked up again and again, files of both, and what a
//! command says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use atalaya_program::host_names;
use atalaya_wire::Networks;
use serde::Deserialize;

/// How long a name may take to be looked up.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);
/// How long a command may run.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
/// How long a command's answer is remembered.
const ANSWER_LIFE: Duration = Duration::from_secs(300);
/// How many answers are remembered.
const ANSWERS: usize = 10_000;
/// The largest file of addresses, in bytes.
const LARGEST_FILE: u64 = 16 << 20;

/// Addresses, networks, names and files, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct IgnoreList {
    /// What needs no looking up.
    pub networks: Networks,
    /// Host names, looked up again at intervals; whatever addresses they have then are ignored.
    pub names: Vec<String>,
    /// Files with one of either a line.
    pub files: Vec<PathBuf>,
}

/// A command that tells by its exit status whether an address is spared.
#[derive(Debug)]
pub struct IgnoreCommand {
    command: String,
    answers: Mutex<HashMap<IpAddr, (Instant, bool)>>,
}

// === impl IgnoreList ===

impl IgnoreList {
    /// Adds one word: an address, a network, a host name, or `file:` and a path.
    pub fn add(&mut self, word: &str) -> Result<(), String> {
        let word = word.trim();
        if let Some(path) = word.strip_prefix("file:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            if !path.is_absolute() {
                return Err(format!("`{word}`: the path must begin with `/`"));
            }
            self.files.push(path);
            return Ok(());
        }
        match Networks::try_from(vec![word.to_owned()]) {
            Ok(network) => self.networks.extend(network.iter()),
            Err(error) if !is_host_name(word) => return Err(error.to_string()),
            Err(_) => self.names.push(word.to_ascii_lowercase()),
        }
        Ok(())
    }

    /// The files that cannot be read now, in a sentence each.
    pub fn troubles(&self) -> Vec<String> {
        let trouble = |path: &PathBuf| {
            let error = std::fs::File::open(path).err()?;
            Some(format!("{} cannot be read: {error}; what it lists is not ignored", path.display()))
        };
        self.files.iter().filter_map(trouble).collect()
    }

    /// Whether all of it is known without looking anything up.
    pub fn is_fixed(&self) -> bool {
        self.names.is_empty() && self.files.is_empty()
    }

    /// What the names and files stand for now. A name that cannot be looked up is passed over, with a
    /// warning.
    pub async fn look_up(&self) -> Networks {
        let mut names = self.names.clone();
        let mut found = Networks::default();
        for path in &self.files {
            match read(path) {
                Ok(words) => {
                    let mut inner = Self::default();
                    for word in words.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
                        if !word.is_empty() && !word.starts_with("file:") && inner.add(word).is_err() {
                            tracing::warn!(file = %path.display(), word, "neither an address nor a host name: it is not ignored");
                        }
                    }
                    found.extend(inner.networks.iter());
                    names.append(&mut inner.names);
                }
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "cannot be read: what it lists is not ignored");
                }
            }
        }
        for name in names {
            let addresses = tokio::time::timeout(LOOKUP_DEADLINE, host_names::look_up(&name, 0)).await;
            match addresses {
                Ok(Ok(addresses)) => found.extend(addresses.iter().map(|address| address.ip().into())),
                Ok(Err(error)) => tracing::warn!(name, %error, "cannot be looked up: it is not ignored"),
                Err(_) => tracing::warn!(name, "looking it up takes too long: it is not ignored"),
            }
        }
        found
    }
}

impl TryFrom<Vec<String>> for IgnoreList {
    type Error = String;

    fn try_from(words: Vec<String>) -> Result<Self, String> {
        let mut list = Self::default();
        words.iter().try_for_each(|word| list.add(word))?;
        Ok(list)
    }
}

// === impl IgnoreCommand ===

impl IgnoreCommand {
    /// A command for `sh`, in which `<ip>` stands for the address.
    pub fn new(command: &str) -> Self {
        Self { command: command.trim().to_owned(), answers: Mutex::default() }
    }

    /// As it was written.
    pub fn written(&self) -> &str {
        &self.command
    }

    /// Runs the command, unless it was asked about this address just now. It spares the address if it
    /// exits with 0; one that takes too long or cannot run does not, with a warning.
    pub async fn spares(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        if let Some((asked, spares)) = self.lock().get(&address)
            && now.duration_since(*asked) < ANSWER_LIFE
        {
            return *spares;
        }
        let line = ["<ip>", "<fid>", "<F-ID>"].iter().fold(self.command.clone(), |line, tag| {
            // An address holds nothing that a shell would take for its own.
            line.replace(tag, &address.to_string())
        });
        let child = tokio::process::Command::new("/bin/sh")
            .args(["-c", &line])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status();
        let spares = match tokio::time::timeout(COMMAND_DEADLINE, child).await {
            Ok(Ok(status)) => status.success(),
            Ok(Err(error)) => {
                tracing::warn!(command = self.command, %error, "the ignorecommand cannot run: it protects nobody");
                return false;
            }
            Err(_) => {
                let seconds = COMMAND_DEADLINE.as_secs();
                tracing::warn!(command = self.command, %address, seconds, "the ignorecommand took too long and was ended: it protects nobody");
                return false;
            }
        };
        let mut answers = self.lock();
        if answers.len() >= ANSWERS {
            answers.retain(|_, (asked, _)| now.duration_since(*asked) < ANSWER_LIFE);
        }
        if answers.len() < ANSWERS {
            answers.insert(address, (now, spares));
        }
        spares
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, (Instant, bool)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Letters, digits, hyphens and dots, with at least one letter; no range, no path.
fn is_host_name(word: &str) -> bool {
    word.len() <= 253
        && word.chars().any(|c| c.is_ascii_alphabetic())
        && !word.contains("..")
        && word.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_list_that_is_not_there_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        std::fs::write(&there, "").unwrap();
        let words = vec![format!("file:{}", there.display()), format!("file:{}.not", there.display())];
        let [trouble] = <[String; 1]>::try_from(IgnoreList::try_from(words).unwrap().troubles()).unwrap();
        assert!(trouble.contains("there.not cannot be read: No such file"), "{trouble}");
    }

    use super::*;

    #[test]
    fn networks_names_and_files_are_told_apart() {
        let words = ["192.0.2.0/24", "2001:db8::1", "Office.example", "file:/etc/spared"].map(str::to_owned);
        let list = IgnoreList::try_from(words.to_vec()).unwrap();
        assert_eq!(list.networks.iter().count(), 2);
        assert_eq!(list.names, ["office.example"]);
        assert_eq!(list.files, [PathBuf::from("/etc/spared")]);
        for wrong in ["192.0.2.1-9", "a b", "file:spared", "-x.example", "10.0.0.0/99", ""] {
            assert!(IgnoreList::try_from(vec![wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn names_and_files_are_looked_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spared");
        std::fs::write(&path, "# ours\n198.51.100.0/24 # office\nlocalhost\nno name\n").unwrap();
        let words =
            [format!("file:{}", path.display()), "nowhere.invalid".to_owned(), "file:/nowhere".to_owned()];
        let found = IgnoreList::try_from(words.to_vec()).unwrap().look_up().await;
        assert!(found.contains("198.51.100.9".parse().unwrap()));
        assert!(found.contains("127.0.0.1".parse().unwrap()) || found.contains("::1".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_command_spares_by_its_status_and_is_asked_once() {
        let folder = tempfile::tempdir().unwrap();
        let asked = folder.path().join("asked");
        let line = format!("echo <ip> >> {}; test <ip> = 192.0.2.1", asked.display());
        let command = IgnoreCommand::new(&line);
        for _ in 0..2 {
            assert!(command.spares("192.0.2.1".parse().unwrap()).await);
            assert!(!command.spares("192.0.2.2".parse().unwrap()).await);
        }
        assert_eq!(std::fs::read_to_string(asked).unwrap(), "192.0.2.1\n192.0.2.2\n");
    }

    // The clock of the test runs ahead to the deadline as soon as nothing else is to do.
    #[tokio::test(start_paused = true)]
    async fn a_command_that_takes_too_long_is_ended_and_spares_nobody() {
        assert!(!IgnoreCommand::new("sleep 60").spares("192.0.2.1".parse().unwrap()).await);
    }
}
