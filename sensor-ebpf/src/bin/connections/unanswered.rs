//! The two programs on packets that found no socket, of which one runs: `tcp:tcp_send_reset`, which reports
//! closed ports since Linux 6.10, and before that `skb:kfree_skb`, which says why a packet is dropped since
//! 5.17. Both see what really found nobody to listen, in every network namespace, and need no interface.

use core::ptr::read_volatile;

use atalaya_sensor_ebpf::{connections::Address, losses::Loss, object::lose};
use aya_ebpf::{helpers::bpf_probe_read_kernel, macros::tracepoint, programs::TracePointContext};

use crate::{
    closed::touched,
    count::ipv4,
    packet::{TCP, asks},
};

/// Where fields lie, in bytes, set by the loader: of the records, and of `struct sk_buff`.
#[unsafe(no_mangle)]
static RESET_PACKET: u32 = 0;
#[unsafe(no_mangle)]
static RESET_SOCKET: u32 = 0;
#[unsafe(no_mangle)]
static DROP_PACKET: u32 = 0;
#[unsafe(no_mangle)]
static DROP_REASON: u32 = 0;
#[unsafe(no_mangle)]
static PACKET_HEAD: u32 = 0;
#[unsafe(no_mangle)]
static PACKET_NETWORK: u32 = 0;
#[unsafe(no_mangle)]
static PACKET_TRANSPORT: u32 = 0;
/// The number of `SKB_DROP_REASON_NO_SOCKET`, which other kernels number otherwise.
#[unsafe(no_mangle)]
static NO_SOCKET: u32 = 0;

#[tracepoint(category = "tcp", name = "tcp_send_reset")]
pub fn resets(ctx: TracePointContext) -> u32 {
    let socket: u64 = field(&ctx, &raw const RESET_SOCKET).unwrap_or(1);
    if socket == 0 {
        look(field(&ctx, &raw const RESET_PACKET));
    }
    0
}

#[tracepoint(category = "skb", name = "kfree_skb")]
pub fn drops(ctx: TracePointContext) -> u32 {
    let reason: u32 = field(&ctx, &raw const DROP_REASON).unwrap_or(0);
    // SAFETY: a global that the loader sets once.
    if reason == unsafe { read_volatile(&raw const NO_SOCKET) } {
        look(field(&ctx, &raw const DROP_PACKET));
    }
    0
}

/// Counts a packet that asked for a connection and found no socket.
#[inline(always)]
fn look(packet: Option<u64>) {
    match packet.and_then(read) {
        Some(Some((address, port))) => touched(address, port),
        Some(None) => {}
        None => lose(Loss::Unreadable),
    }
}

/// Who asked for which port; inside, nothing where the packet asked for no connection.
#[inline(always)]
fn read(packet: u64) -> Option<Option<(Address, u16)>> {
    let head: u64 = at(packet, &raw const PACKET_HEAD)?;
    let network = head + u64::from(at::<u16>(packet, &raw const PACKET_NETWORK)?);
    let transport = head + u64::from(at::<u16>(packet, &raw const PACKET_TRANSPORT)?);
    let version: u8 = memory(network)?;
    let address = match version >> 4 {
        4 if memory::<u8>(network + 9)? == TCP => ipv4(memory(network + 12)?),
        6 if memory::<u8>(network + 6)? == TCP => memory::<Address>(network + 8)?,
        _ => return Some(None),
    };
    if !asks(memory(transport + 13)?) {
        return Some(None);
    }
    Some(Some((address, u16::from_be(memory(transport + 2)?))))
}

/// A field of a record.
#[inline(always)]
fn field<T>(ctx: &TracePointContext, offset: *const u32) -> Option<T> {
    // SAFETY: the offset is a global that the loader sets once from the record's description; the helper
    // checks the address.
    unsafe { ctx.read_at(read_volatile(offset) as usize) }.ok()
}

/// A field of a packet's `struct sk_buff`.
#[inline(always)]
fn at<T>(packet: u64, offset: *const u32) -> Option<T> {
    // SAFETY: a global that the loader sets once.
    memory(packet + u64::from(unsafe { read_volatile(offset) }))
}

#[inline(always)]
fn memory<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
