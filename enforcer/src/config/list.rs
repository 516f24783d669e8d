//! The `[list]` table: the address lists on the routers, and what their entries say.

use std::ops::Range;

use atalaya_program::config_file::ConfigError;
use serde::Deserialize;
use toml::Spanned;

use super::checked;
use crate::desired::ListConfig;
use crate::ledger::{Lineage, LineageError};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawList {
    name: Option<Spanned<String>>,
    ipv6_name: Option<Spanned<String>>,
    comment: Option<Spanned<String>>,
    mark: Option<Spanned<String>>,
    #[serde(default)]
    adopt: Vec<Spanned<String>>,
}

// === impl RawList ===

impl RawList {
    pub(super) fn check(
        self,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<ListConfig, ConfigError> {
        let standard = ListConfig::default();
        let name = checked(self.name, standard.names[0].clone(), at, is_list_name)?;
        let ipv6_name = checked(self.ipv6_name, name.clone(), at, is_list_name)?;
        let mark = checked(self.mark, standard.mark, at, |mark| {
            (is_plain(mark) && !mark.contains(':'))
                .then_some(())
                .ok_or("the mark needs 1 to 64 printable ASCII characters without blanks and colons")
        })?;
        let comment = checked(self.comment, standard.comment, at, |comment| {
            let rest = comment.replace("{jail}", "").replace("{sensor}", "");
            (rest.len() <= 100
                && !rest.contains(['{', '}'])
                && rest.chars().all(|c| (' '..='~').contains(&c)))
            .then_some(())
            .ok_or("the comment may have {jail}, {sensor}, and at most 100 other printable ASCII characters")
        })?;
        Ok(ListConfig { names: [name, ipv6_name], comment, mark })
    }

    /// The words of other ledgers whose entries are to be ours.
    pub(super) fn adopted(
        &self,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<Vec<Lineage>, ConfigError> {
        let read = |word: &Spanned<String>| {
            word.get_ref().parse().map_err(|error: LineageError| at(word.span(), error.to_string()))
        };
        self.adopt.iter().map(read).collect()
    }
}

/// Whether a router takes this for an address list's name without quotes.
pub(super) fn is_list_name(name: &str) -> Result<(), &'static str> {
    is_plain(name)
        .then_some(())
        .ok_or("the list's name needs 1 to 64 printable ASCII characters without blanks")
}

fn is_plain(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic())
}
