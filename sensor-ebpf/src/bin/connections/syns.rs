//! The program at the interfaces (XDP): counts packets that ask for a connection to a port of this host on which
//! nothing listens. It sees also what a firewall drops in silence, and needs neither tracepoints nor the
//! kernel's memory. It lets every packet pass.

use atalaya_sensor_ebpf::connections::Address;
use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::XDP_PASS,
    helpers::generated::{bpf_fib_lookup, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::xdp,
    programs::XdpContext,
};

use crate::{
    closed::touched,
    count::ipv4,
    packet::{TCP, asks},
};

/// Sizes of headers in bytes; types of linux/if_ether.h, in network byte order.
const ETHERNET: usize = 14;
const VLAN: usize = 4;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP_SIZE: usize = 20;
const ETH_P_IP: u16 = 0x0800_u16.to_be();
const ETH_P_IPV6: u16 = 0x86dd_u16.to_be();
const ETH_P_8021Q: u16 = 0x8100_u16.to_be();

/// `BPF_F_CURRENT_NETNS` of linux/bpf.h: look in the interface's own.
const CURRENT_NETNS: u64 = u64::MAX;
/// What `bpf_fib_lookup` says of a packet that is for this host itself.
const NOT_FORWARDED: i64 = 4;
const FORWARDING_DISABLED: i64 = 5;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct bpf_sock_tuple`, of one family; ports and addresses in network byte order.
#[repr(C)]
struct Tuple<A> {
    from: A,
    to: A,
    from_port: u16,
    to_port: u16,
}

/// `struct bpf_fib_lookup`; ports and addresses in network byte order.
#[repr(C)]
struct Route {
    family: u8,
    protocol: u8,
    from_port: u16,
    to_port: u16,
    length: u16,
    interface: u32,
    flow: u32,
    from: [u32; 4],
    to: [u32; 4],
    rest: [u32; 4],
}

#[xdp]
pub fn syns(ctx: XdpContext) -> u32 {
    let _ = look(&ctx);
    XDP_PASS
}

#[inline(always)]
fn look(ctx: &XdpContext) -> Option<()> {
    let mut at = ETHERNET;
    let mut kind: u16 = read(ctx, 12)?;
    if kind == ETH_P_8021Q {
        kind = read(ctx, ETHERNET + 2)?;
        at += VLAN;
    }
    match kind {
        ETH_P_IP => {
            if read::<u8>(ctx, at + 9)? != TCP {
                return None;
            }
            // Fragments beyond the first have no ports.
            if u16::from_be(read(ctx, at + 6)?) & 0x1fff != 0 {
                return None;
            }
            let length = usize::from(read::<u8>(ctx, at)? & 0x0f) * 4;
            if length < IPV4 {
                return None;
            }
            let (from, to): (u32, u32) = (read(ctx, at + 12)?, read(ctx, at + 16)?);
            let (from_port, to_port) = ports(ctx, at + length)?;
            let tuple = Tuple { from, to, from_port, to_port };
            let wide = |address| [address, 0, 0, 0];
            if is_ours(ctx, AF_INET, wide(from), wide(to), &tuple) && nobody_listens(ctx, &tuple) {
                touched(ipv4(from), u16::from_be(to_port));
            }
        }
        ETH_P_IPV6 => {
            if read::<u8>(ctx, at + 6)? != TCP {
                return None;
            }
            let (from, to): ([u32; 4], [u32; 4]) = (read(ctx, at + 8)?, read(ctx, at + 24)?);
            let (from_port, to_port) = ports(ctx, at + IPV6)?;
            let tuple = Tuple { from, to, from_port, to_port };
            if is_ours(ctx, AF_INET6, from, to, &tuple) && nobody_listens(ctx, &tuple) {
                let words = |high: u32, low: u32| u64::from(low) << 32 | u64::from(high);
                let address: Address = [words(from[0], from[1]), words(from[2], from[3])];
                touched(address, u16::from_be(to_port));
            }
        }
        _ => {}
    }
    Some(())
}

/// The ports of a packet that asks for a connection, in network byte order.
#[inline(always)]
fn ports(ctx: &XdpContext, at: usize) -> Option<(u16, u16)> {
    let header: [u8; TCP_SIZE] = read(ctx, at)?;
    if !asks(header[13]) {
        return None;
    }
    Some((u16::from_ne_bytes([header[0], header[1]]), u16::from_ne_bytes([header[2], header[3]])))
}

/// Whether the packet is for this host itself, not for one behind it.
#[inline(always)]
fn is_ours<A>(ctx: &XdpContext, family: u8, from: [u32; 4], to: [u32; 4], tuple: &Tuple<A>) -> bool {
    let mut route = Route {
        family,
        protocol: TCP,
        from_port: tuple.from_port,
        to_port: tuple.to_port,
        length: 0,
        interface: ctx.ingress_ifindex() as u32,
        flow: 0,
        from,
        to,
        rest: [0; 4],
    };
    // SAFETY: the structure is the helper's, whole and of the size given.
    let found =
        unsafe { bpf_fib_lookup(ctx.as_ptr(), (&raw mut route).cast(), size_of::<Route>() as i32, 0) };
    found == NOT_FORWARDED || found == FORWARDING_DISABLED
}

/// Whether no socket of the interface's namespace takes the packet.
#[inline(always)]
fn nobody_listens<A>(ctx: &XdpContext, tuple: &Tuple<A>) -> bool {
    let size = size_of::<Tuple<A>>() as u32;
    // SAFETY: the tuple is of one of the two sizes that the helper knows, and what it finds is released.
    unsafe {
        let socket = bpf_skc_lookup_tcp(
            ctx.as_ptr(),
            core::ptr::from_ref(tuple).cast_mut().cast(),
            size,
            CURRENT_NETNS,
            0,
        );
        if socket.is_null() {
            return true;
        }
        bpf_sk_release(socket.cast());
    }
    false
}

/// Reads a part of the packet; `None` beyond its end.
#[inline(always)]
fn read<T: Copy>(ctx: &XdpContext, at: usize) -> Option<T> {
    let start = ctx.data() + at;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie within the packet, and unaligned reads are allowed there.
    Some(unsafe { (start as *const T).read_unaligned() })
}
