//! Follows the bans of the fleet over a connection of its own, anew after each cut, for as long as somebody
//! takes what it brings.

use std::time::Duration;

use atalaya_wire::{BANS_PATH, Follow, HEARTBEAT_SECONDS, Position, ProblemCode};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::{REFUSED_PAUSE, REQUEST_DEADLINE, Uplink, UplinkError, backoff};
use crate::local_drop::status::FleetStatus;
use crate::uplink::fleet_bans::{BanChange, Reading, StreamError};

/// For how long an enforcer of a release without the stream is left alone.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(300);

/// After how long without a line the connection is taken for cut.
const SILENCE: Duration = Duration::from_secs(3 * HEARTBEAT_SECONDS);

/// A connection that lasted for so long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(10);

/// How following the fleet's bans goes, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Following {
    /// Whether the enforcer is telling.
    pub is_connected: bool,
    /// Whether all bans were known at some time; not so before the end of the first snapshot, and within a later
    /// one.
    pub is_whole: bool,
    /// Why not, in words; `None` when all is well or nothing was tried yet.
    pub trouble: Option<String>,
}

// === impl FleetStatus ===

impl From<&Following> for FleetStatus {
    fn from(following: &Following) -> Self {
        let Following { is_connected, is_whole, trouble } = following;
        Self { connected: *is_connected, whole: *is_whole, trouble: trouble.clone() }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    #[error("{url}: {error}; if both are of one release, this is a mistake of theirs worth reporting")]
    Stream { url: String, error: StreamError },
    #[error("the stream of bans from {url} ended: {reason}")]
    Ended { url: String, reason: String },
    #[error("nobody takes the bans any more")]
    Unwanted,
}

impl Uplink {
    /// Follows the bans until nobody takes them any more: sends each change in its order, and waits where the
    /// receiver is slow. Begins at a position where the receiver kept what it held there. `answered` says at any
    /// moment the last of this sensor's offences that the enforcer has answered. Where it stands is told in
    /// `following`.
    pub async fn follow_bans(
        &self,
        from: Option<Position>,
        answered: impl Fn() -> u64,
        changes: mpsc::Sender<BanChange>,
        following: watch::Sender<Following>,
    ) {
        let mut reading = Reading::new(from);
        let mut pauses = backoff();
        loop {
            let begun = Instant::now();
            let cut = tokio::select! {
                cut = self.follow_once(&mut reading, &answered, &changes, &following) => cut,
                () = changes.closed() => Cut::Unwanted,
            };
            if matches!(cut, Cut::Unwanted) {
                following.send_modify(|following| following.is_connected = false);
                return;
            }
            if begun.elapsed() >= GOOD {
                pauses = backoff();
            }
            let pause = pause_after(cut.code()).or_else(|| pauses.next()).unwrap_or(REFUSED_PAUSE);
            tell(&cut, pause, &following);
            tokio::select! {
                () = sleep(pause) => {}
                () = changes.closed() => {}
            }
        }
    }

    /// Follows over one connection; why it ended.
    async fn follow_once(
        &self,
        reading: &mut Reading,
        answered: &impl Fn() -> u64,
        sink: &mpsc::Sender<BanChange>,
        following: &watch::Sender<Following>,
    ) -> Cut {
        match self.read_stream(reading, answered, sink, following).await {
            Ok(()) => Cut::Ended { url: self.url().to_owned(), reason: "by the enforcer".to_owned() },
            Err(cut) => cut,
        }
    }

    async fn read_stream(
        &self,
        reading: &mut Reading,
        answered: &impl Fn() -> u64,
        sink: &mpsc::Sender<BanChange>,
        following: &watch::Sender<Following>,
    ) -> Result<(), Cut> {
        let follow = Follow::new(reading.connect(answered()));
        // The client's own deadline is for requests that are answered at once.
        let request = self.client.get(format!("{}{BANS_PATH}?{follow}", self.url())).timeout(Duration::MAX);
        let ended = |reason: String| Cut::Ended { url: self.url().to_owned(), reason };
        let opened = timeout(REQUEST_DEADLINE, self.open(request)).await;
        let mut response = opened.map_err(|_| ended("it does not begin in time".to_owned()))??;
        let mut changes = Vec::new();
        loop {
            let piece = timeout(SILENCE, response.chunk()).await;
            let piece = piece.map_err(|_| ended(format!("nothing came for {} s", SILENCE.as_secs())))?;
            let Some(piece) = piece.map_err(|error| self.failure(&error))? else { return Ok(()) };
            let read = reading.read(&piece, Instant::now(), &mut changes);
            // What came before a bad line is good, and where the reading stands counts it.
            for change in changes.drain(..) {
                sink.send(change).await.map_err(|_| Cut::Unwanted)?;
            }
            read.map_err(|error| Cut::Stream { url: self.url().to_owned(), error })?;
            let is_whole = reading.is_whole();
            following.send_if_modified(|following| {
                let now = Following { is_connected: true, is_whole, trouble: None };
                let differs = *following != now;
                if following.trouble.is_some() {
                    tracing::info!(url = self.url(), "the enforcer tells of the fleet's bans again");
                }
                *following = now;
                differs
            });
        }
    }
}

/// How long to wait after a refusal that trying again soon does not change.
fn pause_after(code: Option<ProblemCode>) -> Option<Duration> {
    match code? {
        ProblemCode::NotFound => Some(UNKNOWN_PAUSE),
        ProblemCode::Unauthorized | ProblemCode::UnknownVersion | ProblemCode::Malformed => {
            Some(REFUSED_PAUSE)
        }
        _ => None,
    }
}

/// Says once, until it is mended, that the bans are not known as they are.
fn tell(cut: &Cut, pause: Duration, following: &watch::Sender<Following>) {
    following.send_modify(|following| {
        let is_new = following.trouble.is_none();
        if is_new && cut.code() == Some(ProblemCode::NotFound) {
            tracing::info!(
                minutes = pause.as_secs() / 60,
                "the enforcer is of a release that does not tell of the fleet's bans: it is tried again now and then"
            );
        } else if is_new {
            tracing::warn!(
                error = %cut,
                "the fleet's bans are not followed; those that are known stay until they end, and it is tried again"
            );
        }
        following.is_connected = false;
        following.trouble = Some(cut.to_string());
    });
}

// === impl Cut ===

impl Cut {
    /// Why the enforcer refused; `None` where it did not.
    fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::Uplink(error) => error.code(),
            Self::Stream { error: StreamError::Version(_), .. } => Some(ProblemCode::UnknownVersion),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enforcer_that_does_not_know_of_the_stream_is_left_alone_for_minutes_and_a_broken_one_is_not() {
        assert!(
            pause_after(Some(ProblemCode::NotFound)).is_some_and(|pause| pause >= Duration::from_mins(5))
        );
        assert_eq!(pause_after(Some(ProblemCode::Unauthorized)), Some(REFUSED_PAUSE));
        assert_eq!(pause_after(Some(ProblemCode::Unavailable)), None);
        assert_eq!(pause_after(None), None);
        let version = Cut::Stream { url: "https://x".to_owned(), error: StreamError::Version(2) };
        assert_eq!(pause_after(version.code()), Some(REFUSED_PAUSE));
    }
}
