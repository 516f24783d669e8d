//! Connections and scans as the kernel sees and counts them: the jails' limits are [written](Connections::guard) into the
//! kernel, which tells when an address reaches one. What it costs is paid there, by the
//! [object](crate::channel::connections) `connections`; nothing is heard of an address that stays below.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use atalaya_sensor_ebpf::connections::{
    Address, CONNECTIONS_MAP, Crossing, HANDSHAKE_LIFE_NS, HANDSHAKES_MAP, PORTS_MAP, RULES, RULES_MAP, Rule,
    SCAN_RULES, SCAN_RULES_MAP, SCANS_MAP, SETTINGS_MAP, Settings, WATCHERS, Watchers,
};
use atalaya_sensor_ebpf::window::BUCKETS;
use atalaya_wire::{Name, Seconds};
use aya::maps::{Array, HashMap, MapData, MapError};

use crate::kernel::clock::monotonic_ns;
use crate::kernel::maps::{self, Losses, LostRecords, Maps, MapsError, Ring};

/// Two processors may see an address reach a limit at the same moment; this long it is one crossing.
const SAME: Duration = Duration::from_secs(1);
/// How many crossings are remembered before the old ones are let go.
const MOST_RECENT: usize = 4096;

/// What a jail wants counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The one for which a crossing counts as an offence.
    pub jail: Name,
    /// How many make a crossing.
    pub limit: u32,
    /// In seconds; the kernel counts by eighths of it.
    pub findtime: Seconds,
    /// By which network IPv6 addresses count.
    pub ipv6_prefix: u8,
    /// Which connections or packets count.
    pub of: Guarded,
}

/// Which connections or packets a guard counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// Connections to these ports; only those that end within `short`, where it is given.
    Connections {
        /// The ports on this side of the connections.
        ports: Vec<u16>,
        /// How long a connection lasts at most that counts.
        short: Option<Seconds>,
    },
    /// Attempts to connect to ports on which nobody listens.
    ClosedPorts {
        /// Whether addresses without a handshake count.
        unverified: bool,
    },
    /// None: the kernel remembers who completed a handshake, for a jail that counts what a router saw.
    Handshakes,
}

/// An address that reached a jail's limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// The limit that was reached.
    pub guard: Guard,
    /// The remote one, whole, also where its network was counted.
    pub address: IpAddr,
    /// How many there were.
    pub count: u32,
    /// The local port of the last one.
    pub port: u16,
    /// The network namespace, by its number; zero where it is not known.
    pub netns: u32,
    /// Whether the address completed a handshake lately.
    pub verified: bool,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
}

/// The worker's half of the object `connections`: reads its rings, and writes which limits it counts by.
pub struct Connections {
    established: Ring,
    scans: Ring,
    losses: Losses,
    settings: Array<MapData, Plain<Settings>>,
    rules: Array<MapData, Plain<Rule>>,
    scan_rules: Array<MapData, Plain<Rule>>,
    ports: HashMap<MapData, u16, Plain<Watchers>>,
    handshakes: Option<Handshakes>,
    numbered: Numbered,
    ready: std::collections::VecDeque<Crossed>,
    recent: Recent,
}

/// Who completed a handshake with this host lately, as the kernel remembers it.
pub struct Handshakes(HashMap<MapData, Address, u64>);

/// When a crossing was last told, by jail and address.
#[derive(Debug, Default)]
struct Recent(BTreeMap<(Name, IpAddr), u64>);

/// Guards with the numbers that the kernel knows them by; a guard that stays keeps its number, and with it
/// what is counted.
#[derive(Debug, Default)]
struct Numbered {
    guards: Vec<(u32, Guard)>,
    last: u32,
}

/// What the kernel's maps are to hold.
#[derive(Debug, Default)]
struct Plan {
    settings: Settings,
    rules: Vec<Rule>,
    scan_rules: Vec<Rule>,
    ports: BTreeMap<u16, Watchers>,
}

