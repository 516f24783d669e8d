//! The XDP program itself, run by the kernel over packets made here (`BPF_PROG_TEST_RUN`), and compared with a
//! plain model of what it should do. Needs root, and fails where it is missing.

#![cfg(feature = "kernel")]
#![expect(clippy::unwrap_used, reason = "a scene that cannot be set fails the test")]

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use atalaya_sensor::kernel::maps::Maps;
use atalaya_sensor::loader::local_drop::OBJECT;
use atalaya_sensor::loader::object::{Kit, Object};
use atalaya_sensor::pinned::Dropped;
use atalaya_sensor::pinned::bans::Bans;
use atalaya_sensor_ebpf::local_drop::{
    ALLOW_MAP, BANS_MAP, DROP_PROGRAM, FOR_EVER, KINDS_MAP, PREFIXES_MAP, TOTALS_MAP,
};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

/// `XDP_DROP` and `XDP_PASS` of linux/bpf.h.
const DROP: u32 = 1;
const PASS: u32 = 2;

/// The loaded program and its maps; nothing is attached or pinned.
struct Machine {
    object: Object,
    bans: Bans,
}

// === impl Machine ===

impl Machine {
    fn load() -> Self {
        let mut object = Kit::new().load(OBJECT, |_| {}).unwrap();
        object.program::<Xdp>(DROP_PROGRAM).unwrap().load().unwrap();
        let maps = object.maps(&[BANS_MAP, PREFIXES_MAP, ALLOW_MAP, KINDS_MAP, TOTALS_MAP]).unwrap();
        Self { object, bans: Bans::new(Maps::new(maps)).unwrap() }
    }

    fn run(&mut self, packet: &[u8]) -> u32 {
        let options = TestRunOptions { data_in: Some(packet), ..TestRunOptions::new() };
        let program: &mut Xdp = self.object.program(DROP_PROGRAM).unwrap();
        program.test_run(options).unwrap().return_value
    }

    fn clear(&mut self) {
        for (network, _) in self.bans.all() {
            self.bans.remove(network).unwrap();
        }
        self.bans.allow(&HashSet::new(), false).unwrap();
    }
}

/// A packet that is whole, or cut somewhere.
#[derive(Clone, Debug)]
struct Packet {
    tags: Vec<u16>,
    kind: Kind,
    /// The bytes after which it ends, if sooner; the kernel takes none below 14.
    cut: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Ip(IpAddr),
    /// The `EtherType` says one family, the header's version another.
    Broken(IpAddr),
    Arp,
}

// === impl Packet ===

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        for tag in &self.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, 7]);
        }
        match self.kind {
            Kind::Arp => bytes.extend([0x08, 0x06].into_iter().chain([0; 28])),
            Kind::Ip(source) | Kind::Broken(source) => {
                let broken = if matches!(self.kind, Kind::Broken(_)) { 0x20 } else { 0 };
                match source {
                    IpAddr::V4(source) => {
                        bytes.extend([0x08, 0x00, 0x45 ^ broken, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
                        bytes.extend(source.octets());
                        bytes.extend([192, 0, 2, 1]);
                    }
                    IpAddr::V6(source) => {
                        bytes.extend([0x86, 0xdd, 0x60 ^ broken, 0, 0, 0, 0, 20, 6, 64]);
                        bytes.extend(source.octets());
                        bytes.extend([0; 16]);
                    }
                }
                bytes.extend([0; 20]);
            }
        }
        if let Some(cut) = self.cut {
            bytes.truncate(cut.max(14));
        }
        bytes
    }

    /// Who sent it, as far as it can be told.
    fn source(&self) -> Option<IpAddr> {
        let Kind::Ip(source) = self.kind else { return None };
        let header = if source.is_ipv4() { 20 } else { 40 };
        let is_whole = self.cut.is_none_or(|cut| cut.max(14) >= 14 + 4 * self.tags.len() + header);
        (self.tags.len() <= 2 && is_whole).then_some(source)
    }
}

/// Networks that often hold the sources, and hold one another.
fn networks() -> Vec<IpNet> {
    let texts = [
        "198.51.100.1/32",
        "198.51.100.2/32",
        "198.51.100.0/30",
        "198.51.100.0/24",
        "198.0.0.0/8",
        "0.0.0.0/0",
        "2001:db8::1/128",
        "2001:db8::2/128",
        "2001:db8::/127",
        "2001:db8::/64",
        "2001:db8::/48",
        "2001:db8:0:1::/64",
        "::/0",
        "::ffff:198.51.100.1/128",
    ];
    texts.map(|text| text.parse().unwrap()).to_vec()
}

fn sources() -> Vec<IpAddr> {
    let texts = [
        "198.51.100.1",
        "198.51.100.2",
        "198.51.100.3",
        "198.51.100.77",
        "198.7.7.7",
        "203.0.113.9",
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8::3",
        "2001:db8::ffff:1",
        "2001:db8:0:1::5",
        "2001:db9::",
        "::ffff:198.51.100.1",
    ];
    texts.map(|text| text.parse().unwrap()).to_vec()
}

