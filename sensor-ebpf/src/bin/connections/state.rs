//! The two programs on `sock:inet_sock_set_state`, of which one runs: by the kernel's type information, which
//! is cheaper and which every lockdown lets run, or as a tracepoint. Both see each change of state of each TCP
//! socket of the host, and let go at once of those that are none of theirs. They run in softirq, where there
//! is no process to ask for.

use core::ptr::read_volatile;

use atalaya_sensor_ebpf::connections::{
    ADDRESSES, Address, Counter, Key, PORTS as MOST_PORTS, RING_BYTES, RULES as MOST_RULES, Rule, Settings,
    Watchers,
};
use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, map, tracepoint},
    maps::{Array, HashMap, LruHashMap, RingBuf},
    programs::{BtfTracePointContext, TracePointContext},
};

use crate::count::{Counting, Event, count, ipv4};

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static RULES: Array<Rule> = Array::with_max_entries(MOST_RULES, 0);
#[map]
static PORTS: HashMap<u16, Watchers> = HashMap::with_max_entries(MOST_PORTS, 0);
#[map]
static COUNTERS: LruHashMap<Key, Counter> = LruHashMap::with_max_entries(ADDRESSES, 0);
#[map]
static STARTS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(ADDRESSES, 0);
#[map]
pub static HANDSHAKES: LruHashMap<Address, u64> = LruHashMap::with_max_entries(ADDRESSES, 0);
#[map]
static CONNECTIONS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Where fields lie, in bytes, set by the loader: of `struct sock`, and of `struct net`.
macro_rules! offsets {
    ($($name:ident),+) => {
        $(#[unsafe(no_mangle)] static $name: u32 = 0;)+
    };
}
offsets!(SK_PROTOCOL, SK_FAMILY, SK_PORT, SK_REMOTE4, SK_REMOTE6, SK_NET, NET_NUMBER);
// Of the tracepoint's record.
offsets!(TP_SOCKET, TP_OLD, TP_NEW, TP_PORT, TP_FAMILY, TP_PROTOCOL, TP_REMOTE4, TP_REMOTE6);

/// `TCP_ESTABLISHED` and `TCP_SYN_RECV` of net/tcp_states.h.
const ESTABLISHED: i32 = 1;
const SYN_RECV: i32 = 3;
const IPPROTO_TCP: u16 = 6;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// What is asked of a socket, only when it is needed.
trait Socket {
    fn is_tcp(&self) -> bool;
    /// In this processor's order of bytes.
    fn port(&self) -> u16;
    fn remote(&self) -> Option<Address>;
    fn netns(&self) -> u32;
    /// Tells it from all others of the moment.
    fn identity(&self) -> u64;
}

/// A socket that the kernel lends, read where its type information says.
struct Lent(*const u8);

/// A record of the tracepoint.
struct Recorded(TracePointContext);

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state(ctx: BtfTracePointContext) -> i32 {
    let old: i32 = ctx.arg(1);
    if concerns(old, ctx.arg(2)) {
        changed(old, &Lent(ctx.arg(0)));
    }
    0
}

#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub fn state_tracepoint(ctx: TracePointContext) -> u32 {
    let socket = Recorded(ctx);
    let old: i32 = socket.read(&raw const TP_OLD);
    if concerns(old, socket.read(&raw const TP_NEW)) {
        changed(old, &socket);
    }
    0
}

/// A connection that a peer made, or one that ends. Those that this host makes come out of `SYN_SENT`.
#[inline(always)]
fn concerns(old: i32, new: i32) -> bool {
    old == ESTABLISHED || old == SYN_RECV && new == ESTABLISHED
}

#[inline(always)]
fn changed(old: i32, socket: &impl Socket) {
    let Some(settings) = SETTINGS.get(0) else { return };
    if old != ESTABLISHED {
        established(socket, settings);
    } else if settings.starts != 0 {
        ended(socket);
    }
}

