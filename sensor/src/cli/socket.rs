//! Commands that ask the running sensor.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;

use super::runtime;
use crate::control::{self, Answer, Request};

/// Asks the sensor that runs on a state folder.
pub fn ask(state: &Path, request: &Request) -> anyhow::Result<Answer> {
    Ok(runtime()?.block_on(control::ask(state, request))?)
}

/// Prints what the sensor answered.
pub fn said(answer: Answer) -> anyhow::Result<ExitCode> {
    match answer {
        Answer::Done { message } => {
            println!("{message}");
            Ok(ExitCode::SUCCESS)
        }
        Answer::Failed { message } => bail!("{message}"),
        Answer::Status(_) | Answer::Figures { .. } => {
            bail!("the sensor answered something else than was asked")
        }
    }
}
