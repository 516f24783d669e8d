//! Who is connected: strangers, each in a [half-open place](super::half_open), and sensors, each with a few
//! connections of its own. What is full, and who is turned away for it, is counted for `status`.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use atalaya_wire::{Name, Problem, ProblemCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::half_open::{HalfOpen, HalfOpenLimits, origin};
use super::of_late::OfLate;
use super::origins::Origins;
use crate::clock::Clock;

/// Descriptors that no connection of sensors or strangers takes: those of the ledger, of the commands and of what
/// is opened now and then.
const KEPT_BACK: u64 = 96;
/// Descriptors kept back for each router: its session, and one that is ending or being looked up.
const KEPT_BACK_PER_ROUTER: u64 = 4;

/// The bounds on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The most connections of sensors at once; a further one is refused, and told.
    pub sensors: usize,
    /// The most connections of one sensor; for a further one its oldest ends.
    pub of_one_sensor: usize,
    /// The most connections that nobody has authenticated.
    pub half_open: HalfOpenLimits,
    /// How long a stranger may stay; thrice as long from an address of sensors.
    pub stay: Duration,
}

/// Who is connected.
#[derive(Debug)]
pub struct Entrance {
    origins: Arc<Origins>,
    clock: Clock,
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    limits: ConnectionLimits,
    half_open: HalfOpen,
    /// What ends each half-open connection.
    ends: HashMap<u64, CancellationToken>,
    /// The connections of each sensor, the oldest first.
    sensors: HashMap<Name, VecDeque<SensorConnection>>,
    count: usize,
    /// Strangers that were ended for others.
    displaced: OfLate,
    /// Connections of sensors for which there was no place.
    refused: OfLate,
}

#[derive(Debug)]
struct SensorConnection {
    number: u64,
    /// When the sensor was enrolled: it may have been enrolled anew since.
    enrolled: Timestamp,
    end: CancellationToken,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    entrance: Arc<Entrance>,
    number: u64,
    /// How long it may be a stranger's.
    pub stay: Duration,
    /// Cancelled once the connection has to end.
    pub end: CancellationToken,
    /// Cancelled once it is a sensor's.
    pub known: CancellationToken,
    sensor: OnceLock<Name>,
}

/// Who sent a request, as an extension of it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The address and port that the connection comes from.
    pub address: SocketAddr,
    pub(super) place: Arc<ConnectionPlace>,
}

/// Who is connected, as `status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionsStatus {
    /// Connections of sensors.
    pub sensors: usize,
    /// The most of them at once.
    pub most_sensors: usize,
    /// Connections of sensors that were refused within the last 15 minutes because there were so many.
    pub refused: u64,
    /// Connections on which nobody was authenticated, but for those from addresses of sensors.
    pub strangers: usize,
    /// The most of them at once.
    pub most_strangers: usize,
    /// Strangers that were ended within the last 15 minutes so that others could come in.
    pub displaced: u64,
    /// The IPv4 address, or an address of the IPv6 /64, that has the most strangers, and how many.
    pub most_of_one: Option<(IpAddr, usize)>,
}

// === impl ConnectionLimits ===

impl ConnectionLimits {
    /// The bounds where so many descriptors may be open, of which some are kept back for routers and commands.
    pub fn within(descriptors: Option<u64>, routers: usize) -> Self {
        let kept_back = KEPT_BACK + KEPT_BACK_PER_ROUTER * routers as u64;
        let left = descriptors.map_or(usize::MAX, |all| {
            usize::try_from(all.saturating_sub(kept_back)).unwrap_or(usize::MAX).max(16)
        });
        let usual = Self::default();
        let strangers = usual.half_open.strangers.min(left / 8);
        let known = usual.half_open.known.min(left / 4);
        Self {
            sensors: usual.sensors.min(left - strangers - known),
            half_open: HalfOpenLimits { strangers, known, ..usual.half_open },
            ..usual
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            // A sensor has two: one for what it sends, one for the bans that it follows.
            sensors: 16_384,
            of_one_sensor: 8,
            half_open: HalfOpenLimits { strangers: 512, strangers_of_one: 32, known: 4096 },
            stay: Duration::from_secs(10),
        }
    }
}

// === impl Entrance ===

