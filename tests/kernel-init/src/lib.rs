//! What the first process of a virtual machine says to `cargo xtask vm` outside: one JSON object a line, on a
//! serial port of its own, so that the kernel's messages on the console do not mix with it.

use serde::{Deserialize, Serialize};

/// Where this process says it, inside.
pub const PORT: &str = "/dev/ttyS1";

/// What the machine tells the host, a line of JSON each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// The kernel that runs; the first line.
    Kernel {
        /// As `uname -r` shows it.
        release: String,
        /// Its lockdown: `none`, `integrity` or `confidentiality`.
        lockdown: String,
    },
    /// A kernel program, as the sensor's status shows it.
    Program(Program),
    /// Something that was tried.
    Check {
        /// A sentence that could be false.
        name: String,
        /// `Skipped` where a program that it needs is off.
        outcome: Outcome,
        /// What was seen, or why it failed or was left out.
        detail: String,
    },
    /// The last line: everything was tried.
    End {
        /// Whether all checks held that could be tried.
        success: bool,
    },
}

/// A kernel program, as the sensor's status shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The object, and in it the hook: `logins: audit`.
    pub name: String,
    /// `Off` where nothing asks for it; `reason` says why it is not on.
    pub state: State,
    /// Where it is attached, or why it is not.
    pub reason: String,
    /// How many instructions the kernel's verifier looked at.
    pub instructions: Option<u32>,
}

/// Whether a kernel program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is loaded and attached.
    On,
    /// Nothing asks for it, or what it would be attached to is not there.
    Off,
    /// It is wanted, and the kernel refused it.
    Refused,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// What the name says was seen.
    Passed,
    /// It was not seen, or could not be tried: the detail says why.
    Failed,
    /// A program that it needs is not on here.
    Skipped,
}

// === impl State ===

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Refused => "refused",
        })
    }
}
