//! What one sensor may take of what all share: how much it sends, how much of it lies in memory, which jails it names.
//! A sensor that is over its share waits, and nobody else does. What it did over it is counted for `status`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use atalaya_wire::{MAX_BATCH, MAX_REPORT, Name, Problem, ProblemCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as Turn, MutexGuard as TurnGuard, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::of_late::OfLate;

/// The most large bodies of all sensors in memory at once: 64 MiB.
const LARGE_BODIES: usize = 16;

/// The most jails that one sensor names, where it may name any.
const MOST_JAILS: usize = 256;

/// For so many seconds' worth a sensor may send at once: an attack begins with many.
const BURST_SECONDS: f64 = 120.0;

/// Requests a second beside offences: reports, allow lists, streams, and what is not understood.
const REQUESTS: AllowedRate = AllowedRate { a_second: 50.0, at_once: 500.0 };
/// Failures and logins a second in reports.
const REPORTED: AllowedRate = AllowedRate { a_second: 2000.0, at_once: 8.0 * MAX_REPORT as f64 };

/// How many of its offences are decided and written at once while other sensors send too: what they wait for at most.
pub(super) const SLICE: usize = 16;
/// For how long a sensor counts as sending after its last batch.
const SENDING: Duration = Duration::from_secs(1);

/// The `[sensors]` table: what one sensor may take of what all share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SensorLimits {
    /// Offences a second, over two minutes; `None` for any number.
    pub offences: Option<u32>,
    /// Bans that stand for its offences; `None` for any number.
    pub bans: Option<usize>,
    /// Addresses that are protected by logins that it reports; `None` for any number.
    pub logins: Option<usize>,
}

/// The shares of all sensors.
#[derive(Debug)]
pub(super) struct Shares {
    limits: RwLock<SensorLimits>,
    sensors: Mutex<HashMap<Name, Arc<Share>>>,
    /// Places for large bodies, and how many wait for one.
    large: Semaphore,
    waiting: AtomicUsize,
    /// Who sent offences last, and who before that, if that is another.
    senders: Mutex<[Option<(Name, Instant)>; 2]>,
}

/// The share of one sensor.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// One of its bodies is in memory at a time.
    pub body: Turn<()>,
    /// One of its batches is decided and written at a time.
    pub batch: Turn<()>,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    offences: Bucket,
    requests: Bucket,
    reported: Bucket,
    jails: HashSet<Name>,
    over_rate: OfLate,
    jails_refused: OfLate,
    rejected: OfLate,
    over_share: OfLate,
    logins_displaced: OfLate,
}

/// What a sensor did within the last 15 minutes that an honest one does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Oddities {
    /// Requests that had to wait because it sent too much.
    pub over_rate: u64,
    /// Offences and failures of jails that it may not name.
    pub jails_refused: u64,
    /// Requests that could not be understood, or were too large.
    pub rejected: u64,
    /// Offences that were taken for none because so many of its bans stand.
    pub over_share: u64,
    /// Addresses that its logins protect no more because it reported so many.
    pub logins_displaced: u64,
}

/// What a sensor is noted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Oddity {
    OverRate,
    JailRefused,
    Rejected,
    OverShare,
    LoginsDisplaced,
}

/// How much a second, and how much at once after a quiet time.
#[derive(Clone, Copy, Debug)]
struct AllowedRate {
    a_second: f64,
    at_once: f64,
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    used: f64,
    at: Option<Instant>,
}

/// A place for a large body.
pub(super) struct LargeBody<'a> {
    shares: &'a Shares,
    _place: SemaphorePermit<'a>,
}

// === impl SensorLimits ===

impl Default for SensorLimits {
    fn default() -> Self {
        Self { offences: Some(1000), bans: Some(200_000), logins: Some(2000) }
    }
}

// === impl Shares ===

impl Shares {
    pub fn new(limits: SensorLimits) -> Self {
        Self {
            limits: RwLock::new(limits),
            sensors: Mutex::default(),
            large: Semaphore::new(LARGE_BODIES),
            waiting: AtomicUsize::new(0),
            senders: Mutex::default(),
        }
    }