fn packet() -> impl Strategy<Value = Packet> {
    let tags = prop_oneof![
        3 => Just(Vec::new()),
        4 => prop::collection::vec(select(vec![0x8100_u16, 0x88a8]), 1..4),
    ];
    let kind = prop_oneof![
        12 => select(sources()).prop_map(Kind::Ip),
        2 => select(sources()).prop_map(Kind::Broken),
        1 => Just(Kind::Arp),
    ];
    let cut = prop_oneof![3 => Just(None), 1 => (14_usize..70).prop_map(Some)];
    (tags, kind, cut).prop_map(|(tags, kind, cut)| Packet { tags, kind, cut })
}

/// The program, loaded once for all cases of a test.
fn machine() -> &'static Mutex<Machine> {
    static MACHINE: std::sync::LazyLock<Mutex<Machine>> =
        std::sync::LazyLock::new(|| Mutex::new(Machine::load()));
    &MACHINE
}

proptest! {
    #[test]
    fn packets_of_banned_senders_and_no_others_are_dropped(
        bans in prop::collection::hash_map(select(networks()), any::<bool>(), 0..7),
        allowed in prop::collection::hash_set(select(networks()), 0..3),
        packets in prop::collection::vec(packet(), 1..12),
    ) {
        let mut machine = machine().lock().unwrap_or_else(PoisonError::into_inner);
        machine.clear();
        machine.bans.allow(&allowed, false).unwrap();
        for (network, stands) in &bans {
            // A nanosecond after the host started is long over.
            machine.bans.put(*network, if *stands { FOR_EVER } else { 1 }).unwrap();
        }
        let before = machine.bans.totals();
        let (mut dropped, mut spared) = (Dropped::default(), 0);
        for packet in &packets {
            let source = packet.source();
            let holds = |network: &IpNet| source.is_some_and(|source| network.contains(&source));
            let is_banned = bans.iter().any(|(network, stands)| *stands && holds(network));
            let is_allowed = allowed.iter().any(holds);
            let bytes = packet.bytes();
            let expected = if is_banned && !is_allowed { DROP } else { PASS };
            prop_assert_eq!(machine.run(&bytes), expected, "{:?}", packet);
            if expected == DROP {
                dropped.packets += 1;
                dropped.bytes += bytes.len() as u64;
            }
            spared += u64::from(is_banned && is_allowed);
        }
        let after = machine.bans.totals();
        prop_assert_eq!(after.dropped.packets - before.dropped.packets, dropped.packets);
        prop_assert_eq!(after.dropped.bytes - before.dropped.bytes, dropped.bytes);
        prop_assert_eq!(after.allowed - before.allowed, spared);
        let of_bans: u64 = bans.keys().filter_map(|network| machine.bans.dropped(*network)).map(|ban| ban.packets).sum();
        prop_assert_eq!(of_bans, dropped.packets, "each is counted with one ban");
        let there: HashSet<IpNet> = machine.bans.all().into_iter().map(|(network, _)| network).collect();
        prop_assert_eq!(there, bans.keys().copied().collect::<HashSet<_>>());
    }
}

#[test]
fn a_ban_ends_at_its_deadline_and_goes_on_counting_when_it_is_prolonged() {
    let mut machine = Machine::load();
    let network: IpNet = "198.51.100.1/32".parse().unwrap();
    let packet = Packet { tags: Vec::new(), kind: Kind::Ip(network.addr()), cut: None }.bytes();
    let boot = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
    };
    let second = 1_000_000_000;
    machine.bans.put(network, boot() + 3600 * second).unwrap();
    assert_eq!(machine.run(&packet), DROP);
    let deadline = boot() + second / 5;
    machine.bans.put(network, deadline).unwrap();
    while machine.run(&packet) == DROP {
        assert!(boot() <= deadline + 10 * second, "it never ended");
    }
    assert!(boot() >= deadline, "it ended too early");
    let before = machine.bans.dropped(network).unwrap();
    assert!(before.packets >= 1 && before.bytes == before.packets * packet.len() as u64, "{before:?}");
    machine.bans.put(network, FOR_EVER).unwrap();
    assert_eq!(machine.run(&packet), DROP);
    assert_eq!(machine.bans.dropped(network).unwrap().packets, before.packets + 1);
    machine.bans.remove(network).unwrap();
    machine.bans.remove(network).unwrap();
    assert_eq!((machine.run(&packet), machine.bans.dropped(network)), (PASS, None));
}

#[test]
fn one_ban_too_many_is_refused_and_the_others_stand() {
    let mut object = Kit::new()
        .load(OBJECT, |loader| {
            loader.map_max_entries(BANS_MAP, 64).map_max_entries(PREFIXES_MAP, 64);
        })
        .unwrap();
    let maps = object.maps(&[BANS_MAP, PREFIXES_MAP, ALLOW_MAP, KINDS_MAP, TOTALS_MAP]).unwrap();
    object.program::<Xdp>(DROP_PROGRAM).unwrap().load().unwrap();
    let mut machine = Machine { object, bans: Bans::new(Maps::new(maps)).unwrap() };
    let network = |number: u32| IpNet::from(IpAddr::from(std::net::Ipv4Addr::from(0xC633_6400 + number)));
    let stood = (0..200).take_while(|number| machine.bans.put(network(*number), FOR_EVER).is_ok()).count();
    // The kernel keeps a few in stock for each processor.
    assert!((64..200).contains(&stood), "{stood}");
    let packet = Packet { tags: Vec::new(), kind: Kind::Ip(network(0).addr()), cut: None }.bytes();
    assert_eq!(machine.run(&packet), DROP);
    assert_eq!(machine.bans.all().len(), stood);
}
