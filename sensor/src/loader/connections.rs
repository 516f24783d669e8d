//! The object `connections` in the loader: one program on changes of a TCP socket's state, and one that sees
//! closed ports that were touched, each of the best kind that this kernel lets run.

use std::collections::BTreeMap;
use std::path::Path;

use atalaya_sensor_ebpf::connections::{
    CONNECTIONS_MAP, DROPS_PROGRAM, HANDSHAKES_MAP, PORTS_MAP, RESETS_PROGRAM, RULES_MAP, SCAN_RULES_MAP,
    SCANS_MAP, SETTINGS_MAP, STATE_PROGRAM, STATE_TRACEPOINT_PROGRAM, SYNS_PROGRAM,
};
use atalaya_sensor_ebpf::losses::LOSSES_MAP;
use aya::programs::{BtfTracePoint, ProgramError, TracePoint, Xdp, XdpMode};

use crate::channel::connections::{Scans, WantedConnections};
use crate::channel::{Program, ProgramState};
use crate::loader::object::{Kit, Object, Refusal};
use crate::loader::offsets::Offsets;
use crate::loader::part::{MapDescriptors, Part};

/// The programs as they are shown.
const STATE: &str = "connections: state";
const RESETS: &str = "scans: resets";
const DROPS: &str = "scans: drops";
const SYNS: &str = "scans: syns";
/// What the worker gets.
const MAPS: [&str; 8] = [
    SETTINGS_MAP,
    RULES_MAP,
    SCAN_RULES_MAP,
    PORTS_MAP,
    HANDSHAKES_MAP,
    CONNECTIONS_MAP,
    SCANS_MAP,
    LOSSES_MAP,
];

/// New connections, and touches of closed ports where these are wanted.
#[derive(Default)]
pub struct ConnectionsPart {
    loaded: Option<LoadedConnections>,
    state: Vec<Program>,
    scans: Vec<Program>,
}

struct LoadedConnections {
    object: Object,
    offsets: Offsets,
    scans: Option<Scans>,
    /// The interfaces with the program, and their numbers when it came there.
    interfaces: BTreeMap<String, u32>,
}

// === impl ConnectionsPart ===

impl ConnectionsPart {
    /// Brings what is loaded to what is wanted.
    pub fn want(&mut self, wanted: Option<&WantedConnections>, kit: &Kit) -> Option<MapDescriptors> {
        let Some(wanted) = wanted else {
            self.loaded = None;
            let reason = "no jail has the source `connections` or `scan`, or counts ports of those alone who connected here";
            self.state = vec![Program::not_on(STATE, ProgramState::Off, reason)];
            self.scans = scans_off("no jail has the source `scan`");
            return None;
        };
        let mut handed = None;
        if self.loaded.is_none() {
            match load(kit) {
                Ok((loaded, state, maps)) => {
                    self.loaded = Some(loaded);
                    self.state = vec![state];
                    self.scans = scans_off("no jail has the source `scan`");
                    handed = Some(maps);
                }
                Err(refusal) => {
                    self.state = vec![refusal.program(STATE)];
                    self.scans = scans_off("the object of `connections: state` was refused");
                    return None;
                }
            }
        }
        if let Some(loaded) = &mut self.loaded
            && loaded.scans != wanted.scans
        {
            self.scans = loaded.attach_scans(wanted.scans.as_ref());
            loaded.scans.clone_from(&wanted.scans);
        }
        handed
    }
}

impl Part for ConnectionsPart {
    fn look(&mut self) {
        if let Some(loaded) = &mut self.loaded
            && self.scans.iter().any(|program| program.name == SYNS && program.state != ProgramState::Off)
            && let Some(syns) = loaded.attach_to_new_interfaces()
            && let Some(shown) = self.scans.iter_mut().find(|program| program.name == SYNS)
        {
            *shown = syns;
        }
    }