    /// Counts by these limits from here on.
    pub fn set_limits(&self, limits: SensorLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// The share of a sensor, which is enrolled.
    pub fn of(&self, sensor: &Name) -> Arc<Share> {
        let mut sensors = self.sensors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = sensors.get(sensor) {
            return share.clone();
        }
        sensors.entry(sensor.clone()).or_default().clone()
    }

    /// The most bans that stand for the offences of one sensor.
    pub fn most_bans(&self) -> Option<usize> {
        self.limits().bans
    }

    /// What a sensor did over its share of late.
    pub fn oddities(&self, sensor: &Name, now: Timestamp) -> Oddities {
        let share = self.sensors.lock().unwrap_or_else(PoisonError::into_inner).get(sensor).cloned();
        share.map_or_else(Oddities::default, |share| share.used().oddities(now))
    }

    /// Forgets sensors that are enrolled no more.
    pub fn retain(&self, is_enrolled: impl Fn(&Name) -> bool) {
        self.sensors.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| is_enrolled(name));
    }

    /// Whether a sensor may send offences now; it is told for how long to wait where it sent too many.
    pub fn may_send_offences(&self, sensor: &Name, share: &Share, now: Timestamp) -> Result<(), Problem> {
        let Some(rate) = self.offences() else { return Ok(()) };
        let left = share.used().offences.left(rate, Instant::now());
        left.map_err(|wait| over_rate(sensor, share, "offences", rate, wait, now))
    }

    /// Counts offences that were sent; those that were sent again count as a tenth.
    pub fn sent(&self, share: &Share, fresh: u64, again: u64) {
        if let Some(rate) = self.offences() {
            share.used().offences.take(rate, Instant::now(), (fresh as f64 + again as f64 / 10.0).max(1.0));
        }
    }

    /// Waits until there is room for a large body.
    pub async fn large_body(&self, deadline: Instant) -> Result<LargeBody<'_>, Problem> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = timeout_at(deadline, self.large.acquire()).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let busy =
            || Problem::new(ProblemCode::Unavailable, "too many sensors send large bodies: send it again");
        let place = place.map_err(|_| busy())?.map_err(|_| busy())?;
        Ok(LargeBody { shares: self, _place: place })
    }

    /// How many offences of a sensor are decided and written together now: few while others send too, so that
    /// nobody waits for a thousand of another's.
    pub fn slice(&self, sensor: &Name, now: Instant) -> usize {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        let [last, before] = &mut *senders;
        if last.as_ref().is_some_and(|(name, _)| name != sensor) {
            *before = last.take();
        }
        *last = Some((sensor.clone(), now));
        let is_recent = |(_, at): &(Name, Instant)| now.saturating_duration_since(*at) < SENDING;
        if before.as_ref().is_some_and(is_recent) { SLICE } else { MAX_BATCH }
    }

    fn limits(&self) -> SensorLimits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn offences(&self) -> Option<AllowedRate> {
        let a_second = f64::from(self.limits().offences?);
        Some(AllowedRate { a_second, at_once: a_second * BURST_SECONDS })
    }
}

// === impl Share ===

impl Share {
    /// Counts a request that is none of offences; the sensor is told for how long to wait where there are too many.
    pub fn request(&self, sensor: &Name, now: Timestamp) -> Result<(), Problem> {
        let mut used = self.used();
        let left = used.requests.left(REQUESTS, Instant::now());
        let left = left.map_err(|wait| ("requests", REQUESTS, wait));
        let left = left.and_then(|()| {
            let left = used.reported.left(REPORTED, Instant::now());
            left.map_err(|wait| ("failures and logins", REPORTED, wait))
        });
        if left.is_ok() {
            used.requests.take(REQUESTS, Instant::now(), 1.0);
        }
        drop(used);
        left.map_err(|(what, rate, wait)| over_rate(sensor, self, what, rate, wait, now))
    }

    /// Counts what a report holds.
    pub fn reported(&self, entries: usize) {
        self.used().reported.take(REPORTED, Instant::now(), entries as f64);
    }

