//! Counting closed ports that an address touched. Anyone can send a packet in another's name: addresses that
//! completed no handshake lately are counted only where a jail wants it, and in a map of their own.

use atalaya_sensor_ebpf::connections::{
    ADDRESSES, Address, Counter, HANDSHAKE_LIFE_NS, Key, RING_BYTES, Rule, SCAN_RULES as MOST_RULES,
};
use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, LruHashMap, RingBuf},
};

use crate::{
    count::{Counting, Event, count},
    state::HANDSHAKES,
};

#[map]
static SCAN_RULES: Array<Rule> = Array::with_max_entries(MOST_RULES, 0);
#[map]
static SCANNERS: LruHashMap<Key, Counter> = LruHashMap::with_max_entries(ADDRESSES, 0);
#[map]
static UNVERIFIED: LruHashMap<Key, Counter> = LruHashMap::with_max_entries(ADDRESSES, 0);
#[map]
static SCANS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Counts a port on which nothing listens.
#[inline(always)]
pub fn touched(address: Address, port: u16) {
    // SAFETY: a helper without arguments.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: an entry is one word.
    let handshake = unsafe { HANDSHAKES.get(&address) };
    let is_verified = handshake.is_some_and(|last| time_ns.wrapping_sub(*last) < HANDSHAKE_LIFE_NS);
    let event = Event { time_ns, address, netns: 0, port, verified: u16::from(is_verified) };
    for index in 0..MOST_RULES {
        let Some(rule) = SCAN_RULES.get(index) else { return };
        if rule.limit == 0 || rule.bucket_ns == 0 {
            return;
        }
        if is_verified {
            count(&SCANNERS, &SCANS, rule, &event, &Counting::Ports);
        } else if rule.unverified != 0 {
            count(&UNVERIFIED, &SCANS, rule, &event, &Counting::Ports);
        }
    }
}
