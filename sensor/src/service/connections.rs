//! Feeds the detector with the addresses that reach a limit in the kernel: each with who listens there, and one of
//! short connections a moment later, for a login may be on its way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::kernel::Feeding;
use super::{DROPS_INTERVAL, Shared, lock, stop_at};
use crate::channel::ProgramState;
use crate::channel::messages::Listener;
use crate::detector::LimitReached;
use crate::kernel::clock::age;
use crate::kernel::maps::{LostRecords, Maps, MapsError};
use crate::kernel::process::Questions;
use crate::source::connections::{Connections, Crossed, Guard, Guarded};
use atalaya_program::count::counted;

/// How long a crossing of short connections waits for a login that explains it. Its record is microseconds on
/// its way; on a host under load it may be much longer.
const GRACE: Duration = Duration::from_secs(1);
/// The most crossings that wait; past it one is dropped, and its address is told of again half a minute later.
const MOST_WAITING: usize = 10_000;
/// How long it is taken for granted who listens.
const LISTENER_LIFE: Duration = Duration::from_secs(60);
/// The most listeners that are remembered.
const MOST_LISTENERS: usize = 1024;

/// Lets the feed write the jails' limits into the kernel again.
#[derive(Clone, Debug, Default)]
pub(super) struct Changed(Arc<Notify>);

struct Feed {
    watch: Shared,
    questions: Questions,
    listeners: Listeners,
    waiting: VecDeque<(Instant, Crossed)>,
    guards: Vec<Guard>,
    warned: bool,
}

/// Who listens where, as it was found lately: by network namespace and port.
#[derive(Default)]
struct Listeners(HashMap<(u32, u16), (Instant, Option<Listener>)>);

/// Starts to feed, until the token says so.
pub(super) fn feed(
    maps: Maps,
    token: CancellationToken,
    questions: Questions,
    changed: &Changed,
    feeding: &Feeding<'_>,
) -> Result<(), MapsError> {
    let mut connections = Connections::new(maps)?;
    if let Some(handshakes) = connections.take_handshakes() {
        lock(feeding.watch).detector.set_connected(move |address| handshakes.are_known_of(address));
    }
    let changed = changed.clone();
    let mut feed = Feed {
        watch: feeding.watch.clone(),
        questions,
        listeners: Listeners::default(),
        waiting: VecDeque::new(),
        guards: Vec::new(),
        warned: false,
    };
    feed.guard(&mut connections);
    feeding.tasks.spawn(stop_at(token, async move {
        let mut interval = tokio::time::interval(DROPS_INTERVAL);
        let mut told = LostRecords::default();
        loop {
            let due = feed.waiting.front().map(|(due, _)| *due);
            tokio::select! {
                crossed = connections.next() => match crossed {
                    Some(crossed) => feed.take(crossed).await,
                    None => return,
                },
                () = at(due) => {
                    if let Some((_, crossed)) = feed.waiting.pop_front() {
                        feed.judge(&crossed).await;
                    }
                }
                () = changed.0.notified() => feed.guard(&mut connections),
                _ = interval.tick() => {
                    // Whether logins can be seen may have changed.
                    feed.guard(&mut connections);
                    let now = connections.lost();
                    if now != told {
                        let LostRecords { ring_full, unreadable, .. } = now;
                        tracing::warn!(ring_full, unreadable, "crossings of connections lost, or packets not read, in total since the start; who goes on is told of again");
                        told = now;
                    }
                }
            }
        }
    }));
    Ok(())
}

/// Waits until then, or for ever.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

// === impl Changed ===

impl Changed {
    /// The jails are others now.
    pub(super) fn tell(&self) {
        self.0.notify_one();
    }
}

// === impl Feed ===

impl Feed {
    /// Writes the jails' limits into the kernel, where they are others than before.
    fn guard(&mut self, connections: &mut Connections) {
        let sees_logins = self.sees_logins();
        let (guards, wants_short) = {
            let watch = lock(&self.watch);
            (watch.detector.guards(sees_logins), watch.detector.wants_short())
        };
        if wants_short && !sees_logins && !self.warned {
            tracing::warn!(
                "short connections are not counted: no login can be seen here, neither through libaudit or PAM nor in the journal, that would tell them from quick logins"
            );
        }
        self.warned = wants_short && !sees_logins;
        if guards == self.guards {
            return;
        }
        match connections.guard(&guards) {
            Ok(()) => self.guards = guards,
            Err(error) => {
                tracing::error!(%error, "the kernel does not take the limits of the jails; it is tried again");
                self.guards.clear();
            }
        }
    }