/// A value of the ABI, which the kernel's maps take as it lies.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);

#[expect(unsafe_code, reason = "aya asks for a promise about values of maps")]
mod plain {
    use super::{Plain, Rule, Settings, Watchers};

    // SAFETY: integers only, and no padding: the ABI asserts the sizes.
    unsafe impl aya::Pod for Plain<Settings> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Plain<Rule> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Plain<Watchers> {}
}

// === impl Connections ===

impl Connections {
    /// Takes the object's maps. To be called within a tokio runtime.
    pub fn new(mut maps: Maps) -> Result<Self, MapsError> {
        Ok(Self {
            established: maps.ring(CONNECTIONS_MAP)?,
            scans: maps.ring(SCANS_MAP)?,
            losses: maps.losses()?,
            settings: maps.take(SETTINGS_MAP)?,
            rules: maps.take(RULES_MAP)?,
            scan_rules: maps.take(SCAN_RULES_MAP)?,
            ports: maps.take(PORTS_MAP)?,
            handshakes: Some(Handshakes(maps.take(HANDSHAKES_MAP)?)),
            numbered: Numbered::default(),
            ready: std::collections::VecDeque::new(),
            recent: Recent::default(),
        })
    }

    /// Lets the kernel count for these and no others. What stays keeps what was counted.
    pub fn guard(&mut self, guards: &[Guard]) -> Result<(), MapError> {
        self.numbered.replace(guards);
        let plan = self.numbered.plan();
        // A port that points to the wrong rule would count for the wrong jail: first no port is watched.
        for port in self.ports.keys().collect::<Result<Vec<u16>, _>>()? {
            self.ports.remove(&port)?;
        }
        for (map, rules, most) in
            [(&mut self.rules, &plan.rules, RULES), (&mut self.scan_rules, &plan.scan_rules, SCAN_RULES)]
        {
            for index in 0..most {
                let rule = rules.get(index as usize).copied().unwrap_or_default();
                map.set(index, Plain(rule), 0)?;
            }
        }
        self.settings.set(0, Plain(plan.settings), 0)?;
        plan.ports.into_iter().try_for_each(|(port, watchers)| self.ports.insert(port, Plain(watchers), 0))
    }

    /// The next address that reaches a limit; waits for it. `None` where the rings cannot be read any more.
    pub async fn next(&mut self) -> Option<Crossed> {
        loop {
            if let Some(crossed) = self.ready.pop_front() {
                return Some(crossed);
            }
            let (mut connections, mut scans) = (Vec::new(), Vec::new());
            let done = tokio::select! {
                done = maps::read(&mut self.established, |bytes| connections.extend(read(bytes))) => done,
                done = maps::read(&mut self.scans, |bytes| scans.extend(read(bytes))) => done,
            };
            if let Err(error) = done {
                tracing::error!(%error, "the rings of connections cannot be read any more");
                return None;
            }
            for crossing in connections.iter().chain(&scans) {
                let crossed = self.numbered.crossed(crossing);
                self.ready.extend(crossed.filter(|crossed| self.recent.is_new(crossed)));
            }
        }
    }

    /// Who completed a handshake, to be asked from elsewhere; handed out once.
    pub fn take_handshakes(&mut self) -> Option<Handshakes> {
        self.handshakes.take()
    }

    /// What the kernel programs had to leave out, in all.
    pub fn lost(&self) -> LostRecords {
        self.losses.read()
    }
}

// === impl Handshakes ===

impl Handshakes {
    /// Whether the address completed a handshake within the last hour.
    pub fn are_known_of(&self, address: IpAddr) -> bool {
        let bytes = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        }
        .octets();
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let last = self.0.get(&[word(0), word(8)], 0);
        last.is_ok_and(|last| monotonic_ns().saturating_sub(last) < HANDSHAKE_LIFE_NS)
    }
}

// === impl Numbered ===

