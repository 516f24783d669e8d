//! What a jail wants of the journal, in journalctl's words.

use std::sync::Arc;

/// What a jail wants of the journal: one of these groups, in which each field has one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalMatch {
    /// Empty where every entry is wanted.
    groups: Vec<Vec<(String, String)>>,
}

// === impl JournalMatch ===

impl JournalMatch {
    /// Reads matches as journalctl takes them, such as `_SYSTEMD_UNIT=ssh.service + _COMM=sshd`; several
    /// texts are alternatives.
    ///
    /// # Errors
    /// What is no match in it, in words.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut groups = Vec::new();
        for text in texts {
            let mut group = Vec::new();
            for word in words(text)? {
                if word == "+" {
                    groups.push(std::mem::take(&mut group));
                    continue;
                }
                let (field, value) = word.split_once('=').ok_or_else(|| {
                    format!("`{word}` is no match of the journal: write FIELD=value, such as _SYSTEMD_UNIT=ssh.service")
                })?;
                let is_field = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
                if field.is_empty() || !field.chars().all(is_field) {
                    return Err(format!(
                        "`{field}` is no field of the journal: they are in capitals, such as _COMM"
                    ));
                }
                group.push((field.to_owned(), value.to_owned()));
            }
            groups.push(group);
        }
        groups.retain(|group| !group.is_empty());
        Ok(Self { groups })
    }

    /// Whether an entry with these fields, `NAME=value` each, is wanted.
    pub fn wants(&self, fields: &[Arc<[u8]>]) -> bool {
        let has = |(name, value): &(String, String)| {
            fields.iter().any(|field| {
                let rest = field.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
                rest == Some(value.as_bytes())
            })
        };
        let fits = |group: &Vec<(String, String)>| {
            group.iter().all(|(name, _)| group.iter().any(|one| one.0 == *name && has(one)))
        };
        self.groups.is_empty() || self.groups.iter().any(fits)
    }
}

/// Words as a shell would take them apart, with quotes.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            quote @ ('"' | '\'') => {
                let inner = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some(next) if next == quote => break,
                        Some(next) => inner.push(next),
                        None => return Err(format!("the {quote} in `{text}` is not closed")),
                    }
                }
            }
            blank if blank.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[], true)]
    #[case(&["_COMM=sshd"], true)]
    #[case(&["_COMM=sshd _SYSTEMD_UNIT=other.service"], false)]
    #[case(&["_COMM=sshd _SYSTEMD_UNIT=other.service + _PID=77"], true)]
    #[case(&["_COMM=login _COMM=sshd"], true)]
    #[case(&["_COMM=login", "_SYSTEMD_UNIT='ssh.service'"], true)]
    #[case(&["_COMM=login"], false)]
    #[case(&["_COMM=ssh"], false)]
    fn a_match_wants_what_journalctl_would_show(#[case] texts: &[&str], #[case] wanted: bool) {
        let matches = JournalMatch::parse(texts.iter().copied()).unwrap();
        let fields =
            ["_COMM=sshd", "_SYSTEMD_UNIT=ssh.service", "_PID=77"].map(|field| field.as_bytes().into());
        assert_eq!(matches.wants(&fields), wanted);
    }

    #[rstest]
    #[case("sshd", "FIELD=value")]
    #[case("comm=sshd", "capitals")]
    #[case("_COMM='sshd", "not closed")]
    fn a_mistake_in_a_match_is_told(#[case] text: &str, #[case] says: &str) {
        let error = JournalMatch::parse([text]).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
