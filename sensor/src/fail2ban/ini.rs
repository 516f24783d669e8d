//! One configuration file as fail2ban's parser (Python's configparser) takes it: sections, options in
//! lower case, values that go on in deeper lines, comments, and where each stands.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::Fail2banError;

/// The options of a section.
pub(super) type Section = BTreeMap<String, Value>;

/// A raw value: nothing in it is interpolated yet.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) place: OptionPlace,
}

/// Where a value was written.
#[derive(Clone, Debug)]
pub(super) struct OptionPlace {
    pub(super) file: Arc<Path>,
    /// Counted from one; zero where no line is meant.
    pub(super) line: usize,
}

/// One file as it is read, before `.local` files and includes are laid over it.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) defaults: Section,
    /// In the order of the file.
    pub(super) sections: Vec<(String, Section)>,
}

// === impl OptionPlace ===

impl OptionPlace {
    pub(super) fn whole(file: &Path) -> Self {
        Self { file: file.into(), line: 0 }
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> Fail2banError {
        Fail2banError { file: self.file.to_path_buf(), line: self.line, problem: problem.into() }
    }
}

// === impl File ===

impl File {
    /// Reads a file, which must be an ordinary one: a pipe could block for ever.
    pub(super) fn read(path: &Path) -> Result<Self, Fail2banError> {
        const LARGEST: u64 = 16 << 20;
        let whole = OptionPlace::whole(path);
        let cannot = |error: std::io::Error| whole.error(format!("cannot read it: {error}"));
        let metadata = path.metadata().map_err(cannot)?;
        if !metadata.is_file() {
            return Err(whole.error("is not an ordinary file"));
        }
        if metadata.len() > LARGEST {
            return Err(whole.error("is larger than 16 MB: that is no configuration"));
        }
        let bytes = std::fs::read(path).map_err(cannot)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = memchr::memchr_iter(b'\n', before).count() + 1;
            OptionPlace { file: path.into(), line }.error("is not UTF-8 here: save it as UTF-8")
        })?;
        Self::parse(&text, path)
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, Fail2banError> {
        let file: Arc<Path> = path.into();
        let mut parser = Parser { parsed: Self::default(), section: None, option: None, indent: 0 };
        for (index, line) in text.lines().enumerate() {
            let place = OptionPlace { file: file.clone(), line: index + 1 };
            parser.line(line, &place)?;
        }
        for section in parser.parsed.sections.iter_mut().map(|(_, section)| section) {
            trim(section);
        }
        trim(&mut parser.parsed.defaults);
        Ok(parser.parsed)
    }

    fn section(&mut self, name: &str) -> Option<&mut Section> {
        if name == DEFAULT {
            return Some(&mut self.defaults);
        }
        self.sections.iter_mut().find(|(other, _)| other == name).map(|(_, section)| section)
    }
}

/// The section whose options every other one has too.
const DEFAULT: &str = "DEFAULT";

/// A value does not end in blanks or empty lines.
fn trim(section: &mut Section) {
    for value in section.values_mut() {
        value.text.truncate(value.text.trim_end().len());
    }
}

struct Parser {
    parsed: File,
    section: Option<String>,
    /// The option whose value deeper lines continue.
    option: Option<String>,
    indent: usize,
}

// === impl Parser ===