#[inline(always)]
fn established(socket: &impl Socket, settings: &Settings) {
    let port = socket.port();
    // SAFETY: an entry is four bytes, written at once and rarely.
    let watchers = unsafe { PORTS.get(&port) };
    if settings.handshakes == 0 && watchers.is_none() || !socket.is_tcp() {
        return;
    }
    let Some(address) = socket.remote() else { return };
    // SAFETY: a helper without arguments.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    if settings.handshakes != 0 {
        put(&HANDSHAKES, &address, time_ns);
    }
    let Some(watchers) = watchers else { return };
    let event = Event { time_ns, address, netns: socket.netns(), port, verified: 1 };
    let mut is_timed = false;
    for index in watchers.rules {
        let Some(rule) = rule(index) else { break };
        if rule.short_ns == 0 {
            count(&COUNTERS, &CONNECTIONS, rule, &event, &Counting::Each);
        } else {
            is_timed = true;
        }
    }
    if is_timed {
        put(&STARTS, &socket.identity(), time_ns);
    }
}

#[inline(always)]
fn ended(socket: &impl Socket) {
    let port = socket.port();
    // SAFETY: an entry is four bytes, written at once and rarely.
    let Some(watchers) = (unsafe { PORTS.get(&port) }) else { return };
    // It stays: the next socket in this one's memory overwrites it, which costs less than to make an entry anew.
    // SAFETY: an entry is one word, of this very socket, which ends only once.
    let Some(start) = (unsafe { STARTS.get(&socket.identity()) }).copied() else { return };
    let Some(address) = socket.remote() else { return };
    // SAFETY: a helper without arguments.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    let event = Event { time_ns, address, netns: socket.netns(), port, verified: 1 };
    for index in watchers.rules {
        let Some(rule) = rule(index) else { break };
        if time_ns - start < rule.short_ns {
            count(&COUNTERS, &CONNECTIONS, rule, &event, &Counting::Each);
        }
    }
}

/// A rule that holds.
#[inline(always)]
fn rule(index: u8) -> Option<&'static Rule> {
    if index == 0 {
        return None;
    }
    RULES.get(u32::from(index)).filter(|rule| rule.limit != 0 && rule.bucket_ns != 0)
}

/// Notes a time, in place where there is one already.
#[inline(always)]
fn put<K>(times: &LruHashMap<K, u64>, key: &K, time_ns: u64) {
    match times.get_ptr_mut(key) {
        // SAFETY: the map gave the pointer; whichever processor writes last, the time is right.
        Some(last) => unsafe { *last = time_ns },
        None => {
            let _ = times.insert(key, &time_ns, 0);
        }
    }
}

// === impl Lent ===

impl Lent {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: *const u32) -> T {
        // SAFETY: the offset is a global that the loader sets once; the verifier knows it, and checks that
        // the socket has a field of this size there.
        unsafe { self.0.add(read_volatile(offset) as usize).cast::<T>().read() }
    }
}

impl Socket for Lent {
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        self.read::<u16>(&raw const SK_PROTOCOL) == IPPROTO_TCP
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        self.read(&raw const SK_PORT)
    }

    #[inline(always)]
    fn remote(&self) -> Option<Address> {
        match self.read::<u16>(&raw const SK_FAMILY) {
            AF_INET => Some(ipv4(self.read(&raw const SK_REMOTE4))),
            AF_INET6 => Some(self.read::<Address>(&raw const SK_REMOTE6)),
            _ => None,
        }
    }

    #[inline(always)]
    fn netns(&self) -> u32 {
        let net: *const u8 = self.read(&raw const SK_NET);
        // SAFETY: as for the socket; the kernel answers a bad address with zero.
        unsafe { net.add(read_volatile(&raw const NET_NUMBER) as usize).cast::<u32>().read() }
    }

    #[inline(always)]
    fn identity(&self) -> u64 {
        self.0 as u64
    }
}

// === impl Recorded ===

impl Recorded {
    #[inline(always)]
    fn read<T: Copy + Default>(&self, offset: *const u32) -> T {
        // SAFETY: the offset is a global that the loader sets once from the record's description; the helper
        // checks the address.
        unsafe { self.0.read_at(read_volatile(offset) as usize) }.unwrap_or_default()
    }
}

impl Socket for Recorded {
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        self.read::<u16>(&raw const TP_PROTOCOL) == IPPROTO_TCP
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        self.read(&raw const TP_PORT)
    }

    #[inline(always)]
    fn remote(&self) -> Option<Address> {
        match self.read::<u16>(&raw const TP_FAMILY) {
            AF_INET => Some(ipv4(self.read(&raw const TP_REMOTE4))),
            AF_INET6 => Some(self.read::<Address>(&raw const TP_REMOTE6)),
            _ => None,
        }
    }

    #[inline(always)]
    fn netns(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn identity(&self) -> u64 {
        self.read(&raw const TP_SOCKET)
    }
}
