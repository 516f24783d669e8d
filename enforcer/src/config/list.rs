//! The `[list]` table: the address lists on the routers, and what their entries say.

use std::ops::Range;

use atalaya_wire::Name;
use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, checked};

/// The `[list]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListConfig {
    /// The names of the IPv4 and the IPv6 address list on the routers, where a router says nothing else.
    pub names: [String; 2],
    /// What an entry's comment says after the mark; `{jail}` and `{sensor}` are filled in.
    pub comment: String,
    /// What opens the comment of our entries.
    pub mark: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawList {
    name: Option<Spanned<String>>,
    ipv6_name: Option<Spanned<String>>,
    comment: Option<Spanned<String>>,
    mark: Option<Spanned<String>>,
}

// === impl ListConfig ===

impl Default for ListConfig {
    fn default() -> Self {
        Self {
            names: ["spammer".to_owned(), "spammer".to_owned()],
            comment: "{jail} from {sensor}".to_owned(),
            mark: "atalaya".to_owned(),
        }
    }
}

impl ListConfig {
    /// The comment's text for a ban, without the mark.
    pub fn comment_of(&self, jail: &str, sensor: &str) -> String {
        self.comment.replace("{jail}", jail).replace("{sensor}", sensor)
    }

    /// The jail and the sensor that a comment's text (without the mark) tells of, where it is one of
    /// [`Self::comment_of`]'s.
    pub fn read_comment(&self, text: &str) -> (Option<Name>, Option<Name>) {
        let (mut jail, mut sensor) = (None, None);
        let mut rest = text;
        let mut template = self.comment.as_str();
        while let Some(place) = template.find('{') {
            let Some(after) = rest.strip_prefix(&template[..place]) else { return (None, None) };
            let Some(end) = template[place..].find('}') else { return (None, None) };
            let what = &template[place..=place + end];
            template = &template[place + end + 1..];
            // Up to what stands behind it, which ends where the next field begins.
            let fixed = template.split('{').next().unwrap_or_default();
            let length =
                if fixed.is_empty() { after.len() } else { after.find(fixed).unwrap_or(after.len()) };
            let (value, left) = after.split_at(length);
            let Ok(name) = value.parse::<Name>() else { return (None, None) };
            match what {
                "{jail}" => jail = Some(name),
                _ => sensor = Some(name),
            }
            rest = left;
        }
        if rest == template { (jail, sensor) } else { (None, None) }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_read_back_and_another_is_not_taken_for_one() {
        let name = |text: &str| Some(text.parse::<Name>().unwrap());
        for template in ["{jail} from {sensor}", "{sensor}/{jail}!", "x {jail}", "{sensor}", "fixed"] {
            let list = ListConfig { comment: template.to_owned(), ..ListConfig::default() };
            let (jail, sensor) = list.read_comment(&list.comment_of("ssh", "web-1"));
            assert_eq!(jail, name("ssh").filter(|_| template.contains("{jail}")), "{template}");
            assert_eq!(sensor, name("web-1").filter(|_| template.contains("{sensor}")), "{template}");
        }
        let list = ListConfig::default();
        for other in ["", "ssh", "ssh at web-1", "s h from web-1", "ssh from web 1"] {
            assert_eq!(list.read_comment(other), (None, None), "{other}");
        }
    }
}