    fn programs(&self) -> Vec<Program> {
        self.state.iter().chain(&self.scans).cloned().collect()
    }

    fn object(&mut self) -> Option<&mut Object> {
        self.loaded.as_mut().map(|loaded| &mut loaded.object)
    }
}

fn scans_off(reason: &str) -> Vec<Program> {
    [RESETS, DROPS, SYNS].map(|name| Program::not_on(name, ProgramState::Off, reason)).to_vec()
}

/// Loads the object, and its program on changes of state; a refused program leaves the others.
fn load(kit: &Kit) -> Result<(LoadedConnections, Program, MapDescriptors), Refusal> {
    let (mut object, offsets) = load_object(kit)?;
    let state = attach_state(&mut object, kit, &offsets);
    let handed = object.maps(&MAPS)?;
    Ok((LoadedConnections { object, offsets, scans: None, interfaces: BTreeMap::new() }, state, handed))
}

/// Loads the object with this kernel's offsets, and none of its programs.
fn load_object(kit: &Kit) -> Result<(Object, Offsets), Refusal> {
    let offsets = Offsets::read();
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/connections"));
    let object = kit.load(bytes, |loader| {
        for (name, value) in offsets.values() {
            loader.override_global(name, value, true);
        }
    })?;
    Ok((object, offsets))
}

fn attach_state(object: &mut Object, kit: &Kit, offsets: &Offsets) -> Program {
    let lent = offsets.lent().and_then(|()| {
        let btf = kit.btf().ok_or_else(|| Refusal::because("the kernel has no type information"))?;
        let program: &mut BtfTracePoint = object.program(STATE_PROGRAM)?;
        program.load("inet_sock_set_state", btf).map_err(|error| Refusal::of(&error))?;
        program.attach().map(drop).map_err(|error| Refusal::of(&error))
    });
    let Err(lent) = lent else {
        return object.on(STATE, STATE_PROGRAM, "inet_sock_set_state, by the kernel's type information");
    };
    let recorded = offsets
        .recorded()
        .and_then(|()| attach_tracepoint(object, STATE_TRACEPOINT_PROGRAM, "sock", "inet_sock_set_state"));
    match recorded {
        Ok(()) => object.on(
            STATE,
            STATE_TRACEPOINT_PROGRAM,
            format!("tracepoint sock:inet_sock_set_state, for by type information it cannot be: {lent}"),
        ),
        Err(recorded) => {
            Refusal::because(format!("by type information: {lent}; as a tracepoint: {recorded}"))
                .program(STATE)
        }
    }
}

fn attach_tracepoint(object: &mut Object, name: &str, category: &str, point: &str) -> Result<(), Refusal> {
    let program: &mut TracePoint = object.program(name)?;
    load_once(program.load())?;
    program.attach(category, point).map(drop).map_err(|error| Refusal::of(&error))
}

/// A program that was loaded before, and let go since, is loaded still.
fn load_once(loaded: Result<(), ProgramError>) -> Result<(), Refusal> {
    match loaded {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(error) => Err(Refusal::of(&error)),
    }
}

// === impl LoadedConnections ===