impl Numbered {
    fn replace(&mut self, guards: &[Guard]) {
        let before = std::mem::take(&mut self.guards);
        for guard in guards {
            let known = before.iter().find(|(_, old)| old == guard).map(|(number, _)| *number);
            let number = known.unwrap_or_else(|| {
                self.last += 1;
                self.last
            });
            self.guards.push((number, guard.clone()));
        }
    }

    /// What is past the kernel's bounds is left out: the configuration refuses it.
    fn plan(&self) -> Plan {
        // Index 0 stands for no rule.
        let mut plan = Plan { rules: vec![Rule::default()], ..Plan::default() };
        for (number, guard) in &self.guards {
            let rule = guard.rule(*number);
            match &guard.of {
                Guarded::ClosedPorts { .. } => {
                    plan.scan_rules.push(rule);
                    plan.settings.handshakes = 1;
                }
                Guarded::Handshakes => plan.settings.handshakes = 1,
                Guarded::Connections { ports, short } => {
                    let index = plan.rules.len() as u8;
                    plan.rules.push(rule);
                    if short.is_some() {
                        plan.settings.starts = 1;
                    }
                    for port in ports {
                        let watchers = plan.ports.entry(*port).or_default();
                        let free = watchers.rules.iter_mut().find(|rule| **rule == 0);
                        debug_assert!(free.is_some(), "{WATCHERS} jails watch port {port}");
                        if let Some(free) = free {
                            *free = index;
                        }
                    }
                }
            }
        }
        plan
    }

    /// What a crossing means; `None` where its rule does not hold any more.
    fn crossed(&self, crossing: &Crossing) -> Option<Crossed> {
        let (_, guard) = self.guards.iter().find(|(number, _)| *number == crossing.rule)?;
        let bytes: Vec<u8> = crossing.address.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
        Some(Crossed {
            guard: guard.clone(),
            address: atalaya_wire::canonical(address.into()),
            count: crossing.count,
            port: crossing.port,
            netns: crossing.netns,
            verified: crossing.verified != 0,
            time_ns: crossing.time_ns,
        })
    }
}

// === impl Guard ===

impl Guard {
    fn rule(&self, id: u32) -> Rule {
        let nanoseconds = |seconds: Seconds| seconds.0.saturating_mul(1_000_000_000);
        let (short, unverified) = match &self.of {
            Guarded::Connections { short, .. } => (*short, false),
            Guarded::ClosedPorts { unverified } => (None, *unverified),
            Guarded::Handshakes => (None, false),
        };
        let host_bits = 128 - u32::from(self.ipv6_prefix.clamp(64, 128));
        Rule {
            id,
            limit: self.limit,
            bucket_ns: nanoseconds(self.findtime) / BUCKETS as u64,
            short_ns: short.map_or(0, nanoseconds),
            mask: u64::MAX.checked_shl(host_bits).unwrap_or(0).to_be(),
            unverified: u64::from(unverified),
        }
    }
}

// === impl Recent ===

impl Recent {
    /// Whether this was not just told.
    fn is_new(&mut self, crossed: &Crossed) -> bool {
        let span = SAME.as_nanos() as u64;
        let is_same = |told: u64| crossed.time_ns.abs_diff(told) < span;
        if self.0.len() >= MOST_RECENT {
            self.0.retain(|_, told| is_same(*told));
        }
        let told = self.0.insert((crossed.guard.jail.clone(), crossed.address), crossed.time_ns);
        told.is_none_or(|told| !is_same(told))
    }
}

