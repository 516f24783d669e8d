//! An error with what led to it, each of them said once.

use std::error::Error;
use std::fmt;

/// Shows an error and its causes, without those that are in what was said before: an error of a library often says its
/// cause itself, and names it as its source too.
#[derive(Debug)]
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !said.contains(&text) {
                said = format!("{said}: {text}");
            }
            next = cause.source();
        }
        f.write_str(&said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot use it: {0}")]
    struct Telling(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("no start")]
    struct Silent(#[source] Telling);

    #[test]
    fn a_cause_that_an_error_says_itself_is_not_said_again_and_one_that_it_does_not_say_is() {
        let telling = || Telling(std::io::Error::from_raw_os_error(28));
        let full = "No space left on device (os error 28)";
        assert_eq!(Causes(&telling()).to_string(), format!("cannot use it: {full}"));
        assert_eq!(Causes(&Silent(telling())).to_string(), format!("no start: cannot use it: {full}"));
    }
}