    /// Whether successful logins are seen, by key too.
    fn sees_logins(&self) -> bool {
        let runs = |program: &crate::channel::Program| {
            program.state == ProgramState::On && ["logins: audit", "logins: pam"].contains(&&*program.name)
        };
        self.questions.programs().iter().any(runs) || !lock(&self.watch).detector.journals().is_empty()
    }

    async fn take(&mut self, crossed: Crossed) {
        let is_short = matches!(crossed.guard.of, Guarded::Connections { short: Some(_), .. });
        if !is_short {
            self.judge(&crossed).await;
        } else if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back((Instant::now() + GRACE, crossed));
        }
    }

    async fn judge(&mut self, crossed: &Crossed) {
        let listener = match crossed.guard.of {
            Guarded::Connections { .. } => self.listener(crossed).await,
            Guarded::ClosedPorts { .. } | Guarded::Handshakes => None,
        };
        let text = words(crossed, listener.as_ref());
        let now = Timestamp::now();
        let time = now.saturating_sub(age(crossed.time_ns)).unwrap_or(now);
        let reached = LimitReached {
            jail: &crossed.guard.jail,
            address: crossed.address,
            time,
            count: crossed.count,
            text: &text,
        };
        lock(&self.watch).detector.limit_reached(&reached, now);
    }

    /// Who listens on the port of a crossing; asked once a minute.
    async fn listener(&mut self, crossed: &Crossed) -> Option<Listener> {
        let key = (crossed.netns, crossed.port);
        let now = Instant::now();
        if let Some((found, listener)) = self.listeners.0.get(&key)
            && now.duration_since(*found) < LISTENER_LIFE
        {
            return listener.clone();
        }
        let listener = self.questions.listener(crossed.netns, crossed.port).await;
        self.listeners.0.retain(|_, (found, _)| now.duration_since(*found) < LISTENER_LIFE);
        if self.listeners.0.len() < MOST_LISTENERS {
            self.listeners.0.insert(key, (now, listener.clone()));
        }
        listener
    }
}

/// What was counted, for the ban's evidence.
fn words(crossed: &Crossed, listener: Option<&Listener>) -> String {
    let Crossed { guard, count, port, .. } = crossed;
    let findtime = guard.findtime.0;
    match &guard.of {
        Guarded::Connections { short, .. } => {
            let who = match listener {
                Some(Listener { program, container: Some(container), .. }) => {
                    format!(" ({program} in container {container})")
                }
                Some(Listener { program, .. }) => format!(" ({program})"),
                None => String::new(),
            };
            let ended = short
                .map_or_else(String::new, |short| format!(" that ended within {} s with no login", short.0));
            {
                let connections = counted(*count, "connection");
                format!("{connections} to port {port}{who}{ended} in {findtime} s")
            }
        }
        // Nothing is counted of handshakes, so that nobody is told of.
        Guarded::ClosedPorts { .. } | Guarded::Handshakes => {
            let known = if crossed.verified { "" } else { "; the sender's address may be forged" };
            {
                let ports = counted(*count, "closed port");
                format!("{ports} touched in {findtime} s, the last one {port}{known}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use atalaya_wire::Seconds;

    use super::*;

    #[test]
    fn evidence_says_how_many_of_what_where_and_in_which_time() {
        let mut crossed = Crossed {
            guard: Guard {
                jail: "a".parse().unwrap(),
                limit: 12,
                findtime: Seconds(60),
                ipv6_prefix: 64,
                of: Guarded::Connections { ports: vec![22], short: None },
            },
            address: "192.0.2.1".parse().unwrap(),
            count: 12,
            port: 22,
            netns: 0,
            verified: true,
            time_ns: 0,
        };
        let mut sshd =
            Listener { process: 1, program: "sshd".to_owned(), container: Some("web-3".to_owned()) };
        let said = words(&crossed, Some(&sshd));
        assert_eq!(said, "12 connections to port 22 (sshd in container web-3) in 60 s");
        sshd.container = None;
        crossed.guard.of = Guarded::Connections { ports: vec![22], short: Some(Seconds(10)) };
        let said = words(&crossed, Some(&sshd));
        assert_eq!(said, "12 connections to port 22 (sshd) that ended within 10 s with no login in 60 s");
        crossed.guard.of = Guarded::ClosedPorts { unverified: true };
        assert_eq!(words(&crossed, None), "12 closed ports touched in 60 s, the last one 22");
        crossed.verified = false;
        assert!(words(&crossed, None).ends_with("may be forged"));
    }
}
