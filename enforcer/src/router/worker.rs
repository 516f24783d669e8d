//! The task of one router: connect, work, and on any failure wait a while and start anew. It knows of no
//! other router, so that a dead one delays nobody.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::timeout;

use super::Deadlines;
use super::endpoint::{API_PORT, API_TLS_PORT};
use super::link::{Link, Purpose, jittered};
use super::pipeline::Counts;
use super::session::{Session, SessionError};
use super::status::State;
use super::workplace::Workplace;

/// Holds the router to what is desired until the service stops.
pub(super) async fn run(mut workplace: Workplace) {
    let stop = workplace.stop.clone();
    let mut pauses = pauses(&workplace);
    let mut counts = Counts::default();
    // A session that goes on with other settings.
    let mut kept = None;
    loop {
        if !workplace.take_settings() {
            kept = None;
            pauses = self::pauses(&workplace);
        }
        // What has been seen of the settings by now is what the copy has seen.
        let mut settings = workplace.settings.clone();
        if kept.is_none() {
            workplace.enter(State::Connecting);
        }
        let mut is_away = false;
        let failure = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Ok(()) = settings.changed() => continue,
            opened = open(&workplace, kept.take()) => match opened {
                Err(failure) => {
                    is_away = failure.is_absence();
                    failure
                }
                Ok(session) => {
                    workplace.enter(State::Reading);
                    workplace.pace.begin();
                    let mut link = Link::new(&mut workplace, session, counts);
                    let ended = link.run().await;
                    counts = link.counts();
                    link.leave();
                    let broke = ended.is_err() && link.was_sending();
                    let good = link.was_good();
                    let session = link.into_session();
                    if good {
                        pauses = self::pauses(&workplace);
                    }
                    if broke {
                        workplace.pace.broke();
                    }
                    match ended {
                        Ok(()) if stop.is_cancelled() => break,
                        Ok(()) => {
                            kept = session;
                            continue;
                        }
                        Err(failure) => failure,
                    }
                }
            },
        };
        let ipv6 = workplace.config.ipv6;
        workplace.status.send_modify(|status| {
            status.in_flight = 0;
            // What holds on a router that cannot be asked is not known.
            status.forget_rules(ipv6);
        });
        workplace.fail(failure.to_string());
        let Deadlines { longest_pause: longest, absence, .. } = workplace.config.deadlines;
        let pause = match failure {
            // Each attempt is a line in the router's log.
            SessionError::Login { .. } | SessionError::ChallengeLogin | SessionError::SameRouter { .. } => {
                longest * 6
            }
            _ => {
                let pause = pauses.next().unwrap_or(longest);
                if is_away { pause.min(jittered(absence)) } else { pause }
            }
        };
        workplace.enter(State::Waiting { retry_ms: pause.as_millis() as u64 });
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Ok(()) = settings.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    workplace.enter(State::Stopped);
}

/// A session that is logged in: the one that was kept, or a new one.
async fn open(
    workplace: &Workplace,
    kept: Option<Session<Purpose>>,
) -> Result<Session<Purpose>, SessionError> {
    if let Some(session) = kept {
        return Ok(session);
    }
    let config = &workplace.config;
    let endpoint = &config.address;
    let port = if config.tls.is_some() { API_TLS_PORT } else { API_PORT };
    let deadline = config.deadlines.connect;
    let addresses = timeout(deadline, endpoint.resolve(port))
        .await
        .map_err(|_| SessionError::ConnectDeadline(deadline))?
        .map_err(|source| SessionError::Resolve { host: endpoint.host.clone(), source })?;
    workplace.status.send_modify(|status| {
        status.addresses = addresses.iter().map(std::net::SocketAddr::ip).collect();
        status.addresses.dedup();
    });
    let session = Session::open(config, &addresses).await?;
    workplace.status.send_modify(|status| status.sessions += 1);
    tracing::info!(router = %config.name, "logged in");
    Ok(session)
}

/// Pauses that double from the shortest to the longest, each with jitter on top, without end.
fn pauses(workplace: &Workplace) -> ExponentialBackoff {
    let deadlines = &workplace.config.deadlines;
    ExponentialBuilder::new()
        .with_min_delay(deadlines.shortest_pause)
        // Jitter adds up to as much again.
        .with_max_delay(deadlines.longest_pause / 2)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}