impl Entrance {
    /// Nobody is connected.
    pub fn new(limits: ConnectionLimits, origins: Arc<Origins>, clock: Clock) -> Arc<Self> {
        let inside = Inside {
            limits,
            half_open: HalfOpen::new(limits.half_open),
            ends: HashMap::new(),
            sensors: HashMap::new(),
            count: 0,
            displaced: OfLate::default(),
            refused: OfLate::default(),
        };
        Arc::new(Self { origins, clock, inside: Mutex::new(inside) })
    }

    /// Lets so many in from here on. Who is connected stays.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        let mut inside = self.inside();
        inside.limits = limits;
        inside.half_open.set_limits(limits.half_open);
    }

    /// Ends at once the connections of sensors that are enrolled no more, or anew; how many. `enrolled` says when
    /// a sensor was enrolled.
    pub fn end_of_revoked(&self, enrolled: impl Fn(&Name) -> Option<Timestamp>) -> usize {
        let mut ended = 0;
        for (name, connections) in &self.inside().sensors {
            let since = enrolled(name);
            for connection in connections.iter().filter(|connection| Some(connection.enrolled) != since) {
                ended += usize::from(!connection.end.is_cancelled());
                connection.end.cancel();
            }
        }
        ended
    }

    /// Who is connected.
    pub fn status(&self) -> ConnectionsStatus {
        let now = self.clock.now();
        let inside = self.inside();
        ConnectionsStatus {
            sensors: inside.count,
            most_sensors: inside.limits.sensors,
            refused: inside.refused.count(now),
            strangers: inside.half_open.strangers(),
            most_strangers: inside.limits.half_open.strangers,
            displaced: inside.displaced.count(now),
            most_of_one: inside.half_open.most_of_one(),
        }
    }

    /// Takes a stranger in, where need be for another one.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, stop: &CancellationToken) -> Arc<ConnectionPlace> {
        let now = self.clock.now();
        let is_known = self.origins.knows(origin(address), now);
        let end = stop.child_token();
        let mut inside = self.inside();
        // Where a whole fleet comes back at once, their handshakes take the processors a while.
        let stay = if is_known { 3 * inside.limits.stay } else { inside.limits.stay };
        let (number, goes) = inside.half_open.enter(address, is_known);
        if let Some(goes) = goes {
            inside.displaced.add(now, 1);
            if let Some(goes) = inside.ends.remove(&goes) {
                goes.cancel();
            }
        }
        inside.ends.insert(number, end.clone());
        drop(inside);
        let known = CancellationToken::new();
        Arc::new(ConnectionPlace {
            entrance: Arc::clone(self),
            number,
            stay,
            end,
            known,
            sensor: OnceLock::new(),
        })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl ConnectionPlace ===

impl ConnectionPlace {
    /// Takes note that a whole request came.
    pub fn spoke(&self) {
        if self.sensor.get().is_none() {
            self.entrance.inside().half_open.spoke(self.number);
        }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut inside = self.entrance.inside();
        inside.half_open.leave(self.number);
        inside.ends.remove(&self.number);
        let Some(sensor) = self.sensor.get() else { return };
        let Some(connections) = inside.sensors.get_mut(sensor) else { return };
        connections.retain(|connection| connection.number != self.number);
        if connections.is_empty() {
            inside.sensors.remove(sensor);
        }
        inside.count -= 1;
    }
}

// === impl Caller ===