/// Reads a record; `None` where the bytes are not exactly one.
fn read(bytes: &[u8]) -> Option<Crossing> {
    if bytes.len() != size_of::<Crossing>() {
        return None;
    }
    #[expect(unsafe_code, reason = "the record is the ABI of sensor-ebpf, shared with the kernel")]
    // SAFETY: there are as many bytes as the record has, any bytes are a valid record (integers without
    // padding), and reading unaligned asks nothing of their address.
    Some(unsafe { bytes.as_ptr().cast::<Crossing>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(jail: &str, of: Guarded) -> Guard {
        Guard { jail: jail.parse().unwrap(), limit: 3, findtime: Seconds(60), ipv6_prefix: 64, of }
    }

    fn connections(ports: &[u16]) -> Guarded {
        Guarded::Connections { ports: ports.to_vec(), short: None }
    }

    #[test]
    fn a_guard_that_stays_keeps_its_number_and_one_that_changed_gets_a_new_one() {
        let (ssh, web) = (guard("ssh", connections(&[22])), guard("web", connections(&[80])));
        let mut numbered = Numbered::default();
        numbered.replace(&[ssh.clone(), web.clone()]);
        assert_eq!(numbered.plan().rules.iter().map(|rule| rule.id).collect::<Vec<_>>(), [0, 1, 2]);
        numbered.replace(&[Guard { limit: 4, ..ssh }, web]);
        assert_eq!(numbered.plan().rules.iter().map(|rule| rule.id).collect::<Vec<_>>(), [0, 3, 2]);
    }

    #[test]
    fn every_port_points_to_its_jails_and_only_what_is_needed_is_switched_on() {
        let mut numbered = Numbered::default();
        numbered.replace(&[guard("a", connections(&[22, 80])), guard("b", connections(&[22]))]);
        let plan = numbered.plan();
        assert_eq!(plan.ports[&22].rules, [1, 2, 0, 0]);
        assert_eq!(plan.ports[&80].rules, [1, 0, 0, 0]);
        assert_eq!((plan.settings.handshakes, plan.settings.starts), (0, 0));
        assert_eq!(plan.rules[1].bucket_ns * BUCKETS as u64, 60_000_000_000);
        let short = Guarded::Connections { ports: vec![22], short: Some(Seconds(10)) };
        numbered.replace(&[guard("a", short), guard("b", Guarded::ClosedPorts { unverified: true })]);
        let plan = numbered.plan();
        assert_eq!((plan.settings.handshakes, plan.settings.starts), (1, 1));
        assert_eq!(plan.rules[1].short_ns, 10_000_000_000);
        assert_eq!((plan.scan_rules.len(), plan.scan_rules[0].unverified), (1, 1));
        numbered.replace(&[guard("a", Guarded::Handshakes)]);
        let plan = numbered.plan();
        assert_eq!((plan.settings.handshakes, plan.scan_rules.len(), plan.rules.len()), (1, 0, 1));
    }

    #[test]
    fn a_mask_keeps_the_bits_of_its_prefix_in_network_order() {
        let mask = |prefix| Guard { ipv6_prefix: prefix, ..guard("a", connections(&[22])) }.rule(1).mask;
        assert_eq!(mask(64), 0);
        assert_eq!(mask(128), u64::MAX);
        assert_eq!(mask(80).to_ne_bytes(), [0xff, 0xff, 0, 0, 0, 0, 0, 0]);
        assert_eq!(mask(68).to_ne_bytes(), [0xf0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_crossing_of_a_rule_that_is_gone_means_nothing_and_one_that_two_processors_saw_counts_once() {
        let mut numbered = Numbered::default();
        numbered.replace(&[guard("a", connections(&[22]))]);
        let address = [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, 192, 0, 2, 7])];
        let crossing = Crossing { time_ns: 5, address, rule: 1, count: 3, netns: 0, port: 22, verified: 1 };
        let crossed = numbered.crossed(&crossing).unwrap();
        assert_eq!(crossed.address.to_string(), "192.0.2.7");
        assert!(numbered.crossed(&Crossing { rule: 2, ..crossing }).is_none());
        let mut recent = Recent::default();
        assert!(recent.is_new(&crossed) && !recent.is_new(&crossed));
        assert!(recent.is_new(&Crossed { time_ns: 30_000_000_000, ..crossed }));
    }

    #[test]
    fn only_a_whole_record_is_read() {
        assert!(read(&[0; size_of::<Crossing>()]).is_some());
        assert!(read(&[0; size_of::<Crossing>() - 1]).is_none());
    }
}
