//! The log on standard error: how much of it is written, and in which form.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::stderr;

use clap::{Args, ValueEnum};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{JsonFields, format};

use crate::colour;
use crate::journal::{self, WithPriority};

/// The environment variables that say what to log, the first that is set and not empty before the others.
const VARIABLES: [&str; 2] = ["ATALAYA_LOG", "RUST_LOG"];
/// What is logged where nobody says anything.
const DEFAULT: &str = "info";
/// Whatever a word begins with that can stand alone as a filter, for it names a part of these programs.
const OWN: &str = "atalaya";

/// The options of the command line that say what is logged, and how.
#[derive(Args, Clone, Debug)]
pub struct LogOptions {
    /// What to log: error, warn, info, debug or trace, or a filter such as `info,hyper=warn`; without it what
    /// `ATALAYA_LOG` says, else what `RUST_LOG` says, else info
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    /// How to write the log
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// A line for a person
    Text,
    /// A JSON object a line, for programs
    Json,
}

/// What was to be logged is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{origin} `{text}`: neither a level (error, warn, info, debug, trace or off) nor a filter such as `info,hyper=warn`{hint}"
)]
pub struct LogError {
    origin: Origin,
    text: String,
    hint: String,
}

/// Who said what to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Option,
    Variable(&'static str),
    Nobody,
}

/// What to log.
#[derive(Debug)]
struct Chosen {
    origin: Origin,
    text: String,
}

// === impl LogOptions ===

impl LogOptions {
    /// Starts the log: on a terminal with colour, in systemd's journal with priorities and without times.
    ///
    /// # Panics
    /// If it was started before.
    pub fn start(&self) -> Result<(), LogError> {
        let filter = self.chosen()?.filter()?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(stderr)
            .with_ansi(colour::is_wanted(&stderr()));
        let text = format().with_target(false);
        let json = format().with_target(false).json().flatten_event(true);
        match (self.log_format, journal::is_behind(stderr())) {
            (LogFormat::Text, false) => log.event_format(text).init(),
            (LogFormat::Text, true) => log.event_format(WithPriority(text.without_time())).init(),
            (LogFormat::Json, false) => log.fmt_fields(JsonFields::new()).event_format(json).init(),
            (LogFormat::Json, true) => {
                log.fmt_fields(JsonFields::new()).event_format(WithPriority(json)).init();
            }
        }
        Ok(())
    }

    /// The options with which another process of the program logs the same, whatever its environment says.
    pub fn arguments(&self) -> Result<[OsString; 4], LogError> {
        let format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        Ok(["--log".into(), self.chosen()?.text.into(), "--log-format".into(), format.into()])
    }

    fn chosen(&self) -> Result<Chosen, LogError> {
        Chosen::of(self.log.as_deref(), |name| std::env::var_os(name))
    }
}

// === impl Chosen ===

impl Chosen {
    fn of(option: Option<&str>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, LogError> {
        if let Some(text) = option {
            return Ok(Self { origin: Origin::Option, text: text.to_owned() });
        }
        let set = VARIABLES.into_iter().find_map(|name| {
            // `Environment=RUST_LOG=` in a unit is how one says that it is not set.
            Some((name, variable(name).filter(|text| !text.is_empty())?))
        });
        let Some((name, text)) = set else {
            return Ok(Self { origin: Origin::Nobody, text: DEFAULT.to_owned() });
        };
        let origin = Origin::Variable(name);
        match text.into_string() {
            Ok(text) => Ok(Self { origin, text }),
            Err(text) => Err(LogError::new(origin, &text, String::new())),
        }
    }

    /// As tracing-subscriber takes it. That reads a word of its own as the name of a part of the program and logs all
    /// that this part says, and nothing else, so that whoever writes `--log verbose` would see nothing any more.
    fn filter(&self) -> Result<EnvFilter, LogError> {
        let wrong = |hint: String| LogError::new(self.origin, OsStr::new(&self.text), hint);
        let mut words = self.text.split(',').map(str::trim).filter(|word| !word.is_empty()).peekable();
        if words.peek().is_none() {
            return Err(wrong(String::new()));
        }
        let is_alone = |word: &&str| !word.contains(['=', ':', '[', ']', '{', '}']);
        let known = |word: &str| word.parse::<LevelFilter>().is_ok() || word.starts_with(OWN);
        if let Some(word) = words.find(|word| is_alone(word) && !known(word)) {
            return Err(wrong(format!("; for all that a part called `{word}` says, write `{word}=trace`")));
        }
        EnvFilter::try_new(&self.text).map_err(|_| wrong(String::new()))
    }
}

// === impl LogError ===

impl LogError {
    fn new(origin: Origin, text: &OsStr, hint: String) -> Self {
        Self { origin, text: text.display().to_string().escape_debug().to_string(), hint }
    }
}

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option => f.write_str("--log"),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::Nobody => f.write_str("the default"),
        }
    }
}

