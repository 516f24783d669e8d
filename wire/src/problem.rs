//! Why the enforcer refused a request.

use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What went wrong, for programs.
    pub code: ProblemCode,
    /// What went wrong, on what, and what to do, for people.
    pub message: String,
}

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemCode {
    /// The sensor's name or secret is wrong, or its enrolment was revoked.
    Unauthorized,
    /// The batch has a version that the enforcer does not speak.
    UnknownVersion,
    /// The request cannot be understood; sending it again will not help.
    Malformed,
    /// Too many offences or too many bytes in one request.
    TooLarge,
    /// It could harm whoever asks: it is done if that is asked for once more, with force.
    NeedsForce,
    /// Nothing is there under this name or path.
    NotFound,
    /// The enforcer cannot do it now; sending it again later may help.
    Unavailable,
    /// A code that this version does not know.
    #[serde(other)]
    Other,
}

// === impl Problem ===

impl Problem {
    /// A problem with its message.
    pub fn new(code: ProblemCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
