//! A configuration file in TOML as people write it: each mistake is told with file, line and column.

use std::error::Error;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::toml_words;

/// The text of a configuration file, and where it came from.
#[derive(Clone, Copy, Debug)]
pub struct ConfigFile<'a> {
    /// For messages.
    pub path: &'a Path,
    /// All of it.
    pub text: &'a str,
}

/// What is wrong with the configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's content is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// In characters, counted from one.
        column: usize,
        /// What was found and what was expected.
        message: String,
    },
    /// Another program's configuration, which is to hold here too, is wrong.
    #[error("{program}: {source}")]
    Other {
        /// Whose.
        program: &'static str,
        /// What is wrong with it, and where.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Reads a file's text; [`ConfigError::Read`] where that is not possible, or it is no UTF-8.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

// === impl ConfigFile ===

impl ConfigFile<'_> {
    /// The file as it is written, without a look at what its values mean.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text)
            .map_err(|error| self.at(error.span().unwrap_or(0..0), toml_words::plain(error.message())))
    }

    /// A mistake at a place of the text, which is counted in bytes.
    pub fn at(&self, span: Range<usize>, message: String) -> ConfigError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::Content {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message,
        }
    }
}

fn hint(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::NotFound {
        "; write it (README.md has one to begin with), or name another with --config"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_mistake_is_told_with_its_line_and_its_column_in_characters() {
        let text = "a = \"é\"\nb = \"éé\" c\n";
        let file = ConfigFile { path: Path::new("x.toml"), text };
        let wrong = file.parse::<BTreeMap<String, String>>().unwrap_err().to_string();
        assert!(wrong.starts_with("x.toml:2:10: "), "{wrong}");
        assert_eq!(file.at(0..1, "no".to_owned()).to_string(), "x.toml:1:1: no");
        let end = file.at(text.len()..text.len(), "no".to_owned()).to_string();
        assert_eq!(end, "x.toml:3:1: no");
        // What lies outside the text, or within a character, is told of all the same.
        assert!(file.at(6..7, "no".to_owned()).to_string().starts_with("x.toml:"));
        assert!(file.at(900..901, "no".to_owned()).to_string().starts_with("x.toml:"));
    }

    #[test]
    fn a_file_that_is_not_there_is_told_of_with_what_to_do() {
        let wrong = read(Path::new("/nowhere/x.toml")).unwrap_err().to_string();
        assert!(wrong.contains("/nowhere/x.toml") && wrong.contains("--config"), "{wrong}");
    }
}