impl Parser {
    fn line(&mut self, line: &str, place: &OptionPlace) -> Result<(), Fail2banError> {
        let comment = comment(line);
        let text = line[..comment.unwrap_or(line.len())].trim();
        if text.is_empty() {
            // An empty line is part of a value that goes on; a comment's line is not.
            if comment.is_none()
                && let Some(value) = self.value()
            {
                value.text.push('\n');
            }
            return Ok(());
        }
        let indent = line.chars().take_while(|character| character.is_whitespace()).count();
        if indent > self.indent
            && let Some(value) = self.value()
        {
            value.text.push('\n');
            value.text.push_str(text);
            return Ok(());
        }
        self.indent = indent;
        self.option = None;
        if let Some(name) = text.strip_prefix('[').and_then(|rest| rest.rfind(']').map(|end| &rest[..end])) {
            return self.header(name, place);
        }
        let Some(section) = self.section.clone() else {
            return Err(place.error("an option stands before the first section: begin with [Definition]"));
        };
        let Some(delimiter) = text.find(['=', ':']) else {
            return Err(place.error(format!(
                "`{text}` is neither a [section] nor `option = value`; a value goes on in lines that are indented"
            )));
        };
        let option = text[..delimiter].trim_end().to_lowercase();
        let value = Value { text: text[delimiter + 1..].trim_start().to_owned(), place: place.clone() };
        let options = self.parsed.section(&section).expect("the header made it");
        if let Some(first) = options.get(&option) {
            return Err(place.error(format!(
                "`{option}` is set twice in [{section}]: first in line {}; remove one",
                first.place.line
            )));
        }
        options.insert(option.clone(), value);
        self.option = Some(option);
        Ok(())
    }

    fn header(&mut self, name: &str, place: &OptionPlace) -> Result<(), Fail2banError> {
        if name != DEFAULT {
            if self.parsed.section(name).is_some() {
                return Err(place.error(format!("the section [{name}] is there twice: join them")));
            }
            self.parsed.sections.push((name.to_owned(), Section::new()));
        }
        self.section = Some(name.to_owned());
        Ok(())
    }

    fn value(&mut self) -> Option<&mut Value> {
        let option = self.option.as_ref()?;
        self.parsed.section(self.section.as_ref()?)?.get_mut(option)
    }
}

/// Where a comment begins: at `#` or `;` as the first character, or at a `;` after a blank.
fn comment(line: &str) -> Option<usize> {
    if line.trim_start().starts_with(['#', ';']) {
        return Some(0);
    }
    let bytes = line.as_bytes();
    (1..bytes.len()).find(|place| bytes[*place] == b';' && bytes[*place - 1].is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn parse(text: &str) -> Result<File, String> {
        File::parse(text, Path::new("x.conf")).map_err(|error| error.to_string())
    }

    fn value(text: &str, option: &str) -> String {
        parse(text).unwrap().section("a").unwrap()[option].text.clone()
    }

    #[rstest]
    #[case("[a]\nx = 1", "1")]
    #[case("[a]\nX: 1", "1")]
    #[case("[a]\nx = 1 ; note", "1")]
    #[case("[a]\nx = 1;2", "1;2")]
    #[case("[a]\nx = # no comment here", "# no comment here")]
    #[case("[a]\nx = a=b:c", "a=b:c")]
    #[case("[a]\nx = 1\n  2\n\n# note\n  3\n\n", "1\n2\n\n3")]
    #[case("[a]\nx =\n 1\n 2\ny = 3", "\n1\n2")]
    #[case("[a]\r\nx = 1\r\n", "1")]
    #[case("[a]\nx = 1\n [b]", "1\n[b]")]
    fn values_are_read_as_pythons_parser_reads_them(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(value(text, "x"), expected);
    }

    #[rstest]
    #[case("x = 1", "x.conf:1: an option stands before")]
    #[case("[a]\nx", "x.conf:2: `x` is neither")]
    #[case("[a]\nx = 1\nX = 2", "x.conf:3: `x` is set twice in [a]: first in line 2")]
    #[case("[a]\n[b]\n[a]", "x.conf:3: the section [a] is there twice")]
    fn mistakes_have_file_and_line(#[case] text: &str, #[case] expected: &str) {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_folder_and_broken_utf_8_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = File::read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("is not an ordinary file"), "{error}");
        let file = folder.path().join("x.conf");
        std::fs::write(&file, b"[a]\nx = \xff\n").unwrap();
        let error = File::read(&file).unwrap_err().to_string();
        assert!(error.contains("x.conf:2: is not UTF-8 here"), "{error}");
    }
}
