//! Counting one event of an address for one rule, and telling of it when it reaches the limit.

use atalaya_sensor_ebpf::{
    connections::{Address, Counter, Crossing, Key, QUIET_NS, Rule},
    losses::Loss,
    object::lose,
    window::{self, Window},
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    maps::{LruHashMap, RingBuf},
};

/// A connection or packet that may count, at an address.
pub struct Event {
    pub time_ns: u64,
    pub address: Address,
    pub netns: u32,
    pub port: u16,
    pub verified: u16,
}

/// How events of one address add up.
pub enum Counting {
    Each,
    /// A port that the address touched in the window counts once.
    Ports,
}

/// Counts an event in its address's window, and tells of it once when the limit is reached.
#[inline(always)]
pub fn count(
    counters: &LruHashMap<Key, Counter>,
    crossings: &RingBuf,
    rule: &Rule,
    event: &Event,
    counting: &Counting,
) {
    let key = Key { address: counted_as(event.address, rule.mask), rule: rule.id, unused: 0 };
    let counter = match counters.get_ptr_mut(&key) {
        Some(counter) => counter,
        None => {
            let empty = Counter { window: [0; window::BUCKETS], quiet_until_ns: 0 };
            // Where another processor was first, its counter is there all the same.
            let _ = counters.insert(&key, &empty, BPF_NOEXIST.into());
            let Some(counter) = counters.get_ptr_mut(&key) else { return };
            counter
        }
    };
    // SAFETY: the map gave the pointer, and keeps the memory. Other processors may write the same counter at this
    // moment: each word of it is valid by itself whatever the others are, and what is lost so is within the
    // window's bounds. The lookup has just made the entry the last that would be dropped for another address.
    let counter = unsafe { &mut *counter };
    let eighth = window::eighth(event.time_ns, rule.bucket_ns);
    let counted = match counting {
        Counting::Each => {
            window::add(&mut counter.window, eighth);
            window::count(&counter.window, eighth)
        }
        Counting::Ports => {
            window::note(&mut counter.window, eighth, window::mark(event.port));
            window::distinct(&counter.window, eighth)
        }
    };
    if counted < rule.limit || event.time_ns < counter.quiet_until_ns {
        return;
    }
    let Some(mut entry) = crossings.reserve::<Crossing>(0) else {
        // Nothing is forgotten: the next event tries again.
        lose(Loss::RingFull);
        return;
    };
    entry.write(Crossing {
        time_ns: event.time_ns,
        address: event.address,
        rule: rule.id,
        count: counted,
        netns: event.netns,
        port: event.port,
        verified: event.verified,
    });
    entry.submit(0);
    counter.window = Window::default();
    counter.quiet_until_ns = event.time_ns + QUIET_NS;
}

/// The address, or the first one of its network. Behind NAT64's well-known prefix each address is a host of its own.
#[inline(always)]
fn counted_as(address: Address, mask: u64) -> Address {
    if is_ipv4(address) || is_nat64(address) { address } else { [address[0], address[1] & mask] }
}

#[inline(always)]
fn is_ipv4(address: Address) -> bool {
    address[0] == 0 && address[1] as u32 == MAPPED
}

/// Whether it is in `64:ff9b::/96`.
#[inline(always)]
fn is_nat64(address: Address) -> bool {
    address[0] == NAT64 && address[1] as u32 == 0
}

/// An IPv4 address as a mapped one; its bytes in network order.
#[inline(always)]
pub fn ipv4(address: u32) -> Address {
    [0, u64::from(address) << 32 | u64::from(MAPPED)]
}

#[cfg(target_endian = "big")]
compile_error!("an address is taken for two words of a little-endian processor");

/// The upper half of NAT64's well-known prefix, as it lies in memory.
const NAT64: u64 = 0x0064_ff9b_0000_0000_u64.to_be();
/// What precedes an IPv4 address in the lower half of a mapped one, as it lies in memory.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();