    /// Takes note of something odd; how often it happened before within this minute.
    pub fn note(&self, oddity: Oddity, count: u64, now: Timestamp) -> u64 {
        let mut used = self.used();
        let counts = match oddity {
            Oddity::OverRate => &mut used.over_rate,
            Oddity::JailRefused => &mut used.jails_refused,
            Oddity::Rejected => &mut used.rejected,
            Oddity::OverShare => &mut used.over_share,
            Oddity::LoginsDisplaced => &mut used.logins_displaced,
        };
        counts.add(now, count)
    }

    /// Says what of a sensor's was not understood: once a minute, with how often it was so of late.
    pub fn reject(&self, sensor: &Name, problem: &Problem, now: Timestamp) {
        self.used().requests.take(REQUESTS, Instant::now(), 1.0);
        let in_this_minute = self.note(Oddity::Rejected, 1, now);
        if in_this_minute == 0 {
            let rejected = self.used().rejected.count(now);
            tracing::warn!(
                %sensor, code = ?problem.code, problem = problem.message, rejected,
                "refused what a sensor sent; `rejected` counts the last 15 minutes, and the next line comes in a minute at the soonest"
            );
        }
    }

    /// Whether the sensor may name a jail: one of those that it was enrolled for, or else one of so many.
    pub fn may_name(&self, jail: &Name, allowed: Option<&BTreeSet<Name>>) -> bool {
        if let Some(allowed) = allowed {
            return allowed.contains(jail);
        }
        let mut used = self.used();
        used.jails.contains(jail) || used.jails.len() < MOST_JAILS && used.jails.insert(jail.clone())
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a turn of a sensor's.
pub(super) async fn turn(turn: &Turn<()>, deadline: Instant) -> Result<TurnGuard<'_, ()>, Problem> {
    timeout_at(deadline, turn.lock()).await.map_err(|_| {
        let message =
            "another request of this sensor's takes long: requests of one sensor are read one after another";
        Problem::new(ProblemCode::Unavailable, message)
    })
}

fn over_rate(
    sensor: &Name,
    share: &Share,
    what: &str,
    rate: AllowedRate,
    wait: Duration,
    now: Timestamp,
) -> Problem {
    if share.note(Oddity::OverRate, 1, now) == 0 {
        tracing::warn!(%sensor, what, "the sensor sends too many: it has to wait, and others do not");
    }
    let a_second = rate.a_second;
    Problem::too_many(
        format!(
            "{sensor} sends more than {a_second} {what} a second: what it has is to wait for {:.1} s",
            wait.as_secs_f64()
        ),
        wait,
    )
}

// === impl LargeBody ===

impl LargeBody<'_> {
    /// Whether another sensor waits for a place.
    pub fn is_waited_for(&self) -> bool {
        self.shares.waiting.load(Ordering::Relaxed) > 0
    }
}

// === impl Used ===

impl Used {
    fn oddities(&self, now: Timestamp) -> Oddities {
        Oddities {
            over_rate: self.over_rate.count(now),
            jails_refused: self.jails_refused.count(now),
            rejected: self.rejected.count(now),
            over_share: self.over_share.count(now),
            logins_displaced: self.logins_displaced.count(now),
        }
    }
}

// === impl Oddities ===

impl Oddities {
    /// Whether there is nothing to tell.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

// === impl Bucket ===

impl Bucket {
    /// Whether anything may be taken now, or else after how long. What is taken then may be more than is left: how
    /// much a request holds is known once it is read.
    fn left(&mut self, rate: AllowedRate, now: Instant) -> Result<(), Duration> {
        self.refill(rate, now);
        let over = self.used - rate.at_once;
        if over < 0.0 { Ok(()) } else { Err(Duration::from_secs_f64((over + 1.0) / rate.a_second)) }
    }

    fn take(&mut self, rate: AllowedRate, now: Instant, count: f64) {
        self.refill(rate, now);
        self.used += count;
    }

