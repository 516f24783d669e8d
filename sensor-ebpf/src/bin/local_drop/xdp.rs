//! The XDP program: it finds out who sent a packet, and drops it where a ban stands that is not over and the
//! sender is not allowed. Whatever it does not understand passes: ARP, other protocols, cut and broken
//! packets are the network stack's to judge.
//!
//! The allow list is above every ban. It is looked at only for senders that are banned, so that all others
//! pass after one or two look-ups.

use core::{mem::size_of, ptr::read_unaligned};

use atalaya_sensor_ebpf::local_drop::{
    ALLOWED, BANS as MOST_BANS, Ban, FAMILY_BITS, FAMILY_V4, FAMILY_V6, FAMILY_V6_NETWORK,
    KINDS as ALL_KINDS, Kind, NESTED, PrefixBan, Source, TOTALS as ALL_TOTALS, Total,
};
use aya_ebpf::{
    bindings::{
        BPF_F_NO_PREALLOC,
        xdp_action::{XDP_DROP, XDP_PASS},
    },
    helpers::bpf_ktime_get_boot_ns,
    macros::{map, xdp},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    programs::XdpContext,
};

#[map]
static BANS: HashMap<Source, Ban> = HashMap::with_max_entries(MOST_BANS, BPF_F_NO_PREALLOC);
#[map]
static PREFIXES: LpmTrie<Source, PrefixBan> = LpmTrie::with_max_entries(MOST_BANS, 0);
#[map]
static ALLOW: LpmTrie<Source, u32> = LpmTrie::with_max_entries(ALLOWED, 0);
#[map]
static KINDS: Array<[u32; ALL_KINDS]> = Array::with_max_entries(1, 0);
#[map]
static TOTALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(ALL_TOTALS, 0);

/// EtherTypes (IEEE 802) as they are on the wire.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const VLAN: [u16; 2] = [0x8100_u16.to_be(), 0x88a8_u16.to_be()];
/// Two addresses of 6 bytes, before the EtherType.
const ETHERNET: usize = 12;
/// A tag, and the EtherType that it stands before.
const TAG: usize = 4;
/// The shortest headers, and where the source is in them (RFC 791, RFC 8200).
const IPV4_HEADER: usize = 20;
const IPV4_SOURCE: usize = 12;
const IPV6_HEADER: usize = 40;
const IPV6_SOURCE: usize = 8;

/// `frags`: only headers are read, so that drivers with frames of more than a page may run it too.
#[xdp(frags)]
pub fn local_drop(ctx: XdpContext) -> u32 {
    match source(&ctx) {
        Some(source) if is_dropped(&ctx, &source) => XDP_DROP,
        _ => XDP_PASS,
    }
}

/// Who sent the packet; `None` where it is no whole IP header behind at most two VLAN tags.
#[inline(always)]
fn source(ctx: &XdpContext) -> Option<Source> {
    let mut at = ETHERNET;
    let mut kind: u16 = read(ctx, at)?;
    if VLAN.contains(&kind) {
        at += TAG;
        kind = read(ctx, at)?;
        if VLAN.contains(&kind) {
            at += TAG;
            kind = read(ctx, at)?;
        }
    }
    let header = at + size_of::<u16>();
    let version = || Some(read::<u8>(ctx, header)? >> 4);
    match kind {
        IPV4 => {
            read::<[u8; IPV4_HEADER]>(ctx, header).filter(|_| version() == Some(4))?;
            Some([FAMILY_V4, read(ctx, header + IPV4_SOURCE)?, 0, 0, 0])
        }
        IPV6 => {
            read::<[u8; IPV6_HEADER]>(ctx, header).filter(|_| version() == Some(6))?;
            let [a, b, c, d] = read::<[u32; 4]>(ctx, header + IPV6_SOURCE)?;
            Some([FAMILY_V6, a, b, c, d])
        }
        _ => None,
    }
}

#[inline(always)]
fn is_dropped(ctx: &XdpContext, source: &Source) -> bool {
    let Some(ban) = ban(source) else { return false };
    let bits = FAMILY_BITS + if source[0] == FAMILY_V4 { 32 } else { 128 };
    if ALLOW.get(Key::new(bits, *source)).is_some() {
        count(Total::Allowed, 1);
        return false;
    }
    let bytes = (ctx.data_end() - ctx.data()) as u64;
    add(&raw const ban.packets, 1);
    add(&raw const ban.bytes, bytes);
    count(Total::Packets, 1);
    count(Total::Bytes, bytes);
    true
}

/// The ban of a sender that is not over.
#[inline(always)]
fn ban(source: &Source) -> Option<&'static Ban> {
    let kinds = KINDS.get(0)?;
    let is_v4 = source[0] == FAMILY_V4;
    let own = if is_v4 { Kind::V4 } else { Kind::V6 };
    if kinds[own as usize] > 0
        && let Some(ban) = stands(source)
    {
        return Some(ban);
    }
    if !is_v4
        && kinds[Kind::V6Network as usize] > 0
        && let Some(ban) = stands(&[FAMILY_V6_NETWORK, source[1], source[2], 0, 0])
    {
        return Some(ban);
    }
    if kinds[Kind::Prefix as usize] == 0 {
        return None;
    }
    let mut bits = FAMILY_BITS + if is_v4 { 32 } else { 128 };
    for _ in 0..NESTED {
        let found = PREFIXES.get(Key::new(bits, *source))?;
        if !is_over(&found.ban) {
            return Some(&found.ban);
        }
        // A larger network around it may be banned for longer.
        bits = (found.bits as u32).saturating_sub(1);
    }
    None
}

#[inline(always)]
fn stands(source: &Source) -> Option<&'static Ban> {
    // SAFETY: the kernel frees an element only after the programs that may see it have ended, and user space
    // replaces its fields as whole words.
    let ban = unsafe { BANS.get(source) }?;
    (!is_over(ban)).then_some(ban)
}

#[inline(always)]
fn is_over(ban: &Ban) -> bool {
    // SAFETY: a helper without arguments.
    ban.deadline_ns <= unsafe { bpf_ktime_get_boot_ns() }
}

/// Adds to a counter that all CPUs share. Rust has no atomic addition for this target on stable toolchains, so
/// that of packets that two CPUs drop for one ban at the same moment one may be missed; [`TOTALS`] misses none.
#[inline(always)]
fn add(counter: *const u64, more: u64) {
    let counter = counter.cast_mut();
    // SAFETY: the counter is in an element of a map, where programs may write, and aligned; the kernel frees the
    // element only after the programs that may see it have ended. Nothing here reads it otherwise.
    unsafe { counter.write_volatile(counter.read_volatile() + more) };
}

#[inline(always)]
fn count(total: Total, more: u64) {
    if let Some(counter) = TOTALS.get_ptr_mut(total as u32) {
        // SAFETY: the map gave the pointer, and only this CPU writes the value behind it, in softirq, which
        // does not interrupt itself.
        unsafe { *counter += more };
    }
}

/// What is at an offset of the packet, where it is whole.
#[inline(always)]
fn read<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let at = ctx.data() + offset;
    if at + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: all of it lies in the packet, as was just seen, and any bytes are a valid number.
    Some(unsafe { read_unaligned(at as *const T) })
}
