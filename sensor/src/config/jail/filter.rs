//! The filter of a jail that reads lines: by its name, or as the jail says.

use std::path::Path;

use atalaya_program::config_file::ConfigError;
use toml::Spanned;

use super::{OneOrMany, RawJail, Whose, many};
use crate::fail2ban::Fail2ban;
use crate::filter::catalogue;
use crate::filter::{Filter, FilterDefinition, FilterError};

/// The most lines that a regex may see at once.
const MOST_LINES: u32 = 1000;

// === impl RawJail ===

impl RawJail {
    /// The filter, and what it was made of.
    pub(super) fn filter(&self, whose: &Whose<'_>) -> Result<(Filter, FilterDefinition), ConfigError> {
        let definition = self.definition(whose)?;
        let place = self.failregex.as_ref().map(Spanned::span);
        let place = place.or_else(|| self.prefregex.as_ref().map(Spanned::span));
        let filter = definition.compile().map_err(|error| match (&error, place) {
            (FilterError::Date(_), _) | (_, None) => (whose.wrong)(error.to_string()),
            (_, Some(place)) => (whose.at)(place, error.to_string()),
        })?;
        Ok((filter, definition))
    }

    /// The filter as the jail has it: a named one, or ours of the jail's own name, with what the jail
    /// says in its place.
    fn definition(&self, whose: &Whose<'_>) -> Result<FilterDefinition, ConfigError> {
        let Whose { name, own, at, wrong } = *whose;
        let mut definition = match &self.filter {
            Some(named) => find_filter(named.get_ref(), own).map_err(|message| at(named.span(), message))?,
            None if self.failregex.is_none() => catalogue::filter(name.as_str()).ok_or_else(|| {
                wrong(format!(
                    "it reads lines and needs a `failregex`, such as '^.*\\[<HOST>\\].*authentication failed', or a `filter`: {}",
                    catalogue::names().collect::<Vec<_>>().join(", ")
                ))
            })?,
            None => FilterDefinition::default(),
        };
        let list = |value: &Option<Spanned<OneOrMany>>, of: &mut Vec<String>| {
            if value.is_some() {
                *of = many(value.as_ref());
            }
        };
        list(&self.failregex, &mut definition.failregex);
        list(&self.ignoreregex, &mut definition.ignoreregex);
        list(&self.paths, &mut definition.paths);
        list(&self.journalmatch, &mut definition.journalmatch);
        if let Some(prefregex) = &self.prefregex {
            definition.prefregex = Some(prefregex.get_ref().clone());
        }
        if self.datepattern.is_some() {
            definition.datepattern = Some(many(self.datepattern.as_ref()).join("\n"));
        }
        if let Some(lines) = self.maxlines {
            if !(1..=MOST_LINES).contains(&lines) {
                return Err(wrong(format!("maxlines is {lines}; expected 1 to {MOST_LINES}")));
            }
            definition.maxlines = lines;
        }
        Ok(definition)
    }
}

/// A filter by its name: ours, or one in fail2ban's folder, with options as in `sshd[mode=aggressive]`.
pub fn find_filter(name: &str, fail2ban: Option<&Path>) -> Result<FilterDefinition, String> {
    catalogue::filter(name).map_or_else(|| find_theirs(name, fail2ban), Ok)
}

/// A filter in fail2ban's folder by its name.
pub fn find_theirs(name: &str, fail2ban: Option<&Path>) -> Result<FilterDefinition, String> {
    let ours = catalogue::names().collect::<Vec<_>>().join(", ");
    let Some(folder) = fail2ban else {
        return Err(format!(
            "there is no filter `{name}`; there are {ours}, and with `fail2ban = \"/etc/fail2ban\"` those of its filter.d"
        ));
    };
    let file = name.split('[').next().unwrap_or_default().trim();
    if !folder.join("filter.d").join(format!("{file}.conf")).exists()
        && !folder.join("filter.d").join(format!("{file}.local")).exists()
    {
        return Err(format!(
            "there is no filter `{file}`: neither one of ours ({ours}) nor one in {}",
            folder.join("filter.d").display()
        ));
    }
    Fail2ban::read(folder).and_then(|read| read.filter(name)).map_err(|error| error.to_string())
}
