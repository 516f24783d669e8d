//! When output has colour.

use std::ffi::OsStr;
use std::io::IsTerminal;

/// Whether to colour what goes to this stream: at a terminal alone, and not where `NO_COLOR` is set and not empty
/// (<https://no-color.org>), or where `TERM=dumb` says that the terminal has none.
pub fn is_wanted(stream: &impl IsTerminal) -> bool {
    let (no_color, term) = (std::env::var_os("NO_COLOR"), std::env::var_os("TERM"));
    stream.is_terminal() && allowed(no_color.as_deref(), term.as_deref())
}

fn allowed(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_colour_unless_the_environment_forbids_it() {
        let colours = |no_color: Option<&str>, term: Option<&str>| {
            allowed(no_color.map(OsStr::new), term.map(OsStr::new))
        };
        assert!(colours(None, None) && colours(None, Some("xterm-256color")));
        assert!(colours(Some(""), None), "an empty NO_COLOR is as good as none");
        assert!(!colours(Some("0"), None), "any text in NO_COLOR forbids it");
        assert!(!colours(None, Some("dumb")));
    }
}