impl LoadedConnections {
    /// Lets the best program see closed ports: at the interfaces that are named, else what the kernel
    /// tells of them, else at all interfaces of hardware.
    fn attach_scans(&mut self, wanted: Option<&Scans>) -> Vec<Program> {
        self.detach_scans();
        let Some(wanted) = wanted else { return scans_off("no jail has the source `scan`") };
        if !wanted.interfaces.is_empty() {
            let reason = "`interfaces` says where to look instead";
            let mut programs = scans_off(reason);
            programs[2] = self.attach_syns(&wanted.interfaces);
            return programs;
        }
        let Self { object, offsets, .. } = self;
        let mut programs = Vec::new();
        for (shown, name, category, point, usable) in [
            (RESETS, RESETS_PROGRAM, "tcp", "tcp_send_reset", offsets.resets()),
            (DROPS, DROPS_PROGRAM, "skb", "kfree_skb", offsets.drops()),
        ] {
            if shown == RESETS && offsets.resets_are_silent() {
                let reason = "this kernel's tcp_send_reset does not tell of closed ports (since 6.10)";
                programs.push(Program::not_on(shown, ProgramState::Off, reason));
                continue;
            }
            let attached = usable.and_then(|()| attach_tracepoint(object, name, category, point));
            match attached {
                Ok(()) => {
                    programs.push(object.on(shown, name, format!("tracepoint {category}:{point}")));
                    let rest = scans_off(&format!("`{shown}` tells of closed ports"));
                    programs.extend(rest.into_iter().skip(programs.len()));
                    return programs;
                }
                Err(refusal) => programs.push(refusal.program(shown)),
            }
        }
        let interfaces = hardware();
        programs.push(self.attach_syns(&interfaces));
        programs
    }

    fn detach_scans(&mut self) {
        self.interfaces.clear();
        for name in [RESETS_PROGRAM, DROPS_PROGRAM] {
            if let Ok(program) = self.object.program::<TracePoint>(name) {
                let _ = program.unload();
            }
        }
        if let Ok(program) = self.object.program::<Xdp>(SYNS_PROGRAM) {
            let _ = program.unload();
        }
    }

    fn attach_syns(&mut self, interfaces: &[String]) -> Program {
        if interfaces.is_empty() {
            let reason = "no interface of hardware is here: name some in the jail's `interfaces`";
            return Program::not_on(SYNS, ProgramState::Off, reason);
        }
        let mut failure = None;
        let program = match self.object.program::<Xdp>(SYNS_PROGRAM) {
            Ok(program) => program,
            Err(refusal) => return refusal.program(SYNS),
        };
        if let Err(refusal) = load_once(program.load()) {
            return refusal.program(SYNS);
        }
        for interface in interfaces {
            let Some(number) = number(interface) else {
                failure = Some(Refusal::because(format!("{interface} is not here (yet)")));
                continue;
            };
            if self.interfaces.get(interface) == Some(&number) {
                continue;
            }
            match program.attach_to_if_index(number, XdpMode::default()) {
                Ok(_) => drop(self.interfaces.insert(interface.clone(), number)),
                Err(error) => {
                    let refusal = Refusal::of(&error);
                    failure = Some(Refusal::because(format!("{interface}: {refusal}")));
                }
            }
        }
        let on: Vec<&str> = self.interfaces.keys().map(String::as_str).collect();
        match failure {
            Some(refusal) if on.is_empty() => refusal.program(SYNS),
            Some(refusal) => {
                self.object.on(SYNS, SYNS_PROGRAM, format!("XDP on {}; not on {refusal}", on.join(", ")))
            }
            None => self.object.on(SYNS, SYNS_PROGRAM, format!("XDP on {}", on.join(", "))),
        }
    }

    /// Follows interfaces that came, and those that were made again.
    fn attach_to_new_interfaces(&mut self) -> Option<Program> {
        let wanted = self.scans.clone()?.interfaces;
        let wanted = if wanted.is_empty() { hardware() } else { wanted };
        self.interfaces.retain(|interface, known| number(interface) == Some(*known));
        let is_new = wanted.iter().any(|interface| !self.interfaces.contains_key(interface));
        is_new.then(|| self.attach_syns(&wanted))
    }
}

/// The interfaces of hardware, and what virtual machines have for it.
fn hardware() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().filter_map(Result::ok);
    let real = entries.filter(|entry| entry.path().join("device").exists());
    let mut names: Vec<String> = real.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// The number of an interface that is here.
