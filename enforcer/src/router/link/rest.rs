//! How a link ends while its session is well: at a stop, and where the session is to go on with other settings.

use std::time::Duration;

use tokio::time::timeout;

use super::{Link, Purpose};
use crate::router::session::{Session, SessionError};

/// How long what is in flight may take.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

// === impl Link ===

impl Link<'_> {
    /// Sends what has already changed and awaits what is in flight, for a second at most.
    pub(super) async fn finish(&mut self) -> Result<(), SessionError> {
        self.pipeline.drop_backlog();
        let rest = async {
            loop {
                self.fill();
                if !self.pipeline.has_changes() {
                    return Ok(());
                }
                let answer = self.session.answer().await?;
                self.take(answer)?;
            }
        };
        timeout(LAST_ANSWERS, rest).await.unwrap_or(Ok(()))
    }

    /// Sends nothing more and awaits all answers, for a second at most, so that the session can go on otherwise.
    pub(super) async fn come_to_rest(&mut self) -> Result<(), SessionError> {
        let rest = async {
            while self.session.in_flight() > 0 {
                let answer = self.session.answer().await?;
                self.take(answer)?;
            }
            Ok(())
        };
        timeout(LAST_ANSWERS, rest).await.unwrap_or(Ok(()))
    }

    /// The session, unless it still owes answers.
    pub(in super::super) fn into_session(self) -> Option<Session<Purpose>> {
        Some(self.session).filter(|session| session.in_flight() == 0)
    }
}