/// Tells on standard error why the program ends, under its name; in systemd's journal as an error, which
/// `journalctl -p err` shows.
pub fn tell_end(program: &str, error: &dyn fmt::Display) {
    let said = error.to_string();
    if !journal::is_behind(stderr()) {
        eprintln!("{program}: {said}");
        return;
    }
    let priority = journal::priority(Level::ERROR);
    for (index, line) in said.lines().enumerate() {
        let begins = if index == 0 { format!("{program}: ") } else { String::new() };
        eprintln!("<{priority}>{begins}{line}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use rstest::rstest;

    use super::*;

    fn chosen(option: Option<&str>, variables: [Option<&str>; 2]) -> Chosen {
        let of = |name: &str| {
            let index = VARIABLES.iter().position(|variable| *variable == name).unwrap();
            variables[index].map(OsString::from)
        };
        Chosen::of(option, of).unwrap()
    }

    #[test]
    fn the_option_comes_before_our_variable_that_before_rusts_and_an_empty_one_is_none() {
        for (option, variables, text, origin) in [
            (Some("warn"), [Some("debug"), Some("trace")], "warn", Origin::Option),
            (None, [Some("debug"), Some("trace")], "debug", Origin::Variable("ATALAYA_LOG")),
            (None, [None, Some("trace")], "trace", Origin::Variable("RUST_LOG")),
            (None, [Some(""), Some("trace")], "trace", Origin::Variable("RUST_LOG")),
            (None, [None, Some("")], "info", Origin::Nobody),
        ] {
            let chosen = chosen(option, variables);
            assert_eq!((chosen.text.as_str(), chosen.origin), (text, origin));
        }
    }

    #[rstest]
    #[case("verbose")]
    #[case("warning")]
    #[case("info,loud")]
    #[case("atalaya_sensor=loud")]
    #[case("[")]
    #[case("")]
    #[case(" , ")]
    fn what_is_no_filter_is_refused_with_where_it_stands_and_an_example(#[case] text: &str) {
        for (chosen, place) in [
            (chosen(Some(text), [None, None]), "--log `"),
            (Chosen { origin: Origin::Variable("RUST_LOG"), text: text.to_owned() }, "variable RUST_LOG `"),
        ] {
            let said = chosen.filter().map(|filter| filter.to_string()).unwrap_err().to_string();
            assert!(said.contains(place) && said.contains("`info,hyper=warn`"), "{said}");
        }
    }

    #[rstest]
    #[case("info")]
    #[case("OFF")]
    #[case("info,hyper=warn")]
    #[case("atalaya_sensor::filter")]
    #[case("atalaya_sensor")]
    #[case("warn,[session{router=edge}]=debug,")]
    fn filters_as_tracing_has_them_are_taken(#[case] text: &str) {
        assert!(chosen(Some(text), [None, None]).filter().is_ok());
    }

    #[test]
    fn a_variable_that_is_no_text_is_refused_and_named() {
        let said = Chosen::of(None, |_| Some(OsString::from_vec(vec![b'a', 0xff]))).unwrap_err().to_string();
        assert!(said.contains("ATALAYA_LOG"), "{said}");
    }
}