impl Caller {
    /// The connection is this sensor's from now on, whoever else uses it; the sensor was enrolled at a time. Of too
    /// many connections of one sensor, the oldest ends.
    pub fn admit(&self, sensor: &Name, enrolled: Timestamp) -> Result<(), Problem> {
        let ConnectionPlace { entrance, number, end, known, sensor: whose, .. } = &*self.place;
        if whose.get().is_some() {
            return Ok(());
        }
        let now = entrance.clock.now();
        let mut inside = entrance.inside();
        let limits = inside.limits;
        let own = inside.sensors.get(sensor).map_or(0, VecDeque::len);
        if inside.count >= limits.sensors && own < limits.of_one_sensor {
            inside.refused.add(now, 1);
            return Err(Problem::new(
                ProblemCode::Unavailable,
                format!(
                    "all {} places for connections of sensors are taken: `atalaya-enforcer status` on the enforcer's host says what to raise",
                    limits.sensors
                ),
            ));
        }
        // Two requests of one connection come one after another, so that nobody else has set it.
        if whose.set(sensor.clone()).is_err() {
            return Ok(());
        }
        inside.half_open.leave(*number);
        inside.ends.remove(number);
        inside.count += 1;
        let connections = inside.sensors.entry(sensor.clone()).or_default();
        connections.push_back(SensorConnection { number: *number, enrolled, end: end.clone() });
        if connections.len() > limits.of_one_sensor
            && let Some(oldest) = connections.front()
        {
            oldest.end.cancel();
        }
        drop(inside);
        known.cancel();
        entrance.origins.note(origin(self.address.ip()), now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(entrance: &Arc<Entrance>, port: u16) -> Caller {
        let address: SocketAddr = ([192, 0, 2, 1], port).into();
        Caller { address, place: entrance.enter(address.ip(), &CancellationToken::new()) }
    }

    fn entrance(sensors: usize) -> Arc<Entrance> {
        let limits = ConnectionLimits { sensors, of_one_sensor: 2, ..ConnectionLimits::default() };
        Entrance::new(limits, Arc::default(), Clock::system())
    }

    #[test]
    fn the_oldest_connection_of_a_sensor_ends_for_one_too_many_and_a_revoked_sensors_all_do() {
        let (entrance, enrolled) = (entrance(10), Timestamp::UNIX_EPOCH);
        let [web, mail]: [Name; 2] = ["web-1", "mail-1"].map(|name| name.parse().unwrap());
        let callers: Vec<Caller> = (0..4).map(|port| caller(&entrance, port)).collect();
        callers[3].admit(&mail, enrolled).unwrap();
        for caller in &callers[..3] {
            caller.admit(&web, enrolled).unwrap();
            caller.admit(&web, enrolled).unwrap();
        }
        let ended = |callers: &[Caller]| -> Vec<bool> {
            callers.iter().map(|caller| caller.place.end.is_cancelled()).collect()
        };
        assert_eq!(ended(&callers), [true, false, false, false]);
        assert_eq!((entrance.status().sensors, entrance.status().strangers), (4, 0));
        assert_eq!(entrance.end_of_revoked(|name| (*name == mail).then_some(enrolled)), 2);
        assert_eq!(ended(&callers), [true, true, true, false]);
        assert_eq!(entrance.end_of_revoked(|_| Some(enrolled + Duration::from_secs(1))), 1, "enrolled anew");
        drop(callers);
        assert_eq!(entrance.status().sensors, 0);
        assert!(entrance.inside().sensors.is_empty() && entrance.inside().ends.is_empty());
    }

    #[test]
    fn a_sensor_for_which_there_is_no_place_is_told_so_and_counted() {
        let entrance = entrance(1);
        let (first, second) = (caller(&entrance, 1), caller(&entrance, 2));
        first.admit(&"web-1".parse().unwrap(), Timestamp::UNIX_EPOCH).unwrap();
        let refused = second.admit(&"web-2".parse().unwrap(), Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(refused.message.starts_with("all 1 places"), "{refused}");
        assert_eq!(entrance.status().refused, 1);
        drop(first);
        second.admit(&"web-2".parse().unwrap(), Timestamp::UNIX_EPOCH).unwrap();
    }

    #[test]
    fn connections_leave_descriptors_for_routers_and_commands_however_few_there_are() {
        for (descriptors, routers) in [(1024, 1), (1024, 100), (20_000, 3), (524_288, 1), (300, 2)] {
            let limits = ConnectionLimits::within(Some(descriptors), routers);
            let HalfOpenLimits { strangers, known, .. } = limits.half_open;
            let all = (limits.sensors + strangers + known) as u64;
            assert!(all + 96 + 4 * routers as u64 <= descriptors, "{limits:?} of {descriptors}");
            assert!(limits.sensors >= 100, "{limits:?} of {descriptors}");
        }
        assert_eq!(ConnectionLimits::within(Some(524_288), 1), ConnectionLimits::default());
        assert_eq!(ConnectionLimits::within(None, 1), ConnectionLimits::default());
    }
}