fn number(interface: &str) -> Option<u32> {
    let path = Path::new("/sys/class/net").join(interface).join("ifindex");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use atalaya_wire::Seconds;
    use rstest::rstest;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::kernel::maps::Maps;
    use crate::source::connections::{Connections, Crossed, Guard, Guarded};

    /// Connects so many times, each time to the next port where `step` is one; whether anybody listens or not.
    async fn connect(from: IpAddr, mut to: SocketAddr, times: u16, step: u16) {
        for _ in 0..times {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            drop(socket.connect(to).await);
            to.set_port(to.port() + step);
        }
    }

    /// One program of the object, and what it tells of an address while this happens.
    async fn told(
        (name, category, point): (&str, &str, &str),
        of: Guarded,
        from: IpAddr,
        happens: impl Future<Output = ()>,
    ) -> Crossed {
        let (mut object, _) = load_object(&Kit::new()).unwrap();
        attach_tracepoint(&mut object, name, category, point).unwrap();
        let mut connections = Connections::new(Maps::new(object.maps(&MAPS).unwrap())).unwrap();
        let jail = "a".parse().unwrap();
        let guard = Guard { jail, limit: 10, findtime: Seconds(60), ipv6_prefix: 64, of };
        connections.guard(&[guard]).unwrap();
        happens.await;
        loop {
            // Others connect and scan on this host too.
            let crossed = connections.next().await.unwrap();
            if crossed.address == from {
                return crossed;
            }
        }
    }

    // Needs root.
    #[rstest]
    #[case("127.77.0.2", (RESETS_PROGRAM, "tcp", "tcp_send_reset"))]
    #[case("127.77.0.3", (DROPS_PROGRAM, "skb", "kfree_skb"))]
    #[tokio::test]
    async fn closed_ports_are_told_by_each_tracepoint_alone(
        #[case] from: IpAddr,
        #[case] program: (&str, &str, &str),
    ) {
        let of = Guarded::ClosedPorts { unverified: true };
        let crossed = told(program, of, from, connect(from, ([127, 0, 0, 1], 20_200).into(), 24, 1)).await;
        assert_eq!((crossed.count, crossed.verified), (10, false));
        assert!((20_209..20_224).contains(&crossed.port), "{crossed:?}");
    }

    /// Needs root. The other program on changes of state has its tests end to end.
    #[tokio::test]
    async fn connections_are_told_by_the_tracepoint_where_there_is_no_type_information() {
        let from: IpAddr = "127.77.0.4".parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let program = (STATE_TRACEPOINT_PROGRAM, "sock", "inet_sock_set_state");
        let of = Guarded::Connections { ports: vec![to.port()], short: None };
        let crossed = told(program, of, from, connect(from, to, 10, 0)).await;
        assert_eq!((crossed.count, crossed.port, crossed.netns), (10, to.port(), 0));
    }

    // Needs root.
    #[test]
    fn this_kernels_verifier_takes_every_program() {
        let kit = Kit::new();
        let (mut loaded, state, maps) = load(&kit).unwrap();
        assert_eq!(state.state, ProgramState::On, "{}", state.reason);
        assert!(state.reason.contains("type information"), "{}", state.reason);
        assert_eq!(maps.len(), MAPS.len());
        let LoadedConnections { object, offsets, .. } = &mut loaded;
        offsets.recorded().and(offsets.resets()).and(offsets.drops()).unwrap();
        for (name, category, point) in [
            (STATE_TRACEPOINT_PROGRAM, "sock", "inet_sock_set_state"),
            (RESETS_PROGRAM, "tcp", "tcp_send_reset"),
            (DROPS_PROGRAM, "skb", "kfree_skb"),
        ] {
            attach_tracepoint(object, name, category, point).unwrap();
        }
        object.program::<Xdp>(SYNS_PROGRAM).unwrap().load().unwrap();
        for name in [STATE_PROGRAM, STATE_TRACEPOINT_PROGRAM, RESETS_PROGRAM, DROPS_PROGRAM, SYNS_PROGRAM] {
            println!("{name}: {:?} instructions", object.on(name, name, "").instructions);
        }
    }
}
