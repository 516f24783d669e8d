//! The object `connections`: new connections counted by address and jail, the addresses that completed a
//! handshake lately, and closed ports that were touched. What is counted stays in the kernel: user space gets a
//! [`Crossing`] when an address reaches a jail's limit.

use core::mem::{offset_of, size_of};

use crate::window::Window;

/// The program on the kernel's own call of `inet_sock_set_state`, by type information.
pub const STATE_PROGRAM: &str = "state";
/// The same on the tracepoint, where there is no type information.
pub const STATE_TRACEPOINT_PROGRAM: &str = "state_tracepoint";
/// The program on `tcp:tcp_send_reset`.
pub const RESETS_PROGRAM: &str = "resets";
/// The program on `skb:kfree_skb`.
pub const DROPS_PROGRAM: &str = "drops";
/// The program at the interfaces.
pub const SYNS_PROGRAM: &str = "syns";

/// What is asked of all programs: an array of one [`Settings`].
pub const SETTINGS_MAP: &str = "SETTINGS";
/// The [`Rule`]s of jails that count connections: an array of [`RULES`].
pub const RULES_MAP: &str = "RULES";
/// The [`Rule`]s of jails that count closed ports: an array of [`SCAN_RULES`].
pub const SCAN_RULES_MAP: &str = "SCAN_RULES";
/// Which of [`RULES_MAP`] hold for a local port: a hash from `u16` to [`Watchers`].
pub const PORTS_MAP: &str = "PORTS";
/// What each address counts: an LRU hash from [`Key`] to [`Counter`].
pub const COUNTERS_MAP: &str = "COUNTERS";
/// When a connection was last established: an LRU hash from the socket's place in memory to nanoseconds.
pub const STARTS_MAP: &str = "STARTS";
/// When an address last completed a handshake: an LRU hash from [`Address`] to nanoseconds.
pub const HANDSHAKES_MAP: &str = "HANDSHAKES";
/// As [`COUNTERS_MAP`], of closed ports that addresses with a handshake touched.
pub const SCANNERS_MAP: &str = "SCANNERS";
/// As [`SCANNERS_MAP`], of addresses that anyone may have forged; they have a map of their own, so that a flood of
/// them drops none of the others.
pub const UNVERIFIED_MAP: &str = "UNVERIFIED";
/// The ring of [`Crossing`]s of connections.
pub const CONNECTIONS_MAP: &str = "CONNECTIONS";
/// The ring of [`Crossing`]s of scans; its own, since these may be forged.
pub const SCANS_MAP: &str = "SCANS";

/// The size of each ring in bytes: room for about 1300 crossings.
pub const RING_BYTES: u32 = 64 * 1024;
/// The rules of jails that count connections; index 0 stands for none.
pub const RULES: u32 = 32;
/// The most jails that count connections.
pub const CONNECTION_JAILS: usize = RULES as usize - 1;
/// The most jails that count closed ports.
pub const SCAN_RULES: u32 = 4;
/// The most jails that count connections to one port.
pub const WATCHERS: usize = 4;
/// The most ports that are watched.
pub const PORTS: u32 = 1024;
/// The most addresses in each map of addresses, and the most sockets; past it the least recently used go.
pub const ADDRESSES: u32 = 32_768;
/// How long a completed handshake vouches for an address, in nanoseconds: an hour.
pub const HANDSHAKE_LIFE_NS: u64 = 3_600_000_000_000;
/// How long an address is not told of again after a crossing, in nanoseconds: half a minute, in which a ban
/// should long be everywhere.
pub const QUIET_NS: u64 = 30_000_000_000;

/// An IPv6 address in network byte order; an IPv4 one is mapped (`::ffff:a.b.c.d`).
pub type Address = [u64; 2];

/// What is asked of all programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Not zero: completed handshakes are remembered.
    pub handshakes: u32,
    /// Not zero: the starts of connections are remembered.
    pub starts: u32,
}

/// What a jail wants counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Rule {
    /// Tells what one rule counted from what another of the same index did before; not zero.
    pub id: u32,
    /// How many make a crossing; zero for no rule.
    pub limit: u32,
    /// An eighth of the jail's `findtime`, in nanoseconds.
    pub bucket_ns: u64,
    /// Only connections that end within this many nanoseconds count, when they end; zero for all, at once.
    pub short_ns: u64,
    /// Which bits of the lower half of an IPv6 address count, in network byte order.
    pub mask: u64,
    /// Not zero: addresses without a handshake count too.
    pub unverified: u64,
}

/// The rules of one port, by their index; zero for none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watchers {
    /// Indices into the table of rules; zero where there is none.
    pub rules: [u8; WATCHERS],
}

/// Whose counter it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The address, or the first one of the IPv6 network.
    pub address: Address,
    /// The [`Rule::id`] for which it counts.
    pub rule: u32,
    /// Padding, of which the kernel makes a part of the key: always zero.
    pub unused: u32,
}

/// What an address counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    /// The events within the rule's window.
    pub window: Window,
    /// No crossing is told before this, in nanoseconds of `CLOCK_MONOTONIC`.
    pub quiet_until_ns: u64,
}

/// An address that reached a rule's limit; it counts from zero again.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Crossing {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The address of the last event, whole.
    pub address: Address,
    /// The [`Rule::id`] of the rule whose limit was reached.
    pub rule: u32,
    /// How many events there were within the window.
    pub count: u32,
    /// The network namespace's number, as `/proc/PID/ns/net` shows it; zero where it is not known.
    pub netns: u32,
    /// The local port of the last event.
    pub port: u16,
    /// Not zero: the address completed a handshake lately.
    pub verified: u16,
}

/// Compiled on both sides: for the BPF target and for the host.
const _: () = {
    assert!(size_of::<Settings>() == 8);
    assert!(size_of::<Rule>() == 40);
    assert!(offset_of!(Rule, bucket_ns) == 8);
    assert!(offset_of!(Rule, unverified) == 32);
    assert!(size_of::<Watchers>() == 4);
    assert!(size_of::<Key>() == 24);
    assert!(size_of::<Counter>() == 72);
    assert!(offset_of!(Counter, quiet_until_ns) == 64);
    assert!(size_of::<Crossing>() == 40);
    assert!(offset_of!(Crossing, rule) == 24);
    assert!(offset_of!(Crossing, netns) == 32);
    assert!(offset_of!(Crossing, verified) == 38);
};
