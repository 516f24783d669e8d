//! fail2ban's `backend = systemd[journalpath=…, journalfiles=…, namespace=…, journalflags=…]`: which journal a jail reads.

use std::path::Path;

use super::definition::split;
use super::layers::Overrides;
use crate::confine::logs::PathPattern;
use crate::source::journal::{JournalPlace, Namespace};

/// What holds in fail2ban where neither a path nor flags are named: the journal of the system's services.
const USUAL_FLAGS: u32 = 4;

/// Whether a backend is systemd's.
pub(super) fn is_systemd(backend: &str) -> bool {
    backend.trim_start().to_ascii_lowercase().starts_with("systemd")
}

/// Which journal a backend means; the usual one, where it is another backend.
///
/// # Errors
/// What of it is not understood, in words.
pub fn journal_place(backend: &str) -> Result<JournalPlace, String> {
    let wrong = |problem: String| format!("backend: {problem}");
    let mut place = JournalPlace::default();
    let mut flags = None;
    let options = if is_systemd(backend) { split(backend).map_err(wrong)?.1 } else { Overrides::new() };
    for (name, value) in options {
        match name.as_str() {
            "journalpath" => place.folder = Some(absolute(&name, &value).map_err(wrong)?.into()),
            "journalfiles" => {
                let words =
                    value.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
                for word in words {
                    PathPattern::new(word)
                        .map_err(|problem| wrong(format!("{name}: `{word}`: {problem}")))?;
                    place.files.push(word.to_owned());
                }
            }
            "namespace" => place.namespace = Namespace::parse(&value).map_err(wrong)?,
            "journalflags" => {
                let number =
                    value.parse().map_err(|_| wrong(format!("journalflags: `{value}` is no number")))?;
                flags = Some(number);
            }
            _ => return Err(wrong(format!("`{name}` is no option of systemd's that is known here"))),
        }
    }
    let usual = place.is_system().then_some(USUAL_FLAGS);
    place.set_flags(flags.or(usual).unwrap_or_default()).map_err(wrong)?;
    Ok(place)
}

fn absolute<'a>(name: &str, path: &'a str) -> Result<&'a str, String> {
    if Path::new(path).is_absolute() {
        Ok(path)
    } else {
        Err(format!("{name}: `{path}` does not begin with `/`"))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("systemd", "systemd's journal, of the system's services")]
    #[case("auto", "systemd's journal, of the system's services")]
    #[case("systemd[journalflags=1]", "systemd's journal, of this machine alone")]
    #[case("systemd[journalflags=0]", "systemd's journal")]
    #[case("systemd[namespace=web]", "systemd's journal, of the namespace web, of the system's services")]
    #[case("systemd[namespace=\"*\", journalflags=0]", "systemd's journal, of all namespaces")]
    #[case("systemd[journalpath=/var/log/journal/remote]", "systemd's journal in /var/log/journal/remote")]
    #[case(
        "systemd[journalpath='/srv/j', journalflags=4]",
        "systemd's journal in /srv/j, of the system's services"
    )]
    #[case("systemd[journalfiles=\"/a/*.journal, /b\"]", "systemd's journal in /a/*.journal, /b")]
    fn the_backend_says_which_journal(#[case] backend: &str, #[case] place: &str) {
        assert_eq!(journal_place(backend).unwrap().to_string(), place);
    }

    #[rstest]
    #[case("systemd[journalpath=journal]", "does not begin with `/`")]
    #[case("systemd[journalfiles=a.journal]", "a.journal")]
    #[case("systemd[journalflags=16]", "journalflags is 16")]
    #[case("systemd[journalflags=all]", "is no number")]
    #[case("systemd[namespace=a/b]", "no namespace")]
    #[case("systemd[journalpaht=/x]", "journalpaht")]
    #[case("systemd[journalpath=/x", "not closed")]
    fn what_is_not_understood_keeps_the_jail_from_running(#[case] backend: &str, #[case] says: &str) {
        let problem = journal_place(backend).unwrap_err();
        assert!(problem.starts_with("backend: ") && problem.contains(says), "{problem}");
    }
}
