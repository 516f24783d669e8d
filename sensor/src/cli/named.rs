//! What a person means by a filter: the name of a jail or of a filter, a file, or a regex itself.

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

use crate::config::{self, Config, Filters, read_filter_file};
use crate::fail2ban::{DEFAULT_FOLDER, Fail2ban};
use crate::filter::{Filter, FilterDefinition};
use crate::source::journal::{JournalMatch, JournalPlace, WantedJournal};

/// Where to look for what is named.
#[derive(Clone, Debug)]
pub struct Named {
    config: PathBuf,
    filters: Filters,
    /// Whether fail2ban's filters win over ours.
    theirs_first: bool,
}

/// A filter that was named.
#[derive(Debug)]
pub struct NamedFilter {
    /// Compiled; a jail's own filter with what the jail adds to it.
    pub filter: Filter,
    /// What it is: `jail sshd`, `filter sshd`, a path, or `regex`.
    pub what: String,
    /// The zone of dates that state none.
    pub zone: TimeZone,
    /// Which journal it would read, and which entries; `None` where it names none.
    pub journal: Option<WantedJournal>,
}

// === impl Named ===

impl Named {
    /// Looks in a configuration, which may be missing, and in fail2ban's folder: the given one, whose
    /// filters then win over ours, else that of the configuration, else the stock one where it is there.
    pub fn new(config: &Path, fail2ban: Option<&Path>) -> Self {
        let theirs_first = fail2ban.is_some();
        let stock = Some(Path::new(DEFAULT_FOLDER)).filter(|folder| folder.is_dir());
        let filters = config::filters_of(config, fail2ban, stock);
        Self { config: config.to_owned(), filters, theirs_first }
    }

    /// Finds what is meant; a jail wins over a filter of its name.
    pub fn find(&self, word: &str) -> Result<NamedFilter, String> {
        let zone = TimeZone::system();
        let of = |what: String, definition: &FilterDefinition| {
            let filter = definition.compile().map_err(|error| format!("{what}: {error}"))?;
            let entries = JournalMatch::parse(definition.journalmatch.iter().map(String::as_str));
            let journal = entries.ok().filter(|_| !definition.journalmatch.is_empty());
            let journal = journal.map(|entries| WantedJournal { place: JournalPlace::default(), entries });
            Ok(NamedFilter { filter, what, zone: zone.clone(), journal })
        };
        let configured = if self.config.exists() { Some(Config::read(&self.config, None)) } else { None };
        let mut trouble = None;
        match configured {
            Some(Ok(config)) => {
                if let Some((filter, zone)) = config.filter_of(word) {
                    let zone = zone.cloned().unwrap_or_else(TimeZone::system);
                    let jail = config.jails.iter().find(|jail| jail.policy.name.as_str() == word);
                    let journal = jail.and_then(|jail| jail.source.journal()).cloned();
                    return Ok(NamedFilter {
                        filter: filter.clone(),
                        what: format!("jail {word}"),
                        zone,
                        journal,
                    });
                }
            }
            Some(Err(error)) => trouble = Some(error.to_string()),
            None => {}
        }
        let path = Path::new(word);
        if word.contains('/') && path.is_file() {
            return of(word.to_owned(), &read_filter_file(path)?);
        }
        let name = word.split('[').next().unwrap_or_default();
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let jail = self.filters.fail2ban().and_then(|folder| Fail2ban::read(folder).ok()?.jail(word).ok());
        let theirs = if self.theirs_first { self.filters.find_theirs(word).ok() } else { None };
        match theirs.map_or_else(|| self.filters.find(word, None), Ok) {
            Ok(definition) => of(format!("filter {word}"), &definition),
            Err(_) if jail.is_some() => {
                let definition = jail.map(|jail| jail.filter).unwrap_or_default();
                of(format!("jail {word} of fail2ban"), &definition)
            }
            Err(error) if is_name => Err(match trouble {
                Some(trouble) => format!("{error}; and no jail could be looked up: {trouble}"),
                None => format!("{error}; nor is there a jail of this name in {}", self.config.display()),
            }),
            Err(_) if word.contains('/') && !word.contains('<') => {
                Err(format!("there is no file {word}, and a regex would need <HOST>"))
            }
            Err(_) => of(
                "regex".to_owned(),
                &FilterDefinition { failregex: vec![word.to_owned()], ..FilterDefinition::default() },
            ),
        }
    }

    /// The jails of the configuration that read lines.
    pub fn jails(&self) -> Result<Vec<String>, String> {
        let config = Config::read(&self.config, None).map_err(|error| error.to_string())?;
        let names = config.jails.iter().map(|jail| jail.policy.name.to_string());
        Ok(names.filter(|name| config.filter_of(name).is_some()).collect())
    }
}
