//! `getpeername` of libc: which remote address a process talks to, for verdicts that know only a name. What
//! libc hands back is in the caller's own memory, so that only root's programs are asked.
//!
//! A process that asked for more than one address has none that could be meant: a server of many connections, or
//! one that is a client too (of LDAP, say), whose server must not be banned for a guest's password.

use atalaya_sensor_ebpf::logins::PROCESSES;
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
    macros::{map, uprobe, uretprobe},
    maps::{Array, LruHashMap},
    programs::{ProbeContext, RetProbeContext},
};

use crate::caller::{self, Process};

/// Where a thread's call wants the address to be written.
#[map]
static ASKED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);
#[map]
static PEERS: LruHashMap<Process, Peer> = LruHashMap::with_max_entries(PROCESSES, 0);

/// Whether [`PEERS`] ever had an entry: most hosts ask for no peers, and are spared two searches a record.
#[map]
static LEARNT: Array<u32> = Array::with_max_entries(1, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Peer {
    /// IPv6, or IPv4 mapped into it.
    address: [u64; 2],
    /// Whether there was another one too.
    several: u64,
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `::ffff:0:0`, the second half of an IPv4 address mapped into IPv6, without the address.
const MAPPED: u64 = 0xffff << 32;

#[uprobe]
pub fn getpeername(ctx: ProbeContext) -> u32 {
    if caller::is_root()
        && let Some(address) = ctx.arg::<u64>(1)
    {
        let _ = ASKED.insert(&bpf_get_current_pid_tgid(), &address, 0);
    }
    0
}

#[uretprobe]
pub fn getpeername_return(ctx: RetProbeContext) -> u32 {
    if caller::is_root() {
        let thread = bpf_get_current_pid_tgid();
        // SAFETY: an entry is a number, written by this thread alone.
        let address = unsafe { ASKED.get(&thread) }.copied();
        let _ = ASKED.remove(&thread);
        if let Some(address) = address
            && ctx.ret::<i32>() == 0
        {
            learn(address);
        }
    }
    0
}

/// Takes the socket address at a place of the caller's memory for that of its peer.
#[inline(always)]
fn learn(from: u64) {
    let Ok(family) = read::<u16>(from) else { return };
    let address = match family {
        AF_INET => read::<u32>(from + 4).map(|v4| [0, (MAPPED | u64::from(u32::from_be(v4))).to_be()]),
        AF_INET6 => read::<[u64; 2]>(from + 8),
        _ => return,
    };
    let Ok(address) = address else { return };
    let process = caller::process();
    if let Some(peer) = PEERS.get_ptr_mut(&process) {
        // SAFETY: the map gave the pointer; two threads that write at once both find another's address.
        let peer = unsafe { &mut *peer };
        if peer.address != address {
            peer.several = 1;
        }
    } else {
        let _ = PEERS.insert(&process, &Peer { address, several: 0 }, 0);
        let _ = LEARNT.set(0, 1, 0);
    }
}

/// Fills in the peer of the calling process, else of its parent; leaves zeroes where there is none to mean.
#[inline(always)]
pub fn fill(into: &mut [u8; 16]) {
    if LEARNT.get(0).is_none_or(|learnt| *learnt == 0) {
        return;
    }
    // SAFETY: an entry is copied out, and is written at once but for `several`.
    let find = |process: Process| unsafe { PEERS.get(&process) }.copied();
    let found = match find(caller::process()) {
        Some(peer) => Some(peer),
        None => caller::parent().and_then(find),
    };
    if let Some(peer) = found
        && peer.several == 0
    {
        into[..8].copy_from_slice(&peer.address[0].to_ne_bytes());
        into[8..].copy_from_slice(&peer.address[1].to_ne_bytes());
    }
}

#[inline(always)]
fn read<T>(address: u64) -> Result<T, i32> {
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    unsafe { bpf_probe_read_user(address as *const T) }
}
