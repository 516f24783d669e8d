//! Questions to whoever sits at the terminal. They are asked on standard error, so that standard output
//! holds results alone.

use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal, Write};
use std::str::FromStr;

use anyhow::bail;

use super::hush::Hush;

/// Somebody who answers, or nobody.
#[derive(Clone, Copy)]
pub struct Prompt {
    somebody: bool,
}

// === impl Prompt ===

impl Prompt {
    /// Somebody, where standard input is a terminal.
    pub fn new() -> Self {
        Self { somebody: io::stdin().is_terminal() }
    }

    /// Nobody, where all was said before.
    pub fn nobody() -> Self {
        Self { somebody: false }
    }

    /// Whether standard input is a terminal, so that questions are answered.
    pub fn is_somebody(self) -> bool {
        self.somebody
    }

    /// What was given, or the answer; an answer that is none is asked for again. `flag` is the way to say it
    /// where nobody answers.
    pub fn value<T>(
        self,
        given: Option<T>,
        question: &str,
        default: Option<&str>,
        flag: &str,
    ) -> anyhow::Result<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        if let Some(given) = given {
            return Ok(given);
        }
        if !self.somebody {
            match default.map(str::parse) {
                Some(Ok(default)) => return Ok(default),
                _ => bail!("{flag} is missing, and there is no terminal to ask at"),
            }
        }
        let hint = default
            .filter(|default| !default.is_empty())
            .map_or_else(String::new, |default| format!(" [{default}]"));
        loop {
            let answer = ask(&format!("{question}{hint}: "))?;
            let answer = if answer.is_empty() { default.unwrap_or_default() } else { &answer };
            match answer.parse() {
                Ok(value) => return Ok(value),
                Err(error) => eprintln!("{error}"),
            }
        }
    }

    /// Yes or no; the default where nobody answers.
    pub fn agrees(self, question: &str, default: bool) -> anyhow::Result<bool> {
        if !self.somebody {
            return Ok(default);
        }
        loop {
            match ask(&format!("{question} [{}] ", if default { "Y/n" } else { "y/N" }))?
                .to_lowercase()
                .as_str()
            {
                "" => return Ok(default),
                "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => eprintln!("y or n, please"),
            }
        }
    }

    /// Waits until Enter is pressed.
    pub fn wait(self, what: &str) -> anyhow::Result<()> {
        if self.somebody { ask(&format!("{what} ")).map(drop) } else { Ok(()) }
    }

    /// A line that the terminal does not show; `None` where it is empty or nobody answers.
    pub fn secret(self, question: &str) -> anyhow::Result<Option<String>> {
        if !self.somebody {
            return Ok(None);
        }
        let hush = Hush::new(question)?;
        let answer = ask(question);
        drop(hush);
        eprintln!();
        Ok(Some(answer?).filter(|answer| !answer.is_empty()))
    }
}

fn ask(question: &str) -> anyhow::Result<String> {
    eprint!("{question}");
    io::stderr().flush()?;
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        bail!("there was no answer");
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
