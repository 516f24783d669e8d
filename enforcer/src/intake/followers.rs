//! The sensors that follow the bans, to drop them by themselves: a stream each, as [`atalaya_wire::BanLine`] has
//! it. Each is a task that waits for nobody but its own sensor, so that a slow or dead one delays no other, no
//! router and no decision.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use atalaya_wire::{HEARTBEAT_SECONDS, Name, Position};
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::Frame;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::desired::Desired;
use crate::enrolment::{self, Enrolled};

mod follower;

pub use follower::{Follower, Names};

/// After how long without a change a mark is told.
const HEARTBEAT: Duration = Duration::from_secs(HEARTBEAT_SECONDS - 1);

/// For how long changes gather after some were told. The first after a quiet time is told at once.
const GATHER: Duration = Duration::from_millis(10);

/// The most changes, and the most bans of a snapshot, that are told a sensor at once: some 20 kB.
const PIECE: usize = 500;

/// The most streams of one sensor. A sensor has one; that of a connection which died unseen may be left beside it.
const MOST_STREAMS: usize = 3;

/// Who follows, and what.
#[derive(Debug)]
pub struct Followers {
    desired: Arc<Desired>,
    names: Names,
    enrolled: Arc<Enrolled>,
    clock: Clock,
    stop: CancellationToken,
    /// The streams of each sensor, the latest last; what ends each.
    streams: Mutex<HashMap<Name, Vec<(u64, CancellationToken)>>>,
    /// How many streams there have been, by which they are numbered.
    begun: AtomicU64,
    /// Pieces of snapshots are made one after another: a thousand sensors that come back at once use one
    /// processor at most for them.
    turns: Semaphore,
}

/// A stream's place among the others, given back when dropped.
struct Entered {
    followers: Arc<Followers>,
    sensor: Name,
    number: u64,
    end: CancellationToken,
}

/// Lines on their way to one sensor.
struct BanStreamBody(mpsc::Receiver<Bytes>);

// === impl Followers ===

impl Followers {
    /// Nobody follows yet. The streams end when `stop` is cancelled, or when a sensor is enrolled no more.
    pub fn new(
        desired: Arc<Desired>,
        ledger: Name,
        enrolled: Arc<Enrolled>,
        clock: Clock,
        stop: CancellationToken,
    ) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        let stream = data_encoding::HEXLOWER.encode(&bytes);
        let names = Names { ledger, stream: stream.parse().expect("hexadecimal digits are a name") };
        let (streams, turns) = (Mutex::default(), Semaphore::new(1));
        Ok(Self { desired, names, enrolled, clock, stop, streams, begun: AtomicU64::new(0), turns })
    }

    /// Begins a stream for a sensor that says that it stands there. Of too many streams of one sensor, the
    /// oldest ends. To be called within a tokio runtime.
    pub fn follow(self: &Arc<Self>, sensor: Name, asked: Option<Position>) -> Body {
        // One piece waits while the next is made.
        let (pieces, body) = mpsc::channel(1);
        let follower = Follower::new(Arc::clone(&self.desired), self.names.clone(), asked, PIECE);
        let entered = self.enter(sensor);
        tokio::spawn(async move {
            let end = entered.end.clone();
            tokio::select! {
                () = end.cancelled() => {}
                () = pieces.closed() => {}
                () = entered.feed(follower, &pieces) => {}
            }
            tracing::debug!(sensor = %entered.sensor, "a stream of bans ended");
        });
        Body::new(BanStreamBody(body))
    }

    /// Whether a sensor follows now.
    pub fn includes(&self, sensor: &Name) -> bool {
        self.streams().contains_key(sensor)
    }

    fn enter(self: &Arc<Self>, sensor: Name) -> Entered {
        let end = self.stop.child_token();
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let mut streams = self.streams();
        let own = streams.entry(sensor.clone()).or_default();
        own.push((number, end.clone()));
        if own.len() > MOST_STREAMS {
            own.remove(0).1.cancel();
        }
        drop(streams);
        Entered { followers: Arc::clone(self), sensor, number, end }
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<Name, Vec<(u64, CancellationToken)>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Entered ===

impl Entered {
    /// Tells what changes, and at least a mark now and then, until the sensor is gone.
    async fn feed(&self, mut follower: Follower, pieces: &mpsc::Sender<Bytes>) {
        let Followers { enrolled, clock, turns, .. } = &*self.followers;
        let since = enrolled.since(&self.sensor);
        loop {
            let turn = if follower.is_in_snapshot() { turns.acquire().await.ok() } else { None };
            let mut lines = Vec::new();
            follower.next(clock.now(), &mut |line| {
                // Writing to memory does not fail, and lines are of types that JSON has.
                if serde_json::to_writer(&mut lines, &line).is_ok() {
                    lines.push(b'\n');
                }
            });
            drop(turn);
            if pieces.send(lines.into()).await.is_err() {
                return;
            }
            let told = Instant::now();
            loop {
                let has_more = tokio::select! {
                    () = follower.has_more() => true,
                    () = sleep(enrolment::REFRESH) => told.elapsed() >= HEARTBEAT,
                };
                if since.is_none() || enrolled.since(&self.sensor) != since {
                    tracing::info!(sensor = %self.sensor, "its stream of bans ends: it is enrolled no more, or anew");
                    return;
                }
                if has_more {
                    break;
                }
            }
            if !follower.is_in_snapshot() {
                sleep_until(told + GATHER).await;
            }
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut streams = self.followers.streams();
        if let Some(own) = streams.get_mut(&self.sensor) {
            own.retain(|(number, _)| *number != self.number);
            if own.is_empty() {
                streams.remove(&self.sensor);
            }
        }
    }
}

// === impl BanStreamBody ===

impl HttpBody for BanStreamBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
