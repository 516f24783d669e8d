//! `getpeername` of libc: which remote address a process talks to, for verdicts that know only a name. The call says
//! on which descriptor; whose socket that is, the kernel knows, and so nothing is taken from the caller's memory, and
//! nothing waits for the call's return.
//!
//! A process that asked for more than one address has none that could be meant: a server of many connections, or
//! one that is a client too (of LDAP, say), whose server must not be banned for a guest's password.

use atalaya_sensor_ebpf::logins::PROCESSES;
use aya_ebpf::{
    helpers::bpf_probe_read_kernel,
    macros::{map, uprobe},
    maps::{Array, LruHashMap},
    programs::ProbeContext,
};

use crate::caller::{self, Process, global};

#[map]
static PEERS: LruHashMap<Process, Peer> = LruHashMap::with_max_entries(PROCESSES, 0);

/// Whether [`PEERS`] ever had an entry: most hosts ask for no peers, and are spared two searches a record.
#[map]
static LEARNT: Array<u32> = Array::with_max_entries(1, 0);

/// What the loader sets, see `SOCKET_GLOBALS` in the ABI.
macro_rules! globals {
    ($($name:ident),+) => {
        $(#[unsafe(no_mangle)] static $name: u32 = 0;)+
    };
}
globals!(TASK_FILES, FILES_TABLE, TABLE_FILES, TABLE_SIZE, FILE_INODE, INODE_MODE, FILE_SOCKET);
globals!(SOCKET_SOCK, SOCK_FAMILY, SOCK_REMOTE4, SOCK_REMOTE6);

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
/// The type of a file in its mode, and that of a socket: linux/stat.h.
const TYPE: u16 = 0o170_000;
const SOCKET: u16 = 0o140_000;

/// `int getpeername(int sockfd, struct sockaddr *addr, socklen_t *addrlen)`
#[uprobe]
pub fn getpeername(ctx: ProbeContext) -> u32 {
    if caller::is_root()
        && let Some(descriptor) = ctx.arg::<u32>(0)
        && let Some(address) = remote(descriptor)
        && address != [0, 0]
        && address != [0, MAPPED.to_be()]
    {
        learn(address);
    }
    0
}

/// The remote address of a socket of the caller's, by its descriptor: IPv6, or IPv4 mapped into it.
#[inline(always)]
fn remote(descriptor: u32) -> Option<[u64; 2]> {
    let table = pointer(pointer(caller::address()?, &raw const TASK_FILES)?, &raw const FILES_TABLE)?;
    if descriptor >= field::<u32>(table, &raw const TABLE_SIZE)? {
        return None;
    }
    let file = value::<u64>(pointer(table, &raw const TABLE_FILES)? + 8 * u64::from(descriptor))?;
    // Whatever is no socket has something else in a socket's place.
    let mode = field::<u16>(pointer(file, &raw const FILE_INODE)?, &raw const INODE_MODE)?;
    if mode & TYPE != SOCKET {
        return None;
    }
    let sock = pointer(pointer(file, &raw const FILE_SOCKET)?, &raw const SOCKET_SOCK)?;
    match field::<u16>(sock, &raw const SOCK_FAMILY)? {
        AF_INET => {
            let v4 = field::<u32>(sock, &raw const SOCK_REMOTE4)?;
            Some([0, (MAPPED | u64::from(u32::from_be(v4))).to_be()])
        }
        AF_INET6 => field(sock, &raw const SOCK_REMOTE6),
        _ => None,
    }
}

#[inline(always)]
fn learn(address: [u64; 2]) {
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

/// A pointer in a structure of the kernel's; `None` where it is NULL.
#[inline(always)]
fn pointer(structure: u64, offset: *const u32) -> Option<u64> {
    field::<u64>(structure, offset).filter(|address| *address != 0)
}

#[inline(always)]
fn field<T>(structure: u64, offset: *const u32) -> Option<T> {
    value(structure + u64::from(global(offset)))
}

#[inline(always)]
fn value<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