    fn refill(&mut self, rate: AllowedRate, now: Instant) {
        let passed = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.used = (self.used - passed * rate.a_second).max(0.0);
        self.at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn who_sends_too_much_waits_for_as_long_as_it_is_told_and_the_others_do_not() {
        let start = Instant::now();
        let rate = AllowedRate { a_second: 10.0, at_once: 100.0 };
        let mut bucket = Bucket::default();
        bucket.take(rate, start, 99.0);
        assert_eq!(bucket.left(rate, start), Ok(()));
        bucket.take(rate, start, 21.0);
        let wait = bucket.left(rate, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(2100));
        assert!(bucket.left(rate, start + wait / 2).is_err());
        assert_eq!(bucket.left(rate, start + wait), Ok(()));

        let shares = Shares::new(SensorLimits { offences: Some(1), ..SensorLimits::default() });
        let (noisy, other, now) = (name("noisy"), name("other"), Timestamp::UNIX_EPOCH);
        shares.sent(&shares.of(&noisy), 1000, 0);
        let problem = shares.may_send_offences(&noisy, &shares.of(&noisy), now).unwrap_err();
        assert_eq!(problem.code, ProblemCode::TooMany);
        assert!(problem.message.starts_with("noisy sends more than 1 offences a second"), "{problem}");
        assert!(problem.wait().unwrap() > Duration::from_secs(50));
        assert!(shares.may_send_offences(&other, &shares.of(&other), now).is_ok());
        assert_eq!(shares.oddities(&noisy, now).over_rate, 1);
        assert!(shares.oddities(&other, now).is_none());
    }

    #[test]
    fn a_sensor_alone_is_taken_by_batches_and_one_among_others_by_few_at_once() {
        let (shares, start) = (Shares::new(SensorLimits::default()), Instant::now());
        let (one, other) = (name("one"), name("other"));
        let slice = |sensor: &Name, millis| shares.slice(sensor, start + Duration::from_millis(millis));
        assert_eq!([slice(&one, 0), slice(&one, 5)], [MAX_BATCH; 2]);
        assert_eq!([slice(&other, 10), slice(&one, 20), slice(&one, 500)], [SLICE; 3]);
        assert_eq!(slice(&one, 1011), MAX_BATCH, "the other is quiet");
    }

    #[test]
    fn a_sensor_names_the_jails_that_it_was_enrolled_for_or_else_so_many() {
        let share = Share::default();
        let allowed: BTreeSet<Name> = [name("ssh")].into();
        assert!(
            share.may_name(&name("ssh"), Some(&allowed)) && !share.may_name(&name("smtp"), Some(&allowed))
        );
        for number in 0..MOST_JAILS {
            assert!(share.may_name(&name(&format!("jail-{number}")), None));
        }
        assert!(!share.may_name(&name("one-more"), None) && share.may_name(&name("jail-0"), None));
    }

    #[tokio::test]
    async fn a_seventeenth_large_body_waits_and_the_others_learn_of_it() {
        let shares = Shares::new(SensorLimits::default());
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut held = Vec::new();
        for _ in 0..LARGE_BODIES {
            held.push(shares.large_body(deadline).await.unwrap());
        }
        assert!(!held[0].is_waited_for());
        let mut waiting = std::pin::pin!(shares.large_body(deadline));
        assert!(futures_now(waiting.as_mut()).is_none());
        assert!(held[0].is_waited_for());
        held.pop();
        waiting.await.unwrap();
        assert!(!held[0].is_waited_for());
        let late = shares.large_body(deadline).await;
        assert!(late.is_ok());
        assert_eq!(shares.large_body(Instant::now()).await.err().unwrap().code, ProblemCode::Unavailable);
    }

    /// What a future gives without waiting.
    fn futures_now<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    proptest! {
        #[test]
        fn over_any_time_no_more_is_taken_than_the_burst_the_rate_and_one_request(
            requests in prop::collection::vec((0..2000_u64, 0..200_u32), 1..100),
        ) {
            let rate = AllowedRate { a_second: 10.0, at_once: 100.0 };
            let (mut bucket, mut now, mut taken) = (Bucket::default(), Instant::now(), 0.0);
            let start = now;
            for (millis, count) in requests {
                now += Duration::from_millis(millis);
                if bucket.left(rate, now).is_ok() {
                    bucket.take(rate, now, count.into());
                    taken += f64::from(count);
                }
                let most = rate.at_once + rate.a_second * (now - start).as_secs_f64() + 200.0;
                prop_assert!(taken <= most, "{taken} of {most}");
            }
        }
    }
}
