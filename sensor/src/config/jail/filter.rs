//! The filter of a jail that reads lines: by its name, or as the jail says.

use atalaya_program::config_file::ConfigError;
use toml::Spanned;

use super::{OneOrMany, RawJail, Whose, many};
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
        let Whose { name, filters, at, wrong } = *whose;
        let mode = self.mode.as_ref().map(|mode| mode.get_ref().as_str());
        let at_mode = |message: String| match &self.mode {
            Some(mode) => at(mode.span(), message),
            None => wrong(message),
        };
        let mut definition = match &self.filter {
            Some(named) => {
                filters.find(named.get_ref(), mode).map_err(|message| at(named.span(), message))?
            }
            None if self.failregex.is_none() => {
                let filter = filters.known(name.as_str()).map_err(wrong)?.ok_or_else(|| {
                    wrong(format!(
                        "it reads lines and needs a `failregex`, such as '^.*\\[<HOST>\\].*authentication failed', or a `filter`: {}",
                        catalogue::names().collect::<Vec<_>>().join(", ")
                    ))
                })?;
                filter.in_mode(mode.unwrap_or_default()).map_err(at_mode)?
            }
            None if mode.is_some() => {
                return Err(at_mode("a `mode` is a filter's; name the `filter`".to_owned()));
            }
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
