//! Why the enforcer refused a request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What went wrong, for programs.
    pub code: ProblemCode,
    /// What went wrong, on what, and what to do, for people.
    pub message: String,
    /// After how many milliseconds it is worth sending again, where the enforcer knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
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
    /// The sensor sends more than its share: what it has is to be kept, and sent again after
    /// [`Problem::retry_after_ms`].
    TooMany,
    /// A code that this version does not know.
    #[serde(other)]
    Other,
}

// === impl Problem ===

impl Problem {
    /// The longest that a sensor waits because an enforcer says so.
    pub const LONGEST_WAIT: Duration = Duration::from_mins(1);

    /// A problem with its message.
    pub fn new(code: ProblemCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }

    /// The sensor is to wait for so long before it sends again.
    pub fn too_many(message: impl Into<String>, wait: Duration) -> Self {
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { retry_after_ms: Some(wait), ..Self::new(ProblemCode::TooMany, message) }
    }

    /// How long to wait before sending again, where the enforcer says so: at most [`LONGEST_WAIT`](Self::LONGEST_WAIT),
    /// whatever it says.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after_ms.map(|wait| Duration::from_millis(wait).min(Self::LONGEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_when_to_send_again_and_one_of_before_does_not() {
        let problem = Problem::too_many("slower", Duration::from_millis(250));
        let json = serde_json::to_string(&problem).unwrap();
        assert_eq!(json, r#"{"code":"too-many","message":"slower","retry_after_ms":250}"#);
        assert_eq!(serde_json::from_str::<Problem>(&json).unwrap().wait(), Some(Duration::from_millis(250)));
        let old: Problem = serde_json::from_str(r#"{"code":"unavailable","message":"x"}"#).unwrap();
        assert_eq!(old.wait(), None);
        assert_eq!(Problem::too_many("x", Duration::MAX).wait(), Some(Problem::LONGEST_WAIT));
    }
}
