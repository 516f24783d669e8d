//! The object `local_drop`: drops what banned addresses send to this host, in XDP.
//!
//! Its maps are pinned and outlive the sensor, which may be a newer one when it comes back: whoever changes
//! anything here that an older program or an older sensor would read otherwise raises [`VERSION`].

use core::mem::size_of;

/// The version of the maps' layout; part of the path under which they are pinned.
pub const VERSION: u32 = 1;
/// The XDP program's name in the object.
pub const DROP_PROGRAM: &str = "local_drop";
/// Single addresses and /64 networks: a hash of [`Source`] to [`Ban`].
pub const BANS_MAP: &str = "BANS";
/// All other networks: an LPM trie of [`Source`] to [`PrefixBan`]. The key's length counts the bits of
/// [`FAMILY_BITS`] too.
pub const PREFIXES_MAP: &str = "PREFIXES";
/// Whose packets always pass: an LPM trie of [`Source`].
pub const ALLOW_MAP: &str = "ALLOW";
/// How many bans of each [`Kind`] stand, in an array of one element: what is not there is not looked up.
pub const KINDS_MAP: &str = "KINDS";
/// The per-CPU array of `u64` counters, indexed by [`Total`].
pub const TOTALS_MAP: &str = "TOTALS";

/// The most bans of addresses, and as many of networks, where `max_entries` says nothing else: some 30 MB of the
/// kernel's memory when all are there.
pub const BANS: u32 = 262_144;
/// The most networks that are allowed.
pub const ALLOWED: u32 = 65_536;
/// So many networks within one another are looked at for one whose time is not over.
pub const NESTED: u32 = 4;

/// Who sent a packet: a word that says of what [kind](FAMILY_V4) the address is, and the address as it is
/// on the wire; behind an IPv4 address are zeroes.
pub type Source = [u32; 5];
/// The kind of a [`Source`] that is an IPv4 address or network.
pub const FAMILY_V4: u32 = 4;
/// The kind of a [`Source`] that is an IPv6 address or network, but for a /64 in [`BANS_MAP`].
pub const FAMILY_V6: u32 = 6;
/// An IPv6 /64 network, in [`BANS_MAP`]: what one host has for itself is found as fast as one address.
pub const FAMILY_V6_NETWORK: u32 = 64;
/// How many bits of a [`Source`] are before the address.
pub const FAMILY_BITS: u32 = 32;

/// The deadline of a ban for ever.
pub const FOR_EVER: u64 = u64::MAX;

/// What stands against an address. In user space: `[u64; 3]`.
#[repr(C)]
pub struct Ban {
    /// Until when, in nanoseconds of `CLOCK_BOOTTIME` (`bpf_ktime_get_boot_ns`), which goes on while the host
    /// is suspended; [`FOR_EVER`] for one without end.
    pub deadline_ns: u64,
    /// Packets dropped; of those that two CPUs drop at the same moment one may be missed.
    pub packets: u64,
    /// Bytes of them, from the Ethernet header on.
    pub bytes: u64,
}

/// What stands against a network. In user space: `[u64; 4]`.
#[repr(C)]
pub struct PrefixBan {
    /// As of a single address; its length is the key's.
    pub ban: Ban,
    /// The key's length, from which a shorter one is looked for.
    pub bits: u64,
}

/// What [`KINDS_MAP`] counts, each a `u32` in its element.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Single IPv4 addresses, in [`BANS_MAP`].
    V4 = 0,
    /// Single IPv6 addresses, in [`BANS_MAP`].
    V6 = 1,
    /// IPv6 /64 networks, in [`BANS_MAP`].
    V6Network = 2,
    /// All other networks, in [`PREFIXES_MAP`].
    Prefix = 3,
}

/// How many [`Kind`]s there are.
pub const KINDS: usize = 4;

/// What the program counts, on each CPU, in [`TOTALS_MAP`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// How many packets were dropped.
    Packets = 0,
    /// Their bytes, from the Ethernet header on.
    Bytes = 1,
    /// Packets of banned addresses that passed, because they are allowed.
    Allowed = 2,
}

/// How many [`Total`]s there are.
pub const TOTALS: u32 = 3;

/// Compiled on both sides: for the BPF target and for the host.
const _: () = {
    assert!(size_of::<Source>() == 20);
    assert!(size_of::<Ban>() == size_of::<[u64; 3]>());
    assert!(size_of::<PrefixBan>() == size_of::<[u64; 4]>());
};
